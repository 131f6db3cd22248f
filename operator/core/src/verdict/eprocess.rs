//! The tests as formulas: log e-values of counts, over fixed grids of alternatives (analysis.md, sections 2 to 4 and 8).
//!
//! Pure and total: parameters outside their range are taken to its edge, results are finite. `tests/vectors/eprocess.json` holds
//! reference values of the three `ln_e_…` functions.

use std::array;
use std::f64::consts::TAU;

use stepgate_crds::evidence::Tally;

use super::observation::as_f64;

/// Alternatives of each failure test.
pub const ALTERNATIVES: usize = 24;
/// Alternatives of the pass test.
pub const PASS_ALTERNATIVES: usize = 12;

/// Log-likelihood ratios that one interval adds to the relative test: one for each alternative ρ_j = ρ0·g_j, g from 1.25 to 64,
/// against ρ0 = `ratio`. All zero where an arm has no request, or neither has a bad one.
#[must_use]
pub fn relative_increments(canary: Tally, stable: Tally, ratio: f64) -> [f64; ALTERNATIVES] {
    if canary.requests == 0 || stable.requests == 0 || (canary.bad == 0 && stable.bad == 0) {
        return [0.0; ALTERNATIVES];
    }
    let ratio = within(ratio, 1.0, 100.0);
    let (n, m) = (as_f64(canary.requests), as_f64(stable.requests));
    let share = within(n / (n + m), 1e-9, 1.0 - 1e-9);
    let (bad, all_bad) = (as_f64(canary.bad), as_f64(canary.bad) + as_f64(stable.bad));
    let null = 1.0 + (ratio - 1.0) * share;
    ln_geometric::<ALTERNATIVES>(1.25, 64.0).map(|ln_factor| {
        // ln(ρ_j·w + 1 − w) − ln(ρ0·w + 1 − w), without the difference of two near logarithms.
        let spread = (ratio * ln_factor.exp_m1() * share / null).ln_1p();
        bad * ln_factor - all_bad * spread
    })
}

/// ln E of the relative test, divided by φ inside the mixture, over intervals of canary and stable.
#[must_use]
pub fn ln_e_relative(intervals: &[(Tally, Tally)], ratio: f64, phi: f64) -> f64 {
    let mut sums = [0.0; ALTERNATIVES];
    for (canary, stable) in intervals {
        for (sum, increment) in sums.iter_mut().zip(relative_increments(*canary, *stable, ratio)) {
            *sum += increment;
        }
    }
    ln_mean(&sums, phi)
}

/// A simple null hypothesis about a share of bad requests, against a mixture of others.
#[derive(Clone, Copy, Debug)]
pub struct ShareTest<const N: usize> {
    null: Logs,
    alternatives: [Logs; N],
}

/// "At most `max` of the canary's requests are bad."
#[must_use]
pub fn absolute_test(max: f64) -> ShareTest<ALTERNATIVES> {
    let max = within(max, 1e-6, 0.5);
    let highest = within(8.0 * max, 0.64, 0.999);
    ShareTest {
        null: Logs::of(max.ln()),
        alternatives: ln_geometric(1.25 * max, highest).map(Logs::of),
    }
}

/// "At least `max` of the canary's requests are bad."
#[must_use]
pub fn pass_test(max: f64) -> ShareTest<PASS_ALTERNATIVES> {
    let max = within(max, 1e-6, 0.5);
    let shares = ln_geometric::<{ PASS_ALTERNATIVES - 1 }>(max / 100.0, 0.8 * max);
    let mut alternatives = [Logs::of(1e-9_f64.ln()); PASS_ALTERNATIVES];
    for (alternative, share) in alternatives.iter_mut().zip(shares) {
        *alternative = Logs::of(share);
    }
    ShareTest {
        null: Logs::of(max.ln()),
        alternatives,
    }
}

impl<const N: usize> ShareTest<N> {
    /// ln E against the null hypothesis, divided by φ inside the mixture.
    #[must_use]
    pub fn ln_e(&self, requests: f64, bad: f64, phi: f64) -> f64 {
        let terms = self.alternatives.map(|share| ln_ratio(requests, bad, share, self.null));
        ln_mean(&terms, phi)
    }
}

/// ln E against "at most `max` of the canary's requests are bad", divided by φ inside the mixture.
#[must_use]
pub fn ln_e_absolute(requests: f64, bad: f64, max: f64, phi: f64) -> f64 {
    absolute_test(max).ln_e(requests, bad, phi)
}

/// ln E against "at least `max` of the canary's requests are bad", divided by φ inside the mixture.
#[must_use]
pub fn ln_e_pass(requests: f64, bad: f64, max: f64, phi: f64) -> f64 {
    pass_test(max).ln_e(requests, bad, phi)
}

/// ln E against "the canary's share of the requests is between half and one and a half of `weight`" (0 to 1), divided by φ inside the
/// mixture; 0 where there is no such bound to test.
#[must_use]
pub fn ln_e_share(canary: f64, stable: f64, weight: f64, phi: f64) -> f64 {
    if !(weight > 0.0 && weight <= 1.0) {
        return 0.0;
    }
    let (low, high) = (0.5 * weight, 1.5 * weight);
    let below = [0.8, 0.6, 0.4, 0.2, 0.05].map(|factor| (low * factor, low));
    let above = [1.1, 1.25, 1.5, 2.0, 4.0].map(|factor| (high * factor, high));
    let terms: Vec<f64> = below
        .into_iter()
        .chain(above)
        .filter(|(alternative, _)| *alternative < 0.999)
        .map(|(alternative, bound)| (Logs::of(alternative.ln()), Logs::of(bound.ln())))
        .map(|(alternative, bound)| ln_ratio(canary + stable, canary, alternative, bound))
        .collect();
    ln_mean(&terms, phi)
}

/// ln 1/p that a share of `bad` in `requests` comes from a rate over `max`; 0 when it does not look so.
///
/// p is a bound on the binomial tail P(X ≥ bad), near to it also for a handful of bad requests, where Chernoff's is three times too
/// large and more: C(n, x)·pˣ·(1−p)ⁿ⁻ˣ ≤ exp(−n·KL)/√(2πx(1−x/n)) by Stirling, and each later term is at most
/// r = (n−x)p/((x+1)(1−p)) of the one before.
#[must_use]
pub fn ln_tail_over(requests: f64, bad: f64, max: f64) -> f64 {
    if requests <= 0.0 || bad / requests <= max {
        return 0.0;
    }
    let (share, max) = (within(bad / requests, 0.0, 1.0), within(max, 1e-6, 1.0 - 1e-6));
    if share >= 1.0 {
        return requests * (1.0 / max).ln();
    }
    let divergence = share * (share / max).ln() + (1.0 - share) * ((1.0 - share) / (1.0 - max)).ln();
    let first = requests * divergence + 0.5 * (TAU * bad * (1.0 - share)).ln();
    let next = (requests - bad) * max / ((bad + 1.0) * (1.0 - max));
    // Neither bound is the better one everywhere.
    (first + (-next).ln_1p()).max(requests * divergence)
}

/// ln Σ exp of the terms; minus infinity without any.
#[must_use]
pub fn ln_sum(terms: impl IntoIterator<Item = f64> + Clone) -> f64 {
    let largest = terms.clone().into_iter().fold(f64::NEG_INFINITY, f64::max);
    if largest.is_finite() {
        largest + terms.into_iter().map(|term| (term - largest).exp()).sum::<f64>().ln()
    } else {
        largest
    }
}

/// ln of the mean of exp(term / φ); 0 without terms.
#[must_use]
pub fn ln_mean(terms: &[f64], phi: f64) -> f64 {
    let phi = within(phi, 1.0, 1e6);
    let number = u32::try_from(terms.len()).unwrap_or(u32::MAX);
    if number == 0 {
        return 0.0;
    }
    ln_sum(terms.iter().map(|term| term / phi)) - f64::from(number).ln()
}

/// `value` between the two; the lower one for what is not a number.
#[must_use]
pub fn within(value: f64, low: f64, high: f64) -> f64 {
    value.max(low).min(high)
}

/// A share by the logarithms of it and of the rest.
#[derive(Clone, Copy, Debug)]
struct Logs {
    share: f64,
    rest: f64,
}

impl Logs {
    fn of(ln_share: f64) -> Self {
        Self {
            share: ln_share,
            rest: (-ln_share.exp()).ln_1p(),
        }
    }
}

/// Log-likelihood ratio of `bad` in `requests` at a share against another.
fn ln_ratio(requests: f64, bad: f64, share: Logs, against: Logs) -> f64 {
    bad * (share.share - against.share) + (requests - bad) * (share.rest - against.rest)
}

/// The logarithms of `N` values (at least two) from `first` to `last`, each the same multiple of the one before.
fn ln_geometric<const N: usize>(first: f64, last: f64) -> [f64; N] {
    let (start, step) = (first.ln(), (last / first).ln() / as_f64(N.max(2) as u64 - 1));
    array::from_fn(|at| start + step * as_f64(at as u64))
}

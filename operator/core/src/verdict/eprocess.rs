//! The tests as formulas: log e-values of counts, over fixed grids of alternatives (analysis.md, sections 2 to 4 and 8).
//!
//! Pure and total: parameters outside their range are taken to its edge, results are finite. `tests/vectors/eprocess.json` holds
//! reference values of the three `ln_e_…` functions.

use std::array;

use stepgate_crds::evidence::Tally;

use super::observation::as_f64;

/// Alternatives of each failure test.
pub const ALTERNATIVES: usize = 24;
/// Alternatives of the pass test.
const PASS_ALTERNATIVES: usize = 12;

/// Log-likelihood ratios that one interval adds to the relative test: one for each alternative ρ_j = ρ0·g_j, g from 1.25 to 64,
/// against ρ0 = `ratio`. All zero where an arm has no request.
#[must_use]
pub fn relative_increments(canary: Tally, stable: Tally, ratio: f64) -> [f64; ALTERNATIVES] {
    if canary.requests == 0 || stable.requests == 0 {
        return [0.0; ALTERNATIVES];
    }
    let ratio = within(ratio, 1.0, 100.0);
    let (n, m) = (as_f64(canary.requests), as_f64(stable.requests));
    let share = within(n / (n + m), 1e-9, 1.0 - 1e-9);
    let (bad, all_bad) = (as_f64(canary.bad), as_f64(canary.bad) + as_f64(stable.bad));
    let null = 1.0 + (ratio - 1.0) * share;
    geometric::<ALTERNATIVES>(1.25, 64.0).map(|factor| {
        // ln(ρ_j·w + 1 − w) − ln(ρ0·w + 1 − w), without the difference of two near logarithms.
        let spread = ((ratio * factor - ratio) * share / null).ln_1p();
        bad * factor.ln() - all_bad * spread
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

/// ln E against "at most `max` of the canary's requests are bad", divided by φ inside the mixture.
#[must_use]
pub fn ln_e_absolute(requests: f64, bad: f64, max: f64, phi: f64) -> f64 {
    let max = within(max, 1e-6, 0.5);
    let highest = within(8.0 * max, 0.64, 0.999);
    let terms = geometric::<ALTERNATIVES>(1.25 * max, highest).map(|share| ln_ratio(requests, bad, share, max));
    ln_mean(&terms, phi)
}

/// ln E against "at least `max` of the canary's requests are bad", divided by φ inside the mixture.
#[must_use]
pub fn ln_e_pass(requests: f64, bad: f64, max: f64, phi: f64) -> f64 {
    let max = within(max, 1e-6, 0.5);
    let mut terms = [0.0; PASS_ALTERNATIVES];
    let shares = geometric::<{ PASS_ALTERNATIVES - 1 }>(max / 100.0, 0.8 * max);
    for (term, share) in terms.iter_mut().zip(shares.into_iter().chain([1e-9])) {
        *term = ln_ratio(requests, bad, share, max);
    }
    ln_mean(&terms, phi)
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
        .map(|(alternative, bound)| ln_ratio(canary + stable, canary, alternative, bound))
        .collect();
    ln_mean(&terms, phi)
}

/// ln 1/p of the strongest evidence that a share of `bad` in `requests` comes from a rate over `max`, by Chernoff's bound; 0 when it
/// does not look so.
#[must_use]
pub fn ln_chernoff_over(requests: f64, bad: f64, max: f64) -> f64 {
    if requests <= 0.0 || bad / requests <= max {
        return 0.0;
    }
    let (share, max) = (within(bad / requests, 0.0, 1.0), within(max, 1e-6, 0.5));
    let rest = if share < 1.0 {
        (1.0 - share) * ((1.0 - share) / (1.0 - max)).ln()
    } else {
        0.0
    };
    requests * (share * (share / max).ln() + rest)
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

/// Log-likelihood ratio of `bad` in `requests` at a share against another.
fn ln_ratio(requests: f64, bad: f64, share: f64, against: f64) -> f64 {
    bad * (share / against).ln() + (requests - bad) * ((-share).ln_1p() - (-against).ln_1p())
}

/// `N` values (at least two) from `first` to `last`, each the same multiple of the one before.
fn geometric<const N: usize>(first: f64, last: f64) -> [f64; N] {
    array::from_fn(|at| {
        let (at, steps) = (as_f64(at as u64), as_f64(N.max(2) as u64 - 1));
        first * (last / first).powf(at / steps)
    })
}

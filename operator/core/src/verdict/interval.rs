//! Intervals for people: of one version's share of bad requests, and of how many times as bad the canary is as stable.
//!
//! Nothing is decided by them. Both are divided by φ, as the tests are.

use stepgate_crds::evidence::{Process, Tally};

use super::eprocess::{ALTERNATIVES, ln_sum, within};
use super::observation::as_f64;
use super::settings::{MetricSettings, Settings};

/// Chance that an interval misses what it is of.
const MISSES: f64 = 0.05;
/// The standard normal's 97.5 % quantile.
const NORMAL: f64 = 1.959_963_984_540_054;

/// The 95 % interval of a share of bad requests, each 0 to 1; `None` without requests.
///
/// Wilson's score interval (E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the American
/// Statistical Association 22, 1927), with counts divided by φ, since bad requests vary φ times as much as independent ones would. For one
/// look: whoever looks again and again will see more than one in twenty miss.
pub(super) fn share(tally: Tally, settings: &Settings) -> Option<[f64; 2]> {
    if tally.requests == 0 {
        return None;
    }
    let requests = as_f64(tally.requests) / settings.phi();
    let share = within(as_f64(tally.bad) / as_f64(tally.requests), 0.0, 1.0);
    let square = NORMAL * NORMAL;
    let middle = share + square / (2.0 * requests);
    let half = NORMAL * (share * (1.0 - share) / requests + square / (4.0 * requests * requests)).sqrt();
    let of = |value: f64| within(value / (1.0 + square / requests), 0.0, 1.0);
    // At the ends the bound is the end itself, which rounding may miss.
    let low = if tally.bad == 0 { 0.0 } else { of(middle - half) };
    let high = if tally.bad >= tally.requests {
        1.0
    } else {
        of(middle + half)
    };
    Some([low, high])
}

/// Between how many times as bad as stable the canary is, where that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ratio {
    /// At least.
    pub from: Option<f64>,
    /// At most.
    pub to: Option<f64>,
}

/// The 95 % confidence sequence of how many times as bad as stable the canary is, on the grid whose log-likelihood ratios a process keeps.
///
/// The relative test inverted (analysis.md, section 4): the kept ℓ_j are ln L(ρ_j)/L(ρ0), so their differences are the log-likelihood ratios
/// between any two ratios of the grid. "At most ρ_j" is rejected by the mixture of all larger ones, "at least ρ_j" by that of all smaller
/// ones, each at half of the chance to miss. It holds at every look at once, for one ratio over the whole process; the grid has no ratio
/// under ρ0, so that `to` is never below ρ0·1.25.
pub(super) fn ratio(process: &Process, metric: &MetricSettings, settings: &Settings) -> Ratio {
    #[expect(clippy::cast_precision_loss, reason = "at most 2^53")]
    let kept = process
        .millionths
        .iter()
        .take(ALTERNATIVES)
        .map(|sum| *sum as f64 / 1e6);
    let sums: Vec<f64> = [0.0].into_iter().chain(kept).map(|sum| sum / settings.phi()).collect();
    let too_small = rejected(sums.iter().rev());
    let too_large = rejected(sums.iter());
    let count = |taken: usize| u32::try_from(taken).unwrap_or(u32::MAX);
    Ratio {
        from: (too_small > 0).then(|| at(count(too_small) - 1, metric)),
        to: (too_large > 0).then(|| at(count(sums.len().saturating_sub(too_large)), metric)),
    }
}

/// How many ratios in a row, from the last one back, the mixture of all before each rejects.
fn rejected<'a>(sums: impl Iterator<Item = &'a f64>) -> usize {
    let threshold = (2.0 / MISSES).ln();
    let (mut before, mut number, mut in_a_row) = (f64::NEG_INFINITY, 0.0, 0);
    for sum in sums {
        let rejects = number > 0.0 && before - f64::ln(number) - sum >= threshold;
        in_a_row = if rejects { in_a_row + 1 } else { 0 };
        before = ln_sum([before, *sum]);
        number += 1.0;
    }
    in_a_row
}

/// A ratio of the grid: ρ0, then the 24 alternatives, from 1.25 to 64 times ρ0.
fn at(index: u32, metric: &MetricSettings) -> f64 {
    if index == 0 {
        return metric.ratio();
    }
    let last = as_f64(ALTERNATIVES as u64 - 1);
    metric.ratio() * 1.25 * (64.0_f64 / 1.25).powf(f64::from(index - 1) / last)
}

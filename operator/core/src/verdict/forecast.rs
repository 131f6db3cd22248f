//! What a metric's pass still takes: canary requests in this step, and time at today's rate.
//!
//! A forecast for people, and the reason to hold while there is one. Reads evidence only.

use stepgate_crds::evidence::{MetricEvidence, Recent, Tally};

use super::Moment;
use super::eprocess::{pass_test, within};
use super::observation::as_f64;
use super::settings::{MetricSettings, Settings};

/// What a metric lacks for a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Canary requests in this step.
    pub have: u64,
    /// About how many it takes at the share of bad ones seen; `None` when that is too near the max for any number to do.
    pub need: Option<u64>,
    /// Seconds until then, at the rate seen; `None` when that is not known.
    pub eta: Option<u64>,
}

/// What this metric lacks for a pass; `None` when nothing.
pub(super) fn missing(
    kept: &MetricEvidence,
    metric: &MetricSettings,
    settings: &Settings,
    moment: &Moment,
) -> Option<Missing> {
    let Tally { requests: have, bad } = kept.step.canary;
    let (requests, bad) = (as_f64(have), as_f64(bad));
    let test = pass_test(metric.max());
    let passes = |more: f64, share: f64| {
        let ln_e = test.ln_e(requests + more, bad + more * share, settings.phi());
        ln_e >= settings.threshold_pass()
    };
    if passes(0.0, 0.0) {
        return None;
    }
    let more = still_needed(requests, bad, metric, passes);
    let rate = canary_rate(kept, moment);
    Some(Missing {
        have,
        need: more.map(|more| have.saturating_add(to_u64(more))),
        eta: more.filter(|_| rate > 0.0).map(|more| to_u64(more / rate)),
    })
}

/// About how many canary requests a step's pass takes where this share of them is bad; `None` when it is too near the max, or over it, for any
/// number to do.
#[must_use]
pub fn requests_for_a_pass(metric: &MetricSettings, settings: &Settings, share: f64) -> Option<u64> {
    let test = pass_test(metric.max());
    let passes = |requests: f64, share: f64| {
        let ln_e = test.ln_e(requests, requests * share, settings.phi());
        ln_e >= settings.threshold_pass()
    };
    fewest(within(share, 0.0, 1.0), metric, passes).map(to_u64)
}

/// About how many more canary requests the pass test takes, if they are as bad as those so far. So that one early bad request does
/// not decide the forecast, 3/max requests at a tenth of the max are taken as seen before.
fn still_needed(requests: f64, bad: f64, metric: &MetricSettings, passes: impl Fn(f64, f64) -> bool) -> Option<f64> {
    let share = (bad + 0.3) / (requests + 3.0 / metric.max());
    fewest(share, metric, passes)
}

/// The fewest requests that pass at a share of bad ones, to the next whole one.
fn fewest(share: f64, metric: &MetricSettings, passes: impl Fn(f64, f64) -> bool) -> Option<f64> {
    if share >= 0.8 * metric.max() {
        return None;
    }
    fewest_that(|requests| passes(requests, share))
}

/// The smallest whole number of which this holds, where it holds of all that are larger; `None` where it is over 10¹².
pub(crate) fn fewest_that(holds: impl Fn(f64) -> bool) -> Option<f64> {
    let (mut low, mut high) = (0.0, 16.0);
    while !holds(high) {
        low = high;
        high *= 2.0;
        if high > 1e12 {
            return None;
        }
    }
    while high - low > 1.0 {
        let middle = f64::midpoint(low, high);
        if holds(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Some(high)
}

/// Canary requests a second: this step's, or what the weight foretells of all recent ones while it has had none.
fn canary_rate(kept: &MetricEvidence, moment: &Moment) -> f64 {
    let step = &kept.step;
    if step.canary.requests > 0 && step.seconds > 0 {
        as_f64(step.canary.requests) / as_f64(step.seconds)
    } else {
        let idle = Recent {
            seconds: kept.idle_seconds,
            ..Recent::default()
        };
        moment.weight() * rate(kept.recent.iter().chain([&idle]))
    }
}

/// All requests a second.
pub(super) fn rate<'a>(intervals: impl Iterator<Item = &'a Recent>) -> f64 {
    let (requests, seconds) = intervals.fold((0.0, 0.0), |(requests, seconds), one| {
        (
            requests + as_f64(one.canary.requests) + as_f64(one.stable.requests),
            seconds + as_f64(one.seconds),
        )
    });
    if seconds > 0.0 { requests / seconds } else { 0.0 }
}

fn to_u64(value: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast from a double saturates"
    )]
    let whole = value.ceil() as u64;
    whole
}

//! Which intervals may be handed to `judge` together with later ones, because it could not have decided anything on them.
//!
//! Only to be fast: most intervals of a calm service change no verdict, and a decision costs ten times what folding an interval does.
//! Everything here errs to the side of asking at once; a test compares with asking after every interval.

use stepgate_crds::evidence::{MetricEvidence, Recent, Tally};

use crate::verdict::{
    Counts, Interval, Judgement, MetricSettings, Observation, Settings, Verdict, as_f64,
    eprocess::ln_e_pass,
    fewest_that,
    settings::{MISSED_REQUESTS, TRIPWIRE_SHARE},
};

#[cfg(test)]
mod tests;

/// Bad requests up to here have their need of requests worked out before.
const KNOWN: u64 = 32;

/// What a pass takes, worked out once for all runs by the same settings.
#[derive(Clone, Debug)]
pub struct Needs(Vec<Vec<Option<f64>>>);

impl Needs {
    /// For each metric, the fewest requests that pass with 0, 1, 2 … bad ones among them; none where no number does.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let of_metric = |metric: &MetricSettings| {
            let fewest = |bad: u64| {
                fewest_that(|requests| {
                    ln_e_pass(requests, as_f64(bad), metric.max, settings.phi) >= settings.threshold_pass()
                })
            };
            (0..KNOWN).map(fewest).collect()
        };
        Self(settings.metrics.iter().map(of_metric).collect())
    }

    /// None where it was not worked out.
    fn of_metric(&self, at: usize, bad: u64) -> Option<f64> {
        *self.0.get(at)?.get(usize::try_from(bad).ok()?)?
    }
}

/// Whether no verdict but a hold could have fallen on any of these intervals, after this judgement at this weight.
pub(super) fn is_quiet(last: &Judgement, new: &[Interval], settings: &Settings, needs: &Needs, weight: u32) -> bool {
    let share = f64::from(weight) / 100.0;
    let metrics = || last.evidence.metrics.iter().enumerate();
    matches!(last.verdict, Verdict::Hold(_))
        && metrics().all(|(at, kept)| {
            let seen = Sums::of(new, at);
            seen.readable
                && cannot_fail(last, at, seen, settings)
                && cannot_trip(kept, seen, settings)
                && cannot_be_shared(kept, seen, settings)
                && cannot_be_silent(kept, seen, share)
        })
        && metrics().any(|(at, kept)| cannot_pass(kept, Sums::of(new, at), needs, at))
}

/// One metric in some intervals.
#[derive(Clone, Copy, Debug)]
struct Sums {
    canary: Tally,
    stable: Tally,
    /// Stable's requests in intervals without one to the canary.
    alone: f64,
    /// Whether an interval was without a canary request.
    gap: bool,
    readable: bool,
}

impl Sums {
    fn of(new: &[Interval], at: usize) -> Self {
        let mut sums = Self {
            canary: Tally::default(),
            stable: Tally::default(),
            alone: 0.0,
            gap: false,
            readable: true,
        };
        for interval in new {
            let Some(Observation::Counts(Counts { canary, stable })) = interval.metrics.get(at) else {
                sums.readable = false;
                continue;
            };
            let add = |sum: &mut Tally, requests: f64, bad: f64| {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "simulated counts are whole and small"
                )]
                let (requests, bad) = (requests as u64, bad as u64);
                sum.requests += requests;
                sum.bad += bad;
            };
            add(&mut sums.canary, canary.requests, canary.bad);
            add(&mut sums.stable, stable.requests, stable.bad);
            if canary.requests == 0.0 {
                sums.gap = true;
                sums.alone += stable.requests;
            }
        }
        sums
    }
}

/// A bad request raises no process by more than ln of the grid's upper end over the null, divided by φ; anything else lowers them.
fn cannot_fail(last: &Judgement, at: usize, seen: Sums, settings: &Settings) -> bool {
    let (Some(known), Some(metric)) = (last.explanations.get(at), settings.metrics.get(at)) else {
        return false;
    };
    let most = 64_f64.ln().max((0.999 / metric.max).ln()) / settings.phi;
    known.ln_relative.max(known.ln_absolute) + as_f64(seen.canary.bad) * most < known.threshold_fail
}

/// The tripwire looks at the latest interval, and at all since the weight was accepted: at least the requests that were known.
fn cannot_trip(kept: &MetricEvidence, seen: Sums, settings: &Settings) -> bool {
    let known = kept.tripwire.canary;
    let bad = known.bad + seen.canary.bad;
    let enough = settings.overwhelming_bad();
    seen.canary.bad < enough && (bad < enough || as_f64(bad) < TRIPWIRE_SHARE * as_f64(known.requests))
}

/// A version is taken to be over its max from so many bad requests in the last intervals on.
fn cannot_be_shared(kept: &MetricEvidence, seen: Sums, settings: &Settings) -> bool {
    let recent = |version: fn(&Recent) -> Tally| kept.recent.iter().map(|one| version(one).bad).sum::<u64>();
    kept.stable_over_since.is_none()
        && (recent(|one| one.canary) + seen.canary.bad < settings.min_bad
            || recent(|one| one.stable) + seen.stable.bad < settings.min_bad)
}

/// Silence begins with an interval without a canary request; at all of the traffic it is told from the rate before, which is asked.
fn cannot_be_silent(kept: &MetricEvidence, seen: Sums, share: f64) -> bool {
    !seen.gap || (share < 1.0 && share * (as_f64(kept.silent_stable_requests) + seen.alone) < MISSED_REQUESTS)
}

/// Neither on top of what the step has, nor if the step's totals had started anew in between.
fn cannot_pass(kept: &MetricEvidence, seen: Sums, needs: &Needs, at: usize) -> bool {
    let with = |known: Tally| {
        needs
            .of_metric(at, known.bad)
            .is_some_and(|need| as_f64(known.requests + seen.canary.requests) < need)
    };
    with(kept.step.canary) && with(Tally::default())
}

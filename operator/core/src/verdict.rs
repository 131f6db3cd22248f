//! The statistical verdict on a run: may the new version go on, must it go back, or is it too early to say, and why.
//!
//! Pure and total: counts in, evidence and a verdict out; no clock, no I/O, no panic on any input. [`judge`] folds new intervals into
//! the evidence (a commit anywhere between two intervals changes nothing) and decides once, on the last. The method, its parameters and
//! its expected figures are in `docs/analysis.md`. It never decides about bake, approval or deadlines: that is its caller's.

pub mod baseline;
mod decide;
pub mod dispersion;
pub mod eprocess;
mod explain;
mod fold;
mod forecast;
mod interval;
mod meaning;
mod observation;
mod own;
mod past;
mod process;
mod reason;
pub mod settings;
mod wording;

#[cfg(test)]
pub(crate) mod tests;

use stepgate_crds::evidence::Evidence;

pub use baseline::Baseline;
pub use explain::MetricExplanation;
pub(crate) use forecast::fewest_that;
pub use forecast::{Missing, requests_for_a_pass};
pub use interval::Ratio;
pub use meaning::meaning;
pub(crate) use observation::as_f64;
pub use observation::{Arm, Counts, DataError, Interval, Observation};
pub use own::QueryExplanation;
pub use past::past;
pub use reason::{HoldReason, RetreatCause, Rule, Verdict};
pub use settings::{MetricSettings, QuerySettings, Settings};

/// Where the run is for the intervals handed to [`judge`] with it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moment {
    /// The step, from 0.
    pub step: u32,
    /// The canary's accepted weight, 0 to 100.
    pub weight_percent: u32,
    /// When every parent had accepted the weight, in Unix seconds on the source's clock. While it is `None` nothing counts, so a pass
    /// that waits for a higher weight to be accepted hands in the old step's moment if it wants the old weight judged on.
    pub accepted: Option<i64>,
    /// Intervals that begin here or later count for the step: accepted + max(settle, scrape + query timeout), in Unix seconds. Those
    /// that end after `accepted` and begin before this feed the tripwire only.
    pub counts_from: i64,
    /// Metrics that warm up count nothing of intervals that begin before this, in Unix seconds.
    pub warm_from: i64,
    /// In a pause: its hour, counted from 1 over all pauses of the run.
    pub paused: Option<u32>,
    /// From the un-pause until the end of Returning. Stable's Service then selects pods of the new version too, so only the absolute
    /// test, the tripwire and the restarts speak, and nothing retreats.
    pub promoting: bool,
    /// Somebody else has taken the canary's traffic away: what is in force is not what is sent, and a query's number says nothing of the
    /// version.
    pub taken_away: bool,
    /// Why the source cannot be read at all, when it cannot (then there are no new intervals): holds, unless what is known fails.
    pub unavailable: Option<DataError>,
}

impl Moment {
    /// The weight as a share.
    fn weight(&self) -> f64 {
        f64::from(self.weight_percent.min(100)) / 100.0
    }
}

/// Error exits of application containers, and how long pods ran for them, in this run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Restarts {
    /// Application containers of the canary that ended with an error.
    pub canary_error_exits: u32,
    /// Hours that the canary's pods ran, all pods added.
    pub canary_pod_hours: f64,
    /// The same of stable.
    pub stable_error_exits: u32,
    /// Hours that stable's pods ran, all pods added.
    pub stable_pod_hours: f64,
}

/// What [`judge`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// To be committed with whatever follows from the verdict.
    pub evidence: Evidence,
    /// What follows.
    pub verdict: Verdict,
    /// The numbers behind it, one for each metric in the order of the settings.
    pub explanations: Vec<MetricExplanation>,
    /// The user's own queries, in the order of the settings.
    pub queries: Vec<QueryExplanation>,
}

impl Judgement {
    /// Counts and evidence of every metric, and the user's own numbers, in one line.
    #[must_use]
    pub fn numbers(&self) -> String {
        let metrics = self.explanations.iter().map(ToString::to_string);
        let queries = self.queries.iter().map(ToString::to_string);
        metrics.chain(queries).collect::<Vec<_>>().join("; ")
    }
}

/// Evidence at the start of a run: nothing seen, and nothing that ended by `through` (Unix seconds) will be.
#[must_use]
pub fn begin(settings: &Settings, through: i64) -> Evidence {
    fold::begin(settings, through)
}

/// Evidence at the commit that enters `step`, also one that was there before: the totals of step and tripwire start anew, the step's
/// process begins if it has not yet, and what speaks against the version is kept.
#[must_use]
pub fn enter_step(evidence: &Evidence, settings: &Settings, step: u32) -> Evidence {
    let mut next = fold::aligned(evidence, settings);
    fold::enter_step(&mut next, settings, step);
    next
}

/// Folds the intervals that end after `evidence.through`, oldest first, and decides on what is known after the last.
///
/// An interval handed in twice counts once. A step other than the evidence's is entered as by [`enter_step`]. `restarts` is `None`
/// where they are not known. [`Verdict::Pass`] says nothing about bake and approval.
#[must_use]
pub fn judge(
    evidence: &Evidence,
    new: &[Interval],
    settings: &Settings,
    moment: &Moment,
    restarts: Option<Restarts>,
) -> Judgement {
    let mut evidence = fold::aligned(evidence, settings);
    if evidence.step != Some(moment.step) {
        fold::enter_step(&mut evidence, settings, moment.step);
    }
    if let Some(hour) = moment.paused {
        fold::enter_pause(&mut evidence, settings, hour);
    }
    let mut intervals: Vec<&Interval> = new.iter().collect();
    intervals.sort_by_key(|interval| interval.end);
    for interval in intervals {
        if interval.end > evidence.through {
            fold::fold(&mut evidence, interval, settings, moment);
        }
    }
    let metrics = evidence.metrics.iter().zip(&settings.metrics);
    let missing: Vec<Option<Missing>> = metrics
        .map(|(kept, metric)| forecast::missing(kept, metric, settings, moment))
        .collect();
    let verdict = decide::decide(&evidence, settings, moment, restarts, &missing);
    let explanations = explain::explain(&evidence, settings, &missing);
    let queries = own::explain(&evidence.queries, settings);
    Judgement {
        evidence,
        verdict,
        explanations,
        queries,
    }
}

//! The numbers behind a verdict, for status, metrics and people.
//!
//! The same that decide: divided by φ, and over all restarts. Reads evidence only.

use std::fmt;

use stepgate_crds::evidence::{Evidence, ProcessKind, Tally};

use super::eprocess::ln_e_pass;
use super::forecast::Missing;
use super::interval::{self, Ratio};
use super::observation::{Arm, as_f64};
use super::process::{self, Begun};
use super::settings::Settings;
use super::wording::of;

/// One metric in numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricExplanation {
    /// The metric's name.
    pub name: String,
    /// The share of bad requests that is tolerated at this step.
    pub max: f64,
    /// The new version in this step.
    pub canary: Arm,
    /// Stable in this step.
    pub stable: Arm,
    /// The 95 % interval of the canary's share of bad requests; `None` without requests. For one look, not for all at once.
    pub canary_interval: Option<[f64; 2]>,
    /// The same of stable.
    pub stable_interval: Option<[f64; 2]>,
    /// How many times as bad as stable the canary is over the whole run, at 95 % confidence that holds at any time.
    pub ratio: Ratio,
    /// ln E that the canary is worse than stable.
    pub ln_relative: f64,
    /// ln E that the canary is over the metric's max.
    pub ln_absolute: f64,
    /// ln E that the canary is under the metric's max, of this step alone.
    pub ln_pass: f64,
    /// Either of the first two fails from here on (with the minimum effect and counts).
    pub threshold_fail: f64,
    /// The third passes from here on.
    pub threshold_pass: f64,
    /// What it lacks for a pass; `None` when nothing.
    pub missing: Option<Missing>,
}

/// In one line, short enough that those of all metrics fit into an Event.
impl fmt::Display for MetricExplanation {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            to,
            "{}: canary {}, stable {}; evidence: worse than stable {:.1} of {fails:.2}, over max {:.1} of {fails:.2}, under max {:.1} \
             of {:.2}",
            self.name,
            of(self.canary),
            of(self.stable),
            self.ln_relative,
            self.ln_absolute,
            self.ln_pass,
            self.threshold_pass,
            fails = self.threshold_fail
        )
    }
}

/// One explanation for each metric of the settings, in their order; `missing` is in the same.
pub(super) fn explain(evidence: &Evidence, settings: &Settings, missing: &[Option<Missing>]) -> Vec<MetricExplanation> {
    let begun = Begun {
        steps: evidence.steps_begun,
        pauses: evidence.pauses_begun,
    };
    let metrics = evidence.metrics.iter().zip(&settings.metrics).zip(missing);
    let explained = metrics.map(|((kept, metric), missing)| {
        let Tally { requests, bad } = kept.step.canary;
        let whole = kept.processes.iter().find(|process| process.kind == ProcessKind::Run);
        MetricExplanation {
            name: kept.name.clone(),
            max: metric.max(),
            canary: kept.step.canary.into(),
            stable: kept.step.stable.into(),
            canary_interval: interval::share(kept.step.canary, settings),
            stable_interval: interval::share(kept.step.stable, settings),
            ratio: whole.map_or_else(Ratio::default, |process| interval::ratio(process, metric, settings)),
            ln_relative: process::mean_relative(&kept.processes, begun, settings).ln_e,
            ln_absolute: process::mean_absolute(&kept.processes, begun, settings, metric).ln_e,
            ln_pass: ln_e_pass(as_f64(requests), as_f64(bad), metric.max(), settings.phi()),
            threshold_fail: settings.threshold_fail(),
            threshold_pass: settings.threshold_pass(),
            missing: *missing,
        }
    });
    explained.collect()
}

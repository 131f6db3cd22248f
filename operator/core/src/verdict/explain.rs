//! The numbers behind a verdict, for status, metrics and people.
//!
//! The same that decide: divided by φ, and over all restarts. Reads evidence only.

use std::fmt;

use stepgate_crds::evidence::{Evidence, Tally};

use super::eprocess::ln_e_pass;
use super::observation::{Arm, as_f64};
use super::process::{self, Begun};
use super::settings::Settings;
use super::wording::of;

/// One metric in numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricExplanation {
    /// The metric's name.
    pub name: String,
    /// The new version in this step.
    pub canary: Arm,
    /// Stable in this step.
    pub stable: Arm,
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
}

impl fmt::Display for MetricExplanation {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            to,
            "{}: canary {}, stable {}; evidence that it is worse than stable {:.1}, that it is over the max {:.1}, against {:.2}; \
             that it is under the max {:.1} against {:.2}",
            self.name,
            of(self.canary),
            of(self.stable),
            self.ln_relative,
            self.ln_absolute,
            self.threshold_fail,
            self.ln_pass,
            self.threshold_pass
        )
    }
}

/// One explanation for each metric of the settings, in their order.
pub(super) fn explain(evidence: &Evidence, settings: &Settings) -> Vec<MetricExplanation> {
    let begun = Begun {
        steps: evidence.steps_begun,
        pauses: evidence.pauses_begun,
    };
    let metrics = evidence.metrics.iter().zip(&settings.metrics).map(|(kept, metric)| {
        let Tally { requests, bad } = kept.step.canary;
        MetricExplanation {
            name: kept.name.clone(),
            canary: kept.step.canary.into(),
            stable: kept.step.stable.into(),
            ln_relative: process::mean_relative(&kept.processes, begun, settings).ln_e,
            ln_absolute: process::mean_absolute(&kept.processes, begun, settings, metric).ln_e,
            ln_pass: ln_e_pass(as_f64(requests), as_f64(bad), metric.max(), settings.phi()),
            threshold_fail: settings.threshold_fail(),
            threshold_pass: settings.threshold_pass(),
        }
    });
    metrics.collect()
}

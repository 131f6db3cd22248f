//! What `status.history` keeps of the last run's counts: enough to ask again why it ended so, and how much traffic there is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    evidence::{Recent, Window},
    units::{Share, Span},
};

/// What a run counted, and what it was judged by.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PastCounts {
    /// The dispersion that evidence was divided by.
    pub phi: f64,
    /// The length of an interval.
    pub interval: Span,
    /// One for each metric that was judged.
    pub metrics: Vec<PastMetric>,
}

/// One metric of a run that has ended.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PastMetric {
    /// The metric.
    pub name: String,
    /// The tolerated share of bad requests, at its last step.
    pub max: Share,
    /// How many times as bad as stable the canary may have been.
    pub ratio: f64,
    /// The evidence that the canary is worse than stable (natural logarithm), as it stood at the end.
    pub relative_evidence: f64,
    /// The evidence that the canary is over the max (natural logarithm), as it stood at the end.
    pub absolute_evidence: f64,
    /// The evidence at which either fails.
    pub fail_threshold: f64,
    /// The last intervals that had a request, at most ten, added up.
    #[schemars(with = "[i64; 5]")]
    pub recent: Recent,
    /// The whole run in its parts, at most six: each from where a step or an hour of pauses began to where the next did.
    /// `[canary requests, canary bad, stable requests, stable bad, intervals with bad canary requests]`.
    #[schemars(with = "Vec<[i64; 5]>")]
    pub parts: Vec<Window>,
}

//! What `status.run` holds: one new version on its way.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Cause, Outcome};
use crate::{
    evidence::Evidence,
    query::CountQuery,
    rollout::{Latency, OwnQuery, RouteReference, Step},
    units::{Share, Span, Timestamp},
};

/// A run: one new version on its way.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// The name of this run, unique for the Rollout.
    pub id: String,
    /// Counts the intents of this run: the route carries `<id>.<seq>`.
    pub seq: i32,
    /// The leader's term in which this run was last taken over.
    pub term: i64,
    /// When it began.
    pub started: Timestamp,
    /// The PodTemplate that keeps the new version's template.
    pub revision: String,
    /// The spec as it was at the start.
    pub spec: RunSpec,
    /// The managed rules as they were at the start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub original: Vec<OriginalRule>,
    /// The highest size of stable that was seen: the canary is sized by it.
    pub base: i32,
    /// The step that the run is in, counted from 0.
    pub step: i32,
    /// The weight of the canary that is meant to be, in percent.
    pub weight: i32,
    /// The weight that all parents accepted last, in percent.
    pub accepted_weight: i32,
    /// The weight that every parent accepted last, and since when: what the counts are judged by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<InForce>,
    /// Since when there are no data to judge by; none while there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_data_since: Option<Timestamp>,
    /// How often the run has retreated, and why.
    #[serde(default, skip_serializing_if = "Retreats::is_none")]
    pub retreats: Retreats,
    /// How often somebody else took the weights toward stable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
    /// The PodTemplate of a newer version, which came while this one was being promoted and gets its own run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newer: Option<String>,
    /// Since when stable has had no ready endpoint while the canary was being prepared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bare_since: Option<Timestamp>,
    /// Hours of pauses that have begun: each has an e-process of its own.
    #[serde(default)]
    pub pause_hours: i32,
    /// What the run is doing.
    pub state: RunState,
    /// A person's decision to go on without evidence, at this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overridden: Option<Override>,
    /// The counts and what follows from them.
    #[serde(default)]
    pub evidence: Evidence,
    /// The rule, cause or reason that the last verdict rests on: `Pass`, `OverMax`, `InsufficientTraffic` and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The counts for people: totals of this step, with the evidence as it was judged last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<MetricReport>,
    /// The user's own queries for people, as they were judged last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queries: Vec<QueryReport>,
    /// When this status was written last.
    pub refreshed: Timestamp,
}

/// The spec of a run, with every default filled in; edits of the Rollout go for the next run.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RunSpec {
    /// The managed routes.
    pub routes: Vec<RouteReference>,
    /// The steps, each with its bake. The API server counts what the rules of so many cost.
    #[schemars(length(max = 20))]
    pub steps: Vec<Step>,
    /// How long after acceptance a weight is in force.
    pub settle: Span,
    /// How long pods stay after weight 0 was accepted.
    pub drain: Span,
    /// The length of an interval.
    pub interval: Span,
    /// The metrics source.
    pub source: String,
    /// The tolerated share of bad requests.
    pub max_error_rate: Share,
    /// What is slow, and how much of it is tolerated; none where it is not judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// The user's own queries, as they were written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub queries: Vec<OwnQuery>,
    /// How long after the canary grew its latency does not count.
    #[serde(default)]
    pub warm_up: Span,
    /// The dispersion that evidence is divided by.
    pub phi: f64,
    /// Whether `maxErrorRate` is to be made of stable's own history (`max: auto`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto_max: bool,
    /// What stable did before the run, where φ or `maxErrorRate` rest on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
    /// Why stable's history could not be read, and the defaults hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_baseline: Option<String>,
}

/// Stable's requests before a run.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Baseline {
    /// So many hours.
    pub hours: i32,
    /// Requests in them.
    pub requests: i64,
    /// Bad ones of them.
    pub bad: i64,
    /// The most pods that had requests at one time; 0 where the metrics do not tell pods apart.
    pub pods: i32,
}

/// A managed rule as it was before the run.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OriginalRule {
    /// The route.
    pub route: String,
    /// The rule's name, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The rule's place among the rules.
    pub index: i32,
    /// The weight of the stable Service; none where the rule did not say one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable_weight: Option<i64>,
    /// The weight of the canary Service where the rule had it already; none where it had not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_weight: Option<i64>,
}

/// A weight that every parent gateway accepted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InForce {
    /// The intent that set it.
    pub seq: i32,
    /// The step it belongs to, counted from 0.
    pub step: i32,
    /// The canary's weight, in percent.
    pub weight: i32,
    /// When the last parent had accepted it.
    pub since: Timestamp,
    /// Since when the canary has had traffic on as many pods as it has at this weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grown: Option<Timestamp>,
}

/// What a run is doing. Each state carries when it began, which its deadline counts from.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum RunState {
    /// The canary is being made.
    #[serde(rename_all = "camelCase")]
    Preparing {
        /// When it began.
        since: Timestamp,
    },
    /// The canary gets a step's weight and is judged.
    #[serde(rename_all = "camelCase")]
    Stepping {
        /// When it began.
        since: Timestamp,
    },
    /// Waiting for a person at a step's weight.
    #[serde(rename_all = "camelCase")]
    Paused {
        /// When it began.
        since: Timestamp,
        /// Why.
        why: PauseReason,
    },
    /// Weight 0, the canary is kept.
    #[serde(rename_all = "camelCase")]
    Retreated {
        /// When it began.
        since: Timestamp,
        /// Why.
        why: Retreat,
        /// Since when stable is seen to be well again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        well_since: Option<Timestamp>,
    },
    /// The Deployment rolls, the canary carries the traffic.
    #[serde(rename_all = "camelCase")]
    Promoting {
        /// When it began.
        since: Timestamp,
    },
    /// The Deployment rolls back to the stable version, the canary carries the traffic.
    #[serde(rename_all = "camelCase")]
    Restoring {
        /// When it began.
        since: Timestamp,
        /// Why.
        cause: Cause,
        /// What comes at its end.
        then: Outcome,
    },
    /// The traffic goes back to the promoted Deployment.
    #[serde(rename_all = "camelCase")]
    Returning {
        /// When it began.
        since: Timestamp,
    },
    /// The traffic goes back to the stable version.
    #[serde(rename_all = "camelCase")]
    RollingBack {
        /// When it began.
        since: Timestamp,
        /// Why.
        cause: Cause,
        /// What comes at its end.
        then: Outcome,
    },
    /// Weight 0 was accepted: the canary is removed.
    #[serde(rename_all = "camelCase")]
    Draining {
        /// When weight 0 had been accepted.
        since: Timestamp,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Cause>,
        /// What comes at its end.
        then: Outcome,
    },
}

/// Why a run waits for a person.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseReason {
    /// The step passed and asks for an approval.
    Approval,
    /// A person paused it.
    Command,
    /// Somebody else keeps taking the weights back.
    Contention,
    /// It retreated too often.
    Retreats,
}

/// Why a run retreated: none of it is proof against the new version.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retreat {
    /// All pods of the canary went.
    PodsLost,
    /// Both versions failed.
    SharedFault,
    /// Requests were sent to the canary and none was counted.
    CanarySilent,
    /// There were no data for as long as the spec allows.
    NoData,
    /// A step was neither passed nor failed for as long as the spec allows.
    Inconclusive,
}

impl Retreat {
    /// The cause as it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PodsLost => "PodsLost",
            Self::SharedFault => "SharedFault",
            Self::CanarySilent => "CanarySilent",
            Self::NoData => "NoData",
            Self::Inconclusive => "Inconclusive",
        }
    }
}

/// How often a run has retreated.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Retreats {
    /// All of them.
    pub all: i32,
    /// Those because all pods of the canary went.
    pub pods_lost: i32,
    /// Those because the canary was silent.
    pub silent: i32,
    /// Those because there were no data.
    pub no_data: i32,
    /// Those because a step was neither passed nor failed.
    pub inconclusive: i32,
}

impl Retreats {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Weights that somebody else took toward stable.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Drift {
    /// The intent of ours that was changed last.
    pub seq: i32,
    /// When, in the last ten minutes.
    pub times: Vec<Timestamp>,
    /// The generations of all routes then, added up.
    pub generations: i64,
}

/// A person's decision to go on without evidence.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Override {
    /// The step it was made at, counted from 0.
    pub step: i32,
    /// The command's nonce.
    pub nonce: String,
}

/// The counts of a metric for people.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MetricReport {
    /// The metric.
    pub name: String,
    /// Requests to the canary in this step.
    pub canary_requests: i64,
    /// Bad ones of them.
    pub canary_bad: i64,
    /// Requests to stable in this step.
    pub stable_requests: i64,
    /// Bad ones of them.
    pub stable_bad: i64,
    /// The measured share of the canary in this step's requests, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_weight: Option<f64>,
    /// The tolerated share of bad requests, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// The 95 % interval of the canary's share of bad requests, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_interval: Option<[f64; 2]>,
    /// The 95 % interval of stable's share of bad requests, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable_interval: Option<[f64; 2]>,
    /// The canary is at least this many times as bad as stable over the whole run, with 95 % confidence that holds at any time; none where
    /// that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_from: Option<f64>,
    /// And at most this many times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_to: Option<f64>,
    /// The evidence that the canary is worse than stable (natural logarithm).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative_evidence: Option<f64>,
    /// The evidence that the canary is over the max (natural logarithm).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absolute_evidence: Option<f64>,
    /// The evidence against the canary (natural logarithm, the larger of the two failure tests).
    pub fail_evidence: f64,
    /// The evidence at which it fails.
    pub fail_threshold: f64,
    /// The evidence that it is well (natural logarithm).
    pub pass_evidence: f64,
    /// The evidence at which it passes.
    pub pass_threshold: f64,
    /// About how many canary requests in this step a pass takes in all; none where it has them, or where no number would do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub need: Option<i64>,
    /// About how many seconds that takes at the rate of this step; none where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<i64>,
    /// What the counts are selected by; none where `status` has no room for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<CountQuery>,
}

/// One of the user's own queries for people.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct QueryReport {
    /// Its name.
    pub name: String,
    /// The number that it gave last at this step, as text; none where it gave none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The largest number that is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// The smallest number that is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Intervals in a row, up to the last with a number, in which it was out of its bounds.
    pub failures: i32,
    /// With so many the version has failed.
    pub failure_limit: i32,
    /// Why the newest interval gave no number; none where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// The PromQL as it is asked; none where `status` has no room for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
}

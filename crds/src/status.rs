//! `status`: the operator's only memory, and what a person reads.
//!
//! A run continues from here after any crash, so everything that a decision rests on is here or in the world. Nobody but the
//! operator writes it. Under 16 KiB in a run, under 4 KiB at rest.

#![expect(
    unreachable_pub,
    reason = "KubeSchema repeats each type inside a function of its own"
)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    command::Verb,
    evidence::Evidence,
    rollout::{ProviderName, RouteReference, Step},
    units::{Share, Span, Timestamp},
};

/// What the operator knows about a Rollout.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the Rollout is in its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The step of the run out of all of them, such as `2/4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The weight of the canary that every parent gateway accepted, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i32>,
    /// The last verdict: Pass, Fail, or the reason why there is none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// What is happening or missing, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The version that serves when no run is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<Stable>,
    /// What was found for everything that the spec leaves open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Found>,
    /// The run that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// The version that failed last, as long as the Deployment still asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Failed>,
    /// The last ten runs, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Past>,
    /// How many templates were recorded so far: names the next one.
    #[serde(default)]
    pub revisions: i32,
    /// The last command and what became of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandOutcome>,
    /// The last Event: written again after a crash, under the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<Note>,
    /// `Ready`, `Reconciling` and `Stalled`, as kstatus reads them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Where a Rollout is in its life.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Something that the Rollout names is missing or does not fit: nothing is managed.
    Blocked,
    /// No run: the Deployment runs the stable version.
    Healthy,
    /// The canary is being made.
    Preparing,
    /// The canary has a step's share of the traffic.
    Stepping,
    /// Waiting for a person at a step's weight.
    Paused,
    /// The Deployment rolls to the new version while the canary carries the traffic.
    Promoting,
    /// The traffic goes back to the Deployment, which now runs the new version.
    Returning,
    /// The traffic goes back to the stable version.
    RollingBack,
    /// The canary has no traffic and is being removed.
    Draining,
    /// The new version failed: stable serves, the Deployment is held.
    Failed,
}

impl Phase {
    /// The phase as it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blocked => "Blocked",
            Self::Healthy => "Healthy",
            Self::Preparing => "Preparing",
            Self::Stepping => "Stepping",
            Self::Paused => "Paused",
            Self::Promoting => "Promoting",
            Self::Returning => "Returning",
            Self::RollingBack => "RollingBack",
            Self::Draining => "Draining",
            Self::Failed => "Failed",
        }
    }
}

/// The stable version: a recorded ReplicaSet, never "the newest".
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Stable {
    /// The name of its ReplicaSet.
    pub replica_set: String,
    /// The uid of its ReplicaSet.
    pub uid: String,
    /// The uid of the Deployment that it was recorded from.
    pub workload_uid: String,
    /// The name of the PodTemplate that keeps its template.
    pub template: String,
}

/// What was found for everything that the spec leaves open.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// The generation of the spec that it was found for.
    pub generation: i64,
    /// The user's Service.
    pub stable_service: String,
    /// The Service that Stepgate makes for a run.
    pub canary_service: String,
    /// The labels that set canary pods apart.
    pub canary_labels: BTreeMap<String, String>,
    /// How they were chosen, and what was not looked at.
    pub apart: String,
    /// The set of queries.
    pub provider: ProviderName,
    /// The port of the stable Service in the route, as the gateway names it.
    pub port: i32,
    /// The parents of the routes that accepted them, as `route parent controller`.
    pub parents: Vec<String>,
}

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
    /// The counts for people: totals of this step, with the evidence as it was judged last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<MetricReport>,
    /// When this status was written last.
    pub refreshed: Timestamp,
}

/// The spec of a run, with every default filled in; edits of the Rollout go for the next run.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RunSpec {
    /// The managed routes.
    pub routes: Vec<RouteReference>,
    /// The steps, each with its bake.
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
    /// The dispersion that evidence is divided by.
    pub phi: f64,
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
    /// The Deployment rolls, the canary carries the traffic.
    #[serde(rename_all = "camelCase")]
    Promoting {
        /// When it began.
        since: Timestamp,
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
}

/// Why a run was ended.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// One word: `Verdict`, `Aborted`, `ProgressDeadline`, `CanaryLost`, `NewTemplate`, `TemplatePutBack`, `Released`, `Deleted`, `WorkloadReplaced`.
    pub reason: String,
    /// In words and numbers.
    pub detail: String,
}

/// How a run ends.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The new version is the stable one.
    Promoted,
    /// The new version failed.
    Failed,
    /// A newer template came.
    Superseded,
    /// The template was put back to stable's.
    Reverted,
    /// The Deployment was made anew.
    Replaced,
    /// The Rollout was deleted.
    Deleted,
}

impl Outcome {
    /// The outcome as it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Promoted => "Promoted",
            Self::Failed => "Failed",
            Self::Superseded => "Superseded",
            Self::Reverted => "Reverted",
            Self::Replaced => "Replaced",
            Self::Deleted => "Deleted",
        }
    }
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
    /// The evidence against the canary (natural logarithm, the larger of the two failure tests).
    pub fail_evidence: f64,
    /// The evidence at which it fails.
    pub fail_threshold: f64,
    /// The evidence that it is well (natural logarithm).
    pub pass_evidence: f64,
    /// The evidence at which it passes.
    pub pass_threshold: f64,
}

/// The version that failed last.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Failed {
    /// The run.
    pub run: String,
    /// The PodTemplate that keeps its template.
    pub template: String,
    /// Why it failed.
    pub cause: Cause,
}

/// A run that has ended.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Past {
    /// The run.
    pub run: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What became of a command.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CommandOutcome {
    /// The command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verb: Option<Verb>,
    /// Its nonce.
    pub nonce: String,
    /// Whether it was carried out.
    pub done: bool,
    /// What became of it.
    pub message: String,
}

/// An Event of the operator.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// Tells Events apart: the run (or the Rollout at rest) and a number.
    pub id: String,
    /// Whether it is a warning.
    pub warning: bool,
    /// One word.
    pub reason: String,
    /// In words and numbers.
    pub text: String,
}

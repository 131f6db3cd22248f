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

use crate::{command::Verb, provider::ProviderName, units::Timestamp};

mod past;
mod run;

pub use past::*;
pub use run::*;

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
    /// What is being put into the Deployment, and when that was done in the last hour.
    #[serde(default, skip_serializing_if = "Mends::is_none")]
    pub mends: Mends,
    /// The Deployment is let roll natively, for there is nothing to protect: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub native: Option<Cause>,
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
    /// All traffic is on stable, the canary is kept: what happened is no proof against the new version.
    Retreated,
    /// The Deployment rolls back to the stable version while the canary carries the traffic.
    Restoring,
    /// The Rollout is suspended: nothing is managed.
    Suspended,
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
            Self::Retreated => "Retreated",
            Self::Restoring => "Restoring",
            Self::Suspended => "Suspended",
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
    /// Whether they count the calls of others too, and not the gateway's alone: then the measured weight is a hint.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub counts_all_callers: bool,
    /// Whether the gateway forgets a backend of weight 0: then one that has pods keeps a millionth of the traffic, 0 % being written as
    /// the weights 1000000 and 1.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trickle: bool,
    /// Why it is not the one that was asked for, or that fits the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_why: Option<String>,
    /// The port of the stable Service in the route, as the gateway names it.
    pub port: i32,
    /// The parents of the routes that accepted them, as `route parent controller`.
    pub parents: Vec<String>,
}

/// Templates that are put into the user's Deployment.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Mends {
    /// The PodTemplate that is to be put in, until it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<String>,
    /// When one was, in the last hour.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<Timestamp>,
}

impl Mends {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a run was ended.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// One word: `Verdict`, `Tripwire`, `Aborted`, `ProgressDeadline`, `CanaryLost`, `CanaryRestarts`, `NewTemplate`, `TemplatePutBack`,
    /// `NoData`, `Inconclusive`, `StableLost`, `Released`, `NothingToProtect`, `Deleted`, `Suspended`, `WorkloadReplaced`.
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
    /// The Rollout was suspended.
    Suspended,
    /// There was nothing to protect: the Deployment rolled natively.
    Native,
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
            Self::Suspended => "Suspended",
            Self::Native => "Native",
        }
    }
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
    /// Stable's template was put back in its place: should it come again, it is still the one that failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub put_back: bool,
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
    /// What it counted: of the last run alone, and where `status` has room for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<PastCounts>,
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

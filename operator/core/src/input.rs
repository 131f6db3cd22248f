//! Everything a decision may rest on: the world as it was observed, and the time.
//!
//! Views hold only the fields that are used. Unknown is not absent: what could not be read is `Unknown`, and nothing follows from it.

use std::collections::BTreeMap;

use serde_json::Value;
use stepgate_crds::{
    RolloutSpec, RolloutStatus,
    command::Command,
    evidence::Trouble,
    provider::ProviderName,
    query::CountQuery,
    rollout::RouteReference,
    units::{Span, Timestamp},
};

use crate::{
    limits::Limits,
    template::Digest,
    verdict::{Baseline, Interval, Restarts},
};

mod survey;

pub use survey::*;

/// The world as it was observed for one Rollout.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// The time, in milliseconds.
    pub now: Timestamp,
    /// The leader's term (Lease transitions).
    pub term: i64,
    /// How long nobody led before this term.
    pub absent: Span,
    /// The clock of the leader before was another one: its times cannot be compared with `now`.
    pub clocks_differ: bool,
    /// The constants.
    pub limits: &'a Limits,
    /// The Rollout with its status, the only memory.
    pub rollout: &'a RolloutView,
    /// The user's Deployment.
    pub workload: &'a Seen<WorkloadView>,
    /// The canary's Deployment.
    pub canary: &'a Seen<WorkloadView>,
    /// The canary's Service.
    pub canary_service: &'a Seen<OwnedView>,
    /// Ready endpoints of the stable Service.
    pub stable_ready: i32,
    /// Those of them whose pods are the Deployment's, but not of stable's ReplicaSet.
    pub strange_ready: i32,
    /// Ready endpoints of this run's canary.
    pub canary_ready: i32,
    /// The routes of [`RolloutView::routes`], in their order.
    pub routes: &'a [(String, Seen<RouteView>)],
    /// The recorded PodTemplates of this Rollout, by name.
    pub templates: &'a BTreeMap<String, TemplateView>,
    /// What only a list can tell, where `Need` asked for it.
    pub survey: Option<&'a Survey>,
    /// The Deployment's ReplicaSets, where `Need` asked for them.
    pub replica_sets: Option<&'a [ReplicaSetView]>,
    /// The recorded templates whole, by the name of their PodTemplate, where `Need` asked for them.
    pub recorded: Option<&'a BTreeMap<String, Value>>,
    /// Restarts of canary containers with an error, and of stable's.
    pub restarts: Option<Restarts>,
    /// When the youngest pod of this run's canary was started.
    pub canary_youngest: Option<Timestamp>,
    /// The counts after `evidence.through`, oldest first.
    pub samples: &'a [Interval],
    /// What the counts of each metric are asked for by, in the order of [`Interval::metrics`]; empty where there is no window.
    pub queries: &'a [Option<CountQuery>],
    /// What stable did before the run.
    pub baseline: &'a Before,
    /// What the user's own queries are asked as, in their order; empty where there is no window.
    pub asked: &'a [Option<String>],
    /// Whether the metrics source answers.
    pub source: &'a SourceHealth,
    /// Why no Deployment would be held; none where the hold is in place.
    pub no_hold: Option<&'a str>,
    /// What the API server said of our last request for this Rollout, where it refused it.
    pub refused: Option<&'a str>,
}

/// What was observed of one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen<T> {
    /// It could not be read, or not yet.
    Unknown(String),
    /// It is not there.
    Absent,
    /// It is there.
    At(T),
}

impl<T> Seen<T> {
    /// The object where it is there.
    pub fn get(&self) -> Option<&T> {
        match self {
            Self::At(object) => Some(object),
            Self::Unknown(_) | Self::Absent => None,
        }
    }

    /// Whether it is known not to be there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

impl RolloutView {
    /// Whether everything is to be let go: the Rollout was deleted, or is suspended.
    pub fn is_leaving(&self) -> bool {
        self.deleting || self.is_suspended()
    }

    /// Whether nothing is to be managed for now.
    pub fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    /// The managed routes: those of the run that is under way, else those of the spec.
    pub fn routes(&self) -> &[RouteReference] {
        self.status
            .run
            .as_ref()
            .map_or(&self.spec.traffic.routes, |run| &run.spec.routes)
    }
}

/// The Rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its resourceVersion.
    pub version: String,
    /// Its generation.
    pub generation: i64,
    /// When it was made.
    pub created: Timestamp,
    /// Whether somebody deleted it.
    pub deleting: bool,
    /// Whether it carries our finalizer.
    pub finalizer: bool,
    /// Its finalizers, all of them.
    pub finalizers: Vec<String>,
    /// A person's command: as parsed, or the text that could not be.
    pub command: Option<Result<Command, String>>,
    /// What the user wrote.
    pub spec: RolloutSpec,
    /// What was committed.
    pub status: RolloutStatus,
}

/// A Deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadView {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its resourceVersion.
    pub version: String,
    /// Its generation.
    pub generation: i64,
    /// The generation that its controller has seen.
    pub observed_generation: i64,
    /// Whether it is paused.
    pub paused: bool,
    /// Whether it has annotations at all (a JSON Patch cannot add to a map that is not there).
    pub annotated: bool,
    /// The value of the annotation `stepgate.dev/hold`.
    pub hold: Option<String>,
    /// The value of the label `stepgate.dev/rollout`.
    pub rollout: Option<String>,
    /// The value of the label `stepgate.dev/run` in its template.
    pub run: Option<String>,
    /// The digest of its template.
    pub template: Digest,
    /// Pods asked for.
    pub replicas: i32,
    /// Pods there are.
    pub current: i32,
    /// Pods of the present template.
    pub updated: i32,
    /// Pods available.
    pub available: i32,
}

impl WorkloadView {
    /// Whether every pod is of the present template and available.
    pub fn is_rolled_out(&self) -> bool {
        self.observed_generation >= self.generation
            && self.updated == self.replicas
            && self.current == self.replicas
            && self.available >= self.replicas
    }
}

/// An object that Stepgate made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedView {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The value of the label `stepgate.dev/canary-of`.
    pub canary_of: Option<String>,
    /// The run that it selects or carries.
    pub run: Option<String>,
}

/// A recorded PodTemplate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateView {
    /// Its uid.
    pub uid: String,
    /// The digest of its template.
    pub digest: Digest,
}

/// A ReplicaSet of the Deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaSetView {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The uid of the Deployment that controls it.
    pub owner: Option<String>,
    /// Pods there are.
    pub replicas: i32,
    /// Pods asked for.
    pub wanted: i32,
    /// Its template, as read.
    pub template: Value,
}

/// A route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteView {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its resourceVersion.
    pub version: String,
    /// Its generation.
    pub generation: i64,
    /// Whether it has annotations at all (a JSON Patch cannot add to a map that is not there).
    pub annotated: bool,
    /// The value of the annotation `stepgate.dev/run`.
    pub run: Option<String>,
    /// Who, besides us, changed its spec last: the name of the field manager.
    pub changed_by: Option<String>,
    /// The parents that its spec names, as in [`ParentView::parent`].
    pub parent_refs: Vec<String>,
    /// Its rules.
    pub rules: Vec<RuleView>,
    /// What its parents say of it.
    pub parents: Vec<ParentView>,
}

/// A rule of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleView {
    /// Its name.
    pub name: Option<String>,
    /// Its backendRefs, as read.
    pub backend_refs: Vec<Value>,
}

/// What a parent says of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentView {
    /// The parent, as `namespace/name` with section and port where given.
    pub parent: String,
    /// The controller that wrote this.
    pub controller: String,
    /// The generation at which it reports `Accepted` and `ResolvedRefs`; none where one of them is not true.
    pub accepted: Option<i64>,
    /// Whether all that it misses is a backend that is not there (`ResolvedRefs` is false for `BackendNotFound`).
    pub lacks_backend: bool,
    /// What it says where it does not accept.
    pub message: String,
}

/// Whether the metrics source answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SourceHealth {
    /// It has not been asked yet.
    #[default]
    Untried,
    /// The last answer was one.
    Answers,
    /// It does not answer: since when, and what it said.
    Down {
        /// Since when.
        since: Timestamp,
        /// Of what kind that is.
        kind: Trouble,
        /// What it said.
        why: String,
    },
}

/// What is known of what stable did before the run.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Before {
    /// Nothing is to be known of it: nobody asks, or the metrics do not tell.
    #[default]
    Untold,
    /// It is being read.
    Awaited {
        /// Since when, by this process.
        since: Timestamp,
        /// What fewer hours have told so far.
        found: Option<Baseline>,
    },
    /// It could not be read, and why.
    Unreadable(String),
    /// It is known.
    Known(Baseline),
}

/// Of what time stable's history is wanted: the hours before `until`.
#[derive(Clone, Debug, PartialEq)]
pub struct BaselineWindow {
    /// The run it is for.
    pub run: String,
    /// In Unix seconds: when the run began.
    pub until: i64,
    /// The length of an interval of the run in seconds.
    pub interval: u32,
    /// The metrics source.
    pub source: String,
    /// The set of queries.
    pub provider: ProviderName,
    /// What tells stable's requests from others.
    pub arms: Arms,
    /// Whether it is wanted even where the metrics do not tell stable's pods apart.
    pub share: bool,
}

/// Which counts are wanted: the shell reads them on the grid, from `from` on.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// The run they are for.
    pub run: String,
    /// Intervals that end after this, in Unix seconds.
    pub from: i64,
    /// The length of an interval in seconds.
    pub interval: u32,
    /// The metrics source.
    pub source: String,
    /// The set of queries.
    pub provider: ProviderName,
    /// What is counted: the order is that of [`Interval::metrics`] and of the verdict's settings.
    pub metrics: Vec<Measure>,
    /// The user's own queries; their numbers follow the counts in [`Interval::metrics`].
    pub queries: Vec<Question>,
    /// What tells the two versions apart.
    pub arms: Arms,
}

/// What is counted of the requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Measure {
    /// Failed ones are bad.
    Errors,
    /// Slow ones are bad.
    Latency {
        /// What takes longer is slow.
        threshold: Span,
    },
}

/// A query of the user's own, as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Its name.
    pub name: String,
    /// Its PromQL.
    pub query: String,
}

/// What tells the requests of the two versions apart, for any provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arms {
    /// The namespace.
    pub namespace: String,
    /// The user's Service.
    pub stable_service: String,
    /// The canary's Service.
    pub canary_service: String,
    /// The port of both.
    pub port: i32,
    /// The routes that refer to them.
    pub routes: Vec<String>,
    /// Stable's ReplicaSet.
    pub stable_replica_set: String,
    /// The canary's Deployment.
    pub canary_deployment: String,
}

//! `Rollout`: what a user writes.
//!
//! A field stands here only once the operator acts on it. Everything that a schema can refuse is refused by it (ranges, patterns,
//! CEL rules), so that a mistake is told by `kubectl apply` and not minutes later by a condition.

#![expect(
    unreachable_pub,
    reason = "KubeSchema repeats each type inside a function of its own"
)]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    provider::ProviderName,
    status::RolloutStatus,
    units::{Max, Share, Span},
};

/// How a Deployment's new versions go out: in which steps of traffic, and judged by what.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "stepgate.dev",
    version = "v1alpha1",
    kind = "Rollout",
    namespaced,
    shortname = "sg",
    status = "RolloutStatus",
    doc = "Rollout says how a Deployment's new versions go out: in which steps of traffic over the user's own route, and judged by what.",
    derive = "PartialEq",
    validation = Rule::new("!has(self.spec.steps) || !self.spec.steps.exists(step, has(step.analysis) && has(step.analysis.latency)) || (has(self.spec.analysis) && has(self.spec.analysis.latency))").message("a step has a latency of its own: spec.analysis.latency has to say the threshold"),
    validation = Rule::new("!has(self.spec.steps) || self.spec.steps.all(step, !has(step.analysis) || !has(step.analysis.queries) || step.analysis.queries.all(bound, has(self.spec.analysis) && has(self.spec.analysis.queries) && self.spec.analysis.queries.exists(query, query.name == bound.name)))").message("a step gives bounds to a query that spec.analysis.queries does not have"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("the name of a Rollout has at most 63 characters: it is a label value on the Deployment"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.step"),
    printcolumn(name = "Weight", type_ = "integer", json_path = ".status.weight"),
    printcolumn(name = "Verdict", type_ = "string", json_path = ".status.verdict"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct RolloutSpec {
    /// The workload whose new versions go out step by step. It cannot be changed: make another Rollout for another workload.
    #[x_kube(validation = Rule::new("self == oldSelf").message("workload is immutable: make another Rollout for another workload"))]
    pub workload: WorkloadReference,
    /// Where the traffic is divided.
    pub traffic: Traffic,
    /// The steps of traffic, in order. Default: 10, 30, 50 and 100 percent, each with a bake of the administrator's default (60s).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(validation = Rule::new("self.map(step, step.weight).isSorted()").message("the weights of steps must not decrease"))]
    #[x_kube(validation = Rule::new("self[size(self) - 1].weight == 100").message("the weight of the last step must be 100"))]
    pub steps: Option<Vec<Step>>,
    /// How a version is judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analysis: Option<Analysis>,
    /// How long a run may wait for pods before it is rolled back, and for a gateway before it is reported as stalled. Default: 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10s')").message("progressDeadline must be at least 10s"))]
    pub progress_deadline: Option<Span>,
    /// Whether nothing is to be managed for now: a run goes back to stable, and the Deployment rolls by itself. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}

/// A workload in the Rollout's namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadReference {
    /// The kind of workload.
    #[serde(default)]
    pub kind: WorkloadKind,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The kinds of workload that can be rolled out.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkloadKind {
    /// `apps/v1` Deployment.
    #[default]
    Deployment,
}

/// The routes and Services that carry the traffic.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.stableService) || !has(self.canaryService) || self.stableService != self.canaryService").message("stableService and canaryService must differ"))]
pub struct Traffic {
    /// The user's own Service. Default: the one in the route whose selector matches the Deployment's pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub stable_service: Option<String>,
    /// The Service of the canary, which Stepgate makes and removes. Default: `<stableService>-canary`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub canary_service: Option<String>,
    /// Labels that set canary pods apart from those that the stable Service selects. Default: `track: canary` where the Service
    /// selects by a `track` label (or another that the Deployment's selector does not have), else one label of the Service's
    /// selector gets the value `<value>-canary`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minProperties" = 1, "maxProperties" = 8))]
    pub canary_labels: Option<BTreeMap<String, String>>,
    /// The routes whose weights are moved.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub routes: Vec<RouteReference>,
    /// How long after every parent gateway accepted a weight it is taken to be in force. Default: 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('10m')").message("settle must be at most 10m"))]
    pub settle: Option<Span>,
    /// How long canary pods stay after weight 0 was accepted. Default: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('1h')").message("drain must be at most 1h"))]
    pub drain: Option<Span>,
}

/// A route in the Rollout's namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RouteReference {
    /// The kind of route.
    #[serde(default)]
    pub kind: RouteKind,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Names of the rules to manage. Default: every rule that refers to the stable Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub rules: Option<Vec<String>>,
}

/// The kinds of route that can be managed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouteKind {
    /// `gateway.networking.k8s.io/v1` HTTPRoute.
    #[default]
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
}

/// One step: a weight, and what it takes to go on.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The canary's share of the traffic, in percent.
    #[schemars(range(min = 0, max = 100))]
    pub weight: i32,
    /// The least time that this step lasts after its weight is in force. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('168h')").message("bake must be at most 168h"))]
    pub bake: Option<Span>,
    /// Whether a person has to promote after this step's evidence passed. Default: none has to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// What is judged otherwise at this step than in the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analysis: Option<StepAnalysis>,
}

/// How a version is judged at one step, where that is not as in the others.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StepAnalysis {
    /// The share of requests that may fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<StepErrorRate>,
    /// The share of requests that may be slow; the threshold is that of the Rollout's analysis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<StepLatency>,
    /// Bounds of further queries at this step, by the name that they have in the Rollout's analysis.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub queries: Vec<StepQuery>,
    /// What follows where this step is neither passed nor failed for long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_inconclusive: Option<OnInconclusive>,
    /// What follows where there are no data for long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_no_data: Option<OnNoData>,
}

/// How many requests may fail at one step.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StepErrorRate {
    /// The tolerated share of bad requests, above 0% and at most 50%.
    #[x_kube(validation = Rule::new("double(self.replace('%', '')) > 0.0 && double(self.replace('%', '')) <= 50.0").message("max must be above 0% and at most 50%"))]
    pub max: Share,
}

/// How many requests may be slow at one step.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StepLatency {
    /// The tolerated share of slow requests, above 0% and at most 50%.
    #[x_kube(validation = Rule::new("double(self.replace('%', '')) > 0.0 && double(self.replace('%', '')) <= 50.0").message("max must be above 0% and at most 50%"))]
    pub max: Share,
}

/// The bounds of a further query at one step. They take the place of both that the query has elsewhere.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.max) || has(self.min)").message("a query has a max, a min, or both"))]
#[x_kube(validation = Rule::new("!has(self.max) || !has(self.min) || self.min <= self.max").message("min must not be above max"))]
pub struct StepQuery {
    /// The query's name.
    #[schemars(length(min = 1, max = 40), regex(pattern = "^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The largest number that is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// The smallest number that is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
}

/// What follows where a step is neither passed nor failed for long.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OnInconclusive {
    /// How long the step waits for a verdict, from when its weight is in force. Default: 30m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10s') && duration(self) <= duration('168h')").message("after must be from 10s to 168h"))]
    pub after: Option<Span>,
    /// What is done then.
    pub then: Inconclusive,
}

/// What is done with a step that is neither passed nor failed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inconclusive {
    /// It waits on, and is reported as stalled.
    Hold,
    /// All traffic goes to stable, and a person decides.
    Retreat,
    /// The version has failed.
    Rollback,
    /// It goes on, if it had at least 50 requests of each metric, the share of bad ones is under the max, and nothing but too little
    /// traffic (or a stable version that is worse) holds it; else it waits on.
    Advance,
}

/// What follows where there are no data for long.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OnNoData {
    /// How long there have to be no data. Default: 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10s') && duration(self) <= duration('168h')").message("after must be from 10s to 168h"))]
    pub after: Option<Span>,
    /// What is done then.
    pub then: NoData,
}

/// What is done with a step without data. Never that it goes on.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoData {
    /// It waits on, and is reported as stalled.
    Hold,
    /// All traffic goes to stable until there are data of it again.
    Retreat,
    /// The version has failed.
    Rollback,
}

/// Whether a step waits for a person.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    /// The run pauses after this step until somebody promotes it.
    Required,
}

/// Where evidence comes from and what counts as bad.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Analysis {
    /// The length of one interval of the counts, in whole seconds: at least 5s and twice the scrape interval. Default: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('5s') && duration(self) <= duration('1h')").message("interval must be from 5s to 1h"))]
    #[x_kube(validation = Rule::new("duration(self).getMilliseconds() % 1000 == 0").message("interval must be whole seconds"))]
    pub interval: Option<Span>,
    /// The name of a metrics source that the administrator has set up. Default: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub source: Option<String>,
    /// The set of queries, by its name: `contour`, `pods` and others that come with Stepgate, or one that the administrator added. `auto`
    /// goes by the controller that serves the route. Default: `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderName>,
    /// The share of requests that may fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<ErrorRate>,
    /// The share of requests that may be slow. Default: how long requests take is not judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// Further queries in PromQL, each of which gives one number at the end of each interval. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[x_kube(validation = Rule::new("self.map(query, query.query.size()).sum() <= 2000").message("the queries together have at most 2000 characters: they are kept in status"))]
    pub queries: Vec<OwnQuery>,
    /// What follows where a step is neither passed nor failed for long. Default: it holds, and is reported as stalled after
    /// progressDeadline. An edit goes for the run that is under way, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_inconclusive: Option<OnInconclusive>,
    /// What follows where there are no data for long. Default: it holds, and is reported as stalled after progressDeadline. An edit goes
    /// for the run that is under way, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_no_data: Option<OnNoData>,
}

/// How many requests may fail.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ErrorRate {
    /// The tolerated share of bad requests, above 0% and at most 50%, or `auto`: 1.5 times the share that stable had in the hours before
    /// the run, and at least half a point more than it; 1% where it had fewer than 1,000 requests in a day. Default: 1%.
    #[x_kube(validation = Rule::new("self == 'auto' || (double(self.replace('%', '')) > 0.0 && double(self.replace('%', '')) <= 50.0)").message("max must be auto, or above 0% and at most 50%"))]
    pub max: Max,
}

/// How many requests may be slow.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    /// A request that takes longer is slow. It must be a bucket boundary of the histogram that is asked; where it is none, the message
    /// lists those that there are.
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('10m')").message("threshold must be from 1ms to 10m"))]
    pub threshold: Span,
    /// The tolerated share of slow requests, above 0% and at most 50%.
    #[x_kube(validation = Rule::new("double(self.replace('%', '')) > 0.0 && double(self.replace('%', '')) <= 50.0").message("max must be above 0% and at most 50%"))]
    pub max: Share,
}

/// A query of the user's own, and between which bounds its number has to be.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.max) || has(self.min)").message("a query has a max, a min, or both"))]
#[x_kube(validation = Rule::new("!has(self.max) || !has(self.min) || self.min <= self.max").message("min must not be above max"))]
#[x_kube(validation = Rule::new("!(self.name in ['errors', 'latency'])").message("errors and latency are the names of what Stepgate counts itself"))]
pub struct OwnQuery {
    /// What it is called in status, messages and Events.
    #[schemars(length(min = 1, max = 40), regex(pattern = "^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The PromQL: it gives a scalar, or a vector of one series. `${canaryService}`, `${canaryPods}` and the other words of the providers'
    /// templates may stand in it.
    #[schemars(length(min = 1, max = 1000))]
    pub query: String,
    /// The largest number that is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// The smallest number that is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// In so many intervals in a row the number is out of its bounds before the version has failed. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub failure_limit: Option<i32>,
}

impl OwnQuery {
    /// Where the spec does not say how often it may be out of its bounds.
    pub const FAILURE_LIMIT: u32 = 3;

    /// In so many intervals in a row it is out of its bounds before the version has failed.
    pub fn failure_limit(&self) -> u32 {
        let limit = self.failure_limit.and_then(|limit| u32::try_from(limit).ok());
        limit.map_or(Self::FAILURE_LIMIT, |limit| limit.max(1))
    }
}

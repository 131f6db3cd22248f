//! What only a list can tell: read when a decision needs it, and never kept.

use std::collections::BTreeMap;

use serde_json::Value;
use stepgate_crds::{provider::ProviderName, rollout::RouteReference, units::Timestamp};

use super::{OwnedView, RolloutView};
use crate::apart::selector::LabelSelector;

/// What only a list can tell: read when a decision needs it, and never kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Survey {
    /// The Deployment, whole, as read.
    pub workload: Value,
    /// The Deployment that has the canary's name, whoever made it.
    pub canary_workload: Option<OwnedView>,
    /// The Services of the namespace.
    pub services: Vec<ServiceView>,
    /// The NetworkPolicies of the namespace, with the pods that they select.
    pub network_policies: Vec<SelectorView>,
    /// The PodDisruptionBudgets of the namespace, with the pods that they select.
    pub disruption_budgets: Vec<SelectorView>,
    /// The policies of the namespace that name Services. None where their kind is not served.
    pub service_policies: Option<Vec<ServicePolicyView>>,
    /// Those of the claims that the pod template mounts which are there.
    pub volume_claims: Vec<VolumeClaimView>,
    /// The other Rollouts of the namespace.
    pub rollouts: Vec<ClaimView>,
    /// The names of the metrics sources that the administrator set up.
    pub sources: Vec<String>,
    /// Those of the Rollout's own queries that cannot be asked: the name, and why.
    pub refused_queries: Vec<(String, String)>,
    /// The sets of queries that there are, each with the controllers whose gateways it fits.
    pub providers: Vec<ProviderView>,
}

/// A set of queries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderView {
    /// Its name.
    pub name: ProviderName,
    /// The controllerNames that it fits.
    pub controllers: Vec<String>,
    /// Whether it counts the calls of others too, and not the gateway's alone.
    pub counts_all_callers: bool,
    /// Whether its gateway forgets a backend of weight 0.
    pub trickle: bool,
    /// What is taken in its place where it cannot tell the two backends apart.
    pub instead: Option<Instead>,
}

/// A set of queries that takes the place of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instead {
    /// Its name.
    pub provider: ProviderName,
    /// Whether the other is taken all the same where each rule has the stable Service first and the canary's second, each with a filter,
    /// and no rule of other Services has such filters.
    pub unless_filtered: bool,
    /// Why the other cannot tell the backends apart.
    pub why: String,
}

/// A Service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// The value of the label `stepgate.dev/canary-of`.
    pub canary_of: Option<String>,
    /// What it selects by.
    pub selector: BTreeMap<String, String>,
    /// Its spec, as read.
    pub spec: Value,
}

/// Something that selects pods by labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorView {
    /// Its name.
    pub name: String,
    /// The selectors of pods that stand in it, its peers' too.
    pub selectors: Vec<LabelSelector>,
}

/// A policy that names Services and says how a gateway talks to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePolicyView {
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// The Services that it names.
    pub services: Vec<String>,
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeClaimView {
    /// Its name.
    pub name: String,
    /// The access modes that it asks for, and those that its volume has.
    pub access_modes: Vec<String>,
}

/// What another Rollout lays claim to.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimView {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Whether a run of it is under way.
    pub in_run: bool,
    /// The Service that it takes for the stable one.
    pub stable_service: String,
    /// The Service that it makes for a run.
    pub canary_service: String,
    /// The routes whose weights it moves.
    pub routes: Vec<RouteReference>,
}

impl ClaimView {
    /// What a Rollout lays claim to. None where it never found what it names, or has let it go.
    pub fn of(rollout: &RolloutView) -> Option<Self> {
        let found = rollout.status.found.as_ref()?;
        let in_run = rollout.status.run.is_some();
        (in_run || !rollout.is_leaving()).then(|| Self {
            name: rollout.name.clone(),
            created: rollout.created,
            in_run,
            stable_service: found.stable_service.clone(),
            canary_service: found.canary_service.clone(),
            routes: rollout.routes().to_vec(),
        })
    }
}

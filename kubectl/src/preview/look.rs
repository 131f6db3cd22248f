//! What the user may read of the cluster: the objects that preflight goes by, each as the operator would see it, or why it was not read.
//!
//! Reads, and one dry run of the manifest. What could not be read is kept as that, never as if it were not there.

use std::fmt::Display;
use std::time::Duration;

use kube::ResourceExt;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, ValidationDirective};
use serde::Deserialize;
use serde_json::Value;
use stepgate_core::input::{
    ClaimView, OwnedView, ReplicaSetView, RouteView, Seen, SelectorView, ServicePolicyView, ServiceView,
    VolumeClaimView,
};
use stepgate_core::{canary, object, preflight};
use stepgate_crds::Rollout;

use super::manifest::Manifest;
use crate::connect::Connection;

/// How long the first answer of the API server may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was read. A list is none where it could not be.
#[derive(Debug)]
pub(crate) struct Looked {
    /// The Rollout of this name as it is.
    pub(crate) live: Option<Rollout>,
    /// What the API server refuses: the reason, and what it says.
    pub(crate) invalid: Option<(&'static str, String)>,
    /// The Deployment, whole.
    pub(crate) workload: Seen<Value>,
    /// The routes that the spec names.
    pub(crate) routes: Vec<(String, Seen<RouteView>)>,
    /// The Services of the namespace.
    pub(crate) services: Option<Vec<ServiceView>>,
    /// The Deployment's ReplicaSets.
    pub(crate) replica_sets: Option<Vec<ReplicaSetView>>,
    /// The NetworkPolicies of the namespace.
    pub(crate) network_policies: Vec<SelectorView>,
    /// The PodDisruptionBudgets of the namespace.
    pub(crate) disruption_budgets: Vec<SelectorView>,
    /// The BackendTLSPolicies of the namespace; none where the kind is not served or may not be read.
    pub(crate) service_policies: Option<Vec<ServicePolicyView>>,
    /// The claims that the Deployment mounts.
    pub(crate) volume_claims: Vec<VolumeClaimView>,
    /// The Deployment of the canary's name.
    pub(crate) canary_workload: Option<OwnedView>,
    /// What the other Rollouts lay claim to.
    pub(crate) claims: Vec<ClaimView>,
    /// What was not looked at, and why.
    pub(crate) unseen: Vec<String>,
    /// Whether something is among it without which nothing can be said.
    pub(crate) blind: bool,
}

/// An object that was not read.
enum Miss {
    /// It, or its kind, is not there.
    Absent,
    /// Why.
    Unread(String),
}

/// A kind, its group and version.
type Kind = (&'static str, &'static str, &'static str);

const DEPLOYMENT: Kind = ("apps", "v1", "Deployment");
const REPLICA_SET: Kind = ("apps", "v1", "ReplicaSet");
const ROUTE: Kind = ("gateway.networking.k8s.io", "v1", "HTTPRoute");
const SERVICE: Kind = ("", "v1", "Service");
const NETWORK_POLICY: Kind = ("networking.k8s.io", "v1", "NetworkPolicy");
const DISRUPTION_BUDGET: Kind = ("policy", "v1", "PodDisruptionBudget");
const TLS_POLICY: Kind = ("gateway.networking.k8s.io", "v1", "BackendTLSPolicy");
const VOLUME_CLAIM: Kind = ("", "v1", "PersistentVolumeClaim");
const ROLLOUT: Kind = ("stepgate.dev", "v1alpha1", "Rollout");

impl Looked {
    /// Where there is no cluster.
    pub(crate) fn nowhere(why: &str) -> Self {
        Self {
            live: None,
            invalid: None,
            workload: Seen::Unknown(why.to_owned()),
            routes: Vec::new(),
            services: None,
            replica_sets: None,
            network_policies: Vec::new(),
            disruption_budgets: Vec::new(),
            service_policies: None,
            volume_claims: Vec::new(),
            canary_workload: None,
            claims: Vec::new(),
            unseen: vec![format!(
                "the cluster ({why}): Deployment, Services, routes and all else of preflight"
            )],
            blind: true,
        }
    }

    /// At what this Rollout names.
    pub(crate) async fn at(connection: &Connection, manifest: &Manifest) -> Self {
        let rollout = &manifest.rollout;
        let eye = Eye {
            connection,
            namespace: rollout.namespace().unwrap_or_default(),
        };
        let name = rollout.name_any();
        let first = tokio::time::timeout(PATIENCE, eye.get(ROLLOUT, &name)).await;
        let mut looked = Self::nowhere("");
        looked.unseen.clear();
        looked.blind = false;
        match first {
            Err(_) => return Self::nowhere(&format!("it did not answer within {} s", PATIENCE.as_secs())),
            Ok(Err(Miss::Unread(why))) if why.starts_with(UNREACHABLE) => return Self::nowhere(&why),
            Ok(Err(Miss::Unread(why))) => looked.miss(format!("Rollout {name}"), why),
            Ok(Err(Miss::Absent)) => {}
            Ok(Ok(object)) => match Rollout::deserialize(&object) {
                Ok(rollout) => looked.live = Some(rollout),
                Err(error) => looked.miss(format!("Rollout {name}"), error),
            },
        }
        looked.check(&eye, manifest).await;
        looked.objects(&eye, rollout).await;
        looked.lists(&eye, rollout).await;
        looked
    }

    fn miss(&mut self, what: impl Display, why: impl Display) {
        self.unseen.push(format!("{what}: {why}"));
    }

    /// Asks the API server to check the manifest.
    async fn check(&mut self, eye: &Eye<'_>, manifest: &Manifest) {
        let parameters = PatchParams {
            field_validation: Some(ValidationDirective::Strict),
            ..PatchParams::apply("kubectl-stepgate-preview").dry_run().force()
        };
        let name = manifest.rollout.name_any();
        let answer = eye
            .api(ROLLOUT)
            .patch(&name, &parameters, &Patch::Apply(&manifest.raw))
            .await;
        match answer {
            Ok(_) => {}
            Err(kube::Error::Api(status))
                if status.code == 404 && matches!(eye.list(ROLLOUT).await, Err(Miss::Absent)) =>
            {
                let message = "this cluster has no kind Rollout: Stepgate is not installed there (helm install stepgate charts/stepgate)";
                self.invalid = Some(("NotInstalled", message.to_owned()));
            }
            Err(kube::Error::Api(status)) if [400, 404, 422].contains(&status.code) => {
                self.invalid = Some(("Invalid", status.message.clone()));
            }
            Err(error) => self.miss("the schema's rules (a dry run checks them)", said(&error)),
        }
    }

    /// The Deployment, the canary's, and the routes.
    async fn objects(&mut self, eye: &Eye<'_>, rollout: &Rollout) {
        let name = &rollout.spec.workload.name;
        self.workload = match eye.get(DEPLOYMENT, name).await {
            Ok(object) => Seen::At(object),
            Err(Miss::Absent) => Seen::Absent,
            Err(Miss::Unread(why)) => {
                self.miss(format!("Deployment {name}"), &why);
                self.blind = true;
                Seen::Unknown(why)
            }
        };
        let canary = canary::name(name);
        match eye.get(DEPLOYMENT, &canary).await {
            Ok(object) => self.canary_workload = Some(object::owned(&object)),
            Err(Miss::Absent) => {}
            Err(Miss::Unread(why)) => self.miss(format!("Deployment {canary}"), why),
        }
        for reference in &rollout.spec.traffic.routes {
            let name = reference.name.clone();
            let seen = match eye.get(ROUTE, &name).await {
                Ok(object) => Seen::At(object::route(&object)),
                Err(Miss::Absent) => Seen::Absent,
                Err(Miss::Unread(why)) => {
                    self.miss(format!("HTTPRoute {name}"), &why);
                    self.blind = true;
                    Seen::Unknown(why)
                }
            };
            self.routes.push((name, seen));
        }
    }

    /// What only a list can tell.
    async fn lists(&mut self, eye: &Eye<'_>, rollout: &Rollout) {
        self.services = self.list(eye, SERVICE, "Services", object::service).await;
        self.blind |= self.services.is_none();
        let sets = self.list(eye, REPLICA_SET, "ReplicaSets", object::replica_set).await;
        let uid = self.workload.get().and_then(|object| object.pointer("/metadata/uid"));
        let uid = uid.and_then(Value::as_str).map(str::to_owned);
        self.replica_sets = sets.map(|sets| sets.into_iter().filter(|set| set.owner == uid).collect());
        let policies = self.list(eye, NETWORK_POLICY, "NetworkPolicies", object::network_policy);
        self.network_policies = policies.await.unwrap_or_default();
        let budgets = self.list(
            eye,
            DISRUPTION_BUDGET,
            "PodDisruptionBudgets",
            object::disruption_budget,
        );
        self.disruption_budgets = budgets.await.unwrap_or_default();
        let policies = self.list(eye, TLS_POLICY, "BackendTLSPolicies", object::backend_tls_policy);
        self.service_policies = policies.await;
        let claims: Vec<String> = self
            .workload
            .get()
            .into_iter()
            .flat_map(preflight::claims)
            .map(str::to_owned)
            .collect();
        for claim in claims {
            match eye.get(VOLUME_CLAIM, &claim).await {
                Ok(object) => self.volume_claims.push(object::volume_claim(&object)),
                Err(Miss::Absent) => {}
                Err(Miss::Unread(why)) => {
                    self.miss(format!("PersistentVolumeClaim {claim}"), why);
                    // Without it preflight would take it for one that does not exist.
                    self.blind = true;
                }
            }
        }
        let own = rollout.name_any();
        let others = self.list(eye, ROLLOUT, "the other Rollouts", Value::clone).await;
        for other in others.into_iter().flatten() {
            match Rollout::deserialize(&other) {
                Ok(other) if other.name_any() != own => {
                    self.claims.extend(ClaimView::of(&object::rollout(&other)));
                }
                Ok(_) => {}
                Err(error) => {
                    let name = object::owned(&other).name;
                    self.miss(format!("Rollout {name}"), error);
                }
            }
        }
        self.claims
            .sort_by(|one, other| (one.created, &one.name).cmp(&(other.created, &other.name)));
    }

    /// All of a kind in the namespace; none where it is not served, and where it may not be read, which is noted.
    async fn list<V>(&mut self, eye: &Eye<'_>, kind: Kind, words: &str, view: fn(&Value) -> V) -> Option<Vec<V>> {
        match eye.list(kind).await {
            Ok(objects) => Some(objects.iter().map(view).collect()),
            Err(Miss::Absent) if kind == TLS_POLICY => None,
            Err(Miss::Absent) => {
                self.miss(words, "their kind is not served");
                None
            }
            Err(Miss::Unread(why)) => {
                self.miss(words, why);
                None
            }
        }
    }
}

/// How a failure begins where no answer came.
const UNREACHABLE: &str = "no answer";

/// Reads in one namespace.
struct Eye<'c> {
    connection: &'c Connection,
    namespace: String,
}

impl Eye<'_> {
    fn api(&self, kind: Kind) -> kube::Api<DynamicObject> {
        self.connection.objects(kind, &self.namespace)
    }

    async fn get(&self, kind: Kind, name: &str) -> Result<Value, Miss> {
        let found = self.api(kind).get(name).await.map_err(|error| miss(&error))?;
        serde_json::to_value(found).map_err(|error| Miss::Unread(error.to_string()))
    }

    async fn list(&self, kind: Kind) -> Result<Vec<Value>, Miss> {
        let found = self.api(kind).list(&ListParams::default()).await;
        let found = found.map_err(|error| miss(&error))?;
        let objects = found.items.into_iter().map(serde_json::to_value);
        objects
            .collect::<Result<_, _>>()
            .map_err(|error| Miss::Unread(error.to_string()))
    }
}

fn miss(error: &kube::Error) -> Miss {
    match error {
        // A group that is not served is answered in plain text, without a reason.
        kube::Error::Api(status) if status.code == 404 => Miss::Absent,
        other => Miss::Unread(said(other)),
    }
}

/// What an error means for the reader.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.is_forbidden() => {
            format!("you may not: {}", status.message)
        }
        kube::Error::Api(status) => status.message.clone(),
        other => format!("{UNREACHABLE}: {other}"),
    }
}

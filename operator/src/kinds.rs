//! Narrow types of the foreign objects that we watch: metadata without managed fields, and the view that decisions read.
//!
//! Read only. They take in any JSON that the API server lets through: a field that is missing or of another kind reads as if it were
//! not there, so that one strange object never stops a watch. They are never serialised, for they have lost most of what they read.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;
use serde_json::Value;
use stepgate_core::{
    apart::string_map,
    input::{
        OwnedView, ReplicaSetView, RouteView, SelectorView, ServicePolicyView, ServiceView, TemplateView,
        VolumeClaimView, WorkloadView,
    },
    template::digest,
};
use stepgate_crds::names;

mod policy;
mod route;

/// Any object: its metadata and everything beside it.
#[derive(Deserialize)]
pub(crate) struct Raw {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(flatten)]
    body: BTreeMap<String, Value>,
}

impl Raw {
    /// What of the metadata is kept: a manifest of some megabytes in an annotation is the user's to keep, not ours to hold.
    fn metadata(&self) -> ObjectMeta {
        ObjectMeta {
            managed_fields: None,
            annotations: None,
            owner_references: None,
            ..self.metadata.clone()
        }
    }

    fn body(&self, field: &str) -> Value {
        self.body.get(field).cloned().unwrap_or_default()
    }

    /// The field manager, besides us, that wrote into its spec last.
    fn changed_by(&self) -> Option<String> {
        let entries = self.metadata.managed_fields.iter().flatten();
        let others = entries.filter(|entry| {
            let in_spec = entry
                .fields_v1
                .as_ref()
                .is_some_and(|fields| fields.0.get("f:spec").is_some());
            in_spec && entry.manager.as_deref() != Some(names::MANAGER)
        });
        let last = others.max_by_key(|entry| entry.time.as_ref().map(|time| time.0))?;
        last.manager.clone()
    }

    fn label(&self, key: &str) -> Option<String> {
        self.metadata.labels.as_ref()?.get(key).cloned()
    }

    fn annotation(&self, key: &str) -> Option<String> {
        self.metadata.annotations.as_ref()?.get(key).cloned()
    }

    fn name(&self) -> String {
        self.metadata.name.clone().unwrap_or_default()
    }

    fn uid(&self) -> String {
        self.metadata.uid.clone().unwrap_or_default()
    }

    fn version(&self) -> String {
        self.metadata.resource_version.clone().unwrap_or_default()
    }
}

/// A watched type: metadata and a view.
macro_rules! narrow {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $group:literal, $version:literal, $plural:literal, $view:ty) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize)]
        #[serde(from = "Raw")]
        pub struct $name {
            /// Its metadata, without managed fields.
            pub metadata: ObjectMeta,
            /// What decisions read of it.
            pub view: $view,
        }

        impl Resource for $name {
            type DynamicType = ();
            type Scope = kube::core::NamespaceResourceScope;

            fn kind((): &()) -> std::borrow::Cow<'_, str> {
                $kind.into()
            }
            fn group((): &()) -> std::borrow::Cow<'_, str> {
                $group.into()
            }
            fn version((): &()) -> std::borrow::Cow<'_, str> {
                $version.into()
            }
            fn plural((): &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

narrow!(/** A Deployment. */ Deployment, "Deployment", "apps", "v1", "deployments", WorkloadView);
narrow!(/** A ReplicaSet. */ ReplicaSet, "ReplicaSet", "apps", "v1", "replicasets", ReplicaSetView);
narrow!(/** A Service that Stepgate made. */ OwnedService, "Service", "", "v1", "services", OwnedView);
narrow!(/** A Service of anybody's. */ Service, "Service", "", "v1", "services", ServiceView);
narrow!(/** A recorded PodTemplate. */ PodTemplate, "PodTemplate", "", "v1", "podtemplates", TemplateView);
narrow!(/** A recorded PodTemplate, whole. */ WholeTemplate, "PodTemplate", "", "v1", "podtemplates", TemplateBody);
narrow!(/** A HTTPRoute. */ HttpRoute, "HTTPRoute", "gateway.networking.k8s.io", "v1", "httproutes", RouteView);
narrow!(/** An EndpointSlice. */ EndpointSlice, "EndpointSlice", "discovery.k8s.io", "v1", "endpointslices", EndpointsView);
narrow!(/** A Pod. */ Pod, "Pod", "", "v1", "pods", PodView);
narrow!(/** A NetworkPolicy. */ NetworkPolicy, "NetworkPolicy", "networking.k8s.io", "v1", "networkpolicies", SelectorView);
narrow!(/** A PodDisruptionBudget. */ DisruptionBudget, "PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets", SelectorView);
narrow!(/** A BackendTLSPolicy. */ BackendTlsPolicy, "BackendTLSPolicy", "gateway.networking.k8s.io", "v1", "backendtlspolicies", ServicePolicyView);
narrow!(/** A PersistentVolumeClaim. */ VolumeClaim, "PersistentVolumeClaim", "", "v1", "persistentvolumeclaims", VolumeClaimView);

/// The ready addresses of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointsView {
    /// The Service.
    pub service: Option<String>,
    /// Its ready endpoints, by pod name (or address where there is no pod).
    pub ready: Vec<String>,
}

/// A pod template as read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TemplateBody(pub Value);

/// The restarts of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodView {
    /// The run it belongs to.
    pub run: Option<String>,
    /// When it started, in Unix seconds.
    pub started: Option<i64>,
    /// How often its application containers ended with an error.
    pub error_exits: u32,
}

impl From<Raw> for Deployment {
    fn from(raw: Raw) -> Self {
        let (spec, status) = (raw.body("spec"), raw.body("status"));
        let template = spec.get("template").cloned().unwrap_or_default();
        let view = WorkloadView {
            name: raw.name(),
            uid: raw.uid(),
            version: raw.version(),
            generation: raw.metadata.generation.unwrap_or(0),
            observed_generation: status.get("observedGeneration").and_then(Value::as_i64).unwrap_or(0),
            paused: spec.get("paused").and_then(Value::as_bool).unwrap_or(false),
            annotated: raw.metadata.annotations.is_some(),
            hold: raw.annotation(names::HOLD),
            rollout: raw.label(names::ROLLOUT),
            run: string_map(template.pointer("/metadata/labels")).remove(names::RUN),
            template: digest(&template),
            replicas: count(&spec, "replicas").unwrap_or(1),
            current: count(&status, "replicas").unwrap_or(0),
            updated: count(&status, "updatedReplicas").unwrap_or(0),
            available: count(&status, "availableReplicas").unwrap_or(0),
        };
        Self {
            metadata: raw.metadata(),
            view,
        }
    }
}

impl From<Raw> for ReplicaSet {
    fn from(raw: Raw) -> Self {
        let owner = raw
            .metadata
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.controller == Some(true));
        let view = ReplicaSetView {
            name: raw.name(),
            uid: raw.uid(),
            owner: owner.map(|owner| owner.uid.clone()),
            replicas: count(&raw.body("status"), "replicas").unwrap_or(0),
            wanted: count(&raw.body("spec"), "replicas").unwrap_or(1),
            template: raw.body("spec").get("template").cloned().unwrap_or_default(),
        };
        Self {
            metadata: raw.metadata(),
            view,
        }
    }
}

impl From<Raw> for OwnedService {
    fn from(raw: Raw) -> Self {
        let view = OwnedView {
            name: raw.name(),
            uid: raw.uid(),
            canary_of: raw.label(names::CANARY_OF),
            run: raw.label(names::RUN),
        };
        Self {
            metadata: raw.metadata(),
            view,
        }
    }
}

impl From<Raw> for Service {
    fn from(raw: Raw) -> Self {
        let spec = raw.body("spec");
        let view = ServiceView {
            name: raw.name(),
            canary_of: raw.label(names::CANARY_OF),
            selector: string_map(spec.get("selector")),
            spec,
        };
        Self {
            metadata: raw.metadata(),
            view,
        }
    }
}

impl From<Raw> for PodTemplate {
    fn from(raw: Raw) -> Self {
        let view = TemplateView {
            uid: raw.uid(),
            digest: digest(&raw.body("template")),
        };
        Self {
            metadata: raw.metadata(),
            view,
        }
    }
}

impl From<Raw> for WholeTemplate {
    fn from(raw: Raw) -> Self {
        Self {
            view: TemplateBody(raw.body("template")),
            metadata: raw.metadata(),
        }
    }
}

impl From<Raw> for EndpointSlice {
    fn from(raw: Raw) -> Self {
        let endpoints = raw.body("endpoints");
        let ready = endpoints.as_array().into_iter().flatten().filter_map(|endpoint| {
            // A Service that publishes addresses before they are ready calls them all ready: whether they serve is said beside it.
            let is = |condition: &str| endpoint.pointer(condition).and_then(Value::as_bool).unwrap_or(true);
            let ready = is("/conditions/ready") && is("/conditions/serving");
            let name = endpoint
                .pointer("/targetRef/name")
                .or_else(|| endpoint.pointer("/addresses/0"))?;
            ready.then(|| name.as_str().map(str::to_owned)).flatten()
        });
        let view = EndpointsView {
            service: raw.label("kubernetes.io/service-name"),
            ready: ready.collect(),
        };
        Self {
            metadata: raw.metadata(),
            view,
        }
    }
}

impl From<Raw> for Pod {
    fn from(raw: Raw) -> Self {
        let status = raw.body("status");
        let started = text(&status, "startTime")
            .and_then(|time| time.parse::<jiff::Timestamp>().ok())
            .map(jiff::Timestamp::as_second);
        let error_exits = items(&status, "containerStatuses")
            .map(error_exits)
            .fold(0, u32::saturating_add);
        let view = PodView {
            run: raw.label(names::RUN),
            started,
            error_exits,
        };
        Self {
            metadata: raw.metadata(),
            view,
        }
    }
}

/// How often a container ended with an error: its restarts, where the last end that is known was one.
fn error_exits(container: &Value) -> u32 {
    let code = |path: &str| container.pointer(path).and_then(Value::as_i64);
    let last = code("/state/terminated/exitCode").or_else(|| code("/lastState/terminated/exitCode"));
    let restarts = container
        .get("restartCount")
        .and_then(Value::as_u64)
        .and_then(|count| u32::try_from(count).ok());
    if last.is_some_and(|code| code != 0) {
        restarts.unwrap_or(0).max(1)
    } else {
        0
    }
}

fn items<'v>(value: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

fn text(value: &Value, field: &str) -> Option<String> {
    value.get(field).and_then(Value::as_str).map(str::to_owned)
}

fn count(value: &Value, field: &str) -> Option<i32> {
    value
        .get(field)
        .and_then(Value::as_i64)
        .map(|count| i32::try_from(count.max(0)).unwrap_or(i32::MAX))
}

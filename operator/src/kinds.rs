//! Narrow types of the foreign objects that we watch: metadata without managed fields, and the view that decisions read.
//!
//! Read only. They take in any JSON whatever: a field that is missing or of another kind reads as if it were not there, so that one
//! strange object never stops a watch. What is kept of an object is bounded. They are never serialised, for they have lost most of what
//! they read. A Rollout, which is read strictly, has a guard of its own in [`rollout`].

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;
use serde_json::Value;
use stepgate_core::{
    input::{
        OwnedView, ReplicaSetView, RouteView, SelectorView, ServicePolicyView, ServiceView, TemplateView,
        VolumeClaimView, WorkloadView,
    },
    object::{self, bounded, items, text},
    template::digest,
};
use stepgate_crds::names;

pub mod rollout;

/// The labels by which objects are found; no other is kept.
const LABELS: [&str; 4] = [names::CANARY_OF, names::TEMPLATE_OF, names::ROLLOUT, names::RUN];

/// Any object, as read.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Raw(Value);

impl Raw {
    /// What of the metadata is kept: a manifest of some megabytes in an annotation is the user's to keep, not ours to hold.
    fn metadata(&self) -> ObjectMeta {
        let kept = LABELS
            .into_iter()
            .filter_map(|key| Some((key.to_owned(), self.label(key)?)));
        ObjectMeta {
            name: self.meta("name"),
            namespace: self.meta("namespace"),
            uid: self.meta("uid"),
            resource_version: self.meta("resourceVersion"),
            labels: Some(kept.collect()),
            ..ObjectMeta::default()
        }
    }

    fn body(&self, field: &str) -> &Value {
        self.0.get(field).unwrap_or(&Value::Null)
    }

    fn meta(&self, field: &str) -> Option<String> {
        text(self.body("metadata"), field)
    }

    fn label(&self, key: &str) -> Option<String> {
        text(self.body("metadata").get("labels")?, key)
    }

    fn name(&self) -> String {
        self.meta("name").unwrap_or_default()
    }

    fn uid(&self) -> String {
        self.meta("uid").unwrap_or_default()
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

/// Those whose view the core makes of the JSON.
macro_rules! projected {
    ($($name:ident by $projection:path),+ $(,)?) => {$(
        impl From<Raw> for $name {
            fn from(raw: Raw) -> Self {
                Self {
                    metadata: raw.metadata(),
                    view: $projection(&raw.0),
                }
            }
        }
    )+};
}

projected!(
    Deployment by object::workload,
    ReplicaSet by object::replica_set,
    OwnedService by object::owned,
    Service by object::service,
    HttpRoute by object::route,
    NetworkPolicy by object::network_policy,
    DisruptionBudget by object::disruption_budget,
    BackendTlsPolicy by object::backend_tls_policy,
    VolumeClaim by object::volume_claim,
);

impl From<Raw> for PodTemplate {
    fn from(raw: Raw) -> Self {
        let view = TemplateView {
            uid: raw.uid(),
            digest: digest(raw.body("template")),
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
            view: TemplateBody(raw.body("template").clone()),
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
            ready.then(|| name.as_str().map(bounded)).flatten()
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
        let started = text(status, "startTime")
            .and_then(|time| time.parse::<jiff::Timestamp>().ok())
            .map(jiff::Timestamp::as_second);
        let error_exits = items(status, "containerStatuses")
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

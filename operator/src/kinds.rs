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
    apart::string_map,
    input::{
        OwnedView, ReplicaSetView, RouteView, SelectorView, ServicePolicyView, ServiceView, TemplateView,
        VolumeClaimView, WorkloadView,
    },
    template::digest,
};
use stepgate_crds::names;

mod policy;
pub mod rollout;
mod route;

/// The labels by which objects are found; no other is kept.
const LABELS: [&str; 4] = [names::CANARY_OF, names::TEMPLATE_OF, names::ROLLOUT, names::RUN];
/// Longest text that is kept of an object: longer than any name.
const LONGEST_TEXT: usize = 512;
/// Longest mark of a run, and how many of them are read of a route: more than Rollouts ever share one.
const LONGEST_MARK: usize = 128;
const MOST_MARKS: usize = 64;

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

    fn generation(&self) -> i64 {
        self.body("metadata")
            .get("generation")
            .and_then(Value::as_i64)
            .unwrap_or(0)
    }

    fn is_annotated(&self) -> bool {
        self.body("metadata").get("annotations").is_some_and(Value::is_object)
    }

    /// The field manager, besides us, that wrote into its spec last.
    fn changed_by(&self) -> Option<String> {
        let others = items(self.body("metadata"), "managedFields").filter(|entry| {
            let in_spec = entry.pointer("/fieldsV1/f:spec").is_some();
            in_spec && entry.get("manager").and_then(Value::as_str) != Some(names::MANAGER)
        });
        let last = others.max_by_key(|entry| text(entry, "time")?.parse::<jiff::Timestamp>().ok())?;
        text(last, "manager")
    }

    fn label(&self, key: &str) -> Option<String> {
        text(self.body("metadata").get("labels")?, key)
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.body("metadata").get("annotations")?.get(key)?.as_str()
    }

    /// The marks of runs on a route, the last of them (ours is put last) where there are more than any Rollouts put there.
    fn marks(&self) -> Option<String> {
        let written = self.annotation(names::RUN)?;
        let mut marks: Vec<&str> = written
            .split_whitespace()
            .rev()
            .filter(|mark| mark.len() <= LONGEST_MARK)
            .take(MOST_MARKS)
            .collect();
        marks.reverse();
        Some(marks.join(" "))
    }

    fn name(&self) -> String {
        self.meta("name").unwrap_or_default()
    }

    fn uid(&self) -> String {
        self.meta("uid").unwrap_or_default()
    }

    fn version(&self) -> String {
        self.meta("resourceVersion").unwrap_or_default()
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
        let template = spec.get("template").unwrap_or(&Value::Null);
        let view = WorkloadView {
            name: raw.name(),
            uid: raw.uid(),
            version: raw.version(),
            generation: raw.generation(),
            observed_generation: status.get("observedGeneration").and_then(Value::as_i64).unwrap_or(0),
            paused: spec.get("paused").and_then(Value::as_bool).unwrap_or(false),
            annotated: raw.is_annotated(),
            hold: raw.annotation(names::HOLD).map(bounded),
            rollout: raw.label(names::ROLLOUT),
            run: template
                .pointer("/metadata/labels")
                .and_then(|labels| text(labels, names::RUN)),
            template: digest(template),
            replicas: count(spec, "replicas").unwrap_or(1),
            current: count(status, "replicas").unwrap_or(0),
            updated: count(status, "updatedReplicas").unwrap_or(0),
            available: count(status, "availableReplicas").unwrap_or(0),
        };
        Self {
            metadata: raw.metadata(),
            view,
        }
    }
}

impl From<Raw> for ReplicaSet {
    fn from(raw: Raw) -> Self {
        let owner = items(raw.body("metadata"), "ownerReferences")
            .find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true));
        let view = ReplicaSetView {
            name: raw.name(),
            uid: raw.uid(),
            owner: owner.and_then(|owner| text(owner, "uid")),
            replicas: count(raw.body("status"), "replicas").unwrap_or(0),
            wanted: count(raw.body("spec"), "replicas").unwrap_or(1),
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
            spec: spec.clone(),
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

fn items<'v>(value: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

fn text(value: &Value, field: &str) -> Option<String> {
    value.get(field).and_then(Value::as_str).map(bounded)
}

/// A text as far as it is kept. Whatever we compare with is shorter.
fn bounded(text: &str) -> String {
    text.get(..text.floor_char_boundary(LONGEST_TEXT))
        .unwrap_or_default()
        .to_owned()
}

fn count(value: &Value, field: &str) -> Option<i32> {
    value
        .get(field)
        .and_then(Value::as_i64)
        .map(|count| i32::try_from(count.max(0)).unwrap_or(i32::MAX))
}

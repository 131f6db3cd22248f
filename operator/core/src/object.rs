//! What decisions read of foreign objects, whoever has read them from the API server: the operator, and the plugin with its user's rights.
//!
//! Pure and total. Any JSON whatever: a field that is missing or of another kind reads as if it were not there. What is kept is bounded.

use serde_json::Value;
use stepgate_crds::{Rollout, names, units::Timestamp};

use crate::{
    apart::{
        selector::{of_disruption_budget, of_network_policy},
        string_map,
    },
    input::{
        OwnedView, ParentView, ReplicaSetView, RolloutView, RouteView, RuleView, SelectorView, ServicePolicyView,
        ServiceView, VolumeClaimView, WorkloadView,
    },
    template::digest,
};

/// Longest text that is kept of an object: longer than any name.
const LONGEST_TEXT: usize = 512;
/// Longest mark of a run, and how many of them are read of a route: more than Rollouts ever share one.
const LONGEST_MARK: usize = 128;
const MOST_MARKS: usize = 64;

/// A Rollout. A command is not read: it is a person's word to the operator.
pub fn rollout(rollout: &Rollout) -> RolloutView {
    let metadata = &rollout.metadata;
    let finalizers = metadata.finalizers.clone().unwrap_or_default();
    RolloutView {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        version: metadata.resource_version.clone().unwrap_or_default(),
        generation: metadata.generation.unwrap_or(0),
        created: metadata
            .creation_timestamp
            .as_ref()
            .map_or(Timestamp::from_millis(0), |created| Timestamp::from(created.0)),
        deleting: metadata.deletion_timestamp.is_some(),
        finalizer: finalizers.iter().any(|name| name == names::FINALIZER),
        finalizers,
        command: None,
        spec: rollout.spec.clone(),
        status: rollout.status.clone().unwrap_or_default(),
    }
}

/// A Deployment.
pub fn workload(object: &Value) -> WorkloadView {
    let (spec, status) = (body(object, "spec"), body(object, "status"));
    let template = spec.get("template").unwrap_or(&Value::Null);
    WorkloadView {
        name: name(object),
        uid: uid(object),
        version: version(object),
        generation: generation(object),
        observed_generation: status.get("observedGeneration").and_then(Value::as_i64).unwrap_or(0),
        paused: spec.get("paused").and_then(Value::as_bool).unwrap_or(false),
        annotated: is_annotated(object),
        hold: annotation(object, names::HOLD).map(bounded),
        rollout: label(object, names::ROLLOUT),
        run: template
            .pointer("/metadata/labels")
            .and_then(|labels| text(labels, names::RUN)),
        template: digest(template),
        replicas: count(spec, "replicas").unwrap_or(1),
        current: count(status, "replicas").unwrap_or(0),
        updated: count(status, "updatedReplicas").unwrap_or(0),
        available: count(status, "availableReplicas").unwrap_or(0),
    }
}

/// A ReplicaSet.
pub fn replica_set(object: &Value) -> ReplicaSetView {
    let owner = items(body(object, "metadata"), "ownerReferences")
        .find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true));
    ReplicaSetView {
        name: name(object),
        uid: uid(object),
        owner: owner.and_then(|owner| text(owner, "uid")),
        replicas: count(body(object, "status"), "replicas").unwrap_or(0),
        wanted: count(body(object, "spec"), "replicas").unwrap_or(1),
        template: body(object, "spec").get("template").cloned().unwrap_or_default(),
    }
}

/// An object that Stepgate may have made.
pub fn owned(object: &Value) -> OwnedView {
    OwnedView {
        name: name(object),
        uid: uid(object),
        canary_of: label(object, names::CANARY_OF),
        run: label(object, names::RUN),
    }
}

/// A Service.
pub fn service(object: &Value) -> ServiceView {
    let spec = body(object, "spec");
    ServiceView {
        name: name(object),
        canary_of: label(object, names::CANARY_OF),
        selector: string_map(spec.get("selector")),
        spec: spec.clone(),
    }
}

/// A NetworkPolicy: whom it selects.
pub fn network_policy(object: &Value) -> SelectorView {
    SelectorView {
        name: name(object),
        selectors: of_network_policy(body(object, "spec")),
    }
}

/// A PodDisruptionBudget: whom it selects.
pub fn disruption_budget(object: &Value) -> SelectorView {
    SelectorView {
        name: name(object),
        selectors: of_disruption_budget(body(object, "spec")),
    }
}

/// A BackendTLSPolicy: which Services it names.
pub fn backend_tls_policy(object: &Value) -> ServicePolicyView {
    let services = items(body(object, "spec"), "targetRefs")
        .filter(|target| text(target, "kind").as_deref() == Some("Service"))
        .filter_map(|target| text(target, "name"));
    ServicePolicyView {
        kind: "BackendTLSPolicy",
        name: name(object),
        services: services.collect(),
    }
}

/// A PersistentVolumeClaim: how it may be mounted.
pub fn volume_claim(object: &Value) -> VolumeClaimView {
    let modes = [body(object, "spec"), body(object, "status")];
    let mut access_modes: Vec<String> = modes
        .iter()
        .flat_map(|part| items(part, "accessModes"))
        .filter_map(|mode| mode.as_str().map(bounded))
        .collect();
    access_modes.sort();
    access_modes.dedup();
    VolumeClaimView {
        name: name(object),
        access_modes,
    }
}

/// An HTTPRoute: its rules as they are, and what each parent says of it.
pub fn route(object: &Value) -> RouteView {
    let (spec, status) = (body(object, "spec"), body(object, "status"));
    let namespace = text(body(object, "metadata"), "namespace").unwrap_or_default();
    let rules = items(spec, "rules").map(|rule| RuleView {
        name: text(rule, "name"),
        backend_refs: items(rule, "backendRefs").cloned().collect(),
    });
    RouteView {
        name: name(object),
        uid: uid(object),
        version: version(object),
        generation: generation(object),
        annotated: is_annotated(object),
        run: marks(object),
        changed_by: changed_by(object),
        parent_refs: items(spec, "parentRefs")
            .map(|reference| parent_name(reference, &namespace))
            .collect(),
        rules: rules.collect(),
        parents: items(status, "parents")
            .map(|parent| parent_view(parent, &namespace))
            .collect(),
    }
}

/// What a parent says of a route: accepted where both conditions are true, at the older of their generations.
fn parent_view(parent: &Value, namespace: &str) -> ParentView {
    let name = parent_name(parent.get("parentRef").unwrap_or(&Value::Null), namespace);
    let condition =
        |kind: &str| items(parent, "conditions").find(|condition| text(condition, "type").as_deref() == Some(kind));
    let holds =
        |kind: &str| condition(kind).is_some_and(|condition| text(condition, "status").as_deref() == Some("True"));
    let mut accepted = Some(i64::MAX);
    let mut message = String::new();
    for kind in ["Accepted", "ResolvedRefs"] {
        let condition = condition(kind);
        if holds(kind) {
            let generation = condition
                .and_then(|condition| condition.get("observedGeneration"))
                .and_then(Value::as_i64);
            accepted = accepted.and_then(|oldest| Some(oldest.min(generation?)));
        } else {
            accepted = None;
            if message.is_empty() {
                message = condition.map_or_else(
                    || format!("it does not report {kind}"),
                    |condition| {
                        format!(
                            "{kind} is {}: {}",
                            text(condition, "status").unwrap_or_default(),
                            text(condition, "message").unwrap_or_default()
                        )
                    },
                );
            }
        }
    }
    ParentView {
        parent: name,
        controller: text(parent, "controllerName").unwrap_or_default(),
        accepted,
        lacks_backend: holds("Accepted")
            && condition("ResolvedRefs").is_some_and(|refs| text(refs, "reason").as_deref() == Some("BackendNotFound")),
        message,
    }
}

/// A parent as `namespace/name` with section and port where given.
fn parent_name(reference: &Value, namespace: &str) -> String {
    let mut name = format!(
        "{}/{}",
        text(reference, "namespace").unwrap_or_else(|| namespace.to_owned()),
        text(reference, "name").unwrap_or_default()
    );
    if let Some(section) = text(reference, "sectionName") {
        name = format!("{name}/{section}");
    }
    if let Some(port) = reference.get("port").and_then(Value::as_i64) {
        name = format!("{name}:{port}");
    }
    name
}

/// The field manager, besides us, that wrote into its spec last.
fn changed_by(object: &Value) -> Option<String> {
    let others = items(body(object, "metadata"), "managedFields").filter(|entry| {
        let in_spec = entry.pointer("/fieldsV1/f:spec").is_some();
        in_spec && entry.get("manager").and_then(Value::as_str) != Some(names::MANAGER)
    });
    let last = others.max_by_key(|entry| text(entry, "time")?.parse::<jiff::Timestamp>().ok())?;
    text(last, "manager")
}

/// The marks of runs on a route, the last of them (ours is put last) where there are more than any Rollouts put there.
fn marks(object: &Value) -> Option<String> {
    let written = annotation(object, names::RUN)?;
    let mut marks: Vec<&str> = written
        .split_whitespace()
        .rev()
        .filter(|mark| mark.len() <= LONGEST_MARK)
        .take(MOST_MARKS)
        .collect();
    marks.reverse();
    Some(marks.join(" "))
}

fn body<'v>(object: &'v Value, field: &str) -> &'v Value {
    object.get(field).unwrap_or(&Value::Null)
}

fn meta(object: &Value, field: &str) -> String {
    text(body(object, "metadata"), field).unwrap_or_default()
}

fn name(object: &Value) -> String {
    meta(object, "name")
}

fn uid(object: &Value) -> String {
    meta(object, "uid")
}

fn version(object: &Value) -> String {
    meta(object, "resourceVersion")
}

fn generation(object: &Value) -> i64 {
    body(object, "metadata")
        .get("generation")
        .and_then(Value::as_i64)
        .unwrap_or(0)
}

fn is_annotated(object: &Value) -> bool {
    body(object, "metadata")
        .get("annotations")
        .is_some_and(Value::is_object)
}

fn label(object: &Value, key: &str) -> Option<String> {
    text(body(object, "metadata").get("labels")?, key)
}

fn annotation<'v>(object: &'v Value, key: &str) -> Option<&'v str> {
    body(object, "metadata").get("annotations")?.get(key)?.as_str()
}

/// The items of a list; none where it is no list.
pub fn items<'v>(value: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

/// A text as far as it is kept; none where it is no text.
pub fn text(value: &Value, field: &str) -> Option<String> {
    value.get(field).and_then(Value::as_str).map(bounded)
}

/// A text as far as it is kept. Whatever we compare with is shorter.
pub fn bounded(text: &str) -> String {
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

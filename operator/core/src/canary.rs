//! The objects that a run makes: the canary's Deployment and Service, and the recorded PodTemplates. And how large the canary is.
//!
//! They carry no ownerReference (foreground deletion would take the canary away under traffic); the label
//! `stepgate.dev/canary-of` says whose they are, and the state machine alone removes them.

use serde_json::{Map, Value, json};
use stepgate_crds::{
    names,
    status::{Found, Run},
};

use crate::{input::RolloutView, template::without_hash};

/// What of a Deployment's spec its canary shares, beside the template.
const SHARED_WORKLOAD_FIELDS: [&str; 2] = ["minReadySeconds", "progressDeadlineSeconds"];

/// What of a Service's spec its canary shares, beside ports and selector. Not `publishNotReadyAddresses`: pods that are not ready would
/// get the canary's share, and their errors would be held against the new version.
const SHARED_SERVICE_FIELDS: [&str; 6] = [
    "internalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "sessionAffinity",
    "sessionAffinityConfig",
    "trafficDistribution",
];

/// The name of a workload's canary.
pub fn name(workload: &str) -> String {
    format!("{workload}-canary")
}

/// How many pods carry this percentage: ceil(base × percent / 100), at least 1.
pub fn size(base: i32, percent: i32) -> i32 {
    let exact = i64::from(base.max(0)) * i64::from(percent.clamp(0, 100));
    i32::try_from((exact + 99) / 100).unwrap_or(i32::MAX).max(1)
}

/// The canary's Deployment: the new template with the canary's labels.
pub fn deployment(rollout: &RolloutView, run: &Run, found: &Found, workload: &Value, replicas: i32) -> Value {
    let mut template = workload.pointer("/spec/template").map(without_hash).unwrap_or_default();
    let mut selector = Map::new();
    for (key, value) in &found.canary_labels {
        selector.insert(key.clone(), json!(value));
    }
    selector.insert(names::RUN.to_owned(), json!(run.id));
    if let Some(labels) = object_at(&mut template, "metadata").and_then(|metadata| field(metadata, "labels")) {
        labels.extend(selector.clone());
    }
    let mut spec = Map::new();
    for shared in SHARED_WORKLOAD_FIELDS {
        if let Some(value) = workload.pointer(&format!("/spec/{shared}")) {
            spec.insert(shared.to_owned(), value.clone());
        }
    }
    spec.insert("replicas".to_owned(), json!(replicas));
    spec.insert("revisionHistoryLimit".to_owned(), json!(0));
    spec.insert("selector".to_owned(), json!({"matchLabels": selector}));
    spec.insert("template".to_owned(), template);
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name(&rollout.spec.workload.name),
            "namespace": rollout.namespace,
            "labels": {names::CANARY_OF: rollout.uid},
        },
        "spec": spec,
    })
}

/// The canary's Service: the stable one's ports and behaviour, and the pods of this run.
pub fn service(rollout: &RolloutView, run: &Run, found: &Found, stable: &Value) -> Value {
    let mut spec = Map::new();
    for shared in SHARED_SERVICE_FIELDS {
        if let Some(value) = stable.get(shared) {
            spec.insert(shared.to_owned(), value.clone());
        }
    }
    if stable.get("clusterIP").and_then(Value::as_str) == Some("None") {
        spec.insert("clusterIP".to_owned(), json!("None"));
    }
    let mut ports = stable.get("ports").cloned().unwrap_or_default();
    for port in ports.as_array_mut().into_iter().flatten() {
        if let Some(fields) = port.as_object_mut() {
            fields.remove("nodePort");
        }
    }
    let mut selector = stable
        .get("selector")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    for (key, value) in &found.canary_labels {
        selector.insert(key.clone(), json!(value));
    }
    selector.insert(names::RUN.to_owned(), json!(run.id));
    spec.insert("ports".to_owned(), ports);
    spec.insert("selector".to_owned(), Value::Object(selector));
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": found.canary_service,
            "namespace": rollout.namespace,
            "labels": {names::CANARY_OF: rollout.uid, names::RUN: run.id},
        },
        "spec": spec,
    })
}

/// A recorded template. Without an ownerReference: foreground deletion would take it away while a promotion still needs it. The state machine
/// removes it, like everything that is labelled as the Rollout's.
pub fn pod_template(rollout: &RolloutView, name: &str, template: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "PodTemplate",
        "metadata": {
            "name": name,
            "namespace": rollout.namespace,
            "labels": {names::TEMPLATE_OF: rollout.uid},
        },
        "template": without_hash(template),
    })
}

fn object_at<'v>(value: &'v mut Value, key: &str) -> Option<&'v mut Map<String, Value>> {
    field(value.as_object_mut()?, key)
}

/// A field that is an object, made where it is missing.
fn field<'v>(fields: &'v mut Map<String, Value>, key: &str) -> Option<&'v mut Map<String, Value>> {
    let value = fields.entry(key.to_owned()).or_insert_with(|| json!({}));
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_pods_is_rounded_up_and_never_zero() {
        for (base, percent, pods) in [
            (4, 10, 1),
            (4, 30, 2),
            (4, 50, 2),
            (4, 100, 4),
            (10, 0, 1),
            (0, 50, 1),
            (3, 34, 2),
            (100, 1, 1),
        ] {
            assert_eq!(size(base, percent), pods, "{percent} % of {base}");
        }
        assert_eq!(size(i32::MAX, 100), i32::MAX);
    }
}

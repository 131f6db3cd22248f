//! A small application in a namespace of its own, under a Rollout of two steps, for one run of a plan: one pod a version and no traffic,
//! for what is asked here is what is written, and when.

use anyhow::Result;
use serde_json::json;

use super::check::HUSH;
use crate::cluster::Namespace;
use crate::shop::NAME;

/// The weights of the steps.
pub const STEPS: [i64; 2] = [30, 100];
/// The name of the Rollout that comes too late.
pub const RIVAL: &str = "rival";

/// What no status, Event or log of a namespace may say.
pub fn secret(namespace: &str) -> String {
    format!("{HUSH}{namespace}")
}

/// What the user applies, and the Rollout; its first step asks for an approval where somebody is to do something there.
pub fn manifests(namespace: &Namespace, waits: bool) -> (Vec<serde_json::Value>, serde_json::Value) {
    let mut steps = STEPS.map(|weight| json!({"weight": weight}));
    if waits && let Some(first) = steps.first_mut() {
        *first = json!({"weight": STEPS[0], "approval": "Required"});
    }
    let application = vec![
        deployment(namespace, "v1"),
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": NAME},
            "stringData": {"password": secret(namespace.name())},
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME},
            "spec": {"selector": {"app": NAME}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
        }),
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": NAME},
            "spec": {
                "parentRefs": [{"name": "shared", "namespace": "gateway-system"}],
                "hostnames": [format!("{}.local", namespace.name())],
                "rules": [{"backendRefs": [{"name": NAME, "port": 80, "weight": 7}]}],
            },
        }),
    ];
    (application, rollout(NAME, &json!(steps)))
}

/// Another Rollout that asks for the same Deployment and route.
pub fn rival() -> serde_json::Value {
    rollout(RIVAL, &json!([{"weight": 100}]))
}

fn rollout(name: &str, steps: &serde_json::Value) -> serde_json::Value {
    json!({
        "apiVersion": "stepgate.dev/v1alpha1", "kind": "Rollout", "metadata": {"name": name},
        "spec": {
            "workload": {"name": NAME},
            "traffic": {"routes": [{"name": NAME}]},
            "steps": steps,
            "analysis": {"provider": "pods"},
        },
    })
}

/// The Deployment at a version.
pub fn deployment(namespace: &Namespace, version: &str) -> serde_json::Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": NAME}},
            "template": {
                "metadata": {"labels": {"app": NAME}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "app", "image": "demo-app",
                        "ports": [{"name": "http", "containerPort": 8080}],
                        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1},
                        "env": [
                            {"name": "VERSION", "value": version},
                            {"name": "PASSWORD", "value": secret(namespace.name())},
                            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                        ],
                    }],
                },
            },
        },
    })
}

/// Applies an object as its user does.
pub async fn apply(namespace: &Namespace, object: &serde_json::Value) -> Result<()> {
    use kube::api::{DynamicObject, Patch, PatchParams};
    use kube::core::{ApiResource, GroupVersionKind};

    let text = |field: &str| {
        object
            .get(field)
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default()
    };
    let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("kind")));
    let api: kube::Api<DynamicObject> =
        kube::Api::namespaced_with(namespace.cluster().client(), namespace.name(), &kind);
    let name = object.pointer("/metadata/name").and_then(serde_json::Value::as_str);
    api.patch(
        name.unwrap_or(NAME),
        &PatchParams::apply("user").force(),
        &Patch::Apply(object),
    )
    .await?;
    Ok(())
}

//! What the narrow types read of objects as the API server sends them.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests and what they start from"
)]

use serde_json::{Value, json};
use stepgate::kinds::{BackendTlsPolicy, DisruptionBudget, EndpointSlice, HttpRoute, NetworkPolicy, VolumeClaim};
use stepgate_core::input::ParentView;

fn read<K: serde::de::DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

/// The ready pods of a slice whose endpoints have these conditions; pod number as name.
fn ready(conditions: &[Value]) -> Vec<String> {
    let endpoints: Vec<Value> = conditions
        .iter()
        .enumerate()
        .map(|(number, conditions)| {
            json!({"addresses": ["10.0.0.1"], "conditions": conditions, "targetRef": {"kind": "Pod", "name": number.to_string()}})
        })
        .collect();
    let slice: EndpointSlice = read(json!({
        "metadata": {"name": "checkout-x", "namespace": "shop", "labels": {"kubernetes.io/service-name": "checkout"}},
        "endpoints": endpoints,
    }));
    assert_eq!(slice.view.service.as_deref(), Some("checkout"));
    slice.view.ready
}

#[test]
fn an_endpoint_is_ready_where_it_serves_and_not_where_it_is_only_published() {
    let conditions = [
        json!({"ready": true, "serving": true, "terminating": false}),
        json!({"ready": false, "serving": false, "terminating": false}),
        // A pod that ends, and still answers.
        json!({"ready": false, "serving": true, "terminating": true}),
        // `publishNotReadyAddresses` calls every address ready.
        json!({"ready": true, "serving": false, "terminating": false}),
        // What is not said counts as yes, as the API has it.
        json!({}),
        json!({"ready": true}),
    ];
    assert_eq!(ready(&conditions), ["0", "4", "5"]);
}

/// What a parent says with these two conditions: status, reason and generation of each.
fn parent(accepted: Option<(&str, &str, i64)>, resolved: Option<(&str, &str, i64)>) -> ParentView {
    let condition = |kind: &str, said: Option<(&str, &str, i64)>| {
        let (status, reason, generation) = said?;
        Some(
            json!({"type": kind, "status": status, "reason": reason, "message": format!("{kind} message"), "observedGeneration": generation}),
        )
    };
    let conditions: Vec<Value> = condition("Accepted", accepted)
        .into_iter()
        .chain(condition("ResolvedRefs", resolved))
        .collect();
    let route: HttpRoute = read(json!({
        "metadata": {"name": "web", "namespace": "shop", "generation": 7},
        "spec": {"parentRefs": [{"name": "edge", "namespace": "gateways", "sectionName": "https", "port": 443}, {"name": "own"}]},
        "status": {"parents": [{"parentRef": {"name": "edge", "namespace": "gateways", "sectionName": "https", "port": 443},
            "controllerName": "example.com/gateway", "conditions": conditions}]},
    }));
    assert_eq!(route.view.parent_refs, ["gateways/edge/https:443", "shop/own"]);
    let [parent] = route.view.parents.as_slice() else {
        panic!("{:?}", route.view.parents)
    };
    assert_eq!(parent.parent, route.view.parent_refs[0]);
    parent.clone()
}

#[test]
fn a_parent_accepts_a_generation_where_both_conditions_hold_at_it() {
    let yes = |generation| Some(("True", "Accepted", generation));
    assert_eq!(parent(yes(7), yes(7)).accepted, Some(7));
    assert_eq!(parent(yes(7), yes(6)).accepted, Some(6));
    for (accepted, resolved, message) in [
        (None, yes(7), "it does not report Accepted"),
        (yes(7), None, "it does not report ResolvedRefs"),
        (
            Some(("False", "NotAllowedByListeners", 7)),
            yes(7),
            "Accepted is False: Accepted message",
        ),
        (
            yes(7),
            Some(("False", "InvalidKind", 7)),
            "ResolvedRefs is False: ResolvedRefs message",
        ),
    ] {
        let parent = parent(accepted, resolved);
        assert_eq!((parent.accepted, parent.message.as_str()), (None, message));
        assert!(!parent.lacks_backend);
    }
}

#[test]
fn a_parent_that_misses_a_backend_and_nothing_else_is_told_apart() {
    let missing = Some(("False", "BackendNotFound", 7));
    let lacking = parent(Some(("True", "Accepted", 7)), missing);
    assert!(lacking.lacks_backend && lacking.accepted.is_none());
    assert!(!parent(Some(("False", "NotAllowedByListeners", 7)), missing).lacks_backend);
}

#[test]
fn what_preflight_looks_at_is_read_as_far_as_it_is_used() {
    let policy: NetworkPolicy = read(json!({"metadata": {"name": "open"}, "spec": {
        "podSelector": {"matchLabels": {"app": "checkout"}},
        "ingress": [{"from": [{"podSelector": {}}, {"namespaceSelector": {}}]}, {}],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "x"}}, "namespaceSelector": {}}]}]}}));
    assert_eq!((policy.view.name.as_str(), policy.view.selectors.len()), ("open", 3));
    let budget: DisruptionBudget = read(json!({"metadata": {"name": "budget"}, "spec": {"selector": {}}}));
    assert_eq!(budget.view.selectors.len(), 1);
    let claim: VolumeClaim = read(json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce", 5]}}));
    assert_eq!(claim.view.access_modes, ["ReadWriteOnce"]);
    let tls: BackendTlsPolicy = read(json!({"metadata": {"name": "tls"}, "spec": {"targetRefs": "none"}}));
    assert!(tls.view.services.is_empty());
}

//! BackendRefs of a rule as they are read: which Service, and which weight.

use serde_json::Value;

use crate::input::RuleView;

/// The backendRef of a rule to a Service of the route's namespace, with its place.
pub fn find_ref<'r>(rule: &'r RuleView, service: &str) -> Option<(usize, &'r Value)> {
    rule.backend_refs
        .iter()
        .enumerate()
        .find(|(_, reference)| service_of(reference) == Some(service))
}

/// The Service that a backendRef names, where it is one of the route's own namespace.
pub fn service_of(reference: &Value) -> Option<&str> {
    let text = |field: &str| reference.get(field).and_then(Value::as_str);
    let is_service = text("kind").is_none_or(|kind| kind == "Service") && text("group").unwrap_or("").is_empty();
    if is_service && reference.get("namespace").is_none_or(Value::is_null) {
        text("name")
    } else {
        None
    }
}

/// The weight of a backendRef; 1 where it does not say one.
pub fn weight(reference: &Value) -> i64 {
    written_weight(reference).unwrap_or(1)
}

pub(super) fn written_weight(reference: &Value) -> Option<i64> {
    reference.get("weight").and_then(Value::as_i64)
}

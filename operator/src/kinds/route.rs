//! What decisions read of a route: its rules as they are, and what each parent says of it.

use serde_json::Value;
use stepgate_core::input::{ParentView, RouteView, RuleView};

use super::{HttpRoute, Raw, items, text};

impl From<Raw> for HttpRoute {
    fn from(raw: Raw) -> Self {
        let (spec, status) = (raw.body("spec"), raw.body("status"));
        let namespace = raw.meta("namespace").unwrap_or_default();
        let rules = items(spec, "rules").map(|rule| RuleView {
            name: text(rule, "name"),
            backend_refs: items(rule, "backendRefs").cloned().collect(),
        });
        let view = RouteView {
            name: raw.name(),
            uid: raw.uid(),
            version: raw.version(),
            generation: raw.generation(),
            annotated: raw.is_annotated(),
            run: raw.marks(),
            changed_by: raw.changed_by(),
            parent_refs: items(spec, "parentRefs")
                .map(|reference| parent_name(reference, &namespace))
                .collect(),
            rules: rules.collect(),
            parents: items(status, "parents")
                .map(|parent| parent_view(parent, &namespace))
                .collect(),
        };
        Self {
            metadata: raw.metadata(),
            view,
        }
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

//! Turns the weight we intend into one JSON Patch on the user's route, and reads back whether every parent accepted it.
//!
//! Pure: takes the route as the server returned it, gives operations. It never writes a byte of the route that is not a managed
//! weight, the canary's backendRef or the run annotation, because `rules` and `backendRefs` are atomic lists and an apply would own
//! the user's whole rule.

use serde_json::{Map, Value, json};
use stepgate_crds::{
    names,
    status::{Found, OriginalRule, Run},
};

use crate::{
    input::{RouteView, RuleView},
    plan::{Act, Effect, Kind},
};

/// Which rules of a route are managed, and by which two Services.
#[derive(Clone, Copy, Debug)]
pub struct Managed<'a> {
    /// Only rules of these names; all where none is given.
    pub rules: Option<&'a [String]>,
    /// The user's Service.
    pub stable: &'a str,
    /// The canary's Service.
    pub canary: &'a str,
}

/// How a route divides the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// No managed rule has the canary's backendRef.
    Without,
    /// Every managed rule gives the canary this percentage, and stable the rest of 100.
    Weight(i32),
    /// The managed rules differ, or their weights do not sum to 100.
    Other,
}

impl<'a> Managed<'a> {
    /// The rules that refer to the stable Service, with their places.
    pub fn rules_of<'r>(&self, route: &'r RouteView) -> impl Iterator<Item = (usize, &'r RuleView)> + use<'r, 'a> {
        let (names, stable) = (self.rules, self.stable);
        route.rules.iter().enumerate().filter(move |(_, rule)| {
            find_ref(rule, stable).is_some()
                && names.is_none_or(|names| rule.name.as_ref().is_some_and(|name| names.contains(name)))
        })
    }

    /// How the route divides the traffic of the managed rules.
    pub fn position(&self, route: &RouteView) -> Position {
        let mut position = None;
        for (_, rule) in self.rules_of(route) {
            let stable = find_ref(rule, self.stable).map(|(_, reference)| weight(reference));
            let this = match (stable, find_ref(rule, self.canary)) {
                (_, None) => Position::Without,
                (Some(stable), Some((_, canary))) if stable + weight(canary) == 100 => {
                    i32::try_from(weight(canary)).map_or(Position::Other, Position::Weight)
                }
                _ => Position::Other,
            };
            match position {
                None => position = Some(this),
                Some(before) if before == this => {}
                Some(_) => return Position::Other,
            }
        }
        position.unwrap_or(Position::Without)
    }

    /// The managed rules as they are, to be restored at the end of a run.
    pub fn original(&self, route: &RouteView) -> Vec<OriginalRule> {
        self.rules_of(route)
            .map(|(index, rule)| OriginalRule {
                route: route.name.clone(),
                rule: rule.name.clone(),
                index: i32::try_from(index).unwrap_or(i32::MAX),
                stable_weight: find_ref(rule, self.stable).and_then(|(_, found)| written_weight(found)),
                canary_weight: find_ref(rule, self.canary).map(|(_, found)| weight(found)),
            })
            .collect()
    }

    /// The patch that gives the canary this percentage in every managed rule, adds its backendRef where it is missing (a copy of
    /// stable's under another name), and marks the route as the run's at this intent.
    pub fn set_weight(&self, route: &RouteView, percent: i32, mark: &str) -> Effect {
        let mut patch = preconditions(route);
        for (index, rule) in self.rules_of(route) {
            let Some((stable_at, stable)) = find_ref(rule, self.stable) else {
                continue;
            };
            patch.extend(rule_preconditions(index, rule));
            patch.push(test(
                &format!("/spec/rules/{index}/backendRefs/{stable_at}/name"),
                json!(self.stable),
            ));
            patch.push(add(
                &format!("/spec/rules/{index}/backendRefs/{stable_at}/weight"),
                json!(100 - percent),
            ));
            if let Some((canary_at, _)) = find_ref(rule, self.canary) {
                patch.push(test(
                    &format!("/spec/rules/{index}/backendRefs/{canary_at}/name"),
                    json!(self.canary),
                ));
                patch.push(add(
                    &format!("/spec/rules/{index}/backendRefs/{canary_at}/weight"),
                    json!(percent),
                ));
            } else {
                let mut canary = stable.clone();
                if let Some(fields) = canary.as_object_mut() {
                    fields.insert("name".to_owned(), json!(self.canary));
                    fields.insert("weight".to_owned(), json!(percent));
                }
                patch.push(add(&format!("/spec/rules/{index}/backendRefs/-"), canary));
            }
        }
        patch.push(if route.annotated {
            add(&annotation_path(), json!(mark))
        } else {
            add("/metadata/annotations", json!({ names::RUN: mark }))
        });
        effect(route, patch)
    }

    /// The patch that makes the managed rules what they were before the run and takes the mark off. None where they are.
    pub fn restore(&self, route: &RouteView, original: &[OriginalRule]) -> Option<Effect> {
        let original: Vec<&OriginalRule> = original.iter().filter(|rule| rule.route == route.name).collect();
        let managed: Vec<(usize, &RuleView)> = self.rules_of(route).collect();
        let same_count = managed.len() == original.len();
        let mut changes = Vec::new();
        for (place, (index, rule)) in managed.into_iter().enumerate() {
            // By name where it has one, else by its place among the managed rules: a person may have put a rule in front.
            let before = original
                .iter()
                .find(|before| before.rule.is_some() && before.rule == rule.name)
                .or_else(|| original.get(place).filter(|_| same_count))
                .copied();
            let Some((canary_at, canary)) = find_ref(rule, self.canary) else {
                continue;
            };
            let Some((stable_at, stable)) = find_ref(rule, self.stable) else {
                continue;
            };
            let path = format!("/spec/rules/{index}/backendRefs");
            let mut rule_changes = Vec::new();
            let stable_weight = before.map_or(Some(1), |before| before.stable_weight);
            if written_weight(stable) != stable_weight {
                rule_changes.push(match stable_weight {
                    Some(weight) => add(&format!("{path}/{stable_at}/weight"), json!(weight)),
                    None => json!({"op": "remove", "path": format!("{path}/{stable_at}/weight")}),
                });
            }
            match before.and_then(|before| before.canary_weight) {
                Some(before) if before != weight(canary) => {
                    rule_changes.push(add(&format!("{path}/{canary_at}/weight"), json!(before)));
                }
                Some(_) => {}
                None => rule_changes.push(json!({"op": "remove", "path": format!("{path}/{canary_at}")})),
            }
            if !rule_changes.is_empty() {
                changes.extend(rule_preconditions(index, rule));
                changes.push(test(&format!("{path}/{stable_at}/name"), json!(self.stable)));
                changes.push(test(&format!("{path}/{canary_at}/name"), json!(self.canary)));
                changes.append(&mut rule_changes);
            }
        }
        if route.run.is_some() {
            changes.push(json!({"op": "remove", "path": annotation_path()}));
        }
        if changes.is_empty() {
            return None;
        }
        let mut patch = preconditions(route);
        patch.append(&mut changes);
        Some(effect(route, patch))
    }
}

/// The managed rules of a route in a run.
pub fn managed<'a>(found: &'a Found, rules: Option<&'a [String]>) -> Managed<'a> {
    Managed {
        rules,
        stable: &found.stable_service,
        canary: &found.canary_service,
    }
}

/// The mark that a route carries for a run's present intent.
pub fn mark(run: &Run) -> String {
    format!("{}.{}", run.id, run.seq)
}

/// A parent of a route as preflight notes it.
pub fn parent_key(route: &str, parent: &str, controller: &str) -> String {
    format!("{route} {parent} {controller}")
}

/// The parents that accepted the route before the run and do not report this generation as accepted, each with what it says.
pub fn pending(route: &RouteView, expected: &[String]) -> Vec<String> {
    expected
        .iter()
        .filter(|key| key.split(' ').next() == Some(route.name.as_str()))
        .filter_map(|key| {
            let parent = route
                .parents
                .iter()
                .find(|seen| &parent_key(&route.name, &seen.parent, &seen.controller) == key);
            match parent {
                Some(parent) if parent.accepted == Some(route.generation) => None,
                Some(parent) if !parent.message.is_empty() => Some(format!("{}: {}", parent.parent, parent.message)),
                Some(parent) => Some(parent.parent.clone()),
                None => Some(key.split(' ').nth(1).unwrap_or(key).to_owned()),
            }
        })
        .collect()
}

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

fn written_weight(reference: &Value) -> Option<i64> {
    reference.get("weight").and_then(Value::as_i64)
}

fn effect(route: &RouteView, patch: Vec<Value>) -> Effect {
    Effect {
        kind: Kind::HttpRoute,
        name: route.name.clone(),
        act: Act::Patch(patch),
    }
}

fn preconditions(route: &RouteView) -> Vec<Value> {
    vec![
        test("/metadata/uid", json!(route.uid)),
        test("/metadata/resourceVersion", json!(route.version)),
    ]
}

fn rule_preconditions(index: usize, rule: &RuleView) -> Option<Value> {
    rule.name
        .as_ref()
        .map(|name| test(&format!("/spec/rules/{index}/name"), json!(name)))
}

fn annotation_path() -> String {
    format!("/metadata/annotations/{}", names::RUN.replace('/', "~1"))
}

fn test(path: &str, value: Value) -> Value {
    operation("test", path, value)
}

/// `add` on an object's member replaces what is there, so it serves for both.
fn add(path: &str, value: Value) -> Value {
    operation("add", path, value)
}

fn operation(op: &str, path: &str, value: Value) -> Value {
    Value::Object(Map::from_iter([
        ("op".to_owned(), json!(op)),
        ("path".to_owned(), json!(path)),
        ("value".to_owned(), value),
    ]))
}

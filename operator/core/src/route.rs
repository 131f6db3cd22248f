//! Turns the weight we intend into one JSON Patch on the user's route, and reads back whether every parent accepted it.
//!
//! Pure: takes the route as the server returned it, gives operations. It never writes a byte of the route that is not a managed
//! weight, the canary's backendRef or the run annotation, because `rules` and `backendRefs` are atomic lists and an apply would own
//! the user's whole rule.

mod acceptance;
mod marks;
mod reference;
mod split;

use serde_json::{Map, Value, json};
use stepgate_crds::{
    names,
    status::{Found, OriginalRule},
};

use crate::{
    input::{RouteView, RuleView},
    plan::{Act, Effect, Kind},
};

pub use acceptance::{parent_key, pending};
pub use marks::{is_mark_of_run, later_intent, mark, mark_prefix, own_mark};
pub use reference::{find_ref, service_of, weight};
pub use split::Trickles;

use marks::others_marks;
use reference::written_weight;

/// Which rules of a route are managed, and by which two Services.
#[derive(Clone, Copy, Debug)]
pub struct Managed<'a> {
    /// Only rules of these names; all where none is given.
    pub rules: Option<&'a [String]>,
    /// The user's Service.
    pub stable: &'a str,
    /// The canary's Service.
    pub canary: &'a str,
    /// Which of the two keep a trickle of traffic where they would have none.
    pub trickles: Trickles,
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
    /// Without trickles.
    pub const fn new(rules: Option<&'a [String]>, stable: &'a str, canary: &'a str) -> Self {
        Self {
            rules,
            stable,
            canary,
            trickles: Trickles {
                stable: false,
                canary: false,
            },
        }
    }

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
            let this = match self.weights(rule) {
                Some((_, None)) | None => Position::Without,
                Some((stable, Some(canary))) if stable.saturating_add(canary) == 100 => {
                    i32::try_from(canary).map_or(Position::Other, Position::Weight)
                }
                Some(_) => Position::Other,
            };
            match position {
                None => position = Some(this),
                Some(before) if before == this => {}
                Some(_) => return Position::Other,
            }
        }
        position.unwrap_or(Position::Without)
    }

    /// The weights of stable and canary in a managed rule, percentages where they are ours.
    fn weights(&self, rule: &RuleView) -> Option<(i64, Option<i64>)> {
        let (stable, canary) = self.written_weights(rule)?;
        Some(match canary {
            Some(canary) => {
                let (stable, canary) = split::read((stable, canary));
                (stable, Some(canary))
            }
            None => (stable, None),
        })
    }

    /// The canary's weight in a managed rule, a percentage where it is ours.
    pub fn canary_percent(&self, rule: &RuleView) -> Option<i64> {
        self.weights(rule)?.1
    }

    /// The weights of stable and canary in a managed rule as they are written.
    fn written_weights(&self, rule: &RuleView) -> Option<(i64, Option<i64>)> {
        let of = |service: &str| find_ref(rule, service).map(|(_, reference)| weight(reference));
        Some((of(self.stable)?, of(self.canary)))
    }

    /// Whether a rule gives nothing at all to a canary that is to keep a trickle: the gateway may not know it.
    pub fn lacks_trickle(&self, route: &RouteView) -> bool {
        let has_none = |rule: &RuleView| matches!(self.written_weights(rule), Some((_, Some(0))));
        self.trickles.canary && self.rules_of(route).any(|(_, rule)| has_none(rule))
    }

    /// The rules that lost the stable Service in mid-run and still have the canary beside another backend, with their places.
    ///
    /// One whose only backend is the canary is a person's own.
    fn strays<'r>(&self, route: &'r RouteView) -> impl Iterator<Item = (usize, &'r RuleView)> + use<'r, 'a> {
        let (stable, canary) = (self.stable, self.canary);
        route.rules.iter().enumerate().filter(move |(_, rule)| {
            let others = |reference: &&Value| service_of(reference) != Some(canary) && weight(reference) > 0;
            find_ref(rule, stable).is_none()
                && find_ref(rule, canary).is_some()
                && rule.backend_refs.iter().any(|reference| others(&reference))
        })
    }

    /// The place of the first rule that lost the stable Service while it gives the canary traffic.
    pub fn astray(&self, route: &RouteView) -> Option<usize> {
        let mut strays = self.strays(route);
        strays
            .find(|(_, rule)| find_ref(rule, self.canary).is_some_and(|(_, reference)| weight(reference) > 0))
            .map(|(index, _)| index)
    }

    /// Whether any rule refers to the canary.
    pub fn knows_canary(&self, route: &RouteView) -> bool {
        route.rules.iter().any(|rule| find_ref(rule, self.canary).is_some())
    }

    /// Whether every managed rule gives the stable Service some weight.
    pub fn serves_stable(&self, route: &RouteView) -> bool {
        self.rules_of(route)
            .all(|(_, rule)| self.weights(rule).is_some_and(|(stable, _)| stable > 0))
    }

    /// The highest weight that any rule gives the canary.
    pub fn sent(&self, route: &RouteView) -> i64 {
        let of_rules = self.rules_of(route).filter_map(|(_, rule)| self.canary_percent(rule));
        let strays = self.strays(route);
        let of_strays = strays.filter_map(|(_, rule)| find_ref(rule, self.canary).map(|(_, found)| weight(found)));
        of_rules.chain(of_strays).max().unwrap_or(0)
    }

    /// Whether no rule gives the canary more than this percentage, under this mark: also where nothing of ours stands in the route, for an
    /// older intent's write may still be under way.
    pub fn is_back(&self, route: &RouteView, percent: i32, mark: &str) -> bool {
        let mut with_canary = self.rules_of(route).filter_map(|(_, rule)| match self.weights(rule) {
            Some((stable, Some(canary))) => Some((stable, canary)),
            _ => None,
        });
        let is_at_most =
            |(stable, canary): (i64, i64)| stable.saturating_add(canary) == 100 && canary <= i64::from(percent);
        own_mark(route, mark) == Some(mark) && self.astray(route).is_none() && with_canary.all(is_at_most)
    }

    /// The managed rules as they are, to be restored at the end of a run.
    pub fn original(&self, route: &RouteView) -> Vec<OriginalRule> {
        self.rules_of(route)
            .map(|(index, rule)| self.original_rule(route, index, rule))
            .collect()
    }

    fn original_rule(&self, route: &RouteView, index: usize, rule: &RuleView) -> OriginalRule {
        OriginalRule {
            route: route.name.clone(),
            rule: rule.name.clone(),
            index: i32::try_from(index).unwrap_or(i32::MAX),
            stable_weight: find_ref(rule, self.stable).and_then(|(_, found)| written_weight(found)),
            canary_weight: find_ref(rule, self.canary).map(|(_, found)| weight(found)),
        }
    }

    /// What was recorded of this route, with what a person did to its rules since: as many rules as before are the same ones, and among
    /// more those without the canary are new and as their user means them. Where that cannot be told it stays as it is.
    pub fn original_now(&self, route: &RouteView, before: &[OriginalRule]) -> Vec<OriginalRule> {
        let recorded: Vec<&OriginalRule> = before.iter().filter(|rule| rule.route == route.name).collect();
        let touched = |rule: &RuleView| find_ref(rule, self.canary).is_some();
        let unnamed: Vec<&OriginalRule> = recorded.iter().copied().filter(|rule| rule.rule.is_none()).collect();
        let present = self.rules_of(route).filter(|(_, rule)| rule.name.is_none());
        let (all, left) = present.fold((0, 0), |(all, left), (_, rule)| {
            (all + 1, left + usize::from(touched(rule)))
        });
        let as_many = all == unnamed.len();
        // Where the user's own rule had the canary from the start, having it says nothing.
        let own = recorded.iter().any(|rule| rule.canary_weight.is_some());
        if own || !(as_many || left == 0 || left == unnamed.len()) {
            return recorded.into_iter().cloned().collect();
        }
        let mut unnamed = unnamed.into_iter();
        let now = self.rules_of(route).map(|(index, rule)| {
            let same = match &rule.name {
                Some(_) => recorded.iter().find(|before| before.rule == rule.name).copied(),
                None if as_many || touched(rule) => unnamed.next(),
                None => None,
            };
            let moved = |before: &OriginalRule| OriginalRule {
                index: i32::try_from(index).unwrap_or(i32::MAX),
                ..before.clone()
            };
            same.map_or_else(|| self.original_rule(route, index, rule), moved)
        });
        now.collect()
    }

    /// The patch that gives the canary this percentage in every managed rule, adds its backendRef where it is missing (a copy of
    /// stable's under another name), and marks the route as the run's at this intent.
    pub fn set_weight(&self, route: &RouteView, percent: i32, mark: &str) -> Effect {
        let mut patch = preconditions(route);
        let (stable_weight, canary_weight) = split::written(percent.into(), self.trickles);
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
                json!(stable_weight),
            ));
            if let Some((canary_at, _)) = find_ref(rule, self.canary) {
                patch.push(test(
                    &format!("/spec/rules/{index}/backendRefs/{canary_at}/name"),
                    json!(self.canary),
                ));
                patch.push(add(
                    &format!("/spec/rules/{index}/backendRefs/{canary_at}/weight"),
                    json!(canary_weight),
                ));
            } else {
                let mut canary = stable.clone();
                if let Some(fields) = canary.as_object_mut() {
                    fields.insert("name".to_owned(), json!(self.canary));
                    fields.insert("weight".to_owned(), json!(canary_weight));
                }
                patch.push(add(&format!("/spec/rules/{index}/backendRefs/-"), canary));
            }
        }
        patch.push(marking(route, mark));
        effect(route, patch)
    }

    /// The patch that leaves the canary at most this percentage in every rule that has it, and marks the route. Adds nothing.
    pub fn take_back(&self, route: &RouteView, percent: i32, mark: &str) -> Effect {
        let mut patch = preconditions(route);
        for (index, rule) in self.rules_of(route).chain(self.strays(route)) {
            let Some((canary_at, _)) = find_ref(rule, self.canary) else {
                continue;
            };
            let refs = format!("/spec/rules/{index}/backendRefs");
            patch.extend(rule_preconditions(index, rule));
            // Nothing is given back to the canary that somebody took from it.
            let left = match self.weights(rule) {
                Some((stable, Some(canary))) if stable.saturating_add(canary) == 100 => canary.min(percent.into()),
                Some((_, Some(canary))) if canary > 0 => percent.into(),
                _ => 0,
            };
            let found_stable = find_ref(rule, self.stable);
            // A stray has no other side of ours.
            let (stable_weight, canary_weight) = match found_stable {
                Some(_) => split::written(left, self.trickles),
                None => (0, left),
            };
            if let Some((stable_at, _)) = found_stable {
                patch.push(test(&format!("{refs}/{stable_at}/name"), json!(self.stable)));
                patch.push(add(&format!("{refs}/{stable_at}/weight"), json!(stable_weight)));
            }
            patch.push(test(&format!("{refs}/{canary_at}/name"), json!(self.canary)));
            patch.push(add(&format!("{refs}/{canary_at}/weight"), json!(canary_weight)));
        }
        patch.push(marking(route, mark));
        effect(route, patch)
    }

    /// The patch that makes the managed rules what they were before the run and takes the mark off. None where they are.
    ///
    /// `mark` is any of this run: another Rollout's stays.
    pub fn restore(&self, route: &RouteView, original: &[OriginalRule], mark: &str) -> Option<Effect> {
        let own = own_mark(route, mark);
        let original = self.original_now(route, original);
        let original: Vec<&OriginalRule> = original.iter().collect();
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
            let Some((stable_at, stable)) = find_ref(rule, self.stable) else {
                continue;
            };
            let canary = find_ref(rule, self.canary);
            // Without the canary the rule is the user's again, but for a weight that only we can have left there.
            let left = own.is_some() && before.is_some() && written_weight(stable).is_some_and(split::is_all);
            if canary.is_none() && !left {
                continue;
            }
            let path = format!("/spec/rules/{index}/backendRefs");
            let mut rule_changes = Vec::new();
            let stable_weight = before.map_or_else(|| usual_weight(&original), |before| before.stable_weight);
            if written_weight(stable) != stable_weight {
                rule_changes.push(match stable_weight {
                    Some(weight) => add(&format!("{path}/{stable_at}/weight"), json!(weight)),
                    None => json!({"op": "remove", "path": format!("{path}/{stable_at}/weight")}),
                });
            }
            if let Some((canary_at, canary)) = canary {
                match before.and_then(|before| before.canary_weight) {
                    Some(before) if before != weight(canary) => {
                        rule_changes.push(add(&format!("{path}/{canary_at}/weight"), json!(before)));
                    }
                    Some(_) => {}
                    None => rule_changes.push(json!({"op": "remove", "path": format!("{path}/{canary_at}")})),
                }
            }
            if !rule_changes.is_empty() {
                changes.extend(rule_preconditions(index, rule));
                changes.push(test(&format!("{path}/{stable_at}/name"), json!(self.stable)));
                if let Some((canary_at, _)) = canary {
                    changes.push(test(&format!("{path}/{canary_at}/name"), json!(self.canary)));
                }
                changes.append(&mut rule_changes);
            }
        }
        for (index, rule) in self.strays(route) {
            if let Some((canary_at, _)) = find_ref(rule, self.canary) {
                let path = format!("/spec/rules/{index}/backendRefs/{canary_at}");
                changes.extend(rule_preconditions(index, rule));
                changes.push(test(&format!("{path}/name"), json!(self.canary)));
                changes.push(json!({"op": "remove", "path": path}));
            }
        }
        if own.is_some() {
            let others = others_marks(route, mark);
            changes.push(if others.is_empty() {
                json!({"op": "remove", "path": annotation_path()})
            } else {
                add(&annotation_path(), json!(others.join(" ")))
            });
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
    Managed::new(rules, &found.stable_service, &found.canary_service)
}

/// The weight of a rule of which nothing is recorded: that of all others where they agree, else the API's default.
fn usual_weight(original: &[&OriginalRule]) -> Option<i64> {
    let mut weights = original.iter().map(|rule| rule.stable_weight);
    match weights.next() {
        Some(first) if weights.all(|other| other == first) => first,
        _ => Some(1),
    }
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

fn marking(route: &RouteView, mark: &str) -> Value {
    if route.annotated {
        let mut marks = others_marks(route, mark);
        marks.push(mark);
        add(&annotation_path(), json!(marks.join(" ")))
    } else {
        add("/metadata/annotations", json!({ names::RUN: mark }))
    }
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

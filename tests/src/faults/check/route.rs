//! The rules of what stands on the user's route.

use serde_json::{Value, json};
use stepgate_crds::status::{Run, RunState};

use super::{CANARY, Checker, goes_back, safety};
use crate::shop::NAME;

/// The mark of a run on a route.
const MARK: &str = "/metadata/annotations/stepgate.dev~1run";

/// The written weights of stable and of the canary in one rule.
pub(super) type Weights = (Option<i64>, Option<i64>);

impl Checker<'_> {
    /// A version of the route that the operator wrote.
    pub(super) fn route(&mut self, route: &Value) {
        let status = self.status();
        let Some(before) = self.world.get("HTTPRoute", NAME).cloned() else {
            return;
        };
        if users_part(&before) != users_part(route) {
            let (old, new) = (users_part(&before), users_part(route));
            self.broken(safety(9), format!("from {old} to {new}"));
        }
        let Some(run) = status.run.clone() else {
            return self.broken(safety(10), "the route is written while no run is under way".to_owned());
        };
        let (old, new) = (canary_weight(&before), canary_weight(route));
        match route.pointer(MARK).and_then(Value::as_str) {
            Some(mark) => self.marked(route, mark, &run, new),
            None => self.unmarked(route),
        }
        self.moves(&run, old, new);
    }

    fn marked(&mut self, route: &Value, mark: &str, run: &Run, new: i64) {
        for (stable, canary) in weights(route) {
            if stable + canary != 100 {
                self.broken(safety(1), format!("weights {stable} and {canary}"));
            }
        }
        let intent = format!("{}.{}", run.id, run.seq);
        let weight = i64::from(run.weight);
        if mark != intent || (new != weight && !(goes_back(&run.state) && new < weight)) {
            self.broken(
                safety(10),
                format!("{new} % under {mark}, and committed is {weight} % under {intent}"),
            );
        }
        let seq = mark.rsplit_once('.').and_then(|(_, seq)| seq.parse().ok()).unwrap_or(0);
        let highest = self.seqs.entry(run.id.clone()).or_insert(seq);
        if seq < *highest {
            let what = format!("intent {seq} took effect after {highest}");
            self.broken(safety(20), what);
        } else {
            *highest = seq;
        }
    }

    fn unmarked(&mut self, route: &Value) {
        if self.original.as_ref() != Some(&weights_as_written(route)) {
            let refs = route.pointer("/spec/rules").cloned().unwrap_or_default();
            self.broken(safety(1), format!("without a mark the rules are {refs}"));
        }
    }

    fn moves(&mut self, run: &Run, old: i64, new: i64) {
        let (stable, canary) = (self.world.ready(NAME), self.world.ready(CANARY));
        if new > old {
            let step = usize::try_from(run.step)
                .ok()
                .and_then(|step| self.course.steps.get(step));
            if step != Some(&new) || goes_back(&run.state) {
                self.broken(
                    safety(2),
                    format!("from {old} % to {new} % in step {} ({:?})", run.step, run.state),
                );
            }
            if canary == 0 {
                self.broken(
                    safety(4),
                    format!("from {old} % to {new} % with no ready canary endpoint"),
                );
            }
            if self.ended.contains(&run.id) {
                self.broken(
                    safety(7),
                    format!("from {old} % to {new} % after the way back of {}", run.id),
                );
            }
        }
        if new < old {
            if stable == 0 && canary > 0 {
                self.broken(
                    safety(4),
                    format!("from {old} % to {new} % with no ready endpoint of stable"),
                );
            }
            let rolls = matches!(run.state, RunState::Promoting { .. } | RunState::Restoring { .. });
            if rolls && canary > 0 && !self.is_whole() {
                self.broken(
                    safety(19),
                    format!("from {old} % to {new} % while the Deployment rolls"),
                );
            }
        }
    }

    fn is_whole(&self) -> bool {
        let Some(workload) = self.world.get("Deployment", NAME) else {
            return false;
        };
        let count = |pointer: &str| workload.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        let wanted = count("/spec/replicas");
        count("/status/updatedReplicas") == wanted
            && count("/status/availableReplicas") >= wanted
            && count("/status/observedGeneration") >= count("/metadata/generation")
    }
}

fn refs(route: &Value) -> impl Iterator<Item = &Vec<Value>> {
    let rules = route.pointer("/spec/rules").and_then(Value::as_array);
    rules
        .into_iter()
        .flatten()
        .filter_map(|rule| rule.get("backendRefs").and_then(Value::as_array))
}

fn find<'v>(refs: &'v [Value], name: &str) -> Option<&'v Value> {
    refs.iter().find(|one| one.get("name") == Some(&json!(name)))
}

fn written(found: &Value) -> Option<i64> {
    found.get("weight").and_then(Value::as_i64)
}

/// Stable's and the canary's weight of each rule.
fn weights(route: &Value) -> Vec<(i64, i64)> {
    refs(route)
        .map(|refs| {
            let weight = |name| find(refs, name).map_or(0, |found| written(found).unwrap_or(1));
            (weight(NAME), weight(CANARY))
        })
        .collect()
}

pub(super) fn weights_as_written(route: &Value) -> Vec<Weights> {
    refs(route)
        .map(|refs| {
            let weight = |name| find(refs, name).and_then(written);
            (weight(NAME), weight(CANARY))
        })
        .collect()
}

/// The highest weight of the canary in any rule.
pub fn canary_weight(route: &Value) -> i64 {
    weights(route).iter().map(|(_, canary)| *canary).max().unwrap_or(0)
}

/// A route without what is ours to change.
fn users_part(route: &Value) -> Value {
    let mut spec = route.get("spec").cloned().unwrap_or_default();
    for rule in spec
        .pointer_mut("/rules")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let Some(refs) = rule.get_mut("backendRefs").and_then(Value::as_array_mut) else {
            continue;
        };
        refs.retain(|one| one.get("name") != Some(&json!(CANARY)));
        for one in refs.iter_mut().filter_map(Value::as_object_mut) {
            one.remove("weight");
        }
    }
    let mut annotations = route
        .pointer("/metadata/annotations")
        .cloned()
        .unwrap_or_else(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.remove("stepgate.dev/run");
    }
    json!({
        "spec": spec, "annotations": annotations, "labels": route.pointer("/metadata/labels"),
        "finalizers": route.pointer("/metadata/finalizers"),
    })
}

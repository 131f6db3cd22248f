//! The rules of safety that stored versions can show, held against every single write of the operator.
//!
//! `docs/reliability.md` says of each rule of `RULES` where it is checked. What needs no API server (the verdicts, determinism) is held by
//! the tests of the core.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use stepgate_crds::RolloutStatus;
use stepgate_crds::status::{Run, RunState};

use super::layer::Write;
use super::observer::{Version, World};
use crate::shop::NAME;

/// The canary's Service and Deployment.
pub const CANARY: &str = "checkout-canary";
/// The mark of a run on a route.
const MARK: &str = "/metadata/annotations/stepgate.dev~1run";
/// How much later than the operator the observer may have seen a moment, in milliseconds.
const LATE: i64 = 250;

/// The rules that are checked here, by their numbers in the list of invariants.
pub const RULES: [(u8, &str); 15] = [
    (
        1,
        "managed weights are percentages that sum to 100; before and after, the rule is the user's",
    ),
    (2, "a rise goes to the weight of the run's step"),
    (3, "the next step is preceded by a pass or a person's word"),
    (
        4,
        "no rise without ready canary endpoints, no fall while stable has none and the canary has",
    ),
    (5, "no backend goes before weight 0 was accepted for the drain"),
    (7, "after an abort nothing rises"),
    (8, "every write carries what it was decided on"),
    (9, "the user's part of the route stays as it is"),
    (10, "a route write follows a commit of the same intent"),
    (11, "at rest nothing more is written"),
    (14, "replicas of the user's Deployment are never written"),
    (16, "no panic"),
    (
        17,
        "status has at most 16 KiB, 4 at rest; at most steps + 6 Events a run",
    ),
    (19, "while the Deployment rolls, nothing sends traffic to it"),
    (20, "no older intent takes effect after a newer one"),
];

/// A rule that was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule's number.
    pub rule: u8,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "rule {}: {}", self.rule, self.what)
    }
}

/// Everything that is wrong with a history, given the writes of the operator in it.
pub fn check(history: &[Version], writes: &[Write], steps: &[i64], drain: Duration) -> Vec<Violation> {
    let ours: BTreeSet<u64> = writes.iter().filter_map(|write| write.version).collect();
    let mut checker = Checker::new(steps, drain);
    for write in writes {
        checker.request(write);
    }
    checker.follow(history, |version| {
        ours.contains(&version.version) || (version.object.is_none() && deleted_by_us(version, writes))
    });
    checker.violations
}

/// The same for operators that are processes of their own: their writes are told by the field manager that wrote last.
pub fn check_stored(history: &[Version], steps: &[i64], drain: Duration) -> Vec<Violation> {
    let mut checker = Checker::new(steps, drain);
    checker.follow(history, |version| {
        let Some(object) = &version.object else {
            return version.name == CANARY;
        };
        let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
        let last = entries.into_iter().flatten().max_by_key(|entry| {
            let time = entry.get("time").and_then(Value::as_str).unwrap_or_default();
            time.to_owned()
        });
        last.and_then(|entry| entry.get("manager")) == Some(&json!(stepgate_crds::names::MANAGER))
    });
    checker.violations
}

fn deleted_by_us(version: &Version, writes: &[Write]) -> bool {
    let resource = match version.kind {
        "Deployment" => "deployments",
        "Service" => "services",
        _ => return false,
    };
    let target = format!("{resource}/{}", version.name);
    writes
        .iter()
        .any(|write| write.method == "DELETE" && write.target() == target && write.is_accepted())
}

struct Checker<'a> {
    steps: &'a [i64],
    drain: Duration,
    world: World,
    violations: Vec<Violation>,
    /// Since when no gateway sends anything to the canary: weight 0 at an accepted generation.
    zero: Option<Timestamp>,
    /// Runs that are on their way back for good.
    ended: BTreeSet<String>,
    /// The highest intent on the route, by run.
    seqs: BTreeMap<String, i64>,
    /// The weights of the route as its user wrote them.
    original: Option<Vec<Weights>>,
}

/// The written weights of stable and of the canary in one rule.
type Weights = (Option<i64>, Option<i64>);

impl<'a> Checker<'a> {
    fn new(steps: &'a [i64], drain: Duration) -> Self {
        Self {
            steps,
            drain,
            world: World::default(),
            violations: Vec::new(),
            zero: None,
            ended: BTreeSet::new(),
            seqs: BTreeMap::new(),
            original: None,
        }
    }

    fn follow(&mut self, history: &[Version], is_ours: impl Fn(&Version) -> bool) {
        for version in history {
            if is_ours(version) {
                self.write(version);
            }
            self.world.take(version);
            self.look(version);
        }
    }

    fn broken(&mut self, rule: u8, what: String) {
        self.violations.push(Violation { rule, what });
    }

    fn status(&self) -> RolloutStatus {
        let status = self
            .world
            .get("Rollout", NAME)
            .and_then(|rollout| rollout.get("status"));
        status
            .and_then(|status| serde_json::from_value(status.clone()).ok())
            .unwrap_or_default()
    }

    /// A request, whatever became of it.
    fn request(&mut self, write: &Write) {
        let body = &write.body;
        let tests = |path: &str| {
            let operations = body.as_array().into_iter().flatten();
            operations
                .filter(|operation| operation.get("op") == Some(&json!("test")))
                .any(|operation| operation.get("path") == Some(&json!(path)))
        };
        let has = |pointer: &str| body.pointer(pointer).is_some_and(|value| !value.is_null());
        let is_conditional = match write.method.as_str() {
            "POST" => true,
            "DELETE" => has("/preconditions/uid"),
            "PUT" => has("/metadata/resourceVersion"),
            _ if body.is_array() => tests("/metadata/uid") && tests("/metadata/resourceVersion"),
            _ => has("/metadata/uid") && has("/metadata/resourceVersion"),
        };
        if !is_conditional {
            self.broken(8, format!("{} {} {body}", write.method, write.path));
        }
        if write.target() == format!("deployments/{NAME}") {
            let patched = body.as_array().into_iter().flatten();
            let mut paths = patched.filter_map(|operation| operation.get("path").and_then(Value::as_str));
            if has("/spec/replicas") || paths.any(|path| path == "/spec/replicas") {
                self.broken(14, format!("{body}"));
            }
        }
    }

    /// A version that the operator wrote, before it is taken in.
    fn write(&mut self, version: &Version) {
        match (version.kind, version.name.as_str(), &version.object) {
            ("HTTPRoute", NAME, Some(route)) => self.route(route),
            ("Rollout", NAME, Some(rollout)) => self.commit(rollout),
            ("Deployment" | "Service", CANARY, None) => self.removal(version),
            ("Deployment", CANARY, Some(canary)) => {
                let replicas = |object: &Value| object.pointer("/spec/replicas").and_then(Value::as_i64);
                let before = self.world.get("Deployment", CANARY).and_then(replicas);
                if before > replicas(canary) {
                    self.removal(version);
                }
            }
            _ => {}
        }
    }

    fn route(&mut self, route: &Value) {
        let status = self.status();
        let Some(before) = self.world.get("HTTPRoute", NAME).cloned() else {
            return;
        };
        if users_part(&before) != users_part(route) {
            let (old, new) = (users_part(&before), users_part(route));
            self.broken(9, format!("from {old} to {new}"));
        }
        let Some(run) = status.run.clone() else {
            return self.broken(10, "the route is written while no run is under way".to_owned());
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
                self.broken(1, format!("weights {stable} and {canary}"));
            }
        }
        let intent = format!("{}.{}", run.id, run.seq);
        let weight = i64::from(run.weight);
        if mark != intent || (new != weight && !(goes_back(&run.state) && new < weight)) {
            self.broken(
                10,
                format!("{new} % under {mark}, and committed is {weight} % under {intent}"),
            );
        }
        let seq = mark.rsplit_once('.').and_then(|(_, seq)| seq.parse().ok()).unwrap_or(0);
        let highest = self.seqs.entry(run.id.clone()).or_insert(seq);
        if seq < *highest {
            let what = format!("intent {seq} took effect after {highest}");
            self.broken(20, what);
        } else {
            *highest = seq;
        }
    }

    fn unmarked(&mut self, route: &Value) {
        if self.original.as_ref() != Some(&weights_as_written(route)) {
            let refs = route.pointer("/spec/rules").cloned().unwrap_or_default();
            self.broken(1, format!("without a mark the rules are {refs}"));
        }
    }

    fn moves(&mut self, run: &Run, old: i64, new: i64) {
        let (stable, canary) = (self.world.ready(NAME), self.world.ready(CANARY));
        if new > old {
            let step = usize::try_from(run.step).ok().and_then(|step| self.steps.get(step));
            if step != Some(&new) || goes_back(&run.state) {
                self.broken(
                    2,
                    format!("from {old} % to {new} % in step {} ({:?})", run.step, run.state),
                );
            }
            if canary == 0 {
                self.broken(4, format!("from {old} % to {new} % with no ready canary endpoint"));
            }
            if self.ended.contains(&run.id) {
                self.broken(7, format!("from {old} % to {new} % after the way back of {}", run.id));
            }
        }
        if new < old {
            if stable == 0 && canary > 0 {
                self.broken(4, format!("from {old} % to {new} % with no ready endpoint of stable"));
            }
            let rolls = matches!(run.state, RunState::Promoting { .. } | RunState::Restoring { .. });
            if rolls && canary > 0 && !self.is_whole() {
                self.broken(19, format!("from {old} % to {new} % while the Deployment rolls"));
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

    fn commit(&mut self, rollout: &Value) {
        let before = self.status();
        let Some(text) = rollout.get("status") else { return };
        let size = text.to_string().len();
        let after: RolloutStatus = serde_json::from_value(text.clone()).unwrap_or_default();
        let most = if after.run.is_some() { 16 << 10 } else { 4 << 10 };
        if size > most {
            self.broken(17, format!("a status of {size} bytes"));
        }
        if let (Some(old), Some(new)) = (&before.run, &after.run) {
            let promotes = |run: &Run| matches!(run.state, RunState::Promoting { .. });
            if new.id == old.id && (new.step > old.step || (promotes(new) && !promotes(old))) {
                let by_person = old.overridden.is_some() || after.command != before.command;
                if after.verdict.as_deref() != Some("Pass") && !by_person {
                    self.broken(3, format!("from step {} by the verdict {:?}", old.step, after.verdict));
                }
            }
        }
        if let Some(run) = &after.run
            && goes_back(&run.state)
            && !matches!(run.state, RunState::Returning { .. } | RunState::Retreated { .. })
        {
            self.ended.insert(run.id.clone());
        }
    }

    fn removal(&mut self, version: &Version) {
        let drain = i64::try_from(self.drain.as_millis()).unwrap_or(i64::MAX);
        let waited = self
            .zero
            .map(|since| version.at.as_millisecond() - since.as_millisecond());
        if waited.is_none_or(|waited| waited + LATE < drain) {
            self.broken(
                5,
                format!(
                    "{} {} goes {} after weight 0 was accepted",
                    version.kind,
                    version.name,
                    waited.map_or("before and not".to_owned(), |waited| format!("{waited} ms"))
                ),
            );
        }
    }

    /// After every version, whoever wrote it.
    fn look(&mut self, version: &Version) {
        if version.kind != "HTTPRoute" {
            return;
        }
        let Some(route) = self.world.get("HTTPRoute", NAME) else {
            return;
        };
        if self.original.is_none() {
            self.original = Some(weights_as_written(route));
        }
        let Some(route) = self.world.get("HTTPRoute", NAME) else {
            return;
        };
        let generation = route.pointer("/metadata/generation").and_then(Value::as_i64);
        let parents = route.pointer("/status/parents").and_then(Value::as_array);
        let accepted = parents.into_iter().flatten().all(|parent| {
            let conditions = parent.get("conditions").and_then(Value::as_array);
            conditions
                .into_iter()
                .flatten()
                .all(|condition| condition.get("observedGeneration").and_then(Value::as_i64) >= generation)
        });
        if canary_weight(route) > 0 {
            self.zero = None;
        } else if accepted && self.zero.is_none() {
            self.zero = Some(version.at);
        }
    }
}

fn goes_back(state: &RunState) -> bool {
    matches!(
        state,
        RunState::RollingBack { .. }
            | RunState::Returning { .. }
            | RunState::Retreated { .. }
            | RunState::Draining { .. }
            | RunState::Restoring { .. }
    )
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

fn weights_as_written(route: &Value) -> Vec<Weights> {
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

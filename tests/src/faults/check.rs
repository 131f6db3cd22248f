//! The invariants that stored versions can show, held against every single write of the operator.

mod authors;
mod commits;
mod data;
mod ears;
mod route;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use stepgate_crds::RolloutStatus;
use stepgate_crds::names;
use stepgate_crds::status::RunState;

use super::layer::Write;
use super::observer::{Version, World};
use super::proxy::Told;
use crate::shop::NAME;
use data::Folded;
use route::{Weights, weights_as_written};

pub use authors::told_apart;
pub use ears::{Ears, HUSH};
pub use route::canary_weight;
pub use rules::{ELSEWHERE, RULES, Rule, liveness, safety};

/// The canary's Service and Deployment.
pub const CANARY: &str = "checkout-canary";
/// How much later than the operator the observer may have seen a moment, in milliseconds.
const LATE: i64 = 250;

/// A rule that was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "rule {}: {}", self.rule, self.what)
    }
}

/// What there is to hold the rules against.
#[derive(Clone, Copy, Debug)]
pub struct Course<'a> {
    /// Every stored version, in order.
    pub history: &'a [Version],
    /// Every write of the operator.
    pub writes: &'a [Write],
    /// What the metrics source told; none where nobody listened.
    pub told: Option<&'a [Told]>,
    /// The weights of the steps.
    pub steps: &'a [i64],
    /// How long a backend stays after weight 0 was accepted.
    pub drain: Duration,
}

impl Course<'_> {
    /// Everything that is wrong with it.
    pub fn check(&self) -> Vec<Violation> {
        let ours: BTreeSet<u64> = self.writes.iter().filter_map(|write| write.version).collect();
        let mut checker = Checker::new(*self);
        for write in self.writes {
            checker.request(write);
        }
        checker.follow(|version| {
            ours.contains(&version.version) || (version.object.is_none() && deleted_by_us(version, self.writes))
        });
        checker.violations
    }
}

/// The same for operators that are processes of their own: their writes are told by the field manager that wrote last.
pub fn check_stored(history: &[Version], steps: &[i64], drain: Duration) -> Vec<Violation> {
    let mut checker = Checker::new(Course {
        history,
        writes: &[],
        told: None,
        steps,
        drain,
    });
    checker.follow(|version| {
        let Some(object) = &version.object else {
            return version.name == CANARY;
        };
        let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
        let last = entries.into_iter().flatten().max_by_key(|entry| {
            let time = entry.get("time").and_then(Value::as_str).unwrap_or_default();
            time.to_owned()
        });
        last.and_then(|entry| entry.get("manager")) == Some(&json!(names::MANAGER))
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
    course: Course<'a>,
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
    /// What was folded so far.
    folded: Folded,
    /// Every run that there was, and how often it went through its steps again after a retreat.
    runs: BTreeMap<String, usize>,
    /// Every Event of ours, by name.
    events: BTreeSet<String>,
}

impl<'a> Checker<'a> {
    fn new(course: Course<'a>) -> Self {
        Self {
            course,
            world: World::default(),
            violations: Vec::new(),
            zero: None,
            ended: BTreeSet::new(),
            seqs: BTreeMap::new(),
            original: None,
            folded: Folded::default(),
            runs: BTreeMap::new(),
            events: BTreeSet::new(),
        }
    }

    fn follow(&mut self, is_ours: impl Fn(&Version) -> bool) {
        for version in self.course.history {
            if is_ours(version) {
                self.write(version);
            }
            self.world.take(version);
            self.look(version);
        }
        self.count_events();
    }

    fn broken(&mut self, rule: Rule, what: String) {
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
            // Every status: what is put carries all that it was read with.
            "PUT" => has("/metadata/uid") && has("/metadata/resourceVersion"),
            _ if body.is_array() => tests("/metadata/uid") && tests("/metadata/resourceVersion"),
            _ => has("/metadata/uid") && has("/metadata/resourceVersion"),
        };
        if !is_conditional {
            self.broken(safety(8), format!("{} {} {body}", write.method, write.path));
        }
        if write.target() == format!("deployments/{NAME}") {
            let patched = body.as_array().into_iter().flatten();
            let mut paths = patched.filter_map(|operation| operation.get("path").and_then(Value::as_str));
            if has("/spec/replicas") || paths.any(|path| path == "/spec/replicas") {
                self.broken(safety(14), format!("{body}"));
            }
        }
    }

    /// A version that the operator wrote, before it is taken in.
    fn write(&mut self, version: &Version) {
        match (version.kind, version.name.as_str(), &version.object) {
            ("HTTPRoute", NAME, Some(route)) => self.route(route),
            ("Rollout", NAME, Some(rollout)) => self.commit(version, rollout),
            ("Deployment", NAME, Some(workload)) => {
                let before = self.world.get("Deployment", NAME).and_then(replicas);
                if before.is_some_and(|before| replicas(workload) != Some(before)) {
                    let what = format!("from {before:?} to {:?}", replicas(workload));
                    self.broken(safety(14), what);
                }
            }
            ("Deployment" | "Service", CANARY, None) => self.removal(version),
            ("Deployment", CANARY, Some(canary)) => {
                let before = self.world.get("Deployment", CANARY).and_then(replicas);
                if before > replicas(canary) {
                    self.removal(version);
                }
            }
            _ => {}
        }
    }

    fn removal(&mut self, version: &Version) {
        let drain = i64::try_from(self.course.drain.as_millis()).unwrap_or(i64::MAX);
        let waited = self
            .zero
            .map(|since| version.at.as_millisecond() - since.as_millisecond());
        if waited.is_none_or(|waited| waited + LATE < drain) {
            self.broken(
                safety(5),
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
        let Some(object) = &version.object else { return };
        match version.kind {
            "HTTPRoute" if version.name == NAME => self.look_at_route(version.at, object),
            "Rollout" => {
                if version.name != NAME && object.pointer("/status/run").is_some() {
                    let what = format!("{} has a run of its own", version.name);
                    self.broken(safety(13), what);
                }
                self.listen(version, object.get("status").unwrap_or(&Value::Null));
            }
            "Deployment" if version.name == NAME => {
                let managed_by = object.pointer("/metadata/labels/stepgate.dev~1rollout");
                if managed_by.is_some_and(|rollout| rollout != NAME) {
                    self.broken(safety(13), format!("the Deployment is managed by {managed_by:?}"));
                }
            }
            "Event" if object.get("reportingController") == Some(&json!("stepgate.dev/operator")) => {
                if object.pointer("/regarding/name") == Some(&json!(NAME)) {
                    self.events.insert(version.name.clone());
                }
                self.listen(version, object);
            }
            _ => {}
        }
    }

    /// Whether something of ours repeats what nobody may.
    fn listen(&mut self, version: &Version, object: &Value) {
        if object.to_string().contains(HUSH) {
            let what = format!("{} {} has a secret in it: {object}", version.kind, version.name);
            self.broken(safety(15), what);
        }
    }

    fn look_at_route(&mut self, at: Timestamp, route: &Value) {
        if self.original.is_none() {
            self.original = Some(weights_as_written(route));
        }
        let generation = route.pointer("/metadata/generation").and_then(Value::as_i64);
        let parents = route.pointer("/status/parents").and_then(Value::as_array);
        let is_accepted = |parent: &Value| {
            let conditions = parent.get("conditions").and_then(Value::as_array);
            let conditions = || conditions.into_iter().flatten();
            let says_accepted = conditions().any(|condition| {
                condition.get("type") == Some(&json!("Accepted")) && condition.get("status") == Some(&json!("True"))
            });
            let is_new = |condition: &Value| condition.get("observedGeneration").and_then(Value::as_i64) >= generation;
            says_accepted && conditions().all(is_new)
        };
        let accepted = parents.is_some_and(|parents| !parents.is_empty() && parents.iter().all(is_accepted));
        if canary_weight(route) > 0 {
            self.zero = None;
        } else if accepted && self.zero.is_none() {
            self.zero = Some(at);
        }
    }

    fn count_events(&mut self) {
        let courses: usize = self.runs.values().map(|again| again + 1).sum();
        let most = courses.max(1) * (self.course.steps.len() + 6);
        if self.events.len() > most {
            let what = format!(
                "{} Events in {} runs: {:?}",
                self.events.len(),
                self.runs.len(),
                self.events
            );
            self.broken(safety(17), what);
        }
    }
}

fn replicas(workload: &Value) -> Option<i64> {
    workload.pointer("/spec/replicas").and_then(Value::as_i64)
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

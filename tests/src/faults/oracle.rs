//! What a course without faults came to: the end state, and how often each object was written. With faults it has to be the same.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use stepgate_crds::RolloutStatus;

use super::check::CANARY;
use super::layer::Write;
use super::observer::World;
use super::place::general;
use crate::shop::NAME;

/// The end of a run of a plan, without what differs from one namespace to another.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// The objects as they are.
    pub state: Value,
    /// Accepted writes by object, status of the Rollout apart.
    pub writes: BTreeMap<String, usize>,
    /// Accepted writes of Rollouts' statuses.
    pub commits: usize,
    /// The reasons of the Events about the Rollout.
    pub events: BTreeSet<String>,
}

impl End {
    /// What is there at the end, and what was written on the way.
    pub fn of(world: &World, writes: &[Write]) -> Self {
        let accepted = || writes.iter().filter(|write| write.is_accepted());
        let is_status = |write: &&Write| write.target().ends_with("/status");
        let mut counts = BTreeMap::new();
        for write in accepted().filter(|write| !is_status(write)) {
            let target = write.target();
            let target = general(&target);
            let verb = match write.method.as_str() {
                "POST" => "create",
                "DELETE" => "delete",
                _ => "patch",
            };
            *counts.entry(format!("{verb} {target}")).or_insert(0) += 1;
        }
        Self {
            state: state(world),
            writes: counts,
            commits: accepted().filter(is_status).count(),
            events: events(world),
        }
    }

    /// Whether all is there that was without faults; more may be under way.
    pub fn has_all_of(&self, oracle: &Self) -> bool {
        self.state == oracle.state && self.events.is_superset(&oracle.events)
    }

    /// What differs from the oracle. `slack`: so many more commits are explained by the faults themselves.
    pub fn differs(&self, oracle: &Self, slack: usize) -> Vec<String> {
        let mut differences = Vec::new();
        if self.state != oracle.state {
            differences.push(format!("the end is {} and without faults {}", self.state, oracle.state));
        }
        if self.writes != oracle.writes {
            differences.push(format!(
                "the writes were {:?} and without faults {:?}",
                self.writes, oracle.writes
            ));
        }
        let unsaid: Vec<&String> = oracle.events.difference(&self.events).collect();
        if !unsaid.is_empty() {
            differences.push(format!("no Event said {unsaid:?}, and without faults one did"));
        }
        if self.commits > oracle.commits + slack {
            differences.push(format!(
                "the status was written {} times, and without faults {}",
                self.commits, oracle.commits
            ));
        }
        differences
    }
}

/// Each is written at least once, whatever becomes of who wrote it first.
fn events(world: &World) -> BTreeSet<String> {
    let ours = world.all("Event").filter(|event| {
        event.get("reportingController") == Some(&json!("stepgate.dev/operator"))
            && event.pointer("/regarding/name") == Some(&json!(NAME))
    });
    ours.filter_map(|event| event.get("reason")?.as_str().map(str::to_owned))
        .collect()
}

fn state(world: &World) -> Value {
    let rollout = world.get("Rollout", NAME).map(|rollout| {
        let status: RolloutStatus = rollout
            .get("status")
            .and_then(|status| serde_json::from_value(status.clone()).ok())
            .unwrap_or_default();
        let conditions: BTreeMap<String, String> = status
            .conditions
            .iter()
            .map(|condition| (condition.type_.clone(), condition.status.clone()))
            .collect();
        let history: Vec<(&str, Option<String>)> = status
            .history
            .iter()
            .map(|past| (past.outcome.as_str(), past.reason.clone()))
            .collect();
        json!({
            "phase": status.phase, "conditions": conditions, "history": history, "run": status.run.is_some(),
            "failed": status.failed.map(|failed| failed.cause.reason),
            "command": rollout.pointer("/metadata/annotations/stepgate.dev~1command"),
        })
    });
    let workload = world.get("Deployment", NAME).map(|workload| {
        json!({
            "version": workload.pointer("/spec/template/spec/containers/0/env/0/value"),
            "paused": workload.pointer("/spec/paused").and_then(Value::as_bool).unwrap_or(false),
            "hold": workload.pointer("/metadata/annotations/stepgate.dev~1hold"),
            "label": workload.pointer("/metadata/labels/stepgate.dev~1rollout"),
            "replicas": workload.pointer("/spec/replicas"),
        })
    });
    let route = world.get("HTTPRoute", NAME).map(|route| {
        json!({"rules": route.pointer("/spec/rules"), "mark": route.pointer("/metadata/annotations/stepgate.dev~1run")})
    });
    let rivals: Vec<&Value> = world
        .all("Rollout")
        .filter(|rollout| rollout.pointer("/metadata/name") != Some(&json!(NAME)))
        .filter_map(|rival| rival.pointer("/status/phase"))
        .collect();
    json!({
        "rivals": rivals,
        "rollout": rollout, "workload": workload, "route": route,
        "canary": world.get("Deployment", CANARY).is_some() || world.get("Service", CANARY).is_some(),
        "templates": world.all("PodTemplate").count(),
    })
}

//! The operator dies after each single write of a life, and another goes on: the end is the same, and nothing is written more often.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use stepgate_crds::{command::Verb, status::Phase};

use crate::fixtures::simulator::Simulator;

/// A life: how it goes, and what it ends in.
type Life = (fn(&mut Simulator), fn(&Simulator) -> bool);

const PROMOTION: Life = (
    |simulator| simulator.ship("v2"),
    |simulator| ended(simulator, Phase::Healthy),
);
const ROLLBACK: Life = (
    |simulator| {
        simulator.cluster.weather.errors.insert("v2".to_owned(), 0.5);
        simulator.ship("v2");
    },
    |simulator| ended(simulator, Phase::Failed),
);
const ABORT: Life = (
    |simulator| {
        simulator.ship("v2");
        for _ in 0..400 {
            simulator.tick();
            if simulator.status().weight == Some(30) {
                break;
            }
        }
        simulator.command(Verb::Abort);
    },
    |simulator| ended(simulator, Phase::Failed),
);

fn ended(simulator: &Simulator, phase: Phase) -> bool {
    let status = simulator.status();
    status.run.is_none() && status.phase == Some(phase) && !status.history.is_empty()
}

/// What there is at the end, but for versions, times and the names that come of them.
fn end_state(simulator: &Simulator) -> Value {
    let api = &simulator.cluster.api;
    let spec = |kind, name| api.get(kind, name).map(|object| object["spec"].clone());
    let status = simulator.status();
    json!({
        "deployment": spec("Deployment", "checkout"),
        "labels": api.get("Deployment", "checkout").map(|object| object["metadata"]["labels"].clone()),
        "canary": spec("Deployment", "checkout-canary"),
        "service": spec("Service", "checkout-canary"),
        "route": spec("HTTPRoute", "checkout"),
        "annotations": api.get("HTTPRoute", "checkout").map(|object| object["metadata"]["annotations"].clone()),
        "templates": api.list("PodTemplate").map(|object| object["template"].clone()).collect::<Vec<_>>(),
        "phase": format!("{:?}", status.phase),
        "outcome": format!("{:?} {:?}", status.history[0].outcome, status.history[0].reason),
        "finalizers": api.get("Rollout", "checkout").unwrap()["metadata"]["finalizers"],
    })
}

/// Writes by object; a status counts only where more than its numbers and words changed.
fn writes(simulator: &Simulator) -> BTreeMap<String, usize> {
    let mut by = BTreeMap::new();
    for write in simulator.writes.iter().filter(|write| !write.refresh) {
        *by.entry(write.on.clone()).or_default() += 1;
    }
    by
}

fn live(life: Life, crash_after: Option<usize>, every: bool) -> Simulator {
    let (script, ended) = life;
    let mut simulator = Simulator::adopted(&json!({"steps": [{"weight": 10}, {"weight": 30}, {"weight": 100}]}));
    simulator.crash_after = crash_after;
    simulator.crash_every = every;
    script(&mut simulator);
    simulator.until("the end of the run", 2_000, ended);
    simulator.run_for(30);
    simulator
}

fn each_write_survives_a_crash(life: Life) {
    let oracle = live(life, None, false);
    let (end, counts) = (end_state(&oracle), writes(&oracle));
    assert!(oracle.cluster.controllers.unanswered < 0.5);
    for after in 1..=oracle.writes.len() {
        let simulator = live(life, Some(after), false);
        assert_eq!(
            end_state(&simulator),
            end,
            "after write {after}\n{}",
            simulator.timeline()
        );
        let mut found = writes(&simulator);
        // A new leader says once that it took the run over.
        let takeover = found
            .get("status")
            .copied()
            .unwrap_or(0)
            .saturating_sub(counts["status"]);
        assert!(
            takeover <= 1,
            "after write {after}: {takeover} more commits\n{}",
            simulator.timeline()
        );
        found.insert("status".to_owned(), counts["status"]);
        assert_eq!(found, counts, "after write {after}\n{}", simulator.timeline());
        assert!(simulator.cluster.controllers.unanswered < 0.5, "after write {after}");
    }
}

#[test]
fn a_promotion_goes_on_after_a_crash_at_any_write() {
    each_write_survives_a_crash(PROMOTION);
}

#[test]
fn a_rollback_goes_on_after_a_crash_at_any_write() {
    each_write_survives_a_crash(ROLLBACK);
}

#[test]
fn an_abort_goes_on_after_a_crash_at_any_write() {
    each_write_survives_a_crash(ABORT);
}

#[test]
fn an_operator_that_dies_every_few_writes_or_after_each_one_comes_to_the_same_end() {
    for life in [PROMOTION, ROLLBACK, ABORT] {
        let end = end_state(&live(life, None, false));
        for every in 1..=20 {
            let simulator = live(life, Some(every), true);
            assert_eq!(end_state(&simulator), end, "every {every}\n{}", simulator.timeline());
        }
    }
}

//! What a rollout costs.

use std::collections::BTreeMap;

use serde_json::json;
use stepgate_crds::units::Span;

use crate::fixtures::simulator::Simulator;

#[test]
fn four_steps_of_a_good_version_take_at_most_32_writes_and_10_events() {
    let mut simulator = Simulator::adopted(&json!({}));
    // Ten pods: the canary is scaled before each step but the first.
    simulator.cluster.change_deployment(&json!({"spec": {"replicas": 10}}));
    simulator.run_for(30);
    simulator.writes.clear();
    simulator.ship("v2");
    simulator.until_stable("v2", 1_200);
    simulator.run_for(600);
    let mut by: BTreeMap<&str, usize> = BTreeMap::new();
    for write in simulator.writes.iter().filter(|write| !write.refresh) {
        *by.entry(write.on.as_str()).or_default() += 1;
    }
    let total: usize = by.values().sum();
    println!("{total} writes: {by:#?}");
    assert!(total <= 32, "{total} writes: {by:#?}\n{}", simulator.timeline());
    let events: usize = simulator.checker.notes.values().map(Vec::len).max().unwrap();
    assert!(events <= 10, "{:?}", simulator.checker.notes);
}

#[test]
fn a_run_that_holds_writes_its_status_at_most_once_a_minute() {
    let mut simulator = Simulator::adopted(&json!({}));
    simulator.cluster.weather.requests = 2.0;
    simulator.ship("v2");
    simulator.until("10 % is in force", 60, |simulator| {
        simulator.status().weight == Some(10)
    });
    simulator.run_for(120);
    let written = simulator.writes.len();
    simulator.run_for(3_600);
    assert!(simulator.writes.len() - written <= 61, "{}", simulator.timeline());
}

#[test]
fn a_rollout_of_twenty_approved_steps_stays_within_its_events_and_its_status_within_its_size() {
    let mut steps: Vec<_> = (1..=19)
        .map(|step| json!({"weight": 5 * step, "approval": "Required", "bake": "0s"}))
        .collect();
    steps.push(json!({"weight": 100, "approval": "Required"}));
    let mut simulator = Simulator::adopted(&json!({"steps": steps}));
    simulator.limits.refresh = Span::seconds(10);
    simulator.cluster.weather.requests = 1_000.0;
    simulator.ship("v2");
    for _ in 0..20 {
        simulator.until_phase(stepgate_crds::status::Phase::Paused, 600);
        simulator.command(stepgate_crds::command::Verb::Promote);
        simulator.run_for(2);
    }
    simulator.until_stable("v2", 300);
}

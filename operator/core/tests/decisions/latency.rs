//! Latency over whole lives: a slow version goes back, a cold one is given its time, and what cannot be counted passes nobody.

use serde_json::json;
use stepgate_crds::status::{Outcome, Phase};

use super::lives::last_outcome;
use crate::fixtures::{controllers::Metrics, simulator::Simulator, world::world};

fn judged() -> serde_json::Value {
    json!({"analysis": {"latency": {"threshold": "500ms", "max": "1%"}}})
}

#[test]
fn a_version_that_is_slow_is_rolled_back_by_its_latency() {
    let mut simulator = Simulator::adopted(&judged());
    simulator.cluster.weather.slow.insert("v2".to_owned(), 0.1);
    simulator.ship("v2");
    simulator.until_phase(Phase::Failed, 600);
    assert_eq!(last_outcome(&simulator), (Outcome::Failed, Some("Verdict".to_owned())));
    let message = simulator.status().message.unwrap();
    assert!(message.contains("latency: "), "{message}");
}

#[test]
fn without_latency_in_the_spec_it_is_not_judged() {
    let mut simulator = Simulator::adopted(&json!({}));
    simulator.cluster.weather.slow.insert("v2".to_owned(), 1.0);
    simulator.ship("v2");
    simulator.until_stable("v2", 1_200);
}

#[test]
fn a_good_version_is_promoted_by_both_metrics_and_waits_until_its_pods_are_warm() {
    let mut simulator = Simulator::adopted(&judged());
    simulator.cluster.weather.requests = 1_000.0;
    simulator.ship("v2");
    simulator.until("10 % is in force", 60, |simulator| {
        simulator.status().weight == Some(10)
    });
    // A bake of 20 s and a warm-up of 60 s.
    simulator.run_for(60);
    assert_eq!(simulator.status().weight, Some(10), "{}", simulator.timeline());
    let names: Vec<String> = simulator
        .status()
        .run
        .unwrap()
        .metrics
        .into_iter()
        .map(|one| one.name)
        .collect();
    assert_eq!(names, ["errors", "latency"]);
    simulator.until("30 % is in force", 60, |simulator| {
        simulator.status().weight == Some(30)
    });
    // The canary has as many pods at 50 % as at 30 %: they are warm.
    simulator.until("50 % is in force", 120, |simulator| {
        simulator.status().weight == Some(50)
    });
    simulator.run_for(45);
    assert_ne!(simulator.status().weight, Some(50), "{}", simulator.timeline());
    simulator.until_stable("v2", 1_200);
}

#[test]
fn a_threshold_that_is_no_boundary_holds_and_says_which_there_are() {
    let mut simulator = Simulator::adopted(&judged());
    simulator.cluster.weather.metrics = Metrics::NoBucket;
    simulator.ship("v2");
    simulator.until("10 % is in force", 60, |simulator| {
        simulator.status().weight == Some(10)
    });
    simulator.run_for(1_200);
    let status = simulator.status();
    assert_eq!(
        (status.weight, status.verdict.as_deref()),
        (Some(10), Some("NoBucketBoundary")),
        "{}",
        simulator.timeline()
    );
    let message = status.message.unwrap();
    assert!(message.contains("there are 250ms, 500ms"), "{message}");
    simulator.cluster.weather.errors.insert("v2".to_owned(), 0.3);
    simulator.until_phase(Phase::Failed, 120);
}

#[test]
fn a_pod_that_came_since_is_cold() {
    let slow = || {
        world()
            .with_spec(judged())
            .at_step(1)
            .with_counts(9, [100, 0, 900, 1])
            .with_slow([90, 1])
    };
    let run = slow().commits().run.unwrap();
    assert!(
        matches!(run.state, stepgate_crds::status::RunState::RollingBack { .. }),
        "{run:?}"
    );
    let now = slow().0.now;
    let status = slow().with(|seen| seen.canary_youngest = Some(now)).commits();
    assert_eq!(
        status.verdict.as_deref(),
        Some("InsufficientTraffic"),
        "{:?}",
        status.message
    );
}

//! Whole lives of a rollout.

use serde_json::json;
use stepgate_crds::{
    command::Verb,
    status::{Outcome, Phase},
};

use crate::fixtures::{checker::canary_weight, cluster::route, controllers::Metrics, simulator::Simulator};

pub(super) fn live_weight(simulator: &Simulator) -> i64 {
    canary_weight(&simulator.cluster.api.get("HTTPRoute", "checkout").unwrap()["spec"])
}

pub(super) fn assert_at_rest_as_written(simulator: &Simulator) {
    let api = &simulator.cluster.api;
    let found = api.get("HTTPRoute", "checkout").unwrap();
    assert_eq!(found["spec"], route()["spec"], "{}", simulator.timeline());
    assert_eq!(found["metadata"]["annotations"], route()["metadata"]["annotations"]);
    assert!(api.get("Deployment", "checkout-canary").is_none());
    assert!(api.get("Service", "checkout-canary").is_none());
}

#[track_caller]
pub(super) fn last_outcome(simulator: &Simulator) -> (Outcome, Option<String>) {
    let past = simulator.status().history.first().expect("a run that ended").clone();
    (past.outcome, past.reason)
}

#[test]
fn a_good_version_goes_up_the_steps_and_becomes_stable_without_a_failed_request() {
    let mut simulator = Simulator::adopted(&json!({}));
    simulator.ship("v2");
    let mut weights = vec![0];
    for _ in 0..600 {
        simulator.tick();
        weights.push(live_weight(&simulator));
        weights.dedup();
    }
    assert_eq!(weights, [0, 10, 30, 50, 100, 0], "{}", simulator.timeline());
    simulator.until_stable("v2", 1);
    assert!(
        simulator.cluster.controllers.unanswered < 0.5,
        "{}",
        simulator.timeline()
    );
    assert_at_rest_as_written(&simulator);
    let deployment = simulator.cluster.api.get("Deployment", "checkout").unwrap();
    assert_eq!(
        deployment["metadata"]["labels"],
        json!({"stepgate.dev/rollout": "checkout"})
    );
    assert!(deployment["spec"].get("paused").is_none());
    let written = simulator.writes.len();
    simulator.run_for(3_600);
    assert_eq!(simulator.writes.len(), written, "{}", simulator.timeline());
}

#[test]
fn a_bad_version_is_back_at_zero_within_three_intervals_and_stays_failed() {
    let mut simulator = Simulator::adopted(&json!({}));
    simulator.cluster.weather.requests = 600.0;
    simulator.cluster.weather.errors.insert("v2".to_owned(), 0.05);
    simulator.ship("v2");
    simulator.until("10 % is in force", 60, |simulator| {
        simulator.status().weight == Some(10)
    });
    simulator.until("weight 0 is accepted", 45, |simulator| simulator.is_in("Draining"));
    simulator.until_phase(Phase::Failed, 120);
    assert_eq!(last_outcome(&simulator), (Outcome::Failed, Some("Verdict".to_owned())));
    assert_at_rest_as_written(&simulator);
    let status = simulator.status();
    let message = status.message.unwrap();
    assert!(
        message.contains("retry checkout") && message.contains("worse than stable"),
        "{message}"
    );
    let written = simulator.writes.len();
    simulator.run_for(3_600);
    assert_eq!(simulator.writes.len(), written, "{}", simulator.timeline());
}

#[test]
fn a_version_that_fails_every_request_trips_at_once() {
    let mut simulator = Simulator::adopted(&json!({}));
    simulator.cluster.weather.errors.insert("v2".to_owned(), 1.0);
    simulator.ship("v2");
    simulator.until("10 % is in force", 60, |simulator| {
        simulator.status().weight == Some(10)
    });
    simulator.until("weight 0 is written", 25, |simulator| live_weight(simulator) == 0);
    simulator.until_phase(Phase::Failed, 120);
}

#[test]
fn a_failed_version_that_is_fixed_goes_out_and_a_retry_takes_the_same_again() {
    let mut simulator = Simulator::adopted(&json!({}));
    simulator.cluster.weather.errors.insert("v2".to_owned(), 1.0);
    simulator.ship("v2");
    simulator.until_phase(Phase::Failed, 200);
    simulator.cluster.weather.errors.clear();
    simulator.command(Verb::Retry);
    simulator.until_stable("v2", 1_200);
    assert_eq!(last_outcome(&simulator).0, Outcome::Promoted);
    simulator.ship("v3");
    simulator.until_stable("v3", 1_200);
    assert_eq!(simulator.cluster.api.list("PodTemplate").count(), 1);
}

#[test]
fn an_abort_takes_everything_back_and_nothing_starts_again() {
    let mut simulator = Simulator::at_step(&json!({}), 3);
    simulator.command(Verb::Abort);
    simulator.tick();
    assert_eq!(live_weight(&simulator), 0);
    simulator.until_phase(Phase::Failed, 60);
    assert_eq!(last_outcome(&simulator), (Outcome::Failed, Some("Aborted".to_owned())));
    simulator.run_for(600);
    assert_eq!(simulator.status().phase, Some(Phase::Failed));
    assert_at_rest_as_written(&simulator);
}

#[test]
fn a_run_that_is_aborted_before_anything_was_made_does_not_start_again() {
    let mut simulator = Simulator::adopted(&json!({}));
    simulator.ship("v2");
    // The process dies between the commit that starts the run and all that follows from it.
    simulator.crash_after = Some(1);
    simulator.run_for(2);
    assert!(simulator.is_in("Preparing"));
    simulator.command(Verb::Abort);
    simulator.run_for(120);
    assert_eq!(
        simulator.status().phase,
        Some(Phase::Failed),
        "{}",
        simulator.timeline()
    );
    assert_eq!(simulator.status().history.len(), 1);
}

#[test]
fn the_last_run_alone_keeps_its_counts_and_status_at_rest_stays_small() {
    let mut simulator = Simulator::adopted(&json!({}));
    for (number, version) in (1..).zip(["v2", "v3"]) {
        simulator.ship(version);
        simulator.until_stable(version, 1_200);
        let status = simulator.status();
        let kept: Vec<bool> = status.history.iter().map(|past| past.counts.is_some()).collect();
        assert_eq!(
            kept,
            [vec![true], vec![false; number - 1]].concat(),
            "{}",
            simulator.timeline()
        );
        let counts = status.history[0].counts.as_ref().unwrap();
        let errors = &counts.metrics[0];
        assert!(
            errors.parts.iter().all(|part| part.canary.requests > 0) && errors.parts.len() >= 3,
            "{errors:?}"
        );
        assert!(
            errors.relative_evidence < errors.fail_threshold && errors.recent.seconds > 0,
            "{errors:?}"
        );
        assert!(serde_json::to_string(&status).unwrap().len() < 4_096);
    }
}

#[test]
fn a_newer_template_in_mid_run_gets_a_run_of_its_own() {
    let mut simulator = Simulator::at_step(&json!({}), 2);
    simulator.ship("v3");
    simulator.until("the first run has ended", 60, |simulator| {
        !simulator.status().history.is_empty()
    });
    assert_eq!(
        last_outcome(&simulator),
        (Outcome::Superseded, Some("NewTemplate".to_owned()))
    );
    simulator.until_stable("v3", 1_200);
    assert!(simulator.cluster.controllers.unanswered < 0.5);
    assert_at_rest_as_written(&simulator);
}

#[test]
fn a_template_that_is_put_back_ends_the_run_at_stable() {
    let mut simulator = Simulator::at_step(&json!({}), 2);
    simulator.ship("v1");
    simulator.until_stable("v1", 60);
    assert_eq!(
        last_outcome(&simulator),
        (Outcome::Reverted, Some("TemplatePutBack".to_owned()))
    );
    assert!(
        simulator.cluster.api.get("Deployment", "checkout").unwrap()["spec"]
            .get("paused")
            .is_none()
    );
    assert_at_rest_as_written(&simulator);
}

#[test]
fn a_rollout_that_is_deleted_in_any_state_leaves_what_its_user_wrote() {
    let moments = [
        "Preparing",
        "Stepping",
        "Paused",
        "Promoting",
        "Returning",
        "RollingBack",
        "Draining",
        "Failed",
        "Healthy",
    ];
    for moment in moments {
        let mut simulator =
            Simulator::adopted(&json!({"steps": [{"weight": 10}, {"weight": 100, "approval": "Required"}]}));
        if moment != "Healthy" {
            simulator.ship("v2");
        }
        match moment {
            "RollingBack" | "Failed" => {
                simulator.until("10 %", 100, |simulator| simulator.status().weight == Some(10));
                simulator.command(Verb::Abort);
            }
            "Promoting" | "Returning" | "Draining" => {
                simulator.until_phase(Phase::Paused, 1_200);
                simulator.command(Verb::Promote);
            }
            _ => {}
        }
        simulator.until(moment, 1_200, |simulator| {
            simulator.is_in(moment)
                || (simulator.status().run.is_none() && format!("{:?}", simulator.status().phase.unwrap()) == moment)
        });
        simulator.cluster.api.delete("Rollout", "checkout");
        simulator.until("the Rollout is gone", 300, |simulator| {
            simulator.cluster.api.get("Rollout", "checkout").is_none()
        });
        assert_at_rest_as_written(&simulator);
        let deployment = simulator.cluster.api.get("Deployment", "checkout").unwrap();
        assert!(
            deployment["metadata"]["labels"].as_object().unwrap().is_empty(),
            "{moment}: {deployment:#}"
        );
        let promoted = ["Promoting", "Returning", "Draining", "Healthy"].contains(&moment);
        // A version that was never proven is not let loose.
        assert_eq!(deployment["spec"].get("paused").is_none(), promoted, "{moment}");
        assert!(simulator.cluster.controllers.unanswered < 0.5, "{moment}");
    }
}

#[test]
fn a_deletion_ends_even_if_everything_else_is_gone() {
    for moment in [
        "Preparing",
        "Stepping",
        "Promoting",
        "Returning",
        "RollingBack",
        "Draining",
    ] {
        let mut simulator = Simulator::adopted(&json!({"steps": [{"weight": 100}]}));
        simulator.ship("v2");
        if moment == "RollingBack" {
            simulator.until("100 %", 100, |simulator| simulator.status().weight == Some(100));
            simulator.command(Verb::Abort);
        }
        simulator.until(moment, 1_200, |simulator| simulator.is_in(moment));
        for (kind, name) in [
            ("Deployment", "checkout"),
            ("HTTPRoute", "checkout"),
            ("Service", "checkout"),
        ] {
            simulator.cluster.api.delete(kind, name);
        }
        simulator.cluster.api.delete("Rollout", "checkout");
        simulator.until("the Rollout is gone", 1_500, |simulator| {
            simulator.cluster.api.get("Rollout", "checkout").is_none()
        });
        assert!(
            simulator.cluster.api.get("Deployment", "checkout-canary").is_none(),
            "{moment}"
        );
    }
}

#[test]
fn a_step_with_approval_waits_for_a_person_however_long() {
    let mut simulator = Simulator::at_step(
        &json!({"steps": [{"weight": 50, "approval": "Required"}, {"weight": 100}]}),
        1,
    );
    simulator.until_phase(Phase::Paused, 600);
    assert!(simulator.status().message.unwrap().contains("promote checkout"));
    simulator.run_for(3_600);
    assert_eq!(
        (simulator.status().phase, live_weight(&simulator)),
        (Some(Phase::Paused), 50)
    );
    simulator.command(Verb::Resume);
    simulator.run_for(5);
    assert!(!simulator.status().command.unwrap().done, "resume is no approval");
    simulator.command(Verb::Promote);
    simulator.until_stable("v2", 600);
}

#[test]
fn a_pause_keeps_the_weight_and_a_resume_goes_on() {
    let mut simulator = Simulator::at_step(&json!({}), 1);
    simulator.command(Verb::Pause);
    simulator.run_for(1_000);
    assert_eq!(
        (simulator.status().phase, live_weight(&simulator)),
        (Some(Phase::Paused), 10)
    );
    simulator.command(Verb::Resume);
    simulator.until_stable("v2", 1_200);
}

#[test]
fn what_fails_in_a_pause_goes_back() {
    let mut simulator = Simulator::at_step(&json!({}), 2);
    simulator.command(Verb::Pause);
    simulator.run_for(5);
    simulator.cluster.weather.errors.insert("v2".to_owned(), 0.5);
    simulator.until_phase(Phase::Failed, 200);
}

#[test]
fn a_canary_that_never_becomes_ready_fails_at_the_deadline() {
    let mut simulator = Simulator::adopted(&json!({"progressDeadline": "2m"}));
    simulator.cluster.weather.broken.push("v2".to_owned());
    simulator.ship("v2");
    simulator.run_for(110);
    assert!(simulator.is_in("Preparing"));
    simulator.until_phase(Phase::Failed, 60);
    assert_eq!(
        last_outcome(&simulator),
        (Outcome::Failed, Some("ProgressDeadline".to_owned()))
    );
    assert!(simulator.status().message.unwrap().contains("0 of 1 ready pods"));
    assert!(
        simulator
            .cluster
            .controllers
            .totals
            .get("checkout-canary")
            .is_none_or(|total| total.requests < 0.5)
    );
}

#[test]
fn a_gateway_that_accepts_nothing_stalls_and_the_run_goes_on_when_it_does() {
    let mut simulator = Simulator::at_step(&json!({"progressDeadline": "2m"}), 1);
    simulator.command(Verb::Promote);
    simulator.cluster.weather.gateway_delay = None;
    simulator.run_for(180);
    let status = simulator.status();
    let stalled = status
        .conditions
        .iter()
        .any(|one| one.type_ == "Stalled" && one.status == "True");
    assert!(
        stalled && status.message.as_ref().unwrap().contains("gateways/edge"),
        "{}",
        simulator.timeline()
    );
    assert_eq!(status.weight, Some(10));
    simulator.cluster.weather.gateway_delay = Some(1);
    simulator.until_stable("v2", 1_200);
}

#[test]
fn no_pod_goes_while_a_gateway_has_not_accepted_weight_zero() {
    let mut simulator = Simulator::at_step(&json!({"progressDeadline": "2m"}), 2);
    simulator.cluster.weather.gateway_delay = None;
    simulator.command(Verb::Abort);
    simulator.run_for(900);
    assert_eq!(live_weight(&simulator), 0);
    assert!(simulator.is_in("RollingBack"));
    assert_eq!(simulator.cluster.ready("checkout-canary"), 2);
    simulator.cluster.weather.gateway_delay = Some(1);
    simulator.until_phase(Phase::Failed, 60);
}

#[test]
fn pods_that_were_unready_between_two_looks_cost_nothing() {
    let mut simulator = Simulator::at_step(&json!({}), 2);
    // Nobody looks until they are ready again.
    simulator.cluster.kill_pods("checkout-canary");
    simulator.cluster.tick();
    assert_eq!(simulator.cluster.ready("checkout-canary"), 0);
    while simulator.cluster.ready("checkout-canary") < 2 {
        simulator.cluster.tick();
    }
    simulator.until_stable("v2", 1_200);
    let status = simulator.status();
    assert_eq!(status.history[0].outcome, Outcome::Promoted, "{}", simulator.timeline());
    assert!(!simulator.timeline().contains("Retreated"), "{}", simulator.timeline());
}

#[test]
fn missing_data_neither_promote_nor_roll_back() {
    for metrics in [Metrics::Down, Metrics::Empty, Metrics::Nonsense, Metrics::Failing] {
        let mut simulator = Simulator::at_step(&json!({}), 2);
        simulator.cluster.weather.metrics = metrics;
        simulator.run_for(3_600);
        let status = simulator.status();
        assert_eq!(
            (status.phase, status.weight),
            (Some(Phase::Stepping), Some(30)),
            "{metrics:?}\n{}",
            simulator.timeline()
        );
        let reason = match metrics {
            Metrics::Empty => "NoData",
            Metrics::Nonsense => "NotACount",
            _ => "MetricsUnavailable",
        };
        // Two intervals without the canary while stable has requests would retreat; with neither there is no data.
        assert_eq!(status.verdict.as_deref(), Some(reason), "{metrics:?}");
        simulator.cluster.weather.metrics = Metrics::Up;
        simulator.until_stable("v2", 1_200);
    }
}

#[test]
fn too_little_traffic_holds_and_says_how_much_is_missing() {
    let mut simulator = Simulator::adopted(&json!({}));
    simulator.cluster.weather.requests = 2.0;
    simulator.ship("v2");
    simulator.run_for(1_800);
    let status = simulator.status();
    assert_eq!((status.phase, status.weight), (Some(Phase::Stepping), Some(10)));
    assert_eq!(status.verdict.as_deref(), Some("InsufficientTraffic"));
    assert!(status.message.unwrap().contains("of about"));
}

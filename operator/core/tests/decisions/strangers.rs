//! Lives beside others: versions that were not held, people's own pauses, input that is missing, other Rollouts, edits.

use serde_json::json;
use stepgate_crds::{
    command::Verb,
    status::{Outcome, Phase},
};

use super::lives::{assert_at_rest_as_written, last_outcome, live_weight};
use crate::fixtures::{
    checker::canary_weight,
    cluster::{self, route},
    simulator::Simulator,
};

#[test]
fn a_version_that_rolls_unheld_is_adopted_as_stable_loudly() {
    let mut simulator = Simulator::adopted(&json!({}));
    simulator.cluster.weather.policy = false;
    simulator.ship("v2");
    simulator.until_stable("v2", 200);
    let told: Vec<&String> = simulator.checker.notes.values().flatten().collect();
    assert!(told.contains(&&"RolledUnheld".to_owned()), "{told:?}");
}

#[test]
fn a_failed_version_that_a_person_releases_is_adopted_and_not_said_to_have_failed() {
    let mut simulator = Simulator::at_step(&json!({}), 1);
    simulator.command(Verb::Abort);
    simulator.until_phase(Phase::Failed, 60);
    simulator.cluster.change_deployment(
        &json!({"metadata": {"annotations": {"stepgate.dev/hold": "released"}}, "spec": {"paused": null}}),
    );
    simulator.until_stable("v2", 200);
    assert!(simulator.status().failed.is_none());
}

#[test]
fn a_persons_own_pause_is_left_alone() {
    let mut simulator = Simulator::adopted(&json!({}));
    simulator.cluster.weather.policy = false;
    simulator.cluster.change_deployment(&json!({"spec": {"paused": true}}));
    simulator.run_for(30);
    assert!(simulator.status().message.unwrap().contains("paused by somebody else"));
    simulator.cluster.ship("v2");
    simulator.run_for(300);
    let status = simulator.status();
    assert!(
        status.run.is_none() && status.message.as_ref().unwrap().contains("un-pause it"),
        "{status:?}"
    );
    assert_eq!(
        simulator.cluster.api.get("Deployment", "checkout").unwrap()["spec"]["paused"],
        true
    );
}

#[test]
fn bad_input_is_named_and_mended_input_is_taken_up() {
    type Break = fn(&mut Simulator);
    let cases: [(&str, Break, Break); 4] = [
        (
            "Deployment shop/checkout does not exist",
            |simulator| simulator.cluster.api.delete("Deployment", "checkout"),
            |simulator| {
                simulator.cluster.api.create("Deployment", cluster::deployment("v1"));
            },
        ),
        (
            "HTTPRoute shop/checkout does not exist",
            |simulator| simulator.cluster.api.delete("HTTPRoute", "checkout"),
            |simulator| {
                simulator.cluster.api.create("HTTPRoute", route());
            },
        ),
        (
            "Service shop/checkout, static does not exist",
            |simulator| {
                simulator.cluster.api.delete("Service", "checkout");
                simulator.cluster.api.delete("Service", "static");
            },
            |simulator| {
                simulator.cluster.api.create("Service", cluster::service());
            },
        ),
        (
            "no Service in the route (checkout, static) selects a pod",
            |simulator| {
                simulator.cluster.api.update("Service", "checkout", |object| {
                    object["spec"]["selector"] = json!({"app": "other"});
                });
            },
            |simulator| {
                simulator.cluster.api.update("Service", "checkout", |object| {
                    object["spec"]["selector"] = json!({"app": "checkout"});
                });
            },
        ),
    ];
    for (message, spoil, mend) in cases {
        let mut simulator = Simulator::new();
        spoil(&mut simulator);
        simulator.cluster.api.create("Rollout", cluster::rollout(&json!({})));
        simulator.until_phase(Phase::Blocked, 30);
        simulator.run_for(600);
        let status = simulator.status();
        assert!(
            status.message.as_ref().unwrap().contains(message),
            "{:?}",
            status.message
        );
        assert!(simulator.writes.len() <= 2, "{}", simulator.timeline());
        assert!(
            simulator.writes.iter().all(|write| write.on == "status"),
            "{}",
            simulator.timeline()
        );
        assert_eq!(status.note.unwrap().text, status.message.unwrap());
        mend(&mut simulator);
        simulator.until_phase(Phase::Healthy, 60);
    }
}

#[test]
fn a_second_rollout_for_one_deployment_writes_nothing_but_its_own_status() {
    let mut simulator = Simulator::adopted(&json!({}));
    let mut second = cluster::rollout(&json!({}));
    second["metadata"]["name"] = json!("second");
    simulator.cluster.api.create("Rollout", second);
    simulator.watch("second");
    simulator.run_for(120);
    assert!(
        simulator
            .status()
            .message
            .unwrap()
            .contains("managed by Rollout checkout")
    );
    assert!(
        simulator.writes.iter().all(|write| write.on == "status"),
        "{}",
        simulator.timeline()
    );
}

#[test]
fn the_mark_of_another_rollout_on_the_route_is_kept_beside_ours() {
    let mut simulator = Simulator::adopted(&json!({}));
    simulator.cluster.api.update("HTTPRoute", "checkout", |object| {
        object["metadata"]["annotations"]["stepgate.dev/run"] = json!("0000ffff-3.7");
    });
    let mark = |simulator: &Simulator| {
        simulator.cluster.api.get("HTTPRoute", "checkout").unwrap()["metadata"]["annotations"]["stepgate.dev/run"]
            .as_str()
            .map(str::to_owned)
    };
    simulator.ship("v2");
    simulator.until("10 %", 60, |simulator| simulator.status().weight == Some(10));
    let both = mark(&simulator).unwrap();
    assert!(both.split(' ').count() == 2 && both.contains("0000ffff-3.7"), "{both}");
    simulator.until_stable("v2", 1_200);
    assert_eq!(mark(&simulator).as_deref(), Some("0000ffff-3.7"));
}

#[test]
fn a_deployment_that_is_made_anew_ends_the_run_and_is_adopted() {
    let mut simulator = Simulator::at_step(&json!({}), 3);
    simulator.cluster.api.delete("Deployment", "checkout");
    simulator.run_for(60);
    // Nothing else serves: the canary keeps what it has.
    assert_eq!(live_weight(&simulator), 50);
    simulator.cluster.api.create("Deployment", cluster::deployment("v4"));
    simulator.until_stable("v4", 200);
    assert_eq!(last_outcome(&simulator).0, Outcome::Replaced);
    assert_at_rest_as_written(&simulator);
}

#[test]
fn steps_are_those_of_the_start_and_an_edit_goes_for_the_next_run() {
    let mut simulator = Simulator::at_step(&json!({}), 1);
    simulator.cluster.api.update("Rollout", "checkout", |object| {
        object["spec"]["steps"] = json!([{"weight": 100}]);
    });
    simulator.until("it is said", 100, |simulator| {
        simulator
            .status()
            .message
            .unwrap()
            .contains("edit goes for the next run")
    });
    simulator.until_stable("v2", 1_200);
    simulator.ship("v3");
    simulator.until("a run", 60, |simulator| simulator.status().run.is_some());
    assert_eq!(simulator.status().run.unwrap().spec.steps.len(), 1);
    simulator.until_stable("v3", 600);
}

#[test]
fn stable_that_grows_in_mid_run_grows_the_canary_before_it_gets_more() {
    let mut simulator = Simulator::at_step(&json!({}), 2);
    simulator.cluster.change_deployment(&json!({"spec": {"replicas": 10}}));
    simulator.run_for(10);
    assert_eq!(simulator.cluster.ready("checkout-canary"), 3);
    simulator.until_stable("v2", 1_200);
    assert!(simulator.cluster.controllers.unanswered < 0.5);
}

/// A second route to the same Service, by another gateway, with a weight of its own.
fn with_a_second_route() -> Simulator {
    let mut simulator = Simulator::new();
    let mut second = route();
    second["metadata"]["name"] = json!("internal");
    second["spec"]["rules"][0]["backendRefs"][0]["weight"] = json!(2);
    second["spec"]["parentRefs"][0]["name"] = json!("inside");
    simulator.cluster.api.create("HTTPRoute", second);
    simulator.run_for(10);
    let routes = json!({"traffic": {"routes": [{"kind": "HTTPRoute", "name": "checkout"}, {"kind": "HTTPRoute", "name": "internal"}]}});
    simulator.cluster.api.create("Rollout", cluster::rollout(&routes));
    simulator.until_phase(Phase::Healthy, 60);
    simulator.ship("v2");
    simulator
}

fn spec(simulator: &Simulator, name: &str) -> serde_json::Value {
    simulator.cluster.api.get("HTTPRoute", name).unwrap()["spec"].clone()
}

#[test]
fn several_routes_move_together_and_are_each_restored_to_their_own() {
    let mut simulator = with_a_second_route();
    let internal = {
        let mut internal = route()["spec"].clone();
        internal["rules"][0]["backendRefs"][0]["weight"] = json!(2);
        internal["parentRefs"][0]["name"] = json!("inside");
        internal
    };
    let mut seen = Vec::new();
    for _ in 0..600 {
        simulator.tick();
        seen.push((
            canary_weight(&spec(&simulator, "checkout")),
            canary_weight(&spec(&simulator, "internal")),
        ));
        seen.dedup();
    }
    assert_eq!(
        seen,
        [(0, 0), (10, 10), (30, 30), (50, 50), (100, 100), (0, 0)],
        "{}",
        simulator.timeline()
    );
    simulator.until_stable("v2", 1);
    assert_at_rest_as_written(&simulator);
    assert_eq!(spec(&simulator, "internal"), internal);
    assert!(simulator.cluster.controllers.unanswered < 0.5);
}

#[test]
fn one_route_of_two_that_is_gone_holds_the_run_and_lets_it_go_back() {
    let mut simulator = with_a_second_route();
    simulator.until("30 %", 400, |simulator| simulator.status().weight == Some(30));
    simulator.cluster.api.delete("HTTPRoute", "internal");
    simulator.run_for(600);
    let status = simulator.status();
    assert_eq!(status.weight, Some(30));
    assert!(
        status.message.unwrap().contains("HTTPRoute internal is gone"),
        "{}",
        simulator.timeline()
    );
    simulator.command(Verb::Abort);
    simulator.until_phase(Phase::Failed, 60);
    assert_at_rest_as_written(&simulator);
}

#[test]
fn drift_of_one_route_of_two_is_put_right_in_both_under_one_intent() {
    let mut simulator = with_a_second_route();
    simulator.until("30 %", 400, |simulator| simulator.status().weight == Some(30));
    simulator.cluster.weigh_by_hand(80);
    simulator.run_for(1);
    let marks = |name: &str| {
        simulator.cluster.api.get("HTTPRoute", name).unwrap()["metadata"]["annotations"]["stepgate.dev/run"].clone()
    };
    assert_eq!(canary_weight(&spec(&simulator, "checkout")), 30);
    assert_eq!(marks("checkout"), marks("internal"));
    simulator.until_stable("v2", 1_200);
}

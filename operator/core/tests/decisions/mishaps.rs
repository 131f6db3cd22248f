//! Lives in which somebody interferes: pods that go, weights and rules that are changed by hand.

use serde_json::json;
use stepgate_crds::{command::Verb, status::Phase};

use super::lives::{assert_at_rest_as_written, last_outcome, live_weight};
use crate::fixtures::{
    cluster::route,
    simulator::{Simulator, Write},
};

#[test]
fn a_canary_whose_pods_are_gone_has_no_traffic_at_once_goes_on_when_they_are_back_and_fails_the_third_time() {
    let mut simulator = Simulator::at_step(&json!({}), 3);
    for loss in 1..=3 {
        simulator.cluster.weather.broken.push("v2".to_owned());
        simulator.run_for(2);
        assert_eq!(live_weight(&simulator), 0, "{}", simulator.timeline());
        if loss < 3 {
            simulator.run_for(60);
            assert!(simulator.is_in("Retreated"), "{}", simulator.timeline());
            simulator.cluster.weather.broken.clear();
            simulator.until("half of the traffic is on it again", 60, |simulator| {
                simulator.status().weight == Some(50)
            });
        }
    }
    simulator.until_phase(Phase::Failed, 60);
    assert_eq!(last_outcome(&simulator).1.as_deref(), Some("CanaryLost"));
}

#[test]
fn a_canary_that_dies_before_its_weight_is_accepted_is_taken_back_too() {
    let mut simulator = Simulator::adopted(&json!({}));
    simulator.ship("v2");
    simulator.until("10 % is written", 60, |simulator| live_weight(simulator) == 10);
    simulator.cluster.weather.broken.push("v2".to_owned());
    simulator.cluster.weather.gateway_delay = Some(20);
    simulator.run_for(2);
    assert_eq!(live_weight(&simulator), 0, "{}", simulator.timeline());
    // Counting had not begun then; it does when the canary is back.
    simulator.cluster.weather.broken.clear();
    simulator.cluster.weather.gateway_delay = Some(1);
    simulator.until_stable("v2", 1_200);
}

#[test]
fn while_stable_has_no_ready_pod_the_canary_serves_on() {
    let mut simulator = Simulator::at_step(&json!({}), 3);
    simulator.cluster.weather.broken.push("v1".to_owned());
    simulator.run_for(1);
    simulator.command(Verb::Abort);
    simulator.run_for(300);
    assert_eq!(live_weight(&simulator), 50, "{}", simulator.timeline());
    assert!(simulator.status().message.unwrap().contains("has no ready pod"));
    simulator.cluster.weather.broken.clear();
    simulator.until_phase(Phase::Failed, 60);
}

#[test]
fn weights_that_somebody_changed_are_put_right_and_the_step_is_judged_anew() {
    let mut simulator = Simulator::at_step(&json!({}), 2);
    simulator.run_for(20);
    simulator.cluster.weigh_by_hand(90);
    simulator.run_for(1);
    assert_eq!(live_weight(&simulator), 30);
    simulator.until_stable("v2", 1_200);
    assert_at_rest_as_written(&simulator);
}

#[test]
fn weight_that_somebody_gives_a_draining_canary_is_taken_off_and_it_drains_anew() {
    let mut simulator = Simulator::at_step(&json!({}), 2);
    simulator.command(Verb::Abort);
    simulator.until("Draining", 30, |simulator| simulator.is_in("Draining"));
    simulator.run_for(8);
    simulator.cluster.weigh_by_hand(40);
    simulator.run_for(8);
    assert_eq!(live_weight(&simulator), 0);
    assert_eq!(
        simulator.cluster.ready("checkout-canary"),
        2,
        "{}",
        simulator.timeline()
    );
    simulator.until_phase(Phase::Failed, 60);
    assert!(simulator.cluster.controllers.unanswered < 0.5);
}

#[test]
fn a_rule_put_in_front_in_mid_run_is_managed_and_keeps_its_own_weight_at_the_end() {
    let mut simulator = Simulator::at_step(&json!({}), 2);
    let rule = json!({"matches": [{"path": {"type": "Exact", "value": "/new"}}], "backendRefs": [{"name": "checkout", "port": 80, "weight": 3}]});
    simulator
        .cluster
        .edit_route(|spec| spec["rules"].as_array_mut().unwrap().insert(0, rule.clone()));
    simulator.until_stable("v2", 1_200);
    let mut meant = route()["spec"].clone();
    meant["rules"].as_array_mut().unwrap().insert(0, rule);
    assert_eq!(
        simulator.cluster.api.get("HTTPRoute", "checkout").unwrap()["spec"],
        meant,
        "{}",
        simulator.timeline()
    );
}

#[test]
fn a_route_that_no_longer_names_the_stable_service_stalls_without_a_write_and_can_be_aborted() {
    let mut simulator = Simulator::at_step(&json!({}), 2);
    simulator.cluster.edit_route(|spec| {
        spec["rules"][0]["backendRefs"][0]["name"] = json!("static");
    });
    simulator.run_for(5);
    let written = simulator.writes.iter().filter(|write| !write.refresh).count();
    simulator.run_for(300);
    assert_eq!(
        simulator.writes.iter().filter(|write| !write.refresh).count(),
        written,
        "{}",
        simulator.timeline()
    );
    assert!(simulator.status().message.unwrap().contains("no longer to checkout"));
    simulator.command(Verb::Abort);
    simulator.until_phase(Phase::Failed, 120);
    let refs = simulator.cluster.api.get("HTTPRoute", "checkout").unwrap()["spec"]["rules"][0]["backendRefs"].clone();
    assert_eq!(refs.as_array().unwrap().len(), 1, "{refs}");
}

#[test]
fn a_template_put_back_in_promotion_rolls_back_under_the_canary_and_then_takes_the_traffic() {
    let mut simulator = Simulator::at_step(&json!({}), 3);
    simulator.cluster.weather.pod_delay = 20;
    simulator.until("Promoting", 1_200, |simulator| simulator.is_in("Promoting"));
    simulator.run_for(5);
    simulator.cluster.ship("v1");
    simulator.until_phase(Phase::Healthy, 600);
    simulator.run_for(60);
    assert_eq!(last_outcome(&simulator).1.as_deref(), Some("TemplatePutBack"));
    assert_at_rest_as_written(&simulator);
    assert!(simulator.cluster.controllers.unanswered < 0.5);
}

#[test]
fn a_version_that_somebody_releases_in_mid_run_ends_the_run_and_is_adopted() {
    let mut simulator = Simulator::at_step(&json!({}), 2);
    simulator.cluster.change_deployment(
        &json!({"metadata": {"annotations": {"stepgate.dev/hold": "released"}}, "spec": {"paused": null}}),
    );
    simulator.until_stable("v2", 600);
    assert_eq!(last_outcome(&simulator).1.as_deref(), Some("Released"));
    assert_at_rest_as_written(&simulator);
}

#[test]
fn a_released_deployment_is_held_again_before_it_is_said_to_be_healthy() {
    let mut simulator = Simulator::at_step(&json!({}), 1);
    simulator.cluster.change_deployment(
        &json!({"metadata": {"annotations": {"stepgate.dev/hold": "released"}}, "spec": {"paused": null}}),
    );
    simulator.until_phase(Phase::Healthy, 600);
    let place = |on: &str, what: &str| {
        let written = |write: &Write| write.on == on && write.what.contains(what);
        simulator.writes.iter().position(written)
    };
    let held = place("Deployment checkout", "\"stepgate.dev/hold\":null");
    let healthy = place("status", "Healthy");
    assert!(held.is_some() && held < healthy, "{}", simulator.timeline());
}

#[test]
fn a_failed_version_whose_record_is_gone_is_not_tried_again_but_by_a_person() {
    let mut simulator = Simulator::at_step(&json!({}), 1);
    simulator.command(Verb::Abort);
    simulator.until_phase(Phase::Failed, 60);
    let record = simulator.status().failed.unwrap().template;
    simulator.cluster.api.delete("PodTemplate", &record);
    simulator.run_for(600);
    let status = simulator.status();
    assert!(status.run.is_none(), "{}", simulator.timeline());
    assert!(status.message.unwrap().contains("kubectl stepgate retry"));
    simulator.command(Verb::Retry);
    simulator.until_stable("v2", 1_200);
}

#[test]
fn the_deletion_of_a_rollout_whose_promotion_never_ends_comes_to_its_end() {
    let mut simulator = Simulator::at_step(&json!({}), 3);
    simulator.until("Promoting", 1_200, |simulator| simulator.is_in("Promoting"));
    simulator.cluster.change_deployment(&json!({"spec": {"replicas": 0}}));
    simulator.cluster.api.delete("Rollout", "checkout");
    simulator.until("the end of the Rollout", 2_400, |simulator| {
        simulator.cluster.api.get("Rollout", "checkout").is_none()
    });
    assert!(simulator.cluster.api.get("Deployment", "checkout-canary").is_none());
}

#[test]
fn a_promotion_that_lost_its_canary_comes_to_its_end_though_the_deployment_grows() {
    let mut simulator = Simulator::at_step(&json!({}), 1);
    simulator.promote_fully();
    simulator.until("Promoting", 60, |simulator| simulator.is_in("Promoting"));
    simulator.run_for(4);
    simulator.cluster.kill_pods("checkout-canary");
    simulator.run_for(1);
    assert_eq!(live_weight(&simulator), 0, "{}", simulator.timeline());
    simulator.cluster.change_deployment(&json!({"spec": {"replicas": 5}}));
    simulator.until_phase(Phase::Healthy, 400);
    assert_at_rest_as_written(&simulator);
}

#[test]
fn a_step_at_0_percent_waits_for_a_person_and_then_all_the_traffic_moves() {
    let steps =
        json!({"steps": [{"weight": 0, "bake": "10s", "approval": "Required"}, {"weight": 100, "bake": "10s"}]});
    let mut simulator = Simulator::adopted(&steps);
    simulator.ship("v2");
    simulator.until_phase(Phase::Paused, 120);
    assert_eq!(live_weight(&simulator), 0);
    simulator.command(Verb::Promote);
    simulator.until("100 %", 120, |simulator| live_weight(simulator) == 100);
    simulator.until_stable("v2", 1_200);
}

//! What is written, byte by byte: route patches, and the canary's Deployment and Service.

use serde_json::{Value, json};
use stepgate_core::{Act, Effect, canary, route::Managed};
use stepgate_crds::status::OriginalRule;

use crate::fixtures::{
    cluster::{self, route},
    observed::{self, route_view},
    patch,
    simulator::Simulator,
};

pub(super) const MANAGED: Managed<'_> = Managed::new(None, "checkout", "checkout-canary");
pub(super) const MARK: &str = "0000000b-2.3";

fn read(mut route: Value) -> Value {
    route["metadata"]["uid"] = json!("uid-1");
    route["metadata"]["resourceVersion"] = json!("7");
    route["metadata"]["generation"] = json!(3);
    route
}

fn operations(effect: &Effect) -> Vec<Value> {
    let Act::Patch(operations) = &effect.act else {
        panic!("{effect:?}")
    };
    operations.clone()
}

pub(super) fn applied(route: &Value, effect: &Effect) -> Value {
    patch::json_patch(route, &operations(effect)).unwrap()
}

#[test]
fn the_first_weight_adds_the_canary_beside_stable_with_all_its_fields() {
    let before = read(route());
    let effect = MANAGED.set_weight(&route_view(&before), 0, MARK);
    insta::assert_json_snapshot!("first_weight", operations(&effect));
    let after = applied(&before, &effect);
    insta::assert_json_snapshot!("first_weight_applied", after["spec"]["rules"]);
}

#[test]
fn a_route_without_annotations_gets_the_map_with_the_mark() {
    let mut before = route();
    before["metadata"].as_object_mut().unwrap().remove("annotations");
    let before = read(before);
    let effect = MANAGED.set_weight(&route_view(&before), 10, MARK);
    insta::assert_json_snapshot!("without_annotations", operations(&effect));
    assert_eq!(
        applied(&before, &effect)["metadata"]["annotations"],
        json!({"stepgate.dev/run": MARK})
    );
}

#[test]
fn the_next_weight_replaces_two_numbers_and_the_mark() {
    let first = applied(
        &read(route()),
        &MANAGED.set_weight(&route_view(&read(route())), 10, "0000000b-2.2"),
    );
    let effect = MANAGED.set_weight(&route_view(&first), 30, MARK);
    insta::assert_json_snapshot!("next_weight", operations(&effect));
}

fn several_rules() -> Value {
    let mut route = route();
    let rules = route["spec"]["rules"].as_array_mut().unwrap();
    rules[0]["name"] = json!("main");
    rules.push(json!({"name": "beta", "backendRefs": [
        {"name": "retired", "port": 80, "weight": 0},
        {"name": "checkout", "port": 80, "weight": 3},
    ]}));
    rules.push(
        json!({"name": "other-namespace", "backendRefs": [{"name": "checkout", "namespace": "elsewhere", "port": 80}]}),
    );
    rules.push(json!({"name": "redirect", "filters": [{"type": "RequestRedirect"}]}));
    read(route)
}

#[test]
fn every_rule_that_names_the_stable_service_is_managed_under_its_name() {
    let effect = MANAGED.set_weight(&route_view(&several_rules()), 30, MARK);
    insta::assert_json_snapshot!("several_rules", operations(&effect));
}

#[test]
fn only_the_rules_that_the_rollout_names_are_managed() {
    let names = ["beta".to_owned()];
    let managed = Managed {
        rules: Some(&names),
        ..MANAGED
    };
    let before = several_rules();
    let effect = managed.set_weight(&route_view(&before), 30, MARK);
    insta::assert_json_snapshot!("named_rules", operations(&effect));
    let after = applied(&before, &effect);
    assert_eq!(after["spec"]["rules"][0], before["spec"]["rules"][0]);
}

#[test]
fn a_restored_route_is_the_same_json_as_before() {
    let mut unweighted = route();
    unweighted["spec"]["rules"][0]["backendRefs"][0]
        .as_object_mut()
        .unwrap()
        .remove("weight");
    let mut own_canary = route();
    own_canary["spec"]["rules"][0]["backendRefs"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "checkout-canary", "port": 80, "weight": 0}));
    for before in [read(route()), read(unweighted), read(own_canary), several_rules()] {
        let original = MANAGED.original(&route_view(&before));
        let mut now = before.clone();
        for weight in [0, 10, 100] {
            now = applied(&now, &MANAGED.set_weight(&route_view(&now), weight, MARK));
        }
        now = applied(&now, &MANAGED.take_back(&route_view(&now), 0, MARK));
        let effect = MANAGED.restore(&route_view(&now), &original, MARK).unwrap();
        assert_eq!(applied(&now, &effect), before);
        assert_eq!(
            MANAGED.restore(&route_view(&before), &original, MARK),
            None,
            "restored is restored"
        );
    }
}

#[test]
fn the_restoring_patch_of_a_route() {
    let before = read(route());
    let original = MANAGED.original(&route_view(&before));
    let now = applied(&before, &MANAGED.set_weight(&route_view(&before), 0, MARK));
    let effect = MANAGED.restore(&route_view(&now), &original, MARK).unwrap();
    insta::assert_json_snapshot!("restore", operations(&effect));
}

#[test]
fn a_rule_put_in_front_is_restored_by_its_own_place() {
    let before = read(route());
    let original = MANAGED.original(&route_view(&before));
    let mut now = applied(&before, &MANAGED.set_weight(&route_view(&before), 30, MARK));
    let rule = json!({"backendRefs": [{"name": "checkout", "port": 80, "weight": 3}]});
    now["spec"]["rules"].as_array_mut().unwrap().insert(0, rule.clone());
    let original = MANAGED.original_now(&route_view(&now), &original);
    let weights: Vec<_> = original
        .iter()
        .map(|rule: &OriginalRule| (rule.index, rule.stable_weight))
        .collect();
    assert_eq!(weights, [(0, Some(3)), (1, Some(7))]);
    let both = MANAGED.set_weight(&route_view(&now), 30, MARK);
    insta::assert_json_snapshot!("rule_in_front", operations(&both));
    now = applied(&now, &both);
    now = applied(&now, &MANAGED.restore(&route_view(&now), &original, MARK).unwrap());
    let mut meant = before;
    meant["spec"]["rules"].as_array_mut().unwrap().insert(0, rule);
    assert_eq!(now, meant);
}

#[test]
fn the_way_back_adds_nothing_and_takes_the_canary_off_a_rule_that_lost_stable() {
    let before = read(route());
    let mut now = applied(&before, &MANAGED.set_weight(&route_view(&before), 30, MARK));
    now["spec"]["rules"][0]["backendRefs"][0]["name"] = json!("renamed");
    now["spec"]["rules"][1]["backendRefs"][0]["name"] = json!("checkout");
    assert!(!MANAGED.is_back(&route_view(&now), 0, MARK));
    let effect = MANAGED.take_back(&route_view(&now), 0, MARK);
    insta::assert_json_snapshot!("take_back", operations(&effect));
    let now = applied(&now, &effect);
    assert!(MANAGED.is_back(&route_view(&now), 0, MARK));
    let restored = applied(&now, &MANAGED.restore(&route_view(&now), &[], MARK).unwrap());
    assert_eq!(restored["spec"]["rules"][0]["backendRefs"].as_array().unwrap().len(), 1);
}

#[test]
fn a_patch_fails_where_the_route_moved_on_or_its_rules_moved() {
    let before = read(route());
    let effect = MANAGED.set_weight(&route_view(&before), 30, MARK);
    for (path, value) in [
        ("/metadata/resourceVersion", json!("8")),
        ("/metadata/uid", json!("another")),
        ("/spec/rules/0/backendRefs/0/name", json!("static")),
    ] {
        let mut moved = before.clone();
        *moved.pointer_mut(path).unwrap() = value;
        assert!(patch::json_patch(&moved, &operations(&effect)).is_err(), "{path}");
    }
}

#[test]
fn the_mark_of_another_rollout_stays() {
    let mut before = read(route());
    before["metadata"]["annotations"]["stepgate.dev/run"] = json!("0000ffff-1.1");
    assert_eq!(
        MANAGED.restore(&route_view(&before), &MANAGED.original(&route_view(&before)), MARK),
        None
    );
}

/// The canary's Deployment and Service for an application that looks like this.
fn made(deployment: &Value, service: &Value) -> (Value, Value) {
    let mut simulator = Simulator::new();
    simulator.cluster.api.delete("Deployment", "checkout");
    simulator.cluster.api.delete("Service", "checkout");
    simulator.cluster.api.create("Deployment", deployment.clone());
    simulator.cluster.api.create("Service", service.clone());
    simulator.run_for(30);
    simulator.cluster.api.create("Rollout", cluster::rollout(&json!({})));
    simulator.until_phase(stepgate_crds::status::Phase::Healthy, 60);
    simulator.ship("v2");
    simulator.until("a run", 30, |simulator| simulator.status().run.is_some());
    let seen = simulator.seen();
    let (run, found) = (
        seen.rollout.status.run.as_ref().unwrap(),
        seen.rollout.status.found.as_ref().unwrap(),
    );
    let survey = observed::survey(&simulator.cluster, "checkout").unwrap();
    let stable = survey
        .services
        .iter()
        .find(|service| service.name == "checkout")
        .unwrap();
    let mut workload = survey.workload.clone();
    workload["spec"].as_object_mut().unwrap().remove("paused");
    (
        canary::deployment(&seen.rollout, run, found, &workload, 2),
        canary::service(&seen.rollout, run, found, &stable.spec),
    )
}

#[test]
fn the_canary_of_an_unprepared_application() {
    let mut deployment = cluster::deployment("v1");
    deployment["metadata"]["labels"] = json!({"argocd.argoproj.io/instance": "shop"});
    deployment["metadata"]["annotations"] = json!({"argocd.argoproj.io/tracking-id": "shop:apps"});
    deployment["spec"]["template"]["metadata"]["annotations"] = json!({"scrape": "true"});
    let (deployment, service) = made(&deployment, &cluster::service());
    insta::assert_json_snapshot!("unprepared_deployment", deployment);
    insta::assert_json_snapshot!("unprepared_service", service);
}

#[test]
fn the_canary_of_a_prepared_application() {
    let mut deployment = cluster::deployment("v1");
    deployment["spec"]["template"]["metadata"]["labels"]["track"] = json!("stable");
    let mut service = cluster::service();
    service["spec"]["selector"]["track"] = json!("stable");
    let (deployment, service) = made(&deployment, &service);
    insta::assert_json_snapshot!("prepared_deployment", deployment);
    insta::assert_json_snapshot!("prepared_service", service);
}

#[test]
fn a_headless_service_with_its_traffic_settings_has_a_headless_twin_without_node_ports() {
    let mut service = cluster::service();
    service["spec"] = json!({
        "clusterIP": "None", "clusterIPs": ["None"], "type": "ClusterIP",
        "selector": {"app": "checkout"}, "trafficDistribution": "PreferClose", "sessionAffinity": "ClientIP",
        "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
        "ports": [
            {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP", "appProtocol": "kubernetes.io/h2c", "nodePort": 30_080},
            {"name": "metrics", "port": 9090, "targetPort": 9090, "protocol": "TCP"},
        ],
    });
    let (_, service) = made(&cluster::deployment("v1"), &service);
    insta::assert_json_snapshot!("headless_service", service);
}

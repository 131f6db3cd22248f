//! The events of `docs/behaviour.md`: what people, tools and the cluster do.

use serde_json::json;
use stepgate_crds::command::Verb;

use crate::fixtures::{controllers::Metrics, simulator::Simulator};

/// So many seconds after the beginning this happens.
type Part = (i64, fn(&mut Simulator));

/// An event: its name in the document, and what happens.
pub(super) struct Event {
    pub name: &'static str,
    pub parts: &'static [Part],
}

macro_rules! events {
    ($($name:literal: $($at:literal => $happens:expr),+;)+) => {
        /// All events, in the order of the document; the first is that nothing happens.
        pub(super) const EVENTS: &[Event] = &[
            Event { name: "nothing", parts: &[] },
            $(Event { name: $name, parts: &[$(($at, $happens)),+] }),+
        ];
    };
}

fn scale(simulator: &mut Simulator, replicas: i64) {
    simulator
        .cluster
        .change_deployment(&json!({"spec": {"replicas": replicas}}));
}

/// The Rollout's analysis says this besides.
fn says(simulator: &mut Simulator, rules: &serde_json::Value) {
    simulator.cluster.api.update("Rollout", "checkout", |object| {
        for (rule, said) in rules.as_object().unwrap() {
            object["spec"]["analysis"][rule] = said.clone();
        }
    });
}

fn fails(simulator: &mut Simulator, versions: &[&str], share: f64) {
    simulator.cluster.weather.requests = 600.0;
    for version in versions {
        simulator.cluster.weather.errors.insert((*version).to_owned(), share);
    }
}

events! {
    "a new template": 0 => |simulator| simulator.ship("v3");
    "stable's template put back": 0 => |simulator| simulator.ship("v1");
    "the template of a version older than stable": 0 => |simulator| simulator.ship("v0");
    "the new template applied again every 5 s": 0 => |simulator| {
        simulator.cluster.weather.gitops_deployment = Some((5, "v2".to_owned()));
    };
    "5 % of the new version's requests fail": 0 => |simulator| fails(simulator, &["v2"], 0.05);
    "all of the new version's requests fail": 0 => |simulator| fails(simulator, &["v2"], 1.0);
    "half of both versions' requests fail, for 5 min":
        0 => |simulator| fails(simulator, &["v1", "v2"], 0.5),
        300 => |simulator| simulator.cluster.weather.errors.clear();
    "no request to the canary is counted": 0 => |simulator| simulator.cluster.weather.metrics = Metrics::Deaf;
    "the metrics source is gone": 0 => |simulator| simulator.cluster.weather.metrics = Metrics::Down;
    "the metrics source is gone, and onNoData says Rollback after 1 min": 0 => |simulator| {
        says(simulator, &json!({"onNoData": {"after": "1m", "then": "Rollback"}}));
        simulator.cluster.weather.metrics = Metrics::Down;
    };
    "the metrics source is gone, and onNoData says Retreat after 1 min": 0 => |simulator| {
        says(simulator, &json!({"onNoData": {"after": "1m", "then": "Retreat"}}));
        simulator.cluster.weather.metrics = Metrics::Down;
    };
    "too few requests for a verdict, and onInconclusive says Rollback after 5 min": 0 => |simulator| {
        says(simulator, &json!({"onInconclusive": {"after": "5m", "then": "Rollback"}}));
        simulator.cluster.weather.requests = 5.0;
    };
    "too few requests for a verdict, and onInconclusive says Advance after 5 min": 0 => |simulator| {
        says(simulator, &json!({"onInconclusive": {"after": "5m", "then": "Advance"}}));
        simulator.cluster.weather.requests = 5.0;
    };
    "all canary pods are killed once": 0 => |simulator| simulator.cluster.kill_pods("checkout-canary");
    "the new version is never ready again": 0 => |simulator| simulator.cluster.weather.broken.push("v2".to_owned());
    "the new version crash-loops": 0 => |simulator| simulator.cluster.weather.crashing.push("v2".to_owned());
    "the canary Deployment is deleted": 0 => |simulator| simulator.cluster.api.delete("Deployment", "checkout-canary");
    "stable has no ready pod": 0 => |simulator| simulator.cluster.weather.broken.push("v1".to_owned());
    "stable's ReplicaSet is deleted": 0 => |simulator| simulator.cluster.delete_replica_set("v1", true);
    "the Deployment is scaled to 1": 0 => |simulator| scale(simulator, 1);
    "the Deployment is scaled to 0 and back": 0 => |simulator| scale(simulator, 0), 10 => |simulator| scale(simulator, 4);
    "the Deployment is deleted": 0 => |simulator| simulator.cluster.api.delete("Deployment", "checkout");
    "the Deployment is made anew with stable's template": 0 => |simulator| simulator.cluster.recreate_deployment("v1");
    "the Deployment is made anew with a new template": 0 => |simulator| simulator.cluster.recreate_deployment("v3");
    "somebody takes the weights to stable once": 0 => |simulator| simulator.cluster.weigh_by_hand(0);
    "somebody puts the user's route back every 5 s": 0 => |simulator| simulator.cluster.weather.gitops_route = Some(5);
    "somebody gives the canary 90 %": 0 => |simulator| simulator.cluster.weigh_by_hand(90);
    "somebody removes the canary's backendRef": 0 => |simulator| simulator.cluster.edit_route(|spec| {
        for rule in spec["rules"].as_array_mut().unwrap() {
            rule["backendRefs"].as_array_mut().unwrap().retain(|one| one["name"] != "checkout-canary");
        }
    });
    "the route is deleted": 0 => |simulator| simulator.cluster.api.delete("HTTPRoute", "checkout");
    "no gateway accepts anything any more": 0 => |simulator| simulator.cluster.weather.gateway_delay = None;
    "kubectl stepgate abort": 0 => |simulator| simulator.command(Verb::Abort);
    "kubectl stepgate promote": 0 => |simulator| simulator.command(Verb::Promote);
    "kubectl stepgate promote --full": 0 => Simulator::promote_fully;
    "kubectl stepgate pause": 0 => |simulator| simulator.command(Verb::Pause);
    "kubectl stepgate resume": 0 => |simulator| simulator.command(Verb::Resume);
    "kubectl stepgate retry": 0 => |simulator| simulator.command(Verb::Retry);
    "kubectl stepgate undo": 0 => |simulator| simulator.command(Verb::Undo);
    "kubectl stepgate release": 0 => |simulator| simulator.cluster.change_deployment(
        &json!({"metadata": {"annotations": {"stepgate.dev/hold": "released"}}, "spec": {"paused": null}}),
    );
    "kubectl rollout pause": 0 => |simulator| simulator.cluster.change_deployment(&json!({"spec": {"paused": true}}));
    "spec.suspend becomes true": 0 => |simulator| simulator.cluster.suspend(true);
    "spec.suspend becomes true, and false again after 60 s":
        0 => |simulator| simulator.cluster.suspend(true),
        60 => |simulator| simulator.cluster.suspend(false);
    "spec.suspend becomes false": 0 => |simulator| simulator.cluster.suspend(false);
    "the Rollout is deleted": 0 => |simulator| simulator.cluster.api.delete("Rollout", "checkout");
    "the Rollout's spec is edited": 0 => |simulator| simulator.cluster.api.update("Rollout", "checkout", |object| {
        object["spec"]["steps"] = json!([{"weight": 20}, {"weight": 100}]);
    });
    "the operator crashes, another leads after 30 s": 0 => |simulator| simulator.crash(30);
}

//! Moments of a rollout's life as the objects that the API server holds then, and what the operator reads of them: through the narrow
//! types and the mirrors, as the operator itself does.

use kube::runtime::watcher::Event;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stepgate::{kinds, world};
use stepgate_core::input::{OwnedView, Seen};
use stepgate_crds::{command::Verb, names, status::Phase};

use crate::fixtures::{observed::Observed, simulator::Simulator};

/// What an object is to the Rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Workload,
    Canary,
    CanaryService,
    Route(usize),
    Template(String),
    ReplicaSet,
    StableSlice,
    CanarySlice,
    Pod,
    Service,
    NetworkPolicy,
    DisruptionBudget,
    TlsPolicy,
    VolumeClaim,
}

/// An object.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub role: Role,
    pub json: Value,
}

/// One moment.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub name: String,
    pub seen: Observed,
    pub rollout: Value,
    pub objects: Vec<Object>,
}

/// The moments that are looked at: each phase, and a held version.
pub(crate) fn all() -> Vec<Moment> {
    let mut moments = vec![at("held", &held()), at("step 2", &Simulator::at_step(&json!({}), 2))];
    for phase in [Phase::Preparing, Phase::Promoting, Phase::Returning, Phase::Draining] {
        let mut simulator = held();
        simulator.until_phase(phase, 1_200);
        moments.push(at(phase.as_str(), &simulator));
    }
    for phase in [Phase::RollingBack, Phase::Failed] {
        let mut simulator = Simulator::at_step(&json!({}), 2);
        simulator.cluster.weather.gateway_delay = (phase == Phase::Failed).then_some(1);
        simulator.command(Verb::Abort);
        simulator.until_phase(phase, 1_200);
        moments.push(at(phase.as_str(), &simulator));
    }
    let mut lost = Simulator::at_step(&json!({}), 2);
    lost.cluster.weather.broken.push("v2".to_owned());
    lost.until_phase(Phase::Retreated, 1_200);
    moments.push(at("Retreated", &lost));
    let mut restoring = held();
    restoring.until_phase(Phase::Promoting, 1_200);
    restoring.run_for(3);
    restoring.command(Verb::Abort);
    restoring.until_phase(Phase::Restoring, 1_200);
    moments.push(at("Restoring", &restoring));
    let mut rest = held();
    rest.until_phase(Phase::Draining, 1_200);
    rest.until_phase(Phase::Healthy, 1_200);
    moments.push(at("Healthy", &rest));
    moments
}

fn held() -> Simulator {
    let mut simulator = Simulator::adopted(&json!({}));
    simulator.ship("v2");
    simulator
}

/// The objects of this moment, with the metadata that real ones have.
fn at(name: &str, simulator: &Simulator) -> Moment {
    let seen = simulator.seen();
    let api = &simulator.cluster.api;
    let of = |kind: &'static str, name: &str| api.get(kind, name).map(dress);
    let mut objects = Vec::new();
    let mut push = |role: Role, json: Option<Value>| objects.extend(json.map(|json| Object { role, json }));
    push(Role::Workload, of("Deployment", "checkout"));
    push(
        Role::Canary,
        of("Deployment", "checkout-canary").filter(|_| seen.canary.get().is_some()),
    );
    push(
        Role::CanaryService,
        of("Service", "checkout-canary").filter(|_| seen.canary_service.get().is_some()),
    );
    for (at, (route, _)) in seen.routes.iter().enumerate() {
        push(Role::Route(at), of("HTTPRoute", route));
    }
    for template in api.list("PodTemplate") {
        let name = template["metadata"]["name"].as_str().unwrap();
        push(Role::Template(name.to_owned()), Some(dress(template)));
    }
    for set in simulator
        .cluster
        .controllers
        .sets
        .iter()
        .filter(|set| !set.owner.is_empty())
    {
        let json = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": set.name, "namespace": "shop", "uid": set.uid, "resourceVersion": "5",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "checkout", "uid": set.owner, "controller": true}]},
            "spec": {"replicas": set.wanted, "template": set.template},
            "status": {"replicas": set.pods.len()},
        });
        push(Role::ReplicaSet, Some(json));
    }
    push(Role::StableSlice, Some(slice("checkout", seen.stable_ready)));
    push(Role::CanarySlice, Some(slice("checkout-canary", seen.canary_ready)));
    push(Role::Pod, Some(pod()));
    for name in ["checkout", "static"] {
        push(Role::Service, of("Service", name));
    }
    push(
        Role::NetworkPolicy,
        Some(json!({"metadata": {"name": "open", "namespace": "shop"}, "spec": {
            "podSelector": {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["a"]}]},
            "ingress": [{"from": [{"podSelector": {}}, {"namespaceSelector": {}}]}],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "x"}}}]}]}})),
    );
    push(
        Role::DisruptionBudget,
        Some(
            json!({"metadata": {"name": "budget", "namespace": "shop"}, "spec": {"selector": {"matchLabels": {"app": "other"}}}}),
        ),
    );
    push(
        Role::TlsPolicy,
        Some(json!({"metadata": {"name": "tls", "namespace": "shop"}, "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "other"}], "validation": {"hostname": "x"}}})),
    );
    push(
        Role::VolumeClaim,
        Some(json!({"metadata": {"name": "data", "namespace": "shop"},
            "spec": {"accessModes": ["ReadWriteOnce"]}, "status": {"accessModes": ["ReadWriteOnce"]}})),
    );
    Moment {
        name: name.to_owned(),
        rollout: dress(api.get("Rollout", "checkout").unwrap()),
        seen,
        objects,
    }
}

/// With the metadata that the API server keeps beside ours.
fn dress(object: &Value) -> Value {
    let mut object = object.clone();
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.insert("creationTimestamp".to_owned(), json!("2026-11-24T14:00:00Z"));
    metadata.insert(
        "managedFields".to_owned(),
        json!([{"manager": "kubectl", "operation": "Apply", "apiVersion": "v1", "time": "2026-11-24T14:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:x": {}}}}]),
    );
    object
}

fn slice(service: &str, ready: i32) -> Value {
    let endpoints: Vec<Value> = (0..ready)
        .map(|number| {
            json!({"addresses": ["10.0.0.1"], "conditions": {"ready": true, "serving": true},
                "targetRef": {"kind": "Pod", "name": format!("{service}-5d-{number}")}})
        })
        .collect();
    json!({
        "metadata": {"name": format!("{service}-x"), "namespace": "shop", "uid": service, "resourceVersion": "9",
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": endpoints,
    })
}

fn pod() -> Value {
    json!({
        "metadata": {"name": "checkout-canary-5d-x", "namespace": "shop", "uid": "p", "resourceVersion": "9", "labels": {names::RUN: "r"}},
        "status": {"startTime": "2026-11-24T14:00:00Z", "containerStatuses": [
            {"name": "web", "restartCount": 3, "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 1}}}]},
    })
}

/// A narrow type never refuses an object.
pub(crate) fn read<K: DeserializeOwned>(json: &Value) -> K {
    // As it comes over the wire.
    serde_json::from_str(&json.to_string()).unwrap_or_else(|error| panic!("{error}"))
}

/// What the operator knows where these are the objects.
pub(crate) fn observe(moment: &Moment, objects: &[Object]) -> Observed {
    let mut seen = moment.seen.clone();
    let mut survey = seen.survey.take().unwrap();
    survey.services.clear();
    survey.service_policies = Some(Vec::new());
    let mut sets = Vec::new();
    let world = world::World::default();
    for Object { role, json } in objects {
        match role {
            Role::Workload => {
                seen.workload = Seen::At(read::<kinds::Deployment>(json).view);
                survey.workload = json.clone();
            }
            Role::Canary => {
                let canary: kinds::Deployment = read(json);
                survey.canary_workload = Some(OwnedView {
                    name: canary.view.name.clone(),
                    uid: canary.view.uid.clone(),
                    canary_of: canary.metadata.labels.unwrap_or_default().remove(names::CANARY_OF),
                    run: canary.view.run.clone(),
                });
                seen.canary = Seen::At(canary.view);
            }
            Role::CanaryService => seen.canary_service = Seen::At(read::<kinds::OwnedService>(json).view),
            Role::Route(at) => seen.routes[*at].1 = Seen::At(read::<kinds::HttpRoute>(json).view),
            Role::Template(name) => {
                seen.templates
                    .insert(name.clone(), read::<kinds::PodTemplate>(json).view);
                let whole = read::<kinds::WholeTemplate>(json).view.0;
                seen.recorded.get_or_insert_default().insert(name.clone(), whole);
            }
            Role::ReplicaSet => sets.push(read::<kinds::ReplicaSet>(json).view),
            Role::StableSlice | Role::CanarySlice => world.slices.observe(&Event::Apply(read(json))),
            Role::Pod => {
                let pod: kinds::Pod = read(json);
                if let Some(restarts) = &mut seen.restarts {
                    restarts.canary_error_exits = pod.view.error_exits;
                }
                world.pods.observe(&Event::Apply(pod));
            }
            Role::Service => survey.services.push(read::<kinds::Service>(json).view),
            Role::NetworkPolicy => survey.network_policies = vec![read::<kinds::NetworkPolicy>(json).view],
            Role::DisruptionBudget => survey.disruption_budgets = vec![read::<kinds::DisruptionBudget>(json).view],
            Role::TlsPolicy => survey.service_policies = Some(vec![read::<kinds::BackendTlsPolicy>(json).view]),
            Role::VolumeClaim => survey.volume_claims = vec![read::<kinds::VolumeClaim>(json).view],
        }
    }
    seen.stable_ready = world.ready("shop", "checkout");
    seen.canary_ready = world.ready("shop", "checkout-canary");
    seen.strange_ready = world.strange("shop", "checkout", "checkout", "checkout-5d");
    seen.replica_sets = Some(sets);
    seen.survey = Some(survey);
    seen
}

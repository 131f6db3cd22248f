//! The rules that every write is checked by can be broken: each is seen to speak.

use serde_json::{Value, json};
use stepgate_core::{Act, Effect, Kind};
use stepgate_crds::{
    RolloutStatus,
    status::{Cause, Note, Outcome, Phase, Retreat, Run, RunState},
    units::{Share, Timestamp},
};

use crate::fixtures::{checker::Checker, simulator::Simulator};

fn at(simulator: &Simulator) -> Timestamp {
    Timestamp::from_millis(simulator.cluster.now * 1_000)
}

/// What the checker says of this write.
fn said(simulator: &Simulator, kind: &'static str, name: &str, act: Act, status: &RolloutStatus) -> String {
    let kinds = [
        ("Deployment", Kind::Deployment),
        ("HTTPRoute", Kind::HttpRoute),
        ("PodTemplate", Kind::PodTemplate),
        ("ReplicaSet", Kind::ReplicaSet),
    ];
    let kind = kinds.into_iter().find(|(known, _)| *known == kind).unwrap().1;
    let effect = Effect {
        kind,
        name: name.to_owned(),
        act,
    };
    let (before, mut after) = (&simulator.cluster, simulator.cluster.clone());
    after.execute(&effect).unwrap();
    let mut checker: Checker = simulator.checker.clone();
    checker
        .effect(before, &after, &effect, status)
        .expect_err("the rule was broken and nothing was said")
}

/// A patch under the preconditions of the object as it is.
fn patch(simulator: &Simulator, kind: &'static str, name: &str, operations: &Value) -> Act {
    let object = simulator.cluster.api.get(kind, name).unwrap();
    let test =
        |field: &str| json!({"op": "test", "path": format!("/metadata/{field}"), "value": object["metadata"][field]});
    let mut all = vec![test("uid"), test("resourceVersion")];
    all.extend(operations.as_array().unwrap().clone());
    Act::Patch(all)
}

fn weighs(simulator: &Simulator, stable: i64, canary: i64, seq: i32) -> Act {
    let id = simulator.status().run.unwrap().id;
    let operations = json!([
        {"op": "add", "path": "/spec/rules/0/backendRefs/0/weight", "value": stable},
        {"op": "add", "path": "/spec/rules/0/backendRefs/1/weight", "value": canary},
        {"op": "add", "path": "/metadata/annotations/stepgate.dev~1run", "value": format!("{id}.{seq}")},
    ]);
    patch(simulator, "HTTPRoute", "checkout", &operations)
}

/// The status with its run at this intent, weight and state.
fn intended(simulator: &Simulator, weight: i32, state: Option<RunState>) -> RolloutStatus {
    let mut status = simulator.status();
    let run = status.run.as_mut().unwrap();
    run.seq += 1;
    run.weight = weight;
    run.state = state.unwrap_or_else(|| run.state.clone());
    status
}

fn rolling_back(simulator: &Simulator) -> RunState {
    RunState::RollingBack {
        since: at(simulator),
        cause: Cause {
            reason: "Aborted".to_owned(),
            detail: String::new(),
        },
        then: Outcome::Failed,
    }
}

#[track_caller]
fn route_write(simulator: &Simulator, status: &RolloutStatus, stable: i64, canary: i64, why: &str) {
    let seq = status.run.as_ref().unwrap().seq;
    let act = weighs(simulator, stable, canary, seq);
    let said = said(simulator, "HTTPRoute", "checkout", act, status);
    assert!(said.contains(why), "{said}");
}

#[test]
fn of_a_write_on_the_route() {
    let simulator = Simulator::at_step(&json!({}), 2);
    let fifty = intended(&simulator, 50, None);
    route_write(&simulator, &fifty, 50, 40, "weights 50 and 40");
    route_write(&simulator, &fifty, 40, 60, "was not committed");
    route_write(&simulator, &intended(&simulator, 100, None), 0, 100, "of 4 canary pods");
    let back = rolling_back(&simulator);
    route_write(
        &simulator,
        &intended(&simulator, 50, Some(back)),
        50,
        50,
        "a rise in RollingBack",
    );
    let mut marked = fifty.clone();
    marked.run.as_mut().unwrap().seq += 1;
    let act = weighs(&simulator, 50, 50, fifty.run.as_ref().unwrap().seq);
    let mark = said(&simulator, "HTTPRoute", "checkout", act, &marked);
    assert!(mark.contains("the route's mark is"), "{mark}");
    let hostnames = json!([{"op": "add", "path": "/spec/hostnames", "value": ["elsewhere.example.com"]}]);
    let act = patch(&simulator, "HTTPRoute", "checkout", &hostnames);
    let users = said(&simulator, "HTTPRoute", "checkout", act, &simulator.status());
    assert!(users.contains("the user's part of the route changed"), "{users}");

    let mut alone = simulator.clone();
    alone.cluster.weather.broken.push("v1".to_owned());
    let back = rolling_back(&alone);
    route_write(
        &alone,
        &intended(&alone, 0, Some(back)),
        100,
        0,
        "with no stable pod ready",
    );
}

#[test]
fn of_traffic_to_a_deployment_in_the_middle_of_its_roll() {
    let mut simulator = Simulator::at_step(&json!({}), 3);
    simulator.until_phase(Phase::Promoting, 400);
    simulator.run_for(1);
    let promoting = intended(&simulator, 50, None);
    route_write(&simulator, &promoting, 50, 50, "in the middle of its roll");
}

#[test]
fn of_a_write_on_the_deployment_and_what_belongs_to_it() {
    let simulator = Simulator::at_step(&json!({}), 2);
    let status = simulator.status();
    let deployment = |operations: Value, status: &RolloutStatus| {
        let act = patch(&simulator, "Deployment", "checkout", &operations);
        said(&simulator, "Deployment", "checkout", act, status)
    };
    let scaled = deployment(json!([{"op": "add", "path": "/spec/replicas", "value": 9}]), &status);
    assert!(scaled.contains("the user's part of the Deployment changed"), "{scaled}");
    let let_go = deployment(json!([{"op": "remove", "path": "/spec/paused"}]), &status);
    assert!(let_go.contains("v2 is let go"), "{let_go}");
    let image = "/spec/template/spec/containers/0/image";
    let written = json!([{"op": "add", "path": image, "value": "v1"}, {"op": "remove", "path": "/spec/paused"}]);
    let uncommitted = deployment(written.clone(), &status);
    assert!(
        uncommitted.contains("is written, and None was committed"),
        "{uncommitted}"
    );
    let mut open = status.clone();
    open.mends
        .open
        .clone_from(&open.run.as_ref().map(|run| run.revision.clone()));
    let other = deployment(written, &open);
    assert!(other.contains("v1 is written, and Some"), "{other}");

    let uid = |kind, name: &str| {
        let object = simulator.cluster.api.get(kind, name).unwrap();
        Act::Delete {
            uid: object["metadata"]["uid"].as_str().unwrap().to_owned(),
        }
    };
    let early = said(
        &simulator,
        "Deployment",
        "checkout-canary",
        uid("Deployment", "checkout-canary"),
        &status,
    );
    assert!(early.contains("after its last request"), "{early}");
    let record = status.stable.as_ref().unwrap().template.clone();
    let needed = said(&simulator, "PodTemplate", &record, uid("PodTemplate", &record), &status);
    assert!(needed.contains("which is still needed"), "{needed}");
    let stable = status.stable.clone().unwrap();
    let act = Act::Delete { uid: stable.uid };
    let pods = said(&simulator, "ReplicaSet", &stable.replica_set, act, &status);
    assert!(pods.contains("goes with its 4 pods"), "{pods}");
}

type Change = fn(&mut Run);

/// What the checker says of a commit that changes the run so.
fn committed(simulator: &Simulator, change: impl FnOnce(&mut Run)) -> String {
    let before = simulator.status();
    let mut after = before.clone();
    change(after.run.as_mut().unwrap());
    let mut checker = simulator.checker.clone();
    checker
        .commit(&simulator.cluster, &before, &after, None)
        .expect_err("the rule was broken and nothing was said")
}

#[test]
fn of_a_status_in_a_run() {
    let simulator = Simulator::at_step(&json!({}), 2);
    let cases: [(&str, Change); 8] = [
        ("from step 1 to 3", |run| run.step = 3),
        ("is not step 1's weight", |run| run.weight = 40),
        ("goes on by the verdict", |run| {
            (run.step, run.weight, run.seq) = (2, 50, run.seq + 1);
        }),
        ("promoted before the last step", |run| {
            run.state = RunState::Promoting { since: run.started }
        }),
        ("the intent goes back", |run| run.seq -= 1),
        ("became other without an end", |run| "other".clone_into(&mut run.id)),
        ("the 3th retreat waits by itself", |run| {
            run.retreats.all = 3;
            run.state = RunState::Retreated {
                since: run.started,
                why: Retreat::SharedFault,
                well_since: None,
            };
        }),
        ("the status has", |run| {
            run.spec.source = "x".repeat(17_000);
            run.spec.max_error_rate = Share::new(0.01);
        }),
    ];
    for (why, change) in cases {
        let said = committed(&simulator, change);
        assert!(said.contains(why), "{why}: {said}");
    }
}

#[test]
fn of_a_way_back_by_capacity_and_of_what_is_left_undone() {
    let mut simulator = Simulator::at_step(&json!({}), 3);
    simulator.cluster.change_deployment(&json!({"spec": {"replicas": 1}}));
    simulator.run_for(2);
    let state = rolling_back(&simulator);
    let said = committed(&simulator, |run| {
        (run.seq, run.weight, run.state) = (run.seq + 1, 0, state);
    });
    assert!(said.contains("stable has 1 ready pods of 4"), "{said}");

    let status = intended(&simulator, 0, Some(rolling_back(&simulator)));
    let mut cluster = simulator.cluster.clone();
    let late = (0..4).find_map(|_| {
        cluster.tick();
        simulator.checker.left(&cluster, &status, true).err()
    });
    assert!(late.unwrap().contains("a way back is not written"));

    let mut cluster = Simulator::at_step(&json!({}), 2).cluster;
    cluster.weather.broken.push("v2".to_owned());
    let status = intended(&simulator, 30, None);
    let late = (0..6).find_map(|_| {
        cluster.tick();
        simulator.checker.left(&cluster, &status, true).err()
    });
    assert!(late.unwrap().contains("go to a canary without a ready pod"));
}

#[test]
fn of_too_many_events_in_one_run() {
    let mut simulator = Simulator::at_step(&json!({}), 2);
    let before = simulator.status();
    let told = (0..20).find_map(|number| {
        let mut after = before.clone();
        after.note = Some(Note {
            id: format!("again-{number}"),
            warning: false,
            reason: "Again".to_owned(),
            text: "the same".to_owned(),
        });
        let (cluster, checker) = (&simulator.cluster, &mut simulator.checker);
        checker.commit(cluster, &before, &after, None).err()
    });
    assert!(told.unwrap().contains("Events in one run"));
}

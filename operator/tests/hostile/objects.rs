//! Objects of every kind that is read, mutated at every path: they are read, little is kept of them, and what is decided stays in bounds.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use stepgate::kinds;
use stepgate_crds::names;

use super::{
    bounds::{brief, bytes, cases, decide, is_long_run},
    moments::{self, Moment, Object, Role, observe, read},
    mutation::{Mutation, any_mutation, paths},
};

/// Most that is kept of one object beside the backendRefs of a route and the endpoints of a slice, in characters of its debug form.
const KEPT: usize = 24_000;

/// Characters of what the mirrors keep of it. Lists that are read for one decision are not kept.
fn kept(object: &Object) -> usize {
    let json = &object.json;
    let text = match &object.role {
        Role::Workload | Role::Canary => format!("{:?}", read::<kinds::Deployment>(json)),
        Role::CanaryService => format!("{:?}", read::<kinds::OwnedService>(json)),
        Role::Route(_) => format!("{:?}", read::<kinds::HttpRoute>(json)),
        Role::Template(_) => format!("{:?}", read::<kinds::PodTemplate>(json)),
        Role::StableSlice | Role::CanarySlice => format!("{:?}", read::<kinds::EndpointSlice>(json)),
        Role::Pod => format!("{:?}", read::<kinds::Pod>(json)),
        _ => String::new(),
    };
    text.len()
}

fn check(moment: &Moment, objects: &[Object], changed: &[usize]) -> Result<(), String> {
    let given: usize = objects.iter().map(|object| bytes(&object.json)).sum();
    for object in changed.iter().filter_map(|at| objects.get(*at)) {
        let whole = match object.role {
            Role::Route(_) => 4 * bytes(&object.json["spec"]) + bytes(&object.json["status"]),
            Role::StableSlice | Role::CanarySlice => bytes(&object.json["endpoints"]),
            _ => 0,
        };
        let kept = kept(object);
        if kept > KEPT + whole {
            return Err(format!(
                "{kept} characters are kept of {:?}: {}",
                object.role,
                brief(&object.json)
            ));
        }
    }
    // A template may be written twice, and an object's text is longer where it is escaped once more.
    decide(&observe(moment, objects), 4 * given).map(|_| ())
}

#[test]
fn every_field_of_every_object_may_be_missing_or_of_another_kind() {
    let mut decisions = 0;
    let mut failures = Vec::new();
    for moment in moments::all() {
        check(&moment, &moment.objects, &[]).unwrap_or_else(|why| panic!("{}, nothing changed: {why}", moment.name));
        for (at, object) in moment.objects.iter().enumerate() {
            // The others have their turn in the random ones, or when more is asked for.
            let usual = ["held", "step 2", "Promoting"];
            if !is_long_run() && !usual.contains(&moment.name.as_str()) {
                continue;
            }
            for path in paths(&object.json) {
                for mutation in Mutation::ALL {
                    let mut objects = moment.objects.clone();
                    mutation.apply(&mut objects[at].json, &path);
                    decisions += 1;
                    if let Err(why) = check(&moment, &objects, &[at]) {
                        failures.push(format!("{}: {:?} {path} {mutation:?}: {why}", moment.name, object.role));
                    }
                }
            }
        }
    }
    println!("{decisions} decisions on mutated objects");
    assert!(
        failures.is_empty(),
        "{} failures, such as {}",
        failures.len(),
        failures[0]
    );
    assert!(decisions > 10_000);
}

#[test]
fn several_fields_at_once_may_be_so_too() {
    let moments = moments::all();
    let change = (
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        any_mutation(),
    );
    let strategy = (any::<prop::sample::Index>(), prop::collection::vec(change, 2..8));
    let mut runner = TestRunner::new(cases(1_000));
    runner
        .run(&strategy, |(moment, changes)| {
            let moment = moment.get(&moments);
            let mut objects = moment.objects.clone();
            let (mut done, mut changed) = (Vec::new(), Vec::new());
            for (object, path, mutation) in changes {
                changed.push(object.index(objects.len()));
                let object = object.get_mut(&mut objects);
                let paths = paths(&object.json);
                if !paths.is_empty() {
                    let path = path.get(&paths);
                    mutation.apply(&mut object.json, path);
                    done.push(format!("{:?} {path} {mutation:?}", object.role));
                }
            }
            check(moment, &objects, &changed)
                .map_err(|why| TestCaseError::fail(format!("{}: {}: {why}", moment.name, done.join(", "))))
        })
        .unwrap();
}

/// The largest route there can be: 16 rules by 16 backends, with names as long as they may be and filters on each.
fn wide_route(route: &Value, backends: usize) -> Value {
    let mut route = route.clone();
    let filler = |number: usize| {
        json!({"group": "", "kind": "Service", "name": format!("other-{number}-{}", "x".repeat(240)), "port": 80, "weight": 1_000_000,
            "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-a", "value": "b".repeat(200)}]}}]})
    };
    let rule = route["spec"]["rules"][0].clone();
    let rules: Vec<Value> = (0..16)
        .map(|number| {
            let mut rule = rule.clone();
            rule["name"] = json!(format!("rule-{number}-{}", "r".repeat(240)));
            let own = rule["backendRefs"].as_array().unwrap().clone();
            let others = (0..backends - own.len()).map(filler);
            rule["backendRefs"] = own.into_iter().chain(others).collect();
            rule
        })
        .collect();
    route["spec"]["rules"] = rules.into();
    route
}

#[test]
fn sixteen_rules_by_sixteen_backends_are_decided_on_at_every_moment() {
    for moment in moments::all() {
        let mut objects = moment.objects.clone();
        let route = objects.iter_mut().find(|object| object.role == Role::Route(0)).unwrap();
        route.json = wide_route(&route.json, 16);
        check(&moment, &objects, &(0..objects.len()).collect::<Vec<_>>())
            .unwrap_or_else(|why| panic!("{}: {why}", moment.name));
    }
}

/// Names as long as they may be, of which a status has no room for as many as there may be: that is said before a run begins.
#[test]
fn a_run_that_status_has_no_room_for_is_refused_before_it_begins() {
    let moments = moments::all();
    let moment = &moments[0];
    let route = moment
        .objects
        .iter()
        .find(|object| object.role == Role::Route(0))
        .unwrap();
    let mut seen = observe(moment, &moment.objects);
    let starts = |seen: &_| match decide(seen, 100_000).unwrap() {
        stepgate_core::Plan::Commit(status) => *status,
        other => panic!("{other:?}"),
    };
    assert!(starts(&seen).run.is_some());
    let wide: kinds::HttpRoute = read(&wide_route(&route.json, 1));
    seen.routes[0].1 = stepgate_core::Seen::At(wide.view);
    let fits = starts(&seen);
    assert!(fits.run.is_some(), "one route of 16 rules fits: {:?}", fits.message);
    let reference = seen.rollout.spec.traffic.routes[0].clone();
    let view = seen.routes[0].1.get().unwrap().clone();
    for number in 1..8 {
        let name = format!("checkout-{number}");
        let named = stepgate_crds::rollout::RouteReference {
            name: name.clone(),
            ..reference.clone()
        };
        seen.rollout.spec.traffic.routes.push(named);
        let route = stepgate_core::input::RouteView {
            name: name.clone(),
            ..view.clone()
        };
        seen.routes.push((name, stepgate_core::Seen::At(route)));
    }
    let status = starts(&seen);
    assert!(status.run.is_none());
    let message = status.message.unwrap();
    assert!(
        message.contains("status has room for 6144 bytes") && message.contains("128 rules"),
        "{message}"
    );
}

#[test]
fn an_annotation_of_a_megabyte_is_not_kept() {
    let large = "m".repeat(1 << 20);
    let moment = &moments::all()[1];
    for object in &moment.objects {
        let mut object = object.clone();
        object.json["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = json!(large);
        object.json["metadata"]["annotations"][names::HOLD] = json!(large);
        object.json["metadata"]["annotations"][names::RUN] = json!(large);
        object.json["metadata"]["labels"]["anything"] = json!(large);
        object.json["metadata"]["finalizers"] = json!([large]);
        object.json["metadata"]["managedFields"] = json!([{"manager": large, "fieldsV1": {"f:spec": large}}]);
        let kept = kept(&object);
        assert!(kept < KEPT, "{:?}: {kept}", object.role);
    }
    let rollout: kinds::rollout::Watched = read(&{
        let mut rollout = moment.rollout.clone();
        rollout["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": large});
        rollout["metadata"]["labels"] = json!({"anything": large});
        rollout
    });
    assert!(format!("{rollout:?}").len() < 3 * KEPT);
}

#[test]
fn marks_of_a_crowd_on_one_route_are_read_from_the_end_where_ours_is_put() {
    let marks: Vec<String> = (0..1_000).map(|number| format!("r{number}-1.2")).collect();
    let route = json!({"metadata": {"name": "web", "annotations": {names::RUN: marks.join("  ")}}});
    let read_back = read::<kinds::HttpRoute>(&route).view.run.unwrap();
    assert_eq!(read_back.split(' ').count(), 64);
    assert!(read_back.ends_with("r998-1.2 r999-1.2"));
}

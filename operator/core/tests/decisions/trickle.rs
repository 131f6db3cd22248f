//! Behind a gateway that forgets a backend of weight 0 one that has pods keeps a millionth of the traffic.

use serde_json::{Value, json};
use stepgate_crds::{command::Verb, status::Phase};

use crate::fixtures::{simulator::Simulator, world::world};

/// Analysis by the set of queries of such a gateway.
fn forgetful() -> Value {
    json!({"analysis": {"provider": "forgetful"}})
}

/// Stable's and the canary's weights in the route.
type Written = (Option<i64>, Option<i64>);

fn written(simulator: &Simulator) -> Written {
    let route = simulator.cluster.api.get("HTTPRoute", "checkout").unwrap();
    let weight = |name: &str| {
        let references = route["spec"]["rules"][0]["backendRefs"].as_array().unwrap();
        references
            .iter()
            .find(|one| one["name"] == name)?
            .get("weight")?
            .as_i64()
    };
    (weight("checkout"), weight("checkout-canary"))
}

/// Lives on until it is so, and gives the weights that were there at the seconds between, each once in a row.
fn weights_until(simulator: &mut Simulator, wanted: impl Fn(&Simulator) -> bool) -> Vec<Written> {
    let mut seen = vec![written(simulator)];
    for _ in 0..2_400 {
        if wanted(simulator) {
            seen.dedup();
            return seen;
        }
        simulator.tick();
        seen.push(written(simulator));
    }
    panic!("it was not to be: {}", simulator.timeline());
}

#[test]
fn a_promotion_never_lets_a_backend_that_has_pods_go_idle() {
    let mut simulator = Simulator::adopted(&forgetful());
    assert!(simulator.status().found.is_some_and(|found| found.trickle));
    let before = written(&simulator);
    simulator.ship("v2");
    let weights = weights_until(&mut simulator, |simulator| {
        simulator.status().phase == Some(Phase::Healthy) && !simulator.status().history.is_empty()
    });
    assert_eq!(
        weights,
        [
            before,
            // Without pods it could answer nothing.
            (Some(100), Some(0)),
            (Some(1_000_000), Some(1)),
            (Some(90), Some(10)),
            (Some(70), Some(30)),
            (Some(50), Some(50)),
            (Some(1), Some(1_000_000)),
            (Some(1_000_000), Some(1)),
            before,
        ],
        "{}",
        simulator.timeline()
    );
}

#[test]
fn behind_any_other_gateway_nothing_is_nothing() {
    let mut simulator = Simulator::adopted(&json!({}));
    let before = written(&simulator);
    simulator.ship("v2");
    let weights = weights_until(&mut simulator, |simulator| {
        simulator.status().phase == Some(Phase::Healthy) && !simulator.status().history.is_empty()
    });
    let ladder = [0, 10, 30, 50, 100, 0].map(|canary| (Some(100 - canary), Some(canary)));
    let expected: Vec<Written> = [before].into_iter().chain(ladder).chain([before]).collect();
    assert_eq!(weights, expected, "{}", simulator.timeline());
}

#[test]
fn stable_keeps_nothing_where_it_has_no_pod_that_could_answer() {
    let due = |ready: i32| {
        let moment = world()
            .with_spec(forgetful())
            .at_step(4)
            .with_weight(50)
            .with(|seen| seen.stable_ready = ready);
        let run = moment.0.rollout.status.run.clone().unwrap();
        let moment = moment
            .with_run(|run| run.in_force = None)
            .with_route(|route| route.run = Some(format!("{}.{}", run.id, run.seq - 1)));
        let patch = serde_json::to_value(&moment.acts()[0]).unwrap();
        let weights = patch.pointer("/act/Patch").unwrap().as_array().unwrap();
        let weights = weights
            .iter()
            .filter(|one| one["path"].as_str().unwrap().ends_with("/weight"));
        weights.map(|one| one["value"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(due(2), [1, 1_000_000]);
    assert_eq!(due(0), [0, 100]);
}

#[test]
fn a_canary_that_is_to_go_gets_no_trickle_again_when_its_pods_come_back() {
    let mut simulator = Simulator::at_step(&forgetful(), 3);
    simulator.cluster.weather.broken.push("v2".to_owned());
    simulator.command(Verb::Abort);
    simulator.until("nothing", 10, |simulator| written(simulator) == (Some(100), Some(0)));
    simulator.cluster.weather.broken.clear();
    let weights = weights_until(&mut simulator, |simulator| {
        simulator.status().phase == Some(Phase::Failed)
    });
    assert_eq!(weights.len(), 2, "{weights:?} {}", simulator.timeline());
    assert_eq!(weights[1].1, None);
}

#[test]
fn the_first_weight_waits_until_the_trickle_is_accepted() {
    let mut simulator = Simulator::adopted(&forgetful());
    simulator.ship("v2");
    simulator.until("the trickle", 600, |simulator| {
        written(simulator) == (Some(1_000_000), Some(1))
    });
    simulator.cluster.weather.gateway_delay = None;
    simulator.run_for(30);
    assert_eq!(written(&simulator), (Some(1_000_000), Some(1)));
    assert_eq!(simulator.status().phase, Some(Phase::Preparing));
    simulator.cluster.weather.gateway_delay = Some(1);
    simulator.until("the first weight", 60, |simulator| {
        written(simulator) == (Some(90), Some(10))
    });
}

#[test]
fn an_abort_leaves_the_canary_a_trickle_until_its_backend_ref_goes() {
    for (step, at) in [(3, (Some(50), Some(50))), (4, (Some(1), Some(1_000_000)))] {
        let mut simulator = Simulator::at_step(&forgetful(), step);
        assert_eq!(written(&simulator), at);
        simulator.command(Verb::Abort);
        let weights = weights_until(&mut simulator, |simulator| {
            simulator.status().phase == Some(Phase::Failed)
        });
        assert_eq!(
            weights[..2],
            [at, (Some(1_000_000), Some(1))],
            "{}",
            simulator.timeline()
        );
        assert_eq!(weights.len(), 3, "{weights:?}");
        assert_eq!(weights[2].1, None);
    }
}

#[test]
fn a_canary_that_lost_its_pods_gets_nothing_and_a_trickle_before_its_weight() {
    let mut simulator = Simulator::at_step(&forgetful(), 3);
    simulator.cluster.weather.broken.push("v2".to_owned());
    simulator.until("nothing", 10, |simulator| written(simulator) == (Some(100), Some(0)));
    simulator.cluster.weather.broken.clear();
    let weights = weights_until(&mut simulator, |simulator| written(simulator).1 == Some(50));
    assert_eq!(
        weights,
        [(Some(100), Some(0)), (Some(1_000_000), Some(1)), (Some(50), Some(50))],
        "{}",
        simulator.timeline()
    );
    // That was no change by a person.
    assert!(simulator.status().run.unwrap().drift.is_none());
}

#[test]
fn a_trickle_that_somebody_sets_is_read_as_what_it_is() {
    let mut simulator = Simulator::at_step(&json!({}), 2);
    simulator.cluster.edit_route(|spec| {
        spec["rules"][0]["backendRefs"][0]["weight"] = json!(1_000_000);
        spec["rules"][0]["backendRefs"][1]["weight"] = json!(1);
    });
    simulator.run_for(1);
    let message = simulator.status().message.unwrap();
    assert!(message.contains("took traffic back to stable"), "{message}");
    simulator.until("the step's weight", 300, |simulator| written(simulator).1 == Some(30));
}

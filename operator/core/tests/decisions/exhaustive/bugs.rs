//! Deliberate bugs: the search finds each, so what it does not find in the real `next` is not there in the instance.

use stepgate_core::{Effect, Input, Kind, Plan, Seen, input::RouteView, next};
use stepgate_crds::status::RunState;

use super::{
    ABORT, Beginning, instance,
    search::{Instance, search},
    world::{Budget, Decide},
};
use crate::fixtures::controllers::Metrics;

/// The rule that a search speaks of.
#[track_caller]
fn finds(instance: &Instance, rule: &str) {
    let found = search(instance, usize::MAX).map(|visited| visited.states);
    let why = found.expect_err("the bug was not found");
    assert!(why.contains(rule), "{why}");
}

fn with_bug(decide: Decide, begins: Beginning, errors: f64, budget: Budget) -> Instance {
    let mut instance = instance("a bug", begins, errors, budget, ABORT, |_| Ok(()));
    instance.rules.decide = decide;
    instance
}

/// `next` with every route seen otherwise.
fn with_routes(input: &Input<'_>, change: impl Fn(&mut RouteView)) -> Plan {
    let mut routes = input.routes.to_vec();
    for (_, route) in &mut routes {
        if let Seen::At(route) = route {
            change(route);
        }
    }
    next(&Input {
        routes: &routes,
        ..input.clone()
    })
}

#[test]
fn that_a_write_goes_under_whatever_version_there_is() {
    let budget = Budget {
        lost: 1,
        happenings: 1,
        ..Budget::default()
    };
    let mut instance = with_bug(next, Beginning::Stepping, 0.0, budget);
    instance.rules.rebases = true;
    finds(&instance, "after an abort");
}

#[test]
fn that_nobody_waits_for_the_gateways() {
    let decide: Decide = |input| {
        with_routes(input, |route| {
            for parent in &mut route.parents {
                parent.accepted = Some(route.generation);
            }
        })
    };
    let budget = Budget {
        slow: 1,
        happenings: 1,
        ..Budget::default()
    };
    let mut instance = with_bug(decide, Beginning::Stepping, 0.0, budget);
    // Otherwise the requests that are still counted keep the canary's pods.
    instance.world.change(|cluster| cluster.weather.metrics = Metrics::Down);
    finds(&instance, "after its last request");
}

#[test]
fn that_an_abort_raises_the_weight() {
    let decide: Decide = |input| match next(input) {
        Plan::Commit(mut status) => {
            if let Some(run) = status.run.as_mut()
                && matches!(run.state, RunState::RollingBack { .. })
            {
                run.weight = 100;
            }
            Plan::Commit(status)
        }
        other => other,
    };
    let budget = Budget {
        happenings: 1,
        ..Budget::default()
    };
    finds(
        &with_bug(decide, Beginning::Stepping, 0.0, budget),
        "100 % is not step 0's weight",
    );
}

#[test]
fn that_an_abort_writes_nothing_where_the_weight_is_0_already() {
    let decide: Decide = |input| {
        let run = input.rollout.status.run.as_ref();
        let back = run.filter(|run| matches!(run.state, RunState::RollingBack { .. } | RunState::Draining { .. }));
        let mark = back.map(stepgate_core::route::mark);
        with_routes(input, |route| {
            if route.run.is_some() && mark.is_some() {
                route.run.clone_from(&mark);
            }
        })
    };
    let budget = Budget {
        lost: 1,
        happenings: 1,
        ..Budget::default()
    };
    finds(
        &with_bug(decide, Beginning::Prepared, 0.0, budget),
        "while the canary drains",
    );
}

#[test]
fn that_a_weight_rises_without_its_pods() {
    let decide: Decide = |input| {
        next(&Input {
            canary_ready: 99,
            ..input.clone()
        })
    };
    finds(
        &with_bug(decide, Beginning::Shipped, 0.0, Budget::default()),
        "canary pods",
    );
}

#[test]
fn that_the_canary_does_not_drain() {
    let decide: Decide = |input| {
        let run = input.rollout.status.run.as_ref();
        let drains = run.is_some_and(|run| matches!(run.state, RunState::Draining { .. }));
        let later = stepgate_crds::units::Span::seconds(if drains { 3_600 } else { 0 });
        next(&Input {
            now: input.now.after(later),
            ..input.clone()
        })
    };
    finds(
        &with_bug(decide, Beginning::Stepping, 0.3, Budget::default()),
        "after its last request",
    );
}

#[test]
fn that_the_route_is_never_given_back() {
    let decide: Decide = |input| match next(input) {
        Plan::Act(effects) => {
            let run = input.rollout.status.run.as_ref();
            let drains = run.is_some_and(|run| matches!(run.state, RunState::Draining { .. }));
            let kept: Vec<Effect> = effects
                .into_iter()
                .filter(|effect| !drains || effect.kind != Kind::HttpRoute)
                .collect();
            if kept.is_empty() {
                Plan::Wait(stepgate_core::Wake::default())
            } else {
                Plan::Act(kept)
            }
        }
        other => other,
    };
    let mut instance = with_bug(decide, Beginning::Stepping, 0.3, Budget::default());
    instance.is_asked_for = super::ends::has_failed;
    finds(&instance, "nothing moves, and the run is in Draining");
}

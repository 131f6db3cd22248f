//! A status that is read late, beside a route that is not: a leader that was replaced and has not heard of it yet.

use stepgate_crds::{command::Verb, status::RunState};

use crate::fixtures::{
    simulator::Simulator,
    world::{Moment, world},
};

/// At step 2, and the route is marked with an intent that is so many later than the committed one.
fn marked(later: i32) -> Moment {
    let moment = world().at_step(2);
    let run = moment.0.rollout.status.run.clone().unwrap();
    moment
        .with_weight(0)
        .with_route(|route| route.run = Some(format!("{}.{}", run.id, run.seq + later)))
}

#[test]
fn a_route_that_bears_a_later_intent_is_not_written_before_the_status_is_known_to_be_the_last() {
    let moment = marked(3);
    let before = moment.0.rollout.status.run.clone().unwrap();
    let after = moment.commits().run.unwrap();
    // Under the Rollout's resourceVersion: refused where there is a later status, and the way on where an old one was put back.
    assert_eq!((after.seq, after.weight), (before.seq + 4, before.weight));
    assert_eq!(after.state, before.state);
}

#[test]
fn an_old_status_that_was_put_back_goes_on() {
    let moment = marked(3);
    let status = moment.commits();
    let moment = moment.with(|seen| seen.rollout.status = status);
    assert_eq!(moment.acts().len(), 1);
}

#[test]
fn an_intent_of_another_run_or_one_that_is_no_number_stands_in_nobodys_way() {
    let run = world().at_step(2).0.rollout.status.run.unwrap();
    for mark in [
        format!("{}-9.{}", run.id.rsplit_once('-').unwrap().0, run.seq + 3),
        format!("{}.{}", run.id, i32::MAX),
        format!("{}.99999999999", run.id),
        format!("{}.{}", run.id, run.seq - 1),
    ] {
        let moment = marked(0).with_route(|route| route.run = Some(mark.clone()));
        let seq = moment.next();
        if let stepgate_core::Plan::Commit(status) = &seq {
            assert!(status.run.as_ref().unwrap().seq <= run.seq + 1, "{mark}: {seq:?}");
        }
    }
}

#[test]
fn nothing_rises_where_an_abort_is_not_known_yet() {
    let mut simulator = Simulator::at_step(&serde_json::json!({}), 2);
    let late = simulator.seen().rollout;
    simulator.command(Verb::Abort);
    simulator.until("the abort is written", 10, |simulator| {
        let route = simulator.cluster.api.get("HTTPRoute", "checkout").unwrap();
        crate::fixtures::checker::canary_weight(&route["spec"]) == 0
    });
    let mut seen = simulator.seen();
    seen.rollout = late;
    let status = Moment(seen).commits();
    assert!(matches!(status.run.unwrap().state, RunState::Stepping { .. }));
}

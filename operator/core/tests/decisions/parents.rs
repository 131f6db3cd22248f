//! A route with two parents: which of them a weight waits for, and what is said of the one that does not answer.

use stepgate_core::{Plan, input::RouteView};
use stepgate_crds::{
    RolloutStatus,
    command::Verb,
    status::{Phase, RunState},
};

use crate::fixtures::world::{Moment, world};

const SECOND: &str = "gateways/inside";

/// At step 2 with a second parent that accepted the route before the run; neither has accepted the weight of this step yet.
fn unanswered() -> Moment {
    world()
        .at_step(2)
        .with(|seen| {
            let found = seen.rollout.status.found.as_mut().unwrap();
            found.parents.push(format!("checkout {SECOND} example.com/inside"));
        })
        .with_run(|run| {
            run.in_force = None;
            run.accepted_weight = 10;
        })
        .with_route(|route| {
            let mut second = route.parents[0].clone();
            second.parent = SECOND.to_owned();
            second.controller = "example.com/inside".to_owned();
            route.parents.push(second);
            route.parent_refs.push(SECOND.to_owned());
            route.generation += 1;
        })
}

fn first_accepts(route: &mut RouteView) {
    route.parents[0].accepted = Some(route.generation);
}

fn both_accept(route: &mut RouteView) {
    first_accepts(route);
    route.parents[1].accepted = Some(route.generation);
}

fn taken_out(route: &mut RouteView) {
    first_accepts(route);
    route.parent_refs.retain(|named| named != SECOND);
}

fn second_says(message: &str) -> impl FnOnce(&mut RouteView) {
    let message = message.to_owned();
    move |route| {
        first_accepts(route);
        route.parents[1].accepted = None;
        route.parents[1].message = message;
    }
}

/// Whether the weight of the step is in force by this decision.
fn in_force(plan: &Plan) -> bool {
    matches!(plan, Plan::Commit(status) if status.run.as_ref().is_some_and(|run| run.in_force.is_some()))
}

fn stalled(status: &RolloutStatus) -> bool {
    let mut conditions = status.conditions.iter();
    conditions.any(|condition| condition.type_ == "Stalled" && condition.status == "True")
}

#[test]
fn a_weight_is_in_force_when_every_parent_that_counts_has_accepted_it() {
    assert!(in_force(&unanswered().with_route(both_accept).next()));
    assert!(!in_force(&unanswered().with_route(first_accepts).next()));
    assert!(!in_force(
        &unanswered().with_route(second_says("Accepted is False: no")).next()
    ));
    // Its status may have gone with it.
    assert!(!in_force(
        &unanswered()
            .with_route(|route| {
                first_accepts(route);
                route.parents.truncate(1);
            })
            .next()
    ));
}

#[test]
fn a_parent_that_never_accepted_is_not_waited_for() {
    let never = unanswered().with(|seen| {
        seen.rollout.status.found.as_mut().unwrap().parents.truncate(1);
    });
    assert!(in_force(&never.with_route(second_says("Accepted is False: no")).next()));
}

#[test]
fn a_parent_that_the_route_does_not_name_any_more_is_not_waited_for() {
    assert!(in_force(&unanswered().with_route(taken_out).next()));
    // One of the same name with another section is another parent.
    let section = unanswered().with_route(|route| {
        taken_out(route);
        route.parent_refs.push(format!("{SECOND}/https"));
    });
    assert!(in_force(&section.next()));
}

#[test]
fn a_parent_that_does_not_answer_stalls_the_run_by_name_and_the_canary_stays() {
    for (says, words) in [
        (None, SECOND.to_owned()),
        (
            Some("Accepted is False: gone"),
            format!("{SECOND}: Accepted is False: gone"),
        ),
    ] {
        let moment = match says {
            None => unanswered().with_route(first_accepts),
            Some(says) => unanswered().with_route(second_says(says)),
        };
        let overdue = moment.after(36_000);
        let status = overdue.commits();
        let run = status.run.as_ref().unwrap();
        assert!(stalled(&status), "{:?}", status.message);
        assert!(
            status.message.as_ref().unwrap().contains(&words),
            "{:?}",
            status.message
        );
        assert!(
            matches!(run.state, RunState::Stepping { .. }) && run.weight == 30,
            "{:?}",
            run.state
        );
        // Said once, it waits; and goes on when the parent is back.
        let said = overdue.with(|seen| seen.rollout.status = status);
        said.waits();
        assert!(in_force(&said.with_route(both_accept).next()));
    }
}

#[test]
fn a_way_back_that_a_parent_does_not_accept_keeps_the_canary() {
    let mut moment = unanswered().with_route(both_accept);
    // Abort, and write weight 0.
    moment = moment.with_command(Verb::Abort);
    let status = moment.commits();
    assert_eq!(status.phase, Some(Phase::RollingBack), "{:?}", status.message);
    let mark = status.run.as_ref().map(stepgate_core::route::mark).unwrap();
    let back = moment
        .with(|seen| {
            seen.rollout.status = status;
            seen.rollout.command = None;
        })
        .with_weight(0)
        .with_route(|route| {
            route.run = Some(mark);
            route.generation += 1;
            first_accepts(route);
        });
    let overdue = back.after(36_000);
    let status = overdue.commits();
    assert!(
        stalled(&status) && status.message.as_ref().unwrap().contains(SECOND),
        "{:?}",
        status.message
    );
    assert_eq!(status.phase, Some(Phase::RollingBack));
    let said = overdue.with(|seen| seen.rollout.status = status);
    said.waits();
    let goes_on =
        |moment: &Moment| matches!(moment.next(), Plan::Commit(status) if status.phase == Some(Phase::Draining));
    assert!(goes_on(&said.clone().with_route(both_accept)));
    assert!(goes_on(&said.clone().with_route(taken_out)));
}

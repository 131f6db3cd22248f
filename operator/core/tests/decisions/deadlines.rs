//! Until which moment is waited, and what is said when it has passed.

use serde_json::json;
use stepgate_core::{Plan, input::Seen};
use stepgate_crds::{
    status::{Phase, Retreat, RunState},
    units::{Span, Timestamp},
};

use crate::fixtures::world::{Moment, world};

fn earlier(moment: Timestamp, seconds: i64) -> Timestamp {
    Timestamp::from_millis(moment.as_millis() - seconds * 1_000)
}

/// Draining, the drain over and the route as its user wrote it, which its gateway has not accepted yet.
fn unaccepted() -> Moment {
    let moment = world().in_phase(Phase::Draining);
    let deadline = moment.0.limits.progress_deadline;
    let moment = moment.with_route(|route| {
        route.run = None;
        route.annotated = false;
        route.generation += 1;
        for rule in &mut route.rules {
            rule.backend_refs.retain(|one| one["name"] != "checkout-canary");
            for one in rule.backend_refs.iter_mut().filter(|one| one["name"] == "checkout") {
                one["weight"] = json!(7);
            }
        }
    });
    moment.with(|seen| {
        let run = seen.rollout.status.run.as_ref().unwrap();
        let RunState::Draining { since, .. } = run.state else {
            panic!("{:?}", run.state)
        };
        // Past any wait for an interval without requests, and short of the deadline.
        seen.now = earlier(since.after(deadline), 20);
        seen.samples.clear();
    })
}

/// Says what there is to say, and then waits: until when.
fn waits_after_words(moment: Moment) -> Option<Timestamp> {
    let moment = match moment.next() {
        Plan::Commit(told) => moment.with(|seen| seen.rollout.status = *told),
        Plan::Act(effects) => panic!("{effects:?}"),
        Plan::Wait(_) => moment,
    };
    moment.waits()
}

#[test]
fn a_route_given_back_is_waited_for_until_the_deadline_and_not_where_the_canary_is_gone_already() {
    let (draining, now) = (unaccepted(), unaccepted().0.now);
    let said = draining.clone().commits();
    assert!(
        said.message
            .as_ref()
            .unwrap()
            .contains("the route without the canary is not accepted yet"),
        "{:?}",
        said.message
    );
    assert_eq!(waits_after_words(draining.clone()), Some(now.after(Span::seconds(20))));
    // Past it there is no moment to wait for but the next look.
    let late = draining.clone().after(30);
    let look = late.0.now.after(late.0.limits.refresh);
    assert_eq!(waits_after_words(late), Some(look));
    let gone = |deployment: bool, service: bool| {
        let moment = draining.clone().with(|seen| {
            if deployment {
                seen.canary = Seen::Absent;
            }
            if service {
                seen.canary_service = Seen::Absent;
            }
        });
        match moment.next() {
            Plan::Commit(status) => status.run.is_none(),
            Plan::Act(_) => true,
            Plan::Wait(_) => false,
        }
    };
    assert!(gone(true, true));
    assert!(
        !gone(true, false) && !gone(false, true),
        "one of them may still be sent to"
    );
}

#[test]
fn a_wait_for_a_rollout_that_is_to_go_ends_at_the_moment_it_is_given_up_and_not_before_now() {
    // Its gateway accepts nothing; given up at twice the deadline.
    let deadline = world().at_step(2).0.limits.progress_deadline;
    let back = |leaving: bool, seconds: i64| {
        let moment = world().in_phase(Phase::RollingBack).with_weight(0);
        let run = moment.run().clone();
        let RunState::RollingBack { since, .. } = run.state else {
            panic!()
        };
        let over = since.after(deadline).after(deadline);
        let moment = moment.with_route(|route| {
            route.run = Some(format!("{}.{}", run.id, run.seq));
            route.generation += 1;
        });
        let moment = moment.with(|seen| {
            seen.rollout.deleting = leaving;
            seen.now = earlier(over, seconds);
            seen.stable_ready = 4;
        });
        (waits_after_words(moment.clone()), over, moment)
    };
    let (waits, over, _) = back(true, 5);
    assert_eq!(waits, Some(over));
    let (waits, _, moment) = back(false, 5);
    assert_eq!(
        waits,
        Some(moment.0.now.after(moment.0.limits.refresh)),
        "nobody gives it up"
    );
}

#[test]
fn a_retreat_is_waited_for_until_the_deadline() {
    let overdue = |seconds: i64| {
        let moment = world().in_phase(Phase::Retreated).with_weight(0);
        let run = moment.run().clone();
        let RunState::Retreated { since, .. } = run.state else {
            panic!()
        };
        let over = since.after(moment.0.limits.progress_deadline);
        let moment = moment
            .with_run(|run| {
                run.in_force = None;
                run.weight = 0;
            })
            .with_route(|route| {
                route.run = Some(format!("{}.{}", run.id, run.seq));
                route.generation += 1;
            })
            .with(|seen| {
                seen.now = earlier(over, seconds);
                seen.stable_ready = 4;
            });
        (
            waits_after_words(moment.clone()),
            over,
            moment.0.now.after(moment.0.limits.refresh),
        )
    };
    let (waits, over, _) = overdue(5);
    assert_eq!(waits, Some(over));
    let (waits, _, look) = overdue(-5);
    assert_eq!(waits, Some(look));
}

#[test]
fn a_bake_ends_at_its_moment_and_is_waited_for() {
    let spec = |then: &str| {
        json!({
            "analysis": {"onInconclusive": {"after": "10m", "then": then}},
            "steps": [{"weight": 10, "bake": "2h"}, {"weight": 100}],
        })
    };
    let at = |then: &str, seconds: i64| {
        let moment = world().with_spec(spec(then)).at_step(1);
        let since = moment.run().in_force.as_ref().unwrap().since;
        let baked = since.after(moment.run().spec.settle).after(Span::seconds(7_200));
        let moment = moment.with_counts(1, [60, 0, 540, 0]);
        (moment.with(|seen| seen.now = earlier(baked, -seconds)), baked)
    };
    let step = |(moment, _): &(Moment, Timestamp)| match moment.next() {
        Plan::Commit(status) => status.run.unwrap().step,
        Plan::Act(_) | Plan::Wait(_) => 0,
    };
    assert_eq!((step(&at("Advance", -1)), step(&at("Advance", 0))), (0, 1));
    for then in ["Advance", "Hold"] {
        let (moment, baked) = at(then, -5);
        assert_eq!(waits_after_words(moment), Some(baked), "{then}");
    }
    for seconds in [0, 5] {
        let (moment, _) = at("Hold", seconds);
        let look = moment.0.now.after(moment.0.limits.refresh);
        assert_eq!(waits_after_words(moment), Some(look), "{seconds} s after its bake");
    }
}

/// Retreated for a fault of both versions, stable being well since then or not, so many seconds before the deadline.
fn shared(is_well: bool, seconds: i64) -> (Moment, Timestamp) {
    let moment = super::waiting::retreated(Retreat::SharedFault);
    let over = moment.0.now.after(moment.0.limits.progress_deadline);
    let counts = if is_well { [0, 0, 1_000, 1] } else { [0, 0, 1_000, 80] };
    let moment = moment
        .with_counts(3, counts)
        .with(|seen| seen.now = earlier(over, seconds));
    let well_since = is_well.then_some(moment.0.now);
    let moment = moment.with_run(|run| {
        let RunState::Retreated { well_since: since, .. } = &mut run.state else {
            panic!()
        };
        *since = well_since;
    });
    (moment, over)
}

#[test]
fn a_retreat_past_its_deadline_stalls_where_stable_is_not_well() {
    let stalls = |is_well: bool, seconds: i64| {
        let (moment, over) = shared(is_well, seconds);
        let told = moment.commits();
        let stalled = told.conditions.iter().find(|one| one.type_ == "Stalled").unwrap();
        let is_stalled = stalled.status == "True";
        let now = moment.0.now;
        let waits = waits_after_words(moment.with(|seen| seen.rollout.status = told));
        (is_stalled, waits, over, now)
    };
    let (stalled, waits, over, _) = stalls(false, 5);
    assert_eq!((stalled, waits), (false, Some(over)));
    let (stalled, waits, _, now) = stalls(false, -5);
    assert_eq!(
        (stalled, waits),
        (true, Some(now.after(world().at_step(2).0.limits.refresh)))
    );
    let (stalled, ..) = stalls(true, -5);
    assert!(!stalled);
}

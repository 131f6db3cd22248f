//! What time makes of a run: hours of pauses, since when the canary is as large as it is, waits that end, and when a status is worth a write.

use serde_json::json;
use stepgate_core::{Kind, Plan, state};
use stepgate_crds::{
    RolloutStatus,
    status::{Phase, RunState},
    units::{Span, Timestamp},
};

use crate::fixtures::world::{Moment, world};

#[test]
fn the_hours_of_a_pause_are_counted_on_from_those_before() {
    let paused = world()
        .with_spec(json!({"steps": [{"weight": 50, "approval": "Required"}, {"weight": 100}]}))
        .in_phase(Phase::Paused);
    for (before, seconds, hour) in [(0, 120, 1), (0, 3_599, 1), (0, 3_600, 2), (4, 7_199, 6), (4, 7_200, 7)] {
        let moment = paused.clone().with_counts(3, [100, 0, 100, 0]).with(|seen| {
            let run = seen.rollout.status.run.as_mut().unwrap();
            let RunState::Paused { since, .. } = run.state else {
                panic!()
            };
            run.pause_hours = before;
            seen.now = since.after(Span::seconds(seconds));
        });
        let status = moment.commits();
        assert_eq!(
            status.run.unwrap().evidence.pauses_begun,
            hour,
            "{before} h and {seconds} s"
        );
    }
    let stepping = world().at_step(2).with_counts(3, [100, 0, 100, 0]).after(7_200);
    assert_eq!(stepping.commits().run.unwrap().evidence.pauses_begun, 0);
}

#[test]
fn a_canary_that_had_as_many_pods_with_traffic_before_is_as_warm_as_then() {
    let old = Timestamp::from_millis(1_700_000_000_000);
    // Of four pods 10 % take one, 30 % and 50 % two.
    for (before, kept) in [(0, false), (10, false), (30, true), (50, true), (100, true)] {
        let moment = world().at_step(2).with_run(|run| {
            let force = run.in_force.as_mut().unwrap();
            (force.weight, force.seq, force.grown) = (before, run.seq - 1, Some(old));
        });
        let force = moment.commits().run.unwrap().in_force.unwrap();
        let grown = if kept { old } else { moment.0.now };
        assert_eq!((force.weight, force.grown), (30, Some(grown)), "{before} %");
    }
}

#[test]
fn stables_history_is_read_before_the_first_weight_and_counts_from_it_on() {
    let preparing = world().in_phase(Phase::Preparing).0.rollout;
    let run = preparing.status.run.as_ref().unwrap();
    let window = state::baseline_window(&preparing).unwrap();
    assert_eq!((&window.run, window.until), (&run.id, run.started.as_millis() / 1_000));
    assert!(state::window(&preparing).is_none());
    let stepping = world().at_step(1).0.rollout;
    assert!(state::baseline_window(&stepping).is_none());
    assert!(state::window(&stepping).is_some());
}

#[test]
fn after_the_tripwire_nothing_stays_on_the_canary_for_want_of_pods() {
    let weak = |bad| {
        let moment = world()
            .at_step(3)
            .with(|seen| (seen.stable_ready, seen.canary_ready) = (2, 2));
        moment.with_counts(2, [100, bad, 100, 0]).commits().run.unwrap().weight
    };
    assert_eq!((weak(20), weak(90)), (50, 0));
}

#[test]
fn requests_that_lost_pods_did_not_answer_are_no_proof() {
    let failing = |state: RunState, before: i32| {
        let moment = world().at_step(4).with_run(|run| {
            run.state = state;
            run.in_force.as_mut().unwrap().seq -= before;
        });
        let moment = moment.with_counts(2, [100, 90, 0, 0]);
        match moment.next() {
            Plan::Commit(status) => match status.run.unwrap().state {
                RunState::RollingBack { cause, .. } | RunState::Restoring { cause, .. } => Some(cause.reason),
                _ => None,
            },
            _ => None,
        }
    };
    let since = world().at_step(4).0.now;
    let tripped = Some("Tripwire".to_owned());
    assert_eq!(failing(RunState::Promoting { since }, 0), tripped);
    assert_eq!(failing(RunState::Promoting { since }, 1), None);
    assert_eq!(failing(RunState::Stepping { since }, 0), tripped);
    assert_eq!(failing(RunState::Stepping { since }, 1), tripped);
}

/// On the way back to 0 %, the route marked so and still at 30 %, without a ready pod of stable.
fn alone(leaving: bool) -> Moment {
    let moment = world().in_phase(Phase::RollingBack);
    let run = moment.0.rollout.status.run.clone().unwrap();
    let moment = moment
        .with_weight(30)
        .with_route(|route| route.run = Some(format!("{}.{}", run.id, run.seq)));
    moment.with(|seen| {
        (seen.stable_ready, seen.canary_ready, seen.rollout.deleting) = (0, 2, leaving);
    })
}

fn since(moment: &Moment) -> Timestamp {
    match moment.0.rollout.status.run.as_ref().unwrap().state {
        RunState::RollingBack { since, .. } => since,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn the_canary_serves_alone_until_a_rollout_that_is_to_go_is_past_its_deadline() {
    let deadline = world().at_step(2).0.limits.progress_deadline;
    let at = |leaving, seconds: i64| {
        let over = since(&alone(leaving)).after(deadline).as_millis();
        alone(leaving).with(|seen| seen.now = Timestamp::from_millis(over + seconds * 1_000))
    };
    let acts = |moment: &Moment| matches!(moment.next(), Plan::Act(_));
    assert!(!acts(&at(false, -1)) && !acts(&at(true, -1)));
    assert!(!acts(&at(false, 1)), "it is not to go");
    let effects = at(true, 1).acts();
    assert_eq!(effects[0].kind, Kind::HttpRoute);
    // It says so once, and then waits for that moment.
    let early = at(true, -30);
    let said = early.commits();
    assert!(
        said.message
            .as_ref()
            .unwrap()
            .contains("wait for a ready pod of stable"),
        "{:?}",
        said.message
    );
    let waits = early.with(|seen| seen.rollout.status = said).waits().unwrap();
    assert_eq!(waits, since(&alone(true)).after(deadline));
}

#[test]
fn what_an_older_intent_has_under_way_is_shut_out_before_the_wait() {
    let unmarked = alone(false).with_route(|route| {
        let (id, _) = route.run.as_ref().unwrap().split_once('.').unwrap();
        route.run = Some(format!("{id}.1"));
    });
    assert_eq!(unmarked.acts()[0].kind, Kind::HttpRoute);
    assert!(!matches!(alone(false).next(), Plan::Act(_)));
    // With a pod of stable, or none of the canary, it goes.
    assert_eq!(
        alone(false).with(|seen| seen.stable_ready = 4).acts()[0].kind,
        Kind::HttpRoute
    );
    assert_eq!(
        alone(false).with(|seen| seen.canary_ready = 0).acts()[0].kind,
        Kind::HttpRoute
    );
}

#[test]
fn a_gateway_that_accepts_nothing_is_waited_for_until_twice_the_deadline_of_a_rollout_that_is_to_go() {
    let deadline = world().at_step(2).0.limits.progress_deadline;
    let at = |leaving, seconds: i64| {
        let twice = since(&alone(leaving)).after(deadline).after(deadline).as_millis();
        let moment = alone(leaving).with_weight(0).with_route(|route| route.generation += 1);
        moment.with(|seen| {
            seen.now = Timestamp::from_millis(twice + seconds * 1_000);
            seen.stable_ready = 4;
        })
    };
    let drains = |moment: &Moment| match moment.next() {
        Plan::Commit(status) => matches!(status.run.map(|run| run.state), Some(RunState::Draining { .. }) | None),
        _ => false,
    };
    assert!(!drains(&at(true, -1)));
    assert!(drains(&at(true, 0)));
    assert!(!drains(&at(false, 1)));
}

/// At the second step with numbers that are newer than those which were just written.
fn refreshed(seconds_ago: i64) -> Moment {
    let moment = world().at_step(2).with_counts(1, [100, 0, 200, 0]);
    let told = moment.clone().after(120).commits();
    moment.with_counts(2, [100, 0, 200, 0]).with(|seen| {
        seen.rollout.status = told;
        let refreshed = Timestamp::from_millis(seen.now.as_millis() - seconds_ago * 1_000);
        seen.rollout.status.run.as_mut().unwrap().refreshed = refreshed;
        seen.limits.refresh = Span::seconds(60);
    })
}

#[test]
fn numbers_alone_wait_for_their_minute_and_news_do_not() {
    let of = |change: fn(&mut RolloutStatus)| {
        let moment = refreshed(10).with(|seen| change(&mut seen.rollout.status));
        matches!(moment.next(), Plan::Commit(_))
    };
    assert!(!of(|_| {}), "{:?}", refreshed(10).next());
    assert!(of(|status| status.phase = Some(Phase::Paused)));
    assert!(of(|status| status.observed_generation = Some(0)));
    assert!(of(|status| {
        let stalled = status
            .conditions
            .iter_mut()
            .find(|condition| condition.type_ == "Stalled");
        stalled.unwrap().status = "True".to_owned();
    }));
    // That another reason holds is no news where nobody has to see it at once.
    assert!(!of(|status| {
        for condition in &mut status.conditions {
            condition.reason = "Another".to_owned();
        }
    }));
    let other = refreshed(10).with(|seen| {
        for condition in &mut seen.rollout.status.conditions {
            condition.reason = "Another".to_owned();
        }
    });
    assert_eq!(other.waits(), Some(other.0.now.after(Span::seconds(50))));
    assert!(matches!(refreshed(60).next(), Plan::Commit(_)));
    let until = refreshed(10).waits().unwrap();
    assert_eq!(until, refreshed(10).0.now.after(Span::seconds(50)));
    let slack = refreshed(10).with(|seen| seen.limits.refresh_slack = Span::seconds(5));
    assert_eq!(slack.waits().unwrap(), until.after(Span::seconds(5)));
}

#[test]
fn an_urgent_reason_waits_for_a_moment_of_calm() {
    let of = |seconds_ago| {
        refreshed(0).with(|seen| {
            let (source, now) = (&mut seen.source, seen.now);
            *source = stepgate_core::input::SourceHealth::Down {
                since: now,
                kind: stepgate_crds::evidence::Trouble::SourceUnreachable,
                why: "refused".to_owned(),
            };
            seen.samples.clear();
            let refreshed = Timestamp::from_millis(now.as_millis() - seconds_ago);
            seen.rollout.status.run.as_mut().unwrap().refreshed = refreshed;
        })
    };
    let calm = of(0).0.limits.calm;
    assert_eq!(of(0).waits(), Some(of(0).0.now.after(calm)));
    let status = of(calm.as_millis()).commits();
    assert_eq!(
        status.verdict.as_deref(),
        Some("SourceUnreachable"),
        "{:?}",
        status.message
    );
}

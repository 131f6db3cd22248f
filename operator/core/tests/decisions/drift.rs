//! Weights that somebody else changed: which way, how often, and in which order they are put right.

use serde_json::json;
use stepgate_core::{Effect, Plan};
use stepgate_crds::{
    RolloutStatus,
    status::{Drift, PauseReason, Phase, RunState},
    units::Timestamp,
};

use crate::fixtures::world::{Moment, world};

/// At the second step, 30 %; each rule's weights of stable and canary are these.
fn changed(stable: i64, canary: Option<i64>) -> Moment {
    world().at_step(2).with_route(|route| {
        route.generation += 1;
        let rules = route.rules.iter_mut();
        for rule in rules.filter(|rule| rule.backend_refs.iter().any(|one| one["name"] == "checkout")) {
            rule.backend_refs
                .retain(|one| one["name"] != "checkout-canary" || canary.is_some());
            for one in &mut rule.backend_refs {
                one["weight"] = match one["name"].as_str() {
                    Some("checkout") => json!(stable),
                    _ => json!(canary),
                };
            }
        }
    })
}

/// These intents were changed at these seconds before now, the last of them at `seq` intents before the present one.
fn again(moment: Moment, seconds: &[i64], seq: i32) -> Moment {
    moment.with(|seen| {
        let now = seen.now.as_millis();
        let times = seconds.iter().map(|ago| Timestamp::from_millis(now - ago * 1_000));
        let run = seen.rollout.status.run.as_mut().unwrap();
        run.drift = Some(Drift {
            seq: run.seq - seq,
            times: times.collect(),
            generations: 1,
        });
    })
}

fn seq(status: &RolloutStatus) -> i32 {
    status.run.as_ref().unwrap().seq
}

#[test]
fn toward_stable_it_is_obeyed_first_and_toward_the_canary_put_right_at_once() {
    for (stable, canary, obeyed) in [
        (90, Some(10), true),
        (100, Some(0), true),
        (1, None, true),
        (50, Some(50), false),
        (0, Some(100), false),
        // No percentages: as much as it is to have is not more, but a rule without stable is.
        (1, Some(30), true),
        (1, Some(31), false),
        (0, Some(30), false),
        (0, Some(1), false),
    ] {
        let moment = changed(stable, canary);
        let before = moment.0.rollout.status.clone();
        let status = moment.commits();
        let drift = status.run.as_ref().unwrap().drift.clone();
        let said = status.message.clone().unwrap();
        if obeyed {
            assert_eq!(seq(&status), seq(&before), "{stable} {canary:?}: {said}");
            assert!(said.contains("that is obeyed until"), "{said}");
            let drift = drift.unwrap();
            assert_eq!((drift.seq, drift.times), (seq(&before), vec![moment.0.now]));
        } else {
            assert_eq!(seq(&status), seq(&before) + 1, "{stable} {canary:?}: {said}");
            assert!(said.contains("30 % is put back at once"), "{said}");
        }
    }
}

#[test]
fn each_time_it_is_obeyed_for_longer_and_the_fourth_time_a_person_decides() {
    for (ago, seconds) in [
        (vec![], 1),
        (vec![50], 10),
        (vec![90, 50], 60),
        // What was ten minutes ago is forgotten.
        (vec![600], 1),
        (vec![599], 10),
        (vec![900, 600, 50], 10),
    ] {
        let moment = again(changed(90, Some(10)), &ago, 1);
        let until = Timestamp::from_millis(moment.0.now.as_millis() + seconds * 1_000);
        let status = moment.commits();
        let said = status.message.unwrap();
        assert!(said.contains(&format!("obeyed until {until},")), "{ago:?}: {said}");
    }
    for ago in [vec![300, 200, 100], vec![400, 300, 200, 100]] {
        let status = again(changed(90, Some(10)), &ago, 1).commits();
        let run = status.run.unwrap();
        assert!(
            matches!(
                run.state,
                RunState::Paused {
                    why: PauseReason::Contention,
                    ..
                }
            ),
            "{:?}",
            run.state
        );
        let times = format!("{} times in ten minutes", ago.len() + 1);
        assert!(status.message.unwrap().contains(&times));
        assert_eq!((status.phase, run.accepted_weight), (Some(Phase::Paused), 10));
    }
}

#[test]
fn what_is_obeyed_is_put_right_when_its_time_is_over() {
    for (ago, left) in [(vec![0], 1), (vec![50, 4], 6), (vec![90, 50, 4], 56)] {
        let moment = again(changed(90, Some(10)), &ago, 0);
        let until = Timestamp::from_millis(moment.0.now.as_millis() + left * 1_000);
        let before = moment.0.rollout.status.clone();
        match moment.next() {
            Plan::Commit(status) => {
                assert_eq!(seq(&status), seq(&before), "{ago:?}");
                assert!(status.message.unwrap().contains(&format!("obeyed until {until},")));
            }
            Plan::Wait(wake) => assert!(wake.at.is_some_and(|at| at > moment.0.now && at <= until), "{ago:?}"),
            Plan::Act(effects) => panic!("{effects:?}"),
        }
        let over = moment.with(|seen| seen.now = until);
        let status = over.commits();
        assert_eq!(seq(&status), seq(&before) + 1);
        assert!(status.message.unwrap().contains("30 % again"));
    }
}

#[test]
fn a_mark_that_was_taken_off_is_a_change_once_and_then_comes_what_is_due() {
    let unmarked = || changed(90, Some(10)).with_route(|route| route.run = None);
    let generation = unmarked().0.routes[0].1.get().unwrap().generation;
    let drift = unmarked().commits().run.unwrap().drift.unwrap();
    assert_eq!(drift.generations, generation);
    let seen_at = |generations, seq| {
        again(unmarked(), &[5], seq).with_run(|run| run.drift.as_mut().unwrap().generations = generations)
    };
    assert_eq!(seen_at(generation, 1).acts().len(), 1);
    // Changed since: it is obeyed again.
    assert!(seen_at(generation - 1, 1).commits().message.unwrap().contains("obeyed"));
    // Seen under the present intent: still obeyed.
    assert!(!matches!(seen_at(generation, 0).next(), Plan::Act(_)));
}

/// Two routes under an older mark, which give the canary these percentages, at 30 %.
fn two(first: i64, second: i64) -> Moment {
    let older = |moment: Moment| {
        moment.with_route(|route| {
            let (id, _) = route.run.as_ref().unwrap().split_once('.').unwrap();
            route.run = Some(format!("{id}.1"));
        })
    };
    let other = older(world().at_step(2).with_weight(second)).0.routes.remove(0).1;
    older(world().at_step(2).with_weight(first)).with(|seen| {
        let stepgate_core::Seen::At(mut route) = other else {
            panic!()
        };
        route.name = "second".to_owned();
        seen.routes.push(("second".to_owned(), stepgate_core::Seen::At(route)));
        let run = seen.rollout.status.run.as_mut().unwrap();
        let mut rule = run.original[0].clone();
        rule.route = "second".to_owned();
        run.original.push(rule);
    })
}

fn names(effects: &[Effect]) -> Vec<&str> {
    effects.iter().map(|effect| effect.name.as_str()).collect()
}

#[test]
fn what_falls_falls_first_and_what_cannot_be_carried_waits() {
    assert_eq!(names(&two(10, 50).acts()), ["second", "checkout"]);
    assert_eq!(names(&two(50, 10).acts()), ["checkout", "second"]);
    assert_eq!(names(&two(10, 10).acts()), ["checkout", "second"]);
    // Without pods for 30 % nothing rises; what stands there is marked all the same.
    let weak = |first, second| two(first, second).with(|seen| seen.canary_ready = 1);
    assert_eq!(names(&weak(10, 50).acts()), ["second"]);
    assert_eq!(names(&weak(10, 30).acts()), ["second"]);
    // Without a pod of stable nothing falls.
    let alone = |first, second| two(first, second).with(|seen| seen.stable_ready = 0);
    assert_eq!(names(&alone(10, 50).acts()), ["checkout"]);
    assert_eq!(names(&alone(30, 50).acts()), ["checkout"]);
}

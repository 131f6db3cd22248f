//! What one moment, one count or one word decides.

use serde_json::json;
use stepgate_core::{
    Plan,
    input::Seen,
    route, state,
    verdict::{Arm, Counts, Interval, Observation},
};
use stepgate_crds::{
    command::Verb,
    status::{Phase, Retreat, RunState},
    units::{Span, Timestamp},
};

use crate::fixtures::world::{Moment, world};

#[test]
fn half_a_request_is_one() {
    let with = |requests: f64| {
        let moment = world().in_phase(Phase::Draining).with(|seen| {
            let run = seen.rollout.status.run.as_ref().unwrap();
            let RunState::Draining { since, .. } = run.state else {
                panic!("{:?}", run.state)
            };
            let first = since.ceil_seconds() / 10 * 10 + 10;
            let canary = Arm { requests, bad: 0.0 };
            let stable = Arm {
                requests: 100.0,
                bad: 0.0,
            };
            seen.samples = vec![Interval {
                end: first + 10,
                seconds: 10,
                metrics: vec![Observation::Counts(Counts { canary, stable })],
            }];
            seen.now = since.after(run.spec.drain).after(Span::seconds(1));
        });
        matches!(moment.next(), Plan::Act(_))
    };
    assert!(with(0.0) && with(0.49));
    assert!(!with(0.5) && !with(1.0));
}

#[test]
fn a_promotion_without_traffic_on_the_canary_is_left_at_that() {
    let moment = world()
        .in_phase(Phase::Promoting)
        .with_run(|run| (run.weight, run.seq) = (0, run.seq + 1))
        .with_weight(0)
        .with(|seen| (seen.canary_ready, seen.stable_ready) = (0, 2));
    let run = moment.run().clone();
    let moment = moment.with_route(|route| {
        route.run = Some(format!("{}.{}", run.id, run.seq));
        route.parents[0].accepted = Some(route.generation);
    });
    // Neither the weight nor what is in force is written again.
    match moment.next() {
        Plan::Commit(status) => {
            let now = status.run.unwrap();
            assert_eq!((now.seq, now.in_force), (run.seq, run.in_force), "{:?}", status.message);
        }
        Plan::Wait(_) => {}
        Plan::Act(effects) => panic!("{effects:?}"),
    }
    // All of it is taken from pods that are gone, where the Deployment has any.
    let falls = |stable: i32| {
        let full = world().in_phase(Phase::Promoting);
        let full = full.with(|seen| (seen.canary_ready, seen.stable_ready) = (0, stable));
        matches!(full.next(), Plan::Commit(status) if status.run.as_ref().unwrap().weight == 0)
    };
    assert!(falls(1) && !falls(0));
}

#[test]
fn what_a_person_promotes_is_written_down_and_takes_nothing_from_the_step() {
    let before = world().at_step(2).0.rollout.status.run.unwrap();
    let promoted = |full: bool| {
        let moment = world().at_step(2).with_command(Verb::Promote).with(|seen| {
            let Some(Ok(command)) = &mut seen.rollout.command else {
                panic!()
            };
            command.full = full;
        });
        moment.commits().run.unwrap()
    };
    let one = promoted(false);
    assert_eq!(one.overridden.as_ref().map(|by| by.step), Some(1));
    assert_eq!(
        (one.state, one.weight, one.seq, one.in_force),
        (before.state.clone(), before.weight, before.seq, before.in_force)
    );
    let all = promoted(true);
    assert_eq!(all.overridden.as_ref().map(|by| by.step), Some(3));
    assert_eq!((all.weight, all.seq), (100, before.seq + 1));
}

#[test]
fn a_record_of_another_template_under_the_name_of_the_next_goes_first() {
    let adopting = |digest_of: Option<serde_json::Value>| {
        let moment = world().at_rest().with(|seen| {
            let status = &mut seen.rollout.status;
            let name = status.stable.take().unwrap().template;
            status.revisions -= 1;
            if let Some(template) = digest_of {
                seen.templates.get_mut(&name).unwrap().digest = stepgate_core::template::digest(&template);
            }
        });
        moment.next()
    };
    let Plan::Act(effects) = adopting(Some(json!({"another": 1}))) else {
        panic!("it is kept")
    };
    assert!(
        matches!(effects[0].act, stepgate_core::Act::Delete { .. }),
        "{effects:?}"
    );
    assert!(matches!(adopting(None), Plan::Commit(_)));
}

#[test]
fn what_is_tried_again_and_cannot_begin_is_refused_with_its_reason() {
    let failed = world().in_phase(Phase::Failed).with(|seen| {
        let services = &mut seen.survey.as_mut().unwrap().services;
        services.retain(|service| service.name != "checkout");
    });
    let refusal = |moment: &Moment| {
        let outcome = moment.clone().with_command(Verb::Retry).commits().command.unwrap();
        assert!(!outcome.done, "{}", outcome.message);
        outcome.message
    };
    let message = refusal(&failed);
    assert!(
        message.starts_with("retry: ") && message.contains("checkout"),
        "{message}"
    );
    // That it cannot be is known already: a try has nothing new to commit, and is refused all the same.
    let mut known = failed.clone().with(|seen| seen.rollout.generation += 1);
    while let Plan::Commit(status) = known.next() {
        known = known.with(|seen| seen.rollout.status = *status);
    }
    assert_eq!(known.0.rollout.status.phase, Some(Phase::Blocked));
    assert_eq!(refusal(&known), message);
}

#[test]
fn a_parent_with_nothing_to_say_is_named_alone() {
    let moment = world().at_step(2).with_route(|route| {
        route.generation += 1;
        route.parents[0].message = String::new();
    });
    let Seen::At(view) = &moment.0.routes[0].1 else {
        panic!()
    };
    let expected = moment.0.rollout.status.found.clone().unwrap().parents;
    let parent = view.parents[0].parent.clone();
    assert_eq!(route::pending(view, &expected), [parent]);
}

#[test]
fn a_backend_is_a_service_by_kind_and_group() {
    for (reference, service) in [
        (json!({"name": "checkout"}), Some("checkout")),
        (
            json!({"name": "checkout", "kind": "Service", "group": ""}),
            Some("checkout"),
        ),
        (json!({"name": "checkout", "kind": "Backend", "group": ""}), None),
        (
            json!({"name": "checkout", "kind": "Service", "group": "example.com"}),
            None,
        ),
        (
            json!({"name": "checkout", "kind": "Backend", "group": "example.com"}),
            None,
        ),
        (json!({"name": "checkout", "namespace": "another"}), None),
    ] {
        assert_eq!(route::service_of(&reference), service, "{reference}");
    }
}

#[test]
fn counts_are_asked_for_once_there_is_a_moment_to_count_from() {
    let at = |through: i64| {
        let rollout = world()
            .at_step(1)
            .with_run(|run| run.evidence.through = through)
            .0
            .rollout;
        state::window(&rollout).map(|window| window.from)
    };
    assert_eq!((at(0), at(1)), (None, Some(1)));
}

#[test]
fn each_route_has_the_rules_that_were_named_for_it() {
    let named = |wanted: &str| {
        let moment = world().at_step(2).with_run(|run| {
            run.spec.routes = serde_json::from_value(json!([
                {"name": "another", "rules": ["main"]},
                {"name": "checkout", "rules": [wanted]},
            ]))
            .unwrap();
        });
        let moment = moment.with_route(|route| route.rules[0].name = Some("front".to_owned()));
        let message = moment.after(120).commits().message.unwrap();
        message.contains("no rule refers to Service checkout any more")
    };
    assert!(!named("front"));
    assert!(named("main"));
}

#[test]
fn a_retreat_that_keeps_weight_for_want_of_pods_says_so() {
    let moment = world().in_phase(Phase::Retreated);
    let run = moment.run().clone();
    let moment = moment
        .with_run(|run| (run.weight, run.refreshed) = (30, Timestamp::from_millis(0)))
        .with_weight(30)
        .with_route(|route| route.run = Some(format!("{}.{}", run.id, run.seq)))
        .with(|seen| (seen.stable_ready, seen.canary_ready) = (1, 2));
    let message = moment.after(1).commits().message.unwrap();
    assert!(
        message.contains("stay on the canary: the Deployment has 1 ready pods"),
        "{message}"
    );
}

#[test]
fn nothing_is_taken_away_where_nothing_is_in_force() {
    let silent = |in_force: bool, sent: i64| {
        let moment = world().at_step(4).with_counts(4, [0, 0, 1_000, 0]).with_weight(sent);
        let moment = if in_force {
            moment
        } else {
            moment.with_run(|run| run.in_force.as_mut().unwrap().seq -= 1)
        };
        match moment.next() {
            Plan::Commit(status) => matches!(
                status.run.unwrap().state,
                RunState::Retreated {
                    why: Retreat::CanarySilent,
                    ..
                }
            ),
            Plan::Act(_) | Plan::Wait(_) => false,
        }
    };
    assert!(silent(true, 100));
    assert!(!silent(false, 100), "not yet in force");
    assert!(!silent(true, 0), "somebody took it");
}

#[test]
fn a_retreat_that_is_over_takes_nothing_where_nothing_is_sent() {
    let spec = json!({"analysis": {"onInconclusive": {"after": "30m", "then": "Retreat"}}});
    let sent = |weight: i64| {
        let moment = world()
            .with_spec(spec.clone())
            .at_step(1)
            .with_counts(1, [60, 0, 540, 0]);
        let moment = moment.after(3_600).with_weight(weight);
        match moment.next() {
            Plan::Commit(status) => !matches!(status.run.unwrap().state, RunState::Stepping { .. }),
            Plan::Act(_) | Plan::Wait(_) => false,
        }
    };
    assert!(sent(10) && !sent(0));
}

#[test]
fn what_no_longer_fits_goes_from_the_last_until_it_does_and_no_further() {
    let asked = |length: usize| {
        let moment = world().at_step(2).with_counts(3, [100, 0, 200, 0]).after(60);
        let told = moment.clone().commits();
        let moment = moment.with(|seen| seen.rollout.status = told).with_run(|run| {
            let query = json!({"canaryRequests": "x".repeat(length), "canaryBad": "", "stableRequests": "", "stableBad": "", "targets": []});
            run.metrics[0].query = Some(serde_json::from_value(query).unwrap());
            let report = json!({"name": "own", "failures": 0, "failureLimit": 3, "asked": "y"});
            run.queries = vec![serde_json::from_value(report).unwrap()];
        });
        let run = moment.with_command(Verb::Abort).commits().run.unwrap();
        let own = run.queries.first().map(|query| query.asked.is_some());
        (run.metrics[0].query.is_some(), own)
    };
    assert_eq!(asked(10), (true, Some(true)));
    // Without it everything fits, but what users asked went before.
    assert_eq!(asked(20_000), (false, Some(false)));
}

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
    let at_zero = |ready: i32| {
        let moment = world()
            .in_phase(Phase::Promoting)
            .with_run(|run| (run.weight, run.seq) = (0, run.seq + 1));
        let run = moment.0.rollout.status.run.clone().unwrap();
        let moment = moment.with_weight(0).with_route(|route| {
            route.run = Some(format!("{}.{}", run.id, run.seq));
            route.parents[0].accepted = Some(route.generation);
        });
        moment.with(|seen| (seen.canary_ready, seen.stable_ready) = (ready, 2))
    };
    // Its pods are gone, or back: neither the weight nor what is in force is written again.
    let (run, moment) = (at_zero(0).0.rollout.status.run.unwrap(), at_zero(0));
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
fn a_wait_for_a_rollout_that_is_to_go_ends_at_the_moment_it_is_given_up_and_not_before_now() {
    // Its gateway accepts nothing; given up at twice the deadline.
    let deadline = world().at_step(2).0.limits.progress_deadline;
    let back = |leaving: bool, seconds: i64| {
        let moment = world().in_phase(Phase::RollingBack).with_weight(0);
        let run = moment.0.rollout.status.run.clone().unwrap();
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
    let run = moment.0.rollout.status.run.clone().unwrap();
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
fn a_retreat_is_waited_for_until_the_deadline() {
    let overdue = |seconds: i64| {
        let moment = world().in_phase(Phase::Retreated).with_weight(0);
        let run = moment.0.rollout.status.run.clone().unwrap();
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
fn a_bake_ends_at_its_moment_and_is_waited_for() {
    let spec = |then: &str| {
        json!({
            "analysis": {"onInconclusive": {"after": "10m", "then": then}},
            "steps": [{"weight": 10, "bake": "2h"}, {"weight": 100}],
        })
    };
    let at = |then: &str, seconds: i64| {
        let moment = world().with_spec(spec(then)).at_step(1);
        let since = moment
            .0
            .rollout
            .status
            .run
            .as_ref()
            .unwrap()
            .in_force
            .as_ref()
            .unwrap()
            .since;
        let baked = since
            .after(moment.0.rollout.status.run.as_ref().unwrap().spec.settle)
            .after(Span::seconds(7_200));
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

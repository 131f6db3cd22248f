//! Decisions in the steps of a run.

use serde_json::json;
use stepgate_core::{
    Act, Kind, Plan,
    input::{Seen, SourceHealth},
    verdict::Restarts,
};
use stepgate_crds::{
    RolloutStatus,
    command::Verb,
    evidence::Trouble,
    status::{Outcome, Phase, Retreat, RunState},
    units::{Span, Timestamp},
};

use crate::fixtures::{
    simulator::Simulator,
    world::{Moment, world},
};

#[track_caller]
fn rolls_back(moment: &Moment, reason: &str) {
    let status = moment.commits();
    let run = status.run.unwrap();
    assert_eq!(run.weight, 0);
    match run.state {
        RunState::RollingBack { cause, then, .. } => {
            assert_eq!(
                (cause.reason.as_str(), then),
                (reason, Outcome::Failed),
                "{}",
                cause.detail
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(status.phase, Some(Phase::RollingBack));
    assert!(status.note.unwrap().warning);
}

#[test]
fn a_canary_that_waits_for_stable_says_how_to_let_its_version_roll_at_once() {
    let mut simulator = Simulator::adopted(&json!({}));
    simulator.ship("v2");
    simulator.cluster.weather.broken.push("v1".to_owned());
    simulator.until("a canary that waits for stable", 120, |simulator| {
        let message = simulator.status().message.unwrap_or_default();
        message.ends_with(
            "kubectl annotate deployment checkout -n shop stepgate.dev/hold=released --overwrite && kubectl rollout resume deployment checkout -n shop",
        )
    });
}

#[test]
fn a_failed_verdict_takes_all_traffic_back_to_stable() {
    let moment = world().at_step(2).with_counts(3, [1_000, 80, 2_000, 2]);
    rolls_back(&moment, "Verdict");
}

#[test]
fn a_failed_verdict_needs_neither_a_ready_canary_nor_a_route_at_its_weight() {
    let moment = world()
        .at_step(2)
        .with_counts(3, [1_000, 80, 2_000, 2])
        .with_weight(90)
        .with(|seen| seen.canary_ready = 0);
    rolls_back(&moment, "Verdict");
}

#[test]
fn failure_is_judged_before_a_bake_that_is_over_and_before_a_persons_promotion() {
    let moment = world()
        .at_step(2)
        .with_counts(3, [1_000, 80, 2_000, 2])
        .after(3_600)
        .with_command(Verb::Promote);
    let refused = moment.commits();
    assert!(!refused.command.as_ref().unwrap().done);
    let message = refused.command.unwrap().message;
    assert!(message.contains("the version has failed"), "{message}");
}

#[test]
fn a_pass_before_the_end_of_the_bake_waits_for_it() {
    let moment = world()
        .with_spec(json!({"steps": [{"weight": 10, "bake": "10m"}, {"weight": 100}]}))
        .at_step(1)
        .with_counts(6, [1_000, 0, 9_000, 0]);
    let force = moment.0.rollout.status.run.as_ref().unwrap().in_force.clone().unwrap();
    let over = Timestamp::from_millis(force.since.as_millis() + 2_000 + 600_000);
    // A minute has passed: the numbers are written, and then it waits for the bake.
    let said = moment.commits();
    assert!(said.message.unwrap().contains("it bakes until"));
    assert_eq!(said.run.unwrap().step, 0);
    let later = moment.with(|seen| seen.now = over);
    assert_eq!(later.commits().run.unwrap().step, 1);
}

#[test]
fn a_pass_goes_to_the_next_step_and_touches_the_route_only_after_the_commit() {
    let status = world()
        .at_step(1)
        .with_counts(3, [1_000, 0, 9_000, 0])
        .after(60)
        .commits();
    let run = status.run.unwrap();
    assert_eq!((run.step, run.weight, run.accepted_weight), (1, 30, 10));
    assert!(run.in_force.unwrap().seq < run.seq);
    assert_eq!(status.verdict.as_deref(), Some("Pass"));
    assert_eq!(status.note.unwrap().reason, "StepPassed");
}

#[test]
fn a_pass_waits_for_pods_that_the_weight_needs() {
    let moment = world()
        .at_step(3)
        .with_counts(3, [1_000, 0, 1_000, 0])
        .after(60)
        .with(|seen| seen.canary_ready = 1);
    let said = moment.commits();
    assert!(said.message.unwrap().contains("1 of 2 canary pods"));
    assert_eq!(said.run.unwrap().step, 2);
    let late = moment.after(3_600).commits();
    assert!(
        late.conditions
            .iter()
            .any(|one| one.type_ == "Stalled" && one.status == "True")
    );
}

#[test]
fn nothing_is_decided_on_counts_of_before_the_weight_was_accepted() {
    let moment = world().at_step(2).with_counts(3, [1_000, 0, 2_000, 0]).with(|seen| {
        let accepted = seen
            .rollout
            .status
            .run
            .as_ref()
            .unwrap()
            .in_force
            .as_ref()
            .unwrap()
            .since
            .ceil_seconds();
        for (back, sample) in seen.samples.iter_mut().rev().enumerate() {
            sample.end = accepted - i64::try_from(back).unwrap() * 10;
        }
        seen.now = Timestamp::from_millis((accepted + 3_000) * 1_000);
    });
    let said = moment.commits();
    assert_eq!(said.run.unwrap().step, 1);
    assert_eq!(said.verdict.as_deref(), Some("InsufficientTraffic"));
}

#[test]
fn a_canary_that_is_too_small_is_scaled_before_the_route_is_touched() {
    let moment = world().at_step(3).with(|seen| {
        if let Seen::At(canary) = &mut seen.canary {
            canary.replicas = 1;
        }
    });
    let effects = moment.acts();
    assert_eq!(effects.len(), 1);
    assert_eq!(
        (effects[0].kind, effects[0].name.as_str()),
        (Kind::Deployment, "checkout-canary")
    );
    let Act::Merge(patch) = &effects[0].act else {
        panic!("{effects:?}")
    };
    assert_eq!(patch["spec"], json!({"replicas": 2}));
}

#[test]
fn a_route_that_cannot_be_read_is_neither_at_its_weight_nor_accepted() {
    for phase in [Phase::Preparing, Phase::Stepping, Phase::RollingBack, Phase::Draining] {
        let moment = world()
            .in_phase(phase)
            .with(|seen| seen.routes[0].1 = Seen::Unknown("forbidden".to_owned()))
            .after(20);
        let before = moment.0.rollout.status.run.clone().unwrap();
        match moment.next() {
            stepgate_core::Plan::Commit(status) => {
                let run = status.run.unwrap();
                assert_eq!(
                    (run.seq, &run.in_force),
                    (before.seq, &before.in_force),
                    "{phase:?}: {:?}",
                    status.message
                );
                assert!(status.message.unwrap().contains("could not be read"), "{phase:?}");
            }
            stepgate_core::Plan::Act(effects) => {
                assert!(
                    effects.iter().all(|effect| matches!(effect.act, Act::Create(_))),
                    "{phase:?}: {effects:?}"
                );
            }
            stepgate_core::Plan::Wait(_) => {}
        }
    }
}

#[test]
fn a_canary_without_a_ready_pod_has_its_traffic_taken_back_and_one_that_was_deleted_fails() {
    let lost = world()
        .at_step(2)
        .with(|seen| seen.canary_ready = 0)
        .commits()
        .run
        .unwrap();
    assert!(
        matches!(
            lost.state,
            RunState::Retreated {
                why: Retreat::PodsLost,
                ..
            }
        ),
        "{:?}",
        lost.state
    );
    assert_eq!((lost.weight, lost.retreats.pods_lost), (0, 1));
    rolls_back(
        &world().at_step(2).with(|seen| seen.canary = Seen::Absent),
        "CanaryLost",
    );
}

#[test]
fn a_canary_that_cannot_be_read_is_not_lost() {
    let moment = world().at_step(2).with(|seen| {
        seen.canary = Seen::Unknown("timeout".to_owned());
        seen.canary_ready = 0;
    });
    assert!(moment.waits().is_some());
}

#[test]
fn containers_that_end_with_errors_fail_the_run_in_any_state_before_promotion() {
    let restarts = Some(Restarts {
        canary_error_exits: 3,
        canary_pod_hours: 0.1,
        stable_error_exits: 0,
        stable_pod_hours: 10.0,
    });
    rolls_back(
        &world().at_step(1).with(|seen| seen.restarts = restarts),
        "CanaryRestarts",
    );
    rolls_back(
        &world().in_phase(Phase::Preparing).with(|seen| seen.restarts = restarts),
        "CanaryRestarts",
    );
}

#[test]
fn weights_that_were_changed_are_committed_as_a_new_intent_before_they_are_put_right() {
    let moment = world().at_step(2).with_weight(70);
    let before = moment.0.rollout.status.run.clone().unwrap();
    let run = moment.commits().run.unwrap();
    assert_eq!((run.seq, run.weight, run.step), (before.seq + 1, 30, 1));
}

#[test]
fn no_weight_is_put_back_up_without_the_pods_for_it() {
    let paused = world()
        .with_spec(json!({"steps": [{"weight": 50, "approval": "Required"}, {"weight": 100}]}))
        .in_phase(Phase::Paused)
        .with_weight(0)
        .with(|seen| seen.canary_ready = 1);
    // It is obeyed for a second, and then asked for again.
    let obeyed = paused.commits();
    assert!(obeyed.message.as_ref().unwrap().contains("that is obeyed until"));
    let again = paused.with(|seen| seen.rollout.status = obeyed).after(1);
    let status = again.commits();
    let paused = again.with(|seen| seen.rollout.status = status);
    match paused.next() {
        stepgate_core::Plan::Act(effects) => panic!("{effects:?}"),
        stepgate_core::Plan::Commit(status) => assert!(status.message.unwrap().contains("wait for its pods")),
        stepgate_core::Plan::Wait(_) => {}
    }
    let ready = paused.with(|seen| seen.canary_ready = 2);
    assert_eq!(ready.acts().len(), 1);
}

#[test]
fn a_goal_that_is_reached_counts_before_the_deadline_that_has_passed() {
    let moment = world().in_phase(Phase::Stepping).with_run(|run| {
        run.state = RunState::Preparing { since: run.started };
        (run.step, run.weight, run.seq, run.in_force) = (0, 0, 1, None);
    });
    let moment = moment.with_weight(0).with_route(|route| {
        let id = route.run.clone().unwrap();
        route.run = Some(format!("{}.1", id.split('.').next().unwrap()));
        route.parents[0].accepted = Some(route.generation);
    });
    let status = moment.after(36_000).commits();
    assert_eq!(status.phase, Some(Phase::Stepping), "{:?}", status.message);
}

/// At the second step, 100 s later, and so many terms after the one that committed last.
fn taken_over_after(terms: i64) -> Moment {
    world().at_step(2).with(|seen| {
        seen.term = seen.rollout.status.run.as_ref().unwrap().term + terms;
        seen.absent = Span::seconds(100);
        seen.now = seen.now.after(seen.absent);
    })
}

fn stepping_since(status: &RolloutStatus) -> i64 {
    match status.run.as_ref().map(|run| &run.state) {
        Some(RunState::Stepping { since }) => since.as_millis(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_leader_says_so_and_shifts_what_waits_by_the_time_without_one() {
    let moment = taken_over_after(1);
    let before = &moment.0.rollout.status;
    let status = moment.commits();
    assert_eq!(status.run.as_ref().unwrap().term, moment.0.term);
    assert_eq!(stepping_since(&status), stepping_since(before) + 100_000);
}

#[test]
fn a_new_leader_begins_the_deadline_anew_where_the_term_before_it_committed_nothing() {
    let moment = taken_over_after(2);
    assert_eq!(stepping_since(&moment.commits()), moment.0.now.as_millis());
}

#[test]
fn a_new_leader_reads_what_there_is_to_count_before_it_says_so() {
    let moment = taken_over_after(1).with(|seen| seen.source = SourceHealth::Untried);
    assert!(matches!(moment.next(), Plan::Wait(_)), "{:?}", moment.next());
    let answered = moment.with(|seen| seen.source = SourceHealth::Answers);
    assert!(matches!(answered.next(), Plan::Commit(_)), "{:?}", answered.next());
}

#[test]
fn a_new_leader_goes_on_by_no_evidence_of_before_it_until_the_source_was_read() {
    let passed = world().at_step(1).with_counts(3, [1_000, 0, 9_000, 0]).after(60);
    let evidence = {
        let mut read = passed.clone();
        read.0.limits.bake = Span::seconds(3_600);
        read.0.rollout.status.run.as_mut().unwrap().spec.steps[0].bake = None;
        read.commits().run.unwrap().evidence
    };
    assert!(evidence.metrics[0].step.canary.requests >= 3_000, "{evidence:?}");
    let moment = passed.with_run(|run| run.evidence = evidence).with(|seen| {
        seen.term += 1;
        seen.samples.clear();
        seen.source = SourceHealth::Untried;
    });
    assert!(matches!(moment.next(), Plan::Wait(_)), "{:?}", moment.next());
    let read = moment.with(|seen| seen.source = SourceHealth::Answers);
    assert_eq!(read.commits().run.unwrap().step, 1);
}

#[test]
fn a_new_leader_says_a_refusal_again_so_that_its_deadline_comes() {
    let refused = taken_over_after(3).with(|seen| {
        if let Seen::At(canary) = &mut seen.canary {
            canary.replicas = 0;
        }
        seen.refused = Some("quota".to_owned());
    });
    let said = refused.commits();
    assert_eq!(said.run.as_ref().unwrap().term, refused.0.term);
    let again = refused.with(|seen| seen.rollout.status = said.clone());
    assert!(matches!(again.next(), Plan::Act(_)), "{:?}", again.next());
}

#[test]
fn the_time_without_a_leader_counts_for_nothing_that_has_to_last() {
    let moment = taken_over_after(1).with(|seen| {
        let before = Timestamp::from_millis(seen.now.as_millis() - 150_000);
        let run = seen.rollout.status.run.as_mut().unwrap();
        (run.no_data_since, run.bare_since) = (Some(before), Some(before));
        seen.source = SourceHealth::Down {
            since: before,
            kind: Trouble::SourceUnreachable,
            why: "refused".to_owned(),
        };
    });
    let run = moment.commits().run.unwrap();
    assert_eq!(
        run.no_data_since,
        Some(Timestamp::from_millis(moment.0.now.as_millis() - 50_000))
    );
}

#[test]
fn a_new_leader_does_what_is_to_be_done_first_and_says_that_it_took_over_with_its_next_commit() {
    let moment = taken_over_after(1).with(|seen| {
        if let Seen::At(canary) = &mut seen.canary {
            canary.replicas = 0;
        }
    });
    assert_eq!(moment.acts()[0].kind, Kind::Deployment);
}

#[test]
fn a_new_leader_with_another_clock_counts_nothing_that_was_before_it() {
    let before = world().at_step(1).with_counts(3, [1_000, 0, 9_000, 0]).after(60);
    assert_eq!(before.commits().run.unwrap().step, 1);
    let old = before.0.rollout.status.run.as_ref().unwrap();
    // The leader before was an hour ahead, or an hour behind: by its times all is still to come, or long past.
    for apart in [-3_600_000, 3_600_000] {
        let moment = before.clone().with(|seen| {
            seen.term = 7;
            seen.clocks_differ = true;
            seen.now = Timestamp::from_millis(seen.now.as_millis() + apart);
        });
        let now = moment.0.now;
        let run = moment.commits().run.unwrap();
        assert_eq!((run.term, run.step, run.refreshed), (7, 0, now));
        assert_eq!(run.state, RunState::Stepping { since: now });
        let force = run.in_force.as_ref().unwrap();
        assert_eq!((force.since, force.seq), (now, old.seq));
        let seconds = now.as_millis() / 1_000;
        assert!(
            (seconds - 10..=seconds).contains(&run.evidence.through),
            "{:?}",
            run.evidence
        );
        // What was counted before is of this weight by no clock; by a clock that is behind the source's nothing is read at all.
        if apart > 0 {
            let next = moment.with_run(|of| *of = run.clone()).after(3_600).next();
            let goes_on = |status: &RolloutStatus| status.run.as_ref().is_none_or(|run| run.step > 0);
            assert!(!matches!(&next, Plan::Commit(status) if goes_on(status)), "{next:?}");
        }
    }
}

#[test]
fn the_canary_is_sized_by_the_largest_stable_that_a_step_began_with() {
    let moment = world().at_step(1).with_counts(3, [1_000, 0, 9_000, 0]).after(60);
    let grown = moment.with_workload(|workload| workload.replicas = 10).commits();
    assert_eq!(grown.run.as_ref().unwrap().base, 10);
    let shrunk = world().at_step(3).with_run(|run| run.base = 10);
    let effects = shrunk.acts();
    let Act::Merge(patch) = &effects[0].act else {
        panic!("{effects:?}")
    };
    assert_eq!(patch["spec"], json!({"replicas": 5}));
}

#[test]
fn a_canary_that_does_not_grow_for_its_next_step_fails_at_the_deadline() {
    let moment = world()
        .at_step(3)
        .with_run(|run| run.in_force = None)
        .with(|seen| seen.canary_ready = 1);
    let said = moment.clone().after(60).commits();
    assert!(said.message.unwrap().contains("50 %: 1 of 2 canary pods are ready"));
    rolls_back(&moment.after(3_600), "ProgressDeadline");
}

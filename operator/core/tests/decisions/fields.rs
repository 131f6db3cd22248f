//! What a commit sets anew, and does not take over from what was.

use serde_json::{Value, json};
use stepgate_core::{Plan, input::Seen, rest::start::run_spec, state::Pass, template::digest};
use stepgate_crds::{
    RolloutStatus,
    command::Verb,
    status::{Cause, Drift, Failed, Mends, Outcome, Override, PauseReason, Phase, Retreat, Run, RunState},
    units::{Span, Timestamp},
};

use crate::fixtures::{
    observed::Observed,
    world::{Moment, world},
};

/// The run with what only belongs to what it was.
fn burdened(moment: Moment) -> Moment {
    moment.with_run(|run| {
        run.overridden = Some(Override {
            step: 0,
            nonce: "n-0".to_owned(),
        });
        run.drift = Some(Drift {
            seq: 1,
            times: Vec::new(),
            generations: 1,
        });
    })
}

#[track_caller]
fn run(moment: &Moment) -> Run {
    moment.commits().run.unwrap()
}

#[test]
fn promoted_retreated_and_gone_on_a_run_knows_no_drift_and_no_older_word() {
    let full = burdened(world().at_step(2)).with_command(Verb::Promote).with(|seen| {
        let Some(Ok(command)) = &mut seen.rollout.command else {
            panic!()
        };
        command.full = true;
    });
    let promoted = run(&full);
    assert_eq!(
        (promoted.drift, promoted.overridden.unwrap().nonce.as_str()),
        (None, "n-1")
    );

    let lost = run(&burdened(world().at_step(2)).with(|seen| seen.canary_ready = 0));
    assert!(matches!(
        lost.state,
        RunState::Retreated {
            why: Retreat::PodsLost,
            ..
        }
    ));
    assert!(lost.drift.is_none() && lost.overridden.is_none());

    let back = world().in_phase(Phase::Retreated).with(|seen| seen.canary_ready = 4);
    let back = burdened(back).with_run(|run| run.step = 1).with_weight(0);
    let back = back.with_route(|route| route.parents[0].accepted = Some(route.generation));
    // That all traffic is on stable is written down first.
    let told = back.commits();
    let drift = burdened(back.clone()).0.rollout.status.run.unwrap().drift;
    let back = back
        .with(|seen| seen.rollout.status = told)
        .with_run(|run| run.drift = drift);
    let gone_on = run(&back);
    assert!(
        matches!(gone_on.state, RunState::Stepping { .. }),
        "{:?}",
        gone_on.state
    );
    assert_eq!((gone_on.step, gone_on.weight, gone_on.drift), (1, 30, None));

    let ending = burdened(world().at_step(4)).with_command(Verb::Promote);
    let ending = ending.with_run(|run| {
        let since = run.started;
        run.state = RunState::Paused {
            since,
            why: PauseReason::Approval,
        };
    });
    let promoting = run(&ending);
    assert!(
        matches!(promoting.state, RunState::Promoting { .. }),
        "{:?}",
        promoting.state
    );
    assert!(promoting.overridden.is_none());
}

#[test]
fn a_run_that_goes_on_after_a_pause_keeps_the_hours() {
    for (why, verb) in [
        (PauseReason::Command, Verb::Resume),
        (PauseReason::Contention, Verb::Resume),
        (PauseReason::Retreats, Verb::Resume),
        (PauseReason::Command, Verb::Promote),
        (PauseReason::Approval, Verb::Promote),
    ] {
        let paused = world().at_step(2).with_run(|run| run.pause_hours = 3).with(|seen| {
            let since = Timestamp::from_millis(seen.now.as_millis() - 7_300_000);
            seen.rollout.status.run.as_mut().unwrap().state = RunState::Paused { since, why };
        });
        let hours = run(&paused.with_command(verb)).pause_hours;
        assert_eq!(hours, 6, "paused for {why:?}, then {verb:?}");
    }
}

#[test]
fn a_weight_that_somebody_keeps_taking_is_left_with_what_is_sent() {
    let contended = burdened(world().at_step(2)).with_weight(10).with(|seen| {
        let now = seen.now.as_millis();
        let times = [400, 200, 100].map(|ago| Timestamp::from_millis(now - ago * 1_000));
        let run = seen.rollout.status.run.as_mut().unwrap();
        run.drift = Some(Drift {
            seq: run.seq - 1,
            times: times.to_vec(),
            generations: 1,
        });
    });
    let left = run(&contended.with_route(|route| route.generation += 1));
    assert!(
        matches!(
            left.state,
            RunState::Paused {
                why: PauseReason::Contention,
                ..
            }
        ),
        "{:?}",
        left.state
    );
    assert_eq!((left.accepted_weight, left.drift, left.overridden), (10, None, None));
}

#[test]
fn a_weight_in_force_begins_without_the_time_without_data() {
    let moment = world().at_step(2).with_run(|run| {
        run.in_force.as_mut().unwrap().seq -= 1;
        run.no_data_since = Some(run.started);
    });
    let now = run(&moment);
    assert_eq!((now.in_force.unwrap().seq, now.no_data_since), (now.seq, None));
}

#[test]
fn a_refusal_says_what_cannot_be_done() {
    let refused = |moment: Moment| {
        let moment = moment.with(|seen| seen.refused = Some("quota".to_owned()));
        moment.commits().message.unwrap()
    };
    let unmade = super::making::made().with(|seen| seen.canary = Seen::Absent);
    assert!(refused(unmade).starts_with("the canary cannot be made: quota"));
    let back = world().in_phase(Phase::RollingBack);
    let back = back.with_weight(30).with(|seen| seen.stable_ready = 4);
    assert!(refused(back).starts_with("the traffic cannot be brought back: quota"));
}

fn known() -> RolloutStatus {
    RolloutStatus {
        failed: Some(Failed {
            run: "1-1".to_owned(),
            template: "failed".to_owned(),
            cause: Cause {
                reason: "Verdict".to_owned(),
                detail: String::new(),
            },
            put_back: false,
        }),
        native: Some(Cause {
            reason: "NothingToProtect".to_owned(),
            detail: String::new(),
        }),
        mends: Mends {
            open: Some("open".to_owned()),
            times: vec![Timestamp::from_millis(1)],
        },
        verdict: Some("Pass".to_owned()),
        ..world().at_rest().0.rollout.status
    }
}

#[test]
fn what_was_known_is_not_taken_for_true_after_a_suspension() {
    let suspended = world().at_rest().with(|seen| {
        seen.rollout.status = known();
        seen.rollout.spec.suspend = Some(true);
        seen.rollout.finalizer = false;
        seen.rollout.finalizers.clear();
    });
    let status = suspended.commits();
    assert!(status.stable.is_none() && status.found.is_none() && status.failed.is_none() && status.native.is_none());
    assert_eq!((status.mends, status.verdict), (Mends::default(), None));
}

#[test]
fn a_deployment_taken_into_care_is_known_by_what_it_runs_alone() {
    let adopted = world().at_rest().with(|seen| {
        let stable = seen.rollout.status.stable.clone().unwrap();
        seen.rollout.status = RolloutStatus {
            stable: None,
            found: None,
            revisions: seen.rollout.status.revisions - 1,
            ..known()
        };
        assert!(seen.templates.contains_key(&stable.template));
    });
    let status = adopted.commits();
    assert!(status.stable.is_some() && status.found.is_some());
    assert!(status.failed.is_none() && status.native.is_none());
    assert_eq!((status.mends.open, status.mends.times.len()), (None, 1));
    // What it takes to look at it is asked for at once.
    let blind = adopted.with(|seen| seen.replica_sets = None);
    let Plan::Wait(wake) = blind.next() else { panic!() };
    assert!(wake.need.survey && wake.need.replica_sets);
}

#[test]
fn at_rest_there_is_no_verdict() {
    let judged = world()
        .at_rest()
        .with(|seen| seen.rollout.status.verdict = Some("Pass".to_owned()));
    assert_eq!(judged.commits().verdict, None);
    let started = world().held().with(|seen| {
        seen.rollout.status.verdict = Some("Pass".to_owned());
        seen.rollout.status.found.as_mut().unwrap().apart = "as it was".to_owned();
    });
    let started = started.commits();
    assert!(started.run.is_some() && started.verdict.is_none());
    assert_ne!(started.found.unwrap().apart, "as it was");
}

#[test]
fn a_version_without_anything_to_protect_rolls_and_nothing_else_is_known() {
    let recorded = |seen: &mut Observed| {
        let mut record = seen.templates.values().next().unwrap().clone();
        record.digest = digest(&json!({"failed": 1}));
        seen.templates.insert("failed".to_owned(), record);
    };
    let bare = world().held().with(|seen| {
        recorded(seen);
        let found = seen.rollout.status.found.take();
        seen.rollout.status = RolloutStatus {
            found,
            native: None,
            mends: Mends::default(),
            ..known()
        };
    });
    let status = bare.with_workload(|workload| workload.replicas = 0).commits();
    assert!(status.stable.is_none() && status.failed.is_none());
    assert_eq!(status.native.unwrap().reason, "NothingToProtect");
    // One that rolled by itself is stable's successor, whatever had failed before.
    let unheld = world().held().with(|seen| {
        seen.rollout.status.failed = known().failed;
        recorded(seen);
    });
    let unheld = unheld.with_workload(|workload| (workload.paused, workload.hold) = (false, None));
    let status = unheld.commits();
    assert_eq!(status.phase, Some(Phase::Blocked));
    assert!(status.stable.is_none() && status.failed.is_none());
}

#[test]
fn a_run_ends_without_a_verdict_in_the_phase_that_follows() {
    let ended = |then: Outcome| {
        let cleared = super::making::cleared(Some(Vec::new())).with(|seen| {
            seen.rollout.status.verdict = Some("Pass".to_owned());
            let run = seen.rollout.status.run.as_mut().unwrap();
            let RunState::Draining { then: outcome, .. } = &mut run.state else {
                panic!("{:?}", run.state)
            };
            *outcome = then;
        });
        let status = cleared.commits();
        assert!(status.run.is_none() && status.verdict.is_none(), "{then:?}");
        status.phase.unwrap()
    };
    assert_eq!(ended(Outcome::Reverted), Phase::Healthy);
    assert_eq!(ended(Outcome::Superseded), Phase::Preparing);
    assert_eq!(ended(Outcome::Replaced), Phase::Draining);
}

#[test]
fn what_changes_while_it_is_looked_at_is_looked_at_again_in_a_moment() {
    let changing = |moment: Moment| {
        let moment = moment.with(|seen| {
            seen.survey.as_mut().unwrap().workload["spec"]["template"] = json!({"yet": "another"});
        });
        (moment.waits(), moment.0.now.after(moment.0.limits.mend))
    };
    let held = world().held();
    let status = held.commits();
    let (waits, at) = changing(held.with(|seen| seen.rollout.status = status));
    assert_eq!(waits, Some(at));
    let other = world()
        .in_phase(Phase::Promoting)
        .with_workload(|workload| workload.template = digest(&json!({"another": 1})));
    let named = other.commits();
    let (waits, at) = changing(other.with(|seen| seen.rollout.status = named));
    assert_eq!(waits, Some(at));
    let leaving = world().at_rest().with(|seen| {
        seen.rollout.deleting = true;
        seen.workload = Seen::Unknown("forbidden".to_owned());
    });
    assert_eq!(leaving.waits(), Some(leaving.0.now.after(leaving.0.limits.mend)));
}

#[test]
fn what_is_blocked_is_looked_at_again() {
    let blocked = || {
        world().at_rest().with(|seen| {
            seen.rollout.status.stable = None;
            seen.rollout.status.found = None;
            let services = &mut seen.survey.as_mut().unwrap().services;
            services.retain(|service| service.name != "checkout");
        })
    };
    // One that is new waits until everything else may be there.
    let new = blocked().with(|seen| {
        seen.rollout.status.phase = None;
        seen.rollout.created = seen.now;
    });
    assert_eq!(new.waits(), Some(new.0.now.after(new.0.limits.calm)));
    let told = blocked().commits();
    let again = blocked().with(|seen| seen.rollout.status = told);
    let at = again.waits().unwrap();
    assert!(at > again.0.now && at <= again.0.now.after(Span::seconds(60)), "{at}");
    let rolling = world().at_rest().with(|seen| seen.rollout.status.stable = None);
    let rolling = rolling.with_workload(|workload| workload.available -= 1);
    let told = rolling.commits();
    let again = rolling.with(|seen| seen.rollout.status = told);
    assert_eq!(again.waits(), Some(again.0.now.after(again.0.limits.mend)));
}

#[test]
fn how_a_run_is_judged_is_what_its_spec_says() {
    let spec = json!({
        "analysis": {"errorRate": {"max": "3%"}, "latency": {"threshold": "300ms", "max": "7%"}},
        "steps": [
            {"weight": 10, "analysis": {"errorRate": {"max": "5%"}, "onInconclusive": {"after": "1h", "then": "Hold"}, "onNoData": {"after": "1h", "then": "Hold"}}},
            {"weight": 100},
        ],
    });
    let seen = world().with_spec(spec).at_rest().0;
    let spec = run_spec(&seen.input());
    let own = spec.steps[0].analysis.as_ref().unwrap();
    assert!(own.on_inconclusive.is_none() && own.on_no_data.is_none() && own.error_rate.is_some());
    let mut spec = spec;
    spec.phi = 1.7;
    let at = |step: i32| Pass::settings_at(&spec, true, step);
    assert_eq!((at(0).metrics[0].max, at(1).metrics[0].max), (0.05, 0.03));
    assert_eq!(at(1).metrics[0].max_by_step, [0.05, 0.03]);
    assert_eq!((at(0).metrics[1].max, at(0).metrics[1].max_by_step.len()), (0.07, 0));
    assert_eq!((at(0).phi, at(0).check_share), (spec.phi, false));
    assert!(Pass::settings_at(&spec, false, 0).check_share);
}

#[test]
fn a_newer_template_is_named_by_the_next_number() {
    let promoting = world().in_phase(Phase::Promoting);
    let other: Value = json!({"another": 1});
    let newer = promoting
        .clone()
        .with_workload(|workload| workload.template = digest(&other))
        .commits();
    let name = newer.run.unwrap().newer.unwrap();
    assert!(name.ends_with(&newer.revisions.to_string()), "{name}");
    assert_eq!(newer.revisions, promoting.0.rollout.status.revisions + 1);
}

//! How runs and Rollouts end otherwise than by a verdict: let go, lost, refused, promoted by a person, put back; and what is said at rest.

use serde_json::{Value, json};
use stepgate_core::input::{ReplicaSetView, Seen};
use stepgate_core::{Act, Effect, Need, Plan, Wake, report, rest, template::digest};
use stepgate_crds::{
    RolloutStatus,
    command::Verb,
    names,
    status::{Cause, Failed, Outcome, PauseReason, Phase, Retreat, RunState},
    units::{Span, Timestamp},
};

use crate::fixtures::world::{Moment, world};

/// The merge patch on an object, without what it was decided on.
fn merged(effects: &[Effect]) -> Value {
    let [
        Effect {
            act: act @ Act::Merge(_),
            ..
        },
    ] = effects
    else {
        panic!("{effects:?}")
    };
    let mut goal = act.goal();
    goal["metadata"].as_object_mut().unwrap().remove("uid");
    goal
}

/// At rest and to be deleted (or suspended), the Deployment held and paused or not, with stable's template or another.
fn leaving(suspended: bool, [held, paused, is_stable]: [bool; 3]) -> Moment {
    world()
        .at_rest()
        .with(|seen| {
            (seen.rollout.deleting, seen.rollout.spec.suspend) = (!suspended, suspended.then_some(true));
        })
        .with_workload(|workload| {
            workload.hold = held.then(|| "stamp".to_owned());
            workload.paused = paused;
            if !is_stable {
                workload.template = digest(&json!({"another": 1}));
            }
        })
}

/// The same after its Event was written.
fn told(moment: Moment) -> Moment {
    let status = moment.commits();
    let note = status.note.as_ref().unwrap();
    assert_eq!((note.reason.as_str(), note.warning), ("LeftPaused", true));
    assert!(
        note.text
            .starts_with("Deployment checkout stays paused with a version that was not proven"),
        "{}",
        note.text
    );
    moment.with(|seen| seen.rollout.status = status)
}

#[test]
fn what_is_let_go_rolls_only_where_it_is_proven_and_keeps_its_stamp_only_through_a_suspension() {
    let label = json!({"metadata": {"labels": {names::ROLLOUT: null}}});
    let stamp = json!({"metadata": {"labels": {names::ROLLOUT: null}, "annotations": {names::HOLD: null}}});
    let mut rolls = stamp.clone();
    rolls["spec"] = json!({"paused": null});
    for (suspended, deployment, patch) in [
        (false, [false, false, true], &label),
        (false, [false, true, false], &label),
        (false, [true, true, true], &rolls),
        (false, [true, false, true], &rolls),
        (false, [true, false, false], &stamp),
        (true, [false, false, true], &label),
        (true, [true, true, true], &rolls),
        (true, [true, false, false], &label),
    ] {
        let moment = leaving(suspended, deployment);
        assert_eq!(merged(&moment.acts()), *patch, "{suspended} {deployment:?}");
    }
    // A version that is not proven: said first, then let go.
    assert_eq!(merged(&told(leaving(false, [true, true, false])).acts()), stamp);
    assert_eq!(merged(&told(leaving(true, [true, true, false])).acts()), label);
    // One that failed gets no run after a suspension.
    let failed = leaving(true, [true, false, false]).with(|seen| {
        let workload = seen.workload.get().unwrap().template;
        let stable = seen.rollout.status.stable.clone().unwrap().template;
        let mut record = seen.templates[&stable].clone();
        record.digest = workload;
        seen.templates.insert("failed".to_owned(), record);
        seen.rollout.status.failed = Some(Failed {
            run: "r-1".to_owned(),
            template: "failed".to_owned(),
            cause: Cause {
                reason: "Verdict".to_owned(),
                detail: "bad".to_owned(),
            },
            put_back: false,
        });
    });
    assert_eq!(merged(&failed.acts()), stamp);
    // Another Rollout's Deployment is left alone.
    let other =
        leaving(false, [true, true, false]).with_workload(|workload| workload.rollout = Some("other".to_owned()));
    assert!(
        other
            .acts()
            .iter()
            .all(|effect| matches!(effect.act, Act::Delete { .. }))
    );
}

fn set(moment: &Moment, owner: Option<&str>, template: Value) -> ReplicaSetView {
    let workload = moment.0.workload.get().unwrap();
    ReplicaSetView {
        name: "checkout-new".to_owned(),
        uid: "uid-new".to_owned(),
        owner: Some(owner.unwrap_or(&workload.uid).to_owned()),
        replicas: 4,
        wanted: 4,
        template,
    }
}

#[test]
fn stables_replica_set_is_found_again_when_its_template_has_rolled_out() {
    let template = json!({"spec": {"containers": [{"name": "app"}]}});
    let lost = || {
        world().at_rest().with(|seen| {
            let stable = seen.rollout.status.stable.as_mut().unwrap();
            stable.uid = String::new();
            let name = stable.template.clone();
            seen.templates.get_mut(&name).unwrap().digest = digest(&template);
            seen.replica_sets = None;
        })
    };
    let lost = lost().with_workload(|workload| workload.template = digest(&template));
    match lost.next() {
        Plan::Wait(Wake { need, .. }) => assert_eq!(need, Need::REPLICA_SETS),
        other => panic!("{other:?}"),
    }
    let rolling = lost.clone().with_workload(|workload| workload.updated = 1);
    assert!(!matches!(rolling.next(), Plan::Wait(Wake { need, .. }) if need == Need::REPLICA_SETS));
    let listed = |sets: Vec<ReplicaSetView>| {
        let moment = lost.clone().with(|seen| seen.replica_sets = Some(sets));
        match moment.next() {
            Plan::Commit(status) => status.stable.map(|stable| (stable.replica_set, stable.uid)),
            Plan::Wait(_) | Plan::Act(_) => None,
        }
    };
    let found = Some(("checkout-new".to_owned(), "uid-new".to_owned()));
    assert_eq!(listed(vec![set(&lost, None, template.clone())]), found);
    assert_ne!(listed(vec![set(&lost, Some("another"), template.clone())]), found);
    assert_ne!(listed(vec![set(&lost, None, json!({"another": 1}))]), found);
}

#[test]
fn what_is_said_at_rest() {
    let status = world().at_rest().0.rollout.status;
    let stable = status.stable.as_ref().unwrap();
    let healthy = format!("stable is ReplicaSet {}", stable.replica_set);
    assert_eq!(status.message.as_ref(), Some(&healthy));
    assert_eq!(rest::healthy_message(stable), healthy);
    assert_eq!(
        rest::put_back_message(&status, "Verdict: bad"),
        format!("{healthy}; the last version failed and was taken back (Verdict: bad)")
    );
    // 500 bytes, at the end of a letter.
    let long = format!("a{}", "ä".repeat(300));
    assert_eq!(report::short(&long), format!("a{}…", "ä".repeat(249)));
    assert_eq!(report::short(&"a".repeat(500)), "a".repeat(500));
}

#[test]
fn a_rollout_that_is_new_waits_a_moment_for_its_deployment() {
    let at = |millis: i64| {
        world().at_rest().with(|seen| {
            seen.rollout.status = RolloutStatus::default();
            seen.workload = Seen::Absent;
            let settled = seen.rollout.created.after(seen.limits.calm);
            seen.now = Timestamp::from_millis(settled.as_millis() + millis);
        })
    };
    assert_eq!(at(-1).waits(), Some(at(0).0.now));
    assert_eq!(at(0).commits().phase, Some(Phase::Blocked));
    assert_eq!(at(5_000).commits().phase, Some(Phase::Blocked));
    // One that was in care is told of at once.
    let known = at(-1).with(|seen| seen.rollout.status.phase = Some(Phase::Healthy));
    assert_eq!(known.commits().phase, Some(Phase::Blocked));
}

#[test]
fn a_refusal_is_said_where_there_is_something_that_was_refused() {
    let refused = |moment: Moment| moment.with(|seen| seen.refused = Some("quota".to_owned()));
    assert!(matches!(refused(world().at_rest()).next(), Plan::Wait(_)));
    let small = || {
        world().at_step(2).with(|seen| {
            if let Seen::At(canary) = &mut seen.canary {
                canary.replicas = 0;
            }
        })
    };
    assert!(matches!(small().next(), Plan::Act(_)));
    let status = refused(small()).commits();
    assert!(
        status.message.as_ref().unwrap().contains("the run cannot go on: quota"),
        "{:?}",
        status.message
    );
    let again = refused(small()).with(|seen| seen.rollout.status = status);
    assert!(matches!(again.next(), Plan::Act(_)), "said once, and tried again");
}

#[test]
fn a_failed_version_holds_nothing_but_itself() {
    let failed = world().in_phase(Phase::Failed);
    let is_failed = |moment: &Moment| match moment.next() {
        Plan::Commit(status) => status.run.is_none() && status.phase == Some(Phase::Failed),
        Plan::Wait(Wake { need, .. }) => need == Need::default(),
        Plan::Act(_) => false,
    };
    assert!(is_failed(&failed));
    let other = failed.with_workload(|workload| workload.template = digest(&json!({"another": 1})));
    assert!(!is_failed(&other), "{:?}", other.next());
}

/// The state, reason and words of a run after a commit; none where nothing was decided about it.
fn turned(moment: &Moment) -> Option<(&'static str, Outcome, String)> {
    let Plan::Commit(status) = moment.next() else {
        return None;
    };
    match status.run?.state {
        RunState::RollingBack { cause, then, .. } => Some(("back", then, cause.detail)),
        RunState::Restoring { cause, then, .. } => Some(("restoring", then, cause.detail)),
        _ => None,
    }
}

#[test]
fn a_rollout_that_goes_lets_its_promotion_end_and_no_longer_than_its_deadlines() {
    // The deadline is ten minutes.
    let at = |phase: Phase, deleting: bool, seconds: u64| {
        world().in_phase(phase).with(|seen| {
            (seen.rollout.deleting, seen.rollout.spec.suspend) = (deleting, (!deleting).then_some(true));
            let run = seen.rollout.status.run.as_mut().unwrap();
            let since = match &run.state {
                RunState::Promoting { since } | RunState::Restoring { since, .. } | RunState::Returning { since } => {
                    *since
                }
                other => panic!("{other:?}"),
            };
            seen.now = since.after(Span::seconds(seconds));
        })
    };
    let gone = |moment: Moment| moment.with(|seen| seen.workload = Seen::Absent);
    for deleting in [true, false] {
        assert_eq!(turned(&at(Phase::Promoting, deleting, 5)), None);
        assert_eq!(turned(&at(Phase::Restoring, deleting, 5)), None);
        let outcome = if deleting { Outcome::Deleted } else { Outcome::Suspended };
        let (state, then, why) = turned(&at(Phase::Promoting, deleting, 601)).unwrap();
        assert_eq!((state, then), ("restoring", outcome));
        assert!(why.ends_with("the promotion did not end by its deadline"), "{why}");
        let (state, then, why) = turned(&gone(at(Phase::Promoting, deleting, 601))).unwrap();
        assert_eq!((state, then), ("back", outcome));
        assert!(why.ends_with("its Deployment is gone"), "{why}");
        let (state, _, why) = turned(&at(Phase::Restoring, deleting, 601)).unwrap();
        assert_eq!(state, "back");
        assert!(
            why.ends_with("did not roll back to the stable version by the deadline"),
            "{why}"
        );
        let (state, _, why) = turned(&at(Phase::Returning, deleting, 1_200)).unwrap();
        assert_eq!(state, "back");
        assert!(
            why.ends_with("its traffic did not return within twice the deadline"),
            "{why}"
        );
        assert!(turned(&at(Phase::Returning, deleting, 1_199)).is_none());
    }
    // Only with the Rollout is a Deployment that is gone known not to come again.
    assert!(turned(&gone(at(Phase::Promoting, true, 5))).is_some());
    assert!(turned(&gone(at(Phase::Promoting, false, 5))).is_none());
}

/// Stable's pods are lost.
fn without_pods(moment: Moment) -> Moment {
    moment
        .with(|seen| seen.replica_sets = Some(Vec::new()))
        .with_workload(|workload| {
            workload.current = 0;
            workload.replicas = 4;
            workload.observed_generation = workload.generation;
        })
}

#[test]
fn lost_pods_of_stable_end_a_run_and_come_back_first() {
    let lost = without_pods(world().at_step(2));
    let status = lost.commits();
    assert!(status.mends.open.is_some());
    assert_eq!(status.stable.unwrap().uid, "", "it is looked for again");
    let run = status.run.unwrap();
    let RunState::RollingBack { cause, then, .. } = run.state else {
        panic!("{:?}", run.state)
    };
    assert_eq!((cause.reason.as_str(), then), ("StableLost", Outcome::Reverted));
    // On the way back the way goes on.
    let back = without_pods(world().in_phase(Phase::RollingBack));
    let before = back.0.rollout.status.run.clone().unwrap();
    let status = back.commits();
    assert!(status.mends.open.is_some());
    assert_eq!(status.run.unwrap().state, before.state);
    // Too often: said in a step, and on the way back the route comes first.
    let often = |moment: Moment| moment.with(|seen| seen.rollout.status.mends.times = vec![seen.now; 3]);
    let status = often(lost).commits();
    assert!(status.mends.open.is_none());
    assert!(status.message.unwrap().contains("rewritten 3 times within an hour"));
    assert!(
        !matches!(often(back).next(), Plan::Commit(status) if status.message.clone().unwrap().contains("rewritten"))
    );
    // While the canary is the whole side, and after a promotion, nothing is put back.
    for phase in [Phase::Promoting, Phase::Draining] {
        let promoted = without_pods(world().in_phase(phase));
        assert!(!matches!(promoted.next(), Plan::Commit(status) if status.mends.open.is_some()));
    }
}

#[test]
fn a_persons_promotion_of_a_step_goes_on_at_once_or_when_its_weight_is_in_force() {
    let state = |state: RunState| {
        world()
            .at_step(2)
            .with_run(|run| run.state = state)
            .with_command(Verb::Promote)
    };
    let since = world().at_step(2).0.now;
    let paused = |why| RunState::Paused { since, why };
    // In force: on to the next step, and it is told, but for an approval, which is told by itself.
    for (why, told) in [(PauseReason::Command, true), (PauseReason::Approval, false)] {
        let before = state(paused(why)).0.rollout.status.note;
        let status = state(paused(why)).commits();
        let run = status.run.unwrap();
        assert_eq!((run.step, run.weight, run.overridden.is_some()), (2, 50, false));
        assert_eq!(
            status.note != before && status.note.unwrap().reason == "StepPassed",
            told,
            "{why:?}"
        );
    }
    // Not in force yet: the step's weight, and then on.
    for why in [PauseReason::Command, PauseReason::Approval] {
        let moment = state(paused(why)).with_run(|run| run.in_force.as_mut().unwrap().seq -= 1);
        let before = moment.0.rollout.status.run.clone().unwrap();
        let run = moment.commits().run.unwrap();
        assert_eq!((run.step, run.weight, run.seq), (1, 30, before.seq), "{why:?}");
        assert!(run.overridden.is_some_and(|by| by.step == 1));
        assert!(matches!(run.state, RunState::Stepping { .. }));
    }
    // Taken back to 0 %: the weight is a new intent.
    let retreated = RunState::Retreated {
        since,
        why: Retreat::SharedFault,
        well_since: None,
    };
    let moment = state(retreated).with_weight(0).with_run(|run| run.weight = 0);
    let before = moment.0.rollout.status.run.clone().unwrap();
    let run = moment.commits().run.unwrap();
    assert_eq!((run.step, run.weight, run.seq), (1, 30, before.seq + 1));
    assert!(run.overridden.is_some_and(|by| by.step == 1));
}

#[test]
fn a_template_is_written_with_its_stamp_or_without() {
    let moment = world().at_rest();
    let workload = moment.0.workload.get().unwrap().clone();
    let last = |annotated: bool, stamped: bool, hold: Option<&str>| {
        let mut workload = workload.clone();
        workload.annotated = annotated;
        workload.hold = stamped.then(|| "old".to_owned());
        let effect = Effect::put_template(&workload, &json!({"spec": 1}), hold);
        let Act::Patch(operations) = &effect.act else { panic!() };
        assert_eq!(operations[3]["value"], json!(hold.is_some()), "paused");
        // What it is decided on is no part of what it brings about.
        assert_eq!(effect.act.goal().as_array().unwrap().len(), operations.len() - 2);
        operations.get(4).cloned()
    };
    let path = "/metadata/annotations/stepgate.dev~1hold";
    assert_eq!(
        last(true, false, Some("s")),
        Some(json!({"op": "add", "path": path, "value": "s"}))
    );
    assert_eq!(
        last(false, false, Some("s")),
        Some(json!({"op": "add", "path": "/metadata/annotations", "value": {names::HOLD: "s"}}))
    );
    assert_eq!(last(true, true, None), Some(json!({"op": "remove", "path": path})));
    assert_eq!(last(true, false, None), None);
    let merge = Effect::on_deployment(&workload, json!({"metadata": {"labels": {"a": "b"}}}));
    assert_eq!(
        merge.act.goal(),
        json!({"metadata": {"labels": {"a": "b"}, "uid": workload.uid}})
    );
}

#[test]
fn what_stays_the_same_is_not_written_again_however_late_it_is() {
    let paused = world()
        .with_spec(json!({"steps": [{"weight": 50, "approval": "Required"}, {"weight": 100}]}))
        .in_phase(Phase::Paused);
    let told = paused.clone().after(120);
    let status = match told.next() {
        Plan::Commit(status) => *status,
        _ => told.0.rollout.status.clone(),
    };
    let later = told.with(|seen| seen.rollout.status = status).after(300);
    assert!(matches!(later.next(), Plan::Wait(_)), "{:?}", later.next());
}

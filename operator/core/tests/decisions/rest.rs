//! Decisions at rest.

use serde_json::json;
use stepgate_core::{Act, Kind, Plan, input::Seen};
use stepgate_crds::status::{Outcome, Phase, RunState};

use crate::fixtures::world::world;

#[test]
fn a_held_new_template_starts_a_run_with_every_default_filled_in() {
    let status = world().held().commits();
    let run = status.run.unwrap();
    assert!(matches!(run.state, RunState::Preparing { .. }));
    assert_eq!(
        run.spec.steps.iter().map(|step| step.weight).collect::<Vec<_>>(),
        [10, 30, 50, 100]
    );
    assert!(run.spec.steps.iter().all(|step| step.bake.is_some()));
    assert_eq!(run.original.len(), 1);
    assert_eq!((run.original[0].index, run.original[0].stable_weight), (0, Some(7)));
    assert_eq!(status.note.unwrap().reason, "Started");
}

#[test]
fn without_the_hold_policy_nothing_is_managed_and_that_is_said() {
    let mut moment = world().at_rest();
    moment.0.no_hold = Some("install the chart with hold.enabled=true".to_owned());
    let status = moment.commits();
    assert_eq!(status.phase, Some(Phase::Blocked));
    assert!(status.message.unwrap().contains("hold.enabled=true"));
}

#[test]
fn a_run_starts_without_a_ready_pod_of_stable_and_gives_the_canary_nothing_until_there_is_one() {
    let status = world().held().with(|seen| seen.stable_ready = 0).commits();
    assert!(status.run.is_some());
    let moment = world().in_phase(Phase::Preparing).with(|seen| {
        (seen.stable_ready, seen.canary_ready) = (0, 1);
        seen.rollout.status.run.as_mut().unwrap().bare_since = Some(seen.now);
    });
    let acts = match moment.next() {
        Plan::Act(effects) => effects,
        Plan::Commit(_) | Plan::Wait(_) => Vec::new(),
    };
    assert!(
        acts.iter()
            .all(|effect| matches!(effect.act, Act::Create(_)) || effect.kind == Kind::HttpRoute)
    );
    let let_through = moment.after(120).commits().run.unwrap();
    let RunState::RollingBack { cause, then, .. } = let_through.state else {
        panic!("{:?}", let_through.state)
    };
    assert_eq!((cause.reason.as_str(), then), ("NothingToProtect", Outcome::Native));
}

#[test]
fn a_deployment_of_another_rollout_is_left_alone() {
    let status = world()
        .at_rest()
        .with_workload(|workload| workload.rollout = Some("other".to_owned()))
        .commits();
    assert!(status.message.unwrap().contains("managed by Rollout other"));
}

#[test]
fn a_deployment_that_cannot_be_read_is_not_taken_to_be_gone() {
    let status = world()
        .at_rest()
        .with(|seen| seen.workload = Seen::Unknown("forbidden".to_owned()))
        .commits();
    assert!(status.message.unwrap().contains("could not be read: forbidden"));
}

#[test]
fn what_is_said_is_said_once() {
    let moment = world().at_rest().with(|seen| seen.workload = Seen::Absent);
    let status = moment.commits();
    let again = moment.with(|seen| seen.rollout.status = status);
    assert_eq!(again.waits(), Some(again.0.now.after(again.0.limits.mend)));
}

#[test]
fn a_message_of_any_length_fits_and_does_not_go_round() {
    let moment = world()
        .at_rest()
        .with(|seen| seen.workload = Seen::Unknown("ö".repeat(40_000)));
    let status = moment.commits();
    assert!(serde_json::to_string(&status).unwrap().len() < 4_096);
    let again = moment.with(|seen| seen.rollout.status = status);
    assert!(again.waits().is_some());
}

#[test]
fn the_counts_of_the_last_run_go_where_status_has_no_room_for_them() {
    let parts = vec![[9_000_000_000_i64, 1_000_000, 9_000_000_000, 1_000_000, 100_000]; 6];
    let metric = json!({
        "name": "errors", "max": "1%", "ratio": 1.2, "relativeEvidence": -1.5, "absoluteEvidence": -2.5, "failThreshold": 5.991,
        "recent": [300, 1, 0, 1, 0], "parts": parts,
    });
    let past = json!({
        "run": "r1", "started": "2026-11-24T12:00:00Z", "ended": "2026-11-24T12:05:30Z", "outcome": "Promoted",
        "counts": {"phi": 2.0, "interval": "30s", "metrics": [metric, metric]},
    });
    let moment = world()
        .at_rest()
        .with(|seen| seen.rollout.status.history = vec![serde_json::from_value(past).unwrap()]);
    let said = |why: String| {
        let status = moment.clone().with(|seen| seen.workload = Seen::Unknown(why)).commits();
        assert!(serde_json::to_string(&status).unwrap().len() < 4_096);
        status.history[0].counts.is_some()
    };
    assert!(said("forbidden".to_owned()));
    assert!(!said("ö".repeat(40_000)));
}

#[test]
fn a_template_put_back_while_held_is_let_go() {
    let moment = world().held();
    let before = world().at_rest().0.workload;
    let Seen::At(stable) = before else { panic!() };
    let effects = moment
        .with_workload(|workload| workload.template = stable.template)
        .acts();
    let Act::Merge(patch) = &effects[0].act else {
        panic!("{effects:?}")
    };
    assert_eq!(patch["spec"], json!({"paused": null}));
    assert_eq!(patch["metadata"]["annotations"], json!({"stepgate.dev/hold": null}));
}

#[test]
fn a_pause_without_our_stamp_is_nobodys_to_undo() {
    let moment = world().at_rest().with_workload(|workload| workload.paused = true);
    let status = moment.commits();
    assert!(status.message.as_ref().unwrap().contains("paused by somebody else"));
    let again = moment.with(|seen| seen.rollout.status = status);
    assert!(again.waits().is_none());
}

#[test]
fn old_templates_are_cleared_away() {
    let moment = world().at_rest().with(|seen| {
        let any = seen.templates.values().next().unwrap().clone();
        seen.templates.insert("left-over".to_owned(), any);
    });
    let effects = moment.acts();
    assert_eq!(
        (effects.len(), effects[0].kind, effects[0].name.as_str()),
        (1, Kind::PodTemplate, "left-over")
    );
}

#[test]
fn a_spec_that_was_edited_is_looked_at_anew_in_one_write_or_says_what_is_wrong() {
    let moment = world().at_rest().with(|seen| seen.rollout.generation += 1);
    let status = moment.commits();
    assert_eq!(status.phase, Some(Phase::Healthy));
    let wrong = moment
        .with(|seen| seen.rollout.spec.traffic.stable_service = Some("nowhere".to_owned()))
        .commits();
    assert!(wrong.message.unwrap().contains("spec.traffic.stableService"));
}

#[test]
fn the_finalizer_goes_last() {
    let moment = world().at_rest().with(|seen| seen.rollout.deleting = true);
    let effects = moment.acts();
    assert_eq!((effects.len(), effects[0].kind), (1, Kind::Deployment));
    let let_go = moment.with_workload(|workload| workload.rollout = None);
    let effects = let_go.acts();
    assert!(
        effects.iter().all(|effect| effect.kind == Kind::PodTemplate),
        "{effects:?}"
    );
    let let_go = let_go.with(|seen| seen.templates.clear());
    let effects = let_go.acts();
    assert_eq!(effects[0].kind, Kind::Rollout);
    let Act::Merge(patch) = &effects[0].act else {
        panic!("{effects:?}")
    };
    assert_eq!(patch["metadata"]["finalizers"], json!([]));
    let gone = let_go.with(|seen| seen.rollout.finalizer = false);
    assert!(matches!(gone.next(), Plan::Wait(_)));
}

#[test]
fn what_is_refused_at_rest_is_said_once_and_tried_again() {
    let mut moment = world().at_rest();
    let kept = moment.0.templates.values().next().cloned().expect("a template");
    moment.0.templates.insert("checkout-old".to_owned(), kept);
    moment.0.refused = Some("delete PodTemplate shop/checkout-old: Forbidden".to_owned());
    let told = moment.commits();
    assert!(
        told.message
            .as_deref()
            .is_some_and(|message| message.contains("Forbidden")),
        "{told:?}"
    );
    moment.0.rollout.status = told;
    // Said, and from now on only tried: a status that took turns with it would be written without end.
    assert_eq!(moment.acts().len(), 1);
}

/// Requests of a run that came to the API server so late that the run has ended since: nobody else would remove what they made.
#[test]
fn a_canary_that_was_made_after_its_run_had_ended_is_cleared_away() {
    let canary = world().at_step(1).0;
    let failed = world().in_phase(Phase::Failed);
    let run = failed.0.rollout.status.history[0].run.clone();
    let late = |run: &str| {
        failed.clone().with(|seen| {
            seen.canary = canary.canary.clone();
            seen.canary_service = canary.canary_service.clone();
            if let (Seen::At(canary), Seen::At(service)) = (&mut seen.canary, &mut seen.canary_service) {
                canary.run = Some(run.to_owned());
                service.run = Some(run.to_owned());
            }
        })
    };
    let goes = [Kind::Deployment, Kind::Service];
    let acts = late(&run).acts();
    assert_eq!(acts.iter().map(|effect| effect.kind).collect::<Vec<_>>(), goes);
    assert!(acts.iter().all(
        |effect| effect.name == "checkout-canary" && matches!(&effect.act, Act::Delete { uid } if !uid.is_empty())
    ));
    // So does it where the Rollout is deleted, before its finalizer goes.
    let mut leaving = late(&run);
    leaving.0.rollout.deleting = true;
    leaving.0.rollout.finalizer = true;
    let acts = leaving.with_workload(|workload| workload.rollout = None).acts();
    assert!(
        goes.iter().all(|kind| acts.iter().any(|effect| effect.kind == *kind)),
        "{acts:?}"
    );
    // Of a run that this status knows nothing of nobody can tell whether it has ended.
    late("another-9").waits();
}

//! What becomes of commands.

use serde_json::json;
use stepgate_core::{Act, Kind};
use stepgate_crds::{
    command::{Command, Verb},
    status::{Phase, RunState},
};

use crate::fixtures::world::{Moment, world};

#[track_caller]
fn refused(moment: &Moment, why: &str) {
    let before = &moment.0.rollout.status;
    let status = moment.commits();
    let outcome = status.command.clone().unwrap();
    assert!(!outcome.done && outcome.message.contains(why), "{}", outcome.message);
    assert_eq!(status.note.as_ref().unwrap().reason, "CommandRefused");
    assert_eq!(
        (&status.run, &status.conditions),
        (&before.run, &before.conditions),
        "a refusal changes nothing else"
    );
}

#[track_caller]
fn done(moment: &Moment) -> RunState {
    let status = moment.commits();
    let outcome = status.command.clone().unwrap();
    assert!(outcome.done, "{}", outcome.message);
    status.run.unwrap().state
}

#[test]
fn each_state_takes_the_commands_that_make_sense_in_it() {
    use Phase::{Draining, Failed, Healthy, Paused, Preparing, Promoting, Returning, RollingBack, Stepping};
    use Verb::{Abort, Pause, Promote, Resume, Retry};
    let approval = json!({"steps": [{"weight": 10, "approval": "Required"}, {"weight": 100}]});
    for (phase, takes, refusals) in [
        (
            Healthy,
            vec![],
            vec![
                (Promote, "no run"),
                (Abort, "no run"),
                (Retry, "no run"),
                (Pause, "no run"),
                (Resume, "no run"),
            ],
        ),
        (
            Preparing,
            vec![Abort],
            vec![
                (Promote, "no step to promote"),
                (Pause, "only a step"),
                (Resume, "not paused"),
                (Retry, "under way"),
            ],
        ),
        (
            Stepping,
            vec![Abort, Promote],
            vec![
                (Pause, "not in force yet"),
                (Resume, "not paused"),
                (Retry, "under way"),
            ],
        ),
        (
            Paused,
            vec![Abort, Promote],
            vec![
                (Pause, "only a step"),
                (Resume, "waits for an approval"),
                (Retry, "under way"),
            ],
        ),
        (
            Promoting,
            vec![],
            vec![(Abort, "already rolls"), (Promote, "no step"), (Pause, "only a step")],
        ),
        (Returning, vec![], vec![(Abort, "already rolls"), (Promote, "no step")]),
        (Draining, vec![], vec![(Abort, "ending already"), (Retry, "under way")]),
        (
            RollingBack,
            vec![],
            vec![(Abort, "ending already"), (Promote, "no step")],
        ),
        (
            Failed,
            vec![Retry],
            vec![(Abort, "no run"), (Promote, "no run"), (Resume, "no run")],
        ),
    ] {
        let stops = phase == Paused || phase == Promoting || phase == Returning || phase == Draining;
        let world = if stops && phase != Paused {
            world()
        } else {
            world().with_spec(approval.clone())
        };
        let world = if matches!(phase, RollingBack | Failed) {
            crate::fixtures::world::world()
        } else {
            world
        };
        let moment = world.in_phase(phase);
        for verb in takes {
            done(&moment.clone().with_command(verb));
        }
        for (verb, why) in refusals {
            refused(&moment.clone().with_command(verb), why);
        }
    }
}

#[test]
fn an_abort_is_carried_out_before_anything_else() {
    // Also where the verdict passed, the deadline is over and the template is another one.
    let moment = world()
        .at_step(2)
        .with_counts(6, [1_000, 0, 2_000, 0])
        .after(36_000)
        .with(|seen| seen.rollout.deleting = true)
        .with_command(Verb::Abort);
    assert!(matches!(done(&moment), RunState::RollingBack { cause, .. } if cause.reason == "Aborted"));
}

#[test]
fn a_command_for_another_run_or_step_is_refused() {
    let moment = world().at_step(2).with_command(Verb::Promote);
    let other = |change: fn(&mut Command)| {
        moment.clone().with(|seen| {
            let Some(Ok(command)) = &mut seen.rollout.command else {
                panic!()
            };
            change(command);
        })
    };
    refused(
        &other(|command| command.run = "old-1".to_owned()),
        "was meant for run old-1",
    );
    refused(
        &other(|command| command.step = Some(1)),
        "was meant for step 1, and the run is at step 2",
    );
    refused(&other(|command| command.step = None), "has to say for which step");
}

#[test]
fn a_command_that_was_answered_is_taken_off_and_not_carried_out_twice() {
    let moment = world().at_step(2).with_command(Verb::Pause);
    let status = moment.commits();
    let after = moment.with(|seen| seen.rollout.status = status);
    let effects = after.acts();
    assert_eq!((effects.len(), effects[0].kind), (1, Kind::Rollout));
    let Act::Merge(patch) = &effects[0].act else {
        panic!("{effects:?}")
    };
    assert_eq!(patch["metadata"]["annotations"], json!({"stepgate.dev/command": null}));
}

#[test]
fn a_command_that_cannot_be_read_is_answered_and_taken_off() {
    let moment = world()
        .at_rest()
        .with(|seen| seen.rollout.command = Some(Err("expected value".to_owned())));
    let status = moment.commits();
    let message = status.command.clone().unwrap().message;
    assert!(
        message.contains("could not be read") && message.contains("kubectl stepgate"),
        "{message}"
    );
    let after = moment.with(|seen| seen.rollout.status = status);
    assert_eq!(after.acts()[0].kind, Kind::Rollout);
}

#[test]
fn a_retry_is_refused_where_the_deployment_asks_for_something_else() {
    let moment = world().in_phase(Phase::Failed).with_command(Verb::Retry);
    let other = world().at_rest().0.workload;
    let changed = moment.clone().with(|seen| seen.workload = other);
    let status = changed.commits();
    assert!(
        status
            .command
            .unwrap()
            .message
            .contains("does not ask for the failed version")
    );
}

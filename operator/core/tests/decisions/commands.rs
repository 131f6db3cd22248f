//! What becomes of commands.

use serde_json::json;
use stepgate_core::{Act, Kind, Plan};
use stepgate_crds::{
    command::{Command, Verb},
    status::{Phase, RunState},
};

use crate::fixtures::{
    replicas::image,
    simulator::Simulator,
    world::{Moment, world},
};

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
fn done(moment: &Moment) {
    let outcome = moment.commits().command.unwrap();
    assert!(outcome.done, "{}", outcome.message);
}

#[test]
fn each_state_takes_the_commands_that_make_sense_in_it() {
    use Phase::{
        Draining, Failed, Healthy, Paused, Preparing, Promoting, Restoring, Retreated, Returning, RollingBack, Stepping,
    };
    use Verb::{Abort, Pause, Promote, Resume, Retry, Undo};
    let approval = json!({"steps": [{"weight": 10, "approval": "Required"}, {"weight": 100}]});
    // What each state refuses, and why; it takes all the others.
    let no_run = |verbs: &[Verb]| verbs.iter().map(|verb| (*verb, "no run")).collect::<Vec<_>>();
    for (phase, refusals) in [
        (Healthy, no_run(&[Promote, Abort, Retry, Pause, Resume, Undo])),
        (
            Preparing,
            vec![
                (Promote, "no step to promote"),
                (Pause, "only a step"),
                (Resume, "not paused"),
                (Retry, "under way"),
                (Undo, "under way"),
            ],
        ),
        (
            Stepping,
            vec![
                (Pause, "not in force yet"),
                (Resume, "not paused"),
                (Retry, "under way"),
                (Undo, "under way"),
            ],
        ),
        (
            Paused,
            vec![
                (Pause, "only a step"),
                (Resume, "waits for an approval"),
                (Retry, "under way"),
                (Undo, "under way"),
            ],
        ),
        (
            Retreated,
            vec![
                (Pause, "only a step"),
                (Resume, "not paused"),
                (Retry, "under way"),
                (Undo, "under way"),
            ],
        ),
        (
            Promoting,
            vec![
                (Promote, "no step"),
                (Pause, "only a step"),
                (Resume, "not paused"),
                (Retry, "under way"),
                (Undo, "under way"),
            ],
        ),
        (Restoring, ending("ending already")),
        (Returning, ending("already")),
        (RollingBack, ending("ending already")),
        (Draining, ending("ending already")),
        (Failed, no_run(&[Abort, Promote, Pause, Resume])),
    ] {
        let world = if matches!(phase, Paused | Preparing | Stepping) {
            world().with_spec(approval.clone())
        } else {
            world()
        };
        let moment = world.in_phase(phase);
        for verb in [Abort, Promote, Pause, Resume, Retry, Undo] {
            let moment = moment.clone().with_command(verb);
            match refusals.iter().find(|(refused, _)| *refused == verb) {
                Some((_, why)) => refused(&moment, why),
                None => done(&moment),
            }
        }
    }
}

fn ending(why: &'static str) -> Vec<(Verb, &'static str)> {
    vec![
        (Verb::Abort, why),
        (Verb::Promote, "no step"),
        (Verb::Pause, "only a step"),
        (Verb::Resume, "not paused"),
        (Verb::Retry, "under way"),
        (Verb::Undo, "under way"),
    ]
}

#[test]
fn promote_full_goes_to_the_last_step_and_on_as_soon_as_its_weight_is_in_force() {
    let moment = world().at_step(1).with_command(Verb::Promote).with(|seen| {
        let Some(Ok(command)) = &mut seen.rollout.command else {
            panic!()
        };
        command.full = true;
    });
    let status = moment.commits();
    assert!(status.command.unwrap().done);
    let run = status.run.unwrap();
    assert_eq!((run.step, run.weight), (3, 100));
    let mut simulator = Simulator::at_step(&json!({}), 1);
    simulator.promote_fully();
    simulator.until_stable("v2", 120);
    assert!(simulator.cluster.controllers.unanswered < 0.5);
}

#[test]
fn undo_puts_stables_template_back_and_the_failed_one_is_still_known_when_it_comes_again() {
    let mut simulator = Simulator::at_step(&json!({}), 2);
    simulator.command(Verb::Abort);
    simulator.until_phase(Phase::Failed, 60);
    simulator.command(Verb::Undo);
    simulator.until_phase(Phase::Healthy, 60);
    let workload = simulator.cluster.api.get("Deployment", "checkout").unwrap();
    assert_eq!(image(&workload["spec"]["template"]), "v1");
    simulator.ship("v2");
    simulator.until_phase(Phase::Failed, 10);
    let written = simulator.writes.len();
    simulator.run_for(600);
    assert_eq!(simulator.writes.len(), written, "{}", simulator.timeline());
    simulator.command(Verb::Retry);
    simulator.until_stable("v2", 1_200);
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
    done(&moment);
    let state = moment.commits().run.unwrap().state;
    assert!(matches!(state, RunState::RollingBack { cause, .. } if cause.reason == "Aborted"));
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
fn a_command_that_was_answered_is_taken_off_whatever_else_is_refused() {
    let moment = world().at_step(2).with_command(Verb::Pause);
    let status = moment.commits();
    let answered = moment.with(|seen| seen.rollout.status = status);
    let other = answered
        .clone()
        .with(|seen| seen.refused = Some("patch HttpRoute shop/checkout: forbidden".to_owned()));
    assert_eq!(other.acts()[0].kind, Kind::Rollout);
    // It is not run against its own refusal again and again: the run goes on.
    let own = answered.with(|seen| seen.refused = Some("patch Rollout shop/checkout: forbidden".to_owned()));
    let plan = stepgate_core::next(&own.0.input());
    let clears = matches!(&plan, Plan::Act(effects) if effects.iter().any(|effect| effect.kind == Kind::Rollout));
    assert!(!clears, "{plan:?}");
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

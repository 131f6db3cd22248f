//! A person's command: carried out or refused by the run and step it was meant for, answered in `status.command`, then cleared.
//!
//! | verb | meaning |
//! |---|---|
//! | promote | go on to the next step without waiting for evidence or approval; `full`: to the last one, and on |
//! | abort | all traffic back to stable, the run ends as failed |
//! | retry | a failed version gets another run |
//! | undo | stable's template goes back in place of a failed version's |
//! | pause | stay at the present weight |
//! | resume | go on after a pause |
//!
//! `docs/commands.md` says what each does in each state.

use serde_json::json;
use stepgate_crds::{
    RolloutStatus,
    command::{Command, Verb},
    names,
    status::{CommandOutcome, Failed, Outcome, Override, PauseReason, Phase, Run, RunState},
};

use crate::{
    input::{Input, Seen},
    mend,
    plan::{Effect, Need, Plan},
    report::{self, Said},
    rest,
    state::{Pass, promoting, retreated, stepping},
};

/// What follows from the command that stands on the Rollout, if one does.
pub fn next(input: &Input<'_>) -> Option<Plan> {
    let command = input.rollout.command.as_ref()?;
    let status = &input.rollout.status;
    let nonce = match command {
        Ok(command) => command.nonce.clone(),
        // What cannot be read has no nonce of its own: its mistake stands for it.
        Err(why) => report::short(&format!("{UNREADABLE}: {why}")),
    };
    let answered = status.command.as_ref().is_some_and(|before| before.nonce == nonce);
    if answered {
        // Where the API server refuses to have it cleared, nothing else may wait for that; what else it refuses does not matter.
        if input.refused.is_some_and(|why| why.starts_with(CLEARING)) {
            return None;
        }
        let patch = json!({"metadata": {"annotations": {names::COMMAND: null}}});
        return Some(Plan::act(Effect::on_rollout(input.rollout, patch)));
    }
    Some(match command {
        Err(why) => refuse(
            input,
            None,
            nonce,
            &format!("{UNREADABLE}: {why}; use kubectl stepgate to write it"),
        ),
        Ok(command) => carry_out(input, command),
    })
}

/// How the refusal of the only patches that a Rollout gets from us begins.
const CLEARING: &str = "patch Rollout ";
const UNREADABLE: &str = "the command could not be read";

fn carry_out(input: &Input<'_>, command: &Command) -> Plan {
    let decided = match (&input.rollout.status.run, &input.rollout.status.found) {
        (Some(run), Some(found)) => {
            let pass = Pass { input, run, found };
            in_run(&pass, command)
        }
        _ => at_rest(input, command),
    };
    match decided {
        // A decision is a commit; what became of the command goes with it.
        Ok((Plan::Commit(mut status), message)) => {
            status.command = Some(CommandOutcome {
                verb: Some(command.verb),
                nonce: command.nonce.clone(),
                done: true,
                message,
            });
            Plan::Commit(status)
        }
        // What the decision still needs comes first.
        Ok((other, _)) => other,
        Err(why) => refuse(input, Some(command.verb), command.nonce.clone(), &why),
    }
}

/// The answer to a command that is not carried out. Nothing else of the status changes.
fn refuse(input: &Input<'_>, verb: Option<Verb>, nonce: String, why: &str) -> Plan {
    let note = report::note(input, true, "CommandRefused", why);
    let command = Some(CommandOutcome {
        verb,
        nonce,
        done: false,
        message: report::short(why),
    });
    Plan::Commit(Box::new(RolloutStatus {
        command,
        note: Some(note),
        ..input.rollout.status.clone()
    }))
}

type Decided = Result<(Plan, String), String>;

fn at_rest(input: &Input<'_>, command: &Command) -> Decided {
    let verb = command.verb.as_str();
    let (Verb::Retry | Verb::Undo, Some(failed)) = (command.verb, &input.rollout.status.failed) else {
        return Err(format!("{verb}: no run is under way"));
    };
    if input.rollout.is_suspended() {
        return Err(format!("{verb}: the Rollout is suspended"));
    }
    if command.run != failed.run {
        return Err(format!(
            "{verb} was meant for run {}, and the failed one is {}",
            command.run, failed.run
        ));
    }
    let Seen::At(workload) = input.workload else {
        return Err(format!("{verb}: the Deployment cannot be read"));
    };
    let asked = input.templates.get(&failed.template).map(|template| template.digest);
    // Where its record is gone, the person who asks says that this is the version.
    if asked.is_some_and(|asked| asked != workload.template) {
        return Err(format!(
            "{verb}: the Deployment does not ask for the failed version any more"
        ));
    }
    if !workload.paused {
        return Err(format!("{verb}: the Deployment is not held, it rolls by itself"));
    }
    if command.verb == Verb::Undo {
        return undo(input, failed);
    }
    let plan = rest::start::start(input, workload);
    let in_the_way = match &plan {
        Plan::Commit(status) if status.run.is_none() => status.message.clone(),
        Plan::Wait(wake) if wake.need == Need::default() => input.rollout.status.message.clone(),
        Plan::Commit(_) | Plan::Act(_) | Plan::Wait(_) => None,
    };
    if let Some(why) = in_the_way {
        return Err(format!("{verb}: {why}"));
    }
    Ok((plan, format!("the version of run {} is tried again", failed.run)))
}

/// Stable's template goes back in place of the failed one.
fn undo(input: &Input<'_>, failed: &Failed) -> Decided {
    let status = input.rollout.status.clone();
    let Some(stable) = status.stable.clone() else {
        return Err("undo: no stable version is recorded".to_owned());
    };
    if !input.templates.contains_key(&stable.template) {
        return Err(format!(
            "undo: PodTemplate {}, which kept the stable version, is gone: apply that version yourself",
            stable.template
        ));
    }
    let mut status = mend::intend(status, input, &stable.template).map_err(|why| format!("undo: {why}"))?;
    // Whatever applied the failed version may do so again.
    status.failed = Some(Failed {
        put_back: true,
        ..failed.clone()
    });
    let text = format!(
        "the template of ReplicaSet {} is put back by a person",
        stable.replica_set
    );
    let note = report::note(input, false, "Undone", text.clone());
    let said = Said::stalled(Phase::Failed, "Undone", text.clone());
    Ok((report::commit(status, input, &said, Some(note)), text))
}

fn in_run(pass: &Pass<'_>, command: &Command) -> Decided {
    let run = pass.run;
    let verb = command.verb.as_str();
    if command.run != run.id {
        return Err(format!(
            "{verb} was meant for run {}, and the present one is {}",
            command.run, run.id
        ));
    }
    let here = u32::try_from(run.step).unwrap_or(0) + 1;
    if let Some(step) = command.step
        && step != here
    {
        return Err(format!(
            "{verb} was meant for step {step}, and the run is at step {here}"
        ));
    }
    match command.verb {
        Verb::Promote => promote(pass, command),
        Verb::Abort => abort(pass),
        Verb::Pause => pause(pass),
        Verb::Resume => resume(pass),
        Verb::Retry | Verb::Undo => Err(format!("{verb}: a run is under way; abort it first")),
    }
}

fn promote(pass: &Pass<'_>, command: &Command) -> Decided {
    let run = pass.run;
    let weight = run.weight;
    if command.step.is_none() {
        return Err("promote: the command has to say for which step it is meant".to_owned());
    }
    let judgement = pass.judge();
    if let Some((_, why)) = Pass::failure(judgement.as_ref()) {
        return Err(format!("promote: the version has failed ({why})"));
    }
    let told = format!("step {} at {weight} % is promoted", run.step + 1);
    match run.state {
        RunState::Stepping { .. } | RunState::Paused { .. } | RunState::Retreated { .. } if command.full => {
            Ok(promote_fully(pass, command))
        }
        RunState::Paused {
            why: PauseReason::Approval | PauseReason::Command,
            ..
        } if pass.in_force().is_some() => {
            let tell = !matches!(
                run.state,
                RunState::Paused {
                    why: PauseReason::Approval,
                    ..
                }
            );
            let run = resumed(pass);
            let pass = Pass { run: &run, ..*pass };
            let why = format!("{weight} % was promoted by a person");
            Ok((stepping::advance(&pass, judgement.as_ref(), &why, tell), told))
        }
        // The step has not been lived through: it is as soon as its weight is in force.
        RunState::Stepping { .. } | RunState::Paused { .. } | RunState::Retreated { .. } => {
            let step = usize::try_from(run.step).unwrap_or(0);
            let state = RunState::Stepping { since: pass.input.now };
            let weight = run.spec.steps.get(step).map_or(0, |step| step.weight);
            let base = match run.state {
                RunState::Stepping { .. } => run.clone(),
                _ if weight == run.weight => Run { state, ..resumed(pass) },
                _ => pass.intend(weight, state),
            };
            let run = Run {
                overridden: Some(overridden(run.step, command)),
                ..base
            };
            let message = format!("{weight} %: promoted by a person as soon as it is in force");
            let said = Said::urgent(Phase::Stepping, "Promoted", message);
            Ok((
                pass.commit(run, &said, None),
                format!("step {} at {weight} % is promoted", pass.run.step + 1),
            ))
        }
        _ => Err(format!(
            "promote: the run is {}, there is no step to promote",
            pass.phase().as_str()
        )),
    }
}

/// Straight to the last step, and on as soon as its weight is in force.
fn promote_fully(pass: &Pass<'_>, command: &Command) -> (Plan, String) {
    let steps = &pass.run.spec.steps;
    let last = i32::try_from(steps.len().saturating_sub(1)).unwrap_or(0);
    let weight = steps.last().map_or(100, |step| step.weight);
    let run = Run {
        step: last,
        overridden: Some(overridden(last, command)),
        drift: None,
        ..pass.intend(weight, RunState::Stepping { since: pass.input.now })
    };
    let text = format!("promoted fully by a person: {weight} %, and on as soon as it is in force");
    let note = report::note(pass.input, false, "PromotedFully", text.clone());
    let said = Said::urgent(Phase::Stepping, "PromotedFully", text.clone());
    (pass.commit(run, &said, Some(note)), text)
}

fn overridden(step: i32, command: &Command) -> Override {
    Override {
        step,
        nonce: command.nonce.clone(),
    }
}

fn abort(pass: &Pass<'_>) -> Decided {
    match &pass.run.state {
        RunState::Preparing { .. }
        | RunState::Stepping { .. }
        | RunState::Paused { .. }
        | RunState::Retreated { .. } => {
            let plan = pass.roll_back(None, Outcome::Failed, "Aborted", "aborted by a person");
            Ok((plan, "the run is aborted: all traffic goes back to stable".to_owned()))
        }
        RunState::Promoting { .. } => {
            let plan = promoting::restore(pass, None, Outcome::Failed, "Aborted", "aborted by a person");
            let text = "the promotion is taken back: the Deployment rolls back to the stable version, then all traffic goes to it";
            Ok((plan, text.to_owned()))
        }
        RunState::Returning { .. } => Err(
            "abort: the Deployment runs the new version already, which is the stable one now; put the old template back to go back in a run of its own"
                .to_owned(),
        ),
        RunState::Restoring { .. } | RunState::RollingBack { .. } | RunState::Draining { .. } => Err("abort: the run is ending already".to_owned()),
    }
}

fn pause(pass: &Pass<'_>) -> Decided {
    let RunState::Stepping { .. } = pass.run.state else {
        return Err(format!(
            "pause: the run is {}, only a step can be paused",
            pass.phase().as_str()
        ));
    };
    if pass.in_force().is_none() {
        return Err("pause: this step's weight is not in force yet; try again in a moment".to_owned());
    }
    let weight = pass.run.weight;
    let name = &pass.input.rollout.name;
    let run = Run {
        state: RunState::Paused {
            since: pass.input.now,
            why: PauseReason::Command,
        },
        ..pass.run.clone()
    };
    let text = format!("paused at {weight} % by a person: kubectl stepgate resume {name} goes on");
    Ok((
        pass.commit(run, &Said::urgent(Phase::Paused, "PausedByCommand", text.clone()), None),
        text,
    ))
}

fn resume(pass: &Pass<'_>) -> Decided {
    match pass.run.state {
        RunState::Paused {
            why: PauseReason::Command,
            ..
        } => {
            let run = resumed(pass);
            let text = format!("{} %: goes on after a pause", run.weight);
            Ok((
                pass.commit(run, &Said::urgent(Phase::Stepping, "Resumed", text.clone()), None),
                text,
            ))
        }
        RunState::Paused {
            why: PauseReason::Approval,
            ..
        } => Err("resume: the step waits for an approval; promote it, or abort the run".to_owned()),
        RunState::Paused {
            why: PauseReason::Contention | PauseReason::Retreats,
            ..
        } => {
            let step = usize::try_from(pass.run.step).unwrap_or(0);
            let run = resumed(pass);
            let pass = Pass { run: &run, ..*pass };
            let plan = retreated::go_on(&pass, pass.judge().as_ref(), step, "resumed by a person");
            Ok((plan, "the run goes on".to_owned()))
        }
        _ => Err(format!("resume: the run is {}, not paused", pass.phase().as_str())),
    }
}

/// The run as it goes on after a pause: at the same weight, whose acceptance still stands.
fn resumed(pass: &Pass<'_>) -> Run {
    let hours = pass
        .pause_hour()
        .and_then(|hour| i32::try_from(hour).ok())
        .unwrap_or(pass.run.pause_hours);
    Run {
        state: RunState::Stepping { since: pass.input.now },
        pause_hours: hours,
        ..pass.run.clone()
    }
}

//! `next`: the one place where it is decided what follows. Total and deterministic; deletion is an input, not a second path.
//!
//! The order within a pass: a person's command, then what ends a run from outside (deletion, another workload, another template),
//! then the state itself, which judges failure before its goal and its goal before its deadline.

use stepgate_crds::status::{Found, Outcome, Run, RunState};

use crate::{
    command,
    input::{Input, Seen},
    plan::Plan,
    report::{self, Said},
    rest,
    side::{self, Side},
    state::{self, Pass},
};

/// What follows from the world as it was observed.
pub fn next(input: &Input<'_>) -> Plan {
    let status = &input.rollout.status;
    // Without its template a run that is aborted now could not be told from a new one afterwards.
    if let (Some(run), Some(found)) = (&status.run, &status.found)
        && let Some(plan) = state::preparing::record(&Pass { input, run, found })
    {
        return plan;
    }
    if let Some(plan) = command::next(input) {
        return plan;
    }
    match (&status.run, &status.found) {
        (Some(run), Some(found)) => run_next(input, run, found),
        // A run without what was found for it cannot have been written by us: nothing can be managed by it.
        (Some(_) | None, _) => rest::next(input),
    }
}

fn run_next(input: &Input<'_>, run: &Run, found: &Found) -> Plan {
    let pass = Pass { input, run, found };
    if let Some(plan) = take_over(&pass) {
        return plan;
    }
    if let Some(plan) = ended_from_outside(&pass) {
        return plan;
    }
    let plan = match &run.state {
        RunState::Preparing { .. } => state::preparing::next(&pass),
        RunState::Stepping { .. } => state::stepping::next(&pass),
        RunState::Paused { why, .. } => state::paused::next(&pass, *why),
        RunState::Promoting { .. } => state::promoting::next(&pass),
        RunState::Returning { .. } => state::returning::next(&pass),
        RunState::RollingBack { cause, then, .. } => state::rolling_back::next(&pass, cause, *then),
        RunState::Draining { cause, then, .. } => state::draining::next(&pass, cause.as_ref(), *then),
    };
    match (&plan, input.refused) {
        (Plan::Act(_), Some(why)) => say_refusal(&pass, why).unwrap_or(plan),
        _ => plan,
    }
}

/// What the API server refused last time is said before it is asked for again.
fn say_refusal(pass: &Pass<'_>, why: &str) -> Option<Plan> {
    let message = match pass.run.state {
        RunState::Preparing { .. } => format!("the canary cannot be made: {why}"),
        RunState::RollingBack { .. } | RunState::Returning { .. } => {
            format!("the traffic cannot be brought back: {why}")
        }
        _ => format!("the run cannot go on: {why}"),
    };
    let said_before = pass.input.rollout.status.message.as_ref();
    if said_before.is_some_and(|before| before.starts_with(&report::short(&message))) {
        return None;
    }
    let said = Said::stalled(pass.phase(), "RequestRefused", message);
    Some(pass.commit(pass.run.clone(), &said, None))
}

/// A new leader: the time without one does not count for deadlines.
fn take_over(pass: &Pass<'_>) -> Option<Plan> {
    let (input, run) = (pass.input, pass.run);
    if run.term == input.term {
        return None;
    }
    let mut run = Run {
        term: input.term,
        ..run.clone()
    };
    let shift = |since: &mut stepgate_crds::units::Timestamp| *since = since.after(input.absent).min(input.now);
    match &mut run.state {
        RunState::Preparing { since }
        | RunState::Stepping { since }
        | RunState::Promoting { since }
        | RunState::Returning { since } => {
            shift(since);
        }
        // A pause has no deadline, and the other two wait for the world, whoever leads.
        RunState::Paused { .. } | RunState::RollingBack { .. } | RunState::Draining { .. } => {}
    }
    // What was said of the run still holds: the next decision says otherwise where it does not.
    Some(Plan::Commit(Box::new(pass.with(run))))
}

/// What ends a run while stable is the whole side. From the un-pause on the promotion is brought to its end first.
fn ended_from_outside(pass: &Pass<'_>) -> Option<Plan> {
    let (input, run) = (pass.input, pass.run);
    let ending = matches!(run.state, RunState::RollingBack { .. } | RunState::Draining { .. });
    if ending {
        return None;
    }
    if side::whole(&run.state) == Side::Canary {
        // Nothing will ever end this promotion.
        let lost = input.rollout.deleting && pass.workload_is_absent() && pass.is_overdue();
        return (lost || pass.is_abandoned()).then(|| {
            let why = if lost {
                "the Rollout and its Deployment were deleted"
            } else {
                "the Rollout was deleted, and its promotion did not end within twice the progress deadline"
            };
            pass.roll_back(None, Outcome::Deleted, "Deleted", why)
        });
    }
    if input.rollout.deleting {
        return Some(pass.roll_back(None, Outcome::Deleted, "Deleted", "the Rollout was deleted"));
    }
    let stable = input.rollout.status.stable.as_ref();
    let Seen::At(workload) = input.workload else {
        return pass.workload_is_absent().then(|| {
            let said = Said::stalled(
                pass.phase(),
                "WorkloadMissing",
                "the Deployment is gone: the canary serves on at its weight",
            );
            pass.wait(None, &said, None)
        });
    };
    if stable.is_some_and(|stable| stable.workload_uid != workload.uid) {
        let why = format!("Deployment {} was made anew", workload.name);
        return Some(pass.roll_back(None, Outcome::Replaced, "WorkloadReplaced", &why));
    }
    let recorded = |name: &str| input.templates.get(name).map(|template| template.digest);
    if stable.is_some_and(|stable| recorded(&stable.template) == Some(workload.template)) {
        let why = "the Deployment's template is stable's again";
        return Some(pass.roll_back(None, Outcome::Reverted, "TemplatePutBack", why));
    }
    if !workload.paused {
        let why = "somebody let the Deployment go: it rolls by itself";
        return Some(pass.roll_back(None, Outcome::Superseded, "Released", why));
    }
    let newer = recorded(&run.revision).is_some_and(|revision| revision != workload.template);
    newer.then(|| {
        let why = "a newer template came before this one was through";
        pass.roll_back(None, Outcome::Superseded, "NewTemplate", why)
    })
}

//! `next`: the one place where it is decided what follows. Total and deterministic; deletion is an input, not a second path.
//!
//! The order within a pass: a person's command, then what ends a run from outside (deletion, another workload, another template),
//! then the state itself, which judges failure before its goal and its goal before its deadline.

use stepgate_crds::{
    evidence::Evidence,
    status::{Found, Outcome, Run, RunState},
    units::Timestamp,
};

use crate::{
    command,
    input::{Input, Seen},
    plan::Plan,
    recovery::{self, Recovery},
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
    let taken_over = (run.term != input.term).then(|| take_over(input, run, found));
    let run = taken_over.as_ref().unwrap_or(run);
    let pass = Pass { input, run, found };
    if taken_over.is_some() && input.clocks_differ {
        // What was said of the run still holds: the next decision says otherwise where it does not.
        return Plan::Commit(Box::new(pass.with(run.clone())));
    }
    if let Some(plan) = ended_from_outside(&pass).or_else(|| recovered(&pass)) {
        return plan;
    }
    let plan = match &run.state {
        RunState::Preparing { .. } => state::preparing::next(&pass),
        RunState::Stepping { .. } => state::stepping::next(&pass),
        RunState::Paused { why, .. } => state::paused::next(&pass, *why),
        RunState::Retreated { why, well_since, .. } => state::retreated::next(&pass, *why, *well_since),
        RunState::Promoting { .. } => state::promoting::next(&pass),
        RunState::Restoring { cause, then, .. } => state::restoring::next(&pass, cause, *then),
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
        RunState::RollingBack { .. } | RunState::Returning { .. } | RunState::Retreated { .. } => {
            format!("the traffic cannot be brought back: {why}")
        }
        _ => format!("the run cannot go on: {why}"),
    };
    let committed = &pass.input.rollout.status;
    let said_before = committed.message.as_ref();
    // A new leader says it once more, or its own time of waiting would never be kept.
    let is_taken_over = committed.run.as_ref().is_some_and(|run| run.term != pass.run.term);
    if !is_taken_over && said_before.is_some_and(|before| before.starts_with(&report::short(&message))) {
        return None;
    }
    let said = Said::stalled(pass.phase(), "RequestRefused", message);
    Some(pass.commit(pass.run.clone(), &said, None))
}

/// The run as a new leader takes it over: the time without one does not count for deadlines. It is committed with what is decided next, so
/// that a leader that ends after each single write gets on all the same. What a term that has committed nothing took and waited is not known:
/// then the deadline begins anew. Where the leader before had another clock its times mean nothing: what waits, waits from now on, and what
/// was counted before now is not of this weight.
fn take_over(input: &Input<'_>, run: &Run, found: &Found) -> Run {
    let is_next = run.term.saturating_add(1) == input.term;
    let mut run = Run {
        term: input.term,
        ..run.clone()
    };
    if input.clocks_differ {
        let first = Pass {
            input,
            run: &run,
            found,
        }
        .first_evidence();
        *since(&mut run.state) = input.now;
        waits(&mut run).for_each(|since| *since = input.now);
        begin_anew(&first, input.now, &mut run);
    } else {
        for since in waits(&mut run) {
            *since = if is_next {
                since.after(input.absent).min(input.now)
            } else {
                input.now
            };
        }
    }
    run
}

/// Since when a run is in its state.
fn since(state: &mut RunState) -> &mut Timestamp {
    match state {
        RunState::Preparing { since }
        | RunState::Stepping { since }
        | RunState::Paused { since, .. }
        | RunState::Retreated { since, .. }
        | RunState::Promoting { since }
        | RunState::Restoring { since, .. }
        | RunState::Returning { since }
        | RunState::RollingBack { since, .. }
        | RunState::Draining { since, .. } => since,
    }
}

/// Since when a run waits for what has a deadline, or has to last.
fn waits(run: &mut Run) -> impl Iterator<Item = &mut Timestamp> {
    let (since, well) = match &mut run.state {
        RunState::Preparing { since }
        | RunState::Stepping { since }
        | RunState::Promoting { since }
        | RunState::Restoring { since, .. }
        | RunState::Returning { since } => (Some(since), None),
        RunState::Retreated { since, well_since, .. } => (Some(since), well_since.as_mut()),
        // A pause has no deadline, and the other two wait for the world, whoever leads.
        RunState::Paused { .. } | RunState::RollingBack { .. } | RunState::Draining { .. } => (None, None),
    };
    let others = [well, run.bare_since.as_mut(), run.no_data_since.as_mut()];
    since.into_iter().chain(others.into_iter().flatten())
}

/// Counting begins now. What speaks against the version is kept.
fn begin_anew(first: &Evidence, now: Timestamp, run: &mut Run) {
    if let Some(force) = &mut run.in_force {
        force.since = now;
        force.grown = force.grown.map(|_| now);
        run.evidence.through = first.through;
    }
    run.refreshed = now;
}

/// What ends a run while stable is the whole side. From the un-pause on the promotion is brought to its end first.
fn ended_from_outside(pass: &Pass<'_>) -> Option<Plan> {
    let (input, run) = (pass.input, pass.run);
    let ending = matches!(run.state, RunState::RollingBack { .. } | RunState::Draining { .. });
    if ending {
        return None;
    }
    let leaving = leaving(input);
    if side::whole(&run.state) == Side::Canary {
        return leaving.and_then(|(outcome, reason, why)| left_in_promotion(pass, outcome, reason, why));
    }
    if let Some((outcome, reason, why)) = leaving {
        return Some(pass.roll_back(None, outcome, reason, why));
    }
    let stable = input.rollout.status.stable.as_ref();
    let Seen::At(workload) = input.workload else {
        return pass.workload_is_absent().then(|| {
            let said = Said::stalled(
                pass.phase(),
                "WorkloadMissing",
                "the Deployment is gone: the canary serves on at its weight; create it again",
            );
            pass.wait(None, &said, None)
        });
    };
    if stable.is_some_and(|stable| stable.workload_uid != workload.uid) {
        let why = state::restoring::made_anew(&workload.name);
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

/// How a run ends where everything is to be let go, if it is.
fn leaving(input: &Input<'_>) -> Option<(Outcome, &'static str, &'static str)> {
    if input.rollout.deleting {
        Some((Outcome::Deleted, "Deleted", "the Rollout was deleted"))
    } else if input.rollout.is_suspended() {
        Some((Outcome::Suspended, "Suspended", "the Rollout was suspended"))
    } else {
        None
    }
}

/// A Rollout that is to go lets its promotion end, past its deadline takes it back, and past a second one goes whatever is there.
fn left_in_promotion(pass: &Pass<'_>, outcome: Outcome, reason: &str, why: &str) -> Option<Plan> {
    let overdue = pass.is_overdue();
    match pass.run.state {
        // Nothing will ever end this promotion: Rollout and Deployment go together, or the whole namespace does.
        _ if (overdue || pass.input.rollout.deleting) && pass.workload_is_absent() => {
            let why = format!("{why}, and its Deployment is gone");
            Some(pass.roll_back(None, outcome, reason, &why))
        }
        RunState::Promoting { .. } if overdue => {
            let why = format!("{why}, and the promotion did not end by its deadline");
            Some(state::promoting::restore(pass, None, outcome, reason, &why))
        }
        RunState::Restoring { .. } if overdue => {
            let why = format!("{why}, and the Deployment did not roll back to the stable version by the deadline");
            Some(pass.roll_back(None, outcome, reason, &why))
        }
        _ if pass.is_abandoned() => {
            let why = format!("{why}, and its traffic did not return within twice the deadline");
            Some(pass.roll_back(None, outcome, reason, &why))
        }
        _ => None,
    }
}

/// Stable's pods are lost while the Deployment is held: they come first.
fn recovered(pass: &Pass<'_>) -> Option<Plan> {
    let ends_promoted = matches!(
        pass.run.state,
        RunState::Draining {
            then: Outcome::Promoted,
            ..
        }
    );
    if side::whole(&pass.run.state) == Side::Canary || ends_promoted {
        return None;
    }
    let ending = matches!(pass.run.state, RunState::RollingBack { .. } | RunState::Draining { .. });
    match recovery::next(pass.input) {
        Recovery::None => None,
        Recovery::Next(plan) => Some(plan),
        Recovery::Lost(why) => {
            let plan = if ending {
                Plan::Commit(Box::new(pass.with(pass.run.clone())))
            } else {
                pass.roll_back(None, Outcome::Reverted, STABLE_LOST, &why)
            };
            let Plan::Commit(status) = plan else {
                return Some(plan);
            };
            let status = recovery::intend(*status, pass.input).ok()?;
            Some(Plan::Commit(Box::new(status)))
        }
        // First the route, whatever becomes of the pods.
        Recovery::Stuck(_) if ending => None,
        Recovery::Stuck(why) => Some(pass.wait(None, &Said::stalled(pass.phase(), STABLE_LOST, why), None)),
    }
}

/// The reason of what is done where stable's pods are lost.
pub const STABLE_LOST: &str = "StableLost";

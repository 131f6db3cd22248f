//! At rest: no run is under way. Each kind of rest has a file; here is which one it is, and what is said where nothing is to be done.

mod adopt;
mod let_go;
pub mod start;

use stepgate_crds::{
    RolloutStatus,
    status::{Cause, Found, Phase, Stable},
    units::{Span, Timestamp},
};

use crate::{
    hold,
    input::{Input, Seen, WorkloadView},
    next::STABLE_LOST,
    plan::{Effect, Kind, Need, Plan, Wake},
    preflight,
    recovery::{self, Recovery},
    report::{self, Said},
    state::draining,
    template::digest,
};

/// What follows when no run is under way. What the API server refused last time is said before it is asked for again.
pub fn next(input: &Input<'_>) -> Plan {
    let plan = decide(input);
    let asks = match &plan {
        Plan::Act(_) => true,
        Plan::Wait(wake) => wake.need != Need::default(),
        Plan::Commit(_) => false,
    };
    match input.refused {
        Some(why) if asks => say_refusal(input, why).unwrap_or(plan),
        _ => plan,
    }
}

fn say_refusal(input: &Input<'_>, why: &str) -> Option<Plan> {
    let message = report::short(&format!("the API server refuses what is to be done: {why}"));
    if input.rollout.status.message.as_ref() == Some(&message) {
        return None;
    }
    let note = report::note(input, true, "RequestRefused", message.clone());
    let said = Said::stalled(Phase::Blocked, "RequestRefused", message);
    Some(report::commit(input.rollout.status.clone(), input, &said, Some(note)))
}

fn decide(input: &Input<'_>) -> Plan {
    if input.rollout.is_leaving() {
        return let_go::let_go(input);
    }
    let namespace = &input.rollout.namespace;
    let name = &input.rollout.spec.workload.name;
    let workload = match input.workload {
        Seen::At(workload) => workload,
        Seen::Absent => {
            let why = format!(
                "Deployment {namespace}/{name} does not exist; create it: it is taken into care as soon as it is there"
            );
            return blocked(input, "WorkloadNotFound", why);
        }
        Seen::Unknown(why) => {
            return blocked(
                input,
                "WorkloadUnknown",
                format!("Deployment {namespace}/{name} could not be read: {why}"),
            );
        }
    };
    if let Some(other) = workload.rollout.as_ref().filter(|other| **other != input.rollout.name) {
        let why = format!(
            "Deployment {namespace}/{name} is managed by Rollout {other}; delete one of the two; where that Rollout is gone: kubectl label deployment {name} -n {namespace} {}={} --overwrite",
            stepgate_crds::names::ROLLOUT,
            input.rollout.name
        );
        return blocked(input, "WorkloadTaken", why);
    }
    // Lost pods come before everything that may stand in the way of a rollout.
    match recovery::next(input) {
        Recovery::None => {}
        Recovery::Next(plan) => return plan,
        Recovery::Lost(why) => return recover(input, &why),
        Recovery::Stuck(why) => {
            return steady(
                input,
                input.rollout.status.clone(),
                &Said::stalled(Phase::Failed, STABLE_LOST, why),
            );
        }
    }
    if let Some(why) = input.no_hold {
        let why = format!("Deployment {namespace}/{name} would roll by itself: {why}");
        return blocked(input, "HoldMissing", why);
    }
    let status = &input.rollout.status;
    let recorded = |name: &str| input.templates.get(name).map(|template| template.digest);
    let stable = status
        .stable
        .as_ref()
        .filter(|stable| stable.workload_uid == workload.uid);
    let Some((stable, stable_template)) = stable.and_then(|stable| Some((stable, recorded(&stable.template)?))) else {
        return adopt::adopt(input, workload);
    };
    if status.found.as_ref().map(|found| found.generation) != Some(input.rollout.generation)
        || workload.rollout.is_none()
    {
        return adopt::look_again(input, workload);
    }
    if workload.template == stable_template {
        return healthy(input, workload, stable);
    }
    if let Some(failed) = &status.failed
        // Where somebody let it go the version that failed is rolling out, and nothing else may be said of it.
        && workload.paused
    {
        let why = format!("{}: {}", failed.cause.reason, failed.cause.detail);
        let message = match recorded(&failed.template) {
            Some(template) if template == workload.template => {
                Some(draining::failed_message(&input.rollout.name, &why))
            }
            // Whether this is the version that failed cannot be told, and a failed one is never tried again by itself.
            None => Some(format!(
                "PodTemplate {} is gone, which kept the version that failed ({why}): the Deployment stays held; to try what it asks for now: kubectl stepgate retry {}",
                failed.template, input.rollout.name
            )),
            Some(_) => None,
        };
        if let Some(message) = message {
            return steady(input, status.clone(), &Said::stalled(Phase::Failed, "Failed", message));
        }
    }
    new_template(input, workload)
}

/// Nothing is to be done, but perhaps to be said, or to be cleared away.
fn steady(input: &Input<'_>, status: RolloutStatus, said: &Said) -> Plan {
    let kept = [
        status.stable.as_ref().map(|stable| stable.template.clone()),
        status.failed.as_ref().map(|failed| failed.template.clone()),
    ];
    let mut old = left_behind(input);
    let forgotten = input
        .templates
        .iter()
        .filter(|(name, _)| !kept.iter().flatten().any(|kept| kept == *name));
    old.extend(forgotten.map(|(name, template)| Effect::delete(Kind::PodTemplate, name, &template.uid)));
    // As long as that is refused nothing else is said: the two would take turns.
    if !old.is_empty() && input.refused.is_some() {
        return Plan::Act(old);
    }
    match report::wait(status, input, said, Wake::default()) {
        Plan::Wait(_) if !old.is_empty() => Plan::Act(old),
        other => other,
    }
}

/// The canary of a run that has ended, where the request that made it took effect only after that: no route refers to it, and a run that has
/// ended never comes back.
fn left_behind(input: &Input<'_>) -> Vec<Effect> {
    let has_ended = |run: Option<&String>| {
        let mut past = input.rollout.status.history.iter();
        run.is_some_and(|run| past.any(|past| past.run == *run))
    };
    let canary = input.canary.get();
    let canary = canary.filter(|canary| canary.rollout.is_none() && has_ended(canary.run.as_ref()));
    let service = input.canary_service.get();
    let service = service.filter(|service| has_ended(service.run.as_ref()));
    canary
        .map(|canary| Effect::delete(Kind::Deployment, &canary.name, &canary.uid))
        .into_iter()
        .chain(service.map(|service| Effect::delete(Kind::Service, &service.name, &service.uid)))
        .collect()
}

/// Nothing can be managed as things are: say why, and look again soon, for not all of it is watched.
fn blocked(input: &Input<'_>, reason: &'static str, why: String) -> Plan {
    let status = &input.rollout.status;
    // The manifests of one application come one after the other: what is missing now may be there in a moment.
    let settled = input.rollout.created.after(input.limits.calm);
    if status.phase.is_none() && input.now < settled {
        return Plan::Wait(Wake {
            at: Some(settled),
            ..Wake::default()
        });
    }
    let news = status.message.as_ref() != Some(&report::short(&why));
    let said = Said::stalled(Phase::Blocked, reason, why.clone());
    if news {
        let note = report::note(input, true, reason, why);
        return report::commit(status.clone(), input, &said, Some(note));
    }
    let wake = Wake {
        at: Some(input.now.after(patience(input))),
        ..Wake::default()
    };
    report::wait(status.clone(), input, &said, wake)
}

/// How long until a blocked Rollout is looked at again: the longer it has been so, the longer, up to a minute.
fn patience(input: &Input<'_>) -> Span {
    let since = report::condition(&input.rollout.status, "Ready").map(|ready| ready.last_transition_time.0);
    let blocked = since.map_or(Span::seconds(0), |since| input.now.since(Timestamp::from(since)));
    blocked
        .tenth()
        .max(input.limits.mend)
        .min(input.limits.refresh.max(input.limits.mend))
}

/// What the spec leaves open, or the plan that has to come first: what it needs, or that it is blocked.
fn find(input: &Input<'_>) -> Result<Found, Box<Plan>> {
    let Some(survey) = input.survey else {
        return Err(Box::new(Plan::need(Need::SURVEY)));
    };
    preflight::find(input, survey).map_err(|why| Box::new(blocked(input, "PreflightFailed", why)))
}

/// What is said where the Deployment runs the stable version.
pub fn healthy_message(stable: &Stable) -> String {
    format!("stable is ReplicaSet {}", stable.replica_set)
}

fn healthy(input: &Input<'_>, workload: &WorkloadView, stable: &Stable) -> Plan {
    if let Some(release) = hold::release(workload) {
        return Plan::act(release);
    }
    let mut status = RolloutStatus {
        verdict: None,
        ..input.rollout.status.clone()
    };
    // Put back by a person the failed version is forgotten; put back by us it may come again, from whoever applied it.
    status.failed = status.failed.filter(|failed| failed.put_back);
    if stable.uid.is_empty() {
        match found_again(input, workload, stable) {
            Ok(Some(stable)) => status.stable = Some(stable),
            Ok(None) => {}
            Err(plan) => return *plan,
        }
    }
    let mut message = match &status.failed {
        Some(failed) => put_back_message(&status, &format!("{}: {}", failed.cause.reason, failed.cause.detail)),
        None => healthy_message(stable),
    };
    if workload.paused {
        message = format!("{message}; the Deployment is paused by somebody else and left alone");
    }
    steady(input, status, &Said::passing(Phase::Healthy, "Healthy", message))
}

/// The ReplicaSet that runs stable's template now, after it was put back.
fn found_again(input: &Input<'_>, workload: &WorkloadView, stable: &Stable) -> Result<Option<Stable>, Box<Plan>> {
    if !workload.is_rolled_out() {
        return Ok(None);
    }
    let Some(sets) = input.replica_sets else {
        return Err(Box::new(Plan::need(Need::REPLICA_SETS)));
    };
    let owned = sets.iter().filter(|set| set.owner.as_ref() == Some(&workload.uid));
    let mut own = owned.filter(|set| digest(&set.template) == workload.template);
    Ok(own.next().map(|set| Stable {
        replica_set: set.name.clone(),
        uid: set.uid.clone(),
        ..stable.clone()
    }))
}

/// What is said where stable's template was put back in place of a version that failed.
pub fn put_back_message(status: &RolloutStatus, why: &str) -> String {
    let stable = status.stable.as_ref().map_or_else(String::new, healthy_message);
    format!("{stable}; the last version failed and was taken back ({why})")
}

/// Stable's pods are lost while the Deployment is held: its template goes back.
fn recover(input: &Input<'_>, why: &str) -> Plan {
    let mut status = match recovery::intend(input.rollout.status.clone(), input) {
        Ok(status) => status,
        Err(stuck) => {
            let said = Said::stalled(Phase::Failed, STABLE_LOST, stuck);
            return steady(input, input.rollout.status.clone(), &said);
        }
    };
    // Should the failed version come again it is still the one that failed.
    if let Some(failed) = &mut status.failed {
        failed.put_back = true;
    }
    let text =
        format!("{why}, and a paused Deployment does not heal itself: the stable template goes back and it rolls");
    let note = report::note(input, true, STABLE_LOST, text.clone());
    report::commit(
        status,
        input,
        &Said::stalled(Phase::Failed, STABLE_LOST, text),
        Some(note),
    )
}

/// The reason of a new version that is let roll natively.
pub const NOTHING_TO_PROTECT: &str = "NothingToProtect";

/// Stable has no pods: whatever waits is let roll natively, and what comes of it is adopted.
fn let_roll(input: &Input<'_>, workload: &WorkloadView) -> Plan {
    let detail = format!(
        "Deployment {} had no pods of the stable version to protect: the new one rolls natively",
        workload.name
    );
    let status = RolloutStatus {
        stable: None,
        failed: None,
        native: Some(Cause {
            reason: NOTHING_TO_PROTECT.to_owned(),
            detail: detail.clone(),
        }),
        ..input.rollout.status.clone()
    };
    let note = report::note(input, true, NOTHING_TO_PROTECT, detail.clone());
    let said = Said::stalled(Phase::Blocked, NOTHING_TO_PROTECT, detail);
    report::commit(status, input, &said, Some(note))
}

/// A template that is neither stable's nor the failed one.
fn new_template(input: &Input<'_>, workload: &WorkloadView) -> Plan {
    let status = &input.rollout.status;
    if hold::is_waiting(workload) {
        return if workload.replicas == 0 {
            let_roll(input, workload)
        } else {
            start::start(input, workload)
        };
    }
    if workload.paused {
        let why = format!(
            "Deployment {} has a new template and was paused by somebody else: it is left alone; un-pause it and ship the version again",
            workload.name
        );
        return report::wait(
            status.clone(),
            input,
            &Said::stalled(Phase::Healthy, "PausedBySomebody", why),
            Wake::default(),
        );
    }
    // It rolls, or has rolled, without having been held: the world is as it is, and that is said loudly.
    let why = format!(
        "Deployment {} rolled to a new version without steps: it was not held (is the hold policy installed, and the Deployment not released by annotation?)",
        workload.name
    );
    let note = report::note(input, true, "RolledUnheld", why.clone());
    let adrift = RolloutStatus {
        stable: None,
        failed: None,
        ..status.clone()
    };
    report::commit(
        adrift,
        input,
        &Said::stalled(Phase::Blocked, "RolledUnheld", why),
        Some(note),
    )
}

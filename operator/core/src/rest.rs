//! At rest: no run is under way. Each kind of rest has a file; here is which one it is, and what is said where nothing is to be done.

mod adopt;
mod let_go;
pub mod start;

use stepgate_crds::{
    RolloutStatus,
    status::{Found, Phase, Stable},
    units::{Span, Timestamp},
};

use crate::{
    hold,
    input::{Input, Seen, WorkloadView},
    plan::{Effect, Kind, Need, Plan, Wake},
    preflight,
    report::{self, Said},
    state::draining,
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
    if input.rollout.deleting {
        return let_go::let_go(input);
    }
    let namespace = &input.rollout.namespace;
    let name = &input.rollout.spec.workload.name;
    if !input.limits.hold {
        let why = format!(
            "the hold policy is not installed, so Deployment {namespace}/{name} would roll by itself: install the chart with hold.enabled=true, on a cluster that serves MutatingAdmissionPolicy"
        );
        return blocked(input, "HoldMissing", why);
    }
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
    match report::wait(status, input, said, Wake::default()) {
        Plan::Wait(wake) => {
            let old: Vec<Effect> = input
                .templates
                .iter()
                .filter(|(name, _)| !kept.iter().flatten().any(|kept| kept == *name))
                .map(|(name, template)| Effect::delete(Kind::PodTemplate, name, &template.uid))
                .collect();
            if old.is_empty() {
                Plan::Wait(wake)
            } else {
                Plan::Act(old)
            }
        }
        other => other,
    }
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
    let status = RolloutStatus {
        failed: None,
        verdict: None,
        ..input.rollout.status.clone()
    };
    let mut message = healthy_message(stable);
    if workload.paused {
        message = format!("{message}; the Deployment is paused by somebody else and left alone");
    }
    steady(input, status, &Said::passing(Phase::Healthy, "Healthy", message))
}

/// A template that is neither stable's nor the failed one.
fn new_template(input: &Input<'_>, workload: &WorkloadView) -> Plan {
    let status = &input.rollout.status;
    if hold::is_waiting(workload) {
        return start::start(input, workload);
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

//! At rest: no run is under way. Takes a Deployment into care, holds it, starts a run when a new template comes, lets go on deletion.

use serde_json::json;
use stepgate_crds::{
    RolloutStatus,
    evidence::Evidence,
    names,
    rollout::Step,
    status::{Note, Phase, Run, RunSpec, RunState, Stable},
    units::Share,
};

use crate::{
    canary,
    input::{Input, ReplicaSetView, Seen, WorkloadView},
    plan::{Effect, Kind, Need, Plan, Wake},
    preflight,
    report::{self, Said},
    route,
    state::{draining, promoting},
    template::digest,
};

/// What follows when no run is under way.
pub fn next(input: &Input<'_>) -> Plan {
    if input.rollout.deleting {
        return let_go(input);
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
            "Deployment {namespace}/{name} is managed by Rollout {other}; delete one of the two, or take the label {} off where that Rollout is gone",
            names::ROLLOUT
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
        return adopt(input, workload);
    };
    if status.found.as_ref().map(|found| found.generation) != Some(input.rollout.generation)
        || workload.rollout.is_none()
    {
        return look_again(input, workload);
    }
    if workload.template == stable_template {
        return healthy(input, workload, stable);
    }
    if let Some(failed) = status
        .failed
        .as_ref()
        // Where somebody let it go the version that failed is rolling out, and nothing else may be said of it.
        .filter(|failed| workload.paused && recorded(&failed.template) == Some(workload.template))
    {
        let why = format!("{}: {}", failed.cause.reason, failed.cause.detail);
        let said = Said::stalled(
            Phase::Failed,
            "Failed",
            draining::failed_message(&input.rollout.name, &why),
        );
        return steady(input, status.clone(), &said);
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
        at: Some(input.now.after(input.limits.mend)),
        ..Wake::default()
    };
    report::wait(status.clone(), input, &said, wake)
}

/// What is said where the Deployment runs the stable version.
pub fn healthy_message(stable: &Stable) -> String {
    format!("stable is ReplicaSet {}", stable.replica_set)
}

fn healthy(input: &Input<'_>, workload: &WorkloadView, stable: &Stable) -> Plan {
    if let Some(release) = promoting::release(workload) {
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
    if workload.paused && workload.hold.as_deref() == Some("waiting") {
        return start(input, workload);
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

/// The spec changed, or the label is gone: find everything anew.
fn look_again(input: &Input<'_>, workload: &WorkloadView) -> Plan {
    let Some(survey) = input.survey else {
        return Plan::need(Need {
            survey: true,
            ..Need::default()
        });
    };
    let found = match preflight::find(input, survey) {
        Ok(found) => found,
        Err(why) => return blocked(input, "PreflightFailed", why),
    };
    if let Some(label) = label(input, workload) {
        return Plan::act(label);
    }
    let status = RolloutStatus {
        found: Some(found),
        ..input.rollout.status.clone()
    };
    // Phase and conditions are the next decision's, which sees what was found.
    Plan::Commit(Box::new(status))
}

/// Takes a Deployment into care: finds everything, marks it, and records the version that serves.
fn adopt(input: &Input<'_>, workload: &WorkloadView) -> Plan {
    let Some(survey) = input.survey else {
        return Plan::need(Need {
            survey: true,
            ..Need::default()
        });
    };
    let found = match preflight::find(input, survey) {
        Ok(found) => found,
        Err(why) => return blocked(input, "PreflightFailed", why),
    };
    if !input.rollout.finalizer {
        let mut finalizers = input.rollout.finalizers.clone();
        finalizers.push(names::FINALIZER.to_owned());
        return Plan::act(on_rollout(input, json!({"metadata": {"finalizers": finalizers}})));
    }
    if let Some(label) = label(input, workload) {
        return Plan::act(label);
    }
    let Some(replica_sets) = input.replica_sets else {
        return Plan::need(Need {
            survey: true,
            replica_sets: true,
        });
    };
    let settled = workload.observed_generation >= workload.generation && (workload.paused || workload.is_rolled_out());
    let serving = settled.then(|| serving(workload, replica_sets)).flatten();
    let Some(serving) = serving else {
        let why = format!(
            "Deployment {} is in the middle of a roll ({} of {} pods updated, {} available): its version is recorded when the roll is over",
            workload.name, workload.updated, workload.replicas, workload.available
        );
        let wake = Wake {
            at: Some(input.now.after(input.limits.mend)),
            ..Wake::default()
        };
        return report::wait(
            input.rollout.status.clone(),
            input,
            &Said::stalled(Phase::Blocked, "Rolling", why),
            wake,
        );
    };
    let number = input.rollout.status.revisions.saturating_add(1);
    let template = revision_name(input, number);
    match input.templates.get(&template) {
        None => Plan::act(Effect::create(
            Kind::PodTemplate,
            &template,
            canary::pod_template(input.rollout, &template, &serving.template),
        )),
        // Left by a pass that did not come to its commit.
        Some(old) if old.digest != digest(&serving.template) => {
            Plan::act(Effect::delete(Kind::PodTemplate, &template, &old.uid))
        }
        Some(_) => {
            let text = format!(
                "Deployment {} is in care; stable is ReplicaSet {}; {}",
                workload.name, serving.name, found.apart
            );
            let status = RolloutStatus {
                stable: Some(Stable {
                    replica_set: serving.name.clone(),
                    uid: serving.uid.clone(),
                    workload_uid: workload.uid.clone(),
                    template,
                }),
                found: Some(found),
                failed: None,
                revisions: number,
                ..input.rollout.status.clone()
            };
            let note = report::note(input, false, "Adopted", text);
            let said = Said::passing(
                Phase::Healthy,
                "Healthy",
                format!("stable is ReplicaSet {}", serving.name),
            );
            report::commit(status, input, &said, Some(note))
        }
    }
}

/// The ReplicaSet that has all the pods; where there are none, the one of the Deployment's template.
fn serving<'a>(workload: &WorkloadView, replica_sets: &'a [ReplicaSetView]) -> Option<&'a ReplicaSetView> {
    let owned = || {
        replica_sets
            .iter()
            .filter(|set| set.owner.as_ref() == Some(&workload.uid))
    };
    let mut active = owned().filter(|set| set.replicas > 0);
    match (active.next(), active.next()) {
        (Some(only), None) => Some(only),
        (Some(_), Some(_)) => None,
        (None, _) => owned().find(|set| digest(&set.template) == workload.template),
    }
}

/// Starts a run with the Deployment's template.
pub fn start(input: &Input<'_>, workload: &WorkloadView) -> Plan {
    let Some(survey) = input.survey else {
        return Plan::need(Need {
            survey: true,
            ..Need::default()
        });
    };
    let found = match preflight::find(input, survey) {
        Ok(found) => found,
        Err(why) => return blocked(input, "PreflightFailed", why),
    };
    if input.stable_ready == 0 {
        let why = format!(
            "Service {} has no ready endpoint: a rollout starts when stable serves",
            found.stable_service
        );
        return blocked(input, "StableNotReady", why);
    }
    let others = input
        .routes
        .iter()
        .filter_map(|(_, seen)| seen.get())
        .find_map(|route| {
            let mark = route.run.as_ref()?;
            (!route::is_mark_of(mark, &input.rollout.uid)).then_some((&route.name, mark))
        });
    if let Some((route, mark)) = others {
        let why = format!(
            "HTTPRoute {route} is in run {mark} of another Rollout: this one starts when that one has ended; where there is no such Rollout, take the annotation {} off",
            names::RUN
        );
        return blocked(input, "RouteBusy", why);
    }
    let status = &input.rollout.status;
    let number = status.revisions.saturating_add(1);
    let id = run_id(input, number);
    let original = input
        .routes
        .iter()
        .filter_map(|(name, seen)| {
            let reference = input
                .rollout
                .spec
                .traffic
                .routes
                .iter()
                .find(|route| route.name == *name)?;
            Some(route::managed(&found, reference.rules.as_deref()).original(seen.get()?))
        })
        .flatten()
        .collect();
    let run = Run {
        id: id.clone(),
        seq: 1,
        term: input.term,
        started: input.now,
        revision: revision_name(input, number),
        spec: run_spec(input),
        original,
        base: workload.replicas,
        step: 0,
        weight: 0,
        accepted_weight: 0,
        in_force: None,
        pause_hours: 0,
        state: RunState::Preparing { since: input.now },
        overridden: None,
        evidence: Evidence::default(),
        metrics: Vec::new(),
        refreshed: input.now,
    };
    let steps = run
        .spec
        .steps
        .iter()
        .map(|step| step.weight.to_string())
        .collect::<Vec<_>>()
        .join(" → ");
    let text = format!("run {id}: a new version of Deployment {} goes {steps}", workload.name);
    let status = RolloutStatus {
        run: Some(run),
        found: Some(found),
        verdict: None,
        revisions: number,
        ..status.clone()
    };
    let note = report::note(input, false, "Started", text.clone());
    report::commit(
        status,
        input,
        &Said::passing(Phase::Preparing, "Preparing", text),
        Some(note),
    )
}

/// The spec of a run with every default filled in.
fn run_spec(input: &Input<'_>) -> RunSpec {
    let (spec, limits) = (&input.rollout.spec, input.limits);
    let analysis = spec.analysis.clone().unwrap_or_default();
    let steps = spec.steps.clone().unwrap_or_else(|| {
        limits
            .ladder
            .iter()
            .map(|weight| Step {
                weight: *weight,
                bake: None,
                approval: None,
            })
            .collect()
    });
    RunSpec {
        routes: spec.traffic.routes.clone(),
        steps: steps
            .into_iter()
            .map(|step| Step {
                bake: Some(step.bake.unwrap_or(limits.bake)),
                ..step
            })
            .collect(),
        settle: spec.traffic.settle.unwrap_or(limits.settle),
        drain: spec.traffic.drain.unwrap_or(limits.drain),
        interval: analysis.interval.unwrap_or(limits.interval),
        source: analysis.source.unwrap_or_else(|| preflight::DEFAULT_SOURCE.to_owned()),
        max_error_rate: analysis
            .error_rate
            .map_or_else(|| Share::new(limits.max_error_rate), |rate| rate.max),
        phi: limits.phi,
    }
}

/// Lets go of everything: the Deployment is plain Kubernetes again, and the finalizer goes last.
fn let_go(input: &Input<'_>) -> Plan {
    if !input.rollout.finalizer {
        return Plan::Wait(Wake::default());
    }
    if let Seen::At(workload) = input.workload
        && workload.rollout.as_ref() == Some(&input.rollout.name)
    {
        let stable = input
            .rollout
            .status
            .stable
            .as_ref()
            .and_then(|stable| input.templates.get(&stable.template));
        let is_stable = stable.is_some_and(|stable| stable.digest == workload.template);
        // A template that was never proven is not let loose: it stays paused, and a person is told how to go on.
        if workload.hold.is_some() && workload.paused && !is_stable {
            let told = |note: &Note| note.reason == LEFT_PAUSED;
            if !input.rollout.status.note.as_ref().is_some_and(told) {
                return Plan::Commit(Box::new(RolloutStatus {
                    note: Some(report::note(input, true, LEFT_PAUSED, left_paused(input, workload))),
                    ..input.rollout.status.clone()
                }));
            }
        }
        let mut patch = json!({"metadata": {"labels": {names::ROLLOUT: null}}});
        if workload.hold.is_some() {
            patch = json!({"metadata": {"labels": {names::ROLLOUT: null}, "annotations": {names::HOLD: null}}});
            if is_stable && let Some(fields) = patch.as_object_mut() {
                fields.insert("spec".to_owned(), json!({"paused": null}));
            }
        }
        return Plan::act(Effect::merge(
            Kind::Deployment,
            &workload.name,
            &workload.uid,
            &workload.version,
            patch,
        ));
    }
    if let Seen::Unknown(_) = input.workload {
        return Plan::Wait(Wake {
            at: Some(input.now.after(input.limits.mend)),
            ..Wake::default()
        });
    }
    let finalizers: Vec<&String> = input
        .rollout
        .finalizers
        .iter()
        .filter(|name| *name != names::FINALIZER)
        .collect();
    Plan::act(on_rollout(input, json!({"metadata": {"finalizers": finalizers}})))
}

/// The reason of the Event about a Deployment that stays paused when its Rollout goes.
const LEFT_PAUSED: &str = "LeftPaused";

fn left_paused(input: &Input<'_>, workload: &WorkloadView) -> String {
    let (name, namespace) = (&workload.name, &input.rollout.namespace);
    format!(
        "Deployment {name} stays paused with a version that was not proven, its pods are the stable version's; to roll it out: kubectl rollout resume deployment {name} -n {namespace}; to stay with stable: put the old template back first"
    )
}

/// A patch on the Rollout's metadata.
pub fn on_rollout(input: &Input<'_>, patch: serde_json::Value) -> Effect {
    let rollout = input.rollout;
    Effect::merge(Kind::Rollout, &rollout.name, &rollout.uid, &rollout.version, patch)
}

/// The patch that marks the Deployment as this Rollout's. None where it is.
fn label(input: &Input<'_>, workload: &WorkloadView) -> Option<Effect> {
    if workload.rollout.as_ref() == Some(&input.rollout.name) {
        return None;
    }
    let patch = json!({"metadata": {"labels": {names::ROLLOUT: input.rollout.name}}});
    Some(Effect::merge(
        Kind::Deployment,
        &workload.name,
        &workload.uid,
        &workload.version,
        patch,
    ))
}

fn run_id(input: &Input<'_>, number: i32) -> String {
    format!("{}-{number}", route::mark_prefix(&input.rollout.uid))
}

fn revision_name(input: &Input<'_>, number: i32) -> String {
    format!("{}-{}", input.rollout.name, run_id(input, number))
}

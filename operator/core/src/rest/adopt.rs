//! Takes a Deployment into care: finds everything, marks it, and records the version that serves.

use serde_json::json;
use stepgate_crds::{
    RolloutStatus, names,
    status::{Mends, Phase, Stable},
};

use super::{find, start::revision_name};
use crate::{
    canary, hold,
    input::{Input, ReplicaSetView, WorkloadView},
    plan::{Effect, Kind, Need, Plan, Wake},
    report::{self, Said},
    template::digest,
};

/// The spec changed, or the label is gone: find everything anew.
pub(super) fn look_again(input: &Input<'_>, workload: &WorkloadView) -> Plan {
    let found = match find(input) {
        Ok(found) => found,
        Err(plan) => return *plan,
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

/// Everything that it takes until a Deployment is in care, one step a pass.
pub(super) fn adopt(input: &Input<'_>, workload: &WorkloadView) -> Plan {
    let found = match find(input) {
        Ok(found) => found,
        Err(plan) => return *plan,
    };
    if !input.rollout.finalizer {
        let mut finalizers = input.rollout.finalizers.clone();
        finalizers.push(names::FINALIZER.to_owned());
        return Plan::act(Effect::on_rollout(
            input.rollout,
            json!({"metadata": {"finalizers": finalizers}}),
        ));
    }
    let Some(replica_sets) = input.replica_sets else {
        return Plan::need(Need {
            survey: true,
            ..Need::REPLICA_SETS
        });
    };
    // Let roll natively: held by the policy, or by a fix of the fix.
    if input.rollout.status.native.is_some()
        && let Some(release) = held(workload)
    {
        return Plan::act(release);
    }
    let settled = workload.observed_generation >= workload.generation && (workload.paused || workload.is_rolled_out());
    let serving = settled.then(|| serving(workload, replica_sets)).flatten();
    let Some(serving) = serving else {
        // Held in the middle of a roll, or with nothing to protect: it has to come through.
        if let Some(release) = held(workload) {
            return Plan::act(release);
        }
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
    // Only now: a Deployment that is still rolling is not to be stopped half way, and a fix of it not to be held.
    if let Some(label) = label(input, workload) {
        return Plan::act(label);
    }
    // Whoever sees Healthy may ship: a Deployment that was let go is held again by then.
    if !workload.paused
        && let Some(release) = hold::release(workload)
    {
        return Plan::act(release);
    }
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
                native: None,
                // What was to be put into the Deployment of before is of no use to this one.
                mends: Mends {
                    open: None,
                    ..input.rollout.status.mends.clone()
                },
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

/// What lets a Deployment go that the policy holds; a person's own pause is left alone.
fn held(workload: &WorkloadView) -> Option<Effect> {
    hold::is_waiting(workload).then(|| hold::release(workload)).flatten()
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

/// The patch that marks the Deployment as this Rollout's. None where it is.
fn label(input: &Input<'_>, workload: &WorkloadView) -> Option<Effect> {
    if workload.rollout.as_ref() == Some(&input.rollout.name) {
        return None;
    }
    let patch = json!({"metadata": {"labels": {names::ROLLOUT: input.rollout.name}}});
    Some(Effect::on_deployment(workload, patch))
}

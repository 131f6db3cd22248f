//! Promoting: the Deployment is un-paused and rolls natively to the new version, while the canary carries the traffic and is the
//! whole side. No deadline rolls this back.

use serde_json::json;
use stepgate_crds::{
    names,
    status::{Phase, RunState, Stable},
};

use super::Pass;
use crate::{
    input::{Seen, WorkloadView},
    plan::{Effect, Kind, Need, Plan},
    report::Said,
    template::digest,
    verdict::Judgement,
};

/// What follows from a run that is being promoted.
pub fn next(pass: &Pass<'_>) -> Plan {
    let (input, run) = (pass.input, pass.run);
    let judgement = pass.judge();
    let judged = judgement.as_ref();
    if let Some(plan) = keep_traffic_served(pass, judged) {
        return plan;
    }
    let Seen::At(workload) = input.workload else {
        let said = Said::stalled(
            Phase::Promoting,
            "WorkloadMissing",
            "the Deployment is gone: the canary serves on",
        );
        return pass.wait(judged, &said, pass.gives_up_at());
    };
    let revision = input.templates.get(&run.revision).map(|template| template.digest);
    if revision != Some(workload.template) {
        let said = Said::stalled(
            Phase::Promoting,
            "TemplateChanged",
            format!(
                "the template of Deployment {} was changed while it was being promoted: the canary serves on; put the template of PodTemplate {} back to end the promotion, and ship the newer one after it",
                workload.name, run.revision
            ),
        );
        return pass.wait(judged, &said, None);
    }
    if let Some(release) = release(workload) {
        return Plan::act(release);
    }
    if !workload.is_rolled_out() || workload.replicas == 0 || input.stable_ready < workload.replicas {
        let (ready, all) = (workload.available.min(input.stable_ready), workload.replicas);
        let mut message = format!(
            "the Deployment rolls: {} of {all} pods are of the new version, {ready} available",
            workload.updated
        );
        if let Some(why) = Pass::failure(judged) {
            message = format!(
                "{message}; the new version now fails ({why}), and it is past the point of return: put the old template back to undo it"
            );
            return pass.wait(
                judged,
                &Said::stalled(Phase::Promoting, "FailingInPromotion", message),
                None,
            );
        }
        return if pass.is_overdue() {
            pass.wait(
                judged,
                &Said::stalled(Phase::Promoting, "ProgressDeadline", message),
                None,
            )
        } else {
            pass.wait(
                judged,
                &Said::passing(Phase::Promoting, "Promoting", message),
                Some(pass.deadline()),
            )
        };
    }
    let Some(replica_sets) = input.replica_sets else {
        return Plan::need(Need {
            replica_sets: true,
            ..Need::default()
        });
    };
    let promoted = replica_sets.iter().find(|set| {
        set.owner.as_ref() == Some(&workload.uid) && set.replicas > 0 && Some(digest(&set.template)) == revision
    });
    let Some(promoted) = promoted else {
        let said = Said::passing(
            Phase::Promoting,
            "Promoting",
            "looking for the ReplicaSet of the new version",
        );
        return pass.wait(judged, &said, Some(input.now.after(input.limits.mend)));
    };
    let mut status = pass.with(pass.intend(0, RunState::Returning { since: input.now }));
    status.stable = Some(Stable {
        replica_set: promoted.name.clone(),
        uid: promoted.uid.clone(),
        workload_uid: workload.uid.clone(),
        template: run.revision.clone(),
    });
    if let Some(judgement) = judged {
        pass.record(&mut status, judgement);
    }
    let said = Said::passing(
        Phase::Returning,
        "Returning",
        "the Deployment runs the new version: its traffic comes back",
    );
    crate::report::commit(status, input, &said, None)
}

/// The patch that lets a held Deployment go. None where it is not held; a person's own pause has no stamp and stays.
pub fn release(workload: &WorkloadView) -> Option<Effect> {
    workload.hold.as_ref()?;
    let patch = json!({"metadata": {"annotations": {names::HOLD: null}}, "spec": {"paused": null}});
    Some(Effect::merge(
        Kind::Deployment,
        &workload.name,
        &workload.uid,
        &workload.version,
        patch,
    ))
}

/// In promotion the canary has the weight of the last step. Where it has no ready pod left and the Deployment has, its weight falls
/// to 0; what somebody changed by hand is put right.
fn keep_traffic_served(pass: &Pass<'_>, judgement: Option<&Judgement>) -> Option<Plan> {
    let input = pass.input;
    if pass.run.weight > 0 && input.canary_ready == 0 && input.stable_ready > 0 {
        let run = pass.intend(0, pass.run.state.clone());
        let said = Said::urgent(
            Phase::Promoting,
            "CanaryLost",
            "no canary pod is ready: traffic goes to the pods that the Deployment has",
        );
        return Some(pass.commit(run, &said, None));
    }
    pass.toward_weight(judgement)
}

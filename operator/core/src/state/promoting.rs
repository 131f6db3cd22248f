//! Promoting: the Deployment is un-paused and rolls natively to the new version, while the canary carries the traffic and is the
//! whole side. No deadline rolls this back.

use stepgate_crds::status::{Outcome, Phase, RunState, Stable};

use super::Pass;
use crate::{
    hold,
    input::{Seen, WorkloadView},
    plan::{Need, Plan},
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
    let recorded = |name: &str| input.templates.get(name).map(|template| template.digest);
    let revision = recorded(&run.revision);
    if revision != Some(workload.template) {
        let stable = input.rollout.status.stable.as_ref();
        if stable.is_some_and(|stable| recorded(&stable.template) == Some(workload.template)) {
            return undo(pass, workload, judged);
        }
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
    // Weights that somebody had changed are in force again before the Deployment stops being whole.
    let pending = pass.pending_parents();
    if !pending.is_empty() {
        let message = format!("the canary's weight is not accepted yet by {}", pending.join(", "));
        return pass.wait(
            judged,
            &Said::passing(Phase::Promoting, "RouteNotAccepted", message),
            None,
        );
    }
    if let Some(release) = hold::release(workload) {
        return Plan::act(release);
    }
    if !is_whole(pass, workload) {
        return rolling(pass, workload, judged);
    }
    let Some(replica_sets) = input.replica_sets else {
        return Plan::need(Need::REPLICA_SETS);
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

/// Whether the Deployment could take all the traffic.
fn is_whole(pass: &Pass<'_>, workload: &WorkloadView) -> bool {
    workload.is_rolled_out() && workload.replicas > 0 && pass.input.stable_ready >= workload.replicas
}

/// The Deployment rolls. No deadline ends that, and a failure is said.
fn rolling(pass: &Pass<'_>, workload: &WorkloadView, judgement: Option<&Judgement>) -> Plan {
    let (ready, all) = (workload.available.min(pass.input.stable_ready), workload.replicas);
    let mut message = format!(
        "the Deployment rolls: {} of {all} pods are of the new version, {ready} available",
        workload.updated
    );
    if let Some(why) = Pass::failure(judgement) {
        message = format!(
            "{message}; the new version now fails ({why}), and it is past the point of return: put the old template back to undo it"
        );
        return pass.wait(
            judgement,
            &Said::stalled(Phase::Promoting, "FailingInPromotion", message),
            None,
        );
    }
    if pass.is_overdue() {
        pass.wait(
            judgement,
            &Said::stalled(Phase::Promoting, "ProgressDeadline", message),
            None,
        )
    } else {
        pass.wait(
            judgement,
            &Said::passing(Phase::Promoting, "Promoting", message),
            Some(pass.deadline()),
        )
    }
}

/// A person put stable's template back: the Deployment rolls back to it while the canary carries the traffic, and then the run goes back.
fn undo(pass: &Pass<'_>, workload: &WorkloadView, judgement: Option<&Judgement>) -> Plan {
    if let Some(release) = hold::release(workload) {
        return Plan::act(release);
    }
    if is_whole(pass, workload) {
        let why = "the old template was put back while the new one was being promoted";
        return pass.roll_back(judgement, Outcome::Reverted, "TemplatePutBack", why);
    }
    let message = format!(
        "the old template was put back: {} of {} pods are of it, {} available; the canary serves on until all are",
        workload.updated, workload.replicas, workload.available
    );
    let said = Said::urgent(Phase::Promoting, "RollingBackDeployment", message);
    pass.wait(judgement, &said, Some(pass.deadline()))
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

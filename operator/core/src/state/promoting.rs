//! Promoting: the Deployment is un-paused and rolls natively to the new version, while the canary carries the traffic and is the
//! whole side. No deadline rolls this back; an abort or a failed verdict restores (`restoring`).

use stepgate_crds::status::{Cause, Outcome, Phase, RunState, Stable};

use super::{Pass, newer, restoring};
use crate::{
    input::{Seen, WorkloadView},
    plan::{Need, Plan},
    report::{self, Said},
    template::digest,
    verdict::Judgement,
};

/// What follows from a run that is being promoted.
pub fn next(pass: &Pass<'_>) -> Plan {
    let (input, run) = (pass.input, pass.run);
    let judgement = pass.judge();
    let judged = judgement.as_ref();
    if let Some((reason, detail)) = Pass::failure(judged) {
        return restore(pass, judged, Outcome::Failed, reason, &detail);
    }
    if let Some(plan) = keep_traffic_served(pass, judged) {
        return plan;
    }
    let workload = match rolling_workload(pass, judged) {
        Ok(workload) => workload,
        Err(plan) => return plan,
    };
    let recorded = |name: &str| input.templates.get(name).map(|template| template.digest);
    let revision = recorded(&run.revision);
    let stable = input.rollout.status.stable.as_ref();
    if revision != Some(workload.template)
        && stable.is_some_and(|stable| recorded(&stable.template) == Some(workload.template))
    {
        let detail = "the old template was put back while the new one was being promoted";
        return restore(pass, judged, Outcome::Reverted, "TemplatePutBack", detail);
    }
    // Weights that somebody had changed are in force again before the Deployment stops being whole.
    let pending = pass.pending_parents();
    if !pending.is_empty() {
        let message = format!("the canary's weight is not accepted yet by {}", pending.join(", "));
        return if pass.is_overdue() {
            pass.wait(
                judged,
                &Said::stalled(Phase::Promoting, "RouteNotAccepted", message),
                None,
            )
        } else {
            let said = Said::passing(Phase::Promoting, "RouteNotAccepted", message);
            pass.wait(judged, &said, Some(pass.deadline()))
        };
    }
    // Its pods had gone and are back: what is counted counts from here.
    if pass.in_force().is_none() && run.weight > 0 {
        let evidence = judgement.map_or_else(|| run.evidence.clone(), |judgement| judgement.evidence);
        let message = format!("{} % is in force again", run.weight);
        let said = Said::urgent(Phase::Promoting, "Promoting", message);
        return pass.commit(pass.accepted(evidence), &said, None);
    }
    if let Some(plan) = newer::keep(pass, workload, &run.revision, "the new version") {
        return plan;
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
        let message = "looking for the ReplicaSet of the new version";
        let said = Said::passing(Phase::Promoting, "Promoting", message);
        return pass.wait(judged, &said, Some(input.now.after(input.limits.mend)));
    };
    let weight = pass.lowest(input.now, false);
    let mut status = pass.with(pass.intend(weight, RunState::Returning { since: input.now }));
    status.stable = Some(Stable {
        replica_set: promoted.name.clone(),
        uid: promoted.uid.clone(),
        workload_uid: workload.uid.clone(),
        template: run.revision.clone(),
    });
    if let Some(judgement) = judged {
        pass.record(&mut status, judgement);
    }
    let message = "the Deployment runs the new version: its traffic comes back";
    let said = Said::passing(Phase::Returning, "Returning", message);
    report::commit(status, input, &said, None)
}

/// Takes the promotion back: stable's template goes into the Deployment, and the traffic follows when it has rolled.
pub fn restore(pass: &Pass<'_>, judgement: Option<&Judgement>, then: Outcome, reason: &str, detail: &str) -> Plan {
    let cause = Cause {
        reason: reason.to_owned(),
        detail: report::short(detail),
    };
    let state = RunState::Restoring {
        since: pass.input.now,
        cause: cause.clone(),
        then,
    };
    let run = stepgate_crds::status::Run {
        state,
        ..pass.run.clone()
    };
    pass.turn_back(run, judgement, &cause, then)
}

/// The Deployment that rolls; or what follows where it is gone, or is another one by now.
pub(super) fn rolling_workload<'a>(pass: &Pass<'a>, judgement: Option<&Judgement>) -> Result<&'a WorkloadView, Plan> {
    let Seen::At(workload) = pass.input.workload else {
        let message = "the Deployment is gone: the canary serves on; create it again";
        let said = Said::stalled(pass.phase(), "WorkloadMissing", message);
        return Err(pass.wait(judgement, &said, pass.gives_up_at()));
    };
    let stable = pass.input.rollout.status.stable.as_ref();
    if stable.is_some_and(|stable| stable.workload_uid == workload.uid) {
        return Ok(workload);
    }
    let why = restoring::made_anew(&workload.name);
    if is_whole(pass, workload) {
        return Err(pass.roll_back(judgement, Outcome::Replaced, "WorkloadReplaced", &why));
    }
    let message = format!(
        "{why}: the canary serves on until it is ready ({} of {} pods available)",
        workload.available, workload.replicas
    );
    let said = Said::urgent(pass.phase(), "WorkloadReplaced", message);
    Err(pass.wait(judgement, &said, Some(pass.deadline())))
}

/// Whether the Deployment could take all the traffic.
pub(super) fn is_whole(pass: &Pass<'_>, workload: &WorkloadView) -> bool {
    workload.is_rolled_out() && workload.replicas > 0 && pass.input.stable_ready >= workload.replicas
}

/// The Deployment rolls, and no deadline ends that.
fn rolling(pass: &Pass<'_>, workload: &WorkloadView, judgement: Option<&Judgement>) -> Plan {
    let (ready, all) = (workload.available.min(pass.input.stable_ready), workload.replicas);
    let mut message = format!(
        "the Deployment rolls: {} of {all} pods are of the new version, {ready} available",
        workload.updated
    );
    if workload.paused {
        message = format!(
            "{message}; it was paused by somebody else and is left alone: kubectl rollout resume deployment {}",
            workload.name
        );
    }
    if pass.is_overdue() {
        let message = format!(
            "{message}; the canary serves on; if its pods do not come (quota, nodes, readiness?), kubectl stepgate abort {} restores the stable version",
            pass.input.rollout.name
        );
        return pass.wait(
            judgement,
            &Said::stalled(Phase::Promoting, "ProgressDeadline", message),
            None,
        );
    }
    pass.wait(
        judgement,
        &Said::passing(Phase::Promoting, "Promoting", message),
        Some(pass.deadline()),
    )
}

/// While the Deployment rolls the canary has the weight of the last step. Where it has no ready pod left and the Deployment has, its
/// weight falls to 0; what somebody changed by hand is put right.
pub(super) fn keep_traffic_served(pass: &Pass<'_>, judgement: Option<&Judgement>) -> Option<Plan> {
    let input = pass.input;
    if pass.run.weight > 0 && input.canary_ready == 0 && input.stable_ready > 0 {
        let run = pass.intend(0, pass.run.state.clone());
        let message = "no canary pod is ready: traffic goes to the pods that the Deployment has";
        let said = Said::urgent(pass.phase(), "CanaryLost", message);
        return Some(pass.commit(run, &said, None));
    }
    pass.toward_weight(judgement).or_else(|| pass.regain(judgement))
}

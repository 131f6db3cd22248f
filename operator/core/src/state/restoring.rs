//! Restoring: a promotion is taken back. Stable's template goes into the Deployment, which rolls while the canary carries the traffic, and
//! only then does the traffic follow.

use stepgate_crds::status::{Cause, Outcome, Phase};

use super::{
    Pass, newer,
    promoting::{is_whole, keep_traffic_served, rolling_workload},
};
use crate::{plan::Plan, report::Said};

/// What follows from a run whose promotion is taken back.
pub fn next(pass: &Pass<'_>, cause: &Cause, then: Outcome) -> Plan {
    let input = pass.input;
    let judgement = pass.judge();
    let judged = judgement.as_ref();
    if let Some(plan) = keep_traffic_served(pass, judged) {
        return plan;
    }
    let workload = match rolling_workload(pass, judged) {
        Ok(workload) => workload,
        Err(plan) => return plan,
    };
    let Some(stable) = &input.rollout.status.stable else {
        return pass.roll_back(judged, then, &cause.reason, &cause.detail);
    };
    if let Some(plan) = newer::keep(pass, workload, &stable.template, "the stable version") {
        return plan;
    }
    if is_whole(pass, workload) {
        return pass.roll_back(judged, then, &cause.reason, &cause.detail);
    }
    let message = format!(
        "the Deployment rolls back to the stable version: {} of {} pods are of it, {} available; the canary serves on until all are ({}: {})",
        workload.updated, workload.replicas, workload.available, cause.reason, cause.detail
    );
    if pass.is_overdue() {
        let said = Said::stalled(Phase::Restoring, "ProgressDeadline", message);
        return pass.wait(judged, &said, pass.gives_up_at());
    }
    let said = Said::urgent(Phase::Restoring, "Restoring", message);
    pass.wait(judged, &said, Some(pass.deadline()))
}

/// What is said of a Deployment that was deleted and made again.
pub fn made_anew(workload: &str) -> String {
    format!("Deployment {workload} was made anew")
}

//! Returning: the Deployment runs the new version, and its traffic comes back from the canary.

use stepgate_crds::status::{Outcome, Phase, RunState};

use super::Pass;
use crate::{plan::Plan, report::Said};

/// What follows from a run whose traffic returns.
pub fn next(pass: &Pass<'_>) -> Plan {
    let judgement = pass.judge();
    if pass.has_to_stay(pass.run.accepted_weight) {
        let said = Said::stalled(
            Phase::Returning,
            "StableNotReady",
            "no pod of the Deployment is ready: the canary serves on",
        );
        return pass.wait(judgement.as_ref(), &said, pass.gives_up_at());
    }
    to_draining(pass, judgement.as_ref(), Phase::Returning, None, Outcome::Promoted)
}

/// Brings the weight down, waits until it is accepted, and goes on to drain the canary. Shared by both ways back.
pub(super) fn to_draining(
    pass: &Pass<'_>,
    judgement: Option<&crate::verdict::Judgement>,
    phase: Phase,
    cause: Option<&stepgate_crds::status::Cause>,
    then: Outcome,
) -> Plan {
    if let Some(plan) = pass.toward_weight(judgement) {
        return plan;
    }
    let pending = pass.pending_parents();
    if !pending.is_empty() {
        let message = format!(
            "weight {} is not accepted yet by {}; no pod goes before it is",
            pass.run.weight,
            pending.join(", ")
        );
        return if pass.is_overdue() {
            pass.wait(judgement, &Said::stalled(phase, "RouteNotAccepted", message), None)
        } else {
            pass.wait(
                judgement,
                &Said::passing(phase, "RouteNotAccepted", message),
                Some(pass.deadline()),
            )
        };
    }
    let mut run =
        pass.accepted(judgement.map_or_else(|| pass.run.evidence.clone(), |judgement| judgement.evidence.clone()));
    run.state = RunState::Draining {
        since: pass.input.now,
        cause: cause.cloned(),
        then,
    };
    let why = cause.map_or_else(String::new, |cause| format!(" ({}: {})", cause.reason, cause.detail));
    let message = format!(
        "weight 0 is in force: the canary's pods stay for another {}{why}",
        run.spec.drain
    );
    pass.commit(run, &Said::passing(Phase::Draining, "Draining", message), None)
}

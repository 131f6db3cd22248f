//! Returning: the Deployment runs the new version, and its traffic comes back from the canary, as fast as ready pods cover it.

use stepgate_crds::status::{Cause, Outcome, Phase, RunState};

use super::Pass;
use crate::{plan::Plan, report::Said, verdict::Judgement};

/// What follows from a run whose traffic returns.
pub fn next(pass: &Pass<'_>) -> Plan {
    let judgement = pass.judge();
    to_draining(pass, judgement.as_ref(), None, Outcome::Promoted, false)
}

/// Brings the weight down by capacity, waits until 0 is accepted, and goes on to drain the canary. Shared by both ways back.
pub(super) fn to_draining(
    pass: &Pass<'_>,
    judgement: Option<&Judgement>,
    cause: Option<&Cause>,
    then: Outcome,
    at_once: bool,
) -> Plan {
    let phase = pass.phase();
    if let Some(plan) = pass
        .descend(judgement, at_once)
        .or_else(|| pass.toward_weight(judgement))
    {
        return plan;
    }
    let why = cause.map_or_else(String::new, |cause| format!(" ({}: {})", cause.reason, cause.detail));
    if pass.run.weight > 0 {
        return pass.wait_for_pods(judgement, &why);
    }
    let pending = pass.pending_parents();
    if !pending.is_empty() {
        let message = format!(
            "weight 0 is not accepted yet by {}; no pod goes before it is",
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
    let message = format!(
        "weight 0 is in force: the canary's pods stay for another {}{why}",
        run.spec.drain
    );
    pass.commit(run, &Said::passing(Phase::Draining, "Draining", message), None)
}

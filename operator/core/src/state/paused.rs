//! Paused: the weight stays, a person decides. What fails still fails.

use stepgate_crds::status::{PauseReason, Phase};

use super::{Pass, stepping};
use crate::{plan::Plan, report::Said};

/// What follows from a run that waits for a person.
pub fn next(pass: &Pass<'_>, why: PauseReason) -> Plan {
    let judgement = pass.judge();
    if let Some(plan) = stepping::fail(pass, judgement.as_ref()) {
        return plan;
    }
    if let Some(why) = pass.unmanageable() {
        return pass.wait(
            judgement.as_ref(),
            &Said::stalled(Phase::Paused, "RouteChanged", why),
            None,
        );
    }
    if let Some(plan) = pass.toward_weight(judgement.as_ref()) {
        return plan;
    }
    let name = &pass.input.rollout.name;
    let weight = pass.run.weight;
    let said = match why {
        PauseReason::Approval => Said::urgent(
            Phase::Paused,
            "ApprovalRequired",
            format!("{weight} % passed and waits for an approval: kubectl stepgate promote {name}"),
        ),
        PauseReason::Command => Said::urgent(
            Phase::Paused,
            "PausedByCommand",
            format!("paused at {weight} % by a person: kubectl stepgate resume {name} goes on"),
        ),
    };
    pass.wait(judgement.as_ref(), &said, None)
}

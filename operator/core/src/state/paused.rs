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
    if !pass.is_at_weight() {
        let effects = pass.weight_effects();
        return Plan::Act(effects);
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

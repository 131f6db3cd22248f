//! Paused: the weight stays, a person decides. What fails still fails.

use stepgate_crds::status::{PauseReason, Phase};

use super::{Pass, drift, retreated, stepping};
use crate::{plan::Plan, report::Said};

/// What follows from a run that waits for a person.
pub fn next(pass: &Pass<'_>, why: PauseReason) -> Plan {
    let judgement = pass.judge();
    if let Some(plan) = stepping::fail(pass, judgement.as_ref()) {
        return plan;
    }
    let contended = why == PauseReason::Contention;
    if let Some(why) = pass.unmanageable().filter(|_| !contended) {
        return pass.wait(
            judgement.as_ref(),
            &Said::stalled(Phase::Paused, "RouteChanged", why),
            None,
        );
    }
    let plan = match why {
        PauseReason::Approval | PauseReason::Command => drift::correct(pass, judgement.as_ref()),
        PauseReason::Retreats => retreated::back(pass, judgement.as_ref()),
        // The route stays as it was found.
        PauseReason::Contention => None,
    };
    if let Some(plan) = plan {
        return plan;
    }
    let name = &pass.input.rollout.name;
    let weight = pass.run.weight;
    let said = match why {
        PauseReason::Contention => Said::stalled(
            Phase::Paused,
            "TrafficContention",
            format!(
                "somebody keeps taking the route's weights back to stable, and they stay as they are ({} % on the canary): see to it that it leaves them alone, then: kubectl stepgate resume {name}",
                pass.sent()
            ),
        ),
        PauseReason::Retreats => Said::stalled(
            Phase::Paused,
            "Retreats",
            format!(
                "all traffic is on stable after {} retreats: kubectl stepgate resume {name} tries again, abort ends it",
                pass.run.retreats.all
            ),
        ),
        PauseReason::Approval => Said::urgent(
            Phase::Paused,
            "ApprovalRequired",
            format!("{weight} % waits for an approval: kubectl stepgate promote {name}"),
        ),
        PauseReason::Command => Said::urgent(
            Phase::Paused,
            "PausedByCommand",
            format!("paused at {weight} % by a person: kubectl stepgate resume {name} goes on"),
        ),
    };
    pass.wait(judgement.as_ref(), &said, None)
}

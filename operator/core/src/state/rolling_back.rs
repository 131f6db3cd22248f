//! RollingBack: first the route, then everything else. Needs no metric, no notification, no healthy canary.

use stepgate_crds::status::{Cause, Outcome, Phase};

use super::{Pass, returning};
use crate::{plan::Plan, report::Said};

/// What follows from a run that goes back to stable.
pub fn next(pass: &Pass<'_>, cause: &Cause, then: Outcome) -> Plan {
    if pass.has_to_stay(pass.run.accepted_weight) {
        let message = format!(
            "stable has no ready pod: the canary serves on until it has ({}: {})",
            cause.reason, cause.detail
        );
        return pass.wait(
            None,
            &Said::stalled(Phase::RollingBack, "StableNotReady", message),
            pass.gives_up_at(),
        );
    }
    returning::to_draining(pass, None, Phase::RollingBack, Some(cause), then)
}

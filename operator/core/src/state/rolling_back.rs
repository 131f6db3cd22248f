//! RollingBack: first the route, then everything else. Needs no metric, no notification, no healthy canary.

use stepgate_crds::status::{Cause, Outcome};

use super::{Pass, returning};
use crate::plan::Plan;

/// The reason of a cause after which nothing stays on the canary for want of capacity.
pub const TRIPWIRE: &str = "Tripwire";

/// What follows from a run that goes back to stable.
pub fn next(pass: &Pass<'_>, cause: &Cause, then: Outcome) -> Plan {
    returning::to_draining(pass, None, Some(cause), then, is_at_once(cause))
}

/// Whether the canary is so bad that even too few pods of stable serve better.
pub fn is_at_once(cause: &Cause) -> bool {
    cause.reason == TRIPWIRE
}

//! Which side is whole, and how low the canary's weight may go on the way back. Drift, capacity, failure and deletion ask only here.

use stepgate_crds::status::RunState;

use crate::input::Input;

/// The two sides of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The user's Deployment at its old version.
    Stable,
    /// The canary.
    Canary,
}

/// The side that could take all the traffic: in doubt traffic goes there.
pub fn whole(state: &RunState) -> Side {
    match state {
        // From the un-pause until the traffic is back the Deployment is in the middle of its own roll.
        RunState::Promoting { .. } | RunState::Returning { .. } => Side::Canary,
        RunState::Preparing { .. }
        | RunState::Stepping { .. }
        | RunState::Paused { .. }
        | RunState::RollingBack { .. }
        | RunState::Draining { .. } => Side::Stable,
    }
}

/// The lowest weight that the canary may have now on the way back: what stable's ready pods do not cover stays where it is.
///
/// `weight` is the canary's present weight in percent. Nothing is kept on a canary that has no ready pod.
pub fn bearable(input: &Input<'_>, weight: i32) -> i32 {
    if input.stable_ready > 0 || input.canary_ready == 0 {
        0
    } else {
        weight
    }
}

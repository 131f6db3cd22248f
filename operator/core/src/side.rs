//! Which side is whole, and how low the canary's weight may go on the way back. Drift, capacity, failure and deletion ask only here.

use stepgate_crds::{status::RunState, units::Timestamp};

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
        RunState::Promoting { .. } | RunState::Restoring { .. } | RunState::Returning { .. } => Side::Canary,
        RunState::Preparing { .. }
        | RunState::Stepping { .. }
        | RunState::Paused { .. }
        | RunState::Retreated { .. }
        | RunState::RollingBack { .. }
        | RunState::Draining { .. } => Side::Stable,
    }
}

/// A way back to the Deployment.
#[derive(Clone, Copy, Debug)]
pub struct WayBack {
    /// The canary's present weight, in percent.
    pub weight: i32,
    /// The pods that carry all of the traffic.
    pub base: i32,
    /// When the way back began.
    pub since: Timestamp,
    /// Whether the canary is so bad that nothing stays on it.
    pub at_once: bool,
}

/// The lowest weight that the canary may have now on the way back: what the Deployment's ready pods do not cover stays where it is, as
/// far as the canary's ready pods carry it.
///
/// Four fifths of the pods cover all of it: the rest of the way is not worth another round through every gateway. After
/// `Limits::by_capacity` all of it goes, for pods that have not come by then will not come for want of traffic. Nothing is kept on a
/// canary without a ready pod, and nothing is taken from one while the Deployment has none.
pub fn lowest(input: &Input<'_>, way: WayBack) -> i32 {
    let (stable, canary, base) = (
        i64::from(input.stable_ready),
        i64::from(input.canary_ready),
        i64::from(way.base.max(1)),
    );
    if canary == 0 {
        return 0;
    }
    if stable == 0 {
        return way.weight;
    }
    if way.at_once || stable * 5 >= base * 4 || input.now >= way.since.after(input.limits.by_capacity) {
        return 0;
    }
    let uncovered = 100 - stable * 100 / base;
    let carried = canary * 100 / base;
    i32::try_from(uncovered.min(carried))
        .unwrap_or(0)
        .clamp(0, way.weight.max(0))
}

//! How a rule's weights are written and read: percentages that sum to 100, or all but a millionth.
//!
//! Some gateways forget a backend of weight 0. When its weight rises they may send requests to it before they know it again, and when it
//! falls they may forget it before they send nothing there; both are answered with an error. Behind those a backend that has pods keeps a
//! millionth of the traffic, so that it is known all the time.

/// The other side's weight where one side keeps a trickle: the largest that a backendRef may have.
const WHOLE: i64 = 1_000_000;
const TRICKLE: i64 = 1;

/// Which sides keep a trickle where they would have no traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trickles {
    /// The stable Service, at 100 %.
    pub stable: bool,
    /// The canary's, at 0 %.
    pub canary: bool,
}

/// The weights of stable and canary that give the canary this percentage.
pub(super) fn written(percent: i64, trickles: Trickles) -> (i64, i64) {
    match percent {
        0 if trickles.canary => (WHOLE, TRICKLE),
        100 if trickles.stable => (TRICKLE, WHOLE),
        percent => (100 - percent, percent),
    }
}

/// Weights of stable and canary as percentages; others than ours are left as they are.
pub(super) fn read(weights: (i64, i64)) -> (i64, i64) {
    match weights {
        (WHOLE, TRICKLE) => (100, 0),
        (TRICKLE, WHOLE) => (0, 100),
        other => other,
    }
}

/// Whether we write this weight to a backend that has all of the traffic.
pub(super) fn is_all(weight: i64) -> bool {
    weight == 100 || weight == WHOLE
}

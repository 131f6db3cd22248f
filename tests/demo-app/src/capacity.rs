//! How many requests a second a pod carries, by when they were due: what a busy machine holds up and lets through in one go is no surplus.
//!
//! It only counts; what becomes of a request beyond the capacity is the caller's.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// How many seconds are remembered: longer than any client waits.
const REMEMBERED: usize = 120;

/// A bound on requests a second, averaged over two seconds.
pub(crate) struct Capacity {
    rate: u32,
    /// Requests that were carried, by the second (since the epoch) in which they were due.
    carried: Mutex<BTreeMap<u64, u32>>,
}

impl Capacity {
    /// A bound of this many requests a second; none for 0.
    pub(crate) fn new(rate: u32) -> Option<Self> {
        (rate > 0).then(|| Self {
            rate,
            carried: Mutex::default(),
        })
    }

    /// Whether a request that was due at this time, in milliseconds since the epoch, is within the capacity. They may come in any order.
    pub(crate) fn take(&self, due: u64) -> bool {
        let second = due / 1000;
        let mut carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |second: u64| carried.get(&second).copied().unwrap_or(0);
        let within = of(second) + of(second.saturating_sub(1)) < 2 * self.rate;
        if within {
            *carried.entry(second).or_default() += 1;
            while carried.len() > REMEMBERED {
                carried.pop_first();
            }
        }
        within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of the requests of so many seconds at this rate are within.
    fn within(capacity: &Capacity, rate: u64, seconds: u64, order: impl Fn(u64) -> u64) -> usize {
        let all = rate * seconds;
        let due = |number: u64| 1_000_000 + order(number) * 1000 / rate;
        (0..all).filter(|&number| capacity.take(due(number))).count()
    }

    #[test]
    fn the_rate_itself_is_carried_for_ever() {
        let capacity = Capacity::new(20).unwrap();
        assert_eq!(within(&capacity, 20, 60, |number| number), 1200);
    }

    #[test]
    fn of_a_lasting_surplus_only_the_rate_is_carried() {
        let capacity = Capacity::new(20).unwrap();
        let carried = within(&capacity, 40, 60, |number| number);
        assert!((1_180..=1_240).contains(&carried), "{carried}");
    }

    #[test]
    fn what_was_held_up_is_carried_in_whatever_order_it_comes() {
        let capacity = Capacity::new(20).unwrap();
        assert_eq!(within(&capacity, 16, 10, |number| number * 37 % 160), 160);
    }

    #[test]
    fn a_moment_of_more_is_carried_and_no_bound_is_none() {
        let capacity = Capacity::new(20).unwrap();
        assert_eq!(within(&capacity, 39, 1, |number| number), 39);
        assert!(Capacity::new(0).is_none());
    }
}

//! How many requests a second a pod carries: a bucket of two seconds' worth, so that moments of more are taken and a lasting surplus is not.
//!
//! It only counts; what becomes of a request that finds it empty is the caller's.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Seconds of full rate that may come at once: what two cores that are busy with something else let pile up.
const DEPTH: f64 = 2.0;

/// A bound on requests a second.
pub(crate) struct Capacity {
    rate: f64,
    bucket: Mutex<Bucket>,
}

struct Bucket {
    left: f64,
    filled: Option<Instant>,
}

impl Capacity {
    /// A full bucket for this many requests a second; none for 0.
    pub(crate) fn new(rate: u32) -> Option<Self> {
        let rate = f64::from(rate);
        (rate > 0.0).then(|| Self {
            rate,
            bucket: Mutex::new(Bucket {
                left: rate * DEPTH,
                filled: None,
            }),
        })
    }

    /// Whether a request that comes now is within the capacity.
    pub(crate) fn take(&self, now: Instant) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = bucket
            .filled
            .map_or(0.0, |filled| now.saturating_duration_since(filled).as_secs_f64());
        bucket.left = (bucket.left + passed * self.rate).min(self.rate * DEPTH);
        bucket.filled = Some(bucket.filled.map_or(now, |filled| filled.max(now)));
        let within = bucket.left >= 1.0;
        if within {
            bucket.left -= 1.0;
        }
        within
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// How many of the requests of so many seconds at this rate are within.
    fn within(capacity: &Capacity, rate: u32, seconds: u32) -> u32 {
        let begin = Instant::now();
        let taken = (0..rate * seconds)
            .filter(|&number| capacity.take(begin + Duration::from_secs(1) * number / rate))
            .count();
        u32::try_from(taken).unwrap()
    }

    #[test]
    fn the_rate_itself_is_carried_for_ever() {
        let capacity = Capacity::new(20).unwrap();
        assert_eq!(within(&capacity, 20, 60), 1200);
    }

    #[test]
    fn of_a_lasting_surplus_only_the_rate_is_carried() {
        let capacity = Capacity::new(20).unwrap();
        let carried = within(&capacity, 40, 60);
        // Two seconds' worth at the start, then the rate.
        assert!((1_235..=1_241).contains(&carried), "{carried}");
    }

    #[test]
    fn a_moment_of_more_is_carried_and_no_bound_is_none() {
        let capacity = Capacity::new(20).unwrap();
        assert_eq!(within(&capacity, 39, 1), 39);
        assert!(Capacity::new(0).is_none());
    }
}

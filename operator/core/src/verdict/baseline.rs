//! What stable did before a run: φ, and the max of `max: auto`. Read once, before the run's first weight, and frozen in it.
//!
//! Predictable, as the tests of the verdict need it (analysis.md, sections 2 and 3): nothing of the run itself goes into it.

use super::dispersion::{ENOUGH_BAD, Pods, dispersion};
use super::eprocess::within;

/// Hours that are looked at first, and those where the first had too few bad requests.
pub const HOURS: [u32; 2] = [4, 24];
/// With fewer requests than these nothing is made of their share of bad ones.
pub const ENOUGH_REQUESTS: f64 = 1_000.0;
/// `max: auto` is so many times stable's share,
const TIMES: f64 = 1.5;
/// and at least so much more than it.
const MORE: f64 = 0.005;
/// And never more than the largest max that a spec may say.
const LARGEST: f64 = 0.5;

/// Stable's requests before a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Baseline {
    /// Hours that were looked at.
    pub hours: u32,
    /// Requests in them.
    pub requests: f64,
    /// Bad ones of them.
    pub bad: f64,
    /// The most pods with requests in one interval; 0 where pods cannot be told apart.
    pub pods: f64,
    /// φ: at least 1.
    pub phi: f64,
}

impl Baseline {
    /// Of the intervals of so many hours, in any order.
    #[must_use]
    pub fn of(hours: u32, history: &[Pods]) -> Self {
        Self {
            hours,
            requests: history.iter().map(|pods| pods.requests).sum(),
            bad: history.iter().map(|pods| pods.bad).sum(),
            pods: history.iter().map(|pods| pods.serving).fold(0.0, f64::max),
            phi: dispersion(history),
        }
    }

    /// Whether longer hours would tell more that matters: there were too few bad requests to call the service calm, or too few at all.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "fifty")]
    pub fn is_short(&self) -> bool {
        self.bad < ENOUGH_BAD as f64 || self.requests < ENOUGH_REQUESTS
    }

    /// The max of `max: auto`: 1.5 times stable's share of bad requests, and at least half a point more than it. None with fewer than
    /// [`ENOUGH_REQUESTS`].
    #[must_use]
    pub fn max(&self) -> Option<f64> {
        (self.requests >= ENOUGH_REQUESTS).then(|| max_of(self.bad / self.requests))
    }
}

/// The max that `max: auto` makes of stable's share of bad requests, 0 to 1.
#[must_use]
pub fn max_of(share: f64) -> f64 {
    within((TIMES * share).max(share + MORE), MORE, LARGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline(requests: f64, bad: f64) -> Baseline {
        Baseline::of(
            4,
            &[Pods {
                requests,
                bad,
                ..Pods::default()
            }],
        )
    }

    #[test]
    fn max_is_half_a_point_or_half_as_much_more_than_stable_has() {
        for (bad, max) in [
            (0.0, 0.005),
            (100.0, 0.006),
            (1_000.0, 0.015),
            (3_000.0, 0.045),
            (90_000.0, 0.5),
        ] {
            let found = baseline(100_000.0, bad).max().unwrap();
            assert!((found - max).abs() < 1e-12, "{bad}: {found}");
        }
    }

    #[test]
    fn too_few_requests_say_nothing() {
        assert_eq!(baseline(999.0, 0.0).max(), None);
        assert!(baseline(1_000.0, 0.0).max().is_some());
        assert_eq!(Baseline::of(4, &[]).max(), None);
        assert!(baseline(1e6, 49.0).is_short());
        assert!(!baseline(1e6, 50.0).is_short());
        assert!(baseline(720.0, 72.0).is_short());
        assert!(baseline(999.0, 60.0).is_short() && !baseline(1_000.0, 60.0).is_short());
    }

    #[test]
    fn hours_are_added_up_and_pods_are_not() {
        let pods = |serving, requests, bad| Pods {
            serving,
            requests,
            bad,
            squares: 0.0,
        };
        let found = Baseline::of(24, &[pods(2.0, 10.0, 1.0), pods(3.0, 20.0, 2.0), pods(1.0, 5.0, 0.0)]);
        assert_eq!(
            (found.hours, found.requests, found.bad, found.pods),
            (24, 35.0, 3.0, 3.0)
        );
    }
}

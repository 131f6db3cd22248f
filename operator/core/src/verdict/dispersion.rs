//! φ from stable's own history: how much more bad requests clump than independent ones would.
//!
//! Pure and total: counts of stable's pods in, one number out, frozen before the run that it is for (analysis.md, section 2). Pods of one
//! version at one time answer alike, so what their shares differ beyond chance is clumping; what moves all of them together, such as a
//! busy hour, counts for nothing.

use stepgate_crds::evidence::Tally;

use super::eprocess::within;
use super::observation::as_f64;
use super::settings::PHI;

/// With fewer bad requests than these a history is too short to call a service calm: take a longer one.
pub const ENOUGH_BAD: u64 = 50;
/// No φ is taken to be more.
pub const HIGHEST: f64 = 25.0;
/// Weight of the assumption that requests are independent, in degrees of freedom: few errors say little.
const PRIOR: f64 = 10.0;

/// Stable's pods in one interval, as far as they had requests.
///
/// Σ_pod (x − n·p̂)²/n is Q − X²/N, so these four numbers are all that it takes, however many pods there are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pods {
    /// How many of them had requests; 0 where pods cannot be told apart.
    pub serving: f64,
    /// N: their requests.
    pub requests: f64,
    /// X: the bad ones of them.
    pub bad: f64,
    /// Q: the sum over pods of x²/n, x bad ones of n requests.
    pub squares: f64,
}

impl Pods {
    /// One tally a pod.
    #[must_use]
    pub fn of(pods: &[Tally]) -> Self {
        let serving = pods.iter().filter(|pod| pod.requests > 0);
        serving.fold(Self::default(), |all, pod| {
            let (requests, bad) = (as_f64(pod.requests), as_f64(pod.bad.min(pod.requests)));
            Self {
                serving: all.serving + 1.0,
                requests: all.requests + requests,
                bad: all.bad + bad,
                squares: all.squares + bad * bad / requests,
            }
        })
    }
}

/// φ = max(1, (Σ_t Σ_pod (x − n·p̂_t)²/(n·p̂_t·(1 − p̂_t)) + 10) / (Σ_t (P_t − 1)·[errors_t > 0] + 10)), at most [`HIGHEST`].
///
/// `history` has one entry an interval t; P_t are the pods with requests, p̂_t their share of bad ones together. Intervals without errors
/// say nothing, so they may be left out. [`PHI`] where no interval has two pods with requests, and at least that with fewer than
/// [`ENOUGH_BAD`] bad requests.
#[must_use]
pub fn dispersion(history: &[Pods]) -> f64 {
    let comparable = || history.iter().filter(|pods| pods.serving >= 2.0 && pods.requests > 0.0);
    let (mut spread, mut freedom, mut bad) = (0.0, 0.0, 0.0);
    for pods in comparable() {
        let share = pods.bad / pods.requests;
        if share <= 0.0 || share >= 1.0 {
            continue;
        }
        bad += pods.bad;
        freedom += pods.serving - 1.0;
        let squares = pods.squares - pods.bad * share;
        spread += squares.max(0.0) / (share * (1.0 - share));
    }
    let is_known = comparable().next().is_some() && bad >= as_f64(ENOUGH_BAD);
    let lowest = if is_known { 1.0 } else { PHI };
    within((spread + PRIOR) / (freedom + PRIOR), lowest, HIGHEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(requests: u64, bad: u64) -> Tally {
        Tally { requests, bad }
    }

    fn phi<One: AsRef<[Tally]>>(history: &[One]) -> f64 {
        let history: Vec<Pods> = history.iter().map(|pods| Pods::of(pods.as_ref())).collect();
        dispersion(&history)
    }

    #[track_caller]
    fn assert_near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found} instead of {expected}");
    }

    #[test]
    fn the_formula_by_hand() {
        // p̂ = 60/2000, each pod 30 expected: 2 · 20²/(30 · 0.97), over one degree of freedom.
        let history = [[pod(1000, 50), pod(1000, 10)]];
        assert_near(phi(&history), (2.0 * 400.0 / 29.1 + 10.0) / 11.0);
        // The same with a pod that does not serve, and with intervals that say nothing.
        let history = [
            vec![pod(1000, 50), pod(0, 0), pod(1000, 10)],
            vec![pod(1000, 0), pod(1000, 0)],
            vec![pod(7, 7), pod(3, 3)],
            vec![pod(1000, 90)],
            vec![],
        ];
        assert_near(phi(&history), (2.0 * 400.0 / 29.1 + 10.0) / 11.0);
    }

    #[test]
    fn pods_that_are_bad_alike_are_calm_however_the_rate_moves() {
        let history: Vec<_> = (1..=40).map(|rate| vec![pod(1000, rate); 3]).collect();
        assert_near(phi(&history), 1.0);
    }

    #[test]
    fn clumps_on_one_pod_show_by_their_size() {
        // Six bad requests, each time on another of four pods: about six to one.
        let history: Vec<Vec<Tally>> = (0..200)
            .map(|at| {
                (0..4)
                    .map(|pod| Tally {
                        requests: 500,
                        bad: if pod == at % 4 { 6 } else { 0 },
                    })
                    .collect()
            })
            .collect();
        let found = phi(&history);
        assert!((5.7..6.1).contains(&found), "{found}");
    }

    #[test]
    fn what_cannot_be_known_is_the_default_and_little_is_never_less() {
        let nothing: [Vec<Tally>; 0] = [];
        assert_near(phi(&nothing), PHI);
        assert_near(phi(&[vec![pod(100_000, 900)]]), PHI);
        assert_near(phi(&[vec![pod(1000, 1), pod(1000, 1)]]), PHI);
        // But clumps that are seen are believed.
        let few = vec![vec![pod(1000, 8), pod(1000, 0)]; 6];
        assert!(phi(&few) > PHI, "{}", phi(&few));
    }

    #[test]
    fn it_is_bounded_and_finite_on_any_input() {
        let extremes = [
            vec![pod(u64::MAX, u64::MAX / 2), pod(u64::MAX, 0)],
            vec![pod(1, 9), pod(5, 0)],
        ];
        for history in [&extremes[..], &extremes[..1], &extremes[1..]] {
            let found = phi(history);
            assert!((1.0..=HIGHEST).contains(&found), "{found}");
        }
        assert_near(phi(&vec![vec![pod(1000, 500), pod(1000, 0)]; 50]), HIGHEST);
    }
}

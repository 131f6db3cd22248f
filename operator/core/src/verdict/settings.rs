//! The parameters of the verdict, frozen at the start of a run.
//!
//! Every figure that the documentation publishes names the φ it was made with; all else is at the defaults here.

use std::ops::Range;

use super::eprocess::within;

/// Chance that a healthy version is rolled back by the failure tests, per run, over all metrics and looks.
pub const ALPHA: f64 = 0.01;
/// Chance that a version over its max passes one step.
pub const BETA: f64 = 0.05;
/// Dispersion where it cannot be known from stable's history. 1 is independent requests.
pub const PHI: f64 = 2.0;
/// Share of bad requests that is tolerated.
pub const MAX: f64 = 0.01;
/// The canary may be this many times as bad as stable before that counts against it.
pub const RATIO: f64 = 1.2;
/// Smallest difference of error shares that fails the relative test (0.3 percentage points).
pub const MIN_EFFECT: f64 = 0.003;
/// The same as [`RATIO`] for slow requests.
pub const SLOW_RATIO: f64 = 1.25;
/// The same as [`MIN_EFFECT`] for slow requests (1 percentage point).
pub const SLOW_MIN_EFFECT: f64 = 0.01;
/// Fewest bad canary requests that fail a test.
pub const MIN_BAD: u64 = 3;
/// So many bad canary requests need not come from two intervals; and the fewest that the tripwire takes.
pub const OVERWHELMING_BAD: u64 = 10;
/// The tripwire's share of bad canary requests.
pub const TRIPWIRE_SHARE: f64 = 0.5;
/// From this share of bad requests of stable on, the tripwire does not speak.
pub const TRIPWIRE_STABLE: f64 = 0.1;
/// Intervals that say how stable is now.
pub const RECENT: usize = 10;
/// Confidence with which stable must be over max before it is taken to be.
pub const STABLE_OVER_ALPHA: f64 = 0.05;
/// Chance that a canary looks worse than a stable that is as bad, where max alone speaks against it.
pub const WORSE_ALPHA: f64 = 0.006;
/// A shared fault of this length retreats, in seconds.
pub const SHARED_FAULT_SECONDS: i64 = 600;
/// So many canary requests must be missing before their absence means something.
pub const MISSED_REQUESTS: f64 = 20.0;
/// In so many intervals in a row.
pub const SILENT_INTERVALS: u32 = 2;
/// Without any request for so long there is no data, at whatever rate, in seconds.
pub const IDLE_SECONDS: u64 = 300;
/// More intervals of a step than these with more bad requests than requests hold.
pub const INCONSISTENT: u32 = 3;
/// Chance that the share check speaks although the share is between half and one and a half of the weight.
pub const SHARE_ALPHA: f64 = 0.01;

/// What one metric has to keep.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricSettings {
    /// Its name in status and messages: `errors`, `latency`.
    pub name: String,
    /// Share of bad requests that is tolerated (p_tol) at the present step, over 0 and at most 0.5.
    pub max: f64,
    /// The same of each step, where they differ; empty where they do not. What was seen at several steps is held against the largest of
    /// theirs.
    pub max_by_step: Vec<f64>,
    /// Smallest difference of shares, canary − stable, that fails the relative test (δ), 0 to 1.
    pub min_effect: f64,
    /// How many times as bad as stable the canary may be (ρ0), at least 1.
    pub ratio: f64,
    /// Whether intervals before [`super::Moment::warm_from`] do not count: pods whose caches are cold are slow.
    pub warms_up: bool,
}

impl MetricSettings {
    /// The error rate: max 1 %, δ 0.3 points, ρ0 1.2.
    #[must_use]
    pub fn errors() -> Self {
        Self {
            name: "errors".to_owned(),
            max: MAX,
            max_by_step: Vec::new(),
            min_effect: MIN_EFFECT,
            ratio: RATIO,
            warms_up: false,
        }
    }

    /// The share of slow requests: δ 1 point, ρ0 1.25, because the canary's caches are colder than stable's.
    #[must_use]
    pub fn latency(max: f64) -> Self {
        Self {
            name: "latency".to_owned(),
            max,
            max_by_step: Vec::new(),
            min_effect: SLOW_MIN_EFFECT,
            ratio: SLOW_RATIO,
            warms_up: true,
        }
    }

    pub(super) fn max(&self) -> f64 {
        within(self.max, 1e-6, 0.5)
    }

    /// The largest max of these steps.
    pub(super) fn max_of(&self, steps: Range<u32>) -> f64 {
        let index = |step: u32| usize::try_from(step).unwrap_or(usize::MAX).min(self.max_by_step.len());
        let seen = self.max_by_step.get(index(steps.start)..index(steps.end));
        let largest = seen.unwrap_or_default().iter().copied().reduce(f64::max);
        within(largest.unwrap_or(self.max), 1e-6, 0.5)
    }

    pub(super) fn ratio(&self) -> f64 {
        within(self.ratio, 1.0, 100.0)
    }
}

/// One of the user's own queries.
#[derive(Clone, Debug, PartialEq)]
pub struct QuerySettings {
    /// Its name in status and messages.
    pub name: String,
    /// The largest number that is well.
    pub max: Option<f64>,
    /// The smallest number that is well.
    pub min: Option<f64>,
    /// Out of its bounds in so many intervals in a row it fails the version; at least 1.
    pub failure_limit: u32,
}

impl QuerySettings {
    /// Whether a number is within the bounds.
    pub(super) fn holds(&self, value: f64) -> bool {
        self.max.is_none_or(|max| value <= max) && self.min.is_none_or(|min| value >= min)
    }
}

/// The parameters of a run's verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What is judged; the order is that of [`super::Interval::metrics`].
    pub metrics: Vec<MetricSettings>,
    /// The user's own queries; their values follow those of the metrics in [`super::Interval::metrics`].
    pub queries: Vec<QuerySettings>,
    /// Number of the run's steps: the failure tests' restarts share their weight among them.
    pub steps: u32,
    /// See [`ALPHA`].
    pub alpha: f64,
    /// See [`BETA`].
    pub beta: f64,
    /// See [`PHI`]; at least 1.
    pub phi: f64,
    /// See [`MIN_BAD`].
    pub min_bad: u64,
    /// See [`OVERWHELMING_BAD`].
    pub overwhelming_bad: u64,
    /// Whether a share of requests that does not follow the weight holds. Off where the counters also see calls that do not come
    /// through the gateway (provider `pods`).
    pub check_share: bool,
}

impl Settings {
    /// These metrics over so many steps, all else at its default.
    #[must_use]
    pub fn new(metrics: Vec<MetricSettings>, steps: u32) -> Self {
        Self {
            metrics,
            queries: Vec::new(),
            steps,
            alpha: ALPHA,
            beta: BETA,
            phi: PHI,
            min_bad: MIN_BAD,
            overwhelming_bad: OVERWHELMING_BAD,
            check_share: true,
        }
    }

    /// From here on a failure test fails: ln(1/α), α split over all metrics and the two tests.
    #[must_use]
    pub fn threshold_fail(&self) -> f64 {
        let tests = u32::try_from(self.metrics.len()).unwrap_or(u32::MAX).max(1);
        (2.0 * f64::from(tests) / within(self.alpha, 1e-12, 1.0)).ln()
    }

    /// From here on a metric passes its step: ln(1/β).
    #[must_use]
    pub fn threshold_pass(&self) -> f64 {
        (1.0 / within(self.beta, 1e-12, 1.0)).ln()
    }

    /// So many bad requests say something alone, at this φ: [`Settings::overwhelming_bad`] up to the default φ, and as many times more
    /// where bad requests are known to come in larger clumps, since a single clump is one event.
    pub(crate) fn overwhelming_bad(&self) -> u64 {
        let more = within(self.phi / PHI, 1.0, 1e6) * 1_000.0;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a thousand to a thousand million"
        )]
        let thousandths = more as u64;
        self.overwhelming_bad.saturating_mul(thousandths).div_ceil(1_000)
    }

    pub(super) fn phi(&self) -> f64 {
        within(self.phi, 1.0, 1e6)
    }
}

impl Default for Settings {
    /// The error rate over one step.
    fn default() -> Self {
        Self::new(vec![MetricSettings::errors()], 1)
    }
}

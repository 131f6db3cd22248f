//! The usual way, for comparison: a threshold on the error rate, looked at once an interval, with a limit on failures.
//!
//! Written from the documentation of two tools and with the settings of its own examples, not from their code; neither tool is run. Both
//! look at the canary alone. Where the documentation leaves something open, what is better for the tool was taken.

use crate::outcome::{End, Outcome};
use crate::traffic::{Both, Course, Scenario, Service};

/// The canary's way under a tool, second by second.
struct Watch<'a> {
    scenario: &'a Scenario,
    service: Service<'a>,
    now: i64,
    weight: u32,
    bad: u64,
}

impl<'a> Watch<'a> {
    fn new(scenario: &'a Scenario, service: Service<'a>) -> Self {
        Self {
            scenario,
            service,
            now: 0,
            weight: 0,
            bad: 0,
        }
    }

    fn enter(&mut self, weight: u32) {
        self.weight = weight;
        self.service.entered(weight, self.now);
    }

    /// The traffic of the next seconds.
    fn pass(&mut self, seconds: i64) -> Both {
        let both = self.service.traffic(self.now, self.now + seconds, self.weight);
        self.now += seconds;
        self.bad += self.scenario.bad(both.canary);
        both
    }

    fn ended(&self, end: End) -> Outcome {
        // What breaks at full weight has not been looked at when it does.
        let late = self.scenario.course == Course::BreaksAtFullWeight;
        Outcome {
            end,
            seconds: self.now,
            bad: if late { 0 } else { self.bad },
            retreats: 0,
            weight: self.weight,
            intervals: 0,
        }
    }
}

/// Flagger, by its tutorial for Istio (docs/gitbook/tutorials/istio-progressive-delivery.md in fluxcd/flagger; the same numbers stand in
/// the one for the Gateway API) and by "How it works" there.
pub(crate) mod flagger {
    use super::{End, Outcome, Scenario, Service, Watch};

    /// `analysis.interval: 1m`.
    const INTERVAL: i64 = 60;
    /// `analysis.threshold: 5`: max number of failed metric checks before rollback.
    const THRESHOLD: u32 = 5;
    /// `analysis.maxWeight: 50`.
    const MAX_WEIGHT: u32 = 50;
    /// `analysis.stepWeight: 10`.
    const STEP_WEIGHT: u32 = 10;
    /// `request-success-rate`, `thresholdRange.min: 99` over 1m; and `request-duration`, P99 at most 500 ms over 30s, which is as much as
    /// at most this share of requests slower than that.
    const MOST: f64 = 0.01;
    /// `request-duration`, `interval: 30s`.
    const DURATION_WINDOW: i64 = 30;
    /// Steps under 100 %.
    pub(crate) const STEPS: u64 = 5;

    /// A check that passes raises the weight, and promotes at the highest; one that fails halts, also without a value; failed checks add
    /// up, and at the threshold the next look takes the canary back.
    pub(crate) fn run(scenario: &Scenario, service: Service<'_>) -> Outcome {
        let mut watch = Watch::new(scenario, service);
        let mut failed = 0;
        watch.enter(STEP_WEIGHT);
        loop {
            let mut minute = watch.pass(INTERVAL - DURATION_WINDOW).canary;
            let late = watch.pass(DURATION_WINDOW).canary;
            minute += late;
            if failed >= THRESHOLD {
                return watch.ended(End::RolledBack);
            }
            let is_at_most = |bad: u64, requests: u64| requests > 0 && bad as f64 <= MOST * requests as f64;
            let good = !watch.service.source_is_down(watch.now)
                && is_at_most(minute.errors, minute.requests)
                && is_at_most(late.slow, late.requests);
            if !good {
                failed += 1;
            } else if watch.weight >= MAX_WEIGHT {
                return watch.ended(End::Promoted);
            } else {
                watch.enter(watch.weight + STEP_WEIGHT);
            }
        }
    }
}

/// Argo Rollouts, by the example of its page "Analysis & Progressive Delivery", section "Background Analysis" (docs/features/analysis.md
/// in argoproj/argo-rollouts). It has no metric for latency.
pub(crate) mod argo {
    use super::{End, Outcome, Scenario, Service, Watch};

    /// `steps`: setWeight 20, 40, 60, 80, with `pause: {duration: 10m}` after each.
    const WEIGHTS: [u32; 4] = [20, 40, 60, 80];
    /// The pause, in seconds.
    const PAUSE: i64 = 600;
    /// `startingStep: 2`: the analysis starts with weight 40.
    const FIRST_JUDGED: u32 = 40;
    /// `interval: 5m`; the first measurement is taken at the start.
    const INTERVAL: i64 = 300;
    /// `successCondition: result[0] >= 0.95`.
    const LEAST: f64 = 0.95;
    /// "If the metric is measured to be less than 95%, and there are three such measurements, the analysis is considered Failed"; its
    /// reference has `failureLimit: 3` as the most failures that are allowed.
    const FAILURES: u32 = 3;
    /// `irate` looks at the last two samples, here 15 s apart.
    const WINDOW: i64 = 15;
    /// `consecutiveErrorLimit`, by default 4: a query that fails is asked again, and the fifth in a row is too much.
    const ERRORS: i64 = 5;
    /// Seconds between those.
    const RETRY: i64 = 10;
    /// Steps under 100 %.
    pub(crate) const STEPS: u64 = 4;

    /// Weights rise by the clock; failed measurements add up, one without requests (`NaN >= 0.95`) among them.
    pub(crate) fn run(scenario: &Scenario, service: Service<'_>) -> Outcome {
        let mut watch = Watch::new(scenario, service);
        let mut failed = 0;
        for weight in WEIGHTS {
            watch.enter(weight);
            for _ in 0..PAUSE / INTERVAL {
                // The measurement falls on the beginning of the five minutes, and sees the seconds up to there.
                if weight >= FIRST_JUDGED {
                    let seen = watch.pass(WINDOW).canary;
                    let good = (seen.requests - seen.errors) as f64;
                    if watch.service.source_is_down(watch.now) {
                        watch.pass((ERRORS - 1) * RETRY);
                        return watch.ended(End::RolledBack);
                    }
                    let passes = seen.requests > 0 && good >= LEAST * seen.requests as f64;
                    failed += u32::from(!passes);
                    if failed >= FAILURES {
                        return watch.ended(End::RolledBack);
                    }
                    watch.pass(INTERVAL - WINDOW);
                } else {
                    watch.pass(INTERVAL);
                }
            }
        }
        watch.ended(End::Promoted)
    }
}

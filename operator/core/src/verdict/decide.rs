//! The order of precedence: what fails, then what retreats, then a pass of all, then the reason to hold (analysis.md, section 9).
//!
//! Reads evidence only. An interval that could not be read holds a pass back, and never hides a failure of another metric.

use stepgate_crds::evidence::{Evidence, MetricEvidence, Process, Recent, Tally};

use super::eprocess::{ln_e_share, ln_tail_over, within};
use super::forecast::{Missing, rate};
use super::observation::{Arm, DataError, as_f64};
use super::own;
use super::process::{self, Begun, plus};
use super::reason::{HoldReason, RetreatCause, Rule, Verdict};
use super::settings::{
    IDLE_SECONDS, INCONSISTENT, MISSED_REQUESTS, MetricSettings, SHARE_ALPHA, SHARED_FAULT_SECONDS, SILENT_INTERVALS,
    Settings, TRIPWIRE_SHARE, TRIPWIRE_STABLE, WORSE_ALPHA,
};
use super::{Moment, Restarts};

/// One metric with all that is asked about it.
struct Case<'a> {
    kept: &'a MetricEvidence,
    metric: &'a MetricSettings,
    settings: &'a Settings,
    moment: &'a Moment,
    begun: Begun,
    through: i64,
    missing: Option<Missing>,
}

/// The verdict on evidence whose metrics are the settings', in their order; `missing` is in the same.
pub(super) fn decide(
    evidence: &Evidence,
    settings: &Settings,
    moment: &Moment,
    restarts: Option<Restarts>,
    missing: &[Option<Missing>],
) -> Verdict {
    let begun = Begun {
        steps: evidence.steps_begun,
        pauses: evidence.pauses_begun,
    };
    let through = evidence.through;
    let cases: Vec<Case<'_>> = evidence
        .metrics
        .iter()
        .zip(&settings.metrics)
        .zip(missing)
        .map(|((kept, metric), missing)| Case {
            kept,
            metric,
            settings,
            moment,
            begun,
            through,
            missing: *missing,
        })
        .collect();
    let failed = (cases.iter().find_map(Case::tripwire))
        .or_else(|| failed_restarts(restarts?))
        .or_else(|| cases.iter().find_map(Case::absolute))
        .or_else(|| cases.iter().find_map(Case::relative))
        .or_else(|| own::failed(&evidence.queries, settings, moment));
    if let Some(rule) = failed {
        return Verdict::Fail(rule);
    }
    let retreat = cases
        .iter()
        .find_map(Case::silent)
        .filter(|_| !cases.iter().any(Case::is_heard))
        .or_else(|| cases.iter().find_map(Case::lasting_shared_fault));
    if let Some(cause) = retreat.filter(|_| !moment.promoting) {
        return Verdict::Retreat(cause);
    }
    if let Some(error) = &moment.unavailable {
        return Verdict::Hold(HoldReason::MetricsUnavailable(error.clone()));
    }
    let objection = (cases.iter().find_map(Case::trouble))
        .or_else(|| cases.iter().find_map(Case::no_data))
        .or_else(|| cases.iter().find_map(Case::unmeasured))
        .or_else(|| cases.iter().find_map(Case::inconsistent))
        .or_else(|| cases.iter().find_map(Case::share_mismatch))
        .or_else(|| cases.iter().find_map(Case::shared_fault))
        .or_else(|| own::objection(&evidence.queries, settings, moment));
    if let Some(reason) = objection {
        return Verdict::Hold(reason);
    }
    let missing: Vec<HoldReason> = cases.iter().filter_map(Case::insufficient).collect();
    if cases.is_empty() {
        return Verdict::Hold(HoldReason::MetricsUnavailable(DataError::unreadable(
            "no metric is judged",
        )));
    }
    let longest = missing.into_iter().max_by_key(|reason| match reason {
        HoldReason::InsufficientTraffic {
            have, need: Some(need), ..
        } => need.saturating_sub(*have),
        _ => u64::MAX,
    });
    match longest {
        None => own::unread(&evidence.queries, settings, moment).map_or(Verdict::Pass, Verdict::Hold),
        Some(reason) => Verdict::Hold(cases.iter().find_map(Case::stable_is_worse).unwrap_or(reason)),
    }
}

fn failed_restarts(restarts: Restarts) -> Option<Rule> {
    let rate = |exits: u32, hours: f64| if hours > 0.0 { f64::from(exits) / hours } else { 0.0 };
    let canary = restarts.canary_error_exits;
    // Without any pod-hour known two error exits are still two: count them against a minute.
    let canary_rate = rate(canary, within(restarts.canary_pod_hours, 1.0 / 60.0, f64::MAX));
    let stable_rate = rate(restarts.stable_error_exits, restarts.stable_pod_hours);
    (canary >= 2 && canary_rate > stable_rate).then_some(Rule::Restarts {
        canary,
        canary_rate,
        stable_rate,
    })
}

impl Case<'_> {
    fn name(&self) -> String {
        self.metric.name.clone()
    }

    fn tripwire(&self) -> Option<Rule> {
        let seen = &self.kept.tripwire;
        [(seen.canary, seen.stable), (seen.latest_canary, seen.latest_stable)]
            .into_iter()
            .find_map(|(canary, stable)| {
                let stable_is_well = stable.requests == 0 || share(stable) < TRIPWIRE_STABLE;
                let trips = canary.bad >= self.settings.overwhelming_bad() && share(canary) >= TRIPWIRE_SHARE;
                (trips && stable_is_well).then(|| Rule::Tripwire {
                    metric: self.name(),
                    canary: canary.into(),
                    stable: stable.into(),
                })
            })
    }

    fn absolute(&self) -> Option<Rule> {
        let mean = process::mean_absolute(&self.kept.processes, self.begun, self.settings, self.metric);
        let loudest = mean.loudest?;
        let window = loudest.absolute;
        let max = process::max(loudest, self.begun, self.metric);
        let fails = mean.ln_e >= self.settings.threshold_fail()
            && self.enough_bad(window.canary, window.intervals_with_bad)
            && share(window.canary) > max
            && self.kept.stable_over_since.is_none()
            && self.looks_worse_than_stable(loudest);
        fails.then(|| Rule::Absolute {
            metric: self.name(),
            canary: window.canary.into(),
            max,
            evidence: mean.ln_e,
            threshold: self.settings.threshold_fail(),
        })
    }

    /// While stable has traffic, max alone takes no version back that looks no worse than it: what both suffer from shows on the
    /// canary first as often as on stable.
    fn looks_worse_than_stable(&self, process: &Process) -> bool {
        let (canary, stable) = self.recent();
        let all = canary.requests + stable.requests;
        if self.moment.promoting || self.weight() >= 1.0 || stable.requests <= 0.0 {
            return true;
        }
        // There are two ways to look worse, and each has half of the chance.
        let threshold = (2.0 / WORSE_ALPHA).ln();
        let lately = ln_tail_over(canary.bad + stable.bad, canary.bad, canary.requests / all);
        lately / self.settings.phi() >= threshold || process::ln_relative(process, self.settings) >= threshold
    }

    fn relative(&self) -> Option<Rule> {
        if self.moment.promoting {
            return None;
        }
        let mean = process::mean_relative(&self.kept.processes, self.begun, self.settings);
        let window = mean.loudest?.relative;
        let effect = share(window.canary) - share(window.stable);
        let fails = mean.ln_e >= self.settings.threshold_fail()
            && (window.stable.requests == 0 || effect >= self.metric.min_effect)
            && self.enough_bad(window.canary, window.intervals_with_bad);
        fails.then(|| Rule::Relative {
            metric: self.name(),
            canary: window.canary.into(),
            stable: window.stable.into(),
            evidence: mean.ln_e,
            threshold: self.settings.threshold_fail(),
        })
    }

    fn enough_bad(&self, canary: Tally, intervals_with_bad: u64) -> bool {
        canary.bad >= self.settings.min_bad
            && (intervals_with_bad >= 2 || canary.bad >= self.settings.overwhelming_bad())
    }

    fn silent(&self) -> Option<RetreatCause> {
        let expected = if self.weight() >= 1.0 {
            as_f64(self.kept.silent_stable_requests).max(self.foretold_in_idle())
        } else {
            self.weight() * as_f64(self.kept.silent_stable_requests)
        };
        let silent = self.kept.silent_intervals >= SILENT_INTERVALS && expected >= MISSED_REQUESTS;
        silent.then(|| RetreatCause::CanarySilent {
            metric: self.name(),
            expected,
            intervals: self.kept.silent_intervals,
        })
    }

    /// Whether canary requests were counted last time.
    fn is_heard(&self) -> bool {
        let latest = self.kept.recent.last();
        let is_now = self.kept.idle_seconds == 0 && self.kept.trouble.is_none();
        is_now && latest.is_some_and(|latest| latest.canary.requests > 0)
    }

    /// The canary is silent in this metric while another one counts its requests: it is the metric that is missing.
    fn unmeasured(&self) -> Option<HoldReason> {
        let RetreatCause::CanarySilent { metric, intervals, .. } = self.silent()? else {
            return None;
        };
        Some(HoldReason::CanaryUnmeasured { metric, intervals })
    }

    fn lasting_shared_fault(&self) -> Option<RetreatCause> {
        let since = self.kept.shared_fault_since?;
        let after_rise = self.kept.shared_fault_after_rise;
        let (canary, stable) = self.recent();
        (after_rise || self.through.saturating_sub(since) >= SHARED_FAULT_SECONDS).then(|| RetreatCause::SharedFault {
            metric: self.name(),
            canary,
            stable,
            after_rise,
        })
    }

    fn trouble(&self) -> Option<HoldReason> {
        let detail = format!("{}: {}", self.name(), self.kept.trouble.as_ref()?);
        Some(HoldReason::MetricsUnavailable(DataError {
            kind: self.kept.trouble_kind,
            detail,
        }))
    }

    fn no_data(&self) -> Option<HoldReason> {
        let idle = self.kept.idle_seconds;
        let none_ever = idle > 0 && self.kept.recent.is_empty();
        let none_sent = self.moment.weight_percent == 0 && self.kept.step.canary.requests == 0;
        let none_now = idle >= IDLE_SECONDS || self.foretold_in_idle() >= MISSED_REQUESTS;
        (none_ever || none_sent || none_now).then(|| HoldReason::NoData {
            metric: self.name(),
            seconds: idle,
        })
    }

    fn inconsistent(&self) -> Option<HoldReason> {
        let intervals = self.kept.inconsistent;
        (intervals > INCONSISTENT).then(|| HoldReason::Inconsistent {
            metric: self.name(),
            intervals,
        })
    }

    fn share_mismatch(&self) -> Option<HoldReason> {
        let (canary, stable) = (
            as_f64(self.kept.step.canary.requests),
            as_f64(self.kept.step.stable.requests),
        );
        let ln_e = ln_e_share(canary, stable, self.weight(), self.settings.phi());
        let applies = self.settings.check_share && !self.moment.promoting && canary + stable > 0.0;
        (applies && ln_e >= (1.0 / SHARE_ALPHA).ln()).then(|| HoldReason::ShareMismatch {
            metric: self.name(),
            expected: self.weight(),
            measured: canary / (canary + stable),
        })
    }

    fn shared_fault(&self) -> Option<HoldReason> {
        self.kept.shared_fault_since?;
        let (canary, stable) = self.recent();
        Some(HoldReason::SharedFault {
            metric: self.name(),
            canary,
            stable,
        })
    }

    fn stable_is_worse(&self) -> Option<HoldReason> {
        self.kept.stable_over_since?;
        let (canary, stable) = self.recent();
        let not_above = canary.requests > 0.0
            && stable.requests > 0.0
            && canary.bad / canary.requests <= stable.bad / stable.requests;
        not_above.then(|| HoldReason::StableIsWorse {
            metric: self.name(),
            canary,
            stable,
        })
    }

    /// What this metric lacks for a pass; `None` when nothing.
    fn insufficient(&self) -> Option<HoldReason> {
        let Missing { have, need, eta } = self.missing?;
        Some(HoldReason::InsufficientTraffic {
            metric: self.name(),
            have,
            need,
            eta,
        })
    }

    /// Requests that should have come since the last one, by the rate before.
    fn foretold_in_idle(&self) -> f64 {
        let (canary, stable) = self.recent();
        if canary.requests + stable.requests < MISSED_REQUESTS / 2.0 {
            return 0.0; // too few to know a rate from
        }
        rate(self.kept.recent.iter()) * as_f64(self.kept.idle_seconds)
    }

    /// Both versions in the last intervals.
    fn recent(&self) -> (Arm, Arm) {
        let sum = |version: fn(&Recent) -> Tally| {
            self.kept
                .recent
                .iter()
                .fold(Tally::default(), |sum, one| plus(sum, version(one)))
        };
        (sum(|one| one.canary).into(), sum(|one| one.stable).into())
    }

    /// The weight as a share.
    fn weight(&self) -> f64 {
        self.moment.weight()
    }
}

fn share(tally: Tally) -> f64 {
    if tally.requests == 0 {
        0.0
    } else {
        as_f64(tally.bad) / as_f64(tally.requests)
    }
}

//! What is kept of the evidence of a run that has ended: its counts in parts, and the evidence as it stood.
//!
//! The processes of the failure tests began one after the other and count to the end, so their differences are the parts between.

use stepgate_crds::{
    evidence::{Evidence, MetricEvidence, Recent, Tally, Window},
    status::{PastCounts, PastMetric},
    units::{Share, Span},
};

use super::{process::plus, settings::Settings};
use crate::verdict::{Moment, judge};

/// The counts of a run by these settings, with intervals of this length; none where it counted nothing.
#[must_use]
pub fn past(evidence: &Evidence, settings: &Settings, interval: Span) -> Option<PastCounts> {
    let moment = Moment {
        step: evidence.step.unwrap_or(0),
        ..Moment::default()
    };
    let judged = judge(evidence, &[], settings, &moment, None);
    let rounded = |value: f64| (value * 1e3).round() / 1e3;
    let metrics: Vec<PastMetric> = (judged.evidence.metrics.iter())
        .zip(&settings.metrics)
        .zip(&judged.explanations)
        .map(|((kept, metric), explained)| PastMetric {
            name: kept.name.clone(),
            max: Share::new(metric.max()),
            ratio: metric.ratio(),
            relative_evidence: rounded(explained.ln_relative),
            absolute_evidence: rounded(explained.ln_absolute),
            fail_threshold: rounded(explained.threshold_fail),
            recent: recent(kept),
            parts: parts(kept),
        })
        .collect();
    let counted = metrics.iter().any(|metric| !metric.parts.is_empty());
    counted.then(|| PastCounts {
        phi: settings.phi(),
        interval,
        metrics,
    })
}

/// The last intervals, added up.
fn recent(kept: &MetricEvidence) -> Recent {
    kept.recent.iter().fold(Recent::default(), |sum, one| Recent {
        seconds: sum.seconds.saturating_add(one.seconds),
        canary: plus(sum.canary, one.canary),
        stable: plus(sum.stable, one.stable),
    })
}

/// What was counted from the beginning of each process to that of the next, without those that have nothing.
fn parts(kept: &MetricEvidence) -> Vec<Window> {
    let windows = || kept.processes.iter().map(|process| process.relative);
    let next = windows().skip(1).chain([Window::default()]);
    let parts = windows().zip(next).map(|(from, to)| Window {
        canary: minus(from.canary, to.canary),
        stable: minus(from.stable, to.stable),
        intervals_with_bad: from.intervals_with_bad.saturating_sub(to.intervals_with_bad),
    });
    parts
        .filter(|part| part.canary.requests > 0 || part.stable.requests > 0)
        .collect()
}

fn minus(one: Tally, other: Tally) -> Tally {
    Tally {
        requests: one.requests.saturating_sub(other.requests),
        bad: one.bad.saturating_sub(other.bad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{self, Arm, Counts, Interval, MetricSettings, Observation};

    fn interval(end: i64, [canary, canary_bad, stable, stable_bad]: [u32; 4]) -> Interval {
        let arm = |requests: u32, bad: u32| Arm {
            requests: requests.into(),
            bad: bad.into(),
        };
        Interval {
            end,
            seconds: 30,
            metrics: vec![Observation::Counts(Counts {
                canary: arm(canary, canary_bad),
                stable: arm(stable, stable_bad),
            })],
        }
    }

    #[test]
    fn the_parts_of_a_run_are_its_steps_and_add_up_to_the_whole() {
        let settings = Settings::new(vec![MetricSettings::errors()], 3);
        let mut evidence = verdict::begin(&settings, 0);
        let span = Span::seconds(30);
        assert_eq!(past(&evidence, &settings, span), None);
        let steps = [[100, 1, 900, 2], [500, 0, 500, 1], [990, 7, 10, 0]];
        let mut last = None;
        for (step, counts) in (0_u32..).zip(steps) {
            let moment = Moment {
                step,
                weight_percent: 50,
                accepted: Some(0),
                ..Moment::default()
            };
            let ends = [60 * i64::from(step) + 30, 60 * i64::from(step) + 60];
            let twice = ends.map(|end| interval(end, counts));
            let judged = judge(&evidence, &twice, &settings, &moment, None);
            evidence = judged.evidence.clone();
            last = judged.explanations.first().cloned();
        }
        let found = past(&evidence, &settings, span).unwrap();
        let metric = &found.metrics[0];
        let parts: Vec<[u64; 5]> = metric.parts.iter().map(|part| (*part).into()).collect();
        assert_eq!(
            parts,
            [[200, 2, 1_800, 4, 2], [1_000, 0, 1_000, 2, 0], [1_980, 14, 20, 0, 2]]
        );
        assert_eq!(metric.recent.seconds, 180);
        let last = last.unwrap();
        assert!((metric.relative_evidence - last.ln_relative).abs() < 1e-3);
        assert!((metric.absolute_evidence - last.ln_absolute).abs() < 1e-3);
    }

    #[test]
    fn a_part_in_which_only_stable_was_asked_is_one_and_one_without_requests_is_none() {
        let settings = Settings::new(vec![MetricSettings::errors()], 4);
        let mut evidence = verdict::begin(&settings, 0);
        for (step, counts) in (0_u32..).zip([[0, 0, 900, 2], [0, 0, 0, 0], [100, 1, 0, 0]]) {
            let moment = Moment {
                step,
                weight_percent: 50,
                accepted: Some(0),
                ..Moment::default()
            };
            let end = 30 * (i64::from(step) + 1);
            evidence = judge(&evidence, &[interval(end, counts)], &settings, &moment, None).evidence;
        }
        let found = past(&evidence, &settings, Span::seconds(30)).unwrap();
        let parts: Vec<[u64; 5]> = found.metrics[0].parts.iter().map(|part| (*part).into()).collect();
        assert_eq!(parts, [[0, 0, 900, 2, 0], [100, 1, 0, 0, 1]]);
    }

    #[test]
    fn what_is_kept_is_small_however_long_the_run_was() {
        let settings = Settings::new(vec![MetricSettings::errors(), MetricSettings::latency(0.01)], 20);
        let mut evidence = verdict::begin(&settings, 0);
        let large = 1_u32 << 31;
        for step in 0..20 {
            let moment = Moment {
                step,
                weight_percent: 50,
                accepted: Some(0),
                ..Moment::default()
            };
            let mut one = interval(30 * (i64::from(step) + 1), [large, 1_000_000, large, 1_000_000]);
            one.metrics.push(one.metrics[0].clone());
            evidence = judge(&evidence, &[one], &settings, &moment, None).evidence;
        }
        let found = past(&evidence, &settings, Span::seconds(30)).unwrap();
        assert!(found.metrics.iter().all(|metric| metric.parts.len() <= 6), "{found:?}");
        let bytes = serde_json::to_string(&found).unwrap().len();
        assert!(bytes < 1_200, "{bytes}");
    }
}

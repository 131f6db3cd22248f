//! Folds one interval into the evidence: which of its readers may see it, and what each keeps of it.
//!
//! A function of the evidence, the interval, the settings and the moment alone, so that it does not matter where a commit falls.

use stepgate_crds::evidence::{Evidence, MetricEvidence, ProcessKind, Recent, StepTotals, Tally, Tripwire, Trouble};

use super::Moment;
use super::eprocess::{ln_tail_over, within};
use super::observation::{Interval, Reading, as_f64};
use super::own;
use super::process::{self, Begun, plus};
use super::settings::{MetricSettings, RECENT, STABLE_OVER_ALPHA, Settings};

/// Evidence of a run that starts now.
pub(super) fn begin(settings: &Settings, through: i64) -> Evidence {
    aligned(
        &Evidence {
            through,
            ..Evidence::default()
        },
        settings,
    )
}

/// The evidence with exactly the settings' metrics, in their order; one that is new begins with the run's process.
pub(super) fn aligned(evidence: &Evidence, settings: &Settings) -> Evidence {
    let metrics = settings.metrics.iter().map(|metric| {
        let known = evidence.metrics.iter().find(|known| known.name == metric.name);
        known.cloned().unwrap_or_else(|| MetricEvidence {
            name: metric.name.clone(),
            processes: vec![process::beginning(ProcessKind::Run, 0)],
            ..MetricEvidence::default()
        })
    });
    Evidence {
        metrics: metrics.collect(),
        queries: own::aligned(&evidence.queries, settings),
        ..evidence.clone()
    }
}

fn begun(evidence: &Evidence) -> Begun {
    Begun {
        steps: evidence.steps_begun,
        pauses: evidence.pauses_begun,
    }
}

/// Enters a step: its totals start anew, and its process begins if it has not been there before.
pub(super) fn enter_step(evidence: &mut Evidence, settings: &Settings, step: u32) {
    let begins = step >= evidence.steps_begun && step < settings.steps.max(1);
    let begun = begun(evidence);
    for (kept, metric) in evidence.metrics.iter_mut().zip(&settings.metrics) {
        kept.step = StepTotals::default();
        kept.tripwire = Tripwire::default();
        kept.silent_intervals = 0;
        kept.silent_stable_requests = 0;
        kept.inconsistent = 0;
        kept.shared_fault_since = None;
        kept.shared_fault_after_rise = false;
        if begins {
            process::add(
                kept,
                process::beginning(ProcessKind::Step, step),
                begun,
                settings,
                metric,
            );
        }
    }
    own::enter_step(&mut evidence.queries);
    evidence.step = Some(step);
    if begins {
        evidence.steps_begun = step.saturating_add(1);
    }
}

/// Enters an hour of pauses, from 1, if it is a new one.
pub(super) fn enter_pause(evidence: &mut Evidence, settings: &Settings, hour: u32) {
    if hour <= evidence.pauses_begun {
        return;
    }
    let begun = begun(evidence);
    for (kept, metric) in evidence.metrics.iter_mut().zip(&settings.metrics) {
        process::add(
            kept,
            process::beginning(ProcessKind::Pause, hour),
            begun,
            settings,
            metric,
        );
    }
    evidence.pauses_begun = hour;
}

/// How much of an interval counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// All of it.
    Counted,
    /// It overlaps the rise of the weight or what follows it: the tripwire only.
    Tripwire,
    /// It is older than the accepted weight.
    Nothing,
}

fn use_of(interval: &Interval, moment: &Moment) -> Use {
    let Some(accepted) = moment.accepted else {
        return Use::Nothing;
    };
    let start = interval.end.saturating_sub(i64::from(interval.seconds));
    if start >= moment.counts_from.max(accepted) {
        Use::Counted
    } else if interval.end > accepted {
        Use::Tripwire
    } else {
        Use::Nothing
    }
}

/// What is left of it for one metric: while the canary's pods are cold, nothing of those that warm up.
fn used_by(metric: &MetricSettings, used: Use, interval: &Interval, moment: &Moment) -> Use {
    let start = interval.end.saturating_sub(i64::from(interval.seconds));
    if metric.warms_up && start < moment.warm_from {
        Use::Nothing
    } else {
        used
    }
}

/// Folds an interval that ends after `evidence.through`.
pub(super) fn fold(evidence: &mut Evidence, interval: &Interval, settings: &Settings, moment: &Moment) {
    let begun = begun(evidence);
    let used = use_of(interval, moment);
    for (at, (kept, metric)) in evidence.metrics.iter_mut().zip(&settings.metrics).enumerate() {
        let reading = Reading::of(interval.metrics.get(at), moment.promoting);
        kept.trouble = None;
        kept.trouble_kind = Trouble::default();
        if let Reading::Unreadable(error) = reading {
            kept.trouble = Some(error.detail);
            kept.trouble_kind = error.kind;
            kept.unreadable = kept.unreadable.saturating_add(1);
            continue;
        }
        let used = used_by(metric, used, interval, moment);
        if used != Use::Nothing {
            feed_tripwire(&mut kept.tripwire, &reading);
        }
        if used == Use::Counted {
            count(kept, &reading, interval, metric);
            look_at_stable(kept, interval, begun, settings, metric, moment);
        }
    }
    // What is sent to the canary is judged, and nothing where nothing is sent.
    if used == Use::Counted && own::speak(moment) {
        own::fold(&mut evidence.queries, interval, settings);
    }
    evidence.through = interval.end;
}

fn feed_tripwire(tripwire: &mut Tripwire, reading: &Reading) {
    let (canary, stable) = match reading {
        Reading::Counts { canary, stable, .. } => (*canary, *stable),
        Reading::CanarySilent { stable } => (Tally::default(), *stable),
        Reading::Silent | Reading::Unreadable(_) => return,
    };
    tripwire.canary = plus(tripwire.canary, canary);
    tripwire.stable = plus(tripwire.stable, stable);
    tripwire.latest_canary = canary;
    tripwire.latest_stable = stable;
}

fn count(kept: &mut MetricEvidence, reading: &Reading, interval: &Interval, metric: &MetricSettings) {
    let seconds = u64::from(interval.seconds.max(1));
    kept.step.seconds = kept.step.seconds.saturating_add(seconds);
    let (canary, stable) = match reading {
        Reading::Unreadable(_) => return,
        Reading::Silent => {
            kept.idle_seconds = kept.idle_seconds.saturating_add(seconds);
            kept.silent_intervals = kept.silent_intervals.saturating_add(1);
            return;
        }
        Reading::CanarySilent { stable } => (Tally::default(), *stable),
        Reading::Counts {
            canary,
            stable,
            inconsistent,
        } => {
            kept.inconsistent = kept.inconsistent.saturating_add(u32::from(*inconsistent));
            kept.step.canary = plus(kept.step.canary, *canary);
            kept.step.stable = plus(kept.step.stable, *stable);
            process::fold(&mut kept.processes, *canary, *stable, metric);
            (*canary, *stable)
        }
    };
    if canary.requests > 0 {
        kept.silent_intervals = 0;
        kept.silent_stable_requests = 0;
    } else {
        kept.silent_intervals = kept.silent_intervals.saturating_add(1);
        kept.silent_stable_requests = kept.silent_stable_requests.saturating_add(stable.requests).min(1 << 53);
    }
    if kept.idle_seconds > 0 {
        kept.recent.push(Recent {
            seconds: kept.idle_seconds,
            ..Recent::default()
        });
        kept.idle_seconds = 0;
    }
    kept.recent.push(Recent {
        seconds,
        canary,
        stable,
    });
    let surplus = kept.recent.len().saturating_sub(RECENT);
    kept.recent.drain(..surplus);
}

/// Whether stable is itself over the max, and with the canary: what that silences, and what starts anew when it is over.
fn look_at_stable(
    kept: &mut MetricEvidence,
    interval: &Interval,
    begun: Begun,
    settings: &Settings,
    metric: &MetricSettings,
    moment: &Moment,
) {
    let stable_over = !moment.promoting && over_max(&kept.recent, |recent| recent.stable, settings, metric);
    if !stable_over {
        if kept.stable_over_since.take().is_some() {
            // What the outage added would hold a healthy version for an hour, or fail it once stable is well.
            process::forgive_absolute(&mut kept.processes, begun, settings, metric);
            kept.step = StepTotals::default();
        }
        kept.shared_fault_since = None;
        kept.shared_fault_after_rise = false;
        return;
    }
    let since = *kept.stable_over_since.get_or_insert(interval.end);
    let absolute = process::mean_absolute(&kept.processes, begun, settings, metric);
    let canary_over =
        absolute.ln_e >= settings.threshold_fail() || over_max(&kept.recent, |recent| recent.canary, settings, metric);
    if !canary_over {
        kept.shared_fault_since = None;
        kept.shared_fault_after_rise = false;
    } else if kept.shared_fault_since.is_none() {
        let rise = moment.accepted.unwrap_or(moment.counts_from);
        let ten_intervals = i64::from(interval.seconds).saturating_mul(10);
        kept.shared_fault_since = Some(interval.end);
        kept.shared_fault_after_rise =
            since > rise && interval.end <= moment.counts_from.max(rise).saturating_add(ten_intervals);
    }
}

/// Whether a version is over the max now: by the lower 95 % bound of any number of the last intervals up to now, so that an outage
/// does not hide behind the healthy intervals before it.
fn over_max(
    recent: &[Recent],
    version: impl Fn(&Recent) -> Tally,
    settings: &Settings,
    metric: &MetricSettings,
) -> bool {
    let threshold = (1.0 / within(STABLE_OVER_ALPHA, 1e-12, 1.0)).ln();
    let mut sum = Tally::default();
    recent.iter().rev().any(|one| {
        sum = plus(sum, version(one));
        let strength = ln_tail_over(as_f64(sum.requests), as_f64(sum.bad), metric.max()) / settings.phi();
        sum.bad >= settings.min_bad && strength >= threshold
    })
}

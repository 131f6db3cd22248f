//! The failure tests' restarts: one process for the run, one from each step on, one from each hour of pauses on, and their mean.
//!
//! The weights are fixed at the start (a quarter to the run, a half to the steps, a quarter to the pauses); a process that has not begun
//! counts 1 and one that was dropped 0, so that the mean is an e-process and α stands (analysis.md, section 2).

use stepgate_crds::evidence::{AbsoluteWindow, MetricEvidence, Process, ProcessKind, Tally};

use super::eprocess::{ALTERNATIVES, ln_e_absolute, ln_mean, ln_sum, relative_increments};
use super::observation::as_f64;
use super::settings::{MetricSettings, Settings};

/// Most processes that are kept for one metric.
const MOST: usize = 6;
/// Millionths stay in the range of exact doubles, so that any JSON reader keeps them.
const HIGHEST: i64 = 1 << 53;
/// And above -1000: a process that is lower starts anew from exp(-1000/φ), which adds no more than that to the chance of a false
/// alarm, and keeps the evidence short after hours of health.
const LOWEST: i64 = -1_000_000_000;

/// How many steps and hours of pauses have begun, the dropped ones included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    pub(super) steps: u32,
    pub(super) pauses: u32,
}

/// The mean of a test's processes, and the process that speaks loudest in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mean<'a> {
    /// ln E of the mean.
    pub(super) ln_e: f64,
    /// The one with the largest weighted evidence.
    pub(super) loudest: Option<&'a Process>,
}

/// A process that begins now.
pub(super) fn beginning(kind: ProcessKind, index: u32) -> Process {
    Process {
        kind,
        index,
        millionths: vec![0; ALTERNATIVES],
        ..Process::default()
    }
}

/// Adds a process; over the most that are kept, the one that says least is dropped, but neither the run's nor this one.
pub(super) fn add(
    evidence: &mut MetricEvidence,
    process: Process,
    begun: Begun,
    settings: &Settings,
    metric: &MetricSettings,
) {
    if evidence.processes.len() >= MOST {
        let says = |process: &Process| {
            let absolute = ln_absolute(process, begun, settings, metric);
            ln_weight(process, settings) + ln_relative(process, settings).max(absolute)
        };
        let least = evidence
            .processes
            .iter()
            .enumerate()
            .filter(|(_, process)| process.kind != ProcessKind::Run)
            .min_by(|(_, one), (_, other)| says(one).total_cmp(&says(other)))
            .map(|(at, _)| at);
        if let Some(at) = least {
            evidence.processes.remove(at);
        }
    }
    evidence.processes.push(process);
}

/// Folds one interval into every process.
pub(super) fn fold(processes: &mut [Process], canary: Tally, stable: Tally, metric: &MetricSettings) {
    let increments = relative_increments(canary, stable, metric.ratio());
    let bad_interval = u64::from(canary.bad > 0);
    for process in processes {
        process.millionths.resize(ALTERNATIVES, 0);
        for (sum, increment) in process.millionths.iter_mut().zip(increments) {
            *sum = sum.saturating_add(millionths(increment)).clamp(LOWEST, HIGHEST);
        }
        let relative = &mut process.relative;
        relative.canary = plus(relative.canary, canary);
        relative.stable = plus(relative.stable, stable);
        relative.intervals_with_bad = relative.intervals_with_bad.saturating_add(bad_interval);
        let absolute = &mut process.absolute;
        absolute.canary = plus(absolute.canary, canary);
        absolute.intervals_with_bad = absolute.intervals_with_bad.saturating_add(bad_interval);
    }
}

/// Takes the absolute test of every process back to 1 where it is above: what was seen while stable itself was over the max speaks
/// against nobody. Only ever lowers an e-value.
pub(super) fn forgive_absolute(processes: &mut [Process], begun: Begun, settings: &Settings, metric: &MetricSettings) {
    for process in processes {
        if ln_absolute(process, begun, settings, metric) > 0.0 {
            process.absolute = AbsoluteWindow::default();
        }
    }
}

/// The relative test over all its restarts.
pub(super) fn mean_relative<'a>(processes: &'a [Process], begun: Begun, settings: &Settings) -> Mean<'a> {
    mean(processes, begun, settings, |process| ln_relative(process, settings))
}

/// The absolute test over all its restarts.
pub(super) fn mean_absolute<'a>(
    processes: &'a [Process],
    begun: Begun,
    settings: &Settings,
    metric: &MetricSettings,
) -> Mean<'a> {
    mean(processes, begun, settings, |process| {
        ln_absolute(process, begun, settings, metric)
    })
}

/// What a process's absolute test is held against: the largest max of the steps that it has seen, so that no requests are held against
/// a smaller one than they were allowed.
pub(super) fn max(process: &Process, begun: Begun, metric: &MetricSettings) -> f64 {
    let first = match process.kind {
        ProcessKind::Step => process.index,
        ProcessKind::Run | ProcessKind::Pause => 0,
    };
    metric.max_of(first..begun.steps.max(first.saturating_add(1)))
}

fn mean<'a>(processes: &'a [Process], begun: Begun, settings: &Settings, ln_e: impl Fn(&Process) -> f64) -> Mean<'a> {
    let weighted: Vec<(f64, &Process)> = processes
        .iter()
        .map(|process| (ln_weight(process, settings) + ln_e(process), process))
        .collect();
    let terms = weighted
        .iter()
        .map(|(term, _)| *term)
        .chain([ln_not_begun(begun, settings)]);
    let loudest = weighted
        .iter()
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, process)| *process);
    Mean {
        ln_e: ln_sum(terms),
        loudest,
    }
}

/// One process's evidence that the canary is worse than stable.
pub(super) fn ln_relative(process: &Process, settings: &Settings) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "at most 2^53")]
    let terms: Vec<f64> = process.millionths.iter().map(|sum| *sum as f64 / 1e6).collect();
    ln_mean(&terms, settings.phi())
}

fn ln_absolute(process: &Process, begun: Begun, settings: &Settings, metric: &MetricSettings) -> f64 {
    let Tally { requests, bad } = process.absolute.canary;
    let max = max(process, begun, metric);
    ln_e_absolute(as_f64(requests), as_f64(bad), max, settings.phi())
}

/// ln of a process's share in the mean: 1/4, 1/(2n) for each of n steps, 1/(4k(k+1)) for the k-th hour of pauses.
fn ln_weight(process: &Process, settings: &Settings) -> f64 {
    let index = f64::from(process.index);
    match process.kind {
        ProcessKind::Run => -4_f64.ln(),
        ProcessKind::Step if process.index >= steps(settings) => f64::NEG_INFINITY,
        ProcessKind::Step => -(2.0 * f64::from(steps(settings))).ln(),
        ProcessKind::Pause if process.index == 0 => f64::NEG_INFINITY,
        ProcessKind::Pause => -(4.0 * index * (index + 1.0)).ln(),
    }
}

/// ln of the share of all that have not begun, each of which counts 1.
fn ln_not_begun(begun: Begun, settings: &Settings) -> f64 {
    let (steps, pauses) = (steps(settings), f64::from(begun.pauses));
    let left = f64::from(steps.saturating_sub(begun.steps)) / (2.0 * f64::from(steps));
    (left + 1.0 / (4.0 * (pauses + 1.0))).ln()
}

fn steps(settings: &Settings) -> u32 {
    settings.steps.max(1)
}

fn millionths(value: f64) -> i64 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a cast from a double saturates, and not-a-number is 0"
    )]
    let rounded = (value * 1e6).floor() as i64;
    rounded
}

/// Both together, in the range where counts are exact.
pub(super) fn plus(one: Tally, other: Tally) -> Tally {
    let add = |a: u64, b: u64| a.saturating_add(b).min(1 << 53);
    Tally {
        requests: add(one.requests, other.requests),
        bad: add(one.bad, other.bad),
    }
}

//! How the failure tests' restarts weigh, to the last digit: their shares are 1 together whatever has begun, so that the mean is an e-process.

use stepgate_crds::evidence::{AbsoluteWindow, MetricEvidence, Process, ProcessKind, Tally};

use super::process::{self, Begun, beginning};
use super::*;

fn of_steps(steps: u32) -> Settings {
    Settings {
        phi: 1.0,
        ..Settings::new(vec![MetricSettings::errors()], steps)
    }
}

/// Every process that has begun, none of them with evidence.
fn all(begun: Begun) -> Vec<Process> {
    let steps = (0..begun.steps).map(|index| beginning(ProcessKind::Step, index));
    let pauses = (1..=begun.pauses).map(|index| beginning(ProcessKind::Pause, index));
    [beginning(ProcessKind::Run, 0)]
        .into_iter()
        .chain(steps)
        .chain(pauses)
        .collect()
}

/// A process whose relative test says this, as ln E.
fn saying(kind: ProcessKind, index: u32, ln_e: i64) -> Process {
    let mut process = beginning(kind, index);
    process.millionths.fill(ln_e * 1_000_000);
    process
}

#[track_caller]
fn assert_near(found: f64, wanted: f64) {
    assert!((found - wanted).abs() < 1e-12, "{found}, and not {wanted}");
}

#[test]
fn the_shares_of_all_restarts_are_one_whatever_has_begun() {
    for steps in [1, 3, 4, 9] {
        let settings = of_steps(steps);
        for begun_steps in 0..=steps {
            for pauses in 0..4 {
                let begun = Begun {
                    steps: begun_steps,
                    pauses,
                };
                let processes = all(begun);
                assert_near(process::mean_relative(&processes, begun, &settings).ln_e, 0.0);
                let absolute = process::mean_absolute(&processes, begun, &settings, &settings.metrics[0]);
                assert_near(absolute.ln_e, 0.0);
            }
        }
    }
}

#[test]
fn a_restart_that_was_dropped_counts_nothing_and_one_that_cannot_be_has_no_share() {
    let settings = of_steps(4);
    let begun = Begun { steps: 2, pauses: 2 };
    let without = |at: usize| {
        let mut processes = all(begun);
        processes.remove(at);
        process::mean_relative(&processes, begun, &settings).ln_e
    };
    // Run, two steps of four, the first and the second hour of pauses.
    let shares = [1.0 / 4.0, 1.0 / 8.0, 1.0 / 8.0, 1.0 / 8.0, 1.0 / 24.0];
    for (at, share) in shares.into_iter().enumerate() {
        assert_near(without(at), (1.0_f64 - share).ln());
    }
    let mut strange = all(begun);
    strange.extend([saying(ProcessKind::Step, 4, 90), saying(ProcessKind::Pause, 0, 90)]);
    assert_near(process::mean_relative(&strange, begun, &settings).ln_e, 0.0);
}

#[test]
fn the_restart_that_says_least_by_its_share_makes_place_but_never_the_runs() {
    let settings = of_steps(4);
    let begun = Begun { steps: 3, pauses: 3 };
    let mut evidence = MetricEvidence {
        processes: vec![
            saying(ProcessKind::Run, 0, -9),
            saying(ProcessKind::Step, 0, 9),
            // ln(1/8) + 0, which is less than ln(1/48) + 3.
            saying(ProcessKind::Step, 1, 0),
            saying(ProcessKind::Pause, 1, 9),
            saying(ProcessKind::Pause, 2, 9),
            saying(ProcessKind::Pause, 3, 3),
        ],
        ..MetricEvidence::default()
    };
    process::add(
        &mut evidence,
        beginning(ProcessKind::Step, 2),
        begun,
        &settings,
        &settings.metrics[0],
    );
    let kept: Vec<(ProcessKind, u32)> = evidence
        .processes
        .iter()
        .map(|process| (process.kind, process.index))
        .collect();
    assert_eq!(
        kept,
        [
            (ProcessKind::Run, 0),
            (ProcessKind::Step, 0),
            (ProcessKind::Pause, 1),
            (ProcessKind::Pause, 2),
            (ProcessKind::Pause, 3),
            (ProcessKind::Step, 2),
        ]
    );
}

#[test]
fn what_spoke_against_the_canary_is_forgiven_and_what_spoke_for_it_is_kept() {
    let settings = of_steps(4);
    let begun = Begun { steps: 1, pauses: 0 };
    let with = |bad| {
        let mut process = beginning(ProcessKind::Step, 0);
        process.absolute = AbsoluteWindow {
            canary: Tally { requests: 10_000, bad },
            intervals_with_bad: 3,
        };
        process
    };
    let (guilty, innocent) = (with(500), with(2));
    let mut processes = [guilty.clone(), innocent.clone()];
    process::forgive_absolute(&mut processes, begun, &settings, &settings.metrics[0]);
    assert_eq!(processes[0].absolute, AbsoluteWindow::default());
    assert_eq!(processes[0].relative, guilty.relative);
    assert_eq!(processes[1], innocent);
}

#[test]
fn an_outage_of_stable_that_is_over_leaves_nothing_against_max() {
    let settings = settings();
    let outage = vec![counts((450, 45), (4050, 405)); 3];
    let over = vec![counts((450, 0), (4050, 0)); 12];
    let mut all = outage.clone();
    all.extend(over);
    let before = judged(&intervals(outage), &at(10));
    assert!(before.evidence.metrics[0].stable_over_since.is_some());
    assert!(
        before.explanations[0].ln_absolute > settings.threshold_fail(),
        "{}",
        before.explanations[0]
    );
    let after = judged(&intervals(all), &at(10));
    assert_eq!(after.evidence.metrics[0].stable_over_since, None);
    assert!(after.explanations[0].ln_absolute < 0.0, "{}", after.explanations[0]);
}

#[test]
fn time_without_requests_is_kept_among_the_last_intervals() {
    let mut observations = vec![Observation::Silent; 3];
    observations.push(counts((450, 1), (4050, 4)));
    let kept = &judged(&intervals(observations), &at(10)).evidence.metrics[0];
    assert_eq!(kept.idle_seconds, 0);
    let lengths: Vec<u64> = kept.recent.iter().map(|recent| recent.seconds).collect();
    assert_eq!(lengths, [3 * u64::from(INTERVAL), u64::from(INTERVAL)]);
    assert_eq!(kept.silent_intervals, 0);
}

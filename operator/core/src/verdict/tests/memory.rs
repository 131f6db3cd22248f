//! What is kept of a run between passes, and for how long.

use stepgate_crds::evidence::ProcessKind;

use super::*;

#[test]
fn a_step_starts_its_totals_anew_and_keeps_what_speaks_against_the_version() {
    let settings = settings();
    let first = judged(&repeated(&counts((450, 2), (4050, 4)), 3), &at(10)).evidence;
    let second = enter_step(&first, &settings, 1);
    let kept = &second.metrics[0];
    assert_eq!((kept.step, kept.tripwire), Default::default());
    assert_eq!(kept.processes[0], first.metrics[0].processes[0]);
    assert_eq!(
        kept.processes
            .iter()
            .map(|process| (process.kind, process.index))
            .collect::<Vec<_>>(),
        [(ProcessKind::Run, 0), (ProcessKind::Step, 0), (ProcessKind::Step, 1)]
    );
    // Judging in the new step enters it all the same; entering it again begins no process twice.
    assert_eq!(
        judge(&first, &[], &settings, &Moment { step: 1, ..at(30) }, None).evidence,
        second
    );
    assert_eq!(enter_step(&second, &settings, 1), second);
    assert_eq!(enter_step(&second, &settings, 0).metrics[0].processes, kept.processes);
}

#[test]
fn at_most_six_processes_are_kept_the_runs_among_them() {
    let settings = Settings::new(vec![MetricSettings::errors()], 9);
    let mut evidence = start();
    for step in 0..9 {
        evidence = enter_step(&evidence, &settings, step);
    }
    let paused = Moment {
        step: 8,
        paused: Some(2),
        ..at(50)
    };
    evidence = judge(&evidence, &[], &settings, &paused, None).evidence;
    let kept = &evidence.metrics[0].processes;
    assert_eq!(kept.len(), 6);
    assert_eq!(kept[0].kind, ProcessKind::Run);
    assert_eq!((kept[5].kind, kept[5].index), (ProcessKind::Pause, 2));
    assert_eq!((evidence.steps_begun, evidence.pauses_begun), (9, 2));
}

#[test]
fn a_step_that_the_run_does_not_have_begins_nothing() {
    let entered = enter_step(&start(), &settings(), settings().steps);
    assert_eq!(entered.metrics[0].processes.len(), 1);
    assert_eq!(entered.steps_begun, start().steps_begun);
}

#[test]
fn an_interval_that_ends_when_the_weight_is_accepted_is_of_before_it() {
    let all_bad = |k| vec![interval(k, vec![counts((450, 450), (4050, 4))])];
    let with = |k| {
        let begun = begin(&settings(), ACCEPTED - 1_000);
        let moment = Moment {
            counts_from: ACCEPTED + 60,
            ..at(10)
        };
        judge(&begun, &all_bad(k), &settings(), &moment, None).verdict.reason()
    };
    assert_eq!((with(0), with(1)), ("InsufficientTraffic", "Tripwire"));
}

#[test]
fn what_ended_before_the_run_began_is_not_counted() {
    let new = repeated(&counts((450, 1), (4050, 4)), 3);
    let begun = begin(&settings(), ACCEPTED + i64::from(INTERVAL));
    let kept = judge(&begun, &new, &settings(), &at(10), None).evidence;
    assert_eq!(kept.metrics[0].step.canary.requests, 900);
}

#[test]
fn an_interval_handed_in_twice_or_out_of_order_counts_once_and_in_order() {
    let new = intervals(vec![counts((450, 1), (4050, 4)), counts((450, 7), (4050, 3)), error()]);
    let once = judged(&new, &at(10));
    let mut shuffled = new.clone();
    shuffled.reverse();
    assert_eq!(judged(&shuffled, &at(10)), once);
    assert_eq!(judge(&once.evidence, &new, &settings(), &at(10), None), once);
}

#[test]
fn evidence_of_two_metrics_stays_under_seven_kibibytes_and_survives_json() {
    let settings = Settings::new(two_metrics().metrics, 9);
    let mut evidence = begin(&settings, ACCEPTED);
    let mut now = 0;
    for step in 0..9 {
        let moment = Moment { step, ..at(50) };
        let new: Vec<Interval> = (1..=40)
            .map(|k| {
                let busy = counts((1_234_567, 9_876), (1_345_678, 12_345));
                interval(now + k, vec![busy.clone(), if k == 40 { error() } else { busy }])
            })
            .collect();
        now += 40;
        evidence = judge(&evidence, &new, &settings, &moment, None).evidence;
    }
    let json = serde_json::to_string(&evidence).unwrap();
    assert!(json.len() < 7 * 1024, "{} bytes: {json}", json.len());
    assert!(!json.contains('.'), "no floats: {json}");
    assert_eq!(serde_json::from_str::<Evidence>(&json).unwrap(), evidence);
    assert_eq!(serde_json::from_str::<Evidence>("{}").unwrap(), Evidence::default());
}

//! What the verdict promises, case by case; `properties` and `simulation` beside it say what holds always and how fast it is.

mod properties;
mod simulation;

use stepgate_crds::evidence::{Evidence, ProcessKind};

use super::*;

const INTERVAL: u32 = 15;
const ACCEPTED: i64 = 1_000_000;

fn arm(requests: u32, bad: u32) -> Arm {
    Arm {
        requests: requests.into(),
        bad: bad.into(),
    }
}

fn counts(canary: (u32, u32), stable: (u32, u32)) -> Observation {
    Observation::Counts(Counts {
        canary: arm(canary.0, canary.1),
        stable: arm(stable.0, stable.1),
    })
}

fn error() -> Observation {
    Observation::Error(DataError("the source answered 503".to_owned()))
}

/// The k-th interval (from 1) after the acceptance.
fn interval(k: i64, metrics: Vec<Observation>) -> Interval {
    Interval {
        end: ACCEPTED + k * i64::from(INTERVAL),
        seconds: INTERVAL,
        metrics,
    }
}

fn intervals(observations: Vec<Observation>) -> Vec<Interval> {
    (1..)
        .zip(observations)
        .map(|(k, observation)| interval(k, vec![observation]))
        .collect()
}

fn repeated(observation: &Observation, times: usize) -> Vec<Interval> {
    intervals(vec![observation.clone(); times])
}

fn settings() -> Settings {
    Settings::new(vec![MetricSettings::errors()], 4)
}

fn two_metrics() -> Settings {
    let latency = MetricSettings {
        name: "latency".to_owned(),
        min_effect: 0.01,
        ratio: 1.25,
        ..MetricSettings::errors()
    };
    Settings::new(vec![MetricSettings::errors(), latency], 4)
}

fn at(weight_percent: u32) -> Moment {
    Moment {
        weight_percent,
        accepted: Some(ACCEPTED),
        counts_from: ACCEPTED,
        ..Moment::default()
    }
}

fn start() -> Evidence {
    begin(&settings(), ACCEPTED)
}

fn judged(new: &[Interval], moment: &Moment) -> Judgement {
    judge(&start(), new, &settings(), moment, None)
}

#[track_caller]
fn assert_reason(judgement: &Judgement, name: &str, reason: &str) {
    let verdict = &judgement.verdict;
    assert_eq!(
        (verdict.name(), verdict.reason()),
        (name, reason),
        "{verdict}\n{}",
        judgement.explanations[0]
    );
}

#[test]
fn each_verdict_and_each_hold_is_reached_and_says_why() {
    let healthy = counts((450, 0), (4050, 4));
    let cases: Vec<(&str, Vec<Interval>, u32, &str, &str)> = vec![
        (
            "five per cent against a tenth",
            repeated(&counts((450, 23), (4050, 4)), 1),
            10,
            "Fail",
            "OverMax",
        ),
        (
            "every request bad",
            repeated(&counts((450, 450), (4050, 4)), 1),
            10,
            "Fail",
            "Tripwire",
        ),
        (
            "every request bad, alone",
            repeated(&counts((450, 450), (0, 0)), 1),
            100,
            "Fail",
            "Tripwire",
        ),
        (
            "over max without stable",
            repeated(&counts((4500, 150), (0, 0)), 2),
            100,
            "Fail",
            "OverMax",
        ),
        ("enough data", repeated(&healthy, 3), 10, "Pass", "Pass"),
        (
            "enough data, alone",
            repeated(&counts((4500, 4), (0, 0)), 1),
            100,
            "Pass",
            "Pass",
        ),
        ("one interval", repeated(&healthy, 1), 10, "Hold", "InsufficientTraffic"),
        ("nothing yet", vec![], 10, "Hold", "InsufficientTraffic"),
        ("no traffic", repeated(&Observation::Silent, 3), 10, "Hold", "NoData"),
        (
            "no traffic, series there",
            repeated(&counts((0, 0), (0, 0)), 3),
            10,
            "Hold",
            "NoData",
        ),
        (
            "no canary by the weight",
            repeated(&counts((0, 0), (4500, 4)), 1),
            0,
            "Hold",
            "NoData",
        ),
        (
            "unreadable",
            intervals(vec![healthy.clone(), error()]),
            10,
            "Hold",
            "MetricsUnavailable",
        ),
        (
            "few requests, no canary series yet",
            repeated(&silent(3), 20),
            10,
            "Hold",
            "InsufficientTraffic",
        ),
        (
            "canary silent",
            repeated(&silent(4050), 2),
            10,
            "Retreat",
            "CanarySilent",
        ),
        (
            "canary silent, series there",
            repeated(&counts((0, 0), (4050, 4)), 2),
            10,
            "Retreat",
            "CanarySilent",
        ),
        (
            "both bad after the rise",
            repeated(&counts((2250, 112), (2250, 112)), 2),
            50,
            "Retreat",
            "SharedFault",
        ),
        (
            "the fix",
            repeated(&counts((30, 0), (270, 14)), 4),
            10,
            "Hold",
            "StableIsWorse",
        ),
        (
            "wrong share",
            repeated(&counts((4000, 4), (500, 0)), 2),
            10,
            "Hold",
            "ShareMismatch",
        ),
        (
            "more bad than requests",
            repeated(&counts((10, 0), (90, 91)), 4),
            10,
            "Hold",
            "Inconsistent",
        ),
    ];
    for (what, new, weight, name, reason) in cases {
        let judgement = judged(&new, &at(weight));
        let verdict = &judgement.verdict;
        assert_eq!(
            (verdict.name(), verdict.reason()),
            (name, reason),
            "{what}: {verdict}\n{}",
            judgement.explanations[0]
        );
    }
}

fn silent(stable: u32) -> Observation {
    Observation::CanarySilent { stable: arm(stable, 0) }
}

#[test]
fn a_version_worse_than_a_stable_well_under_max_fails_relative_to_it() {
    // 0.1 % to 0.7 %, under a max of 1 %: only the comparison can see it.
    let new = repeated(&counts((2000, 14), (2000, 2)), 8);
    let judgement = judged(&new, &at(50));
    assert_reason(&judgement, "Fail", "WorseThanStable");
    let text = judgement.verdict.to_string();
    assert!(
        text.starts_with(
            "errors: worse than stable: canary 112 of 16,000 bad (0.7 %), stable 16 of 16,000 bad (0.1 %)"
        ),
        "{text}"
    );
}

#[test]
fn bad_requests_of_one_interval_fail_only_when_overwhelming() {
    let one = counts((60, 9), (3000, 0));
    assert_eq!(judged(&repeated(&one, 1), &at(10)).verdict.name(), "Hold");
    assert_eq!(judged(&repeated(&one, 2), &at(10)).verdict.name(), "Fail");
    assert_eq!(
        judged(&repeated(&counts((60, 10), (3000, 0)), 1), &at(10))
            .verdict
            .name(),
        "Fail"
    );
}

#[test]
fn an_unreadable_metric_does_not_hide_the_failure_of_another() {
    let new = vec![interval(1, vec![error(), counts((450, 100), (4050, 4))])];
    let judgement = judge(&begin(&two_metrics(), ACCEPTED), &new, &two_metrics(), &at(10), None);
    assert_eq!(judgement.verdict.name(), "Fail", "{}", judgement.verdict);
    assert!(judgement.verdict.to_string().starts_with("latency: "));
    assert_eq!(judgement.evidence.metrics[0].unreadable, 1);
}

#[test]
fn a_pass_needs_every_metric() {
    let good = counts((1500, 1), (3000, 3));
    let new = vec![interval(1, vec![good.clone(), counts((20, 0), (40, 0))])];
    let judgement = judge(&begin(&two_metrics(), ACCEPTED), &new, &two_metrics(), &at(33), None);
    assert!(
        matches!(&judgement.verdict, Verdict::Hold(HoldReason::InsufficientTraffic { metric, .. }) if metric == "latency"),
        "{}",
        judgement.verdict
    );
    let new = vec![interval(1, vec![good.clone(), good])];
    assert_eq!(
        judge(&begin(&two_metrics(), ACCEPTED), &new, &two_metrics(), &at(33), None).verdict,
        Verdict::Pass
    );
}

#[test]
fn a_pass_waits_while_the_newest_interval_or_the_source_cannot_be_read() {
    let good = counts((1500, 1), (3000, 3));
    let passing = intervals(vec![good.clone(), good.clone()]);
    assert_eq!(judged(&passing, &at(33)).verdict, Verdict::Pass);
    let moment = Moment {
        unavailable: Some("connection refused".to_owned()),
        ..at(33)
    };
    assert_reason(&judged(&passing, &moment), "Hold", "MetricsUnavailable");
    let broken = intervals(vec![good.clone(), error()]);
    assert_reason(&judged(&broken, &at(33)), "Hold", "MetricsUnavailable");
    let mended = intervals(vec![good.clone(), error(), good]);
    assert_eq!(judged(&mended, &at(33)).verdict, Verdict::Pass);
    let failing = repeated(&counts((450, 100), (4050, 4)), 1);
    assert_eq!(judged(&failing, &moment).verdict.name(), "Fail");
}

#[test]
fn three_requests_a_minute_hold_with_n_of_about_m_and_a_time() {
    // 0.75 requests an interval, a tenth of them to the canary: the first canary request comes late.
    let pattern = [
        counts((0, 0), (1, 0)),
        counts((0, 0), (1, 0)),
        Observation::Silent,
        counts((0, 0), (1, 0)),
    ];
    let mut observations: Vec<Observation> = pattern.iter().cycle().take(20).cloned().collect();
    let before = judged(&intervals(observations.clone()), &at(10));
    let Verdict::Hold(HoldReason::InsufficientTraffic {
        have: 0,
        need: Some(need),
        eta: Some(eta),
        ..
    }) = before.verdict
    else {
        panic!("{}", before.verdict)
    };
    // 0.1 × 3 requests a minute.
    let expected = f64::from(u32::try_from(need).unwrap()) / 0.3 * 60.0;
    assert!(
        (f64::from(u32::try_from(eta).unwrap()) / expected - 1.0).abs() < 0.2,
        "{eta} for {expected}"
    );
    assert!((900..1300).contains(&need), "{need}");

    observations.extend([counts((1, 0), (0, 0)), Observation::Silent]);
    let after = judged(&intervals(observations), &at(10));
    let text = after.verdict.to_string();
    assert!(
        text.starts_with("errors: 1 of about 1,0") && text.ends_with("to go"),
        "{text}"
    );
    assert_reason(&after, "Hold", "InsufficientTraffic");
}

#[test]
fn a_bad_share_near_the_max_is_said_to_be_beyond_telling() {
    let judgement = judged(&repeated(&counts((500, 5), (500, 5)), 20), &at(50));
    assert!(matches!(
        judgement.verdict,
        Verdict::Hold(HoldReason::InsufficientTraffic { need: None, .. })
    ));
    assert!(judgement.verdict.to_string().contains("too near the max"));
}

#[test]
fn traffic_that_stops_becomes_no_data_and_at_full_weight_a_retreat() {
    let mut observations = vec![counts((20, 0), (180, 0)); 5];
    observations.extend(vec![Observation::Silent; 3]);
    assert_reason(&judged(&intervals(observations), &at(10)), "Hold", "NoData");

    let mut observations = vec![counts((20, 0), (0, 0)); 5];
    observations.extend(vec![Observation::Silent; 3]);
    assert_reason(&judged(&intervals(observations), &at(100)), "Retreat", "CanarySilent");

    let mut sparse = vec![counts((1, 0), (0, 0)); 2];
    sparse.extend(vec![Observation::Silent; 30]);
    assert_reason(&judged(&intervals(sparse), &at(100)), "Hold", "NoData");
}

#[test]
fn the_restarts_of_containers_fail_from_two_on_and_above_stables_rate() {
    let restarts = |canary, canary_hours, stable, stable_hours| {
        let restarts = Restarts {
            canary_error_exits: canary,
            canary_pod_hours: canary_hours,
            stable_error_exits: stable,
            stable_pod_hours: stable_hours,
        };
        judge(&start(), &[], &settings(), &at(10), Some(restarts))
            .verdict
            .reason()
    };
    assert_eq!(restarts(2, 0.1, 0, 1.0), "Restarts");
    assert_eq!(restarts(2, 0.0, 0, 0.0), "Restarts");
    assert_eq!(restarts(1, 0.1, 0, 1.0), "InsufficientTraffic");
    assert_eq!(restarts(2, 1.0, 30, 10.0), "InsufficientTraffic");
    assert_eq!(restarts(2, f64::NAN, 0, f64::NAN), "Restarts");
}

#[test]
fn intervals_around_the_acceptance_feed_the_tripwire_only() {
    let moment = Moment {
        counts_from: ACCEPTED + 20,
        ..at(10)
    };
    let good = counts((450, 0), (4050, 4));
    let judgement = judged(&repeated(&good, 3), &moment);
    // The first ends, the second begins before the settle time is over; the first also ends after the acceptance.
    assert_eq!(judgement.evidence.metrics[0].step.canary.requests, 450);
    assert_eq!(judgement.evidence.metrics[0].tripwire.canary.requests, 1350);
    assert_reason(
        &judged(&repeated(&counts((450, 60), (4050, 4)), 2), &moment),
        "Hold",
        "InsufficientTraffic",
    );
    assert_reason(
        &judged(&repeated(&counts((45, 45), (4050, 4)), 1), &moment),
        "Fail",
        "Tripwire",
    );

    let unaccepted = Moment {
        accepted: None,
        ..at(10)
    };
    let judgement = judged(&repeated(&counts((45, 45), (4050, 4)), 3), &unaccepted);
    assert_reason(&judgement, "Hold", "InsufficientTraffic");
    assert_eq!(judgement.evidence.through, ACCEPTED + 45);
}

#[test]
fn the_tripwire_sees_a_break_after_long_health_but_not_an_outage_of_both() {
    let mut observations = vec![counts((450, 0), (4050, 4)); 40];
    observations.push(counts((450, 400), (4050, 4)));
    assert_reason(&judged(&intervals(observations.clone()), &at(10)), "Fail", "Tripwire");
    observations.pop();
    observations.push(counts((450, 400), (4050, 3600)));
    assert_ne!(judged(&intervals(observations), &at(10)).verdict.name(), "Fail");
}

#[test]
fn a_fault_of_both_that_begins_in_mid_step_holds_then_retreats_and_leaves_nothing_behind() {
    let good = counts((450, 0), (1050, 1));
    let both_bad = counts((450, 23), (1050, 52));
    let mut observations = vec![good.clone(); 20];
    for length in 1..=39 {
        observations.push(both_bad.clone());
        let judgement = judged(&intervals(observations.clone()), &at(30));
        assert_ne!(judgement.verdict.name(), "Fail", "{length}: {}", judgement.verdict);
        if length == 5 {
            assert_reason(&judgement, "Hold", "SharedFault");
        }
    }
    let mut lasting = observations.clone();
    lasting.extend(vec![both_bad; 4]);
    assert_reason(&judged(&intervals(lasting), &at(30)), "Retreat", "SharedFault");
    for length in 1..=20 {
        observations.push(good.clone());
        let judgement = judged(&intervals(observations.clone()), &at(30));
        assert_ne!(
            judgement.verdict.name(),
            "Fail",
            "{length} after: {}",
            judgement.verdict
        );
    }
    assert_eq!(judged(&intervals(observations), &at(30)).verdict, Verdict::Pass);
}

#[test]
fn a_break_at_full_weight_is_seen_at_once_after_long_health() {
    // The restart of the step: over the whole run alone it would be minutes.
    let mut evidence = start();
    let mut moment = at(10);
    let mut now = 0;
    for (step, canary, stable) in [(0, 450, 4050), (1, 1350, 3150), (2, 2250, 2250)] {
        moment.step = step;
        for _ in 0..40 {
            now += 1;
            let new = [interval(
                now,
                vec![counts((canary, canary / 1000), (stable, stable / 1000))],
            )];
            evidence = judge(&evidence, &new, &settings(), &moment, None).evidence;
        }
    }
    moment.step = 3;
    moment.weight_percent = 100;
    let broken = |k| interval(now + k, vec![counts((4500, 90), (0, 0))]);
    let judgement = judge(&evidence, &[broken(1), broken(2)], &settings(), &moment, None);
    assert_reason(&judgement, "Fail", "OverMax");
}

#[test]
fn promoting_listens_to_the_canary_alone() {
    let promoting = Moment {
        promoting: true,
        ..at(100)
    };
    assert_reason(
        &judged(&repeated(&counts((450, 0), (0, 0)), 3), &promoting),
        "Pass",
        "Pass",
    );
    assert_reason(
        &judged(&repeated(&counts((450, 23), (450, 23)), 2), &promoting),
        "Fail",
        "OverMax",
    );
    assert_eq!(
        judged(&repeated(&counts((2000, 14), (2000, 2)), 8), &promoting)
            .evidence
            .metrics[0]
            .step
            .stable
            .requests,
        0
    );
    assert_ne!(
        judged(&repeated(&counts((2000, 14), (2000, 2)), 8), &promoting)
            .verdict
            .name(),
        "Fail"
    );
    assert_eq!(judged(&repeated(&silent(4000), 8), &promoting).verdict.name(), "Hold");
}

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

#[test]
fn sentences_read_in_words_and_numbers() {
    let judgement = judged(&repeated(&counts((450, 23), (4050, 4)), 1), &at(10));
    let text = judgement.verdict.to_string();
    assert!(
        text.starts_with("errors: over the max of 1 %: canary 23 of 450 bad (5.1 %); evidence "),
        "{text}"
    );
    assert!(text.ends_with(" against 5.30"), "{text}");
    let text = judgement.explanations[0].to_string();
    assert!(
        text.starts_with("errors: canary 23 of 450 bad (5.1 %), stable 4 of 4,050 bad (0.1 %); evidence"),
        "{text}"
    );
}

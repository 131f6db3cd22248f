//! What the verdict promises, case by case; beside it `course` (over time), `explain` (the numbers for people), `latency` (the second metric),
//! `memory` (what is kept), `own` (the user's own queries), `properties` (what holds always), `restarts` (their shares), `sentences` (to the
//! letter), `shared` (what both versions suffer from, and what comes in clumps) and `simulation` (how fast and how safe).

mod course;
mod edges;
mod explain;
mod latency;
mod memory;
mod own;
mod properties;
mod restarts;
mod sentences;
mod shared;
mod simulation;

use stepgate_crds::evidence::{Evidence, Trouble};

use super::*;

const INTERVAL: u32 = 15;
pub(crate) const ACCEPTED: i64 = 1_000_000;

fn arm(requests: u32, bad: u32) -> Arm {
    Arm {
        requests: requests.into(),
        bad: bad.into(),
    }
}

pub(crate) fn counts(canary: (u32, u32), stable: (u32, u32)) -> Observation {
    Observation::Counts(Counts {
        canary: arm(canary.0, canary.1),
        stable: arm(stable.0, stable.1),
    })
}

fn error() -> Observation {
    Observation::Error(DataError::unreadable("the source answered 503"))
}

/// The k-th interval (from 1) after the acceptance.
pub(crate) fn interval(k: i64, metrics: Vec<Observation>) -> Interval {
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
    Settings::new(vec![MetricSettings::errors(), MetricSettings::latency(0.01)], 4)
}

pub(crate) fn at(weight_percent: u32) -> Moment {
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

type Row = (&'static str, Vec<Interval>, u32, &'static str);

#[track_caller]
fn assert_rows(name: &str, rows: Vec<Row>) {
    for (what, new, weight, reason) in rows {
        let judgement = judged(&new, &at(weight));
        let verdict = &judgement.verdict;
        let why = &judgement.explanations[0];
        assert_eq!(
            (verdict.name(), verdict.reason()),
            (name, reason),
            "{what}: {verdict}\n{why}"
        );
    }
}

#[test]
fn what_is_proven_fails_or_passes() {
    let fails: Vec<Row> = vec![
        (
            "five per cent against a tenth",
            repeated(&counts((450, 23), (4050, 4)), 1),
            10,
            "OverMax",
        ),
        (
            "every request bad",
            repeated(&counts((450, 450), (4050, 4)), 1),
            10,
            "Tripwire",
        ),
        (
            "every request bad, alone",
            repeated(&counts((450, 450), (0, 0)), 1),
            100,
            "Tripwire",
        ),
        (
            "over max without stable",
            repeated(&counts((4500, 150), (0, 0)), 2),
            100,
            "OverMax",
        ),
    ];
    assert_rows("Fail", fails);
    let passes: Vec<Row> = vec![
        ("enough data", repeated(&counts((450, 0), (4050, 4)), 3), 10, "Pass"),
        (
            "enough data, alone",
            repeated(&counts((4500, 4), (0, 0)), 1),
            100,
            "Pass",
        ),
        (
            "a proven fix of a bad stable",
            repeated(&counts((450, 0), (450, 23)), 3),
            50,
            "Pass",
        ),
    ];
    assert_rows("Pass", passes);
}

#[test]
fn what_is_no_proof_holds_or_retreats_and_says_why() {
    let healthy = counts((450, 0), (4050, 4));
    let holds: Vec<Row> = vec![
        ("one interval", repeated(&healthy, 1), 10, "InsufficientTraffic"),
        ("nothing yet", vec![], 10, "InsufficientTraffic"),
        (
            "few requests, no canary series yet",
            repeated(&silent(3), 20),
            10,
            "InsufficientTraffic",
        ),
        ("no traffic", repeated(&Observation::Silent, 3), 10, "NoData"),
        (
            "no traffic, series there",
            repeated(&counts((0, 0), (0, 0)), 3),
            10,
            "NoData",
        ),
        (
            "no canary by the weight",
            repeated(&counts((0, 0), (4500, 4)), 1),
            0,
            "NoData",
        ),
        (
            "unreadable",
            intervals(vec![healthy, error()]),
            10,
            "MetricsUnavailable",
        ),
        ("not a number", repeated(&counts_of(f64::NAN), 1), 10, "NotACount"),
        (
            "a fix, not proven yet",
            repeated(&counts((30, 0), (270, 14)), 4),
            10,
            "StableIsWorse",
        ),
        (
            "wrong share",
            repeated(&counts((4000, 4), (500, 0)), 2),
            10,
            "ShareMismatch",
        ),
        (
            "more bad than requests",
            repeated(&counts((10, 0), (90, 91)), 4),
            10,
            "Inconsistent",
        ),
    ];
    assert_rows("Hold", holds);
    let retreats: Vec<Row> = vec![
        ("canary silent", repeated(&silent(4050), 2), 10, "CanarySilent"),
        (
            "canary silent, series there",
            repeated(&counts((0, 0), (4050, 4)), 2),
            10,
            "CanarySilent",
        ),
        (
            "both bad after the rise",
            repeated(&counts((2250, 112), (2250, 112)), 2),
            50,
            "SharedFault",
        ),
    ];
    assert_rows("Retreat", retreats);
}

fn counts_of(requests: f64) -> Observation {
    Observation::Counts(Counts {
        canary: Arm { requests, bad: 0.0 },
        stable: arm(4050, 4),
    })
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
        unavailable: Some(DataError {
            kind: Trouble::SourceUnreachable,
            detail: "connection refused".to_owned(),
        }),
        ..at(33)
    };
    assert_reason(&judged(&passing, &moment), "Hold", "SourceUnreachable");
    let broken = intervals(vec![good.clone(), error()]);
    assert_reason(&judged(&broken, &at(33)), "Hold", "MetricsUnavailable");
    let mended = intervals(vec![good.clone(), error(), good]);
    assert_eq!(judged(&mended, &at(33)).verdict, Verdict::Pass);
    let failing = repeated(&counts((450, 100), (4050, 4)), 1);
    assert_eq!(judged(&failing, &moment).verdict.name(), "Fail");
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

/// Error exits and pod-hours of both versions, and nothing else.
fn restarted(canary: u32, canary_hours: f64, stable: u32, stable_hours: f64) -> Verdict {
    let restarts = Restarts {
        canary_error_exits: canary,
        canary_pod_hours: canary_hours,
        stable_error_exits: stable,
        stable_pod_hours: stable_hours,
    };
    judge(&start(), &[], &settings(), &at(10), Some(restarts)).verdict
}

#[test]
fn the_restarts_of_containers_fail_from_two_on_and_above_stables_rate() {
    let restarts =
        |canary, canary_hours, stable, stable_hours| restarted(canary, canary_hours, stable, stable_hours).reason();
    assert_eq!(restarts(2, 0.1, 0, 1.0), "Restarts");
    assert_eq!(restarts(2, 0.0, 0, 0.0), "Restarts");
    assert_eq!(restarts(1, 0.1, 0, 1.0), "InsufficientTraffic");
    assert_eq!(restarts(2, 1.0, 30, 10.0), "InsufficientTraffic");
    assert_eq!(restarts(2, f64::NAN, 0, f64::NAN), "Restarts");
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

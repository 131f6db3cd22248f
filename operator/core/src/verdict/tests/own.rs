//! The user's own queries: what fails, what holds, and that they hide nothing and are hidden by nothing.

use stepgate_crds::evidence::Trouble;

use super::*;

fn queue(failure_limit: u32) -> QuerySettings {
    QuerySettings {
        name: "queue-depth".to_owned(),
        max: Some(100.0),
        min: None,
        failure_limit,
    }
}

fn with(queries: Vec<QuerySettings>) -> Settings {
    Settings { queries, ..settings() }
}

/// Intervals that pass by their counts, with these numbers.
fn numbers(numbers: &[f64]) -> Vec<Interval> {
    observed(numbers.iter().map(|number| vec![Observation::Value(*number)]).collect())
}

fn observed(own: Vec<Vec<Observation>>) -> Vec<Interval> {
    let well = || counts((450, 0), (4050, 4));
    (1..)
        .zip(own)
        .map(|(k, own)| interval(k, [well()].into_iter().chain(own).collect()))
        .collect()
}

fn nothing(kind: Trouble) -> Observation {
    Observation::Error(DataError {
        kind,
        detail: "what came back".to_owned(),
    })
}

fn judged_by(settings: &Settings, new: &[Interval], moment: &Moment) -> Judgement {
    judge(&begin(settings, ACCEPTED), new, settings, moment, None)
}

#[track_caller]
fn assert_said(settings: &Settings, new: &[Interval], name: &str, said: &str) {
    let verdict = judged_by(settings, new, &at(10)).verdict;
    assert_eq!((verdict.name(), verdict.to_string()), (name, said.to_owned()));
}

#[test]
fn a_number_within_its_bounds_lets_a_step_pass() {
    let passes = |settings: &Settings, number: f64| {
        let judgement = judged_by(settings, &numbers(&[number; 4]), &at(10));
        judgement.verdict == Verdict::Pass
    };
    let max = with(vec![queue(3)]);
    assert!(passes(&max, 100.0) && passes(&max, -1e300));
    assert!(!passes(&max, 100.000_1));
    let min = QuerySettings {
        max: None,
        min: Some(0.5),
        ..queue(3)
    };
    let min = with(vec![min]);
    assert!(passes(&min, 0.5) && passes(&min, 7.0));
    assert!(!passes(&min, 0.499_9));
}

#[test]
fn so_many_numbers_out_of_bounds_in_a_row_fail_and_fewer_hold() {
    let settings = with(vec![queue(3)]);
    let said = "query queue-depth: 120.5 is over the max of 100, in ";
    assert_said(
        &settings,
        &numbers(&[1.0, 1.0, 1.0, 120.5]),
        "Hold",
        &format!("{said}1 of the 3 intervals in a row that fail the version"),
    );
    assert_said(
        &settings,
        &numbers(&[101.0, 102.0, 120.5]),
        "Fail",
        &format!("{said}3 intervals in a row"),
    );
    // One within them begins a new row.
    let judgement = judged_by(&settings, &numbers(&[101.0, 101.0, 99.0, 101.0, 101.0]), &at(10));
    assert_reason(&judgement, "Hold", "QueryOutOfBounds");
    assert_eq!(judgement.queries[0].failures, 2);
    let once = with(vec![QuerySettings {
        min: Some(5.0),
        ..queue(1)
    }]);
    assert_said(
        &once,
        &numbers(&[4.0]),
        "Fail",
        "query queue-depth: 4 is under the min of 5",
    );
    let tiny = with(vec![QuerySettings {
        max: Some(1e-9),
        ..queue(1)
    }]);
    assert_said(
        &tiny,
        &numbers(&[1e300]),
        "Fail",
        "query queue-depth: 1e300 is over the max of 1e-9",
    );
}

#[test]
fn without_a_number_it_holds_with_a_reason_of_its_own_and_neither_counts_nor_begins_anew() {
    let settings = with(vec![queue(3)]);
    for kind in [
        Trouble::QueryNoData,
        Trouble::QueryNotFinite,
        Trouble::QueryResultSeries,
        Trouble::QueryResultType,
        Trouble::QueryRejected,
        Trouble::QueryRefused,
        Trouble::SourceTimeout,
    ] {
        let own = vec![vec![Observation::Value(1.0)], vec![nothing(kind)]];
        let judgement = judged_by(&settings, &observed(own), &at(10));
        assert_reason(&judgement, "Hold", kind.reason());
        let Verdict::Hold(reason) = &judgement.verdict else {
            unreachable!()
        };
        assert!(reason.is_no_data() && !reason.is_too_little());
        let said = reason.to_string();
        assert!(said.ends_with("query queue-depth: what came back"), "{said}");
    }
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let judgement = judged_by(&settings, &numbers(&[1.0, 1.0, 1.0, number]), &at(10));
        assert_reason(&judgement, "Hold", "QueryNotFinite");
    }
    let row = |gaps: usize| {
        let out = || vec![Observation::Value(101.0)];
        let mut own = vec![out(), out()];
        own.extend(vec![vec![nothing(Trouble::QueryNoData)]; gaps]);
        own.push(out());
        judged_by(&settings, &observed(own), &at(10)).verdict
    };
    assert_eq!((row(0).name(), row(5).name()), ("Fail", "Fail"));
    // What the sampler did not hand over is no number either.
    let missing = judged_by(&settings, &observed(vec![vec![]; 4]), &at(10));
    assert_reason(&missing, "Hold", "MetricsUnavailable");
    let counted = judged_by(&settings, &observed(vec![vec![counts((1, 0), (1, 0))]; 4]), &at(10));
    assert_reason(&counted, "Hold", "MetricsUnavailable");
}

#[test]
fn a_query_hides_no_failure_and_is_hidden_by_nothing() {
    let other = QuerySettings {
        name: "lag".to_owned(),
        ..queue(3)
    };
    let settings = with(vec![queue(3), other]);
    // One query has no data, the other fails.
    let own = vec![vec![nothing(Trouble::QueryNoData), Observation::Value(200.0)]; 3];
    let failed = judged_by(&settings, &observed(own.clone()), &at(10));
    assert_reason(&failed, "Fail", "QueryOutOfBounds");
    assert!(
        failed.verdict.to_string().starts_with("query lag: 200"),
        "{}",
        failed.verdict
    );
    // The counts cannot be read, and the source is gone by now.
    let mut blind = observed(own);
    for interval in &mut blind {
        interval.metrics[0] = error();
    }
    let gone = Moment {
        unavailable: Some(DataError::unreadable("gone")),
        ..at(10)
    };
    assert_reason(&judged_by(&settings, &blind, &gone), "Fail", "QueryOutOfBounds");
    // Errors fail although no query has a number, and before a query that fails as well.
    for own in [nothing(Trouble::QueryNoData), Observation::Value(200.0)] {
        let bad = (1..=4).map(|k| interval(k, vec![counts((450, 300), (4050, 4)), own.clone(), own.clone()]));
        assert_reason(
            &judged_by(&settings, &bad.collect::<Vec<_>>(), &at(10)),
            "Fail",
            "Tripwire",
        );
    }
}

#[test]
fn a_row_is_kept_wherever_a_commit_falls_and_begins_anew_with_a_step() {
    let settings = with(vec![queue(3)]);
    let all = numbers(&[101.0, 99.0, 101.0, 102.0, 103.0]);
    let at_once = judged_by(&settings, &all, &at(10));
    for cut in 0..=all.len() {
        let before = judged_by(&settings, &all[..cut], &at(10)).evidence;
        // As it comes back from the API server.
        let text = serde_json::to_string(&before).unwrap();
        let kept: Evidence = serde_json::from_str(&text).unwrap();
        let after = judge(&kept, &all, &settings, &at(10), None);
        assert_eq!(
            (after.verdict, after.evidence),
            (at_once.verdict.clone(), at_once.evidence.clone()),
            "cut {cut}"
        );
    }
    let two = judged_by(&settings, &all[..4], &at(10)).evidence;
    assert_eq!(two.queries[0].failures, 2);
    let next = enter_step(&two, &settings, 1);
    assert_eq!((next.queries[0].failures, next.queries[0].value.as_deref()), (0, None));
}

#[test]
fn a_step_does_not_pass_before_its_queries_were_read_at_it() {
    // A query that came into the settings after the counts of the step had been folded.
    let passed = judged_by(&settings(), &numbers(&[1.0; 4]), &at(10));
    assert_eq!(passed.verdict, Verdict::Pass);
    let settings = with(vec![queue(3)]);
    let judgement = judge(&passed.evidence, &[], &settings, &at(10), None);
    assert_reason(&judgement, "Hold", "QueryNoData");
}

#[test]
fn where_nothing_is_sent_and_while_the_canary_is_the_whole_side_queries_say_nothing() {
    let settings = with(vec![queue(1)]);
    let out = numbers(&[500.0; 4]);
    for moment in [
        at(0),
        Moment {
            promoting: true,
            ..at(100)
        },
    ] {
        let judgement = judged_by(&settings, &out, &moment);
        assert_ne!(judgement.verdict.reason(), "QueryOutOfBounds");
        assert_eq!(judgement.evidence.queries[0].failures, 0);
    }
    // Nor do intervals that began before the weight was in force, or a row of before.
    let later = Moment {
        counts_from: ACCEPTED + 1_000,
        ..at(10)
    };
    assert_eq!(judged_by(&settings, &out, &later).evidence.queries[0].value, None);
    let row = judged_by(&settings, &out, &at(100)).evidence;
    let promoting = Moment {
        promoting: true,
        ..at(100)
    };
    assert_ne!(judge(&row, &[], &settings, &promoting, None).verdict.name(), "Fail");
    // In a pause it speaks.
    let paused = Moment {
        paused: Some(1),
        ..at(10)
    };
    assert_reason(&judged_by(&settings, &out, &paused), "Fail", "QueryOutOfBounds");
}

#[test]
fn the_numbers_of_each_query_are_told() {
    let settings = with(vec![QuerySettings {
        min: Some(0.5),
        ..queue(3)
    }]);
    let judgement = judged_by(&settings, &numbers(&[1.0, 120.0]), &at(10));
    let text = judgement.numbers();
    assert!(
        text.ends_with("; queue-depth: 120, max 100, min 0.5, out of its bounds in 1 of 3 intervals"),
        "{text}"
    );
    let none = judged_by(&settings, &[], &at(10)).numbers();
    assert!(none.ends_with("; queue-depth: no number, max 100, min 0.5"), "{none}");
}

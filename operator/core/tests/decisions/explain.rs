//! Why a verdict is what it is, in the status and in the Event of every decision.

use serde_json::json;
use stepgate_crds::{RolloutStatus, query::CountQuery, status::MetricReport};

use crate::fixtures::world::{Moment, world};

/// At the second step, judged by errors and latency.
fn judged(counts: [u32; 4], slow: [u32; 2]) -> Moment {
    world()
        .with_spec(json!({"analysis": {"latency": {"threshold": "500ms", "max": "1%"}}}))
        .at_step(2)
        .with_counts(12, counts)
        .with_slow(slow)
        .after(60)
}

fn metrics(status: &RolloutStatus) -> &[MetricReport] {
    &status.run.as_ref().unwrap().metrics
}

fn told(status: &RolloutStatus, reason: &str) -> String {
    let note = status.note.as_ref().unwrap();
    assert_eq!(note.reason, reason, "{}", note.text);
    assert!(note.text.len() <= 503, "{} bytes: {}", note.text.len(), note.text);
    note.text.clone()
}

#[test]
fn the_event_of_a_passed_step_names_counts_and_evidence_of_each_metric() {
    let text = told(&judged([1_000, 0, 2_000, 2], [1, 3]).commits(), "StepPassed");
    assert!(
        text.starts_with(
            "30 % passed; on to 50 % (errors: canary 0 of 12,000 bad (0 %), stable 24 of 24,000 bad (0.1 %); evidence: "
        ),
        "{text}"
    );
    assert!(text.contains("; latency: canary 7 of 7,000 bad (0.1 %), "), "{text}");
    assert!(text.ends_with(" of 3.00)"), "{text}");
}

#[test]
fn the_event_of_a_rollback_names_the_rule_and_each_metric() {
    let status = judged([1_000, 80, 2_000, 2], [1, 3]).commits();
    let text = told(&status, "RollingBack");
    for words in [
        "Verdict: errors: ",
        "(errors: canary 960 of 12,000 bad",
        "; latency: canary ",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let rule = status.run.as_ref().unwrap().rule.as_deref();
    assert!(matches!(rule, Some("OverMax" | "WorseThanStable")), "{rule:?}");
    let errors = &metrics(&status)[0];
    let loudest = errors.relative_evidence.unwrap().max(errors.absolute_evidence.unwrap());
    assert!((errors.fail_evidence - loudest).abs() < 1e-9 && loudest >= errors.fail_threshold);
    assert!(errors.ratio_from.unwrap() > 10.0, "{errors:?}");
}

#[test]
fn the_events_of_an_approval_a_retreat_and_a_promotion_name_each_metric() {
    let good = ([1_000, 0, 2_000, 2], [1, 3]);
    let retreat = judged(good.0, good.1).with(|seen| seen.canary_ready = 0);
    let approval = judged(good.0, good.1)
        .with_run(|run| run.spec.steps[1].approval = Some(stepgate_crds::rollout::Approval::Required));
    let promotion = judged(good.0, good.1).with_run(|run| run.spec.steps.truncate(2));
    for (moment, reason) in [
        (retreat, "Retreated"),
        (approval, "ApprovalRequired"),
        (promotion, "Promoting"),
    ] {
        let text = told(&moment.commits(), reason);
        for words in ["(errors: canary 0 of 12,000 bad", "; latency: canary 7 of 7,000 bad"] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}

#[test]
fn a_hold_has_its_numbers_its_forecast_and_its_queries_in_status() {
    let status = judged([10, 0, 20, 0], [0, 0]).commits();
    assert_eq!(status.verdict.as_deref(), Some("InsufficientTraffic"));
    assert_eq!(
        status.run.as_ref().unwrap().rule.as_deref(),
        Some("InsufficientTraffic")
    );
    let [errors, latency] = metrics(&status) else {
        panic!("{:?}", metrics(&status))
    };
    assert_eq!((errors.canary_requests, errors.max), (120, Some(1.0)));
    let [low, high] = errors.canary_interval.unwrap();
    assert!(low == 0.0 && (4.0..8.0).contains(&high), "{low} to {high}");
    // A request a second.
    let (need, eta) = (errors.need.unwrap(), errors.eta_seconds.unwrap());
    assert!((eta - (need - 120)).abs() <= 1, "{eta} s for {need}");
    let promql = errors.query.as_ref().unwrap().promql(10);
    assert!(
        promql.contains("offset 10s") && promql.contains("\"canary_bad\""),
        "{promql}"
    );
    assert!(latency.query.as_ref().unwrap().promql(10).contains("\"canary_within\""));
}

#[test]
fn queries_that_do_not_fit_are_left_out_and_nothing_else() {
    let long = |length: usize| {
        Some(CountQuery {
            canary_requests: "x".repeat(length),
            canary_bad: String::new(),
            stable_requests: String::new(),
            stable_bad: String::new(),
            targets: Vec::new(),
            within: false,
        })
    };
    for (lengths, kept) in [
        ([100, 100], [true, true]),
        ([100, 15_000], [true, false]),
        ([15_000, 15_000], [false, false]),
    ] {
        let status = judged([10, 0, 20, 0], [0, 0])
            .with(|seen| seen.queries = lengths.into_iter().map(long).collect())
            .commits();
        let found: Vec<bool> = metrics(&status).iter().map(|metric| metric.query.is_some()).collect();
        assert_eq!(found, kept, "{lengths:?}");
        assert!(metrics(&status).iter().all(|metric| metric.need.is_some()));
        assert!(serde_json::to_string(&status).unwrap().len() <= 16 * 1_024);
    }
}

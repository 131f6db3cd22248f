//! The second metric: slow requests, cold pods, and a histogram that is not there.

use stepgate_crds::evidence::Trouble;

use super::*;

fn well() -> Observation {
    counts((450, 0), (4050, 4))
}

/// Well by errors, and so by latency.
fn with_latency(latency: Vec<Observation>) -> Vec<Interval> {
    (1..)
        .zip(latency)
        .map(|(k, latency)| interval(k, vec![well(), latency]))
        .collect()
}

fn judged_both(new: &[Interval], moment: &Moment) -> Judgement {
    judge(&begin(&two_metrics(), ACCEPTED), new, &two_metrics(), moment, None)
}

fn no_boundary() -> Observation {
    Observation::Error(DataError {
        kind: Trouble::NoBucketBoundary,
        detail: "300ms is no bucket boundary of the histogram; there are 250ms, 500ms".to_owned(),
    })
}

#[test]
fn a_canary_that_is_slow_fails_though_no_request_fails() {
    let slow = judged_both(&with_latency(vec![counts((450, 60), (4050, 40)); 2]), &at(10));
    assert_eq!(slow.verdict.name(), "Fail", "{}", slow.verdict);
    assert!(slow.verdict.to_string().starts_with("latency: "), "{}", slow.verdict);
    // A quarter more slow requests than stable's is what cold caches may cost, and so is less than a point.
    let bearable = vec![counts((4500, 50), (40_500, 400)); 8];
    let held = judged_both(&with_latency(bearable), &at(10));
    assert_eq!(held.verdict.name(), "Hold", "{}", held.verdict);
}

#[test]
fn a_pass_needs_both_and_alpha_is_split_between_them() {
    let passed = judged_both(&with_latency(vec![counts((450, 0), (4050, 4)); 4]), &at(10));
    assert_eq!(passed.verdict, Verdict::Pass);
    assert!((two_metrics().threshold_fail() - settings().threshold_fail() - 2_f64.ln()).abs() < 1e-12);
}

#[test]
fn while_the_canary_is_cold_its_latency_alone_does_not_count() {
    let slow = with_latency(vec![counts((450, 300), (4050, 40)); 4]);
    let warm_at = |warm_from: i64| Moment { warm_from, ..at(10) };
    let cold = judged_both(&slow, &warm_at(ACCEPTED + 60));
    assert_eq!(cold.verdict.reason(), "InsufficientTraffic", "{}", cold.verdict);
    assert_eq!(cold.evidence.metrics[0].step.canary.requests, 1_800);
    assert_eq!(cold.evidence.metrics[1].step.canary.requests, 0);
    assert_eq!(cold.evidence.metrics[1].tripwire.canary.requests, 0);
    // The first interval that begins when it is warm counts.
    let warm = judged_both(&slow, &warm_at(ACCEPTED + 45));
    assert_eq!(warm.verdict.reason(), "Tripwire", "{}", warm.verdict);
    // Errors count from the first moment on.
    let failing = (1..3).map(|k| interval(k, vec![counts((450, 300), (4050, 4)), well()]));
    let failed = judged_both(&failing.collect::<Vec<_>>(), &warm_at(ACCEPTED + 600));
    assert_eq!(failed.verdict.reason(), "Tripwire", "{}", failed.verdict);
}

#[test]
fn a_threshold_that_is_no_boundary_holds_with_its_reason_and_hides_no_failure() {
    let held = judged_both(&with_latency(vec![no_boundary(); 8]), &at(10));
    assert_reason(&held, "Hold", "NoBucketBoundary");
    assert!(
        held.verdict.to_string().contains("there are 250ms, 500ms"),
        "{}",
        held.verdict
    );
    let failing = (1..3).map(|k| interval(k, vec![counts((450, 100), (4050, 4)), no_boundary()]));
    let failed = judged_both(&failing.collect::<Vec<_>>(), &at(10));
    assert_eq!(failed.verdict.name(), "Fail", "{}", failed.verdict);
    // Once it can be read its reason is gone.
    let mended = with_latency(vec![no_boundary(), counts((1500, 0), (13_500, 4))]);
    assert_eq!(judged_both(&mended, &at(10)).verdict, Verdict::Pass);
}

#[test]
fn a_canary_without_the_histogram_is_not_taken_to_be_silent() {
    let stable = arm(4050, 4);
    let missing = judged_both(&with_latency(vec![Observation::CanarySilent { stable }; 4]), &at(10));
    assert_reason(&missing, "Hold", "CanaryUnmeasured");
    // Silent by every metric it is silent.
    let silent = (1..3).map(|k| interval(k, vec![Observation::CanarySilent { stable }; 2]));
    let retreated = judged_both(&silent.collect::<Vec<_>>(), &at(10));
    assert_reason(&retreated, "Retreat", "CanarySilent");
}

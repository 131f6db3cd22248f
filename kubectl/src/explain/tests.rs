//! What a person reads.

use serde_json::{Value, json};
use stepgate_crds::Rollout;
use stepgate_crds::status::PauseReason;

use super::*;
use crate::status::fixtures;

/// A Rollout in its run, with everything that an operator reports of a metric.
fn reported(rollout: Rollout, rule: &str) -> Rollout {
    let query = |bad: &str| {
        json!({
            "canaryRequests": "rq{v=\"c\"}", "canaryBad": format!("rq{{v=\"c\"{bad}}}"),
            "stableRequests": "rq{v=\"s\"}", "stableBad": format!("rq{{v=\"s\"{bad}}}"), "targets": ["job", "instance"],
        })
    };
    let mut value: Value = serde_json::to_value(rollout).unwrap();
    let run = &mut value["status"]["run"];
    run["rule"] = json!(rule);
    let metric = run["metrics"][0].as_object_mut().unwrap();
    for (name, value) in [
        ("max", json!(1.0)),
        ("canaryInterval", json!([0.057, 1.102])),
        ("stableInterval", json!([0.02, 0.49])),
        ("ratioTo", json!(9.346)),
        ("relativeEvidence", json!(1.5)),
        ("absoluteEvidence", json!(-4.25)),
        ("need", json!(3000)),
        ("etaSeconds", json!(67)),
        ("query", query(",code=\"5\"")),
    ] {
        metric.insert(name.to_owned(), value);
    }
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_step_is_explained_in_words_numbers_and_promql() {
    let rollout = reported(fixtures::stepping(1), "InsufficientTraffic");
    let expected = "\
shop/checkout   Stepping   step 2/4 at 30 %
1,204 of about 3,000 requests

Run r7: at this weight for 45s
Verdict   InsufficientTraffic: no test speaks against the new version, and it has not had enough requests in this step to pass

errors in this step   requests   bad    share   95 % interval
  canary                 1,204     3   0.25 %   0.06 % to 1.10 %
  stable                 2,801     3   0.11 %   0.02 % to 0.49 %
  evidence: worse than stable       1.50   fails at 6.00
  evidence: over the max of 1 %    -4.25   fails at 6.00
  evidence: under the max of 1 %    1.50   passes at 3.00
  over the whole run the canary is at most 9.3 times as bad as stable (95 %, at every look)
  for a pass: about 1,796 more canary requests of 3,000, about 1m7s at today's traffic

PromQL: errors, counted over the last 30s, as Stepgate asks metrics source default

label_replace(sum((((rq{v=\"c\"}) - (rq{v=\"c\"} offset 30s)) >= 0) or (rq{v=\"c\"} and on (job, instance) (up offset 30s == 1))), \"stepgate\", \"canary_requests\", \"\", \"\")
or
label_replace(sum((((rq{v=\"c\",code=\"5\"}) - (rq{v=\"c\",code=\"5\"} offset 30s)) >= 0) or (rq{v=\"c\",code=\"5\"} and on (job, instance) (up offset 30s == 1))), \"stepgate\", \"canary_bad\", \"\", \"\")
or
label_replace(sum((((rq{v=\"s\"}) - (rq{v=\"s\"} offset 30s)) >= 0) or (rq{v=\"s\"} and on (job, instance) (up offset 30s == 1))), \"stepgate\", \"stable_requests\", \"\", \"\")
or
label_replace(sum((((rq{v=\"s\",code=\"5\"}) - (rq{v=\"s\",code=\"5\"} offset 30s)) >= 0) or (rq{v=\"s\",code=\"5\"} and on (job, instance) (up offset 30s == 1))), \"stepgate\", \"stable_bad\", \"\", \"\")

Evidence is a natural logarithm. It is divided by φ = 2, and so are the counts of the intervals.
";
    assert_eq!(text(&rollout, fixtures::now()), expected);
}

#[test]
fn a_failure_names_the_rule_that_decided_and_the_test_that_reached_its_threshold() {
    let mut rollout = reported(fixtures::rolling_back(), "OverMax");
    let status = rollout.status.as_mut().unwrap();
    status.verdict = Some("Fail".to_owned());
    let metric = &mut status.run.as_mut().unwrap().metrics[0];
    (metric.absolute_evidence, metric.ratio_from) = (Some(6.5), Some(1.2));
    (metric.need, metric.eta_seconds) = (None, None);
    let text = text(&rollout, fixtures::now());
    for words in [
        "rolling back for 2s: Verdict: errors: 5.0 % against 0.1 %",
        "Verdict   Fail by OverMax: the new version was proven to be over the max",
        "evidence: over the max of 1 %    6.50   fails at 6.00: reached\n",
        "the canary is 1.2 to 9.3 times as bad as stable",
        "for a pass: its share of bad requests is at or too near the max",
    ] {
        assert!(text.contains(words), "{words}:\n{text}");
    }
}

#[test]
fn a_metric_that_passes_misses_nothing() {
    let mut rollout = reported(fixtures::paused(PauseReason::Approval), "Pass");
    let status = rollout.status.as_mut().unwrap();
    status.verdict = Some("Pass".to_owned());
    status.run.as_mut().unwrap().metrics[0].pass_evidence = 3.5;
    let text = text(&rollout, fixtures::now());
    for words in [
        "Verdict   Pass: every metric",
        "passes at 3.00: reached",
        "for a pass: nothing is missing",
    ] {
        assert!(text.contains(words), "{words}:\n{text}");
    }
}

#[test]
fn what_an_older_operator_wrote_is_explained_as_far_as_it_goes() {
    let text = text(&fixtures::stepping(1), fixtures::now());
    for words in [
        "Verdict   InsufficientTraffic: no test speaks",
        "  canary                 1,204     3   0.25 %   –\n",
        "evidence: against it      1.50   fails at 6.00",
        "PromQL: not in status",
    ] {
        assert!(text.contains(words), "{words}:\n{text}");
    }
    assert!(!text.contains("for a pass:"), "{text}");
}

#[test]
fn before_the_first_weight_nothing_is_judged() {
    let mut rollout = fixtures::preparing();
    let status = rollout.status.as_mut().unwrap();
    status.verdict = None;
    status.run.as_mut().unwrap().metrics = Vec::new();
    let text = text(&rollout, fixtures::now());
    assert!(text.contains("Verdict   none yet\n"), "{text}");
    assert!(
        text.ends_with("\nNothing is judged before the first weight is in force.\n"),
        "{text}"
    );
}

#[test]
fn without_a_run_it_says_how_the_last_one_ended_and_why() {
    assert_eq!(
        text(&fixtures::healthy(), fixtures::now()),
        "\
shop/checkout   Healthy
checkout-7d4 serves

No run is under way: there is nothing to be judged now.
The last one, r6, ended 115m ago as Promoted, after 5m30s
"
    );
    let mut failed = fixtures::failed();
    let past = &mut failed.status.as_mut().unwrap().history[0];
    (past.run, past.outcome) = ("r7".to_owned(), stepgate_crds::status::Outcome::Failed);
    let text = text(&failed, fixtures::now());
    assert!(
        text.ends_with("r7, ended 115m ago as Failed, after 5m30s: Verdict: errors: 5.0 % against 0.1 %\n"),
        "{text}"
    );
}

#[test]
fn programs_get_the_same_numbers_and_the_promql() {
    let text = json(&reported(fixtures::stepping(1), "InsufficientTraffic")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["rule"], "InsufficientTraffic");
    assert_eq!(
        (&document["weight"], &document["phase"]),
        (&json!(30), &json!("Stepping"))
    );
    let metric = &document["metrics"][0];
    assert_eq!(
        (&metric["need"], &metric["canaryRequests"]),
        (&json!(3000), &json!(1204))
    );
    assert!(metric["promql"].as_str().unwrap().contains("offset 30s"), "{text}");
    let rest: Value = serde_json::from_str(&json(&fixtures::healthy()).unwrap()).unwrap();
    assert_eq!((&rest["run"], &rest["metrics"]), (&Value::Null, &json!([])));
    assert_eq!(rest["lastRun"]["outcome"], "Promoted");
}

#[test]
fn own_queries_are_told_with_value_bounds_and_what_is_asked() {
    let mut value: Value = serde_json::to_value(reported(fixtures::stepping(1), "QueryOutOfBounds")).unwrap();
    value["status"]["run"]["queries"] = json!([
        {"name": "queue-depth", "value": "120.5", "max": 100.0, "failures": 2, "failureLimit": 3, "asked": "max(q{namespace=\"shop\"})"},
        {"name": "lag", "min": 0.5, "failures": 0, "failureLimit": 1, "trouble": "the query gives no series"},
    ]);
    let rollout: Rollout = serde_json::from_value(value).unwrap();
    let text = text(&rollout, fixtures::now());
    let expected = "
own queries     value   max   min   out of bounds in a row
  queue-depth   120.5   100     –   2 of 3 intervals
  lag            none     –   0.5   0 of 1 intervals

PromQL: queue-depth, as Stepgate asks metrics source default

max(q{namespace=\"shop\"})

PromQL: lag: not in status, which has no room for it, or it cannot be asked (no number in the newest interval: the query gives no series)

Evidence is a natural logarithm.";
    assert!(text.contains(expected), "{text}");
    assert!(
        text.contains("Verdict   InsufficientTraffic: a query of the Rollout's own gives a number over its max")
            || text.contains("QueryOutOfBounds: a query of the Rollout's own gives a number over its max"),
        "{text}"
    );
    let document: Value = serde_json::from_str(&json(&rollout).unwrap()).unwrap();
    assert_eq!(document["queries"][0]["asked"], "max(q{namespace=\"shop\"})");
    assert_eq!(document["queries"][1]["failureLimit"], 1);
}

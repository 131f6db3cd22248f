//! What a preview says of manifests and of clusters as they may be.

use serde_json::{Value, json};
use stepgate_core::input::Seen;
use stepgate_core::object;

use super::look::Looked;
use super::outlook::Outlook;
use super::*;
use crate::status::fixtures;

const NOW: Timestamp = Timestamp::from_millis(1_764_000_000_000);

fn manifest(spec: &Value) -> Rollout {
    let text = json!({
        "apiVersion": "stepgate.dev/v1alpha1", "kind": "Rollout", "metadata": {"name": "checkout", "namespace": "shop"},
        "spec": spec,
    });
    manifest::read(&text.to_string(), "r.json", None, "default")
        .unwrap()
        .remove(0)
        .rollout
}

fn spec() -> Value {
    json!({"workload": {"name": "checkout"}, "traffic": {"routes": [{"name": "checkout"}]}})
}

fn with(field: &str, value: Value) -> Rollout {
    let mut spec = spec();
    spec[field] = value;
    manifest(&spec)
}

fn service(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": [{"port": 80}]}})
}

/// A cluster in which all is well, with these backendRefs.
fn cluster(backends: &Value) -> Looked {
    let template = json!({"metadata": {"labels": {"app": "checkout"}}, "spec": {"containers": []}});
    let route = json!({
        "metadata": {"name": "checkout", "namespace": "shop", "generation": 1},
        "spec": {"rules": [{"backendRefs": backends}]},
        "status": {"parents": [{
            "parentRef": {"name": "shared", "namespace": "gateways"},
            "controllerName": "projectcontour.io/gateway-controller",
            "conditions": [
                {"type": "Accepted", "status": "True", "observedGeneration": 1},
                {"type": "ResolvedRefs", "status": "True", "observedGeneration": 1},
            ],
        }]},
    });
    let set = json!({
        "metadata": {"name": "checkout-1", "ownerReferences": [{"controller": true, "uid": "u1"}]},
        "spec": {"replicas": 2, "template": template}, "status": {"replicas": 2},
    });
    Looked {
        workload: Seen::At(json!({
            "metadata": {"name": "checkout", "uid": "u1", "generation": 1},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "checkout"}}, "template": template},
            "status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2},
        })),
        routes: vec![("checkout".to_owned(), Seen::At(object::route(&route)))],
        services: Some(vec![
            object::service(&service("checkout")),
            object::service(&service("other")),
        ]),
        replica_sets: Some(vec![object::replica_set(&set)]),
        unseen: Vec::new(),
        blind: false,
        ..Looked::nowhere("")
    }
}

fn own() -> Value {
    json!([{"name": "checkout", "port": 80}])
}

fn at(rate: f64) -> Given {
    Given {
        rate: Some(rate),
        bad: Some("0.1%".parse().unwrap()),
        slow: None,
    }
}

fn look(rollout: &Rollout, looked: &Looked, given: &Given) -> Document {
    of_one(rollout, looked, given, NOW).unwrap()
}

#[track_caller]
fn refused(rollout: &Rollout, looked: &Looked, reason: &str, words: &str) {
    let found = preflight::preflight(rollout, looked, NOW);
    let refusal = found
        .refused
        .unwrap_or_else(|| panic!("not refused: {:?}", found.found));
    assert_eq!(refusal.reason, reason);
    assert!(refusal.message.contains(words), "{}", refusal.message);
}

#[test]
fn a_manifest_may_have_other_kinds_and_several_rollouts() {
    let one = |name: &str, more: &str| {
        format!(
            "apiVersion: stepgate.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: {name}{more}}}\nspec: {}\n",
            spec()
        )
    };
    let text = format!(
        "kind: Service\napiVersion: v1\n---\n{}---\n{}",
        one("a", ""),
        one("b", ", namespace: own")
    );
    let read = manifest::read(&text, "-", None, "context").unwrap();
    let places: Vec<String> = read.iter().map(|manifest| manifest::place(&manifest.rollout)).collect();
    assert_eq!(places, ["context/a", "own/b"]);
    let error = manifest::read(&text, "-", Some("flag"), "context")
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "-: Rollout b is in namespace own, and -n says flag; leave one of them out"
    );
    let list = json!({"kind": "List", "apiVersion": "v1", "items": [read[0].raw]});
    assert_eq!(manifest::read(&list.to_string(), "-", None, "x").unwrap().len(), 1);
}

#[test]
fn a_bad_manifest_is_told_by_its_object_and_field() {
    let steps = |steps: &str| {
        format!(
            "{{apiVersion: stepgate.dev/v1alpha1, kind: Rollout, metadata: {{name: a}}, spec: {{workload: {{name: a}}, \
             traffic: {{routes: [{{name: a}}]}}, steps: {steps}}}}}"
        )
    };
    for (text, words) in [
        ("a: [".to_owned(), "neither YAML nor JSON"),
        (String::new(), "no Rollout of stepgate.dev/v1alpha1 in it; it is empty"),
        (
            "{apiVersion: argoproj.io/v1alpha1, kind: Rollout}".to_owned(),
            "but Rollout of argoproj.io/v1alpha1; give -f a file that has one",
        ),
        (
            steps("[{weight: ten}]"),
            "Rollout a: spec.steps[0].weight: invalid type",
        ),
        (steps("[{weight: 10, bake: 5}]"), "Rollout a: spec.steps[0].bake: "),
        (
            steps("[{weight: 10}]"),
            "Rollout default/a: spec.steps: the last weight is 10",
        ),
        (
            steps("[{weight: 30}, {weight: 10}, {weight: 100}]"),
            "[30, 10, 100] decrease",
        ),
        (steps("[{weight: 130}]"), "the weight 130 is no percentage"),
        (steps("[]"), "spec.steps has 0 steps"),
    ] {
        let error = format!("{:#}", manifest::read(&text, "f.yaml", None, "default").unwrap_err());
        assert!(error.starts_with("f.yaml: ") && error.contains(words), "{error}");
    }
}

#[test]
fn without_a_cluster_all_that_needs_none_is_said() {
    let document = look(
        &manifest(&spec()),
        &Looked::nowhere("no cluster is configured"),
        &at(100.0),
    );
    assert!(document.preflight.refused.is_none() && !document.preflight.complete);
    let text = text::of_one(&document);
    for words in [
        "Preflight   not known",
        "not looked at   the cluster (no cluster is configured)",
        "100 %   bake 1m   at most 1% bad",
        "φ = 2",
        "100 requests a second (from --rate)",
        "AT 100/S",
        "1 % bad (10 times stable's)",
    ] {
        assert!(text.contains(words), "wanted `{words}` in:\n{text}");
    }
}

#[test]
fn where_all_is_well_nothing_stands_in_the_way_and_what_is_found_is_said() {
    let document = look(&manifest(&spec()), &cluster(&own()), &at(1_000.0));
    assert!(
        document.preflight.complete && document.preflight.refused.is_none(),
        "{:?}",
        document.preflight
    );
    assert_eq!(document.analysis.provider.as_str(), "contour");
    let text = text::of_one(&document);
    for words in [
        "Preflight   nothing stands in the way, as far as was looked",
        "Services        checkout and checkout-canary, port 80",
        "unprepared: canary pods carry app=checkout-canary",
        "not looked at   the operator: ",
    ] {
        assert!(text.contains(words), "wanted `{words}` in:\n{text}");
    }
}

#[test]
fn what_the_operator_refuses_is_refused_in_its_words() {
    let rollout = manifest(&spec());
    let foreign = json!([{"name": "checkout", "port": 80}, {"name": "other", "port": 80, "weight": 5}]);
    refused(
        &rollout,
        &cluster(&foreign),
        "PreflightFailed",
        "it also sends traffic to other",
    );
    let looked = Looked {
        services: Some(Vec::new()),
        ..cluster(&own())
    };
    refused(
        &rollout,
        &looked,
        "PreflightFailed",
        "Service shop/checkout does not exist; create it",
    );
    let looked = Looked {
        workload: Seen::Absent,
        ..cluster(&own())
    };
    refused(
        &rollout,
        &looked,
        "WorkloadNotFound",
        "Deployment shop/checkout does not exist; create it",
    );
    let looked = Looked {
        invalid: Some(("Invalid", "spec.steps: too many".to_owned())),
        ..cluster(&own())
    };
    refused(&rollout, &looked, "Invalid", "too many");
    let mut rolling = cluster(&own());
    if let Seen::At(workload) = &mut rolling.workload {
        workload["status"]["updatedReplicas"] = json!(1);
    }
    refused(
        &rollout,
        &rolling,
        "Rolling",
        "in the middle of a roll (1 of 2 pods updated",
    );
}

#[test]
fn what_may_not_be_read_is_never_taken_to_be_missing() {
    let looked = Looked {
        services: None,
        blind: true,
        unseen: vec!["Services: you may not".to_owned()],
        ..cluster(&own())
    };
    let found = preflight::preflight(&manifest(&spec()), &looked, NOW);
    assert!(found.refused.is_none() && !found.complete && found.found.is_none());
    assert!(found.not_looked_at.contains(&"Services: you may not".to_owned()));
    // A provider and a scrape interval that only the administrator knows.
    let rollout = with("analysis", json!({"provider": "own", "interval": "10s"}));
    let found = preflight::preflight(&rollout, &cluster(&own()), NOW);
    assert!(found.refused.is_none(), "{:?}", found.refused);
    let unseen = found.not_looked_at.join("\n");
    assert!(
        unseen.contains("provider own, which does not come with Stepgate"),
        "{unseen}"
    );
    assert!(unseen.contains("an interval of 10s takes every 5s or less"), "{unseen}");
}

#[test]
fn a_run_that_is_under_way_is_no_reason_to_refuse_and_tells_the_traffic() {
    let mut live = fixtures::stepping(1);
    let run = live.status.as_mut().unwrap().run.as_mut().unwrap();
    run.evidence = serde_json::from_value(json!({"metrics": [{
        "name": "errors",
        "processes": [{"kind": "Run", "relative": [900, 3, 20_000, 40, 2]}],
        "recent": [[30, 120, 0, 1_080, 1], [30, 130, 1, 1_070, 2]],
    }]}))
    .unwrap();
    let looked = Looked {
        live: Some(live),
        ..cluster(&own())
    };
    let document = look(&manifest(&spec()), &looked, &Given::default());
    assert!(document.preflight.refused.is_none());
    assert_eq!(
        (document.traffic.rates.as_slice(), document.traffic.shares.as_slice()),
        (&[40.0][..], &[0.002][..])
    );
    let text = text::of_one(&document);
    assert!(text.contains("40 requests a second (as run r7 counted)"), "{text}");
    assert!(text.contains("run r7 of this Rollout is under way"), "{text}");
    // What the user says goes first.
    let document = look(&manifest(&spec()), &looked, &at(7.0));
    assert_eq!(
        (document.traffic.rates.as_slice(), document.traffic.shares.as_slice()),
        (&[7.0][..], &[0.001][..])
    );
}

#[test]
fn the_last_run_tells_the_traffic_where_none_is_under_way() {
    let mut live = fixtures::healthy();
    let metric = json!({
        "name": "errors", "max": "1%", "ratio": 1.2, "relativeEvidence": -3.0, "absoluteEvidence": -9.0, "failThreshold": 5.3,
        "recent": [300, 600, 1, 5_400, 2], "parts": [[900, 1, 8_100, 20, 1], [600, 0, 1_900, 5, 0]],
    });
    live.status.as_mut().unwrap().history[0].counts =
        serde_json::from_value(json!({"phi": 2.0, "interval": "30s", "metrics": [metric]})).unwrap();
    let looked = Looked {
        live: Some(live),
        ..cluster(&own())
    };
    let document = look(&manifest(&spec()), &looked, &Given::default());
    assert_eq!(
        (document.traffic.rates.as_slice(), document.traffic.shares.as_slice()),
        (&[20.0][..], &[0.0025][..])
    );
    assert_eq!(document.traffic.rate_from, "as run r6 counted");
}

#[test]
fn without_known_traffic_there_is_a_table_of_four_rates() {
    let document = look(&manifest(&spec()), &cluster(&own()), &Given::default());
    assert_eq!(document.outlooks.len(), 4);
    let text = text::of_one(&document);
    assert!(
        text.contains("AT 1/S") && text.contains("AT 1000/S") && text.contains("a tenth of the max is taken"),
        "{text}"
    );
}

fn outlook(rollout: &Rollout, rate: f64) -> Outlook {
    look(rollout, &cluster(&own()), &at(rate)).outlooks.remove(0)
}

#[test]
fn the_time_that_is_expected_is_the_time_that_rehearsals_take() {
    let steps = json!([{"weight": 20, "bake": "1m"}, {"weight": 100, "bake": "10m"}]);
    let rollout = with("steps", steps);
    for rate in [10.0, 40.0, 400.0] {
        let outlook = outlook(&rollout, rate);
        let expected: i64 = outlook.steps.iter().map(|step| step.seconds.unwrap()).sum();
        let rehearsed = outlook.healthy.seconds_to_promotion.unwrap();
        let (larger, smaller) = (expected.max(rehearsed), expected.min(rehearsed));
        assert!(
            larger - smaller <= 90 + larger / 5,
            "at {rate}/s: expected {expected} s, rehearsed {rehearsed} s"
        );
    }
}

#[test]
fn what_is_found_grows_with_the_regression_and_is_the_same_every_time() {
    let rollout = manifest(&spec());
    let found = outlook(&rollout, 100.0);
    let shares: Vec<f64> = found.regressions.iter().map(|version| version.share).collect();
    assert_eq!(shares, [0.002, 0.005, 0.01, 0.02]);
    let often: Vec<u32> = found.regressions.iter().map(|version| version.rolled_back).collect();
    assert!(
        often.is_sorted() && often[0] <= 10 && often[2] >= 195 && often[3] == 200,
        "{often:?}"
    );
    assert!(
        found.healthy.promoted >= 195 && found.healthy.rolled_back <= 4,
        "{:?}",
        found.healthy
    );
    for version in found.regressions.iter().chain([&found.healthy]) {
        assert_eq!(version.rolled_back + version.promoted + version.held, version.runs);
    }
    let again = serde_json::to_string(&outlook(&rollout, 100.0)).unwrap();
    assert_eq!(again, serde_json::to_string(&found).unwrap());
}

#[test]
fn slow_requests_and_each_steps_own_max_are_rehearsed_too() {
    let mut spec = spec();
    spec["analysis"] = json!({"latency": {"threshold": "250ms", "max": "2%"}});
    spec["steps"] = json!([{"weight": 50, "analysis": {"errorRate": {"max": "0.2%"}}}, {"weight": 100}]);
    let document = look(&manifest(&spec), &cluster(&own()), &at(100.0));
    let maxes: Vec<String> = document.steps.iter().map(|step| step.max_errors.to_string()).collect();
    assert_eq!(maxes, ["0.2%", "1%"]);
    assert_eq!(document.steps[0].max_slow.unwrap().to_string(), "2%");
    let steps = &document.outlooks[0].steps;
    // A stricter max takes more requests.
    assert!(
        steps[0].requests > steps[1].requests.map(|requests| 3 * requests),
        "{steps:?}"
    );
    let slow = document.outlooks[0].regressions.last().unwrap();
    assert_eq!((slow.metric.as_deref(), slow.rolled_back), (Some("latency"), 200));
}

#[test]
fn an_automatic_max_is_made_of_the_share_that_is_known() {
    let mut spec = spec();
    spec["analysis"] = json!({"errorRate": {"max": "auto"}});
    let given = Given {
        bad: Some("2%".parse().unwrap()),
        ..at(100.0)
    };
    let document = of_one(&manifest(&spec), &cluster(&own()), &given, NOW).unwrap();
    assert_eq!(document.steps[0].max_errors.to_string(), "3%");
    assert!(crate::preview::text::of_one(&document).contains("with 2% of its requests bad it is 3%"));
}

#[test]
fn slow_is_for_a_rollout_that_judges_it() {
    let given = Given {
        slow: Some("1%".parse().unwrap()),
        ..at(10.0)
    };
    let error = of_one(&manifest(&spec()), &cluster(&own()), &given, NOW).unwrap_err();
    assert!(
        format!("{error:#}").contains("Rollout shop/checkout: --slow is given"),
        "{error:#}"
    );
}

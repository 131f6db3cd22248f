//! Every parser of what others wrote, on inputs that nobody wrote: objects, commands, units, provider files, the replies of Prometheus.
//!
//! Each takes 10,000 inputs, the same in every run: half of them are real ones with some bytes changed, for few random ones come past the
//! first brace. `STEPGATE_FUZZ_CASES=1000000` takes as many, others each time, and prints the one that fails, shrunk.

#![expect(clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "fuzz/inputs.rs"]
mod inputs;

use inputs::fuzz;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::Value;
use stepgate::{
    kinds::{
        BackendTlsPolicy, Deployment, DisruptionBudget, EndpointSlice, HttpRoute, NetworkPolicy, OwnedService, Pod,
        PodTemplate, ReplicaSet, Service, VolumeClaim, WholeTemplate, rollout::Watched,
    },
    provider::{Arms, Measure, Provider, ProviderError},
    source::{SourceSpec, file, reply, reply::Second},
};
use stepgate_core::{
    apart::selector::LabelSelector,
    input::{RouteView, RuleView},
    route::{self, Managed},
};
use stepgate_crds::{
    Rollout, RolloutSpec, RolloutStatus,
    command::Command,
    units::{Share, Span, Timestamp},
};

const ROLLOUT: &str = include_str!("fuzz/rollout.json");
const ROUTE: &str = include_str!("fuzz/route.json");
const DEPLOYMENT: &str = include_str!("fuzz/deployment.json");
const VECTOR: &str = r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"stepgate":"canary_requests"},"value":[1800000000,"17"]},{"metric":{"stepgate":"stable_requests"},"value":[1800000000.4,"1.7e2"]},{"metric":{"stepgate":"stable_bad"},"value":[1800000000,"0"]}]}}"#;
const MATRIX: &str = r#"{"status":"success","warnings":[],"data":{"resultType":"matrix","result":[{"metric":{"stepgate":"canary_requests"},"values":[[1800000000,"17"],[1800000030,"+Inf"]]},{"metric":{"stepgate":"canary_bad"},"values":[[1800000000,"NaN"]]}]}}"#;
const BUCKETS: &str = r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"le":"0.25"},"value":[1800000000,"1"]},{"metric":{"le":"+Inf"},"value":[1800000000,"2"]},{"metric":{"stepgate_question":"1","job":"kubelet"},"histogram":[1800000000,{"count":"3"}]}]}}"#;
const PODS: &str = r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"stepgate":"requests","stepgate_question":"0"},"values":[[1800000000,"17"],[1800000030,"19"]]},{"metric":{"stepgate":"bad"},"values":[[1800000000,"1"]],"histograms":[[1800000030,{}]]},{"metric":{"stepgate":"serving"},"values":[[1800000000,"3"]]},{"metric":{"stepgate":"squares"},"values":[[1800000000,"99"]]}]}}"#;
const SCALAR: &str = r#"{"status":"success","data":{"resultType":"scalar","result":[1800000000,"1800000000.25"]}}"#;
const ERROR: &str = r#"{"status":"error","errorType":"bad_data","error":"1:2: parse error"}"#;

/// Bytes that stand for something in one of the formats, more often than the others.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![3 => prop::sample::select(b"{}[]\",:0129.-+eE%smh/~ \\nutrflNaI\n#&*!|>${".as_slice()), 1 => any::<u8>()]
}

/// A change of some bytes: where, how many go, and what comes.
fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, usize, Vec<u8>)>> {
    let edit = (
        any::<prop::sample::Index>(),
        0_usize..6,
        prop::collection::vec(byte(), 0..6),
    );
    prop::collection::vec(edit, 0..5)
}

/// One of the seeds with some bytes changed, or bytes that are like none of them.
fn near(seeds: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let changed = (prop::sample::select(seeds), edits()).prop_map(|(seed, edits)| {
        let mut bytes = seed.as_bytes().to_vec();
        for (at, gone, come) in edits {
            let from = at.index(bytes.len().max(1)).min(bytes.len());
            let to = (from + gone).min(bytes.len());
            bytes.splice(from..to, come);
        }
        bytes
    });
    prop_oneof![1 => changed, 1 => prop::collection::vec(byte(), 0..200)]
}

fn text_near(seeds: &'static [&'static str]) -> impl Strategy<Value = String> {
    near(seeds).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[test]
fn replies_of_prometheus() {
    let ends = [1_800_000_000, 1_800_000_030, i64::MAX];
    fuzz(near(&[VECTOR, MATRIX, SCALAR, ERROR]), |body| {
        let Ok(data) = reply::parse(&body) else { return };
        if let Some(value) = reply::scalar(&data) {
            assert!(value.is_finite());
        }
        for second in [Second::Bad, Second::Within] {
            let read = reply::range(&data, &ends, second);
            assert_eq!(read.len(), ends.len());
            let samples = read
                .into_iter()
                .map(|(_, sample)| sample)
                .chain([reply::instant(&data, ends[0], second)]);
            for sample in samples.flatten() {
                // A bad request is never counted without requests, and a slow one never more often than they.
                assert!(sample.canary_bad.is_none() || sample.canary_requests.is_some());
                assert!(sample.stable_bad.is_none() || sample.stable_requests.is_some());
                assert!(second == Second::Bad || sample.canary_bad <= sample.canary_requests);
            }
        }
    });
}

/// The same replies, read as an answer to any other question: what is no number is never one.
#[test]
fn replies_of_prometheus_to_other_questions() {
    let ends = [1_800_000_000, 1_800_000_030, i64::MIN];
    let seeds = near(&[VECTOR, MATRIX, SCALAR, BUCKETS, PODS]);
    fuzz((seeds, 0_usize..4), |(body, questions)| {
        let Ok(data) = reply::parse(&body) else { return };
        let parts = reply::split(data.clone(), questions);
        assert_eq!(parts.len(), questions);
        for data in parts.into_iter().chain([data]) {
            let numbers = reply::numbers(&data, &ends);
            assert_eq!(numbers.len(), ends.len());
            let alone = reply::number(&data, ends[0]);
            assert!(numbers.into_iter().chain([alone]).flatten().all(f64::is_finite));
            for pods in reply::pods(&data).into_iter().flatten() {
                assert!(
                    pods.requests > 0.0 && (0.0..=pods.requests).contains(&pods.bad),
                    "{pods:?}"
                );
                assert!(pods.serving.is_finite() && pods.squares.is_finite(), "{pods:?}");
            }
            for (_, number) in reply::numbers_by_labels(&data).into_iter().flatten() {
                assert!(number.is_finite());
            }
            for (_, times) in reply::times_by_labels(&data).into_iter().flatten() {
                assert!(times.iter().all(|time| time.is_finite()));
            }
            // A bucket without an end is one, and what is no number is none.
            assert!(
                reply::boundaries(&data)
                    .into_iter()
                    .flatten()
                    .all(|boundary| !boundary.is_nan())
            );
        }
    });
}

/// A reply of numbers: each is a count, or says what is wrong with it.
#[test]
fn numbers_in_replies() {
    let number = prop_oneof![
        any::<f64>().prop_map(|number| number.to_string()),
        any::<u64>().prop_map(|number| number.to_string()),
        "[-+]?[0-9]{0,20}(\\.[0-9]{0,5})?([eE][-+]?[0-9]{1,4})?",
        prop::sample::select(vec![
            "NaN",
            "+Inf",
            "-Inf",
            "",
            " 1",
            "0x10",
            "1_000",
            "9007199254740992",
            "-0"
        ])
        .prop_map(str::to_owned),
    ];
    fuzz(number, |text| {
        let body = serde_json::json!({"status": "success", "data": {"resultType": "vector", "result": [
            {"metric": {"stepgate": "canary_requests"}, "value": [100, text]}]}});
        let data = reply::parse(body.to_string().as_bytes()).unwrap();
        match (reply::instant(&data, 100, Second::Bad), text.parse::<f64>()) {
            (Ok(sample), Ok(value)) => {
                let read = sample.canary_requests.unwrap();
                assert!(
                    read < 1 << 53 && read.to_string() == value.round_ties_even().abs().to_string(),
                    "{text} was read as {read}"
                );
            }
            (Ok(sample), Err(_)) => panic!("{text:?} was read as {sample:?}"),
            (Err(_), Ok(value)) => assert!(!(0.0..9_007_199_254_740_992.0).contains(&value), "{text}"),
            (Err(_), Err(_)) => {}
        }
    });
}

#[test]
fn provider_files() {
    const CONTOUR: &str = include_str!("../providers/contour.yaml");
    const PODS: &str = include_str!("../providers/pods.yaml");
    fuzz(text_near(&[CONTOUR, PODS]), |text| {
        if let Ok(provider) = Provider::parse("fuzz.yaml", &text) {
            let arms = Arms {
                namespace: "shop\"} or up{x=\"".to_owned(),
                stable_service: "checkout".to_owned(),
                canary_service: "checkout-canary".to_owned(),
                port: i32::MIN,
                routes: vec!["a|b".to_owned(), "\"".to_owned()],
                stable_replica_set: "checkout-5d".to_owned(),
                canary_deployment: "é".repeat(100),
            };
            provider.query(&arms, u32::MAX, &Measure::Errors).unwrap();
            let threshold = Span::millis(500);
            match provider.query(&arms, u32::MAX, &Measure::Latency { threshold }) {
                Ok(_) | Err(ProviderError::NoLatency { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
}

#[test]
fn names_of_sources() {
    fuzz(
        text_near(&[
            "default=http://prometheus.monitoring:9090",
            "a-1=https://[::1]:9/x",
            "x=http://a:b@c/?d#e",
        ]),
        |text| {
            if let Ok(spec) = text.parse::<SourceSpec>() {
                assert!(spec.url.has_host() && spec.url.username().is_empty() && spec.url.query().is_none());
                assert!(!spec.name.is_empty() && spec.name.len() <= 63);
            }
        },
    );
}

#[test]
fn files_of_sources() {
    const FILE: &str = "sources:\n  default: http://prometheus.monitoring:9090\n  eu:\n    url: https://prometheus.eu:9090/x\n    \
                        scrapeInterval: 15s\n    caFile: /etc/ca.crt\n    bearerTokenFile: /var/token\n";
    fuzz(text_near(&[FILE]), |text| {
        for spec in file::parse("fuzz.yaml", &text).into_iter().flatten() {
            assert!(spec.url.has_host() && spec.url.username().is_empty() && spec.url.query().is_none());
            assert!(!spec.name.is_empty() && spec.name.len() <= 63);
        }
    });
}

#[test]
fn durations() {
    fuzz(
        text_near(&["1h30m", "500ms", "1m30s250ms", "999999h999999m99s", "0s"]),
        |text| {
            if let Ok(span) = text.parse::<Span>() {
                assert_eq!(span.to_string().parse::<Span>(), Ok(span), "{text}");
                assert!(Timestamp::from_millis(i64::MAX).after(span.twice()).as_millis() == i64::MAX);
            }
        },
    );
}

#[test]
fn shares() {
    fuzz(text_near(&["1%", "0.5%", "99.999999%", "100%"]), |text| {
        if let Ok(share) = text.parse::<Share>() {
            assert!((0.0..=1.0).contains(&share.get()), "{text}");
            let again = share.to_string().parse::<Share>().unwrap();
            assert!((again.get() - share.get()).abs() < 1e-10, "{text}");
        }
    });
}

#[test]
fn times() {
    fuzz(
        text_near(&[
            "2026-11-24T14:00:00.123Z",
            "0001-01-01T00:00:00+14:00",
            "9999-12-30T22:00:00-02:00",
        ]),
        |text| {
            if let Ok(time) = text.parse::<Timestamp>() {
                assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time, "{text}");
                assert!(time.ceil_seconds().saturating_mul(1_000) >= time.as_millis());
            }
        },
    );
}

#[test]
fn commands() {
    let seeds = &[
        r#"{"verb":"promote","run":"0000000b-2","step":2,"full":true,"nonce":"n-1"}"#,
        r#"{"verb":"abort","run":"0000000b-2","nonce":"n"}"#,
    ];
    fuzz(text_near(seeds), |text| {
        if let Ok(command) = serde_json::from_str::<Command>(&text) {
            let written = serde_json::to_string(&command).unwrap();
            assert_eq!(serde_json::from_str::<Command>(&written).unwrap(), command);
        }
    });
}

/// Any JSON is an object of every narrow type.
#[test]
fn narrow_types() {
    fn reads<K: DeserializeOwned>(text: &str) {
        if let Err(error) = serde_json::from_str::<K>(text) {
            panic!("{}: {error}: {text}", std::any::type_name::<K>());
        }
    }
    fuzz(text_near(&[ROUTE, DEPLOYMENT]), |text| {
        let is_json = serde_json::from_str::<Value>(&text).is_ok();
        if !is_json {
            assert!(serde_json::from_str::<HttpRoute>(&text).is_err());
            return;
        }
        reads::<Deployment>(&text);
        reads::<ReplicaSet>(&text);
        reads::<OwnedService>(&text);
        reads::<Service>(&text);
        reads::<PodTemplate>(&text);
        reads::<WholeTemplate>(&text);
        reads::<HttpRoute>(&text);
        reads::<EndpointSlice>(&text);
        reads::<Pod>(&text);
        reads::<NetworkPolicy>(&text);
        reads::<DisruptionBudget>(&text);
        reads::<BackendTlsPolicy>(&text);
        reads::<VolumeClaim>(&text);
        reads::<Watched>(&text);
        let value: Value = serde_json::from_str(&text).unwrap();
        if let Some(selector) = LabelSelector::read(value.pointer("/spec/selector")) {
            selector.matches(&[("app".to_owned(), "checkout".to_owned())].into());
        }
    });
}

/// What can be read of a Rollout is read the same again after it was written.
#[test]
fn rollouts() {
    fuzz(text_near(&[ROLLOUT]), |text| {
        let Ok(Watched::Read(rollout)) = serde_json::from_str::<Watched>(&text) else {
            return;
        };
        let written = serde_json::to_value(rollout.as_ref()).unwrap();
        let again: Rollout = serde_json::from_value(written).unwrap();
        assert_eq!(again.spec, rollout.spec);
        assert_eq!(again.status, rollout.status);
        let (_, _): (RolloutSpec, Option<RolloutStatus>) = (again.spec, again.status);
    });
}

/// Marks on a route: ours is found under any others, and another Rollout's is never taken for ours.
#[test]
fn marks_of_runs() {
    let marks = prop_oneof![
        "[0-9a-f]{8}-[0-9]{1,3}\\.[0-9]{1,4}( [0-9a-f]{8}-[0-9]\\.[0-9])*",
        "\\PC{0,60}"
    ];
    fuzz((marks, any::<bool>()), |(marks, annotated)| {
        let reference = serde_json::json!({"name": "checkout", "port": 80, "weight": 1});
        let route = RouteView {
            name: "web".to_owned(),
            uid: "u".to_owned(),
            version: "1".to_owned(),
            generation: 1,
            annotated,
            run: Some(marks.clone()),
            changed_by: None,
            parent_refs: Vec::new(),
            rules: vec![RuleView {
                name: None,
                backend_refs: vec![reference],
            }],
            parents: Vec::new(),
        };
        let ours = "0000000b-2.3";
        if let Some(found) = route::own_mark(&route, ours) {
            assert!(
                found.split('-').next() == Some("0000000b") && marks.contains(found),
                "{found} in {marks:?}"
            );
        }
        let managed = Managed::new(None, "checkout", "checkout-canary");
        let effect = serde_json::to_value(managed.set_weight(&route, 10, ours)).unwrap();
        let last = effect
            .pointer("/act/Patch")
            .and_then(Value::as_array)
            .and_then(|patch| patch.last())
            .unwrap();
        assert!(last.to_string().contains(ours), "{last}");
        assert!(!managed.is_back(&route, 0, ours) || marks.contains(ours));
    });
}

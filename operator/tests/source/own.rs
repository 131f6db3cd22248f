//! Users' own queries on a real Prometheus: what is asked in place of one gives what the written one gives where there is only its namespace.

use stepgate::promql::{Tenant, enforce};
use stepgate::source::reply::{NumberError, number, numbers, parse};

use crate::fixtures::{hour_ago, source};
use crate::prometheus::{Line, Prometheus};

const SHOP: Tenant<'_> = Tenant {
    label: "namespace",
    namespace: "shop",
};

fn shop() -> Vec<Line> {
    vec![
        Line::rising(r#"queue{namespace="shop",pod="a"}"#, 10, 1, 240),
        Line::rising(r#"queue{namespace="shop",pod="b"}"#, 20, 2, 240),
        Line::rising(r#"lag_bucket{namespace="shop",le="1"}"#, 0, 3, 240),
        Line::rising(r#"lag_bucket{namespace="shop",le="5"}"#, 0, 4, 240),
        Line::rising(r#"lag_bucket{namespace="shop",le="+Inf"}"#, 0, 5, 240),
        Line::rising(r#"node{namespace="shop",pod="a",zone="x"}"#, 1, 0, 240),
        Line::rising(r#"node{namespace="shop",pod="b",zone="y"}"#, 1, 0, 240),
    ]
}

/// Everything that would change a number if it were seen.
fn others() -> Vec<Line> {
    vec![
        Line::rising(r#"queue{namespace="other",pod="a"}"#, 1_000, 7, 240),
        Line::rising(r#"queue{namespace="other",pod="c"}"#, 3_000, 9, 240),
        Line::rising(r#"queue{pod="nowhere"}"#, 9_000, 9, 240),
        Line::rising(r#"lag_bucket{namespace="other",le="1"}"#, 0, 1, 240),
        Line::rising(r#"lag_bucket{namespace="other",le="5"}"#, 0, 100, 240),
        Line::rising(r#"lag_bucket{namespace="other",le="+Inf"}"#, 0, 1_000, 240),
        Line::rising(r#"node{namespace="other",pod="c",zone="z"}"#, 1, 0, 240),
        Line::rising(r#"secret{namespace="other"}"#, 42, 0, 240),
    ]
}

#[tokio::test]
async fn what_is_asked_sees_its_namespace_and_gives_what_was_written() {
    let start = hour_ago();
    let alone = Prometheus::with(start, &shop());
    let shared = Prometheus::with(start, &[shop(), others()].concat());
    let (alone, shared) = (source(&alone.url), source(&shared.url));
    let ends = [start + 600, start + 615, start + 900];
    let written = [
        "sum(queue)",
        "SUM(queue)",
        "count({__name__=~'.+'})",
        r#"count({pod!=""})"#,
        "max(queue) - min(queue)",
        "-max(queue)^2 * 2 / 4 % 1000 + 3 - -1",
        "2 ^ 3 ^ 2 - sum(queue)",
        "sum(rate(queue[1m] offset 5m))",
        "sum(max_over_time(queue[5m:30s] offset 1m))",
        "max_over_time((sum(queue) - 5)[5m:])",
        "max_over_time(sum(rate(queue[1m]))[5m:30s])",
        "histogram_quantile(0.5, sum by (le) (rate(lag_bucket[5m])))",
        "sum(queue * on (pod) group_left (zone) node) by (zone) > 200 or vector(0)",
        "sum(queue * ignoring (zone, pod) group_left () count without (pod, zone) (node))",
        "count(queue unless on (pod) node) or vector(-1)",
        "sum(queue and on () (node == bool 1))",
        "scalar(sum(queue)) atan2 1",
        "topk(1, queue)",
        "quantile(0.9, queue)",
        r#"count(count_values("namespace", queue))"#,
        r#"sum(label_replace(queue, "namespace", "other", "pod", "(.*)"))"#,
        r#"count(label_join(queue, "namespace", "-", "pod", "pod")) # all of "them""#,
        "absent(secret)",
        "sum(secret) or vector(0)",
        "sum(queue < +Inf)",
        "vector(time() - time() + 1e3 + 0x1F + .5) + 1 ^ 2",
        "sum(queue @ 1800000000) or sum(queue)",
        "sum(sum_over_time(queue[30s])) / sum(count_over_time(queue[30s]))",
    ];
    for written in written {
        let asked = enforce(written, &SHOP).unwrap();
        for ends in [&ends[..1], &ends[..]] {
            let expected = alone.numbers(written, ends, 15).await.unwrap();
            let found = shared.numbers(&asked, ends, 15).await.unwrap();
            let same = expected.iter().zip(&found).all(|both| match both {
                (Ok(one), Ok(other)) => (one - other).abs() <= 1e-9 * one.abs(),
                (one, other) => one == other,
            });
            assert!(same, "{written}\n{asked}\n{expected:?}\n{found:?}");
        }
        // The test would not see it otherwise: more series give another number, or cannot be evaluated.
        let free = shared.numbers(written, &ends[..1], 15).await.ok();
        let held = shared.numbers(&asked, &ends[..1], 15).await.unwrap();
        let reads = asked.contains("namespace=\"shop\"") && !written.contains("1800000000");
        assert!(
            !reads || free.as_ref() != Some(&held),
            "{written} gives the same with and without the matcher: {held:?}"
        );
    }
}

#[test]
fn a_reply_that_is_no_number_is_told_for_what_it_is() {
    let reply = |kind: &str, result: &str, more: &str| {
        let body = format!(r#"{{"status":"success","data":{{"resultType":"{kind}","result":{result}}}{more}}}"#);
        parse(body.as_bytes()).unwrap()
    };
    let vector = |result: &str| number(&reply("vector", result, ""), 100);
    let not_finite = |value: &str| Err(NumberError::NotFinite(value.to_owned()));
    assert_eq!(vector(r#"[{"metric":{},"value":[100,"-1.5e3"]}]"#), Ok(-1_500.0));
    assert_eq!(vector("[]"), Err(NumberError::NoSeries));
    assert_eq!(vector(r#"[{"metric":{},"value":[100,"NaN"]}]"#), not_finite("NaN"));
    assert_eq!(vector(r#"[{"metric":{},"value":[100,"-Inf"]}]"#), not_finite("-inf"));
    assert_eq!(
        vector(r#"[{"metric":{},"value":[100,"1"]},{"metric":{"a":"b"},"value":[100,"1"]}]"#),
        Err(NumberError::Several(2))
    );
    assert_eq!(
        vector(r#"[{"metric":{},"histogram":[100,{"count":"1","sum":"1"}]}]"#),
        Err(NumberError::WrongType("histogram"))
    );
    for value in [r#"[99,"1"]"#, "[100,1]", r#"[100,"many"]"#, "[100]", "7"] {
        let result = format!(r#"[{{"metric":{{}},"value":{value}}}]"#);
        assert_eq!(vector(&result), Err(NumberError::Unreadable), "{value}");
    }
    let kinds =
        [("string", r#"[100,"1"]"#), ("matrix", "[]")].map(|(kind, result)| number(&reply(kind, result, ""), 100));
    assert!(
        kinds.iter().all(|kind| matches!(kind, Err(NumberError::WrongType(_)))),
        "{kinds:?}"
    );
    assert_eq!(number(&reply("scalar", r#"[100,"1"]"#, ""), 100), Ok(1.0));
    let warned = r#","warnings":["a store did not answer"]"#;
    assert_eq!(
        number(&reply("scalar", r#"[100,"1"]"#, warned), 100),
        Err(NumberError::Warned)
    );
    let matrix = reply(
        "matrix",
        r#"[{"metric":{},"values":[[100,"1"],[130,"NaN"]]},{"metric":{"a":"b"},"values":[[100,"2"]],"histograms":[[145,{}]]}]"#,
        "",
    );
    assert_eq!(
        numbers(&matrix, &[100, 115, 130, 145]),
        [
            Err(NumberError::Several(2)),
            Err(NumberError::NoSeries),
            not_finite("NaN"),
            Err(NumberError::WrongType("histogram")),
        ]
    );
}

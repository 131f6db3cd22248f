//! The metrics source and its sampler, against a real Prometheus, and against a hand-written impostor for what a real one never sends.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests and what they start from")]

#[path = "source/batch.rs"]
mod batch;
#[path = "source/credentials.rs"]
mod credentials;
#[path = "source/file.rs"]
mod file;
#[path = "source/fixtures.rs"]
mod fixtures;
#[path = "source/impostor.rs"]
mod impostor;
#[path = "source/own.rs"]
mod own;
#[path = "source/programs.rs"]
mod programs;
#[path = "source/prometheus.rs"]
mod prometheus;
#[path = "source/sampler.rs"]
mod sampler;

use std::time::{Duration, Instant};

use fixtures::{contour, gateway, hour_ago, limited, source};
use impostor::{Answer, Impostor};
use prometheus::Prometheus;
use stepgate::provider::{Query, Series};
use stepgate::source::reply::{DataError, QuadSample};
use stepgate::source::{ErrorClass, SourceError, SourceLimits, SourceSpec, SpecError};

fn quad(canary_requests: u64, canary_bad: u64, stable_requests: u64, stable_bad: u64) -> QuadSample {
    QuadSample {
        canary_requests: Some(canary_requests),
        canary_bad: Some(canary_bad),
        stable_requests: Some(stable_requests),
        stable_bad: Some(stable_bad),
    }
}

#[tokio::test]
async fn a_real_prometheus_gives_the_same_counts_one_by_one_and_in_one_range() {
    let start = hour_ago();
    let prometheus = Prometheus::with(start, &gateway());
    let source = source(&prometheus.url);
    let query = contour(15);
    let ends: Vec<i64> = (1..=70).map(|index| start + index * 15).collect();
    let range = source.window(&query, &ends, 15).await.unwrap();
    assert_eq!(range.iter().map(|(end, _)| *end).collect::<Vec<_>>(), ends);
    for (end, sample) in &range {
        let one = source.window(&query, &[*end], 15).await.unwrap();
        assert_eq!(one, vec![(*end, *sample)]);
    }
    let at = |seconds: i64| range.iter().find(|(end, _)| *end == start + seconds).unwrap().1;
    let stable_alone = Ok(QuadSample {
        stable_requests: Some(300),
        stable_bad: Some(3),
        ..QuadSample::default()
    });
    assert_eq!(at(15), stable_alone);
    assert_eq!(at(585), stable_alone);
    // The canary's first responses are there at 600 s, and are counted though its series are new.
    assert_eq!(at(600), Ok(quad(10, 2, 300, 3)));
    assert_eq!(at(615), Ok(quad(30, 6, 300, 3)));
    assert_eq!(at(1050), Ok(quad(30, 6, 300, 3)));
    // Holes in the list of ends are not filled.
    let holes = source
        .window(&query, &[start + 15, start + 600, start + 1050], 15)
        .await
        .unwrap();
    assert_eq!(
        holes,
        vec![(start + 15, at(15)), (start + 600, at(600)), (start + 1050, at(1050))]
    );
    // Nobody sent anything, long before: no series at all.
    assert_eq!(
        source.window(&query, &[start - 3600], 15).await.unwrap(),
        vec![(start - 3600, Ok(QuadSample::default()))]
    );
    assert!(source.check(2.0).await.is_ok());
    assert!(source.skew().await.unwrap().abs() < 1.0);
}

#[tokio::test]
async fn a_real_prometheus_that_gives_no_counts_spoils_the_interval_alone() {
    let prometheus = Prometheus::with(0, &[]);
    let source = source(&prometheus.url);
    let end = hour_ago();
    let labelled =
        |value: &str, series: &str| format!("label_replace({value}, \"stepgate\", \"{series}\", \"\", \"\")");
    let both = |canary: &str| {
        Query::new(format!(
            "{} or {}",
            labelled(canary, "canary_requests"),
            labelled("vector(7)", "stable_requests")
        ))
    };
    let cases = [
        (both("vector(NaN)"), DataError::NotFinite(Series::CanaryRequests)),
        (both("vector(+Inf)"), DataError::NotFinite(Series::CanaryRequests)),
        (both("vector(-Inf)"), DataError::NotFinite(Series::CanaryRequests)),
        (both("vector(-1)"), DataError::Negative(Series::CanaryRequests)),
        (
            both("vector(9007199254740992)"),
            DataError::TooLarge(Series::CanaryRequests),
        ),
        (
            both("(vector(1) or label_replace(vector(2), \"pod\", \"a\", \"\", \"\"))"),
            DataError::TwoSeries(Series::CanaryRequests),
        ),
        (
            Query::new(labelled("vector(1)", "canary_bad")),
            DataError::BadAlone(Series::CanaryBad),
        ),
        (Query::new("vector(1)"), DataError::UnknownSeries),
        (Query::new(labelled("vector(1)", "canary")), DataError::UnknownSeries),
    ];
    for (query, error) in cases {
        assert_eq!(
            source.window(&query, &[end], 15).await.unwrap(),
            vec![(end, Err(error))],
            "{query}"
        );
        let range = source.window(&query, &[end, end + 15], 15).await.unwrap();
        assert_eq!(range, vec![(end, Err(error)), (end + 15, Err(error))], "{query}");
    }
    for query in ["1", "\"text\"", "up[1m]"] {
        let answer = source.window(&Query::new(query), &[end], 15).await.unwrap();
        assert_eq!(answer, vec![(end, Err(DataError::WrongType))], "{query}");
    }
    // A value that is bad at one time only spoils that one.
    let sometimes = both(&format!("(vector(5) / (vector(time()) != bool {}))", end + 15));
    assert_eq!(
        source.window(&sometimes, &[end, end + 15, end + 30], 15).await.unwrap(),
        vec![
            (end, Ok(quad(5, 0, 7, 0))),
            (end + 15, Err(DataError::NotFinite(Series::CanaryRequests))),
            (end + 30, Ok(quad(5, 0, 7, 0))),
        ]
    );
    // More bad ones than requests reach the judge as they are; fractions are rounded, halves to even.
    let skewed = Query::new(format!(
        "{} or {}",
        labelled("vector(2.5)", "canary_requests"),
        labelled("vector(9)", "canary_bad")
    ));
    let sample = source.window(&skewed, &[end], 15).await.unwrap().remove(0).1.unwrap();
    assert_eq!((sample.canary_requests, sample.canary_bad), (Some(2), Some(9)));
    // What is no PromQL is refused in Prometheus' own words.
    let error = source.window(&Query::new("sum("), &[end], 15).await.unwrap_err();
    assert_eq!((error.label(), error.class()), ("rejected", ErrorClass::Invalid));
    assert!(
        error
            .to_string()
            .starts_with("metrics source default cannot evaluate the query: bad_data: "),
        "{error}"
    );
}

async fn failure(answer: Answer) -> SourceError {
    let impostor = Impostor::always(answer);
    let source = limited(
        &impostor.url,
        SourceLimits {
            timeout: Duration::from_millis(500),
            body: 64 << 10,
        },
    );
    let started = Instant::now();
    let error = source.window(&Query::new("up"), &[15], 15).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5), "{error}");
    let text = format!("{error} {error:?}");
    assert!(!text.contains("secret"), "a reply's body is in the error: {text}");
    error
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Impostor::always(Answer::Json(vector("", "[]")));
    let error = failure(Answer::Http(
        "302 Found",
        vec![format!("location: {}/", elsewhere.url)],
        "secret".into(),
    ))
    .await;
    assert_eq!(error.label(), "redirect");
    assert!(elsewhere.requests().is_empty());
    assert_eq!(
        failure(Answer::Http(
            "307 Temporary Redirect",
            vec![format!("location: {}/", elsewhere.url)],
            String::new()
        ))
        .await
        .label(),
        "redirect"
    );
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn refusals_and_failures_are_told_apart() {
    let http = |status, body: &str| Answer::Http(status, vec![], body.into());
    let refused = failure(http("401 Unauthorized", "secret")).await;
    assert_eq!(
        (refused.label(), refused.class()),
        ("unauthorized", ErrorClass::Forbidden)
    );
    assert_eq!(failure(http("403 Forbidden", "secret")).await.label(), "unauthorized");
    let broken = failure(http("500 Internal Server Error", "secret")).await;
    assert_eq!((broken.label(), broken.class()), ("status", ErrorClass::Transient));
    assert_eq!(
        failure(http("404 Not Found", "<html>secret</html>")).await.label(),
        "status"
    );
    let own_words = r#"{"status":"error","errorType":"execution","error":"query\ntimed out"}"#;
    let rejected = failure(http("503 Service Unavailable", own_words)).await;
    assert_eq!(
        rejected.to_string(),
        "metrics source default cannot evaluate the query: execution: query timed out"
    );
    let long = format!(r#"{{"status":"error","errorType":"x","error":"{}"}}"#, "e".repeat(5000));
    assert!(failure(http("422 Unprocessable Entity", &long)).await.to_string().len() < 400);
}

#[tokio::test]
async fn a_slow_an_endless_and_a_broken_reply_end_in_time() {
    assert_eq!(failure(Answer::Silence).await.label(), "timeout");
    assert_eq!(failure(Answer::Drip).await.label(), "timeout");
    assert_eq!(failure(Answer::Endless).await.label(), "too_large");
    assert_eq!(failure(Answer::HangUp).await.label(), "broken");
    assert_eq!(failure(Answer::CutOff).await.label(), "broken");
    let declared = Answer::Http("200 OK", vec![], " ".repeat(65 << 10));
    assert_eq!(failure(declared).await.label(), "too_large");
}

#[tokio::test]
async fn a_source_that_is_not_there_is_named_with_its_address() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = source(&format!("http://127.0.0.1:{port}/prefix/"))
        .clock()
        .await
        .unwrap_err();
    assert_eq!(error.label(), "connect");
    assert!(
        error
            .to_string()
            .contains(&format!("cannot be reached at 127.0.0.1:{port};")),
        "{error}"
    );
}

/// A vector's reply with further fields, and this as its result.
pub(crate) fn vector(extra: &str, result: &str) -> String {
    format!(r#"{{"status":"success"{extra},"data":{{"resultType":"vector","result":{result}}}}}"#)
}

#[tokio::test]
async fn what_is_not_prometheus_json_is_malformed() {
    for body in [
        "",
        "not json",
        r#"{"status":"success","data":{"resultType":"vector","result":["#,
        r#"{"status":"success"}"#,
        r#"{"status":"maybe","data":{"resultType":"vector","result":[]}}"#,
        r#"{"data":{"resultType":"vector","result":[]}}"#,
        r#"["secret"]"#,
        r#"{"status":"success","data":{"resultType":7,"result":[]}}"#,
    ] {
        let error = failure(Answer::Json(body.into())).await;
        assert_eq!(error.label(), "malformed", "{body}");
    }
}

#[tokio::test]
async fn what_no_prometheus_says_of_an_interval_spoils_it() {
    let metric = r#""metric":{"stepgate":"canary_requests"}"#;
    let cases = [
        (
            vector(
                r#","warnings":["partial"]"#,
                &format!(r#"[{{{metric},"value":[15,"1"]}}]"#),
            ),
            DataError::Warned,
        ),
        (
            vector("", &format!(r#"[{{{metric},"value":[900,"1"]}}]"#)),
            DataError::WrongTime,
        ),
        (
            vector("", &format!(r#"[{{{metric},"value":[15,"many"]}}]"#)),
            DataError::Unreadable(Series::CanaryRequests),
        ),
        (
            vector("", &format!(r#"[{{{metric},"value":[15,1]}}]"#)),
            DataError::Unreadable(Series::CanaryRequests),
        ),
        (
            vector("", &format!(r#"[{{{metric},"value":[15]}}]"#)),
            DataError::WrongType,
        ),
        (
            vector("", &format!(r#"[{{{metric},"histogram":[15,{{}}]}}]"#)),
            DataError::WrongType,
        ),
        (vector("", r#"[{"value":[15,"1"]}]"#), DataError::UnknownSeries),
        (vector("", "{}"), DataError::WrongType),
        (vector("", r#"["x"]"#), DataError::UnknownSeries),
    ];
    for (body, error) in cases {
        let impostor = Impostor::always(Answer::Json(body.clone()));
        let answer = source(&impostor.url)
            .window(&Query::new("up"), &[15], 15)
            .await
            .unwrap();
        assert_eq!(answer, vec![(15, Err(error))], "{body}");
    }
    // Empty lists of warnings, and what newer versions add, are no fault.
    let fine = vector(
        r#","warnings":[],"infos":["metric might not be a counter"]"#,
        &format!(r#"[{{{metric},"value":[15.0,"1"]}}]"#),
    );
    let impostor = Impostor::always(Answer::Json(fine));
    let sample = source(&impostor.url)
        .window(&Query::new("up"), &[15], 15)
        .await
        .unwrap()
        .remove(0)
        .1
        .unwrap();
    assert_eq!(
        (sample.canary_requests, sample.canary_bad, sample.stable_requests),
        (Some(1), Some(0), None)
    );
}

#[tokio::test]
async fn the_query_goes_to_the_base_url_with_its_time() {
    let impostor = Impostor::always(Answer::Json(vector("", "[]")));
    let source = source(&format!("{}/select/0/prometheus/", impostor.url));
    source.window(&Query::new("a + b"), &[1_700_000_010], 15).await.unwrap();
    let ranged = source.window(&Query::new("a"), &[30, 60], 15).await.unwrap();
    assert_eq!(
        ranged,
        vec![(30, Err(DataError::WrongType)), (60, Err(DataError::WrongType))]
    );
    let seen = impostor.requests();
    assert_eq!(seen[0].line, "POST /select/0/prometheus/api/v1/query HTTP/1.1");
    assert_eq!(seen[0].body, "query=a+%2B+b&time=1700000010");
    assert_eq!(seen[1].line, "POST /select/0/prometheus/api/v1/query_range HTTP/1.1");
    assert_eq!(seen[1].body, "query=a&start=30&end=60&step=15");
    assert!(source.window(&Query::new("a"), &[], 15).await.unwrap().is_empty());
    assert_eq!(impostor.requests().len(), 2);
}

#[test]
fn a_source_is_written_name_and_url() {
    let spec: SourceSpec = "default=http://prometheus.monitoring:9090/base".parse().unwrap();
    assert_eq!(
        (spec.name.as_str(), spec.url.as_str()),
        ("default", "http://prometheus.monitoring:9090/base")
    );
    assert_eq!(spec.to_string(), "default=http://prometheus.monitoring:9090/base");
    let refused = |text: &str| text.parse::<SourceSpec>().unwrap_err();
    assert_eq!(refused("http://prometheus"), SpecError::NoName);
    assert_eq!(refused("Default=http://p"), SpecError::BadName);
    assert_eq!(refused("-a=http://p"), SpecError::BadName);
    assert_eq!(refused("=http://p"), SpecError::BadName);
    assert_eq!(refused("a=prometheus:9090"), SpecError::BadUrl);
    assert_eq!(refused("a=file:///etc/passwd"), SpecError::BadUrl);
    assert_eq!(refused("a=http://u:secret@p"), SpecError::Credentials);
    assert_eq!(refused("a=http://u@p"), SpecError::Credentials);
    assert_eq!(refused("a=http://p?x=secret"), SpecError::Query);
    assert!(!refused("a=http://u:secret@p").to_string().contains("secret@"));
}

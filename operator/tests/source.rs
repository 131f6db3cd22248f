//! The metrics source against a real Prometheus, and against a hand-written impostor for what a real one never sends.

#[path = "source/impostor.rs"]
mod impostor;
#[path = "source/prometheus.rs"]
mod prometheus;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use impostor::{Answer, Impostor};
use prometheus::{Line, Prometheus};
use stepgate::provider::{Arms, Providers, Query, Series};
use stepgate::source::reply::{DataError, QuadSample, Sample};
use stepgate::source::sampler::{Key, Sampler, SamplerOptions, SourceHealth, Want};
use stepgate::source::{ErrorClass, MetricsSource, SourceError, SourceLimits, SourceSpec, SpecError};
use stepgate::telemetry::Metrics;
use stepgate_core::verdict::{Arm, Counts, Interval, Observation};
use tokio::sync::mpsc;

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
        .try_into()
        .unwrap()
}

fn source(url: &str) -> MetricsSource {
    limited(
        url,
        SourceLimits {
            timeout: Duration::from_secs(2),
            body: 64 << 10,
        },
    )
}

fn limited(url: &str, limits: SourceLimits) -> MetricsSource {
    MetricsSource::new(&format!("default={url}").parse().unwrap(), limits).unwrap()
}

fn quad(canary_requests: u64, canary_bad: u64, stable_requests: u64, stable_bad: u64) -> Sample {
    Ok(QuadSample {
        canary_requests: Some(canary_requests),
        canary_bad: Some(canary_bad),
        stable_requests: Some(stable_requests),
        stable_bad: Some(stable_bad),
    })
}

fn contour(interval: u32) -> Query {
    let arms = Arms {
        namespace: "shop".into(),
        stable_service: "checkout".into(),
        canary_service: "checkout-canary".into(),
        port: 80,
        stable_replicaset: String::new(),
        canary_deployment: String::new(),
    };
    Providers::built_in()
        .unwrap()
        .named("contour")
        .unwrap()
        .query(&arms, interval)
        .unwrap()
}

/// Twenty minutes of a gateway: stable 100 requests and one bad a scrape, and from the tenth minute on a canary with 10 and 2.
fn gateway() -> Vec<Line> {
    let canary = |series, step: i64| {
        let mut line = Line {
            series,
            samples: vec![None; 120],
        };
        line.samples.extend((1..=120).map(|index| Some(index * step)));
        line
    };
    vec![
        Line::rising("up{job=\"envoy\",instance=\"gw\"}", 1, 0, 240),
        Line::rising(
            "envoy_cluster_upstream_rq_xx{job=\"envoy\",instance=\"gw\",envoy_cluster_name=\"shop_checkout_80\",envoy_response_code_class=\"2\"}",
            5000,
            99,
            240,
        ),
        Line::rising(
            "envoy_cluster_upstream_rq_xx{job=\"envoy\",instance=\"gw\",envoy_cluster_name=\"shop_checkout_80\",envoy_response_code_class=\"5\"}",
            40,
            1,
            240,
        ),
        canary(
            "envoy_cluster_upstream_rq_xx{job=\"envoy\",instance=\"gw\",envoy_cluster_name=\"shop_checkout-canary_80\",envoy_response_code_class=\"2\"}",
            8,
        ),
        canary(
            "envoy_cluster_upstream_rq_xx{job=\"envoy\",instance=\"gw\",envoy_cluster_name=\"shop_checkout-canary_80\",envoy_response_code_class=\"5\"}",
            2,
        ),
    ]
}

/// An hour ago, on the grid of 15 s.
fn hour_ago() -> i64 {
    (now() - 3600) / 15 * 15
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
    assert_eq!(at(600), quad(10, 2, 300, 3));
    assert_eq!(at(615), quad(30, 6, 300, 3));
    assert_eq!(at(1050), quad(30, 6, 300, 3));
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
            (
                end,
                Ok(QuadSample {
                    canary_requests: Some(5),
                    canary_bad: Some(0),
                    stable_requests: Some(7),
                    stable_bad: Some(0)
                })
            ),
            (end + 15, Err(DataError::NotFinite(Series::CanaryRequests))),
            (end + 30, quad(5, 0, 7, 0)),
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

fn vector(extra: &str, result: &str) -> String {
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

// --- the sampler ---

fn key() -> Key {
    Key {
        namespace: "shop".into(),
        name: "checkout".into(),
        uid: "u".into(),
        run: "r1".into(),
    }
}

struct Sampling {
    sampler: Sampler,
    woken: mpsc::UnboundedReceiver<Key>,
    metrics: Metrics,
}

impl Sampling {
    fn of(source: MetricsSource) -> Self {
        Self::with(
            source,
            SamplerOptions {
                scrape: Duration::from_secs(1),
                settle: Duration::ZERO,
                ..SamplerOptions::default()
            },
        )
    }

    fn with(source: MetricsSource, options: SamplerOptions) -> Self {
        let (notify, woken) = mpsc::unbounded_channel();
        let metrics = Metrics::new();
        Self {
            sampler: Sampler::new([source], options, metrics.clone(), notify),
            woken,
            metrics,
        }
    }

    /// Looks each time that the key is told, until the look says yes.
    async fn until(
        &mut self,
        want: &Want,
        mut enough: impl FnMut(&[Interval], &SourceHealth) -> bool,
    ) -> Vec<Interval> {
        let look = async {
            loop {
                let snapshot = self.sampler.want(&key(), want.clone());
                if enough(&snapshot.intervals, &snapshot.health) {
                    return snapshot.intervals;
                }
                assert_eq!(self.woken.recv().await.unwrap(), key());
            }
        };
        tokio::time::timeout(Duration::from_secs(30), look)
            .await
            .expect("nothing of it within 30 s")
    }
}

fn want(from_exclusive: i64, interval: u32, query: Query) -> Want {
    Want {
        source: "default".into(),
        from_exclusive,
        interval,
        query,
    }
}

#[tokio::test]
async fn missed_intervals_are_read_in_few_queries_oldest_first() {
    let start = hour_ago();
    let prometheus = Prometheus::with(start, &gateway());
    let mut sampling = Sampling::with(
        source(&prometheus.url),
        SamplerOptions {
            window: 50,
            kept: 60,
            scrape: Duration::from_secs(1),
            ..SamplerOptions::default()
        },
    );
    let wanted = want(start, 15, contour(15));
    let kept = sampling.until(&wanted, |intervals, _| intervals.len() == 60).await;
    assert_eq!(
        kept.iter().map(|read| read.end).collect::<Vec<_>>(),
        (1..=60).map(|index| start + index * 15).collect::<Vec<_>>()
    );
    let stable = Arm {
        requests: 300.0,
        bad: 3.0,
    };
    assert_eq!(kept[0].metrics, vec![Observation::CanarySilent { stable }]);
    assert_eq!(
        kept[59].metrics,
        vec![Observation::Counts(Counts {
            canary: Arm {
                requests: 30.0,
                bad: 6.0
            },
            stable
        })]
    );
    assert_eq!(kept[59].seconds, 15);
    // No more is read until what is kept has been used.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(sampling.sampler.want(&key(), wanted.clone()).intervals.len(), 60);
    let later = want(start + 900, 15, contour(15));
    let rest = sampling.until(&later, |intervals, _| intervals.len() == 60).await;
    assert_eq!((rest[0].end, rest[59].end), (start + 915, start + 1800));
    // A commit that did not succeed: the same intervals again, and the same counts.
    let again = sampling.until(&wanted, |intervals, _| intervals.len() == 60).await;
    assert_eq!(again, kept);
    let page = sampling.metrics.encode().unwrap();
    assert!(
        page.contains("stepgate_source_queries_total{source=\"default\",outcome=\"ok\"}"),
        "{page}"
    );
}

#[tokio::test]
async fn an_interval_is_read_when_it_is_old_enough_and_not_before() {
    let prometheus = Prometheus::with(0, &[]);
    let mut sampling = Sampling::of(source(&prometheus.url));
    let begin = now();
    let query = Query::new("label_replace(vector(4), \"stepgate\", \"canary_requests\", \"\", \"\")");
    let wanted = want(begin, 1, query);
    for index in 1..=3 {
        let read = sampling.until(&wanted, |intervals, _| intervals.len() >= index).await;
        let newest = read.last().unwrap().end;
        assert!(now() > newest, "the interval to {newest} was read at {}", now());
        assert_eq!(read[0].end, begin + 1);
    }
    let due = sampling.sampler.next_due(&key()).unwrap().as_second();
    assert!((now() - 1..=now() + 3).contains(&due), "{due}");
    sampling.sampler.forget(&key());
    assert_eq!(sampling.sampler.next_due(&key()), None);
}

#[tokio::test]
async fn a_source_that_goes_and_comes_back_loses_no_interval() {
    let down = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&down);
    let impostor = Impostor::new(move |request| {
        if state.load(Ordering::SeqCst) {
            Answer::Http("503 Service Unavailable", vec![], String::new())
        } else if request.body == "query=time%28%29" {
            Answer::Json(format!(
                r#"{{"status":"success","data":{{"resultType":"scalar","result":[{0},"{0}"]}}}}"#,
                now()
            ))
        } else if request.line.contains("query_range") {
            Answer::Json(r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#.into())
        } else {
            Answer::Json(vector("", "[]"))
        }
    });
    let mut sampling = Sampling::of(source(&impostor.url));
    let begin = now();
    let wanted = want(begin, 1, Query::new("up"));
    let mut since = 0;
    sampling
        .until(&wanted, |_, health| match health {
            SourceHealth::Unavailable {
                since: at,
                label,
                message,
            } => {
                since = *at;
                assert_eq!(*label, "status");
                assert_eq!(message, "metrics source default answers with HTTP 503");
                true
            }
            _ => false,
        })
        .await;
    assert!((begin..=now()).contains(&since));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = impostor.requests().len();
    assert!((2..=6).contains(&before), "{before} questions to a source that is down");
    match sampling.sampler.want(&key(), wanted.clone()).health {
        SourceHealth::Unavailable { since: still, .. } => assert_eq!(still, since),
        other => panic!("{other:?}"),
    }
    down.store(false, Ordering::SeqCst);
    let read = sampling
        .until(&wanted, |intervals, health| {
            intervals.len() >= 3 && *health == SourceHealth::Available
        })
        .await;
    assert!(
        (1..).zip(&read).all(|(index, interval)| interval.end == begin + index),
        "{read:?}"
    );
    assert!(
        read.iter()
            .all(|interval| interval.metrics == vec![Observation::Silent])
    );
}

#[tokio::test]
async fn a_clock_that_is_wrong_makes_the_source_unavailable() {
    let impostor = Impostor::new(move |_| {
        let theirs = now() - 3600;
        Answer::Json(format!(
            r#"{{"status":"success","data":{{"resultType":"scalar","result":[{theirs},"{theirs}"]}}}}"#
        ))
    });
    let mut sampling = Sampling::of(source(&impostor.url));
    let wanted = want(now() - 10, 1, Query::new("up"));
    let read = sampling
        .until(&wanted, |_, health| {
            matches!(health, SourceHealth::Unavailable { label: "skew", .. })
        })
        .await;
    assert!(read.is_empty());
    assert!(
        impostor
            .requests()
            .iter()
            .all(|request| request.body == "query=time%28%29")
    );
}

#[tokio::test]
async fn a_slow_source_and_an_unknown_one_delay_nobody() {
    let impostor = Impostor::always(Answer::Silence);
    let mut sampling = Sampling::of(source(&impostor.url));
    let started = Instant::now();
    for run in 0..1000 {
        let other = Key {
            run: format!("r{run}"),
            ..key()
        };
        let snapshot = sampling.sampler.want(&other, want(now() - 100, 1, Query::new("up")));
        assert_eq!(snapshot.health, SourceHealth::Unknown);
    }
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    sampling.sampler.retain(|_| false);
    let nowhere = Want {
        source: "nowhere".into(),
        ..want(0, 1, Query::new("up"))
    };
    while sampling.woken.try_recv().is_ok() {}
    sampling
        .until(&nowhere, |_, health| match health {
            SourceHealth::Unavailable { label, message, .. } => {
                assert_eq!(*label, "unknown");
                assert!(
                    message.starts_with("no metrics source is named nowhere; there are: default."),
                    "{message}"
                );
                true
            }
            _ => false,
        })
        .await;
    assert!(sampling.sampler.source("default").is_ok());
    assert_eq!(sampling.sampler.source("nowhere").unwrap_err().label(), "unknown");
}

#[tokio::test]
async fn a_query_that_is_wrong_is_its_own_runs_trouble_only() {
    let prometheus = Prometheus::with(0, &[]);
    let mut sampling = Sampling::of(source(&prometheus.url));
    let wrong = Key {
        run: "wrong".into(),
        ..key()
    };
    sampling.sampler.want(&wrong, want(now() - 5, 1, Query::new("sum(")));
    tokio::time::timeout(Duration::from_secs(10), async {
        while !matches!(
            sampling
                .sampler
                .want(&wrong, want(now() - 5, 1, Query::new("sum(")))
                .health,
            SourceHealth::Unavailable { label: "rejected", .. }
        ) {
            sampling.woken.recv().await.unwrap();
        }
    })
    .await
    .unwrap();
    // Drained, or the other run's look would be woken for this one.
    let right = want(now() - 5, 1, Query::new("vector(1)"));
    let mut good = None;
    tokio::time::timeout(Duration::from_secs(10), async {
        while good.is_none() {
            let snapshot = sampling.sampler.want(&key(), right.clone());
            assert!(
                !matches!(snapshot.health, SourceHealth::Unavailable { .. }),
                "{:?}",
                snapshot.health
            );
            good = (!snapshot.intervals.is_empty()).then_some(snapshot.intervals);
            sampling.woken.recv().await.unwrap();
        }
    })
    .await
    .unwrap();
    match &good.unwrap()[0].metrics[0] {
        Observation::Error(error) => {
            assert!(
                error.0.ends_with("a series is labelled with none of the four counts"),
                "{error}"
            );
        }
        other => panic!("{other:?}"),
    }
}

//! The sampler: what it reads when, and that nobody waits for it.

#[path = "sampler/own.rs"]
mod own;
#[path = "sampler/scrapes.rs"]
mod scrapes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stepgate::provider::{Measure, Query};
use stepgate::source::sampler::{Key, Sampler, SamplerOptions, Want};
use stepgate::source::{MetricsSource, SourceLimits};
use stepgate::telemetry::Metrics;
use stepgate_core::input::SourceHealth;
use stepgate_core::verdict::{Arm, Counts, DataError, Interval, Observation};
use stepgate_crds::evidence::Trouble;
use stepgate_crds::units::Span;
use tokio::sync::mpsc;

use crate::fixtures::{contour, contour_of, gateway, hour_ago, latency, now, source};
use crate::impostor::{Answer, Impostor};
use crate::prometheus::{Prometheus, SCRAPE};
use crate::vector;

fn key() -> Key {
    Key {
        namespace: "shop".into(),
        name: "checkout".into(),
        uid: "u".into(),
        run: "r1".into(),
    }
}

/// As often as the fixtures' series have samples.
fn scraped_as_said() -> SamplerOptions {
    SamplerOptions {
        scrape: Duration::from_secs(SCRAPE.unsigned_abs()),
        ..SamplerOptions::default()
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

    /// Of a source with the fixtures' series.
    fn of_gateway(source: MetricsSource) -> Self {
        Self::with(source, scraped_as_said())
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
        tokio::time::timeout(Duration::from_secs(30), look).await.unwrap()
    }
}

fn want(from_exclusive: i64, interval: u32, query: Query) -> Want {
    Want {
        source: "default".into(),
        from_exclusive,
        interval,
        queries: vec![Ok(query)],
        own: Vec::new(),
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
            ..scraped_as_said()
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
            SourceHealth::Down { since: at, kind, why } => {
                assert_eq!(kind, &Trouble::SourceFails);
                since = at.as_millis();
                assert_eq!(why, "metrics source default answers with HTTP 503");
                true
            }
            _ => false,
        })
        .await;
    assert!((begin * 1000..=now() * 1000 + 1000).contains(&since));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = impostor.requests().len();
    assert!((2..=6).contains(&before), "{before} questions to a source that is down");
    match sampling.sampler.want(&key(), wanted.clone()).health {
        SourceHealth::Down { since: still, .. } => assert_eq!(still.as_millis(), since),
        other => panic!("{other:?}"),
    }
    down.store(false, Ordering::SeqCst);
    let read = sampling
        .until(&wanted, |intervals, health| {
            intervals.len() >= 3 && *health == SourceHealth::Answers
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
        .until(
            &wanted,
            |_, health| matches!(health, SourceHealth::Down { why, .. } if why.contains("its clock is -360")),
        )
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
        assert_eq!(snapshot.health, SourceHealth::Untried);
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
            SourceHealth::Down { why, .. } => {
                assert!(
                    why.starts_with("no metrics source is named nowhere; there are: default."),
                    "{why}"
                );
                true
            }
            _ => false,
        })
        .await;
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
            SourceHealth::Down { .. }
        ) {
            sampling.woken.recv().await.unwrap();
        }
    })
    .await
    .unwrap();
    let right = want(now() - 5, 1, Query::new("vector(1)"));
    let mut good = None;
    tokio::time::timeout(Duration::from_secs(10), async {
        while good.is_none() {
            let snapshot = sampling.sampler.want(&key(), right.clone());
            assert!(
                !matches!(snapshot.health, SourceHealth::Down { .. }),
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
                error
                    .detail
                    .ends_with("a series is labelled with none of the counts asked for"),
                "{error}"
            );
        }
        other => panic!("{other:?}"),
    }
}

fn errors_and_latency(start: i64, threshold: u64) -> Want {
    let threshold = Span::millis(threshold);
    Want {
        queries: vec![Ok(contour(15)), Ok(contour_of(15, &Measure::Latency { threshold }))],
        ..want(start, 15, contour(15))
    }
}

#[tokio::test]
async fn two_metrics_are_read_on_one_grid() {
    let start = hour_ago();
    let prometheus = Prometheus::with(start, &[gateway(), latency()].concat());
    let mut sampling = Sampling::of_gateway(source(&prometheus.url));
    let wanted = errors_and_latency(start, 500);
    let read = sampling.until(&wanted, |intervals, _| intervals.len() >= 100).await;
    let arm = |requests: f64, bad: f64| Arm { requests, bad };
    let at = |seconds: i64| &read.iter().find(|read| read.end == start + seconds).unwrap().metrics;
    assert_eq!(
        at(1_050),
        &vec![
            Observation::Counts(Counts {
                canary: arm(30.0, 6.0),
                stable: arm(300.0, 3.0),
            }),
            Observation::Counts(Counts {
                canary: arm(24.0, 15.0),
                stable: arm(285.0, 6.0),
            }),
        ]
    );
    assert_eq!(
        at(300),
        &vec![
            Observation::CanarySilent {
                stable: arm(300.0, 3.0)
            },
            Observation::CanarySilent {
                stable: arm(285.0, 6.0)
            },
        ]
    );
}

#[tokio::test]
async fn a_threshold_that_is_no_boundary_spoils_its_metric_alone_and_the_boundaries_are_listed() {
    let start = hour_ago();
    let prometheus = Prometheus::with(start, &[gateway(), latency()].concat());
    let mut sampling = Sampling::of_gateway(source(&prometheus.url));
    let wanted = errors_and_latency(start, 300);
    let read = sampling.until(&wanted, |intervals, _| intervals.len() >= 100).await;
    assert_eq!(
        read[69].metrics[1],
        Observation::Error(DataError {
            kind: Trouble::NoBucketBoundary,
            detail: "300ms is no bucket boundary of the histogram; there are 250ms, 500ms, 1s: set \
                     spec.analysis.latency.threshold to one"
                .to_owned(),
        })
    );
    assert!(matches!(read[69].metrics[0], Observation::Counts(_)), "{:?}", read[69]);
}

#[tokio::test]
async fn a_query_that_fails_and_one_that_there_is_not_spoil_their_metrics_alone() {
    let start = hour_ago();
    let prometheus = Prometheus::with(start, &gateway());
    let mut sampling = Sampling::of_gateway(source(&prometheus.url));
    let missing = DataError::unreadable("there is no histogram");
    let wanted = Want {
        queries: vec![Ok(Query::new("sum(")), Err(missing.clone()), Ok(contour(15))],
        ..want(start, 15, contour(15))
    };
    let read = sampling.until(&wanted, |intervals, _| intervals.len() >= 100).await;
    let metrics = &read[69].metrics;
    assert!(
        matches!(&metrics[0], Observation::Error(error) if error.detail.contains("cannot evaluate the query")),
        "{metrics:?}"
    );
    assert_eq!(metrics[1], Observation::Error(missing));
    assert!(matches!(metrics[2], Observation::Counts(_)), "{metrics:?}");
}

#[tokio::test]
async fn a_source_that_fails_is_asked_less_and_less_and_slows_no_other() {
    // Its clock can be read, which is not to say that it is well.
    let poisoned = Impostor::new(|request| {
        if request.body.contains("query=time") {
            let now = now();
            Answer::Json(format!(
                r#"{{"status":"success","data":{{"resultType":"scalar","result":[{now},"{now}"]}}}}"#
            ))
        } else {
            Answer::Http("500 Internal Server Error", vec![], String::new())
        }
    });
    let start = hour_ago();
    let prometheus = Prometheus::with(start, &gateway());
    let (notify, mut woken) = mpsc::unbounded_channel();
    let named = |name: &str, url: &str| {
        let spec = format!("{name}={url}").parse().unwrap();
        MetricsSource::new(&spec, SourceLimits::default()).unwrap()
    };
    let sources = [named("poisoned", &poisoned.url), named("default", &prometheus.url)];
    let sampler = Sampler::new(sources, scraped_as_said(), Metrics::new(), notify);
    let asks = |run: String, source: &str| {
        let key = Key { run, ..key() };
        let wanted = Want {
            source: source.into(),
            ..want(start, 15, contour(15))
        };
        sampler.want(&key, wanted)
    };
    for run in 0..40 {
        asks(format!("poisoned-{run}"), "poisoned");
    }
    let began = Instant::now();
    let well = async {
        while asks("well".into(), "default").intervals.is_empty() {
            woken.recv().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(10), well).await.unwrap();
    let within = Duration::from_secs(10);
    tokio::time::sleep(within.saturating_sub(began.elapsed())).await;
    // 40 runs that each try again after 1, 2, 4 and 8 s would be 160 and more; open for 1, 2, 4 and 8 s, it is let be in between.
    let asked = poisoned.requests().len();
    assert!((5..=80).contains(&asked), "asked {asked} times");
    for run in 0..40 {
        let snapshot = asks(format!("poisoned-{run}"), "poisoned");
        assert!(snapshot.intervals.is_empty());
        let SourceHealth::Down { why, .. } = snapshot.health else {
            panic!("{:?}", snapshot.health);
        };
        assert!(why.contains("HTTP 500"), "{why}");
    }
}

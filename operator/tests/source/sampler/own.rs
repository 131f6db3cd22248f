//! The user's own queries beside the counts.

use std::time::{Duration, Instant};

use stepgate::provider::Query;
use stepgate::source::sampler::{Key, SamplerOptions, Want};
use stepgate_core::input::SourceHealth;
use stepgate_core::verdict::{Interval, Observation};
use stepgate_crds::evidence::Trouble;

use super::{Sampling, key, scraped_as_said, want};
use crate::fixtures::{contour, gateway, hour_ago, now, source};
use crate::impostor::{Answer, Impostor};
use crate::prometheus::Prometheus;

/// What each of these gives in the intervals of the twenty minutes, beside counts.
async fn own(queries: &[&str]) -> Vec<Interval> {
    let start = hour_ago();
    let prometheus = Prometheus::with(start, &gateway());
    let mut sampling = Sampling::of_gateway(source(&prometheus.url));
    let wanted = Want {
        own: queries.iter().map(|query| Ok((*query).to_owned())).collect(),
        ..want(start, 15, contour(15))
    };
    let read = sampling.until(&wanted, |intervals, _| intervals.len() >= 70).await;
    // One interval by itself is read by another kind of query, and is the same.
    let ranged = read.into_iter().nth(68).unwrap();
    let mut alone = Sampling::with(
        source(&prometheus.url),
        SamplerOptions {
            window: 1,
            kept: 1,
            ..scraped_as_said()
        },
    );
    let wanted = Want {
        from_exclusive: ranged.end - 15,
        ..wanted
    };
    let mut single = alone.until(&wanted, |intervals, _| intervals.len() == 1).await;
    let single = single.pop().unwrap();
    for pair in single.metrics.iter().zip(&ranged.metrics) {
        match pair {
            // A range query is refused where an instant one has a result that is no number.
            (Observation::Error(of_one), Observation::Error(of_many)) if of_one != of_many => {
                assert!(matches!(
                    (of_one.kind, of_many.kind),
                    (
                        Trouble::QueryResultType | Trouble::QueryRejected,
                        Trouble::QueryRejected
                    )
                ));
            }
            (of_one, of_many) => assert_eq!(of_one, of_many),
        }
    }
    vec![ranged, single]
}

#[tokio::test]
async fn a_users_own_query_gives_one_number_or_its_own_trouble_beside_the_counts() {
    const RQ: &str = "envoy_cluster_upstream_rq_xx";
    let sum = format!("sum({RQ})");
    let queries = [
        sum.as_str(),
        "scalar(vector(-2.5))",
        "absent(up)",
        RQ,
        "vector(0) / 0",
        "vector(1) / 0",
        "up[5m]",
        "\"text\"",
        "sum(",
        "nonsense(up)",
    ];
    let [many, once] = own(&queries).await.try_into().unwrap();
    for read in [&many, &once] {
        assert_eq!(read.metrics.len(), 1 + queries.len());
        assert!(matches!(read.metrics[0], Observation::Counts(_)), "{read:?}");
        let Observation::Value(sum) = read.metrics[1] else {
            panic!("{read:?}")
        };
        assert!(sum > 5_000.0);
        assert_eq!(read.metrics[2], Observation::Value(-2.5));
    }
    let told: Vec<(Trouble, &str)> = once.metrics[3..]
        .iter()
        .map(|metric| match metric {
            Observation::Error(error) => (error.kind, error.detail.as_str()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        &told[..6],
        [
            (Trouble::QueryNoData, "the query gives no series"),
            (
                Trouble::QueryResultSeries,
                "the query gives 4 series, and one number is expected; bring them together, say by sum(…) or max(…)"
            ),
            (
                Trouble::QueryNotFinite,
                "the query gives NaN, which is no finite number"
            ),
            (
                Trouble::QueryNotFinite,
                "the query gives inf, which is no finite number"
            ),
            (
                Trouble::QueryResultType,
                "the query gives a range of samples (a matrix), and a scalar or a vector of one series is expected"
            ),
            (
                Trouble::QueryResultType,
                "the query gives a string, and a scalar or a vector of one series is expected"
            ),
        ]
    );
    for (kind, why) in &told[6..] {
        assert_eq!(*kind, Trouble::QueryRejected);
        assert!(why.contains("cannot evaluate the query: bad_data"), "{why}");
    }
}

#[tokio::test]
async fn own_queries_that_never_end_keep_nobody_from_their_counts_nor_the_source_from_being_asked() {
    let slow = Impostor::new(|request| {
        if request.body.contains("forever") {
            return Answer::Silence;
        }
        let now = now();
        let (kind, result) = if request.body.contains("query=time") {
            ("scalar", format!(r#"[{now},"{now}"]"#))
        } else {
            let time = request.body.rsplit_once("time=").map_or("0", |(_, time)| time);
            (
                "vector",
                format!(r#"[{{"metric":{{"stepgate":"canary_requests"}},"value":[{time},"7"]}}]"#),
            )
        };
        Answer::Json(format!(
            r#"{{"status":"success","data":{{"resultType":"{kind}","result":{result}}}}}"#
        ))
    });
    let sampling = Sampling::with(
        source(&slow.url),
        SamplerOptions {
            window: 1,
            scrape: Duration::from_secs(1),
            settle: Duration::ZERO,
            ..SamplerOptions::default()
        },
    );
    let from = now() - 60;
    let stuck = Want {
        own: vec![Ok("forever".to_owned()); 10],
        ..want(from, 1, Query::new("counts"))
    };
    let quick = Want {
        own: Vec::new(),
        ..stuck.clone()
    };
    let other = Key {
        run: "r2".into(),
        ..key()
    };
    let read = |key: &Key, want: &Want| sampling.sampler.want(key, want.clone());
    read(&key(), &stuck);
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Ten questions hang, and another run reads as if they did not.
    let began = Instant::now();
    while read(&other, &quick).intervals.len() < 20 {
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", read(&other, &quick));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let quick_for = began.elapsed();
    // Its own counts come once the time of one question is over, and those of the next interval after that.
    while read(&key(), &stuck).intervals.len() < 2 {
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", read(&key(), &stuck));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let snapshot = read(&key(), &stuck);
    assert_eq!(snapshot.health, SourceHealth::Answers);
    println!(
        "20 intervals beside ten questions without an answer: {quick_for:?}; two with them: {:?}",
        began.elapsed()
    );
    for interval in &snapshot.intervals {
        assert!(matches!(interval.metrics[0], Observation::Counts(_)), "{interval:?}");
        assert_eq!(interval.metrics.len(), 11);
        for metric in &interval.metrics[1..] {
            let Observation::Error(error) = metric else {
                panic!("{metric:?}")
            };
            assert_eq!(error.kind, Trouble::SourceTimeout);
        }
    }
}

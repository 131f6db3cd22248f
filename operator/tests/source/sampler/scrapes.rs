//! The check whether targets are scraped as often as the administrator says.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use stepgate::provider::Query;
use stepgate::source::sampler::SamplerOptions;
use stepgate_core::input::SourceHealth;
use stepgate_core::verdict::{Arm, Counts, Interval, Observation};
use stepgate_crds::evidence::Trouble;

use super::{Sampling, scraped_as_said, want};
use crate::fixtures::{contour, gateway, hour_ago, now, source};
use crate::impostor::{Answer, Impostor, Request};
use crate::prometheus::Prometheus;

/// What `least` and `up` begin with, as they are sent.
const LEAST: &str = "query=bottomk";
const UP: &str = "query=up";

/// A source whose one target is scraped every so many seconds, which can be changed; it has four requests of stable in each interval.
struct Scripted {
    every: Arc<AtomicI64>,
    impostor: Impostor,
}

impl Scripted {
    /// `instead`: answers a question of a check in place of the script.
    fn scraping_every(seconds: i64, instead: fn(&Request) -> Option<Answer>) -> Self {
        let every = Arc::new(AtomicI64::new(seconds));
        let now_every = Arc::clone(&every);
        let impostor = Impostor::new(move |request| {
            let (every, now) = (now_every.load(Ordering::SeqCst), now());
            let target = r#""metric":{"job":"envoy","instance":"gw"}"#;
            let is_check = request.body.starts_with(LEAST) || request.body.starts_with(UP);
            if request.body == "query=time%28%29" {
                Answer::Json(format!(
                    r#"{{"status":"success","data":{{"resultType":"scalar","result":[{now},"{now}"]}}}}"#
                ))
            } else if let Some(answer) = is_check.then(|| instead(request)).flatten() {
                answer
            } else if request.body.starts_with(LEAST) {
                Answer::Json(crate::vector(
                    "",
                    &format!(r#"[{{{target},"value":[{now},"{}"]}}]"#, 300 / every),
                ))
            } else if request.body.starts_with(UP) {
                let times: Vec<String> = (0..30)
                    .map(|index| format!(r#"[{},"1"]"#, now - (30 - index) * every))
                    .collect();
                Answer::Json(format!(
                    r#"{{"status":"success","data":{{"resultType":"matrix","result":[{{{target},"values":[{}]}}]}}}}"#,
                    times.join(",")
                ))
            } else {
                let time = request.body.rsplit_once("time=").unwrap().1;
                let counts = format!(r#"[{{"metric":{{"stepgate":"stable_requests"}},"value":[{time},"4"]}}]"#);
                Answer::Json(crate::vector("", &counts))
            }
        });
        Self { every, impostor }
    }

    fn sampling(&self, options: SamplerOptions) -> Sampling {
        let options = SamplerOptions {
            scrape: Duration::from_secs(2),
            settle: Duration::ZERO,
            gather: Duration::from_millis(5),
            ..options
        };
        Sampling::with(source(&self.impostor.url), options)
    }

    /// Requests that begin so.
    fn asked(&self, with: &str) -> usize {
        self.impostor
            .requests()
            .iter()
            .filter(|request| request.body.starts_with(with))
            .count()
    }
}

fn nothing(_: &Request) -> Option<Answer> {
    None
}

/// Reads until so many intervals of a second are there.
async fn intervals(sampling: &mut Sampling, begin: i64, count: usize, query: &Query) -> Vec<Interval> {
    let wanted = want(begin, 1, query.clone());
    sampling.until(&wanted, |intervals, _| intervals.len() >= count).await
}

fn counts() -> Observation {
    Observation::CanarySilent {
        stable: Arm {
            requests: 4.0,
            bad: 0.0,
        },
    }
}

#[tokio::test]
async fn a_run_whose_targets_are_scraped_as_is_said_asks_once() {
    let scripted = Scripted::scraping_every(2, nothing);
    let again = Duration::from_millis(100);
    let options = SamplerOptions {
        again,
        ..SamplerOptions::default()
    };
    let mut sampling = scripted.sampling(options);
    let read = intervals(&mut sampling, now(), 3, &contour(1)).await;
    assert!(read.iter().all(|interval| interval.metrics == [counts()]), "{read:?}");
    assert_eq!((scripted.asked(LEAST), scripted.asked(UP)), (1, 0));
}

#[tokio::test]
async fn where_they_are_scraped_more_seldom_no_count_is_used_and_both_numbers_are_told() {
    let scripted = Scripted::scraping_every(60, nothing);
    let mut sampling = scripted.sampling(SamplerOptions::default());
    let read = intervals(&mut sampling, now(), 3, &contour(1)).await;
    for interval in &read {
        let [Observation::Error(error)] = &interval.metrics[..] else {
            panic!("{interval:?}");
        };
        assert_eq!(error.kind, Trouble::ScrapeInterval);
        assert_eq!(
            error.detail,
            "metrics source default: targets of this Rollout's series (instance=gw, job=envoy) are scraped every 60 s, and the administrator \
             has set 2 s for this source; set --scrape-interval (chart value scrapeInterval) to 1m, or have them scraped every 2 s"
        );
    }
    // And is asked again after ten minutes only.
    assert_eq!((scripted.asked(LEAST), scripted.asked(UP)), (1, 1));
}

#[tokio::test]
async fn once_they_are_scraped_as_is_said_counts_are_used_again() {
    let scripted = Scripted::scraping_every(60, nothing);
    let again = Duration::from_secs(2);
    let options = SamplerOptions {
        again,
        ..SamplerOptions::default()
    };
    let mut sampling = scripted.sampling(options);
    let (begin, query) = (now(), contour(1));
    let first = intervals(&mut sampling, begin, 1, &query).await;
    assert!(matches!(first[0].metrics[..], [Observation::Error(_)]), "{first:?}");
    scripted.every.store(2, Ordering::SeqCst);
    let wanted = want(begin, 1, query);
    let is_counted =
        |intervals: &[Interval], _: &SourceHealth| intervals.last().is_some_and(|last| last.metrics == [counts()]);
    sampling.until(&wanted, is_counted).await;
    assert_eq!(scripted.asked(UP), 1);
}

#[tokio::test]
async fn a_check_that_fails_or_says_nothing_changes_nothing() {
    let refused: fn(&Request) -> Option<Answer> = |_| {
        let error = r#"{"status":"error","errorType":"bad_data","error":"no subqueries here"}"#;
        Some(Answer::Http("400 Bad Request", vec![], error.to_owned()))
    };
    let fails: fn(&Request) -> Option<Answer> =
        |_| Some(Answer::Http("500 Internal Server Error", vec![], String::new()));
    let silent: fn(&Request) -> Option<Answer> = |_| Some(Answer::Silence);
    let empty: fn(&Request) -> Option<Answer> = |_| Some(Answer::Json(crate::vector("", "[]")));
    let without_up: fn(&Request) -> Option<Answer> = |request| {
        let none = r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;
        request.body.starts_with(UP).then(|| Answer::Json(none.to_owned()))
    };
    for instead in [refused, fails, silent, empty, without_up] {
        let scripted = Scripted::scraping_every(60, instead);
        let mut sampling = scripted.sampling(SamplerOptions::default());
        let read = intervals(&mut sampling, now(), 2, &contour(1)).await;
        assert!(read.iter().all(|interval| interval.metrics == [counts()]), "{read:?}");
        assert_eq!(scripted.asked(LEAST), 1);
    }
}

#[tokio::test]
async fn one_runs_question_that_is_refused_hides_no_other_runs() {
    // Refuses what has the word `poison` in it; the second target of the answer is the second question's.
    let refusals = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&refusals);
    let impostor = Impostor::new(move |request| {
        let now = now();
        if request.body == "query=time%28%29" {
            Answer::Json(format!(
                r#"{{"status":"success","data":{{"resultType":"scalar","result":[{now},"{now}"]}}}}"#
            ))
        } else if request.body.contains("bottomk") && request.body.contains("poison") {
            counted.fetch_add(1, Ordering::SeqCst);
            let error = r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
            Answer::Http("400 Bad Request", vec![], error.to_owned())
        } else if request.body.starts_with(UP) {
            let times: Vec<String> = (1..30)
                .rev()
                .map(|index| format!(r#"[{},"1"]"#, now - index * 60))
                .collect();
            Answer::Json(format!(
                r#"{{"status":"success","data":{{"resultType":"matrix","result":[{{"metric":{{"job":"envoy","instance":"gw"}},"values":[{}]}}]}}}}"#,
                times.join(",")
            ))
        } else if request.body.contains("bottomk") {
            Answer::Json(crate::vector(
                "",
                &format!(r#"[{{"metric":{{"job":"envoy","instance":"gw"}},"value":[{now},"5"]}}]"#),
            ))
        } else {
            Answer::Json(crate::vector("", "[]"))
        }
    });
    let options = SamplerOptions {
        scrape: Duration::from_secs(2),
        settle: Duration::ZERO,
        gather: Duration::from_millis(20),
        ..SamplerOptions::default()
    };
    let mut sampling = Sampling::with(source(&impostor.url), options);
    let begin = now();
    let mut poisoned = contour(1).parts().unwrap().clone();
    poisoned.stable_requests = "poison".into();
    let other = super::Key {
        run: "other".into(),
        ..super::key()
    };
    sampling
        .sampler
        .want(&other, want(begin, 1, Query::counting(poisoned.clone(), 1)));
    let wanted = want(begin, 1, contour(1));
    let mut found = None;
    let both = async {
        loop {
            let mine = sampling.sampler.want(&super::key(), wanted.clone());
            let theirs = sampling
                .sampler
                .want(&other, want(begin, 1, Query::counting(poisoned.clone(), 1)));
            if let (Some(mine), Some(theirs)) = (mine.intervals.first(), theirs.intervals.first()) {
                found.get_or_insert((mine.metrics.clone(), theirs.metrics.clone()));
                break;
            }
            sampling.woken.recv().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
    let (mine, theirs) = found.unwrap();
    assert!(
        matches!(&mine[..], [Observation::Error(error)] if error.kind == Trouble::ScrapeInterval),
        "{mine:?}"
    );
    assert_eq!(theirs, [Observation::Silent]);
    assert!((1..=2).contains(&refusals.load(Ordering::SeqCst)));
}

#[tokio::test]
async fn a_real_prometheus_says_how_often_it_scrapes() {
    let start = hour_ago();
    let prometheus = Prometheus::with(start, &gateway());
    let mut as_said = Sampling::with(source(&prometheus.url), scraped_as_said());
    // From the eleventh minute on: the gateway has been there for ten.
    let wanted = want(start + 660, 15, contour(15));
    let read = as_said.until(&wanted, |intervals, _| intervals.len() >= 20).await;
    let stable = Arm {
        requests: 300.0,
        bad: 3.0,
    };
    let canary = Arm {
        requests: 30.0,
        bad: 6.0,
    };
    assert_eq!(read[0].metrics, [Observation::Counts(Counts { canary, stable })]);
    let options = SamplerOptions {
        scrape: Duration::from_secs(2),
        window: 20,
        ..SamplerOptions::default()
    };
    let mut seldom = Sampling::with(source(&prometheus.url), options);
    let read = seldom.until(&wanted, |intervals, _| intervals.len() >= 20).await;
    let [Observation::Error(error)] = &read[0].metrics[..] else {
        panic!("{:?}", read[0]);
    };
    assert!(
        error
            .detail
            .contains("are scraped every 5 s, and the administrator has set 2 s"),
        "{error}"
    );
}

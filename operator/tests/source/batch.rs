//! Many runs that ask at one moment: their questions go out together, and none is answered with another's counts, or for another's fault.

use std::time::Duration;

use stepgate::provider::{Measure, Query};
use stepgate::source::sampler::{Key, Sampler, SamplerOptions, Want};
use stepgate::source::{MetricsSource, SourceLimits};
use stepgate::telemetry::Metrics;
use stepgate_core::input::SourceHealth;
use stepgate_core::verdict::{Arm, Counts, Observation};
use stepgate_crds::units::Span;
use tokio::sync::mpsc;

use crate::fixtures::{contour_of, gateway, latency, limited, now, source};
use crate::impostor::{Answer, Impostor};
use crate::prometheus::Prometheus;

struct Crowd {
    sampler: Sampler,
    /// The end of the one interval that is ever due: it began in 1970, and the next ends as long after it.
    end: u32,
    _woken: mpsc::UnboundedReceiver<Key>,
    metrics: Metrics,
}

/// What became of one run.
type Read = Result<Observation, String>;

impl Crowd {
    fn of(source: MetricsSource) -> Self {
        let (notify, woken) = mpsc::unbounded_channel();
        let metrics = Metrics::new();
        let options = SamplerOptions {
            scrape: Duration::from_secs(5),
            settle: Duration::ZERO,
            ..SamplerOptions::default()
        };
        Self {
            sampler: Sampler::new([source], options, metrics.clone(), notify),
            end: (now() - 10).try_into().unwrap(),
            _woken: woken,
            metrics,
        }
    }

    /// The observation of each query, each asked by a run of its own, named after `name`.
    async fn ask(&self, name: &str, queries: &[Query]) -> Vec<Read> {
        let read =
            |query: &Query, number: usize| self.observed(&format!("{name}-{number}"), std::slice::from_ref(query));
        let all = async {
            loop {
                let found: Vec<_> = (0..).zip(queries).map(|(number, query)| read(query, number)).collect();
                if found.iter().all(Option::is_some) {
                    return found
                        .into_iter()
                        .flatten()
                        .map(|mut metrics| metrics.remove(0))
                        .collect();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all).await.unwrap()
    }

    /// What a run has, a metric each, once it has something.
    fn observed(&self, name: &str, queries: &[Query]) -> Option<Vec<Read>> {
        let key = Key {
            namespace: "shop".into(),
            name: name.into(),
            uid: "u".into(),
            run: "r1".into(),
        };
        let snapshot = self.sampler.want(
            &key,
            Want {
                source: "default".into(),
                from_exclusive: 0,
                interval: self.end,
                queries: queries.iter().cloned().map(Ok).collect(),
                own: Vec::new(),
            },
        );
        match (snapshot.intervals.first(), snapshot.health) {
            (Some(interval), _) => Some(interval.metrics.iter().cloned().map(Ok).collect()),
            (None, SourceHealth::Down { why, .. }) => Some(vec![Err(why); queries.len()]),
            (None, _) => None,
        }
    }

    /// Questions that reached the source so far.
    fn asked(&self) -> u64 {
        let page = self.metrics.encode().unwrap();
        let counts = page
            .lines()
            .filter(|line| line.starts_with("stepgate_source_queries_total{"))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
        counts.sum()
    }
}

fn constant(requests: usize) -> Query {
    Query::new(format!(
        "label_replace(vector({requests}), \"stepgate\", \"canary_requests\", \"\", \"\")"
    ))
}

fn requests(number: u32) -> Observation {
    Observation::Counts(Counts {
        canary: Arm {
            requests: number.into(),
            bad: 0.0,
        },
        stable: Arm::default(),
    })
}

#[tokio::test]
async fn each_run_gets_its_own_counts_of_a_query_that_is_made_of_many() {
    let prometheus = Prometheus::with(0, &[]);
    let crowd = Crowd::of(source(&prometheus.url));
    let queries: Vec<Query> = (0..120).map(constant).collect();
    let read = crowd.ask("run", &queries).await;
    assert_eq!(read, (0..120).map(requests).map(Ok).collect::<Vec<_>>());
    // One look at the clock, and fifty, fifty and twenty; a run that begins late may have gone by itself.
    assert!((4..=6).contains(&crowd.asked()), "{}", crowd.asked());
}

#[tokio::test]
async fn a_question_that_spoils_a_batch_is_found_and_asked_by_itself_from_then_on() {
    let prometheus = Prometheus::with(0, &[]);
    let crowd = Crowd::of(source(&prometheus.url));
    let with = |bad: &str| {
        let mut queries: Vec<Query> = (0..20).map(constant).collect();
        queries[7] = Query::new(bad);
        queries
    };
    for (bad, said) in [
        ("sum(", "parse error"),
        ("\"a string\"", "another type"),
        ("vector(1) or on(x) group_left vector(2)", "parse error"),
    ] {
        let before = crowd.asked();
        let read = crowd.ask(&format!("first-{}", bad.len()), &with(bad)).await;
        for (number, one) in (0..).zip(&read) {
            if number != 7 {
                assert_eq!(*one, Ok(requests(number)), "{bad}: {number}");
            }
        }
        let spoilt = format!("{:?}", read[7]);
        assert!(spoilt.contains(said), "{bad}: {spoilt}");
        let finding = crowd.asked() - before;
        assert!((6..=14).contains(&finding), "{bad}: {finding} queries to find it");
        let before = crowd.asked();
        let read = crowd.ask(&format!("second-{}", bad.len()), &with(bad)).await;
        assert_eq!(read[19], Ok(requests(19)));
        let again = crowd.asked() - before;
        assert!((2..=4).contains(&again), "{bad}: {again} queries once it is known");
    }
}

#[tokio::test]
async fn a_batch_that_is_too_much_for_the_source_is_made_smaller_until_it_is_not() {
    for manages in [1, 2] {
        made_smaller(manages).await;
    }
}

/// What a real source does not do on demand: it manages so many questions at once, and no more.
async fn made_smaller(manages: usize) {
    let impostor = Impostor::new(move |request| {
        if request.body == "query=time%28%29" {
            Answer::Json(format!(
                r#"{{"status":"success","data":{{"resultType":"scalar","result":[{0},"{0}"]}}}}"#,
                now()
            ))
        } else if request.body.matches("stepgate_question").count() > manages {
            Answer::Json(format!("{{\"status\":\"success\",\"{}\":1}}", "x".repeat(100 << 10)))
        } else {
            Answer::Json(crate::vector("", "[]"))
        }
    });
    let crowd = Crowd::of(source(&impostor.url));
    let queries: Vec<Query> = (0..8).map(constant).collect();
    let mut read = Vec::new();
    for _ in 0..40 {
        read = crowd.ask("run", &queries).await;
        if read.iter().all(Result::is_ok) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(read, vec![Ok(Observation::Silent); 8]);
}

/// 1,000 Rollouts with two metrics each, whose intervals all end at one moment, by the queries that are asked of Contour. At 30 s an interval
/// that is at most two questions a second.
#[tokio::test]
async fn a_thousand_runs_ask_sixty_questions_an_interval_at_most() {
    let lines: Vec<_> = gateway().into_iter().chain(latency()).collect();
    let end = now();
    let prometheus = Prometheus::with(end - 600, &lines);
    let crowd = Crowd {
        end: end.try_into().unwrap(),
        ..Crowd::of(limited(&prometheus.url, SourceLimits::default()))
    };
    let latency = Measure::Latency {
        threshold: "500ms".parse::<Span>().unwrap(),
    };
    let queries = [contour_of(15, &Measure::Errors), contour_of(15, &latency)];
    let names: Vec<String> = (0..1_000).map(|number| format!("run-{number}")).collect();
    let began = (cpu(), std::time::Instant::now());
    let read = async {
        loop {
            let found: Vec<_> = names.iter().map(|name| crowd.observed(name, &queries)).collect();
            if found.iter().all(Option::is_some) {
                return found;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let read = tokio::time::timeout(Duration::from_mins(2), read).await.unwrap();
    let (cpu, took) = (cpu().saturating_sub(began.0), began.1.elapsed());
    println!(
        "1,000 runs of two metrics: {} questions, {:.2} s of this process' CPU, {:.1} s",
        crowd.asked(),
        cpu.as_secs_f64(),
        took.as_secs_f64()
    );
    let counts = |requests: u32, bad: u32| Arm {
        requests: requests.into(),
        bad: bad.into(),
    };
    let errors = Ok(Observation::Counts(Counts {
        canary: counts(10, 2),
        stable: counts(300, 3),
    }));
    for metrics in read.into_iter().flatten() {
        assert_eq!(metrics[0], errors);
        assert!(
            matches!(&metrics[1], Ok(Observation::Counts(counts)) if counts.stable.requests > 0.0),
            "{:?}",
            metrics[1]
        );
    }
    assert!(crowd.asked() <= 60, "{} questions", crowd.asked());
}

/// CPU time that this process has had.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // After the name in parentheses the fields are numbered from 3; 14 and 15 are ticks of 10 ms in user and system mode.
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

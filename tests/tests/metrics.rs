//! What a rollout does while its metrics say too little, nothing, or nonsense: it holds and says why, and goes on once they are back.
//!
//! Runs inside the cluster: `target/debug/local-cluster run -- cargo test -p stepgate-tests --test metrics`. That something does not
//! happen is watched for a bounded time of some intervals.

#![expect(clippy::print_stdout, reason = "a test prints what it measured")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use stepgate_crds::provider::ProviderName;
use stepgate_crds::status::Phase;
use stepgate_crds::{RolloutStatus, Verb};
use stepgate_tests::cluster::Cluster;
use stepgate_tests::operator::OperatorOptions;
use stepgate_tests::record::status_line;
use stepgate_tests::scene::{Scene, quick};
use stepgate_tests::shop::{self, Shop};
use tokio::net::TcpListener;
use tokio::time::sleep;

const BOUND: Duration = Duration::from_mins(2);
/// Five intervals of those that `quick` sets.
const FIVE_INTERVALS: Duration = Duration::from_secs(25);

/// Options under which a status is refreshed soon: what changes in it is what these tests look at.
fn talkative(options: OperatorOptions) -> OperatorOptions {
    OperatorOptions {
        flags: vec!["--status-refresh=3s".to_owned()],
        ..options
    }
}

/// A shop whose steps pass on about a hundred requests.
fn loose() -> Shop {
    Shop {
        rollout: "  analysis: {errorRate: {max: 5%}}\n".to_owned(),
        ..Shop::default()
    }
}

fn is_at(weight: i32) -> impl Fn(&RolloutStatus) -> bool {
    move |status| status.phase == Some(Phase::Stepping) && status.weight == Some(weight)
}

/// Watches for so long that the run neither goes on nor back, and gives the last status.
async fn stays_at_ten(scene: &Scene, time: Duration) -> Result<RolloutStatus> {
    sleep(time).await;
    let status = shop::status(&scene.namespace).await?;
    ensure!(is_at(10)(&status), "it did not stay at 10 %: {}", status_line(&status));
    let weights: Vec<i64> = scene.record.accepted_weights().into_iter().flatten().collect();
    ensure!(weights == [0, 10], "accepted weights: {weights:?}");
    Ok(status)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_traffic_it_holds_at_ten_percent_and_says_no_data() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("silent").await?;
    let (_prometheus, options) = quick(&namespace).await?;
    let scene = Scene::open_in(namespace, &Shop::default(), talkative(options)).await?;
    let outcome = no_traffic(&scene).await;
    scene.told(outcome)
}

async fn no_traffic(scene: &Scene) -> Result<()> {
    shop::ship(&scene.namespace, "v2", "0%").await?;
    scene
        .wait_for("NoData", BOUND, |status| {
            is_at(10)(status) && status.verdict.as_deref() == Some("NoData")
        })
        .await?;
    let status = stays_at_ten(scene, FIVE_INTERVALS).await?;
    println!("no traffic: {}", status_line(&status));
    ensure!(status.verdict.as_deref() == Some("NoData"), "{}", status_line(&status));
    let message = status.message.unwrap_or_default();
    ensure!(message.contains("no request of either version"), "{message}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_three_requests_a_minute_it_says_how_many_it_needs_and_for_how_long() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("few").await?;
    let (_prometheus, options) = quick(&namespace).await?;
    let scene = Scene::open_in(namespace, &Shop::default(), talkative(options)).await?;
    let outcome = few_requests(&scene).await;
    scene.told(outcome)
}

async fn few_requests(scene: &Scene) -> Result<()> {
    let load = scene.load(0.05).await?;
    shop::ship(&scene.namespace, "v2", "0%").await?;
    scene
        .wait_for("InsufficientTraffic with an estimate", BOUND, |status| {
            let message = status.message.as_deref().unwrap_or_default();
            is_at(10)(status)
                && status.verdict.as_deref() == Some("InsufficientTraffic")
                && message.contains(" of about ")
                && message.contains(" to go")
        })
        .await?;
    let status = stays_at_ten(scene, FIVE_INTERVALS).await?;
    println!(
        "three requests a minute: {}\n  clients: {}",
        status_line(&status),
        load.stop().await?
    );
    ensure!(
        status.verdict.as_deref() == Some("InsufficientTraffic"),
        "{}",
        status_line(&status)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_prometheus_gone_in_mid_step_it_holds_and_goes_on_when_it_is_back() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("outage").await?;
    let (mut prometheus, options) = quick(&namespace).await?;
    let scene = Scene::open_in(namespace, &loose(), talkative(options)).await?;
    let outcome = outage(&scene, &mut prometheus).await;
    scene.told(outcome)
}

async fn outage(scene: &Scene, prometheus: &mut stepgate_tests::cluster::Prometheus) -> Result<()> {
    // Slow enough that the step is not over when the outage begins.
    let load = scene.load(50.0).await?;
    shop::ship(&scene.namespace, "v2", "0%").await?;
    scene.wait_for("10 % in force", BOUND, is_at(10)).await?;
    prometheus.stop().await?;
    let told = scene
        .wait_for("MetricsUnavailable", BOUND, |status| {
            is_at(10)(status) && status.verdict.as_deref() == Some("MetricsUnavailable")
        })
        .await?;
    let held = stays_at_ten(scene, FIVE_INTERVALS).await?;
    ensure!(
        held.verdict.as_deref() == Some("MetricsUnavailable"),
        "{}",
        status_line(&held)
    );
    prometheus.start().await?;
    scene.wait_for("30 % in force", BOUND, is_at(30)).await?;
    let report = load.stop().await?;
    println!(
        "Prometheus gone: {}\n  and 25 s later: {}\n  clients: {report}",
        status_line(&told),
        status_line(&held)
    );
    ensure!(report.other_failures() == 0, "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_passes_on_the_pods_own_counters() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("pods").await?;
    let (_prometheus, options) = quick(&namespace).await?;
    let shop = Shop {
        rollout: "  analysis: {provider: pods, errorRate: {max: 5%}}\n".to_owned(),
        ..Shop::default()
    };
    let scene = Scene::open_in(namespace, &shop, talkative(options)).await?;
    let outcome = by_pods(&scene).await;
    scene.told(outcome)
}

async fn by_pods(scene: &Scene) -> Result<()> {
    let load = scene.load(100.0).await?;
    shop::ship(&scene.namespace, "v2", "0%").await?;
    let status = scene.wait_for("30 % in force", BOUND, is_at(30)).await?;
    let report = load.stop().await?;
    let provider = status.found.as_ref().map(|found| found.provider.clone());
    ensure!(provider == Some(ProviderName::PODS), "{provider:?}");
    // The counts that the step passed on.
    let (_, passed) = scene
        .record
        .first_run(|run| run.weight == 30 && !run.metrics.is_empty())
        .context("no counts were recorded with the step")?;
    let counts = passed.metrics.first().context("no metric")?;
    println!("by the pods' own counters: {counts:?}\n  clients: {report}");
    ensure!(
        counts.canary_requests > 50 && counts.stable_requests > counts.canary_requests,
        "{counts:?}"
    );
    ensure!(counts.canary_bad == 0, "{counts:?}");
    let measured = counts.measured_weight.context("no measured weight")?;
    ensure!((5.0..15.0).contains(&measured), "measured {measured} % at 10 %");
    ensure!(report.other_failures() == 0, "{report}");
    Ok(())
}

/// How the imitation of a metrics source answers.
const FAILS: u8 = 0;
const GARBAGE: u8 = 1;
const NOT_A_NUMBER: u8 = 2;

/// The parameters of a form's body.
fn form(body: &str) -> HashMap<String, String> {
    // A URL's query is the same encoding.
    let parsed = reqwest::Url::parse(&format!("http://form/?{body}"));
    parsed.map_or_else(|_| HashMap::new(), |url| url.query_pairs().into_owned().collect())
}

/// An imitation of a metrics source that answers as it is told; it counts nothing and never gives a count.
async fn imitation(mode: State<Arc<AtomicU8>>, body: String) -> Response {
    let asked: HashMap<String, String> = form(&body);
    let json = |text: String| ([(header::CONTENT_TYPE, "application/json")], text).into_response();
    let now = jiff::Timestamp::now().as_millisecond();
    let (seconds, fraction) = (now / 1_000, now % 1_000);
    match mode.load(Ordering::Relaxed) {
        FAILS => (StatusCode::INTERNAL_SERVER_ERROR, "the disk is full").into_response(),
        GARBAGE => (StatusCode::OK, "<html>Please log in</html>").into_response(),
        _ if asked.get("query").is_some_and(|query| query == "time()") => json(format!(
            r#"{{"status":"success","data":{{"resultType":"scalar","result":[{seconds}.{fraction:03},"{seconds}.{fraction:03}"]}}}}"#
        )),
        _ => {
            let series = ["canary_requests", "canary_bad", "stable_requests", "stable_bad"];
            let labelled = |values: &str| {
                let one = |name: &&str| format!(r#"{{"metric":{{"stepgate":"{name}"}},{values}}}"#);
                series.iter().map(one).collect::<Vec<_>>().join(",")
            };
            match (
                asked.get("time"),
                asked.get("start"),
                asked.get("end"),
                asked.get("step"),
            ) {
                (Some(time), ..) => json(format!(
                    r#"{{"status":"success","data":{{"resultType":"vector","result":[{}]}}}}"#,
                    labelled(&format!(r#""value":[{time},"NaN"]"#))
                )),
                (_, Some(start), Some(end), Some(step)) => {
                    let number = |text: &String| text.parse::<i64>().unwrap_or_default();
                    let step = usize::try_from(number(step)).unwrap_or(1).max(1);
                    let values: Vec<String> = (number(start)..=number(end))
                        .step_by(step)
                        .map(|time| format!(r#"[{time},"NaN"]"#))
                        .collect();
                    json(format!(
                        r#"{{"status":"success","data":{{"resultType":"matrix","result":[{}]}}}}"#,
                        labelled(&format!(r#""values":[{}]"#, values.join(",")))
                    ))
                }
                _ => StatusCode::BAD_REQUEST.into_response(),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_or_answers_nonsense_holds_the_step_with_its_reason() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let mode = Arc::new(AtomicU8::new(FAILS));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/api/v1/query", post(imitation))
        .route("/api/v1/query_range", post(imitation))
        .with_state(Arc::clone(&mode));
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let options = OperatorOptions {
        sources: vec![format!("imitation=http://{address}")],
        scrape: "1s",
        interval: "5s",
        ..OperatorOptions::default()
    };
    let shop = Shop {
        rollout: "  analysis: {source: imitation}\n".to_owned(),
        ..Shop::default()
    };
    let scene = Scene::open(&cluster, "nonsense", &shop, talkative(options)).await?;
    let outcome = nonsense(&scene, &mode).await;
    server.abort();
    scene.told(outcome)
}

async fn nonsense(scene: &Scene, mode: &AtomicU8) -> Result<()> {
    let load = scene.load(50.0).await?;
    shop::ship(&scene.namespace, "v2", "0%").await?;
    for (answer, why) in [
        (FAILS, "500"),
        (GARBAGE, "not JSON"),
        (NOT_A_NUMBER, "not a finite number"),
    ] {
        mode.store(answer, Ordering::Relaxed);
        let told = scene
            .wait_for(why, BOUND, |status| {
                is_at(10)(status)
                    && status.verdict.as_deref() == Some("MetricsUnavailable")
                    && status.message.as_deref().is_some_and(|message| message.contains(why))
            })
            .await?;
        println!("a source that is no use: {}", status_line(&told));
        stays_at_ten(scene, FIVE_INTERVALS / 2).await?;
    }
    // A person may go on without evidence, and back.
    scene.command(Verb::Abort).await?;
    let ended = shop::wait(&scene.namespace, Phase::Failed, BOUND).await?;
    let reason = ended.failed.map(|failed| failed.cause.reason).unwrap_or_default();
    ensure!(reason == "Aborted", "{reason}");
    let report = load.stop().await?;
    ensure!(report.other_failures() == 0, "{report}");
    Ok(())
}

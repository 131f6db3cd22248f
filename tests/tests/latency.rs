//! How long requests take, judged on the real gateway's and the application's own histograms: a slow version goes back, and a threshold
//! that no bucket ends at passes nobody.
//!
//! Runs inside the cluster: `target/debug/local-cluster run -- cargo test -p stepgate-tests --test latency`.

#![expect(clippy::print_stdout, reason = "a test prints what it measured")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stepgate_crds::RolloutStatus;
use stepgate_crds::status::Phase;
use stepgate_tests::cluster::{Cluster, Prometheus};
use stepgate_tests::operator::OperatorOptions;
use stepgate_tests::record::status_line;
use stepgate_tests::scene::{Scene, quick};
use stepgate_tests::shop::{self, Shop};
use tokio::time::sleep;

const BOUND: Duration = Duration::from_mins(2);
/// Five intervals of those that `quick` sets.
const FIVE_INTERVALS: Duration = Duration::from_secs(25);

/// A scene whose latency is judged so, by this set of queries.
async fn scene(name: &str, provider: &str, threshold: &str) -> Result<(Scene, Prometheus)> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace(name).await?;
    let (prometheus, options) = quick(&namespace).await?;
    let options = OperatorOptions {
        flags: vec!["--status-refresh=3s".to_owned(), "--warm-up=5s".to_owned()],
        ..options
    };
    let shop = Shop {
        rollout: format!(
            "  analysis: {{provider: {provider}, errorRate: {{max: 5%}}, latency: {{threshold: {threshold}, max: 5%}}}}\n"
        ),
        ..Shop::default()
    };
    Ok((Scene::open_in(namespace, &shop, options).await?, prometheus))
}

fn is_at(weight: i32) -> impl Fn(&RolloutStatus) -> bool {
    move |status| status.phase == Some(Phase::Stepping) && status.weight == Some(weight)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_slow_is_rolled_back_by_the_gateways_histogram() -> Result<()> {
    let (scene, _prometheus) = scene("slow", "contour", "250ms").await?;
    let outcome = slow(&scene).await;
    scene.told(outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_slow_is_rolled_back_by_its_pods_own_histogram() -> Result<()> {
    let (scene, _prometheus) = scene("slow-pods", "pods", "250ms").await?;
    let outcome = slow(&scene).await;
    scene.told(outcome)
}

/// Every answer of the version takes 400 ms, and none fails.
async fn slow(scene: &Scene) -> Result<()> {
    let load = scene.load(100.0).await?;
    shop::ship_with(&scene.namespace, &["VERSION=v2", "LATENCY=400ms"]).await?;
    let ended = shop::wait(&scene.namespace, Phase::Failed, BOUND).await?;
    let report = load.stop().await?;
    println!("slow version: {}\n  clients: {report}", status_line(&ended));
    let message = ended.message.as_deref().unwrap_or_default();
    ensure!(message.contains("latency: "), "{message}");
    let past = ended.history.first().context("no history")?;
    ensure!(
        ["Verdict", "Tripwire"].map(Some).contains(&past.reason.as_deref()),
        "{past:?}"
    );
    let weights: Vec<i64> = scene.record.accepted_weights().into_iter().flatten().collect();
    ensure!(weights == [0, 10, 0], "accepted weights: {weights:?}");
    ensure!(report.other_failures() == 0, "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_quick_passes_its_steps_by_both_metrics() -> Result<()> {
    let (scene, _prometheus) = scene("quick", "contour", "250ms").await?;
    let outcome = by_both(&scene).await;
    scene.told(outcome)
}

async fn by_both(scene: &Scene) -> Result<()> {
    let load = scene.load(100.0).await?;
    shop::ship(&scene.namespace, "v2", "0%").await?;
    let status = scene.wait_for("30 % in force", BOUND, is_at(30)).await?;
    let report = load.stop().await?;
    let (_, passed) = scene
        .record
        .first_run(|run| run.weight == 30 && !run.metrics.is_empty())
        .context("no counts were recorded with the step")?;
    println!(
        "quick version: {}\n  {:?}\n  clients: {report}",
        status_line(&status),
        passed.metrics
    );
    let names: Vec<&str> = passed.metrics.iter().map(|metric| metric.name.as_str()).collect();
    ensure!(names == ["errors", "latency"], "{names:?}");
    let latency = passed.metrics.last().context("no latency")?;
    ensure!(
        latency.canary_requests > 50 && latency.stable_requests > latency.canary_requests,
        "{latency:?}"
    );
    ensure!(report.other_failures() == 0, "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_at_which_no_bucket_ends_holds_and_lists_where_they_end() -> Result<()> {
    let (scene, _prometheus) = scene("boundary", "contour", "300ms").await?;
    let outcome = no_boundary(&scene).await;
    scene.told(outcome)
}

async fn no_boundary(scene: &Scene) -> Result<()> {
    let load = scene.load(100.0).await?;
    shop::ship(&scene.namespace, "v2", "0%").await?;
    let is_told = |status: &RolloutStatus| is_at(10)(status) && status.verdict.as_deref() == Some("NoBucketBoundary");
    let told = scene.wait_for("NoBucketBoundary", BOUND, is_told).await?;
    println!("no boundary: {}", status_line(&told));
    let message = told.message.as_deref().unwrap_or_default();
    ensure!(
        message.contains("300ms is no bucket boundary") && message.contains("250ms, 500ms"),
        "{message}"
    );
    let reason = told.conditions.iter().find(|condition| condition.type_ == "Ready");
    ensure!(
        reason.is_some_and(|condition| condition.reason == "NoBucketBoundary"),
        "{reason:?}"
    );
    sleep(FIVE_INTERVALS).await;
    let held = shop::status(&scene.namespace).await?;
    let report = load.stop().await?;
    ensure!(is_told(&held), "{}", status_line(&held));
    let weights: Vec<i64> = scene.record.accepted_weights().into_iter().flatten().collect();
    ensure!(weights == [0, 10], "accepted weights: {weights:?}");
    ensure!(report.other_failures() == 0, "{report}");
    Ok(())
}

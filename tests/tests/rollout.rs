//! Whole rollouts end to end: a good version is promoted without one failed request, a bad one is back at weight 0 in time.
//!
//! Runs inside the cluster: `target/debug/local-cluster run -- cargo test -p stepgate-tests --test rollout`. Times are measured by the
//! clock of this machine, which the operator, the API server and the test share; each figure is printed.

#![expect(clippy::print_stdout, reason = "a test prints what it measured")]

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};
use stepgate_core::limits::Limits;
use stepgate_crds::status::{Outcome, Phase, RunState};
use stepgate_crds::units::Span;
use stepgate_tests::cluster::Cluster;
use stepgate_tests::operator::OperatorOptions;
use stepgate_tests::scene::{Scene, quick};
use stepgate_tests::shop::{self, Shop};
use stepgate_tests::until::{Seen, until};

/// The rate of the figures, requests a second.
const RATE: f64 = 300.0;
const BOUND: Duration = Duration::from_mins(4);
/// The interval of the bad versions' runs.
const INTERVAL: &str = "15s";
/// Requests that a good rollout is measured by, at least.
const LEAST_REQUESTS: u64 = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_good_version_is_promoted_step_by_step_without_a_failed_request() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("good").await?;
    let (_prometheus, options) = quick(&namespace).await?;
    let shop = Shop {
        error_share: "0.1%",
        ..Shop::default()
    };
    let scene = Scene::open_in(namespace, &shop, options).await?;
    let outcome = good(&scene).await;
    scene.told(outcome)
}

async fn good(scene: &Scene) -> Result<()> {
    let written = as_written(&shop::route(&scene.namespace).await?);
    let load = scene.load(RATE).await?;
    shop::ship(&scene.namespace, "v2", "0.1%").await?;
    shop::wait_for_run(&scene.namespace, BOUND).await?;
    let ended = scene
        .wait_for("the run's end", BOUND, |status| {
            status.run.is_none() && status.phase != Some(Phase::Blocked)
        })
        .await?;
    // The scale-down of the canary is part of what clients may notice, and the count has a least.
    until("the canary's pods to be gone, and enough requests", BOUND, async || {
        let pods = scene.namespace.kubectl(&["get", "pods", "-o", "name"]).await?;
        let (left, sent) = (pods.lines().count(), load.snapshot().requests);
        Ok(if left == 4 && sent >= LEAST_REQUESTS {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{left} pods, {sent} requests"))
        })
    })
    .await?;
    let report = load.stop().await?;
    let weights: Vec<i64> = scene.record.accepted_weights().into_iter().flatten().collect();
    println!(
        "good version: {report}  accepted weights {weights:?}\n{}",
        scene.record.timeline()
    );
    ensure!(report.other_failures() == 0, "clients saw failures: {report}");
    ensure!(report.requests >= LEAST_REQUESTS, "too few requests: {report}");
    ensure!(weights == [0, 10, 30, 50, 100, 0], "accepted weights: {weights:?}");
    ensure!(ended.phase == Some(Phase::Healthy), "{:?}", ended.phase);
    let past = ended.history.first().context("no history")?;
    ensure!(past.outcome == Outcome::Promoted, "{past:?}");
    let rest = as_written(&shop::route(&scene.namespace).await?);
    ensure!(
        rest == written,
        "the route at rest is not what was written:\n{written}\n{rest}"
    );
    let last = report.recent(3);
    ensure!(
        last.keys().map(String::as_str).collect::<Vec<_>>() == ["v2"],
        "at rest v2 alone serves: {last:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_with_five_percent_errors_is_at_weight_zero_within_three_intervals() -> Result<()> {
    // Each 20th and not 5 % by chance: now and then chance makes too few errors in an interval of 450 requests to be sure, and the next has to
    // be waited for. What is timed here is the way from the evidence to weight 0.
    rolled_back("bad", "ERROR_EVERY=20", 3, 1..=1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_fails_every_request_is_at_weight_zero_within_two_intervals() -> Result<()> {
    // The tripwire also looks at an interval that began before the weight had settled.
    rolled_back("broken", "ERROR_EVERY=1", 2, 0..=1).await
}

/// Ships a version with these errors, beside a stable one with 0.1 %, and measures its way back: within so many intervals, and decided by so
/// many of those that lie whole in its time. The first of these begins up to one interval after the counts show the weight, 7 s after its
/// acceptance, and is read 7 s after its end: 44 s are the most. The tripwire needs an interval, a scrape and 7 s: 27 s.
async fn rolled_back(name: &str, errors: &str, intervals: u32, whole: RangeInclusive<usize>) -> Result<()> {
    let cluster = Cluster::attach().await?;
    let options = OperatorOptions {
        interval: INTERVAL,
        settle: "5s",
        flags: vec!["--log=info,stepgate=debug".to_owned()],
        ..OperatorOptions::default()
    };
    let shop = Shop {
        error_share: "0.1%",
        ..Shop::default()
    };
    let scene = Scene::open(&cluster, name, &shop, options).await?;
    let outcome = way_back(&scene, errors, intervals, whole).await;
    scene.told(outcome)
}

async fn way_back(scene: &Scene, errors: &str, intervals: u32, whole: RangeInclusive<usize>) -> Result<()> {
    let interval = INTERVAL.parse::<Span>()?.duration();
    let written = as_written(&shop::route(&scene.namespace).await?);
    let load = scene.load(RATE).await?;
    let audit = scene.namespace.cluster().audit()?;
    // The gateway is scraped a whole interval before: a target that was not counts from its second one on. And shipped at the worst moment,
    // 1 s of the three intervals would be left for a machine that others use too: the moment is not left to chance.
    tokio::time::sleep(interval + until_an_interval_begins(interval)).await;
    shop::ship_with(&scene.namespace, &["VERSION=v2", "ERROR_SHARE=0%", errors]).await?;
    let ended = shop::wait(&scene.namespace, Phase::Failed, BOUND).await?;
    let report = load.stop().await?;

    let at_ten = |run: &stepgate_crds::status::Run| run.in_force.as_ref().is_some_and(|force| force.weight == 10);
    let (_, run) = scene.record.first_run(at_ten).context("10 % was never in force")?;
    let within = interval * intervals;
    let since = run.in_force.context("10 % is in force")?.since;
    let reached = Timestamp::from_millisecond(since.as_millis())?;
    let back = scene
        .record
        .accepted_at(0, reached)
        .context("weight 0 was never accepted")?;
    let exposed = seconds(reached, back);

    let (said, _) = scene
        .record
        .first_run(|run| matches!(run.state, RunState::RollingBack { .. }))
        .context("RollingBack was never seen")?;
    let reads = reads(&scene.operator.log(100_000));
    let (sample, _) = reads
        .iter()
        .copied()
        .rfind(|(at, _)| *at <= said)
        .context("the operator's log has no `interval read` before the rollback")?;
    let limits = Limits {
        scrape: OperatorOptions::default().scrape.parse()?,
        ..Limits::default()
    };
    let counts_from = since.after(run.spec.settle.max(limits.readable_after()));
    let first_end = Timestamp::from_second(counts_from.ceil_seconds())?.checked_add(interval)?;
    let counted = reads
        .iter()
        .filter(|(at, through)| *at <= said && *through >= first_end)
        .count();
    let requests = scene.requests(&audit)?;
    let first = |what: &str| {
        requests
            .iter()
            .find(|request| request.what() == what && request.received >= sample)
            .with_context(|| format!("no `{what}` after the deciding sample"))
    };
    let (commit, patch) = (first("update rollouts/status")?, first("patch httproutes")?);
    let (write, turned, accepted) = (
        seconds(sample, commit.received),
        seconds(sample, patch.reached),
        seconds(sample, back),
    );
    println!(
        "version with {errors}: 10 % in force → weight 0 accepted {exposed:.2} s (at most {} s)\n  \
         from the deciding sample: to the first write {:.0} ms (aim 100 ms), to the route written {:.0} ms, to weight 0 accepted {:.0} ms (aim 1000 ms)\n  \
         verdict: {}\n  clients: {report}",
        within.as_secs(),
        write * 1e3,
        turned * 1e3,
        accepted * 1e3,
        ended.message.as_deref().unwrap_or_default(),
    );
    ensure!(
        whole.contains(&counted),
        "{counted} whole intervals were read before the verdict, and not {whole:?}"
    );
    ensure!(exposed <= within.as_secs_f64(), "{exposed:.2} s from 10 % to weight 0");
    ensure!(write <= 0.5, "{write:.3} s from the deciding sample to the first write");
    ensure!(accepted <= 3.0, "{accepted:.3} s from the deciding sample to weight 0");
    ensure!(
        report.other_failures() == 0,
        "clients saw failures of another kind: {report}"
    );
    let weights: Vec<i64> = scene.record.accepted_weights().into_iter().flatten().collect();
    ensure!(weights == [0, 10, 0], "accepted weights: {weights:?}");
    let past = ended.history.first().context("no history")?;
    ensure!(
        past.outcome == Outcome::Failed && ["Verdict", "Tripwire"].map(Some).contains(&past.reason.as_deref()),
        "{past:?}"
    );
    let rest = as_written(&shop::route(&scene.namespace).await?);
    ensure!(
        rest == written,
        "the route after the rollback is not what was written:\n{written}\n{rest}"
    );
    Ok(())
}

/// What a user wrote of a route: all but what the server keeps about it.
fn as_written(route: &Value) -> Value {
    json!({
        "spec": route.get("spec"),
        "labels": route.pointer("/metadata/labels"),
        "annotations": route.pointer("/metadata/annotations"),
        "finalizers": route.pointer("/metadata/finalizers"),
    })
}

/// When the operator read intervals, and when those ended, by its log.
fn reads(log: &str) -> Vec<(Timestamp, Timestamp)> {
    log.lines()
        .filter(|line| line.contains("interval read"))
        .filter_map(|line| {
            let (_, through) = line.rsplit_once("through=")?;
            let through = Timestamp::from_second(through.trim().parse().ok()?).ok()?;
            Some((line.split_whitespace().next()?.parse().ok()?, through))
        })
        .collect()
}

/// Intervals of all Rollouts begin at whole multiples of their length since the epoch.
fn until_an_interval_begins(interval: Duration) -> Duration {
    let into = Timestamp::now().as_second().unsigned_abs() % interval.as_secs();
    interval.saturating_sub(Duration::from_secs(into))
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

//! The evidence in `status` is what the source's counts give, read once and in one piece, however often the operator was killed meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stepgate::provider::Query;
use stepgate::source::{MetricsSource, SourceLimits};
use stepgate_core::limits::Limits;
use stepgate_core::verdict::{self, Interval, Judgement, MetricSettings, Moment, Observation, Settings};
use stepgate_crds::RolloutStatus;
use stepgate_crds::status::{Phase, Run};
use stepgate_crds::units::Span;
use stepgate_tests::cluster::{Cluster, Prometheus};
use stepgate_tests::operator::OperatorOptions;
use stepgate_tests::record::status_line;
use stepgate_tests::scene::{Scene, quick};
use stepgate_tests::shop::{self, Shop};
use tokio::time::sleep;

const BOUND: Duration = Duration::from_mins(2);
/// Seconds of an interval, as `quick` sets them.
const INTERVAL: i64 = 5;
/// So many intervals of one weight, each with a kill of the operator.
const INTERVALS: i64 = 8;

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_killed_in_every_interval_comes_to_the_same_evidence() -> Result<()> {
    let namespace = Cluster::attach().await?.namespace("evidence").await?;
    let (prometheus, options) = quick(&namespace).await?;
    let options = OperatorOptions {
        flags: vec!["--status-refresh=1s".to_owned()],
        ..options
    };
    let shop = Shop {
        error_share: "1%",
        // Neither passes nor fails in this time: what is folded is told at every look.
        rollout: "  analysis: {errorRate: {max: 5%}}\n  steps: [{weight: 50, bake: 1h}, {weight: 100, bake: 1h}]\n"
            .to_owned(),
        ..Shop::default()
    };
    let mut scene = Scene::open_in(namespace, &shop, options).await?;
    let outcome = killed_again_and_again(&mut scene, &prometheus).await;
    scene.told(outcome)
}

async fn killed_again_and_again(scene: &mut Scene, prometheus: &Prometheus) -> Result<()> {
    let load = scene.load(100.0).await?;
    shop::ship(&scene.namespace, "v2", "1%").await?;
    let at_half = |status: &RolloutStatus| status.phase == Some(Phase::Stepping) && accepted(status).is_some();
    let status = scene.wait_for("50 % in force", BOUND, at_half).await?;
    let since = accepted(&status).context("no weight in force")?;
    let mut through = Vec::new();
    for kill in 1..=INTERVALS {
        scene.operator.kill().await?;
        sleep(Duration::from_secs(1)).await;
        scene.operator.restart_at_once().await?;
        let wanted = since + (kill + 2) * INTERVAL;
        let folded = |status: &RolloutStatus| status.run.as_ref().is_some_and(|run| run.evidence.through >= wanted);
        let status = scene
            .wait_for("another interval in the evidence", BOUND, folded)
            .await?;
        through.push(status.run.context("no run")?.evidence.through);
    }
    scene.operator.stop().await?;
    load.stop().await?;
    let status = shop::status(&scene.namespace).await?;
    let run = status.run.as_ref().context("no run")?;
    let found = status.found.as_ref().context("nothing found")?;
    let again = in_one_piece(run, prometheus, !found.counts_all_callers).await?;
    println!(
        "killed {} times; evidence through {through:?}; {}; {}",
        through.len(),
        again.numbers(),
        status_line(&status)
    );
    let counted = again.explanations.first().context("no metric")?.canary.requests;
    // At 100 requests a second and half of them on the canary, over six intervals at least.
    ensure!(counted > 1_000.0, "only {counted} canary requests were counted");
    let (kept, folded) = (
        serde_json::to_value(&run.evidence)?,
        serde_json::to_value(&again.evidence)?,
    );
    ensure!(kept == folded, "kept:   {kept}\nfolded: {folded}");
    Ok(())
}

/// When the weight of the step was accepted, in Unix seconds.
fn accepted(status: &RolloutStatus) -> Option<i64> {
    let run = status.run.as_ref()?;
    let force = run
        .in_force
        .as_ref()
        .filter(|force| force.seq == run.seq && force.weight == 50)?;
    Some(force.since.as_millis().div_euclid(1_000))
}

/// What the verdict makes of all intervals that the evidence knows of, read from the source now, and folded at once.
async fn in_one_piece(run: &Run, prometheus: &Prometheus, check_share: bool) -> Result<Judgement> {
    let force = run.in_force.as_ref().context("no weight in force")?;
    let report = run.metrics.first().context("nothing was judged")?;
    let parts = report.query.clone().context("status has no query")?;
    let query = Query::counting(parts, u32::try_from(INTERVAL)?);
    let source = MetricsSource::new(
        &format!("default={}", prometheus.url()).parse()?,
        SourceLimits::default(),
    )?;
    let accepted = force.since.as_millis().div_euclid(1_000);
    let first = accepted - accepted.rem_euclid(INTERVAL);
    let ends: Vec<i64> = (1..=(run.evidence.through - first) / INTERVAL)
        .map(|number| first + number * INTERVAL)
        .collect();
    let mut intervals = Vec::new();
    for (end, sample) in source.window(&query, &ends, u32::try_from(INTERVAL)?).await? {
        intervals.push(Interval {
            end,
            seconds: u32::try_from(INTERVAL)?,
            metrics: vec![Observation::from(sample.with_context(|| format!("interval to {end}"))?)],
        });
    }
    let errors = MetricSettings {
        max: run.spec.max_error_rate.get(),
        ..MetricSettings::errors()
    };
    let settings = Settings {
        phi: run.spec.phi,
        check_share,
        ..Settings::new(vec![errors], u32::try_from(run.spec.steps.len())?)
    };
    let limits = Limits {
        scrape: Span::seconds(1),
        ..Limits::default()
    };
    let certain = run.spec.settle.max(limits.readable_after());
    let moment = Moment {
        weight_percent: 50,
        accepted: Some(accepted),
        counts_from: force.since.after(certain).ceil_seconds(),
        ..Moment::default()
    };
    let begun = verdict::begin(&settings, first);
    Ok(verdict::judge(&begun, &intervals, &settings, &moment, None))
}

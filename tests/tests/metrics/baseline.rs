//! What stable did before a run, read from the real Prometheus: φ from its pods, and the max of `max: auto`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join;
use stepgate_crds::RolloutStatus;
use stepgate_crds::status::{Phase, RunSpec};
use stepgate_tests::cluster::Cluster;
use stepgate_tests::scene::{Scene, quick};
use stepgate_tests::shop::{self, Shop};
use tokio::time::sleep;

const BOUND: Duration = Duration::from_mins(2);
/// Intervals of 5 s are looked at in fours: the first 20 s of a pod's life are not counted, and two such spans come after.
const BEFORE: Duration = Duration::from_secs(65);
/// Requests a second.
const RATE: f64 = 150.0;

/// The spec of a run whose stable version has failed four of a hundred requests for a while, at its first step.
async fn run(scene: &Scene) -> Result<RunSpec> {
    let load = scene.load(RATE).await?;
    sleep(BEFORE).await;
    shop::ship(&scene.namespace, "v2", "0%").await?;
    let at_ten = |status: &RolloutStatus| status.phase == Some(Phase::Stepping) && status.weight == Some(10);
    let status = shop::wait_for(&scene.namespace, "10 %", BOUND, at_ten).await?;
    load.stop().await?;
    let explained = shop::plugin(&scene.namespace, &["explain", shop::NAME]).await?;
    let spec = status.run.context("no run")?.spec;
    let said = format!("max: auto is {}", spec.max_error_rate);
    ensure!(explained.said.contains(&said), "not said: {said}\n{}", explained.said);
    Ok(spec)
}

async fn scene(provider: &str) -> Result<RunSpec> {
    let namespace = Cluster::attach().await?.namespace("baseline").await?;
    let (_prometheus, options) = quick(&namespace).await?;
    let shop = Shop {
        error_share: "4%",
        rollout: format!("  analysis: {{provider: {provider}, errorRate: {{max: auto}}}}\n"),
        ..Shop::default()
    };
    let scene = Scene::open_in(namespace, &shop, options).await?;
    let outcome = run(&scene).await;
    scene.told(outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_judged_by_what_its_stable_version_did_before() -> Result<()> {
    let (by_pods, by_gateway) = try_join(scene("pods"), scene("contour")).await?;
    for (provider, spec) in [("pods", &by_pods), ("contour", &by_gateway)] {
        let known = spec
            .baseline
            .as_ref()
            .with_context(|| format!("{provider}: {:?}", spec.no_baseline))?;
        println!("{provider}: {known:?}, φ {}, max {}", spec.phi, spec.max_error_rate);
        ensure!(spec.no_baseline.is_none(), "{provider}: {:?}", spec.no_baseline);
        // Few of the requests are lost to the pods' first intervals and to scrapes.
        ensure!((3_000..10_000).contains(&known.requests), "{provider}: {known:?}");
        #[expect(clippy::cast_precision_loss, reason = "some thousands")]
        let share = known.bad as f64 / known.requests as f64;
        ensure!((0.025..0.06).contains(&share), "{provider}: {known:?}");
        let max = spec.max_error_rate.get();
        ensure!((max - 1.5 * share).abs() < 1e-4, "{provider}: {max} of {share}");
    }
    // Errors that come one by one do not clump: the four pods say so, and the gateway alone cannot tell.
    let pods = by_pods.baseline.map(|known| known.pods);
    ensure!(
        pods == Some(4) && (1.0..2.0).contains(&by_pods.phi),
        "{pods:?}: {}",
        by_pods.phi
    );
    let pods = by_gateway.baseline.map(|known| known.pods);
    ensure!(
        pods == Some(0) && (by_gateway.phi - 2.0).abs() < 1e-9,
        "{pods:?}: {}",
        by_gateway.phi
    );
    Ok(())
}

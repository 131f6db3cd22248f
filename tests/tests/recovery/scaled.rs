//! Scaled to 0 and back while a version is held: the Deployment's controller starts whichever ReplicaSet it takes for the newest.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::FutureExt;
use stepgate_crds::status::{Outcome, Phase};
use stepgate_tests::cluster::Cluster;
use stepgate_tests::scene::Scene;
use stepgate_tests::shop::{self, NAME};
use stepgate_tests::states::{self, State};
use tokio::time::sleep;

use super::watching::{ensure_few_writes, git_ops, is_empty, is_quiet, options, outcomes, runs, scale, told, writes};

/// To 0 pods and back to 2 while the failed version is in the Deployment, and applied again and again.
async fn scaled_to_zero_and_back(scene: &Scene) -> Result<()> {
    let mark = scene.namespace.cluster().audit()?;
    scale(scene, 0).await?;
    is_empty(scene).await?;
    sleep(Duration::from_secs(3)).await;
    scale(scene, 2).await?;
    runs(scene, "v1", 2, Some("v2")).await?;
    states::serves(&scene.namespace, "v1").await?;
    is_quiet(scene).await?;
    ensure_few_writes(scene, &mark, 3)
}

async fn zero_when_failed(cluster: &Cluster) -> Result<()> {
    let (scene, _kept) = State::Failed.scene(cluster, "recovery", options()).await?;
    told(&scene, async {
        let rounds = git_ops(&scene, "v2")?;
        scaled_to_zero_and_back(&scene).await?;
        states::seen(&scene, Phase::Failed).await?;
        rounds.end(5)
    })
    .await
}

/// A promotion that was taken back half way leaves stable's template in the Deployment; Git puts the failed one in again.
async fn zero_after_an_abort_in_promoting(cluster: &Cluster) -> Result<()> {
    let (scene, mut kept) = State::Restoring.scene(cluster, "recovery", options()).await?;
    told(&scene, async {
        kept.let_go(&scene.namespace).await?;
        let healthy = states::seen(&scene, Phase::Healthy).await?;
        ensure!(
            outcomes(&healthy) == [(Outcome::Failed, Some("Aborted"))],
            "{healthy:?}"
        );
        ensure!(
            healthy.failed.as_ref().is_some_and(|failed| failed.put_back),
            "{healthy:?}"
        );
        states::serves(&scene.namespace, "v1").await?;
        let mark = scene.namespace.cluster().audit()?;
        let rounds = git_ops(&scene, "v2")?;
        states::seen(&scene, Phase::Failed).await?;
        let all = writes(&scene, &mark)?;
        ensure!(all.is_empty(), "the failed version came again and {all:?} was written");
        scaled_to_zero_and_back(&scene).await?;
        states::seen(&scene, Phase::Failed).await?;
        rounds.end(5)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn scaled_to_zero_and_back_the_failed_version_does_not_start() -> Result<()> {
    let cluster = Cluster::attach().await?;
    states::all([
        ("in Failed", zero_when_failed(&cluster).boxed_local()),
        (
            "after an abort in Promoting",
            zero_after_an_abort_in_promoting(&cluster).boxed_local(),
        ),
    ])
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn scaled_to_zero_and_back_in_a_run_without_a_revision_history() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let (scene, _kept) = State::Stepping.scene(&cluster, "recovery", options()).await?;
    told(&scene, async {
        let none = r#"{"spec": {"revisionHistoryLimit": 0}}"#;
        scene
            .namespace
            .kubectl(&["patch", "deployment", NAME, "--patch", none])
            .await?;
        let mark = scene.namespace.cluster().audit()?;
        scale(&scene, 0).await?;
        is_empty(&scene).await?;
        // The Deployment's controller cleans up what it does not need any more: stable's ReplicaSet.
        sleep(Duration::from_secs(3)).await;
        scale(&scene, 2).await?;
        runs(&scene, "v1", 2, Some("v2")).await?;
        states::seen(&scene, Phase::Healthy).await?;
        states::serves(&scene.namespace, "v1").await?;
        let status = shop::status(&scene.namespace).await?;
        ensure!(
            outcomes(&status) == [(Outcome::Reverted, Some("StableLost"))],
            "{status:?}"
        );
        is_quiet(&scene).await?;
        ensure_few_writes(&scene, &mark, 4)
    })
    .await
}

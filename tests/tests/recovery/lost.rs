//! Stable's ReplicaSet is deleted, with its pods and without them, in a run and after a failure.

use anyhow::{Context, Result, ensure};
use futures::FutureExt;
use kube::api::DeleteParams;
use stepgate_crds::status::{Outcome, Phase};
use stepgate_tests::cluster::Cluster;
use stepgate_tests::scene::Scene;
use stepgate_tests::shop;
use stepgate_tests::states::{self, State};

use super::watching::{delete_stable, ensure_few_writes, git_ops, is_quiet, options, outcomes, runs, told, uids};

/// Stable's ReplicaSet is deleted while v2 has half of the traffic.
async fn lost_in_a_run(cluster: &Cluster, how: DeleteParams, git: bool) -> Result<()> {
    let (scene, _kept) = State::Stepping.scene(cluster, "recovery", options()).await?;
    told(&scene, async {
        let (before, first) = (uids(&scene).await?, run_id(&scene).await?);
        let rounds = git.then(|| git_ops(&scene, "v2")).transpose()?;
        let mark = scene.namespace.cluster().audit()?;
        delete_stable(&scene, &how).await?;
        states::follow(&scene, "the run to have ended", |status| {
            status.history.first().is_some_and(|past| past.run == first)
        })
        .await?;
        let status = shop::status(&scene.namespace).await?;
        ensure!(
            outcomes(&status) == [(Outcome::Reverted, Some("StableLost"))],
            "{status:?}"
        );
        runs(&scene, "v1", 2, Some("v2")).await?;
        if how == DeleteParams::orphan() {
            ensure!(
                before.is_subset(&uids(&scene).await?) || uids(&scene).await?.is_subset(&before),
                "pods were replaced"
            );
        }
        if let Some(rounds) = rounds {
            // Git still asks for v2: it gets a run of its own.
            states::in_force(&scene, 50).await?;
            is_quiet(&scene).await?;
            rounds.end(5)?;
            ensure_few_writes(&scene, &mark, 4)?;
        } else {
            states::seen(&scene, Phase::Healthy).await?;
            states::serves(&scene.namespace, "v1").await?;
            ensure_few_writes(&scene, &mark, 4)?;
            is_quiet(&scene).await?;
        }
        Ok(())
    })
    .await
}

async fn run_id(scene: &Scene) -> Result<String> {
    Ok(shop::status(&scene.namespace).await?.run.context("a run")?.id)
}

#[tokio::test(flavor = "multi_thread")]
async fn stables_replica_set_deleted_in_a_run_comes_back_and_the_run_ends() -> Result<()> {
    let cluster = Cluster::attach().await?;
    states::all([
        (
            "background",
            lost_in_a_run(&cluster, DeleteParams::background(), false).boxed_local(),
        ),
        (
            "background, with GitOps",
            lost_in_a_run(&cluster, DeleteParams::background(), true).boxed_local(),
        ),
        (
            "orphan",
            lost_in_a_run(&cluster, DeleteParams::orphan(), false).boxed_local(),
        ),
        (
            "orphan, with GitOps",
            lost_in_a_run(&cluster, DeleteParams::orphan(), true).boxed_local(),
        ),
    ])
    .await
}

async fn lost_when_failed(cluster: &Cluster, how: DeleteParams, git: bool) -> Result<()> {
    let (scene, _kept) = State::Failed.scene(cluster, "recovery", options()).await?;
    told(&scene, async {
        let rounds = git.then(|| git_ops(&scene, "v2")).transpose()?;
        let mark = scene.namespace.cluster().audit()?;
        delete_stable(&scene, &how).await?;
        states::follow(&scene, "stable's template to have been put back", |status| {
            !status.mends.times.is_empty()
        })
        .await?;
        runs(&scene, "v1", 2, Some("v2")).await?;
        states::serves(&scene.namespace, "v1").await?;
        if let Some(rounds) = rounds {
            // The version that failed is in the Deployment again, and is no new one.
            states::seen(&scene, Phase::Failed).await?;
            is_quiet(&scene).await?;
            rounds.end(5)?;
        } else {
            states::seen(&scene, Phase::Healthy).await?;
            is_quiet(&scene).await?;
        }
        ensure_few_writes(&scene, &mark, 3)?;
        let status = shop::status(&scene.namespace).await?;
        ensure!(outcomes(&status) == [(Outcome::Failed, Some("Aborted"))], "{status:?}");
        ensure!(status.run.is_none() && status.failed.is_some(), "{status:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn stables_replica_set_deleted_after_a_failure_comes_back_and_the_failed_version_does_not_start() -> Result<()> {
    let cluster = Cluster::attach().await?;
    states::all([
        (
            "background",
            lost_when_failed(&cluster, DeleteParams::background(), false).boxed_local(),
        ),
        (
            "background, with GitOps",
            lost_when_failed(&cluster, DeleteParams::background(), true).boxed_local(),
        ),
        (
            "orphan",
            lost_when_failed(&cluster, DeleteParams::orphan(), false).boxed_local(),
        ),
        (
            "orphan, with GitOps",
            lost_when_failed(&cluster, DeleteParams::orphan(), true).boxed_local(),
        ),
    ])
    .await
}

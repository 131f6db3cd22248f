//! A version older than stable comes again: its ReplicaSet is there still, and must not start by itself.

use anyhow::Result;
use futures::FutureExt;
use stepgate_crds::Verb;
use stepgate_crds::status::Phase;
use stepgate_tests::cluster::Cluster;
use stepgate_tests::scene::Scene;
use stepgate_tests::states::{self, State};

use super::watching::{ensure_few_writes, git_ops, is_empty, is_quiet, options, runs, scale, told};

/// v2 is promoted over v1: v1's ReplicaSet stays behind, empty.
async fn with_an_older_version(cluster: &Cluster) -> Result<Scene> {
    let (scene, _kept) = State::Stepping.scene(cluster, "recovery", options()).await?;
    let promoted = async {
        scene.command(Verb::Promote).await?;
        states::in_force(&scene, 100).await?;
        scene.command(Verb::Promote).await?;
        states::seen(&scene, Phase::Healthy).await?;
        states::serves(&scene.namespace, "v2").await
    }
    .await;
    scene.told(promoted)?;
    Ok(scene)
}

/// v1 again: it is a new version like any other, and its old ReplicaSet must not start by itself.
async fn older_version_again(cluster: &Cluster, in_mid_run: bool, zero: bool) -> Result<()> {
    let scene = with_an_older_version(cluster).await?;
    told(&scene, async {
        let rounds = git_ops(&scene, "v2")?;
        if in_mid_run {
            rounds.commit(&states::deployment_in_git("v3")?);
            states::in_force(&scene, 50).await?;
        }
        let mark = scene.namespace.cluster().audit()?;
        rounds.commit(&states::deployment_in_git("v1")?);
        let expected = 1 + usize::from(in_mid_run);
        states::follow(&scene, "a run for v1", |status| {
            status.run.is_some() && status.history.len() == expected && status.phase == Some(Phase::Stepping)
        })
        .await?;
        states::in_force(&scene, 50).await?;
        runs(&scene, "v2", 2, Some("v1")).await?;
        if zero {
            scale(&scene, 0).await?;
            is_empty(&scene).await?;
            scale(&scene, 2).await?;
            // The Deployment's controller starts the ReplicaSet of the held template, which has one already; it is taken back.
            runs(&scene, "v2", 2, None).await?;
            states::in_force(&scene, 50).await?;
            runs(&scene, "v2", 2, Some("v1")).await?;
        }
        is_quiet(&scene).await?;
        ensure_few_writes(&scene, &mark, 4)?;
        rounds.end(5)?;
        // And it can be promoted.
        scene.command(Verb::Promote).await?;
        states::in_force(&scene, 100).await?;
        scene.command(Verb::Promote).await?;
        states::seen(&scene, Phase::Healthy).await?;
        runs(&scene, "v1", 2, None).await?;
        states::serves(&scene.namespace, "v1").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_to_a_version_older_than_stable_goes_step_by_step() -> Result<()> {
    let cluster = Cluster::attach().await?;
    states::all([
        ("at rest", older_version_again(&cluster, false, false).boxed_local()),
        ("in mid-run", older_version_again(&cluster, true, false).boxed_local()),
        (
            "scaled to 0 and back while it is held",
            older_version_again(&cluster, false, true).boxed_local(),
        ),
    ])
    .await
}

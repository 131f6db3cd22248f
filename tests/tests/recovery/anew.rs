//! The Deployment is deleted and made anew, with the old and with a new version, in each state.

use anyhow::{Context, Result, ensure};
use futures::FutureExt;
use stepgate_crds::status::{Outcome, Phase};
use stepgate_tests::cluster::Cluster;
use stepgate_tests::shop::{self, NAME};
use stepgate_tests::states::{self, State};

use super::watching::{is_quiet, options, runs, told};

/// The Deployment is deleted and applied again, with the old or with the new version.
async fn made_anew(cluster: &Cluster, state: State, version: &str) -> Result<()> {
    let (scene, mut kept) = state.scene(cluster, "recovery", options()).await?;
    told(&scene, async {
        let before = shop::status(&scene.namespace).await?;
        let uid = before.stable.context("a stable version")?.workload_uid;
        scene
            .namespace
            .kubectl(&["delete", "deployment", NAME, "--wait=true"])
            .await?;
        kept.let_go(&scene.namespace).await?;
        let text = states::shop()
            .application()
            .replace("value: v1", &format!("value: {version}"));
        scene.namespace.apply(&text).await?;
        let adopted = states::follow(&scene, "the new Deployment to be adopted", |status| {
            status.phase == Some(Phase::Healthy)
                && status.stable.as_ref().is_some_and(|stable| stable.workload_uid != uid)
        })
        .await?;
        runs(&scene, version, 2, None).await?;
        states::serves(&scene.namespace, version).await?;
        // A run is ended by it; one that was ending anyhow ends as it would have.
        let ended = adopted.history.first().map(|past| past.outcome);
        let expected: &[Option<Outcome>] = match state {
            State::Healthy => &[None],
            State::Failed | State::Draining | State::RollingBack | State::Restoring => {
                &[Some(Outcome::Failed), Some(Outcome::Replaced)]
            }
            State::Returning => &[Some(Outcome::Promoted), Some(Outcome::Replaced)],
            _ => &[Some(Outcome::Replaced)],
        };
        ensure!(
            expected.contains(&ended) && adopted.history.len() <= 1,
            "{:?}",
            adopted.history
        );
        let canary = shop::object(&scene.namespace, "apps/v1", "Deployment", "checkout-canary").await;
        ensure!(canary.is_err(), "the canary Deployment is left");
        let route = shop::route(&scene.namespace).await?;
        ensure!(
            !route["spec"].to_string().contains("checkout-canary"),
            "{}",
            route["spec"]
        );
        is_quiet(&scene).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_made_anew_with_the_old_version_is_adopted_in_each_state() -> Result<()> {
    let cluster = Cluster::attach().await?;
    states::all(State::ALL.map(|state| (state, made_anew(&cluster, state, "v1").boxed_local()))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_made_anew_with_the_new_version_is_adopted_in_each_state() -> Result<()> {
    let cluster = Cluster::attach().await?;
    states::all(State::ALL.map(|state| (state, made_anew(&cluster, state, "v2").boxed_local()))).await
}

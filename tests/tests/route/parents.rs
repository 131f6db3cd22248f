//! The parents of a route: one that never accepted, one whose controller goes away in mid-run, one that is taken out of the route.
//!
//! The first parent is the cluster's gateway; the second is imitated, for a real one cannot be stopped for one test alone.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stepgate_crds::RolloutStatus;
use stepgate_crds::status::Phase;
use stepgate_tests::cluster::Cluster;
use stepgate_tests::operator::OperatorOptions;
use stepgate_tests::scene::Scene;
use stepgate_tests::shop::{self, NAME, Shop};
use stepgate_tests::until::{Seen, until};

use super::imitation::{Imitation, SECOND};
use super::versions::{BOUND, CANARY, split, weights};

/// A shop whose route has two parents, the second of which accepts it or not; Healthy.
async fn two_parents(accepts: bool) -> Result<(Scene, Imitation)> {
    let namespace = Cluster::attach().await?.namespace("parents").await?;
    let imitation = Imitation::start(&namespace, accepts).await?;
    let shop = Shop {
        replicas: 2,
        rollout: "  progressDeadline: 10s\n".to_owned(),
        ..Shop::default()
    };
    let route = shop
        .route(&namespace)
        .replace("parentRefs: [", &format!("parentRefs: [{{name: {SECOND}}}, "));
    namespace.apply(&route).await?;
    until("both parents to report on the route", BOUND, async || {
        let route = shop::route(&namespace).await?;
        let reports = route["status"]["parents"].as_array().map_or(0, Vec::len);
        Ok(if reports == 2 {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{reports} reports"))
        })
    })
    .await?;
    let operator = stepgate_tests::operator::Operator::start(&namespace, OperatorOptions::led_by_commands()).await?;
    let record = stepgate_tests::record::Record::start(&namespace);
    let scene = Scene {
        operator,
        record,
        namespace,
    };
    let opened = async {
        scene.namespace.apply(&shop.application()).await?;
        scene.namespace.apply(&shop.rollout()).await?;
        shop::wait(&scene.namespace, Phase::Healthy, BOUND).await?;
        anyhow::Ok(())
    };
    let opened = opened.await;
    scene.told(opened)?;
    Ok((scene, imitation))
}

fn stalled(status: &RolloutStatus) -> bool {
    let stalled = status.conditions.iter().find(|condition| condition.type_ == "Stalled");
    stalled.is_some_and(|stalled| stalled.status == "True")
}

/// Waits until the run is stalled in this phase, for the second Gateway.
async fn wait_for_stall(scene: &Scene, phase: Phase) -> Result<RolloutStatus> {
    let second = format!("{}/{SECOND}", scene.namespace.name());
    let status = scene
        .wait_for(&format!("{} to be stalled", phase.as_str()), BOUND, |status| {
            status.phase == Some(phase) && stalled(status)
        })
        .await?;
    let message = status.message.clone().unwrap_or_default();
    ensure!(message.contains(&second), "no {second} in: {message}");
    Ok(status)
}

async fn canary_pods(scene: &Scene) -> Result<u64> {
    let canary = shop::object(&scene.namespace, "apps/v1", "Deployment", CANARY).await?;
    canary["status"]["readyReplicas"].as_u64().context("ready canary pods")
}

async fn promote(scene: &Scene) -> Result<()> {
    let answer = shop::plugin(&scene.namespace, &["promote", NAME]).await?;
    ensure!(answer.code == Some(0), "{answer:?}");
    Ok(())
}

/// Takes the second parent out of the route.
async fn take_second_out(scene: &Scene) -> Result<()> {
    let patch = r#"[{"op": "remove", "path": "/spec/parentRefs/0"}]"#;
    let kubectl = ["patch", "httproute", NAME, "--type=json", "--patch", patch];
    scene.namespace.kubectl(&kubectl).await?;
    Ok(())
}

/// At 10 %, with requests, both parents having accepted it.
async fn at_the_first_weight(scene: &Scene) -> Result<()> {
    let found = shop::status(&scene.namespace).await?.found.context("what was found")?;
    ensure!(found.parents.len() == 2, "{:?}", found.parents);
    shop::ship(&scene.namespace, "v2", "0%").await?;
    shop::wait_for_weight(&scene.namespace, 10, BOUND).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_never_accepted_is_not_waited_for() -> Result<()> {
    let (scene, _imitation) = two_parents(false).await?;
    let told = async {
        let found = shop::status(&scene.namespace).await?.found.context("what was found")?;
        ensure!(
            found.parents.len() == 1
                && found
                    .parents
                    .iter()
                    .all(|parent| parent.contains("gateway-system/shared")),
            "{:?}",
            found.parents
        );
        shop::ship(&scene.namespace, "v2", "0%").await?;
        shop::promote_through(&scene.namespace, BOUND).await
    }
    .await;
    scene.told(told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_whose_controller_goes_away_stalls_the_run_until_it_is_back() -> Result<()> {
    let (scene, mut imitation) = two_parents(true).await?;
    let told = async {
        at_the_first_weight(&scene).await?;
        let load = scene.load(200.0).await?;
        imitation.go_away();
        promote(&scene).await?;
        let status = wait_for_stall(&scene, Phase::Stepping).await?;
        // The weight of the parent that is there, and of the canary that serves it, stay.
        ensure!(status.weight == Some(10), "{status:?}");
        ensure!(weights(&shop::route(&scene.namespace).await?, 0) == split(70, 30));
        ensure!(canary_pods(&scene).await? >= 1);
        imitation.come_back();
        for weight in [30, 50, 100] {
            shop::wait_for_weight(&scene.namespace, weight, BOUND).await?;
            promote(&scene).await?;
        }
        shop::wait(&scene.namespace, Phase::Healthy, BOUND).await?;
        let report = load.stop().await?;
        ensure!(report.other_failures() == 0, "{report}");
        ensure!(
            report.version("v1").total > 0 && report.version("v2").total > 0,
            "{report}"
        );
        Ok(())
    }
    .await;
    scene.told(told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_is_taken_out_of_the_route_in_mid_run_is_not_waited_for() -> Result<()> {
    let (scene, mut imitation) = two_parents(true).await?;
    let told = async {
        at_the_first_weight(&scene).await?;
        imitation.go_away();
        promote(&scene).await?;
        wait_for_stall(&scene, Phase::Stepping).await?;
        take_second_out(&scene).await?;
        for weight in [30, 50, 100] {
            shop::wait_for_weight(&scene.namespace, weight, BOUND).await?;
            promote(&scene).await?;
        }
        shop::wait(&scene.namespace, Phase::Healthy, BOUND).await?;
        Ok(())
    }
    .await;
    scene.told(told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_that_a_parent_does_not_accept_keeps_the_canarys_pods() -> Result<()> {
    let (scene, mut imitation) = two_parents(true).await?;
    let told = async {
        at_the_first_weight(&scene).await?;
        let load = scene.load(200.0).await?;
        imitation.go_away();
        let answer = shop::plugin(&scene.namespace, &["abort", NAME]).await?;
        ensure!(answer.code == Some(0), "{answer:?}");
        wait_for_stall(&scene, Phase::RollingBack).await?;
        // Weight 0 is in the route, and in force at the parent that is there.
        let route: Value = shop::route(&scene.namespace).await?;
        ensure!(weights(&route, 0) == split(100, 0), "{route}");
        ensure!(canary_pods(&scene).await? >= 1);
        imitation.come_back();
        shop::wait(&scene.namespace, Phase::Failed, BOUND).await?;
        let gone = scene
            .namespace
            .kubectl(&["get", "deployment", CANARY, "--ignore-not-found"])
            .await?;
        ensure!(gone.is_empty(), "{gone}");
        let report = load.stop().await?;
        ensure!(report.other_failures() == 0, "{report}");
        Ok(())
    }
    .await;
    scene.told(told)
}

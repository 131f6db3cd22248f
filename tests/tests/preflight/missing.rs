//! What the Rollout names is not there, or not the right one.

use anyhow::{Context, Result, ensure};
use stepgate_crds::status::Phase;
use stepgate_tests::cluster::Cluster;
use stepgate_tests::operator::{Operator, OperatorOptions};
use stepgate_tests::shop::{self, NAME, Shop};

use super::scene::{BOUND, Scene, network_policy, service, with_rollout, with_rules};

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_does_not_exist() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    let name = format!(
        "Deployment {}/checkout does not exist; create it",
        scene.namespace.name()
    );
    scene
        .case(&[route, rollout], "WorkloadNotFound", &[&name], &[application])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_does_not_exist() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    let (deployment, service) = application.split_once("---").context("two objects")?;
    let words = [
        format!("Service {}/checkout does not exist", scene.namespace.name()),
        "create it with a selector that matches the pods of Deployment checkout".to_owned(),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let wrong = [deployment.to_owned(), route, rollout];
    scene
        .case(&wrong, "PreflightFailed", &words, &[service.to_owned()])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_does_not_exist() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    let words = format!(
        "HTTPRoute {}/checkout does not exist; create it, or name another in spec.traffic.routes",
        scene.namespace.name()
    );
    scene
        .case(&[application, rollout], "PreflightFailed", &[&words], &[route])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metrics_source_that_nobody_set_up() -> Result<()> {
    let scene = Scene::begin().await?;
    let wrong = scene.shop(&with_rollout("  analysis: {source: datacentre}\n"));
    let words = [
        "metrics source datacentre is not set up",
        "name one of [default] in spec.analysis.source",
        "--metrics-source datacentre=URL",
    ];
    scene
        .case(&wrong, "PreflightFailed", &words, &[Shop::small().rollout()])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interval_that_is_too_short_for_the_scrapes() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("preflight").await?;
    let scene = Scene {
        _operator: Operator::start(&namespace, OperatorOptions::default()).await?,
        mark: cluster.audit()?,
        namespace,
    };
    let wrong = scene.shop(&with_rollout("  analysis: {interval: 9s}\n"));
    let words = ["spec.analysis.interval is 9s", "scrape every 5s"];
    scene
        .case(&wrong, "PreflightFailed", &words, &[Shop::small().rollout()])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_matches_no_pod() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    let wrong = [application, service(NAME, "app: chekout"), route, rollout];
    let words = [
        "no Service in the route (checkout) selects a pod of Deployment checkout",
        "the selector has to match the labels of the pod template",
    ];
    scene
        .case(&wrong, "PreflightFailed", &words, &[service(NAME, "app: checkout")])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_services_that_could_both_be_meant() -> Result<()> {
    let scene = Scene::begin().await?;
    let both = with_rules(
        "[{matches: [{path: {value: /a}}], backendRefs: [{name: checkout, port: 80}]}, {backendRefs: [{name: checkout-too, port: 80}]}]",
    );
    let [application, route, rollout] = scene.shop(&both);
    // By two labels, so that the one that would have to differ is not the other's alone.
    let prepared = Shop {
        prepared: true,
        ..Shop::small()
    };
    let wrong = [
        application,
        service("checkout-too", "app: checkout"),
        route,
        rollout.clone(),
    ];
    let words = [
        "several Services in the route select the pods of Deployment checkout: checkout, checkout-too",
        "name one in spec.traffic.stableService",
    ];
    let named = rollout.replace("traffic: {", "traffic: {stableService: checkout, ");
    scene
        .case(&wrong, "PreflightFailed", &words, &[prepared.application(), named])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_that_comes_before_a_new_version_keeps_it_held_until_it_is_mended() -> Result<()> {
    let scene = Scene::begin().await?;
    scene.apply(&scene.shop(&Shop::small())).await?;
    scene.healthy().await?;
    scene.apply(&[network_policy()]).await?;
    shop::ship(&scene.namespace, "v2", "0%").await?;
    shop::wait_for(&scene.namespace, "the new version to be blocked", BOUND, |status| {
        status.phase == Some(Phase::Blocked)
            && status
                .message
                .as_ref()
                .is_some_and(|message| message.contains("NetworkPolicy open"))
    })
    .await?;
    let deployment = shop::deployment(&scene.namespace).await?;
    ensure!(deployment["spec"]["paused"] == true, "{deployment}");
    scene.namespace.kubectl(&["delete", "networkpolicy", "open"]).await?;
    shop::wait_for_weight(&scene.namespace, 10, BOUND).await?;
    Ok(())
}

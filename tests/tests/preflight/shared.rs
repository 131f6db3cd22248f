//! What two versions at a time cannot share, names that are taken, and what is said by the stable Service's name alone.

use anyhow::{Context, Result};
use stepgate_tests::shop::{self, Shop};

use super::scene::{BOUND, Scene, service, with_pod_line};

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_service_name_that_is_taken() -> Result<()> {
    let scene = Scene::begin().await?;
    let mut wrong = scene.shop(&Shop::small()).to_vec();
    wrong.insert(0, service("checkout-canary", "app: somebody-else"));
    let words = [
        "Service checkout-canary is there already and not made by this Rollout",
        "spec.traffic.canaryService",
    ];
    let mend = [Shop::small()
        .rollout()
        .replace("traffic: {", "traffic: {canaryService: checkout-next, ")];
    scene.case(&wrong, "PreflightFailed", &words, &mend).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_with_the_canarys_name() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    let (deployment, _) = application.split_once("---").context("two objects")?;
    let canary = deployment
        .replace("metadata: {name: checkout}", "metadata: {name: checkout-canary}")
        .replace("app: checkout", "app: somebody-else");
    let words = [
        "Deployment checkout-canary is there already and not made by this Rollout",
        "canaries of Deployment checkout run under this name",
        "rename that Deployment, or delete it",
    ];
    scene.apply(&[canary, application, route, rollout]).await?;
    scene.blocked("PreflightFailed", &words).await?;
    let kubectl = ["delete", "deployment", "checkout-canary"];
    scene.namespace.kubectl(&kubectl).await?;
    scene.healthy().await
}

/// A claim of this name that may be mounted in this way.
fn claim(mode: &str) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: checkout-data}}\nspec: {{accessModes: [{mode}], resources: {{requests: {{storage: 1Gi}}}}}}\n"
    )
}

const MOUNTED: &str = "volumes: [{name: data, persistentVolumeClaim: {claimName: checkout-data}}]";

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_claim_that_two_versions_cannot_share() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    let words = [
        "Deployment checkout mounts the PersistentVolumeClaim checkout-data (ReadWriteOnce)",
        "not rolled out by steps",
        "mount one of ReadWriteMany or ReadOnlyMany",
    ];
    let wrong = [claim("ReadWriteOnce"), with_pod_line(MOUNTED), route, rollout];
    scene.case(&wrong, "PreflightFailed", &words, &[application]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_claim_that_is_not_there_and_then_can_be_shared() -> Result<()> {
    let scene = Scene::begin().await?;
    let [_, route, rollout] = scene.shop(&Shop::small());
    let missing = format!(
        "the PersistentVolumeClaim {}/checkout-data, which does not exist; create it",
        scene.namespace.name()
    );
    let wrong = [with_pod_line(MOUNTED), route, rollout];
    let mend = [claim("ReadWriteMany")];
    scene.case(&wrong, "PreflightFailed", &[&missing], &mend).await?;
    // And it carries: both versions mount it.
    shop::ship(&scene.namespace, "v2", "0%").await?;
    shop::promote_through(&scene.namespace, BOUND).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_of_the_host() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    let words = [
        "Deployment checkout runs in its hosts' network (hostNetwork)",
        "take hostNetwork out of the pod template",
    ];
    let wrong = [with_pod_line("hostNetwork: true"), route, rollout];
    scene.case(&wrong, "PreflightFailed", &words, &[application]).await
}

/// A policy by which a gateway speaks TLS to these Services.
fn tls_policy(services: &[&str]) -> String {
    let targets: Vec<String> = services
        .iter()
        .map(|name| format!("{{group: \"\", kind: Service, name: {name}}}"))
        .collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: tls}}\nspec: {{targetRefs: [{}], validation: {{wellKnownCACertificates: System, hostname: checkout.example.com}}}}\n",
        targets.join(", ")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_names_the_stable_service_alone() -> Result<()> {
    let scene = Scene::begin().await?;
    let mut wrong = scene.shop(&Shop::small()).to_vec();
    wrong.insert(0, tls_policy(&["checkout"]));
    let words = [
        "BackendTLSPolicy tls names Service checkout and not Service checkout-canary",
        "add Service checkout-canary to its targetRefs",
    ];
    let mend = [tls_policy(&["checkout", "checkout-canary"])];
    scene.case(&wrong, "PreflightFailed", &words, &mend).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_port_that_two_versions_would_share() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    let bound = application.replace("containerPort: 8080}", "containerPort: 8080, hostPort: 8080}");
    let words = [
        "Deployment checkout binds the host port 8080",
        "not rolled out by steps",
    ];
    // `apply` would not take a port of the list away that differs by its host port: the whole Deployment is replaced.
    scene.apply(&[bound, route, rollout]).await?;
    scene.blocked("PreflightFailed", &words).await?;
    scene
        .namespace
        .kubectl_and_warnings(&["replace", "-f", "-"], &application)
        .await?;
    scene.healthy().await
}

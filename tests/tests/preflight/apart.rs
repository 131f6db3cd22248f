//! What else selects by the label that would set canary pods apart.

use anyhow::{Context, Result, ensure};
use stepgate_crds::status::Phase;
use stepgate_tests::shop::{self, NAME, Shop};

use super::scene::{BOUND, Scene, network_policy, service, why, with_pod_line};

#[tokio::test(flavor = "multi_thread")]
async fn a_network_policy_by_the_same_label_and_the_prepared_way_out() -> Result<()> {
    let scene = Scene::begin().await?;
    let mut wrong = scene.shop(&Shop::small()).to_vec();
    wrong.insert(0, network_policy());
    let words = [
        "NetworkPolicy open selects by the label app",
        "a label such as track: stable",
    ];
    let prepared = Shop {
        prepared: true,
        ..Shop::small()
    };
    scene
        .case(&wrong, "PreflightFailed", &words, &[prepared.application()])
        .await?;
    let found = shop::status(&scene.namespace).await?.found.context("what was found")?;
    ensure!(found.apart.starts_with("prepared: track=canary"), "{}", found.apart);
    // And it carries: a whole run, with the policy in place.
    shop::ship(&scene.namespace, "v2", "0%").await?;
    shop::promote_through(&scene.namespace, BOUND).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_service_by_the_same_label() -> Result<()> {
    let scene = Scene::begin().await?;
    let mut wrong = scene.shop(&Shop::small()).to_vec();
    wrong.insert(0, service("checkout-admin", "app: checkout"));
    let words = [
        "Service checkout-admin selects by the label app",
        "a label such as track: stable",
    ];
    let prepared = Shop {
        prepared: true,
        ..Shop::small()
    };
    scene
        .case(&wrong, "PreflightFailed", &words, &[prepared.application()])
        .await
}

/// A line in the pod template that selects pods by the label that would have to change.
async fn selects_by_the_label(field: &str, line: &str) -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    let selects = format!("{field} in the pod template selects by the label app");
    let words = [selects.as_str(), "a label such as track: stable"];
    scene
        .case(
            &[with_pod_line(line), route, rollout],
            "PreflightFailed",
            &words,
            &[application],
        )
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn affinity_by_the_same_label() -> Result<()> {
    let line = "affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: checkout}}}}]}}";
    selects_by_the_label("affinity", line).await
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_ones_own_that_do_not_set_the_canary_apart() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    let labels = |labels: &str| rollout.replace("traffic: {", &format!("traffic: {{canaryLabels: {{{labels}}}, "));
    let words = [
        "Service checkout would still select the canary's pods",
        "spec.traffic.canaryLabels",
    ];
    scene
        .case(
            &[application, route, labels("tier: canary")],
            "PreflightFailed",
            &words,
            &[labels("app: checkout-next")],
        )
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topology_spread_by_the_same_label() -> Result<()> {
    let line = "topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchExpressions: [{key: app, operator: In, values: [checkout]}]}}]";
    selects_by_the_label("topologySpreadConstraints", line).await
}

/// A network policy of this spec.
fn policy(spec: &str) -> String {
    format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: policy}}\nspec: {spec}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn network_policies_by_expressions_and_by_peers_are_seen_and_those_of_others_are_not_minded() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    scene.apply(&[application, route]).await?;
    let database = "podSelector: {matchLabels: {app: database}}";
    let them = "podSelector: {matchLabels: {app: checkout}}";
    for (spec, refused) in [
        (
            "{podSelector: {matchExpressions: [{key: app, operator: In, values: [checkout, cart]}]}}".to_owned(),
            true,
        ),
        (
            "{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [checkout]}]}}".to_owned(),
            true,
        ),
        (format!("{{{database}, ingress: [{{from: [{{{them}}}]}}]}}"), true),
        (
            format!("{{{database}, policyTypes: [Egress], egress: [{{to: [{{namespaceSelector: {{}}, {them}}}]}}]}}"),
            true,
        ),
        (
            format!("{{{database}, ingress: [{{from: [{{namespaceSelector: {{matchLabels: {{app: checkout}}}}}}]}}]}}"),
            false,
        ),
        (
            "{podSelector: {matchExpressions: [{key: app, operator: Exists}]}, ingress: [{}]}".to_owned(),
            false,
        ),
        ("{podSelector: {}, ingress: [{}]}".to_owned(), false),
    ] {
        scene.apply(&[policy(&spec), rollout.clone()]).await?;
        let status = shop::wait_for(&scene.namespace, &format!("an answer to {spec}"), BOUND, |status| {
            matches!(status.phase, Some(Phase::Blocked | Phase::Healthy)) && !why(status).is_empty()
        })
        .await?;
        let message = status.message.clone().unwrap_or_default();
        let named = message.starts_with("NetworkPolicy policy selects by the label app");
        ensure!(
            named == refused && (status.phase == Some(Phase::Blocked)) == refused,
            "{spec}: {message}"
        );
        scene.namespace.kubectl(&["delete", "networkpolicy", "policy"]).await?;
        scene.healthy().await?;
        scene
            .namespace
            .kubectl(&["delete", "rollout", NAME, "--timeout=60s"])
            .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_label_that_a_network_policy_selects_by() -> Result<()> {
    let scene = Scene::begin().await?;
    let prepared = Shop {
        prepared: true,
        ..Shop::small()
    };
    let mut wrong = scene.shop(&prepared).to_vec();
    wrong.insert(
        0,
        policy("{podSelector: {matchLabels: {track: stable}}, ingress: [{}]}"),
    );
    let words = [
        "NetworkPolicy policy selects by the label track",
        "let it select by another label",
        "spec.traffic.canaryLabels",
    ];
    let mend = [policy("{podSelector: {matchLabels: {app: checkout}}, ingress: [{}]}")];
    scene.case(&wrong, "PreflightFailed", &words, &mend).await
}

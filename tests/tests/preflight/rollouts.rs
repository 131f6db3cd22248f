//! Two Rollouts that want the same thing: one of them refuses, and writes nothing.

use anyhow::{Context, Result, ensure};
use stepgate_tests::operator::{ACCOUNT, SYSTEM};
use stepgate_tests::shop::{self, NAME, Shop};
use stepgate_tests::until::{Seen, until};

use super::scene::{BOUND, Scene, service};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_rollout_for_the_same_deployment_writes_nothing() -> Result<()> {
    let scene = Scene::begin().await?;
    scene.apply(&scene.shop(&Shop::small())).await?;
    scene.healthy().await?;
    let before = shop::deployment(&scene.namespace).await?;
    let second = Shop::small()
        .rollout()
        .replace("metadata: {name: checkout}", "metadata: {name: second}");
    let mark = scene.namespace.cluster().audit()?;
    scene.apply(&[second]).await?;
    let kubectl = [
        "wait",
        "rollout/second",
        "--for=jsonpath={.status.phase}=Blocked",
        "--timeout=60s",
    ];
    scene.namespace.kubectl(&kubectl).await?;
    let second = shop::object(&scene.namespace, "stepgate.dev/v1alpha1", "Rollout", "second").await?;
    let message = second["status"]["message"].as_str().unwrap_or_default();
    let words = format!(
        "Deployment {}/checkout is managed by Rollout checkout; delete one of the two",
        scene.namespace.name()
    );
    ensure!(message.starts_with(&words), "{message}");
    until("the Event", BOUND, async || {
        let events = shop::events(&scene.namespace, "second").await?;
        let told = events
            .iter()
            .any(|(why, text)| why == "WorkloadTaken" && text == message);
        Ok(if told {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{events:?}"))
        })
    })
    .await?;
    let account = format!("system:serviceaccount:{SYSTEM}:{ACCOUNT}");
    let written = mark.requests(|request| {
        let of_second = |name: &str| name == "second" || name.is_empty();
        request.user.username == account
            && request.is_write()
            && request.object_ref.as_ref().is_some_and(|target| {
                let own = target.subresource == "status" && of_second(&target.name);
                target.namespace == scene.namespace.name() && !own && target.resource != "events"
            })
    })?;
    ensure!(written.is_empty(), "{written:?}");
    ensure!(
        shop::deployment(&scene.namespace).await? == before,
        "the Deployment was touched"
    );
    // The first one gone, the second takes over.
    scene
        .namespace
        .kubectl(&["delete", "rollout", NAME, "--timeout=60s"])
        .await?;
    let kubectl = ["wait", "rollout/second", "--for=condition=Ready", "--timeout=60s"];
    scene.namespace.kubectl(&kubectl).await?;
    Ok(())
}

/// Two Deployments whose pods one Service selects, and two Rollouts for them on the same route.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_rollout_for_the_same_rule_refuses_and_goes_on_with_a_rule_of_its_own() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    let (deployment, _) = application.split_once("---").context("two objects")?;
    let checkout = deployment.replace("labels: {app: checkout}", "labels: {app: checkout, team: shop}");
    let basket = deployment
        .replace("name: checkout}", "name: basket}")
        .replace("matchLabels: {app: checkout}", "matchLabels: {app: basket}")
        .replace("labels: {app: checkout}", "labels: {app: basket, team: shop}");
    let service = service(NAME, "team: shop");
    scene
        .apply(&[checkout, basket, service, route.clone(), rollout.clone()])
        .await?;
    scene.healthy().await?;
    let second = rollout
        .replace("metadata: {name: checkout}", "metadata: {name: basket}")
        .replace("workload: {name: checkout}", "workload: {name: basket}");
    scene.apply(std::slice::from_ref(&second)).await?;
    let blocked = [
        "wait",
        "rollout/basket",
        "--for=jsonpath={.status.phase}=Blocked",
        "--timeout=60s",
    ];
    scene.namespace.kubectl(&blocked).await?;
    let object = shop::object(&scene.namespace, "stepgate.dev/v1alpha1", "Rollout", "basket").await?;
    let message = object["status"]["message"].as_str().unwrap_or_default();
    for words in [
        "HTTPRoute checkout, rule 0: Rollout checkout moves its weights, and two cannot",
        "name other rules in spec.traffic.routes of one of them, or delete one",
    ] {
        ensure!(message.contains(words), "{message}");
    }
    // A rule for each, and a canary's Service for each.
    let both = route.replace(
        "rules: [",
        "rules: [{name: basket, matches: [{path: {value: /basket}}], backendRefs: [{name: checkout, port: 80}]}, ",
    );
    let both = both.replace("{backendRefs:", "{name: web, backendRefs:");
    let rules = |rollout: &str, rule: &str| {
        rollout.replace(
            "routes: [{name: checkout}]",
            &format!("routes: [{{name: checkout, rules: [{rule}]}}]"),
        )
    };
    let first = rules(&rollout, "web");
    let second = rules(&second, "basket").replace("traffic: {", "traffic: {canaryService: basket-canary, ");
    scene.apply(&[both, first, second]).await?;
    let ready = ["wait", "rollout/basket", "--for=condition=Ready", "--timeout=90s"];
    scene.namespace.kubectl(&ready).await?;
    scene.healthy().await
}

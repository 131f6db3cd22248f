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

/// Two Deployments whose pods one Service selects, the route to it, and a Rollout for each of the two.
struct Two {
    applications: [String; 3],
    route: String,
    checkout: String,
    trolley: String,
}

impl Two {
    fn new(scene: &Scene) -> Result<Self> {
        let [application, route, checkout] = scene.shop(&Shop::small());
        let (deployment, _) = application.split_once("---").context("two objects")?;
        let trolley = deployment
            .replace("name: checkout}", "name: trolley}")
            .replace("matchLabels: {app: checkout}", "matchLabels: {app: trolley}")
            .replace("labels: {app: checkout}", "labels: {app: trolley, team: shop}");
        Ok(Self {
            applications: [
                deployment.replace("labels: {app: checkout}", "labels: {app: checkout, team: shop}"),
                trolley,
                service(NAME, "team: shop"),
            ],
            route,
            trolley: checkout
                .replace("metadata: {name: checkout}", "metadata: {name: trolley}")
                .replace("workload: {name: checkout}", "workload: {name: trolley}"),
            checkout,
        })
    }
}

async fn wait_for_phase(scene: &Scene, rollout: &str, phase: &str) -> Result<()> {
    let wanted = format!("--for=jsonpath={{.status.phase}}={phase}");
    let kubectl = ["wait", &format!("rollout/{rollout}"), &wanted, "--timeout=90s"];
    scene.namespace.kubectl(&kubectl).await?;
    Ok(())
}

async fn message(scene: &Scene, rollout: &str) -> Result<String> {
    let object = shop::object(&scene.namespace, "stepgate.dev/v1alpha1", "Rollout", rollout).await?;
    Ok(object["status"]["message"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_rollout_for_the_same_rule_refuses_and_goes_on_with_a_rule_of_its_own() -> Result<()> {
    let scene = Scene::begin().await?;
    let two = Two::new(&scene)?;
    scene.apply(&two.applications).await?;
    scene.apply(&[two.route.clone(), two.checkout.clone()]).await?;
    scene.healthy().await?;
    scene.apply(std::slice::from_ref(&two.trolley)).await?;
    wait_for_phase(&scene, "trolley", "Blocked").await?;
    let said = message(&scene, "trolley").await?;
    for words in [
        "HTTPRoute checkout, rule 0: Rollout checkout moves its weights, and two cannot",
        "name other rules in spec.traffic.routes of one of them, or delete one",
    ] {
        ensure!(said.contains(words), "{said}");
    }
    // A rule for each, and a canary's Service for each.
    let both = two.route.replace(
        "rules: [",
        "rules: [{name: trolley, matches: [{path: {value: /trolley}}], backendRefs: [{name: checkout, port: 80}]}, ",
    );
    let both = both.replace("{backendRefs:", "{name: web, backendRefs:");
    let rules = |rollout: &str, rule: &str| {
        let named = format!("routes: [{{name: checkout, rules: [{rule}]}}]");
        rollout.replace("routes: [{name: checkout}]", &named)
    };
    let first = rules(&two.checkout, "web");
    let second = rules(&two.trolley, "trolley").replace("traffic: {", "traffic: {canaryService: trolley-canary, ");
    scene.apply(&[both, first, second]).await?;
    wait_for_phase(&scene, "trolley", "Healthy").await?;
    scene.healthy().await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_rollouts_that_are_made_at_once_one_alone_runs_on_the_rule() -> Result<()> {
    let scene = Scene::begin().await?;
    let two = Two::new(&scene)?;
    scene.apply(&two.applications).await?;
    let at_once = format!("{}---\n{}", two.checkout, two.trolley);
    scene.apply(&[two.route, at_once]).await?;
    scene.healthy().await?;
    // The second found its rule free only where both looked at once: it is asked again before a run.
    let (deployment, version) = ("deployment/trolley", "VERSION=v2");
    scene.namespace.kubectl(&["set", "env", deployment, version]).await?;
    shop::ship(&scene.namespace, "v2", "0%").await?;
    wait_for_phase(&scene, "trolley", "Blocked").await?;
    shop::wait_for_weight(&scene.namespace, 10, BOUND).await?;
    let said = message(&scene, "trolley").await?;
    ensure!(
        said.starts_with("HTTPRoute checkout, rule 0: Rollout checkout moves its weights"),
        "{said}"
    );
    Ok(())
}

//! The route's rules and parents do not fit.

use anyhow::Result;
use stepgate_tests::shop::Shop;

use super::scene::{Scene, service, with_rules};

#[tokio::test(flavor = "multi_thread")]
async fn a_route_without_a_rule_for_the_service() -> Result<()> {
    let scene = Scene::begin().await?;
    let elsewhere = with_rules("[{backendRefs: [{name: other, port: 80}]}]");
    let [application, route, _] = scene.shop(&elsewhere);
    let named = Shop::small()
        .rollout()
        .replace("traffic: {", "traffic: {stableService: checkout, ");
    let wrong = [application, service("other", "app: other"), route, named];
    let words = ["HTTPRoute checkout: no rule refers to Service checkout; add it as a backendRef"];
    let mend = [Shop::small().route(&scene.namespace)];
    scene.case(&wrong, "PreflightFailed", &words, &mend).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_backend_with_a_weight() -> Result<()> {
    let scene = Scene::begin().await?;
    let rules = |weight| {
        with_rules(&format!(
            "[{{name: main, backendRefs: [{{name: checkout, port: 80, weight: 9}}, {{name: other, port: 80, weight: {weight}}}]}}]"
        ))
    };
    let mut wrong = scene.shop(&rules(1)).to_vec();
    wrong.insert(0, service("other", "app: other"));
    let words = [
        "HTTPRoute checkout, rule main: it also sends traffic to other",
        "weight 0 or a rule of its own",
    ];
    let mend = [rules(0).route(&scene.namespace)];
    scene.case(&wrong, "PreflightFailed", &words, &mend).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_name_that_the_route_does_not_have() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] =
        scene.shop(&with_rules("[{name: web, backendRefs: [{name: checkout, port: 80}]}]"));
    let wrong = rollout.replace("{name: checkout}]", "{name: checkout, rules: [wbe]}]");
    let mend = rollout.replace("{name: checkout}]", "{name: checkout, rules: [web]}]");
    let words = ["HTTPRoute checkout has no rule named wbe; name one that it has"];
    scene
        .case(&[application, route, wrong], "PreflightFailed", &words, &[mend])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_no_gateway_accepts() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    let wrong = [application, route.replace("name: shared", "name: nowhere"), rollout];
    let words = [
        "HTTPRoute checkout: no parent accepts it",
        "check spec.parentRefs and the Gateway",
    ];
    scene.case(&wrong, "PreflightFailed", &words, &[route]).await
}

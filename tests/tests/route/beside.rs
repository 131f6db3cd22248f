//! What stands beside stable in a managed rule before the run: a third backend, the canary itself, and weights of every kind.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stepgate_crds::status::Phase;
use stepgate_tests::cluster::Cluster;
use stepgate_tests::operator::{Operator, OperatorOptions};
use stepgate_tests::shop::{self, NAME, Shop};

use super::versions::{BOUND, CANARY, Versions, ensure_same, open, weights};

/// The weight of a Service in a rule; none where the rule does not name it.
fn weight_of(route: &Value, rule: usize, service: &str) -> Option<i64> {
    weights(route, rule)
        .into_iter()
        .find_map(|(name, weight)| (name == service).then_some(weight))
}

/// Two runs, one promoted and one given up, on a route with these rules; gives the route before, and every version of it since.
async fn two_runs(rules: &str) -> Result<(Value, Vec<Value>)> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("beside").await?;
    let _operator = Operator::start(&namespace, OperatorOptions::led_by_commands()).await?;
    let shop = Shop {
        replicas: 1,
        rules: rules.to_owned(),
        ..Shop::default()
    };
    open(&namespace, &shop, &[shop.route(&namespace)]).await?;
    let before = shop::route(&namespace).await?;
    let versions = Versions::follow(&namespace, NAME).await?;
    shop::ship(&namespace, "v2", "0%").await?;
    shop::promote_through(&namespace, BOUND).await?;
    ensure_same(&before, &shop::route(&namespace).await?)?;
    shop::ship(&namespace, "v3", "0%").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    let answer = shop::plugin(&namespace, &["abort", NAME]).await?;
    ensure!(answer.code == Some(0), "{answer:?}");
    shop::wait(&namespace, Phase::Failed, BOUND).await?;
    ensure_same(&before, &shop::route(&namespace).await?)?;
    Ok((before, versions.seen()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_backend_at_weight_0_is_kept_and_odd_weights_come_back() -> Result<()> {
    let (before, versions) = two_runs(
        "[{name: main, backendRefs: [{name: other, port: 80, weight: 0}, {name: checkout, port: 80, weight: 37}]}, \
          {matches: [{path: {value: /large}}], backendRefs: [{name: checkout, port: 80, weight: 1000000}]}, \
          {matches: [{path: {value: /none}}], backendRefs: [{name: checkout, port: 80, weight: 0}, {name: other, port: 80, weight: 0}]}]",
    )
    .await?;
    for (rule, weight) in [(0, 37), (1, 1_000_000), (2, 0)] {
        ensure!(weight_of(&before, rule, NAME) == Some(weight), "{before}");
    }
    for version in &versions {
        for rule in [0, 2] {
            ensure!(weight_of(version, rule, "other") == Some(0), "{version}");
        }
    }
    let at_half = versions
        .iter()
        .find(|version| weight_of(version, 0, CANARY) == Some(50))
        .context("never at 50 %")?;
    for rule in [0, 1, 2] {
        ensure!(weight_of(at_half, rule, NAME) == Some(50), "{at_half}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_lists_the_canary_at_all_times_keeps_it() -> Result<()> {
    let (before, versions) = two_runs(
        "[{backendRefs: [{name: checkout-canary, port: 80, weight: 0, filters: [{type: RequestHeaderModifier, \
          requestHeaderModifier: {set: [{name: x-arm, value: canary}]}}]}, {name: checkout, port: 80, weight: 5}]}]",
    )
    .await?;
    // At rest there is no such Service, which the gateway says: that is no obstacle.
    let conditions = before["status"]["parents"][0]["conditions"].as_array();
    let unresolved = conditions.into_iter().flatten().any(|condition| {
        condition["type"] == "ResolvedRefs"
            && condition["status"] == "False"
            && condition["reason"] == "BackendNotFound"
    });
    ensure!(unresolved, "the gateway has found the canary's Service: {before}");
    for version in &versions {
        let reference = &version["spec"]["rules"][0]["backendRefs"][0];
        ensure!(
            reference["name"] == CANARY
                && reference["filters"] == before["spec"]["rules"][0]["backendRefs"][0]["filters"],
            "{version}"
        );
    }
    for weight in [0, 10, 30, 50, 100] {
        ensure!(
            versions
                .iter()
                .any(|version| weight_of(version, 0, CANARY) == Some(weight)),
            "never at {weight} %"
        );
    }
    Ok(())
}

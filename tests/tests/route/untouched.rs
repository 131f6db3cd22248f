//! What a run leaves of the user's route: all but weights, the canary's backendRef and the run annotation.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stepgate_crds::names::RUN;
use stepgate_crds::status::Phase;
use stepgate_tests::cluster::Cluster;
use stepgate_tests::operator::{Operator, OperatorOptions};
use stepgate_tests::shop::{self, NAME, Shop};

use super::versions::{BOUND, CANARY, Versions, beside_the_run, ensure_same, open, split, weights};

/// Rules with everything that Contour takes, none of which the operator reads: matches, rewrites, header filters (of rules and of a
/// backend), timeouts, a redirect without any backend, and a backend of another team.
const RULES: &str = r#"[
  {matches: [{path: {type: PathPrefix, value: /shop}, method: GET, headers: [{type: RegularExpression, name: x-region, value: "eu|us"}],
      queryParams: [{name: beta, value: "1"}]}],
   filters: [{type: URLRewrite, urlRewrite: {hostname: shop.internal, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}},
     {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: b}], remove: [x-c]}}],
   timeouts: {request: 10s, backendRequest: 5s},
   backendRefs: [{name: checkout, port: 80, weight: 7,
     filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-d, value: e}]}}]}]},
  {matches: [{path: {type: Exact, value: /old}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]},
  {matches: [{path: {type: PathPrefix, value: /other}}], timeouts: {request: 1s}, backendRefs: [{name: other, port: 80, weight: 3}]},
  {backendRefs: [{name: checkout, port: 80}]}
]"#;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_users_route_changes_but_weights_the_canarys_ref_and_the_run_annotation() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("route").await?;
    let _operator = Operator::start(&namespace, OperatorOptions::led_by_commands()).await?;
    let shop = Shop {
        replicas: 2,
        rules: RULES.to_owned(),
        ..Shop::default()
    };
    open(&namespace, &shop, &[shop.route(&namespace)]).await?;
    let before = shop::route(&namespace).await?;
    ensure!(before["metadata"].get("annotations").is_none(), "{before}");
    let managed = [0, 3];
    let versions = Versions::follow(&namespace, NAME).await?;

    shop::ship(&namespace, "v2", "0%").await?;
    shop::promote_through(&namespace, BOUND).await?;
    let after = shop::route(&namespace).await?;
    ensure_same(&before, &after)?;
    ensure!(after["metadata"].get("annotations").is_none(), "{after}");

    // A run that is given up leaves nothing either.
    shop::ship(&namespace, "v3", "0%").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    shop::plugin(&namespace, &["abort", NAME]).await?;
    shop::wait(&namespace, Phase::Failed, BOUND).await?;
    let after = shop::route(&namespace).await?;
    ensure_same(&before, &after)?;

    let seen = versions.seen();
    let expected = beside_the_run(&before, &managed)?;
    for version in &seen {
        let got = beside_the_run(version, &managed)?;
        ensure!(got == expected, "expected: {expected}\ngot: {got}");
        let rules: Vec<_> = managed.iter().map(|rule| weights(version, *rule)).collect();
        let at_rest = rules[0].len() == 1;
        ensure!(at_rest || rules[0] == rules[1], "the managed rules differ: {rules:?}");
        let marked = version["metadata"]["annotations"].get(RUN).is_some();
        ensure!(marked != at_rest, "the mark is there in a run and only then: {version}");
    }
    for canary in [0, 10, 30, 50, 100] {
        ensure!(
            seen.iter()
                .any(|version| weights(version, 3) == split(100 - canary, canary)),
            "never at {canary} %"
        );
    }
    // The canary's ref is stable's under another name, its own filters included.
    let reference = seen
        .iter()
        .find_map(|version| version["spec"]["rules"][0]["backendRefs"].get(1).cloned())
        .context("the canary's ref")?;
    let mut stable = before["spec"]["rules"][0]["backendRefs"][0].clone();
    stable["name"] = json!(CANARY);
    stable["weight"] = reference["weight"].clone();
    ensure!(reference == stable, "{reference}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_named_rules_move_and_get_their_own_weight_back() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("route").await?;
    let _operator = Operator::start(&namespace, OperatorOptions::led_by_commands()).await?;
    let shop = Shop {
        replicas: 1,
        rules:
            "[{name: admin, matches: [{path: {value: /admin}}], backendRefs: [{name: checkout, port: 80, weight: 5}]}, \
                {name: web, matches: [{path: {value: /web}}], backendRefs: [{name: checkout, port: 80, weight: 9}]}, \
                {backendRefs: [{name: checkout, port: 80}]}]"
                .to_owned(),
        rollout: "  steps: [{weight: 40}, {weight: 100}]\n".to_owned(),
        ..Shop::default()
    };
    namespace.apply(&shop.application()).await?;
    namespace.apply(&shop.route(&namespace)).await?;
    let rollout = shop
        .rollout()
        .replace("{name: checkout}]", "{name: checkout, rules: [web]}]");
    namespace.apply(&rollout).await?;
    shop::wait(&namespace, Phase::Healthy, BOUND).await?;
    let before = shop::route(&namespace).await?;
    let versions = Versions::follow(&namespace, NAME).await?;
    shop::ship(&namespace, "v2", "0%").await?;
    shop::wait_for_weight(&namespace, 40, BOUND).await?;
    let during = shop::route(&namespace).await?;
    ensure!(weights(&during, 1) == split(60, 40), "{during}");

    // Somebody puts a rule in front in mid-run: it is known by its name.
    let in_front = r#"[{"op": "add", "path": "/spec/rules/0", "value": {"matches": [{"path": {"type": "PathPrefix", "value": "/new"}}], "backendRefs": [{"name": "checkout", "port": 80}]}}]"#;
    namespace
        .kubectl(&["patch", "httproute", NAME, "--type=json", "--patch", in_front])
        .await?;
    shop::plugin(&namespace, &["abort", NAME]).await?;
    shop::wait(&namespace, Phase::Failed, BOUND).await?;
    let mut after = shop::route(&namespace).await?;
    let rules = after["spec"]["rules"].as_array_mut().context("rules")?;
    let added = rules.remove(0);
    ensure!(added["matches"][0]["path"]["value"] == "/new", "{added}");
    ensure_same(&before, &after)?;
    for version in versions.seen() {
        let rules = version["spec"]["rules"].as_array().context("rules")?;
        for rule in rules {
            let names_canary = rule["backendRefs"].to_string().contains(CANARY);
            ensure!(!names_canary || rule["name"] == "web", "{rule}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_routes_move_together_and_both_come_back() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("route").await?;
    let _operator = Operator::start(&namespace, OperatorOptions::led_by_commands()).await?;
    let shop = Shop {
        replicas: 1,
        rollout: "  steps: [{weight: 20}, {weight: 100}]\n".to_owned(),
        ..Shop::default()
    };
    let one = shop.route(&namespace);
    let two = one
        .replace(
            "metadata: {name: checkout}",
            "metadata: {name: partners, annotations: {team: partners}, labels: {tier: edge}}",
        )
        .replace("hostnames: [", "hostnames: [partners.");
    namespace.apply(&shop.application()).await?;
    for route in [&one, &two] {
        namespace.kubectl_and_warnings(&["create", "-f", "-"], route).await?;
    }
    let rollout = shop.rollout().replace(
        "routes: [{name: checkout}]",
        "routes: [{name: checkout}, {name: partners}]",
    );
    namespace.apply(&rollout).await?;
    shop::wait(&namespace, Phase::Healthy, BOUND).await?;
    let both = async || -> Result<[Value; 2]> {
        let partners = shop::object(&namespace, "gateway.networking.k8s.io/v1", "HTTPRoute", "partners").await?;
        Ok([shop::route(&namespace).await?, partners])
    };
    let before = both().await?;
    shop::ship(&namespace, "v2", "0%").await?;
    for weight in [20, 100] {
        shop::wait_for_weight(&namespace, weight, BOUND).await?;
        for route in both().await? {
            ensure!(
                weights(&route, 0) == split(100 - i64::from(weight), weight.into()),
                "{route}"
            );
        }
        let answer = shop::plugin(&namespace, &["promote", NAME]).await?;
        ensure!(answer.code == Some(0), "{answer:?}");
    }
    shop::wait(&namespace, Phase::Healthy, BOUND).await?;
    for (before, after) in before.iter().zip(both().await?) {
        ensure_same(before, &after)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_that_somebody_changes_in_mid_step_are_put_right_and_said() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("route").await?;
    let _operator = Operator::start(&namespace, OperatorOptions::led_by_commands()).await?;
    let shop = Shop {
        replicas: 1,
        ..Shop::default()
    };
    shop.open(&namespace).await?;
    shop::ship(&namespace, "v2", "0%").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    let versions = Versions::follow(&namespace, NAME).await?;
    let by_hand = r#"[{"op": "replace", "path": "/spec/rules/0/backendRefs/0/weight", "value": 20}, {"op": "replace", "path": "/spec/rules/0/backendRefs/1/weight", "value": 80}]"#;
    namespace
        .kubectl(&["patch", "httproute", NAME, "--type=json", "--patch", by_hand])
        .await?;
    shop::wait_for(&namespace, "10 % in force once more", BOUND, |status| {
        status.run.as_ref().is_some_and(|run| {
            run.weight == 10 && run.seq > 2 && run.in_force.as_ref().is_some_and(|force| force.seq == run.seq)
        })
    })
    .await?;
    ensure!(weights(&shop::route(&namespace).await?, 0) == split(90, 10));
    let seen: Vec<_> = versions.seen().iter().map(|version| weights(version, 0)).collect();
    ensure!(seen.contains(&split(20, 80)), "{seen:?}");
    Ok(())
}

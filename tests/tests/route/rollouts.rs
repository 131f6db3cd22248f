//! Two Rollouts on one route, a rule for each: each moves its own weights, also at the same time, and neither's requests suffer.

use anyhow::{Context, Result, ensure};
use kube::Api;
use serde_json::Value;
use stepgate_crds::names::RUN;
use stepgate_crds::status::Phase;
use stepgate_crds::{Rollout, RolloutStatus};
use stepgate_tests::cluster::{Cluster, Namespace};
use stepgate_tests::load::{LoadHandle, LoadOptions};
use stepgate_tests::operator::{Operator, OperatorOptions};
use stepgate_tests::scene::load_when_served;
use stepgate_tests::shop::{self, NAME, Shop};
use stepgate_tests::until::{Seen, until};

use super::versions::{BOUND, Versions, ensure_same, weights};

const BASKET: &str = "basket";

/// The shop's manifests and the basket's: two applications, one route, two Rollouts.
async fn open_two(namespace: &Namespace) -> Result<()> {
    let shop = Shop {
        replicas: 2,
        rules: "[{matches: [{path: {value: /basket}}], backendRefs: [{name: basket, port: 80, weight: 3}]}, \
                 {backendRefs: [{name: checkout, port: 80}]}]"
            .to_owned(),
        ..Shop::default()
    };
    let application = shop.application();
    namespace.apply(&application).await?;
    namespace.apply(&application.replace(NAME, BASKET)).await?;
    namespace.apply(&shop.route(namespace)).await?;
    let rollout = shop.rollout();
    let second = rollout
        .replace("metadata: {name: checkout}", "metadata: {name: basket}")
        .replace("workload: {name: checkout}", "workload: {name: basket}");
    namespace.apply(&rollout).await?;
    namespace.apply(&second).await?;
    for name in [NAME, BASKET] {
        wait(namespace, name, "Healthy", |status| {
            status.phase == Some(Phase::Healthy)
        })
        .await?;
    }
    Ok(())
}

async fn wait(
    namespace: &Namespace,
    name: &str,
    what: &str,
    wanted: impl Fn(&RolloutStatus) -> bool,
) -> Result<RolloutStatus> {
    let api: Api<Rollout> = namespace.api();
    until(&format!("{name}: {what}"), BOUND, async || {
        let status = api.get(name).await?.status.unwrap_or_default();
        Ok(if wanted(&status) {
            Seen::Done(status)
        } else {
            let phase = status.phase.map_or("-", Phase::as_str);
            Seen::NotYet(format!("{phase}: {}", status.message.unwrap_or_default()))
        })
    })
    .await
}

async fn wait_for_weight(namespace: &Namespace, name: &str, weight: i32) -> Result<()> {
    wait(namespace, name, &format!("{weight} % in force"), |status| {
        status.phase == Some(Phase::Stepping)
            && status.run.as_ref().is_some_and(|run| {
                run.weight == weight && run.in_force.as_ref().is_some_and(|force| force.seq == run.seq)
            })
    })
    .await?;
    Ok(())
}

async fn command(namespace: &Namespace, verb: &str, name: &str) -> Result<()> {
    let answer = shop::plugin(namespace, &[verb, name]).await?;
    ensure!(answer.code == Some(0), "{verb} {name}: {answer:?}");
    Ok(())
}

async fn ship(namespace: &Namespace, name: &str, version: &str) -> Result<()> {
    let (deployment, version) = (format!("deployment/{name}"), format!("VERSION={version}"));
    namespace.kubectl(&["set", "env", &deployment, &version]).await?;
    Ok(())
}

/// Requests of one of the two applications.
async fn load(namespace: &Namespace, path: &str) -> Result<LoadHandle> {
    let options = LoadOptions {
        rate: 100.0,
        path: path.to_owned(),
        ..shop::load(namespace)
    };
    load_when_served(options).await
}

fn canary_of(version: &Value, rule: usize, name: &str) -> Option<i64> {
    let canary = format!("{name}-canary");
    weights(version, rule)
        .into_iter()
        .find_map(|(service, weight)| (service == canary).then_some(weight))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_rollouts_with_a_rule_each_run_at_the_same_time() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("share").await?;
    let _operator = Operator::start(&namespace, OperatorOptions::led_by_commands()).await?;
    open_two(&namespace).await?;
    let before = shop::route(&namespace).await?;
    let versions = Versions::follow(&namespace, NAME).await?;
    let loads = [load(&namespace, "/").await?, load(&namespace, "/basket").await?];

    // Both at once, the second one step behind; one is promoted, the other given up at its third weight.
    ship(&namespace, NAME, "v2").await?;
    ship(&namespace, BASKET, "v2").await?;
    for (first, second) in [(10, 10), (30, 10), (50, 30)] {
        wait_for_weight(&namespace, NAME, first).await?;
        wait_for_weight(&namespace, BASKET, second).await?;
        let route = shop::route(&namespace).await?;
        ensure!(canary_of(&route, 1, NAME) == Some(first.into()), "{route}");
        ensure!(canary_of(&route, 0, BASKET) == Some(second.into()), "{route}");
        let mark = route["metadata"]["annotations"][RUN].as_str().unwrap_or_default();
        ensure!(mark.split(' ').count() == 2, "a mark for each run: {mark}");
        command(&namespace, "promote", NAME).await?;
        if first != 10 {
            command(&namespace, "promote", BASKET).await?;
        }
    }
    wait_for_weight(&namespace, BASKET, 50).await?;
    command(&namespace, "abort", BASKET).await?;
    wait_for_weight(&namespace, NAME, 100).await?;
    command(&namespace, "promote", NAME).await?;
    wait(&namespace, BASKET, "Failed", |status| {
        status.phase == Some(Phase::Failed)
    })
    .await?;
    wait(&namespace, NAME, "Healthy", |status| {
        status.phase == Some(Phase::Healthy) && status.run.is_none()
    })
    .await?;

    ensure_same(&before, &shop::route(&namespace).await?)?;
    for version in versions.seen() {
        for (rule, other) in [(0, NAME), (1, BASKET)] {
            let strange = canary_of(&version, rule, other);
            ensure!(strange.is_none(), "a canary in the other's rule: {version}");
        }
    }
    let [checkout, basket] = loads;
    for (name, load) in [(NAME, checkout), (BASKET, basket)] {
        let report = load.stop().await?;
        ensure!(report.other_failures() == 0, "{name}: {report}");
        for version in ["v1", "v2"] {
            ensure!(report.version(version).total > 0, "{name}, {version}: {report}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_goes_leaves_the_others_run_on_the_route_alone() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("share").await?;
    let _operator = Operator::start(&namespace, OperatorOptions::led_by_commands()).await?;
    open_two(&namespace).await?;
    let before = shop::route(&namespace).await?;
    ship(&namespace, NAME, "v2").await?;
    ship(&namespace, BASKET, "v2").await?;
    for name in [NAME, BASKET] {
        wait_for_weight(&namespace, name, 10).await?;
    }
    let kubectl = ["delete", "rollout", BASKET, "--timeout=60s"];
    namespace.kubectl(&kubectl).await?;
    let route = shop::route(&namespace).await?;
    ensure!(canary_of(&route, 0, BASKET).is_none(), "{route}");
    ensure!(canary_of(&route, 1, NAME) == Some(10), "{route}");
    let mark = route["metadata"]["annotations"][RUN].as_str().context("a mark")?;
    ensure!(mark.split(' ').count() == 1, "{mark}");
    shop::promote_through(&namespace, BOUND).await?;
    ensure_same(&before, &shop::route(&namespace).await?)
}

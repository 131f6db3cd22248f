//! The user's own queries on a real Prometheus: one within its bounds lets a version pass, one out of them takes it back by name, one that gives
//! no number holds with its own reason, and none sees another namespace.
//!
//! Runs inside the cluster: `target/debug/local-cluster run -- cargo test -p stepgate-tests --test queries`.

#![expect(clippy::print_stdout, reason = "a test prints what it measured")]
#![expect(
    clippy::indexing_slicing,
    reason = "JSON is looked into by its fields; what is not there reads as null"
)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use stepgate_crds::status::{Phase, QueryReport};
use stepgate_crds::{Rollout, RolloutStatus};
use stepgate_tests::cluster::{Cluster, Counters, Namespace, Prometheus, STATS_PORT};
use stepgate_tests::operator::OperatorOptions;
use stepgate_tests::record::status_line;
use stepgate_tests::scene::{Scene, quick, quick_over};
use stepgate_tests::shop::{self, NAME, Shop};
use stepgate_tests::until::{Seen, until};
use tokio::time::sleep;

const BOUND: Duration = Duration::from_mins(2);
/// Three intervals of those that `quick` sets.
const THREE_INTERVALS: Duration = Duration::from_secs(15);

fn is_at(weight: i32) -> impl Fn(&RolloutStatus) -> bool {
    move |status| status.phase == Some(Phase::Stepping) && status.weight == Some(weight)
}

fn talkative(options: OperatorOptions) -> OperatorOptions {
    OperatorOptions {
        flags: vec!["--status-refresh=3s".to_owned()],
        ..options
    }
}

/// A shop that is judged by these queries, too.
fn judged_by(queries: &Value) -> Shop {
    let analysis = json!({"errorRate": {"max": "5%"}, "queries": queries});
    Shop {
        rollout: format!("  analysis: {analysis}\n"),
        ..Shop::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_passes_by_its_own_namespaces_series_while_its_neighbours_would_fail_it() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let neighbour = cluster.namespace("neighbour").await?;
    neighbour.apply(&Shop::default().application()).await?;
    let namespace = cluster.namespace("own").await?;
    // One Prometheus that both are scraped by.
    let (prometheus, options) = quick_over(&[&namespace, &neighbour], Counters::of_envoy(STATS_PORT)).await?;
    let shop = judged_by(&json!([
        // Four of stable, one of the canary at 10 %; with the neighbour's four there are nine.
        {"name": "pods", "query": "count(up{job=\"pods\"} or up{job=~\"po.+\"})", "max": 7, "min": 1, "failureLimit": 1},
        {"name": "canary-rate", "query": "sum(rate(http_requests_total{pod=~\"${canaryPods}\"}[10s]))", "max": 1000},
    ]));
    let scene = Scene::open_in(namespace, &shop, talkative(options)).await?;
    let outcome = own_series(&scene, &prometheus, &neighbour).await;
    scene.told(outcome)
}

async fn own_series(scene: &Scene, prometheus: &Prometheus, neighbour: &Namespace) -> Result<()> {
    let theirs = format!("up{{job=\"pods\",namespace=\"{}\"}} == 1", neighbour.name());
    until("the neighbour's pods to be scraped", BOUND, async || {
        let found = prometheus.ask(&theirs).await?.len();
        Ok(if found == 4 {
            Seen::Done(())
        } else {
            Seen::NotYet(found.to_string())
        })
    })
    .await?;
    let load = scene.load(100.0).await?;
    shop::ship(&scene.namespace, "v2", "0%").await?;
    let has_values = |status: &RolloutStatus| {
        let queries = status
            .run
            .as_ref()
            .map(|run| run.queries.as_slice())
            .unwrap_or_default();
        is_at(10)(status) && queries.len() == 2 && queries.iter().all(|query| query.value.is_some())
    };
    let status = scene.wait_for("both queries to be read", BOUND, has_values).await?;
    let said = shop::plugin(&scene.namespace, &["explain", NAME]).await?.said;
    let queries: Vec<QueryReport> = status.run.map(|run| run.queries).unwrap_or_default();
    println!("own queries: {queries:#?}\n{said}");
    let matcher = format!("namespace=\"{}\"", scene.namespace.name());
    for (query, selectors) in queries.iter().zip([2, 1]) {
        let asked = query.asked.as_deref().context("it is not said what is asked")?;
        ensure!(asked.matches(&matcher).count() == selectors, "{asked}");
        ensure!(said.contains(asked), "explain does not say {asked}:\n{said}");
    }
    let all = prometheus.ask("count(up{job=\"pods\"})").await?;
    let all: f64 = all[0]["value"][1].as_str().context("no count")?.parse()?;
    ensure!(all > 7.0, "without the matcher there are only {all} pods");
    let pods: f64 = queries[0].value.as_deref().context("no value")?.parse()?;
    ensure!((4.0..=7.0).contains(&pods), "{pods}");
    let rate: f64 = queries[1].value.as_deref().context("no value")?.parse()?;
    ensure!(rate > 0.0 && rate < 60.0, "{rate} requests a second at 10 % of 100");
    scene.wait_for("30 % in force", BOUND, is_at(30)).await?;
    let report = load.stop().await?;
    ensure!(report.other_failures() == 0, "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_over_the_max_of_a_query_is_rolled_back_and_told_by_name_value_and_max() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("over").await?;
    let (_prometheus, options) = quick(&namespace).await?;
    let shop = judged_by(&json!([
        // No number at all, which hides nothing.
        {"name": "nowhere", "query": "sum(no_such_metric)", "max": 1},
        {"name": "slots", "query": "sum(up{pod=~\"${canaryPods}\"}) * 12.5", "max": 10},
    ]));
    let scene = Scene::open_in(namespace, &shop, talkative(options)).await?;
    let outcome = over_max(&scene).await;
    scene.told(outcome)
}

async fn over_max(scene: &Scene) -> Result<()> {
    let load = scene.load(100.0).await?;
    shop::ship(&scene.namespace, "v2", "0%").await?;
    let ended = shop::wait(&scene.namespace, Phase::Failed, BOUND).await?;
    let report = load.stop().await?;
    println!(
        "over the max of its own query: {}\n  clients: {report}",
        status_line(&ended)
    );
    let failed = ended.failed.context("nothing failed")?;
    ensure!(failed.cause.reason == "Verdict", "{:?}", failed.cause);
    ensure!(
        failed.cause.detail == "query slots: 12.5 is over the max of 10, in 3 intervals in a row",
        "{:?}",
        failed.cause
    );
    let events = shop::events(&scene.namespace, NAME).await?;
    ensure!(
        events
            .iter()
            .any(|(reason, text)| reason == "RollingBack" && text.contains("query slots: 12.5 is over the max")),
        "{events:?}"
    );
    let weights: Vec<i64> = scene.record.accepted_weights().into_iter().flatten().collect();
    ensure!(weights == [0, 10, 0], "accepted weights: {weights:?}");
    ensure!(report.other_failures() == 0, "{report}");
    Ok(())
}

/// A query, the reason with which a run holds on it, and words of its message.
type Told = (&'static str, &'static str, &'static str);

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_gives_no_series_or_several_holds_with_a_reason_of_its_own() -> Result<()> {
    without_a_number(
        "not-one",
        &[
            ("sum(no_such_metric)", "QueryNoData", "gives no series"),
            (
                "up{job=\"pods\"}",
                "QueryResultSeries",
                "series, and one number is expected",
            ),
        ],
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_gives_no_finite_number_holds_with_a_reason_of_its_own() -> Result<()> {
    without_a_number(
        "not-finite",
        &[
            ("sum(up) / 0 - sum(up) / 0", "QueryNotFinite", "gives NaN"),
            ("sum(up) / 0", "QueryNotFinite", "gives inf"),
        ],
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_gives_another_type_or_is_refused_by_the_source_holds_with_a_reason_of_its_own() -> Result<()> {
    without_a_number(
        "no-number",
        &[
            ("up[1m]", "QueryResultType", "gives a range of samples"),
            ("'text'", "QueryResultType", "gives a string"),
            ("nonsense(up)", "QueryRejected", "unknown function"),
        ],
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_cannot_be_asked_begins_no_run() -> Result<()> {
    with_a_query("not-asked", async |scene| {
        // A run that holds ends with the newer version all the same.
        edit(scene, "sum(no_such_metric)").await?;
        shop::ship(&scene.namespace, "v2", "0%").await?;
        scene.wait_for("10 % in force", BOUND, is_at(10)).await?;
        for (query, why) in [
            (
                "sum(up",
                "spec.analysis.queries, query own: at character 7, the end: an operator",
            ),
            ("up{namespace=~\".*\"}", "`namespace=~\".*\"` asks for other namespaces"),
            ("up{pod=\"${canary}\"}", "`${canary` is unknown"),
        ] {
            edit(scene, query).await?;
            shop::ship(&scene.namespace, &format!("refused-{}", query.len()), "0%").await?;
            let refused = scene
                .wait_for(query, BOUND, |status| {
                    status.run.is_none() && status.message.as_deref().is_some_and(|message| message.contains(why))
                })
                .await?;
            println!("{query}: {}", status_line(&refused));
        }
        Ok(())
    })
    .await
}

/// A scene under traffic whose one query is edited as it goes; clients see no failure.
async fn with_a_query(name: &str, act: impl AsyncFnOnce(&Scene) -> Result<()>) -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace(name).await?;
    let (_prometheus, options) = quick(&namespace).await?;
    let shop = judged_by(&json!([{"name": "own", "query": "vector(1)", "max": 1}]));
    let scene = Scene::open_in(namespace, &shop, talkative(options)).await?;
    let outcome = async {
        let load = scene.load(100.0).await?;
        act(&scene).await?;
        let report = load.stop().await?;
        ensure!(report.other_failures() == 0, "{report}");
        Ok(())
    }
    .await;
    scene.told(outcome)
}

/// Puts another query in.
async fn edit(scene: &Scene, query: &str) -> Result<()> {
    let queries = json!([{"name": "own", "query": query, "max": 1, "failureLimit": 1}]);
    let patch = json!({"spec": {"analysis": {"queries": queries}}});
    let api: kube::Api<Rollout> = scene.namespace.api();
    api.patch(NAME, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

async fn without_a_number(name: &str, queries: &[Told]) -> Result<()> {
    with_a_query(name, async |scene| {
        for (version, (query, reason, why)) in queries.iter().enumerate() {
            edit(scene, query).await?;
            // A newer version ends the run before it, and has the spec as it is now.
            shop::ship(&scene.namespace, &format!("v{}", version + 2), "0%").await?;
            let is_told = |status: &RolloutStatus| {
                let condition = status.conditions.iter().find(|condition| condition.type_ == "Ready");
                let is_of_this = status
                    .run
                    .as_ref()
                    .is_some_and(|run| run.spec.queries.iter().any(|one| one.query == *query));
                is_of_this
                    && is_at(10)(status)
                    && status.verdict.as_deref() == Some(*reason)
                    && condition.is_some_and(|condition| condition.reason == *reason)
                    && status.message.as_deref().is_some_and(|message| message.contains(why))
            };
            let told = scene.wait_for(&format!("{query}: {reason}"), BOUND, is_told).await?;
            println!("{query}: {}", status_line(&told));
            if version == 0 {
                sleep(THREE_INTERVALS).await;
            }
            let held = shop::status(&scene.namespace).await?;
            ensure!(held.weight == Some(10), "{}", status_line(&held));
        }
        let highest = scene.record.accepted_weights().into_iter().flatten().max();
        ensure!(highest == Some(10), "{highest:?}");
        Ok(())
    })
    .await
}

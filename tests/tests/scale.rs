//! A thousand Rollouts in a step at one time: what the operator asks of Prometheus and of the API server, and what it uses itself.
//!
//! API server, controllers, Prometheus and operator are the real ones, with the chart's rights and policies and the default intervals of 30 s.
//! Two parts stand in for what two cores cannot carry: the pods are of the image `pause` (see `stepgate_tests::node`), and the gateway accepts
//! routes and counts requests that nobody sent (`scale/gateway.rs`), where Contour would build 1,000 routes anew with each weight. The query,
//! its reply, the fold of each interval and each write of the status are those of any other run.
//!
//! Runs inside the cluster, by `make scale`, which builds the operator as users get it and names it in `STEPGATE_OPTIMISED`. Without that the
//! one beside this test is measured, and its CPU time is printed but has no bound.

#![expect(clippy::print_stdout, reason = "a test prints what it measured")]

#[path = "scale/gateway.rs"]
mod gateway;
#[path = "scale/usage.rs"]
mod usage;

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use gateway::Gateway;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use stepgate_crds::evidence::MetricEvidence;
use stepgate_crds::status::Phase;
use stepgate_crds::{Rollout, RolloutStatus};
use stepgate_tests::cluster::audit::table;
use stepgate_tests::cluster::{Cluster, Namespace, Prometheus, ScrapeOptions};
use stepgate_tests::operator::{ACCOUNT, Operator, OperatorOptions, SYSTEM};
use stepgate_tests::until::{Seen, until};
use tokio::time::sleep;
use usage::{Usage, resident};

/// The Rollouts, where `STEPGATE_SCALE` does not say another number.
const ROLLOUTS: usize = 1_000;
/// Rollouts in one namespace.
const IN_ONE: usize = 50;
/// Objects made or changed at once.
const AT_ONCE: usize = 24;
/// How long all of them may take to be made, and to come into their step.
const RAMP: Duration = Duration::from_mins(20);
/// How long is measured: four intervals.
const MEASURED: Duration = Duration::from_mins(2);
/// The length of an interval, in seconds: the operator's default.
const INTERVAL: i64 = 30;
/// How old an interval is when it is read, in seconds: a scrape and two.
const LAG: i64 = 17;
/// Requests to Prometheus a second at most.
const MOST_QUERIES: f64 = 2.0;
/// CPU time at most, in percent of one core.
const MOST_CPU: f64 = 5.0;
/// What is said of a run that is judged on counts, and of which nothing is against it.
const JUDGED: [&str; 2] = ["InsufficientTraffic", "Pass"];

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_rollouts_are_analysed_within_bounds_of_queries_and_cpu() -> Result<()> {
    let count = match env::var("STEPGATE_SCALE") {
        Ok(number) => number.parse().with_context(|| format!("STEPGATE_SCALE={number}"))?,
        Err(_) => ROLLOUTS,
    };
    let cluster = Cluster::attach().await?;
    let mut namespaces = Vec::new();
    for _ in 0..count.div_ceil(IN_ONE) {
        namespaces.push(cluster.namespace("scale").await?);
    }
    let first = namespaces.first().context("no Rollout is asked for")?;
    let gateway = Gateway::start(cluster.client()).await?;
    let prometheus = cluster
        .prometheus(ScrapeOptions {
            interval: Duration::from_secs(15),
            namespaces: vec![first.name().to_owned()],
            gateway: gateway.counters.clone(),
        })
        .await?;
    let optimised = env::var_os("STEPGATE_OPTIMISED").map(PathBuf::from);
    let options = OperatorOptions {
        sources: vec![format!("default={}", prometheus.url())],
        scrape: "15s",
        interval: "30s",
        settle: "5s",
        all_namespaces: true,
        program: optimised.clone(),
        ..OperatorOptions::default()
    };
    let mut operator = Operator::start(first, options).await?;
    let shops: Vec<Shop> = (0..count)
        .map(|number| Shop {
            client: cluster.client(),
            namespace: namespaces[number / IN_ONE].name().to_owned(),
            name: format!("kiosk{number}"),
        })
        .collect();
    let outcome = course(&cluster, &shops, &prometheus, &operator, optimised.is_some()).await;
    if outcome.is_err() {
        println!("--- the operator's last lines\n{}", operator.log(60));
    }
    operator.stop().await?;
    stream::iter(namespaces)
        .map(Namespace::end)
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    outcome
}

async fn course(
    cluster: &Cluster,
    shops: &[Shop],
    prometheus: &Prometheus,
    operator: &Operator,
    is_optimised: bool,
) -> Result<()> {
    let all = |what: &'static str| println!("{}  {} {what}", Timestamp::now(), shops.len());
    for_each(shops, Shop::make).await?;
    all("made");
    wait_for_all(cluster, shops.len(), "Healthy", |status| {
        status.phase == Some(Phase::Healthy)
    })
    .await?;
    all("Healthy");
    for_each(shops, Shop::ship).await?;
    all("shipped");
    wait_for_all(cluster, shops.len(), "judged in their first step", is_judged).await?;
    all("judged in their first step");

    let process = operator.id().context("the operator has ended")?;
    let page = metrics_page(operator)?;
    let user = format!("system:serviceaccount:{SYSTEM}:{ACCOUNT}");
    let unread_before = unread(&statuses(cluster).await?);
    // What this asked for itself is over.
    sleep(Duration::from_secs(5)).await;
    let (audit, from) = (cluster.audit()?, Timestamp::now().as_second());
    let before = Usage::now(process, &page, prometheus).await?;
    sleep(MEASURED).await;
    let after = Usage::now(process, &page, prometheus).await?;
    let until = Timestamp::now().as_second();
    let requests = audit.requests(|request| request.user.username == user)?;
    let used = after.since(&before);
    let memory = resident(process)?;

    let ends: Vec<i64> = (from - LAG + 1..=until - LAG)
        .filter(|end| end % INTERVAL == 0)
        .collect();
    let last = ends
        .last()
        .copied()
        .context("no interval ended in the time that was measured")?;
    wait_for_all(cluster, shops.len(), "through the last interval", |status| {
        status.run.as_ref().is_some_and(|run| run.evidence.through >= last)
    })
    .await?;
    let ended = statuses(cluster).await?;
    ensure!(ended.len() == shops.len(), "{} Rollouts", ended.len());
    for (name, status) in &ended {
        is_analysed(status, &ends)
            .with_context(|| format!("{name}: {:?}", status.run.as_ref().map(|run| &run.evidence)))?;
    }
    let unread_since = unread(&ended) - unread_before;
    let verdicts = ended.values().fold(BTreeMap::new(), |mut verdicts, status| {
        *verdicts.entry(status.verdict.clone().unwrap_or_default()).or_insert(0) += 1;
        verdicts
    });

    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let asked = requests.len() as f64 / used.seconds;
    println!(
        "| Rollouts in a step | intervals each, all with counts of both metrics | queries a second | CPU of the operator, {} | resident | passes a second \
         | requests to the API server a second |\n| {} | {} of {INTERVAL} s in {:.0} s | {:.2} | {:.2} % of one core | {memory:.0} MiB | {:.1} | {asked:.1} |\n\
         by verb: {:?}; verdicts: {verdicts:?}",
        if is_optimised { "optimised" } else { "not optimised" },
        shops.len(),
        ends.len(),
        used.seconds,
        used.queries,
        used.cpu_percent,
        used.passes,
        table(&requests),
    );
    ensure!(unread_since == 0, "{unread_since} intervals could not be read");
    ensure!(
        used.queries > 0.0 && used.queries <= MOST_QUERIES,
        "{:.2} requests a second to Prometheus",
        used.queries
    );
    ensure!(
        used.cpu_percent < MOST_CPU || !is_optimised,
        "the operator used {:.2} % of one core",
        used.cpu_percent
    );
    Ok(())
}

/// One application and its Rollout.
struct Shop {
    client: Client,
    namespace: String,
    name: String,
}

impl Shop {
    /// Makes Deployment, Service, HTTPRoute and Rollout.
    async fn make(&self) -> Result<()> {
        let name = &self.name;
        let of = |api_version: &str, kind: &str, spec: Value| json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec});
        let labels = json!({"app": name});
        let container = json!({"name": "app", "image": "pause", "ports": [{"name": "http", "containerPort": 8080}]});
        let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [container]}});
        let objects = [
            of(
                "apps/v1",
                "Deployment",
                json!({"replicas": 1, "selector": {"matchLabels": labels}, "template": template}),
            ),
            of(
                "v1",
                "Service",
                json!({"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}),
            ),
            of(
                "gateway.networking.k8s.io/v1",
                "HTTPRoute",
                json!({
                    "parentRefs": [{"name": gateway::NAME}],
                    "hostnames": [format!("{name}.local")],
                    "rules": [{"backendRefs": [{"name": name, "port": 80}]}],
                }),
            ),
            of(
                "stepgate.dev/v1alpha1",
                "Rollout",
                json!({
                    "workload": {"name": name},
                    "traffic": {"routes": [{"name": name}]},
                    "steps": [{"weight": 10, "bake": "1h"}, {"weight": 100}],
                    "analysis": {
                        "provider": "contour",
                        "errorRate": {"max": "1%"},
                        "latency": {"threshold": "250ms", "max": "5%"},
                    },
                }),
            ),
        ];
        for object in objects {
            self.create(object).await?;
        }
        Ok(())
    }

    async fn create(&self, object: Value) -> Result<()> {
        let object: DynamicObject = serde_json::from_value(object)?;
        let types = object.types.clone().context("an object without a kind")?;
        let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind));
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        api.create(&PostParams::default(), &object)
            .await
            .with_context(|| format!("making {} {}/{}", types.kind, self.namespace, self.name))?;
        Ok(())
    }

    /// Changes the Deployment's template.
    async fn ship(&self) -> Result<()> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &self.namespace);
        let patch = json!({"spec": {"template": {"metadata": {"annotations": {"version": "v2"}}}}});
        api.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .with_context(|| format!("shipping to {}/{}", self.namespace, self.name))?;
        Ok(())
    }
}

/// Does the same with each of them, some at once.
async fn for_each(shops: &[Shop], act: impl AsyncFn(&Shop) -> Result<()>) -> Result<()> {
    stream::iter(shops)
        .map(|shop| act(shop))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// The status of every Rollout, by its namespace and name.
async fn statuses(cluster: &Cluster) -> Result<BTreeMap<String, RolloutStatus>> {
    let all: Api<Rollout> = Api::all(cluster.client());
    let list = all.list(&ListParams::default()).await.context("listing the Rollouts")?;
    let named = |rollout: Rollout| {
        let name = format!("{}/{}", rollout.namespace().unwrap_or_default(), rollout.name_any());
        (name, rollout.status.unwrap_or_default())
    };
    Ok(list.items.into_iter().map(named).collect())
}

/// Waits until so many are as wanted. Looks seldom: it is a large list.
async fn wait_for_all(
    cluster: &Cluster,
    count: usize,
    what: &str,
    wanted: impl Fn(&RolloutStatus) -> bool,
) -> Result<()> {
    until(&format!("{count} Rollouts to be {what}"), RAMP, async || {
        sleep(Duration::from_secs(5)).await;
        let statuses = statuses(cluster).await?;
        let there = statuses.values().filter(|status| wanted(status)).count();
        let not_yet = statuses.iter().find(|(_, status)| !wanted(status));
        Ok(match not_yet {
            _ if there == count => Seen::Done(()),
            None => Seen::NotYet(format!("{there} Rollouts")),
            Some((name, status)) => Seen::NotYet(format!(
                "{there}; {name}: {:?} {:?} {}",
                status.phase,
                status.verdict,
                status.message.as_deref().unwrap_or_default()
            )),
        })
    })
    .await
}

/// Whether the first step's weight is in force, and an interval of it was judged.
fn is_judged(status: &RolloutStatus) -> bool {
    let run = status.run.as_ref();
    let counts = |metric: &MetricEvidence| metric.step.canary.requests > 0;
    status.phase == Some(Phase::Stepping)
        && run.is_some_and(|run| {
            run.in_force
                .as_ref()
                .is_some_and(|force| force.seq == run.seq && force.weight == 10)
        })
        && run.is_some_and(|run| run.evidence.metrics.len() == 2 && run.evidence.metrics.iter().all(counts))
        && status
            .verdict
            .as_deref()
            .is_some_and(|verdict| JUDGED.contains(&verdict))
}

/// Errors where one of the intervals that end then was not folded with requests of both versions, for both metrics.
fn is_analysed(status: &RolloutStatus, ends: &[i64]) -> Result<()> {
    ensure!(is_judged(status), "{:?}: {:?}", status.verdict, status.message);
    let run = status.run.as_ref().context("no run")?;
    for metric in &run.evidence.metrics {
        ensure!(metric.trouble.is_none(), "{}: {:?}", metric.name, metric.trouble);
        let mut end = run.evidence.through;
        let mut with_counts = Vec::new();
        for interval in metric.recent.iter().rev() {
            if interval.seconds == INTERVAL.unsigned_abs()
                && interval.canary.requests > 0
                && interval.stable.requests > 0
            {
                with_counts.push(end);
            }
            end -= i64::try_from(interval.seconds)?;
        }
        for end in ends {
            ensure!(
                with_counts.contains(end),
                "{}: no counts of the interval to {end}",
                metric.name
            );
        }
    }
    Ok(())
}

/// Intervals that could not be read, of all runs and metrics.
fn unread(statuses: &BTreeMap<String, RolloutStatus>) -> u64 {
    let runs = statuses.values().filter_map(|status| status.run.as_ref());
    let metrics = runs.flat_map(|run| &run.evidence.metrics);
    metrics.map(|metric| u64::from(metric.unreadable)).sum()
}

/// The address of the operator's own metrics, by its log.
fn metrics_page(operator: &Operator) -> Result<String> {
    let log = operator.log(usize::MAX);
    let line = log
        .lines()
        .find(|line| line.contains("serving /livez"))
        .context("no address in the operator's log")?;
    let address = line
        .split("address=")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    Ok(format!("http://{}/metrics", address.with_context(|| line.to_owned())?))
}

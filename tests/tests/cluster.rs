//! The local cluster itself: an ordinary application is served through the gateway, weights split, crashes show, Prometheus scrapes.
//!
//! Runs inside the cluster: `target/debug/local-cluster run -- cargo test -p stepgate-tests`.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use stepgate_tests::cluster::audit::table;
use stepgate_tests::cluster::{Cluster, Counters, Namespace, PROMETHEUS_URL, STATS_PORT, ScrapeOptions, User};
use stepgate_tests::load::{Load, LoadOptions, Report};
use stepgate_tests::until::{Seen, until};

const BOUND: Duration = Duration::from_mins(1);

/// A Deployment with its Service: `<name>` answers as version `<name>`.
fn application(name: &str, replicas: u32, environment: &[(&str, &str)]) -> String {
    let line = |(name, value): &(&str, &str)| format!("            - {{name: {name}, value: \"{value}\"}}\n");
    let extra = environment.iter().map(line).collect::<Vec<_>>().concat();
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata:
      labels: {{app: {name}}}
      annotations: {{prometheus.io/scrape: "true", prometheus.io/port: "8080"}}
    spec:
      containers:
        - name: app
          image: demo-app
          ports: [{{name: http, containerPort: 8080}}]
          readinessProbe: {{httpGet: {{path: /healthz, port: http}}, periodSeconds: 1}}
          env:
            - {{name: VERSION, value: {name}}}
            - {{name: POD_IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}
{extra}---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: http}}]}}
---
"#
    )
}

/// A route for host `<namespace>.local` to backends with weights.
fn route(namespace: &Namespace, backends: &[(&str, u32)]) -> String {
    let backends: Vec<String> = backends
        .iter()
        .map(|(name, weight)| format!("{{name: {name}, port: 80, weight: {weight}}}"))
        .collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: app}}\nspec:\n  \
         parentRefs: [{{name: shared, namespace: gateway-system}}]\n  hostnames: [{}.local]\n  rules: [{{backendRefs: [{}]}}]\n",
        namespace.name(),
        backends.join(", ")
    )
}

async fn served(namespace: &Namespace, deployments: &[&str]) -> Result<()> {
    for name in deployments {
        let deployment = format!("deployment/{name}");
        namespace
            .kubectl(&["rollout", "status", &deployment, "--timeout=60s"])
            .await?;
    }
    let one = |count| LoadOptions {
        count: Some(count),
        rate: 50.0,
        ..LoadOptions::to_host(&format!("{}.local", namespace.name()))
    };
    until("the gateway to serve the route", BOUND, async || {
        let report = Load::start(one(1))?.finished().await?;
        Ok(if report.other_failures() == 0 {
            Seen::Done(())
        } else {
            Seen::NotYet(report.to_string())
        })
    })
    .await
}

async fn load(namespace: &Namespace, seconds: u64) -> Result<Report> {
    let options = LoadOptions {
        duration: Some(Duration::from_secs(seconds)),
        ..LoadOptions::to_host(&format!("{}.local", namespace.name()))
    };
    Load::start(options)?.finished().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_application_is_served_and_scales_and_rolls_without_a_failure() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("served").await?;
    namespace
        .apply(&(application("shop", 3, &[]) + &route(&namespace, &[("shop", 1)])))
        .await?;
    served(&namespace, &["shop"]).await?;
    let load = Load::start(LoadOptions::to_host(&format!("{}.local", namespace.name())))?;
    namespace.kubectl(&["scale", "deployment/shop", "--replicas=1"]).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    namespace
        .kubectl(&["set", "env", "deployment/shop", "VERSION=next"])
        .await?;
    namespace
        .kubectl(&["rollout", "status", "deployment/shop", "--timeout=60s"])
        .await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let report = load.stop().await?;
    ensure!(report.other_failures() == 0, "{report}");
    ensure!(report.version("next").total > 300, "{report}");
    let pods: Api<Pod> = namespace.api();
    until("the old pods to be gone", BOUND, async || {
        let left = pods.list(&ListParams::default()).await?.items.len();
        Ok(if left == 1 {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{left} pods"))
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_of_ninety_and_ten_split_the_traffic() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("split").await?;
    let apps = application("stable", 2, &[]) + &application("canary", 1, &[("ERROR_SHARE", "20%")]);
    namespace
        .apply(&(apps + &route(&namespace, &[("stable", 90), ("canary", 10)])))
        .await?;
    served(&namespace, &["stable", "canary"]).await?;
    let report = load(&namespace, 7).await?;
    ensure!(report.other_failures() == 0, "{report}");
    let canary = report.version("canary");
    // 2,100 requests: 210 ± 14 expected, five deviations allowed; a fifth of them are errors.
    ensure!((140..280).contains(&canary.total), "{report}");
    ensure!(canary.injected > 0 && canary.injected < canary.total / 2, "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_shows_as_crash_loop() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("crash").await?;
    namespace
        .apply(&application("crasher", 1, &[("CRASH_AFTER", "300ms")]))
        .await?;
    let pods: Api<Pod> = namespace.api();
    until("CrashLoopBackOff with exit code 1 after a restart", BOUND, async || {
        let list = pods.list(&ListParams::default()).await?;
        let status = list
            .items
            .first()
            .and_then(|pod| pod.status.clone())
            .context("no pod yet")?;
        let container = status
            .container_statuses
            .unwrap_or_default()
            .into_iter()
            .next()
            .context("no container yet")?;
        let waiting = container
            .state
            .as_ref()
            .and_then(|state| state.waiting.as_ref()?.reason.clone());
        let code = container
            .last_state
            .as_ref()
            .and_then(|last| Some(last.terminated.as_ref()?.exit_code));
        let seen = format!("{waiting:?}, exit code {code:?}, {} restarts", container.restart_count);
        let crashing = waiting.as_deref() == Some("CrashLoopBackOff") && code == Some(1) && container.restart_count > 0;
        Ok(if crashing { Seen::Done(()) } else { Seen::NotYet(seen) })
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_image_and_an_unmet_selector_keep_pods_from_starting() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("pending").await?;
    let unknown = application("unknown", 1, &[]).replace("image: demo-app", "image: registry.example/nothing:v1");
    let nowhere = application("nowhere", 1, &[]).replace(
        "      containers:",
        "      nodeSelector: {disk: fast}\n      containers:",
    );
    namespace.apply(&(unknown + &nowhere)).await?;
    until("both reasons", BOUND, async || {
        let reasons = namespace
            .kubectl(&[
                "get",
                "pods",
                "-o",
                "jsonpath={..state.waiting.reason} {..conditions[?(@.status==\"False\")].reason}",
            ])
            .await?;
        let both = reasons.contains("ErrImagePull") && reasons.contains("Unschedulable");
        Ok(if both { Seen::Done(()) } else { Seen::NotYet(reasons) })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_acts_as_its_service_account() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("account").await?;
    // kubectl takes the in-cluster configuration where there is no kubeconfig, as every client library does.
    let kubectl = cluster.facts().parts.kubectl.display().to_string();
    namespace
        .apply(&format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: actor}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: who}}\n\
             spec:\n  serviceAccountName: actor\n  containers:\n    - name: who\n      image: demo-app\n      \
             command: [\"{kubectl}\", auth, whoami]\n"
        ))
        .await?;
    let log = cluster.facts().logs.join(format!("{}_who_who.log", namespace.name()));
    until("the pod to say who it is", BOUND, async || {
        let said = fs::read_to_string(&log)?;
        let right = said.contains(&format!("system:serviceaccount:{}:actor", namespace.name()));
        Ok(if right { Seen::Done(()) } else { Seen::NotYet(said) })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn people_have_no_rights_but_those_they_are_given_and_the_audit_log_has_their_requests() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("rights").await?;
    let client = cluster.client_as(User::Alice).await?;
    let mark = cluster.audit()?;
    let deployments: Api<Deployment> = Api::namespaced(client, namespace.name());
    let refused = deployments.list(&ListParams::default()).await;
    ensure!(
        matches!(&refused, Err(kube::Error::Api(status)) if status.is_forbidden()),
        "{refused:?}"
    );
    let asked = mark.requests(|request| request.user.username == "alice")?;
    ensure!(table(&asked).get("list deployments") == Some(&1), "{asked:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_scrapes_pods_and_gateway_and_survives_an_outage() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("scrape").await?;
    namespace
        .apply(&(application("shop", 1, &[]) + &route(&namespace, &[("shop", 1)])))
        .await?;
    served(&namespace, &["shop"]).await?;
    let namespaces = vec![namespace.name().to_owned()];
    let mut own = cluster
        .prometheus(ScrapeOptions {
            interval: Duration::from_secs(1),
            namespaces,
            gateway: Counters::of_envoy(STATS_PORT),
        })
        .await?;
    let pods = format!(
        "sum(http_requests_total{{namespace=\"{}\",code=\"200\"}})",
        namespace.name()
    );
    let gateway = format!(
        "sum(envoy_cluster_upstream_rq_total{{envoy_cluster_name=\"{}_shop_80\"}})",
        namespace.name()
    );
    let sent = load(&namespace, 2).await?.requests;
    for (url, query) in [
        (own.url(), &pods),
        (own.url(), &gateway),
        (PROMETHEUS_URL.to_owned(), &pods),
    ] {
        until(&format!("{query} on {url}"), BOUND, async || {
            let value = query_value(&url, query).await?;
            #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
            let enough = value.is_some_and(|value| value >= sent as f64);
            Ok(if enough {
                Seen::Done(())
            } else {
                Seen::NotYet(format!("{value:?} of {sent}"))
            })
        })
        .await?;
    }
    own.stop().await?;
    ensure!(
        query_value(&own.url(), &pods).await.is_err(),
        "a stopped Prometheus answers"
    );
    own.start().await?;
    until("the data after the outage", BOUND, async || {
        let value = query_value(&own.url(), &pods).await?;
        Ok(value.map_or_else(|| Seen::NotYet("nothing".to_owned()), |_| Seen::Done(())))
    })
    .await
}

async fn query_value(url: &str, query: &str) -> Result<Option<f64>> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(5))
        .build()?;
    let answer: serde_json::Value = client
        .get(format!("{url}/api/v1/query"))
        .query(&[("query", query)])
        .send()
        .await?
        .error_for_status()?
        .json()
        .await?;
    let value = answer
        .pointer("/data/result/0/value/1")
        .and_then(serde_json::Value::as_str);
    value
        .map(|value| value.parse().context("a Prometheus value"))
        .transpose()
}

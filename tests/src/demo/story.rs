//! The demo's course on a running cluster: install the chart, open the quickstart, ship a good version and a bad one, and look.
//!
//! Acts as a person does, with helm and kubectl; every wait has a bound. Must run inside the cluster's namespaces.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use kube::Api;
use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use serde_json::Value;
use stepgate_crds::{Rollout, RolloutStatus};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};

use super::Screen;
use super::figures::{between, percent};
use super::ledger::Ledger;
use super::summary::Told;
use super::timeline::{Clients, LEGEND, Timeline, wrapped};
use crate::cluster::{Cluster, PROMETHEUS_URL};
use crate::load::{Answers, Load, LoadHandle, LoadOptions, Report};
use crate::operator::{SYSTEM, binary};
use crate::shop::NAME;
use crate::until::{Seen, until};

/// Where the quickstart lies.
pub const NAMESPACE: &str = "shop";
/// The host of the quickstart's route.
pub const HOST: &str = "checkout.example.com";
/// The length of an interval of the analysis; the chart's default is 30 s.
const INTERVAL: Duration = Duration::from_secs(5);
/// The times of the chart that the demo sets short, status refreshes among them: they make the evidence move in the timeline.
const TIMES: [(&str, &str); 6] = [
    ("scrapeInterval", "2s"),
    ("defaults.interval", "5s"),
    ("defaults.bake", "10s"),
    ("defaults.settle", "1s"),
    ("defaults.drain", "5s"),
    ("extraArgs[0]", "--status-refresh=5s"),
];
/// The longest that installing and opening the shop may take, each.
const BOUND: Duration = Duration::from_secs(90);
/// The longest that one version's run may take.
const RUN_BOUND: Duration = Duration::from_mins(5);
/// A line of the timeline at least so often.
const PACE: Duration = Duration::from_secs(2);

/// Tells the whole story on the cluster this runs in; true if everything was seen as it has to be. On an error it prints the operator's
/// log and the events.
pub async fn play() -> Result<bool> {
    let screen = Screen::begin();
    let cluster = Cluster::attach().await?;
    let told = match tell(&cluster, &screen).await {
        Ok(told) => told,
        Err(error) => {
            diagnose(&cluster, &screen).await;
            return Err(error);
        }
    };
    screen.headline("Summary");
    screen.lines(told.lines());
    let complaints = told.complaints();
    if complaints.is_empty() {
        screen.headline(
            "Both outcomes were seen, and no client request failed for any reason but a version's own errors.",
        );
        return Ok(true);
    }
    screen.headline("This is not what had to be seen:");
    screen.lines(complaints.iter().map(|complaint| format!("  - {complaint}")));
    diagnose(&cluster, &screen).await;
    Ok(false)
}

async fn tell(cluster: &Cluster, screen: &Screen) -> Result<Told> {
    install(cluster, screen).await?;
    let mut shop = open(cluster, screen).await?;
    let written = route_at_rest(cluster).await?;

    screen.headline("A good version: v2, with 0.1 % errors as v1");
    screen.line(LEGEND);
    let good = shop.ship(screen, ["v1", "v2"], "0.1%").await?;
    screen.headline("v2 is promoted: the Deployment runs it, the canary is gone");
    let after_good = shop.route_is(&written, screen).await?;

    screen.headline("A bad version: v3, with 5 % errors");
    let bad = shop.ship(screen, ["v2", "v3"], "5%").await?;
    screen.headline("v3 has failed: v2 serves, the Deployment is held until another version comes");
    let after_bad = shop.route_is(&written, screen).await?;
    screen.line(&plugin_status(cluster).await?);

    // Whatever was under way to v3 is answered by now.
    sleep(Duration::from_secs(5)).await;
    let bad_afterwards = shop
        .load
        .snapshot()
        .recent(2)
        .get("v3")
        .map_or(0, |answers| answers.total);
    let clients = shop.load.stop().await?;
    Ok(Told {
        good,
        bad,
        route_at_rest: [after_good, after_bad],
        bad_afterwards,
        clients,
        interval: INTERVAL,
    })
}

async fn install(cluster: &Cluster, screen: &Screen) -> Result<()> {
    screen.headline("Installing Stepgate from charts/stepgate, as a pod under its own ServiceAccount");
    let times = TIMES.map(|(name, value)| format!("{name}={value}"));
    let said = format!(
        "The demo sets times short that the chart has longer: {}",
        times.join(", ")
    );
    screen.lines(wrapped("  ", &said, 0));
    let chart = folder("charts/stepgate");
    let source = format!("--set=metricsSources.default={PROMETHEUS_URL}");
    let short = format!("--set={}", times.join(","));
    let chart = chart.display().to_string();
    let arguments = [
        ["install", "stepgate", &chart].as_slice(),
        &["--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout=60s"],
        // Pods share one network here, so each listens on its own address.
        &[
            &source,
            &short,
            "--set-string=listenAddress=$(POD_IP)",
            "--set=log.format=text",
        ],
    ]
    .concat();
    timeout(BOUND, cluster.helm(&arguments))
        .await
        .context("helm install took too long")??;
    let pods = cluster
        .kubectl(&["-n", SYSTEM, "get", "pods", "-o", "wide", "--no-headers"])
        .await?;
    screen.line(&format!("  {}", pods.trim()));
    Ok(())
}

/// Applies the quickstart, waits until it is served and managed, and starts the load.
async fn open(cluster: &Cluster, screen: &Screen) -> Result<Shop> {
    screen.headline("Applying examples/quickstart: Deployment, Service, HTTPRoute and a Rollout of six lines");
    cluster.kubectl(&["create", "namespace", NAMESPACE]).await?;
    let quickstart = folder("examples/quickstart").display().to_string();
    let applied = cluster.kubectl(&["-n", NAMESPACE, "apply", "-f", &quickstart]).await?;
    screen.lines(applied.lines().map(|line| format!("  {line}")));
    until("the gateway to serve the quickstart", BOUND, async || {
        let one = LoadOptions {
            count: Some(1),
            ..LoadOptions::to_host(HOST)
        };
        let report = Load::start(one)?.finished().await?;
        let served = report.other_failures() == 0;
        Ok(if served {
            Seen::Done(())
        } else {
            Seen::NotYet(report.to_string())
        })
    })
    .await?;
    let load = Load::start(LoadOptions::to_host(HOST))?;
    screen.line("  300 requests a second go through the gateway from now to the end");
    cluster
        .kubectl(&[
            "-n",
            NAMESPACE,
            "wait",
            "rollout/checkout",
            "--for=condition=Ready",
            "--timeout=60s",
        ])
        .await?;
    let statuses = watch(cluster);
    // So that Prometheus knows stable before there is anything to compare it with.
    sleep(2 * INTERVAL).await;
    Ok(Shop {
        cluster: cluster.clone(),
        load,
        statuses,
        failures_told: 0,
    })
}

/// The quickstart under load.
struct Shop {
    cluster: Cluster,
    load: LoadHandle,
    statuses: mpsc::UnboundedReceiver<RolloutStatus>,
    failures_told: usize,
}

impl Shop {
    /// Changes the template to a version as a person does, and follows its run to the end.
    async fn ship(&mut self, screen: &Screen, [stable, canary]: [&str; 2], error_share: &str) -> Result<Ledger> {
        let (version, errors) = (format!("VERSION={canary}"), format!("ERROR_SHARE={error_share}"));
        let words = ["-n", NAMESPACE, "set", "env", "deployment/checkout", &version, &errors];
        screen.line(&format!("  $ kubectl {}\n", words.join(" ")));
        let before = self.load.snapshot();
        self.cluster.kubectl(&words).await?;
        let mut timeline = Timeline::new(stable, canary);
        screen.lines(timeline.heading());
        let mut ledger = Ledger::default();
        let deadline = Instant::now() + RUN_BOUND;
        let mut pace = interval(PACE);
        let mut status = RolloutStatus::default();
        while ledger.ended.is_none() {
            let due = tokio::select! {
                next = self.statuses.recv() => {
                    status = next.context("the watch of the Rollout ended")?;
                    false
                }
                _ = pace.tick() => true,
                () = sleep_until(deadline) => bail!(
                    "{canary} did not come to an end within {} s; the Rollout says: {}",
                    RUN_BOUND.as_secs(),
                    status.message.as_deref().unwrap_or("nothing")
                ),
            };
            let report = self.load.snapshot();
            let clients = clients(&before, &report, stable, canary);
            ledger.note(screen.time(), &status, clients.canary);
            // What stood there before the operator has seen the new template is of no interest.
            if status.run.is_some() || ledger.ended.is_some() {
                let lines = timeline.look(screen.time(), &status, clients, due);
                if !lines.is_empty() {
                    pace.reset();
                }
                screen.lines(lines);
            }
            self.tell_failures(&report, screen);
        }
        Ok(ledger)
    }

    /// Failures that no version made on purpose, as soon as they are seen.
    fn tell_failures(&mut self, report: &Report, screen: &Screen) {
        for failure in report.samples.iter().skip(self.failures_told) {
            screen.line(&format!(
                "       ! a client request failed: {}: {}",
                failure.kind, failure.detail
            ));
        }
        self.failures_told = report.samples.len();
    }

    /// Whether the route is again what the user wrote; waits a moment for it.
    async fn route_is(&self, written: &Value, screen: &Screen) -> Result<bool> {
        let back = until(
            "the route to be what the user wrote",
            Duration::from_secs(10),
            async || {
                let now = route_at_rest(&self.cluster).await?;
                Ok(if now == *written {
                    Seen::Done(())
                } else {
                    Seen::NotYet(now.to_string())
                })
            },
        )
        .await;
        match &back {
            Ok(()) => screen.line(
                "  The HTTPRoute at rest: its spec is what the user wrote, and no annotation of Stepgate is on it.",
            ),
            Err(error) => screen.line(&format!(
                "  The HTTPRoute at rest is not what the user wrote: {error:#}"
            )),
        }
        Ok(back.is_ok())
    }
}

fn clients(before: &Report, now: &Report, stable: &str, canary: &str) -> Clients {
    let recent = now.recent(3);
    let total = recent.values().map(|answers| answers.total).sum();
    let of = |version: &str| between(before.version(version), now.version(version));
    Clients {
        stable: of(stable),
        canary: of(canary),
        share: percent(recent.get(canary).map_or(0, |Answers { total, .. }| *total), total),
    }
}

/// Every status of the Rollout from now on, in order; ends when nobody receives.
fn watch(cluster: &Cluster) -> mpsc::UnboundedReceiver<RolloutStatus> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let api: Api<Rollout> = Api::namespaced(cluster.client(), NAMESPACE);
    tokio::spawn(async move {
        let one = Config::default().fields(&format!("metadata.name={NAME}"));
        let mut events = watcher(api, one).default_backoff().boxed();
        while let Some(event) = events.next().await {
            if let Ok(Event::Apply(rollout) | Event::InitApply(rollout)) = event
                && sender.send(rollout.status.unwrap_or_default()).is_err()
            {
                return;
            }
        }
    });
    receiver
}

/// What of the route has to be the same at rest: its spec, and that nothing of a run is on it.
async fn route_at_rest(cluster: &Cluster) -> Result<Value> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute"));
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client(), NAMESPACE, &kind);
    let route = api.get(NAME).await.context("reading the HTTPRoute")?;
    let run = route
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get("stepgate.dev/run"));
    Ok(serde_json::json!({"spec": route.data.get("spec"), "run": run}))
}

/// What the plugin says, as a person would ask it.
async fn plugin_status(cluster: &Cluster) -> Result<String> {
    let mut command = Command::new(binary("kubectl-stepgate")?);
    command
        .args(["status", NAME, "-n", NAMESPACE])
        .env(
            "KUBECONFIG",
            cluster.facts().kubeconfig(crate::cluster::User::Administrator),
        )
        .kill_on_drop(true);
    let output = timeout(Duration::from_secs(10), command.output())
        .await
        .context("kubectl stepgate status took too long")??;
    ensure!(
        output.status.success(),
        "kubectl stepgate status: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<String> = text.lines().flat_map(|line| wrapped("  ", line, 20)).collect();
    Ok(format!(
        "\n  $ kubectl -n {NAMESPACE} stepgate status {NAME}\n{}",
        lines.join("\n")
    ))
}

/// Prints what a person needs to find out why: the Rollout, the route, events, pods, and the operator's last words.
async fn diagnose(cluster: &Cluster, screen: &Screen) {
    screen.line(
        &plugin_status(cluster)
            .await
            .unwrap_or_else(|error| format!("{error:#}")),
    );
    for arguments in [
        [
            "-n",
            NAMESPACE,
            "--request-timeout=5s",
            "get",
            "httproute",
            "-o",
            "yaml",
        ]
        .as_slice(),
        &["-n", NAMESPACE, "--request-timeout=5s", "events"],
        &["--request-timeout=5s", "get", "pods", "--all-namespaces", "-o", "wide"],
    ] {
        screen.line(&format!("--- kubectl {}", arguments.join(" ")));
        let said = cluster.kubectl(arguments).await;
        screen.line(&said.unwrap_or_else(|error| format!("{error:#}")));
    }
    for (file, lines) in cluster.pod_logs(SYSTEM, 40) {
        screen.line(&format!("--- {file}\n{lines}"));
    }
}

/// A folder of the source tree.
fn folder(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

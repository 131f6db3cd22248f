//! A Prometheus of the cluster: its own, and more for tests that stop and start one.
//!
//! Scrapes a gateway (job `gateway`) and the pods annotated `prometheus.io/scrape: "true"` (job `pods`, labels `namespace`, `pod`).

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::discovery;
use super::facts::Facts;
use super::process::Process;
use crate::until::{Seen, until};

/// How a Prometheus scrapes.
#[derive(Debug, Clone)]
pub struct ScrapeOptions {
    /// The scrape interval; whole milliseconds.
    pub interval: Duration,
    /// The namespaces whose pods are scraped; all when empty.
    pub namespaces: Vec<String>,
    /// Where the gateway's counters are.
    pub gateway: Counters,
}

/// Where a program's counters are.
#[derive(Debug, Clone)]
pub struct Counters {
    /// Address and port.
    pub target: String,
    /// The path.
    pub path: &'static str,
}

impl Counters {
    /// An Envoy's, by the port on 127.0.0.1.
    pub fn of_envoy(port: u16) -> Self {
        Self {
            target: format!("127.0.0.1:{port}"),
            path: "/stats/prometheus",
        }
    }
}

/// A Prometheus of a test's own, on a port of its own. Killed when dropped; its data stay with the cluster.
#[derive(Debug)]
pub struct Prometheus {
    facts: Facts,
    name: String,
    port: u16,
    options: ScrapeOptions,
    process: Option<Process>,
}

impl Prometheus {
    pub(super) async fn new(facts: &Facts, options: ScrapeOptions) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .context("looking for a free port")?
            .port();
        let mut made = Self {
            facts: facts.clone(),
            name: format!("prometheus-{port}"),
            port,
            options,
            process: None,
        };
        made.start().await?;
        Ok(made)
    }

    /// The base address, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The series that a query has now.
    pub async fn ask(&self, promql: &str) -> Result<Vec<Value>> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let answer: Value = client
            .post(format!("{}/api/v1/query", self.url()))
            .form(&[("query", promql)])
            .send()
            .await?
            .json()
            .await?;
        let series = answer.pointer("/data/result").and_then(Value::as_array);
        series.cloned().with_context(|| format!("no list of series: {answer}"))
    }

    /// Starts it again, on the same address and with what it had stored; returns when it is ready.
    pub async fn start(&mut self) -> Result<()> {
        let mut process = start(&self.facts, &self.name, self.port, &self.options)?;
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(2))
            .build()?;
        let ready = format!("{}/-/ready", self.url());
        until(
            &format!("{} to be ready", self.name),
            Duration::from_mins(1),
            async || {
                if let Err(ended) = process.check() {
                    return Ok(Seen::Never(ended));
                }
                client.get(&ready).send().await?.error_for_status()?;
                Ok(Seen::Done(()))
            },
        )
        .await?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it, as an outage would; returns when it is gone.
    pub async fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.stop(Duration::from_secs(20)).await,
            None => Ok(()),
        }
    }
}

pub(super) fn start(facts: &Facts, name: &str, port: u16, options: &ScrapeOptions) -> Result<Process> {
    let configuration = facts.path(&format!("{name}.yaml"));
    fs::write(
        &configuration,
        serde_json::to_vec_pretty(&scrape_configuration(facts, options))?,
    )
    .with_context(|| format!("writing {}", configuration.display()))?;
    let arguments = [
        format!("--config.file={}", configuration.display()),
        format!("--storage.tsdb.path={}", facts.path(name).display()),
        "--storage.tsdb.retention.time=1d".to_owned(),
        format!("--web.listen-address=127.0.0.1:{port}"),
        "--log.level=warn".to_owned(),
    ];
    Process::start(name, &facts.logs, &facts.parts.prometheus, arguments)
}

/// The configuration as JSON, which is YAML.
fn scrape_configuration(facts: &Facts, options: &ScrapeOptions) -> Value {
    let interval = format!("{}ms", options.interval.as_millis());
    let namespace = "__meta_kubernetes_namespace";
    let wanted = match options.namespaces.as_slice() {
        [] => ".*".to_owned(),
        some => some.join("|"),
    };
    json!({
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "scrape_configs": [
            {
                "job_name": "gateway",
                "metrics_path": options.gateway.path,
                "static_configs": [{"targets": [options.gateway.target]}],
            },
            {
                "job_name": "pods",
                "file_sd_configs": [{"files": [discovery::targets_file(&facts.state)], "refresh_interval": "5s"}],
                "relabel_configs": [
                    {"source_labels": [namespace], "action": "keep", "regex": wanted},
                    {"source_labels": [namespace], "target_label": "namespace"},
                    {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
                ],
            },
        ],
    })
}

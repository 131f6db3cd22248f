//! The operator as one life in this process: the operator's own code, a tapped client, and constants in fractions of a second.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use stepgate::lease::{Leadership, Term};
use stepgate::operate::Operator;
use stepgate::provider::Providers;
use stepgate::serve::Readiness;
use stepgate::source::sampler::SamplerOptions;
use stepgate::source::{MetricsSource, SourceLimits};
use stepgate::telemetry::Metrics;
use stepgate_core::Limits;
use stepgate_crds::units::Span;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::layer::Tap;
use crate::cluster::{Cluster, Namespace};
use crate::operator::{ACCOUNT, SYSTEM};

/// The interval of the counts, the least that there is.
const INTERVAL: Span = Span::seconds(1);

/// The constants of a life in fractions of a second.
pub fn limits() -> Limits {
    Limits {
        bake: Span::millis(200),
        settle: Span::millis(100),
        drain: Span::seconds(1),
        interval: INTERVAL,
        progress_deadline: Span::seconds(60),
        scrape: Span::millis(100),
        lag: Span::millis(100),
        // Numbers alone are never written: how often that would be depends on how busy the machine is.
        refresh: Span::seconds(60),
        calm: Span::millis(100),
        mend: Span::millis(200),
        quiet_intervals: 1,
        bare: Span::seconds(5),
        by_capacity: Span::seconds(5),
        silence: Span::seconds(3),
        well_intervals: 2,
        brake: [Span::millis(50), Span::millis(200), Span::millis(500)],
        brake_memory: Span::seconds(20),
        ..Limits::default()
    }
}

/// How to reach the API server as the operator's ServiceAccount: asked for once, used by many lives.
pub async fn config(cluster: &Cluster) -> Result<Config> {
    let file = cluster.kubeconfig_of_service_account(SYSTEM, ACCOUNT).await?;
    let kubeconfig = Kubeconfig::read_from(&file).with_context(|| format!("reading {}", file.display()))?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // As the operator's own main does it.
    config.default_retry = false;
    Ok(config)
}

/// One life of the operator in a namespace.
#[derive(Debug)]
pub struct Life {
    task: JoinHandle<()>,
    stop: CancellationToken,
    /// What it counts.
    metrics: Metrics,
    // Whoever leads is told by this: the term ends with it.
    _leadership: watch::Sender<Leadership>,
}

impl Life {
    /// Begins a life: the `term`-th leader of this namespace, after nobody led for so long.
    pub fn begin(
        config: &Config,
        namespace: &Namespace,
        tap: &Arc<Tap>,
        source: &str,
        term: i32,
        absent: Duration,
    ) -> Result<Self> {
        let client: Client = ClientBuilder::try_from(config.clone())?
            .with_layer(&tap.next_life())
            .build();
        let limits = limits();
        let spec = format!("default={source}")
            .parse()
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        let source = MetricsSource::new(
            &spec,
            SourceLimits {
                // A machine that runs many lives at once answers late, and that is no fault of the plan.
                timeout: Duration::from_secs(3),
                ..SourceLimits::default()
            },
        )?;
        let term = Term {
            number: term,
            since: Timestamp::now(),
            absent,
            clocks_differ: false,
            deadline: Instant::now() + Duration::from_hours(24),
        };
        let metrics = Metrics::new();
        let (leadership, led) = watch::channel(Leadership::Leader(term));
        let operator = Operator {
            client,
            namespace: Some(namespace.name().to_owned()),
            sampling: SamplerOptions {
                scrape: limits.scrape.duration(),
                settle: limits.lag.duration(),
                ..SamplerOptions::default()
            },
            limits,
            hold_policy: "stepgate-hold".to_owned(),
            sources: vec![source],
            metrics: metrics.clone(),
            ready: Readiness::default(),
            instance: format!("life-{}-{}", namespace.name(), term.number),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(operator.lead(Providers::built_in()?, term, led, stop.clone()));
        Ok(Self {
            task,
            stop,
            metrics,
            _leadership: leadership,
        })
    }

    /// What it would answer to a scrape.
    pub fn scrape(&self) -> String {
        self.metrics.encode().unwrap_or_default()
    }

    /// The process is gone, in the middle of whatever it did.
    pub fn kill(self) {
        self.task.abort();
    }

    /// The process ends in order. An error where it panicked.
    pub async fn end(self) -> Result<()> {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.task)
            .await
            .context("the operator did not end within 10 s")?
            .context("the operator panicked")
    }
}

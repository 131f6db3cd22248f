//! What the operator says about itself: structured logs on stderr, and metrics in OpenMetrics text.
//!
//! Labels are words of this code or names that the administrator gave, and never names of users' objects, so that their number does not
//! grow with the cluster. No HTTP body and no secret is ever logged.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;

/// How log lines look: `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Sends logs to stderr, filtered by `filter` (syntax of `RUST_LOG`, say `info,stepgate=debug`). An error if a subscriber is already set
/// or the filter cannot be read.
pub fn init_logs(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        anyhow::anyhow!("log filter {filter:?} cannot be read: {error}; write it like info,stepgate=debug")
    })?;
    let builder = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter);
    let done = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init(),
    };
    done.map_err(|error| anyhow::anyhow!("logs are already set up: {error}"))
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    phase: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    resource: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabels {
    verdict: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    source: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceName {
    source: String,
}

/// All of the operator's metrics. Cheap to clone; each clone counts into the same registry.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    rollouts: Family<PhaseLabels, Gauge>,
    reconciles: Family<OutcomeLabels, Counter>,
    reconcile_seconds: Histogram,
    requests: Family<RequestLabels, Counter>,
    verdicts: Family<VerdictLabels, Counter>,
    queries: Family<SourceLabels, Counter>,
    query_seconds: Family<SourceName, Histogram, fn() -> Histogram>,
    leader: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn seconds() -> Histogram {
    Histogram::new([
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    ])
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry of its own, all counts at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("stepgate");
        let rollouts = Family::default();
        let reconciles = Family::default();
        let reconcile_seconds = seconds();
        let requests = Family::default();
        let verdicts = Family::default();
        let queries = Family::default();
        let query_seconds: Family<SourceName, Histogram, fn() -> Histogram> = Family::new_with_constructor(seconds);
        let leader = Gauge::default();
        registry.register("rollouts", "Rollouts by phase", rollouts.clone());
        registry.register("reconcile", "Passes over a Rollout by outcome", reconciles.clone());
        registry.register(
            "reconcile_duration_seconds",
            "Time that a pass over a Rollout took",
            reconcile_seconds.clone(),
        );
        registry.register(
            "api_requests",
            "Requests to the API server by verb, resource and outcome",
            requests.clone(),
        );
        registry.register("verdicts", "Verdicts by kind", verdicts.clone());
        registry.register(
            "source_queries",
            "Queries to metrics sources by outcome",
            queries.clone(),
        );
        registry.register(
            "source_query_duration_seconds",
            "Time that a query to a metrics source took",
            query_seconds.clone(),
        );
        registry.register("leader", "1 while this process leads", leader.clone());
        Self {
            registry: Arc::new(registry),
            rollouts,
            reconciles,
            reconcile_seconds,
            requests,
            verdicts,
            queries,
            query_seconds,
            leader,
        }
    }

    /// The number of Rollouts in each phase now; phases that are not named are forgotten.
    pub fn set_rollouts(&self, counts: impl IntoIterator<Item = (&'static str, usize)>) {
        self.rollouts.clear();
        for (phase, count) in counts {
            self.rollouts
                .get_or_create(&PhaseLabels { phase })
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// A pass over one Rollout ended.
    pub fn reconciled(&self, outcome: &'static str, took: Duration) {
        self.reconciles.get_or_create(&OutcomeLabels { outcome }).inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    /// A request to the API server ended.
    pub fn api_request(&self, verb: &'static str, resource: &'static str, outcome: &'static str) {
        self.requests
            .get_or_create(&RequestLabels {
                verb,
                resource,
                outcome,
            })
            .inc();
    }

    /// A verdict was committed.
    pub fn verdict(&self, verdict: &'static str) {
        self.verdicts.get_or_create(&VerdictLabels { verdict }).inc();
    }

    /// A query to the metrics source of that name ended.
    pub fn source_query(&self, source: &str, outcome: &'static str, took: Duration) {
        self.queries
            .get_or_create(&SourceLabels {
                source: source.to_owned(),
                outcome,
            })
            .inc();
        self.query_seconds
            .get_or_create(&SourceName {
                source: source.to_owned(),
            })
            .observe(took.as_secs_f64());
    }

    /// Whether this process leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Everything as OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

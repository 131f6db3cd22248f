//! `stepgate run`: from the command line to an operator that leads, and to its end on a signal.

use std::time::Duration;

use anyhow::Context;
use kube::{Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    args::Run,
    lease::{Elector, Leadership, LeaseOptions},
    operate::Operator,
    provider::Providers,
    serve::{Readiness, Server},
    source::{MetricsSource, SourceLimits, sampler::SamplerOptions},
    telemetry::{self, Metrics},
};

/// The longest that passes under way may take at the end.
const GRACE: Duration = Duration::from_secs(8);

/// Runs the operator until a signal, or until it lost the lease.
///
/// # Errors
/// On a command line that does not fit, a cluster that cannot be reached, an address that is taken, and a lost lease.
pub async fn run(arguments: Run) -> anyhow::Result<()> {
    // The queue's own spans repeat what every line says already.
    telemetry::init_logs(arguments.log_format, &format!("kube_runtime=warn,{}", arguments.log))?;
    let limits = arguments.limits().map_err(anyhow::Error::msg)?;
    let metrics = Metrics::new();
    let mut config = Config::infer()
        .await
        .context("no cluster: neither a kubeconfig (KUBECONFIG) nor a ServiceAccount of a pod was found")?;
    // A write that is replayed by the client would be a blind one.
    config.default_retry = false;
    let client = Client::try_from(config).context("the cluster's client cannot be set up")?;
    let source_limits = SourceLimits {
        timeout: arguments.query_timeout.duration(),
        ..SourceLimits::default()
    };
    let sources = arguments
        .sources()?
        .iter()
        .map(|spec| MetricsSource::new(spec, source_limits))
        .collect::<Result<Vec<_>, _>>()?;
    let providers = match &arguments.providers_folder {
        Some(folder) => Providers::with_folder(folder)?,
        None => Providers::built_in()?,
    };
    let stop = CancellationToken::new();
    let ready = Readiness::default();
    let server = Server::bind(arguments.address(), metrics.clone(), ready.clone()).await?;
    info!(address = %server.address()?, "serving /livez, /readyz and /metrics");
    let pages = tokio::spawn(server.run(stop.clone()));
    stop_on_signal(stop.clone())?;

    let instance = arguments.identity.clone().unwrap_or_else(own_name);
    let lease = LeaseOptions::new(&arguments.lease_namespace, &arguments.lease_name, &instance);
    let (elector, mut leadership) = Elector::new(client.clone(), lease)?;
    // The lease is given back last, when no pass can write any more.
    let release = CancellationToken::new();
    let election = tokio::spawn(elector.run(release.clone()));
    // A standby is ready: it has nothing to fill.
    ready.set(true);
    let term = tokio::select! {
        led = leadership.wait_for(|seen| matches!(seen, Leadership::Leader(_))) => match led.as_deref() {
            Ok(Leadership::Leader(term)) => Some(*term),
            Ok(Leadership::Standby) | Err(_) => None,
        },
        () = stop.cancelled() => None,
    };
    let ended = if let Some(term) = term {
        metrics.set_leader(true);
        ready.set(false);
        let operator = Operator {
            client,
            namespace: arguments.namespace.clone(),
            sources,
            sampling: SamplerOptions {
                scrape: limits.scrape.duration(),
                settle: limits.lag.duration(),
                ..SamplerOptions::default()
            },
            limits,
            hold_policy: arguments.hold_policy,
            metrics,
            ready,
            instance,
        };
        let passes = operator.lead(providers, term, leadership, stop.clone());
        tokio::pin!(passes);
        let mut election = election;
        tokio::select! {
            () = &mut passes => {
                release.cancel();
                election.await.context("the election panicked")?.context("the lease was lost")
            }
            ended = &mut election => ended.context("the election panicked")?.context("the lease was lost"),
            () = grace(&stop) => Err(anyhow::anyhow!("passes under way did not end within {GRACE:?}")),
        }
    } else {
        release.cancel();
        election
            .await
            .context("the election panicked")?
            .context("the lease was lost")
    };
    stop.cancel();
    pages.await.context("the pages panicked")??;
    info!("stopped");
    ended
}

/// A name that no other process has: the host's, and when this one began.
fn own_name() -> String {
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let began = jiff::Timestamp::now().as_nanosecond();
    format!("stepgate-{}-{}-{began:x}", host.trim(), std::process::id())
}

/// Ends some time after the stop.
async fn grace(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(GRACE).await;
}

fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be listened to")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be listened to")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("stopping: passes under way end, the lease is given back");
        stop.cancel();
    });
    Ok(())
}

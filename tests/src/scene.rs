//! A test's scene: a namespace of its own, a shop in it, an operator for it, and a record of all that happened.
//!
//! A test's body runs between `open` and `told`; where it failed, `told` prints the timeline, the events and the operator's last lines.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use stepgate_crds::{Command, Rollout, RolloutStatus, Verb, names};

use crate::cluster::audit::{Mark, Request};
use crate::cluster::{Cluster, Counters, Namespace, Prometheus, STATS_PORT, ScrapeOptions};
use crate::load::{Load, LoadHandle, LoadOptions};
use crate::operator::{ACCOUNT, Operator, OperatorOptions, SYSTEM};
use crate::record::Record;
use crate::shop::{self, NAME, Shop};
use crate::until::{Seen, until};

pub mod busy;
pub mod happenings;
pub mod situations;
pub mod witness;

/// Lines of the operator's log that a failed test prints.
const LOG_LINES: usize = 60;

static NONCE: AtomicU32 = AtomicU32::new(0);

/// A namespace with a shop and its operator.
#[derive(Debug)]
pub struct Scene {
    /// The operator.
    pub operator: Operator,
    /// What happened since the shop was opened.
    pub record: Record,
    /// The namespace. Deleted at the end, after the operator.
    pub namespace: Namespace,
}

impl Scene {
    /// Opens a shop in a fresh namespace; comes back when its Rollout is Healthy.
    pub async fn open(cluster: &Cluster, name: &str, shop: &Shop, options: OperatorOptions) -> Result<Self> {
        let namespace = cluster.namespace(name).await?;
        Self::open_in(namespace, shop, options).await
    }

    /// The same in a namespace that is there already.
    pub async fn open_in(namespace: Namespace, shop: &Shop, options: OperatorOptions) -> Result<Self> {
        let operator = Operator::start(&namespace, options).await?;
        let record = Record::start(&namespace);
        let scene = Self {
            operator,
            record,
            namespace,
        };
        let opened = shop.open(&scene.namespace).await;
        scene.told(opened)?;
        Ok(scene)
    }

    /// The outcome as it is; where it is an error, everything that a reader needs is printed first.
    #[expect(clippy::print_stderr, reason = "what a failed test saw belongs into its output")]
    pub fn told<T>(&self, outcome: Result<T>) -> Result<T> {
        if let Err(error) = &outcome {
            let name = self.namespace.name();
            eprintln!(
                "=== {name} failed: {error:#}\n--- timeline\n{}{}--- the operator's last lines\n{}\n=== end of {name}",
                self.record.timeline(),
                self.namespace.report(),
                self.operator.log(LOG_LINES)
            );
        }
        outcome
    }

    /// Waits until the status is as wanted.
    pub async fn wait_for(
        &self,
        what: &str,
        bound: Duration,
        wanted: impl Fn(&RolloutStatus) -> bool,
    ) -> Result<RolloutStatus> {
        shop::wait_for(&self.namespace, what, bound, wanted).await
    }

    /// Waits until the gateway serves the shop, and starts requests at this rate (a second).
    pub async fn load(&self, rate: f64) -> Result<LoadHandle> {
        self.load_with(LoadOptions {
            rate,
            ..shop::load(&self.namespace)
        })
        .await
    }

    /// The same with all that a load may be told.
    pub async fn load_with(&self, options: LoadOptions) -> Result<LoadHandle> {
        load_when_served(options).await
    }

    /// Writes a command for the run as it is now, as the plugin does; does not wait for its answer.
    pub async fn command(&self, verb: Verb) -> Result<()> {
        let status = shop::status(&self.namespace).await?;
        let run = match (&status.run, &status.failed) {
            (Some(run), _) => run.id.clone(),
            (None, Some(failed)) => failed.run.clone(),
            (None, None) => anyhow::bail!("{}: there is no run to command", verb.as_str()),
        };
        let step = status.run.as_ref().and_then(|run| u32::try_from(run.step + 1).ok());
        let command = Command {
            verb,
            run,
            step: step.filter(|_| verb == Verb::Promote),
            full: false,
            nonce: format!("test-{}", NONCE.fetch_add(1, Ordering::Relaxed)),
        };
        let patch = json!({"metadata": {"annotations": {names::COMMAND: serde_json::to_string(&command)?}}});
        let rollouts: Api<Rollout> = self.namespace.api();
        rollouts
            .patch(NAME, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .with_context(|| format!("writing the command {}", verb.as_str()))?;
        Ok(())
    }

    /// The operator's own requests about this namespace since the mark, its Lease apart.
    pub fn requests(&self, since: &Mark) -> Result<Vec<Request>> {
        let user = format!("system:serviceaccount:{SYSTEM}:{ACCOUNT}");
        since.requests(|request| {
            request.user.username == user
                && request
                    .object_ref
                    .as_ref()
                    .is_some_and(|target| target.namespace == self.namespace.name())
        })
    }
}

/// Waits until the gateway serves what a load asks for, and starts it.
pub async fn load_when_served(options: LoadOptions) -> Result<LoadHandle> {
    let what = format!("the gateway to serve {}{}", options.host, options.path);
    until(&what, Duration::from_secs(30), async || {
        let one = LoadOptions {
            count: Some(1),
            ..options.clone()
        };
        let report = Load::start(one)?.finished().await?;
        Ok(if report.other_failures() == 0 {
            Seen::Done(())
        } else {
            Seen::NotYet(report.to_string())
        })
    })
    .await?;
    Load::start(options)
}

/// A Prometheus of a namespace's own that scrapes every second, and options for an operator that reads it: intervals of 5 s, the least
/// that there are.
pub async fn quick(namespace: &Namespace) -> Result<(Prometheus, OperatorOptions)> {
    quick_behind(namespace, Counters::of_envoy(STATS_PORT)).await
}

/// The same behind a gateway whose counters are there.
pub async fn quick_behind(namespace: &Namespace, gateway: Counters) -> Result<(Prometheus, OperatorOptions)> {
    quick_over(&[namespace], gateway).await
}

/// The same with the pods of several namespaces in it.
pub async fn quick_over(namespaces: &[&Namespace], gateway: Counters) -> Result<(Prometheus, OperatorOptions)> {
    let first = namespaces.first().context("no namespace to scrape")?;
    let prometheus = first
        .cluster()
        .prometheus(ScrapeOptions {
            interval: Duration::from_secs(1),
            namespaces: namespaces.iter().map(|namespace| namespace.name().to_owned()).collect(),
            gateway,
        })
        .await?;
    let options = OperatorOptions {
        sources: vec![format!("default={}", prometheus.url())],
        scrape: "1s",
        interval: "5s",
        ..OperatorOptions::default()
    };
    Ok((prometheus, options))
}

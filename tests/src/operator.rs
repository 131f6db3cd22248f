//! The operator as a process of a test's own: with the chart's rights and no more, for one namespace, killed and started at will.
//!
//! The chart is installed once a cluster (with no replica), so that CRD, rights and hold policy are those that users get.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{Patch, PatchParams};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::time::sleep;

use crate::cluster::process::{Process, tail};
use crate::cluster::{Cluster, Namespace, PROMETHEUS_URL};
use crate::until::{Seen, until};

/// Where the chart is installed.
pub const SYSTEM: &str = "stepgate-system";
/// The ServiceAccount that the chart makes, and that the operators of tests act as.
pub const ACCOUNT: &str = "stepgate";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// How an operator is started.
#[derive(Clone, Debug)]
pub struct OperatorOptions {
    /// Metrics sources, as `--metrics-source` takes them.
    pub sources: Vec<String>,
    /// The scrape interval that the operator is told.
    pub scrape: &'static str,
    /// The length of an interval.
    pub interval: &'static str,
    /// The bake of a step.
    pub bake: &'static str,
    /// How long after acceptance a weight is in force.
    pub settle: &'static str,
    /// How long canary pods stay.
    pub drain: &'static str,
    /// Any other flags.
    pub flags: Vec<String>,
    /// How it reaches the API server, where not directly.
    pub kubeconfig: Option<PathBuf>,
    /// Whether it watches every namespace, and not its own alone.
    pub all_namespaces: bool,
    /// Its program, where not the one beside the running test.
    pub program: Option<PathBuf>,
    /// How its clock is wrong, as `faketime` takes it: `+1h`.
    pub clock: Option<&'static str>,
}

impl Default for OperatorOptions {
    /// The cluster's own Prometheus (scrape interval 5 s), and everything as short as it may be beside it.
    fn default() -> Self {
        Self {
            sources: vec![format!("default={PROMETHEUS_URL}")],
            scrape: "5s",
            interval: "10s",
            bake: "1s",
            settle: "1s",
            drain: "2s",
            flags: Vec::new(),
            kubeconfig: None,
            all_namespaces: false,
            program: None,
            clock: None,
        }
    }
}

impl OperatorOptions {
    /// Intervals of 5 s, for runs that are led by commands: nothing waits for counts but the end of the drain.
    pub fn led_by_commands() -> Self {
        Self {
            scrape: "1s",
            interval: "5s",
            drain: "1s",
            ..Self::default()
        }
    }
}

/// A running operator that watches one namespace.
#[derive(Debug)]
pub struct Operator {
    cluster: Cluster,
    namespace: String,
    name: String,
    options: OperatorOptions,
    process: Option<Process>,
}

impl Operator {
    /// Starts an operator for this namespace, and installs the chart where nobody has yet.
    pub async fn start(namespace: &Namespace, options: OperatorOptions) -> Result<Self> {
        install_chart(namespace.cluster()).await?;
        let mut operator = Self {
            cluster: namespace.cluster().clone(),
            namespace: namespace.name().to_owned(),
            name: format!(
                "operator-{}-{}",
                namespace.name(),
                COUNT.fetch_add(1, Ordering::Relaxed)
            ),
            options,
            process: None,
        };
        operator.restart().await?;
        Ok(operator)
    }

    /// The same operator once more, after `kill` or `stop`, under the same identity and lease.
    pub async fn restart(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs already", self.name);
        let kubeconfig = match &self.options.kubeconfig {
            Some(other) => other.clone(),
            None => self.cluster.kubeconfig_of_service_account(SYSTEM, ACCOUNT).await?,
        };
        let options = &self.options;
        let program = options.program.clone().map_or_else(|| binary("stepgate"), Ok)?;
        let mut arguments = vec![
            "run".to_owned(),
            format!("--lease-namespace={SYSTEM}"),
            format!("--lease-name={}", self.namespace),
            format!("--identity={}", self.name),
            "--listen-address=127.0.0.1".to_owned(),
            "--port=0".to_owned(),
            format!("--scrape-interval={}", options.scrape),
            format!("--default-interval={}", options.interval),
            format!("--default-bake={}", options.bake),
            format!("--default-settle={}", options.settle),
            format!("--default-drain={}", options.drain),
        ];
        arguments.extend(
            options
                .sources
                .iter()
                .map(|source| format!("--metrics-source={source}")),
        );
        if !options.all_namespaces {
            arguments.push(format!("--namespace={}", self.namespace));
        }
        arguments.extend(options.flags.iter().cloned());
        let mut wrapped = vec![format!("KUBECONFIG={}", kubeconfig.display())];
        if let Some(clock) = options.clock {
            let library = &self.cluster.facts().parts.faketime;
            wrapped.push(format!("LD_PRELOAD={}", library.display()));
            // The clock on the wall alone: what is measured by the other one goes on as it is.
            wrapped.extend([format!("FAKETIME={clock}"), "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned()]);
        }
        wrapped.push(program.display().to_string());
        let process = Process::start(
            &self.name,
            &self.cluster.facts().logs,
            &PathBuf::from("/usr/bin/env"),
            wrapped.into_iter().chain(arguments),
        )?;
        self.process = Some(process);
        Ok(())
    }

    /// The same after `kill`, with the Lease taken from the killed one first: as if its 15 s had passed.
    pub async fn restart_at_once(&mut self) -> Result<()> {
        let leases: Api<Lease> = Api::namespaced(self.cluster.client(), SYSTEM);
        let free = json!({"spec": {"holderIdentity": ""}});
        leases
            .patch(&self.namespace, &PatchParams::default(), &Patch::Merge(free))
            .await
            .with_context(|| format!("freeing the Lease {SYSTEM}/{}", self.namespace))?;
        self.restart().await
    }

    /// SIGKILL: as a node that loses power.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill().await?;
        }
        Ok(())
    }

    /// SIGTERM, and its end awaited: passes under way end, the lease is given back.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop(Duration::from_secs(15)).await?;
        }
        Ok(())
    }

    /// SIGSTOP: as a node that hangs. Whatever was under way stays so.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT after `freeze`.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let id = id.with_context(|| format!("{} does not run", self.name))?;
        kill_process(id, signal).with_context(|| format!("a signal to {}", self.name))
    }

    /// Waits until the process has ended by itself, and forgets it.
    pub async fn ended(&mut self, bound: Duration) -> Result<std::process::ExitStatus> {
        let mut process = self
            .process
            .take()
            .with_context(|| format!("{} does not run", self.name))?;
        tokio::time::timeout(bound, process.ended())
            .await
            .with_context(|| format!("{} did not end within {} s", self.name, bound.as_secs()))?
    }

    /// The identity under which it holds the Lease.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until the process that was started last leads, by its log.
    pub async fn leads(&self, bound: Duration) -> Result<()> {
        until(&format!("{} to lead", self.name), bound, async || {
            let log = self.log(usize::MAX);
            let last = log.rfind("serving /livez").and_then(|start| log.get(start..));
            Ok(if last.is_some_and(|lines| lines.contains(" leading ")) {
                Seen::Done(())
            } else {
                Seen::NotYet(self.log(1))
            })
        })
        .await
    }

    /// The process id while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().and_then(Process::id)
    }

    /// The last lines of its log.
    pub fn log(&self, lines: usize) -> String {
        tail(&self.cluster.facts().logs.join(format!("{}.log", self.name)), lines)
    }
}

/// Installs the chart with no replica, once a cluster; other tests wait until it is there.
pub async fn install_chart(cluster: &Cluster) -> Result<()> {
    let done = cluster.facts().path("chart-installed");
    let lock = cluster.facts().path("chart-lock");
    let file = File::create(&lock).with_context(|| format!("making {}", lock.display()))?;
    // Test binaries are processes of their own: a lock of the file system is what they share.
    while file.try_lock().is_err() {
        sleep(Duration::from_millis(100)).await;
    }
    if done.exists() {
        return Ok(());
    }
    let chart = format!("{}/../charts/stepgate", env!("CARGO_MANIFEST_DIR"));
    cluster
        .helm(&[
            "install",
            "stepgate",
            &chart,
            "--namespace",
            SYSTEM,
            "--create-namespace",
            "--set=replicas=0",
            "--set=metricsSources.default=http://127.0.0.1:9090",
        ])
        .await?;
    for policy in ["mutatingadmissionpolicybinding", "validatingadmissionpolicybinding"] {
        cluster.kubectl(&["get", policy, "stepgate-hold"]).await?;
    }
    cluster
        .kubectl(&[
            "wait",
            "--for=condition=Established",
            "crd/rollouts.stepgate.dev",
            "--timeout=30s",
        ])
        .await?;
    File::create(&done).with_context(|| format!("making {}", done.display()))?;
    Ok(())
}

/// A binary of this workspace, beside the one that runs.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding the running program")?;
    let found = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    found.with_context(|| format!("the program {name} is not built: run `cargo build --workspace --bins`"))
}

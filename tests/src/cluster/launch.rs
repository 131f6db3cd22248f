//! Starts every part of the cluster in order, in the network namespace this process is in, and ends them when dropped.
//!
//! Must run inside a namespace of its own (`local-cluster` sees to that): it takes addresses on `lo` and fixed ports.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use tokio::task::JoinSet;

use super::certificates::{self, Certificates};
use super::discovery;
use super::facts::{
    API_SERVER_ADDRESS, API_SERVER_PORT, Facts, GATEWAY, GATEWAY_ADDRESS, STATE_VARIABLE, STATS_PORT, User,
    write_kubeconfig,
};
use super::gateway;
use super::parts::Parts;
use super::process::{Process, answers};
use super::prometheus::{self, Counters, ScrapeOptions};
use super::{Cluster, client_from};
use crate::node::{self, NodeOptions};
use crate::until::{Seen, until};

const ETCD_URL: &str = "http://127.0.0.1:2379";
const CONTROLLERS: &str = "deployment-controller,replicaset-controller,endpointslice-controller,garbage-collector-controller,\
    namespace-controller,horizontal-pod-autoscaler-controller,serviceaccount-controller,clusterrole-aggregation-controller,\
    resourcequota-controller";
const AUDIT_POLICY: &str =
    "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n";
const GATEWAY_OBJECTS: &str = include_str!("../../cluster/gateway.yaml");

/// What can be chosen of a cluster.
#[derive(Debug, Clone)]
pub struct LaunchOptions {
    /// An existing empty folder for everything the cluster writes.
    pub state: PathBuf,
    /// How often the cluster's own Prometheus scrapes.
    pub scrape_interval: Duration,
    /// The folder of the programs that the images `stepgate` and `demo-app` stand for.
    pub binaries: PathBuf,
}

/// A started cluster: its processes live as long as this.
#[derive(Debug)]
pub struct Running {
    /// The cluster, to use.
    pub cluster: Cluster,
    processes: Vec<Process>,
    tasks: JoinSet<Result<()>>,
}

impl Running {
    /// Returns, with an error that has the end of its log, once a part of the cluster has ended by itself.
    pub async fn watch(&mut self) -> Result<()> {
        loop {
            self.processes.iter_mut().try_for_each(Process::check)?;
            if let Some(ended) = self.tasks.try_join_next() {
                return ended
                    .context("a task of the cluster")?
                    .context("a task of the cluster ended");
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Starts a cluster; `say` gets one line for each step. Takes 10 to 20 seconds on two cores.
pub async fn launch(options: &LaunchOptions, say: &dyn Fn(&str)) -> Result<Running> {
    let begin = Instant::now();
    let step = |text: &str| say(&format!("{:5.1} s  {text}", begin.elapsed().as_secs_f64()));
    let facts = Facts {
        state: options.state.clone(),
        authority: options.state.join("ca.crt"),
        audit_log: options.state.join("audit.log"),
        logs: options.state.join("logs"),
        scrape_interval: options.scrape_interval,
        parts: Parts::find()?,
    };
    fs::create_dir_all(&facts.logs).with_context(|| format!("making {}", facts.logs.display()))?;
    step("network and certificates");
    network().await?;
    let certificates = certificates::make(&facts.state, &["127.0.0.1", GATEWAY_ADDRESS, API_SERVER_ADDRESS]).await?;
    write_users(&facts)?;

    step("etcd and API server");
    let mut processes = vec![start_etcd(&facts)?];
    answers(
        "etcd",
        &format!("{ETCD_URL}/readyz"),
        &mut processes.iter_mut().collect::<Vec<_>>(),
    )
    .await?;
    processes.push(start_apiserver(&facts, &certificates)?);
    let client = client_from(&facts.kubeconfig(User::Administrator)).await?;
    until("the API server to be ready", Duration::from_mins(1), async || {
        if let Err(ended) = processes.iter_mut().try_for_each(Process::check) {
            return Ok(Seen::Never(ended));
        }
        client.request_text(http_get("/readyz")?).await?;
        Ok(Seen::Done(()))
    })
    .await?;

    step("controllers, stand-in node, Gateway API");
    processes.push(start_controller_manager(&facts)?);
    let mut tasks = JoinSet::new();
    start_node(&facts, options, &mut tasks).await?;
    let prometheus_client = client_from(&facts.kubeconfig(User::Prometheus)).await?;
    tasks.spawn(discovery::run(prometheus_client, discovery::targets_file(&facts.state)));

    let cluster = Cluster { facts, client };
    apply_gateway(&cluster).await?;

    step("Contour, Envoy and Prometheus");
    let facts = &cluster.facts;
    processes.extend(gateway::start(facts, &gateway::Place::shared()).await?);
    let scrape = ScrapeOptions {
        interval: facts.scrape_interval,
        namespaces: Vec::new(),
        gateway: Counters::of_envoy(STATS_PORT),
    };
    processes.push(prometheus::start(facts, "prometheus", 9090, &scrape)?);
    let envoy = format!("http://127.0.0.1:{STATS_PORT}/ready");
    answers("Envoy", &envoy, &mut processes.iter_mut().collect::<Vec<_>>()).await?;
    answers(
        "Prometheus",
        "http://127.0.0.1:9090/-/ready",
        &mut processes.iter_mut().collect::<Vec<_>>(),
    )
    .await?;
    wait_for_gateway(&cluster).await?;
    cluster.facts.write()?;
    step("the cluster is up");
    Ok(Running {
        cluster,
        processes,
        tasks,
    })
}

/// The environment by which a command finds the cluster: the state folder, KUBECONFIG, and kubectl, helm and promtool in PATH.
pub fn environment(facts: &Facts) -> Result<Vec<(&'static str, OsString)>> {
    let programs = [&facts.parts.kubectl, &facts.parts.helm, &facts.parts.promtool];
    let own = programs
        .into_iter()
        .filter_map(|program| program.parent().map(Path::to_owned));
    let before = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(own.chain(env::split_paths(&before))).context("PATH")?;
    Ok(vec![
        (STATE_VARIABLE, facts.state.clone().into_os_string()),
        ("KUBECONFIG", facts.kubeconfig(User::Administrator).into_os_string()),
        ("PATH", path),
    ])
}

async fn network() -> Result<()> {
    ip(&["link", "set", "lo", "up"]).await?;
    for address in [GATEWAY_ADDRESS, API_SERVER_ADDRESS] {
        ip(&["addr", "add", &format!("{address}/32"), "dev", "lo"]).await?;
    }
    Ok(())
}

/// Runs `ip` of iproute2.
pub(crate) async fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .await
        .context("running ip (apt-get install iproute2)")?;
    if !output.status.success() {
        bail!(
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn write_users(facts: &Facts) -> Result<()> {
    for user in User::ALL {
        write_kubeconfig(&facts.kubeconfig(user), &facts.authority, user.name(), &user.token())?;
    }
    let line = |user: User| {
        format!(
            "{},{},{},\"{}\"\n",
            user.token(),
            user.name(),
            user.name(),
            user.group()
        )
    };
    let tokens: Vec<String> = User::ALL.into_iter().map(line).collect();
    fs::write(facts.path("tokens.csv"), tokens.concat())?;
    fs::write(facts.path("audit-policy.yaml"), AUDIT_POLICY).context("writing the users' files")
}

fn start_etcd(facts: &Facts) -> Result<Process> {
    let data = format!("--data-dir={}", facts.path("etcd").display());
    let arguments = [
        &data,
        "--unsafe-no-fsync",
        "--log-level=warn",
        "--quota-backend-bytes=4294967296",
        &format!("--listen-client-urls={ETCD_URL}"),
        &format!("--advertise-client-urls={ETCD_URL}"),
        "--listen-peer-urls=http://127.0.0.1:2380",
    ];
    Process::start("etcd", &facts.logs, &facts.parts.etcd, arguments)
}

fn start_apiserver(facts: &Facts, certificates: &Certificates) -> Result<Process> {
    let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
    let arguments = [
        format!("--etcd-servers={ETCD_URL}"),
        format!("--bind-address={API_SERVER_ADDRESS}"),
        format!("--advertise-address={API_SERVER_ADDRESS}"),
        format!("--secure-port={API_SERVER_PORT}"),
        file("tls-cert-file", &certificates.serving_certificate),
        file("tls-private-key-file", &certificates.serving_key),
        file("token-auth-file", &facts.path("tokens.csv")),
        file("service-account-key-file", &certificates.service_account_key),
        file("service-account-signing-key-file", &certificates.service_account_key),
        file("audit-policy-file", &facts.path("audit-policy.yaml")),
        file("audit-log-path", &facts.audit_log),
        // It is read from marks on, so it is not to be rotated (at 100 MB, where nothing is said) in the middle of a long run.
        "--audit-log-maxsize=10000".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        "--authorization-mode=RBAC".to_owned(),
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
    ];
    Process::start("kube-apiserver", &facts.logs, &facts.parts.apiserver, arguments)
}

fn start_controller_manager(facts: &Facts) -> Result<Process> {
    let kubeconfig = format!("--kubeconfig={}", facts.kubeconfig(User::ControllerManager).display());
    let controllers = format!("--controllers={CONTROLLERS}");
    let arguments = [
        &kubeconfig,
        &controllers,
        "--leader-elect=false",
        "--secure-port=0",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
    ];
    Process::start(
        "kube-controller-manager",
        &facts.logs,
        &facts.parts.controller_manager,
        arguments,
    )
}

async fn start_node(facts: &Facts, options: &LaunchOptions, tasks: &mut JoinSet<Result<()>>) -> Result<()> {
    let client = client_from(&facts.kubeconfig(User::Node)).await?;
    // The Node object first: the EndpointSlice controller drops pods on unknown nodes, and then backs off for a minute.
    node::register(&client).await?;
    let options = NodeOptions {
        binaries: options.binaries.clone(),
        logs: facts.logs.clone(),
        state: facts.path("pods"),
        authority: facts.authority.clone(),
    };
    tasks.spawn(node::run(client, options));
    Ok(())
}

async fn apply_gateway(cluster: &Cluster) -> Result<()> {
    let facts = &cluster.facts;
    let apply = |path: &Path| {
        let path = path.display().to_string();
        async move { cluster.kubectl(&["apply", "--server-side", "-f", &path]).await }
    };
    apply(&facts.parts.gateway_crds).await?;
    apply(&facts.parts.contour_crds).await?;
    // Contour ends itself when a kind it watches is not served yet.
    cluster
        .kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"])
        .await?;
    let file = facts.path("gateway.yaml");
    fs::write(&file, GATEWAY_OBJECTS)?;
    apply(&file).await?;
    Ok(())
}

async fn wait_for_gateway(cluster: &Cluster) -> Result<()> {
    let (namespace, name) = GATEWAY;
    let gateway = format!("gateway/{name}");
    cluster
        .kubectl(&[
            "wait",
            "-n",
            namespace,
            "--for=condition=Programmed",
            "--timeout=30s",
            &gateway,
        ])
        .await?;
    Ok(())
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>> {
    http::Request::get(path).body(Vec::new()).context("building a request")
}

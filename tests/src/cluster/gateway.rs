//! Contour and the Envoy that it tells what to do: the cluster's own, and one of a test's own whose controller is killed and started again.
//! Gateways of another make are beside it ([`make`]).

mod envoy_gateway;
pub mod make;
mod service;
mod traefik;

use std::fs;
use std::net::TcpListener;

use anyhow::{Context, Result, bail};
use serde_json::json;
use tokio::process::Command;

use super::facts::{Facts, GATEWAY, GATEWAY_ADDRESS, STATS_PORT, User};
use super::launch::ip;
use super::namespace::Namespace;
use super::process::{Process, answers};
use service::Service;

/// The name of a test's own Gateway, in the test's namespace.
pub const OWN_GATEWAY: &str = "own";
/// Where the Envoy of a test's own answers. One at a time.
const OWN_ADDRESS: &str = "10.244.0.2";

/// What tells two of them apart.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Begins the names of logs and files; empty for the cluster's own.
    prefix: String,
    /// Namespace and name of the Gateway.
    gateway: (String, String),
    /// Envoy's own address; a Gateway listener's port P is served on P + 8000.
    address: &'static str,
    /// Where on 127.0.0.1 Envoy asks for its configuration.
    source: u16,
    /// Ports on 127.0.0.1 for Envoy's configuration, Contour's own counters, its health, its debugging, and Envoy's counters.
    ports: [u16; 5],
}

impl Place {
    /// The cluster's own.
    pub(super) fn shared() -> Self {
        let (namespace, name) = GATEWAY;
        Self {
            prefix: String::new(),
            gateway: (namespace.to_owned(), name.to_owned()),
            address: GATEWAY_ADDRESS,
            source: 8001,
            ports: [8001, 8003, 8004, 6060, STATS_PORT],
        }
    }

    fn own(namespace: &Namespace) -> Result<Self> {
        let [source, ports @ ..] = free_ports::<6>()?;
        Ok(Self {
            prefix: format!("{}-", namespace.name()),
            gateway: (namespace.name().to_owned(), OWN_GATEWAY.to_owned()),
            address: OWN_ADDRESS,
            source,
            ports,
        })
    }

    fn name(&self, of: &str) -> String {
        format!("{}{of}", self.prefix)
    }

    /// Contour, as it is started for the first time and every other.
    fn contour(&self, facts: &Facts) -> Result<Process> {
        let (namespace, name) = &self.gateway;
        // One Gateway, given by name, so that Contour provisions nothing. Envoy logs the requests that failed, and only those.
        let configuration = json!({
            "gateway": {"gatewayRef": {"namespace": namespace, "name": name}},
            "accesslog-level": "error",
            // By default 2 s, which a busy machine may stand still: Envoy takes that for pods that do not answer.
            "timeouts": {"connect-timeout": "10s"},
        });
        let file = facts.path(&self.name("contour.yaml"));
        fs::write(&file, serde_json::to_vec_pretty(&configuration)?)
            .with_context(|| format!("writing {}", file.display()))?;
        let [xds, http, health, debug, stats] = self.ports;
        let arguments = [
            "serve".to_owned(),
            "--insecure".to_owned(),
            "--xds-address=127.0.0.1".to_owned(),
            format!("--xds-port={xds}"),
            "--http-address=127.0.0.1".to_owned(),
            format!("--http-port={http}"),
            "--health-address=127.0.0.1".to_owned(),
            format!("--health-port={health}"),
            "--debug-http-address=127.0.0.1".to_owned(),
            format!("--debug-http-port={debug}"),
            "--disable-leader-election".to_owned(),
            "--disable-feature=tlsroutes".to_owned(),
            "--disable-feature=tcproutes".to_owned(),
            "--disable-feature=backendtlspolicies".to_owned(),
            format!("--envoy-service-http-address={}", self.address),
            format!("--ingress-status-address={}", self.address),
            "--stats-address=127.0.0.1".to_owned(),
            format!("--stats-port={stats}"),
            "--kubernetes-client-qps=200".to_owned(),
            "--kubernetes-client-burst=400".to_owned(),
            format!("--kubeconfig={}", facts.kubeconfig(User::Contour).display()),
            format!("--config-path={}", file.display()),
        ];
        Process::start(&self.name("contour"), &facts.logs, &facts.parts.contour, arguments)
    }

    /// The way from Envoy to a controller that has just been started.
    fn service(&self) -> Service {
        let [controller, ..] = self.ports;
        Service::of(controller, self.source)
    }

    async fn envoy(&self, facts: &Facts) -> Result<Process> {
        let bootstrap = facts.path(&self.name("envoy.json"));
        let admin = facts.path(&self.name("envoy-admin.sock"));
        let output = Command::new(&facts.parts.contour)
            .args(["bootstrap", "--xds-address=127.0.0.1", "--xds-resource-version=v3"])
            .arg(format!("--xds-port={}", self.source))
            .args(["--admin-address", &admin.display().to_string()])
            .arg(&bootstrap)
            .output()
            .await
            .context("running contour bootstrap")?;
        if !output.status.success() {
            bail!("contour bootstrap failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let bootstrap = bootstrap.display().to_string();
        let arguments = [
            "-c",
            &bootstrap,
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--service-node",
            "local",
            "--service-cluster",
            "envoy",
            "--log-level",
            "warning",
        ];
        Process::start(&self.name("envoy"), &facts.logs, &facts.parts.envoy, arguments)
    }
}

/// Ports of 127.0.0.1 that nobody has.
fn free_ports<const COUNT: usize>() -> Result<[u16; COUNT]> {
    let sockets: Vec<TcpListener> = (0..COUNT)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()
        .context("looking for free ports")?;
    let mut ports = [0; COUNT];
    for (port, socket) in ports.iter_mut().zip(&sockets) {
        *port = socket.local_addr()?.port();
    }
    Ok(ports)
}

/// A Gateway of a test's own, of this class and with one listener.
fn own_gateway(name: &str, class: &str, port: u16) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec:\n  \
         gatewayClassName: {class}\n  listeners: [{{name: http, protocol: HTTP, port: {port}}}]\n"
    )
}

/// Starts both.
pub(super) async fn start(facts: &Facts, place: &Place) -> Result<[Process; 2]> {
    Ok([place.contour(facts)?, place.envoy(facts).await?])
}

/// A gateway of a test's own, in its namespace and under the name [`OWN_GATEWAY`]. Both programs are killed when it is dropped.
#[derive(Debug)]
pub struct Gateway {
    facts: Facts,
    place: Place,
    contour: Process,
    /// Between the two; none while there is no controller.
    service: Option<Service>,
    _envoy: Process,
}

impl Gateway {
    /// Makes the Gateway and starts its programs; comes back when it is programmed.
    pub async fn start(namespace: &Namespace) -> Result<Self> {
        namespace.apply(&own_gateway(OWN_GATEWAY, "contour", 80)).await?;
        ip(&["addr", "replace", &format!("{OWN_ADDRESS}/32"), "dev", "lo"]).await?;
        let (facts, place) = (namespace.cluster().facts().clone(), Place::own(namespace)?);
        let [mut contour, mut envoy] = start(&facts, &place).await?;
        let service = Some(place.service());
        let [.., stats] = place.ports;
        let ready = format!("http://127.0.0.1:{stats}/ready");
        answers("a gateway of its own", &ready, &mut [&mut contour, &mut envoy]).await?;
        let gateway = format!("gateway/{OWN_GATEWAY}");
        let programmed = ["wait", "--for=condition=Programmed", "--timeout=30s", &gateway];
        namespace.kubectl(&programmed).await?;
        Ok(Self {
            facts,
            place,
            contour,
            service,
            _envoy: envoy,
        })
    }

    /// Where the listener of port 80 answers.
    pub fn url(&self) -> String {
        format!("http://{}:8080", self.place.address)
    }

    /// The port of Envoy's counters.
    pub fn stats_port(&self) -> u16 {
        let [.., stats] = self.place.ports;
        stats
    }

    /// Kills the controller (SIGKILL): Envoy serves on as it was told last.
    pub async fn kill_controller(&mut self) -> Result<()> {
        self.service = None;
        self.contour.kill().await
    }

    /// Starts the controller again, which Envoy reaches once it is ready; does not wait for it.
    pub fn start_controller(&mut self) -> Result<()> {
        self.contour = self.place.contour(&self.facts)?;
        self.service = Some(self.place.service());
        Ok(())
    }
}

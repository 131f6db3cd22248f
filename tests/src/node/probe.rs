//! Asks a container's probe (httpGet or tcpSocket) once. Other kinds count as passed, which the node's log says.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// One probe of one container, with the kubelet's defaults filled in.
#[derive(Debug, Clone)]
pub(super) struct Check {
    target: Target,
    /// Wait before the first look.
    pub(super) initial_delay: Duration,
    /// Between two looks.
    pub(super) period: Duration,
    limit: Duration,
    /// So many failures in a row mean failed.
    pub(super) failure_threshold: i32,
    /// So many successes in a row mean passed.
    pub(super) success_threshold: i32,
}

#[derive(Debug, Clone)]
enum Target {
    Http(String),
    Tcp(String),
    Passes,
}

impl Check {
    /// Reads a probe of the spec; `address` is the pod's.
    pub(super) fn new(probe: &Probe, container: &Container, address: &str) -> Self {
        let ports: BTreeMap<&str, i32> = container
            .ports
            .iter()
            .flatten()
            .filter_map(|port| Some((port.name.as_deref()?, port.container_port)))
            .collect();
        let port = |port: &IntOrString| match port {
            IntOrString::Int(number) => *number,
            IntOrString::String(name) => ports
                .get(name.as_str())
                .copied()
                .or_else(|| name.parse().ok())
                .unwrap_or(0),
        };
        let target = if let Some(get) = &probe.http_get {
            let path = get.path.as_deref().unwrap_or("/");
            Target::Http(format!("http://{address}:{}{path}", port(&get.port)))
        } else if let Some(socket) = &probe.tcp_socket {
            Target::Tcp(format!("{address}:{}", port(&socket.port)))
        } else {
            super::log(&format!(
                "container {}: only httpGet and tcpSocket probes are asked, this one counts as passed",
                container.name
            ));
            Target::Passes
        };
        let seconds = |value: Option<i32>, default: u32| {
            Duration::from_secs(
                value
                    .and_then(|value| u32::try_from(value).ok())
                    .unwrap_or(default)
                    .into(),
            )
        };
        Self {
            target,
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            limit: seconds(probe.timeout_seconds, 1),
            failure_threshold: probe.failure_threshold.unwrap_or(3),
            success_threshold: probe.success_threshold.unwrap_or(1),
        }
    }

    /// Whether it passes now.
    pub(super) async fn passes(&self, http: &reqwest::Client) -> bool {
        match &self.target {
            Target::Passes => true,
            Target::Http(url) => {
                let answer = timeout(self.limit, http.get(url).send()).await;
                matches!(answer, Ok(Ok(answer)) if answer.status().as_u16() < 400)
            }
            Target::Tcp(address) => matches!(timeout(self.limit, TcpStream::connect(address)).await, Ok(Ok(_))),
        }
    }
}

//! What one running cluster is: its addresses, users and files, written into its state folder at the end of start-up and read from
//! there by everything that attaches.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::parts::Parts;

/// The address of the `kubernetes` Service, on which the API server really listens.
pub const API_SERVER_ADDRESS: &str = "10.96.0.1";
/// The API server's port.
pub const API_SERVER_PORT: u16 = 443;
/// Envoy's own address; a Gateway listener's port P is served on P + 8000.
pub const GATEWAY_ADDRESS: &str = "10.244.0.1";
/// Where the listener of port 80 answers.
pub const GATEWAY_URL: &str = "http://10.244.0.1:8080";
/// Where Envoy's own counters are, on 127.0.0.1.
pub const STATS_PORT: u16 = 8002;
/// The cluster's own Prometheus.
pub const PROMETHEUS_URL: &str = "http://127.0.0.1:9090";
/// The Gateway that every namespace's routes may use.
pub const GATEWAY: (&str, &str) = ("gateway-system", "shared");
/// The name of the environment variable with the state folder.
pub const STATE_VARIABLE: &str = "STEPGATE_CLUSTER";

const FILE: &str = "cluster.json";

/// Who can sign in with a token of the token file.
///
/// The parts of the cluster have a user each, so that the audit log tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Tests and people with every right.
    Administrator,
    /// kube-controller-manager.
    ControllerManager,
    /// The stand-in node.
    Node,
    /// Contour.
    Contour,
    /// Every Traefik.
    Traefik,
    /// Every Envoy Gateway.
    EnvoyGateway,
    /// Every Prometheus.
    Prometheus,
    /// A person without any right but those a test gives her.
    Alice,
    /// Another such person.
    Bob,
}

impl User {
    /// Every user.
    pub const ALL: [Self; 9] = [
        Self::Administrator,
        Self::ControllerManager,
        Self::Node,
        Self::Contour,
        Self::Traefik,
        Self::EnvoyGateway,
        Self::Prometheus,
        Self::Alice,
        Self::Bob,
    ];

    /// The name that RBAC and the audit log know.
    pub fn name(self) -> &'static str {
        match self {
            Self::Administrator => "administrator",
            Self::ControllerManager => "controller-manager",
            Self::Node => "stand-in-node",
            Self::Contour => "contour",
            Self::Traefik => "traefik",
            Self::EnvoyGateway => "envoy-gateway",
            Self::Prometheus => "prometheus",
            Self::Alice => "alice",
            Self::Bob => "bob",
        }
    }

    /// The group: `system:masters` for all but the persons.
    pub fn group(self) -> &'static str {
        match self {
            Self::Alice | Self::Bob => "developers",
            _ => "system:masters",
        }
    }

    /// The bearer token; nothing outside the network namespace can use it.
    pub fn token(self) -> String {
        format!("token-of-{}", self.name())
    }
}

/// The facts of one cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Facts {
    /// The state folder: everything the cluster writes is in it.
    pub state: PathBuf,
    /// The certificate authority of the API server.
    pub authority: PathBuf,
    /// One JSON object a line, level Metadata, without the stage RequestReceived.
    pub audit_log: PathBuf,
    /// The log files: one for each program, one for each pod's container as `<namespace>_<pod>_<container>.log`.
    pub logs: PathBuf,
    /// How often the cluster's own Prometheus scrapes.
    pub scrape_interval: Duration,
    /// The programs the cluster runs.
    pub parts: Parts,
}

impl Facts {
    /// The folder's subfolder or file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// The kubeconfig of a user.
    pub fn kubeconfig(&self, user: User) -> PathBuf {
        self.path(&format!("kubeconfig-{}", user.name()))
    }

    /// Reads the facts of the cluster whose state folder this is.
    pub fn read(state: &Path) -> Result<Self> {
        let file = state.join(FILE);
        let text =
            fs::read_to_string(&file).with_context(|| format!("reading {} (no cluster runs there)", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", file.display()))
    }

    pub(super) fn write(&self) -> Result<()> {
        let temporary = self.path("cluster.json.part");
        fs::write(&temporary, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&temporary, self.path(FILE)).with_context(|| format!("writing {}", self.path(FILE).display()))
    }
}

/// Tells the writes of this process apart.
static WRITES: AtomicU32 = AtomicU32::new(0);

/// Writes a kubeconfig (as JSON, which is YAML) for one bearer token.
pub(super) fn write_kubeconfig(file: &Path, authority: &Path, user: &str, token: &str) -> Result<()> {
    let server = format!("https://{API_SERVER_ADDRESS}:{API_SERVER_PORT}");
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": {"server": server, "certificate-authority": authority}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": user}}],
        "current-context": "local",
    });
    // Tests write the same file at the same time, and operators read it: it is whole at any moment.
    let unique = format!("new-{}-{}", std::process::id(), WRITES.fetch_add(1, Ordering::Relaxed));
    let new = file.with_extension(unique);
    fs::write(&new, serde_json::to_vec_pretty(&config)?).with_context(|| format!("writing {}", new.display()))?;
    fs::rename(&new, file).with_context(|| format!("writing {}", file.display()))
}

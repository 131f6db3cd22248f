//! The local cluster as a library: a real API server, its controllers, a real gateway and Prometheus, one process for each pod.
//!
//! `local-cluster` starts it (`launch`); tests, demo and benchmarks attach to it (`Cluster::attach`), many at once, each in a
//! Kubernetes namespace of its own. Nothing in here leaves the network namespace the cluster runs in.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::{env, fs};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

pub mod audit;
mod certificates;
mod discovery;
mod facts;
pub mod gateway;
mod launch;
mod namespace;
pub mod parts;
pub mod process;
mod prometheus;

pub use facts::{
    API_SERVER_ADDRESS, API_SERVER_PORT, Facts, GATEWAY, GATEWAY_ADDRESS, GATEWAY_URL, PROMETHEUS_URL, STATE_VARIABLE,
    STATS_PORT, User,
};
pub(crate) use launch::ip;
pub use launch::{LaunchOptions, Running, environment, launch};
pub use namespace::Namespace;
pub use prometheus::{Counters, Prometheus, ScrapeOptions};

/// A running cluster, seen by its administrator.
#[derive(Clone)]
pub struct Cluster {
    facts: Facts,
    client: Client,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Cluster")
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Attaches to the cluster whose state folder `STEPGATE_CLUSTER` names, as `local-cluster run` and `exec` set it.
    pub async fn attach() -> Result<Self> {
        let state = env::var_os(STATE_VARIABLE).with_context(|| {
            format!("{STATE_VARIABLE} is not set: this needs the local cluster; run it as `target/debug/local-cluster run -- COMMAND`")
        })?;
        let facts = Facts::read(Path::new(&state))?;
        let client = client_from(&facts.kubeconfig(User::Administrator)).await?;
        Ok(Self { facts, client })
    }

    /// The cluster's addresses, files and programs.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The administrator's client.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A client of one of the users of the token file.
    pub async fn client_as(&self, user: User) -> Result<Client> {
        client_from(&self.facts.kubeconfig(user)).await
    }

    /// Writes a kubeconfig that acts as a ServiceAccount, with that account's rights and no more, and gives its path. The token is
    /// valid for a day.
    pub async fn kubeconfig_of_service_account(&self, namespace: &str, name: &str) -> Result<std::path::PathBuf> {
        let token = service_account_token(&self.client, namespace, name).await?;
        let file = self.facts.path(&format!("kubeconfig-{namespace}-{name}"));
        facts::write_kubeconfig(&file, &self.facts.authority, name, &token)?;
        Ok(file)
    }

    /// A client that acts as a ServiceAccount.
    pub async fn client_of_service_account(&self, namespace: &str, name: &str) -> Result<Client> {
        client_from(&self.kubeconfig_of_service_account(namespace, name).await?).await
    }

    /// Marks the audit log's end: `requests` of the mark gives what was asked from now on.
    pub fn audit(&self) -> Result<audit::Mark> {
        audit::Mark::now(&self.facts.audit_log)
    }

    /// Makes a Kubernetes namespace named `<prefix>-<random>`; it is deleted when the handle is dropped.
    pub async fn namespace(&self, prefix: &str) -> Result<Namespace> {
        Namespace::make(self, prefix).await
    }

    /// Starts a Prometheus of one's own, which can be stopped and started again; returns when it is ready.
    pub async fn prometheus(&self, options: ScrapeOptions) -> Result<Prometheus> {
        Prometheus::new(&self.facts, options).await
    }

    /// Runs `kubectl` as the administrator and gives its standard output; errors with its standard error.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_with(arguments, "").await
    }

    /// The same with a text on its standard input, for `-f -`.
    pub async fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        Ok(self.program(&self.facts.parts.kubectl, arguments, input).await?.0)
    }

    /// The same, and what it wrote to its standard error: the warnings of the API server.
    pub async fn kubectl_and_warnings(&self, arguments: &[&str], input: &str) -> Result<(String, String)> {
        self.program(&self.facts.parts.kubectl, arguments, input).await
    }

    /// Runs `helm` as the administrator and gives its standard output; errors with its standard error. Its own files stay in the
    /// state folder.
    pub async fn helm(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.program(&self.facts.parts.helm, arguments, "").await?.0)
    }

    async fn program(&self, program: &Path, arguments: &[&str], input: &str) -> Result<(String, String)> {
        let home = self.facts.path("home");
        let mut child = Command::new(program)
            .args(arguments)
            .env("KUBECONFIG", self.facts.kubeconfig(User::Administrator))
            .env("KUBECACHEDIR", home.join("kube-cache"))
            .env("HELM_CACHE_HOME", home.join("helm-cache"))
            .env("HELM_CONFIG_HOME", home.join("helm-config"))
            .env("HELM_DATA_HOME", home.join("helm-data"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin
                .write_all(input.as_bytes())
                .await
                .with_context(|| format!("writing to {}", program.display()))?;
        }
        let output = child
            .wait_with_output()
            .await
            .with_context(|| format!("running {}", program.display()))?;
        let (said, warned) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        if !output.status.success() {
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            bail!("{name} {}: {}", arguments.join(" "), warned.trim());
        }
        Ok((said, warned))
    }

    /// The last lines of the logs of a namespace's pods, for a failed test's output.
    pub fn pod_logs(&self, namespace: &str, lines: usize) -> BTreeMap<String, String> {
        let Ok(files) = fs::read_dir(&self.facts.logs) else {
            return BTreeMap::new();
        };
        let start = format!("{namespace}_");
        files
            .flatten()
            .map(|file| (file.file_name().to_string_lossy().into_owned(), file.path()))
            .filter(|(name, _)| name.starts_with(&start))
            .map(|(name, path)| (name, process::tail(&path, lines)))
            .collect()
    }
}

/// A client by a kubeconfig file.
pub(crate) async fn client_from(kubeconfig: &Path) -> Result<Client> {
    let read = Kubeconfig::read_from(kubeconfig).with_context(|| format!("reading {}", kubeconfig.display()))?;
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    Client::try_from(config).with_context(|| format!("making a client by {}", kubeconfig.display()))
}

/// Asks the API server for a token of a ServiceAccount, valid for a day.
pub(crate) async fn service_account_token(client: &Client, namespace: &str, name: &str) -> Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(24 * 60 * 60),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(name, &PostParams::default(), &request)
        .await
        .with_context(|| format!("asking for a token of ServiceAccount {namespace}/{name}"))?;
    Ok(answer
        .status
        .context("the TokenRequest came back without a status")?
        .token)
}

//! One Kubernetes namespace for one test, deleted at its end, with what happened in it printed when the test failed.

use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1;
use kube::api::{DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use stepgate_crds::Rollout;

use super::Cluster;
use super::facts::User;

/// Deletes a namespace, and takes the finalizers off its Rollouts.
const DELETE: &str = r#"
"$1" delete namespace "$2" --wait=false
"$1" -n "$2" get rollouts -o name | xargs -r -n 1 "$1" -n "$2" patch --type=merge --patch '{"metadata": {"finalizers": null}}'
"#;

/// What a namespace costs as long as it is there: group, version, kind.
const COSTLY: [(&str, &str, &str); 4] = [
    ("stepgate.dev", "v1alpha1", "Rollout"),
    ("gateway.networking.k8s.io", "v1", "HTTPRoute"),
    ("apps", "v1", "Deployment"),
    ("", "v1", "Service"),
];

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A namespace of a test's own. Deleted in the background when this is dropped.
#[derive(Debug)]
pub struct Namespace {
    cluster: Cluster,
    name: String,
    ended: bool,
}

impl Namespace {
    pub(super) async fn make(cluster: &Cluster, prefix: &str) -> Result<Self> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("the clock is before 1970")?;
        let unique = format!(
            "{prefix}-{:x}{:x}",
            now.subsec_millis(),
            COUNT.fetch_add(1, Ordering::Relaxed) + std::process::id() * 64
        );
        let all: Api<v1::Namespace> = Api::all(cluster.client());
        let metadata = ObjectMeta {
            name: Some(unique.clone()),
            ..ObjectMeta::default()
        };
        let object = v1::Namespace {
            metadata,
            ..v1::Namespace::default()
        };
        all.create(&PostParams::default(), &object)
            .await
            .with_context(|| format!("making namespace {unique}"))?;
        Ok(Self {
            cluster: cluster.clone(),
            name: unique,
            ended: false,
        })
    }

    /// Deletes what runs in it and what the gateway knows of it by the cluster's own client, and leaves the rest to the cluster's end: to
    /// delete a namespace costs the API server a hundred requests.
    pub async fn clear(mut self) -> Result<()> {
        let rollouts: Api<Rollout> = self.api();
        let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        for rollout in rollouts.list(&ListParams::default()).await? {
            rollouts
                .patch(&rollout.name_any(), &PatchParams::default(), &free)
                .await?;
        }
        for (group, version, kind) in COSTLY {
            let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
            let api: Api<DynamicObject> = Api::namespaced_with(self.cluster.client(), &self.name, &kind);
            api.delete_collection(&DeleteParams::background(), &ListParams::default())
                .await?;
        }
        self.ended = true;
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster it is in.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The administrator's view of one kind in this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.cluster.client(), &self.name)
    }

    /// `kubectl -n <name> ARGUMENTS`.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let all: Vec<&str> = ["-n", &self.name]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        self.cluster.kubectl(&all).await
    }

    /// `kubectl -n <name> apply -f -` with a manifest, as a person does it.
    pub async fn apply(&self, manifest: &str) -> Result<String> {
        self.cluster
            .kubectl_with(&["-n", &self.name, "apply", "-f", "-"], manifest)
            .await
    }

    /// `kubectl -n <name> ARGUMENTS` with a text on its standard input, and what it said of it on both of its outputs.
    pub async fn kubectl_and_warnings(&self, arguments: &[&str], input: &str) -> Result<(String, String)> {
        let all: Vec<&str> = ["-n", &self.name]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        self.cluster.kubectl_and_warnings(&all, input).await
    }

    /// What is and what happened in it: objects, events, and the last lines of its pods' logs.
    pub fn report(&self) -> String {
        let mut parts = vec![format!("--- namespace {} ---\n", self.name)];
        let kinds = "deployments,replicasets,pods,httproutes";
        parts.push(self.kubectl_now(&["get", kinds, "-o", "wide"]));
        parts.push(self.kubectl_now(&["events"]));
        for (file, lines) in self.cluster.pod_logs(&self.name, 20) {
            parts.push(format!("--- {file}\n{lines}\n"));
        }
        parts.concat()
    }

    fn kubectl_now(&self, arguments: &[&str]) -> String {
        let facts = self.cluster.facts();
        let output = std::process::Command::new(&facts.parts.kubectl)
            .args(["-n", &self.name, "--request-timeout=5s"])
            .args(arguments)
            .env("KUBECONFIG", facts.kubeconfig(User::Administrator))
            .env("KUBECACHEDIR", facts.path("home/kube-cache"))
            .output();
        match output {
            Ok(output) => String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
            Err(error) => format!("kubectl: {error}\n"),
        }
    }
}

impl Drop for Namespace {
    #[expect(clippy::print_stderr, reason = "what a failed test saw belongs into its output")]
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.report());
        }
        if self.ended {
            return;
        }
        let facts = self.cluster.facts();
        // In the background: nobody waits for it, and the cluster's end deletes everything anyhow. The operator is gone by now, and a Rollout
        // with its finalizer would keep the namespace controller busy with a hundred requests a minute, for each such namespace.
        let _best_effort = std::process::Command::new("/bin/sh")
            .args(["-c", DELETE, "sh"])
            .arg(&facts.parts.kubectl)
            .arg(&self.name)
            .env("KUBECONFIG", facts.kubeconfig(User::Administrator))
            .env("KUBECACHEDIR", facts.path("home/kube-cache"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
    }
}

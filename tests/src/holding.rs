//! The chart's hold once more, for one namespace alone and under names of its own: so that a test can take it away, or have it let other
//! users through, while other tests go on under the chart's.
//!
//! Only for tests. Whoever makes one ends it; the end of the cluster takes what was left.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Namespace};
use crate::gitops::manifests;
use crate::operator::{ACCOUNT, SYSTEM};

/// A copy of the chart's admission policies.
#[derive(Debug)]
pub struct Holding {
    cluster: Cluster,
    policy: String,
    objects: Vec<Value>,
}

impl Holding {
    /// The copy as the chart renders it for an operator of this ServiceAccount; nothing is installed yet. The operator's own account
    /// may read it.
    pub async fn of(namespace: &Namespace, account: &str) -> Result<Self> {
        Self::marked(namespace, account, "stepgate.dev/").await
    }

    /// The same for Deployments whose label and stamp begin with another prefix than `stepgate.dev/`, which the chart's own policies
    /// leave alone.
    pub async fn marked(namespace: &Namespace, account: &str, prefix: &str) -> Result<Self> {
        let cluster = namespace.cluster();
        let release = namespace.name();
        let chart = format!("{}/../charts/stepgate", env!("CARGO_MANIFEST_DIR"));
        let rendered = cluster
            .helm(&[
                "template",
                release,
                &chart,
                "--namespace",
                SYSTEM,
                "--show-only=templates/hold.yaml",
                "--api-versions=admissionregistration.k8s.io/v1/MutatingAdmissionPolicy",
                &format!("--set=fullnameOverride={release}"),
                &format!("--set=serviceAccount.name={account}"),
            ])
            .await?
            .replace("stepgate.dev/", prefix);
        let mut objects = manifests(rendered.trim_start_matches("---\n"))?;
        for object in &mut objects {
            let constraints = object
                .pointer_mut("/spec/matchConstraints")
                .and_then(Value::as_object_mut);
            if let Some(constraints) = constraints {
                let only = json!({"matchLabels": {"kubernetes.io/metadata.name": release}});
                constraints.insert("namespaceSelector".to_owned(), only);
            }
        }
        let policy = format!("{release}-hold");
        objects.extend(may_read(&policy));
        Ok(Self {
            cluster: cluster.clone(),
            policy,
            objects,
        })
    }

    /// The name of the policy and of its binding, as `--hold-policy` takes it.
    pub fn policy(&self) -> &str {
        &self.policy
    }

    /// Lets the operator's account look for the policy, which is not there.
    pub async fn allow(&self) -> Result<()> {
        self.apply(|kind| kind.starts_with("ClusterRole")).await
    }

    /// Installs all of it.
    pub async fn install(&self) -> Result<()> {
        self.apply(|_| true).await
    }

    /// Takes all of it away.
    pub async fn end(self) -> Result<()> {
        let list = self.list(|_| true);
        self.cluster
            .kubectl_with(&["delete", "--ignore-not-found", "-f", "-"], &list)
            .await
            .with_context(|| format!("ending the hold {}", self.policy))?;
        Ok(())
    }

    async fn apply(&self, wanted: impl Fn(&str) -> bool) -> Result<()> {
        self.cluster
            .kubectl_with(&["apply", "-f", "-"], &self.list(wanted))
            .await
            .with_context(|| format!("installing the hold {}", self.policy))?;
        Ok(())
    }

    fn list(&self, wanted: impl Fn(&str) -> bool) -> String {
        let kind = |object: &Value| {
            object
                .get("kind")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let items: Vec<&Value> = self.objects.iter().filter(|object| wanted(&kind(object))).collect();
        json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
    }
}

/// The chart's right to read its policy, for this one.
fn may_read(policy: &str) -> [Value; 2] {
    let group = "rbac.authorization.k8s.io";
    [
        json!({
            "apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": policy},
            "rules": [{
                "apiGroups": ["admissionregistration.k8s.io"],
                "resources": ["mutatingadmissionpolicies", "mutatingadmissionpolicybindings"],
                "resourceNames": [policy], "verbs": ["get"],
            }],
        }),
        json!({
            "apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": policy},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": policy},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": SYSTEM}],
        }),
    ]
}

//! An application as users have it, under a Rollout: manifests, shipping a version, and looking at what became of it.

use std::time::Duration;

use anyhow::{Context, Result};
use kube::Api;
use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;
use stepgate_crds::status::Phase;
use stepgate_crds::{Rollout, RolloutStatus};

use crate::cluster::Namespace;
use crate::load::LoadOptions;
use crate::until::{Seen, until};

/// The name of everything in the shop.
pub const NAME: &str = "checkout";

/// How the application is set up.
#[derive(Clone, Debug)]
pub struct Shop {
    /// Pods of the Deployment.
    pub replicas: u32,
    /// Whether pods and Service carry `track: stable`.
    pub prepared: bool,
    /// The share of requests that v1 fails, such as `0.1%`.
    pub error_share: &'static str,
    /// YAML lines under the Rollout's `spec` beside workload and traffic, indented by two spaces.
    pub rollout: String,
    /// The HTTPRoute's rules in YAML flow style; one plain rule where empty.
    pub rules: String,
}

impl Default for Shop {
    fn default() -> Self {
        Self {
            replicas: 4,
            prepared: false,
            error_share: "0%",
            rollout: String::new(),
            rules: String::new(),
        }
    }
}

impl Shop {
    /// Deployment and Service.
    pub fn application(&self) -> String {
        let track = if self.prepared { ", track: stable" } else { "" };
        format!(
            r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {NAME}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {NAME}}}}}
  template:
    metadata:
      labels: {{app: {NAME}{track}}}
      annotations: {{prometheus.io/scrape: "true", prometheus.io/port: "8080"}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
        - name: app
          image: demo-app
          ports: [{{name: http, containerPort: 8080}}]
          readinessProbe: {{httpGet: {{path: /healthz, port: http}}, periodSeconds: 1}}
          lifecycle: {{preStop: {{sleep: {{seconds: 2}}}}}}
          env:
            - {{name: VERSION, value: v1}}
            - {{name: ERROR_SHARE, value: "{errors}"}}
            - {{name: POD_IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {NAME}}}
spec: {{selector: {{app: {NAME}{track}}}, ports: [{{name: http, port: 80, targetPort: http}}]}}
"#,
            replicas = self.replicas,
            errors = self.error_share,
        )
    }

    /// The HTTPRoute, for the host `<namespace>.local`.
    pub fn route(&self, namespace: &Namespace) -> String {
        let rules = match self.rules.as_str() {
            "" => format!("[{{backendRefs: [{{name: {NAME}, port: 80}}]}}]"),
            rules => rules.to_owned(),
        };
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {NAME}}}\nspec:\n  \
             parentRefs: [{{name: shared, namespace: gateway-system}}]\n  hostnames: [{}.local]\n  rules: {rules}\n",
            namespace.name(),
        )
    }

    /// The Rollout.
    pub fn rollout(&self) -> String {
        format!(
            "apiVersion: stepgate.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: {NAME}}}\nspec:\n  workload: {{name: {NAME}}}\n  \
             traffic: {{routes: [{{name: {NAME}}}]}}\n{}",
            self.rollout
        )
    }

    /// Applies everything, the Rollout last, and waits until the Rollout is Healthy.
    pub async fn open(&self, namespace: &Namespace) -> Result<()> {
        namespace.apply(&self.application()).await?;
        namespace.apply(&self.route(namespace)).await?;
        namespace.apply(&self.rollout()).await?;
        wait(namespace, Phase::Healthy, Duration::from_secs(60)).await?;
        Ok(())
    }
}

/// Changes the template: another version, and the share of requests that it fails (`0.1%`).
pub async fn ship(namespace: &Namespace, version: &str, error_share: &str) -> Result<()> {
    let deployment = format!("deployment/{NAME}");
    let (version, errors) = (format!("VERSION={version}"), format!("ERROR_SHARE={error_share}"));
    namespace
        .kubectl(&["set", "env", &deployment, &version, &errors])
        .await?;
    Ok(())
}

/// Load for the shop's host.
pub fn load(namespace: &Namespace) -> LoadOptions {
    LoadOptions::to_host(&format!("{}.local", namespace.name()))
}

/// The Rollout as it is.
pub async fn rollout(namespace: &Namespace) -> Result<Rollout> {
    let api: Api<Rollout> = namespace.api();
    api.get(NAME).await.context("reading the Rollout")
}

/// Its status; empty where there is none yet.
pub async fn status(namespace: &Namespace) -> Result<RolloutStatus> {
    Ok(rollout(namespace).await?.status.unwrap_or_default())
}

/// Waits until the Rollout is in this phase.
pub async fn wait(namespace: &Namespace, phase: Phase, bound: Duration) -> Result<RolloutStatus> {
    wait_for(namespace, phase.as_str(), bound, |status| status.phase == Some(phase)).await
}

/// Waits until the status is as wanted, and gives it.
pub async fn wait_for(
    namespace: &Namespace,
    what: &str,
    bound: Duration,
    wanted: impl Fn(&RolloutStatus) -> bool,
) -> Result<RolloutStatus> {
    until(what, bound, async || {
        let status = status(namespace).await?;
        Ok(if wanted(&status) {
            Seen::Done(status)
        } else {
            Seen::NotYet(format!(
                "{} {} {} {:?}: {}",
                status.phase.map_or("-", Phase::as_str),
                status.step.as_deref().unwrap_or("-"),
                status.weight.unwrap_or(-1),
                status.verdict,
                status.message.as_deref().unwrap_or_default()
            ))
        })
    })
    .await
}

/// The HTTPRoute, every field of it.
pub async fn route(namespace: &Namespace) -> Result<Value> {
    object(namespace, "gateway.networking.k8s.io", "v1", "HTTPRoute").await
}

/// The Deployment, every field of it.
pub async fn deployment(namespace: &Namespace) -> Result<Value> {
    object(namespace, "apps", "v1", "Deployment").await
}

async fn object(namespace: &Namespace, group: &str, version: &str, kind: &str) -> Result<Value> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api: Api<DynamicObject> = Api::namespaced_with(namespace.cluster().client(), namespace.name(), &resource);
    let object = api.get(NAME).await.with_context(|| format!("reading {kind} {NAME}"))?;
    serde_json::to_value(object).context("a read object as JSON")
}

//! An application as users have it, under a Rollout: manifests, shipping a version, and looking at what became of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;
use stepgate_crds::status::Phase;
use stepgate_crds::{Rollout, RolloutStatus};
use tokio::process::Command;

use crate::cluster::{Cluster, GATEWAY, Namespace, User};
use crate::load::LoadOptions;
use crate::operator::{Operator, OperatorOptions, binary};
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
    /// Requests a second that a pod carries; 0 is without bound.
    pub capacity: u32,
    /// YAML lines under the Deployment's `spec`, such as a strategy, indented by two spaces.
    pub deployment: String,
    /// The Gateway of its own namespace that its route is on; none for the one that all share.
    pub own_gateway: Option<&'static str>,
}

impl Default for Shop {
    fn default() -> Self {
        Self {
            replicas: 4,
            prepared: false,
            error_share: "0%",
            rollout: String::new(),
            rules: String::new(),
            capacity: 0,
            deployment: String::new(),
            own_gateway: None,
        }
    }
}

/// A shop in a namespace of its own, with an operator whose runs are led by commands; Healthy.
pub async fn led_by_commands(prefix: &str, shop: &Shop) -> Result<(Namespace, Operator)> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace(prefix).await?;
    let operator = Operator::start(&namespace, OperatorOptions::led_by_commands()).await?;
    shop.open(&namespace).await?;
    Ok((namespace, operator))
}

impl Shop {
    /// A shop of one pod.
    pub fn small() -> Self {
        Self {
            replicas: 1,
            ..Self::default()
        }
    }

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
{deployment}  selector: {{matchLabels: {{app: {NAME}}}}}
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
            - {{name: CAPACITY, value: "{capacity}"}}
---
apiVersion: v1
kind: Service
metadata: {{name: {NAME}}}
spec: {{selector: {{app: {NAME}{track}}}, ports: [{{name: http, port: 80, targetPort: http}}]}}
"#,
            replicas = self.replicas,
            errors = self.error_share,
            capacity = self.capacity,
            deployment = self.deployment,
        )
    }

    /// The HTTPRoute, for the host `<namespace>.local`.
    pub fn route(&self, namespace: &Namespace) -> String {
        let rules = match self.rules.as_str() {
            "" => format!("[{{backendRefs: [{{name: {NAME}, port: 80}}]}}]"),
            rules => rules.to_owned(),
        };
        let gateway = if let Some(name) = self.own_gateway {
            format!("name: {name}")
        } else {
            let (namespace, name) = GATEWAY;
            format!("name: {name}, namespace: {namespace}")
        };
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {NAME}}}\nspec:\n  \
             parentRefs: [{{{gateway}}}]\n  hostnames: [{}.local]\n  rules: {rules}\n",
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
        let all = [self.application(), self.route(namespace), self.rollout()].join("---\n");
        namespace.apply(&all).await?;
        wait(namespace, Phase::Healthy, Duration::from_mins(1)).await?;
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

/// Changes the template by the application's environment variables, each `NAME=value`.
pub async fn ship_with(namespace: &Namespace, variables: &[&str]) -> Result<()> {
    let deployment = format!("deployment/{NAME}");
    let arguments: Vec<&str> = ["set", "env", &deployment]
        .into_iter()
        .chain(variables.iter().copied())
        .collect();
    namespace.kubectl(&arguments).await?;
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

/// Waits until a run is under way, in whatever state: the first ones pass in moments.
pub async fn wait_for_run(namespace: &Namespace, bound: Duration) -> Result<RolloutStatus> {
    wait_for(namespace, "a run", bound, |status| status.run.is_some()).await
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

/// Waits until a step's weight (in percent) is accepted by every parent.
pub async fn wait_for_weight(namespace: &Namespace, weight: i32, bound: Duration) -> Result<RolloutStatus> {
    wait_for(namespace, &format!("{weight} % in force"), bound, |status| {
        status.phase == Some(Phase::Stepping)
            && status.run.as_ref().is_some_and(|run| {
                run.weight == weight && run.in_force.as_ref().is_some_and(|force| force.seq == run.seq)
            })
    })
    .await
}

/// Leads a shipped version by commands through every weight of the default steps, and waits until it is Healthy.
pub async fn promote_through(namespace: &Namespace, bound: Duration) -> Result<()> {
    for weight in [10, 30, 50, 100] {
        wait_for_weight(namespace, weight, bound).await?;
        let answer = plugin(namespace, &["promote", NAME]).await?;
        ensure!(answer.code == Some(0), "promote at {weight} %: {answer:?}");
    }
    wait(namespace, Phase::Healthy, bound).await?;
    Ok(())
}

/// What the plugin said.
#[derive(Debug)]
pub struct Answer {
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub said: String,
    /// Its standard error.
    pub complained: String,
}

/// Runs `kubectl-stepgate -n <namespace> ARGUMENTS` as the administrator.
pub async fn plugin(namespace: &Namespace, arguments: &[&str]) -> Result<Answer> {
    let output = Command::new(binary("kubectl-stepgate")?)
        .args(["-n", namespace.name()])
        .args(arguments)
        .env(
            "KUBECONFIG",
            namespace.cluster().facts().kubeconfig(User::Administrator),
        )
        .kill_on_drop(true)
        .output()
        .await
        .context("running kubectl-stepgate")?;
    Ok(Answer {
        code: output.status.code(),
        said: String::from_utf8_lossy(&output.stdout).into_owned(),
        complained: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// The Events of the operator on the Rollout of this name: reason and text.
pub async fn events(namespace: &Namespace, rollout: &str) -> Result<Vec<(String, String)>> {
    let api: Api<Event> = namespace.api();
    let list = api.list(&ListParams::default()).await.context("listing Events")?;
    let of_rollout = list.items.into_iter().filter(|event| {
        let about = event.regarding.as_ref();
        about.is_some_and(|about| about.kind.as_deref() == Some("Rollout") && about.name.as_deref() == Some(rollout))
    });
    Ok(of_rollout
        .map(|event| (event.reason.unwrap_or_default(), event.note.unwrap_or_default()))
        .collect())
}

/// The HTTPRoute, every field of it.
pub async fn route(namespace: &Namespace) -> Result<Value> {
    object(namespace, "gateway.networking.k8s.io/v1", "HTTPRoute", NAME).await
}

/// The Deployment, every field of it.
pub async fn deployment(namespace: &Namespace) -> Result<Value> {
    object(namespace, "apps/v1", "Deployment", NAME).await
}

/// Any object, every field of it.
pub async fn object(namespace: &Namespace, api_version: &str, kind: &str, name: &str) -> Result<Value> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api: Api<DynamicObject> = Api::namespaced_with(namespace.cluster().client(), namespace.name(), &resource);
    let object = api.get(name).await.with_context(|| format!("reading {kind} {name}"))?;
    serde_json::to_value(object).context("a read object as JSON")
}

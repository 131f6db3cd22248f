//! One pod's life on the node: bind, address, process, status as the process is, and the orderly end.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, Container, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::container::{ContainerTask, Report, seconds};
use super::settings::Settings;
use super::{NODE_NAME, PAUSE, Shared, short_name};
use crate::cluster::{ip, service_account_token};

/// The longest that a request to the API server may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after a request that failed; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Serves a pod from its first sight to its deletion; says in the node's log what went wrong.
pub(super) async fn serve(shared: Arc<Shared>, mut updates: watch::Receiver<Pod>) {
    let pod = updates.borrow_and_update().clone();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let api = Api::namespaced(shared.client.clone(), &namespace);
    let life = Life {
        shared,
        api,
        pod,
        name,
        namespace,
    };
    if let Err(error) = life.live(&mut updates).await {
        // A pod that is deleted while something is written about it is no trouble.
        if updates.has_changed().is_ok() {
            super::log(&format!("pod {}/{}: {error:#}", life.namespace, life.name));
        }
    }
}

struct Life {
    shared: Arc<Shared>,
    api: Api<Pod>,
    pod: Pod,
    name: String,
    namespace: String,
}

impl Life {
    async fn live(&self, updates: &mut watch::Receiver<Pod>) -> Result<()> {
        let container = match self.only_container() {
            Ok(container) => container,
            Err(reason) => {
                let condition =
                    json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": reason});
                self.patch(&json!({"conditions": [condition]})).await;
                let _gone = deleted(updates).await;
                self.delete().await;
                return Ok(());
            }
        };
        self.bind().await?;
        let address = self.shared.next_address();
        if is_pause(container) {
            self.run(container, &address, updates).await;
            self.delete().await;
            return Ok(());
        }
        let route = format!("{address}/32");
        ip(&["addr", "add", &route, "dev", "lo"]).await?;
        self.run(container, &address, updates).await;
        ip(&["addr", "del", &route, "dev", "lo"]).await?;
        self.delete().await;
        Ok(())
    }

    /// The container of a pod that the node takes; else why it takes no such pod.
    fn only_container(&self) -> Result<&Container, String> {
        let spec = self.pod.spec.as_ref();
        let selector = spec.and_then(|spec| spec.node_selector.as_ref());
        if let Some((key, value)) = selector.into_iter().flatten().next() {
            return Err(format!(
                "0/1 nodes are available: 1 node(s) didn't match Pod's node selector {key}={value}."
            ));
        }
        match spec.map(|spec| spec.containers.as_slice()) {
            Some([container]) => Ok(container),
            _ => Err("the stand-in node runs pods of one container".to_owned()),
        }
    }

    /// Runs the container until the pod is deleted and the process is gone.
    async fn run(&self, container: &Container, address: &str, updates: &mut watch::Receiver<Pod>) {
        let (reports, mut changes) = watch::channel(Report::waiting("ContainerCreating", ""));
        let stopping = CancellationToken::new();
        let started = seconds(Timestamp::now());
        let mut task = if is_pause(container) {
            reports.send_replace(Report::doing_nothing(&started));
            tokio::spawn(stopping.clone().cancelled_owned())
        } else {
            match self.task(container, address, &stopping, &reports).await {
                Ok(task) => tokio::spawn(task.run()),
                Err(waiting) => {
                    reports.send_replace(waiting);
                    tokio::spawn(async {})
                }
            }
        };
        let mut ready = (false, started.clone());
        let deletion = loop {
            let report = changes.borrow_and_update().clone();
            if report.ready != ready.0 {
                ready = (report.ready, seconds(Timestamp::now()));
            }
            self.patch(&status(container, address, &report, &started, &ready.1))
                .await;
            tokio::select! {
                Ok(()) = changes.changed() => {}
                deletion = deleted(updates) => break deletion,
            }
        };
        let deadline = Instant::now() + deletion.unwrap_or_default();
        if deletion.is_some() {
            // The process runs on, and is asked after; then SIGTERM, then SIGKILL.
            sleep_until(deadline.min(Instant::now() + pre_stop_sleep(container))).await;
        }
        stopping.cancel();
        tokio::select! {
            _ended = &mut task => {}
            () = sleep_until(deadline) => {}
            // Deleted at once by somebody.
            () = async { while updates.changed().await.is_ok() {} } => {}
        }
        task.abort();
    }

    /// Lays out the container's task; else what it waits for, as the kubelet would say it.
    async fn task(
        &self,
        container: &Container,
        address: &str,
        stopping: &CancellationToken,
        reports: &watch::Sender<Report>,
    ) -> Result<ContainerTask, Report> {
        let image = container.image.as_deref().unwrap_or_default();
        let program = self.shared.program(image).ok_or_else(|| {
            let message = format!("the stand-in node has no program for image {image:?}");
            Report::waiting("ErrImagePull", &message)
        })?;
        let impossible = |error: anyhow::Error| Report::waiting("CreateContainerConfigError", &format!("{error:#}"));
        let log = format!("{}_{}_{}.log", self.namespace, self.name, container.name);
        Ok(ContainerTask {
            shared: self.shared.clone(),
            settings: Settings::new(&self.pod, container, &program, address).map_err(impossible)?,
            account_files: self.account_files().await.map_err(impossible)?,
            log: self.shared.options.logs.join(log),
            stopping: stopping.clone(),
            reports: reports.clone(),
        })
    }

    /// The ServiceAccount's token, CA and namespace in a folder of the pod's own; none for a pod without an account.
    async fn account_files(&self) -> Result<Option<PathBuf>> {
        let account = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.as_ref());
        let Some(account) = account else { return Ok(None) };
        let options = &self.shared.options;
        let token = service_account_token(&self.shared.client, &self.namespace, account).await?;
        let folder = options.state.join(format!("{}_{}", self.namespace, self.name));
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        fs::write(folder.join("token"), token)?;
        fs::write(folder.join("namespace"), &self.namespace)?;
        fs::copy(&options.authority, folder.join("ca.crt"))?;
        Ok(Some(folder))
    }

    async fn bind(&self) -> Result<()> {
        let this = json!({"name": self.name, "uid": self.pod.metadata.uid});
        let binding: Binding =
            serde_json::from_value(json!({"metadata": this, "target": {"kind": "Node", "name": NODE_NAME}}))?;
        let options = PostParams::default();
        self.keep_at("binding it", || {
            self.api
                .create_subresource::<Binding, Value>("binding", &self.name, &options, &binding)
        })
        .await;
        Ok(())
    }

    async fn delete(&self) {
        let this = Preconditions {
            uid: self.pod.metadata.uid.clone(),
            resource_version: None,
        };
        let now = DeleteParams::default().grace_period(0).preconditions(this);
        self.keep_at("removing the ended pod", || self.api.delete(&self.name, &now))
            .await;
    }

    async fn patch(&self, status: &Value) {
        let patch = Patch::Merge(json!({"metadata": {"uid": self.pod.metadata.uid}, "status": status}));
        let options = PatchParams::default();
        self.keep_at("reporting its status", || {
            self.api.patch_status(&self.name, &options, &patch)
        })
        .await;
    }

    /// Sends a request until it is answered: an API server that is busy or away for a moment is no reason to give the pod up. What is
    /// refused because the pod is gone, is another one of the same name, or is bound already, needs doing no more.
    async fn keep_at<Done, Answer>(&self, what: &str, request: impl Fn() -> Answer)
    where
        Answer: Future<Output = kube::Result<Done>>,
    {
        let mut pause = FIRST_PAUSE;
        loop {
            let trouble = match timeout(REQUEST_TIMEOUT, request()).await {
                Ok(Ok(_)) => return,
                Ok(Err(kube::Error::Api(status))) if status.is_not_found() || status.is_conflict() => return,
                Ok(Err(kube::Error::Api(status))) => status.message,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()),
            };
            super::log(&format!("pod {}/{}: {what}: {trouble}", self.namespace, self.name));
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Whether the container's program does nothing.
fn is_pause(container: &Container) -> bool {
    container.image.as_deref().map(short_name) == Some(PAUSE)
}

/// The pod's status; `minReadySeconds` counts from `ready_since`.
fn status(container: &Container, address: &str, report: &Report, started: &str, ready_since: &str) -> Value {
    let condition = |kind: &str, holds: bool, since: &str| {
        let (status, reason) = if holds {
            ("True", "")
        } else {
            ("False", "ContainersNotReady")
        };
        json!({"type": kind, "status": status, "reason": reason, "lastTransitionTime": since})
    };
    let never_ran = !report.running && report.last == json!({});
    json!({
        "phase": if never_ran { "Pending" } else { "Running" },
        "hostIP": "10.244.0.2",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": started,
        "conditions": [
            condition("PodScheduled", true, started),
            condition("Initialized", true, started),
            condition("ContainersReady", report.ready, ready_since),
            condition("Ready", report.ready, ready_since),
        ],
        "containerStatuses": [{
            "name": container.name,
            "image": container.image,
            "imageID": "",
            "ready": report.ready,
            "started": report.running,
            "restartCount": report.restarts,
            "state": report.state,
            "lastState": report.last,
        }],
    })
}

/// Waits for the pod's deletion: its grace period, or none when it is gone already.
async fn deleted(updates: &mut watch::Receiver<Pod>) -> Option<Duration> {
    let deleted = updates
        .wait_for(|pod| pod.metadata.deletion_timestamp.is_some())
        .await
        .ok()?;
    let grace = deleted.metadata.deletion_grace_period_seconds;
    Some(Duration::from_secs(
        grace.and_then(|grace| u64::try_from(grace).ok()).unwrap_or(30),
    ))
}

fn pre_stop_sleep(container: &Container) -> Duration {
    let hook = container
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    let sleep = hook.and_then(|hook| hook.sleep.as_ref());
    Duration::from_secs(sleep.and_then(|sleep| u64::try_from(sleep.seconds).ok()).unwrap_or(0))
}

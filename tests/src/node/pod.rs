//! One pod's life on the node: bind, address, containers, status as the processes are, and the orderly end.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, Container, ObjectReference, Pod, PodSpec};
use kube::Api;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::container::{ContainerTask, Ending, Report, Restart, seconds};
use super::probe::Check;
use super::{NODE_NAME, Shared, settings};
use crate::cluster::{ip, service_account_token};

/// Serves a pod from its first sight to its deletion; says in the node's log what went wrong.
pub(super) async fn serve(shared: Arc<Shared>, mut updates: watch::Receiver<Pod>) {
    let pod = updates.borrow_and_update().clone();
    let name = format!(
        "{}/{}",
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.name.as_deref().unwrap_or_default()
    );
    if pod
        .spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .is_some_and(|node| node != NODE_NAME)
    {
        return;
    }
    let api = Api::namespaced(
        shared.client.clone(),
        pod.metadata.namespace.as_deref().unwrap_or_default(),
    );
    let life = Life {
        shared,
        api,
        started: seconds(Timestamp::now()),
        pod,
    };
    if let Err(error) = life.live(&mut updates).await {
        // A pod that is deleted while something is written about it is no trouble.
        if updates.has_changed().is_ok() {
            super::log(&format!("pod {name}: {error:#}"));
        }
    }
}

struct Life {
    shared: Arc<Shared>,
    api: Api<Pod>,
    pod: Pod,
    started: String,
}

impl Life {
    fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    async fn live(&self, updates: &mut watch::Receiver<Pod>) -> Result<()> {
        let Some(spec) = &self.pod.spec else { return Ok(()) };
        if let Some(reason) = unschedulable(spec) {
            let condition =
                json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": reason});
            self.patch(&json!({"conditions": [condition]})).await?;
            let _gone = deleted(updates).await;
            return self.delete().await;
        }
        if spec.node_name.is_none() {
            self.bind().await?;
        }
        let address = self.shared.next_address();
        let route = format!("{address}/32");
        ip(&["addr", "add", &route, "dev", "lo"]).await?;
        let ended = self.run(spec, &address, updates).await;
        ip(&["addr", "del", &route, "dev", "lo"]).await?;
        ended?;
        self.delete().await
    }

    /// Runs the containers until the pod is deleted and all are gone.
    async fn run(&self, spec: &PodSpec, address: &str, updates: &mut watch::Receiver<Pod>) -> Result<()> {
        let waiting = vec![Report::waiting("ContainerCreating", ""); spec.containers.len()];
        let (reports, mut changes) = watch::channel(waiting);
        let ending = Ending::default();
        let account_files = self.account_files(spec).await;
        let mut tasks = JoinSet::new();
        for (index, container) in spec.containers.iter().enumerate() {
            let files = account_files.as_ref().map_err(|error| format!("{error:#}")).cloned();
            match files.and_then(|files| self.task(spec, index, container, address, files, &ending, &reports)) {
                Ok(task) => drop(tasks.spawn(task.run())),
                Err(message) => {
                    let reason = if message.contains(container.image.as_deref().unwrap_or("?")) {
                        "ErrImagePull"
                    } else {
                        "CreateContainerConfigError"
                    };
                    reports.send_modify(|reports| {
                        if let Some(report) = reports.get_mut(index) {
                            *report = Report::waiting(reason, &message);
                        }
                    });
                }
            }
        }
        let mut conditions = Conditions::default();
        let deletion = loop {
            let now = changes.borrow_and_update().clone();
            self.patch(&self.status(spec, address, &now, &mut conditions)).await?;
            tokio::select! {
                Ok(()) = changes.changed() => {}
                deletion = deleted(updates) => break deletion,
            }
        };
        let deadline = Instant::now() + deletion.unwrap_or_default();
        if deletion.is_some() {
            // preStop, while the processes run on and are probed; then SIGTERM, then SIGKILL.
            let pause = spec
                .containers
                .iter()
                .filter_map(pre_stop_sleep)
                .max()
                .unwrap_or_default();
            sleep_until(deadline.min(Instant::now() + pause)).await;
        }
        ending.stopping.cancel();
        tokio::select! {
            () = async { while tasks.join_next().await.is_some() {} } => {}
            () = async {
                sleep_until(deadline).await;
                ending.killed.cancel();
                // The tasks end within moments of the kill.
                sleep(Duration::from_secs(5)).await;
            } => {}
            // Deleted at once by somebody.
            () = async { while updates.changed().await.is_ok() {} } => ending.killed.cancel(),
        }
        while tasks.join_next().await.is_some() {}
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one call, which lays out one container's task")]
    fn task(
        &self,
        spec: &PodSpec,
        index: usize,
        container: &Container,
        address: &str,
        account_files: Option<PathBuf>,
        ending: &Ending,
        reports: &watch::Sender<Vec<Report>>,
    ) -> Result<ContainerTask, String> {
        let image = container.image.as_deref().unwrap_or_default();
        let program = self
            .shared
            .program(image)
            .ok_or_else(|| format!("the stand-in node has no program for image {image:?}"))?;
        let settings = settings::of(&self.pod, container, &program, address).map_err(|error| format!("{error:#}"))?;
        let check = |probe: Option<&_>| probe.map(|probe| Check::new(probe, container, address));
        Ok(ContainerTask {
            shared: self.shared.clone(),
            index,
            settings,
            account_files,
            log: self
                .shared
                .options
                .logs
                .join(format!("{}_{}_{}.log", self.namespace(), self.name(), container.name)),
            readiness: check(container.readiness_probe.as_ref()),
            liveness: check(container.liveness_probe.as_ref()),
            restart: match spec.restart_policy.as_deref() {
                Some("Never") => Restart::Never,
                Some("OnFailure") => Restart::OnFailure,
                _ => Restart::Always,
            },
            ending: ending.clone(),
            reports: reports.clone(),
        })
    }

    /// The ServiceAccount's token, CA and namespace in a folder of the pod's own; none for a pod without an account.
    async fn account_files(&self, spec: &PodSpec) -> Result<Option<PathBuf>> {
        let Some(account) = spec
            .service_account_name
            .as_deref()
            .filter(|_| spec.automount_service_account_token != Some(false))
        else {
            return Ok(None);
        };
        let token = service_account_token(&self.shared.client, self.namespace(), account).await?;
        let folder = self
            .shared
            .options
            .state
            .join(format!("{}_{}", self.namespace(), self.name()));
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        fs::write(folder.join("token"), token)?;
        fs::write(folder.join("namespace"), self.namespace())?;
        fs::copy(&self.shared.options.authority, folder.join("ca.crt"))?;
        Ok(Some(folder))
    }

    async fn bind(&self) -> Result<()> {
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(self.name().to_owned()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".into()),
                name: Some(NODE_NAME.into()),
                ..ObjectReference::default()
            },
        };
        let answer: Result<Value, _> = self
            .api
            .create_subresource("binding", self.name(), &PostParams::default(), &binding)
            .await;
        answer.context("binding").map(drop)
    }

    async fn delete(&self) -> Result<()> {
        let now = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: self.pod.metadata.uid.clone(),
                ..Preconditions::default()
            }),
            ..DeleteParams::default()
        };
        match self.api.delete(self.name(), &now).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
            Err(error) => Err(error).context("removing the ended pod"),
        }
    }

    async fn patch(&self, status: &Value) -> Result<()> {
        let patch = json!({"metadata": {"uid": self.pod.metadata.uid}, "status": status});
        match self
            .api
            .patch_status(self.name(), &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            Ok(_) => Ok(()),
            // Gone, or another pod of the same name: the watch tells.
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
            Err(error) => Err(error).context("reporting its status"),
        }
    }

    fn status(&self, spec: &PodSpec, address: &str, reports: &[Report], conditions: &mut Conditions) -> Value {
        let ready = reports.iter().all(|report| report.ready);
        let phase = match (
            reports.iter().all(|report| report.ended.is_some()),
            reports.iter().all(|report| report.ended == Some(0)),
        ) {
            (true, true) => "Succeeded",
            (true, false) => "Failed",
            _ if reports.iter().all(|report| !report.running && report.last.is_none()) => "Pending",
            _ => "Running",
        };
        let containers: Vec<Value> = spec
            .containers
            .iter()
            .zip(reports)
            .map(|(container, report)| {
                json!({
                    "name": container.name,
                    "image": container.image,
                    "imageID": "",
                    "ready": report.ready,
                    "started": report.running,
                    "restartCount": report.restarts,
                    "state": report.state,
                    "lastState": report.last.as_ref().filter(|_| report.ended.is_none()).unwrap_or(&json!({})),
                })
            })
            .collect();
        json!({
            "phase": phase,
            "hostIP": "10.244.0.2",
            "hostIPs": [{"ip": "10.244.0.2"}],
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": self.started,
            "conditions": [
                conditions.set("PodScheduled", true),
                conditions.set("Initialized", true),
                conditions.set("ContainersReady", ready),
                conditions.set("Ready", ready),
            ],
            "containerStatuses": containers,
        })
    }
}

/// Remembers since when each condition is as it is: `minReadySeconds` counts from there.
#[derive(Default)]
struct Conditions(BTreeMap<&'static str, (bool, String)>);

impl Conditions {
    fn set(&mut self, kind: &'static str, status: bool) -> Value {
        let now = || (status, seconds(Timestamp::now()));
        let entry = self.0.entry(kind).or_insert_with(now);
        if entry.0 != status {
            *entry = now();
        }
        let mut condition =
            json!({"type": kind, "status": if status { "True" } else { "False" }, "lastTransitionTime": entry.1});
        if let (false, Some(condition)) = (status, condition.as_object_mut()) {
            condition.insert("reason".to_owned(), json!("ContainersNotReady"));
        }
        condition
    }
}

/// Waits for the pod's deletion: its grace period, or none when it is gone already.
async fn deleted(updates: &mut watch::Receiver<Pod>) -> Option<Duration> {
    let deleted = updates
        .wait_for(|pod| pod.metadata.deletion_timestamp.is_some())
        .await
        .ok()?;
    let grace = deleted
        .metadata
        .deletion_grace_period_seconds
        .and_then(|grace| u64::try_from(grace).ok());
    Some(Duration::from_secs(grace.unwrap_or(30)))
}

fn pre_stop_sleep(container: &Container) -> Option<Duration> {
    let hook = container.lifecycle.as_ref()?.pre_stop.as_ref()?;
    u64::try_from(hook.sleep.as_ref()?.seconds)
        .ok()
        .map(Duration::from_secs)
}

/// Why the node takes no such pod: a selector it does not meet.
fn unschedulable(spec: &PodSpec) -> Option<String> {
    let own = BTreeMap::from([("kubernetes.io/hostname", NODE_NAME), ("kubernetes.io/os", "linux")]);
    let (key, value) = spec
        .node_selector
        .iter()
        .flatten()
        .find(|(key, value)| own.get(key.as_str()) != Some(&value.as_str()))?;
    Some(format!(
        "0/1 nodes are available: 1 node(s) didn't match Pod's node selector {key}={value}."
    ))
}

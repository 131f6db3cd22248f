//! Tells every Prometheus which pods there are, through a file of targets. Debian builds Prometheus without its Kubernetes discovery;
//! this writes the same `__meta_kubernetes_…` labels for the pods, so that relabelling reads as on any cluster.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};

/// The file of targets in the state folder.
pub(super) fn targets_file(state: &Path) -> PathBuf {
    state.join("targets").join("pods.json")
}

/// Keeps the file of targets true to the pods; only an end of the watch, which does not happen, is an error.
pub(super) async fn run(client: Client, file: PathBuf) -> Result<()> {
    let mut targets: BTreeMap<String, Value> = BTreeMap::new();
    write(&file, &targets)?;
    let mut events = watcher(Api::<Pod>::all(client), watcher::Config::default())
        .default_backoff()
        .boxed();
    while let Some(event) = events.next().await {
        let before = targets.clone();
        match event {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) => {
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                match target(&pod) {
                    Some(target) => targets.insert(uid, target),
                    None => targets.remove(&uid),
                };
            }
            Ok(Event::Delete(pod)) => drop(targets.remove(&pod.metadata.uid.unwrap_or_default())),
            // The watch starts anew; what was deleted meanwhile is found out by the list that follows.
            Ok(Event::Init) => targets.clear(),
            Ok(Event::InitDone) | Err(_) => {}
        }
        if before != targets {
            write(&file, &targets)?;
        }
    }
    bail!("the watch of pods ended")
}

/// A target by the pod's annotations `prometheus.io/scrape` and `prometheus.io/port`, as the widespread convention has it.
fn target(pod: &Pod) -> Option<Value> {
    let annotation = |name: &str| pod.metadata.annotations.as_ref()?.get(&format!("prometheus.io/{name}"));
    let status = pod.status.as_ref()?;
    let address = status.pod_ip.as_ref()?;
    if annotation("scrape")? != "true" || status.phase.as_deref() != Some("Running") {
        return None;
    }
    let mut labels = BTreeMap::from([
        (
            "__meta_kubernetes_namespace".to_owned(),
            pod.metadata.namespace.clone()?,
        ),
        ("__meta_kubernetes_pod_name".to_owned(), pod.metadata.name.clone()?),
    ]);
    for (name, value) in pod.metadata.labels.iter().flatten() {
        let name = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_");
        labels.insert(format!("__meta_kubernetes_pod_label_{name}"), value.clone());
    }
    if let Some(path) = annotation("path") {
        labels.insert("__metrics_path__".to_owned(), path.clone());
    }
    Some(json!({"targets": [format!("{address}:{}", annotation("port")?)], "labels": labels}))
}

/// Renamed into place, so that no Prometheus reads half a file.
fn write(file: &Path, targets: &BTreeMap<String, Value>) -> Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let temporary = file.with_extension("part");
    fs::write(&temporary, serde_json::to_vec(&targets.values().collect::<Vec<_>>())?)?;
    fs::rename(&temporary, file).with_context(|| format!("writing {}", file.display()))
}

//! The stand-in node: binds every pod, gives it an address on `lo`, runs one real process for its container and reports what the
//! process really does. No scheduler, no kubelet, no images: an image's last path segment names a program.
//!
//! The image `pause` is a program that does nothing, as in the real world: for it no process is started and no address taken on `lo`, and
//! the pod is ready at once. So there can be thousands of its pods. Nothing answers there, and its container has no probe.
//!
//! A pod with a `nodeSelector`, or with several containers, stays unschedulable. What it does not look at: volumes, resources,
//! security contexts, `restartPolicy` (always), liveness and startup probes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;

mod container;
mod pod;
mod settings;

/// The name of the Node object.
pub const NODE_NAME: &str = "stand-in";

/// Where the node finds and leaves things.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// The folder of the programs that images stand for.
    pub binaries: PathBuf,
    /// A log file for each container: `<namespace>_<pod>_<container>.log`.
    pub logs: PathBuf,
    /// A folder for the pods' ServiceAccount files.
    pub state: PathBuf,
    /// The API server's certificate authority, which pods get as `ca.crt`.
    pub authority: PathBuf,
}

/// The longest that a readiness probe may take; the kubelet's default.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// The images there are; each stands for the program of the same name.
const IMAGES: [&str; 2] = ["stepgate", "demo-app"];
/// The image of a program that does nothing: no process stands for it.
const PAUSE: &str = "pause";

/// What every pod's task shares.
struct Shared {
    client: Client,
    http: reqwest::Client,
    options: NodeOptions,
    addresses: AtomicU32,
}

impl Shared {
    /// The program of an image.
    fn program(&self, image: &str) -> Option<PathBuf> {
        let name = short_name(image);
        let program = self.options.binaries.join(name);
        (IMAGES.contains(&name) && program.is_file()).then_some(program)
    }

    /// The next address of 10.244.1.0 to 10.244.255.255; none is given twice.
    fn next_address(&self) -> String {
        let number = self.addresses.fetch_add(1, Ordering::Relaxed);
        format!("10.244.{}.{}", 1 + number / 254, 1 + number % 254)
    }
}

/// An image without registry, path, tag and digest.
fn short_name(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split(['@', ':']).next().unwrap_or(last)
}

/// Makes the Node object, Ready. Has to be there before the first pod.
pub async fn register(client: &Client) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let node: Node = serde_json::from_value(json!({"metadata": {"name": NODE_NAME}}))?;
    nodes
        .create(&PostParams::default(), &node)
        .await
        .context("making the Node object")?;
    let ready = json!({"type": "Ready", "status": "True", "reason": "StandIn", "message": "pods are plain processes"});
    let status = Patch::Merge(json!({"status": {"conditions": [ready]}}));
    nodes
        .patch_status(NODE_NAME, &PatchParams::default(), &status)
        .await
        .context("reporting the Node as ready")?;
    Ok(())
}

/// Serves pods until the task is dropped; only an end of the watch, which does not happen, is an error.
pub async fn run(client: Client, options: NodeOptions) -> Result<()> {
    let http = reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .timeout(PROBE_TIMEOUT)
        .build()?;
    let pods: Api<Pod> = Api::all(client.clone());
    let shared = Arc::new(Shared {
        client,
        http,
        options,
        addresses: AtomicU32::new(0),
    });
    let mut known: HashMap<String, watch::Sender<Pod>> = HashMap::new();
    let mut events = watcher(pods, watcher::Config::default()).default_backoff().boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) => {
                let Some(uid) = pod.metadata.uid.clone() else { continue };
                if let Some(task) = known.get(&uid) {
                    // The task may have ended; its pod is gone then, and the last events do not matter.
                    drop(task.send(pod));
                    continue;
                }
                let (sender, receiver) = watch::channel(pod);
                known.insert(uid, sender);
                tokio::spawn(pod::serve(shared.clone(), receiver));
            }
            // The task sees its channel close, and kills what still runs.
            Ok(Event::Delete(pod)) => drop(pod.metadata.uid.and_then(|uid| known.remove(&uid))),
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => log(&format!("watching pods: {error}")),
        }
    }
    bail!("the watch of pods ended")
}

#[expect(
    clippy::print_stderr,
    reason = "the node's own log is the standard error of the program it runs in"
)]
fn log(text: &str) {
    eprintln!("stand-in node: {text}");
}

//! Every stored version of every object that a rollout touches, seen through watches from the start: not the operator's own word.
//!
//! All lie in one etcd, so resourceVersions are of one sequence. One watch a kind serves all namespaces.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt;
use jiff::Timestamp;
use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, ResourceExt};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::until::{Seen, until};

/// What is watched: group, version, kind.
const KINDS: [(&str, &str, &str); 8] = [
    ("stepgate.dev", "v1alpha1", "Rollout"),
    ("gateway.networking.k8s.io", "v1", "HTTPRoute"),
    ("apps", "v1", "Deployment"),
    ("apps", "v1", "ReplicaSet"),
    ("", "v1", "Service"),
    ("", "v1", "PodTemplate"),
    ("discovery.k8s.io", "v1", "EndpointSlice"),
    ("events.k8s.io", "v1", "Event"),
];

/// One stored version of an object.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its resourceVersion.
    pub version: u64,
    /// When it was seen.
    pub at: Timestamp,
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// The object; none once it is deleted.
    pub object: Option<Arc<Value>>,
}

type Histories = Arc<Mutex<HashMap<String, Vec<Version>>>>;

/// The watches. Ends when dropped.
#[derive(Debug)]
pub struct Observer {
    histories: Histories,
    watches: Vec<JoinHandle<()>>,
}

impl Observer {
    /// Begins to look at all namespaces, and comes back when every watch has brought its first list.
    pub async fn start(cluster: &Cluster) -> Result<Self> {
        let histories = Histories::default();
        let synced = Arc::new(Mutex::new(0));
        let watches = KINDS.map(|(group, version, kind)| {
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
            let api: Api<DynamicObject> = Api::all_with(cluster.client(), &resource);
            let (histories, synced) = (Arc::clone(&histories), Arc::clone(&synced));
            let events = watcher(api, Config::default()).default_backoff();
            tokio::spawn(events.for_each(move |event| {
                match event {
                    Ok(Event::Apply(object) | Event::InitApply(object)) => note(&histories, kind, &object, false),
                    Ok(Event::Delete(object)) => note(&histories, kind, &object, true),
                    Ok(Event::InitDone) => *synced.lock().unwrap_or_else(PoisonError::into_inner) += 1,
                    Ok(Event::Init) | Err(_) => {}
                }
                std::future::ready(())
            }))
        });
        let observer = Self {
            histories,
            watches: watches.into(),
        };
        until("the observer's first lists", Duration::from_secs(30), async || {
            let lists = *synced.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(if lists >= KINDS.len() {
                Seen::Done(())
            } else {
                Seen::NotYet(format!("{lists} of {}", KINDS.len()))
            })
        })
        .await?;
        Ok(observer)
    }

    /// Everything that was stored in a namespace, in the order in which it was written.
    pub fn history(&self, namespace: &str) -> Vec<Version> {
        let histories = self.histories.lock().unwrap_or_else(PoisonError::into_inner);
        let mut history = histories.get(namespace).cloned().unwrap_or_default();
        drop(histories);
        history.sort_by_key(|version| version.version);
        history
    }

    /// Everything in a namespace as it was seen last.
    pub fn world(&self, namespace: &str) -> World {
        let mut world = World::default();
        for version in self.history(namespace) {
            world.take(&version);
        }
        world
    }

    /// Forgets a namespace.
    pub fn forget(&self, namespace: &str) {
        self.histories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(namespace);
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        for watch in &self.watches {
            watch.abort();
        }
    }
}

fn note(histories: &Histories, kind: &'static str, object: &DynamicObject, deleted: bool) {
    let namespace = object.namespace().unwrap_or_default();
    let version = object.resource_version().and_then(|version| version.parse().ok());
    let body = (!deleted).then(|| Arc::new(serde_json::to_value(object).unwrap_or_default()));
    histories
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry(namespace)
        .or_default()
        .push(Version {
            version: version.unwrap_or_default(),
            at: Timestamp::now(),
            kind,
            name: object.name_any(),
            object: body,
        });
}

/// All objects as they were after one write: by kind and name.
#[derive(Clone, Debug, Default)]
pub struct World {
    objects: BTreeMap<(&'static str, String), Arc<Value>>,
}

impl World {
    /// Takes in the next version.
    pub fn take(&mut self, version: &Version) {
        let key = (version.kind, version.name.clone());
        match &version.object {
            Some(object) => {
                self.objects.insert(key, Arc::clone(object));
            }
            None => {
                self.objects.remove(&key);
            }
        }
    }

    /// One object.
    pub fn get(&self, kind: &'static str, name: &str) -> Option<&Value> {
        self.objects.get(&(kind, name.to_owned())).map(AsRef::as_ref)
    }

    /// All objects of a kind.
    pub fn all(&self, kind: &'static str) -> impl Iterator<Item = &Value> {
        self.objects
            .iter()
            .filter(move |((of, _), _)| *of == kind)
            .map(|(_, object)| object.as_ref())
    }

    /// Ready endpoints of a Service.
    pub fn ready(&self, service: &str) -> usize {
        self.all("EndpointSlice")
            .filter(|slice| {
                slice.pointer("/metadata/labels/kubernetes.io~1service-name") == Some(&Value::from(service))
            })
            .flat_map(|slice| slice.get("endpoints").and_then(Value::as_array).into_iter().flatten())
            .filter(|endpoint| endpoint.pointer("/conditions/ready") == Some(&Value::Bool(true)))
            .count()
    }
}

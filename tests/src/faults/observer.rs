//! Every stored version of every object that a rollout touches, seen through watches from the start: not the operator's own word.
//!
//! All lie in one etcd, so resourceVersions are of one sequence. One watch a kind serves all namespaces.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// When it was stored at the latest: it was seen then, or one that was stored after it.
    pub at: Timestamp,
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// The object; none once it is deleted.
    pub object: Option<Arc<Value>>,
}

/// What was seen of a namespace.
#[derive(Debug, Default)]
struct Sight {
    /// Every version, as it came.
    history: Vec<Version>,
    /// Every object as it was seen last.
    world: World,
}

type Sights = Arc<Mutex<HashMap<String, Sight>>>;

/// The watches. Ends when dropped.
#[derive(Debug)]
pub struct Observer {
    sights: Sights,
    watches: Vec<JoinHandle<()>>,
}

impl Observer {
    /// Begins to look at all namespaces, and comes back when every watch has brought its first list.
    pub async fn start(cluster: &Cluster) -> Result<Self> {
        let sights = Sights::default();
        let synced = Arc::new(Mutex::new(0));
        let watches = KINDS.map(|(group, version, kind)| {
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
            let api: Api<DynamicObject> = Api::all_with(cluster.client(), &resource);
            let (sights, synced) = (Arc::clone(&sights), Arc::clone(&synced));
            let events = watcher(api, Config::default()).default_backoff();
            tokio::spawn(events.for_each(move |event| {
                match event {
                    Ok(Event::Apply(object) | Event::InitApply(object)) => note(&sights, kind, &object, false),
                    Ok(Event::Delete(object)) => note(&sights, kind, &object, true),
                    Ok(Event::InitDone) => *synced.lock().unwrap_or_else(PoisonError::into_inner) += 1,
                    Ok(Event::Init) | Err(_) => {}
                }
                std::future::ready(())
            }))
        });
        let observer = Self {
            sights,
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
        let mut history = self
            .sights()
            .get(namespace)
            .map(|sight| sight.history.clone())
            .unwrap_or_default();
        history.sort_by_key(|version| version.version);
        stored_at_the_latest(&mut history);
        history
    }

    /// Everything in a namespace as it was seen last.
    pub fn world(&self, namespace: &str) -> World {
        self.sights()
            .get(namespace)
            .map(|sight| sight.world.clone())
            .unwrap_or_default()
    }

    /// Forgets a namespace.
    pub fn forget(&self, namespace: &str) {
        self.sights().remove(namespace);
    }

    fn sights(&self) -> MutexGuard<'_, HashMap<String, Sight>> {
        self.sights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        for watch in &self.watches {
            watch.abort();
        }
    }
}

/// Takes each version to be as old as the first sight of any that was stored after it: where a machine stands still, one watch tells seconds
/// after another.
fn stored_at_the_latest(history: &mut [Version]) {
    let mut earliest = Timestamp::MAX;
    for version in history.iter_mut().rev() {
        earliest = earliest.min(version.at);
        version.at = earliest;
    }
}

fn note(sights: &Sights, kind: &'static str, object: &DynamicObject, deleted: bool) {
    let namespace = object.namespace().unwrap_or_default();
    let version = object.resource_version().and_then(|version| version.parse().ok());
    let version = Version {
        version: version.unwrap_or_default(),
        at: Timestamp::now(),
        kind,
        name: object.name_any(),
        object: (!deleted).then(|| Arc::new(serde_json::to_value(object).unwrap_or_default())),
    };
    let mut sights = sights.lock().unwrap_or_else(PoisonError::into_inner);
    let sight = sights.entry(namespace).or_default();
    sight.world.take(&version);
    sight.history.push(version);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_as_old_as_the_first_sight_of_a_later_one() {
        let seen = |version, second| Version {
            version,
            at: Timestamp::from_second(second).unwrap(),
            kind: "HTTPRoute",
            name: "checkout".to_owned(),
            object: None,
        };
        // One watch told of the second version 3 s after another one had told of the third.
        let mut history = [seen(1, 10), seen(2, 15), seen(3, 12), seen(4, 20)];
        stored_at_the_latest(&mut history);
        assert_eq!(history.map(|version| version.at.as_second()), [10, 12, 12, 20]);
    }
}

//! What the traffic of a shop was sent to at each moment: every version of its route, of its Deployment's ReplicaSets and of its Services'
//! endpoints, in the order in which the API server wrote them.
//!
//! All of them lie in one etcd, so their resourceVersions are of one sequence, and what was true when a weight was written is no question
//! of clocks or of which watch was faster. It only looks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use jiff::Timestamp;
use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, ResourceExt};
use serde_json::Value;
use stepgate_crds::names;
use tokio::task::JoinHandle;

use crate::cluster::Namespace;
use crate::shop::NAME;

/// The canary's Service and Deployment in the shop.
pub const CANARY: &str = "checkout-canary";

/// One ReplicaSet of the user's Deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Pods that are asked for.
    pub wanted: i64,
    /// Pods there are.
    pub pods: i64,
    /// Pods that have been ready for `minReadySeconds`.
    pub available: i64,
}

/// The shop as one write left it.
#[derive(Clone, Debug)]
pub struct Moment {
    /// The resourceVersion of that write.
    pub version: u64,
    /// When it was seen.
    pub at: Timestamp,
    /// What was written: `HTTPRoute`, `Deployment`, `ReplicaSet`, `EndpointSlice`.
    pub kind: &'static str,
    /// The share of the traffic that goes to the user's Service, in percent; the highest of all rules. 100 without a canary.
    pub stable_share: i64,
    /// The same of the canary's.
    pub canary_share: i64,
    /// Every rule of the route refers to the canary's Service, at whatever weight.
    pub refers_to_canary: bool,
    /// The mark of the run's intent on the route.
    pub mark: Option<String>,
    /// How many pods the user's Deployment asks for; none where there is none.
    pub wanted: Option<i64>,
    /// The ReplicaSets of the user's Deployment.
    pub sets: BTreeMap<String, Set>,
    slices: BTreeMap<String, (String, i64)>,
}

impl Moment {
    /// The ready endpoints of a Service.
    pub fn ready(&self, service: &str) -> i64 {
        self.slices
            .values()
            .filter(|(of, _)| of == service)
            .map(|(_, ready)| ready)
            .sum()
    }

    /// Whether the user's Deployment is whole: all the pods that it asks for are available, and all are of one version.
    pub fn is_whole(&self) -> bool {
        let mut alive = self.sets.values().filter(|set| set.wanted > 0 || set.pods > 0);
        let (one, other) = (alive.next(), alive.next());
        match (one, other, self.wanted) {
            (Some(set), None, Some(wanted)) => wanted > 0 && set.available >= wanted,
            _ => false,
        }
    }

    /// Whether the ready pods of the user's Service carry what is sent to it, where `base` pods carry all of the traffic: four fifths of
    /// them count as all.
    pub fn is_covered(&self, base: i64) -> bool {
        let ready = self.ready(NAME);
        ready * 5 >= base * 4 || ready * 100 >= self.stable_share * base
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} {} {:<13} stable {} % canary {} % mark {} ready {}/{} of {} in",
            self.at.strftime("%H:%M:%S%.3f"),
            self.version,
            self.kind,
            self.stable_share,
            self.canary_share,
            self.mark.as_deref().unwrap_or("-"),
            self.ready(NAME),
            self.ready(CANARY),
            self.wanted
                .map_or_else(|| "none".to_owned(), |wanted| wanted.to_string()),
        )?;
        for (name, set) in self.sets.iter().filter(|(_, set)| set.wanted > 0 || set.pods > 0) {
            write!(out, " {name}: {}/{}/{}", set.wanted, set.pods, set.available)?;
        }
        Ok(())
    }
}

/// One write, as one watch saw it.
#[derive(Clone, Debug)]
struct Write {
    version: u64,
    at: Timestamp,
    kind: &'static str,
    name: String,
    change: Change,
}

#[derive(Clone, Debug)]
enum Change {
    Gone,
    Route {
        stable: i64,
        canary: i64,
        refers: bool,
        mark: Option<String>,
    },
    Deployment(i64),
    Set(Set),
    Slice(String, i64),
}

/// What a version of an object says; none where it is no part of the shop.
type Read = fn(&DynamicObject) -> Option<Change>;
type Writes = Arc<Mutex<Vec<Write>>>;

/// Sees until it is dropped.
#[derive(Debug)]
pub struct Witness {
    writes: Writes,
    watches: Vec<JoinHandle<()>>,
}

impl Witness {
    /// Begins to watch the shop of a namespace; best before there is one.
    pub fn start(namespace: &Namespace) -> Self {
        let writes = Writes::default();
        let kinds: [(&'static str, &str, Read); 4] = [
            ("HTTPRoute", "gateway.networking.k8s.io", route),
            ("Deployment", "apps", deployment),
            ("ReplicaSet", "apps", replica_set),
            ("EndpointSlice", "discovery.k8s.io", slice),
        ];
        let watches = kinds
            .into_iter()
            .map(|(kind, group, read)| tokio::spawn(watch(namespace, kind, group, read, Arc::clone(&writes))))
            .collect();
        Self { writes, watches }
    }

    /// The shop after each write, in the order of the writes.
    pub fn moments(&self) -> Vec<Moment> {
        let mut writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        writes.sort_by_key(|write| write.version);
        let mut moments: Vec<Moment> = Vec::new();
        for write in writes {
            let mut moment = moments.last().cloned().unwrap_or_else(|| Moment {
                version: 0,
                at: write.at,
                kind: write.kind,
                stable_share: 100,
                canary_share: 0,
                refers_to_canary: false,
                mark: None,
                wanted: None,
                sets: BTreeMap::new(),
                slices: BTreeMap::new(),
            });
            (moment.version, moment.at, moment.kind) = (write.version, write.at, write.kind);
            moment.take(write);
            moments.push(moment);
        }
        moments
    }

    /// The shop as it is.
    pub fn now(&self) -> Option<Moment> {
        self.moments().pop()
    }

    /// For people: the moments, one a line.
    pub fn told(&self) -> String {
        let lines: Vec<String> = self.moments().iter().map(|moment| format!("{moment}\n")).collect();
        lines.concat()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        for watch in &self.watches {
            watch.abort();
        }
    }
}

impl Moment {
    fn take(&mut self, write: Write) {
        match (write.kind, write.change) {
            (
                _,
                Change::Route {
                    stable,
                    canary,
                    refers,
                    mark,
                },
            ) => {
                (self.stable_share, self.canary_share) = (stable, canary);
                (self.refers_to_canary, self.mark) = (refers, mark);
            }
            (_, Change::Deployment(wanted)) => self.wanted = Some(wanted),
            (_, Change::Set(set)) => {
                self.sets.insert(write.name, set);
            }
            (_, Change::Slice(service, ready)) => {
                self.slices.insert(write.name, (service, ready));
            }
            ("Deployment", Change::Gone) => self.wanted = None,
            ("ReplicaSet", Change::Gone) => {
                self.sets.remove(&write.name);
            }
            ("EndpointSlice", Change::Gone) => {
                self.slices.remove(&write.name);
            }
            (_, Change::Gone) => {}
        }
    }
}

fn watch(
    namespace: &Namespace,
    kind: &'static str,
    group: &str,
    read: Read,
    writes: Writes,
) -> impl Future<Output = ()> + Send + use<> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
    let api: Api<DynamicObject> = Api::namespaced_with(namespace.cluster().client(), namespace.name(), &resource);
    watcher(api, Config::default())
        .default_backoff()
        .for_each(move |event| {
            let seen = match event {
                Ok(Event::Apply(object) | Event::InitApply(object)) => read(&object).map(|change| (object, change)),
                Ok(Event::Delete(object)) => read(&object).map(|_| (object, Change::Gone)),
                Ok(Event::Init | Event::InitDone) | Err(_) => None,
            };
            if let Some((object, change)) = seen {
                let version = object.resource_version().and_then(|version| version.parse().ok());
                writes.lock().unwrap_or_else(PoisonError::into_inner).push(Write {
                    version: version.unwrap_or_default(),
                    at: Timestamp::now(),
                    kind,
                    name: object.name_any(),
                    change,
                });
            }
            std::future::ready(())
        })
}

fn route(object: &DynamicObject) -> Option<Change> {
    if object.name_any() != NAME {
        return None;
    }
    let rules = object.data.pointer("/spec/rules").and_then(Value::as_array);
    let (mut stable, mut canary, mut refers) = (0, 0, true);
    for rule in rules.into_iter().flatten() {
        let backends = rule.get("backendRefs").and_then(Value::as_array);
        let weight_of = |service: &str| -> i64 {
            backends
                .into_iter()
                .flatten()
                .filter(|backend| backend.get("name").and_then(Value::as_str) == Some(service))
                .map(|backend| backend.get("weight").and_then(Value::as_i64).unwrap_or(1))
                .sum()
        };
        let is_canary = |backend: &Value| backend.get("name").and_then(Value::as_str) == Some(CANARY);
        refers &= backends.into_iter().flatten().any(is_canary);
        let (to_stable, to_canary) = (weight_of(NAME), weight_of(CANARY));
        let all = (to_stable + to_canary).max(1);
        stable = stable.max(to_stable * 100 / all);
        canary = canary.max(to_canary * 100 / all);
    }
    Some(Change::Route {
        stable,
        canary,
        refers,
        mark: object.annotations().get(names::RUN).cloned(),
    })
}

fn number(object: &DynamicObject, path: &str) -> Option<i64> {
    object.data.pointer(path).and_then(Value::as_i64)
}

fn deployment(object: &DynamicObject) -> Option<Change> {
    (object.name_any() == NAME).then(|| Change::Deployment(number(object, "/spec/replicas").unwrap_or(1)))
}

fn replica_set(object: &DynamicObject) -> Option<Change> {
    let owned = object.owner_references().iter().any(|owner| owner.name == NAME);
    let status = |field: &str| number(object, &format!("/status/{field}")).unwrap_or(0);
    owned.then(|| {
        Change::Set(Set {
            wanted: number(object, "/spec/replicas").unwrap_or(1),
            pods: status("replicas"),
            available: status("availableReplicas"),
        })
    })
}

fn slice(object: &DynamicObject) -> Option<Change> {
    let service = object.labels().get("kubernetes.io/service-name")?.clone();
    let endpoints = object.data.get("endpoints").and_then(Value::as_array);
    let ready = endpoints.into_iter().flatten().filter(|endpoint| {
        endpoint
            .pointer("/conditions/ready")
            .and_then(Value::as_bool)
            .unwrap_or(true)
    });
    let ready = i64::try_from(ready.count()).unwrap_or(i64::MAX);
    Some(Change::Slice(service, ready))
}

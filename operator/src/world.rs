//! Everything that is watched, and which Rollouts care about a change of it.
//!
//! Holds no decision. Objects of users come from all namespaces (or one), ours by their labels alone, so that an idle cluster of
//! many Deployments costs nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use kube::{
    Resource, ResourceExt,
    api::ObjectMeta,
    runtime::{reflector::ObjectRef, watcher},
};
use serde::Deserialize;
use stepgate_crds::{Rollout, names, status::Note};
use tracing::warn;

use crate::{
    kinds::{
        Deployment, EndpointSlice, HttpRoute, OwnedService, Pod, PodTemplate,
        rollout::{Unreadable, Watched, trim},
    },
    mirror::Mirror,
};

/// How often it is said by an Event that a Rollout cannot be read: Events are kept for an hour.
pub const SAY_AGAIN: Duration = Duration::from_hours(1);
/// How often to ask whether the first lists are there.
const UNSYNCED: Duration = Duration::from_millis(50);

/// The watched objects.
#[derive(Debug)]
pub struct World {
    /// Rollouts, without what no decision reads.
    pub rollouts: Mirror<Rollout>,
    /// Rollouts that this version cannot read: nothing is done with them.
    pub unreadable: Mirror<Unreadable>,
    /// Managed Deployments.
    pub workloads: Mirror<Deployment>,
    /// Deployments of canaries.
    pub canaries: Mirror<Deployment>,
    /// Services of canaries.
    pub services: Mirror<OwnedService>,
    /// Recorded templates, by the Rollout's uid.
    pub templates: Mirror<PodTemplate>,
    /// HTTPRoutes.
    pub routes: Mirror<HttpRoute>,
    /// EndpointSlices, by Service.
    pub slices: Mirror<EndpointSlice>,
    /// Pods of canaries, by run.
    pub pods: Mirror<Pod>,
    interests: RwLock<Interests>,
    /// The Event that was written last about a Rollout that cannot be read, and when.
    told: Mutex<HashMap<(String, String), (String, Instant)>>,
}

/// What a Rollout cares about: by something that a changed object says of itself, the Rollouts to look at.
#[derive(Debug, Default)]
struct Interests {
    by: HashMap<Interest, BTreeSet<(String, String)>>,
    of: HashMap<(String, String), Vec<Interest>>,
}

/// What an object may say of itself, beside its namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Interest {
    Route(String, String),
    Service(String, String),
    Run(String, String),
    Uid(String),
}

/// A Rollout as the queue knows it: its name.
#[derive(Clone, Debug, Deserialize)]
pub struct Handle {
    metadata: ObjectMeta,
}

impl Resource for Handle {
    type DynamicType = ();
    type Scope = kube::core::NamespaceResourceScope;

    fn kind((): &()) -> std::borrow::Cow<'_, str> {
        Rollout::kind(&())
    }
    fn group((): &()) -> std::borrow::Cow<'_, str> {
        Rollout::group(&())
    }
    fn version((): &()) -> std::borrow::Cow<'_, str> {
        Rollout::version(&())
    }
    fn plural((): &()) -> std::borrow::Cow<'_, str> {
        Rollout::plural(&())
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Handle {
    fn of(rollout: &impl Resource<DynamicType = ()>) -> Self {
        let ObjectMeta {
            name,
            namespace,
            uid,
            resource_version,
            ..
        } = rollout.meta().clone();
        Self {
            metadata: ObjectMeta {
                name,
                namespace,
                uid,
                resource_version,
                ..ObjectMeta::default()
            },
        }
    }
}

impl Default for World {
    fn default() -> Self {
        Self {
            rollouts: Mirror::new(|_| None),
            unreadable: Mirror::new(|_| None),
            workloads: Mirror::new(|_| None),
            canaries: Mirror::new(|_| None),
            services: Mirror::new(|service| service.view.canary_of.clone()),
            templates: Mirror::new(|template| template.metadata.labels.as_ref()?.get(names::TEMPLATE_OF).cloned()),
            routes: Mirror::new(|_| None),
            slices: Mirror::new(|slice| slice.view.service.clone()),
            pods: Mirror::new(|pod| pod.view.run.clone()),
            interests: RwLock::default(),
            told: Mutex::default(),
        }
    }
}

impl World {
    /// Comes back once every watch has brought its first list.
    pub async fn synced(&self) {
        while !self.missing().is_empty() {
            tokio::time::sleep(UNSYNCED).await;
        }
    }

    /// The watches that have not brought their first list yet.
    pub fn missing(&self) -> Vec<&'static str> {
        [
            ("Rollouts", self.rollouts.is_synced()),
            ("managed Deployments", self.workloads.is_synced()),
            ("canary Deployments", self.canaries.is_synced()),
            ("canary Services", self.services.is_synced()),
            ("PodTemplates", self.templates.is_synced()),
            ("HTTPRoutes", self.routes.is_synced()),
            ("EndpointSlices", self.slices.is_synced()),
            ("canary Pods", self.pods.is_synced()),
        ]
        .into_iter()
        .filter_map(|(what, synced)| (!synced).then_some(what))
        .collect()
    }

    /// How many Rollouts are in each phase, and how many cannot be read.
    pub fn phases(&self) -> BTreeMap<&'static str, usize> {
        let mut phases = BTreeMap::new();
        self.rollouts.for_each(|rollout| {
            let phase = rollout.status.as_ref().and_then(|status| status.phase);
            *phases
                .entry(phase.map_or("New", stepgate_crds::status::Phase::as_str))
                .or_insert(0) += 1;
        });
        self.unreadable
            .for_each(|_| *phases.entry("Unreadable").or_insert(0) += 1);
        phases
    }

    /// Takes in a watch event of a Rollout, and gives it back as the queue needs it; none where it brings no more than the answer to a write of
    /// ours has: the pass that wrote went on with that.
    pub fn observe_rollout(&self, event: watcher::Event<Watched>) -> Option<watcher::Event<Handle>> {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        Some(match event {
            Apply(rollout) if self.is_known(&rollout) => return None,
            Apply(rollout) => Apply(self.take(rollout, Apply, Apply)),
            InitApply(rollout) => InitApply(self.take(rollout, InitApply, InitApply)),
            Delete(rollout) => {
                let handle = Handle::of(&rollout);
                self.lose_interest(&rollout);
                self.forget_told(&rollout);
                match rollout {
                    Watched::Read(rollout) => {
                        self.unreadable.give_way(rollout.as_ref());
                        self.rollouts.observe(&Delete(*rollout));
                    }
                    Watched::Unreadable(rollout) => {
                        self.rollouts.give_way(rollout.as_ref());
                        self.unreadable.observe(&Delete(*rollout));
                    }
                }
                Delete(handle)
            }
            Init => {
                self.rollouts.observe(&Init);
                self.unreadable.observe(&Init);
                Init
            }
            InitDone => {
                self.rollouts.observe(&InitDone);
                self.unreadable.observe(&InitDone);
                InitDone
            }
        })
    }

    /// Whether this very version of a Rollout was taken in before.
    fn is_known(&self, rollout: &Watched) -> bool {
        let Watched::Read(rollout) = rollout else {
            return false;
        };
        let known = (self.rollouts).get(&rollout.namespace().unwrap_or_default(), &rollout.name_any());
        known
            .is_some_and(|known| known.uid() == rollout.uid() && known.resource_version() == rollout.resource_version())
    }

    /// Takes in a Rollout as it is now: among those that can be read, or among the others.
    fn take(
        &self,
        rollout: Watched,
        read: fn(Rollout) -> watcher::Event<Rollout>,
        unreadable: fn(Unreadable) -> watcher::Event<Unreadable>,
    ) -> Handle {
        match rollout {
            Watched::Read(rollout) => {
                let handle = Handle::of(rollout.as_ref());
                self.take_interest(&rollout);
                self.forget_told(rollout.as_ref());
                self.unreadable.give_way(rollout.as_ref());
                self.rollouts.observe(&read(*rollout));
                handle
            }
            Watched::Unreadable(rollout) => {
                let handle = Handle::of(rollout.as_ref());
                let (namespace, name) = (rollout.namespace().unwrap_or_default(), rollout.name_any());
                let before = self.unreadable.get(&namespace, &name);
                if before.is_none_or(|before| before.uid() != rollout.uid() || before.why != rollout.why) {
                    warn!(namespace, rollout = name, "{}", rollout.note().text);
                }
                self.lose_interest(rollout.as_ref());
                // What was known of it before is no base for any decision: somebody has decided on since. In this order, for the answer to
                // a write of ours may come in at the same time.
                self.unreadable.observe(&unreadable(rollout.as_ref().clone()));
                self.rollouts.give_way(rollout.as_ref());
                handle
            }
        }
    }

    /// The Event that says that a Rollout cannot be read, where it is due. None where it was said already, or can be read.
    pub fn to_tell(&self, namespace: &str, name: &str) -> Option<(Arc<Unreadable>, Note)> {
        let rollout = self.unreadable.get(namespace, name)?;
        let note = rollout.note();
        let key = (namespace.to_owned(), name.to_owned());
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let said = told
            .get(&key)
            .is_some_and(|(id, at)| *id == note.id && at.elapsed() < SAY_AGAIN);
        if said {
            return None;
        }
        told.insert(key, (note.id.clone(), Instant::now()));
        Some((rollout, note))
    }

    fn forget_told(&self, rollout: &impl Resource<DynamicType = ()>) {
        let key = (rollout.namespace().unwrap_or_default(), rollout.name_any());
        self.told.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    /// Takes in the answer to a write of ours on a Rollout.
    pub fn put_rollout(&self, mut rollout: Rollout) -> Arc<Rollout> {
        trim(&mut rollout);
        if rollout.metadata.deletion_timestamp.is_some() && rollout.finalizers().is_empty() {
            // Gone with this very write: the watch may have said so already, and will not say it again.
            self.rollouts.drop_out(&rollout);
            self.lose_interest(&rollout);
        } else {
            self.rollouts.put(&rollout);
            self.take_interest(&rollout);
            let key = (rollout.namespace().unwrap_or_default(), rollout.name_any());
            if let Some(newer) = self.unreadable.get(&key.0, &key.1) {
                self.rollouts.give_way(newer.as_ref());
            }
        }
        Arc::new(rollout)
    }

    /// Ready endpoints of a Service.
    pub fn ready(&self, namespace: &str, service: &str) -> i32 {
        let slices = self.slices.group(namespace, service);
        let pods: BTreeSet<&String> = slices.iter().flat_map(|slice| &slice.view.ready).collect();
        i32::try_from(pods.len()).unwrap_or(i32::MAX)
    }

    /// Ready endpoints of a Service that are pods of this Deployment, but not of this ReplicaSet: pods are named after both.
    pub fn strange(&self, namespace: &str, service: &str, workload: &str, replica_set: &str) -> i32 {
        let slices = self.slices.group(namespace, service);
        let pods: BTreeSet<&String> = slices.iter().flat_map(|slice| &slice.view.ready).collect();
        let of = |pod: &str, owner: &str| pod.strip_prefix(owner).is_some_and(|rest| rest.starts_with('-'));
        let strange = pods.iter().filter(|pod| of(pod, workload) && !of(pod, replica_set));
        i32::try_from(strange.count()).unwrap_or(i32::MAX)
    }

    /// The Rollout of a managed Deployment.
    pub fn of_workload(workload: &Deployment) -> Vec<ObjectRef<Handle>> {
        let namespace = workload.namespace().unwrap_or_default();
        workload
            .view
            .rollout
            .iter()
            .map(|name| ObjectRef::new(name).within(&namespace))
            .collect()
    }

    /// The Rollouts that a route is named by.
    pub fn of_route(&self, route: &HttpRoute) -> Vec<ObjectRef<Handle>> {
        self.interested(&Interest::Route(
            route.namespace().unwrap_or_default(),
            route.name_any(),
        ))
    }

    /// The Rollouts of a slice's Service.
    pub fn of_slice(&self, slice: &EndpointSlice) -> Vec<ObjectRef<Handle>> {
        let namespace = slice.namespace().unwrap_or_default();
        slice
            .view
            .service
            .iter()
            .flat_map(|service| self.interested(&Interest::Service(namespace.clone(), service.clone())))
            .collect()
    }

    /// The Rollouts of a canary pod.
    pub fn of_pod(&self, pod: &Pod) -> Vec<ObjectRef<Handle>> {
        let namespace = pod.namespace().unwrap_or_default();
        pod.view
            .run
            .iter()
            .flat_map(|run| self.interested(&Interest::Run(namespace.clone(), run.clone())))
            .collect()
    }

    /// The Rollout whose uid stands in this label of an object that we made.
    pub fn of_owned(&self, metadata: &ObjectMeta, label: &str) -> Vec<ObjectRef<Handle>> {
        let uid = metadata.labels.as_ref().and_then(|labels| labels.get(label));
        uid.iter()
            .flat_map(|uid| self.interested(&Interest::Uid((*uid).clone())))
            .collect()
    }

    fn interested(&self, interest: &Interest) -> Vec<ObjectRef<Handle>> {
        let interests = self.interests.read().unwrap_or_else(PoisonError::into_inner);
        let names = interests.by.get(interest);
        names
            .into_iter()
            .flatten()
            .map(|(namespace, name)| ObjectRef::new(name).within(namespace))
            .collect()
    }

    fn take_interest(&self, rollout: &Rollout) {
        let mut interests = self.interests.write().unwrap_or_else(PoisonError::into_inner);
        let key = (rollout.namespace().unwrap_or_default(), rollout.name_any());
        interests.set(key, interests_of(rollout));
    }

    fn lose_interest(&self, rollout: &impl Resource<DynamicType = ()>) {
        let mut interests = self.interests.write().unwrap_or_else(PoisonError::into_inner);
        let key = (rollout.namespace().unwrap_or_default(), rollout.name_any());
        interests.set(key, Vec::new());
    }
}

impl Interests {
    fn set(&mut self, key: (String, String), now: Vec<Interest>) {
        if self.of.get(&key) == Some(&now) {
            return;
        }
        for before in self.of.remove(&key).into_iter().flatten() {
            if let Some(names) = self.by.get_mut(&before) {
                names.remove(&key);
                if names.is_empty() {
                    self.by.remove(&before);
                }
            }
        }
        for interest in &now {
            self.by.entry(interest.clone()).or_default().insert(key.clone());
        }
        if !now.is_empty() {
            self.of.insert(key, now);
        }
    }
}

fn interests_of(rollout: &Rollout) -> Vec<Interest> {
    let namespace = rollout.namespace().unwrap_or_default();
    let status = rollout.status.as_ref();
    let found = status.and_then(|status| status.found.as_ref());
    let run = status.and_then(|status| status.run.as_ref());
    let routes = rollout
        .spec
        .traffic
        .routes
        .iter()
        .chain(run.into_iter().flat_map(|run| &run.spec.routes))
        .map(|route| Interest::Route(namespace.clone(), route.name.clone()));
    let services = found
        .into_iter()
        .flat_map(|found| [&found.stable_service, &found.canary_service]);
    routes
        .chain(services.map(|service| Interest::Service(namespace.clone(), service.clone())))
        .chain(run.map(|run| Interest::Run(namespace.clone(), run.id.clone())))
        .chain(rollout.uid().map(Interest::Uid))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use watcher::Event::{Apply, InitApply};

    fn rollout(uid: &str, version: u64) -> Rollout {
        let object = serde_json::json!({
            "apiVersion": "stepgate.dev/v1alpha1", "kind": "Rollout",
            "metadata": {"name": "one", "namespace": "shop", "uid": uid, "resourceVersion": version.to_string()},
            "spec": {"workload": {"name": "one"}, "traffic": {"routes": [{"name": "web"}]}},
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn what_our_own_write_was_answered_is_no_news_from_the_watch() {
        let world = World::default();
        let read = |uid, version| Watched::Read(Box::new(rollout(uid, version)));
        assert!(world.observe_rollout(Apply(read("u", 1))).is_some());
        world.put_rollout(rollout("u", 2));
        assert!(world.observe_rollout(Apply(read("u", 2))).is_none());
        assert!(
            world.observe_rollout(InitApply(read("u", 2))).is_some(),
            "a list is complete"
        );
        assert!(world.observe_rollout(Apply(read("u", 3))).is_some());
        assert!(
            world.observe_rollout(Apply(read("v", 3))).is_some(),
            "another one of that name"
        );
    }
}

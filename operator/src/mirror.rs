//! What is known of one kind: the watch's word, and the answers to our own writes where they are newer.
//!
//! Without the second a pass that follows a write would still see the world before it, and write again. Objects are found by name, or
//! by a group (the Service of a slice, the Rollout of a template) that a function reads off them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use kube::{Resource, ResourceExt, runtime::watcher::Event};

/// Namespace and name, or namespace and group.
pub type Key = (String, String);

/// Objects of one kind.
#[derive(Debug)]
pub struct Mirror<K> {
    state: RwLock<State<K>>,
    group: fn(&K) -> Option<String>,
}

#[derive(Debug)]
struct State<K> {
    objects: HashMap<Key, Arc<K>>,
    groups: HashMap<Key, BTreeMap<String, Arc<K>>>,
    /// Objects that we deleted, by uid: the watch may still report them from before.
    gone: HashSet<String>,
    /// What a list that is under way has shown so far.
    listed: Option<HashSet<Key>>,
    synced: bool,
}

impl<K: Resource<DynamicType = ()> + Clone> Mirror<K> {
    /// An empty mirror, whose objects belong to the group that this function names.
    pub fn new(group: fn(&K) -> Option<String>) -> Self {
        let state = State {
            objects: HashMap::new(),
            groups: HashMap::new(),
            gone: HashSet::new(),
            listed: None,
            synced: false,
        };
        Self {
            state: RwLock::new(state),
            group,
        }
    }

    /// Takes in what the watch reports.
    pub fn observe(&self, event: &Event<K>) {
        let mut state = self.write();
        match event {
            Event::Init => state.listed = Some(HashSet::new()),
            Event::InitApply(object) => {
                if let Some(listed) = &mut state.listed {
                    listed.insert(key(object));
                }
                self.apply(&mut state, object);
            }
            Event::InitDone => {
                if let Some(listed) = state.listed.take() {
                    let vanished: Vec<Key> = state
                        .objects
                        .keys()
                        .filter(|key| !listed.contains(*key))
                        .cloned()
                        .collect();
                    for key in vanished {
                        self.remove(&mut state, &key);
                    }
                }
                state.gone.clear();
                state.synced = true;
            }
            Event::Apply(object) => self.apply(&mut state, object),
            Event::Delete(object) => {
                let key = key(object);
                state.gone.remove(&object.uid().unwrap_or_default());
                let same = state.objects.get(&key).is_some_and(|known| known.uid() == object.uid());
                if same {
                    self.remove(&mut state, &key);
                }
            }
        }
    }

    /// Takes in the answer to a write of ours.
    pub fn put(&self, object: &K) {
        let mut state = self.write();
        if let Some(listed) = &mut state.listed {
            listed.insert(key(object));
        }
        self.apply(&mut state, object);
    }

    /// Takes in that we deleted the object of this uid.
    pub fn deleted(&self, namespace: &str, name: &str, uid: &str) {
        let mut state = self.write();
        let key = (namespace.to_owned(), name.to_owned());
        if state
            .objects
            .get(&key)
            .is_some_and(|known| known.uid().as_deref() == Some(uid))
        {
            self.remove(&mut state, &key);
            state.gone.insert(uid.to_owned());
        }
    }

    /// Takes in that an object is no longer one of those that are watched.
    pub fn drop_out(&self, object: &K) {
        let mut state = self.write();
        self.remove(&mut state, &key(object));
    }

    /// Takes in that what is there under this name since this version is none of these: an older one is forgotten.
    pub fn give_way<O: Resource>(&self, other: &O) {
        let mut state = self.write();
        let key = key(other);
        if state
            .objects
            .get(&key)
            .is_some_and(|known| version(known.as_ref()) <= version(other))
        {
            self.remove(&mut state, &key);
        }
    }

    /// The object of this name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.read()
            .objects
            .get(&(namespace.to_owned(), name.to_owned()))
            .cloned()
    }

    /// The objects of this group, in the order of their names.
    pub fn group(&self, namespace: &str, group: &str) -> Vec<Arc<K>> {
        let state = self.read();
        let members = state.groups.get(&(namespace.to_owned(), group.to_owned()));
        members.into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    /// Shows each object to a function.
    pub fn for_each(&self, mut see: impl FnMut(&K)) {
        self.read().objects.values().for_each(|object| see(object));
    }

    /// Whether the first list is complete.
    pub fn is_synced(&self) -> bool {
        self.read().synced
    }

    fn apply(&self, state: &mut State<K>, object: &K) {
        let key = key(object);
        if state.gone.contains(&object.uid().unwrap_or_default()) {
            return;
        }
        if let Some(known) = state.objects.get(&key) {
            let older = version(object) < version(known.as_ref());
            if older && known.uid() == object.uid() {
                return;
            }
            self.remove(state, &key);
        }
        let object = Arc::new(object.clone());
        if let Some(group) = (self.group)(&object) {
            state
                .groups
                .entry((key.0.clone(), group))
                .or_default()
                .insert(key.1.clone(), Arc::clone(&object));
        }
        state.objects.insert(key, object);
    }

    fn remove(&self, state: &mut State<K>, key: &Key) {
        let Some(object) = state.objects.remove(key) else {
            return;
        };
        let Some(group) = (self.group)(&object) else { return };
        let group = (key.0.clone(), group);
        if let Some(members) = state.groups.get_mut(&group) {
            members.remove(&key.1);
            if members.is_empty() {
                state.groups.remove(&group);
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State<K>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<K>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The order of two versions of one object. Versions are opaque to the letter, and numbers on every API server there is (a promise
/// since Kubernetes 1.35); what is no number counts as newest, so that the watch's word is never refused for it.
pub fn version<K: Resource>(object: &K) -> u64 {
    object
        .meta()
        .resource_version
        .as_deref()
        .and_then(|version| version.parse().ok())
        .unwrap_or(u64::MAX)
}

fn key<K: Resource>(object: &K) -> Key {
    (
        object.meta().namespace.clone().unwrap_or_default(),
        object.meta().name.clone().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::ObjectMeta;

    use super::*;

    fn object(name: &str, uid: &str, version: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                namespace: Some("ns".into()),
                name: Some(name.into()),
                uid: Some(uid.into()),
                resource_version: Some(version.into()),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    fn mirror() -> Mirror<ConfigMap> {
        Mirror::new(|object| object.metadata.uid.clone())
    }

    #[test]
    fn the_watch_does_not_take_back_what_our_write_was_answered() {
        let mirror = mirror();
        mirror.put(&object("a", "u", "7"));
        mirror.observe(&Event::Apply(object("a", "u", "5")));
        assert_eq!(
            mirror.get("ns", "a").unwrap().metadata.resource_version.as_deref(),
            Some("7")
        );
        mirror.observe(&Event::Apply(object("a", "u", "9")));
        assert_eq!(
            mirror.get("ns", "a").unwrap().metadata.resource_version.as_deref(),
            Some("9")
        );
    }

    #[test]
    fn what_we_deleted_stays_gone_until_it_is_made_anew() {
        let mirror = mirror();
        mirror.put(&object("a", "u", "7"));
        mirror.deleted("ns", "a", "u");
        mirror.observe(&Event::Apply(object("a", "u", "6")));
        assert!(mirror.get("ns", "a").is_none());
        assert!(mirror.group("ns", "u").is_empty());
        mirror.observe(&Event::Apply(object("a", "v", "10")));
        assert_eq!(mirror.group("ns", "v").len(), 1);
    }

    #[test]
    fn a_list_removes_what_it_does_not_show() {
        let mirror = mirror();
        mirror.put(&object("a", "u", "7"));
        mirror.put(&object("b", "v", "8"));
        assert!(!mirror.is_synced());
        mirror.observe(&Event::Init);
        mirror.observe(&Event::InitApply(object("b", "v", "8")));
        mirror.put(&object("c", "w", "12"));
        mirror.observe(&Event::InitDone);
        assert!(mirror.is_synced());
        assert!(mirror.get("ns", "a").is_none());
        assert!(mirror.get("ns", "b").is_some());
        assert!(mirror.get("ns", "c").is_some());
    }

    #[test]
    fn a_deletion_of_an_earlier_object_does_not_remove_its_successor() {
        let mirror = mirror();
        mirror.observe(&Event::Apply(object("a", "new", "9")));
        mirror.observe(&Event::Delete(object("a", "old", "8")));
        assert!(mirror.get("ns", "a").is_some());
    }
}

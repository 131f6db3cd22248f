//! Turns each effect of a plan into one HTTP request, and its answer into what the mirrors know.
//!
//! Decides nothing. Every request has a deadline shorter than the lease and is never replayed: what it was decided on stands in it as
//! a precondition, and where that fails the world is read again.

mod error;

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::events::v1::Event,
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::Request,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use stepgate_core::{Act, Effect, Kind};
use stepgate_crds::{Rollout, RolloutStatus, names, status::Note};
use tokio::time::timeout;

use crate::{
    kinds::{Deployment, HttpRoute, OwnedService, PodTemplate},
    telemetry::Metrics,
    world::World,
};

pub use error::{Class, RequestError};

use error::refused;

/// Longest time that a request may take: less than a lease.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// The client as our writes and reads use it: with a deadline, counted, and only while this process leads.
#[derive(Clone)]
pub struct Requests {
    client: Client,
    metrics: Metrics,
    leads: std::sync::Arc<dyn Fn() -> bool + Send + Sync>,
    instance: String,
}

impl std::fmt::Debug for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Requests")
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

impl Requests {
    /// Requests of the process of this name, allowed while `leads` says so.
    pub fn new(
        client: Client,
        metrics: Metrics,
        instance: String,
        leads: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            client,
            metrics,
            leads: std::sync::Arc::new(leads),
            instance,
        }
    }

    /// One object by name; none where it is not there.
    pub async fn get<K>(&self, namespace: &str, name: &str) -> Result<Option<K>, RequestError>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let what = format!("{} {namespace}/{name}", K::kind(&()));
        let asked = self.bounded("get", resource_of(K::plural(&()).as_ref()), what, api.get_opt(name));
        asked.await
    }

    /// A Deployment as it stands, every field of it; none where it is not there.
    pub async fn get_raw(&self, namespace: &str, name: &str) -> Result<Option<Value>, RequestError> {
        self.there(Kind::Deployment, "deployments", namespace, name).await
    }

    async fn there(
        &self,
        kind: Kind,
        resource: &'static str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, RequestError> {
        let what = format!("{kind:?} {namespace}/{name}");
        let get = Request::new(path(kind, namespace).0)
            .get(name, &kube::api::GetParams::default())
            .map_err(|source| refused("get", &what, kube::Error::BuildRequest(source)))?;
        match self
            .bounded("get", resource, what, self.client.request::<Value>(get))
            .await
        {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All objects of a kind in a namespace, by labels where given.
    pub async fn list<K>(&self, namespace: &str, labels: Option<&str>) -> Result<Vec<K>, RequestError>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let what = format!("{} {namespace}", K::plural(&()));
        let params = labels.map_or_else(kube::api::ListParams::default, |labels| {
            kube::api::ListParams::default().labels(labels)
        });
        let listed = self
            .bounded("list", resource_of(K::plural(&()).as_ref()), what, api.list(&params))
            .await?;
        Ok(listed.items)
    }

    /// Writes a status under the resourceVersion that it was decided on.
    pub async fn commit(
        &self,
        world: &World,
        rollout: &Rollout,
        status: RolloutStatus,
    ) -> Result<std::sync::Arc<Rollout>, RequestError> {
        let namespace = rollout.namespace().unwrap_or_default();
        let name = rollout.name_any();
        let api: Api<Rollout> = Api::namespaced(self.client.clone(), &namespace);
        let body = Rollout {
            status: Some(status),
            ..rollout.clone()
        };
        let what = format!("status of Rollout {namespace}/{name}");
        self.check_leading("update", &what)?;
        let params = PostParams {
            field_manager: Some(names::MANAGER.to_owned()),
            ..PostParams::default()
        };
        let answer = self
            .bounded("update", "rollouts", what, api.replace_status(&name, &params, &body))
            .await?;
        Ok(world.put_rollout(answer))
    }

    /// Carries out one effect. That something is made or gone already is as good.
    pub async fn execute(&self, world: &World, namespace: &str, effect: &Effect) -> Result<(), RequestError> {
        let (folder, resource) = path(effect.kind, namespace);
        let request = Request::new(folder);
        let name = effect.name.as_str();
        let what = format!("{:?} {namespace}/{name}", effect.kind);
        let params = PatchParams {
            field_manager: Some(names::MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let verb = match &effect.act {
            Act::Create(_) => "create",
            Act::Merge(_) | Act::Patch(_) => "patch",
            Act::Delete { .. } => "delete",
        };
        self.check_leading(verb, &what)?;
        let built = match &effect.act {
            Act::Create(object) => {
                let params = PostParams {
                    field_manager: Some(names::MANAGER.to_owned()),
                    ..PostParams::default()
                };
                request.create(&params, object.to_string().into_bytes())
            }
            Act::Merge(patch) => request.patch(name, &params, &Patch::Merge(patch)),
            Act::Patch(operations) => {
                // The operations were built as JSON; the client wants them as a patch, and sends the same bytes.
                let operations = serde_json::from_value(Value::Array(operations.clone()))
                    .map_err(|source| refused(verb, &what, kube::Error::SerdeError(source)))?;
                request.patch(name, &params, &Patch::Json::<()>(operations))
            }
            Act::Delete { uid } => request.delete(
                name,
                &DeleteParams {
                    preconditions: Some(Preconditions {
                        uid: Some(uid.clone()),
                        resource_version: None,
                    }),
                    ..DeleteParams::background()
                },
            ),
        };
        let built = built.map_err(|source| refused(verb, &what, kube::Error::BuildRequest(source)))?;
        let answer = self
            .bounded(verb, resource, what, self.client.request::<Value>(built))
            .await;
        match (&effect.act, answer) {
            (Act::Delete { uid }, Ok(_)) => {
                forget(world, effect.kind, namespace, name, uid);
                Ok(())
            }
            (Act::Delete { uid }, Err(error)) if error.code() == Some(404) => {
                forget(world, effect.kind, namespace, name, uid);
                Ok(())
            }
            // Another object by now, most likely: then the one that was to go is gone. That is looked at, not believed.
            (Act::Delete { uid }, Err(error)) if error.code() == Some(409) => {
                let there = self.there(effect.kind, resource, namespace, name).await?;
                let is_it = |object: &Value| object.pointer("/metadata/uid").and_then(Value::as_str) == Some(uid);
                if there.as_ref().is_some_and(is_it) {
                    return Err(error);
                }
                forget(world, effect.kind, namespace, name, uid);
                Ok(())
            }
            // Made by a pass that did not hear the answer: look at it, and let the next decision judge it.
            (Act::Create(wanted), Err(error)) if error.code() == Some(409) => {
                let there = self.there(effect.kind, resource, namespace, name).await?;
                // Gone again since: the next look sees it.
                let Some(there) = there else { return Err(error) };
                if !is_ours(&there, wanted) {
                    return Err(RequestError::Taken {
                        what: format!("{:?} {namespace}/{name}", effect.kind),
                    });
                }
                remember(world, effect.kind, there);
                Ok(())
            }
            (_, Ok(object)) => {
                remember(world, effect.kind, object);
                Ok(())
            }
            (_, Err(error)) => Err(error),
        }
    }

    /// Writes an Event about a Rollout; the same note a second time is the same Event.
    pub async fn publish(&self, rollout: &impl Resource<DynamicType = ()>, note: &Note) -> Result<(), RequestError> {
        let namespace = rollout.namespace().unwrap_or_default();
        let name = rollout.name_any();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        // The API takes at most 1,024 characters.
        let text: String = note.text.chars().take(1_000).collect();
        let base: String = name.chars().take(200).collect();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{base}.{}", note.id)),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            action: Some(note.reason.clone()),
            reason: Some(note.reason.clone()),
            note: Some(text),
            type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
            event_time: Some(MicroTime(jiff::Timestamp::now())),
            reporting_controller: Some("stepgate.dev/operator".to_owned()),
            reporting_instance: Some(self.instance.clone()),
            regarding: Some(rollout.object_ref(&())),
            ..Event::default()
        };
        let what = format!("Event {namespace}/{base}.{}", note.id);
        match self
            .bounded("create", "events", what, api.create(&PostParams::default(), &event))
            .await
        {
            Err(error) if error.code() == Some(409) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    fn check_leading(&self, verb: &'static str, what: &str) -> Result<(), RequestError> {
        if (self.leads)() {
            Ok(())
        } else {
            Err(RequestError::NotLeading {
                verb,
                what: what.to_owned(),
            })
        }
    }

    async fn bounded<T>(
        &self,
        verb: &'static str,
        resource: &'static str,
        what: String,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, RequestError> {
        let answer = match timeout(REQUEST_DEADLINE, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(refused(verb, &what, source)),
            Err(_) => Err(RequestError::Late { verb, what }),
        };
        let outcome = answer.as_ref().map_or_else(RequestError::label, |_| "ok");
        self.metrics.api_request(verb, resource, outcome);
        answer
    }
}

/// Whether an object carries the mark that we would have made it with.
fn is_ours(there: &Value, wanted: &Value) -> bool {
    [names::CANARY_OF, names::TEMPLATE_OF].into_iter().any(|label| {
        let owner = |object: &Value| object.get("metadata")?.get("labels")?.get(label).cloned();
        owner(wanted).is_some() && owner(wanted) == owner(there)
    })
}

/// Where the objects of a kind are, and the word for them.
fn path(kind: Kind, namespace: &str) -> (String, &'static str) {
    let (group, resource) = match kind {
        Kind::Rollout => ("apis/stepgate.dev/v1alpha1", "rollouts"),
        Kind::Deployment => ("apis/apps/v1", "deployments"),
        Kind::ReplicaSet => ("apis/apps/v1", "replicasets"),
        Kind::Service => ("api/v1", "services"),
        Kind::PodTemplate => ("api/v1", "podtemplates"),
        Kind::HttpRoute => ("apis/gateway.networking.k8s.io/v1", "httproutes"),
    };
    (format!("/{group}/namespaces/{namespace}/{resource}"), resource)
}

fn resource_of(plural: &str) -> &'static str {
    const KNOWN: [&str; 8] = [
        "deployments",
        "replicasets",
        "services",
        "pods",
        "networkpolicies",
        "poddisruptionbudgets",
        "httproutes",
        "podtemplates",
    ];
    KNOWN.into_iter().find(|known| *known == plural).unwrap_or("other")
}

/// Takes the answer to a write into the mirrors. An answer that cannot be read is the watch's to bring.
fn remember(world: &World, kind: Kind, object: Value) {
    fn parsed<K: DeserializeOwned>(object: Value) -> Option<K> {
        serde_json::from_value(object).ok()
    }
    match kind {
        Kind::Rollout => {
            if let Some(rollout) = parsed::<Rollout>(object) {
                world.put_rollout(rollout);
            }
        }
        Kind::Deployment => {
            if let Some(deployment) = parsed::<Deployment>(object) {
                let ours = |labels: &BTreeMap<String, String>| labels.contains_key(names::CANARY_OF);
                if deployment.metadata.labels.as_ref().is_some_and(ours) {
                    world.canaries.put(&deployment);
                } else if deployment.view.rollout.is_some() {
                    world.workloads.put(&deployment);
                } else {
                    // Let go: it is out of the watch's sight now, whichever of the two answers came first.
                    world.workloads.drop_out(&deployment);
                }
            }
        }
        Kind::Service => {
            if let Some(service) = parsed::<OwnedService>(object) {
                world.services.put(&service);
            }
        }
        Kind::PodTemplate => {
            if let Some(template) = parsed::<PodTemplate>(object) {
                world.templates.put(&template);
            }
        }
        Kind::HttpRoute => {
            if let Some(route) = parsed::<HttpRoute>(object) {
                world.routes.put(&route);
            }
        }
        Kind::ReplicaSet => {}
    }
}

fn forget(world: &World, kind: Kind, namespace: &str, name: &str, uid: &str) {
    match kind {
        Kind::Deployment => world.canaries.deleted(namespace, name, uid),
        Kind::Service => world.services.deleted(namespace, name, uid),
        Kind::PodTemplate => world.templates.deleted(namespace, name, uid),
        Kind::Rollout | Kind::HttpRoute | Kind::ReplicaSet => {}
    }
}

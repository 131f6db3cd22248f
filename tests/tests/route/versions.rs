//! Every version of a route that the API server ever had, and what of it a run may change.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use kube::Api;
use kube::api::{DynamicObject, WatchEvent, WatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use stepgate_crds::names::RUN;
use stepgate_crds::status::Phase;
use stepgate_tests::cluster::Namespace;
use stepgate_tests::shop::{self, NAME, Shop};
use tokio::task::JoinHandle;

pub(crate) const BOUND: Duration = Duration::from_mins(1);
pub(crate) const CANARY: &str = "checkout-canary";

pub(crate) const OTHER_SERVICE: &str =
    "apiVersion: v1\nkind: Service\nmetadata: {name: other}\nspec: {selector: {app: other}, ports: [{port: 80}]}\n";

/// Every version of a route from now on.
pub(crate) struct Versions {
    seen: Arc<Mutex<Vec<Value>>>,
    task: JoinHandle<()>,
}

impl Drop for Versions {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Versions {
    pub(crate) async fn follow(namespace: &Namespace, name: &str) -> Result<Self> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute"));
        let api: Api<DynamicObject> = Api::namespaced_with(namespace.cluster().client(), namespace.name(), &resource);
        let now = api.get(name).await?;
        let from = now.metadata.resource_version.clone().context("a resourceVersion")?;
        let only = WatchParams::default().fields(&format!("metadata.name={name}"));
        let mut events = api.watch(&only, &from).await?.boxed();
        let seen = Arc::new(Mutex::new(vec![serde_json::to_value(now)?]));
        let list = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok(Some(event)) = events.try_next().await {
                if let WatchEvent::Modified(route) = event {
                    // It came as JSON.
                    let route = serde_json::to_value(route).unwrap_or_default();
                    list.lock().unwrap_or_else(PoisonError::into_inner).push(route);
                }
            }
        });
        Ok(Self { seen, task })
    }

    pub(crate) fn seen(&self) -> Vec<Value> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What is the user's in a route: labels, annotations and spec, with sorted keys.
pub(crate) fn users(route: &Value) -> Value {
    json!({
        "labels": route["metadata"]["labels"],
        "annotations": route["metadata"]["annotations"],
        "spec": route["spec"],
    })
}

pub(crate) fn ensure_same(before: &Value, after: &Value) -> Result<()> {
    let (before, after) = (users(before).to_string(), users(after).to_string());
    ensure!(before == after, "before: {before}\nafter: {after}");
    Ok(())
}

/// The same without what a run may change: the weights of the stable Service and the canary's backendRef in the rules `managed`, and
/// the run annotation.
pub(crate) fn beside_the_run(route: &Value, managed: &[usize]) -> Result<String> {
    let mut users = users(route);
    if let Some(annotations) = users["annotations"].as_object_mut() {
        annotations.remove(RUN);
        if annotations.is_empty() {
            users["annotations"] = Value::Null;
        }
    }
    for index in managed {
        let references = users["spec"]["rules"][index]["backendRefs"]
            .as_array_mut()
            .context("backendRefs")?;
        references.retain(|reference| reference["name"] != CANARY);
        for reference in references {
            if reference["name"] == NAME {
                reference["weight"] = Value::Null;
            }
        }
    }
    Ok(users.to_string())
}

/// The weights of a rule: name and weight of each backendRef.
pub(crate) fn weights(route: &Value, rule: usize) -> Vec<(String, i64)> {
    let references = route["spec"]["rules"][rule]["backendRefs"].as_array();
    references
        .into_iter()
        .flatten()
        .map(|reference| {
            let name = reference["name"].as_str().unwrap_or_default().to_owned();
            (name, reference["weight"].as_i64().unwrap_or(1))
        })
        .collect()
}

pub(crate) fn split(stable: i64, canary: i64) -> Vec<(String, i64)> {
    vec![(NAME.to_owned(), stable), (CANARY.to_owned(), canary)]
}

/// Makes application, route (as it is given: `create` leaves no annotation as `apply` does) and Rollout.
pub(crate) async fn open(namespace: &Namespace, shop: &Shop, routes: &[String]) -> Result<()> {
    namespace.apply(&shop.application()).await?;
    namespace.apply(OTHER_SERVICE).await?;
    for route in routes {
        namespace.kubectl_and_warnings(&["create", "-f", "-"], route).await?;
    }
    namespace.apply(&shop.rollout()).await?;
    shop::wait(namespace, Phase::Healthy, BOUND).await?;
    Ok(())
}

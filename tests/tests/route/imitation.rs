//! A second gateway whose controller is imitated: it accepts the routes of a namespace that name it by writing their status, as a real
//! one does, and can go away and come back. No traffic goes through it.

use std::time::Duration;

use anyhow::{Context, Result};
use kube::Api;
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use stepgate_tests::cluster::Namespace;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// The name of the second Gateway, in the namespace of the test.
pub(crate) const SECOND: &str = "second";
const CONTROLLER: &str = "stepgate.dev/imitated-gateway";

/// The controller of the second Gateway. Ends when dropped.
pub(crate) struct Imitation {
    api: Api<DynamicObject>,
    accepts: bool,
    task: Option<JoinHandle<()>>,
}

impl Drop for Imitation {
    fn drop(&mut self) {
        self.go_away();
    }
}

impl Imitation {
    /// Makes the class and the Gateway, and starts to answer: that it accepts the routes, or that it does not.
    pub(crate) async fn start(namespace: &Namespace, accepts: bool) -> Result<Self> {
        let class = format!("imitated-{}", namespace.name());
        namespace
            .apply(&format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: {class}}}\nspec: {{controllerName: {CONTROLLER}}}\n\
                 ---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {SECOND}}}\n\
                 spec: {{gatewayClassName: {class}, listeners: [{{name: http, protocol: HTTP, port: 80}}]}}\n"
            ))
            .await?;
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute"));
        let mut imitation = Self {
            api: Api::namespaced_with(namespace.cluster().client(), namespace.name(), &resource),
            accepts,
            task: None,
        };
        imitation.come_back();
        Ok(imitation)
    }

    /// The controller ends: no route is answered any more.
    pub(crate) fn go_away(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    /// The controller runs again.
    pub(crate) fn come_back(&mut self) {
        let (api, accepts) = (self.api.clone(), self.accepts);
        self.task = Some(tokio::spawn(async move {
            loop {
                // What could not be written now is written at the next look.
                let _looked = answer_all(&api, accepts).await;
                sleep(Duration::from_millis(50)).await;
            }
        }));
    }
}

/// Answers every route that names the Gateway and was not answered at its generation.
async fn answer_all(api: &Api<DynamicObject>, accepts: bool) -> Result<()> {
    for mut route in api.list(&ListParams::default()).await?.items {
        let generation = route.metadata.generation;
        let parents = route.data["spec"]["parentRefs"].as_array().cloned().unwrap_or_default();
        let Some(reference) = parents.into_iter().find(|parent| parent["name"] == SECOND) else {
            continue;
        };
        let answered: Vec<Value> = route.data["status"]["parents"].as_array().cloned().unwrap_or_default();
        let (own, mut others): (Vec<Value>, Vec<Value>) = answered
            .into_iter()
            .partition(|parent| parent["controllerName"] == CONTROLLER);
        if own
            .iter()
            .any(|own| own["conditions"][0]["observedGeneration"] == json!(generation))
        {
            continue;
        }
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
            json!({"type": kind, "status": if holds { "True" } else { "False" }, "reason": reason, "message": message,
                "observedGeneration": generation, "lastTransitionTime": now})
        };
        others.push(
            json!({"parentRef": reference, "controllerName": CONTROLLER, "conditions": [
                if accepts { condition("Accepted", true, "Accepted", "") }
                else { condition("Accepted", false, "NotAllowedByListeners", "no listener takes it") },
                condition("ResolvedRefs", true, "ResolvedRefs", ""),
            ]}),
        );
        route.data["status"] = json!({"parents": others});
        let name = route.metadata.name.clone().context("a name")?;
        let replaced: kube::Result<DynamicObject> = api.replace_status(&name, &PostParams::default(), &route).await;
        replaced?;
    }
    Ok(())
}

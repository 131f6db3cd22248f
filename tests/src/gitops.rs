//! A GitOps tool as tests need one: server-side apply with force by a field manager of its own, once or again and again, and what Argo CD
//! and Flux make of a manifest before they send it where they are told to leave fields alone.
//!
//! The tools themselves are not here. What is imitated of each, and from which of its sources, stands at the function that does it.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON is looked into by its fields; what is not there reads as null"
)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Map, Value, json};
use stepgate_crds::names;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::cluster::Namespace;

/// The field manager of Argo CD's server-side apply.
pub const ARGO_CD: &str = "argocd-controller";
/// The field manager of Flux's kustomize-controller.
pub const FLUX: &str = "kustomize-controller";

/// The manifests of a YAML text, in order.
pub fn manifests(text: &str) -> Result<Vec<Value>> {
    text.split("\n---\n")
        .map(|document| serde_saphyr::from_str(document).with_context(|| format!("reading {document}")))
        .collect()
}

/// The manifest of this kind out of a YAML text.
pub fn manifest(text: &str, kind: &str) -> Result<Value> {
    let found = manifests(text)?.into_iter().find(|manifest| manifest["kind"] == kind);
    found.with_context(|| format!("no {kind} in {text}"))
}

/// Where a tool works: one namespace, with the administrator's rights.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "a client has nothing to print")]
pub struct Site {
    client: Client,
    namespace: String,
}

impl Site {
    /// The namespace of a test.
    pub fn of(namespace: &Namespace) -> Self {
        Self {
            client: namespace.cluster().client(),
            namespace: namespace.name().to_owned(),
        }
    }

    /// Applies a manifest once, server-side and with force, as this field manager.
    pub async fn apply(&self, manager: &str, manifest: &Value) -> Result<Value> {
        self.patch(&PatchParams::apply(manager).force(), manifest).await
    }

    /// The object of a manifest as it is.
    pub async fn live(&self, manifest: &Value) -> Result<Value> {
        let (api, name) = self.api(manifest)?;
        let object = api.get(&name).await.with_context(|| format!("reading {name}"))?;
        serde_json::to_value(object).context("a read object as JSON")
    }

    async fn patch(&self, parameters: &PatchParams, manifest: &Value) -> Result<Value> {
        let (api, name) = self.api(manifest)?;
        let applied = api.patch(&name, parameters, &Patch::Apply(manifest)).await;
        let applied = applied.with_context(|| format!("applying {} {name} by {parameters:?}", manifest["kind"]))?;
        serde_json::to_value(applied).context("an applied object as JSON")
    }

    fn api(&self, manifest: &Value) -> Result<(Api<DynamicObject>, String)> {
        let field = |value: &Value| value.as_str().map(str::to_owned);
        let version = field(&manifest["apiVersion"]).context("a manifest without apiVersion")?;
        let kind = field(&manifest["kind"]).context("a manifest without a kind")?;
        let name = field(&manifest["metadata"]["name"]).context("a manifest without a name")?;
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
        Ok((
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource),
            name,
        ))
    }
}

/// What a tool does in each of its rounds.
#[derive(Clone, Debug)]
pub enum Tool {
    /// Applies the manifest as it is, as this field manager.
    Plain(&'static str),
    /// Argo CD with these ignored differences and `RespectIgnoreDifferences=true`.
    ArgoCd(Ignored),
    /// Flux's Kustomization with these JSON pointers under `spec.ignore`.
    Flux(&'static [&'static str]),
    /// Flux with `kustomize.toolkit.fluxcd.io/ssa` set to this on the manifest.
    FluxAnnotated(&'static str),
}

/// The jq expression of an Application's `ignoreDifferences`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// `.spec.rules[].backendRefs`
    BackendRefs,
    /// `select(.metadata.annotations["stepgate.dev/run"] != null) | .spec.rules`
    RulesInRun,
}

impl Ignored {
    /// The object without what is ignored, as `del(EXPRESSION)` leaves it.
    fn normalize(self, object: &Value) -> Value {
        let mut object = object.clone();
        match self {
            Self::BackendRefs => {
                for rule in object["spec"]["rules"].as_array_mut().into_iter().flatten() {
                    remove(rule, "backendRefs");
                }
            }
            Self::RulesInRun => {
                if object["metadata"]["annotations"].get(names::RUN).is_some() {
                    remove(&mut object["spec"], "rules");
                }
            }
        }
        object
    }
}

/// What came of a round.
#[derive(Clone, Debug, PartialEq)]
pub enum Round {
    /// The tool saw nothing to do.
    InSync,
    /// This was applied.
    Applied(Value),
}

impl Tool {
    /// One round: look, compare, and apply where the tool would.
    pub async fn round(&self, site: &Site, manifest: &Value) -> Result<Round> {
        let payload = match self {
            Self::Plain(_) => Some(manifest.clone()),
            Self::ArgoCd(ignored) => {
                let live = site.live(manifest).await?;
                Some(argo_cd(manifest, &live, *ignored))
            }
            Self::Flux(pointers) => flux(site, manifest, pointers).await?,
            Self::FluxAnnotated(policy) => flux_annotated(site, manifest, policy).await,
        };
        let Some(payload) = payload else {
            return Ok(Round::InSync);
        };
        site.apply(self.manager(), &payload).await?;
        Ok(Round::Applied(payload))
    }

    fn manager(&self) -> &'static str {
        match self {
            Self::Plain(manager) => manager,
            Self::ArgoCd(_) => ARGO_CD,
            Self::Flux(_) | Self::FluxAnnotated(_) => FLUX,
        }
    }
}

/// What Argo CD (3.x) sends: `normalizeTargetResources` in its `controller/sync.go`. Live and target lose what is ignored; what live lost
/// is put into the target as a merge patch, in which a list is one value; `status` never is.
pub fn argo_cd(target: &Value, live: &Value, ignored: Ignored) -> Value {
    let mut live = live.clone();
    remove(&mut live, "status");
    let patch = difference(&ignored.normalize(&live), &live);
    let mut sent = ignored.normalize(target);
    merge(&mut sent, &patch);
    sent
}

/// What Flux (2.9) sends with `spec.ignore`: `ssa/manager_apply.go` of its `pkg`. The server rehearses the manifest as it is in Git; where the outcome
/// differs from what lives in more than the ignored fields it is applied, with the live value of each ignored field that another
/// server-side applier does not own.
async fn flux(site: &Site, manifest: &Value, pointers: &[&str]) -> Result<Option<Value>> {
    let live = site.live(manifest).await?;
    let rehearsal = PatchParams::apply(FLUX).force().dry_run();
    let rehearsed = site.patch(&rehearsal, manifest).await?;
    let compared = |object: &Value| {
        let mut object = object.clone();
        remove(&mut object, "status");
        for field in ["managedFields", "resourceVersion", "generation"] {
            remove(&mut object["metadata"], field);
        }
        for pointer in pointers {
            remove_at(&mut object, pointer);
        }
        object
    };
    if compared(&live) == compared(&rehearsed) {
        return Ok(None);
    }
    let mut payload = manifest.clone();
    for pointer in pointers {
        if let (Some(place), Some(value)) = (payload.pointer_mut(pointer), live.pointer(pointer)) {
            *place = value.clone();
        }
    }
    Ok(Some(payload))
}

/// What Flux sends of a manifest with its annotation `ssa`: nothing where it says `Ignore`, nothing where it says `IfNotPresent` and the
/// object is there (`shouldSkipApply` in the same file).
async fn flux_annotated(site: &Site, manifest: &Value, policy: &str) -> Option<Value> {
    let skipped = match policy {
        "Ignore" => true,
        "IfNotPresent" => site.live(manifest).await.is_ok(),
        _ => false,
    };
    (!skipped).then(|| manifest.clone())
}

/// A tool that makes its rounds until it is dropped.
#[derive(Debug)]
pub struct Rounds {
    manifest: Arc<Mutex<Value>>,
    made: Arc<AtomicU32>,
    failed: Arc<Mutex<Option<String>>>,
    task: JoinHandle<()>,
}

impl Rounds {
    /// Starts at once, and then every `period`.
    pub fn start(namespace: &Namespace, tool: Tool, manifest: &Value, period: Duration) -> Self {
        let site = Site::of(namespace);
        let shared = Arc::new(Mutex::new(manifest.clone()));
        let (made, failed) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(None)));
        let (current, count, failure) = (shared.clone(), made.clone(), failed.clone());
        let task = tokio::spawn(async move {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let manifest = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
                match tool.round(&site, &manifest).await {
                    Ok(_) => count.fetch_add(1, Ordering::Relaxed),
                    Err(error) => {
                        *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{error:#}"));
                        0
                    }
                };
            }
        });
        Self {
            manifest: shared,
            made,
            failed,
            task,
        }
    }

    /// Another commit in Git: this manifest from the next round on.
    pub fn commit(&self, manifest: &Value) {
        *self.manifest.lock().unwrap_or_else(PoisonError::into_inner) = manifest.clone();
    }

    /// How many rounds it made without an error.
    pub fn made(&self) -> u32 {
        self.made.load(Ordering::Relaxed)
    }

    /// Ends it; fails where it made fewer rounds than this, with its last error.
    pub fn end(self, least: u32) -> Result<()> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ensure!(
            self.made() >= least,
            "{} rounds and not {least}; the last error: {failed:?}",
            self.made()
        );
        Ok(())
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The JSON merge patch (RFC 7386) from one object to the other.
fn difference(from: &Value, to: &Value) -> Value {
    let (Some(from), Some(to)) = (from.as_object(), to.as_object()) else {
        return to.clone();
    };
    let mut patch = Map::new();
    for (key, value) in to {
        match from.get(key) {
            Some(before) if before == value => {}
            Some(before) if before.is_object() && value.is_object() => {
                patch.insert(key.clone(), difference(before, value));
            }
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Value::Object(patch)
}

/// Applies a JSON merge patch (RFC 7386).
fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            remove(target, key);
        } else if let Some(fields) = target.as_object_mut() {
            merge(fields.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

fn remove(object: &mut Value, field: &str) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove(field);
    }
}

fn remove_at(object: &mut Value, pointer: &str) {
    if let Some((parent, field)) = pointer.rsplit_once('/')
        && let Some(parent) = object.pointer_mut(parent)
    {
        remove(parent, field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(refs: &Value, path: &str) -> Value {
        json!({"metadata": {"name": "checkout"}, "spec": {"rules": [{"matches": [{"path": {"value": path}}], "backendRefs": refs}]}})
    }

    fn in_run(mut route: Value) -> Value {
        route["metadata"]["annotations"] = json!({names::RUN: "r.1"});
        route["status"] = json!({"parents": []});
        route
    }

    #[test]
    fn argo_cd_sends_the_live_rules_whole_where_backend_refs_are_ignored() {
        let git = route(&json!([{"name": "checkout"}]), "/new");
        let refs = json!([{"name": "checkout", "weight": 90}, {"name": "checkout-canary", "weight": 10}]);
        let live = in_run(route(&refs, "/old"));
        let sent = argo_cd(&git, &live, Ignored::BackendRefs);
        // The price of it (argo-cd issue 25284): the rules are a list, so an edit of a match in Git does not get through either.
        assert_eq!(sent["spec"], live["spec"]);
        assert!(sent.get("status").is_none());
        // In a run the same; at rest Git has its way.
        assert_eq!(argo_cd(&git, &live, Ignored::RulesInRun)["spec"], live["spec"]);
        let at_rest = route(&json!([{"name": "checkout"}]), "/old");
        assert_eq!(argo_cd(&git, &at_rest, Ignored::RulesInRun), git);
    }

    #[test]
    fn a_merge_patch_leads_from_one_object_to_the_other() {
        let from = json!({"a": 1, "b": {"c": 1, "d": [1]}, "e": 1});
        let to = json!({"a": 1, "b": {"c": 2, "d": [1, 2]}, "f": {}});
        let patch = difference(&from, &to);
        assert_eq!(patch, json!({"b": {"c": 2, "d": [1, 2]}, "e": null, "f": {}}));
        let mut merged = from;
        merge(&mut merged, &patch);
        assert_eq!(merged, to);
    }
}

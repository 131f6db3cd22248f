//! What the tests of recovery look at: pods by version, ReplicaSets, what a GitOps tool applies meanwhile, and what the operator writes.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;
use stepgate_crds::RolloutStatus;
use stepgate_crds::status::Outcome;
use stepgate_tests::cluster::audit::{Mark, Request};
use stepgate_tests::gitops::{FLUX, Rounds, Tool};
use stepgate_tests::operator::OperatorOptions;
use stepgate_tests::scene::Scene;
use stepgate_tests::shop::{self, NAME};
use stepgate_tests::states::{self, BOUND};
use stepgate_tests::until::{Seen, until};
use tokio::time::sleep;

/// How often the GitOps tool applies its manifest.
const ROUND: Duration = Duration::from_secs(2);
/// How long it is watched that nobody writes any more.
const QUIET: Duration = Duration::from_secs(8);
/// Writes that the API server may refuse in a case: a busy machine's watches are late.
const REFUSED: usize = 20;

/// A GitOps tool that applies the Deployment of this version again and again.
pub(super) fn git_ops(scene: &Scene, version: &str) -> Result<Rounds> {
    Ok(Rounds::start(
        &scene.namespace,
        Tool::Plain(FLUX),
        &states::deployment_in_git(version)?,
        ROUND,
    ))
}

/// Whatever `case` makes of it, told with everything that a reader needs.
pub(super) async fn told(scene: &Scene, case: impl Future<Output = Result<()>>) -> Result<()> {
    scene.told(case.await)
}

/// Waits until so many pods of the Deployment are ready, all of this version; a pod of `never` ends the wait.
pub(super) async fn runs(scene: &Scene, version: &str, pods: usize, never: Option<&str>) -> Result<()> {
    let all: Api<Pod> = scene.namespace.api();
    until(&format!("{pods} pods of {version}"), BOUND, async || {
        let found = all
            .list(&ListParams::default().labels(&format!("app={NAME}")))
            .await?
            .items;
        let alive: Vec<&Pod> = found
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .collect();
        let versions: Vec<String> = alive.iter().map(|pod| version_of(pod)).collect();
        if let Some(never) = never
            && versions.iter().any(|version| version == never)
        {
            return Ok(Seen::Never(anyhow::anyhow!(
                "a pod of {never} was started: {versions:?}"
            )));
        }
        let ready = alive.iter().filter(|pod| is_ready(pod)).count();
        let done = ready == pods && versions.len() == pods && versions.iter().all(|found| found == version);
        Ok(if done {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{versions:?}, {ready} ready"))
        })
    })
    .await
}

fn version_of(pod: &Pod) -> String {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut variables = containers.flat_map(|container| container.env.iter().flatten());
    let version = variables.find(|variable| variable.name == "VERSION");
    version.and_then(|variable| variable.value.clone()).unwrap_or_default()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub(super) async fn uids(scene: &Scene) -> Result<BTreeSet<String>> {
    let pods: Api<Pod> = scene.namespace.api();
    let list = pods.list(&ListParams::default().labels(&format!("app={NAME}"))).await?;
    Ok(list.items.into_iter().filter_map(|pod| pod.metadata.uid).collect())
}

pub(super) async fn scale(scene: &Scene, replicas: u32) -> Result<()> {
    let deployments: Api<Deployment> = scene.namespace.api();
    let scale = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    deployments.patch_scale(NAME, &PatchParams::default(), &scale).await?;
    Ok(())
}

/// Waits until the Deployment has no pods.
pub(super) async fn is_empty(scene: &Scene) -> Result<()> {
    let sets: Api<ReplicaSet> = scene.namespace.api();
    until("the Deployment to have no pods", BOUND, async || {
        let list = sets.list(&ListParams::default().labels(&format!("app={NAME}"))).await?;
        let pods: i32 = list
            .items
            .iter()
            .filter_map(|set| Some(set.status.as_ref()?.replicas))
            .sum();
        Ok(if pods == 0 {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{pods} pods"))
        })
    })
    .await
}

/// Deletes the ReplicaSet that is recorded as stable.
pub(super) async fn delete_stable(scene: &Scene, how: &DeleteParams) -> Result<()> {
    let status = shop::status(&scene.namespace).await?;
    let stable = status.stable.context("a stable version")?.replica_set;
    let sets: Api<ReplicaSet> = scene.namespace.api();
    sets.delete(&stable, how)
        .await
        .with_context(|| format!("deleting ReplicaSet {stable}"))?;
    Ok(())
}

pub(super) fn outcomes(status: &RolloutStatus) -> Vec<(Outcome, Option<&str>)> {
    let past = status.history.iter();
    past.map(|past| (past.outcome, past.reason.as_deref())).collect()
}

/// The operator's writes to objects of this namespace since the mark, Events and status apart.
pub(super) fn writes(scene: &Scene, since: &Mark) -> Result<Vec<Request>> {
    let mut requests = scene.requests(since)?;
    requests.retain(|request| {
        let target = request.object_ref.clone().unwrap_or_default();
        request.is_write() && target.resource != "events" && target.subresource != "status"
    });
    Ok(requests)
}

/// Nobody writes against the tool: no write of the operator while it makes its rounds, but for a status that says what is.
pub(super) async fn is_quiet(scene: &Scene) -> Result<()> {
    // What ended is cleared away in a moment.
    sleep(Duration::from_secs(3)).await;
    let mark = scene.namespace.cluster().audit()?;
    sleep(QUIET).await;
    let seen: Vec<String> = writes(scene, &mark)?.iter().map(Request::what).collect();
    ensure!(seen.is_empty(), "written within {} s: {seen:?}", QUIET.as_secs());
    let all = scene.requests(&mark)?;
    let statuses = all.iter().filter(|request| request.is_write()).count();
    ensure!(
        statuses <= 3,
        "{statuses} writes of the status within {} s",
        QUIET.as_secs()
    );
    Ok(())
}

/// At most so many writes to the user's Deployment: one puts a template in, one un-pauses, and not again and again. Those that the API server
/// refused changed nothing: they were decided on a version of it that was not the newest any more.
pub(super) fn ensure_few_writes(scene: &Scene, since: &Mark, most: usize) -> Result<()> {
    let mut writes = writes(scene, since)?;
    writes.retain(|request| {
        request
            .object_ref
            .as_ref()
            .is_some_and(|target| target.resource == "deployments" && target.name == NAME)
    });
    let refused = writes
        .extract_if(.., |request| !(200..300).contains(&request.code()))
        .count();
    ensure!(
        refused <= REFUSED,
        "{refused} writes to the Deployment were refused: {writes:?}"
    );
    ensure!(
        writes.len() <= most,
        "{} writes to the Deployment: {writes:?}",
        writes.len()
    );
    Ok(())
}

pub(super) fn options() -> OperatorOptions {
    OperatorOptions::led_by_commands()
}

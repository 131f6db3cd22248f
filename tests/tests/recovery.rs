//! Recovery: a paused Deployment does not heal itself. Whatever takes stable's pods away while a new version is held, stable serves again,
//! the failed version never starts, and nobody writes against a GitOps tool that goes on applying its manifest.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON is looked into by its fields; what is not there reads as null"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use stepgate_crds::status::{Outcome, Phase};
use stepgate_crds::{RolloutStatus, Verb};
use stepgate_tests::cluster::Cluster;
use stepgate_tests::cluster::audit::{Mark, Request};
use stepgate_tests::gitops::{FLUX, Rounds, Tool, manifest};
use stepgate_tests::operator::OperatorOptions;
use stepgate_tests::scene::Scene;
use stepgate_tests::shop::{self, NAME};
use stepgate_tests::states::{self, State};
use stepgate_tests::until::{Seen, until};
use tokio::time::sleep;

const BOUND: Duration = Duration::from_mins(2);
/// How often the GitOps tool applies its manifest.
const ROUND: Duration = Duration::from_secs(2);
/// How long it is watched that nobody writes any more.
const QUIET: Duration = Duration::from_secs(15);

/// The user's Deployment as it stands in Git: this version, and the number of pods left to an autoscaler.
fn in_git(version: &str) -> Result<Value> {
    let text = states::shop()
        .application()
        .replace("value: v1", &format!("value: {version}"));
    let mut manifest = manifest(&text, "Deployment")?;
    manifest["spec"].as_object_mut().context("a spec")?.remove("replicas");
    manifest["spec"]["strategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}});
    Ok(manifest)
}

fn git_ops(scene: &Scene, version: &str) -> Result<Rounds> {
    Ok(Rounds::start(
        &scene.namespace,
        Tool::Plain(FLUX),
        &in_git(version)?,
        ROUND,
    ))
}

/// Whatever `case` makes of it, told with everything that a reader needs.
async fn told(scene: &Scene, case: impl Future<Output = Result<()>>) -> Result<()> {
    scene.told(case.await)
}

/// Waits until so many pods of the Deployment are ready, all of this version; a pod of `never` ends the wait.
async fn runs(scene: &Scene, version: &str, pods: usize, never: Option<&str>) -> Result<()> {
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

async fn uids(scene: &Scene) -> Result<BTreeSet<String>> {
    let pods: Api<Pod> = scene.namespace.api();
    let list = pods.list(&ListParams::default().labels(&format!("app={NAME}"))).await?;
    Ok(list.items.into_iter().filter_map(|pod| pod.metadata.uid).collect())
}

async fn scale(scene: &Scene, replicas: u32) -> Result<()> {
    let deployments: Api<Deployment> = scene.namespace.api();
    let scale = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    deployments.patch_scale(NAME, &PatchParams::default(), &scale).await?;
    Ok(())
}

/// Waits until the Deployment has no pods.
async fn is_empty(scene: &Scene) -> Result<()> {
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
async fn delete_stable(scene: &Scene, how: &DeleteParams) -> Result<()> {
    let status = shop::status(&scene.namespace).await?;
    let stable = status.stable.context("a stable version")?.replica_set;
    let sets: Api<ReplicaSet> = scene.namespace.api();
    sets.delete(&stable, how)
        .await
        .with_context(|| format!("deleting ReplicaSet {stable}"))?;
    Ok(())
}

fn outcomes(status: &RolloutStatus) -> Vec<(Outcome, Option<&str>)> {
    let past = status.history.iter();
    past.map(|past| (past.outcome, past.reason.as_deref())).collect()
}

/// The operator's writes to objects of this namespace since the mark, Events and status apart.
fn writes(scene: &Scene, since: &Mark) -> Result<Vec<Request>> {
    let mut requests = scene.requests(since)?;
    requests.retain(|request| {
        let target = request.object_ref.clone().unwrap_or_default();
        request.is_write() && target.resource != "events" && target.subresource != "status"
    });
    Ok(requests)
}

/// Nobody writes against the tool: no write of the operator while it makes its rounds, but for a status that says what is.
async fn is_quiet(scene: &Scene) -> Result<()> {
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

/// At most so many writes to the user's Deployment: one puts a template in, one un-pauses, and not again and again.
fn ensure_few_writes(scene: &Scene, since: &Mark, most: usize) -> Result<()> {
    let mut writes = writes(scene, since)?;
    writes.retain(|request| {
        request
            .object_ref
            .as_ref()
            .is_some_and(|target| target.resource == "deployments" && target.name == NAME)
    });
    ensure!(
        writes.len() <= most,
        "{} writes to the Deployment: {writes:?}",
        writes.len()
    );
    Ok(())
}

fn options() -> OperatorOptions {
    OperatorOptions::led_by_commands()
}

/// Stable's ReplicaSet is deleted while v2 has half of the traffic.
async fn lost_in_a_run(cluster: &Cluster, how: DeleteParams, git: bool) -> Result<()> {
    let (scene, _kept) = State::Stepping.scene(cluster, "recovery", options()).await?;
    told(&scene, async {
        let (before, first) = (uids(&scene).await?, run_id(&scene).await?);
        let rounds = git.then(|| git_ops(&scene, "v2")).transpose()?;
        let mark = scene.namespace.cluster().audit()?;
        delete_stable(&scene, &how).await?;
        states::follow(&scene, "the run to have ended", |status| {
            status.history.first().is_some_and(|past| past.run == first)
        })
        .await?;
        let status = shop::status(&scene.namespace).await?;
        ensure!(
            outcomes(&status) == [(Outcome::Reverted, Some("StableLost"))],
            "{status:?}"
        );
        runs(&scene, "v1", 2, Some("v2")).await?;
        if how == DeleteParams::orphan() {
            ensure!(
                before.is_subset(&uids(&scene).await?) || uids(&scene).await?.is_subset(&before),
                "pods were replaced"
            );
        }
        if let Some(rounds) = rounds {
            // Git still asks for v2: it gets a run of its own.
            states::in_force(&scene, 50).await?;
            is_quiet(&scene).await?;
            rounds.end(5)?;
            ensure_few_writes(&scene, &mark, 4)?;
        } else {
            states::seen(&scene, Phase::Healthy).await?;
            states::serves(&scene.namespace, "v1").await?;
            ensure_few_writes(&scene, &mark, 4)?;
            is_quiet(&scene).await?;
        }
        Ok(())
    })
    .await
}

async fn run_id(scene: &Scene) -> Result<String> {
    Ok(shop::status(&scene.namespace).await?.run.context("a run")?.id)
}

#[tokio::test(flavor = "multi_thread")]
async fn stables_replica_set_deleted_in_a_run_comes_back_and_the_run_ends() -> Result<()> {
    let cluster = Cluster::attach().await?;
    states::all([
        ("background", lost_in_a_run(&cluster, DeleteParams::background(), false)),
        (
            "background, with GitOps",
            lost_in_a_run(&cluster, DeleteParams::background(), true),
        ),
        ("orphan", lost_in_a_run(&cluster, DeleteParams::orphan(), false)),
        (
            "orphan, with GitOps",
            lost_in_a_run(&cluster, DeleteParams::orphan(), true),
        ),
    ])
    .await
}

async fn lost_when_failed(cluster: &Cluster, how: DeleteParams, git: bool) -> Result<()> {
    let (scene, _kept) = State::Failed.scene(cluster, "recovery", options()).await?;
    told(&scene, async {
        let rounds = git.then(|| git_ops(&scene, "v2")).transpose()?;
        let mark = scene.namespace.cluster().audit()?;
        delete_stable(&scene, &how).await?;
        states::follow(&scene, "stable's template to have been put back", |status| {
            !status.mends.times.is_empty()
        })
        .await?;
        runs(&scene, "v1", 2, Some("v2")).await?;
        states::serves(&scene.namespace, "v1").await?;
        if let Some(rounds) = rounds {
            // The version that failed is in the Deployment again, and is no new one.
            states::seen(&scene, Phase::Failed).await?;
            is_quiet(&scene).await?;
            rounds.end(5)?;
        } else {
            states::seen(&scene, Phase::Healthy).await?;
            is_quiet(&scene).await?;
        }
        ensure_few_writes(&scene, &mark, 3)?;
        let status = shop::status(&scene.namespace).await?;
        ensure!(outcomes(&status) == [(Outcome::Failed, Some("Aborted"))], "{status:?}");
        ensure!(status.run.is_none() && status.failed.is_some(), "{status:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn stables_replica_set_deleted_after_a_failure_comes_back_and_the_failed_version_does_not_start() -> Result<()> {
    let cluster = Cluster::attach().await?;
    states::all([
        (
            "background",
            lost_when_failed(&cluster, DeleteParams::background(), false),
        ),
        (
            "background, with GitOps",
            lost_when_failed(&cluster, DeleteParams::background(), true),
        ),
        ("orphan", lost_when_failed(&cluster, DeleteParams::orphan(), false)),
        (
            "orphan, with GitOps",
            lost_when_failed(&cluster, DeleteParams::orphan(), true),
        ),
    ])
    .await
}

/// To 0 pods and back to 2 while the failed version is in the Deployment, and applied again and again.
async fn scaled_to_zero_and_back(scene: &Scene) -> Result<()> {
    let mark = scene.namespace.cluster().audit()?;
    scale(scene, 0).await?;
    is_empty(scene).await?;
    sleep(Duration::from_secs(3)).await;
    scale(scene, 2).await?;
    runs(scene, "v1", 2, Some("v2")).await?;
    states::serves(&scene.namespace, "v1").await?;
    is_quiet(scene).await?;
    ensure_few_writes(scene, &mark, 3)
}

async fn zero_when_failed(cluster: &Cluster) -> Result<()> {
    let (scene, _kept) = State::Failed.scene(cluster, "recovery", options()).await?;
    told(&scene, async {
        let rounds = git_ops(&scene, "v2")?;
        scaled_to_zero_and_back(&scene).await?;
        states::seen(&scene, Phase::Failed).await?;
        rounds.end(5)
    })
    .await
}

/// A promotion that was taken back half way leaves stable's template in the Deployment; Git puts the failed one in again.
async fn zero_after_an_abort_in_promoting(cluster: &Cluster) -> Result<()> {
    let (scene, mut kept) = State::Restoring.scene(cluster, "recovery", options()).await?;
    told(&scene, async {
        kept.let_go(&scene.namespace).await?;
        let healthy = states::seen(&scene, Phase::Healthy).await?;
        ensure!(
            outcomes(&healthy) == [(Outcome::Failed, Some("Aborted"))],
            "{healthy:?}"
        );
        ensure!(
            healthy.failed.as_ref().is_some_and(|failed| failed.put_back),
            "{healthy:?}"
        );
        states::serves(&scene.namespace, "v1").await?;
        let mark = scene.namespace.cluster().audit()?;
        let rounds = git_ops(&scene, "v2")?;
        states::seen(&scene, Phase::Failed).await?;
        let all = writes(&scene, &mark)?;
        ensure!(all.is_empty(), "the failed version came again and {all:?} was written");
        scaled_to_zero_and_back(&scene).await?;
        states::seen(&scene, Phase::Failed).await?;
        rounds.end(5)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn scaled_to_zero_and_back_the_failed_version_does_not_start() -> Result<()> {
    let cluster = Cluster::attach().await?;
    states::all([
        (
            "in Failed",
            Box::pin(zero_when_failed(&cluster)) as std::pin::Pin<Box<dyn Future<Output = Result<()>>>>,
        ),
        (
            "after an abort in Promoting",
            Box::pin(zero_after_an_abort_in_promoting(&cluster)),
        ),
    ])
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn scaled_to_zero_and_back_in_a_run_without_a_revision_history() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let (scene, _kept) = State::Stepping.scene(&cluster, "recovery", options()).await?;
    told(&scene, async {
        let none = r#"{"spec": {"revisionHistoryLimit": 0}}"#;
        scene
            .namespace
            .kubectl(&["patch", "deployment", NAME, "--patch", none])
            .await?;
        let mark = scene.namespace.cluster().audit()?;
        scale(&scene, 0).await?;
        is_empty(&scene).await?;
        // The Deployment's controller cleans up what it does not need any more: stable's ReplicaSet.
        sleep(Duration::from_secs(3)).await;
        scale(&scene, 2).await?;
        runs(&scene, "v1", 2, Some("v2")).await?;
        states::seen(&scene, Phase::Healthy).await?;
        states::serves(&scene.namespace, "v1").await?;
        let status = shop::status(&scene.namespace).await?;
        ensure!(
            outcomes(&status) == [(Outcome::Reverted, Some("StableLost"))],
            "{status:?}"
        );
        is_quiet(&scene).await?;
        ensure_few_writes(&scene, &mark, 4)
    })
    .await
}

/// v2 is promoted over v1: v1's ReplicaSet stays behind, empty.
async fn with_an_older_version(cluster: &Cluster) -> Result<Scene> {
    let (scene, _kept) = State::Stepping.scene(cluster, "recovery", options()).await?;
    let promoted = async {
        scene.command(Verb::Promote).await?;
        states::in_force(&scene, 100).await?;
        scene.command(Verb::Promote).await?;
        states::seen(&scene, Phase::Healthy).await?;
        states::serves(&scene.namespace, "v2").await
    }
    .await;
    scene.told(promoted)?;
    Ok(scene)
}

/// v1 again: it is a new version like any other, and its old ReplicaSet must not start by itself.
async fn older_version_again(cluster: &Cluster, in_mid_run: bool, zero: bool) -> Result<()> {
    let scene = with_an_older_version(cluster).await?;
    told(&scene, async {
        let rounds = git_ops(&scene, "v2")?;
        if in_mid_run {
            rounds.commit(&in_git("v3")?);
            states::in_force(&scene, 50).await?;
        }
        let mark = scene.namespace.cluster().audit()?;
        rounds.commit(&in_git("v1")?);
        let expected = 1 + usize::from(in_mid_run);
        states::follow(&scene, "a run for v1", |status| {
            status.run.is_some() && status.history.len() == expected && status.phase == Some(Phase::Stepping)
        })
        .await?;
        states::in_force(&scene, 50).await?;
        runs(&scene, "v2", 2, Some("v1")).await?;
        if zero {
            scale(&scene, 0).await?;
            is_empty(&scene).await?;
            scale(&scene, 2).await?;
            // The Deployment's controller starts the ReplicaSet of the held template, which has one already; it is taken back.
            runs(&scene, "v2", 2, None).await?;
            states::in_force(&scene, 50).await?;
            runs(&scene, "v2", 2, Some("v1")).await?;
        }
        is_quiet(&scene).await?;
        ensure_few_writes(&scene, &mark, 4)?;
        rounds.end(5)?;
        // And it can be promoted.
        scene.command(Verb::Promote).await?;
        states::in_force(&scene, 100).await?;
        scene.command(Verb::Promote).await?;
        states::seen(&scene, Phase::Healthy).await?;
        runs(&scene, "v1", 2, None).await?;
        states::serves(&scene.namespace, "v1").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_to_a_version_older_than_stable_goes_step_by_step() -> Result<()> {
    let cluster = Cluster::attach().await?;
    states::all([
        ("at rest", older_version_again(&cluster, false, false)),
        ("in mid-run", older_version_again(&cluster, true, false)),
        (
            "scaled to 0 and back while it is held",
            older_version_again(&cluster, false, true),
        ),
    ])
    .await
}

/// The Deployment is deleted and applied again, with the old or with the new version.
async fn made_anew(cluster: &Cluster, state: State, version: &str) -> Result<()> {
    let (scene, mut kept) = state.scene(cluster, "recovery", options()).await?;
    told(&scene, async {
        let before = shop::status(&scene.namespace).await?;
        let uid = before.stable.context("a stable version")?.workload_uid;
        scene
            .namespace
            .kubectl(&["delete", "deployment", NAME, "--wait=true"])
            .await?;
        kept.let_go(&scene.namespace).await?;
        let text = states::shop()
            .application()
            .replace("value: v1", &format!("value: {version}"));
        scene.namespace.apply(&text).await?;
        let adopted = states::follow(&scene, "the new Deployment to be adopted", |status| {
            status.phase == Some(Phase::Healthy)
                && status.stable.as_ref().is_some_and(|stable| stable.workload_uid != uid)
        })
        .await?;
        runs(&scene, version, 2, None).await?;
        states::serves(&scene.namespace, version).await?;
        // A run is ended by it; one that was ending anyhow ends as it would have.
        let ended = adopted.history.first().map(|past| past.outcome);
        let expected: &[Option<Outcome>] = match state {
            State::Healthy => &[None],
            State::Failed | State::Draining | State::RollingBack | State::Restoring => {
                &[Some(Outcome::Failed), Some(Outcome::Replaced)]
            }
            State::Returning => &[Some(Outcome::Promoted), Some(Outcome::Replaced)],
            _ => &[Some(Outcome::Replaced)],
        };
        ensure!(
            expected.contains(&ended) && adopted.history.len() <= 1,
            "{:?}",
            adopted.history
        );
        let canary = shop::object(&scene.namespace, "apps/v1", "Deployment", "checkout-canary").await;
        ensure!(canary.is_err(), "the canary Deployment is left");
        let route = shop::route(&scene.namespace).await?;
        ensure!(
            !route["spec"].to_string().contains("checkout-canary"),
            "{}",
            route["spec"]
        );
        is_quiet(&scene).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_made_anew_with_the_old_version_is_adopted_in_each_state() -> Result<()> {
    let cluster = Cluster::attach().await?;
    states::all(State::ALL.map(|state| (state, Box::pin(made_anew(&cluster, state, "v1"))))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_made_anew_with_the_new_version_is_adopted_in_each_state() -> Result<()> {
    let cluster = Cluster::attach().await?;
    states::all(State::ALL.map(|state| (state, Box::pin(made_anew(&cluster, state, "v2"))))).await
}

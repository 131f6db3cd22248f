//! The Deployment needs no setting: applied again and again it disturbs no state, a failed version is not tried again, and a tool is not
//! fought.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::FutureExt;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use stepgate_crds::status::{Outcome, Phase};
use stepgate_crds::{Rollout, Verb, names};
use stepgate_tests::cluster::Cluster;
use stepgate_tests::cluster::audit::Request;
use stepgate_tests::gitops::{FLUX, Rounds, Site, Tool, manifest};
use stepgate_tests::scene::Scene;
use stepgate_tests::shop::{self, NAME};
use stepgate_tests::states::{self, State};
use tokio::time::sleep;

use super::watching::{options, told, writes};

/// The user's Deployment in Git, with what the state of preparing takes.
fn in_git(version: &str, slow_start: Option<&str>) -> Result<Value> {
    let mut manifest = states::deployment_in_git(version)?;
    if let Some(slow) = slow_start {
        let environment = manifest.pointer_mut("/spec/template/spec/containers/0/env");
        let variables = environment.and_then(Value::as_array_mut).context("an environment")?;
        variables.push(json!({"name": "SLOW_START", "value": slow}));
    }
    Ok(manifest)
}

/// The Deployment as it is in Git, again and again in this state: nothing changes by it, and nobody writes.
async fn deployment_applied_in(cluster: &Cluster, state: State) -> Result<()> {
    let (scene, mut kept) = state.scene(cluster, "gitops", options()).await?;
    told(&scene, async {
        let version = if state == State::Healthy { "v1" } else { "v2" };
        let slow = (state == State::Preparing).then_some("60m");
        let git = in_git(version, slow)?;
        let rounds = Rounds::start(&scene.namespace, Tool::Plain(FLUX), &git, Duration::from_secs(1));
        if state != State::Draining {
            // What the state itself asks for is written by then.
            sleep(Duration::from_secs(3)).await;
            let mark = cluster.audit()?;
            sleep(Duration::from_secs(6)).await;
            let seen = writes(&scene, &mark)?;
            // A refused write is tried again; that is no matter of the tool.
            let refused = matches!(state, State::Returning | State::RollingBack);
            ensure!(
                seen.is_empty() || (refused && seen.iter().all(|what| what == "patch httproutes")),
                "{seen:?}"
            );
            let phase = shop::status(&scene.namespace).await?.phase;
            ensure!(phase == Some(state.phase()), "{phase:?}");
        }
        kept.let_go(&scene.namespace).await?;
        let end = match state {
            State::Healthy | State::Promoting | State::Returning => Phase::Healthy,
            State::Preparing => Phase::Preparing,
            State::Stepping | State::Retreated => Phase::Stepping,
            State::Paused => Phase::Paused,
            _ => Phase::Failed,
        };
        states::seen(&scene, end).await?;
        let deployment = shop::deployment(&scene.namespace).await?;
        ensure!(deployment["spec"]["replicas"] == 2, "{deployment}");
        ensure!(deployment["metadata"]["labels"][names::ROLLOUT] == NAME, "{deployment}");
        rounds.end(5)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deployment_applied_again_and_again_disturbs_no_state() -> Result<()> {
    let cluster = Cluster::attach().await?;
    // Restoring is the one in which Git asks for something else than what is being done.
    let states = State::ALL.into_iter().filter(|state| *state != State::Restoring);
    states::all(states.map(|state| (state, deployment_applied_in(&cluster, state).boxed_local()))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_version_applied_again_and_again_is_held_without_a_write() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let (scene, _kept) = State::Failed.scene(&cluster, "gitops", options()).await?;
    told(&scene, async {
        let rounds = Rounds::start(
            &scene.namespace,
            Tool::Plain(FLUX),
            &in_git("v2", None)?,
            Duration::from_secs(2),
        );
        // The Event of the state itself is written by then.
        sleep(Duration::from_secs(3)).await;
        let mark = cluster.audit()?;
        sleep(Duration::from_mins(1)).await;
        let any = scene.requests(&mark)?.into_iter().filter(Request::is_write).count();
        ensure!(any == 0, "{any} writes in a minute");
        let status = shop::status(&scene.namespace).await?;
        ensure!(
            status.phase == Some(Phase::Failed) && status.run.is_none(),
            "{status:?}"
        );
        // The next commit is the way out.
        rounds.commit(&in_git("v3", None)?);
        states::in_force(&scene, 50).await?;
        rounds.end(20)
    })
    .await
}

/// A promotion is taken back while Git goes on asking for the version that failed: that is said, not fought over, and a revert in Git ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_puts_the_failed_version_back_while_stable_is_restored_is_not_fought_for_ever() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let (scene, mut kept) = State::Promoting.scene(&cluster, "gitops", options()).await?;
    told(&scene, async {
        let mark = cluster.audit()?;
        let rounds = Rounds::start(
            &scene.namespace,
            Tool::Plain(FLUX),
            &in_git("v2", None)?,
            Duration::from_secs(1),
        );
        scene.command(Verb::Abort).await?;
        let stuck = states::follow(&scene, "TemplateContention", |status| {
            status
                .conditions
                .iter()
                .any(|condition| condition.type_ == "Stalled" && condition.reason == "TemplateContention")
        })
        .await?;
        let message = stuck.message.clone().unwrap_or_default();
        ensure!(
            message.contains("canary serves on") && message.contains("GitOps"),
            "{message}"
        );
        let quiet = cluster.audit()?;
        sleep(Duration::from_secs(10)).await;
        ensure!(writes(&scene, &quiet)?.is_empty(), "{:?}", writes(&scene, &quiet)?);
        let on_deployment = scene.requests(&mark)?.into_iter().filter(|request| {
            request.is_write()
                && request
                    .object_ref
                    .as_ref()
                    .is_some_and(|target| target.resource == "deployments" && target.name == NAME)
        });
        let count = on_deployment.count();
        ensure!(count <= 10, "{count} writes to the Deployment");
        kept.let_go(&scene.namespace).await?;
        rounds.commit(&in_git("v1", None)?);
        let ended = states::follow(&scene, "the end of the run", |status| status.run.is_none()).await?;
        ensure!(
            ended
                .history
                .first()
                .is_some_and(|past| past.outcome == Outcome::Failed),
            "{ended:?}"
        );
        ensure!(ended.phase == Some(Phase::Healthy), "{ended:?}");
        rounds.end(5)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tool_finds_the_canary_among_its_own_and_a_held_deployment_reads_as_in_progress() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let scene = Scene::open(&cluster, "gitops", &states::shop(), options()).await?;
    told(&scene, async {
        let track = json!({"metadata": {
            "labels": {"app.kubernetes.io/instance": "shop", "kustomize.toolkit.fluxcd.io/name": "shop", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"},
            "annotations": {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/checkout"},
        }});
        for kind in ["deployment", "service"] {
            scene.namespace.kubectl(&["patch", kind, NAME, "--type=merge", "--patch", &track.to_string()]).await?;
        }
        State::Stepping.reach(&scene).await?;
        for (version, kind) in [("apps/v1", "Deployment"), ("v1", "Service")] {
            let canary = shop::object(&scene.namespace, version, kind, "checkout-canary").await?;
            let metadata = format!("{} {}", canary["metadata"]["labels"], canary["metadata"]["annotations"]);
            for mark in ["instance", "kustomize", "argocd"] {
                ensure!(!metadata.contains(mark), "{kind}: {metadata}");
            }
        }
        // What Flux's `wait` and Argo CD's health go by.
        let held = shop::deployment(&scene.namespace).await?;
        ensure!(held["spec"]["paused"] == true, "{}", held["spec"]);
        let updated = held["status"]["updatedReplicas"].as_i64().unwrap_or(0);
        ensure!(updated == 0, "{}", held["status"]);
        // A command of the plugin is not in Git either, and an apply of the Rollout leaves it alone.
        let rollouts: Api<Rollout> = scene.namespace.api();
        let note = Patch::Merge(json!({"metadata": {"annotations": {"example.com/note": "kept"}}}));
        rollouts.patch(NAME, &PatchParams::default(), &note).await?;
        Site::of(&scene.namespace).apply(FLUX, &manifest(&states::shop().rollout(), "Rollout")?).await?;
        let after = rollouts.get(NAME).await?;
        let kept = after.metadata.annotations.is_some_and(|found| found.contains_key("example.com/note"));
        ensure!(kept && after.metadata.finalizers.is_some_and(|found| found.len() == 1), "taken off");
        Ok(())
    })
    .await
}

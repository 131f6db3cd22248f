//! Deletion: of the Rollout by background and by foreground propagation, of its route, of its Service and of the whole namespace, in each
//! state of a run. It ends, nothing of Stepgate is left, and no request is lost where one can be kept.
//!
//! All states of one kind of deletion at once, each in a namespace of its own.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON is looked into by its fields; what is not there reads as null"
)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::FutureExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{self, PodTemplate, Service};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use stepgate_crds::Rollout;
use stepgate_crds::names::{CANARY_OF, HOLD, ROLLOUT, RUN, TEMPLATE_OF};
use stepgate_tests::cluster::Cluster;
use stepgate_tests::operator::OperatorOptions;
use stepgate_tests::scene::Scene;
use stepgate_tests::shop::{self, NAME};
use stepgate_tests::states::{self, State};
use stepgate_tests::until::{Seen, until};
use tokio::time::sleep;

const BOUND: Duration = Duration::from_mins(2);

/// Runs one case in every state.
async fn in_each_state<F: Future<Output = Result<()>>>(case: impl Fn(State) -> F) -> Result<()> {
    states::all(State::ALL.map(|state| (state, case(state).boxed_local()))).await
}

async fn delete_rollout(scene: &Scene, how: &DeleteParams) -> Result<()> {
    let rollouts: Api<Rollout> = scene.namespace.api();
    rollouts.delete(NAME, how).await.context("deleting the Rollout")?;
    Ok(())
}

/// Waits until the Rollout is gone, and with it everything that is Stepgate's.
async fn is_gone(scene: &Scene) -> Result<()> {
    let namespace = &scene.namespace;
    let rollouts: Api<Rollout> = namespace.api();
    until("the Rollout to be gone", BOUND, async || {
        Ok(match rollouts.get_opt(NAME).await? {
            None => Seen::Done(()),
            Some(left) => Seen::NotYet(format!(
                "finalizers {:?}: {}",
                left.metadata.finalizers,
                left.status.and_then(|status| status.message).unwrap_or_default()
            )),
        })
    })
    .await?;
    let deployment = shop::deployment(namespace).await?;
    let (label, stamp) = (
        deployment["metadata"]["labels"].get(ROLLOUT),
        deployment["metadata"]["annotations"].get(HOLD),
    );
    ensure!(label.is_none() && stamp.is_none(), "label {label:?}, stamp {stamp:?}");
    let ours = ListParams::default().labels(CANARY_OF);
    let (deployments, services): (Api<Deployment>, Api<Service>) = (namespace.api(), namespace.api());
    ensure!(
        deployments.list(&ours).await?.items.is_empty(),
        "a canary Deployment is left"
    );
    ensure!(services.list(&ours).await?.items.is_empty(), "a canary Service is left");
    let templates: Api<PodTemplate> = namespace.api();
    until("the recorded templates to go", BOUND, async || {
        let recorded = ListParams::default().labels(TEMPLATE_OF);
        let left = templates.list(&recorded).await?.items.len();
        Ok(if left == 0 {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{left} left"))
        })
    })
    .await
}

/// The route is what its user wrote.
async fn route_is_as_before(scene: &Scene, before: &Value) -> Result<()> {
    let route = shop::route(&scene.namespace).await?;
    ensure!(route["spec"] == before["spec"], "{}", route["spec"]);
    ensure!(route["metadata"]["annotations"].get(RUN).is_none(), "{route}");
    Ok(())
}

/// What serves in the end: deletion lets a promotion end, and undoes everything else.
fn heir(state: State) -> &'static str {
    match state {
        State::Promoting | State::Returning => "v2",
        _ => "v1",
    }
}

/// Deletes the Rollout in this state; with traffic at this rate where requests can be kept.
async fn rollout_deleted(cluster: &Cluster, state: State, how: DeleteParams, rate: Option<f64>) -> Result<()> {
    let scene = Scene::open(cluster, "deletion", &states::shop(), options(state)).await?;
    let outcome = async {
        let before = shop::route(&scene.namespace).await?;
        let load = match rate {
            Some(rate) => Some(scene.load(rate).await?),
            None => None,
        };
        let mut kept = state.reach(&scene).await?;
        delete_rollout(&scene, &how).await?;
        // What kept the state ends a moment later: deletion has to have waited for it.
        sleep(Duration::from_secs(2)).await;
        kept.let_go(&scene.namespace).await?;
        is_gone(&scene).await?;
        route_is_as_before(&scene, &before).await?;
        states::serves(&scene.namespace, heir(state)).await?;
        if let Some(load) = load {
            let report = load.stop().await?;
            ensure!(report.other_failures() == 0, "clients saw failures: {report}");
        }
        let deployment = shop::deployment(&scene.namespace).await?;
        let paused = deployment["spec"]["paused"] == true;
        let asks_for_v2 = deployment["spec"]["template"].to_string().contains(r#""value":"v2""#);
        // A version that nobody proved is not let loose.
        let held = asks_for_v2 && heir(state) == "v1";
        ensure!(paused == held, "paused {paused}, asks for v2 {asks_for_v2}");
        Ok(())
    }
    .await;
    scene.told(outcome)
}

fn options(state: State) -> OperatorOptions {
    OperatorOptions {
        drain: if state == State::Draining { "10s" } else { "1s" },
        ..OperatorOptions::led_by_commands()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_deleted_by_background_propagation_ends_in_each_state() -> Result<()> {
    let cluster = Cluster::attach().await?;
    in_each_state(|state| rollout_deleted(&cluster, state, DeleteParams::background(), None)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_deleted_by_foreground_propagation_ends_in_each_state() -> Result<()> {
    let cluster = Cluster::attach().await?;
    in_each_state(|state| rollout_deleted(&cluster, state, DeleteParams::foreground(), None)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_in_a_step_and_in_a_promotion_loses_no_request() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let cases = [
        (State::Stepping, DeleteParams::background()),
        (State::Stepping, DeleteParams::foreground()),
        (State::Promoting, DeleteParams::background()),
        (State::Promoting, DeleteParams::foreground()),
    ];
    states::all(cases.map(|(state, how)| {
        let name = (state, how.propagation_policy.clone());
        (name, rollout_deleted(&cluster, state, how, Some(50.0)).boxed_local())
    }))
    .await
}

/// Deletes an object that the Rollout rests on, and a while later the Rollout: that ends all the same.
async fn without(cluster: &Cluster, state: State, kind: &str) -> Result<()> {
    let (scene, mut kept) = state
        .scene(cluster, "deletion", OperatorOptions::led_by_commands())
        .await?;
    let outcome = async {
        let before = shop::route(&scene.namespace).await?;
        scene.namespace.kubectl(&["delete", kind, NAME, "--wait=true"]).await?;
        kept.let_go(&scene.namespace).await?;
        sleep(Duration::from_secs(3)).await;
        // No gateway accepts a route to a Service that is gone: what waits for that ends by the deadline, and this acts at once.
        let soon = r#"{"spec": {"progressDeadline": "10s"}}"#;
        scene
            .namespace
            .kubectl(&["patch", "rollout", NAME, "--type=merge", "--patch", soon])
            .await?;
        delete_rollout(&scene, &DeleteParams::background()).await?;
        is_gone(&scene).await?;
        if kind == "service" {
            let after = shop::route(&scene.namespace).await?;
            let (weights, hosts) = (&after["spec"]["rules"], &after["spec"]["hostnames"]);
            ensure!(
                *hosts == before["spec"]["hostnames"] && !weights.to_string().contains("canary"),
                "{}",
                after["spec"]
            );
        }
        Ok(())
    }
    .await;
    scene.told(outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_whose_route_was_deleted_can_be_deleted_in_each_state() -> Result<()> {
    let cluster = Cluster::attach().await?;
    in_each_state(|state| without(&cluster, state, "httproute")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_whose_service_was_deleted_can_be_deleted_in_each_state() -> Result<()> {
    let cluster = Cluster::attach().await?;
    in_each_state(|state| without(&cluster, state, "service")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_can_be_deleted_in_each_state() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let all: Api<v1::Namespace> = Api::all(cluster.client());
    in_each_state(async |state| {
        let (scene, mut kept) = state
            .scene(&cluster, "deletion", OperatorOptions::led_by_commands())
            .await?;
        let name = scene.namespace.name();
        let outcome = async {
            all.delete(name, &DeleteParams::default()).await?;
            kept.let_go(&scene.namespace).await?;
            let rollouts: Api<Rollout> = scene.namespace.api();
            until("the Rollout to be gone", BOUND, async || {
                Ok(match rollouts.get_opt(NAME).await? {
                    None => Seen::Done(()),
                    Some(left) => Seen::NotYet(left.status.and_then(|status| status.message).unwrap_or_default()),
                })
            })
            .await?;
            let mut look = 0;
            until("the namespace to be gone", BOUND, async || {
                // Its controller looks again at any change, and else only after ever longer pauses.
                look += 1;
                let touch = json!({"metadata": {"labels": {"look": look.to_string()}}});
                let touched = all.patch(name, &PatchParams::default(), &Patch::Merge(touch)).await;
                Ok(match all.get_opt(name).await? {
                    None => Seen::Done(()),
                    Some(left) => {
                        sleep(Duration::from_secs(1)).await;
                        let conditions = left.status.and_then(|status| status.conditions);
                        Seen::NotYet(format!("{conditions:?}, {:?}", touched.err()))
                    }
                })
            })
            .await
        }
        .await;
        scene.told(outcome)
    })
    .await
}

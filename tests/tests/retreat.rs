//! Retreated: all traffic on stable, the canary kept, for what is no proof against the new version. Each cause, and its way on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use stepgate_crds::status::{PauseReason, Phase, Retreat, RunState};
use stepgate_crds::{RolloutStatus, Verb};
use stepgate_tests::cluster::Cluster;
use stepgate_tests::load::{Load, LoadOptions};
use stepgate_tests::operator::OperatorOptions;
use stepgate_tests::scene::{Scene, quick};
use stepgate_tests::shop::{self, NAME, Shop};
use stepgate_tests::states::{self, State, delete_canary_pods};
use stepgate_tests::until::{Seen, until};
use tokio::time::sleep;

async fn told(scene: &Scene, case: impl Future<Output = Result<()>>) -> Result<()> {
    scene.told(case.await)
}

fn retreated_for(status: &RolloutStatus, wanted: Retreat) -> bool {
    let state = status.run.as_ref().map(|run| &run.state);
    matches!(state, Some(RunState::Retreated { why, .. }) if *why == wanted)
}

/// The reasons of the run's end as they stand in `status.failed`.
fn cause(status: &RolloutStatus) -> Result<String> {
    Ok(status.failed.as_ref().context("what failed")?.cause.reason.clone())
}

/// All pods of the canary go at once: the weight follows within 2 s, and comes back with the pods. The third time is one too many.
#[tokio::test(flavor = "multi_thread")]
async fn a_canary_whose_pods_all_go_retreats_and_comes_back_and_the_third_time_fails() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let (scene, _kept) = State::Stepping
        .scene(&cluster, "retreat", OperatorOptions::led_by_commands())
        .await?;
    told(&scene, async {
        let first = shop::status(&scene.namespace).await?.run.context("a run")?.id;
        for loss in 1..=3 {
            let gone = Timestamp::now();
            delete_canary_pods(&scene.namespace).await?;
            if loss == 3 {
                break;
            }
            let status = states::follow(&scene, "Retreated", |status| retreated_for(status, Retreat::PodsLost)).await?;
            let run = status.run.as_ref().context("a run")?;
            ensure!(run.retreats.pods_lost == loss && run.step == 0, "{run:?}");
            let written = until("weight 0 on the route", states::BOUND, async || {
                let mut routes = scene.record.routes().into_iter();
                let found = routes.find(|(at, route)| *at >= gone && route.weight == Some(0));
                Ok(found.map_or_else(|| Seen::NotYet("not yet".to_owned()), |(at, _)| Seen::Done(at)))
            })
            .await?;
            let after = written.duration_since(gone);
            ensure!(
                after.as_secs_f64() < 4.0,
                "weight 0 came {after:?} after the pods had gone"
            );
            // It goes on at the same step as soon as its pods are ready again.
            states::in_force(&scene, 50).await?;
            let run = shop::status(&scene.namespace).await?.run.context("a run")?;
            ensure!(run.id == first && run.step == 0, "{run:?}");
        }
        let failed = states::seen(&scene, Phase::Failed).await?;
        ensure!(cause(&failed)? == "CanaryLost", "{failed:?}");
        let answers = Load::start(LoadOptions {
            count: Some(20),
            ..shop::load(&scene.namespace)
        })?;
        let report = answers.finished().await?;
        ensure!(report.version("v1").total == 20, "{report}");
        Ok(())
    })
    .await
}

/// Its pods are there and die one after the other, all the time: that is the version.
#[tokio::test(flavor = "multi_thread")]
async fn a_canary_in_crash_loop_back_off_fails() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let scene = Scene::open(&cluster, "retreat", &states::shop(), OperatorOptions::led_by_commands()).await?;
    told(&scene, async {
        let change = ["set", "env", "deployment/checkout", "VERSION=v2", "CRASH_AFTER=8s"];
        scene.namespace.kubectl(&change).await?;
        states::in_force(&scene, 50).await?;
        let failed = states::seen(&scene, Phase::Failed).await?;
        let cause = cause(&failed)?;
        ensure!(
            ["CanaryRestarts", "CanaryLost", "Verdict"].contains(&cause.as_str()),
            "{failed:?}"
        );
        // What it did on the way is no more than to retreat.
        let weights = scene.record.accepted_weights();
        ensure!(
            weights.last() == Some(&None) && !weights.contains(&Some(100)),
            "{weights:?}"
        );
        Ok(())
    })
    .await
}

/// Sets the error share of every pod whose label `app` has this value.
async fn fail(scene: &Scene, app: &str, share: &str) -> Result<()> {
    let pods: Api<Pod> = scene.namespace.api();
    let found = pods.list(&ListParams::default().labels(&format!("app={app}"))).await?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let addresses = found.items.into_iter().filter_map(|pod| pod.status?.pod_ip);
    let posted = addresses.map(async |address| {
        let url = format!("http://{address}:8080/demo/error-share");
        let answer = client.post(&url).body(share.to_owned()).send().await;
        answer.with_context(|| url.clone())?.error_for_status().context(url)
    });
    let posted = try_join_all(posted).await?;
    ensure!(!posted.is_empty(), "no pods of {app}");
    Ok(())
}

/// Something that both versions need breaks right after a rise: the rise may have done it, and nothing speaks against the version.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_both_versions_after_a_rise_retreats_until_stable_is_well() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("retreat").await?;
    let (_prometheus, options) = quick(&namespace).await?;
    let options = OperatorOptions {
        flags: vec!["--well-intervals=2".to_owned()],
        ..options
    };
    let scene = Scene::open_in(namespace, &states::shop(), options).await?;
    told(&scene, async {
        let load = scene.load(150.0).await?;
        shop::ship(&scene.namespace, "v2", "0%").await?;
        states::in_force(&scene, 50).await?;
        // Stable first: for a moment only the new version would look bad else.
        fail(&scene, NAME, "40%").await?;
        fail(&scene, "checkout-canary", "40%").await?;
        let retreated = states::follow(&scene, "Retreated", |status| {
            retreated_for(status, Retreat::SharedFault)
        })
        .await?;
        let message = retreated.message.clone().unwrap_or_default();
        ensure!(message.contains("stable"), "{message}");
        states::follow(&scene, "weight 0 to be in force", |status| status.weight == Some(0)).await?;
        // Its way on is not time but stable's health.
        sleep(Duration::from_secs(12)).await;
        let status = shop::status(&scene.namespace).await?;
        ensure!(retreated_for(&status, Retreat::SharedFault), "{status:?}");
        fail(&scene, NAME, "0%").await?;
        fail(&scene, "checkout-canary", "0%").await?;
        states::in_force(&scene, 50).await?;
        let run = shop::status(&scene.namespace).await?.run.context("a run")?;
        ensure!(run.retreats.all == 1 && run.step == 0, "{run:?}");
        let report = load.stop().await?;
        ensure!(report.other_failures() == 0, "{report}");
        Ok(())
    })
    .await
}

/// Requests are sent to the canary as far as the route says, and none is counted: one more try, then a person.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_canary_is_tried_once_more_and_then_left_to_a_person() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("retreat").await?;
    let (_prometheus, options) = quick(&namespace).await?;
    let options = OperatorOptions {
        flags: vec!["--retreat-silence=6s".to_owned()],
        ..options
    };
    // All requests come by a rule that is not the Rollout's, to the same Service: the canary's share of them never shows.
    let shop = Shop {
        replicas: 2,
        rules: "[{name: rest, matches: [{path: {value: /rest}}], backendRefs: [{name: checkout, port: 80}]}, \
                 {name: web, backendRefs: [{name: checkout, port: 80}]}]"
            .to_owned(),
        rollout: "  steps: [{weight: 30, bake: 1h}, {weight: 100, bake: 1h}]\n".to_owned(),
        ..Shop::default()
    };
    let operator = stepgate_tests::operator::Operator::start(&namespace, options).await?;
    let record = stepgate_tests::record::Record::start(&namespace);
    let scene = Scene {
        operator,
        record,
        namespace,
    };
    told(&scene, async {
        scene.namespace.apply(&shop.application()).await?;
        scene.namespace.apply(&shop.route(&scene.namespace)).await?;
        let web = shop
            .rollout()
            .replace("{name: checkout}]", "{name: checkout, rules: [web]}]");
        scene.namespace.apply(&web).await?;
        states::seen(&scene, Phase::Healthy).await?;
        let load = Load::start(LoadOptions {
            rate: 150.0,
            path: "/rest".to_owned(),
            ..shop::load(&scene.namespace)
        })?;
        shop::ship(&scene.namespace, "v2", "0%").await?;
        states::in_force(&scene, 30).await?;
        states::follow(&scene, "Retreated", |status| {
            retreated_for(status, Retreat::CanarySilent)
        })
        .await?;
        states::follow(&scene, "one more try", |status| {
            status
                .run
                .as_ref()
                .is_some_and(|run| run.retreats.silent == 1 && run.weight == 30)
        })
        .await?;
        states::follow(&scene, "a pause that says how to go on", |status| {
            let state = status.run.as_ref().map(|run| &run.state);
            let paused = matches!(
                state,
                Some(RunState::Paused {
                    why: PauseReason::Retreats,
                    ..
                })
            );
            paused
                && status
                    .message
                    .as_ref()
                    .is_some_and(|message| message.contains("resume"))
        })
        .await?;
        states::follow(&scene, "weight 0 to be in force", |status| status.weight == Some(0)).await?;
        // A person may try again, and end it.
        scene.command(Verb::Resume).await?;
        states::in_force(&scene, 30).await?;
        scene.command(Verb::Abort).await?;
        states::seen(&scene, Phase::Failed).await?;
        let report = load.stop().await?;
        ensure!(
            report.other_failures() == 0 && report.version("v2").total == 0,
            "{report}"
        );
        Ok(())
    })
    .await
}

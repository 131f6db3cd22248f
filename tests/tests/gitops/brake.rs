//! Somebody takes the managed weights back: obeyed first, then named. Weights toward the canary are put right at once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::FutureExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use stepgate_crds::status::{PauseReason, Phase, RunState};
use stepgate_crds::{RolloutStatus, Verb};
use stepgate_tests::cluster::Cluster;
use stepgate_tests::gitops::{Rounds, Site, Tool};
use stepgate_tests::operator::OperatorOptions;
use stepgate_tests::scene::Scene;
use stepgate_tests::shop::{self, NAME};
use stepgate_tests::states::{self, State, follow_for};
use tokio::time::sleep;

use super::watching::{go_through, options, route_in_git, told, writes};

/// The longest wait: a tool that comes once a minute is given four of them.
const LONG: Duration = Duration::from_mins(5);

fn is_contended(status: &RolloutStatus) -> bool {
    let state = status.run.as_ref().map(|run| &run.state);
    matches!(
        state,
        Some(RunState::Paused {
            why: PauseReason::Contention,
            ..
        })
    )
}

async fn wait_long(scene: &Scene, what: &str, wanted: impl Fn(&RolloutStatus) -> bool) -> Result<RolloutStatus> {
    follow_for(scene, what, LONG, wanted).await
}

/// How long each change of the canary's weight away from `weight` stood before it was put right, in order.
fn stood(scene: &Scene, weight: i64, from: Timestamp) -> Vec<Duration> {
    let mut stood = Vec::new();
    let mut since: Option<Timestamp> = None;
    for (at, route) in scene.record.routes().into_iter().filter(|(at, _)| *at >= from) {
        match (route.weight == Some(weight), since) {
            (false, None) => since = Some(at),
            (true, Some(begin)) => {
                stood.push(at.duration_since(begin).unsigned_abs());
                since = None;
            }
            _ => {}
        }
    }
    stood
}

/// The user's manifest every `period`: obeyed as long as the operator's limits say, and the fourth time left to a person.
async fn applied_every(cluster: &Cluster, period: Duration, flags: &[&str], limits: [Duration; 3]) -> Result<()> {
    let options = OperatorOptions {
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        ..options()
    };
    let (scene, _kept) = State::Stepping.scene(cluster, "gitops", options).await?;
    told(&scene, async {
        let before = route_in_git(&scene)?;
        let from = Timestamp::now();
        let rounds = Rounds::start(&scene.namespace, Tool::Plain("some-git-ops"), &before, period);
        let paused = wait_long(&scene, "TrafficContention", is_contended).await?;
        let stood = stood(&scene, 50, from);
        ensure!(stood.len() == 3, "obeyed {stood:?}");
        for (stood, least) in stood.iter().zip(limits) {
            ensure!(
                *stood + Duration::from_millis(500) >= least && *stood < least + Duration::from_secs(5),
                "{stood:?}, and not {least:?}"
            );
        }
        let message = paused.message.clone().unwrap_or_default();
        for part in [
            "some-git-ops",
            "HTTPRoute checkout",
            "RespectIgnoreDifferences",
            "kustomize.toolkit.fluxcd.io/ssa",
            "resume",
        ] {
            ensure!(message.contains(part), "no {part} in: {message}");
        }
        let reason = |kind: &str| {
            paused
                .conditions
                .iter()
                .find(|condition| condition.type_ == kind)
                .map(|condition| &condition.reason)
        };
        ensure!(
            reason("Stalled").is_some_and(|reason| reason == "TrafficContention"),
            "{:?}",
            paused.conditions
        );
        // The route as it was found, and nothing is written against the tool any more.
        let mark = cluster.audit()?;
        sleep(Duration::from_secs(12)).await;
        let route = shop::route(&scene.namespace).await?;
        ensure!(
            !route["spec"].to_string().contains("checkout-canary"),
            "{}",
            route["spec"]
        );
        ensure!(writes(&scene, &mark)?.is_empty(), "{:?}", writes(&scene, &mark)?);
        rounds.end(4)?;
        // The person has seen to it.
        let original = shop::route(&scene.namespace).await?;
        scene.command(Verb::Resume).await?;
        states::in_force(&scene, 50).await?;
        go_through(&scene, &original).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_route_applied_again_and_again_is_a_brake_and_then_a_matter_for_a_person() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let seconds = Duration::from_secs;
    let five = applied_every(&cluster, seconds(5), &[], [1, 10, 60].map(seconds));
    // The same with everything at a third of its time, for it takes four of its rounds.
    let thirds = [333, 3_333, 20_000].map(Duration::from_millis);
    let minute = applied_every(&cluster, seconds(20), &["--brake=333ms,3333ms,20s"], thirds);
    states::all([("every 5 s", five.boxed_local()), ("every 60 s", minute.boxed_local())]).await
}

/// An operator that lets brakes stand long enough to be told from what is put right at once.
async fn with_a_long_brake(cluster: &Cluster) -> Result<Scene> {
    let options = OperatorOptions {
        flags: vec!["--brake=8s,8s,8s".to_owned()],
        ..options()
    };
    Ok(State::Stepping.scene(cluster, "gitops", options).await?.0)
}

/// One change of the route by somebody: how long it stood, and that the run goes on as if nothing had been.
async fn changed_once(
    cluster: &Cluster,
    toward_stable: bool,
    change: impl AsyncFnOnce(&Scene) -> Result<()>,
) -> Result<()> {
    let scene = with_a_long_brake(cluster).await?;
    told(&scene, async {
        let original = route_in_git(&scene)?;
        let seq = shop::status(&scene.namespace).await?.run.context("a run")?.seq;
        let from = Timestamp::now();
        change(&scene).await?;
        states::follow(&scene, "50 % in force once more", |status| {
            status.run.as_ref().is_some_and(|run| {
                run.weight == 50 && run.seq > seq && run.in_force.as_ref().is_some_and(|force| force.seq == run.seq)
            })
        })
        .await?;
        let stood = stood(&scene, 50, from);
        // By the times at which two watches told: a moment earlier or later than it was.
        let obeyed = stood.iter().any(|stood| *stood >= Duration::from_secs(7));
        ensure!(stood.len() == 1 && obeyed == toward_stable, "stood {stood:?}");
        let statuses = scene.record.statuses();
        let told = |status: &RolloutStatus| {
            status
                .message
                .as_ref()
                .is_some_and(|message| message.contains("somebody-else"))
        };
        ensure!(statuses.iter().any(|(_, status)| told(status)), "nobody was named");
        let live = shop::route(&scene.namespace).await?;
        let names: Vec<&Value> = live["spec"]["rules"][0]["backendRefs"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|found| &found["name"])
            .collect();
        ensure!(names.len() == 2, "{names:?}");
        scene.command(Verb::Promote).await?;
        states::in_force(&scene, 100).await?;
        scene.command(Verb::Promote).await?;
        states::seen(&scene, Phase::Healthy).await?;
        let after = shop::route(&scene.namespace).await?;
        ensure!(
            !after["spec"].to_string().contains("checkout-canary"),
            "{}",
            after["spec"]
        );
        ensure!(after["spec"]["hostnames"] == original["spec"]["hostnames"], "{after}");
        Ok(())
    })
    .await
}

/// A JSON patch on the route, as a person's.
async fn by_hand(scene: &Scene, patch: &str) -> Result<()> {
    let arguments = [
        "patch",
        "httproute",
        NAME,
        "--type=json",
        "--field-manager=somebody-else",
        "--patch",
        patch,
    ];
    scene.namespace.kubectl(&arguments).await?;
    Ok(())
}

fn weights(stable: u8, canary: u8) -> String {
    let replace = |place: usize, weight: u8| json!({"op": "replace", "path": format!("/spec/rules/0/backendRefs/{place}/weight"), "value": weight});
    json!([replace(0, stable), replace(1, canary)]).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_taken_toward_stable_are_obeyed_first() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let (one, two, three) = tokio::join!(
        changed_once(&cluster, true, async |scene| by_hand(scene, &weights(80, 20)).await),
        changed_once(&cluster, true, async |scene| {
            by_hand(scene, r#"[{"op": "remove", "path": "/spec/rules/0/backendRefs/1"}]"#).await
        }),
        changed_once(&cluster, true, async |scene| {
            let original = route_in_git(scene)?;
            Site::of(&scene.namespace).apply("somebody-else", &original).await?;
            Ok(())
        }),
    );
    one.context("by hand")?;
    two.context("the canary's ref removed")?;
    three.context("the manifest applied once")
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_taken_toward_the_canary_are_put_right_at_once() -> Result<()> {
    let cluster = Cluster::attach().await?;
    changed_once(&cluster, false, async |scene| by_hand(scene, &weights(20, 80)).await).await
}

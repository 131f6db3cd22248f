//! The operator killed (SIGKILL) in every state of a run, and started again: it goes on from where it was, to the same end, and no
//! client notices. Killed every 3 s: `storm`.
//!
//! A state that would be over in milliseconds is held by refusing the write that ends it, with an admission policy of the test's own, until
//! the kill is done. After a kill the Lease is set free, as if its 15 s had passed; one test waits for it instead.

#![expect(clippy::print_stdout, reason = "a test prints what it measured")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use stepgate_crds::status::{Outcome, Phase, RunState};
use stepgate_crds::{RolloutStatus, Verb};
use stepgate_tests::cluster::Cluster;
use stepgate_tests::load::LoadHandle;
use stepgate_tests::operator::OperatorOptions;
use stepgate_tests::record::status_line;
use stepgate_tests::refusal::Refusal;
use stepgate_tests::scene::Scene;
use stepgate_tests::shop::{self, Shop};
use stepgate_tests::until::{Seen, until};
use tokio::time::{Instant, sleep};

const BOUND: Duration = Duration::from_mins(2);
/// Light traffic: what these tests count is failures, not shares.
const RATE: f64 = 50.0;

/// A shop whose steps go on by command alone for as long as a test wants: their bake is longer than any test.
fn patient(steps: &str) -> Shop {
    Shop {
        rollout: format!("  steps: {steps}\n"),
        ..Shop::default()
    }
}

const STEPS: &str = "[{weight: 10, bake: 1h}, {weight: 50, bake: 1h}, {weight: 100, bake: 1h}]";
/// The accepted weights of a run over these steps, whatever happened to its operator.
const WEIGHTS: [Option<i64>; 6] = [None, Some(0), Some(10), Some(50), Some(100), Some(0)];

async fn scene(name: &str, shop: &Shop) -> Result<(Scene, LoadHandle)> {
    let cluster = Cluster::attach().await?;
    let options = OperatorOptions {
        drain: "4s",
        ..OperatorOptions::default()
    };
    let scene = Scene::open(&cluster, name, shop, options).await?;
    let load = scene.load(RATE).await;
    let load = scene.told(load)?;
    Ok((scene, load))
}

fn state(status: &RolloutStatus) -> Option<&RunState> {
    status.run.as_ref().map(|run| &run.state)
}

fn in_force(status: &RolloutStatus, weight: i32) -> bool {
    matches!(state(status), Some(RunState::Stepping { .. })) && status.weight == Some(weight)
}

/// Kills the operator, lets the world go on without one for a moment, and starts it again.
async fn kill_and_restart(scene: &mut Scene) -> Result<()> {
    scene.operator.kill().await?;
    println!("killed at: {}", status_line(&shop::status(&scene.namespace).await?));
    sleep(Duration::from_secs(1)).await;
    scene.operator.restart_at_once().await
}

/// Promotes every step from where the run is, and waits for the end.
async fn promote_to_the_end(scene: &Scene) -> Result<RolloutStatus> {
    until("the run's end", BOUND, async || {
        let status = shop::status(&scene.namespace).await?;
        let waiting = match &status.run {
            Some(run) => match run.state {
                RunState::Stepping { .. } => run.overridden.is_none() && run.accepted_weight == run.weight,
                RunState::Paused { .. } => true,
                _ => false,
            },
            None if status.phase == Some(Phase::Healthy) && !status.history.is_empty() => {
                return Ok(Seen::Done(status));
            }
            None => false,
        };
        if waiting {
            scene.command(Verb::Promote).await?;
        }
        Ok(Seen::NotYet(status_line(&status)))
    })
    .await
}

/// The end of a run that went through: promoted, every weight accepted once and in order, nobody outside noticed.
async fn went_through(scene: &Scene, load: LoadHandle, ended: &RolloutStatus) -> Result<()> {
    let outcome = ended.history.first().context("no history")?.outcome;
    let runs = ended.history.len();
    ensure!(outcome == Outcome::Promoted && runs == 1, "{outcome:?}, {runs} runs");
    ensure_weights(scene, &WEIGHTS)?;
    unnoticed(scene, load).await
}

/// The accepted weights, with the route's rest before and after.
fn ensure_weights(scene: &Scene, wanted: &[Option<i64>]) -> Result<()> {
    let seen = scene.record.accepted_weights();
    let all: Vec<Option<i64>> = wanted.iter().copied().chain([None]).collect();
    ensure!(seen == all, "accepted weights {seen:?} and not {all:?}");
    Ok(())
}

async fn unnoticed(scene: &Scene, load: LoadHandle) -> Result<()> {
    let report = load.stop().await?;
    println!(
        "{}: phases {:?}\n  clients: {report}",
        scene.namespace.name(),
        scene.record.phases()
    );
    ensure!(report.other_failures() == 0, "clients saw failures: {report}");
    Ok(())
}

/// Ships a good version, kills when the status is as wanted, and sees the run through.
async fn killed_when(
    name: &str,
    steps: &str,
    what: &str,
    wanted: impl Fn(&RolloutStatus) -> bool,
    drive: bool,
) -> Result<()> {
    let (mut scene, load) = scene(name, &patient(steps)).await?;
    let outcome = async {
        shop::ship(&scene.namespace, "v2", "0%").await?;
        if drive {
            drive_until(&scene, what, &wanted).await?;
        } else {
            scene.wait_for(what, BOUND, &wanted).await?;
        }
        kill_and_restart(&mut scene).await?;
        let ended = promote_to_the_end(&scene).await?;
        went_through(&scene, load, &ended).await
    }
    .await;
    scene.told(outcome)
}

/// Promotes steps until the status is as wanted.
async fn drive_until(scene: &Scene, what: &str, wanted: impl Fn(&RolloutStatus) -> bool) -> Result<()> {
    until(what, BOUND, async || {
        let status = shop::status(&scene.namespace).await?;
        if wanted(&status) {
            return Ok(Seen::Done(()));
        }
        let at_step = status.run.as_ref().is_some_and(|run| {
            matches!(run.state, RunState::Stepping { .. })
                && run.overridden.is_none()
                && run.accepted_weight == run.weight
        });
        if at_step {
            scene.command(Verb::Promote).await?;
        }
        Ok(Seen::NotYet(status_line(&status)))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_preparing_it_prepares_on() -> Result<()> {
    let preparing = |status: &RolloutStatus| matches!(state(status), Some(RunState::Preparing { .. }));
    killed_when("preparing", STEPS, "Preparing", preparing, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_on_the_way_to_a_weight_it_brings_the_weight_about() -> Result<()> {
    // The canary has to grow for it, which takes seconds.
    let on_the_way = |status: &RolloutStatus| {
        let run = status.run.as_ref();
        run.is_some_and(|run| {
            matches!(run.state, RunState::Stepping { .. }) && run.weight == 50 && run.accepted_weight == 10
        })
    };
    killed_when("rising", STEPS, "the way to 50 %", on_the_way, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_a_weight_it_stays_there_until_it_may_go_on() -> Result<()> {
    killed_when("at-weight", STEPS, "50 % in force", |status| in_force(status, 50), true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_promotion_it_ends_the_promotion() -> Result<()> {
    let promoting = |status: &RolloutStatus| matches!(state(status), Some(RunState::Promoting { .. }));
    killed_when("promoting", STEPS, "Promoting", promoting, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_draining_it_drains_on() -> Result<()> {
    let draining = |status: &RolloutStatus| matches!(state(status), Some(RunState::Draining { .. }));
    killed_when("draining", STEPS, "Draining", draining, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_a_pause_it_stays_paused_until_somebody_resumes() -> Result<()> {
    let (mut scene, load) = scene("paused", &patient(STEPS)).await?;
    let outcome = async {
        shop::ship(&scene.namespace, "v2", "0%").await?;
        scene
            .wait_for("10 % in force", BOUND, |status| in_force(status, 10))
            .await?;
        scene.command(Verb::Pause).await?;
        let before = shop::wait(&scene.namespace, Phase::Paused, BOUND).await?;
        let since = |status: &RolloutStatus| match state(status) {
            Some(RunState::Paused { since, .. }) => Some(*since),
            _ => None,
        };
        let term = before.run.as_ref().map(|run| run.term);
        kill_and_restart(&mut scene).await?;
        let taken = scene
            .wait_for("the new leader", BOUND, |status| {
                status.run.as_ref().map(|run| run.term) > term
            })
            .await?;
        ensure!(
            since(&taken).is_some() && since(&taken) == since(&before),
            "{}",
            status_line(&taken)
        );
        scene.command(Verb::Resume).await?;
        shop::wait(&scene.namespace, Phase::Stepping, BOUND).await?;
        let ended = promote_to_the_end(&scene).await?;
        went_through(&scene, load, &ended).await
    }
    .await;
    scene.told(outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_traffic_returns_it_brings_the_rest_back() -> Result<()> {
    let (mut scene, load) = scene("returning", &patient(STEPS)).await?;
    let outcome = async {
        shop::ship(&scene.namespace, "v2", "0%").await?;
        // Promotion writes nothing to the route: it is refused from here on, and the return is the first to notice.
        drive_until(&scene, "100 % in force", |status| in_force(status, 100)).await?;
        let refusal = Refusal::of_route_writes(&scene.namespace).await?;
        scene.command(Verb::Promote).await?;
        let returning = |status: &RolloutStatus| matches!(state(status), Some(RunState::Returning { .. }));
        scene.wait_for("Returning", BOUND, returning).await?;
        scene.operator.kill().await?;
        refusal.end().await?;
        kill_and_restart(&mut scene).await?;
        let ended = promote_to_the_end(&scene).await?;
        went_through(&scene, load, &ended).await
    }
    .await;
    scene.told(outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_rolling_back_it_ends_the_rollback() -> Result<()> {
    let (mut scene, load) = scene("rolling-back", &patient(STEPS)).await?;
    let outcome = async {
        shop::ship(&scene.namespace, "v2", "0%").await?;
        scene
            .wait_for("10 % in force", BOUND, |status| in_force(status, 10))
            .await?;
        let refusal = Refusal::of_route_writes(&scene.namespace).await?;
        scene.command(Verb::Abort).await?;
        scene
            .wait_for("the refusal to be said", BOUND, |status| {
                let said = status.message.as_deref().unwrap_or_default();
                status.phase == Some(Phase::RollingBack) && said.contains("refused by a test")
            })
            .await?;
        scene.operator.kill().await?;
        refusal.end().await?;
        kill_and_restart(&mut scene).await?;
        let ended = shop::wait(&scene.namespace, Phase::Failed, BOUND).await?;
        let past = ended.history.first().context("no history")?;
        ensure!(
            past.outcome == Outcome::Failed && past.reason.as_deref() == Some("Aborted"),
            "{past:?}"
        );
        ensure_weights(&scene, &[None, Some(0), Some(10), Some(0)])?;
        unnoticed(&scene, load).await
    }
    .await;
    scene.told(outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_failed_it_stays_failed_and_takes_the_next_version() -> Result<()> {
    let (mut scene, load) = scene("failed", &patient(STEPS)).await?;
    let outcome = async {
        shop::ship(&scene.namespace, "v2", "0%").await?;
        scene
            .wait_for("10 % in force", BOUND, |status| in_force(status, 10))
            .await?;
        scene.command(Verb::Abort).await?;
        let before = shop::wait(&scene.namespace, Phase::Failed, BOUND).await?;
        kill_and_restart(&mut scene).await?;
        scene.operator.leads(BOUND).await?;
        let after = shop::status(&scene.namespace).await?;
        ensure!(
            after.phase == Some(Phase::Failed) && after.failed == before.failed,
            "{}",
            status_line(&after)
        );
        shop::ship(&scene.namespace, "v3", "0%").await?;
        scene
            .wait_for("10 % of v3 in force", BOUND, |status| in_force(status, 10))
            .await?;
        ensure_weights_begin(&scene, &[None, Some(0), Some(10), Some(0), None, Some(0), Some(10)])?;
        unnoticed(&scene, load).await
    }
    .await;
    scene.told(outcome)
}

fn ensure_weights_begin(scene: &Scene, wanted: &[Option<i64>]) -> Result<()> {
    let seen = scene.record.accepted_weights();
    ensure!(seen.starts_with(wanted), "accepted weights {seen:?} and not {wanted:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_rest_it_takes_up_what_was_shipped_meanwhile_once_the_lease_has_run_out() -> Result<()> {
    let (mut scene, load) = scene("healthy", &patient(STEPS)).await?;
    let outcome = async {
        scene.operator.kill().await?;
        let killed = Instant::now();
        shop::ship(&scene.namespace, "v2", "0%").await?;
        // The hold is the API server's own: nothing rolls without an operator.
        let paused = shop::deployment(&scene.namespace)
            .await?
            .pointer("/spec/paused")
            .cloned();
        ensure!(paused == Some(json!(true)), "the Deployment is not held: {paused:?}");
        scene.operator.restart().await?;
        shop::wait_for_run(&scene.namespace, BOUND).await?;
        let taken = killed.elapsed();
        println!(
            "from the kill to the next leader's first write: {:.1} s (the lease lasts 15 s)",
            taken.as_secs_f64()
        );
        ensure!(taken < Duration::from_secs(30), "{taken:?}");
        let ended = promote_to_the_end(&scene).await?;
        went_through(&scene, load, &ended).await
    }
    .await;
    scene.told(outcome)
}

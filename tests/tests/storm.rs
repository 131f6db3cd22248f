//! Real traffic during faults: 200 requests a second through a real gateway while the operator, the gateway's controller, Prometheus, the
//! canary's pods or the route are broken again and again. Clients see no failure that a bad version or a killed pod did not cause, no rule
//! of safety is broken by any stored version, and a good version gets through.

#![expect(clippy::print_stdout, reason = "a test prints what it measured")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stepgate_crds::RolloutStatus;
use stepgate_crds::status::{Outcome, Past, PauseReason, Phase, RunState};
use stepgate_tests::cluster::gateway::OWN_GATEWAY;
use stepgate_tests::gitops::{self, Rounds, Tool};
use stepgate_tests::load::Report;
use stepgate_tests::scene::busy::Busy;
use stepgate_tests::shop::{self, Shop};
use stepgate_tests::storm::many::{self, Many};
use stepgate_tests::storm::{Storm, judged, weather};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);
/// All the weights of a run that nothing disturbs.
const UP_AND_BACK: [i64; 6] = [0, 10, 30, 50, 100, 0];

/// As a node that loses power, and another process that takes over at once.
async fn kill_operator(busy: &mut Busy) -> Result<()> {
    busy.scene.operator.kill().await?;
    busy.scene.operator.restart_at_once().await
}

async fn gets_through(storm: &Storm) -> Result<()> {
    storm.ensure_ended(Outcome::Promoted).await?;
    storm.ensure_weights(&UP_AND_BACK, 0)?;
    storm.busy.serves("v2").await
}

#[tokio::test(flavor = "multi_thread")]
async fn good_versions_get_through_though_the_operator_is_killed_every_three_seconds() -> Result<()> {
    let what = "good version, operator killed every 3 s";
    let tally = weather("storm-kill", what, judged(), async |storm| {
        storm.ship("0%").await?;
        let times = storm.again_and_again(SECOND * 3, kill_operator).await?;
        gets_through(storm).await?;
        Ok(times)
    })
    .await?;
    ensure!(tally.bad_version == 0, "{tally}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_version_goes_back_though_the_operator_is_killed_every_three_seconds() -> Result<()> {
    let what = "bad version (20 % errors), operator killed every 3 s";
    let tally = weather("storm-bad", what, judged(), async |storm| {
        storm.ship("20%").await?;
        let times = storm.again_and_again(SECOND * 3, kill_operator).await?;
        storm.ensure_ended(Outcome::Failed).await?;
        storm.ensure_weights(&[0, 10, 0], 0)?;
        storm.busy.serves("v1").await?;
        Ok(times)
    })
    .await?;
    ensure!(tally.bad_version > 0, "the bad version failed nothing: {tally}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn good_versions_get_through_though_the_gateways_controller_is_killed_at_each_weight() -> Result<()> {
    let what = "good version, gateway's controller killed at each weight and away for 2 s";
    let shop = Shop {
        own_gateway: Some(OWN_GATEWAY),
        // An Envoy that lost its controller waits longer and longer, up to 30 s, before it asks again, for each cluster's endpoints by itself:
        // so long it does not hear which pods go, whoever rolls them.
        rollout: judged().rollout + "  steps: [{weight: 10}, {weight: 30}, {weight: 50}, {weight: 100, bake: 40s}]\n",
        ..judged()
    };
    weather("storm-gateway", what, shop, async |storm| {
        storm.ship("0%").await?;
        // While no endpoints change: what changes while it is away Contour 1.33 does not always tell Envoy afterwards.
        for weight in [10, 30, 50, 100] {
            storm.busy.at_weight(weight).await?;
            let gateway = storm.busy.gateway.as_mut().context("no gateway of its own")?;
            gateway.kill_controller().await?;
            sleep(SECOND * 2).await;
            gateway.start_controller()?;
        }
        storm.busy.ended(Outcome::Promoted).await?;
        gets_through(storm).await?;
        Ok(4)
    })
    .await
    .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn good_versions_get_through_though_prometheus_is_restarted_again_and_again() -> Result<()> {
    let what = "good version, Prometheus restarted every 12 s, away for 2 s";
    weather("storm-metrics", what, judged(), async |storm| {
        storm.ship("0%").await?;
        let times = storm
            .again_and_again(SECOND * 10, async |busy| {
                let prometheus = busy.prometheus.as_mut().context("no Prometheus of its own")?;
                prometheus.stop().await?;
                sleep(SECOND * 2).await;
                prometheus.start().await
            })
            .await?;
        gets_through(storm).await?;
        Ok(times)
    })
    .await
    .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn good_versions_get_through_though_all_their_pods_are_killed_at_half_of_the_traffic() -> Result<()> {
    let what = "good version, all canary pods killed at 50 %";
    let tally = weather("storm-pods", what, judged(), async |storm| {
        storm.ship("0%").await?;
        storm.busy.at_weight(50).await?;
        let from = storm.busy.kill_canary().await?;
        // What is lost until weight 0 is accepted goes with the pods, and nothing after that.
        let record = &storm.busy.scene.record;
        let away = |_: &RolloutStatus| record.accepted_at(0, from).is_some();
        storm.busy.status("weight 0 to be accepted", away).await?;
        let accepted = record.accepted_at(0, from);
        storm
            .busy
            .lost_pods(from, accepted.context("weight 0 was not accepted")?);
        storm.busy.ended(Outcome::Promoted).await?;
        storm.ensure_ended(Outcome::Promoted).await?;
        storm.ensure_weights(&[0, 10, 30, 50, 0, 50, 100, 0], 1)?;
        storm.busy.serves("v2").await?;
        Ok(1)
    })
    .await?;
    ensure!(tally.bad_version == 0, "{tally}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_route_set_back_every_five_seconds_is_a_pause_with_stable_serving() -> Result<()> {
    let what = "good version, GitOps sets the whole route back every 5 s";
    weather("storm-git", what, judged(), async |storm| {
        let namespace = &storm.busy.scene.namespace;
        let in_git = gitops::manifest(&judged().route(namespace), "HTTPRoute")?;
        let rounds = Rounds::start(namespace, Tool::Plain("some-git-ops"), &in_git, SECOND * 5);
        storm.ship("0%").await?;
        let paused = storm
            .busy
            .status("TrafficContention", |status| {
                let state = status.run.as_ref().map(|run| &run.state);
                let why = PauseReason::Contention;
                matches!(state, Some(RunState::Paused { why: found, .. }) if *found == why)
            })
            .await?;
        let stalled = paused.conditions.iter().find(|condition| condition.type_ == "Stalled");
        let reason = stalled.map(|condition| condition.reason.as_str());
        ensure!(reason == Some("TrafficContention"), "{:?}", paused.conditions);
        storm.busy.serves("v1").await?;
        let written = shop::route(&storm.busy.scene.namespace).await?;
        sleep(SECOND * 6).await;
        storm.busy.serves("v1").await?;
        let after = shop::route(&storm.busy.scene.namespace).await?;
        ensure!(after.get("spec") == written.get("spec"), "{after}");
        let made = rounds.made();
        rounds.end(4)?;
        storm.busy.excuse_removals()?;
        Ok(made)
    })
    .await
    .map(drop)
}

/// The one of several versions that is bad.
const BAD: &str = "kiosk3";
/// For so long there is no Prometheus.
const OUTAGE: Duration = Duration::from_secs(25);

fn holds_at_ten(status: &RolloutStatus) -> bool {
    status.phase == Some(Phase::Stepping) && status.weight == Some(10)
}

#[tokio::test(flavor = "multi_thread")]
async fn several_runs_without_metrics_hold_where_they_are_and_end_each_by_its_own_counts() -> Result<()> {
    let mut several = Many::open("storm-outage", 5).await?;
    let outcome = outage(&mut several).await;
    several.told(outcome)
}

async fn outage(several: &mut Many) -> Result<()> {
    let begin = Instant::now();
    for name in &several.names {
        several.ship(name, if name == BAD { "20%" } else { "0%" }).await?;
    }
    // There is no traffic yet, so nothing is judged before Prometheus goes.
    several.all_are("10 % in force", holds_at_ten).await?;
    several.prometheus.stop().await?;
    let loads = several.load(40.0).await?;
    let gone = Instant::now();
    several
        .all_are("SourceUnreachable", |status| {
            holds_at_ten(status) && status.verdict.as_deref() == Some("SourceUnreachable")
        })
        .await?;
    sleep(OUTAGE.saturating_sub(gone.elapsed())).await;
    let statuses = several.statuses().await?;
    let moved = statuses.iter().find(|(_, status)| !holds_at_ten(status));
    ensure!(moved.is_none(), "it did not hold: {moved:?}");
    several.prometheus.start().await?;
    several
        .each_is("the good ones past 10 %, the bad one failed", |name, status| {
            if name == BAD {
                let reason = status.failed.as_ref().map(|failed| failed.cause.reason.as_str());
                status.phase == Some(Phase::Failed) && matches!(reason, Some("Verdict" | "Tripwire"))
            } else {
                let promoted = |past: &Past| past.outcome == Outcome::Promoted;
                let passed = status
                    .run
                    .as_ref()
                    .is_some_and(|run| run.step > 0 && run.accepted_weight >= 30);
                passed || status.history.first().is_some_and(promoted)
            }
        })
        .await?;
    let reports = many::stop(loads).await?;
    let requests: u64 = reports.values().map(|report| report.requests).sum();
    let bad: u64 = reports.values().map(Report::injected).sum();
    let foreign: u64 = reports.values().map(Report::other_failures).sum();
    let (versions, broken) = several.broken();
    println!(
        "| 4 good versions and a bad one, Prometheus away for {} s | 1 | {requests} | {bad} | 0 | {foreign} | 4 past 10 %, 1 Failed | \
         {:.0} s | {} of {versions} stored versions |",
        OUTAGE.as_secs(),
        begin.elapsed().as_secs_f64(),
        broken.len()
    );
    ensure!(foreign == 0, "{reports:#?}");
    ensure!(broken.is_empty(), "{broken:#?}");
    ensure!(
        reports
            .iter()
            .all(|(name, report)| name == BAD || report.injected() == 0),
        "{reports:#?}"
    );
    Ok(())
}

//! Clocks that are one hour off, either way: of operators against each other, and against the metrics source.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use stepgate_crds::Verb;
use stepgate_crds::status::{Outcome, Phase, RunState};
use stepgate_tests::cluster::Cluster;
use stepgate_tests::interceptor::Interceptor;
use stepgate_tests::operator::{OperatorOptions, install_chart};
use stepgate_tests::record::status_line;
use stepgate_tests::scene::quick;
use stepgate_tests::shop::{self, Shop};
use tokio::time::sleep;

use super::several::{BOUND, Several};

/// Longer than a failover.
const DRAIN: &str = "25s";

/// A way to the API server on which no certificate's dates are looked at.
async fn network() -> Result<Interceptor> {
    let cluster = Cluster::attach().await?;
    install_chart(&cluster).await?;
    Interceptor::start(&cluster).await
}

/// The leader with the wrong clock dies while the canary drains: the next one lets the pods stay for the whole drain, and no hour longer.
async fn drains(name: &str, clock: &'static str) -> Result<()> {
    let network = network().await?;
    let right = OperatorOptions {
        drain: DRAIN,
        ..OperatorOptions::led_by_commands()
    };
    let wrong = OperatorOptions {
        kubeconfig: Some(network.kubeconfig().to_owned()),
        clock: Some(clock),
        ..right.clone()
    };
    let mut several = Several::open(name, &Shop::small(), wrong, vec![right]).await?;
    let outcome = async {
        shop::ship(&several.scene.namespace, "v2", "0%").await?;
        let run = several.at_weight(10).await?;
        several.scene.command(Verb::Abort).await?;
        let draining = |status: &stepgate_crds::RolloutStatus| {
            let state = status.run.as_ref().map(|run| &run.state);
            matches!(state, Some(RunState::Draining { .. }))
        };
        several.scene.wait_for("Draining", BOUND, draining).await?;
        several.scene.operator.kill().await?;
        let what = format!("of two, killed, its clock {clock}");
        several.another_leads(&what, Instant::now()).await?;
        several.ended(&run, Outcome::Failed, Phase::Failed).await
    }
    .await;
    several.scene.told(outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_leader_whose_clock_was_an_hour_behind_the_drain_is_whole() -> Result<()> {
    drains("clock-behind", "-1h").await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_leader_whose_clock_was_an_hour_ahead_the_drain_ends() -> Result<()> {
    drains("clock-ahead", "+1h").await
}

/// A leader whose clock is not the metrics source's holds and says so; the next one goes on, by what was counted since it leads.
async fn counts(name: &str, clock: &'static str) -> Result<()> {
    const RATE: f64 = 100.0;
    let network = network().await?;
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace(name).await?;
    let (_prometheus, right) = quick(&namespace).await?;
    let wrong = OperatorOptions {
        kubeconfig: Some(network.kubeconfig().to_owned()),
        clock: Some(clock),
        flags: vec!["--status-refresh=3s".to_owned()],
        ..right.clone()
    };
    let shop = Shop {
        rollout: "  analysis: {errorRate: {max: 5%}}\n".to_owned(),
        ..Shop::small()
    };
    let mut several = Several::open_in(namespace, &shop, wrong, vec![right]).await?;
    let outcome = async {
        let load = several.scene.load(RATE).await?;
        shop::ship(&several.scene.namespace, "v2", "0%").await?;
        let told = several
            .scene
            .wait_for("the clocks to be named", BOUND, |status| {
                let message = status.message.as_deref().unwrap_or_default();
                status.weight == Some(10)
                    && status.verdict.as_deref() == Some("SourceClockSkew")
                    && message.contains("set the clocks right")
            })
            .await?;
        println!("{name}: {}", status_line(&told));
        sleep(Duration::from_secs(10)).await;
        let held = several.status().await?;
        ensure!(held.weight == Some(10), "it did not hold: {}", status_line(&held));
        several.scene.operator.kill().await?;
        let what = format!("of two, killed, its clock {clock} from the source's");
        several.another_leads(&what, Instant::now()).await?;
        let led = Instant::now();
        several.at_weight(30).await?;
        let took = led.elapsed();
        println!("{name}: 30 % {:.1} s after another led", took.as_secs_f64());
        // A hundred requests of the canary take ten seconds; what was counted before would be enough at once.
        ensure!(took > Duration::from_secs(8), "it went on after {took:?}");
        let report = load.stop().await?;
        ensure!(report.other_failures() == 0, "{report}");
        several.ensure_safe()
    }
    .await;
    several.scene.told(outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_an_hour_behind_the_metrics_source_holds_and_the_next_counts_anew() -> Result<()> {
    counts("source-behind", "-1h").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_an_hour_ahead_of_the_metrics_source_holds_and_the_next_counts_anew() -> Result<()> {
    counts("source-ahead", "+1h").await
}

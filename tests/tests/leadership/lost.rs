//! The leader is killed, hangs, or is cut off.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use stepgate_tests::cluster::Cluster;
use stepgate_tests::interceptor::Interceptor;
use stepgate_tests::operator::{OperatorOptions, install_chart};
use tokio::time::sleep;

use super::several::{BOUND, LEASE, Several};

#[tokio::test(flavor = "multi_thread")]
async fn of_three_operators_another_leads_when_the_leader_is_killed_and_again() -> Result<()> {
    let mut several = Several::at_ten("lead-killed", OperatorOptions::led_by_commands(), 2).await?;
    let outcome = async {
        let run = several.status().await?;
        several.scene.operator.kill().await?;
        several.another_leads("of three, killed", Instant::now()).await?;
        let second = several.holder().await?;
        several.leader().await?.kill().await?;
        let dead = [several.scene.operator.name(), &second];
        let lost = Instant::now();
        several.another_leads_than(&dead, "of two, killed", lost).await?;
        several.end_well(&run, 10).await
    }
    .await;
    several.scene.told(outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hangs_past_its_lease_writes_nothing_more_and_ends() -> Result<()> {
    let mut several = Several::at_ten("lead-hangs", OperatorOptions::led_by_commands(), 1).await?;
    let outcome = async {
        let run = several.status().await?;
        several.scene.operator.freeze()?;
        several.another_leads("of two, stopped", Instant::now()).await?;
        several.scene.operator.thaw()?;
        let status = several.scene.operator.ended(BOUND).await?;
        ensure!(!status.success(), "a leader that lost its lease ended with {status}");
        several.end_well(&run, 10).await
    }
    .await;
    several.scene.told(outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_gives_up_before_another_leads() -> Result<()> {
    let cluster = Cluster::attach().await?;
    install_chart(&cluster).await?;
    let network = Interceptor::start(&cluster).await?;
    let first = OperatorOptions {
        kubeconfig: Some(network.kubeconfig().to_owned()),
        ..OperatorOptions::led_by_commands()
    };
    let mut several = Several::at_ten("lead-cut", first, 1).await?;
    let outcome = async {
        let run = several.status().await?;
        network.cut(true);
        let lost = Instant::now();
        let ended = several.scene.operator.ended(LEASE).await?;
        ensure!(!ended.success(), "a leader that was cut off ended with {ended}");
        let gave_up = lost.elapsed();
        let what = format!("of two, cut off, gave up after {:.1} s", gave_up.as_secs_f64());
        let took = several.another_leads(&what, lost).await?;
        ensure!(
            gave_up <= took,
            "it gave up after {gave_up:?}, and another led after {took:?}"
        );
        network.cut(false);
        sleep(Duration::from_secs(1)).await;
        several.end_well(&run, 10).await
    }
    .await;
    several.scene.told(outcome)
}

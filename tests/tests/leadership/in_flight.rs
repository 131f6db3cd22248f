//! The leader is stopped past its lease while a write of its is on the way: another leads and goes on with what was meant, and only then the
//! write arrives. It has no effect.

use std::time::Instant;

use anyhow::{Result, ensure};
use http::Method;
use stepgate_crds::Verb;
use stepgate_crds::status::Phase;
use stepgate_tests::cluster::Cluster;
use stepgate_tests::interceptor::{Interceptor, Matching};
use stepgate_tests::operator::{OperatorOptions, install_chart};
use stepgate_tests::shop::{self, NAME};

use super::several::{BOUND, Several};

/// At a step of this weight a person promotes, and the write that matches is held back on its way; the run has gone on when it arrives.
async fn held_past_the_lease(
    name: &str,
    others: usize,
    at: i32,
    write: Matching,
    gone_on: impl AsyncFnOnce(&Several) -> Result<()>,
    next: i32,
) -> Result<()> {
    let cluster = Cluster::attach().await?;
    install_chart(&cluster).await?;
    let network = Interceptor::start(&cluster).await?;
    let first = OperatorOptions {
        kubeconfig: Some(network.kubeconfig().to_owned()),
        ..OperatorOptions::led_by_commands()
    };
    let mut several = Several::at_ten(name, first, others).await?;
    let outcome = async {
        let run = several.status().await?;
        for weight in [10, 30, 50, 100].into_iter().take_while(|weight| *weight < at) {
            several.at_weight(weight).await?;
            several.promote().await?;
        }
        several.at_weight(at).await?;
        let mut late = network.hold(write);
        several.scene.command(Verb::Promote).await?;
        let caught = late.caught(BOUND).await?;
        several.scene.operator.freeze()?;
        let (_, target) = caught
            .path
            .split_once(several.scene.namespace.name())
            .unwrap_or_default();
        let target = target.split('?').next().unwrap_or_default();
        let what = format!("of {}, stopped with a write to {target} under way", others + 1);
        several.another_leads(&what, Instant::now()).await?;
        gone_on(&several).await?;
        let delivered = late.deliver().await?;
        println!("{name}: the late write was answered {}", delivered.status);
        ensure!(
            [404, 409, 422].contains(&delivered.status),
            "the late write was answered {}: {}",
            delivered.status,
            delivered.body
        );
        several.scene.operator.thaw()?;
        let ended = several.scene.operator.ended(BOUND).await?;
        ensure!(!ended.success(), "a leader that lost its lease ended with {ended}");
        several.end_well(&run, next).await
    }
    .await;
    several.scene.told(outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raise_of_a_leader_that_is_stopped_past_its_lease_has_no_effect() -> Result<()> {
    let raise = Matching::patch(&format!("/httproutes/{NAME}")).with("\"value\":30");
    let gone_on = async |several: &Several| several.at_weight(30).await.map(drop);
    held_past_the_lease("lead-raise", 1, 10, raise, gone_on, 30).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_a_leader_that_is_stopped_past_its_lease_has_no_effect() -> Result<()> {
    let commit = Matching {
        method: Method::PUT,
        ..Matching::patch(&format!("/rollouts/{NAME}/status"))
    };
    let gone_on = async |several: &Several| several.at_weight(30).await.map(drop);
    held_past_the_lease("lead-commit", 2, 10, commit, gone_on, 30).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_un_pause_of_a_leader_that_is_stopped_past_its_lease_has_no_effect() -> Result<()> {
    let un_pause = Matching::patch(&format!("/deployments/{NAME}"))
        .with("paused")
        .without("template");
    // The run has ended when it arrives.
    let gone_on = async |several: &Several| {
        let ended = shop::wait(&several.scene.namespace, Phase::Healthy, BOUND).await;
        ended.map(drop)
    };
    held_past_the_lease("lead-un-pause", 2, 100, un_pause, gone_on, 101).await
}

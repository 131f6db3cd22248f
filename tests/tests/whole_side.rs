//! The whole side: from the un-pause until the traffic is back on it the Deployment is in the middle of a roll, and no request goes there,
//! however it rolls and whatever happens meanwhile.
//!
//! Checked at every write of route, Deployment, ReplicaSets and endpoints, in the order of the API server, and by 200 requests a second.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use stepgate_crds::Verb;
use stepgate_crds::status::{Outcome, Phase};
use stepgate_tests::scene::busy::{Judged, play};
use stepgate_tests::scene::situations::{
    abort_in_promotion, bounded, failed_verdict_in_promotion, newer_template_in_promotion, newer_template_in_restoring,
    promoted,
};
use stepgate_tests::shop::{NAME, Shop};
use tokio::time::sleep;

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_in_promotion_rolls_back_under_the_canary() -> Result<()> {
    let play = play("abort in promotion", bounded(4), Judged::ByCommands, async |busy| {
        abort_in_promotion(busy).await
    });
    play.await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_verdict_in_promotion_rolls_back_under_the_canary() -> Result<()> {
    let play = play("verdict in promotion", bounded(4), Judged::ByCounts, async |busy| {
        failed_verdict_in_promotion(busy).await
    });
    play.await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_template_in_promotion_waits_and_gets_its_own_run() -> Result<()> {
    let play = play("newer in promotion", bounded(4), Judged::ByCommands, async |busy| {
        newer_template_in_promotion(busy).await
    });
    play.await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_template_while_it_rolls_back_waits_and_gets_its_own_run() -> Result<()> {
    let play = play("newer in restoring", bounded(4), Judged::ByCommands, async |busy| {
        newer_template_in_restoring(busy).await
    });
    play.await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_of_a_deployment_that_is_recreated_rolls_back_under_the_canary() -> Result<()> {
    let shop = Shop {
        deployment: "  strategy: {type: Recreate}\n".to_owned(),
        ..bounded(4)
    };
    let play = play("recreate, aborted", shop, Judged::ByCommands, async |busy| {
        abort_in_promotion(busy).await
    });
    play.await.map(drop)
}

/// Promotes a version under a Deployment whose spec has these lines besides.
async fn promoted_with(name: &str, deployment: &str) -> Result<()> {
    let shop = Shop {
        deployment: deployment.to_owned(),
        ..bounded(4)
    };
    let play = play(name, shop, Judged::ByCommands, async |busy| {
        promoted(busy, &["SLOW_START=3s"]).await
    });
    play.await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_that_may_take_every_pod_at_once_takes_no_request() -> Result<()> {
    let all = "  strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 100%}}\n";
    promoted_with("all unavailable", all).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_is_recreated_takes_no_request() -> Result<()> {
    promoted_with("recreate", "  strategy: {type: Recreate}\n").await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_take_no_request_before_their_least_ready_time() -> Result<()> {
    promoted_with("min ready seconds", "  minReadySeconds: 4\n").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_without_room_for_a_roll_stalls_it_and_rolls_nothing_back() -> Result<()> {
    let shop = Shop {
        deployment: "  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}\n".to_owned(),
        rollout: "  progressDeadline: 10s\n  steps: [{weight: 100, bake: 1h}]\n".to_owned(),
        ..bounded(4)
    };
    let play = play("quota too small", shop, Judged::ByCommands, async |busy| {
        busy.ship_to(&[], 100).await?;
        let quota = |pods: u32| {
            json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": NAME}, "spec": {"hard": {"pods": pods.to_string()}}})
                .to_string()
        };
        // Stable's four and the canary's four.
        busy.scene.namespace.apply(&quota(8)).await?;
        let wait = [
            "wait",
            "resourcequota",
            NAME,
            "--for=jsonpath={.status.used.pods}=8",
            "--timeout=30s",
        ];
        busy.scene.namespace.kubectl(&wait).await?;
        busy.scene.command(Verb::Promote).await?;
        let is_stalled = |status: &stepgate_crds::RolloutStatus| {
            status.phase == Some(Phase::Promoting)
                && status
                    .conditions
                    .iter()
                    .any(|condition| condition.type_ == "Stalled" && condition.status == "True")
        };
        busy.status("Promoting to be Stalled", is_stalled).await?;
        // Past the deadline once more: it stays as it is.
        sleep(Duration::from_secs(12)).await;
        let status = busy.status("Promoting to be Stalled still", is_stalled).await?;
        ensure!(status.weight == Some(100), "{status:?}");
        busy.scene.namespace.apply(&quota(20)).await?;
        busy.ended(Outcome::Promoted).await?;
        busy.serves("v2").await?;
        busy.ensure_never_on_a_part()
    });
    play.await.map(drop)
}

//! Whole situations of a busy shop, each from a shipped version to its end, with what has to hold in it besides the clients' view.
//!
//! A pod carries so much that the full number of them has 30 % to spare, and too few of them answer 503.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use stepgate_crds::Verb;
use stepgate_crds::status::{Outcome, Phase, RunState};
use tokio::time::sleep;

use super::busy::{Busy, Judged, RATE};
use super::happenings::BOUND;
use super::witness::CANARY;
use crate::gitops;
use crate::shop::{self, NAME, Shop};

/// A step to all of the traffic, which only a command ends.
const ALL: &str = "  steps: [{weight: 100, bake: 1h}]\n";
/// How long pods of the new version take to start where the Deployment's roll is to be watched.
const SLOW: &str = "SLOW_START=3s";
/// The same where the roll is not to be over before counts have failed the version, also on a machine that scrapes late.
const STILL_ROLLING: &str = "SLOW_START=20s";

/// What sends a run back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The new version turns bad.
    Verdict,
    /// A person aborts.
    Abort,
    /// The template is put back to stable's.
    PutBack,
    /// The Rollout is deleted.
    Deletion,
}

impl Way {
    /// Who judges where this is what sends the run back.
    pub fn judged(self) -> Judged {
        match self {
            Self::Verdict => Judged::ByCounts,
            Self::Abort | Self::PutBack | Self::Deletion => Judged::ByCommands,
        }
    }

    /// Lets it happen, and gives the moment from which the first write counts.
    async fn happen(self, busy: &Busy) -> Result<Timestamp> {
        let namespace = &busy.scene.namespace;
        let now = Timestamp::now();
        match self {
            Self::Verdict => {
                busy.spoil_canary("20%").await?;
                busy.status("the verdict", |status| {
                    let state = status.run.as_ref().map(|run| &run.state);
                    matches!(state, Some(RunState::RollingBack { .. }))
                })
                .await?;
                let back = |run: &stepgate_crds::status::Run| matches!(run.state, RunState::RollingBack { .. });
                let (at, _) = busy
                    .scene
                    .record
                    .first_run(back)
                    .context("RollingBack was not recorded")?;
                return Ok(at);
            }
            Self::Abort => busy.scene.command(Verb::Abort).await?,
            Self::PutBack => shop::ship_with(namespace, &["VERSION=v1"]).await?,
            Self::Deletion => {
                namespace.kubectl(&["delete", "rollout", NAME, "--wait=false"]).await?;
            }
        }
        Ok(now)
    }

    /// Waits for the end that it leads to.
    async fn ended(self, busy: &Busy) -> Result<()> {
        match self {
            Self::Verdict | Self::Abort => busy.ended(Outcome::Failed).await.map(drop),
            Self::PutBack => busy.ended(Outcome::Reverted).await.map(drop),
            Self::Deletion => gone(busy).await,
        }
    }
}

/// A shop of so many pods, which together carry 30 % more than all of the traffic.
pub fn bounded(replicas: u32) -> Shop {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a small number above zero"
    )]
    let capacity = (RATE * 1.3 / f64::from(replicas)).round() as u32;
    Shop {
        replicas,
        capacity,
        rollout: ALL.to_owned(),
        ..Shop::default()
    }
}

/// A shop with steps at half and at all of the traffic, which only commands end.
pub fn with_a_half() -> Shop {
    Shop {
        rollout: "  steps: [{weight: 50, bake: 1h}, {weight: 100, bake: 1h}]\n".to_owned(),
        ..bounded(4)
    }
}

/// An autoscaler shrinks stable while the canary has all of the traffic, then the run goes back; gives how long its first write took, and
/// the canary's shares on the way.
///
/// Where pods are left the autoscaler grows them by the load that it sees. Where none is left they come back 10 s later.
pub async fn back_by_capacity(busy: &Busy, way: Way, base: i64, left: i64) -> Result<(Duration, Vec<i64>)> {
    const AWAY: Duration = Duration::from_secs(10);
    busy.ship_to(&[], 100).await?;
    busy.shrink(left).await?;
    let event = way.happen(busy).await?;
    if left == 0 {
        sleep(AWAY).await;
        let now = busy.witness.now().context("nothing was seen of the shop")?;
        ensure!(
            now.canary_share == 100 && now.ready(CANARY) >= base,
            "traffic left the canary while stable has no pod: {now}"
        );
        busy.scale(base).await?;
    } else {
        busy.autoscale(140 / base, base).await?;
    }
    way.ended(busy).await?;
    busy.serves("v1").await?;
    let took = busy.ensure_first_write(event)?;
    Ok((took, busy.ensure_covered(event, base)?))
}

/// An abort while the Deployment rolls: stable's template goes back into it, it rolls back under a canary that carries everything, and
/// only then traffic returns.
pub async fn abort_in_promotion(busy: &Busy) -> Result<()> {
    busy.ship_to(&[SLOW], 100).await?;
    busy.to_mid_promotion().await?;
    busy.scene.command(Verb::Abort).await?;
    restored(busy).await
}

/// The same where the new version turns bad while the Deployment rolls.
pub async fn failed_verdict_in_promotion(busy: &Busy) -> Result<()> {
    busy.ship_to(&[STILL_ROLLING], 100).await?;
    busy.to_mid_promotion().await?;
    busy.spoil_canary("20%").await?;
    restored(busy).await
}

/// A newer template while the Deployment rolls back: stable's is put back again, the run ends as failed, then the newer one gets its own run.
pub async fn newer_template_in_restoring(busy: &Busy) -> Result<()> {
    busy.ship_to(&[SLOW], 100).await?;
    busy.to_mid_promotion().await?;
    let first = run_id(busy)?;
    busy.scene.command(Verb::Abort).await?;
    busy.status("Restoring", |status| status.phase == Some(Phase::Restoring))
        .await?;
    shop::ship_with(&busy.scene.namespace, &["VERSION=v3", "SLOW_START=0s"]).await?;
    busy.status("the newer template's own run", |status| {
        status.run.as_ref().is_some_and(|run| run.id != first)
    })
    .await?;
    busy.at_weight(100).await?;
    busy.scene.command(Verb::Promote).await?;
    let status = busy.ended(Outcome::Promoted).await?;
    let outcomes: Vec<Outcome> = status.history.iter().map(|past| past.outcome).collect();
    ensure!(outcomes == [Outcome::Promoted, Outcome::Failed], "{outcomes:?}");
    busy.serves("v3").await?;
    busy.ensure_never_on_a_part()
}

/// The end of a run that was taken back in promotion: never on a part, v1 serves from a Deployment that is let go.
async fn restored(busy: &Busy) -> Result<()> {
    busy.status("Restoring", |status| {
        let state = status.run.as_ref().map(|run| &run.state);
        matches!(state, Some(RunState::Restoring { .. }))
    })
    .await?;
    let status = busy.ended(Outcome::Failed).await?;
    ensure!(status.phase == Some(Phase::Healthy), "{:?}", status.phase);
    let put_back = status.failed.as_ref().is_some_and(|failed| failed.put_back);
    ensure!(put_back, "the failed version is not remembered: {:?}", status.failed);
    busy.serves("v1").await?;
    busy.ensure_never_on_a_part()
}

/// A newer template while the Deployment rolls: the promoted one is put back and ends its way, then the newer one gets its own run.
pub async fn newer_template_in_promotion(busy: &Busy) -> Result<()> {
    busy.ship_to(&[SLOW], 100).await?;
    busy.to_mid_promotion().await?;
    let first = run_id(busy)?;
    shop::ship_with(&busy.scene.namespace, &["VERSION=v3", "SLOW_START=0s"]).await?;
    busy.status("the newer template's own run", |status| {
        status.run.as_ref().is_some_and(|run| run.id != first)
    })
    .await?;
    busy.at_weight(100).await?;
    let waited = |run: &stepgate_crds::status::Run| run.id == first && run.newer.is_some();
    ensure!(
        busy.scene.record.first_run(waited).is_some(),
        "the newer template was not recorded as waiting"
    );
    busy.scene.command(Verb::Promote).await?;
    let status = busy.ended(Outcome::Promoted).await?;
    let outcomes: Vec<Outcome> = status.history.iter().map(|past| past.outcome).collect();
    ensure!(outcomes == [Outcome::Promoted; 2], "{outcomes:?}");
    busy.serves("v3").await?;
    busy.ensure_never_on_a_part()
}

/// A good version is promoted, however the Deployment rolls.
pub async fn promoted(busy: &Busy, variables: &[&str]) -> Result<()> {
    busy.ship_to(variables, 100).await?;
    busy.scene.command(Verb::Promote).await?;
    busy.ended(Outcome::Promoted).await?;
    busy.serves("v2").await?;
    busy.ensure_never_on_a_part()
}

/// Stable's ReplicaSet is deleted while both versions serve: its template is put back into the Deployment, which makes it anew.
pub async fn stable_set_deleted(busy: &Busy) -> Result<()> {
    busy.ship_to(&[], 50).await?;
    let stable = shop::status(&busy.scene.namespace).await?.stable;
    let set = stable.context("no stable version is recorded")?.replica_set;
    let from = Timestamp::now();
    busy.scene
        .namespace
        .kubectl(&["delete", "replicaset", &set, "--wait=false"])
        .await?;
    busy.moment("stable's pods to go", |moment| moment.ready(NAME) < 4)
        .await?;
    let to = busy.made_good(4, 2).await?;
    busy.lost_pods(from, to);
    let status = busy.ended(Outcome::Reverted).await?;
    let reason = status.history.first().and_then(|past| past.reason.clone());
    ensure!(reason.as_deref() == Some("StableLost"), "{reason:?}");
    busy.serves("v1").await
}

/// Every pod of the canary is killed while both versions serve: weight 0 until they are back, then the run goes on where it was.
pub async fn canary_killed(busy: &Busy) -> Result<()> {
    busy.ship_to(&[SLOW], 50).await?;
    let from = busy.kill_canary().await?;
    busy.moment("the canary's pods to go", |moment| moment.ready(CANARY) == 0)
        .await?;
    // What is lost until weight 0 is accepted goes with the pods, and nothing after that.
    busy.status("Retreated", |status| {
        status.phase == Some(Phase::Retreated) && status.weight == Some(0)
    })
    .await?;
    let zero = busy
        .scene
        .record
        .accepted_at(0, from)
        .context("weight 0 was not accepted")?;
    busy.lost_pods(from, zero);
    busy.at_weight(50).await?;
    busy.scene.command(Verb::Abort).await?;
    busy.ended(Outcome::Failed).await?;
    busy.serves("v1").await
}

/// A GitOps controller applies the user's route every 5 s while both versions serve: each time all traffic is on stable, until the weights
/// are put right again.
pub async fn gitops_every_five_seconds(busy: &Busy) -> Result<()> {
    let namespace = &busy.scene.namespace;
    busy.ship_to(&[], 50).await?;
    let manifest = gitops::manifest(&Shop::default().route(namespace), "HTTPRoute")?;
    let site = gitops::Site::of(namespace);
    for _ in 0..5 {
        site.apply(gitops::ARGO_CD, &manifest).await?;
        sleep(Duration::from_secs(5)).await;
    }
    let flips = busy.ensure_covered(Timestamp::UNIX_EPOCH, 4)?;
    ensure!(
        flips.iter().filter(|share| **share == 0).count() > 1,
        "the apply changed nothing: {flips:?}"
    );
    busy.scene.command(Verb::Abort).await?;
    busy.ended(Outcome::Failed).await?;
    busy.excuse_removals()?;
    busy.serves("v1").await
}

/// The Rollout is deleted by foreground propagation while both versions serve.
pub async fn deleted_in_the_foreground(busy: &Busy) -> Result<()> {
    busy.ship_to(&[], 50).await?;
    let delete = ["delete", "rollout", NAME, "--cascade=foreground", "--wait=false"];
    busy.scene.namespace.kubectl(&delete).await?;
    gone(busy).await?;
    busy.serves("v1").await
}

/// The Deployment is deleted and made anew while both versions serve: the canary keeps its share until the new one is ready.
pub async fn deployment_made_anew(busy: &Busy, shop: &Shop) -> Result<()> {
    let namespace = &busy.scene.namespace;
    busy.ship_to(&[], 50).await?;
    let from = Timestamp::now();
    namespace
        .kubectl(&["delete", "deployment", NAME, "--wait=false"])
        .await?;
    busy.moment("the Deployment's pods to go", |moment| moment.ready(NAME) == 0)
        .await?;
    namespace.apply(&shop.application()).await?;
    let to = busy.made_good(4, 2).await?;
    busy.lost_pods(from, to);
    busy.ended(Outcome::Replaced).await?;
    busy.serves("v1").await
}

fn run_id(busy: &Busy) -> Result<String> {
    let status = busy.scene.record.last_status().context("no status")?;
    Ok(status.run.context("no run")?.id)
}

async fn gone(busy: &Busy) -> Result<()> {
    let bound = format!("--timeout={}s", BOUND.as_secs());
    let wait = ["wait", "--for=delete", "rollout/checkout", &bound];
    busy.scene.namespace.kubectl(&wait).await?;
    Ok(())
}

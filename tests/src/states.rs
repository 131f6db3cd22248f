//! Brings a run into each of its states and keeps it there until a test has done what it came for.
//!
//! What would pass in moments is kept by the world alone, as the world does it: a quota that no pod fits into, a gateway's route that
//! refuses the operator's writes, a version that never gets ready. The shop is [`shop`], led by commands.

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use stepgate_crds::status::Phase;
use stepgate_crds::{RolloutStatus, Verb};
use tokio::sync::Semaphore;

use crate::cluster::{Cluster, Namespace};
use crate::gitops;
use crate::load::{Load, LoadOptions};
use crate::operator::OperatorOptions;
use crate::record::status_line;
use crate::refusal::Refusal;
use crate::scene::Scene;
use crate::shop::{self, NAME, Shop};
use crate::until::{Seen, until};

/// How long any state may take to come.
pub const BOUND: Duration = Duration::from_mins(2);

/// The name of the quota.
const ROOM: &str = "room";
/// Cases at once for each core: a case waits most of its time.
const CASES_PER_CORE: usize = 6;

/// Where a Rollout can be when something happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the phase of the same name")]
pub enum State {
    Healthy,
    Preparing,
    Stepping,
    Paused,
    Retreated,
    Promoting,
    Restoring,
    Returning,
    RollingBack,
    Draining,
    Failed,
}

impl State {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 11] = [
        Self::Healthy,
        Self::Preparing,
        Self::Stepping,
        Self::Paused,
        Self::Retreated,
        Self::Promoting,
        Self::Restoring,
        Self::Returning,
        Self::RollingBack,
        Self::Draining,
        Self::Failed,
    ];

    /// As the status calls it.
    pub fn phase(self) -> Phase {
        match self {
            Self::Healthy => Phase::Healthy,
            Self::Preparing => Phase::Preparing,
            Self::Stepping => Phase::Stepping,
            Self::Paused => Phase::Paused,
            Self::Retreated => Phase::Retreated,
            Self::Promoting => Phase::Promoting,
            Self::Restoring => Phase::Restoring,
            Self::Returning => Phase::Returning,
            Self::RollingBack => Phase::RollingBack,
            Self::Draining => Phase::Draining,
            Self::Failed => Phase::Failed,
        }
    }

    /// Whether the canary is the whole side: the Deployment rolls while the canary carries the traffic.
    pub fn canary_is_whole(self) -> bool {
        matches!(self, Self::Promoting | Self::Restoring)
    }

    /// A scene of its own, with v1 stable on two pods and v2 brought into this state, and what keeps it there.
    pub async fn scene(self, cluster: &Cluster, prefix: &str, options: OperatorOptions) -> Result<(Scene, Kept)> {
        let scene = Scene::open(cluster, prefix, &shop(), self.options(options)).await?;
        let reached = self.reach(&scene).await;
        let kept = scene.told(reached)?;
        Ok((scene, kept))
    }

    /// Draining has to last long enough to be met.
    fn options(self, options: OperatorOptions) -> OperatorOptions {
        match self {
            Self::Draining => OperatorOptions {
                drain: "10s",
                ..options
            },
            _ => options,
        }
    }

    /// Brings the shop's Rollout, which is Healthy, into this state.
    pub async fn reach(self, scene: &Scene) -> Result<Kept> {
        let namespace = &scene.namespace;
        let mut kept = Kept::default();
        match self {
            Self::Healthy => {}
            Self::Preparing => {
                // By kubectl, which puts a new variable where a manifest would: at the end.
                let change = ["set", "env", "deployment/checkout", "VERSION=v2", "SLOW_START=60m"];
                namespace.kubectl(&change).await?;
            }
            Self::Stepping => at(scene, 50).await?,
            Self::Paused => {
                at(scene, 50).await?;
                scene.command(Verb::Pause).await?;
            }
            Self::Retreated => {
                at(scene, 50).await?;
                kept.quota(namespace, 2).await?;
                delete_canary_pods(namespace).await?;
            }
            Self::Promoting | Self::Restoring => {
                at(scene, 50).await?;
                scene.command(Verb::Promote).await?;
                in_force(scene, 100).await?;
                // One pod of stable goes for a new one, for which there is no room.
                kept.quota(namespace, 3).await?;
                scene.command(Verb::Promote).await?;
                seen(scene, Self::Promoting.phase()).await?;
                one_pod_left(namespace).await?;
                if self == Self::Restoring {
                    scene.command(Verb::Abort).await?;
                }
            }
            Self::Returning => {
                at(scene, 50).await?;
                scene.command(Verb::Promote).await?;
                in_force(scene, 100).await?;
                kept.refusal = Some(Refusal::of_route_writes(namespace).await?);
                scene.command(Verb::Promote).await?;
            }
            Self::RollingBack => {
                at(scene, 50).await?;
                kept.refusal = Some(Refusal::of_route_writes(namespace).await?);
                scene.command(Verb::Abort).await?;
            }
            Self::Draining | Self::Failed => {
                at(scene, 50).await?;
                scene.command(Verb::Abort).await?;
            }
        }
        seen(scene, self.phase()).await?;
        if self == Self::Preparing {
            prepared(scene).await?;
        }
        Ok(kept)
    }
}

/// Runs cases at once, but no more of them in a test program than the machine's cores carry, and says all that failed.
pub async fn all<Name, Case>(cases: impl IntoIterator<Item = (Name, Case)>) -> Result<()>
where
    Name: std::fmt::Debug,
    Case: Future<Output = Result<()>>,
{
    static TURNS: LazyLock<Semaphore> = LazyLock::new(|| {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Semaphore::new(cores * CASES_PER_CORE)
    });
    let ended = join_all(cases.into_iter().map(async |(name, case)| {
        let _turn = TURNS.acquire().await;
        (name, case.await)
    }))
    .await;
    let failed: Vec<String> = ended
        .into_iter()
        .filter_map(|(name, ended)| ended.err().map(|error| format!("{name:?}: {error:#}")))
        .collect();
    ensure!(
        failed.is_empty(),
        "{} cases failed\n{}",
        failed.len(),
        failed.join("\n")
    );
    Ok(())
}

/// What keeps a run in its state.
#[derive(Debug, Default)]
pub struct Kept {
    quota: bool,
    refusal: Option<Refusal>,
}

impl Kept {
    /// The world's obstacle ends.
    pub async fn let_go(&mut self, namespace: &Namespace) -> Result<()> {
        if let Some(refusal) = self.refusal.take() {
            refusal.end().await?;
        }
        if std::mem::take(&mut self.quota) {
            let quotas: Api<ResourceQuota> = namespace.api();
            // Gone already where the whole namespace goes.
            let _gone = quotas.delete(ROOM, &DeleteParams::default()).await;
        }
        Ok(())
    }

    /// A quota of so many pods, in force.
    async fn quota(&mut self, namespace: &Namespace, pods: u32) -> Result<()> {
        self.quota = true;
        no_room(namespace, pods).await
    }
}

/// Puts a quota of so many pods into the namespace; comes back when it is in force.
pub async fn no_room(namespace: &Namespace, pods: u32) -> Result<()> {
    let quotas: Api<ResourceQuota> = namespace.api();
    let quota =
        serde_json::from_value(json!({"metadata": {"name": ROOM}, "spec": {"hard": {"pods": pods.to_string()}}}))?;
    quotas.create(&PostParams::default(), &quota).await?;
    until("the quota to be in force", BOUND, async || {
        let used = quotas.get(ROOM).await?.status.and_then(|status| status.used);
        Ok(used.map_or_else(|| Seen::NotYet("not yet".to_owned()), |_| Seen::Done(())))
    })
    .await
}

/// The shop of these states: two pods, of which a roll may take one; steps of 50 and 100 that go on by command alone.
pub fn shop() -> Shop {
    Shop {
        replicas: 2,
        rollout: "  steps: [{weight: 50, bake: 1h}, {weight: 100, bake: 1h}]\n".to_owned(),
        ..Shop::default()
    }
}

/// The shop's Deployment as it stands in Git: this version, and the number of pods left to an autoscaler.
pub fn deployment_in_git(version: &str) -> Result<Value> {
    let text = shop().application().replace("value: v1", &format!("value: {version}"));
    let mut manifest = gitops::manifest(&text, "Deployment")?;
    let spec = manifest
        .get_mut("spec")
        .and_then(Value::as_object_mut)
        .context("a spec")?;
    spec.remove("replicas");
    spec.insert("strategy".to_owned(), strategy());
    Ok(manifest)
}

/// A roll takes a pod first.
fn strategy() -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}})
}

/// Ships v2 and waits until this weight is in force.
async fn at(scene: &Scene, weight: i32) -> Result<()> {
    ship(&scene.namespace).await?;
    in_force(scene, weight).await
}

/// Ships v2, and changes how the Deployment rolls.
async fn ship(namespace: &Namespace) -> Result<()> {
    let environment = json!([{"name": "VERSION", "value": "v2"}]);
    let template = json!({"spec": {"containers": [{"name": "app", "env": environment}]}});
    let patch = Patch::Strategic(json!({"spec": {"strategy": strategy(), "template": template}}));
    let deployments: Api<Deployment> = namespace.api();
    deployments.patch(NAME, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Waits until every parent accepted this weight of a step.
pub async fn in_force(scene: &Scene, weight: i32) -> Result<()> {
    follow(scene, &format!("{weight} % in force"), |status| {
        status.phase == Some(Phase::Stepping)
            && status.run.as_ref().is_some_and(|run| {
                run.weight == weight && run.in_force.as_ref().is_some_and(|force| force.seq == run.seq)
            })
    })
    .await?;
    Ok(())
}

/// Waits until the Rollout is in this phase.
pub async fn seen(scene: &Scene, phase: Phase) -> Result<RolloutStatus> {
    follow(scene, phase.as_str(), |status| status.phase == Some(phase)).await
}

/// Waits until the last status that the record saw is as wanted: by its watch, so that many scenes at once cost the API server nothing.
pub async fn follow(scene: &Scene, what: &str, wanted: impl Fn(&RolloutStatus) -> bool) -> Result<RolloutStatus> {
    follow_for(scene, what, BOUND, wanted).await
}

/// The same within a bound of one's own.
pub async fn follow_for(
    scene: &Scene,
    what: &str,
    bound: Duration,
    wanted: impl Fn(&RolloutStatus) -> bool,
) -> Result<RolloutStatus> {
    until(what, bound, async || {
        let last = scene.record.last_status().context("no status yet")?;
        Ok(if wanted(&last) {
            Seen::Done(last)
        } else {
            Seen::NotYet(status_line(&last))
        })
    })
    .await
}

/// Waits until a version answers at the gateway, and it alone.
pub async fn serves(namespace: &Namespace, version: &str) -> Result<()> {
    serves_within(namespace, version, BOUND).await
}

/// The same within a bound of one's own.
pub async fn serves_within(namespace: &Namespace, version: &str, bound: Duration) -> Result<()> {
    until(&format!("{version} alone to answer"), bound, async || {
        let twenty = LoadOptions {
            rate: 100.0,
            count: Some(20),
            ..shop::load(namespace)
        };
        let report = Load::start(twenty)?.finished().await?;
        Ok(if report.version(version).total == 20 {
            Seen::Done(())
        } else {
            Seen::NotYet(report.to_string())
        })
    })
    .await
}

/// Deletes the canary's pods, all at once, as a drained node does.
pub async fn delete_canary_pods(namespace: &Namespace) -> Result<()> {
    let pods: Api<Pod> = namespace.api();
    let canary = ListParams::default().labels("app=checkout-canary");
    let found = pods.list(&canary).await?.items.len();
    ensure!(found > 0, "the canary has no pods");
    let at_once = DeleteParams::default().grace_period(0);
    pods.delete_collection(&at_once, &canary).await?;
    Ok(())
}

async fn one_pod_left(namespace: &Namespace) -> Result<()> {
    until("the roll to have taken a pod", BOUND, async || {
        let deployment = shop::deployment(namespace).await?;
        let replicas = deployment.pointer("/status/replicas").and_then(Value::as_i64);
        Ok(if replicas == Some(1) {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{replicas:?} pods"))
        })
    })
    .await
}

/// Waits until all is there that preparing makes, but ready pods.
async fn prepared(scene: &Scene) -> Result<()> {
    until("the canary and its backendRef", BOUND, async || {
        shop::object(&scene.namespace, "apps/v1", "Deployment", "checkout-canary").await?;
        let weights = scene.record.accepted_weights();
        Ok(if weights.last() == Some(&Some(0)) {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("accepted weights {weights:?}"))
        })
    })
    .await
}

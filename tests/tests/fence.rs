//! The fence: a write of the operator that the network holds back past an abort, or past a change of leader, and then delivers has no effect.
//!
//! The network is imitated by a proxy on the operator's way to the API server: `interceptor`. The operator gives a write up after 5 s and goes
//! on; what it does next has to be such that the API server refuses the late one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use stepgate_crds::status::{Outcome, Phase, RunState};
use stepgate_crds::{RolloutStatus, Verb};
use stepgate_tests::cluster::Cluster;
use stepgate_tests::interceptor::{Caught, Delivered, Hold, Interceptor, Matching};
use stepgate_tests::operator::{Operator, OperatorOptions, SYSTEM};
use stepgate_tests::scene::Scene;
use stepgate_tests::scene::witness::Witness;
use stepgate_tests::shop::{self, NAME, Shop};
use stepgate_tests::until::{Seen, until};
use tokio::time::sleep;

const BOUND: Duration = Duration::from_mins(1);

/// A shop whose operator reaches the API server through a slow network.
struct Slow {
    scene: Scene,
    witness: Witness,
    network: Interceptor,
}

async fn slow(name: &str, steps: &str) -> Result<Slow> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace(name).await?;
    let witness = Witness::start(&namespace);
    stepgate_tests::operator::install_chart(&cluster).await?;
    let network = Interceptor::start(&cluster).await?;
    let options = OperatorOptions {
        kubeconfig: Some(network.kubeconfig().to_owned()),
        ..OperatorOptions::led_by_commands()
    };
    let shop = Shop {
        rollout: format!("  steps: {steps}\n"),
        ..Shop::small()
    };
    let scene = Scene::open_in(namespace, &shop, options).await?;
    Ok(Slow {
        scene,
        witness,
        network,
    })
}

/// The raise of the canary to this weight, as the operator writes it.
fn raise(weight: i32) -> Matching {
    let path = format!("/httproutes/{NAME}");
    Matching::patch(&path)
        .with(&format!("\"value\":{weight}"))
        .with("checkout-canary")
}

fn state(status: &RolloutStatus) -> Option<&RunState> {
    status.run.as_ref().map(|run| &run.state)
}

/// What was written of an object: all but what the server and its controllers keep about it.
fn as_written(object: &Value) -> Value {
    json!({"spec": object.get("spec"), "annotations": object.pointer("/metadata/annotations")})
}

impl Slow {
    /// Waits until the route carries a later intent than a write that is held back.
    async fn a_later_intent_than(&self, late: &Caught) -> Result<()> {
        let own = intent_of(&late.body).with_context(|| format!("no mark in {}", late.body))?;
        until(&format!("the fence: a later intent than {own}"), BOUND, async || {
            let mark = self.witness.now().and_then(|moment| moment.mark);
            Ok(match mark.as_deref().and_then(intent) {
                Some(seq) if seq > own => Seen::Done(()),
                _ => Seen::NotYet(format!("{mark:?}")),
            })
        })
        .await
    }

    /// Delivers the late raise, which has to be refused and to leave the route as it is; at no time after this did the canary get more than
    /// `most` percent.
    async fn refused_raise(&self, late: Hold, most: i64) -> Result<()> {
        let before = shop::route(&self.scene.namespace).await?;
        let delivered = late.deliver().await?;
        ensure_refused(&delivered)?;
        sleep(Duration::from_secs(1)).await;
        let after = shop::route(&self.scene.namespace).await?;
        // The run may have ended meanwhile, and taken its ref and mark off; it never raises.
        let moments = self.witness.moments();
        let raised = moments.iter().find(|moment| moment.canary_share > most);
        ensure!(raised.is_none(), "the canary was raised: {raised:?}");
        let weight = |route: &Value| {
            let canary = route
                .pointer("/spec/rules/0/backendRefs/1/weight")
                .and_then(Value::as_i64);
            canary.unwrap_or(0)
        };
        ensure!(
            weight(&after) <= weight(&before),
            "the route changed:\n{}\n{}",
            as_written(&before),
            as_written(&after)
        );
        Ok(())
    }
}

/// The number of the intent in a mark `<run>.<number>`.
fn intent(mark: &str) -> Option<u32> {
    mark.rsplit_once('.')?.1.parse().ok()
}

/// The number of the intent that a JSON Patch on the route marks it with.
fn intent_of(body: &str) -> Option<u32> {
    let operations: Vec<Value> = serde_json::from_str(body).ok()?;
    let marking = operations.iter().find(|operation| {
        let path = operation.get("path").and_then(Value::as_str);
        path.is_some_and(|path| path.ends_with("stepgate.dev~1run"))
    })?;
    intent(marking.get("value")?.as_str()?)
}

/// 409 and 422 are what a precondition that fails is answered with.
fn ensure_refused(delivered: &Delivered) -> Result<()> {
    ensure!(
        [409, 422].contains(&delivered.status),
        "the late write was answered {}: {}",
        delivered.status,
        delivered.body
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_raise_that_is_late_past_an_abort_is_refused() -> Result<()> {
    let slow = slow("fence-first", "[{weight: 50, bake: 1h}, {weight: 100, bake: 1h}]").await?;
    let outcome = async {
        let mut late = slow.network.hold(raise(50));
        shop::ship(&slow.scene.namespace, "v2", "0%").await?;
        let caught = late.caught(BOUND).await?;
        // The route is at weight 0 already: without another mark the late raise would land.
        slow.scene.command(Verb::Abort).await?;
        slow.a_later_intent_than(&caught).await?;
        slow.refused_raise(late, 0).await?;
        shop::wait(&slow.scene.namespace, Phase::Failed, BOUND).await?;
        Ok(())
    }
    .await;
    slow.scene.told(outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raise_that_is_late_past_an_abort_is_refused() -> Result<()> {
    let steps = "[{weight: 10, bake: 1h}, {weight: 50, bake: 1h}, {weight: 100, bake: 1h}]";
    let slow = slow("fence-raise", steps).await?;
    let outcome = async {
        shop::ship(&slow.scene.namespace, "v2", "0%").await?;
        shop::wait_for_weight(&slow.scene.namespace, 10, BOUND).await?;
        let mut late = slow.network.hold(raise(50));
        slow.scene.command(Verb::Promote).await?;
        late.caught(BOUND).await?;
        slow.scene.command(Verb::Abort).await?;
        until("weight 0", BOUND, async || {
            let moment = slow.witness.now().context("nothing was seen of the shop")?;
            Ok(if moment.canary_share == 0 {
                Seen::Done(())
            } else {
                Seen::NotYet(moment.to_string())
            })
        })
        .await?;
        slow.refused_raise(late, 10).await?;
        shop::wait(&slow.scene.namespace, Phase::Failed, BOUND).await?;
        Ok(())
    }
    .await;
    slow.scene.told(outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raise_that_is_late_past_a_change_of_leader_is_refused() -> Result<()> {
    let mut slow = slow("fence-leader", "[{weight: 50, bake: 1h}, {weight: 100, bake: 1h}]").await?;
    let outcome = async {
        let mut late = slow.network.hold(raise(50));
        shop::ship(&slow.scene.namespace, "v2", "0%").await?;
        let caught = late.caught(BOUND).await?;
        slow.scene.command(Verb::Abort).await?;
        slow.scene.operator.kill().await?;
        free_lease(&slow.scene).await?;
        // Another one, by a way of its own, knows nothing of the write that is under way.
        let _next = Operator::start(&slow.scene.namespace, OperatorOptions::led_by_commands()).await?;
        slow.a_later_intent_than(&caught).await?;
        slow.refused_raise(late, 0).await?;
        shop::wait(&slow.scene.namespace, Phase::Failed, BOUND).await?;
        Ok(())
    }
    .await;
    slow.scene.told(outcome)
}

/// As if the 15 s of a killed leader had passed.
async fn free_lease(scene: &Scene) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(scene.namespace.cluster().client(), SYSTEM);
    let free = Patch::Merge(json!({"spec": {"holderIdentity": ""}}));
    leases
        .patch(scene.namespace.name(), &PatchParams::default(), &free)
        .await
        .context("freeing the Lease")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_un_pause_that_is_late_past_an_abort_is_refused_and_rolls_nothing() -> Result<()> {
    let slow = slow("fence-un-pause", "[{weight: 100, bake: 1h}]").await?;
    let outcome = async {
        let namespace = &slow.scene.namespace;
        let stable = shop::status(namespace).await?.stable.context("stable")?.replica_set;
        shop::ship(namespace, "v2", "0%").await?;
        shop::wait_for_weight(namespace, 100, BOUND).await?;
        let un_pause = Matching::patch(&format!("/deployments/{NAME}"))
            .with("paused")
            .without("template");
        let mut late = slow.network.hold(un_pause);
        slow.scene.command(Verb::Promote).await?;
        let caught = late.caught(BOUND).await?;
        ensure!(!caught.body.contains("true"), "not an un-pause: {}", caught.body);
        slow.scene.command(Verb::Abort).await?;
        slow.scene
            .wait_for("the abort to be obeyed", BOUND, |status| {
                matches!(state(status), Some(RunState::Draining { .. })) || status.run.is_none()
            })
            .await?;
        ensure_refused(&late.deliver().await?)?;
        let ended = slow
            .scene
            .wait_for("the end", BOUND, |status| status.run.is_none())
            .await?;
        let outcome = ended.history.first().context("no history")?.outcome;
        ensure!(outcome == Outcome::Failed, "{outcome:?}");
        sleep(Duration::from_secs(2)).await;
        let moments = slow.witness.moments();
        let rolled = moments.iter().find(|moment| {
            let mut sets = moment.sets.iter();
            sets.any(|(name, set)| *name != stable && (set.wanted > 0 || set.pods > 0))
        });
        ensure!(
            rolled.is_none(),
            "the Deployment rolled: {}",
            rolled.map(ToString::to_string).unwrap_or_default()
        );
        Ok(())
    }
    .await;
    slow.scene.told(outcome)
}

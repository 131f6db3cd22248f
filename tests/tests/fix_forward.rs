//! Fix forward: where there is nothing to protect, nothing is held. A stable version that does not serve must never keep the version that
//! mends it from getting through.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use stepgate_crds::RolloutStatus;
use stepgate_crds::status::{Outcome, Phase};
use stepgate_tests::cluster::Cluster;
use stepgate_tests::load::{Load, LoadOptions};
use stepgate_tests::operator::{Operator, OperatorOptions};
use stepgate_tests::record::Record;
use stepgate_tests::scene::{Scene, quick};
use stepgate_tests::shop::{self, NAME, Shop};
use stepgate_tests::states;
use stepgate_tests::until::{Seen, until};
use tokio::time::sleep;

const BOUND: Duration = Duration::from_mins(2);

/// A version that dies as soon as it lives.
const CRASHING: [&str; 2] = ["SLOW_START=60m", "CRASH_AFTER=300ms"];
/// A version that is well.
const WELL: [&str; 2] = ["SLOW_START=0s", "CRASH_AFTER=0s"];

fn options() -> OperatorOptions {
    OperatorOptions {
        flags: vec!["--bare-deadline=4s".to_owned()],
        ..OperatorOptions::led_by_commands()
    }
}

/// Changes the template: a version, and what else its environment says.
async fn ship(scene: &Scene, version: &str, environment: &[&str]) -> Result<()> {
    let version = format!("VERSION={version}");
    let mut arguments = vec!["set", "env", "deployment/checkout", version.as_str()];
    arguments.extend(environment);
    scene.namespace.kubectl(&arguments).await?;
    Ok(())
}

/// Deployment, Service and route without a Rollout, and an operator that waits for one.
async fn without_a_rollout(cluster: &Cluster, shop: &Shop) -> Result<Scene> {
    let namespace = cluster.namespace("forward").await?;
    let operator = Operator::start(&namespace, options()).await?;
    let record = Record::start(&namespace);
    namespace.apply(&shop.application()).await?;
    namespace.apply(&shop.route(&namespace)).await?;
    Ok(Scene {
        operator,
        record,
        namespace,
    })
}

/// The fix has got through: it serves, it is the stable version, and it is held no more.
async fn is_through(scene: &Scene, version: &str) -> Result<RolloutStatus> {
    states::serves(&scene.namespace, version).await?;
    let healthy = states::follow(scene, "the fix to be adopted", |status| {
        status.phase == Some(Phase::Healthy) && status.stable.is_some() && status.run.is_none()
    })
    .await?;
    let deployment = shop::deployment(&scene.namespace).await?;
    let paused = deployment.pointer("/spec/paused");
    ensure!(paused.is_none(), "still paused");
    let stable = healthy.stable.clone().context("a stable version")?;
    let template = shop::object(&scene.namespace, "v1", "PodTemplate", &stable.template).await?;
    ensure!(
        template.pointer("/template") == deployment.pointer("/spec/template"),
        "{} is recorded as stable, and {deployment} serves",
        stable.template
    );
    Ok(healthy)
}

/// What comes next is taken out step by step again.
async fn next_version_is_held(scene: &Scene) -> Result<()> {
    ship(scene, "v9", &WELL).await?;
    states::in_force(scene, 10).await?;
    serves_two(scene).await
}

async fn serves_two(scene: &Scene) -> Result<()> {
    let report = Load::start(LoadOptions {
        rate: 100.0,
        count: Some(200),
        ..shop::load(&scene.namespace)
    })?
    .finished()
    .await?;
    ensure!(
        report.version("v9").total < 60 && report.version("v9").total > 0,
        "{report}"
    );
    Ok(())
}

async fn told(scene: &Scene, case: impl Future<Output = Result<()>>) -> Result<()> {
    scene.told(case.await)
}

/// An Event says that a version was let through unjudged.
async fn ensure_event(scene: &Scene) -> Result<()> {
    let wanted = "NothingToProtect";
    until(&format!("an Event that says: {wanted}"), BOUND, async || {
        let events = shop::events(&scene.namespace, NAME).await?;
        Ok(
            if events
                .iter()
                .any(|(reason, text)| reason == wanted || text.contains(wanted))
            {
                Seen::Done(())
            } else {
                Seen::NotYet(format!("{events:?}"))
            },
        )
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fix_gets_through_where_stable_crashes_when_the_rollout_is_created() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let scene = without_a_rollout(&cluster, &Shop::small()).await?;
    told(&scene, async {
        ship(&scene, "v1", &CRASHING).await?;
        crashes(&scene).await?;
        scene.namespace.apply(&Shop::small().rollout()).await?;
        states::follow(&scene, "a word", |status| status.phase.is_some()).await?;
        ship(&scene, "v2", &WELL).await?;
        is_through(&scene, "v2").await?;
        next_version_is_held(&scene).await
    })
    .await
}

/// Waits until a container of the Deployment waits to be started again.
async fn crashes(scene: &Scene) -> Result<()> {
    until("CrashLoopBackOff", BOUND, async || {
        let pods = scene.namespace.kubectl(&["get", "pods", "-o", "yaml"]).await?;
        Ok(if pods.contains("CrashLoopBackOff") {
            Seen::Done(())
        } else {
            Seen::NotYet("it has not crashed yet".to_owned())
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_of_a_deployment_without_pods_is_let_through_at_once() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let nothing = Shop {
        replicas: 0,
        ..Shop::default()
    };
    let scene = without_a_rollout(&cluster, &nothing).await?;
    told(&scene, async {
        scene.namespace.apply(&nothing.rollout()).await?;
        states::follow(&scene, "a stable version", |status| status.stable.is_some()).await?;
        let first = shop::status(&scene.namespace).await?.stable;
        ship(&scene, "v2", &WELL).await?;
        let second = states::follow(&scene, "v2 to be adopted", |status| {
            status.phase == Some(Phase::Healthy) && status.stable.is_some() && status.stable != first
        })
        .await?;
        ensure!(second.run.is_none() && second.history.is_empty(), "{second:?}");
        ensure_event(&scene).await?;
        scene
            .namespace
            .kubectl(&["scale", "deployment/checkout", "--replicas=2"])
            .await?;
        is_through(&scene, "v2").await?;
        // Scaled to 0 in its life: the same.
        scene
            .namespace
            .kubectl(&["scale", "deployment/checkout", "--replicas=0"])
            .await?;
        sleep(Duration::from_secs(2)).await;
        ship(&scene, "v3", &WELL).await?;
        states::follow(&scene, "v3 to be adopted", |status| {
            status.phase == Some(Phase::Healthy) && status.stable.is_some() && status.stable != second.stable
        })
        .await?;
        scene
            .namespace
            .kubectl(&["scale", "deployment/checkout", "--replicas=2"])
            .await?;
        is_through(&scene, "v3").await?;
        next_version_is_held(&scene).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fix_gets_through_in_the_middle_of_a_roll_that_began_before_the_rollout() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let shop = Shop {
        replicas: 2,
        ..Shop::default()
    };
    let scene = without_a_rollout(&cluster, &shop).await?;
    told(&scene, async {
        states::serves(&scene.namespace, "v1").await?;
        // A roll that never ends: one pod of v2 that is never ready beside two of v1.
        ship(&scene, "v2", &["SLOW_START=60m"]).await?;
        crashed_or_started(&scene).await?;
        scene.namespace.apply(&shop.rollout()).await?;
        states::follow(&scene, "a word about the roll", |status| {
            status
                .message
                .as_ref()
                .is_some_and(|message| message.contains("in the middle of a roll"))
        })
        .await?;
        ship(&scene, "v3", &WELL).await?;
        is_through(&scene, "v3").await?;
        next_version_is_held(&scene).await
    })
    .await
}

/// Waits until the Deployment has pods of two versions.
async fn crashed_or_started(scene: &Scene) -> Result<()> {
    until("pods of two versions", BOUND, async || {
        let deployment = shop::deployment(&scene.namespace).await?;
        let count = |field: &str| {
            deployment
                .pointer(&format!("/status/{field}"))
                .and_then(serde_json::Value::as_i64)
        };
        let (all, updated) = (count("replicas").unwrap_or(0), count("updatedReplicas").unwrap_or(0));
        Ok(if updated > 0 && all > updated {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{updated} of {all} updated"))
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_whose_pods_are_ready_gets_through_where_stable_has_lost_its_endpoints() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let scene = without_a_rollout(&cluster, &Shop::small()).await?;
    told(&scene, async {
        scene.namespace.apply(&Shop::small().rollout()).await?;
        states::seen(&scene, Phase::Healthy).await?;
        // Its pods go, and the cluster takes no new ones of this version: an image policy, say.
        let policy = refuse_pods_of(&scene, "v1").await?;
        scene
            .namespace
            .kubectl(&["delete", "pod", "-l", "app=checkout", "--wait=true"])
            .await?;
        ship(&scene, "v2", &WELL).await?;
        let healthy = is_through(&scene, "v2").await?;
        ensure!(
            healthy
                .history
                .first()
                .is_some_and(|past| past.outcome == Outcome::Native),
            "{healthy:?}"
        );
        ensure_event(&scene).await?;
        next_version_is_held(&scene).await?;
        for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
            scene.namespace.kubectl(&["delete", kind, &policy]).await?;
        }
        Ok(())
    })
    .await
}

/// An admission policy that takes no pod of this version in the namespace any more; comes back when it is in force.
async fn refuse_pods_of(scene: &Scene, version: &str) -> Result<String> {
    let policy = format!("refuse-{version}-{}", scene.namespace.name());
    let expression = format!("!object.spec.containers[0].env.exists(v, v.name == 'VERSION' && v.value == '{version}')");
    let manifest = json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": policy},
            "spec": {
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"],
                }]},
                "validations": [{"expression": expression, "message": "refused by a test"}],
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": policy},
            "spec": {
                "policyName": policy, "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": scene.namespace.name()}}},
            },
        },
    ]});
    scene.namespace.apply(&manifest.to_string()).await?;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "rehearsal"}, "spec": {"containers": [
        {"name": "app", "image": "demo-app", "env": [{"name": "VERSION", "value": version}]},
    ]}});
    until("the policy to be in force", BOUND, async || {
        let create = ["create", "--dry-run=server", "-f", "-"];
        let answer = scene.namespace.kubectl_and_warnings(&create, &pod.to_string()).await;
        Ok(match answer {
            Err(_) => Seen::Done(()),
            Ok(_) => Seen::NotYet("pods are still taken".to_owned()),
        })
    })
    .await?;
    Ok(policy)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_better_than_a_bad_stable_one_gets_through() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("forward").await?;
    let (_prometheus, options) = quick(&namespace).await?;
    let bad = Shop {
        replicas: 2,
        error_share: "8%",
        rollout: "  steps: [{weight: 50}, {weight: 100}]\n".to_owned(),
        ..Shop::default()
    };
    let scene = Scene::open_in(namespace, &bad, options).await?;
    told(&scene, async {
        let load = scene.load(200.0).await?;
        // Eight times what is tolerated, and nobody holds it against the version that mends it.
        sleep(Duration::from_secs(6)).await;
        shop::ship(&scene.namespace, "v2", "0%").await?;
        states::follow(&scene, "v2 to be promoted", |status| {
            status
                .history
                .first()
                .is_some_and(|past| past.outcome == Outcome::Promoted)
        })
        .await?;
        states::serves(&scene.namespace, "v2").await?;
        let report = load.stop().await?;
        ensure!(
            report.other_failures() == 0 && report.version("v1").injected > 0,
            "{report}"
        );
        ensure!(
            scene.record.first_run(|run| run.overridden.is_some()).is_none(),
            "somebody had to help"
        );
        Ok(())
    })
    .await
}

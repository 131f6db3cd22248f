//! The life of a Rollout beside the straight way: adoption, another template in mid-run, deletion, a Deployment made anew, deadlines
//! and crashing canaries, and what `kubectl wait` and kstatus read of it all.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON is looked into by its fields; what is not there reads as null"
)]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, PodTemplate, Service};
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use serde_json::Value;
use stepgate_crds::names::{CANARY_OF, FINALIZER, HOLD, ROLLOUT, RUN, TEMPLATE_OF};
use stepgate_crds::status::{Outcome, Phase, RunState};
use stepgate_crds::{Rollout, RolloutStatus};
use stepgate_tests::cluster::Namespace;
use stepgate_tests::load::{Load, LoadOptions};
use stepgate_tests::operator::Operator;
use stepgate_tests::shop::{self, NAME, Shop};
use stepgate_tests::states::serves_within;
use stepgate_tests::until::{Seen, until};
use tokio::task::JoinHandle;

const BOUND: Duration = Duration::from_mins(1);

async fn scene(shop: &Shop) -> Result<(Namespace, Operator)> {
    shop::led_by_commands("lifecycle", shop).await
}

/// Whether an object stands in the API server.
async fn is_there(namespace: &Namespace, api_version: &str, kind: &str, name: &str) -> bool {
    shop::object(namespace, api_version, kind, name).await.is_ok()
}

/// Deletes the Rollout as a person does, and waits until it is gone.
async fn delete_rollout(namespace: &Namespace) -> Result<()> {
    namespace.kubectl(&["delete", "rollout", NAME, "--timeout=60s"]).await?;
    Ok(())
}

/// Nothing of Stepgate is left: on the Deployment, on the route, as objects of its own.
async fn ensure_nothing_left(namespace: &Namespace, route_before: &Value) -> Result<()> {
    let deployment = shop::deployment(namespace).await?;
    let label = deployment["metadata"]["labels"].get(ROLLOUT);
    let stamp = deployment["metadata"]["annotations"].get(HOLD);
    ensure!(label.is_none() && stamp.is_none(), "{deployment}");
    let route = shop::route(namespace).await?;
    ensure!(route["spec"] == route_before["spec"], "{}", route["spec"]);
    ensure!(route["metadata"]["annotations"].get(RUN).is_none(), "{route}");
    let ours = ListParams::default().labels(CANARY_OF);
    let deployments: Api<Deployment> = namespace.api();
    let services: Api<Service> = namespace.api();
    ensure!(
        deployments.list(&ours).await?.items.is_empty(),
        "a canary Deployment is left"
    );
    ensure!(services.list(&ours).await?.items.is_empty(), "a canary Service is left");
    // The templates go with their owner, by the garbage collector.
    let templates: Api<PodTemplate> = namespace.api();
    until("the recorded templates to go", BOUND, async || {
        let left = templates
            .list(&ListParams::default().labels(TEMPLATE_OF))
            .await?
            .items
            .len();
        Ok(if left == 0 {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{left} left"))
        })
    })
    .await
}

/// The uids of the Deployment's own pods.
async fn pods(namespace: &Namespace) -> Result<BTreeSet<String>> {
    let pods: Api<Pod> = namespace.api();
    let list = pods.list(&ListParams::default().labels(&format!("app={NAME}"))).await?;
    let alive = list
        .items
        .into_iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok(alive.filter_map(|pod| pod.metadata.uid).collect())
}

async fn serves(namespace: &Namespace, version: &str) -> Result<()> {
    serves_within(namespace, version, BOUND).await
}

fn outcomes(status: &RolloutStatus) -> Vec<Outcome> {
    status.history.iter().map(|past| past.outcome).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn adoption_records_the_version_that_serves_and_marks_nothing_but_the_deployment() -> Result<()> {
    let (namespace, _operator) = scene(&Shop::small()).await?;
    let rollout = shop::rollout(&namespace).await?;
    let status = rollout.status.clone().context("a status")?;
    let stable = status.stable.context("the stable version")?;
    let sets: Api<ReplicaSet> = namespace.api();
    let set = sets.get(&stable.replica_set).await?;
    ensure!(set.metadata.uid.as_deref() == Some(stable.uid.as_str()), "{set:?}");
    let deployment = shop::deployment(&namespace).await?;
    ensure!(deployment["metadata"]["uid"] == stable.workload_uid.as_str());
    ensure!(deployment["metadata"]["labels"][ROLLOUT] == NAME, "{deployment}");
    ensure!(deployment["spec"].get("paused").is_none(), "{deployment}");
    let template = shop::object(&namespace, "v1", "PodTemplate", &stable.template).await?;
    ensure!(template["template"] == deployment["spec"]["template"], "{template}");
    ensure!(rollout.metadata.finalizers == Some(vec![FINALIZER.to_owned()]));
    let found = status.found.context("what was found")?;
    ensure!(found.stable_service == NAME && found.canary_service == "checkout-canary" && found.port == 80);
    ensure!(found.parents == ["checkout gateway-system/shared projectcontour.io/gateway-controller"]);
    ensure!(
        found
            .apart
            .starts_with("unprepared: canary pods carry app=checkout-canary"),
        "{}",
        found.apart
    );
    ensure!(status.observed_generation == rollout.metadata.generation);
    let size = serde_json::to_vec(&shop::status(&namespace).await?)?.len();
    ensure!(size < 4096, "{size} bytes at rest");
    let route = shop::route(&namespace).await?;
    delete_rollout(&namespace).await?;
    ensure_nothing_left(&namespace, &route).await?;
    let plain = shop::deployment(&namespace).await?;
    ensure!(plain["spec"] == deployment["spec"], "{plain}");
    // Plain Kubernetes again.
    shop::ship(&namespace, "v2", "0%").await?;
    namespace
        .kubectl(&["rollout", "status", "deployment/checkout", "--timeout=60s"])
        .await?;
    serves(&namespace, "v2").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_template_in_mid_run_takes_the_place_of_the_one_before() -> Result<()> {
    let (namespace, _operator) = scene(&Shop::small()).await?;
    shop::ship(&namespace, "v2", "0%").await?;
    let first = shop::wait_for_weight(&namespace, 10, BOUND).await?;
    let first = first.run.context("a run")?.id;
    shop::ship(&namespace, "v3", "0%").await?;
    let second = shop::wait_for(&namespace, "a run of its own", BOUND, |status| {
        status.run.as_ref().is_some_and(|run| run.id != first)
    })
    .await?;
    ensure!(outcomes(&second) == [Outcome::Superseded], "{second:?}");
    ensure!(second.history.first().and_then(|past| past.reason.as_deref()) == Some("NewTemplate"));
    shop::promote_through(&namespace, BOUND).await?;
    let after = shop::status(&namespace).await?;
    ensure!(
        outcomes(&after) == [Outcome::Promoted, Outcome::Superseded],
        "{after:?}"
    );
    serves(&namespace, "v3").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_template_put_back_in_mid_run_ends_it_and_rolls_nothing() -> Result<()> {
    let (namespace, _operator) = scene(&Shop::small()).await?;
    let (before, stable) = (pods(&namespace).await?, shop::status(&namespace).await?.stable);
    let route = shop::route(&namespace).await?;
    shop::ship(&namespace, "v2", "0%").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    shop::ship(&namespace, "v1", "0%").await?;
    let after = shop::wait(&namespace, Phase::Healthy, BOUND).await?;
    ensure!(
        outcomes(&after) == [Outcome::Reverted] && after.stable == stable,
        "{after:?}"
    );
    until("the Deployment to be let go", BOUND, async || {
        let deployment = shop::deployment(&namespace).await?;
        let held =
            deployment["spec"].get("paused").is_some() || deployment["metadata"]["annotations"].get(HOLD).is_some();
        Ok(if held {
            Seen::NotYet(deployment.to_string())
        } else {
            Seen::Done(())
        })
    })
    .await?;
    namespace
        .kubectl(&["rollout", "status", "deployment/checkout", "--timeout=60s"])
        .await?;
    ensure!(pods(&namespace).await? == before, "pods were replaced");
    ensure!(shop::route(&namespace).await?["spec"] == route["spec"]);
    ensure!(!is_there(&namespace, "apps/v1", "Deployment", "checkout-canary").await);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_in_mid_step_gives_the_traffic_back_before_anything_goes() -> Result<()> {
    let (namespace, _operator) = scene(&Shop::small()).await?;
    let route = shop::route(&namespace).await?;
    let load = Load::start(LoadOptions {
        rate: 50.0,
        ..shop::load(&namespace)
    })?;
    shop::ship(&namespace, "v2", "0%").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    delete_rollout(&namespace).await?;
    ensure_nothing_left(&namespace, &route).await?;
    serves(&namespace, "v1").await?;
    let report = load.stop().await?;
    ensure!(report.other_failures() == 0, "{report}");
    // The version that nobody proved is not let loose; the Event says how to go on.
    let deployment = shop::deployment(&namespace).await?;
    ensure!(deployment["spec"]["paused"] == true, "{deployment}");
    let events = shop::events(&namespace, NAME).await?;
    ensure!(
        events
            .iter()
            .any(|(reason, text)| reason == "LeftPaused" && text.contains("kubectl rollout resume deployment checkout")),
        "{events:?}"
    );
    namespace.kubectl(&["rollout", "resume", "deployment/checkout"]).await?;
    serves(&namespace, "v2").await
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_of_a_failed_rollout_leaves_stable_serving() -> Result<()> {
    let (namespace, _operator) = scene(&Shop::small()).await?;
    let route = shop::route(&namespace).await?;
    shop::ship(&namespace, "v2", "0%").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    shop::plugin(&namespace, &["abort", NAME]).await?;
    shop::wait(&namespace, Phase::Failed, BOUND).await?;
    delete_rollout(&namespace).await?;
    ensure_nothing_left(&namespace, &route).await?;
    serves(&namespace, "v1").await?;
    ensure!(shop::deployment(&namespace).await?["spec"]["paused"] == true);
    // Stable's template once more, and it is as it was.
    shop::ship(&namespace, "v1", "0%").await?;
    namespace.kubectl(&["rollout", "resume", "deployment/checkout"]).await?;
    namespace
        .kubectl(&["rollout", "status", "deployment/checkout", "--timeout=60s"])
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_while_a_reverted_run_ends_un_pauses_the_deployment() -> Result<()> {
    let (namespace, _operator) = scene(&Shop::small()).await?;
    let route = shop::route(&namespace).await?;
    shop::ship(&namespace, "v2", "0%").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    shop::ship(&namespace, "v1", "0%").await?;
    delete_rollout(&namespace).await?;
    ensure_nothing_left(&namespace, &route).await?;
    let deployment = shop::deployment(&namespace).await?;
    ensure!(deployment["spec"].get("paused").is_none(), "{deployment}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_made_anew_is_adopted_anew() -> Result<()> {
    let (namespace, _operator) = scene(&Shop::small()).await?;
    let before = shop::status(&namespace).await?.stable.context("stable")?;
    let anew = async || -> Result<()> {
        namespace
            .kubectl(&["delete", "deployment", NAME, "--timeout=60s"])
            .await?;
        namespace.apply(&Shop::small().application()).await?;
        Ok(())
    };
    let adopted = async |other_than: &str| {
        shop::wait_for(&namespace, "the new Deployment to be adopted", BOUND, |status| {
            status.phase == Some(Phase::Healthy)
                && status
                    .stable
                    .as_ref()
                    .is_some_and(|stable| stable.workload_uid != other_than)
        })
        .await
    };
    anew().await?;
    let second = adopted(&before.workload_uid).await?.stable.context("stable")?;
    ensure!(shop::deployment(&namespace).await?["metadata"]["labels"][ROLLOUT] == NAME);
    // And in the middle of a run: the run ends, whatever it was about.
    shop::ship(&namespace, "v2", "0%").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    anew().await?;
    let third = adopted(&second.workload_uid).await?;
    ensure!(outcomes(&third) == [Outcome::Replaced], "{third:?}");
    ensure!(!is_there(&namespace, "apps/v1", "Deployment", "checkout-canary").await);
    serves(&namespace, "v1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_in_mid_run_goes_for_the_next_run_and_is_said() -> Result<()> {
    let (namespace, _operator) = scene(&Shop::small()).await?;
    shop::ship(&namespace, "v2", "0%").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    let one_step = r#"{"spec": {"steps": [{"weight": 100}]}}"#;
    namespace
        .kubectl(&["patch", "rollout", NAME, "--type=merge", "--patch", one_step])
        .await?;
    let during = shop::wait_for(&namespace, "the edit to be noticed", BOUND, |status| {
        status
            .message
            .as_ref()
            .is_some_and(|message| message.contains("the edit goes for the next run"))
    })
    .await?;
    ensure!(during.step.as_deref() == Some("1/4"), "{during:?}");
    shop::plugin(&namespace, &["abort", NAME]).await?;
    shop::wait(&namespace, Phase::Failed, BOUND).await?;
    shop::plugin(&namespace, &["retry", NAME]).await?;
    let next = shop::wait_for_weight(&namespace, 100, BOUND).await?;
    ensure!(next.step.as_deref() == Some("1/1"), "{next:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_never_starts_fails_at_the_deadline_and_a_fixed_version_goes_through() -> Result<()> {
    let shop = Shop {
        rollout: "  progressDeadline: 10s\n".to_owned(),
        ..Shop::small()
    };
    let (namespace, _operator) = scene(&shop).await?;
    let image = async |image: &str| {
        let image = format!("app={image}");
        namespace
            .kubectl(&["set", "image", "deployment/checkout", &image])
            .await
    };
    image("registry.example/nothing:v2").await?;
    let failed = shop::wait(&namespace, Phase::Failed, BOUND).await?;
    let cause = &failed.failed.as_ref().context("what failed")?.cause;
    ensure!(
        cause.reason == "ProgressDeadline" && cause.detail.contains("0 of 1 ready pods by the deadline"),
        "{cause:?}"
    );
    serves(&namespace, "v1").await?;
    let wait = ["wait", "rollout/checkout", "--for=condition=Stalled", "--timeout=30s"];
    namespace.kubectl(&wait).await?;
    image("demo-app").await?;
    shop::ship(&namespace, "v3", "0%").await?;
    shop::promote_through(&namespace, BOUND).await?;
    serves(&namespace, "v3").await?;
    ensure!(shop::status(&namespace).await?.failed.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_crashes_before_it_is_ready_fails_by_its_restarts() -> Result<()> {
    let (namespace, _operator) = scene(&Shop::small()).await?;
    // It dies before it could ever be ready: no weight is given to it, and only its restarts can tell.
    let change = [
        "set",
        "env",
        "deployment/checkout",
        "VERSION=v2",
        "SLOW_START=1h",
        "CRASH_AFTER=300ms",
    ];
    namespace.kubectl(&change).await?;
    let failed = shop::wait(&namespace, Phase::Failed, BOUND).await?;
    let cause = &failed.failed.as_ref().context("what failed")?.cause;
    ensure!(cause.reason == "CanaryRestarts", "{cause:?}");
    serves(&namespace, "v1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_crashes_under_traffic_gives_it_back() -> Result<()> {
    let (namespace, _operator) = scene(&Shop::small()).await?;
    let route = shop::route(&namespace).await?;
    let change = ["set", "env", "deployment/checkout", "VERSION=v2", "CRASH_AFTER=10s"];
    namespace.kubectl(&change).await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    let failed = shop::wait(&namespace, Phase::Failed, BOUND).await?;
    let cause = &failed.failed.as_ref().context("what failed")?.cause;
    // Its pods came and went too often, or all of them went three times: whichever was seen first.
    ensure!(
        ["CanaryLost", "CanaryRestarts"].contains(&cause.reason.as_str()),
        "{cause:?}"
    );
    ensure!(shop::route(&namespace).await?["spec"] == route["spec"]);
    serves(&namespace, "v1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_version_that_a_person_releases_is_adopted_loudly() -> Result<()> {
    let (namespace, _operator) = scene(&Shop::small()).await?;
    shop::ship(&namespace, "v2", "0%").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    shop::plugin(&namespace, &["abort", NAME]).await?;
    let failed = shop::wait(&namespace, Phase::Failed, BOUND).await?;
    let released = [
        "annotate",
        "deployment/checkout",
        "stepgate.dev/hold=released",
        "--overwrite",
    ];
    namespace.kubectl(&released).await?;
    namespace.kubectl(&["rollout", "resume", "deployment/checkout"]).await?;
    let after = shop::wait_for(&namespace, "the released version to be stable", BOUND, |status| {
        status.phase == Some(Phase::Healthy) && status.stable != failed.stable
    })
    .await?;
    ensure!(after.failed.is_none(), "{after:?}");
    serves(&namespace, "v2").await?;
    let events = shop::events(&namespace, NAME).await?;
    ensure!(events.iter().any(|(reason, _)| reason == "RolledUnheld"), "{events:?}");
    Ok(())
}

/// What kstatus (Argo CD, Flux, Helm and kpt read by it) makes of an object.
fn kstatus(rollout: &Rollout) -> &'static str {
    let status = rollout.status.clone().unwrap_or_default();
    let is = |kind: &str, wanted: &str| {
        status
            .conditions
            .iter()
            .any(|condition| condition.type_ == kind && condition.status == wanted)
    };
    let behind = status
        .observed_generation
        .is_some_and(|seen| Some(seen) != rollout.metadata.generation);
    if behind || is("Reconciling", "True") {
        "InProgress"
    } else if is("Stalled", "True") {
        "Failed"
    } else if is("Ready", "False") || is("Ready", "Unknown") {
        "InProgress"
    } else {
        "Current"
    }
}

/// Every version of the Rollout from now on.
struct Versions {
    seen: Arc<Mutex<Vec<Rollout>>>,
    task: JoinHandle<()>,
}

impl Drop for Versions {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Versions {
    async fn follow(namespace: &Namespace) -> Result<Self> {
        let api: Api<Rollout> = namespace.api();
        let now = api.get(NAME).await?;
        let from = now.metadata.resource_version.clone().context("a resourceVersion")?;
        let mut events = api.watch(&WatchParams::default(), &from).await?.boxed();
        let seen = Arc::new(Mutex::new(vec![now]));
        let list = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok(Some(event)) = events.try_next().await {
                if let WatchEvent::Modified(rollout) = event {
                    list.lock().unwrap_or_else(PoisonError::into_inner).push(rollout);
                }
            }
        });
        Ok(Self { seen, task })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_tell_kubectl_and_kstatus_the_truth_all_the_way() -> Result<()> {
    let (namespace, _operator) = scene(&Shop::small()).await?;
    let wait = async |condition: &str| {
        let condition = format!("--for=condition={condition}");
        namespace
            .kubectl(&["wait", "rollout/checkout", &condition, "--timeout=60s"])
            .await
    };
    wait("Ready").await?;
    let versions = Versions::follow(&namespace).await?;
    shop::ship(&namespace, "v2", "0%").await?;
    wait("Reconciling").await?;
    wait("Ready=false").await?;
    shop::promote_through(&namespace, BOUND).await?;
    wait("Ready").await?;
    shop::ship(&namespace, "v3", "0%").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    shop::plugin(&namespace, &["abort", NAME]).await?;
    wait("Stalled").await?;
    wait("Ready=false").await?;
    wait("Reconciling=false").await?;

    let seen = versions.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut phases = BTreeSet::new();
    for rollout in &seen {
        let status = rollout.status.clone().context("a status")?;
        let phase = status.phase.context("a phase")?;
        phases.insert(phase.as_str());
        let expected = match phase {
            Phase::Healthy => "Current",
            Phase::Failed | Phase::Blocked => "Failed",
            _ => "InProgress",
        };
        ensure!(kstatus(rollout) == expected, "{phase:?}: {:?}", status.conditions);
        let holding: Vec<_> = status
            .conditions
            .iter()
            .filter(|condition| condition.status == "True")
            .collect();
        ensure!(holding.len() == 1, "{:?}", status.conditions);
        for condition in &status.conditions {
            ensure!(
                condition.observed_generation == status.observed_generation,
                "{condition:?}"
            );
        }
        let size = serde_json::to_vec(&status)?.len();
        ensure!(size < 16 * 1024, "{size} bytes in {phase:?}");
        if let Some(run) = &status.run {
            let carries = matches!(run.state, RunState::Promoting { .. });
            ensure!(!carries || run.weight == 100, "{run:?}");
        }
    }
    for phase in [
        "Healthy",
        "Preparing",
        "Stepping",
        "Promoting",
        "Draining",
        "RollingBack",
        "Failed",
    ] {
        ensure!(phases.contains(phase), "{phase} was not seen: {phases:?}");
    }
    Ok(())
}

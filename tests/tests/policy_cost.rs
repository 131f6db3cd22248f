//! What the hold costs an update of a Deployment: the same updates with the chart's policies and without, side by side in one run, in
//! namespaces with many Rollouts and managed Deployments.
//!
//! The policies are a copy for one of the two namespaces, with a label of its own: the chart's are out of the comparison. No operator
//! runs, and no Deployment is worked on by a controller meanwhile: they are paused, without pods.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use stepgate_crds::Rollout;
use stepgate_tests::cluster::{Cluster, Namespace};
use stepgate_tests::holding::Holding;
use stepgate_tests::operator::{ACCOUNT, install_chart};
use stepgate_tests::until::{Seen, until};

/// Rollouts, and managed Deployments, in each namespace.
const ROLLOUTS: usize = 500;
/// Updates of each kind in each namespace.
const ROUNDS: usize = 500;
/// Creations under way at once.
const AT_ONCE: usize = 16;
const PREFIX: &str = "cost.stepgate.dev/";
/// The most that the hold may add: as much again.
const MOST: f64 = 2.0;

/// What is updated.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The template of a managed Deployment: held and stamped by the policy.
    ManagedTemplate,
    /// Something else of a managed Deployment at rest: the policy looks at it, and leaves it.
    ManagedOther,
    /// The template of a Deployment that nobody manages.
    Unmanaged,
}

impl Kind {
    const ALL: [Self; 3] = [Self::ManagedTemplate, Self::ManagedOther, Self::Unmanaged];

    fn name(self) -> &'static str {
        match self {
            Self::ManagedTemplate => "managed-template",
            Self::ManagedOther => "managed-other",
            Self::Unmanaged => "unmanaged",
        }
    }

    /// The change. With the hold, the template comes with all that holds it taken off, so that the policy has everything to do; without,
    /// the Deployment stays paused, so that no controller has anything to do.
    fn patch(self, round: usize, held: bool) -> Value {
        let template = json!({"metadata": {"annotations": {"round": round.to_string()}}});
        match self {
            Self::ManagedOther => json!({"metadata": {"annotations": {"round": round.to_string()}}}),
            Self::ManagedTemplate => json!({
                "metadata": {"annotations": {format!("{PREFIX}hold"): null}},
                "spec": {"paused": !held, "template": template},
            }),
            Self::Unmanaged => json!({"spec": {"template": template}}),
        }
    }
}

fn deployment(name: &str, managed: bool) -> Result<Deployment> {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {}},
        "spec": {
            "replicas": 0, "paused": true, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{
                    "name": "app", "image": "demo-app", "ports": [{"name": "http", "containerPort": 8080}],
                    "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}},
                    "env": [{"name": "VERSION", "value": "v1"}],
                }]},
            },
        },
    });
    if managed && let Some(labels) = object.pointer_mut("/metadata/labels") {
        *labels = json!({format!("{PREFIX}rollout"): name});
    }
    serde_json::from_value(object).context("a Deployment")
}

/// Rollouts and managed Deployments, as many as a large namespace has, and the Deployments that are measured.
async fn fill(namespace: &Namespace) -> Result<()> {
    let (deployments, rollouts): (Api<Deployment>, Api<Rollout>) = (namespace.api(), namespace.api());
    stream::iter(0..ROLLOUTS)
        .map(|number| {
            let (deployments, rollouts) = (deployments.clone(), rollouts.clone());
            async move {
                let name = format!("app-{number}");
                let rollout: Rollout = serde_json::from_value(json!({
                    "apiVersion": "stepgate.dev/v1alpha1", "kind": "Rollout", "metadata": {"name": name},
                    "spec": {"workload": {"name": name}, "traffic": {"routes": [{"name": name}]}},
                }))?;
                rollouts.create(&PostParams::default(), &rollout).await?;
                let managed = deployment(&name, true)?;
                deployments.create(&PostParams::default(), &managed).await?;
                Ok::<_, anyhow::Error>(())
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    for kind in Kind::ALL {
        let measured = deployment(kind.name(), !matches!(kind, Kind::Unmanaged))?;
        deployments.create(&PostParams::default(), &measured).await?;
    }
    Ok(())
}

/// How long one update takes, and what it came to.
async fn update(namespace: &Namespace, kind: Kind, round: usize, held: bool) -> Result<(Duration, Deployment)> {
    let deployments: Api<Deployment> = namespace.api();
    let patch = Patch::Merge(kind.patch(round, held));
    let begin = Instant::now();
    let after = deployments.patch(kind.name(), &PatchParams::default(), &patch).await?;
    Ok((begin.elapsed(), after))
}

fn stamp(deployment: &Deployment) -> Option<&String> {
    deployment.metadata.annotations.as_ref()?.get(&format!("{PREFIX}hold"))
}

/// Median and 95th percentile in milliseconds.
fn summary(times: &mut [Duration]) -> (f64, f64) {
    times.sort_unstable();
    let at = |share: usize| {
        let index = (times.len() * share / 100).min(times.len().saturating_sub(1));
        times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    };
    (at(50), at(95))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hold_costs_at_most_as_much_again_as_an_update_without_it() -> Result<()> {
    let cluster = Cluster::attach().await?;
    install_chart(&cluster).await?;
    let (with, without) = (
        cluster.namespace("cost-with").await?,
        cluster.namespace("cost-without").await?,
    );
    let begin = Instant::now();
    tokio::try_join!(fill(&with), fill(&without))?;
    let filled = begin.elapsed();
    let holding = Holding::marked(&with, ACCOUNT, PREFIX).await?;
    holding.install().await?;
    let measured = measure(&with, &without).await;
    holding.end().await?;
    let mut times = measured?;
    println!(
        "{ROLLOUTS} Rollouts and managed Deployments in each of two namespaces (made in {:.1} s); {ROUNDS} updates of each kind in each, by turns",
        filled.as_secs_f64()
    );
    let mut dear = Vec::new();
    for (kind, (with, without)) in Kind::ALL.into_iter().zip(&mut times) {
        let ((with, with_p95), (without, without_p95)) = (summary(with), summary(without));
        let ratio = with / without;
        println!(
            "  {:<17} with the hold {with:5.1} ms (p95 {with_p95:5.1}), without {without:5.1} ms (p95 {without_p95:5.1}): {ratio:.2} times",
            kind.name()
        );
        if ratio > MOST {
            dear.push(format!("{}: {ratio:.2} times", kind.name()));
        }
    }
    ensure!(
        dear.is_empty(),
        "more than {MOST} times an update without it: {}",
        dear.join(", ")
    );
    Ok(())
}

/// The times of each kind, with the hold and without.
async fn measure(with: &Namespace, without: &Namespace) -> Result<[(Vec<Duration>, Vec<Duration>); 3]> {
    // The API server takes a policy up in a moment.
    until("the policy to hold", Duration::from_secs(30), async || {
        update(with, Kind::ManagedTemplate, usize::MAX, false).await?;
        let (_, after) = update(with, Kind::ManagedTemplate, 0, false).await?;
        Ok(if stamp(&after).is_some() {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{:?}", after.metadata.annotations))
        })
    })
    .await?;
    let mut times: [(Vec<Duration>, Vec<Duration>); 3] = Default::default();
    for round in 1..=ROUNDS {
        for (kind, (held, free)) in Kind::ALL.into_iter().zip(&mut times) {
            // Who goes first alternates, so that what one leaves to the other is shared.
            let (held_time, free_time) = if round % 2 == 0 {
                let held = update(with, kind, round, true).await?;
                (held, update(without, kind, round, false).await?)
            } else {
                let free = update(without, kind, round, false).await?;
                (update(with, kind, round, true).await?, free)
            };
            let stamped = (stamp(&held_time.1).is_some(), stamp(&free_time.1).is_some());
            let is_paused = held_time.1.spec.as_ref().and_then(|spec| spec.paused);
            ensure!(is_paused == Some(true), "{kind:?}: not paused");
            ensure!(
                stamped == (matches!(kind, Kind::ManagedTemplate), false),
                "{kind:?}: stamped {stamped:?}"
            );
            held.push(held_time.0);
            free.push(free_time.0);
        }
    }
    Ok(times)
}

//! The hold: what the chart's two admission policies do to a managed Deployment, whoever writes it and however; and how it is looked
//! for, suspended and let go.
//!
//! Deployments have no pods where the policies alone are looked at: a second ReplicaSet is what a roll leaves.

#[path = "hold/check.rs"]
mod check;
#[path = "hold/release.rs"]
mod release;
#[path = "hold/rights.rs"]
mod rights;
#[path = "hold/suspend.rs"]
mod suspend;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;
use stepgate_crds::names::{HOLD, ROLLOUT};
use stepgate_crds::status::Phase;
use stepgate_tests::cluster::{Cluster, Namespace};
use stepgate_tests::operator::{ACCOUNT, Operator, OperatorOptions, SYSTEM, install_chart};
use stepgate_tests::shop::{self, NAME, Shop};
use stepgate_tests::until::{Seen, until};

const BOUND: Duration = Duration::from_mins(1);

/// A Deployment without pods; managed by a Rollout `checkout` where that is wanted.
fn manifest(name: &str, managed: bool, version: &str) -> String {
    let labels = if managed {
        format!(", labels: {{{ROLLOUT}: checkout}}")
    } else {
        String::new()
    };
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}{labels}}}\nspec:\n  replicas: 0\n  \
         selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    \
         spec: {{containers: [{{name: app, image: demo-app, env: [{{name: VERSION, value: {version}}}]}}]}}\n"
    )
}

async fn world() -> Result<(Cluster, Namespace)> {
    let cluster = Cluster::attach().await?;
    install_chart(&cluster).await?;
    let namespace = cluster.namespace("hold").await?;
    Ok((cluster, namespace))
}

async fn make(namespace: &Namespace, name: &str, managed: bool) -> Result<()> {
    namespace.apply(&manifest(name, managed, "v1")).await?;
    replica_sets(namespace, name, 1).await
}

async fn get(namespace: &Namespace, name: &str) -> Result<Deployment> {
    let api: Api<Deployment> = namespace.api();
    api.get(name)
        .await
        .with_context(|| format!("reading Deployment {name}"))
}

fn is_paused(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false)
}

fn stamp(deployment: &Deployment) -> Option<&str> {
    Some(deployment.metadata.annotations.as_ref()?.get(HOLD)?.as_str())
}

fn label(deployment: &Deployment) -> Option<&str> {
    Some(deployment.metadata.labels.as_ref()?.get(ROLLOUT)?.as_str())
}

fn version(deployment: &Deployment) -> Option<&str> {
    let containers = &deployment.spec.as_ref()?.template.spec.as_ref()?.containers;
    containers.first()?.env.as_ref()?.first()?.value.as_deref()
}

fn ensure_held(deployment: &Deployment, wanted: &str) -> Result<()> {
    let seen = (
        is_paused(deployment),
        stamp(deployment),
        label(deployment),
        version(deployment),
    );
    ensure!(
        seen == (true, Some("waiting"), Some("checkout"), Some(wanted)),
        "paused, stamp, label, version: {seen:?}"
    );
    Ok(())
}

/// Waits until the Deployment controller has seen the Deployment as it is, and it has so many ReplicaSets.
async fn replica_sets(namespace: &Namespace, name: &str, wanted: usize) -> Result<()> {
    let all: Api<ReplicaSet> = namespace.api();
    until(&format!("{wanted} ReplicaSets of {name}"), BOUND, async || {
        let deployment = get(namespace, name).await?;
        let observed = deployment.status.as_ref().and_then(|status| status.observed_generation);
        let list = all.list(&ListParams::default().labels(&format!("app={name}"))).await?;
        let seen = list.items.len();
        Ok(if observed == deployment.metadata.generation && seen == wanted {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{seen}, observed {observed:?}"))
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_nobody_manages_rolls_as_always() -> Result<()> {
    let (_cluster, namespace) = world().await?;
    make(&namespace, "plain", false).await?;
    let (_, warned) = namespace
        .kubectl_and_warnings(&["set", "env", "deployment/plain", "VERSION=v2"], "")
        .await?;
    ensure!(warned.is_empty(), "{warned}");
    let plain = get(&namespace, "plain").await?;
    ensure!(!is_paused(&plain) && stamp(&plain).is_none(), "{plain:?}");
    replica_sets(&namespace, "plain", 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_template_is_held_however_it_comes_and_the_warning_names_the_rollout() -> Result<()> {
    let (_cluster, namespace) = world().await?;
    let ways: [(&str, &[&str]); 5] = [
        ("by-set-env", &["set", "env", "deployment/by-set-env", "VERSION=v2"]),
        ("by-apply", &["apply", "-f", "-"]),
        (
            "by-server-side",
            &["apply", "--server-side", "--force-conflicts", "-f", "-"],
        ),
        ("by-replace", &["replace", "-f", "-"]),
        (
            "by-patch",
            &[
                "patch",
                "deployment/by-patch",
                "--patch",
                r#"{"spec": {"paused": false, "template": {"spec": {"containers": [{"name": "app", "env": [{"name": "VERSION", "value": "v2"}]}]}}}}"#,
            ],
        ),
    ];
    for (name, arguments) in ways {
        make(&namespace, name, true).await?;
        let (_, warned) = namespace
            .kubectl_and_warnings(arguments, &manifest(name, true, "v2"))
            .await?;
        ensure_held(&get(&namespace, name).await?, "v2").with_context(|| name.to_owned())?;
        let words = format!("Stepgate holds Deployment {name}: Rollout checkout takes this version out step by step");
        let command = format!("kubectl stepgate status checkout -n {}", namespace.name());
        ensure!(warned.contains(&words) && warned.contains(&command), "{name}: {warned}");
        replica_sets(&namespace, name, 1).await?;
    }
    // The same manifest again, as every synchronisation of Argo CD or Flux does: it stays.
    for (name, arguments) in &ways[1..4] {
        namespace
            .kubectl_and_warnings(arguments, &manifest(name, false, "v2"))
            .await?;
        ensure_held(&get(&namespace, name).await?, "v2").with_context(|| format!("{name} again"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_deployment_stays_held_and_labelled_whatever_a_person_takes_off() -> Result<()> {
    let (_cluster, namespace) = world().await?;
    make(&namespace, "held", true).await?;
    let at_rest = ["label", "deployment/held", "stepgate.dev/rollout-"];
    namespace.kubectl(&at_rest).await?;
    let held = get(&namespace, "held").await?;
    ensure!(label(&held) == Some("checkout") && !is_paused(&held), "{held:?}");
    namespace
        .kubectl(&["set", "env", "deployment/held", "VERSION=v2"])
        .await?;
    let tries: [&[&str]; 5] = [
        &["rollout", "resume", "deployment/held"],
        &[
            "patch",
            "deployment/held",
            "--type=json",
            "--patch",
            r#"[{"op": "remove", "path": "/spec/paused"}]"#,
        ],
        &["label", "deployment/held", "stepgate.dev/rollout-"],
        &["annotate", "deployment/held", "stepgate.dev/hold-"],
        &[
            "annotate",
            "deployment/held",
            "stepgate.dev/hold=whatever",
            "--overwrite",
        ],
    ];
    for arguments in tries {
        let (_, warned) = namespace.kubectl_and_warnings(arguments, "").await?;
        ensure_held(&get(&namespace, "held").await?, "v2").with_context(|| arguments.join(" "))?;
        ensure!(
            warned.contains("it stays paused until Rollout checkout has taken its version out")
                && warned.contains("stepgate.dev/hold=released --overwrite"),
            "{arguments:?}: {warned}"
        );
    }
    // A newer template takes the place of the one that waits, and whoever brings it is told.
    let newer = ["set", "env", "deployment/held", "VERSION=v3"];
    let (_, warned) = namespace.kubectl_and_warnings(&newer, "").await?;
    ensure_held(&get(&namespace, "held").await?, "v3")?;
    ensure!(
        warned.contains("Rollout checkout takes this version out step by step"),
        "{warned}"
    );
    // What has nothing to do with versions goes through.
    namespace
        .kubectl(&["annotate", "deployment/held", "team=payments"])
        .await?;
    namespace.kubectl(&["scale", "deployment/held", "--replicas=0"]).await?;
    replica_sets(&namespace, "held", 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn released_lets_go_and_taking_it_off_holds_again() -> Result<()> {
    let (_cluster, namespace) = world().await?;
    make(&namespace, "free", true).await?;
    let version = async |version: &str| {
        let version = format!("VERSION={version}");
        namespace.kubectl(&["set", "env", "deployment/free", &version]).await
    };
    version("v2").await?;
    ensure_held(&get(&namespace, "free").await?, "v2")?;
    let released = [
        "annotate",
        "deployment/free",
        "stepgate.dev/hold=released",
        "--overwrite",
    ];
    namespace.kubectl(&released).await?;
    namespace.kubectl(&["rollout", "resume", "deployment/free"]).await?;
    replica_sets(&namespace, "free", 2).await?;
    let (_, warned) = namespace
        .kubectl_and_warnings(&["set", "env", "deployment/free", "VERSION=v3"], "")
        .await?;
    ensure!(warned.is_empty(), "{warned}");
    replica_sets(&namespace, "free", 3).await?;
    namespace
        .kubectl(&["annotate", "deployment/free", "stepgate.dev/hold-"])
        .await?;
    version("v4").await?;
    ensure_held(&get(&namespace, "free").await?, "v4")?;
    replica_sets(&namespace, "free", 3).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_account_passes() -> Result<()> {
    let (cluster, namespace) = world().await?;
    make(&namespace, "own", true).await?;
    namespace
        .kubectl(&["set", "env", "deployment/own", "VERSION=v2"])
        .await?;
    let client = cluster.client_of_service_account(SYSTEM, ACCOUNT).await?;
    let own: Api<Deployment> = Api::namespaced(client, namespace.name());
    let patch = async |patch: serde_json::Value| own.patch("own", &PatchParams::default(), &Patch::Merge(&patch)).await;
    let after = patch(json!({"metadata": {"annotations": {HOLD: null}}, "spec": {"paused": null}})).await?;
    ensure!(!is_paused(&after) && stamp(&after).is_none(), "{after:?}");
    replica_sets(&namespace, "own", 2).await?;
    let after = patch(json!({"metadata": {"labels": {ROLLOUT: null}}})).await?;
    ensure!(label(&after).is_none(), "{after:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_own_pause_is_left_alone() -> Result<()> {
    let (cluster, namespace) = world().await?;
    let shop = Shop {
        replicas: 1,
        ..Shop::default()
    };
    let _operator = Operator::start(&namespace, OperatorOptions::led_by_commands()).await?;
    shop.open(&namespace).await?;
    let deployment = format!("deployment/{NAME}");
    namespace.kubectl(&["rollout", "pause", &deployment]).await?;
    shop::wait_for(&namespace, "the pause in the message", BOUND, |status| {
        status.phase == Some(Phase::Healthy)
            && status
                .message
                .as_ref()
                .is_some_and(|message| message.contains("paused by somebody else and left alone"))
    })
    .await?;
    let mark = cluster.audit()?;
    namespace.kubectl(&["annotate", &deployment, "touched=yes"]).await?;
    let paused = get(&namespace, NAME).await?;
    ensure!(is_paused(&paused) && stamp(&paused).is_none(), "{paused:?}");
    namespace.kubectl(&["rollout", "resume", &deployment]).await?;
    shop::wait_for(&namespace, "the pause to be forgotten", BOUND, |status| {
        status
            .message
            .as_ref()
            .is_some_and(|message| !message.contains("paused"))
    })
    .await?;
    let written = mark.requests(|request| {
        request.user.username == account()
            && request.is_write()
            && request
                .object_ref
                .as_ref()
                .is_some_and(|target| target.namespace == namespace.name() && target.resource == "deployments")
    })?;
    ensure!(written.is_empty(), "{written:?}");
    Ok(())
}

fn account() -> String {
    format!("system:serviceaccount:{SYSTEM}:{ACCOUNT}")
}

//! `kubectl stepgate release`: lets a Deployment go while no operator is there, in each state of a run. What it says to do by hand is done
//! here to the letter, and then it is plain Kubernetes with the traffic on the user's Service.

use std::process::Stdio;

use stepgate_crds::names::CANARY_OF;
use stepgate_tests::cluster::User;
use stepgate_tests::scene::Scene;
use stepgate_tests::states::{self, State};

use super::*;

/// Runs a line of shell as the administrator, `kubectl` being the cluster's.
async fn shell(namespace: &Namespace, line: &str) -> Result<()> {
    let facts = namespace.cluster().facts();
    let programs = facts.parts.kubectl.parent().context("where kubectl is")?;
    let output = tokio::process::Command::new("/bin/bash")
        .args(["-euc", line])
        .env("KUBECONFIG", facts.kubeconfig(User::Administrator))
        .env(
            "PATH",
            format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default()),
        )
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| line.to_owned())?;
    ensure!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// The commands that an answer prints, each on a line of its own.
fn commands(said: &str) -> Vec<String> {
    said.lines()
        .filter_map(|line| line.strip_prefix("  kubectl "))
        .map(|rest| format!("kubectl {rest}"))
        .collect()
}

/// The operator is gone for good in this state; the Deployment is released, and the rest done as it was said.
async fn uninstalled(cluster: &Cluster, state: State) -> Result<()> {
    let options = OperatorOptions {
        drain: "60s",
        ..OperatorOptions::led_by_commands()
    };
    let mut scene = Scene::open(cluster, "release", &states::shop(), options).await?;
    let outcome = released(&mut scene, state).await;
    scene.told(outcome)
}

async fn released(scene: &mut Scene, state: State) -> Result<()> {
    let before = shop::route(&scene.namespace).await?;
    let mut kept = state.reach(scene).await?;
    scene.operator.kill().await?;
    let namespace = &scene.namespace;
    kept.let_go(namespace).await?;
    let asked = get(namespace, NAME).await?;
    let answer = shop::plugin(namespace, &["release", NAME]).await?;
    let named = format!("Deployment {}/{NAME} is released", namespace.name());
    ensure!(answer.code == Some(0) && answer.said.starts_with(&named), "{answer:?}");
    let commands = commands(&answer.said);
    let in_run = !matches!(state, State::Healthy | State::Failed);
    ensure!(commands.is_empty() != in_run, "{answer:?}");
    let again = shop::plugin(namespace, &["release", NAME]).await?;
    ensure!(
        again.code == Some(1) && again.complained.contains("is released already"),
        "{again:?}"
    );
    let deployment = format!("deployment/{NAME}");
    if state == State::Preparing {
        // The version that never got ready is mended; nothing holds the mended one.
        namespace.kubectl(&["set", "env", &deployment, "SLOW_START-"]).await?;
    }
    namespace
        .kubectl(&["rollout", "status", &deployment, "--timeout=90s"])
        .await?;
    for command in &commands {
        shell(namespace, command).await?;
    }
    // The version that it asked for runs, un-paused; a later one rolls at once.
    let after = get(namespace, NAME).await?;
    ensure!(!is_paused(&after) && version(&after) == version(&asked), "{after:?}");
    let route = shop::route(namespace).await?;
    let references = |route: &serde_json::Value| {
        let references = route.pointer("/spec/rules/0/backendRefs").cloned().unwrap_or_default();
        references.as_array().cloned().unwrap_or_default()
    };
    let name = |reference: &serde_json::Value| reference.get("name").cloned();
    ensure!(
        references(&route)
            .iter()
            .map(name)
            .eq(references(&before).iter().map(name)),
        "{route}"
    );
    let mark = route.pointer("/metadata/annotations/stepgate.dev~1run");
    ensure!(mark.is_none(), "{route}");
    let canaries = namespace
        .kubectl(&["get", "deployments,services", "--selector", CANARY_OF, "-o", "name"])
        .await?;
    ensure!(canaries.is_empty(), "{canaries}");
    if in_run {
        let left = namespace.kubectl(&["get", "rollouts", "-o", "name"]).await?;
        ensure!(left.is_empty() && label(&after).is_none(), "{left} {after:?}");
    }
    let (_, warned) = namespace
        .kubectl_and_warnings(&["set", "env", &deployment, "VERSION=v9"], "")
        .await?;
    ensure!(warned.is_empty(), "{warned}");
    namespace
        .kubectl(&["rollout", "status", &deployment, "--timeout=90s"])
        .await?;
    ensure!(version(&get(namespace, NAME).await?) == Some("v9"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn released_without_an_operator_in_each_state_it_is_plain_kubernetes() -> Result<()> {
    let cluster = Cluster::attach().await?;
    states::all(State::ALL.map(|state| (state, Box::pin(uninstalled(&cluster, state))))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_there_ends_the_run_of_a_released_deployment() -> Result<()> {
    let (namespace, _operator) = shop::led_by_commands("release", &Shop::small()).await?;
    shop::ship(&namespace, "v2", "0%").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    let answer = shop::plugin(&namespace, &["release", NAME]).await?;
    ensure!(
        answer.code == Some(0) && answer.said.contains("at once and unjudged"),
        "{answer:?}"
    );
    let after = shop::wait(&namespace, Phase::Healthy, BOUND).await?;
    let past = after.history.first().context("no run ended")?;
    ensure!(past.reason.as_deref() == Some("Released"), "{past:?}");
    // What was released is the stable version now: the next one is held again.
    let free = get(&namespace, NAME).await?;
    ensure!(
        !is_paused(&free) && stamp(&free).is_none() && version(&free) == Some("v2"),
        "{free:?}"
    );
    shop::ship(&namespace, "v3", "0%").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stepgate_does_not_hold_is_not_released() -> Result<()> {
    let (_cluster, namespace) = world().await?;
    make(&namespace, "plain", false).await?;
    let refused = async |name: &str, words: &str| -> Result<()> {
        let answer = shop::plugin(&namespace, &["release", name]).await?;
        ensure!(
            answer.code == Some(1) && answer.complained.contains(words),
            "{answer:?}"
        );
        Ok(())
    };
    refused("deployment/plain", "is not managed by Stepgate").await?;
    namespace.kubectl(&["rollout", "pause", "deployment/plain"]).await?;
    refused(
        "deployment/plain",
        "is paused, but not by Stepgate: kubectl rollout resume deployment plain goes on",
    )
    .await?;
    ensure!(is_paused(&get(&namespace, "plain").await?));
    refused("plain", "no Rollout plain").await?;
    refused("deployment/none", "is not there").await?;
    // Its Rollout was deleted, and the finalizer taken off by hand: the Deployment is found by its own name.
    make(&namespace, "left", true).await?;
    namespace
        .kubectl(&["set", "env", "deployment/left", "VERSION=v2"])
        .await?;
    ensure_held(&get(&namespace, "left").await?, "v2")?;
    let answer = shop::plugin(&namespace, &["release", "left"]).await?;
    ensure!(answer.code == Some(0), "{answer:?}");
    replica_sets(&namespace, "left", 2).await?;
    Ok(())
}

//! `spec.suspend`: the Deployment is plain Kubernetes for as long as it is set, and managed again afterwards.

use stepgate_crds::status::Outcome;

use super::*;

async fn suspend(namespace: &Namespace, suspend: bool) -> Result<()> {
    let patch = json!({"spec": {"suspend": suspend}}).to_string();
    namespace
        .kubectl(&["patch", "rollout", NAME, "--type=merge", "--patch", &patch])
        .await?;
    Ok(())
}

/// Waits until the Deployment has rolled to this version by itself: no pause, no stamp, no label.
async fn rolls_plainly(namespace: &Namespace, wanted: &str, stamped: Option<&str>) -> Result<()> {
    let deployment = format!("deployment/{NAME}");
    namespace
        .kubectl(&["rollout", "status", &deployment, "--timeout=60s"])
        .await?;
    let plain = get(namespace, NAME).await?;
    let seen = (is_paused(&plain), stamp(&plain), label(&plain), version(&plain));
    ensure!(
        seen == (false, stamped, None, Some(wanted)),
        "paused, stamp, label, version: {seen:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn suspended_at_rest_it_rolls_by_itself_and_is_held_again_afterwards() -> Result<()> {
    let (namespace, _operator) = shop::led_by_commands("suspend", &Shop::small()).await?;
    suspend(&namespace, true).await?;
    let status = shop::wait(&namespace, Phase::Suspended, BOUND).await?;
    ensure!(
        status
            .message
            .as_ref()
            .is_some_and(|message| message.contains("set spec.suspend to false to go on")),
        "{status:?}"
    );
    let (_, warned) = namespace
        .kubectl_and_warnings(&["set", "env", "deployment/checkout", "VERSION=v2"], "")
        .await?;
    ensure!(warned.is_empty(), "{warned}");
    rolls_plainly(&namespace, "v2", None).await?;
    let answer = shop::plugin(&namespace, &["promote", NAME]).await?;
    ensure!(answer.code == Some(1), "{answer:?}");
    suspend(&namespace, false).await?;
    shop::wait(&namespace, Phase::Healthy, BOUND).await?;
    let managed = get(&namespace, NAME).await?;
    ensure!(
        label(&managed) == Some(NAME) && version(&managed) == Some("v2"),
        "{managed:?}"
    );
    shop::ship(&namespace, "v3", "0%").await?;
    let run = shop::wait_for_weight(&namespace, 10, BOUND).await?;
    ensure!(run.run.is_some(), "{run:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn suspended_in_a_run_it_goes_back_to_stable_and_leaves_the_new_version_paused() -> Result<()> {
    let (namespace, _operator) = shop::led_by_commands("suspend", &Shop::small()).await?;
    let route = shop::route(&namespace).await?;
    shop::ship(&namespace, "v2", "0%").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    suspend(&namespace, true).await?;
    let status = shop::wait(&namespace, Phase::Suspended, BOUND).await?;
    ensure!(
        status.history.first().map(|past| past.outcome) == Some(Outcome::Suspended),
        "{status:?}"
    );
    let after = shop::route(&namespace).await?;
    ensure!(after.get("spec") == route.get("spec"), "{route}\n{after}");
    let left = get(&namespace, NAME).await?;
    let seen = (is_paused(&left), stamp(&left), label(&left), version(&left));
    ensure!(
        seen == (true, Some("waiting"), None, Some("v2")),
        "paused, stamp, label, version: {seen:?}"
    );
    // Without the label it is a plain paused Deployment; the stamp would give it its run were the suspension lifted.
    namespace.kubectl(&["rollout", "resume", "deployment/checkout"]).await?;
    rolls_plainly(&namespace, "v2", Some("waiting")).await?;
    suspend(&namespace, false).await?;
    shop::wait(&namespace, Phase::Healthy, BOUND).await?;
    let managed = get(&namespace, NAME).await?;
    let seen = (is_paused(&managed), stamp(&managed), label(&managed), version(&managed));
    ensure!(
        seen == (false, None, Some(NAME), Some("v2")),
        "paused, stamp, label, version: {seen:?}"
    );
    Ok(())
}

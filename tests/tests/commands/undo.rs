//! `undo`: stable's template put back in place of a version that failed, and what becomes of that version when it comes again.

use stepgate_crds::names::HOLD;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn undo_puts_stable_back_and_the_failed_version_is_held_as_failed_should_it_come_again() -> Result<()> {
    let (namespace, _operator) = scene(&Shop::small()).await?;
    let version = async || -> Result<serde_json::Value> {
        let deployment = shop::deployment(&namespace).await?;
        let env = &deployment["spec"]["template"]["spec"]["containers"][0]["env"];
        let versions = env
            .as_array()
            .context("env")?
            .iter()
            .filter(|env| env["name"] == "VERSION");
        let version = versions.map(|env| env["value"].clone()).next();
        Ok(json!([
            version,
            deployment["spec"].get("paused"),
            deployment["metadata"]["annotations"].get(HOLD)
        ]))
    };
    let stable = shop::status(&namespace).await?.stable.context("stable")?;
    shop::ship(&namespace, "v2", "0%").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    done(&namespace, "abort", "aborted").await?;
    let failed = shop::wait(&namespace, Phase::Failed, BOUND).await?;
    ensure!(version().await? == json!(["v2", true, "waiting"]));
    // The canary's own, which may still be going, carry another label.
    let pods = async || {
        namespace
            .kubectl(&["get", "pods", "--selector=app=checkout", "-o", "name"])
            .await
    };
    let before = pods().await?;
    done(&namespace, "undo", "is put back by a person").await?;
    let undone = shop::wait(&namespace, Phase::Healthy, BOUND).await?;
    ensure!(version().await? == json!(["v1", null, null]), "{}", version().await?);
    ensure!(
        undone.stable.as_ref().map(|stable| &stable.replica_set) == Some(&stable.replica_set),
        "{undone:?}"
    );
    let after = pods().await?;
    ensure!(before == after, "{before}{after}");
    for verb in ["undo", "retry"] {
        refused(&namespace, verb, "stable's template is back in place").await?;
    }
    // By hand it is refused as well, by the operator.
    let id = failed.failed.as_ref().context("what failed")?.run.clone();
    let answer = by_hand(&namespace, &command(Verb::Undo, &id, None, "again")?).await?;
    ensure!(
        !answer.done && answer.message.contains("does not ask for the failed version any more"),
        "{answer:?}"
    );
    // A GitOps tool applies the failed version once more: held as failed, no run.
    shop::ship(&namespace, "v2", "0%").await?;
    let again = shop::wait(&namespace, Phase::Failed, BOUND).await?;
    ensure!(
        again.run.is_none() && again.history.len() == failed.history.len(),
        "{again:?}"
    );
    ensure!(version().await? == json!(["v2", true, "waiting"]));
    // Stale by run: an undo that was meant for another failure.
    let answer = by_hand(&namespace, &command(Verb::Undo, "nobody-1", None, "stale")?).await?;
    ensure!(
        !answer.done && answer.message == format!("undo was meant for run nobody-1, and the failed one is {id}"),
        "{answer:?}"
    );
    done(&namespace, "retry", "is tried again").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    Ok(())
}

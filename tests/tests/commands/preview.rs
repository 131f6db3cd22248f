//! `preview`: what it says of a manifest on live objects, with and without the rights to read them, and that it writes nothing.

use stepgate_tests::cluster::User;
use stepgate_tests::operator::install_chart;

use super::*;

/// A shop without a Rollout, whose route is accepted, and the Rollout's manifest in a file.
async fn shop_alone(prefix: &str, rules: &str) -> Result<(Namespace, String)> {
    let cluster = Cluster::attach().await?;
    install_chart(&cluster).await?;
    let namespace = cluster.namespace(prefix).await?;
    let shop = Shop {
        rules: rules.to_owned(),
        ..Shop::small()
    };
    namespace.apply(&shop.application()).await?;
    namespace.apply(&shop.route(&namespace)).await?;
    namespace
        .kubectl(&["rollout", "status", "deployment", NAME, "--timeout=60s"])
        .await?;
    let accepted = "--for=jsonpath={.status.parents[0].conditions[?(@.type==\"Accepted\")].status}=True";
    namespace
        .kubectl(&["wait", "httproute", NAME, accepted, "--timeout=60s"])
        .await?;
    let file = std::env::temp_dir().join(format!("{}-rollout.yaml", namespace.name()));
    std::fs::write(&file, shop.rollout())?;
    Ok((namespace, file.display().to_string()))
}

/// What the plugin says of a file, at a rate that takes no time to rehearse.
async fn preview(namespace: &Namespace, file: &str, more: &[&str]) -> Result<shop::Answer> {
    shop::plugin(namespace, &[&["preview", "-f", file, "--rate", "1000"], more].concat()).await
}

#[track_caller]
fn says(answer: &shop::Answer, code: i32, words: &[&str]) -> Result<()> {
    ensure!(answer.code == Some(code), "{answer:?}");
    for words in words {
        ensure!(answer.said.contains(words), "wanted `{words}` in:\n{}", answer.said);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_of_a_good_rollout_says_what_comes_and_writes_nothing() -> Result<()> {
    let (namespace, file) = shop_alone("preview", "").await?;
    let mark = namespace.cluster().audit()?;
    let answer = preview(&namespace, &file, &[]).await?;
    let words = [
        "Preflight   nothing stands in the way, as far as was looked",
        "checkout and checkout-canary, port 80",
        "provider contour",
        "AT 1000/S",
        "1 % bad (10 times stable's)",
    ];
    says(&answer, 0, &words)?;
    let json = preview(&namespace, &file, &["-o", "json"]).await?;
    let document: serde_json::Value = serde_json::from_str(&json.said)?;
    let first = &document["rollouts"][0];
    ensure!(first["preflight"]["complete"] == true, "{first}");
    ensure!(
        first["outlooks"][0]["steps"]
            .as_array()
            .is_some_and(|steps| steps.len() == 4),
        "{first}"
    );
    let left = namespace.kubectl(&["get", "rollouts", "-o", "name"]).await?;
    ensure!(left.trim().is_empty(), "{left}");
    let written = mark.requests(|request| {
        let ours = request
            .object_ref
            .as_ref()
            .is_some_and(|target| target.namespace == namespace.name());
        ours && request.is_write() && request.what().contains("rollouts") && !request.uri.contains("dryRun=All")
    })?;
    ensure!(written.is_empty(), "{written:?}");
    // The schema's own rules, which the plugin does not know.
    let bad = std::fs::read_to_string(&file)?.replace("traffic: {", "progressDeadline: 1s\n  traffic: {");
    std::fs::write(&file, bad)?;
    says(
        &preview(&namespace, &file, &[]).await?,
        1,
        &["refused: Invalid: ", "progressDeadline must be at least 10s"],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_refuses_as_the_operator_would() -> Result<()> {
    let rules = "[{name: main, backendRefs: [{name: checkout, port: 80}, {name: other, port: 80, weight: 5}]}]";
    let (namespace, file) = shop_alone("preview", rules).await?;
    says(
        &preview(&namespace, &file, &[]).await?,
        1,
        &["refused: PreflightFailed: HTTPRoute checkout, rule main: it also sends traffic to other"],
    )?;
    namespace.kubectl(&["delete", "service", NAME]).await?;
    says(
        &preview(&namespace, &file, &[]).await?,
        1,
        &["refused: PreflightFailed: Service ", "does not exist; create it"],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_says_what_may_not_be_read() -> Result<()> {
    let (namespace, file) = shop_alone("preview", "").await?;
    let alice = namespace
        .cluster()
        .facts()
        .kubeconfig(User::Alice)
        .display()
        .to_string();
    let answer = preview(&namespace, &file, &["--kubeconfig", &alice]).await?;
    let words = [
        "Preflight   not known",
        "not looked at   Deployment checkout: you may not: ",
        "not looked at   Services: you may not: ",
        "not looked at   HTTPRoute checkout: you may not: ",
        "AT 1000/S",
    ];
    says(&answer, 0, &words)
}

//! `explain`: what it says of a run under way, and that the metrics source has the series that its query asks for.

use std::collections::BTreeMap;

use serde_json::Value;
use stepgate_tests::cluster::Prometheus;
use stepgate_tests::scene::Scene;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_why_and_its_query_gives_the_series_that_were_counted() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("explain").await?;
    let (prometheus, options) = quick(&namespace).await?;
    let options = OperatorOptions {
        flags: vec!["--status-refresh=3s".to_owned(), "--warm-up=5s".to_owned()],
        ..options
    };
    let shop = Shop {
        rollout: "  analysis: {provider: contour, latency: {threshold: 250ms, max: 1%}}\n".to_owned(),
        ..Shop::default()
    };
    let scene = Scene::open_in(namespace, &shop, options).await?;
    let outcome = explained(&scene, &prometheus).await;
    scene.told(outcome)
}

async fn explained(scene: &Scene, prometheus: &Prometheus) -> Result<()> {
    let namespace = &scene.namespace;
    let at_rest = explain(namespace, &[]).await?;
    ensure!(at_rest.contains("No run is under way"), "{at_rest}");
    // Four canary requests a second: minutes away from a pass.
    let _load = scene.load(40.0).await?;
    shop::ship(namespace, "v2", "0%").await?;
    let document: Value = until("both metrics to be counted", BOUND, async || {
        let document: Value = serde_json::from_str(&explain(namespace, &["--output", "json"]).await?)?;
        let metrics = document["metrics"].as_array().into_iter().flatten();
        let counted = metrics
            .filter(|metric| metric["canaryRequests"].as_i64() > Some(20))
            .count();
        Ok(if counted == 2 && document["rule"] == "InsufficientTraffic" {
            Seen::Done(document)
        } else {
            Seen::NotYet(document.to_string())
        })
    })
    .await?;
    let text = explain(namespace, &[]).await?;
    for words in [
        "Stepping   step 1/4 at 10 %",
        "Verdict   InsufficientTraffic: no test speaks against the new version",
        "errors in this step",
        "latency in this step",
        "evidence: worse than stable",
        "at today's traffic",
    ] {
        ensure!(text.contains(words), "wanted `{words}` in:\n{text}");
    }
    for (metric, series) in [
        (0, ["canary_requests", "canary_bad", "stable_requests", "stable_bad"]),
        (
            1,
            ["canary_requests", "canary_within", "stable_requests", "stable_within"],
        ),
    ] {
        let promql = document["metrics"][metric]["promql"].as_str().context("no PromQL")?;
        ensure!(
            text.contains(promql),
            "the text has another query than\n{promql}\n{text}"
        );
        let found = ask(prometheus, promql).await?;
        for label in series {
            // Bad requests have no series before there is one.
            let least = if label.ends_with("bad") { None } else { Some(1.0) };
            let value = found.get(label).copied();
            ensure!(value >= least, "{label}: {value:?}, {found:?} for\n{promql}");
        }
    }
    done(namespace, "promote", "step 1 at 10 % is promoted").await?;
    until(
        "the Event of the step, with the numbers of both metrics",
        BOUND,
        async || {
            let events = shop::events(namespace, NAME).await?;
            let step = events.into_iter().find(|(reason, _)| reason == "StepPassed");
            Ok(match step {
                Some((_, text)) if text.contains("(errors: canary 0 of ") && text.contains("; latency: canary ") => {
                    Seen::Done(())
                }
                Some((_, text)) => Seen::Never(anyhow::anyhow!(text)),
                None => Seen::NotYet("no Event StepPassed".to_owned()),
            })
        },
    )
    .await?;
    done(namespace, "abort", "the run is aborted").await?;
    shop::wait(namespace, Phase::Failed, BOUND).await?;
    let ended = explain(namespace, &[]).await?;
    ensure!(
        ended.contains("ago as Failed") && ended.contains("Aborted: aborted by a person"),
        "{ended}"
    );
    // What was counted is kept: it can be judged again, and says how much traffic there is.
    let replayed = shop::plugin(namespace, &["replay", NAME]).await?;
    ensure!(replayed.code == Some(0), "{replayed:?}");
    for words in [
        "ago as Failed: Aborted. At its end the operator had:",
        "latency: evidence",
        "Case 2",
    ] {
        ensure!(replayed.said.contains(words), "wanted `{words}` in:\n{}", replayed.said);
    }
    let file = std::env::temp_dir().join(format!("{}-rollout.yaml", namespace.name()));
    std::fs::write(&file, Shop::default().rollout())?;
    let file = file.display().to_string();
    let foretold = shop::plugin(namespace, &["preview", "-f", &file]).await?;
    ensure!(
        foretold.code == Some(0) && foretold.said.contains(" requests a second (as run "),
        "{foretold:?}"
    );
    let unknown = shop::plugin(namespace, &["explain", "nobody"]).await?;
    let as_status = shop::plugin(namespace, &["status", "nobody"]).await?;
    ensure!(
        unknown.code == Some(1) && unknown.complained == as_status.complained,
        "{unknown:?} {as_status:?}"
    );
    Ok(())
}

async fn explain(namespace: &Namespace, more: &[&str]) -> Result<String> {
    let answer = shop::plugin(namespace, &[&["explain", NAME], more].concat()).await?;
    ensure!(answer.code == Some(0), "{answer:?}");
    Ok(answer.said)
}

/// The value of each series that the source has for this query now, by its label.
async fn ask(prometheus: &Prometheus, promql: &str) -> Result<BTreeMap<String, f64>> {
    let series = prometheus.ask(promql).await?;
    let value = |series: &Value| -> Option<(String, f64)> {
        let label = series["metric"]["stepgate"].as_str()?;
        Some((label.to_owned(), series["value"][1].as_str()?.parse().ok()?))
    };
    Ok(series.iter().filter_map(value).collect())
}

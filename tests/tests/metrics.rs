//! What a rollout does while its metrics say too little, nothing, or nonsense: it holds and says why, and goes on once they are back. And what
//! it takes from them whoever asks: stable's history before a run, and the same evidence from a new process.
//!
//! Runs inside the cluster: `target/debug/local-cluster run -- cargo test -p stepgate-tests --test metrics`. That something does not
//! happen is watched for a bounded time of some intervals.

#![expect(clippy::print_stdout, reason = "a test prints what it measured")]

#[path = "metrics/baseline.rs"]
mod baseline;
#[path = "metrics/evidence.rs"]
mod evidence;
#[path = "metrics/nuisance.rs"]
mod nuisance;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nuisance::{Nuisance, Way};
use stepgate_crds::provider::ProviderName;
use stepgate_crds::status::Phase;
use stepgate_crds::{RolloutStatus, Verb};
use stepgate_tests::cluster::Cluster;
use stepgate_tests::operator::OperatorOptions;
use stepgate_tests::record::status_line;
use stepgate_tests::scene::{Scene, quick};
use stepgate_tests::shop::{self, Shop};
use tokio::time::sleep;

const BOUND: Duration = Duration::from_mins(2);
/// Five intervals of those that `quick` sets.
const FIVE_INTERVALS: Duration = Duration::from_secs(25);

/// Options under which a status is refreshed soon: what changes in it is what these tests look at.
fn talkative(options: OperatorOptions) -> OperatorOptions {
    OperatorOptions {
        flags: vec!["--status-refresh=3s".to_owned()],
        ..options
    }
}

/// Options of an operator that reads this in place of a Prometheus.
fn imitated(nuisance: &Nuisance) -> OperatorOptions {
    talkative(OperatorOptions {
        sources: vec![format!("imitation={}", nuisance.url)],
        scrape: "1s",
        interval: "5s",
        ..OperatorOptions::default()
    })
}

/// A shop whose steps pass on about a hundred requests.
fn loose() -> Shop {
    Shop {
        rollout: "  analysis: {errorRate: {max: 5%}}\n".to_owned(),
        ..Shop::default()
    }
}

fn is_at(weight: i32) -> impl Fn(&RolloutStatus) -> bool {
    move |status| status.phase == Some(Phase::Stepping) && status.weight == Some(weight)
}

/// Watches for so long that the run neither goes on nor back, and gives the last status.
async fn stays_at_ten(scene: &Scene, time: Duration) -> Result<RolloutStatus> {
    sleep(time).await;
    let status = shop::status(&scene.namespace).await?;
    ensure!(is_at(10)(&status), "it did not stay at 10 %: {}", status_line(&status));
    let weights: Vec<i64> = scene.record.accepted_weights().into_iter().flatten().collect();
    ensure!(weights == [0, 10], "accepted weights: {weights:?}");
    Ok(status)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_traffic_it_holds_at_ten_percent_and_says_no_data() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("silent").await?;
    let (_prometheus, options) = quick(&namespace).await?;
    let scene = Scene::open_in(namespace, &Shop::default(), talkative(options)).await?;
    let outcome = no_traffic(&scene).await;
    scene.told(outcome)
}

async fn no_traffic(scene: &Scene) -> Result<()> {
    shop::ship(&scene.namespace, "v2", "0%").await?;
    scene
        .wait_for("NoData", BOUND, |status| {
            is_at(10)(status) && status.verdict.as_deref() == Some("NoData")
        })
        .await?;
    let status = stays_at_ten(scene, FIVE_INTERVALS).await?;
    println!("no traffic: {}", status_line(&status));
    ensure!(status.verdict.as_deref() == Some("NoData"), "{}", status_line(&status));
    let message = status.message.unwrap_or_default();
    ensure!(message.contains("no request of either version"), "{message}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_three_requests_a_minute_it_says_how_many_it_needs_and_for_how_long() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("few").await?;
    let (_prometheus, options) = quick(&namespace).await?;
    let scene = Scene::open_in(namespace, &Shop::default(), talkative(options)).await?;
    let outcome = few_requests(&scene).await;
    scene.told(outcome)
}

async fn few_requests(scene: &Scene) -> Result<()> {
    let load = scene.load(0.05).await?;
    shop::ship(&scene.namespace, "v2", "0%").await?;
    scene
        .wait_for("InsufficientTraffic with an estimate", BOUND, |status| {
            let message = status.message.as_deref().unwrap_or_default();
            is_at(10)(status)
                && status.verdict.as_deref() == Some("InsufficientTraffic")
                && message.contains(" of about ")
                && message.contains(" to go")
        })
        .await?;
    let status = stays_at_ten(scene, FIVE_INTERVALS).await?;
    println!(
        "three requests a minute: {}\n  clients: {}",
        status_line(&status),
        load.stop().await?
    );
    ensure!(
        status.verdict.as_deref() == Some("InsufficientTraffic"),
        "{}",
        status_line(&status)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_prometheus_gone_in_mid_step_it_holds_and_goes_on_when_it_is_back() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("outage").await?;
    let (mut prometheus, options) = quick(&namespace).await?;
    let scene = Scene::open_in(namespace, &loose(), talkative(options)).await?;
    let outcome = outage(&scene, &mut prometheus).await;
    scene.told(outcome)
}

async fn outage(scene: &Scene, prometheus: &mut stepgate_tests::cluster::Prometheus) -> Result<()> {
    // Slow enough that the step is not over when the outage begins.
    let load = scene.load(50.0).await?;
    shop::ship(&scene.namespace, "v2", "0%").await?;
    scene.wait_for("10 % in force", BOUND, is_at(10)).await?;
    prometheus.stop().await?;
    let told = scene
        .wait_for("SourceUnreachable", BOUND, |status| {
            is_at(10)(status) && status.verdict.as_deref() == Some("SourceUnreachable")
        })
        .await?;
    let held = stays_at_ten(scene, FIVE_INTERVALS).await?;
    ensure!(
        held.verdict.as_deref() == Some("SourceUnreachable"),
        "{}",
        status_line(&held)
    );
    prometheus.start().await?;
    scene.wait_for("30 % in force", BOUND, is_at(30)).await?;
    let report = load.stop().await?;
    println!(
        "Prometheus gone: {}\n  and 25 s later: {}\n  clients: {report}",
        status_line(&told),
        status_line(&held)
    );
    ensure!(report.other_failures() == 0, "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_passes_on_the_pods_own_counters() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("pods").await?;
    let (_prometheus, options) = quick(&namespace).await?;
    let shop = Shop {
        rollout: "  analysis: {provider: pods, errorRate: {max: 5%}}\n".to_owned(),
        ..Shop::default()
    };
    let scene = Scene::open_in(namespace, &shop, talkative(options)).await?;
    let outcome = by_pods(&scene).await;
    scene.told(outcome)
}

async fn by_pods(scene: &Scene) -> Result<()> {
    let load = scene.load(100.0).await?;
    shop::ship(&scene.namespace, "v2", "0%").await?;
    let status = scene.wait_for("30 % in force", BOUND, is_at(30)).await?;
    let report = load.stop().await?;
    let provider = status.found.as_ref().map(|found| found.provider.clone());
    ensure!(provider == Some(ProviderName::PODS), "{provider:?}");
    // The counts that the step passed on.
    let (_, passed) = scene
        .record
        .first_run(|run| run.weight == 30 && !run.metrics.is_empty())
        .context("no counts were recorded with the step")?;
    let counts = passed.metrics.first().context("no metric")?;
    println!("by the pods' own counters: {counts:?}\n  clients: {report}");
    ensure!(
        counts.canary_requests > 50 && counts.stable_requests > counts.canary_requests,
        "{counts:?}"
    );
    ensure!(counts.canary_bad == 0, "{counts:?}");
    let measured = counts.measured_weight.context("no measured weight")?;
    ensure!((5.0..15.0).contains(&measured), "measured {measured} % at 10 %");
    ensure!(report.other_failures() == 0, "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_or_answers_nonsense_holds_the_step_with_a_reason_of_its_own() -> Result<()> {
    // The source is asked for its clock once a minute: that is waited for beside the others.
    let (others, clock) = Way::ALL.split_at(12);
    ensure!(clock.first() == Some(&Way::OtherClock), "{clock:?}");
    let (others, clock) = tokio::join!(holds_on("nonsense", others), holds_on("other-clock", clock));
    others.and(clock)
}

async fn holds_on(name: &str, ways: &[Way]) -> Result<()> {
    let cluster = Cluster::attach().await?;
    let nuisance = Nuisance::start().await?;
    let shop = Shop {
        rollout: "  analysis: {source: imitation}\n".to_owned(),
        ..Shop::default()
    };
    let scene = Scene::open(&cluster, name, &shop, imitated(&nuisance)).await?;
    scene.told(nonsense(&scene, &nuisance, ways).await)
}

async fn nonsense(scene: &Scene, nuisance: &Nuisance, ways: &[Way]) -> Result<()> {
    let load = scene.load(50.0).await?;
    shop::ship(&scene.namespace, "v2", "0%").await?;
    for way in ways {
        nuisance.answers(*way);
        let (reason, why) = way.is_told_as();
        let told = scene
            .wait_for(&format!("{way:?}"), BOUND, |status| {
                let condition = status.conditions.iter().find(|condition| condition.type_ == "Ready");
                is_at(10)(status)
                    && status.verdict.as_deref() == Some(reason)
                    && condition.is_some_and(|condition| condition.reason == reason)
                    && status.message.as_deref().is_some_and(|message| message.contains(why))
            })
            .await?;
        println!("a source that is no use: {}", status_line(&told));
    }
    stays_at_ten(scene, FIVE_INTERVALS).await?;
    // A person may go on without evidence, and back.
    scene.command(Verb::Abort).await?;
    let ended = shop::wait(&scene.namespace, Phase::Failed, BOUND).await?;
    let reason = ended.failed.map(|failed| failed.cause.reason).unwrap_or_default();
    ensure!(reason == "Aborted", "{reason}");
    let report = load.stop().await?;
    ensure!(report.other_failures() == 0, "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_own_query_that_is_answered_badly_holds_alone_and_the_step_passes_once_it_is_answered() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let nuisance = Nuisance::start_for("queue_depth").await?;
    nuisance.answers(Way::OWN[0].0);
    let shop = Shop {
        rollout: "  analysis: {source: imitation, errorRate: {max: 5%}, queries: [{name: queue, query: max(queue_depth), max: 100}]}\n"
            .to_owned(),
        ..Shop::default()
    };
    let scene = Scene::open(&cluster, "own-nonsense", &shop, imitated(&nuisance)).await?;
    scene.told(own_nonsense(&scene, &nuisance).await)
}

async fn own_nonsense(scene: &Scene, nuisance: &Nuisance) -> Result<()> {
    let load = scene.load(50.0).await?;
    shop::ship(&scene.namespace, "v2", "0%").await?;
    for (way, reason) in Way::OWN {
        nuisance.answers(way);
        let told = scene
            .wait_for(&format!("{way:?}"), BOUND, |status| {
                let condition = status.conditions.iter().find(|condition| condition.type_ == "Ready");
                is_at(10)(status)
                    && status.verdict.as_deref() == Some(reason)
                    && condition.is_some_and(|condition| condition.reason == reason)
                    && status
                        .message
                        .as_deref()
                        .is_some_and(|message| message.contains("query queue: "))
            })
            .await?;
        println!("an own query that is answered badly: {}", status_line(&told));
        let errors = told
            .run
            .and_then(|run| run.metrics.into_iter().next())
            .context("no counts")?;
        ensure!(errors.canary_bad == 0 && errors.stable_bad == 0, "{errors:?}");
    }
    // Counts that would pass alone do not.
    let would_pass = |status: &RolloutStatus| {
        let counted = status.run.as_ref().and_then(|run| run.metrics.first());
        counted.is_some_and(|counted| counted.pass_evidence >= counted.pass_threshold)
    };
    scene.wait_for("counts that would pass", BOUND, would_pass).await?;
    stays_at_ten(scene, FIVE_INTERVALS / 2).await?;
    nuisance.answers(Way::One);
    scene.wait_for("30 % in force", BOUND, is_at(30)).await?;
    let report = load.stop().await?;
    ensure!(report.other_failures() == 0, "{report}");
    Ok(())
}

//! Each gateway end to end, with the set of queries that Stepgate finds for it: a good version is promoted and a bad one taken back without
//! a lost request, and what the gateway counts is what clients saw.
//!
//! Runs inside the cluster: `target/debug/local-cluster run -- cargo test -p stepgate-tests --test gateways`. Prints a table row for each.

#![expect(clippy::print_stdout, reason = "a test prints what it measured")]

#[path = "gateways/counts.rs"]
mod counts;
#[path = "gateways/figures.rs"]
mod figures;
#[path = "gateways/idle.rs"]
mod idle;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use counts::Counts;
use figures::Figures;
use stepgate::provider::Measure;
use stepgate_crds::RolloutStatus;
use stepgate_crds::status::{Outcome, Phase};
use stepgate_crds::units::Span;
use stepgate_tests::cluster::gateway::make::{Make, OwnGateway};
use stepgate_tests::cluster::{Cluster, Prometheus};
use stepgate_tests::load::{Load, LoadOptions, Report};
use stepgate_tests::scene::{Scene, quick_behind};
use stepgate_tests::shop::{self, Shop};
use stepgate_tests::until::{Seen, until};
use tokio::time::sleep;

const BOUND: Duration = Duration::from_mins(4);
/// Requests a second while versions are shipped.
const RATE: f64 = 100.0;
/// A backendRef of these fields, with a filter that changes nothing.
fn filtered(fields: &str) -> String {
    format!(
        "{{{fields}, port: 80, \
         filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{remove: [x-nobody-sends-this]}}}}]}}"
    )
}

/// One rule with these backendRefs.
fn rule(references: &[String]) -> String {
    format!("[{{backendRefs: [{}]}}]", references.join(", "))
}

/// A gateway and a form of the route, and what Stepgate is to find for it.
struct Case {
    /// Begins the namespace's name.
    name: &'static str,
    /// In the table.
    title: &'static str,
    make: Make,
    /// The route's rules; one plain one where empty.
    rules: String,
    provider: &'static str,
    /// Words of the reason for which it is not the gateway's own.
    why: Option<&'static str>,
    /// Whether a request is counted, and as bad, that the gateway could not bring to any pod: no connection, and no endpoint.
    unserved: [bool; 2],
}

#[tokio::test(flavor = "multi_thread")]
async fn contour_is_measured_by_its_envoy() -> Result<()> {
    both_ways(&Case {
        name: "contour",
        title: "Contour",
        make: Make::Contour,
        rules: String::new(),
        provider: "contour",
        why: None,
        unserved: [true, true],
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn traefik_is_measured_by_itself() -> Result<()> {
    both_ways(&Case {
        name: "traefik",
        title: "Traefik",
        make: Make::Traefik,
        rules: String::new(),
        provider: "traefik",
        why: None,
        unserved: [true, false],
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_gateway_is_measured_by_its_envoy_where_each_backend_has_a_filter() -> Result<()> {
    both_ways(&Case {
        name: "filters",
        title: "Envoy Gateway, with filters",
        make: Make::EnvoyGateway,
        rules: rule(&[filtered("name: checkout")]),
        provider: "envoy-gateway",
        why: None,
        unserved: [true, false],
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_gateway_without_filters_is_measured_by_the_pods_and_it_says_so() -> Result<()> {
    both_ways(&Case {
        name: "plain",
        title: "Envoy Gateway, without",
        make: Make::EnvoyGateway,
        rules: String::new(),
        provider: "pods",
        why: Some("envoy-gateway cannot tell the two backends apart"),
        unserved: [false, false],
    })
    .await
}

async fn both_ways(case: &Case) -> Result<()> {
    let namespace = Cluster::attach().await?.namespace(case.name).await?;
    let gateway = OwnGateway::start(case.make, &namespace).await?;
    let (prometheus, options) = quick_behind(&namespace, gateway.counters.clone()).await?;
    let shop = Shop {
        error_share: "0.1%",
        own_gateway: Some(case.make.gateway()),
        rules: case.rules.clone(),
        rollout: "  analysis: {errorRate: {max: 5%}}\n".to_owned(),
        ..Shop::default()
    };
    let mut scene = Scene::open_in(namespace, &shop, options).await?;
    let outcome = course(case, &mut scene, &gateway, &prometheus).await;
    scene.told(outcome)
}

async fn course(case: &Case, scene: &mut Scene, gateway: &OwnGateway, prometheus: &Prometheus) -> Result<()> {
    found_as_expected(case, &shop::status(&scene.namespace).await?)?;
    let options = LoadOptions {
        url: gateway.url.clone(),
        rate: RATE,
        ..shop::load(&scene.namespace)
    };
    let load = scene.load_with(options.clone()).await?;
    promoted(scene).await?;
    taken_back(scene).await?;
    let report = load.stop().await?;
    let weights: Vec<i64> = scene.record.accepted_weights().into_iter().flatten().collect();
    let figures = Figures::of(&scene.record)?;
    println!("{}", figures.row(case.title, &report));
    ensure!(report.other_failures() == 0, "clients lost requests: {report}");
    ensure!(
        weights == [0, 10, 30, 50, 100, 0, 0, 10, 0],
        "accepted weights: {weights:?}"
    );
    figures.check()?;
    counted_as_clients_saw(case, scene, &options, prometheus).await
}

/// The set of queries is the expected one, and the status says why where it is not the gateway's own.
fn found_as_expected(case: &Case, status: &RolloutStatus) -> Result<()> {
    let found = status.found.as_ref().context("nothing was found")?;
    ensure!(found.provider.as_str() == case.provider, "provider {}", found.provider);
    let said = found.provider_why.as_deref();
    match case.why {
        Some(why) => ensure!(said.is_some_and(|said| said.contains(why)), "{said:?}"),
        None => ensure!(said.is_none(), "{said:?}"),
    }
    Ok(())
}

/// Ships a good version, and waits until it is promoted.
async fn promoted(scene: &Scene) -> Result<()> {
    shop::ship(&scene.namespace, "v2", "0.1%").await?;
    shop::wait_for_run(&scene.namespace, BOUND).await?;
    let ended = scene
        .wait_for("the good version's end", BOUND, |status| status.run.is_none())
        .await?;
    ensure!(ended.phase == Some(Phase::Healthy), "{:?}", ended.phase);
    let past = ended.history.first().context("no history")?;
    ensure!(past.outcome == Outcome::Promoted, "{past:?}");
    Ok(())
}

/// Ships a bad version, and waits until it is taken back by what was counted.
async fn taken_back(scene: &Scene) -> Result<()> {
    shop::ship(&scene.namespace, "v3", "30%").await?;
    let ended = shop::wait(&scene.namespace, Phase::Failed, BOUND).await?;
    let past = ended.history.first().context("no history")?;
    ensure!(
        past.outcome == Outcome::Failed && ["Verdict", "Tripwire"].map(Some).contains(&past.reason.as_deref()),
        "{past:?}"
    );
    Ok(())
}

/// Holds a version that fails every second request at 10 %, and compares what is counted with what clients see: while all is well, while no
/// pod of the canary takes connections, and while there is none.
async fn counted_as_clients_saw(
    case: &Case,
    scene: &mut Scene,
    options: &LoadOptions,
    prometheus: &Prometheus,
) -> Result<()> {
    shop::ship(&scene.namespace, "v4", "50%").await?;
    // Nothing is sent, so nothing is judged; and without its operator the weight stays whatever the counts are.
    let status = shop::wait_for_weight(&scene.namespace, 10, BOUND).await?;
    scene.operator.kill().await?;
    no_pod_is_ending(scene).await?;
    let query = |measure| counts::query(case.provider, scene.namespace.name(), &status, &measure);
    let (query, quick) = (
        query(Measure::Errors)?,
        query(Measure::Latency {
            threshold: Span::seconds(5),
        })?,
    );
    let options = LoadOptions {
        rate: 200.0,
        count: Some(1_000),
        ..options.clone()
    };

    let (before, quick_before) = (
        counts::at_rest(prometheus, &query).await?,
        counts::at_rest(prometheus, &quick).await?,
    );
    let report = Load::start(options.clone())?.finished().await?;
    let counted = counts::at_rest(prometheus, &query).await? - before;
    println!("{}: of 1000 requests {counted}", case.title);
    let seen = Counts::seen(&report, "v2", "v4");
    ensure!(report.other_failures() == 0, "clients lost requests: {report}");
    ensure!(
        counted == seen,
        "{} counted {counted}, clients saw {seen}",
        case.provider
    );
    ensure!(seen.canary_bad > 0 && seen.stable > seen.canary, "{seen}");
    // The histogram has them all: no answer took longer than clients wait.
    let all_quick = Counts {
        canary_bad: seen.canary,
        stable_bad: seen.stable,
        ..seen
    };
    let counted = counts::at_rest(prometheus, &quick).await? - quick_before;
    ensure!(
        counted == all_quick,
        "of how long they took, {} counted {counted}, clients saw {seen}",
        case.provider
    );

    let closed = r#"[{"op": "replace", "path": "/spec/ports/0/targetPort", "value": 9}]"#;
    let ways = [
        (
            "no connection",
            vec!["patch", "service", "checkout-canary", "--type=json", "--patch", closed],
        ),
        (
            "no endpoint",
            vec!["scale", "deployment", "checkout-canary", "--replicas=0"],
        ),
    ];
    for ((what, change), is_counted) in ways.into_iter().zip(case.unserved) {
        scene.namespace.kubectl(&change).await?;
        // The gateway learns of it within moments; what matters is that it has when the first request is sent.
        sleep(Duration::from_secs(3)).await;
        no_pod_is_ending(scene).await?;
        let before = counts::at_rest(prometheus, &query).await?;
        let report = Load::start(options.clone())?.finished().await?;
        let counted = counts::at_rest(prometheus, &query).await? - before;
        let failed = i64::try_from(report.other_failures())?;
        println!("{}: {what}: {failed} of 1000 failed; {counted}", case.title);
        ensure!(failed > 0 && report.version("v4").total == 0, "{what}: {report}");
        let expected = Counts {
            canary: if is_counted { failed } else { 0 },
            canary_bad: if is_counted { failed } else { 0 },
            ..Counts::seen(&report, "v2", "v4")
        };
        ensure!(
            counted == expected,
            "{what}: {} counted {counted}, not {expected}; {report}",
            case.provider
        );
    }
    Ok(())
}

/// Waits until every pod that was told to end is gone: its counters go with it.
async fn no_pod_is_ending(scene: &Scene) -> Result<()> {
    let told = [
        "get",
        "pods",
        "--output=jsonpath={.items[*].metadata.deletionTimestamp}",
    ];
    until("no pod to be ending", BOUND, async || {
        let ending = scene.namespace.kubectl(&told).await?;
        Ok(if ending.is_empty() {
            Seen::Done(())
        } else {
            Seen::NotYet(ending)
        })
    })
    .await
}

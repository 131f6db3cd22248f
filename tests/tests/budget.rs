//! What Stepgate costs the API server, counted from its audit log: a whole rollout, and a Rollout at rest.
//!
//! Each test has a namespace and an operator of its own, and every request that an operator makes for a Rollout names its namespace: so
//! they are told apart although all act as the chart's ServiceAccount.

#![expect(clippy::print_stdout, reason = "a test prints what it measured")]

use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use stepgate_crds::status::Outcome;
use stepgate_tests::cluster::Cluster;
use stepgate_tests::cluster::audit::{Request, table};
use stepgate_tests::operator::SYSTEM;
use stepgate_tests::scene::{Scene, quick};
use stepgate_tests::shop::{self, Shop};
use tokio::time::sleep;

const BOUND: Duration = Duration::from_mins(4);
/// Requests of a rollout of four steps, status refreshes and conflict retries apart.
const MOST: usize = 48;
/// Of them writes besides Events.
const MOST_WRITES: usize = 32;
/// Of them Events.
const MOST_EVENTS: usize = 10;
/// Answers 409 and 422, whose retries are counted apart.
const MOST_CONFLICTS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_of_four_steps_stays_within_its_budget_of_requests() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("budget").await?;
    let (_prometheus, options) = quick(&namespace).await?;
    // A loose max needs fewer requests for a pass; what is counted is not how long the steps take.
    let shop = Shop {
        rollout: "  analysis: {errorRate: {max: 5%}}\n".to_owned(),
        ..Shop::default()
    };
    let scene = Scene::open_in(namespace, &shop, options).await?;
    let outcome = whole_rollout(&scene).await;
    scene.told(outcome)
}

async fn whole_rollout(scene: &Scene) -> Result<()> {
    let load = scene.load(100.0).await?;
    let audit = scene.namespace.cluster().audit()?;
    let begin = Timestamp::now();
    shop::ship(&scene.namespace, "v2", "0%").await?;
    shop::wait_for_run(&scene.namespace, BOUND).await?;
    let ended = scene
        .wait_for("the run's end", BOUND, |status| status.run.is_none())
        .await?;
    let lasted = Timestamp::now().duration_since(begin);
    ensure!(
        ended
            .history
            .first()
            .is_some_and(|past| past.outcome == Outcome::Promoted),
        "{:?}",
        ended.history
    );
    let report = load.stop().await?;
    // What follows the end: the old template goes, the last Event is written.
    sleep(Duration::from_secs(5)).await;
    let requests = scene.requests(&audit)?;
    let watches = count(&requests, |request| request.verb == "watch");
    let asked: Vec<Request> = requests.into_iter().filter(|request| request.verb != "watch").collect();
    let conflicts = count(&asked, |request| matches!(request.code(), 409 | 422));
    let events = count(&asked, is_event);
    let writes = count(&asked, |request| request.is_write() && !is_event(request));
    // One refresh a minute and one repetition for each conflict stand apart.
    let minutes = usize::try_from(lasted.as_secs() / 60)?;
    let apart = minutes + 2 * conflicts;
    let lines: Vec<String> = table(&asked)
        .into_iter()
        .map(|(what, number)| format!("  {number:>3} {what}"))
        .collect();
    let lines = lines.join("\n");
    println!(
        "a rollout of four steps ({} s, {} client requests, {} other failures):\n{lines}\n  \
         {} requests (at most {MOST}), {writes} writes besides Events (at most {MOST_WRITES}), {events} Events (at most {MOST_EVENTS}), \
         {conflicts} conflicts (at most {MOST_CONFLICTS}), {watches} watches renewed, {minutes} refreshes allowed",
        lasted.as_secs(),
        report.requests,
        report.other_failures(),
        asked.len(),
    );
    ensure!(
        asked.len() <= MOST + apart,
        "{} requests:\n{}",
        asked.len(),
        in_order(&asked)
    );
    ensure!(writes <= MOST_WRITES + apart, "{writes} writes:\n{}", in_order(&asked));
    ensure!(events <= MOST_EVENTS, "{events} Events:\n{}", in_order(&asked));
    ensure!(
        conflicts <= MOST_CONFLICTS,
        "{conflicts} conflicts:\n{}",
        in_order(&asked)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_at_rest_costs_nothing_but_the_lease_and_renewed_watches() -> Result<()> {
    const REST: Duration = Duration::from_mins(1);
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("rest").await?;
    let (_prometheus, options) = quick(&namespace).await?;
    let scene = Scene::open_in(namespace, &Shop::default(), options).await?;
    // Traffic that a resting Rollout must not react to.
    let load = scene.load(20.0).await?;
    // The Event of the adoption is written beside the pass.
    sleep(Duration::from_secs(3)).await;
    let audit = cluster.audit()?;
    sleep(REST).await;
    let requests = scene.requests(&audit)?;
    let lease = audit.requests(|request| {
        let target = request.object_ref.clone().unwrap_or_default();
        target.resource == "leases" && target.namespace == SYSTEM && target.name == scene.namespace.name()
    })?;
    let report = load.stop().await?;
    let other: Vec<Request> = requests
        .iter()
        .filter(|request| request.verb != "watch")
        .cloned()
        .collect();
    println!(
        "at rest for {} s: {} requests, {} watches renewed, Lease: {:?}; {} client requests passed by",
        REST.as_secs(),
        other.len(),
        requests.len() - other.len(),
        table(&lease),
        report.requests
    );
    let outcome = if other.is_empty() && !lease.is_empty() {
        Ok(())
    } else {
        Err(anyhow::anyhow!(
            "at rest it asked for:\n{}{:?}",
            in_order(&other),
            table(&lease)
        ))
    };
    scene.told(outcome)
}

fn count(requests: &[Request], wanted: impl Fn(&Request) -> bool) -> usize {
    requests.iter().filter(|request| wanted(request)).count()
}

fn is_event(request: &Request) -> bool {
    request
        .object_ref
        .as_ref()
        .is_some_and(|target| target.resource == "events")
}

/// One line for each request, for a failed test.
fn in_order(requests: &[Request]) -> String {
    let lines: Vec<String> = requests
        .iter()
        .map(|request| {
            format!(
                "{} {} {} {}\n",
                request.received,
                request.what(),
                request.code(),
                request.uri
            )
        })
        .collect();
    lines.concat()
}

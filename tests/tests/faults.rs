//! Fault plans on the real control plane: every course with a fault comes to the end that it has without, and breaks no rule of safety; and
//! each rule can be seen to be broken.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stepgate_tests::cluster::Cluster;
use stepgate_tests::faults::bug::BUGS;
use stepgate_tests::faults::check::{ELSEWHERE, RULES, liveness, safety};
use stepgate_tests::faults::layer::Tap;
use stepgate_tests::faults::process::{self, Life};
use stepgate_tests::faults::proxy::Proxy;
use stepgate_tests::faults::run::{Outcome, Plan, Range};
use stepgate_tests::faults::workload::Workload;
use stepgate_tests::faults::{generate, report, site};
use stepgate_tests::operator::install_chart;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// About so many plans of one fault.
const PLANS: usize = 250;
/// How many run at once.
const AT_ONCE: usize = 32;
/// Each of these tests keeps the machine busy by itself.
static ALONE: Mutex<()> = Mutex::const_new(());
/// Plans that failed once. They stay.
const FOUND: [&str; 1] = [
    // Taking a run over was a commit of its own: an operator that ended after each write did nothing else.
    "new-template,crash-every-1@1",
];

#[tokio::test]
async fn every_course_with_a_fault_comes_to_the_same_end_and_breaks_no_rule() -> Result<()> {
    let _alone = ALONE.lock().await;
    let range = Range::open(None).await?;
    let oracles = range.oracles(&Workload::ALL).await?;
    let mut plans: Vec<Plan> = FOUND.iter().map(|plan| plan.parse()).collect::<Result<_>>()?;
    plans.extend(generate::stratified(&oracles, PLANS));
    let (all, begun) = (plans.len(), Instant::now());
    let outcomes = range.run_all(plans, &oracles, AT_ONCE, |_| {}).await;
    let table = report::table(&outcomes, &oracles);
    println!("{table}\n{all} plans in {:.0} s", begun.elapsed().as_secs_f64());
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| !outcome.is_well()).collect();
    let told: String = failed.iter().map(|outcome| report::failure(outcome)).collect();
    ensure!(failed.is_empty(), "{} of {all} plans failed:\n{told}", failed.len());
    report::struck(&outcomes)
}

#[tokio::test]
async fn each_rule_is_seen_to_be_broken() -> Result<()> {
    let _alone = ALONE.lock().await;
    let range = Range::open(None).await?;
    let outcomes = futures::future::join_all(BUGS.map(|bug| {
        let range = &range;
        async move { (bug, range.run_bug(bug).await) }
    }))
    .await;
    let mut missed = BTreeMap::new();
    for (bug, outcome) in &outcomes {
        if !outcome.violations.iter().any(|violation| violation.rule == bug.rule) {
            missed.insert(bug.rule, report::failure(outcome));
        }
    }
    let told: Vec<String> = missed
        .iter()
        .map(|(rule, outcome)| format!("rule {rule} did not see its bug:\n{outcome}"))
        .collect();
    ensure!(missed.is_empty(), "{}", told.join("\n"));
    Ok(())
}

/// Its first lists are on their way, and passes that wait for them are begun already.
#[tokio::test]
async fn an_operator_that_is_told_to_stop_while_it_begins_ends() -> Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = Cluster::attach().await?;
    install_chart(&cluster).await?;
    let namespace = cluster.namespace("begin").await?;
    let (application, rollout) = site::manifests(&namespace, false);
    for object in application.iter().chain([&rollout]) {
        site::apply(&namespace, object).await?;
    }
    let config = process::config(&cluster).await?;
    let nowhere = "http://127.0.0.1:9";
    for term in 1..=30 {
        let tap = Tap::new(&[], Proxy::new(nowhere.to_owned(), "nobody"), None);
        let life = Life::begin(&config, &namespace, &tap, nowhere, term, Duration::ZERO)?;
        sleep(Duration::from_millis(10) * u32::try_from(term)?).await;
        life.end().await.with_context(|| format!("told after {term}0 ms"))?;
    }
    namespace.clear().await
}

#[test]
fn each_invariant_has_its_check_and_its_bug() -> Result<()> {
    let all = (1..=20).map(safety).chain((1..=5).map(liveness));
    for rule in all {
        let here = RULES.iter().any(|(checked, _)| *checked == rule);
        let elsewhere = ELSEWHERE.iter().find(|elsewhere| elsewhere.rule == rule);
        ensure!(here || elsewhere.is_some(), "nothing checks {rule}");
        ensure!(
            !here || BUGS.iter().any(|bug| bug.rule == rule),
            "no bug shows that {rule} can be broken"
        );
        for test in elsewhere
            .into_iter()
            .flat_map(|one| one.held.iter().chain([&one.broken]))
        {
            ensure!(
                is_a_test(test)?,
                "{rule} is said to be held, or seen broken, by {test}, and there is no such test"
            );
        }
    }
    Ok(())
}

/// Whether a file of tests in this tree has this function.
fn is_a_test(name: &str) -> Result<bool> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![
        root.join("tests"),
        root.join("../operator/core/tests"),
        root.join("../operator/tests"),
    ];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if std::fs::read_to_string(path)?.contains(&format!("fn {name}(")) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

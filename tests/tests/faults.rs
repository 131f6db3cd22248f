//! Fault plans on the real control plane: every course with a fault comes to the end that it has without, and breaks no rule of safety; and
//! each rule can be seen to be broken.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use stepgate_tests::faults::bug::BUGS;
use stepgate_tests::faults::check::RULES;
use stepgate_tests::faults::run::{Outcome, Plan, Range};
use stepgate_tests::faults::workload::Workload;
use stepgate_tests::faults::{generate, report};

/// About so many plans of one fault.
const PLANS: usize = 250;
/// How many run at once.
const AT_ONCE: usize = 24;
/// Plans that failed once. They stay.
const FOUND: [&str; 0] = [];

#[tokio::test]
async fn every_course_with_a_fault_comes_to_the_same_end_and_breaks_no_rule() -> Result<()> {
    let range = Range::open().await?;
    let oracles = range.oracles(&Workload::ALL).await?;
    let mut plans: Vec<Plan> = FOUND.iter().map(|plan| plan.parse()).collect::<Result<_>>()?;
    plans.extend(generate::stratified(&oracles, PLANS));
    let all = plans.len();
    let outcomes = range.run_all(plans, &oracles, AT_ONCE, |_| {}).await;
    println!("{}", report::table(&outcomes, &oracles));
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| !outcome.is_well()).collect();
    let told: String = failed.iter().map(|outcome| report::failure(outcome)).collect();
    ensure!(failed.is_empty(), "{} of {all} plans failed:\n{told}", failed.len());
    let struck = outcomes.iter().filter(|outcome| outcome.left == 0).count();
    ensure!(
        struck * 10 >= all * 9,
        "only {struck} of {all} faults found their place"
    );
    Ok(())
}

#[tokio::test]
async fn each_rule_is_seen_to_be_broken() -> Result<()> {
    let range = Range::open().await?;
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
    ensure!(missed.is_empty(), "these rules did not see their bug: {missed:#?}");
    let without: Vec<u8> = RULES
        .iter()
        .map(|(rule, _)| *rule)
        .filter(|rule| !BUGS.iter().any(|bug| bug.rule == *rule))
        .collect();
    ensure!(
        without.is_empty(),
        "no bug shows that these rules can be broken: {without:?}"
    );
    Ok(())
}

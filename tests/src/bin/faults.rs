//! `make faults`: runs fault plans on the local cluster, prints one table, and says how to run a failed one alone.
//!
//! Errors where any plan came to another end than without faults, or broke a rule of safety, or where too many struck nothing.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use clap::Parser;
use stepgate_tests::faults::run::{Outcome, Plan, Range};
use stepgate_tests::faults::workload::Workload;
use stepgate_tests::faults::{generate, report};

/// Fault plans on a real control plane.
#[derive(Debug, Parser)]
struct Arguments {
    /// Run this plan alone, such as `abort,lost@12`; may be given several times.
    #[arg(long = "plan")]
    plan: Vec<Plan>,
    /// About how many plans to generate from the fault-free courses; all of them where it is not given.
    #[arg(long)]
    plans: Option<usize>,
    /// So many plans of two faults by chance besides.
    #[arg(long, default_value_t = 0)]
    random: usize,
    /// The seed of those.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What the operators log, such as `stepgate=debug,kube_runtime=debug`; nothing where it is not given.
    #[arg(long)]
    log: Option<String>,
    /// How many run at once.
    #[arg(long, default_value_t = 24)]
    at_once: usize,
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the table is what this program is for")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let range = Range::open(arguments.log.as_deref()).await?;
    let oracles = range.oracles(&Workload::ALL).await?;
    for (workload, oracle) in &oracles {
        println!(
            "{workload}: {} writes, {} requests, {:.1} s without a fault",
            oracle.writes,
            oracle.requests,
            oracle.took.as_secs_f64()
        );
    }
    let mut plans = arguments.plan.clone();
    if plans.is_empty() {
        plans = match arguments.plans {
            Some(count) => generate::stratified(&oracles, count),
            None => generate::all(&oracles),
        };
        plans.extend(generate::random(&oracles, arguments.random, arguments.seed));
    }
    let all = plans.len();
    let mut done = 0;
    let outcomes = range
        .run_all(plans, &oracles, arguments.at_once, |outcome| {
            done += 1;
            if !outcome.is_well() {
                println!("{}", report::failure(outcome));
            }
            if done % 50 == 0 {
                println!("{done} of {all}");
            }
        })
        .await;
    println!("\n{}", report::table(&outcomes, &oracles));
    for outcome in outcomes.iter().filter(|outcome| !outcome.is_well()) {
        let smallest = range.smallest(&outcome.plan, &oracles).await;
        println!("{}: the smallest form is: make faults PLAN={smallest}", outcome.plan);
    }
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| !outcome.is_well()).collect();
    let by_workload = failed.iter().fold(BTreeMap::new(), |mut counts, outcome| {
        *counts.entry(outcome.plan.workload.to_string()).or_insert(0) += 1;
        counts
    });
    ensure!(
        failed.is_empty(),
        "{} of {all} plans failed: {by_workload:?}",
        failed.len()
    );
    report::struck(&outcomes)
}

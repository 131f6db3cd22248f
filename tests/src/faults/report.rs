//! The table of all plans, and what is said of one that failed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::check::RULES;
use super::run::Outcome;
use super::workload::Workload;

/// A failed plan: what was wrong, how to run it alone, and what was written.
pub fn failure(outcome: &Outcome) -> String {
    let mut text = format!(
        "--- {} failed after {:.1} s\n",
        outcome.plan,
        outcome.took.as_secs_f64()
    );
    for violation in &outcome.violations {
        let _ = writeln!(text, "  {violation}");
    }
    for wrong in &outcome.wrong {
        let _ = writeln!(text, "  {wrong}");
    }
    let _ = write!(text, "  alone: make faults PLAN={}\n{}", outcome.plan, outcome.timeline);
    text
}

/// An error where more than one plan in ten has a fault that found no place: then the others show too little.
pub fn struck(outcomes: &[Outcome]) -> Result<()> {
    let (all, struck) = (
        outcomes.len(),
        outcomes.iter().filter(|outcome| outcome.left == 0).count(),
    );
    ensure!(
        struck * 10 >= all * 9,
        "only {struck} of {all} plans found a place for each of their faults"
    );
    Ok(())
}

/// One line a kind of fault: plans, those with a fault that found no place to strike, violations, other ends, the longest way back after an abort, requests against the fault-free course.
pub fn table(outcomes: &[Outcome], oracles: &BTreeMap<Workload, Outcome>) -> String {
    let mut rows: BTreeMap<&'static str, Row> = BTreeMap::new();
    for outcome in outcomes {
        let family = match outcome.plan.faults.as_slice() {
            [] => "none",
            [one] => one.kind.family(),
            _ => "two faults by chance",
        };
        let row = rows.entry(family).or_default();
        row.plans += 1;
        row.unstruck += usize::from(outcome.left > 0);
        row.violations += outcome.violations.len();
        row.other_ends += outcome.wrong.len();
        row.answer = row.answer.max(outcome.answer);
        row.way_back = row.way_back.max(outcome.way_back);
        row.requests += outcome.requests;
        row.without += oracles.get(&outcome.plan.workload).map_or(0, |oracle| oracle.requests);
    }
    let mut text = String::from(
        "| fault | plans | that found no place | rules | violations | other ends | abort to first write, worst | abort to accepted 0, worst | requests against none |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for (family, row) in rows {
        let seconds =
            |time: Option<Duration>| time.map_or("-".to_owned(), |time| format!("{:.2} s", time.as_secs_f64()));
        let (answer, way_back) = (seconds(row.answer), seconds(row.way_back));
        #[expect(clippy::cast_precision_loss, reason = "counts are small")]
        let ratio = row.requests as f64 / row.without.max(1) as f64;
        let _ = writeln!(
            text,
            "| {family} | {} | {} | {} | {} | {} | {answer} | {way_back} | {ratio:.2} |",
            row.plans,
            row.unstruck,
            RULES.len(),
            row.violations,
            row.other_ends
        );
    }
    text
}

#[derive(Default)]
struct Row {
    plans: usize,
    unstruck: usize,
    violations: usize,
    other_ends: usize,
    answer: Option<Duration>,
    way_back: Option<Duration>,
    requests: usize,
    without: usize,
}

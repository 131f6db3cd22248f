//! `calibrate`: how often and how fast the operator's verdict is right, on simulated rollouts, beside a threshold on the error rate.
//!
//! Prints Markdown. With `--docs` it also puts the tables into a page between two marks, and a picture beside it. The same seed gives the
//! same figures. Exit code 1 where a target was missed.

#![expect(
    clippy::cast_precision_loss,
    reason = "counts of rollouts and requests, far below 2^53"
)]

mod cells;
mod chart;
mod outcome;
mod page;
mod report;
mod rollout;
mod targets;
#[cfg(test)]
mod tests;
mod threshold;
mod traffic;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;

/// Simulates rollouts, and tells how often and how fast the verdict is right.
#[derive(Parser, Debug)]
#[command(name = "calibrate")]
struct Arguments {
    /// Rollouts of bad versions in each cell.
    #[arg(long, default_value_t = 2_000)]
    runs: u64,
    /// Rollouts of healthy versions in each cell: they are rolled back seldom.
    #[arg(long, default_value_t = 20_000)]
    healthy_runs: u64,
    /// What chance begins with.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only scenarios whose name contains this.
    #[arg(long, conflicts_with = "docs")]
    only: Option<String>,
    /// Put the tables into analysis.md of this folder, and the picture beside it.
    #[arg(long, value_name = "FOLDER")]
    docs: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let begin = Instant::now();
    let mut cells = cells::all(arguments.runs, arguments.healthy_runs);
    if let Some(only) = &arguments.only {
        cells.retain(|cell| cell.scenario.name.contains(only));
    }
    let threads = thread::available_parallelism().map_or(1, usize::from);
    cells::simulate(&mut cells, arguments.seed, threads);
    let targets = targets::check(&cells);
    let text = report::markdown(&cells, &targets, arguments.seed);
    io::stdout()
        .write_all(text.as_bytes())
        .context("writing to standard output")?;
    if let Some(docs) = &arguments.docs {
        page::write(docs, &text, &chart::svg(&cells))?;
    }
    let rollouts: usize = cells.iter().map(|cell| cell.found.runs()).sum();
    writeln!(
        io::stderr(),
        "{rollouts} rollouts in {:.0} s on {threads} threads",
        begin.elapsed().as_secs_f64()
    )?;
    Ok(if targets.iter().all(|target| target.met) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

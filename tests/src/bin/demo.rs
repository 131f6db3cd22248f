//! `make demo`: starts the local cluster, plays the demo in it, and ends it again or leaves it running for a person.
//!
//! Outside (`run`, `stop`) this only calls `local-cluster`; the hidden `play` runs inside the cluster's namespaces.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use stepgate_tests::cluster::parts::cache_folder;
use stepgate_tests::cluster::{Facts, GATEWAY_URL, PROMETHEUS_URL, User};
use stepgate_tests::demo::story::{self, HOST, NAMESPACE};
use stepgate_tests::operator::binary;

/// How often Prometheus scrapes, in seconds; the story tells the chart the same.
const SCRAPE_SECONDS: &str = "2";

/// The demo: a good version is promoted step by step, a bad one is taken back, live, on a real cluster.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start a cluster and play the demo in it.
    Run {
        /// Leave everything running at the end.
        #[arg(long)]
        keep: bool,
    },
    /// End what `run --keep` left running.
    Stop,
    /// Play the demo in the cluster this runs in.
    #[command(hide = true)]
    Play,
}

#[tokio::main]
#[expect(clippy::print_stderr, reason = "a program's messages")]
async fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Action::Run { keep: false } => run(),
        Action::Run { keep: true } => run_and_keep(),
        Action::Stop => local_cluster(&["stop"]).and_then(become_it),
        Action::Play => story::play().await,
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the demo is what it prints")]
fn say(text: &str) {
    println!("{text}");
}

fn introduce() {
    say("Stepgate's demo takes about 3 minutes: some seconds to start a cluster in a network namespace of its own (API server, controllers,
Contour with Envoy, Prometheus, one process for each pod), 2 minutes for a good version, half a minute for a bad one.
Nothing of it can be reached from outside, and nothing stays unless KEEP=1 was said.
");
}

/// This process becomes `local-cluster run`, so that whoever ends it ends everything.
fn run() -> Result<bool> {
    introduce();
    let own = env::current_exe().context("finding the running program")?;
    let mut command = local_cluster(&["run", "--scrape-seconds", SCRAPE_SECONDS, "--"])?;
    command.arg(own).arg("play");
    become_it(command)
}

fn run_and_keep() -> Result<bool> {
    introduce();
    let own = env::current_exe().context("finding the running program")?;
    let started = local_cluster(&["start", "--scrape-seconds", SCRAPE_SECONDS])?.status()?;
    if !started.success() {
        say("\nmake demo-stop ends a demo that is still running.");
        return Ok(false);
    }
    let played = local_cluster(&["exec", "--"])?.arg(own).arg("play").status()?;
    how_to_reach()?;
    Ok(played.success())
}

fn how_to_reach() -> Result<()> {
    let facts = Facts::read(&cache_folder()?.join("running").join("kept"))?;
    let local_cluster = binary("local-cluster")?;
    let programs = local_cluster.parent().context("the programs' folder")?.display();
    let local_cluster = local_cluster.display();
    let kubeconfig = facts.kubeconfig(User::Administrator);
    say(&format!(
        r"
The cluster goes on running. It is in a network namespace of its own, so everything below is done from a shell in there:

  PATH={programs}:$PATH {local_cluster} exec -- bash

  Kubernetes       kubectl -n {NAMESPACE} get rollouts,deployments,pods,httproutes
                   KUBECONFIG is {kubeconfig}
  Gateway          curl -i -H 'Host: {HOST}' {GATEWAY_URL}/
  Prometheus       curl -s '{PROMETHEUS_URL}/api/v1/query?query=up'
  Operator's log   tail -f {logs}/stepgate-system_*.log

Ship a version yourself: traffic first, without which nothing moves, then any change of the pod template, then watch:

  loadgen --host {HOST} --rate 300 --seconds 600 &
  kubectl -n {NAMESPACE} set env deployment/checkout VERSION=v4 ERROR_SHARE=0.1%
  kubectl stepgate status checkout -n {NAMESPACE}         # also: promote, pause, resume, abort, retry
  kubectl -n {NAMESPACE} get rollouts --watch

End it with: make demo-stop",
        kubeconfig = kubeconfig.display(),
        logs = facts.logs.display(),
    ));
    Ok(())
}

fn local_cluster(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary("local-cluster")?);
    command.args(arguments);
    Ok(command)
}

fn become_it(mut command: Command) -> Result<bool> {
    Err(command.exec()).context("running local-cluster")
}

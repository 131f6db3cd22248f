//! Starts the local cluster in a network, process and mount namespace of its own, runs a command in it, and leaves nothing behind.
//!
//! This program outside (`run`, `start`, `stop`, `exec`) only makes the namespaces; the hidden `inside` is their first process and runs
//! the cluster. When it ends, or is killed, or whoever started `run` ends, the kernel ends everything in there.

use std::env;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use stepgate_tests::cluster::parts::cache_folder;
use stepgate_tests::cluster::process::tail;
use stepgate_tests::cluster::{Facts, LaunchOptions, Running, environment, launch};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// Held by the program that removes the state folder.
const LOCK: &str = "lock";

/// The local cluster: a real Kubernetes control plane, gateway and Prometheus in a namespace of their own.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start a cluster, run a command in it (with STEPGATE_CLUSTER and KUBECONFIG set), end the cluster; gives the command's exit code.
    Run {
        /// How often Prometheus scrapes, in seconds.
        #[arg(long, default_value_t = 5)]
        scrape_seconds: u64,
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
    /// Start a cluster that stays until `stop`; returns when it is up.
    Start {
        /// How often Prometheus scrapes, in seconds.
        #[arg(long, default_value_t = 5)]
        scrape_seconds: u64,
    },
    /// End the cluster of `start`.
    Stop,
    /// Run a command in the cluster of `start`.
    Exec {
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
    /// Run the cluster in the namespaces that are there already.
    #[command(hide = true)]
    Inside {
        #[arg(long)]
        state: PathBuf,
        #[arg(long)]
        scrape_seconds: u64,
        #[arg(trailing_var_arg = true)]
        command: Vec<String>,
    },
}

// One thread: the kernel's "end with the parent" is about the thread that made the child.
#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stderr, reason = "a program's messages")]
async fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Action::Run {
            scrape_seconds,
            command,
        } => run(scrape_seconds, &command).await,
        Action::Start { scrape_seconds } => start(scrape_seconds).await,
        Action::Stop => stop().await,
        Action::Exec { command } => exec(&command),
        Action::Inside {
            state,
            scrape_seconds,
            command,
        } => inside(state, scrape_seconds, &command).await,
    };
    done.unwrap_or_else(|error| {
        eprintln!("local-cluster: {error:#}");
        ExitCode::FAILURE
    })
}

#[expect(clippy::print_stderr, reason = "a program's messages")]
fn say(text: &str) {
    eprintln!("cluster: {text}");
}

async fn run(scrape_seconds: u64, command: &[String]) -> Result<ExitCode> {
    let state = cache_folder()?.join("running").join(std::process::id().to_string());
    remove_abandoned()?;
    fresh(&state)?;
    let lock = File::create(state.join(LOCK))?;
    lock.lock()
        .with_context(|| format!("locking {}", state.join(LOCK).display()))?;
    let mut child = namespaced(&state, scrape_seconds, command)?
        .spawn()
        .context("starting unshare (apt-get install util-linux)")?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let status = tokio::select! {
        status = child.wait() => status?,
        _ = terminate.recv() => ended_by(&mut child, 15).await?,
        _ = interrupt.recv() => ended_by(&mut child, 2).await?,
    };
    if !status.success() && state.join("logs").is_dir() {
        let kept = cache_folder()?.join("last-failure");
        let _absent_the_first_time = fs::remove_dir_all(&kept);
        fs::rename(state.join("logs"), &kept).context("keeping the logs")?;
        say(&format!("the logs of this run are in {}", kept.display()));
    }
    remove(&state).await?;
    drop(lock);
    Ok(exit_code(status))
}

/// Ends everything in the namespaces, and gives the status that a process ended by `signal` has.
async fn ended_by(child: &mut Child, signal: i32) -> Result<ExitStatus> {
    say("ending");
    child.kill().await.context("ending the cluster")?;
    Ok(ExitStatus::from_raw(signal))
}

async fn start(scrape_seconds: u64) -> Result<ExitCode> {
    let state = kept_state()?;
    if running(&state).is_some() {
        bail!("a cluster is running already; end it with: local-cluster stop");
    }
    fresh(&state)?;
    let log = File::create(state.join("local-cluster.log"))?;
    let mut command = namespaced(&state, scrape_seconds, &[])?;
    let command = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(false);
    let mut child = command
        .spawn()
        .context("starting unshare (apt-get install util-linux)")?;
    fs::write(
        state.join("pid"),
        child.id().context("the cluster ended at once")?.to_string(),
    )?;
    let mut shown = 0;
    loop {
        let log = fs::read_to_string(state.join("local-cluster.log")).unwrap_or_default();
        log.lines()
            .skip(shown)
            .filter_map(|line| line.strip_prefix("cluster: "))
            .for_each(say);
        shown = log.lines().count();
        if state.join("cluster.json").is_file() {
            say(&format!(
                "it stays until: local-cluster stop; its files are in {}",
                state.display()
            ));
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(status) = child.try_wait()? {
            bail!(
                "the cluster did not start ({status}):\n{}",
                tail(&state.join("local-cluster.log"), 20)
            );
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn stop() -> Result<ExitCode> {
    let state = kept_state()?;
    if let Some(pid) = running(&state) {
        let pid = rustix::process::Pid::from_raw(pid).context("the cluster's process id")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).context("ending the cluster")?;
        say("ended");
    } else {
        say("none is running");
    }
    remove(&state).await?;
    Ok(ExitCode::SUCCESS)
}

fn exec(command: &[String]) -> Result<ExitCode> {
    let state = kept_state()?;
    let Some(unshare) = running(&state) else {
        bail!("no cluster is running; start one with: local-cluster start")
    };
    let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"))?;
    let first = children.split_whitespace().next().context("the cluster is ending")?;
    let mut nsenter = std::process::Command::new("nsenter");
    if !is_root() {
        nsenter.args(["--user", "--preserve-credentials"]);
    }
    nsenter
        .args(["--target", first, "--net", "--pid", "--mount", "--wd=."])
        .arg("--")
        .args(command);
    nsenter.envs(environment(&Facts::read(&state)?)?);
    Err(nsenter.exec()).context("running nsenter (apt-get install util-linux)")
}

/// `unshare … local-cluster inside …`, which ends with this process (not so once `start` lets go of it).
fn namespaced(state: &Path, scrape_seconds: u64, command: &[String]) -> Result<Command> {
    let kinds = ["--net", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let works = |extra: &[&str]| {
        let probe = std::process::Command::new("unshare")
            .args(extra)
            .args(kinds)
            .arg("true")
            .stderr(Stdio::null())
            .status();
        probe.is_ok_and(|status| status.success())
    };
    let extra: &[&str] = if works(&[]) {
        &[]
    } else if works(&["--map-root-user"]) {
        &["--map-root-user"]
    } else {
        bail!(
            "this needs root or user namespaces, and there is neither: run it as root, or allow them with sysctl kernel.unprivileged_userns_clone=1"
        );
    };
    let mut unshare = if command.is_empty() {
        Command::new("unshare")
    } else {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--pdeathsig", "KILL", "unshare"]);
        setpriv
    };
    unshare
        .args(extra)
        .args(kinds)
        .arg("--")
        .arg(env::current_exe()?)
        .arg("inside")
        .arg("--state")
        .arg(state);
    unshare
        .args(["--scrape-seconds", &scrape_seconds.to_string()])
        .kill_on_drop(!command.is_empty());
    if !command.is_empty() {
        unshare.arg("--").args(command);
    }
    Ok(unshare)
}

async fn inside(state: PathBuf, scrape_seconds: u64, command: &[String]) -> Result<ExitCode> {
    let binaries = env::current_exe()?.parent().context("the program's folder")?.to_owned();
    let options = LaunchOptions {
        state,
        scrape_interval: Duration::from_secs(scrape_seconds),
        binaries,
    };
    let mut running: Running = launch(&options, &say).await?;
    let Some((program, arguments)) = command.split_first() else {
        running.watch().await?;
        return Ok(ExitCode::SUCCESS);
    };
    let mut child = Command::new(program)
        .args(arguments)
        .envs(environment(running.cluster.facts())?)
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    let status = tokio::select! {
        status = child.wait() => status?,
        ended = running.watch() => {
            ended?;
            bail!("the cluster ended");
        }
    };
    Ok(exit_code(status))
}

fn fresh(state: &Path) -> Result<()> {
    let _absent_mostly = fs::remove_dir_all(state);
    fs::create_dir_all(state).with_context(|| format!("making {}", state.display()))
}

/// Removes the state folders of runs whose program was killed before it could: their locks are free.
fn remove_abandoned() -> Result<()> {
    let Ok(folders) = fs::read_dir(cache_folder()?.join("running")) else {
        return Ok(());
    };
    for folder in folders.flatten() {
        let Ok(lock) = File::open(folder.path().join(LOCK)) else {
            continue;
        };
        if lock.try_lock().is_ok() {
            fs::remove_dir_all(folder.path()).with_context(|| format!("removing {}", folder.path().display()))?;
        }
    }
    Ok(())
}

/// Removes a state folder. What was killed may still write into it for a moment, so this tries for five seconds.
async fn remove(state: &Path) -> Result<()> {
    for _ in 0..50 {
        if fs::remove_dir_all(state).is_ok() || !state.exists() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    fs::remove_dir_all(state).with_context(|| format!("removing {}", state.display()))
}

fn kept_state() -> Result<PathBuf> {
    Ok(cache_folder()?.join("running").join("kept"))
}

/// The process id of the kept cluster's `unshare`, if it still runs.
fn running(state: &Path) -> Option<i32> {
    let pid = fs::read_to_string(state.join("pid")).ok()?;
    let command = fs::read(format!("/proc/{}/cmdline", pid.trim())).ok()?;
    String::from_utf8_lossy(&command).contains("unshare").then_some(())?;
    pid.trim().parse().ok()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

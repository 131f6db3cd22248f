//! Runs a pod's process, again and again with a growing pause as the kubelet does, asks its readiness and reports its state.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::settings::{Readiness, Settings};
use crate::cluster::process::{append_to, terminate};

/// What the pod's status says of its container.
#[derive(Debug, Clone, Default)]
pub(super) struct Report {
    pub(super) state: Value,
    pub(super) last: Value,
    pub(super) restarts: i32,
    pub(super) ready: bool,
    pub(super) running: bool,
}

impl Report {
    /// Not started, for a reason that the kubelet would give.
    pub(super) fn waiting(reason: &str, message: &str) -> Self {
        Self {
            state: json!({"waiting": {"reason": reason, "message": message}}),
            last: json!({}),
            ..Self::default()
        }
    }

    /// Ready since it was started, and never anything else.
    pub(super) fn doing_nothing(started: &str) -> Self {
        Self {
            state: json!({"running": {"startedAt": started}}),
            last: json!({}),
            restarts: 0,
            ready: true,
            running: true,
        }
    }
}

/// Everything the container's task needs.
pub(super) struct ContainerTask {
    pub(super) shared: Arc<Shared>,
    pub(super) settings: Settings,
    /// `token`, `ca.crt` and `namespace`, shown to the process at the usual path.
    pub(super) account_files: Option<PathBuf>,
    pub(super) log: PathBuf,
    /// Cancelled, it asks the process to end, and the task ends with it. A dropped task kills the process.
    pub(super) stopping: CancellationToken,
    pub(super) reports: watch::Sender<Report>,
}

/// The pause after the second failure; doubled each time. The kubelet's are 10 s and 5 min.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How often readiness is asked that has not passed yet, whatever its period says: tests wait for readiness all the time.
const EAGER: Duration = Duration::from_millis(200);
/// Lays the ServiceAccount's files over the private mount namespace's /run and becomes the process.
const WITH_ACCOUNT: &str = "set -e; run=$(readlink -f /var/run); mount -t tmpfs -o mode=755 tmpfs \"$run\"; \
    folder=$run/secrets/kubernetes.io/serviceaccount; mkdir -p \"$folder\"; cp \"$0\"/* \"$folder\"; exec \"$@\"";

impl ContainerTask {
    /// Runs until the pod ends.
    pub(super) async fn run(self) {
        let mut pause = Duration::ZERO;
        loop {
            let since = Timestamp::now();
            let code = match self.start() {
                Ok(child) => {
                    self.reports.send_modify(|report| {
                        report.state = json!({"running": {"startedAt": seconds(since)}});
                        report.running = true;
                    });
                    self.follow(child).await
                }
                Err(error) => {
                    super::log(&format!("{error:#}"));
                    128
                }
            };
            let terminated = json!({"terminated": {
                "exitCode": code,
                "reason": if code == 0 { "Completed" } else { "Error" },
                "startedAt": seconds(since),
                "finishedAt": seconds(Timestamp::now()),
            }});
            self.reports.send_modify(|report| {
                report.ready = false;
                report.running = false;
                report.last = terminated.clone();
                report.state = if pause.is_zero() {
                    terminated
                } else {
                    let message = format!("back-off {} s restarting failed container", pause.as_secs());
                    json!({"waiting": {"reason": "CrashLoopBackOff", "message": message}})
                };
            });
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                () = sleep(pause) => {}
            }
            pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            self.reports.send_modify(|report| report.restarts += 1);
        }
    }

    fn start(&self) -> Result<Child> {
        let Settings {
            program,
            arguments,
            environment,
            ..
        } = &self.settings;
        let log = append_to(&self.log)?;
        let mut command = match &self.account_files {
            None => Command::new(program),
            Some(files) => {
                let mut command = Command::new("unshare");
                let private = ["--mount", "--propagation", "private", "--", "sh", "-c", WITH_ACCOUNT];
                command.args(private).arg(files).arg(program);
                command
            }
        };
        command
            .args(arguments)
            .env_clear()
            .envs(environment)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))
    }

    /// Asks after the process until it ends or is ended; gives its exit code.
    async fn follow(&self, mut child: Child) -> i32 {
        let ended = tokio::select! {
            ended = child.wait() => ended,
            () = self.watch_readiness() => child.wait().await,
            () = self.stopping.cancelled() => {
                terminate(&child);
                child.wait().await
            }
        };
        ended.map_or(128, exit_code)
    }

    /// Keeps `ready` true to the probe; never returns.
    async fn watch_readiness(&self) {
        let Some(readiness) = &self.settings.readiness else {
            self.reports.send_modify(|report| report.ready = true);
            return std::future::pending().await;
        };
        let (mut ready, mut failed) = (false, 0);
        loop {
            let next = Instant::now()
                + if ready {
                    readiness.period
                } else {
                    readiness.period.min(EAGER)
                };
            failed = if self.passes(readiness).await { 0 } else { failed + 1 };
            let now = failed == 0 || ready && failed < readiness.failure_threshold;
            if now != ready {
                ready = now;
                self.reports.send_modify(|report| report.ready = ready);
            }
            sleep_until(next).await;
        }
    }

    async fn passes(&self, readiness: &Readiness) -> bool {
        let answer = self.shared.http.get(&readiness.url).send().await;
        answer.is_ok_and(|answer| answer.status().as_u16() < 400)
    }
}

/// 128 and the signal's number for a process that a signal ended, as shells say it.
fn exit_code(status: ExitStatus) -> i32 {
    let signal = status.signal().map(|signal| 128 + signal);
    status.code().or(signal).unwrap_or(128)
}

/// A time as Kubernetes writes it, in whole seconds.
pub(super) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

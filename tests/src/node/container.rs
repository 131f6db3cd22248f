//! Runs one container's process, again and again with a growing pause as the kubelet does, and reports its state.

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
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::probe::Check;
use super::settings::Settings;
use crate::cluster::process::{append_to, terminate};

/// What the pod's status says of one container.
#[derive(Debug, Clone, Default)]
pub(super) struct Report {
    pub(super) state: Value,
    pub(super) last: Option<Value>,
    pub(super) restarts: i32,
    pub(super) ready: bool,
    pub(super) running: bool,
    /// The exit code, once it ended for good.
    pub(super) ended: Option<i32>,
}

impl Report {
    /// Not started, for a reason that the kubelet would give.
    pub(super) fn waiting(reason: &str, message: &str) -> Self {
        Self {
            state: json!({"waiting": {"reason": reason, "message": message}}),
            ..Self::default()
        }
    }
}

/// How the pod ends: cancelled `stopping` asks the process to end, which it has `grace` for; cancelled `killed` ends it at once.
#[derive(Debug, Clone, Default)]
pub(super) struct Ending {
    pub(super) stopping: CancellationToken,
    pub(super) killed: CancellationToken,
}

/// Whether an ended container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restart {
    Always,
    OnFailure,
    Never,
}

/// Everything one container's task needs.
pub(super) struct ContainerTask {
    pub(super) shared: Arc<Shared>,
    pub(super) index: usize,
    pub(super) settings: Settings,
    /// `token`, `ca.crt` and `namespace`, shown to the process at the usual path.
    pub(super) account_files: Option<PathBuf>,
    pub(super) log: PathBuf,
    pub(super) readiness: Option<Check>,
    pub(super) liveness: Option<Check>,
    pub(super) restart: Restart,
    pub(super) ending: Ending,
    pub(super) reports: watch::Sender<Vec<Report>>,
}

/// The first pause after the second failure in a row; doubled each time. The kubelet's are 10 s and 5 min.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Whoever ran so long starts with the first pause again.
const SOUND: Duration = Duration::from_mins(1);
/// How often a probe is asked that has not passed yet, whatever its period says: tests wait for readiness all the time.
const EAGER: Duration = Duration::from_millis(200);
/// Lays the ServiceAccount's files over the private mount namespace's /run and becomes the process.
const WITH_ACCOUNT: &str = "set -e; run=$(readlink -f /var/run); mount -t tmpfs -o mode=755 tmpfs \"$run\"; \
    folder=$run/secrets/kubernetes.io/serviceaccount; mkdir -p \"$folder\"; cp \"$0\"/* \"$folder\"; exec \"$@\"";

impl ContainerTask {
    /// Runs until the pod ends or the container has ended for good.
    pub(super) async fn run(self) {
        let mut pause = Duration::ZERO;
        loop {
            let started = Instant::now();
            let since = Timestamp::now();
            let code = match self.start() {
                Ok(child) => {
                    self.report(|report| report.state = json!({"running": {"startedAt": seconds(since)}}));
                    self.report(|report| report.running = true);
                    self.follow(child).await
                }
                Err(error) => {
                    super::log(&format!("{error:#}"));
                    128
                }
            };
            let again = match self.restart {
                Restart::Always => true,
                Restart::OnFailure => code != 0,
                Restart::Never => false,
            } && !self.ending.stopping.is_cancelled();
            let terminated = json!({"terminated": {
                "exitCode": code,
                "reason": if code == 0 { "Completed" } else { "Error" },
                "startedAt": seconds(since),
                "finishedAt": seconds(Timestamp::now()),
            }});
            if started.elapsed() > SOUND {
                pause = Duration::ZERO;
            }
            self.report(|report| {
                report.ready = false;
                report.running = false;
                report.last = Some(terminated.clone());
                if !again {
                    report.ended = Some(code);
                }
                report.state = match (again, pause.is_zero()) {
                    (true, false) => json!({"waiting": {
                        "reason": "CrashLoopBackOff",
                        "message": format!("back-off {} s restarting failed container", pause.as_secs()),
                    }}),
                    _ => terminated.clone(),
                };
            });
            if !again {
                return;
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = self.ending.stopping.cancelled() => return,
            }
            pause = if pause.is_zero() {
                FIRST_PAUSE
            } else {
                (pause * 2).min(LONGEST_PAUSE)
            };
            self.report(|report| report.restarts += 1);
        }
    }

    fn start(&self) -> Result<Child> {
        let Settings {
            program,
            arguments,
            environment,
        } = &self.settings;
        let log = append_to(&self.log)?;
        let mut command = match &self.account_files {
            None => Command::new(program),
            Some(files) => {
                let mut command = Command::new("unshare");
                command
                    .args(["--mount", "--propagation", "private", "--", "sh", "-c", WITH_ACCOUNT])
                    .arg(files)
                    .arg(program);
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

    /// Probes the process until it ends or is ended; gives its exit code.
    async fn follow(&self, mut child: Child) -> i32 {
        let ended = tokio::select! {
            ended = child.wait() => ended,
            () = self.probe_readiness() => child.wait().await,
            () = self.probe_liveness() => {
                terminate(&child);
                self.wait_or_kill(&mut child, Duration::from_secs(5)).await
            }
            () = self.ending.stopping.cancelled() => {
                terminate(&child);
                self.wait_or_kill(&mut child, Duration::MAX).await
            }
        };
        ended.map_or(128, exit_code)
    }

    async fn wait_or_kill(&self, child: &mut Child, grace: Duration) -> std::io::Result<ExitStatus> {
        tokio::select! {
            ended = timeout(grace, child.wait()) => if let Ok(ended) = ended { return ended },
            () = self.ending.killed.cancelled() => {}
        }
        child.start_kill()?;
        child.wait().await
    }

    /// Keeps `ready` true to the probe; never returns.
    async fn probe_readiness(&self) {
        let Some(check) = &self.readiness else {
            self.report(|report| report.ready = true);
            return std::future::pending().await;
        };
        sleep(check.initial_delay).await;
        let (mut ready, mut passed, mut failed) = (false, 0, 0);
        loop {
            let next = Instant::now() + if ready { check.period } else { check.period.min(EAGER) };
            if check.passes(&self.shared.http).await {
                (passed, failed) = (passed + 1, 0);
            } else {
                (passed, failed) = (0, failed + 1);
            }
            let now = if ready {
                failed < check.failure_threshold
            } else {
                passed >= check.success_threshold
            };
            if now != ready {
                ready = now;
                self.report(|report| report.ready = ready);
            }
            sleep_until(next).await;
        }
    }

    /// Returns when the probe has failed often enough; never where there is none.
    async fn probe_liveness(&self) {
        let Some(check) = &self.liveness else {
            return std::future::pending().await;
        };
        sleep(check.initial_delay).await;
        let mut failed = 0;
        while failed < check.failure_threshold {
            let next = Instant::now() + check.period;
            failed = if check.passes(&self.shared.http).await {
                0
            } else {
                failed + 1
            };
            sleep_until(next).await;
        }
    }

    fn report(&self, change: impl FnOnce(&mut Report)) {
        self.reports.send_modify(|reports| {
            if let Some(report) = reports.get_mut(self.index) {
                change(report);
            }
        });
    }
}

/// 128 and the signal's number for a process that a signal ended, as shells say it.
fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(128)
}

/// A time as Kubernetes writes it, in whole seconds.
pub(super) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

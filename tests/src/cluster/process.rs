//! One program of the cluster as a child process: started with its output in a log file, watched, ended by its own process id.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::until::{Seen, until};

/// A running program. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `program` with its standard output and error appended to `<logs>/<name>.log`.
    pub fn start<S: AsRef<OsStr>>(
        name: &str,
        logs: &Path,
        program: &Path,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let file = append_to(&log)?;
        let child = Command::new(program)
            .args(arguments)
            .current_dir(logs)
            // Most of these are Go programs with little to keep and two cores for all of them: their collector may run a quarter as often.
            .env("GOGC", "400")
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("duplicating the log file's handle")?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        Ok(Self {
            name: name.to_owned(),
            log,
            child,
        })
    }

    /// The process id, as long as the program has not been waited for.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Errors with the end of the log when the program has ended.
    pub fn check(&mut self) -> Result<()> {
        match self
            .child
            .try_wait()
            .with_context(|| format!("asking after {}", self.name))?
        {
            None => Ok(()),
            Some(status) => bail!(
                "{} ended ({status}); the end of {}:\n{}",
                self.name,
                self.log.display(),
                tail(&self.log, 15)
            ),
        }
    }

    /// Waits until the program ends by itself.
    pub async fn ended(&mut self) -> Result<std::process::ExitStatus> {
        self.child
            .wait()
            .await
            .with_context(|| format!("waiting for {}", self.name))
    }

    /// SIGKILL. Returns when the process is gone.
    pub async fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .await
            .with_context(|| format!("killing {}", self.name))
    }

    /// SIGTERM, then SIGKILL after `grace`. Returns when the process is gone.
    pub async fn stop(&mut self, grace: Duration) -> Result<()> {
        terminate(&self.child);
        if timeout(grace, self.child.wait()).await.is_err() {
            self.kill().await?;
        }
        Ok(())
    }
}

/// Sends SIGTERM to a child that has not been waited for; a child that is gone already is left alone.
pub(crate) fn terminate(child: &Child) {
    let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) else {
        return;
    };
    // The only failure for a child of our own is that it is gone already.
    let _gone_already = kill_process(id, Signal::TERM);
}

/// Opens a log file for appending, with its folder.
pub(crate) fn append_to(log: &Path) -> Result<File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("opening {}", log.display()))
}

/// The last `lines` lines of a file, or why it cannot be read.
pub fn tail(file: &Path, lines: usize) -> String {
    let text = match fs::read(file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("{}: {error}", file.display()),
    };
    let all: Vec<&str> = text.lines().collect();
    all.iter()
        .skip(all.len().saturating_sub(lines))
        .copied()
        .collect::<Vec<_>>()
        .join("\n")
}

/// Waits until these programs run and their address answers 200.
pub(super) async fn answers(what: &str, url: &str, programs: &mut [&mut Process]) -> Result<()> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(2))
        .build()?;
    until(
        &format!("{what} to answer on {url}"),
        Duration::from_mins(1),
        async || {
            for program in programs.iter_mut() {
                if let Err(ended) = program.check() {
                    return Ok(Seen::Never(ended));
                }
            }
            client.get(url).send().await?.error_for_status()?;
            Ok(Seen::Done(()))
        },
    )
    .await
}

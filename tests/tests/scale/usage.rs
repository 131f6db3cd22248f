//! What a process has used so far, and what a server says of itself, read outside of what is measured.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use stepgate_tests::cluster::Prometheus;

/// The kernel's unit of CPU time in /proc: `USER_HZ`, 100 a second on all that Rust runs on.
const TICKS_A_SECOND: f64 = 100.0;

/// What was used up to a moment.
#[derive(Debug, Clone)]
pub(crate) struct Usage {
    at: Instant,
    /// CPU seconds of the operator, in user and kernel.
    cpu: f64,
    /// Passes over a Rollout.
    passes: f64,
    /// Requests to the API of Prometheus.
    queries: f64,
}

/// What was used between two moments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    pub(crate) seconds: f64,
    /// Of one core, in percent.
    pub(crate) cpu_percent: f64,
    /// Each a second.
    pub(crate) passes: f64,
    pub(crate) queries: f64,
}

impl Usage {
    /// As it is now. `operator` is a process id, `page` the address of its metrics.
    pub(crate) async fn now(operator: u32, page: &str, prometheus: &Prometheus) -> Result<Self> {
        let source = format!("{}/metrics", prometheus.url());
        let queries = counted(&source, "prometheus_http_requests_total", "handler=\"/api/");
        Ok(Self {
            passes: counted(page, "stepgate_reconcile_total", "").await?,
            queries: queries.await?,
            cpu: cpu_seconds(operator)?,
            at: Instant::now(),
        })
    }

    /// What was used since an earlier moment.
    pub(crate) fn since(&self, earlier: &Self) -> Used {
        let seconds = self.at.duration_since(earlier.at).as_secs_f64();
        Used {
            seconds,
            cpu_percent: 100.0 * (self.cpu - earlier.cpu) / seconds,
            passes: (self.passes - earlier.passes) / seconds,
            queries: (self.queries - earlier.queries) / seconds,
        }
    }
}

/// utime and stime of a process.
fn cpu_seconds(process: u32) -> Result<f64> {
    let file = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
    // The name, in parentheses, may have spaces in it.
    let (_, fields) = text.rsplit_once(')').with_context(|| format!("{file}: {text}"))?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |index: usize| -> Result<f64> {
        let field = fields.get(index).with_context(|| format!("{file}: {text}"))?;
        field.parse().with_context(|| format!("{file}: {text}"))
    };
    Ok((ticks(11)? + ticks(12)?) / TICKS_A_SECOND)
}

/// Resident memory of a process, in MiB.
pub(crate) fn resident(process: u32) -> Result<f64> {
    let file = format!("/proc/{process}/status");
    let text = fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line
        .and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok())
        .with_context(|| format!("{file} has no VmRSS"))?;
    Ok(kib / 1_024.0)
}

/// The sum of the samples of this name on a page of metrics whose line has this text in it.
async fn counted(page: &str, name: &str, text: &str) -> Result<f64> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(10))
        .build()?;
    let all = client.get(page).send().await?.error_for_status()?.text().await?;
    let lines = all.lines().filter(|line| line.starts_with(name) && line.contains(text));
    let mut sum = 0.0;
    for line in lines {
        let value = line.rsplit(' ').next().unwrap_or_default();
        sum += value.parse::<f64>().with_context(|| format!("{page}: {line}"))?;
    }
    Ok(sum)
}

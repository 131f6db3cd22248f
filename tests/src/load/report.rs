//! What the load generator saw: counts by version and status, failures by kind, latencies, second by second.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// How many failures are kept whole; all are counted.
const KEPT: usize = 50;

/// Answers of one version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Answers {
    /// Answers in all.
    pub total: u64,
    /// Of them errors that the application made on purpose (`x-injected`).
    pub injected: u64,
    /// Of them neither 2xx nor 3xx, and not made on purpose.
    pub failed: u64,
}

/// One failure that was not made on purpose.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// When the request was due, from the load's start.
    pub after: Duration,
    /// `HTTP 503`, `timeout`, `no connection`, `connection broke`, `not sent`.
    pub kind: String,
    /// The body's beginning or the error.
    pub detail: String,
}

impl Failure {
    pub(super) fn of(after: Duration, kind: &str, detail: &str) -> Self {
        Self {
            after,
            kind: kind.to_owned(),
            detail: detail.chars().take(200).collect(),
        }
    }
}

/// What was due in one second of the load.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Second {
    /// By version; answers without `x-version` under an empty name.
    pub versions: BTreeMap<String, Answers>,
    /// Failures that were not made on purpose, answers included.
    pub failures: u64,
}

/// How long answers took from when their requests were due, in a histogram with 48 buckets a decade from 0.1 ms.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Latencies {
    buckets: BTreeMap<u32, u64>,
    count: u64,
    /// The longest.
    pub longest: Duration,
}

impl Latencies {
    fn add(&mut self, latency: Duration) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most some hundreds, never below zero"
        )]
        let bucket = ((latency.as_secs_f64() / 1e-4).max(1.0).log10() * 48.0).ceil() as u32;
        *self.buckets.entry(bucket).or_default() += 1;
        self.count += 1;
        self.longest = self.longest.max(latency);
    }

    /// The upper bound of the bucket that holds this share (0 to 1) of the answers; at most 5 % above the true value.
    pub fn quantile(&self, share: f64) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
        let wanted = self.count as f64 * share.clamp(0.0, 1.0);
        let mut seen = 0;
        for (bucket, count) in &self.buckets {
            seen += count;
            #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
            if seen as f64 >= wanted {
                return Duration::from_secs_f64(1e-4 * 10_f64.powf(f64::from(*bucket) / 48.0)).min(self.longest);
            }
        }
        self.longest
    }
}

/// Everything a load saw.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Requests that have an outcome.
    pub requests: u64,
    /// Answers by version; those without `x-version` (the gateway's own) under an empty name.
    pub versions: BTreeMap<String, Answers>,
    /// Answers by status code.
    pub statuses: BTreeMap<u16, u64>,
    /// Failures that were not made on purpose, by kind.
    pub failures: BTreeMap<String, u64>,
    /// The first of them, whole.
    pub samples: Vec<Failure>,
    /// By the second in which requests were due.
    pub seconds: Vec<Second>,
    /// Of answers of any status.
    pub latencies: Latencies,
}

impl Report {
    /// Failures for any other reason than the application's injected errors.
    pub fn other_failures(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Errors that the application made on purpose.
    pub fn injected(&self) -> u64 {
        self.versions.values().map(|answers| answers.injected).sum()
    }

    /// The counts of one version; zero for one that never answered.
    pub fn version(&self, version: &str) -> Answers {
        self.versions.get(version).copied().unwrap_or_default()
    }

    /// Counts by version in the last `seconds` whole seconds, the newest two left out as answers may be due: the measured weight.
    pub fn recent(&self, seconds: usize) -> BTreeMap<String, Answers> {
        let mut recent: BTreeMap<String, Answers> = BTreeMap::new();
        for second in self.seconds.iter().rev().skip(2).take(seconds) {
            for (version, answers) in &second.versions {
                let sum = recent.entry(version.clone()).or_default();
                sum.total += answers.total;
                sum.injected += answers.injected;
                sum.failed += answers.failed;
            }
        }
        recent
    }

    pub(super) fn answer(
        &mut self,
        after: Duration,
        latency: Duration,
        status: u16,
        version: Option<&str>,
        injected: bool,
        body: &str,
    ) {
        let failed = !(200..400).contains(&status) && !injected;
        *self.statuses.entry(status).or_default() += 1;
        self.latencies.add(latency);
        let version = version.unwrap_or_default();
        let second = self.second(after).versions.entry(version.to_owned()).or_default();
        count(second, injected, failed);
        count(self.versions.entry(version.to_owned()).or_default(), injected, failed);
        if failed {
            self.fail(Failure::of(after, &format!("HTTP {status}"), body));
        } else {
            self.requests += 1;
        }
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        self.requests += 1;
        self.second(failure.after).failures += 1;
        *self.failures.entry(failure.kind.clone()).or_default() += 1;
        if self.samples.len() < KEPT {
            self.samples.push(failure);
        }
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the vector was made long enough on the line before"
    )]
    fn second(&mut self, after: Duration) -> &mut Second {
        let number = usize::try_from(after.as_secs()).unwrap_or_default();
        self.seconds
            .resize(self.seconds.len().max(number + 1), Second::default());
        &mut self.seconds[number]
    }
}

fn count(answers: &mut Answers, injected: bool, failed: bool) {
    answers.total += 1;
    answers.injected += u64::from(injected);
    answers.failed += u64::from(failed);
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{} requests in {} s", self.requests, self.seconds.len())?;
        for (version, answers) in &self.versions {
            let name = if version.is_empty() {
                "(no version: the gateway's own answers)"
            } else {
                version
            };
            writeln!(
                out,
                "  {name}: {} answers, {} injected errors, {} other failures",
                answers.total, answers.injected, answers.failed
            )?;
        }
        let quantile = |share| self.latencies.quantile(share).as_secs_f64() * 1e3;
        let longest = self.latencies.longest.as_secs_f64() * 1e3;
        writeln!(
            out,
            "  latency: median {:.1} ms, 99 % {:.1} ms, longest {longest:.1} ms",
            quantile(0.5),
            quantile(0.99)
        )?;
        writeln!(out, "  failures not made on purpose: {}", self.other_failures())?;
        for (kind, number) in &self.failures {
            writeln!(out, "    {kind}: {number}")?;
        }
        for sample in self.samples.iter().take(10) {
            writeln!(
                out,
                "    at {:.1} s: {}: {}",
                sample.after.as_secs_f64(),
                sample.kind,
                sample.detail
            )?;
        }
        Ok(())
    }
}

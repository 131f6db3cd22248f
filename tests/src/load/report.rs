//! What the load generator saw: counts by version and status, failures by kind, latencies, second by second.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
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
    /// Of them neither 2xx nor 3xx, and not made on purpose; those over capacity among them.
    pub failed: u64,
    /// Of them refused by a pod that had more than it carries (`x-demo: over-capacity`).
    pub over_capacity: u64,
}

/// One answer as it came.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    /// `x-version`; none for the gateway's own answers.
    pub(super) version: Option<&'a str>,
    pub(super) injected: bool,
    pub(super) over_capacity: bool,
    pub(super) body: &'a str,
}

impl Answer<'_> {
    /// What kind of failure it is, as [`Failure::kind`] says it; none where it is none, or was made on purpose.
    ///
    /// Envoy says in the body of its own 503 what became of the request; the texts are those of its response flags UH, UF and UC.
    fn failure(&self) -> Option<String> {
        let Self { status, body, .. } = self;
        if (200..400).contains(status) || self.injected {
            return None;
        }
        Some(match self.version {
            Some(_) if self.over_capacity => OVER_CAPACITY.to_owned(),
            Some(_) => format!("HTTP {status}"),
            None if body.contains("no healthy upstream") => "gateway: no pod".to_owned(),
            None if body.contains("connect failure") || body.contains("connection failure") => {
                "gateway: connect failure".to_owned()
            }
            None if body.contains("connection termination") || body.contains("disconnect/reset") => {
                "gateway: connection broke".to_owned()
            }
            None => format!("gateway: HTTP {status}"),
        })
    }
}

/// The kind of a failure that a pod answered because it had more requests than it carries.
pub const OVER_CAPACITY: &str = "over capacity";
/// What the kinds of failures begin with that the gateway answered itself.
pub const GATEWAY: &str = "gateway: ";

/// One failure that was not made on purpose.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// When the request was due, from the load's start.
    pub after: Duration,
    /// Answered by the application: `HTTP 503`, `over capacity`. By the gateway: `gateway: no pod` (no endpoint), `gateway: connect
    /// failure`, `gateway: connection broke` (under way to a pod), `gateway: HTTP 404`. By nobody: `timeout`, `no connection`,
    /// `connection broke`, `not sent`.
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
    /// When the load began.
    pub begun: Option<Timestamp>,
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
    /// When every one of them was due, from the load's start, and its kind.
    pub failed_at: Vec<(Duration, String)>,
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
                sum.over_capacity += answers.over_capacity;
            }
        }
        recent
    }

    pub(super) fn answer(&mut self, after: Duration, latency: Duration, answer: &Answer<'_>) {
        *self.statuses.entry(answer.status).or_default() += 1;
        self.latencies.add(latency);
        let failure = answer.failure();
        let version = answer.version.unwrap_or_default();
        let second = self.second(after).versions.entry(version.to_owned()).or_default();
        count(second, answer, failure.is_some());
        count(
            self.versions.entry(version.to_owned()).or_default(),
            answer,
            failure.is_some(),
        );
        match failure {
            Some(kind) => self.fail(Failure::of(after, &kind, answer.body)),
            None => self.requests += 1,
        }
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        self.requests += 1;
        self.second(failure.after).failures += 1;
        *self.failures.entry(failure.kind.clone()).or_default() += 1;
        self.failed_at.push((failure.after, failure.kind.clone()));
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

fn count(answers: &mut Answers, answer: &Answer<'_>, failed: bool) {
    answers.total += 1;
    answers.injected += u64::from(answer.injected);
    answers.failed += u64::from(failed);
    answers.over_capacity += u64::from(answer.over_capacity);
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
                "  {name}: {} answers, {} injected errors, {} over capacity, {} failures in all",
                answers.total, answers.injected, answers.over_capacity, answers.failed
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

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: u16, version: Option<&str>, over_capacity: bool, body: &str) -> Option<String> {
        let answer = Answer {
            status,
            version,
            injected: false,
            over_capacity,
            body,
        };
        answer.failure()
    }

    #[test]
    fn failures_are_told_apart_by_who_answered_and_why() {
        assert_eq!(kind(200, Some("v1"), false, ""), None);
        assert_eq!(kind(503, Some("v1"), true, "").as_deref(), Some("over capacity"));
        assert_eq!(kind(500, Some("v1"), false, "").as_deref(), Some("HTTP 500"));
        assert_eq!(
            kind(503, None, false, "no healthy upstream").as_deref(),
            Some("gateway: no pod")
        );
        let broke = "upstream connect error or disconnect/reset before headers. reset reason: connection termination";
        assert_eq!(
            kind(503, None, false, broke).as_deref(),
            Some("gateway: connection broke")
        );
        let refused = "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, \
                       transport failure reason: delayed connect error: 111";
        assert_eq!(
            kind(503, None, false, refused).as_deref(),
            Some("gateway: connect failure")
        );
        assert_eq!(kind(404, None, false, "").as_deref(), Some("gateway: HTTP 404"));
    }

    #[test]
    fn errors_made_on_purpose_and_over_capacity_are_counted_apart() {
        let mut report = Report::default();
        let answer = |injected, over_capacity, status| Answer {
            status,
            version: Some("v2"),
            injected,
            over_capacity,
            body: "",
        };
        for answer in [
            answer(false, false, 200),
            answer(true, false, 500),
            answer(false, true, 503),
        ] {
            report.answer(Duration::ZERO, Duration::ZERO, &answer);
        }
        let seen = report.version("v2");
        assert_eq!(
            (seen.total, seen.injected, seen.over_capacity, seen.failed),
            (3, 1, 1, 1)
        );
        assert_eq!((report.requests, report.other_failures()), (3, 1));
    }
}

//! The metrics source: one Prometheus-compatible HTTP API that the administrator has named, asked for counts on the common grid.
//!
//! It may talk to that one URL and nothing else: no redirect is followed, no proxy taken from the environment, no more than a fixed number of
//! bytes and seconds spent on a reply. What a reply says is read strictly ([`reply`]); a number that is not a count spoils its own interval
//! and no other. Neither the URL's credentials nor a reply's body get into errors, logs or status.

mod breaker;
mod client;
mod error;
pub mod file;
pub mod reply;
pub mod sampler;
mod spec;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::provider::{QUESTION_LABEL, Query, Slow};
use client::Connection;
use reply::{Sample, Second};
use reqwest::{Response, StatusCode, Url};
use stepgate_core::verdict::dispersion::Pods;
use stepgate_crds::units::Span;

pub use error::{ErrorClass, SourceError};
pub use spec::{ClientCertificate, Credentials, SourceSpec, SpecError, TENANT_LABEL};

/// The most that a rejected query's own message may add to an error, in characters.
const MESSAGE_LIMIT: usize = 200;

/// Bounds on one query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceLimits {
    /// For the whole of a query, from connecting to the last byte.
    pub timeout: Duration,
    /// Bytes of a reply's body.
    pub body: usize,
}

impl Default for SourceLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            body: 1 << 20,
        }
    }
}

/// One metrics source. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MetricsSource {
    name: String,
    url: Url,
    scrape: Option<Span>,
    tenant_label: Option<String>,
    limits: SourceLimits,
    connection: Connection,
}

impl MetricsSource {
    /// A client for that source alone. Reads its files and connects to nothing yet.
    pub fn new(spec: &SourceSpec, limits: SourceLimits) -> Result<Self, SourceError> {
        if spec.credentials.are_shown() && spec.url.scheme() == "http" {
            tracing::warn!(source = %spec.name, "its token goes over the network unencrypted: its url begins with http://");
        }
        Ok(Self {
            name: spec.name.clone(),
            url: spec.url.clone(),
            scrape: spec.scrape,
            tenant_label: spec.tenant_label.clone(),
            limits,
            connection: Connection::new(spec, limits)?,
        })
    }

    /// The name by which Rollouts refer to it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How often it scrapes, where that is known.
    pub fn scrape(&self) -> Option<Span> {
        self.scrape
    }

    /// By which label it tells namespaces apart; none where users' own queries may read all that it has.
    pub fn tenant_label(&self) -> Option<&str> {
        self.tenant_label.as_deref()
    }

    /// The longest that a question takes.
    pub fn timeout(&self) -> Duration {
        self.limits.timeout
    }

    /// The counts of the intervals that end at `ends` (unix seconds on the grid of `step` seconds, ascending), in that order: one instant
    /// query for one interval, one range query over all of them for more. Each interval has its own result.
    pub async fn window(&self, query: &Query, ends: &[i64], step: u32) -> Result<Vec<(i64, Sample)>, SourceError> {
        match ends {
            [] => Ok(Vec::new()),
            [end] => {
                let samples = self.together(&[query], *end).await?;
                Ok(samples.into_iter().map(|sample| (*end, sample)).collect())
            }
            [first, .., last] => {
                let (start, end, step) = (first.to_string(), last.to_string(), step.to_string());
                let parameters = [
                    ("query", query.as_str()),
                    ("start", &start),
                    ("end", &end),
                    ("step", &step),
                ];
                let data = self.ask("query_range", &parameters).await?;
                Ok(reply::range(&data, ends, second(query)))
            }
        }
    }

    /// The counts of each query for the interval that ends at `end` (unix seconds), in their order, by one instant query for all of them: a
    /// label tells whose series each one is.
    pub async fn together(&self, queries: &[&Query], end: i64) -> Result<Vec<Sample>, SourceError> {
        let expressions: Vec<&str> = queries.iter().map(|query| query.as_str()).collect();
        let replies = self.each(&expressions, end).await?;
        let sample = |(query, data): (&&Query, reply::Data)| reply::instant(&data, end, second(query));
        Ok(queries.iter().zip(replies).map(sample).collect())
    }

    /// The numbers that each expression gives at a time (unix seconds), by the labels of its series, in their order, by one instant query.
    pub async fn by_labels(
        &self,
        expressions: &[&str],
        time: i64,
    ) -> Result<Vec<Vec<(reply::Labels, f64)>>, SourceError> {
        let replies = self.each(expressions, time).await?;
        let numbers: Option<_> = replies.iter().map(reply::numbers_by_labels).collect();
        numbers.ok_or_else(|| self.malformed("a number of the vector cannot be read"))
    }

    /// The times of the samples (unix seconds, in order) that an expression for a range of them gives at a time, by the labels of its series.
    pub async fn times(&self, expression: &str, time: i64) -> Result<Vec<(reply::Labels, Vec<f64>)>, SourceError> {
        let parameters = [("query", expression), ("time", &time.to_string())];
        let data = self.ask("query", &parameters).await?;
        reply::times_by_labels(&data).ok_or_else(|| self.malformed("the samples of the range cannot be read"))
    }

    /// The reply to each of the expressions at a time, by one instant query for all of them.
    async fn each(&self, expressions: &[&str], time: i64) -> Result<Vec<reply::Data>, SourceError> {
        let together = match expressions {
            [] => return Ok(Vec::new()),
            [expression] => (*expression).to_owned(),
            several => {
                let numbered = several.iter().enumerate().map(|(number, expression)| {
                    format!("label_replace({expression}, \"{QUESTION_LABEL}\", \"{number}\", \"\", \"\")")
                });
                numbered.collect::<Vec<_>>().join("\nor\n")
            }
        };
        let parameters = [("query", together.as_str()), ("time", &time.to_string())];
        Ok(reply::split(self.ask("query", &parameters).await?, expressions.len()))
    }

    /// What stable's pods did in the intervals of `step` seconds that end from `first` to `last` (unix seconds), by
    /// [`crate::provider::Provider::baseline`].
    pub async fn pods(
        &self,
        expression: &str,
        [first, last]: [i64; 2],
        step: u32,
    ) -> Result<Result<Vec<Pods>, reply::DataError>, SourceError> {
        let (start, end, step) = (first.to_string(), last.to_string(), step.to_string());
        let parameters = [("query", expression), ("start", &start), ("end", &end), ("step", &step)];
        let data = self.ask("query_range", &parameters).await?;
        Ok(reply::pods(&data))
    }

    /// The number that an expression gives at each of `ends` (unix seconds on the grid of `step` seconds, ascending), in that order.
    pub async fn numbers(&self, expression: &str, ends: &[i64], step: u32) -> Result<Vec<reply::Number>, SourceError> {
        match ends {
            [] => Ok(Vec::new()),
            [end] => {
                let parameters = [("query", expression), ("time", &end.to_string())];
                let data = self.ask("query", &parameters).await?;
                Ok(vec![reply::number(&data, *end)])
            }
            [first, .., last] => {
                let (start, end, step) = (first.to_string(), last.to_string(), step.to_string());
                let parameters = [("query", expression), ("start", &start), ("end", &end), ("step", &step)];
                let data = self.ask("query_range", &parameters).await?;
                Ok(reply::numbers(&data, ends))
            }
        }
    }

    /// The bucket boundaries that there are at a time, in the histogram's unit.
    pub async fn boundaries(&self, slow: &Slow, time: i64) -> Result<Vec<f64>, SourceError> {
        let data = self
            .ask("query", &[("query", &slow.boundaries), ("time", &time.to_string())])
            .await?;
        reply::boundaries(&data).ok_or_else(|| self.malformed("the boundaries are no vector"))
    }

    /// The source's clock, unix seconds.
    pub async fn clock(&self) -> Result<f64, SourceError> {
        let data = self.ask("query", &[("query", "time()")]).await?;
        reply::scalar(&data).ok_or_else(|| self.malformed("time() gave no number"))
    }

    /// How far the source's clock is ahead of ours, seconds (negative: behind), give or take half of the time that the question took.
    pub async fn skew(&self) -> Result<f64, SourceError> {
        let before = now();
        let theirs = self.clock().await?;
        Ok(theirs - f64::midpoint(before, now()))
    }

    /// Whether the source answers at all and its clock is within `tolerance` seconds of ours: for preflight.
    pub async fn check(&self, tolerance: f64) -> Result<(), SourceError> {
        let skew = self.skew().await?;
        if skew.abs() > tolerance {
            return Err(SourceError::Skew {
                name: self.name.clone(),
                skew,
                limit: tolerance,
            });
        }
        Ok(())
    }

    async fn ask(&self, endpoint: &str, parameters: &[(&str, &str)]) -> Result<reply::Data, SourceError> {
        // The client's own limit covers connecting and the body too; this one does not depend on how it is implemented.
        tokio::time::timeout(self.limits.timeout, self.exchange(endpoint, parameters))
            .await
            .unwrap_or_else(|_| Err(self.timed_out(self.limits.timeout)))
    }

    async fn exchange(&self, endpoint: &str, parameters: &[(&str, &str)]) -> Result<reply::Data, SourceError> {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/api/v1/{endpoint}", self.url.path().trim_end_matches('/')));
        // In the body, because both arms in one query are longer than some proxies allow an address to be.
        let ready = self.connection.ready().await?;
        let response = ready
            .client
            .post(url)
            .headers(ready.headers)
            .form(parameters)
            .send()
            .await
            .map_err(|error| self.sending(error))?;
        let status = response.status();
        if status.is_redirection() {
            return Err(SourceError::Redirect {
                name: self.name.clone(),
                status: status.as_u16(),
            });
        }
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            self.connection.distrust();
            return Err(SourceError::Unauthorized {
                name: self.name.clone(),
                status: status.as_u16(),
            });
        }
        let body = self.body(response).await?;
        let parsed = reply::parse(&body);
        match parsed {
            Ok(data) if status.is_success() => Ok(data),
            Err(reply::Refusal::Error { kind, message }) => Err(SourceError::Rejected {
                name: self.name.clone(),
                kind: shorten(&kind),
                message: shorten(&message),
            }),
            Err(reply::Refusal::Malformed(what)) if status.is_success() => Err(self.malformed(what)),
            _ => Err(SourceError::Status {
                name: self.name.clone(),
                status: status.as_u16(),
            }),
        }
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, SourceError> {
        let too_large = || SourceError::TooLarge {
            name: self.name.clone(),
            limit: self.limits.body,
        };
        if response
            .content_length()
            .is_some_and(|length| length > self.limits.body as u64)
        {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.sending(error))? {
            if body.len() + chunk.len() > self.limits.body {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn sending(&self, error: reqwest::Error) -> SourceError {
        let name = self.name.clone();
        if error.is_timeout() {
            self.timed_out(self.limits.timeout)
        } else if error.is_connect() {
            let host = self.url.host_str().unwrap_or_default();
            let address = self
                .url
                .port_or_known_default()
                .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
            SourceError::Connect {
                name,
                address,
                source: error.without_url(),
            }
        } else {
            SourceError::Broken {
                name,
                source: error.without_url(),
            }
        }
    }

    fn timed_out(&self, within: Duration) -> SourceError {
        SourceError::Timeout {
            name: self.name.clone(),
            seconds: within.as_secs_f64(),
        }
    }

    fn malformed(&self, what: &'static str) -> SourceError {
        SourceError::Malformed {
            name: self.name.clone(),
            what,
        }
    }
}

/// What the second count of this query's versions is.
fn second(query: &Query) -> Second {
    if query.slow().is_some() {
        Second::Within
    } else {
        Second::Bad
    }
}

/// Our clock, unix seconds.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// One line, at most [`MESSAGE_LIMIT`] characters, no control characters: it goes into status and logs.
fn shorten(text: &str) -> String {
    let mut short: String = text
        .chars()
        .take(MESSAGE_LIMIT)
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect();
    if text.chars().nth(MESSAGE_LIMIT).is_some() {
        short.push('…');
    }
    short
}

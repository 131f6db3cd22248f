//! The metrics source: one Prometheus-compatible HTTP API that the administrator has named, asked for counts on the common grid.
//!
//! It may talk to that one URL and nothing else: no redirect is followed, no proxy taken from the environment, no more than a fixed number of
//! bytes and seconds spent on a reply. What a reply says is read strictly ([`reply`]); a number that is not a count spoils its own interval
//! and no other. Neither the URL's credentials nor a reply's body get into errors, logs or status.

pub mod reply;
pub mod sampler;

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::{Client, Response, StatusCode, Url, redirect};
use thiserror::Error;

use crate::provider::Query;
use reply::Sample;

/// The most that a rejected query's own message may add to an error, in characters.
const MESSAGE_LIMIT: usize = 200;

/// One `--metrics-source name=url`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSpec {
    /// The name by which a Rollout refers to it, a DNS label.
    pub name: String,
    /// The base URL, to which `/api/v1/…` is appended. Without user, password, query and fragment.
    pub url: Url,
}

/// Why a `--metrics-source` is refused. The value itself is not repeated: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SpecError {
    /// No `=`.
    #[error("a metrics source is written name=url, say default=http://prometheus.monitoring:9090")]
    NoName,
    /// The name is no DNS label.
    #[error(
        "a metrics source's name has lower-case letters, digits and dashes only, at most 63 of them, and begins and ends with a letter or digit"
    )]
    BadName,
    /// Not an http or https URL with a host.
    #[error(
        "a metrics source's URL begins with http:// or https:// and has a host, say http://prometheus.monitoring:9090"
    )]
    BadUrl,
    /// `user:password@`.
    #[error(
        "a metrics source's URL has no user and password: they would be seen by everyone who sees the command line"
    )]
    Credentials,
    /// `?` or `#`.
    #[error("a metrics source's URL has no query and no fragment: /api/v1/query is appended to it")]
    Query,
}

impl FromStr for SourceSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (name, url) = text.split_once('=').ok_or(SpecError::NoName)?;
        let plain = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit();
        if name.is_empty()
            || name.len() > 63
            || !name.chars().all(|character| plain(character) || character == '-')
            || !name.starts_with(plain)
            || !name.ends_with(plain)
        {
            return Err(SpecError::BadName);
        }
        let url = Url::parse(url).map_err(|_| SpecError::BadUrl)?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(SpecError::BadUrl);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(SpecError::Credentials);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(SpecError::Query);
        }
        Ok(Self {
            name: name.to_owned(),
            url,
        })
    }
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}={}", self.name, self.url)
    }
}

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

/// Whether asking again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// It may be over in a moment.
    Transient,
    /// The source wants credentials, or others.
    Forbidden,
    /// The query or the address is wrong; the same question gets the same answer.
    Invalid,
}

/// Why a source gave no reply that can be read. Nothing of a body is repeated but a Prometheus' own error message, shortened.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The HTTP client could not be made.
    #[error("metrics source {name}: the HTTP client cannot be set up")]
    Client {
        /// The source.
        name: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// No connection.
    #[error("metrics source {name} cannot be reached at {address}; check --metrics-source and that Prometheus runs")]
    Connect {
        /// The source.
        name: String,
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The connection broke, or what came was not HTTP.
    #[error("metrics source {name} broke off its reply")]
    Broken {
        /// The source.
        name: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// Not done in time.
    #[error("metrics source {name} did not answer a query within {seconds} s")]
    Timeout {
        /// The source.
        name: String,
        /// The limit.
        seconds: f64,
    },
    /// A redirect, which is not followed.
    #[error(
        "metrics source {name} redirects to another address (HTTP {status}); name that address in --metrics-source"
    )]
    Redirect {
        /// The source.
        name: String,
        /// HTTP status.
        status: u16,
    },
    /// HTTP 401 or 403.
    #[error("metrics source {name} refuses the query (HTTP {status}); it has to answer Stepgate without credentials")]
    Unauthorized {
        /// The source.
        name: String,
        /// HTTP status.
        status: u16,
    },
    /// Any other HTTP error without a Prometheus error in it.
    #[error("metrics source {name} answers with HTTP {status}")]
    Status {
        /// The source.
        name: String,
        /// HTTP status.
        status: u16,
    },
    /// Prometheus says what is wrong with the query.
    #[error("metrics source {name} cannot evaluate the query: {kind}: {message}")]
    Rejected {
        /// The source.
        name: String,
        /// Prometheus' errorType.
        kind: String,
        /// Prometheus' error, shortened.
        message: String,
    },
    /// More bytes than the cap.
    #[error("metrics source {name} sent more than {limit} bytes for one query; is this a Prometheus?")]
    TooLarge {
        /// The source.
        name: String,
        /// The cap.
        limit: usize,
    },
    /// Not JSON, or not Prometheus' JSON.
    #[error("metrics source {name} sent a reply that is not a Prometheus API reply ({what}); is this a Prometheus?")]
    Malformed {
        /// The source.
        name: String,
        /// What is amiss.
        what: &'static str,
    },
    /// Its clock and ours disagree.
    #[error(
        "metrics source {name}: its clock is {skew:+.1} s from this one, more than the {limit} s of one scrape; set the clocks right"
    )]
    Skew {
        /// The source.
        name: String,
        /// Source minus ours, seconds.
        skew: f64,
        /// The limit, seconds.
        limit: f64,
    },
    /// No source of that name.
    #[error(
        "no metrics source is named {name}; there are: {known}. Name one of them in spec.analysis.source, or add --metrics-source {name}=URL"
    )]
    Unknown {
        /// The name.
        name: String,
        /// Those that exist.
        known: String,
    },
}

impl SourceError {
    /// Whether asking again can help.
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Connect { .. }
            | Self::Broken { .. }
            | Self::Timeout { .. }
            | Self::Status { .. }
            | Self::Malformed { .. }
            | Self::Skew { .. } => ErrorClass::Transient,
            Self::Unauthorized { .. } => ErrorClass::Forbidden,
            Self::Client { .. }
            | Self::Redirect { .. }
            | Self::Rejected { .. }
            | Self::TooLarge { .. }
            | Self::Unknown { .. } => ErrorClass::Invalid,
        }
    }

    /// A constant word for metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Client { .. } => "client",
            Self::Connect { .. } => "connect",
            Self::Broken { .. } => "broken",
            Self::Timeout { .. } => "timeout",
            Self::Redirect { .. } => "redirect",
            Self::Unauthorized { .. } => "unauthorized",
            Self::Status { .. } => "status",
            Self::Rejected { .. } => "rejected",
            Self::TooLarge { .. } => "too_large",
            Self::Malformed { .. } => "malformed",
            Self::Skew { .. } => "skew",
            Self::Unknown { .. } => "unknown",
        }
    }
}

/// One metrics source. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MetricsSource {
    name: String,
    url: Url,
    limits: SourceLimits,
    client: Client,
}

impl MetricsSource {
    /// A client for that source alone; connects to nothing yet.
    pub fn new(spec: &SourceSpec, limits: SourceLimits) -> Result<Self, SourceError> {
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(limits.timeout)
            .connect_timeout(limits.timeout)
            .user_agent(concat!("stepgate/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|source| SourceError::Client {
                name: spec.name.clone(),
                source,
            })?;
        Ok(Self {
            name: spec.name.clone(),
            url: spec.url.clone(),
            limits,
            client,
        })
    }

    /// The name by which Rollouts refer to it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The counts of the intervals that end at `ends` (unix seconds on the grid of `step` seconds, ascending), in that order: one instant
    /// query for one interval, one range query over all of them for more. Each interval has its own result.
    pub async fn window(&self, query: &Query, ends: &[i64], step: u32) -> Result<Vec<(i64, Sample)>, SourceError> {
        match ends {
            [] => Ok(Vec::new()),
            [end] => {
                let data = self
                    .ask("query", &[("query", query.as_str()), ("time", &end.to_string())])
                    .await?;
                Ok(vec![(*end, reply::instant(&data, *end))])
            }
            [first, .., last] => {
                let (start, end, step) = (first.to_string(), last.to_string(), step.to_string());
                let parameters = [
                    ("query", query.as_str()),
                    ("start", &start),
                    ("end", &end),
                    ("step", &step),
                ];
                Ok(reply::range(&self.ask("query_range", &parameters).await?, ends))
            }
        }
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
            .unwrap_or_else(|_| Err(self.timed_out()))
    }

    async fn exchange(&self, endpoint: &str, parameters: &[(&str, &str)]) -> Result<reply::Data, SourceError> {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/api/v1/{endpoint}", self.url.path().trim_end_matches('/')));
        // In the body, because both arms in one query are longer than some proxies allow an address to be.
        let response = self
            .client
            .post(url)
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
            self.timed_out()
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

    fn timed_out(&self) -> SourceError {
        SourceError::Timeout {
            name: self.name.clone(),
            seconds: self.limits.timeout.as_secs_f64(),
        }
    }

    fn malformed(&self, what: &'static str) -> SourceError {
        SourceError::Malformed {
            name: self.name.clone(),
            what,
        }
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

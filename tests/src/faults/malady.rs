//! What can be wrong with a metrics source's replies, and how a good reply becomes such a bad one.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};
use tokio::time::sleep;

/// How far its clock is off, in seconds.
const SKEW: f64 = 3_600.0;
/// The size of a reply without an end.
const HUGE: usize = 100 << 20;

/// One thing that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Malady {
    /// HTTP 503.
    Down,
    /// HTTP 401.
    Unauthorized,
    /// HTTP 302 to another address.
    Redirect,
    /// No series.
    Empty,
    /// Each value is NaN.
    NotANumber,
    /// Each value is +Inf.
    Infinite,
    /// Each value is negative.
    Negative,
    /// A scalar in place of series.
    Scalar,
    /// A matrix where a vector was asked for, and the other way round.
    OtherType,
    /// Each series twice.
    TwoSeries,
    /// Good values with a warning that some are missing.
    Partial,
    /// Values that are an hour old.
    Old,
    /// An error of the query engine.
    Error,
    /// The first half of the JSON.
    Truncated,
    /// The connection ends in the middle of the reply.
    Cut,
    /// 100 MB of a reply.
    Huge,
    /// One byte a second.
    Slow,
    /// Its clock is an hour ahead.
    Skewed,
}

impl Malady {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Down,
        Self::Unauthorized,
        Self::Redirect,
        Self::Empty,
        Self::NotANumber,
        Self::Infinite,
        Self::Negative,
        Self::Scalar,
        Self::OtherType,
        Self::TwoSeries,
        Self::Partial,
        Self::Old,
        Self::Error,
        Self::Truncated,
        Self::Cut,
        Self::Huge,
        Self::Slow,
        Self::Skewed,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Unauthorized => "unauthorized",
            Self::Redirect => "redirect",
            Self::Empty => "empty",
            Self::NotANumber => "nan",
            Self::Infinite => "infinite",
            Self::Negative => "negative",
            Self::Scalar => "scalar",
            Self::OtherType => "other-type",
            Self::TwoSeries => "two-series",
            Self::Partial => "partial",
            Self::Old => "old",
            Self::Error => "error",
            Self::Truncated => "truncated",
            Self::Cut => "cut",
            Self::Huge => "huge",
            Self::Slow => "slow",
            Self::Skewed => "skewed",
        }
    }

    /// Whether it strikes replies to queries for counts; the other ones strike what the source's clock says.
    pub fn spoils_counts(self) -> bool {
        self != Self::Skewed
    }

    /// The bad reply in place of a good one. `secret` stands where no operator may repeat it.
    pub fn strike(self, good: &Value, secret: &str) -> Response {
        match self {
            Self::Down => (StatusCode::SERVICE_UNAVAILABLE, format!("down, and {secret}")).into_response(),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, format!("who are you, {secret}?")).into_response(),
            Self::Redirect => {
                let elsewhere = format!("http://127.0.0.1:1/{secret}");
                (StatusCode::FOUND, [(LOCATION, elsewhere)]).into_response()
            }
            Self::Error => {
                let error = json!({"status": "error", "errorType": "execution", "error": "too busy, on purpose"});
                (
                    StatusCode::UNPROCESSABLE_ENTITY,
                    [(CONTENT_TYPE, "application/json")],
                    error.to_string(),
                )
                    .into_response()
            }
            Self::Truncated => {
                let whole = good.to_string();
                let half: String = whole.chars().take(whole.chars().count() / 2).collect();
                as_json(Body::from(half))
            }
            Self::Cut => {
                let beginning = Bytes::from(r#"{"status":"success","data":{"resultType":"#);
                let pieces = stream::iter([Ok(beginning), Err(std::io::Error::other("cut on purpose"))]);
                as_json(Body::from_stream(pieces))
            }
            Self::Huge => {
                let piece = Bytes::from(vec![b' '; 1 << 16]);
                let pieces = stream::iter((0..HUGE >> 16).map(move |_| Ok::<_, Infallible>(piece.clone())));
                as_json(Body::from_stream(pieces))
            }
            Self::Slow => {
                let bytes = good.to_string().into_bytes();
                let pieces = stream::unfold(bytes.into_iter(), |mut bytes| async move {
                    sleep(Duration::from_secs(1)).await;
                    let byte = bytes.next()?;
                    Some((Ok::<_, Infallible>(Bytes::from(vec![byte])), bytes))
                });
                as_json(Body::from_stream(pieces))
            }
            _ => as_json(Body::from(self.spoil(good).to_string())),
        }
    }

    /// The same reply with other content.
    #[expect(
        clippy::indexing_slicing,
        reason = "a field of a JSON object that is not there is made"
    )]
    fn spoil(self, good: &Value) -> Value {
        let mut bad = good.clone();
        if self == Self::Partial {
            bad["warnings"] = json!(["some series are missing, on purpose"]);
            return bad;
        }
        let data = &mut bad["data"];
        match self {
            Self::Empty => data["result"] = json!([]),
            Self::Scalar => *data = json!({"resultType": "scalar", "result": [0, "1"]}),
            Self::OtherType => {
                let other = match data["resultType"].as_str() {
                    Some("matrix") => "vector",
                    _ => "matrix",
                };
                data["resultType"] = json!(other);
            }
            Self::TwoSeries => {
                if let Some(series) = data["result"].as_array_mut() {
                    series.extend(series.clone());
                }
            }
            Self::NotANumber => each_sample(data, |sample| sample[1] = json!("NaN")),
            Self::Infinite => each_sample(data, |sample| sample[1] = json!("+Inf")),
            Self::Negative => each_sample(data, |sample| sample[1] = json!("-3")),
            Self::Old => each_sample(data, |sample| {
                sample[0] = json!(sample[0].as_f64().unwrap_or_default() - SKEW);
            }),
            Self::Skewed => {
                let ahead = |text: &str| text.parse::<f64>().ok().map(|now| format!("{:.3}", now + SKEW));
                if let Some(now) = data.pointer_mut("/result/1")
                    && let Some(ahead) = now.as_str().and_then(ahead)
                {
                    *now = json!(ahead);
                }
            }
            _ => {}
        }
        bad
    }
}

impl fmt::Display for Malady {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

impl FromStr for Malady {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|malady| malady.word() == text);
        found.with_context(|| format!("a source cannot be ill with {text}"))
    }
}

/// A reply that says it is JSON.
pub(super) fn as_json(body: Body) -> Response {
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

/// Changes each `[time, value]` of a vector's or a matrix' series.
fn each_sample(data: &mut Value, mut change: impl FnMut(&mut Value)) {
    for series in data["result"].as_array_mut().into_iter().flatten() {
        if let Some(one) = series.get_mut("value") {
            change(one);
        }
        for one in series
            .get_mut("values")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            change(one);
        }
    }
}

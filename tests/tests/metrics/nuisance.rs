//! An imitation of a metrics source that answers each question in one bad way, for a real one does none of this on demand. It counts nothing.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::post;
use futures::stream;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Fails,
    NotANumber,
    Refuses,
    Infinite,
    Redirects,
    Negative,
    Late,
    Scalar,
    Endless,
    Text,
    Garbage,
    TwoSeries,
    OtherClock,
    NoQuery,
    Partial,
    One,
}

impl Way {
    /// Those that are of the source and those that are of an answer by turns: an answer of any kind ends the source's time of being let be.
    pub(crate) const ALL: [Self; 15] = [
        Self::Fails,
        Self::NotANumber,
        Self::Refuses,
        Self::Infinite,
        Self::Redirects,
        Self::Negative,
        Self::Late,
        Self::Scalar,
        Self::Endless,
        Self::Text,
        Self::Garbage,
        Self::TwoSeries,
        Self::OtherClock,
        Self::NoQuery,
        Self::Partial,
    ];

    /// What becomes of one of a user's own queries that is answered so.
    pub(crate) const OWN: [(Self, &'static str); 8] = [
        (Self::Fails, "SourceFails"),
        (Self::Refuses, "SourceUnauthorized"),
        (Self::Redirects, "SourceRedirects"),
        (Self::Late, "SourceTimeout"),
        (Self::Endless, "SourceReplyTooLarge"),
        (Self::Garbage, "SourceReplyInvalid"),
        (Self::TwoSeries, "QueryResultSeries"),
        (Self::Partial, "SourceReplyPartial"),
    ];

    /// The reason in the condition, and words of the message.
    pub(crate) const fn is_told_as(self) -> (&'static str, &'static str) {
        match self {
            Self::Fails => ("SourceFails", "HTTP 500"),
            Self::NotANumber | Self::Infinite => ("NotACount", "is not a finite number"),
            Self::Refuses => ("SourceUnauthorized", "401"),
            Self::Redirects => ("SourceRedirects", "redirect"),
            Self::Negative => ("NotACount", "is negative"),
            Self::Late => ("SourceTimeout", "did not answer a query within"),
            Self::Scalar | Self::Text | Self::One => ("QueryResultType", "of another type"),
            Self::Endless => ("SourceReplyTooLarge", "more than"),
            Self::Garbage => ("SourceReplyInvalid", "not JSON"),
            Self::TwoSeries => ("QueryResultSeries", "has two series"),
            Self::OtherClock => ("SourceClockSkew", "its clock is"),
            Self::NoQuery => ("QueryRejected", "parse error"),
            Self::Partial => ("SourceReplyPartial", "not complete"),
        }
    }
}

/// How it answers, and whom: those whose question has this word in it; the others get counts of two versions that are well.
#[derive(Clone, Debug)]
struct Manners {
    way: Arc<Mutex<Way>>,
    victim: &'static str,
}

/// It runs until dropped.
#[derive(Debug)]
pub(crate) struct Nuisance {
    pub(crate) url: String,
    way: Arc<Mutex<Way>>,
    server: JoinHandle<std::io::Result<()>>,
}

impl Nuisance {
    pub(crate) async fn start() -> Result<Self> {
        Self::start_for("").await
    }

    /// For those questions alone that have this word in them.
    pub(crate) async fn start_for(victim: &'static str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let way = Arc::new(Mutex::new(Way::Fails));
        let router = Router::new()
            .route("/api/v1/query", post(answer))
            .route("/api/v1/query_range", post(answer))
            .with_state(Manners {
                way: Arc::clone(&way),
                victim,
            });
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { url, way, server })
    }

    pub(crate) fn answers(&self, way: Way) {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = way;
    }
}

impl Drop for Nuisance {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(manners): State<Manners>, body: String) -> Response {
    let way = *manners.way.lock().unwrap_or_else(PoisonError::into_inner);
    let asked = form(&body);
    let query = asked.get("query").map(String::as_str).unwrap_or_default();
    if !query.contains(manners.victim) {
        return if query == "time()" { clock(0) } else { well(&asked) };
    }
    match way {
        Way::Fails => return (StatusCode::INTERNAL_SERVER_ERROR, "the disk is full").into_response(),
        Way::Refuses => return StatusCode::UNAUTHORIZED.into_response(),
        Way::Redirects => return Redirect::temporary("/login").into_response(),
        Way::Garbage => return "<html>Please log in</html>".into_response(),
        Way::Late => sleep(Duration::from_secs(30)).await,
        Way::Endless => {
            let noise = stream::repeat_with(|| Ok::<_, Infallible>("x".repeat(64 << 10)));
            return Body::from_stream(noise).into_response();
        }
        _ => {}
    }
    if query == "time()" {
        return clock(if way == Way::OtherClock { 3_600_000 } else { 0 });
    }
    match (way, times(&asked)) {
        (Way::NoQuery, _) => json(
            StatusCode::BAD_REQUEST,
            r#"{"status":"error","errorType":"bad_data","error":"1:5: parse error: unexpected end of input"}"#
                .to_owned(),
        ),
        (Way::Scalar, _) => result("scalar", r#"[1,"1"]"#, ""),
        (Way::One, Times::One(time)) => result("scalar", &format!(r#"[{time},"1"]"#), ""),
        (Way::Text, _) => result("string", r#"[1,"plenty"]"#, ""),
        (Way::Partial, Times::One(time)) => result(
            "vector",
            &series(1, &format!(r#""value":[{time},"100"]"#)),
            r#","warnings":["a store did not answer"]"#,
        ),
        (Way::TwoSeries, Times::One(time)) => result("vector", &series(2, &format!(r#""value":[{time},"100"]"#)), ""),
        (_, Times::One(time)) => result(
            "vector",
            &series(1, &format!(r#""value":[{time},"{}"]"#, number(way))),
            "",
        ),
        (_, Times::Many(times)) => {
            let values: Vec<String> = times
                .iter()
                .map(|time| format!(r#"[{time},"{}"]"#, number(way)))
                .collect();
            let often = if way == Way::TwoSeries { 2 } else { 1 };
            let warnings = if way == Way::Partial {
                r#","warnings":["a store did not answer"]"#
            } else {
                ""
            };
            result(
                "matrix",
                &series(often, &format!(r#""values":[{}]"#, values.join(","))),
                warnings,
            )
        }
    }
}

const fn number(way: Way) -> &'static str {
    match way {
        Way::Infinite => "+Inf",
        Way::Negative => "-1",
        Way::TwoSeries | Way::Partial => "100",
        _ => "NaN",
    }
}

/// The parameters of a form's body.
fn form(body: &str) -> HashMap<String, String> {
    // A URL's query is the same encoding.
    let parsed = reqwest::Url::parse(&format!("http://form/?{body}"));
    parsed.map_or_else(|_| HashMap::new(), |url| url.query_pairs().into_owned().collect())
}

/// The times that are asked about.
enum Times {
    One(i64),
    Many(Vec<i64>),
}

fn times(asked: &HashMap<String, String>) -> Times {
    let number = |name: &str| asked.get(name).and_then(|text| text.parse::<i64>().ok());
    let step = number("step").and_then(|step| usize::try_from(step).ok());
    match (number("start"), number("end"), step) {
        (Some(start), Some(end), Some(step)) => Times::Many((start..=end).step_by(step.max(1)).collect()),
        _ => Times::One(number("time").unwrap_or_default()),
    }
}

/// The time, so many milliseconds ahead.
fn clock(ahead: i64) -> Response {
    let now = jiff::Timestamp::now().as_millisecond() + ahead;
    let (seconds, fraction) = (now / 1_000, now % 1_000);
    result(
        "scalar",
        &format!(r#"[{seconds}.{fraction:03},"{seconds}.{fraction:03}"]"#),
        "",
    )
}

/// A tenth of the requests to the canary, and none of them bad.
fn well(asked: &HashMap<String, String>) -> Response {
    let counts = [
        ("canary_requests", 10),
        ("canary_bad", 0),
        ("stable_requests", 90),
        ("stable_bad", 0),
    ];
    let (kind, times) = match times(asked) {
        Times::One(time) => ("vector", vec![time]),
        Times::Many(times) => ("matrix", times),
    };
    let series = counts.map(|(name, count)| {
        let samples: Vec<String> = times.iter().map(|time| format!(r#"[{time},"{count}"]"#)).collect();
        let values = match kind {
            "vector" => format!(r#""value":{}"#, samples.concat()),
            _ => format!(r#""values":[{}]"#, samples.join(",")),
        };
        format!(r#"{{"metric":{{"stepgate":"{name}"}},{values}}}"#)
    });
    result(kind, &format!("[{}]", series.join(",")), "")
}

/// All four counts, each so often, with these values.
fn series(often: usize, values: &str) -> String {
    let names = ["canary_requests", "canary_bad", "stable_requests", "stable_bad"];
    let one = |name: &&str| format!(r#"{{"metric":{{"stepgate":"{name}"}},{values}}}"#);
    format!(
        "[{}]",
        names.repeat(often).iter().map(one).collect::<Vec<_>>().join(",")
    )
}

fn result(kind: &str, result: &str, more: &str) -> Response {
    json(
        StatusCode::OK,
        format!(r#"{{"status":"success","data":{{"resultType":"{kind}","result":{result}}}{more}}}"#),
    )
}

fn json(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

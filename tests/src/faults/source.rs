//! A scripted metrics source for fault plans: it answers the operator's queries with the counts that a script says, and fails on purpose.
//!
//! A hand-written imitation, for hundreds of runs at once: what the real Prometheus answers is shown by the tests of the source and of
//! whole rollouts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::extract::{Form, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use stepgate::provider::SERIES_LABEL;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Requests of each version in an interval.
const REQUESTS: u32 = 5_000;

/// What one namespace's source says.
#[derive(Clone, Debug, Default)]
pub struct Source {
    script: Arc<Mutex<Script>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Script {
    bad: bool,
    fails_until: Option<Instant>,
}

impl Source {
    /// The canary fails one request in ten from now on.
    pub fn turn_bad(&self) {
        self.script().bad = true;
    }

    /// It answers 503 for so long.
    pub fn fail_for(&self, how_long: Duration) {
        self.script().fails_until = Some(Instant::now() + how_long);
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves it on a port of its own until the handle is dropped.
    pub async fn serve(&self) -> Result<Served> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listening")?;
        let url = format!("http://{}", listener.local_addr()?);
        let router = Router::new()
            .route("/api/v1/{endpoint}", post(answer))
            .with_state(self.clone());
        let task = tokio::spawn(async move {
            // It ends with the task alone.
            let _ended = axum::serve(listener, router).await;
        });
        Ok(Served { url, task })
    }
}

/// A source that is being served.
#[derive(Debug)]
pub struct Served {
    /// Where.
    pub url: String,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Deserialize)]
struct Asked {
    query: String,
    time: Option<i64>,
    start: Option<i64>,
    end: Option<i64>,
    step: Option<i64>,
}

async fn answer(State(source): State<Source>, Path(endpoint): Path<String>, Form(asked): Form<Asked>) -> Response {
    let script = *source.script();
    if script.fails_until.is_some_and(|until| Instant::now() < until) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if asked.query == "time()" {
        let now = jiff::Timestamp::now().as_millisecond();
        let now = format!("{}.{:03}", now / 1_000, now % 1_000);
        return Json(json!({"status": "success", "data": {"resultType": "scalar", "result": [0, now]}}))
            .into_response();
    }
    let counts = [
        ("canary_requests", REQUESTS),
        ("canary_bad", if script.bad { REQUESTS / 10 } else { 0 }),
        ("stable_requests", REQUESTS),
        ("stable_bad", 0),
    ];
    let data = if endpoint == "query" {
        let time = asked.time.unwrap_or_default();
        let series: Vec<Value> = counts
            .iter()
            .map(|(label, count)| json!({"metric": {SERIES_LABEL: label}, "value": [time, count.to_string()]}))
            .collect();
        json!({"resultType": "vector", "result": series})
    } else {
        let (start, end) = (asked.start.unwrap_or_default(), asked.end.unwrap_or_default());
        let step = usize::try_from(asked.step.unwrap_or(1)).unwrap_or(1).max(1);
        let series: Vec<Value> = counts
            .iter()
            .map(|(label, count)| {
                let values: Vec<Value> = (start..=end)
                    .step_by(step)
                    .map(|time| json!([time, count.to_string()]))
                    .collect();
                json!({"metric": {SERIES_LABEL: label}, "values": values})
            })
            .collect();
        json!({"resultType": "matrix", "result": series})
    };
    Json(json!({"status": "success", "data": data})).into_response()
}

//! A scripted metrics source for fault plans: it answers the operator's queries with the counts that a script says.
//!
//! A hand-written imitation, for hundreds of runs at once: what the real Prometheus answers is shown by the tests of the source and of
//! whole rollouts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use axum::extract::{Form, Path, State};
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use stepgate::provider::SERIES_LABEL;

use super::proxy::Served;

/// Requests of each version in an interval.
pub const REQUESTS: u64 = 5_000;
/// Bad requests of a bad version in an interval.
pub const BAD: u64 = REQUESTS / 10;

/// What one namespace's source says.
#[derive(Clone, Debug, Default)]
pub struct Source {
    bad: Arc<AtomicBool>,
}

impl Source {
    /// The canary fails one request in ten from now on.
    pub fn turn_bad(&self) {
        self.bad.store(true, Ordering::Relaxed);
    }

    /// Serves it on a port of its own until the handle is dropped.
    pub async fn serve(&self) -> Result<Served> {
        let router = Router::new()
            .route("/api/v1/{endpoint}", post(answer))
            .with_state(self.clone());
        Served::begin(router).await
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

async fn answer(State(source): State<Source>, Path(endpoint): Path<String>, Form(asked): Form<Asked>) -> Json<Value> {
    if asked.query == "time()" {
        let now = jiff::Timestamp::now().as_millisecond();
        let now = format!("{}.{:03}", now / 1_000, now % 1_000);
        return Json(json!({"status": "success", "data": {"resultType": "scalar", "result": [0, now]}}));
    }
    let bad = if source.bad.load(Ordering::Relaxed) { BAD } else { 0 };
    let counts = [
        ("canary_requests", REQUESTS),
        ("canary_bad", bad),
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
    Json(json!({"status": "success", "data": data}))
}

//! A proxy in front of a metrics source: it hands on what the source says, makes it bad for a while when a plan wants that, and notes what it
//! let through, so that every verdict can be held against what was really told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{Form, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use jiff::Timestamp;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::malady::{Malady, as_json};

/// One answer to a question for counts.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// When it was given.
    pub at: Timestamp,
    /// The end of the last interval that was asked for, in Unix seconds.
    pub through: i64,
    /// Whether it was as the source gave it.
    pub good: bool,
}

/// The proxy of one source.
#[derive(Clone, Debug)]
pub struct Proxy {
    upstream: String,
    secret: String,
    client: reqwest::Client,
    state: Arc<Mutex<Ill>>,
}

#[derive(Debug, Default)]
struct Ill {
    with: Option<(Malady, Instant)>,
    told: Vec<Told>,
}

impl Proxy {
    /// A proxy in front of the source at this address. `secret`: what a bad reply holds beside, which nobody may repeat.
    pub fn new(upstream: impl Into<String>, secret: impl Into<String>) -> Self {
        Self {
            upstream: upstream.into(),
            secret: secret.into(),
            client: reqwest::Client::new(),
            state: Arc::default(),
        }
    }

    /// The source is ill with this for so long.
    pub fn fall_ill(&self, malady: Malady, how_long: Duration) {
        self.state().with = Some((malady, Instant::now() + how_long));
    }

    /// The source is well again.
    pub fn recover(&self) {
        self.state().with = None;
    }

    /// Every answer to a question for counts so far.
    pub fn told(&self) -> Vec<Told> {
        self.state().told.clone()
    }

    fn state(&self) -> MutexGuard<'_, Ill> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves it on a port of its own until the handle is dropped.
    pub async fn serve(&self) -> Result<Served> {
        let router = Router::new()
            .route("/api/v1/{endpoint}", post(pass))
            .with_state(self.clone());
        Served::begin(router).await
    }

    async fn ask(&self, endpoint: &str, asked: &[(String, String)]) -> Result<Value> {
        let url = format!("{}/api/v1/{endpoint}", self.upstream);
        let answer = self.client.post(url).form(asked).send().await?;
        Ok(answer.json().await?)
    }
}

/// An HTTP server of ours. Ends when dropped.
#[derive(Debug)]
pub struct Served {
    /// Where.
    pub url: String,
    task: JoinHandle<()>,
}

impl Served {
    /// Serves this on a port of its own.
    pub async fn begin(router: Router) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listening")?;
        let url = format!("http://{}", listener.local_addr()?);
        let task = tokio::spawn(async move {
            // It ends with the task alone.
            let _ended = axum::serve(listener, router).await;
        });
        Ok(Self { url, task })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(
    State(proxy): State<Proxy>,
    Path(endpoint): Path<String>,
    Form(asked): Form<Vec<(String, String)>>,
) -> Response {
    let value = |name: &str| {
        let found = asked.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    };
    let is_clock = value("query") == Some("time()");
    let through = value("time").or_else(|| value("end")).and_then(|end| end.parse().ok());
    let good = match proxy.ask(&endpoint, &asked).await {
        Ok(good) => good,
        Err(error) => return (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response(),
    };
    let mut state = proxy.state();
    let malady = match state.with {
        Some((malady, until)) if Instant::now() < until && (malady.spoils_counts() || is_clock) => Some(malady),
        _ => None,
    };
    if !is_clock && let Some(through) = through {
        state.told.push(Told {
            at: Timestamp::now(),
            through,
            good: malady.is_none(),
        });
    }
    drop(state);
    match malady {
        Some(malady) => malady.strike(&good, &proxy.secret),
        None => as_json(Body::from(good.to_string())),
    }
}

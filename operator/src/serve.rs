//! The operator's own HTTP pages: `/livez`, `/readyz` and `/metrics`.
//!
//! Reads flags and counters and nothing else. Readiness means that the caches have been filled; a standby is ready too, or a rolling update with
//! one leader would wait for ever. Liveness means that the event loop runs, since the answer comes from it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;

/// After the stop, for requests under way.
const GRACE: Duration = Duration::from_secs(2);

/// Set once the watched caches have been filled. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Says whether the caches are filled.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    /// Whether they are.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Why the pages cannot be served.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address} for health and metrics pages; choose another with --listen-address or --port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The listener failed.
    #[error("serving health and metrics pages failed")]
    Serve {
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl ServeError {
    /// A constant word for logs.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Listen { .. } => "listen",
            Self::Serve { .. } => "serve",
        }
    }
}

#[derive(Debug, Clone)]
struct Pages {
    metrics: Metrics,
    ready: Readiness,
}

/// A listener with its pages; listening already, not yet answering.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    pages: Pages,
}

impl Server {
    /// Listens on `address`; port 0 takes a free one.
    pub async fn bind(address: SocketAddr, metrics: Metrics, ready: Readiness) -> Result<Self, ServeError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| ServeError::Listen { address, source })?;
        Ok(Self {
            listener,
            pages: Pages { metrics, ready },
        })
    }

    /// The address that it listens on.
    pub fn address(&self) -> Result<SocketAddr, ServeError> {
        self.listener
            .local_addr()
            .map_err(|source| ServeError::Serve { source })
    }

    /// Answers until `stop`, then finishes what is under way, for [`GRACE`] at most.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ServeError> {
        let serving =
            axum::serve(self.listener, router(self.pages)).with_graceful_shutdown(stop.clone().cancelled_owned());
        // A client that never finishes its request must not keep the process.
        let out_of_patience = async {
            stop.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            served = serving.into_future() => served.map_err(|source| ServeError::Serve { source }),
            () = out_of_patience => Ok(()),
        }
    }
}

fn router(pages: Pages) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(pages)
}

async fn readyz(State(pages): State<Pages>) -> (StatusCode, &'static str) {
    if pages.ready.get() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the caches are not filled yet\n")
    }
}

async fn metrics(State(pages): State<Pages>) -> impl IntoResponse {
    match pages.metrics.encode() {
        Ok(page) => (
            StatusCode::OK,
            [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            page,
        ),
        Err(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
            "the metrics cannot be encoded\n".to_owned(),
        ),
    }
}

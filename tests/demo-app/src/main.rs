//! The demo application: answers any path with its version, and misbehaves as its environment says.
//!
//! VERSION (default `v1`) · ERROR_SHARE (`0.05` or `5%`: so many answers are 500 with `x-injected: true`, by chance) · ERROR_EVERY
//! (`20`: each 20th answer is one besides, and nothing by chance; 0, the default, is none) · LATENCY (`5ms`, before each
//! answer) · CAPACITY (`50`: requests a second that it carries, by when they were due, which the header `x-due` says in milliseconds since
//! the epoch; those beyond are answered 503 with `x-demo: over-capacity`; 0, the default, is without bound) · SLOW_START (`10s`, not ready before) · CRASH_AFTER (`30s`, then exit code 1) · DRAIN (`2s`, see below) ·
//! POD_IP and PORT (default 0.0.0.0 and 8080). `/healthz` is the readiness, `/metrics` is for Prometheus; neither is counted. A POST of a
//! share to `/demo/error-share` puts it in the place of ERROR_SHARE: a version that turns bad while it runs.
//!
//! At SIGTERM it is not ready any more but answers on for DRAIN, as gateways learn of it only after a while, and closes connections
//! with their next answer; then it finishes what it has and exits with 0.

use std::env;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::routing::{get, post};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::capacity::Capacity;

mod capacity;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: u16,
}

struct Application {
    version: HeaderValue,
    /// The bits of an f64.
    error_share: AtomicU64,
    error_every: u64,
    latency: Duration,
    capacity: Option<Capacity>,
    ready_at: Instant,
    draining: AtomicBool,
    answered: AtomicU64,
    seed: u64,
    requests: Family<Code, Counter>,
    durations: Histogram,
    registry: Registry,
}

#[tokio::main]
async fn main() -> Result<()> {
    let start = Instant::now();
    let (mut registry, requests) = (Registry::default(), Family::<Code, Counter>::default());
    let durations = Histogram::new([
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    ]);
    registry.register("http_requests", "Answers by status code", requests.clone());
    registry.register(
        "http_request_duration_seconds",
        "How long answers took",
        durations.clone(),
    );
    // There from the first scrape on: a counter that is born with its first error would lose it.
    for code in [200, 500, 503] {
        let _at_zero = requests.get_or_create(&Code { code });
    }
    let application = Arc::new(Application {
        version: HeaderValue::from_str(&text("VERSION", "v1")).context("VERSION")?,
        error_share: AtomicU64::new(share(&text("ERROR_SHARE", "0")).context("ERROR_SHARE")?.to_bits()),
        error_every: text("ERROR_EVERY", "0").parse().context("ERROR_EVERY")?,
        latency: duration("LATENCY", "0s")?,
        capacity: Capacity::new(text("CAPACITY", "0").parse().context("CAPACITY")?),
        ready_at: start + duration("SLOW_START", "0s")?,
        draining: AtomicBool::new(false),
        answered: AtomicU64::new(0),
        seed: u64::from(std::process::id()) << 32,
        requests,
        durations,
        registry,
    });
    let crash_after = duration("CRASH_AFTER", "0s")?;
    if !crash_after.is_zero() {
        tokio::spawn(async move {
            tokio::time::sleep(crash_after).await;
            std::process::exit(1);
        });
    }
    let address: IpAddr = text("POD_IP", "0.0.0.0").parse().context("POD_IP")?;
    let address = SocketAddr::new(address, text("PORT", "8080").parse().context("PORT")?);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address}"))?;
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .route("/demo/error-share", post(change_error_share))
        .fallback(answer)
        .with_state(application.clone());
    axum::serve(listener, router)
        .with_graceful_shutdown(drained(application, duration("DRAIN", "2s")?))
        .await?;
    Ok(())
}

/// Returns DRAIN after SIGTERM or SIGINT.
async fn drained(application: Arc<Application>, drain: Duration) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    application.draining.store(true, Ordering::Relaxed);
    tokio::time::sleep(drain).await;
}

async fn healthz(State(application): State<Arc<Application>>) -> (StatusCode, &'static str) {
    if application.draining.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if Instant::now() < application.ready_at {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

async fn metrics(State(application): State<Arc<Application>>) -> (HeaderMap, String) {
    let mut text = String::new();
    // Writing into a String does not fail.
    let _written = encode(&mut text, &application.registry);
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    (HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]), text)
}

async fn change_error_share(State(application): State<Arc<Application>>, body: String) -> (StatusCode, String) {
    match share(body.trim()) {
        Ok(share) => {
            application.error_share.store(share.to_bits(), Ordering::Relaxed);
            (StatusCode::OK, format!("error share {share}\n"))
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error:#}\n")),
    }
}

async fn answer(
    State(application): State<Arc<Application>>,
    uri: Uri,
    asked: HeaderMap,
) -> (StatusCode, HeaderMap, String) {
    let begin = Instant::now();
    if !application.latency.is_zero() {
        tokio::time::sleep(application.latency).await;
    }
    let mut headers = HeaderMap::from_iter([
        (HeaderName::from_static("x-version"), application.version.clone()),
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
    ]);
    if application.draining.load(Ordering::Relaxed) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let number = application.answered.fetch_add(1, Ordering::Relaxed);
    let error_share = f64::from_bits(application.error_share.load(Ordering::Relaxed));
    let within = application
        .capacity
        .as_ref()
        .is_none_or(|capacity| capacity.take(due(&asked)));
    let code = if !within {
        headers.insert("x-demo", HeaderValue::from_static("over-capacity"));
        StatusCode::SERVICE_UNAVAILABLE
    } else if is_in_turn(number, application.error_every) || unit(application.seed | number) < error_share {
        headers.insert("x-injected", HeaderValue::from_static("true"));
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        StatusCode::OK
    };
    application.requests.get_or_create(&Code { code: code.as_u16() }).inc();
    application.durations.observe(begin.elapsed().as_secs_f64());
    let version = application.version.to_str().unwrap_or_default();
    (
        code,
        headers,
        format!("{{\"version\":{version:?},\"path\":{:?}}}\n", uri.path()),
    )
}

/// When a request was due by its own word, else now; milliseconds since the epoch.
fn due(asked: &HeaderMap) -> u64 {
    let said = asked.get("x-due").and_then(|due| due.to_str().ok()?.parse().ok());
    said.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Whether this answer, counted from 0, is the last of so many; never where they are none.
fn is_in_turn(number: u64, every: u64) -> bool {
    every > 0 && number % every == every - 1
}

/// A number from 0 to 1 by splitmix64, evenly spread over its seeds.
fn unit(seed: u64) -> f64 {
    let mut mixed = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let high = u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or_default();
    f64::from(high) / 4_294_967_296.0
}

fn text(name: &str, default: &str) -> String {
    env::var(name)
        .ok()
        .filter(|value| !value.is_empty())
        .unwrap_or_else(|| default.to_owned())
}

/// `0.05` and `5%` are the same.
fn share(text: &str) -> Result<f64> {
    let parsed = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse(),
    };
    parsed.with_context(|| format!("{text}: give a share such as 0.05 or 5%"))
}

/// `500ms`, `5s`, `2m`.
fn duration(name: &str, default: &str) -> Result<Duration> {
    let given = text(name, default);
    let (number, unit) = given.split_at(
        given
            .find(|letter: char| letter.is_ascii_alphabetic())
            .unwrap_or(given.len()),
    );
    let seconds = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => anyhow::bail!("{name}={given}: give a duration such as 500ms, 5s or 2m"),
    };
    let number: f64 = number
        .parse()
        .with_context(|| format!("{name}={given}: give a duration such as 500ms, 5s or 2m"))?;
    Duration::try_from_secs_f64(number * seconds).with_context(|| format!("{name}={given}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_come_at_the_given_share() {
        let errors = (0..100_000_u64)
            .filter(|&number| unit((77 << 32) | number) < 0.05)
            .count();
        assert!((4_800..5_200).contains(&errors), "{errors}");
    }

    #[test]
    fn each_so_manieth_answer_is_an_error() {
        let turns = |every| -> Vec<u64> { (0..100).filter(|&number| is_in_turn(number, every)).collect() };
        assert_eq!(turns(20), [19, 39, 59, 79, 99]);
        assert!(turns(0).is_empty());
    }

    #[test]
    fn a_share_is_a_fraction_or_a_percentage() {
        assert!((share("5%").unwrap() - share("0.05").unwrap()).abs() < 1e-12);
        assert!(share("many").is_err());
    }
}

//! The health and metrics pages, over a real connection.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests and what they start from")]

#[path = "source/programs.rs"]
mod programs;

use std::net::SocketAddr;
use std::time::Duration;

use programs::program;
use stepgate::serve::{Readiness, Server};
use stepgate::telemetry::Metrics;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Running {
    address: SocketAddr,
    ready: Readiness,
    metrics: Metrics,
    stop: CancellationToken,
    task: JoinHandle<Result<(), stepgate::serve::ServeError>>,
}

async fn run() -> Running {
    let (ready, metrics, stop) = (Readiness::default(), Metrics::new(), CancellationToken::new());
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), metrics.clone(), ready.clone())
        .await
        .unwrap();
    let address = server.address().unwrap();
    Running {
        address,
        ready,
        metrics,
        task: tokio::spawn(server.run(stop.clone())),
        stop,
    }
}

async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = client.get(format!("http://{address}{path}")).send().await.unwrap();
    let kind = response
        .headers()
        .get("content-type")
        .map(|kind| kind.to_str().unwrap().to_owned())
        .unwrap_or_default();
    (response.status().as_u16(), kind, response.text().await.unwrap())
}

#[tokio::test]
async fn a_process_is_alive_at_once_and_ready_when_its_caches_are_filled() {
    let running = run().await;
    assert_eq!(get(running.address, "/livez").await.0, 200);
    let (status, _, body) = get(running.address, "/readyz").await;
    assert_eq!((status, body.as_str()), (503, "the caches are not filled yet\n"));
    running.ready.set(true);
    assert_eq!(get(running.address, "/readyz").await.0, 200);
    running.ready.set(false);
    assert_eq!(get(running.address, "/readyz").await.0, 503);
    assert_eq!(get(running.address, "/secrets").await.0, 404);
}

#[tokio::test]
async fn metrics_are_open_metrics_text_with_bounded_labels() {
    let running = run().await;
    running.metrics.set_rollouts([("Healthy", 3), ("Stepping", 1)]);
    running.metrics.set_rollouts([("Healthy", 4)]);
    running.metrics.reconciled("ok", Duration::from_millis(3));
    running.metrics.api_request("patch", "httproutes", "ok");
    running.metrics.verdict("Pass");
    running
        .metrics
        .source_query("default", "timeout", Duration::from_secs(5));
    running.metrics.set_leader(true);
    let (status, kind, page) = get(running.address, "/metrics").await;
    assert_eq!(
        (status, kind.as_str()),
        (200, "application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    for line in [
        "stepgate_rollouts{phase=\"Healthy\"} 4",
        "stepgate_reconcile_total{outcome=\"ok\"} 1",
        "stepgate_reconcile_duration_seconds_count 1",
        "stepgate_api_requests_total{verb=\"patch\",resource=\"httproutes\",outcome=\"ok\"} 1",
        "stepgate_verdicts_total{verdict=\"Pass\"} 1",
        "stepgate_source_queries_total{source=\"default\",outcome=\"timeout\"} 1",
        "stepgate_source_query_duration_seconds_bucket{le=\"5.0\",source=\"default\"} 1",
        "stepgate_leader 1",
        "# EOF",
    ] {
        assert!(page.lines().any(|other| other == line), "no line {line} in\n{page}");
    }
    assert!(!page.contains("Stepping"));
}

#[tokio::test]
async fn the_page_is_one_that_prometheus_reads() {
    use std::io::Write as _;
    let metrics = Metrics::new();
    metrics.set_rollouts([("Healthy", 3)]);
    metrics.reconciled("ok", Duration::from_millis(3));
    // Prometheus' own check reads its older text format, which is the same but for the end mark.
    let page = metrics.encode().unwrap().replace("# EOF\n", "");
    let mut check = std::process::Command::new(program("promtool"))
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("error while linting"), "{said}\n{page}");
}

#[tokio::test]
async fn it_stops_when_told_though_a_client_stays_connected() {
    let running = run().await;
    let idle = tokio::net::TcpStream::connect(running.address).await.unwrap();
    let mut half = tokio::net::TcpStream::connect(running.address).await.unwrap();
    half.write_all(b"GET /livez HTTP/1.1\r\nhost").await.unwrap();
    assert_eq!(get(running.address, "/livez").await.0, 200);
    running.stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), running.task)
        .await
        .expect("still serving")
        .unwrap()
        .unwrap();
    drop((idle, half));
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let running = run().await;
    let error = Server::bind(running.address, Metrics::new(), Readiness::default())
        .await
        .unwrap_err();
    assert_eq!(error.label(), "listen");
    assert!(error.to_string().contains(&running.address.to_string()), "{error}");
}

//! The load generator: an open loop at a fixed rate over kept connections, which counts answers by version and status and tells the
//! application's own injected errors from every other failure.
//!
//! Latency counts from the moment a request was due, so that a stalled server shows (no coordinated omission).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

mod report;

use report::Answer;
pub use report::{Answers, Failure, GATEWAY, Latencies, OVER_CAPACITY, Report, Second};

/// Requests that wait for an answer at the same time; more are counted as failures without being sent.
const MOST_IN_FLIGHT: usize = 5_000;

/// What to send.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where to connect, without a path: `http://10.244.0.1:8080`.
    pub url: String,
    /// The Host header, by which the gateway finds the route.
    pub host: String,
    /// The path, with its slash.
    pub path: String,
    /// Requests a second; 0.05 is three a minute.
    pub rate: f64,
    /// Sends no longer than this.
    pub duration: Option<Duration>,
    /// Sends no more than this.
    pub count: Option<u64>,
    /// A request without an answer after this is a failure.
    pub timeout: Duration,
}

impl LoadOptions {
    /// 300 requests a second to `/` of the local cluster's gateway, for at most an hour, with 5 s to answer.
    pub fn to_host(host: &str) -> Self {
        Self {
            url: crate::cluster::GATEWAY_URL.to_owned(),
            host: host.to_owned(),
            path: "/".to_owned(),
            rate: 300.0,
            duration: Some(Duration::from_hours(1)),
            count: None,
            timeout: Duration::from_secs(5),
        }
    }
}

/// The load generator.
#[derive(Debug)]
pub struct Load;

/// A running load. Ends when dropped.
#[derive(Debug)]
pub struct LoadHandle {
    report: Arc<Mutex<Report>>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts sending in the background.
    pub fn start(options: LoadOptions) -> Result<LoadHandle> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(MOST_IN_FLIGHT)
            // The gateway closes a connection that was idle for a minute: a request that is sent on it just then is lost.
            .pool_idle_timeout(Duration::from_secs(30))
            .timeout(options.timeout)
            .build()
            .context("making the HTTP client")?;
        let report = Arc::new(Mutex::new(Report::default()));
        let stop = CancellationToken::new();
        let task = tokio::spawn(send(client, options, report.clone(), stop.clone()));
        Ok(LoadHandle {
            report,
            stop,
            task: Some(task),
        })
    }
}

impl LoadHandle {
    /// What was counted so far.
    pub fn snapshot(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the bounds of duration or count end it; never returns where there is neither.
    pub async fn finished(mut self) -> Result<Report> {
        if let Some(task) = self.task.take() {
            task.await.context("the load generator")?;
        }
        Ok(self.snapshot())
    }

    /// Sends no more, waits for the answers that are due, and reports.
    pub async fn stop(self) -> Result<Report> {
        self.stop.cancel();
        self.finished().await
    }
}

impl Drop for LoadHandle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn send(client: reqwest::Client, options: LoadOptions, report: Arc<Mutex<Report>>, stop: CancellationToken) {
    let url = format!("{}{}", options.url, options.path);
    let (begin, start) = (Instant::now(), Timestamp::now());
    record(&report, |report| report.begun = Some(start));
    let due = |number: u64| {
        #[expect(clippy::cast_precision_loss, reason = "request numbers stay far below 2^52")]
        let after = Duration::from_secs_f64(number as f64 / options.rate);
        (after, begin + after)
    };
    let mut sent = JoinSet::new();
    for number in 0_u64.. {
        let (after, at) = due(number);
        if options.duration.is_some_and(|bound| after >= bound) || options.count.is_some_and(|bound| number >= bound) {
            break;
        }
        tokio::select! {
            () = sleep_until(at) => {}
            () = stop.cancelled() => break,
        }
        while sent.try_join_next().is_some() {}
        if sent.len() >= MOST_IN_FLIGHT {
            let full = Failure::of(
                after,
                "not sent",
                &format!("{MOST_IN_FLIGHT} requests are waiting for an answer"),
            );
            record(&report, |report| report.fail(full));
            continue;
        }
        // The demo application counts its capacity by it: what the machine holds up is no load of the version's.
        let due = start.checked_add(after).unwrap_or(start).as_millisecond();
        let request = client
            .get(&url)
            .header(reqwest::header::HOST, &options.host)
            .header("x-due", due)
            .send();
        let report = report.clone();
        sent.spawn(async move {
            let answer = request.await;
            // Read to the end: a connection whose answer was not read cannot be used again.
            let answer = match answer {
                Ok(answer) => {
                    let (status, headers) = (answer.status(), answer.headers().clone());
                    answer.text().await.map(|body| (status, headers, body))
                }
                Err(error) => Err(error),
            };
            let latency = at.elapsed();
            record(&report, |report| match answer {
                Ok((status, headers, body)) => {
                    let version = headers.get("x-version").and_then(|value| value.to_str().ok());
                    let answer = Answer {
                        status: status.as_u16(),
                        version,
                        injected: headers.contains_key("x-injected"),
                        over_capacity: headers.contains_key("x-demo"),
                        body: &body,
                    };
                    report.answer(after, latency, &answer);
                }
                Err(error) => report.fail(failure(after, &error)),
            });
        });
    }
    while sent.join_next().await.is_some() {}
}

fn record(report: &Mutex<Report>, change: impl FnOnce(&mut Report)) {
    change(&mut report.lock().unwrap_or_else(PoisonError::into_inner));
}

fn failure(after: Duration, error: &reqwest::Error) -> Failure {
    let kind = if error.is_timeout() {
        "timeout"
    } else if error.is_connect() {
        "no connection"
    } else {
        "connection broke"
    };
    let detail = anyhow::Error::msg(error.to_string());
    let causes =
        std::iter::successors(std::error::Error::source(error), |cause| cause.source()).map(ToString::to_string);
    let detail = causes.fold(detail.to_string(), |text, cause| format!("{text}: {cause}"));
    Failure::of(after, kind, &detail)
}

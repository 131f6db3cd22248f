//! The layer in the operator's Kubernetes client: it sees every request, counts the writes, and does to each what the plan says.
//!
//! It stands between the client and the connection, so that the operator's own code knows nothing of it. Leases and Events are let
//! through and not counted: the one has tests of its own, the other may be written twice.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use jiff::Timestamp;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tower::{BoxError, Layer, Service};

use super::fault::{Fault, Kind, millis};
use super::source::Source;

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// How long a lost write keeps its sender waiting.
const SILENCE: Duration = Duration::from_millis(50);

/// One write of the operator.
#[derive(Clone, Debug)]
pub struct Write {
    /// Its number in the run, from 1.
    pub number: usize,
    /// When it was sent.
    pub at: Timestamp,
    /// The method.
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The body.
    pub body: Value,
    /// The status code; none where no answer came.
    pub status: Option<u16>,
    /// The resourceVersion of the object that it left.
    pub version: Option<u64>,
}

impl Write {
    /// The API server took it.
    pub fn is_accepted(&self) -> bool {
        self.status.is_some_and(|status| status < 300)
    }

    /// Resource, name and subresource, such as `rollouts/checkout/status`.
    pub fn target(&self) -> String {
        let after = self.path.split_once("/namespaces/").map_or("", |(_, rest)| rest);
        after.split_once('/').map_or("", |(_, target)| target).to_owned()
    }
}

/// What is done to the requests of one run of a plan, and what they were. Outlives the operator's processes.
#[derive(Debug)]
pub struct Tap {
    state: Mutex<State>,
    watches: watch::Sender<Watches>,
    crashes: watch::Sender<usize>,
    source: Source,
}

#[derive(Debug)]
struct State {
    faults: VecDeque<Fault>,
    writes: Vec<Write>,
    sent: usize,
    requests: usize,
    life: usize,
    panics: bool,
}

/// What all open watches are to do.
#[derive(Clone, Copy, Debug)]
struct Watches {
    cut: usize,
    gone: usize,
    silent_until: Option<Instant>,
}

impl Tap {
    /// A tap that does this.
    pub fn new(faults: &[Fault], source: Source) -> Arc<Self> {
        let mut faults = faults.to_vec();
        faults.sort();
        Arc::new(Self {
            state: Mutex::new(State {
                faults: faults.into(),
                writes: Vec::new(),
                sent: 0,
                requests: 0,
                life: 0,
                panics: false,
            }),
            watches: watch::Sender::new(Watches {
                cut: 0,
                gone: 0,
                silent_until: None,
            }),
            crashes: watch::Sender::new(0),
            source,
        })
    }

    /// The layer for the client of the next process.
    pub fn next_life(self: &Arc<Self>) -> TapLayer {
        let mut state = self.state();
        state.life += 1;
        TapLayer {
            tap: Arc::clone(self),
            life: state.life,
        }
    }

    /// No request of the present process reaches the API server any more.
    pub fn end_life(&self) {
        self.state().life += 1;
    }

    /// The number of crashes so far, and each new one.
    pub fn crashes(&self) -> watch::Receiver<usize> {
        self.crashes.subscribe()
    }

    /// Every write, in order.
    pub fn writes(&self) -> Vec<Write> {
        self.state().writes.clone()
    }

    /// All requests, reads and watch starts included.
    pub fn requests(&self) -> usize {
        self.state().requests
    }

    /// The operator panics at its next request.
    pub fn panic_at_the_next(&self) {
        self.state().panics = true;
    }

    /// Notes a write that was sent in the operator's name, and what came of it.
    pub fn note_of_another(&self, method: &str, path: &str, body: Value, answer: &Value) {
        let number = self.count().0;
        self.note(Write {
            number,
            at: Timestamp::now(),
            method: method.to_owned(),
            path: path.to_owned(),
            body,
            status: Some(200),
            version: version_of(answer),
        });
    }

    /// The faults that have not struck.
    pub fn left(&self) -> Vec<Fault> {
        self.state().faults.iter().copied().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a write, and says what is to be done to it.
    fn count(&self) -> (usize, Vec<Kind>) {
        let mut state = self.state();
        state.sent += 1;
        let number = state.sent;
        let mut kinds = Vec::new();
        while state.faults.front().is_some_and(|fault| fault.at <= number) {
            kinds.extend(state.faults.pop_front().map(|fault| fault.kind));
        }
        (number, kinds)
    }

    fn note(&self, write: Write) {
        self.state().writes.push(write);
    }

    fn is_alive(&self, life: usize) -> bool {
        self.state().life == life
    }

    fn crash(&self) {
        self.end_life();
        self.crashes.send_modify(|crashes| *crashes += 1);
    }

    fn beside(&self, kind: Kind) {
        self.watches.send_modify(|watches| match kind {
            Kind::CutWatches => watches.cut += 1,
            Kind::GoneWatches => watches.gone += 1,
            Kind::StaleWatches(silent) => watches.silent_until = Some(Instant::now() + millis(silent)),
            _ => {}
        });
        if let Kind::SourceDown(down) = kind {
            self.source.fail_for(millis(down));
        }
    }
}

/// The tap as a layer of one process.
#[derive(Clone, Debug)]
pub struct TapLayer {
    tap: Arc<Tap>,
    life: usize,
}

impl<S> Layer<S> for TapLayer {
    type Service = Tapped<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Tapped {
            inner,
            tap: Arc::clone(&self.tap),
            life: self.life,
        }
    }
}

/// The tapped client.
#[derive(Clone, Debug)]
pub struct Tapped<S> {
    inner: S,
    tap: Arc<Tap>,
    life: usize,
}

impl<S, B> Service<Request<Body>> for Tapped<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Answer;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Answer, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (tap, life) = (Arc::clone(&self.tap), self.life);
        if !tap.is_alive(life) {
            return Box::pin(std::future::pending());
        }
        let panics = {
            let mut state = tap.state();
            state.requests += 1;
            std::mem::take(&mut state.panics)
        };
        let path = request.uri().path().to_owned();
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let counts = request.method() != Method::GET
            && path.contains("/namespaces/")
            && !["/leases", "/events"].iter().any(|other| path.contains(other));
        if !counts {
            let answer = self.inner.call(request);
            return Box::pin(async move {
                // Here, for this runs in the task that asks.
                assert!(!panics, "a panic on purpose");
                let answer = answer.await.map_err(Into::into)?;
                Ok(if is_watch {
                    answer.map(|body| watched(body, &tap, life))
                } else {
                    answer.map(|body| body.map_err(Into::into).boxed_unsync())
                })
            });
        }
        let (number, kinds) = tap.count();
        let method = request.method().to_string();
        // The body is small and there at once: reading it here keeps the request whole for the connection.
        let (parts, body) = request.into_parts();
        let copy = body.try_clone();
        let sent = self.inner.call(Request::from_parts(parts, body));
        Box::pin(async move {
            assert!(!panics, "a panic on purpose");
            let body = match copy {
                Some(copy) => copy.collect().await?.to_bytes(),
                None => Bytes::new(),
            };
            let write = Write {
                number,
                at: Timestamp::now(),
                method,
                path,
                body: serde_json::from_slice(&body).unwrap_or(Value::Null),
                status: None,
                version: None,
            };
            strike(&tap, write, &kinds, async move { sent.await.map_err(Into::into) }).await
        })
    }
}

/// Sends a write, or does to it what is to be done. The request's future does nothing until it is polled.
async fn strike<B>(
    tap: &Tap,
    write: Write,
    kinds: &[Kind],
    sent: impl Future<Output = Result<Response<B>, BoxError>>,
) -> Result<Answer, BoxError>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    for kind in kinds {
        match kind {
            Kind::CrashBefore => {
                tap.note(write);
                tap.crash();
                return std::future::pending().await;
            }
            Kind::Lost => {
                tap.note(write);
                sleep(SILENCE).await;
                return Err("the connection was lost".into());
            }
            Kind::Answer(code) => {
                tap.note(Write {
                    status: Some(*code),
                    ..write
                });
                return refusal(*code);
            }
            Kind::Late(late) => sleep(millis(*late)).await,
            Kind::CutWatches | Kind::GoneWatches | Kind::StaleWatches(_) | Kind::SourceDown(_) => tap.beside(*kind),
            Kind::CrashAfter | Kind::Unheard => {}
        }
    }
    let answer = match sent.await {
        Ok(answer) => answer,
        Err(error) => {
            tap.note(write);
            return Err(error);
        }
    };
    let (parts, body) = answer.into_parts();
    let body = body.collect().await.map_err(Into::into)?.to_bytes();
    let object: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    tap.note(Write {
        status: Some(parts.status.as_u16()),
        version: version_of(&object),
        ..write
    });
    if kinds.contains(&Kind::CrashAfter) {
        tap.crash();
        return std::future::pending().await;
    }
    if kinds.contains(&Kind::Unheard) {
        sleep(SILENCE).await;
        return Err("the connection was lost after the request".into());
    }
    Ok(Response::from_parts(parts, whole(body)))
}

fn version_of(object: &Value) -> Option<u64> {
    let version = object.pointer("/metadata/resourceVersion")?.as_str()?;
    version.parse().ok()
}

fn whole(body: Bytes) -> UnsyncBoxBody<Bytes, BoxError> {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

/// What the API server says with this status code.
fn refusal(code: u16) -> Result<Answer, BoxError> {
    let reason = match code {
        403 => "Forbidden",
        409 => "Conflict",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        _ => "ServiceUnavailable",
    };
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": format!("{reason}, on purpose"), "metadata": {}, "details": {"retryAfterSeconds": 1},
    });
    let mut answer = Response::builder()
        .status(StatusCode::from_u16(code)?)
        .header("content-type", "application/json");
    if code == 429 {
        answer = answer.header("retry-after", "1");
    }
    Ok(answer.body(whole(Bytes::from(body.to_string())))?)
}

/// A watch's body: ends when watches are cut, says 410 when they are gone, and keeps what it has while they are silent.
fn watched<B>(body: B, tap: &Arc<Tap>, life: usize) -> UnsyncBoxBody<Bytes, BoxError>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    struct Stream {
        frames: Pin<Box<dyn futures::Stream<Item = Result<Bytes, BoxError>> + Send>>,
        orders: watch::Receiver<Watches>,
        began: Watches,
        tap: Arc<Tap>,
        life: usize,
        ended: bool,
    }
    let orders = tap.watches.subscribe();
    let began = *orders.borrow();
    let frames = body.into_data_stream().map(|frame| frame.map_err(Into::into));
    let stream = Stream {
        frames: Box::pin(frames),
        orders,
        began,
        tap: Arc::clone(tap),
        life,
        ended: false,
    };
    let frames = futures::stream::unfold(stream, |mut stream| async move {
        loop {
            if stream.ended || !stream.tap.is_alive(stream.life) {
                return None;
            }
            let now = *stream.orders.borrow_and_update();
            if now.cut > stream.began.cut {
                return None;
            }
            if now.gone > stream.began.gone {
                stream.ended = true;
                let gone = json!({"type": "ERROR", "object": {
                    "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired",
                    "message": "too old resource version, on purpose", "metadata": {}}});
                let expired = Bytes::from(format!("{gone}\n"));
                return Some((Ok(http_body::Frame::data(expired)), stream));
            }
            if let Some(until) = now.silent_until.filter(|until| *until > Instant::now()) {
                tokio::select! {
                    () = sleep_until(until) => {}
                    _ = stream.orders.changed() => {}
                }
                continue;
            }
            tokio::select! {
                frame = stream.frames.next() => {
                    let frame = frame?;
                    return Some((frame.map(http_body::Frame::data), stream));
                }
                _ = stream.orders.changed() => {}
            }
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

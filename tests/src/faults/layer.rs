//! The layer in the operator's Kubernetes client: it sees every request, counts the writes, and does to each what the plan says.
//!
//! It stands between the client and the connection, so that the operator's own code knows nothing of it. Leases and Events are
//! not counted: the one has tests of its own, the other may be written twice. Events are refused for a while where the plan says so.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use jiff::Timestamp;
use kube::client::Body;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

use super::fault::{Fault, Kind, millis};
use super::proxy::Proxy;
use super::strike::{refusal, strike, version_of, whole};
use super::watches::{Orders, expired, watched};

pub(super) type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

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
    orders: watch::Sender<Orders>,
    crashes: watch::Sender<usize>,
    gate: watch::Sender<Gate>,
    source: Proxy,
}

#[derive(Debug)]
struct State {
    faults: VecDeque<Fault>,
    writes: Vec<Write>,
    sent: usize,
    requests: usize,
    life: usize,
    panics: bool,
    /// Where requests are to be held, once.
    place: Option<Place>,
    /// Until when Events are refused.
    unspoken: Option<Instant>,
    /// Watches that were told on connect that their version is gone, while each is to be told so once.
    refused: Option<BTreeSet<String>>,
}

/// Whether requests leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    /// They do, and the place is ahead, where there is one.
    Ahead,
    /// They are held at the place.
    Held,
    /// They do again.
    Passed,
}

/// A place in the course: after the n-th accepted write of this kind.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Method and target of the write, such as `PATCH httproutes/checkout`, and a word that its body has, where there is a third one.
    pub write: &'static str,
    /// Which of them, from 1.
    pub count: usize,
}

impl Place {
    fn is_at(self, write: &Write) -> bool {
        let mut words = self.write.split(' ');
        words.next() == Some(&write.method)
            && words.next() == Some(&write.target())
            && words.next().is_none_or(|word| write.body.to_string().contains(word))
    }
}

impl Tap {
    /// A tap that does this.
    pub fn new(faults: &[Fault], source: Proxy, place: Option<Place>) -> Arc<Self> {
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
                place,
                unspoken: None,
                refused: None,
            }),
            orders: watch::Sender::new(Orders::default()),
            crashes: watch::Sender::new(0),
            gate: watch::Sender::new(Gate::Ahead),
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

    /// Waits until the course has come to its place. From then on no request of the operator leaves until it is to go on.
    pub async fn at_its_place(&self) {
        let mut gate = self.gate.subscribe();
        // The sender lives as long as this.
        let _lives = gate.wait_for(|gate| *gate != Gate::Ahead).await;
    }

    /// The operator goes on.
    pub fn go_on(&self) {
        self.gate.send_replace(Gate::Passed);
    }

    /// The source that the operator asks.
    pub fn source(&self) -> &Proxy {
        &self.source
    }

    /// The faults that have not struck. One that strikes again and again has when it did once.
    pub fn left(&self) -> Vec<Fault> {
        let again = |fault: &&Fault| matches!(fault.kind, Kind::CrashEvery(every) if fault.at > usize::try_from(every).unwrap_or(usize::MAX));
        self.state()
            .faults
            .iter()
            .filter(|fault| !again(fault))
            .copied()
            .collect()
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
        while let Some(fault) = state.faults.front().copied().filter(|fault| fault.at <= number) {
            state.faults.pop_front();
            kinds.push(fault.kind);
            if let Kind::CrashEvery(every) = fault.kind {
                let at = number + usize::try_from(every).unwrap_or(1).max(1);
                state.faults.push_back(Fault { at, ..fault });
                break;
            }
        }
        (number, kinds)
    }

    pub(super) fn note(&self, write: Write) {
        let mut state = self.state();
        state.writes.push(write);
        let is_there = state.place.is_some_and(|place| {
            let is_place = |write: &&Write| write.is_accepted() && place.is_at(write);
            state.writes.iter().filter(is_place).count() >= place.count
        });
        if is_there {
            state.place = None;
            self.gate.send_replace(Gate::Held);
        }
    }

    pub(super) fn orders(&self) -> watch::Receiver<Orders> {
        self.orders.subscribe()
    }

    /// Waits while requests are held.
    async fn passes(&self) {
        let mut gate = self.gate.subscribe();
        let _lives = gate.wait_for(|gate| *gate != Gate::Held).await;
    }

    /// Whether this watch is to be told that its version is gone.
    fn refuses(&self, path: &str) -> bool {
        let mut state = self.state();
        state
            .refused
            .as_mut()
            .is_some_and(|refused| refused.insert(path.to_owned()))
    }

    /// Whether Events are refused now.
    fn hushes(&self) -> bool {
        self.state().unspoken.is_some_and(|until| Instant::now() < until)
    }

    pub(super) fn is_alive(&self, life: usize) -> bool {
        self.state().life == life
    }

    pub(super) fn crash(&self) {
        self.end_life();
        self.crashes.send_modify(|crashes| *crashes += 1);
    }

    pub(super) fn beside(&self, kind: Kind) {
        if kind == Kind::GoneOnConnect {
            self.state().refused = Some(BTreeSet::new());
        }
        if let Kind::Unspoken(how_long) = kind {
            self.state().unspoken = Some(Instant::now() + millis(how_long));
        }
        if let Kind::Source(malady, how_long) = kind {
            self.source.fall_ill(malady, millis(how_long));
        }
        self.orders.send_modify(|orders| orders.take(kind));
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
            if is_watch && tap.refuses(&path) {
                return Box::pin(async { gone() });
            }
            if path.ends_with("/events") && tap.hushes() {
                return Box::pin(async { refusal(503) });
            }
            let answer = self.inner.call(request);
            return Box::pin(async move {
                // Here, for this runs in the task that asks.
                assert!(!panics, "a panic on purpose");
                tap.passes().await;
                let answer = answer.await.map_err(Into::into)?;
                Ok(if is_watch && answer.status().is_success() {
                    answer.map(|body| watched(body, &tap, life, path))
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
            tap.passes().await;
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

/// The answer to a watch whose version is gone.
fn gone() -> Result<Answer, BoxError> {
    let answer = Response::builder()
        .status(StatusCode::GONE)
        .header("content-type", "application/json");
    Ok(answer.body(whole(Bytes::from(expired().to_string())))?)
}

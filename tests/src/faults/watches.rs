//! What a plan does to the operator's watches: they end, say that their version is gone, stay silent, hang half open, or bring their events
//! twice and out of order.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tower::BoxError;

use super::fault::{Kind, View, millis};
use super::layer::Tap;

/// How long an event waits for a neighbour to change places with.
const NEIGHBOUR: Duration = Duration::from_millis(100);

/// What all open watches are to do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Orders {
    cut: usize,
    gone: usize,
    hung: usize,
    hangs_until: Option<Instant>,
    silent: Option<(View, Instant)>,
    doubled_until: Option<Instant>,
}

impl Orders {
    /// Takes in what a fault says of watches; any other changes nothing.
    pub(super) fn take(&mut self, kind: Kind) {
        let until = |how_long| Some(Instant::now() + millis(how_long));
        match kind {
            Kind::CutWatches | Kind::GoneOnConnect => self.cut += 1,
            Kind::GoneWatches => self.gone += 1,
            Kind::Stale(view, how_long) => self.silent = until(how_long).map(|until| (view, until)),
            Kind::HalfOpen(how_long) => {
                self.hung += 1;
                self.hangs_until = until(how_long);
            }
            Kind::Doubled(how_long) => self.doubled_until = until(how_long),
            _ => {}
        }
    }

    fn silent_until(&self, path: &str) -> Option<Instant> {
        let (view, until) = self.silent?;
        (view.covers(path) && until > Instant::now()).then_some(until)
    }

    fn doubles(&self) -> bool {
        self.doubled_until.is_some_and(|until| until > Instant::now())
    }
}

/// What the API server says to a watch whose version it no longer has.
pub(super) fn expired() -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired",
        "message": "too old resource version, on purpose", "metadata": {},
    })
}

/// A watch's body under the tap's orders.
pub(super) fn watched<B>(body: B, tap: &Arc<Tap>, life: usize, path: String) -> UnsyncBoxBody<Bytes, BoxError>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let orders = tap.orders();
    let began = *orders.borrow();
    let frames = body.into_data_stream().map(|frame| frame.map_err(Into::into));
    let watch = Watch {
        frames: Box::pin(frames),
        partial: BytesMut::new(),
        due: VecDeque::new(),
        orders,
        began,
        tap: Arc::clone(tap),
        life,
        path,
        ended: false,
    };
    let events = futures::stream::unfold(watch, |mut watch| async move {
        let event = watch.next().await?;
        Some((event.map(http_body::Frame::data), watch))
    });
    BodyExt::boxed_unsync(StreamBody::new(events))
}

struct Watch {
    frames: Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>,
    /// The beginning of the next event.
    partial: BytesMut,
    /// Events that are to come next.
    due: VecDeque<Bytes>,
    orders: watch::Receiver<Orders>,
    began: Orders,
    tap: Arc<Tap>,
    life: usize,
    path: String,
    ended: bool,
}

impl Watch {
    /// The next event, or what a plan puts in its place.
    async fn next(&mut self) -> Option<Result<Bytes, BoxError>> {
        loop {
            if self.ended || !self.tap.is_alive(self.life) {
                return None;
            }
            let now = *self.orders.borrow_and_update();
            if now.cut > self.began.cut {
                return None;
            }
            if now.gone > self.began.gone {
                self.ended = true;
                let gone = json!({"type": "ERROR", "object": expired()});
                return Some(Ok(Bytes::from(format!("{gone}\n"))));
            }
            if now.hung > self.began.hung {
                self.ended = true;
                if let Some(until) = now.hangs_until {
                    sleep_until(until).await;
                }
                return Some(Err("the connection was half open".into()));
            }
            if let Some(until) = now.silent_until(&self.path) {
                tokio::select! {
                    () = sleep_until(until) => {}
                    _ = self.orders.changed() => {}
                }
                continue;
            }
            if let Some(event) = self.due.pop_front() {
                return Some(Ok(event));
            }
            let mut orders = self.orders.clone();
            let event = tokio::select! {
                event = self.event() => event?,
                _ = orders.changed() => continue,
            };
            match event {
                Ok(event) if now.doubles() => self.double(event).await,
                event => return Some(event),
            }
        }
    }

    /// The next event of the API server: one line. Nothing is lost when it is not waited for to the end.
    async fn event(&mut self) -> Option<Result<Bytes, BoxError>> {
        loop {
            if let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
                return Some(Ok(self.partial.split_to(end + 1).freeze()));
            }
            match self.frames.next().await {
                Some(Ok(frame)) => self.partial.extend_from_slice(&frame),
                Some(Err(error)) => return Some(Err(error)),
                None if self.partial.is_empty() => return None,
                None => return Some(Ok(self.partial.split().freeze())),
            }
        }
    }

    /// Puts an event in line twice, and its neighbour before it where that is of another object.
    async fn double(&mut self, event: Bytes) {
        let neighbour = match timeout(NEIGHBOUR, self.event()).await {
            Ok(Some(Ok(neighbour))) => Some(neighbour),
            _ => None,
        };
        let mut events = vec![event];
        if let Some(neighbour) = neighbour {
            let swaps = events.first().is_some_and(|first| object(first) != object(&neighbour));
            events.insert(usize::from(!swaps), neighbour);
        }
        for event in events {
            self.due.push_back(event.clone());
            self.due.push_back(event);
        }
    }
}

/// Whose event it is.
fn object(event: &[u8]) -> Option<String> {
    let event: Value = serde_json::from_slice(event).ok()?;
    let uid = event.pointer("/object/metadata/uid")?.as_str()?;
    Some(uid.to_owned())
}

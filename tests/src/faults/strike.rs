//! What a plan does to one write: it is lost, refused, late, or the process ends with it.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::time::sleep;
use tower::BoxError;

use super::fault::{Kind, millis};
use super::layer::{Answer, Tap, Write};

/// How long a lost write keeps its sender waiting.
const SILENCE: Duration = Duration::from_millis(50);

/// Sends a write, or does to it what is to be done. The request's future does nothing until it is polled.
pub(super) async fn strike<B>(
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
            Kind::CrashAfter | Kind::CrashEvery(_) | Kind::Unheard => {}
            beside => tap.beside(*beside),
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
    if kinds
        .iter()
        .any(|kind| matches!(kind, Kind::CrashAfter | Kind::CrashEvery(_)))
    {
        tap.crash();
        return std::future::pending().await;
    }
    if kinds.contains(&Kind::Unheard) {
        sleep(SILENCE).await;
        return Err("the connection was lost after the request".into());
    }
    Ok(Response::from_parts(parts, whole(body)))
}

pub(super) fn version_of(object: &Value) -> Option<u64> {
    let version = object.pointer("/metadata/resourceVersion")?.as_str()?;
    version.parse().ok()
}

pub(super) fn whole(body: Bytes) -> UnsyncBoxBody<Bytes, BoxError> {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

/// What the API server says with this status code.
pub(super) fn refusal(code: u16) -> Result<Answer, BoxError> {
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

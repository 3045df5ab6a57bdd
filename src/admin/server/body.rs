//! Bodies of the admin API: read within bounds, written as JSON.
//!
//! Knows nothing of what they mean.

use bytes::Bytes;
use futures_util::stream;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue};
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::admin::api::{ApiError, Code};

/// The body of an answer. An error cuts the connection, so that a part is never taken for the whole.
pub(super) type Body = UnsyncBoxBody<Bytes, ApiError>;

/// Reads a body of at most `max` bytes.
///
/// # Errors
/// It is larger, or the connection broke.
pub(super) async fn read(body: Incoming, max: usize) -> Result<Bytes, ApiError> {
    match Limited::new(body, max).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(ApiError::new(Code::TooLarge, format!("the request body is larger than {max} bytes")))
        }
        Err(error) => Err(ApiError::invalid(format!("the request body broke off: {error}"))),
    }
}

/// Reads a body that must be JSON.
///
/// # Errors
/// As [`read`], and where it is not JSON.
pub(super) async fn read_json(body: Incoming, max: usize) -> Result<Value, ApiError> {
    let bytes = read(body, max).await?;
    if bytes.is_empty() {
        return Err(ApiError::invalid("the request has no body").hint("send the definition as a JSON object"));
    }
    serde_json::from_slice(&bytes).map_err(|error| ApiError::invalid(format!("the request body is not JSON: {error}")))
}

/// An answer in JSON, one line.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(mut text) => {
            text.push(b'\n');
            typed(status, "application/json", text.into())
        }
        Err(error) => refusal(&ApiError::new(Code::Internal, format!("the answer cannot be written: {error}"))),
    }
}

/// An answer in JSON that carries the version of what it shows.
pub(super) fn versioned(status: StatusCode, version: &str, value: &impl Serialize) -> Response<Body> {
    let mut response = json(status, value);
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{version}\"")) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

/// A refusal.
pub(super) fn refusal(error: &ApiError) -> Response<Body> {
    let text = serde_json::to_vec(error).unwrap_or_else(|_| br#"{"code":"internal","message":"?"}"#.to_vec());
    typed(error.code.status(), "application/json", text.into())
}

/// A refusal of the method.
pub(super) fn wrong_method(error: &ApiError, allowed: &str) -> Response<Body> {
    let mut response = refusal(error);
    if let Ok(allowed) = HeaderValue::from_str(allowed) {
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

/// An answer as it is.
pub(super) fn typed(status: StatusCode, kind: &'static str, text: Bytes) -> Response<Body> {
    let body = Full::new(text).map_err(|never| match never {}).boxed_unsync();
    with_kind(status, kind, body)
}

/// Values as JSON, one a line, until they end or the server stops.
pub(super) fn lines<T>(mut lines: mpsc::Receiver<T>, stop: CancellationToken) -> Response<Body>
where
    T: Serialize + Send + 'static,
{
    let mut stopped = Box::pin(stop.cancelled_owned());
    let frames = stream::poll_fn(move |context| {
        if stopped.as_mut().poll(context).is_ready() {
            return std::task::Poll::Ready(None);
        }
        lines.poll_recv(context).map(|line| {
            line.map(|line| {
                let mut text = serde_json::to_vec(&line)
                    .map_err(|error| ApiError::new(Code::Internal, format!("a line cannot be written: {error}")))?;
                text.push(b'\n');
                Ok(Frame::data(text.into()))
            })
        })
    });
    with_kind(StatusCode::OK, "application/jsonl", StreamBody::new(frames).boxed_unsync())
}

/// Parts as they come.
pub(super) fn parts(mut parts: mpsc::Receiver<Result<Bytes, ApiError>>) -> Body {
    let frames =
        stream::poll_fn(move |context| parts.poll_recv(context).map(|part| part.map(|part| part.map(Frame::data))));
    StreamBody::new(frames).boxed_unsync()
}

fn with_kind(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // The text of a log line or an error must not run as a page.
    headers.insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

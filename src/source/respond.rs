//! The one place where a failure becomes an HTTP answer: status, `Retry-After`, and a body for a machine or a person.
//!
//! hyper answers by itself, with an empty body, what it cannot parse: 400, 414 and 431. Knows nothing of how failures
//! come about.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;

use crate::failure::{Failure, Phase};
use crate::proxy::{Body, headers};

/// When a new try makes sense where there is no memory: far apart, since each looks at all nodes again, and near enough
/// that a page reloads by itself.
const NO_ROOM: Duration = Duration::from_secs(5);

/// Why a request was not even looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its end is ambiguous.
    #[error("the request has both Content-Length and Transfer-Encoding; allowed is one of them")]
    TwoLengths,
    /// Not exactly one `Host` that is a host.
    #[error("the request needs exactly one valid Host header")]
    Host,
    /// We are no forward proxy.
    #[error("CONNECT is not supported")]
    Connect,
}

impl Refusal {
    fn status(self) -> (StatusCode, &'static str) {
        match self {
            Self::TwoLengths | Self::Host => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::Connect => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
        }
    }
}

/// How the client wants to read a failure, taken from its request before that is forwarded.
#[derive(Debug, Clone)]
pub struct Reader {
    accept: Option<HeaderValue>,
    grpc: bool,
}

impl Reader {
    /// Looks at `Accept` and `Content-Type`.
    pub fn of(request: &HeaderMap) -> Self {
        Self { accept: request.get(header::ACCEPT).cloned(), grpc: headers::is_grpc(request) }
    }

    /// Text is for those who ask for some kind of it and not for JSON, as browsers do.
    fn wants_text(&self) -> bool {
        let accept = self.accept.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default();
        accept.contains("text/") && !accept.contains("application/json")
    }
}

#[derive(Serialize)]
struct Problem<'a> {
    error: String,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<Phase>,
    #[serde(skip_serializing_if = "Option::is_none")]
    component: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    log: &'a [String],
}

/// The answer to a request that failed.
pub fn failed(failure: &Failure, reader: &Reader) -> Response<Body> {
    use Failure as F;
    let (status, code, phase, component) = match failure {
        F::NoRoute => (StatusCode::NOT_FOUND, "no_route", None, None),
        F::NoComponent(name) => (StatusCode::NOT_FOUND, "no_component", None, Some(name)),
        F::QueueFull { component, .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, "queue_full", Some(Phase::Queue), Some(component))
        }
        F::Deadline { component, phase, .. } => {
            (StatusCode::GATEWAY_TIMEOUT, "deadline", Some(*phase), Some(component))
        }
        F::NotStarted { component, phase, .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, "not_started", Some(*phase), Some(component))
        }
        F::NoRoom { component, .. } | F::Nowhere { component, .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, "no_capacity", Some(Phase::Start), Some(component))
        }
        F::Elsewhere(component) => (StatusCode::SERVICE_UNAVAILABLE, "elsewhere", Some(Phase::Queue), Some(component)),
        F::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining", None, None),
        F::Upstream { component, .. } => (StatusCode::BAD_GATEWAY, "upstream", Some(Phase::Handler), Some(component)),
        F::BodyTooLarge { component, .. } => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", None, Some(component)),
    };
    let retry_after = match failure {
        F::QueueFull { retry_after, .. } | F::NotStarted { retry_after, .. } => Some(*retry_after),
        // Another node answers at once; a second is the least that can be said.
        F::Draining | F::Elsewhere(_) => Some(Duration::from_secs(1)),
        // Memory comes free when something was unused for its idle timeout; nobody knows when.
        F::NoRoom { .. } | F::Nowhere { .. } => Some(NO_ROOM),
        F::NoRoute | F::NoComponent(_) | F::Deadline { .. } | F::Upstream { .. } | F::BodyTooLarge { .. } => None,
    };
    let log: &[String] = if let F::NotStarted { log, .. } = failure { log } else { &[] };
    let component = component.map(|name| name.as_str());
    let mut response = build(status, &Problem { error: failure.to_string(), code, phase, component, log }, reader);
    if let Some(after) = retry_after {
        // Whole seconds, never 0: "now" would be asked for in a loop.
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    response
}

/// The answer to a request that is refused. An HTTP/1 connection (`close`) ends with it: what follows is not to be
/// trusted. Over HTTP/2 requests cannot run into each other, and the header that closes does not exist.
pub fn refused(refusal: Refusal, reader: &Reader, close: bool) -> Response<Body> {
    let (status, code) = refusal.status();
    let problem = Problem { error: refusal.to_string(), code, phase: None, component: None, log: &[] };
    let mut response = build(status, &problem, reader);
    if close {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The answer to a load balancer that asks whether this node takes requests.
pub fn health(draining: bool) -> Response<Body> {
    let (status, text) =
        if draining { (StatusCode::SERVICE_UNAVAILABLE, "draining\n") } else { (StatusCode::OK, "ok\n") };
    plain(status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

fn build(status: StatusCode, problem: &Problem<'_>, reader: &Reader) -> Response<Body> {
    if reader.grpc {
        return grpc(status, &problem.error);
    }
    if reader.wants_text() {
        let mut text = format!("{}\n", problem.error);
        for line in problem.log {
            text.push_str(line);
            text.push('\n');
        }
        return plain(status, "text/plain; charset=utf-8", text.into());
    }
    let json = serde_json::to_vec(problem).unwrap_or_default();
    plain(status, "application/json", json.into())
}

/// A gRPC client reads its status from the head of an answer without body ("trailers only"), always with 200.
fn grpc(status: StatusCode, message: &str) -> Response<Body> {
    // Codes of the gRPC specification: what a client may try again is UNAVAILABLE.
    let code = match status {
        StatusCode::NOT_FOUND => 12,
        StatusCode::GATEWAY_TIMEOUT => 4,
        StatusCode::PAYLOAD_TOO_LARGE => 8,
        StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED => 13,
        _ => 14,
    };
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(code));
    if let Ok(text) = HeaderValue::try_from(text) {
        headers.insert("grpc-message", text);
    }
    response
}

fn plain(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(accept: &'static str) -> Reader {
        Reader { accept: Some(HeaderValue::from_static(accept)), grpc: false }
    }

    #[test]
    fn every_failure_has_the_status_of_the_manual() {
        let component = || "api".parse().expect("a name");
        let second = Duration::from_millis(1500);
        for (failure, status, retry) in [
            (Failure::NoRoute, 404, None),
            (Failure::NoComponent(component()), 404, None),
            (
                Failure::QueueFull { component: component(), what: "10 events".into(), retry_after: second },
                503,
                Some("2"),
            ),
            (Failure::Deadline { component: component(), phase: Phase::Pull, limit: second }, 504, None),
            (
                Failure::NotStarted {
                    component: component(),
                    phase: Phase::Start,
                    reason: "no".into(),
                    log: vec![],
                    retry_after: Duration::ZERO,
                },
                503,
                Some("1"),
            ),
            (Failure::Draining, 503, Some("1")),
            (Failure::Elsewhere(component()), 503, Some("1")),
            (Failure::Nowhere { component: component(), reason: "node n1 is draining".into() }, 503, Some("5")),
            (
                Failure::NoRoom {
                    component: component(),
                    reserve: "1GiB".into(),
                    left: "0".into(),
                    capacity: "1GiB".into(),
                },
                503,
                Some("5"),
            ),
            (Failure::Upstream { component: component(), sent: true, reason: "reset".into() }, 502, None),
            (Failure::BodyTooLarge { component: component(), limit: 1 }, 413, None),
        ] {
            let response = failed(&failure, &reader("*/*"));
            assert_eq!(response.status().as_u16(), status, "{failure}");
            assert_eq!(response.headers().get("retry-after").map(|value| value.to_str().expect("text")), retry);
        }
    }

    #[test]
    fn a_browser_reads_text_and_everyone_else_json() {
        for (accept, text) in [
            ("text/html,application/xhtml+xml,*/*;q=0.8", true),
            ("*/*", false),
            ("application/json, text/plain, */*", false),
        ] {
            assert_eq!(reader(accept).wants_text(), text, "{accept}");
        }
    }

    #[test]
    fn a_grpc_client_reads_its_own_status() {
        let reader = Reader { accept: None, grpc: true };
        let response = failed(&Failure::Draining, &reader);
        assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &HeaderValue::from(14)));
    }
}

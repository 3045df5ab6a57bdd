//! `invoke` on the wire: an event made by hand goes out as it is, and the component's answer comes back as it is.
//!
//! The event's method, path and headers travel beside those of the admin request: method and path in the query, each
//! header as one `maelstrom-header: name: value`. So do status, headers and timing of the answer, whose body follows
//! as it comes. Bodies are bytes: nothing is encoded. Knows nothing of how the event is delivered.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response};
use hyper::body::Incoming;

use crate::admin::api::{ApiError, Code, Control, INVOKE_BODY_MAX, Invoke};
use crate::admin::server::body::{self, Body};
use crate::admin::server::query::Query;
use crate::id::ComponentName;

/// Carries one header of the event or of its answer.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("maelstrom-header");
/// Carries the status of the component's answer.
pub(crate) const STATUS: HeaderName = HeaderName::from_static("maelstrom-status");
/// Carries the timing of the answer as JSON.
pub(crate) const TIMING: HeaderName = HeaderName::from_static("maelstrom-timing");

/// The longest that an event may take: an hour, beyond which a connection is more likely lost than waited for.
const LONGEST: Duration = Duration::from_secs(3600);

/// Parameters of the path.
pub(super) const QUERY: &[&str] = &["method", "path", "timeout_ms"];

/// Answers one `invoke`.
pub(super) async fn invoke(
    control: &Arc<dyn Control>,
    component: ComponentName,
    query: &Query,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Response<Body>, ApiError> {
    let method = query.text("method").unwrap_or("POST");
    let method: Method = method
        .parse()
        .map_err(|_| ApiError::invalid(format!("query parameter method is {method:?}; allowed is GET, POST, ...")))?;
    let path = query.text("path").unwrap_or("/");
    let fits = path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok();
    if !fits {
        return Err(ApiError::invalid(format!("query parameter path is {path:?}; allowed is /PATH[?QUERY]")));
    }
    let longest = u64::try_from(LONGEST.as_millis()).unwrap_or(u64::MAX);
    let timeout = query.number("timeout_ms", longest)?.map(Duration::from_millis);
    let headers = unpack(headers)?;
    let body = body::read(body, INVOKE_BODY_MAX).await?;

    let event = Invoke { method, path: path.to_owned(), headers, body, timeout };
    let answered = tokio::time::timeout(timeout.unwrap_or(LONGEST), control.invoke(component, event)).await;
    let invoked = answered.map_err(|_| {
        ApiError::new(Code::Timeout, format!("the component did not answer within {:?}", timeout.unwrap_or(LONGEST)))
    })??;

    let mut response = Response::new(body::parts(invoked.body));
    let head = response.headers_mut();
    head.insert(STATUS, HeaderValue::from(invoked.status.as_u16()));
    if let Ok(timing) = serde_json::to_string(&invoked.timing)
        && let Ok(timing) = HeaderValue::from_str(&timing)
    {
        head.insert(TIMING, timing);
    }
    pack(&invoked.headers, head);
    Ok(response)
}

/// Puts each header into one of ours.
pub(crate) fn pack(headers: &HeaderMap, into: &mut HeaderMap) {
    for (name, value) in headers {
        let line = [name.as_str().as_bytes(), b": ", value.as_bytes()].concat();
        if let Ok(line) = HeaderValue::from_bytes(&line) {
            into.append(HEADER, line);
        }
    }
}

/// Takes headers out of ours.
///
/// # Errors
/// One is not `name: value`.
pub(crate) fn unpack(from: &HeaderMap) -> Result<HeaderMap, ApiError> {
    let mut headers = HeaderMap::new();
    for line in from.get_all(HEADER) {
        let line = line.as_bytes();
        let at = line.iter().position(|&b| b == b':');
        let (name, value) = line.split_at(at.unwrap_or(line.len()));
        let value = value.strip_prefix(b":").unwrap_or(value).trim_ascii();
        match (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            (Ok(name), Ok(value)) if at.is_some() => headers.append(name, value),
            _ => {
                let line = String::from_utf8_lossy(line);
                return Err(ApiError::invalid(format!("maelstrom-header is {line:?}; allowed is NAME: VALUE")));
            }
        };
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_were_packed_come_out_as_they_were() {
        let mut headers = HeaderMap::new();
        headers.append("x-a", HeaderValue::from_static("1: 2"));
        headers.append("x-a", HeaderValue::from_static("3"));
        headers.append("x-b", HeaderValue::from_bytes(b"\xff").expect("a value"));
        let mut packed = HeaderMap::new();
        pack(&headers, &mut packed);
        assert_eq!(unpack(&packed).expect("headers"), headers);
    }

    #[test]
    fn a_header_without_a_colon_is_refused() {
        let mut packed = HeaderMap::new();
        packed.append(HEADER, HeaderValue::from_static("nothing"));
        assert!(unpack(&packed).is_err());
    }
}

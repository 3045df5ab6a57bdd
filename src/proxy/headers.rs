//! Headers between outside and inside: what belongs to one connection only is removed, what only we may say is removed
//! and said by us.
//!
//! Knows nothing of bodies or connections. The order is always: strip, then set, so that a client can neither forge
//! one of our headers nor name it in `Connection` to make it vanish.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Version, request, response};

use crate::id::ComponentName;

/// The id of the request, on its way in and out.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("maelstrom-request-id");
/// Milliseconds that are left to the handler; relative, so that clocks need not agree.
pub const DEADLINE_MS: HeaderName = HeaderName::from_static("maelstrom-deadline-ms");
/// The component that is asked.
pub const COMPONENT: HeaderName = HeaderName::from_static("maelstrom-component");

/// `at-most-once` on an event that must not be sent again.
pub const DELIVERY: HeaderName = HeaderName::from_static("maelstrom-delivery");

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// Headers that we add to a request at most; room for them is made once.
const ADDED: usize = 10;

/// Where a request came from, worked out once per connection.
#[derive(Debug, Clone)]
pub struct Origin(Whence);

#[derive(Debug, Clone)]
enum Whence {
    /// A client.
    Outside(Outside),
    /// A client whose address is no header value.
    Unknown,
    /// We ourselves, and what we say of the event.
    Inside(HeaderMap),
}

#[derive(Debug, Clone)]
struct Outside {
    client: HeaderValue,
    port: HeaderValue,
    /// `for=...;proto=http;host=`
    forwarded: String,
}

impl Origin {
    /// A client at `client` that connected to `local` without TLS.
    pub fn outside(client: IpAddr, local: SocketAddr) -> Self {
        let client = client.to_canonical();
        let node = match client {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("\"[{address}]\""),
        };
        let Ok(value) = HeaderValue::from_str(&client.to_string()) else { return Self(Whence::Unknown) };
        Self(Whence::Outside(Outside {
            client: value,
            port: HeaderValue::from(local.port()),
            forwarded: format!("for={node};proto=http;host="),
        }))
    }

    /// We ourselves: a schedule, a queue, an invocation. No forwarding headers are set; `said` are the `maelstrom-*`
    /// headers by which the event says what it is, and take the place of any that the request has.
    pub fn inside(said: HeaderMap) -> Self {
        Self(Whence::Inside(said))
    }
}

/// What a request is marked with.
#[derive(Debug)]
pub(crate) struct Marks<'a> {
    pub(crate) origin: &'a Origin,
    pub(crate) component: &'a ComponentName,
    pub(crate) request_id: HeaderValue,
    /// Keeps `Upgrade`.
    pub(crate) upgrade: Option<HeaderValue>,
}

/// The protocol that an HTTP/1.1 client wants to change to. HTTP/2 is not one: it would pass through unseen.
pub(crate) fn upgrade(parts: &request::Parts) -> Option<HeaderValue> {
    let value = parts.headers.get(header::UPGRADE)?;
    if parts.version != Version::HTTP_11 || !has_token(&parts.headers, &header::CONNECTION, "upgrade") {
        return None;
    }
    let text = value.to_str().ok()?;
    let http2 = text.split(',').any(|token| {
        let token = token.trim();
        token.eq_ignore_ascii_case("h2c") || token.eq_ignore_ascii_case("h2")
    });
    (!http2).then(|| value.clone())
}

/// Whether it is a gRPC call, which goes to the instance over HTTP/2.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

/// Whether a comma-separated header has a token.
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|found| found.trim().eq_ignore_ascii_case(token)))
}

/// Makes the head of a request from outside (or from ourselves) one for an instance. The URI is in origin form after.
pub(crate) fn to_instance(parts: &mut request::Parts, marks: &Marks<'_>) {
    // `TE` speaks of this connection only, but we do pass trailers on.
    let trailers = parts.headers.contains_key(header::TE) && has_token(&parts.headers, &header::TE, "trailers");
    let authority = parts.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    let host = authority.or_else(|| parts.headers.get(header::HOST).cloned());
    strip_outside(&mut parts.headers);
    if parts.version == Version::HTTP_2 {
        join_cookies(&mut parts.headers);
    }
    let headers = &mut parts.headers;
    headers.reserve(ADDED);
    if let Some(host) = &host {
        headers.insert(header::HOST, host.clone());
    }
    if let Whence::Inside(said) = &marks.origin.0 {
        headers.extend(said.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    if let Whence::Outside(outside) = &marks.origin.0 {
        headers.insert(FORWARDED_FOR, outside.client.clone());
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
        headers.insert(FORWARDED_PORT, outside.port.clone());
        if let Some(host) = host {
            if let Some(forwarded) = forwarded(&outside.forwarded, &host) {
                headers.insert(header::FORWARDED, forwarded);
            }
            headers.insert(FORWARDED_HOST, host);
        }
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = &marks.upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
    if let Ok(component) = HeaderValue::from_str(marks.component.as_str()) {
        headers.insert(COMPONENT, component);
    }
    headers.insert(REQUEST_ID, marks.request_id.clone());
}

/// Says how much time is left; set anew on each try.
pub(crate) fn set_remaining(headers: &mut HeaderMap, left: Duration) {
    headers.insert(DEADLINE_MS, HeaderValue::from(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)));
}

/// Makes the head of an instance's answer one for the client.
pub(crate) fn to_client(parts: &mut response::Parts, request_id: HeaderValue, upgraded: bool) {
    let protocol = if upgraded { parts.headers.get(header::UPGRADE).cloned() } else { None };
    strip_inside(&mut parts.headers);
    if let Some(protocol) = protocol {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, protocol);
    }
    parts.headers.insert(REQUEST_ID, request_id);
    // What the instance speaks is no business of the client; the server side knows what the client speaks.
    parts.version = Version::HTTP_11;
}

/// Removes from a request what is for one connection only or what only we may say.
pub(crate) fn strip_outside(headers: &mut HeaderMap) {
    strip(headers, |name| hop_by_hop(name) || ours(name) || forwarding(name) || name == "expect");
}

/// Removes from an answer what is for one connection only or what only we may say.
pub(crate) fn strip_inside(headers: &mut HeaderMap) {
    strip(headers, |name| hop_by_hop(name) || ours(name));
}

fn strip(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    // Usually empty, and then it allocates nothing.
    let mut names: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name.as_str())).cloned().collect();
    for value in headers.get_all(header::CONNECTION) {
        let tokens = value.to_str().unwrap_or_default().split(',').map(str::trim);
        names.extend(tokens.filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok()));
    }
    for name in names {
        headers.remove(name);
    }
}

/// `Trailer` is not among them: it announces what we pass on.
fn hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

fn ours(name: &str) -> bool {
    begins(name, "maelstrom-")
}

fn forwarding(name: &str) -> bool {
    name == "forwarded" || begins(name, "x-forwarded-")
}

/// `_` counts as `-`: handlers behind CGI or WSGI cannot tell them apart, so `X_Forwarded_For` would pass for ours.
fn begins(name: &str, prefix: &str) -> bool {
    let (name, prefix) = (name.as_bytes(), prefix.as_bytes());
    name.len() >= prefix.len()
        && name[0] == prefix[0]
        && name.iter().zip(prefix).all(|(&found, &wanted)| found == wanted || (found == b'_' && wanted == b'-'))
}

/// An HTTP/2 client may send its cookies one by one; over HTTP/1.1 they are one header.
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (cookies.next(), cookies.next()) else { return };
    let mut all = first.as_bytes().to_vec();
    for cookie in std::iter::once(second).chain(cookies) {
        all.extend_from_slice(b"; ");
        all.extend_from_slice(cookie.as_bytes());
    }
    if let Ok(all) = HeaderValue::from_bytes(&all) {
        headers.insert(header::COOKIE, all);
    }
}

/// The host is quoted if it is more than a token, as one with a port is. A host with quotes of its own is left out.
fn forwarded(prefix: &str, host: &HeaderValue) -> Option<HeaderValue> {
    let host = host.to_str().ok()?;
    if host.contains(['"', '\\']) {
        return None;
    }
    let mut text = String::with_capacity(prefix.len() + host.len() + 2);
    text.push_str(prefix);
    if host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')) {
        text.push_str(host);
    } else {
        write!(text, "\"{host}\"").ok()?;
    }
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(headers: &[(&'static str, &str)]) -> request::Parts {
        let mut request = http::Request::builder().uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn marked(headers: &[(&'static str, &str)]) -> HeaderMap {
        let mut parts = parts(headers);
        let marks = Marks {
            origin: &Origin::outside([192, 0, 2, 7].into(), ([127, 0, 0, 1], 8008).into()),
            component: &"api".parse().expect("a name"),
            request_id: HeaderValue::from_static("1"),
            upgrade: None,
        };
        to_instance(&mut parts, &marks);
        parts.headers
    }

    #[test]
    fn what_a_client_says_about_its_way_is_replaced() {
        let headers = marked(&[
            ("host", "example.com:8008"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-prefix", "/evil"),
            ("forwarded", "for=10.0.0.1"),
            ("maelstrom-deadline-ms", "1"),
            ("maelstrom-anything", "1"),
            ("x_forwarded_for", "10.0.0.1"),
            ("maelstrom_component", "evil"),
            ("connection", "x-forwarded-for, maelstrom-component, x-custom, host"),
            ("x-custom", "gone"),
        ]);
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(headers["x-forwarded-host"], "example.com:8008");
        assert_eq!(headers["x-forwarded-port"], "8008");
        assert_eq!(headers["forwarded"], "for=192.0.2.7;proto=http;host=\"example.com:8008\"");
        assert_eq!(headers["maelstrom-component"], "api");
        assert_eq!(headers["host"], "example.com:8008");
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "forwarded",
                "host",
                "maelstrom-component",
                "maelstrom-request-id",
                "x-forwarded-for",
                "x-forwarded-host",
                "x-forwarded-port",
                "x-forwarded-proto"
            ]
        );
    }

    #[test]
    fn cookies_of_an_http2_client_become_one_header() {
        let mut headers = parts(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]).headers;
        join_cookies(&mut headers);
        assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }

    #[test]
    fn of_te_only_trailers_is_passed_on() {
        assert_eq!(marked(&[("te", "gzip, trailers")])["te"], "trailers");
        assert!(!marked(&[("te", "gzip")]).contains_key("te"));
    }

    #[test]
    fn an_upgrade_to_http2_is_no_upgrade() {
        let websocket = parts(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(upgrade(&websocket), Some(HeaderValue::from_static("websocket")));
        assert_eq!(upgrade(&parts(&[("connection", "upgrade"), ("upgrade", "h2c")])), None);
        assert_eq!(upgrade(&parts(&[("upgrade", "websocket")])), None);
    }

    #[test]
    fn grpc_is_told_from_what_only_looks_like_it() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; x=1", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc(&parts(&[("content-type", kind)]).headers), expected, "{kind}");
        }
    }
}

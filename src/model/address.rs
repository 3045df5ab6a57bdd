//! The syntax of hosts, path prefixes and request targets, and the one form of each that is compared.
//!
//! Knows nothing of routes or requests.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::model::invalid::Refusal;

const HOST_FORM: &str = "a host name without port such as api.example.com, *.example.com, or an IP address";
const PREFIX_FORM: &str = "a path such as /api/v1: starts with /, whole segments, percent-encoded, no query";
const TARGET_FORM: &str = "a path such as /tasks/clean?all=1: starts with /, percent-encoded";

/// The longest host name and its longest label in bytes: RFC 1035.
const HOST_MAX: usize = 253;
const LABEL_MAX: usize = 63;
/// The longest path in bytes. Request lines beyond 8 KiB are refused by common servers; a quarter of that leaves
/// room for what the client adds behind a prefix.
const PATH_MAX: usize = 2048;

/// Reads a host as a route names it: lower case, no last dot, IPv6 shortened and in brackets as in a `Host` header,
/// `*` only as the whole first label.
///
/// # Errors
/// A port, a scheme, letters beyond ASCII, labels that DNS does not have.
pub fn parse_host(text: &str) -> Result<String, Refusal> {
    let refuse = |problem: &str| Err(Refusal::new(problem, HOST_FORM));
    if text.contains('/') {
        return refuse("has a / in it: the path is a field of its own, and a scheme is not told apart");
    }
    if let Some(inner) = text.strip_prefix('[') {
        return match inner.strip_suffix(']').map(str::parse::<Ipv6Addr>) {
            Some(Ok(address)) => Ok(format!("[{address}]")),
            None if inner.contains("]:") => refuse("has a port, and routes do not tell ports apart"),
            Some(Err(_)) | None => refuse("is not an IPv6 address"),
        };
    }
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Ok(format!("[{address}]"));
    }
    if text.contains(':') {
        return refuse("has a port, and routes do not tell ports apart");
    }
    if !text.is_ascii() {
        return refuse("has letters beyond ASCII: give its xn-- form");
    }
    let host = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let domain = host.strip_prefix("*.").unwrap_or(&host);
    if domain.contains('*') {
        return refuse("has a * that is not the whole first label; leave the host out to match any");
    }
    if host.len() > HOST_MAX {
        return refuse("is longer than 253 bytes");
    }
    if !domain.split('.').all(is_label) {
        return refuse("has a label that is not 1 to 63 of [a-z0-9_-] with no - at its ends");
    }
    let last = domain.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|b| b.is_ascii_digit());
    if numeric && (domain != host || domain.parse::<Ipv4Addr>().is_err()) {
        return refuse("ends with a number and is not an IPv4 address");
    }
    Ok(host)
}

fn is_label(label: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    (1..=LABEL_MAX).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(inner)
}

/// Reads a path prefix: no `/` at its end unless it is the root. Percent-encoding is kept as it is.
///
/// # Errors
/// No `/` at its start, a query, empty segments, `.` and `..` (encoded too), `*`.
pub fn parse_prefix(text: &str) -> Result<String, Refusal> {
    let refuse = |problem: &str| Err(Refusal::new(problem, PREFIX_FORM));
    check_characters(text, PREFIX_FORM)?;
    if text.contains('?') {
        return refuse("has a query, and routes compare paths only");
    }
    let path = if text.len() > 1 { text.strip_suffix('/').unwrap_or(text) } else { text };
    for segment in path.split('/').skip(1).filter(|_| text != "/") {
        let plain = segment.replace("%2e", ".").replace("%2E", ".");
        match plain.as_str() {
            "" => return refuse("has an empty segment"),
            "." | ".." => return refuse("has a . or .. segment, which clients resolve before they send it"),
            "*" | "**" => return refuse("has a *, and a prefix already matches everything below it"),
            _ => {}
        }
    }
    Ok(path.to_owned())
}

/// Checks the target of a request that we make ourselves: a path with an optional query.
///
/// # Errors
/// No `/` at its start, a fragment, characters that must be percent-encoded.
pub fn check_target(text: &str) -> Result<(), Refusal> {
    check_characters(text, TARGET_FORM)
}

fn check_characters(text: &str, form: &str) -> Result<(), Refusal> {
    let refuse = |problem: String| Err(Refusal::new(problem, form));
    if !text.starts_with('/') {
        return refuse("does not start with /".to_owned());
    }
    if text.len() > PATH_MAX {
        return refuse(format!("is longer than {PATH_MAX} bytes"));
    }
    // RFC 3986: unreserved, sub-delims, `:` and `@`, the separators, and `%`.
    let taken = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/?%".contains(c);
    if let Some(found) = text.chars().find(|c| !taken(*c)) {
        return refuse(format!("has {found:?}, which a path holds percent-encoded only"));
    }
    let hex = |digits: Option<&str>| digits.is_some_and(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
    if text.match_indices('%').any(|(at, _)| !hex(text.get(at + 1..at + 3))) {
        return refuse("has a % that is not followed by two hexadecimal digits".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hosts_have_one_form() {
        for (text, host) in [
            ("API.Example.com", "api.example.com"),
            ("example.com.", "example.com"),
            ("*.Example.com", "*.example.com"),
            ("localhost", "localhost"),
            ("my_host", "my_host"),
            ("10.0.0.1", "10.0.0.1"),
            ("[0:0::1]", "[::1]"),
            ("FE80::1", "[fe80::1]"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(parse_host(text).expect(text), host);
        }
    }

    #[test]
    fn what_is_no_host_is_refused_with_its_reason() {
        for (text, word) in [
            ("example.com:80", "port"),
            ("[::1]:80", "port"),
            ("http://example.com", "scheme"),
            ("a.*.com", "first label"),
            ("*a.com", "first label"),
            ("*", "any"),
            ("bücher.example", "xn--"),
            ("a..b", "label"),
            ("-a.com", "label"),
            ("a b", "label"),
            ("", "label"),
            (".", "label"),
            ("1.2.3.400", "IPv4"),
            ("*.1.2.3.4", "IPv4"),
            ("[::g]", "IPv6"),
        ] {
            assert!(parse_host(text).expect_err(text).problem.contains(word), "{text}");
        }
        assert!(parse_host(&"a.".repeat(130)).is_err());
    }

    #[test]
    fn prefixes_have_one_form_and_keep_their_encoding() {
        for (text, path) in [("/", "/"), ("/a/", "/a"), ("/a/b%2Fc", "/a/b%2Fc"), ("/...", "/..."), ("/a*", "/a*")] {
            assert_eq!(parse_prefix(text).expect(text), path);
        }
        for text in [
            "",
            "a",
            "//",
            "/a//b",
            "/a/../b",
            "/%2e%2E/a",
            "/./a",
            "/a?b",
            "/a#b",
            "/a b",
            "/é",
            "/%",
            "/%2",
            "/%zz",
            "/a/*",
            "/\n",
        ] {
            assert_eq!(parse_prefix(text).expect_err(text).allowed, PREFIX_FORM);
        }
    }

    #[test]
    fn a_target_may_have_a_query_and_no_fragment() {
        assert!(check_target("/tasks/clean?all=1&x=%20").is_ok());
        for text in ["tasks", "/a#b", "/a b", "http://h/a", "/a\r\nX: y"] {
            assert!(check_target(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_them_panic_and_what_they_give_is_stable(text in "[a-zA-Z0-9.:*\\[\\]/%?_-]{0,30}|\\PC{0,30}") {
            if let Ok(host) = parse_host(&text) {
                prop_assert_eq!(parse_host(&host).ok(), Some(host));
            }
            if let Ok(path) = parse_prefix(&text) {
                prop_assert_eq!(parse_prefix(&path).ok(), Some(path));
            }
        }
    }
}

//! Who may ask: programs of this machine. A web page that the user has open may not.
//!
//! A page can send requests to loopback from the user's browser (CSRF), and can read the answers if its own host
//! name is made to resolve to loopback (DNS rebinding). Browsers name both in headers that pages cannot change.

use http::header::{HOST, ORIGIN};
use http::request::Parts;

use crate::admin::api::{ApiError, Code};

/// Refuses what a browser sends for another site.
///
/// # Errors
/// Says which header gave it away.
pub(super) fn check(head: &Parts) -> Result<(), ApiError> {
    let Some(host) = head.headers.get(HOST) else {
        return Err(ApiError::invalid("the request has no Host header").hint("send Host: localhost"));
    };
    let host = host.to_str().unwrap_or_default();
    if !is_local(host) {
        let hint = "use an IP address or localhost in the URL; names are refused because any web page can make one \
                    point here";
        return Err(ApiError::new(Code::Unauthorized, format!("the request is for host {host:?}")).hint(hint));
    }
    if let Some(origin) = head.headers.get(ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        if origin.split_once("://").is_none_or(|(_, authority)| authority != host) {
            return Err(cross_site(&format!("origin {origin:?}")));
        }
    }
    let site = head.headers.get("sec-fetch-site").map(|value| value.to_str().unwrap_or_default());
    match site {
        None | Some("none" | "same-origin") => Ok(()),
        Some(site) => Err(cross_site(&format!("Sec-Fetch-Site {site:?}"))),
    }
}

fn cross_site(what: &str) -> ApiError {
    let message = format!("the request comes from a web page of another site ({what})");
    ApiError::new(Code::Unauthorized, message).hint("use maelctl, curl or a program of your own")
}

/// Whether a `Host` names the machine in a way that DNS has no part in.
fn is_local(host: &str) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    let name = authority.host();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(headers: &[(&str, &str)]) -> Option<Code> {
        let mut request = http::Request::builder().uri("/v1/components");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).expect("a request").into_parts();
        check(&head).err().map(|error| error.code)
    }

    #[test]
    fn programs_of_this_machine_are_let_in() {
        for host in ["localhost", "localhost:8374", "127.0.0.1:8374", "[::1]:8374", "10.0.0.7:1"] {
            assert_eq!(verdict(&[("host", host)]), None, "{host}");
        }
        assert_eq!(verdict(&[("host", "localhost:1"), ("sec-fetch-site", "none")]), None);
        assert_eq!(verdict(&[("host", "localhost:1"), ("origin", "http://localhost:1")]), None);
    }

    #[test]
    fn a_name_that_dns_could_point_here_is_refused() {
        for host in ["evil.example", "localhost.evil.example:8374", "127.0.0.1.evil.example", "a b", ""] {
            assert_eq!(verdict(&[("host", host)]), Some(Code::Unauthorized), "{host}");
        }
        assert_eq!(verdict(&[]), Some(Code::Invalid));
    }

    #[test]
    fn a_page_of_another_site_is_refused() {
        for (name, value) in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("origin", "http://localhost:2"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert_eq!(verdict(&[("host", "localhost:1"), (name, value)]), Some(Code::Unauthorized), "{name}: {value}");
        }
    }
}

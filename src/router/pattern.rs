//! What a host and a path look like when two of them are compared.
//!
//! Knows nothing of tables or sources. Allocates nothing.

/// Bytes of the longest host that is compared. DNS names end at 253; a longer host equals no configured one.
pub const HOST_MAX: usize = 256;

/// Brings a host into the form in which it is compared: lower case, no port, no brackets, no dot at the end.
///
/// `None` for an empty host and for one longer than [`HOST_MAX`]. The port of an IPv6 literal is what follows the
/// bracket, so `[::1]:80` becomes `::1`; a bare `::1` is taken as it is.
pub fn normal_host<'b>(raw: &str, buffer: &'b mut [u8; HOST_MAX]) -> Option<&'b [u8]> {
    let raw = raw.as_bytes();
    let host = match raw.first()? {
        b'[' => &raw[1..raw.iter().position(|&byte| byte == b']')?],
        _ => match raw.iter().position(|&byte| byte == b':') {
            Some(colon) if !raw[colon + 1..].contains(&b':') => &raw[..colon],
            _ => raw,
        },
    };
    let host = host.strip_suffix(b".").unwrap_or(host);
    if host.is_empty() || host.len() > HOST_MAX {
        return None;
    }
    let out = &mut buffer[..host.len()];
    for (to, from) in out.iter_mut().zip(host) {
        *to = from.to_ascii_lowercase();
    }
    Some(out)
}

/// The domain of a wildcard host: `example.com` for `*.example.com`.
pub fn wildcard(host: &str) -> Option<&str> {
    host.strip_prefix("*.")
}

/// A path prefix without the slash at its end; the root is empty.
pub fn normal_prefix(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

/// Whether `prefix` (as from [`normal_prefix`]) covers `path` in whole segments: `/foo` covers `/foo` and `/foo/bar`,
/// not `/foobar`. Percent-encoding is compared as it is written.
pub fn covers(prefix: &str, path: &str) -> bool {
    path.starts_with('/') && path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What is left of a path when `prefix` is cut off; never empty, so `/foo` without `/foo` is `/`.
///
/// `path` must be covered by `prefix`; a path that is not comes back whole.
pub fn strip<'p>(prefix: &str, path: &'p str) -> &'p str {
    match path.strip_prefix(prefix) {
        Some("") => "/",
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(raw: &str) -> Option<String> {
        normal_host(raw, &mut [0; HOST_MAX]).map(|host| String::from_utf8_lossy(host).into_owned())
    }

    #[test]
    fn a_host_is_compared_without_port_case_and_final_dot() {
        for (raw, expected) in [
            ("Example.COM:8080", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("[::1]:80", Some("::1")),
            ("[2001:DB8::1]", Some("2001:db8::1")),
            ("::1", Some("::1")),
            ("", None),
            ("[::1", None),
            (":80", None),
        ] {
            assert_eq!(normal(raw).as_deref(), expected, "{raw}");
        }
        assert_eq!(normal(&"a".repeat(HOST_MAX + 1)), None);
    }

    #[test]
    fn a_prefix_covers_whole_segments_only() {
        for (prefix, path, expected) in [
            ("", "/", true),
            ("", "/a", true),
            ("", "*", false),
            ("/foo", "/foo", true),
            ("/foo", "/foo/", true),
            ("/foo", "/foo/bar", true),
            ("/foo", "/foobar", false),
            ("/foo", "/", false),
        ] {
            assert_eq!(covers(prefix, path), expected, "{prefix} {path}");
        }
    }

    #[test]
    fn a_stripped_path_is_never_empty() {
        assert_eq!(strip("/foo", "/foo"), "/");
        assert_eq!(strip("/foo", "/foo/"), "/");
        assert_eq!(strip("/foo", "/foo/%2Fbar"), "/%2Fbar");
        assert_eq!(strip("/foo", "/foobar"), "/foobar");
    }
}

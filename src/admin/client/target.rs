//! Where a node's admin API is: `http://HOST:PORT` or `unix:/PATH`.
//!
//! Knows nothing of connecting.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The port of the admin API unless said otherwise.
const DEFAULT_PORT: u16 = 8374;

/// A node's admin API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Over TCP.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// Over a unix socket.
    Unix(PathBuf),
}

/// A text is not a node's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; allowed is http://HOST:PORT or unix:/PATH")]
pub struct TargetError {
    problem: String,
}

impl Target {
    /// What stands in the `Host` header.
    pub(super) fn authority(&self) -> String {
        match self {
            Self::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port } => format!("{host}:{port}"),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let wrong = |problem: &str| TargetError { problem: problem.to_owned() };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') {
                return Err(wrong("the path of the socket does not start with /"));
            }
            return Ok(Self::Unix(path.into()));
        }
        if text.starts_with("https://") {
            return Err(wrong("TLS is not there yet"));
        }
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some((scheme, _)) => return Err(wrong(&format!("scheme {scheme:?} is not known"))),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let authority: http::uri::Authority = rest.parse().map_err(|_| wrong("this is no host and port"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("a login is not allowed; use --token"));
        }
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(wrong("the host is missing"));
        }
        let given = authority.as_str().len() > authority.host().len();
        let port = match authority.port_u16() {
            Some(0) => return Err(wrong("port 0 is none")),
            Some(port) => port,
            None if given => return Err(wrong("the port is none")),
            None => DEFAULT_PORT,
        };
        Ok(Self::Tcp { host: host.to_owned(), port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { .. } => write!(f, "http://{}", self.authority()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_written_in_full() {
        for (given, full) in [
            ("http://127.0.0.1:8374", "http://127.0.0.1:8374"),
            ("http://a.example/", "http://a.example:8374"),
            ("localhost:1", "http://localhost:1"),
            ("http://[::1]:2", "http://[::1]:2"),
            ("unix:/run/m.sock", "unix:/run/m.sock"),
            ("unix:///run/m.sock", "unix:/run/m.sock"),
        ] {
            assert_eq!(given.parse::<Target>().expect("a target").to_string(), full);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_is_allowed() {
        for bad in [
            "",
            "http://",
            "ftp://a",
            "https://a:1",
            "unix:m.sock",
            "http://a:0",
            "http://a:99999",
            "http://u@a",
            "http://a/b",
        ] {
            let error = bad.parse::<Target>().expect_err(bad);
            assert!(error.to_string().contains("allowed is http://HOST:PORT"), "{error}");
        }
    }
}

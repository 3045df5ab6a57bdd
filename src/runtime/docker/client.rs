//! The connection to the Docker engine: which socket, which API version, a deadline for every call, and errors in
//! words for the user.
//!
//! Must not know of instances or components.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bollard::errors::Error;
use bollard::{BollardRequest, ClientVersion, Docker};

use super::super::RuntimeError;
use crate::failure::Phase;

/// Where Docker listens on Linux unless told otherwise.
const SOCKET: &str = "/var/run/docker.sock";

/// The API version that we speak: of Docker 20.10, the oldest still in a Debian release. Newer engines accept it or
/// name the oldest that they do, which is then used.
const API: ClientVersion = ClientVersion { major_version: 1, minor_version: 41 };

/// For calls that Docker answers from memory (ping, inspect, list). They take 1-20 ms; an engine that is busy with a
/// hundred starts was seen to need 2 s.
pub(super) const QUICK: Duration = Duration::from_secs(10);

/// For calls that work on the disk or in the kernel (create, start, kill, pause, remove): 20-300 ms on an idle
/// machine, and up to half a minute was reported on overloaded spinning disks.
pub(super) const SLOW: Duration = Duration::from_secs(60);

/// bollard's own bound in seconds, for the head of an answer: above all of ours, which come first.
const BOLLARD_TIMEOUT_S: u64 = 300;

/// A call failed. State: unknown if `unavailable` or `timed_out`, otherwise Docker refused and nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct CallError {
    /// What Docker answered, if it did.
    pub(super) status: Option<u16>,
    /// In words for the user.
    pub(super) message: String,
    /// Whether Docker cannot be reached at all.
    pub(super) unavailable: bool,
}

impl CallError {
    /// Whether the container (or image) does not exist.
    pub(super) fn is_missing(&self) -> bool {
        self.status == Some(404)
    }

    /// Whether the state of the container forbids the call: it stopped, or is being removed already.
    pub(super) fn is_conflict(&self) -> bool {
        self.status == Some(409)
    }

    /// As the error of a phase.
    pub(super) fn at(self, phase: Phase) -> RuntimeError {
        RuntimeError { phase, reason: self.message, unavailable: self.unavailable }
    }
}

/// A connection that finds its way back after Docker was restarted or upgraded. Cheap to share.
pub(super) struct Client {
    host: String,
    local: bool,
    docker: ArcSwap<Docker>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects and agrees on the API version. `host` is a path, `unix://PATH`, `tcp://HOST:PORT` or
    /// `http://HOST:PORT`.
    pub(super) async fn connect(host: Option<&str>) -> Result<Self, CallError> {
        let host = match host {
            None | Some("") => format!("unix://{SOCKET}"),
            Some(path) if path.starts_with('/') => format!("unix://{path}"),
            Some(other) => other.to_owned(),
        };
        let docker = agree(&host).await?;
        Ok(Self { local: host.starts_with("unix://"), host, docker: ArcSwap::from_pointee(docker) })
    }

    /// Agrees on the API version anew; after Docker came back it may be another release.
    pub(super) async fn reconnect(&self) -> Result<(), CallError> {
        self.docker.store(Arc::new(agree(&self.host).await?));
        Ok(())
    }

    /// Whether Docker runs on this machine, so that process ids and addresses of containers mean something here.
    pub(super) fn is_local(&self) -> bool {
        self.local
    }

    /// The API itself, for streams. A stream needs a deadline of its own.
    pub(super) fn docker(&self) -> Arc<Docker> {
        self.docker.load_full()
    }

    /// One call with a deadline. `what` names it in the error.
    pub(super) async fn call<T, F, Fut>(&self, what: &str, deadline: Duration, call: F) -> Result<T, CallError>
    where
        F: FnOnce(Arc<Docker>) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        match tokio::time::timeout(deadline, call(self.docker())).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.explain(what, &error)),
            Err(_) => Err(late(what, deadline)),
        }
    }

    /// An error of a stream or call in words.
    pub(super) fn explain(&self, what: &str, error: &Error) -> CallError {
        explain(&self.host, what, error)
    }
}

/// A call did not come back in time. Docker is there but stuck, which concerns this call alone.
pub(super) fn late(what: &str, deadline: Duration) -> CallError {
    CallError {
        status: None,
        message: format!("Docker did not answer `{what}` within {deadline:?}; `journalctl -u docker` may say why"),
        unavailable: false,
    }
}

async fn agree(host: &str) -> Result<Docker, CallError> {
    let mut docker = open(host, &API)?;
    let mut asked_again = false;
    loop {
        let answer = match tokio::time::timeout(QUICK, docker.ping()).await {
            Ok(answer) => answer,
            Err(_) => return Err(CallError { unavailable: true, ..late("ping", QUICK) }),
        };
        let error = match answer {
            Ok(_) => return Ok(docker),
            Err(error) => explain(host, "ping", &error),
        };
        match oldest_accepted(&error.message) {
            Some(version) if !asked_again => docker = open(host, &version)?,
            _ => return Err(error),
        }
        asked_again = true;
    }
}

/// Reads "Minimum supported API version is 1.44", with which a newer engine refuses an older client.
fn oldest_accepted(message: &str) -> Option<ClientVersion> {
    let version = message.split("inimum supported API version is ").nth(1)?;
    let version = version.split([',', ' ']).next()?.trim_end_matches('.');
    let (major, minor) = version.split_once('.')?;
    Some(ClientVersion { major_version: major.parse().ok()?, minor_version: minor.parse().ok()? })
}

fn open(host: &str, version: &ClientVersion) -> Result<Docker, CallError> {
    let docker = if host.starts_with("unix://") {
        Docker::connect_with_unix(host, BOLLARD_TIMEOUT_S, version)
    } else if host.starts_with("tcp://") || host.starts_with("http://") {
        Docker::connect_with_http(host, BOLLARD_TIMEOUT_S, version)
    } else {
        let message =
            format!("Docker host {host:?} is not supported; allowed are a path, unix://PATH and tcp://HOST:PORT");
        return Err(CallError { status: None, message, unavailable: true });
    };
    docker.map(|docker| docker.with_request_modifier(url_safe_auth)).map_err(|error| explain(host, "connect", &error))
}

/// Docker reads the registry login as URL-safe base64; bollard 0.21 writes the standard alphabet, so that a password
/// with the wrong bytes was taken for no login at all.
fn url_safe_auth(mut request: BollardRequest) -> BollardRequest {
    if let Some(value) = request.headers_mut().get_mut("X-Registry-Auth")
        && let Ok(text) = value.to_str()
        && let Ok(mut safe) = http::HeaderValue::from_str(&text.replace('+', "-").replace('/', "_"))
    {
        safe.set_sensitive(true);
        *value = safe;
    }
    request
}

fn explain(host: &str, what: &str, error: &Error) -> CallError {
    if let Error::DockerResponseServerError { status_code, message } = error {
        let message = format!("Docker refused `{what}`: {}", message.trim());
        return CallError { status: Some(*status_code), message, unavailable: false };
    }
    let place = host.strip_prefix("unix://").unwrap_or(host);
    let no_answer = format!("Docker does not answer on {place}: is it running? (systemctl status docker)");
    if matches!(error, Error::SocketNotFoundError(_)) {
        return CallError { status: None, message: no_answer, unavailable: true };
    }
    if io_kind(error) == Some(io::ErrorKind::PermissionDenied) {
        let message = format!("no permission to use Docker on {place}: add the user of maelstromd to the group docker");
        return CallError { status: None, message, unavailable: true };
    }
    let transport = matches!(
        error,
        Error::HyperLegacyError { .. }
            | Error::HyperResponseError { .. }
            | Error::IOError { .. }
            | Error::RequestTimeoutError
    );
    if transport {
        return CallError { status: None, message: no_answer, unavailable: true };
    }
    let message = format!("`{what}` failed: {error}");
    CallError { status: None, message, unavailable: false }
}

/// The kind of the IO error at the bottom of an error, if there is one.
fn io_kind(error: &Error) -> Option<io::ErrorKind> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_socket_is_said_in_words_and_marks_docker_as_unavailable() {
        let error = Client::connect(Some("/nonexistent/docker.sock")).await.expect_err("no such socket");
        assert!(error.unavailable);
        assert_eq!(
            error.message,
            "Docker does not answer on /nonexistent/docker.sock: is it running? (systemctl status docker)"
        );
    }

    #[tokio::test]
    async fn a_socket_that_nobody_listens_on_counts_as_unavailable() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("docker.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
        let error = Client::connect(path.to_str()).await.expect_err("nobody listens");
        assert!(error.unavailable && error.message.contains("does not answer on /"), "{error}");
    }

    #[test]
    fn the_oldest_version_that_an_engine_accepts_is_read_from_its_refusal() {
        let text = "client version 1.41 is too old. Minimum supported API version is 1.44, please upgrade";
        let version = oldest_accepted(text).expect("a version");
        assert_eq!((version.major_version, version.minor_version), (1, 44));
        assert!(oldest_accepted("no such thing").is_none());
    }
}

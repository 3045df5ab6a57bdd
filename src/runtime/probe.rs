//! Whether an instance can take events: a connection, and an answer to a `GET` if the component names a path.
//!
//! Uses a connection of its own for each try, so that what it learns is what the next client would. Knows nothing of
//! runtimes.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::model::component::Health;

/// The first pause between two tries. A process answers about a millisecond after its spawn; a refused connection on
/// this machine costs 20 µs, so that trying this often costs a few percent of a core for moments.
const PAUSE_FIRST: Duration = Duration::from_micros(500);

/// The longest pause: what starts slowly (seconds) is seen at most this much late.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// Why an instance cannot take events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ProbeError {
    /// `127.0.0.1:80`, or `GET http://127.0.0.1:80/path`.
    pub target: String,
    /// Status or error of the last try.
    pub seen: String,
    /// How often it was tried.
    pub tries: u32,
    /// For how long.
    pub time: Duration,
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.target, self.seen)?;
        if self.tries > 1 {
            write!(f, " ({} tries in {:.1?})", self.tries, self.time)?;
        }
        Ok(())
    }
}

/// Tries until the instance can take events, for `limit` at most.
///
/// # Errors
/// What the last try saw.
pub async fn wait_ready(address: SocketAddr, health: &Health, limit: Duration) -> Result<(), ProbeError> {
    let (mut pause, mut tries, begun) = (PAUSE_FIRST, 0, now());
    loop {
        tries += 1;
        let left = limit.saturating_sub(begun.elapsed());
        let seen = match attempt(address, health, left.min(health.timeout)).await {
            Ok(()) => return Ok(()),
            Err(seen) => seen,
        };
        let time = begun.elapsed();
        if time + pause >= limit {
            return Err(ProbeError { target: target(address, health), seen, tries, time });
        }
        sleep(pause).await;
        // Grows by a quarter: 5 ms late after 50 ms, at the maximum after 100.
        pause = PAUSE_MAX.min(pause + pause / 4);
    }
}

/// Tries once, for the time that the component allows a check.
///
/// # Errors
/// What was seen.
pub async fn check(address: SocketAddr, health: &Health) -> Result<(), ProbeError> {
    let begun = now();
    attempt(address, health, health.timeout).await.map_err(|seen| ProbeError {
        target: target(address, health),
        seen,
        tries: 1,
        time: begun.elapsed(),
    })
}

#[expect(clippy::disallowed_methods, reason = "measures the time that it says it took")]
fn now() -> Instant {
    Instant::now()
}

fn target(address: SocketAddr, health: &Health) -> String {
    match &health.path {
        Some(path) => format!("GET http://{address}{path}"),
        None => address.to_string(),
    }
}

async fn attempt(address: SocketAddr, health: &Health, limit: Duration) -> Result<(), String> {
    let answer = timeout(limit, async {
        let stream = TcpStream::connect(address).await.map_err(|error| connect_error(&error))?;
        match &health.path {
            Some(path) => get(stream, address, path).await,
            None => Ok(()),
        }
    });
    answer.await.unwrap_or_else(|_| Err(format!("no answer within {limit:.1?}")))
}

fn connect_error(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        "nothing accepts connections there".to_owned()
    } else {
        format!("cannot connect: {error}")
    }
}

async fn get(stream: TcpStream, address: SocketAddr, path: &str) -> Result<(), String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request = http::Request::get(path)
        .header(http::header::HOST, address.to_string())
        .header(http::header::USER_AGENT, "maelstrom-health")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = sender.send_request(request);
    tokio::pin!(answer, connection);
    // The connection ends with this function: the head of the answer is all that counts.
    let response = tokio::select! {
        biased;
        response = &mut answer => response,
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(error),
        },
    };
    let status = response.map_err(|error| format!("no answer: {error}"))?.status();
    if status.is_success() || status.is_redirection() {
        Ok(())
    } else {
        Err(format!("answered {}, expected is 2xx or 3xx", status.as_u16()))
    }
}

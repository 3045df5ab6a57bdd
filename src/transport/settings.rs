//! The numbers of QUIC: windows, timeouts, limits, and the configurations that are made of them.
//!
//! Knows nothing of peers. What a node costs idle and how soon it notices things is decided here.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, TransportConfig, VarInt};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::frame::MESSAGE_MAX;
use super::trust::{CONTROL, DATA, TlsClock, Trust, TrustError};
use crate::time::Wall;

/// Streams of one kind that a peer may have open. Each costs a task and at most one message.
const STREAMS: u32 = 64;

/// Data streams that a peer may have open on one connection, each a request or an open WebSocket: twice what one node
/// was measured with across a hop. quinn keeps some 50 bytes for each, used or not.
pub(super) const DATA_STREAMS_OPEN: u32 = 4096;

/// Bytes of one stream that may be under way and unread: 256 KiB at 1 ms round trip is 250 MB/s. What a client is slow
/// to read stays here, for each of its requests.
const STREAM_WINDOW: u32 = 256 << 10;

/// Bytes of all streams of a connection that may be under way and unread, each way.
const WINDOW: u32 = 4 << 20;

/// The same for a data connection: a thousand clients that read nothing must not stop the others.
pub(super) const DATA_WINDOW: u32 = STREAM_WINDOW * 1024;

/// Datagrams of a connection that may be unread, or unsent, in bytes: two hundred of the largest.
pub(super) const DATAGRAMS: usize = 256 << 10;

/// The round trip that is assumed before it is measured. quinn's 333 ms are for the internet; with 100 ms the second
/// try of a lost first packet goes out after 0.3 s.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// How often a stateless reset goes out at most. quinn's 20 ms would make twenty peers of a restarted node wait 0.4 s.
const RESET_EVERY: Duration = Duration::from_millis(2);

/// Idle data connections close after this long.
const DATA_IDLE: Duration = Duration::from_secs(30);

/// Data streams that a peer opened and nobody has taken yet.
pub(super) const DATA_STREAMS: usize = 64;

/// The socket buffers that are asked for; the system may give less (`net.core.rmem_max`).
const SOCKET_BUFFER: usize = 4 << 20;

/// Bytes of a connection id, as quinn has it: [`super::DATAGRAM_MIN`] depends on it.
const ID: usize = 8;

/// Log lines whose repetition is suppressed; a flood of new addresses makes the oldest be forgotten.
const LINES: usize = 256;

/// How long a line is not repeated, in milliseconds.
const LINE_EVERY: u64 = 60_000;

/// What may be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Messages that may wait for the daemon. A thousand probes are a second's worth for a cluster of a thousand nodes.
    pub queue: usize,
    /// Bytes that may be on their way to one peer by `push`: two of the longest messages.
    pub in_flight: usize,
    /// Control connections on which nothing is heard for this long are closed. Dead hosts are found by probes long
    /// before; this one frees the memory.
    pub idle: Duration,
    /// An idle control connection is kept open by one packet this often. Below 30 s, when many NATs forget. Probes of
    /// clusters below some 50 nodes come more often than this, so it costs them nothing.
    pub keep_alive: Option<Duration>,
    /// What a line asks the HTTP port for: a path that any node answers by itself.
    pub line_path: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue: 1024,
            in_flight: 2 * MESSAGE_MAX,
            idle: Duration::from_secs(60),
            keep_alive: Some(Duration::from_secs(25)),
            line_path: "/",
        }
    }
}

/// The configurations of one certificate.
pub(super) struct Configs {
    pub(super) server: quinn::ServerConfig,
    pub(super) control: quinn::ClientConfig,
    pub(super) data: quinn::ClientConfig,
    options: Options,
}

impl Configs {
    pub(super) fn new(
        trust: &Trust,
        options: &Options,
        clock: &Arc<dyn Fn() -> Wall + Send + Sync>,
    ) -> Result<Self, TrustError> {
        let clock = Arc::new(TlsClock(Arc::clone(clock)));
        let mut server = quinn::ServerConfig::with_crypto(trust.server(Arc::clone(&clock))?);
        // Only the dialler keeps alive: the accepting side cannot know yet whether a connection is for data.
        server.transport_config(Arc::new(transport(options.idle, None)));
        let mut control = quinn::ClientConfig::new(trust.client(CONTROL, Arc::clone(&clock))?);
        control.transport_config(Arc::new(transport(options.idle, options.keep_alive)));
        let mut data = quinn::ClientConfig::new(trust.client(DATA, clock)?);
        data.transport_config(Arc::new(transport(DATA_IDLE, None)));
        Ok(Self { server, control, data, options: options.clone() })
    }

    /// The same with another certificate.
    pub(super) fn renewed(
        &self,
        trust: &Trust,
        clock: &Arc<dyn Fn() -> Wall + Send + Sync>,
    ) -> Result<Self, TrustError> {
        Self::new(trust, &self.options, clock)
    }
}

fn transport(idle: Duration, keep_alive: Option<Duration>) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(u64::from(WINDOW))
        .datagram_receive_buffer_size(Some(DATAGRAMS))
        .datagram_send_buffer_size(DATAGRAMS)
        .initial_rtt(INITIAL_RTT)
        .keep_alive_interval(keep_alive)
        // Fails beyond 2^62 ms only; then there is no timeout, as was asked for.
        .max_idle_timeout(IdleTimeout::try_from(idle).ok());
    config
}

/// The endpoint, with resets that peers of an earlier process of this node understand.
pub(super) fn endpoint(key: &hmac::Key) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(key.clone()));
    config.cid_generator(|| Box::new(Ids(SystemRandom::new()))).min_reset_interval(RESET_EVERY);
    config
}

/// Connection ids without structure. quinn's own carry a mark of their process, by which a restarted node would silently
/// drop packets for its earlier process; so it answers them with a reset, and the peer knows at once.
#[derive(Debug)]
struct Ids(SystemRandom);

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; ID];
        // The system gave randomness for the keys of TLS a moment ago; quinn tries again if an id is taken.
        let _ = self.0.fill(&mut id);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        ID
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Asks for larger socket buffers: a burst of rows must not push probes out.
pub(super) fn enlarge_buffers(socket: &UdpSocket) {
    // Smaller buffers are slower and not wrong.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(socket, SOCKET_BUFFER);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(socket, SOCKET_BUFFER);
}

/// Which log lines were written lately.
#[derive(Debug, Default)]
pub(super) struct Limiter(Mutex<BTreeMap<String, u64>>);

impl Limiter {
    pub(super) fn allows(&self, now: Wall, line: &str) -> bool {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.get(line).is_some_and(|last| last.abs_diff(now.0) < LINE_EVERY) {
            return false;
        }
        if lines.len() >= LINES
            && let Some(oldest) = lines.iter().min_by_key(|(_, last)| **last).map(|(line, _)| line.clone())
        {
            lines.remove(&oldest);
        }
        lines.insert(line.to_owned(), now.0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_once_a_minute_and_memory_is_bounded() {
        let limiter = Limiter::default();
        assert!(limiter.allows(Wall(1_000), "a"));
        assert!(!limiter.allows(Wall(2_000), "a"));
        assert!(limiter.allows(Wall(70_000), "a"));
        for line in 0..10_000 {
            limiter.allows(Wall(line), &line.to_string());
        }
        assert!(limiter.0.lock().expect("no panic").len() <= LINES);
    }
}

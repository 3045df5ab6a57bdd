//! The transport: moves bytes between nodes that trust each other, over QUIC on one UDP port, and reads none of them.
//!
//! Datagrams for probes, one stream per message for the rest, data connections apart. One connection per pair is in
//! use, whoever dialled. Everything that arrives comes out of one bounded queue. Knows nothing of membership, rows or
//! requests: who is a member and what a message means is the daemon's matter.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ring::rand::SecureRandom as _;
use tokio::sync::mpsc;

mod close;
mod data;
mod dial;
mod frame;
mod hello;
mod line;
mod link;
mod probe;
mod report;
mod settings;
mod table;
pub mod token;
pub mod trust;

pub use self::close::{DialError, Ending};
pub use self::data::{DataIncoming, DataOutgoing, DataStream};
pub use self::frame::MESSAGE_MAX;
pub use self::hello::{Hello, PeerInfo, clock_offset_ms};
pub use self::link::Reply;
pub use self::report::{BindError, CallError, ConnectionView, Incoming, Kind, PushError};
pub use self::settings::Options;

use self::close::Code;
use self::data::DataLink;
use self::frame::FrameError;
use self::settings::{Configs, Limiter};
use self::table::Table;
use self::trust::{Trust, TrustError};
use crate::id::NodeId;
use crate::telemetry;
use crate::time::Wall;

/// The size of a datagram that fits every connection: QUIC's smallest packet (1200 bytes) less headers and tag, as
/// quinn reports it right after a handshake.
pub const DATAGRAM_MIN: usize = 1162;

/// How often a stopping transport looks whether all is sent: a round trip on a LAN is shorter.
const SENT_EVERY: Duration = Duration::from_millis(2);

/// A handle on the transport; clones are the same transport. It lives until [`Transport::goodbye`] or the end of the
/// process.
#[derive(Clone)]
pub struct Transport(Arc<Inner>);

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("node", &self.0.node).field("local", &self.0.local).finish_non_exhaustive()
    }
}

/// What all tasks of one transport share.
struct Inner {
    node: NodeId,
    local: SocketAddr,
    endpoint: quinn::Endpoint,
    trust: Mutex<Trust>,
    configs: Mutex<Configs>,
    hello: Mutex<Hello>,
    clock: Arc<dyn Fn() -> Wall + Send + Sync>,
    events: mpsc::Sender<Incoming>,
    table: Mutex<Table>,
    data_links: Mutex<Vec<DataLink>>,
    data_dials: Mutex<BTreeMap<NodeId, Arc<data::Dials>>>,
    data_streams: mpsc::Sender<(NodeId, DataStream)>,
    data_arrived: tokio::sync::Mutex<mpsc::Receiver<(NodeId, DataStream)>>,
    limiter: Limiter,
    lines: Mutex<BTreeMap<NodeId, tokio::task::JoinHandle<()>>>,
    line_path: &'static str,
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn configs(&self) -> MutexGuard<'_, Configs> {
        self.configs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn data_links(&self) -> MutexGuard<'_, Vec<DataLink>> {
        self.data_links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hello(&self) -> Hello {
        self.hello.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Logs why there is no connection, the same thing once a minute.
    fn say(&self, address: SocketAddr, what: &str, error: &DialError) {
        let line = format!("{what} {address}: {error}");
        if self.limiter.allows((self.clock)(), &line) {
            if error.is_refusal() {
                tracing::warn!("{line}");
            } else {
                tracing::debug!("{line}");
            }
        }
    }

    /// A number that spreads pauses; without randomness they are just not spread.
    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        let _ = ring::rand::SystemRandom::new().fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn each_link(&self, node: NodeId, mut act: impl FnMut(&link::Link)) {
        let links = self.table().peers.get(&node).map(|peer| peer.links.clone()).unwrap_or_default();
        links.iter().for_each(|link| act(link));
    }
}

impl Transport {
    /// Binds the UDP port and begins to accept. Must be called inside the runtime. What arrives comes out of the
    /// receiver, which must be read all the time: everything waits for it but datagrams, which are dropped.
    ///
    /// # Errors
    /// The address cannot be bound, or TLS cannot be set up.
    pub fn bind(
        listen: SocketAddr,
        trust: Trust,
        mut hello: Hello,
        options: Options,
        clock: impl Fn() -> Wall + Send + Sync + 'static,
    ) -> Result<(Self, mpsc::Receiver<Incoming>), BindError> {
        let unusable = |source| BindError::Address { address: listen, source };
        let clock: Arc<dyn Fn() -> Wall + Send + Sync> = Arc::new(clock);
        let configs = Configs::new(&trust, &options, &clock)?;
        let socket = UdpSocket::bind(listen).map_err(unusable)?;
        settings::enlarge_buffers(&socket);
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint =
            quinn::Endpoint::new(settings::endpoint(&trust.reset_key()), Some(configs.server.clone()), socket, runtime);
        let endpoint = endpoint.map_err(unusable)?;
        let local = endpoint.local_addr().map_err(unusable)?;
        if hello.address.port() == 0 {
            hello.address.set_port(local.port());
        }
        // Two reports may belong together, so there is room for two.
        let (events, incoming) = mpsc::channel(options.queue.max(2));
        let (data_streams, data_arrived) = mpsc::channel(settings::DATA_STREAMS);
        let inner = Arc::new(Inner {
            node: hello.node,
            local,
            endpoint,
            trust: Mutex::new(trust),
            configs: Mutex::new(configs),
            table: Mutex::new(Table::new(hello.node, options.in_flight)),
            hello: Mutex::new(hello),
            clock,
            events,
            data_links: Mutex::new(Vec::new()),
            data_dials: Mutex::new(BTreeMap::new()),
            data_streams,
            data_arrived: tokio::sync::Mutex::new(data_arrived),
            limiter: Limiter::default(),
            lines: Mutex::default(),
            line_path: options.line_path,
        });
        telemetry::spawn("transport", Arc::clone(&inner).accept());
        Ok((Self(inner), incoming))
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local
    }

    /// Changes the address that later introductions advertise.
    pub fn set_hello_address(&self, address: SocketAddr) {
        self.0.hello.lock().unwrap_or_else(PoisonError::into_inner).address = address;
    }

    /// Connects to an address without knowing who is there. There is no pause after failures: the caller paces it.
    ///
    /// # Errors
    /// A sentence that says why there is no connection.
    pub async fn dial(&self, address: SocketAddr, deadline: Duration) -> Result<PeerInfo, DialError> {
        if self.0.table().stopping {
            return Err(DialError::Stopping);
        }
        let dialled = tokio::time::timeout(deadline, self.0.dial(address, None)).await;
        dialled.unwrap_or(Err(DialError::TimedOut))
    }

    /// Sends a datagram and never waits. Without a connection it is kept, with three others at most, while one is made.
    /// False if it is lost for certain: too large, or no connection is to be had now.
    pub fn send_datagram(&self, node: NodeId, address: SocketAddr, bytes: Bytes) -> bool {
        let mut table = self.0.table();
        if let Some(link) = table.current(node).cloned() {
            drop(table);
            link.expect_answer();
            return link.connection.send_datagram(bytes).is_ok();
        }
        if self.0.start_dial(&mut table, node, address).is_err() {
            return false;
        }
        table.wait(node, bytes);
        true
    }

    /// Sends a message in the background. If it fails later, [`Incoming::PushFailed`] says so.
    ///
    /// # Errors
    /// It is too long, too much is on the way already, or no connection is to be had now.
    pub fn push(&self, node: NodeId, address: SocketAddr, bytes: Bytes) -> Result<(), PushError> {
        if bytes.len() > MESSAGE_MAX {
            return Err(PushError::TooLong(bytes.len()));
        }
        let room = {
            let mut table = self.0.table();
            if table.current(node).is_none() {
                self.0.start_dial(&mut table, node, address)?;
            }
            let room = Arc::clone(&table.peer(node).room);
            room.try_acquire_many_owned(frame::pieces(bytes.len())).map_err(|_| PushError::Full)?
        };
        let inner = Arc::clone(&self.0);
        telemetry::spawn("peer send", async move {
            let sent = push(&inner, node, address, &bytes).await;
            drop(room);
            if !sent {
                // The receiver is gone only when the daemon is.
                let _ = inner.events.send(Incoming::PushFailed { node }).await;
            }
        });
        Ok(())
    }

    /// Sends a message and waits for its answer.
    ///
    /// # Errors
    /// No connection, no answer, or not in time.
    pub async fn call(
        &self,
        node: NodeId,
        address: SocketAddr,
        bytes: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        if bytes.len() > MESSAGE_MAX {
            return Err(CallError::TooLong(bytes.len()));
        }
        let answered = async {
            let link = self.0.link(node, address).await?;
            link.call(&bytes, deadline).await.map_err(|error| match error {
                FrameError::Ended if !link.is_open() => CallError::NoAnswer(link.ending().to_string()),
                FrameError::TooSlow => CallError::Deadline,
                FrameError::Ended => CallError::NoAnswer("the other side gave none".to_owned()),
                FrameError::TooLong(_) | FrameError::Malformed | FrameError::Stalled => {
                    link.blame(&error);
                    CallError::NoAnswer(error.to_string())
                }
            })
        };
        tokio::time::timeout(deadline, answered).await.unwrap_or(Err(CallError::Deadline))
    }

    /// Refuses a node from now on and closes its connections; it is told why.
    pub fn ban(&self, node: NodeId) {
        self.0.table().banned.insert(node);
        self.close_banned(node);
    }

    /// Replaces the list of refused nodes.
    pub fn set_banned(&self, banned: BTreeSet<NodeId>) {
        self.0.table().banned.clone_from(&banned);
        banned.into_iter().for_each(|node| self.close_banned(node));
    }

    fn close_banned(&self, node: NodeId) {
        let why = DialError::BannedThere(node).to_string();
        self.0.each_link(node, |link| link.end(Code::Banned, Ending::Failed(why.clone())));
        self.close_data(node, Code::Banned);
    }

    /// Ends the data connections to a node that is known to be gone, and the making of new ones: whoever waits for a
    /// stream of it hears so at once, and not after a timeout.
    pub fn abandon_data(&self, node: NodeId) {
        self.close_data(node, Code::Unused);
        data::give_up(&self.0, node);
    }

    fn close_data(&self, node: NodeId, code: Code) {
        self.0.data_links().retain(|link| {
            if link.node == node {
                link.connection.close(code.number(), b"");
            }
            link.node != node
        });
    }

    /// Closes the connections to a node, which may come back.
    pub fn close(&self, node: NodeId) {
        let why = || Ending::Failed("this node has no more use for the connection".to_owned());
        self.0.each_link(node, |link| link.end(Code::Unused, why()));
        self.close_data(node, Code::Unused);
    }

    /// Watches the processes of these nodes, and no others, so that their end is noticed at once where the network
    /// allows it. Meant for the few nodes whose watch is this node's duty.
    pub fn watch(&self, nodes: &BTreeSet<NodeId>) {
        let mut lines = self.0.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|node, line| {
            if !nodes.contains(node) {
                line.abort();
            }
            nodes.contains(node)
        });
        for node in nodes {
            let inner = Arc::clone(&self.0);
            lines.entry(*node).or_insert_with(|| telemetry::spawn("peer line", line::keep(inner, *node)));
        }
    }

    /// The measured round trip to a connected node.
    #[must_use]
    pub fn rtt(&self, node: NodeId) -> Option<Duration> {
        self.0.table().current(node).map(|link| link.connection.rtt())
    }

    /// The largest datagram that fits all open connections, at least [`DATAGRAM_MIN`].
    #[must_use]
    pub fn datagram_max(&self) -> usize {
        let table = self.0.table();
        let links = table.peers.values().flat_map(|peer| &peer.links);
        let least = links.filter_map(|link| link.connection.max_datagram_size()).min();
        least.map_or(DATAGRAM_MIN, |least| least.max(DATAGRAM_MIN))
    }

    /// Every open connection.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionView> {
        let links: Vec<_> = self.0.table().peers.values().flat_map(|peer| peer.links.clone()).collect();
        let control = links.iter().filter(|link| link.is_open());
        let mut views: Vec<_> =
            control.map(|link| ConnectionView::new(link.peer.node, &link.connection, Kind::Control)).collect();
        let data = self.0.data_links();
        let data = data.iter().filter(|link| link.connection.close_reason().is_none());
        views.extend(data.map(|link| ConnectionView::new(link.node, &link.connection, Kind::Data)));
        views
    }

    /// Opens a stream on the data connection to a node. The other side learns of it with the first byte.
    ///
    /// # Errors
    /// A sentence that says why there is no connection.
    pub async fn open_data(
        &self,
        node: NodeId,
        address: SocketAddr,
        deadline: Duration,
    ) -> Result<DataStream, DialError> {
        data::open(&self.0, node, address, deadline).await
    }

    /// The next stream that a peer opened on a data connection.
    pub async fn accept_data(&self) -> Option<(NodeId, DataStream)> {
        self.0.data_arrived.lock().await.recv().await
    }

    /// Sends what was taken, tells all peers that this node leaves, and waits until they know or `deadline` is over.
    /// Nothing is sent afterwards.
    pub async fn goodbye(&self, deadline: Duration) {
        self.0.table().stopping = true;
        let sent = async {
            while !self.0.table().is_sent() {
                tokio::time::sleep(SENT_EVERY).await;
            }
        };
        // Half of the time is for the goodbye itself: a peer that takes nothing must not keep it from the others.
        let _ = tokio::time::timeout(deadline / 2, sent).await;
        self.0.endpoint.close(Code::Goodbye.number(), b"goodbye");
        // Who does not acknowledge in time finds out by itself.
        let _ = tokio::time::timeout(deadline, self.0.endpoint.wait_idle()).await;
    }

    /// Makes a new certificate around `wall` for later handshakes; open connections stay.
    ///
    /// # Errors
    /// It cannot be made. The old one stays in use.
    pub fn renew(&self, wall: Wall) -> Result<(), TrustError> {
        let mut trust = self.0.trust.lock().unwrap_or_else(PoisonError::into_inner);
        trust.renew(wall)?;
        let configs = self.0.configs().renewed(&trust, &self.0.clock)?;
        self.0.endpoint.set_server_config(Some(configs.server.clone()));
        *self.0.configs() = configs;
        Ok(())
    }
}

/// Sends a message; a second time if the connection was given up for another one meanwhile.
async fn push(inner: &Arc<Inner>, node: NodeId, address: SocketAddr, bytes: &Bytes) -> bool {
    for _ in 0..2 {
        let Ok(link) = inner.link(node, address).await else { return false };
        match link.push(bytes).await {
            Ok(()) => return true,
            Err(FrameError::Ended) if link.is_retired() => {}
            Err(error) => {
                link.blame(&error);
                return false;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests;

//! Making connections: dialling, accepting, keeping one per pair, and telling the daemon of the first and the last.
//!
//! Knows nothing of what travels on a connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::Connection;
use quinn::crypto::rustls::HandshakeData;
use tokio::sync::mpsc::Permit;
use tokio::sync::{Semaphore, watch};

use super::close::{Code, DialError, Ending};
use super::hello::{self, Hello, PeerInfo};
use super::link::{self, Link};
use super::table::Dial;
use super::trust::{DATA, SERVER_NAME};
use super::{Incoming, Inner, data, probe};
use crate::id::NodeId;
use crate::telemetry;

/// How long a background dial may take, and an accepted connection until it has introduced itself. A handshake is two
/// round trips; a lost first packet is sent again after 0.3 s, then 0.6 s, then 1.2 s.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Connections that may be introducing themselves at a time. Each costs some 50 KiB; a cluster of a thousand nodes that
/// starts at once gets in within a few tries.
const HANDSHAKES: usize = 256;

/// When an address that does not answer is first asked whether its port is closed: later than any answer on a LAN.
const PROBE_FIRST: Duration = Duration::from_millis(60);

/// And how often afterwards.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// How long a connection that is not needed stays open for what is on the way. Longer than anything but the slowest
/// messages; those are sent again.
const LINGER: Duration = Duration::from_secs(5);

/// The outcome for whoever waits, and the one who makes it.
type Outcome = watch::Sender<Option<Result<(), DialError>>>;

impl Inner {
    /// The connection to a node; dials if there is none.
    pub(super) async fn link(self: &Arc<Self>, node: NodeId, address: SocketAddr) -> Result<Arc<Link>, DialError> {
        let mut dial = {
            let mut table = self.table();
            if let Some(link) = table.current(node) {
                return Ok(Arc::clone(link));
            }
            self.start_dial(&mut table, node, address)?
        };
        let outcome = dial.wait_for(Option::is_some).await.map_err(|_| DialError::Stopping)?.clone();
        outcome.unwrap_or(Err(DialError::Stopping))?;
        self.table().current(node).cloned().ok_or_else(|| DialError::Failed("the connection ended at once".to_owned()))
    }

    /// Dials in the background, once at a time, and not in the pause after failures.
    pub(super) fn start_dial(
        self: &Arc<Self>,
        table: &mut super::Table,
        node: NodeId,
        address: SocketAddr,
    ) -> Result<Dial, DialError> {
        if table.stopping {
            return Err(DialError::Stopping);
        }
        if node == self.node {
            return Err(DialError::Myself);
        }
        if table.banned.contains(&node) {
            return Err(DialError::BannedThere(node));
        }
        let peer = table.peer(node);
        if let Some(dial) = &peer.dial {
            return Ok(dial.clone());
        }
        if peer.resting {
            return Err(DialError::Resting);
        }
        let (sender, receiver) = watch::channel(None);
        peer.dial = Some(receiver.clone());
        telemetry::spawn("peer dial", Arc::clone(self).dial_in_background(node, address, sender));
        Ok(receiver)
    }

    async fn dial_in_background(self: Arc<Self>, node: NodeId, address: SocketAddr, outcome: Outcome) {
        let dialled = tokio::time::timeout(HANDSHAKE, self.dial(address, Some(node))).await;
        let result = dialled.unwrap_or(Err(DialError::TimedOut)).map(|_| ());
        let pause = self.table().dialled(node, result.as_ref().err(), self.random());
        if result.is_err() {
            // Where the queue is full there is more to hear than silence.
            let _ = self.events.try_send(Incoming::Silent { node });
        }
        let _ = outcome.send(Some(result));
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
            self.table().rested(node);
        }
    }

    /// Makes a control connection and takes it into use.
    pub(super) async fn dial(
        self: &Arc<Self>,
        address: SocketAddr,
        expected: Option<NodeId>,
    ) -> Result<PeerInfo, DialError> {
        let config = self.configs().control.clone();
        let (connection, peer) = self.connect(config, address, expected).await?;
        self.register(connection, peer.clone(), true).await?;
        Ok(peer)
    }

    /// Handshake and introduction. Ends early if the host says that the port is closed.
    pub(super) async fn connect(
        &self,
        config: quinn::ClientConfig,
        address: SocketAddr,
        expected: Option<NodeId>,
    ) -> Result<(Connection, PeerInfo), DialError> {
        let unusable = |error: quinn::ConnectError| match error {
            quinn::ConnectError::EndpointStopping => DialError::Stopping,
            quinn::ConnectError::InvalidRemoteAddress(_)
            | quinn::ConnectError::CidsExhausted
            | quinn::ConnectError::InvalidServerName(_)
            | quinn::ConnectError::NoDefaultClientConfig
            | quinn::ConnectError::UnsupportedVersion => {
                DialError::Address { local: self.local, why: error.to_string() }
            }
        };
        let made = async {
            let connecting = self.endpoint.connect_with(config, address, SERVER_NAME).map_err(unusable)?;
            let connection = connecting.await.map_err(|error| DialError::of(&error))?;
            let peer = hello::greet(&connection, &self.hello(), expected, &*self.clock).await?;
            Ok((connection, peer))
        };
        let made = tokio::select! {
            made = made => made,
            () = probe::until_closed(address, PROBE_FIRST, PROBE_EVERY) => Err(DialError::NobodyThere),
        };
        made.inspect_err(|error| self.say(address, "cannot connect to", error))
    }

    /// Takes an introduced connection into use.
    async fn register(
        self: &Arc<Self>,
        connection: Connection,
        peer: PeerInfo,
        dialled: bool,
    ) -> Result<(), DialError> {
        let link = Arc::new(Link::new(connection, peer, dialled));
        let node = link.peer.node;
        // Room for the reports comes first, so that they are queued in the order of what happened to the table.
        let mut room = self.events.reserve_many(2).await.ok();
        let mut report = |incoming| {
            if let Some(permit) = room.as_mut().and_then(Iterator::next) {
                Permit::send(permit, incoming);
            }
        };
        {
            let mut table = self.table();
            if table.banned.contains(&node) {
                link.end(Code::Banned, Ending::Failed(DialError::BannedThere(node).to_string()));
                return Err(DialError::BannedThere(node));
            }
            let added = table.add(&link);
            if let Some(old) = added.stale.last() {
                report(Incoming::Closed { node, address: old.peer.address, how: Ending::Reset });
            }
            for old in added.stale {
                old.end(Code::Unused, Ending::Reset);
            }
            if added.first {
                report(Incoming::Connected { peer: link.peer.clone() });
            }
            for bytes in added.waiting {
                link.expect_answer();
                // A datagram that does not fit any more is lost like any other.
                let _ = link.connection.send_datagram(bytes);
            }
            let current = table.current(node).cloned();
            let spare = table.peers.get(&node).into_iter().flat_map(|peer| &peer.links).filter(|link| link.dialled);
            for spare in spare.filter(|link| !current.as_ref().is_some_and(|current| Arc::ptr_eq(current, link))) {
                telemetry::spawn("peer spare", Arc::clone(self).retire(Arc::clone(spare)));
            }
        }
        telemetry::spawn("peer", Arc::clone(self).serve(link));
        Ok(())
    }

    /// Closes a connection that is not the one in use, after what is on the way had its time.
    async fn retire(self: Arc<Self>, link: Arc<Link>) {
        tokio::time::sleep(LINGER).await;
        let in_use = self.table().current(link.peer.node).is_some_and(|current| Arc::ptr_eq(current, &link));
        if !in_use && link.is_open() {
            link.retire();
        }
    }

    async fn serve(self: Arc<Self>, link: Arc<Link>) {
        link::serve(&link, &self.events).await;
        let room = self.events.reserve().await.ok();
        let mut table = self.table();
        if table.remove(&link) {
            let how = link.ending();
            tracing::debug!(node = %link.peer.node, "no connection any more: {how}");
            if let Some(room) = room {
                room.send(Incoming::Closed { node: link.peer.node, address: link.peer.address, how });
            }
        }
    }

    /// Takes connections in until the endpoint is closed.
    pub(super) async fn accept(self: Arc<Self>) {
        let room = Arc::new(Semaphore::new(HANDSHAKES));
        while let Some(incoming) = self.endpoint.accept().await {
            // Who is not let in tries again by itself: its first packet is repeated.
            let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
                incoming.ignore();
                continue;
            };
            let inner = Arc::clone(&self);
            telemetry::spawn("peer accept", async move {
                let from = incoming.remote_address();
                let accepted = tokio::time::timeout(HANDSHAKE, inner.introduce(incoming)).await;
                drop(place);
                let result = match accepted.unwrap_or(Err(DialError::TimedOut)) {
                    Ok((connection, peer, true)) => {
                        data::keep(&inner, peer.node, connection);
                        Ok(())
                    }
                    Ok((connection, peer, false)) => inner.register(connection, peer, false).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = result {
                    inner.say(from, "refused a connection from", &error);
                }
            });
        }
    }

    /// The handshake of an accepted connection; true if it is for data.
    async fn introduce(&self, incoming: quinn::Incoming) -> Result<(Connection, PeerInfo, bool), DialError> {
        let connecting = incoming.accept().map_err(|error| DialError::of(&error))?;
        let connection = connecting.await.map_err(|error| DialError::of(&error))?;
        let handshake = connection.handshake_data().and_then(|any| any.downcast::<HandshakeData>().ok());
        let is_data = handshake.and_then(|handshake| handshake.protocol).is_some_and(|name| name == DATA);
        let is_banned = |node| self.table().banned.contains(&node);
        let is_rival = |hello: &Hello| self.table().has_rival(hello);
        let peer = hello::answer(&connection, &self.hello(), is_banned, is_rival, &*self.clock).await?;
        Ok((connection, peer, is_data))
    }
}

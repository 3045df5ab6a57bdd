//! This node among others: hands what the transport brings to membership and registry, and carries out what they want.
//!
//! Decides nothing: who is alive is membership's to say, what the registry holds is the registrar's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::clock::Clock;
use super::control;
use super::registrar::Registrar;
use crate::gossip::{Event, Evidence, Member, Membership, Output, Peer, State};
use crate::id::NodeId;
use crate::model::happening::What;
use crate::time::Mono;
use crate::transport::{Ending, Incoming, PeerInfo, Transport};

pub(crate) mod identity;
mod seek;

pub(crate) use seek::Seek;

/// Between two rounds of house-keeping: known peers are written down, round-trip times are passed on.
const CHORES: Duration = Duration::from_secs(1);

/// For the last words of a leaving node. The words themselves take one round trip; the rest is for slow peers.
const GOODBYE: Duration = Duration::from_millis(500);

/// How often the certificate is made anew: it is valid for thirty days.
const RENEW: Duration = Duration::from_secs(24 * 3600);

/// Clocks that differ by more milliseconds are worth a warning: with NTP they differ by tens at most.
const OFFSET_MAX: u64 = 500;

/// The note of the store that holds the peers to look for after a restart.
pub(crate) const PEERS: &str = "peers";

/// The note of the store that holds [`View::known`].
pub(crate) const KNOWN: &str = "belongs";

/// The most peers that are written down.
const PEERS_MAX: usize = 4096;

/// Who is there, for readers.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    pub(crate) members: Vec<Member>,
    /// What nodes said about themselves when they connected.
    pub(crate) peers: BTreeMap<NodeId, PeerInfo>,
    /// So many were lost at once that this side may be the smaller one; and since when.
    pub(crate) frozen: Option<Mono>,
    /// Since when no peer is alive, if there were some.
    pub(crate) alone: Option<Mono>,
    /// The others that belong to the cluster: that were seen, in this life or an earlier one, and have neither left nor
    /// been removed.
    pub(crate) known: BTreeSet<NodeId>,
}

/// Sends frames of the registry to nodes by their ids.
#[derive(Debug)]
pub(crate) struct Post {
    transport: Transport,
    addresses: ArcSwap<BTreeMap<NodeId, SocketAddr>>,
}

impl Post {
    pub(crate) fn new(transport: Transport) -> Self {
        Self { transport, addresses: ArcSwap::default() }
    }

    /// False if the frame cannot be sent now.
    pub(crate) fn push(&self, to: NodeId, frame: Bytes) -> bool {
        let address = self.addresses.load().get(&to).copied();
        address.is_some_and(|address| self.transport.push(to, address, frame).is_ok())
    }
}

/// What others hold of the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) transport: Transport,
    pub(crate) view: Arc<ArcSwap<View>>,
}

/// Everything that the task owns.
pub(crate) struct Task {
    pub(crate) membership: Membership,
    pub(crate) cluster: Cluster,
    pub(crate) incoming: mpsc::Receiver<Incoming>,
    pub(crate) registrar: Registrar,
    pub(crate) post: Arc<Post>,
    pub(crate) desk: Arc<control::Desk>,
    pub(crate) board: Arc<Board>,
    pub(crate) removed: watch::Receiver<BTreeSet<NodeId>>,
    pub(crate) seek: Seek,
    pub(crate) clock: Clock,
    /// See [`View::known`].
    pub(crate) known: BTreeSet<NodeId>,
    /// Ends the task, with a farewell.
    pub(crate) leave: CancellationToken,
    /// Takes the sentence that the daemon ends with if it may not go on.
    pub(crate) fatal: watch::Sender<Option<String>>,
}

impl Task {
    pub(crate) async fn run(mut self) {
        let mut chores = tokio::time::interval(CHORES);
        chores.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut peers: BTreeMap<NodeId, PeerInfo> = BTreeMap::new();
        let mut written = Vec::new();
        let mut renewed = self.clock.mono();
        self.ban();
        // Nobody may take an empty view for an empty cluster.
        let mut written_known = self.known.clone();
        self.show(&peers);
        loop {
            self.carry_out(&peers).await;
            let timer = self.clock.reach(self.membership.poll_timeout());
            tokio::select! {
                biased;
                () = self.leave.cancelled() => break,
                () = timer => self.membership.handle_timeout(self.clock.mono()),
                incoming = self.incoming.recv() => match incoming {
                    Some(incoming) => self.receive(incoming, &mut peers).await,
                    None => break,
                },
                Ok(()) = self.removed.changed() => self.ban(),
                _ = chores.tick() => {
                    let now = self.clock.mono();
                    for connection in self.cluster.transport.connections() {
                        self.membership.set_rtt(connection.node, connection.rtt);
                    }
                    self.seek.chores(&self.membership, &self.cluster.transport, now);
                    let known = self.known();
                    if known != written {
                        self.registrar.note(PEERS, identity::encode_peers(&known)).await;
                        written = known;
                    }
                    if self.known != written_known {
                        self.registrar.note(KNOWN, identity::encode_known(&self.known)).await;
                        written_known.clone_from(&self.known);
                    }
                    if now.since(renewed) >= RENEW {
                        renewed = now;
                        if let Err(error) = self.cluster.transport.renew(Clock::wall()) {
                            tracing::error!(%error, "the certificate of this node could not be renewed");
                        }
                    }
                }
            }
        }
        tracing::info!("leaving the cluster");
        self.membership.leave(self.clock.mono());
        self.carry_out(&peers).await;
        // It says so more than once, some milliseconds apart, and then wants nothing more.
        while let Some(due) = self.membership.poll_timeout() {
            tokio::time::sleep_until(self.clock.instant(due)).await;
            self.membership.handle_timeout(self.clock.mono());
            self.carry_out(&peers).await;
        }
        self.cluster.transport.goodbye(GOODBYE).await;
    }

    async fn receive(&mut self, incoming: Incoming, peers: &mut BTreeMap<NodeId, PeerInfo>) {
        let now = self.clock.mono();
        match incoming {
            Incoming::Datagram { from, bytes } => {
                if let Err(error) = self.membership.handle_datagram(from, &bytes, now) {
                    tracing::debug!(%from, %error, "a packet of a peer was refused");
                }
            }
            Incoming::Silent { node } => self.membership.handle_evidence(node, Evidence::Silent, now),
            Incoming::Push { from, bytes } => {
                if !self.registrar.frame(from, bytes) {
                    tracing::debug!(%from, "too much waits for the registry; a frame was dropped, repair brings it again");
                }
            }
            Incoming::PushFailed { node } => self.registrar.unreachable(node).await,
            Incoming::Connected { peer } => {
                tracing::debug!(node = %peer.hello.node, address = %peer.hello.address, "connected");
                if peer.clock_offset_ms.unsigned_abs() > OFFSET_MAX {
                    tracing::warn!(
                        node = %peer.hello.name, offset_ms = peer.clock_offset_ms,
                        "its clock and ours differ: schedules are fired by the clock of whoever fires them"
                    );
                }
                let identity =
                    Peer { node: peer.hello.node, address: peer.hello.address, start: peer.hello.start, life: 0 };
                let known = self.membership.members().any(|member| {
                    member.peer.node == identity.node
                        && member.state == State::Alive
                        && member.peer.start >= identity.start
                });
                peers.insert(identity.node, peer);
                if known {
                    self.membership.handle_evidence(identity.node, Evidence::Alive, now);
                    self.registrar.connected(identity.node).await;
                } else {
                    self.membership.join(identity, now);
                }
                self.show(peers);
            }
            Incoming::Closed { node, how, .. } => {
                let evidence = match how {
                    Ending::Goodbye => Evidence::Leaving,
                    Ending::Reset => Evidence::Refused,
                    Ending::TimedOut | Ending::Failed(_) => Evidence::Closed,
                };
                if evidence == Evidence::Refused {
                    self.cluster.transport.abandon_data(node);
                }
                self.membership.handle_evidence(node, evidence, now);
                self.registrar.unreachable(node).await;
            }
            Incoming::Call { from, bytes, reply } => {
                let desk = Arc::clone(&self.desk);
                crate::telemetry::spawn("peer call", async move { reply.send(desk.answer_peer(from, &bytes).await) });
            }
        }
    }

    /// Does what membership wants.
    async fn carry_out(&mut self, peers: &BTreeMap<NodeId, PeerInfo>) {
        let mut changed = false;
        while let Some(output) = self.membership.poll_output() {
            let event = match output {
                Output::Send { to, bytes } => {
                    self.cluster.transport.send_datagram(to.node, to.address, bytes);
                    continue;
                }
                Output::Event(event) => event,
            };
            changed = true;
            let name = |peer: &Peer| {
                let name = peers.get(&peer.node).map(|info| info.hello.name.to_string());
                name.unwrap_or_else(|| peer.node.to_string())
            };
            match event {
                Event::Up(peer) => {
                    tracing::info!(node = name(&peer), address = %peer.address, "node is up");
                    self.members().await;
                    self.registrar.connected(peer.node).await;
                    let is_it = |member: &Member| {
                        (member.peer.node, member.peer.start, member.state) == (peer.node, peer.start, State::Down)
                    };
                    // Readers have not been shown yet that it is up.
                    if self.cluster.view.load().members.iter().any(is_it) {
                        self.board.note_peer(What::Up, &peer, &name(&peer), "it is back; it had been taken for dead");
                    }
                    self.board.greet(&self.cluster.transport, peer);
                    self.board.remember(&self.cluster.transport, peer);
                }
                Event::Suspect(peer) => tracing::info!(node = name(&peer), "node is suspected to be down"),
                Event::Trusted(peer) => tracing::info!(node = name(&peer), "node is alive after all"),
                Event::Down(peer) => {
                    tracing::warn!(node = name(&peer), address = %peer.address, "node is down");
                    self.board.note_peer(What::Down, &peer, &name(&peer), "it answers nobody any more");
                    self.board.part(peer.node);
                    self.cluster.transport.abandon_data(peer.node);
                    self.members().await;
                    self.registrar.unreachable(peer.node).await;
                }
                Event::Left(peer) => {
                    tracing::info!(node = name(&peer), "node has left");
                    self.board.note_peer(What::Left, &peer, &name(&peer), "it was stopped");
                    self.board.part(peer.node);
                    self.members().await;
                    self.registrar.unreachable(peer.node).await;
                }
                Event::Renewed(peer) => {
                    tracing::warn!(life = peer.life, "this node was taken for dead and has joined again");
                    // Whoever took it for dead has dropped all that it said.
                    let there = self.membership.members().filter(|member| member.state == State::Alive);
                    there.for_each(|member| self.board.greet(&self.cluster.transport, member.peer));
                }
                Event::Usurped { by } => {
                    let reason = format!(
                        "another node with this node's id {} runs at {}: the data directory was copied; start one of \
                         the two with an empty data directory",
                        by.node, by.address
                    );
                    self.fatal.send_replace(Some(reason));
                }
                Event::Frozen(true) => {
                    tracing::error!(
                        "more than a third of the nodes went away at once: this may be the smaller side of a \
                                     broken network, so nothing is moved until they are back"
                    );
                }
                Event::Frozen(false) => tracing::info!("the lost nodes are back or given up: work is placed again"),
            }
        }
        if changed {
            self.cluster.transport.watch(&self.membership.neighbours());
            self.show(peers);
        }
    }

    /// Shows the new view to readers.
    fn show(&mut self, peers: &BTreeMap<NodeId, PeerInfo>) {
        for member in self.membership.members() {
            match member.state {
                State::Left => drop(self.known.remove(&member.peer.node)),
                State::Alive | State::Suspect | State::Down => drop(self.known.insert(member.peer.node)),
            }
        }
        self.known.retain(|node| !self.membership.is_banned(*node));
        let now = self.clock.mono();
        let old = self.cluster.view.load();
        let members: Vec<Member> = self.membership.members().cloned().collect();
        let others = members.iter().any(|member| member.state == State::Down);
        let is_alone = others && self.membership.alive_count() == 0;
        let view = View {
            known: self.known.clone(),
            peers: peers.clone(),
            frozen: self.membership.is_frozen().then(|| old.frozen.unwrap_or(now)),
            alone: is_alone.then(|| old.alone.unwrap_or(now)),
            members,
        };
        self.cluster.view.store(Arc::new(view));
        self.board.nodes_changed();
    }

    /// Tells the registry who is there, and where.
    async fn members(&self) {
        let members: Vec<&Member> = self.membership.members().collect();
        self.post.addresses.store(Arc::new(members.iter().map(|m| (m.peer.node, m.peer.address)).collect()));
        let alive = members.iter().filter(|m| matches!(m.state, State::Alive | State::Suspect));
        let alive = alive.map(|m| m.peer.node).collect();
        let known = members.iter().map(|m| m.peer.node).collect();
        self.registrar.members(alive, known).await;
    }

    /// The peers to look for after a restart.
    fn known(&self) -> Vec<SocketAddr> {
        let members = self.membership.members().filter(|member| member.state != State::Left);
        let mut known: Vec<SocketAddr> = members.map(|member| member.peer.address).take(PEERS_MAX).collect();
        known.sort_unstable();
        known.dedup();
        known
    }

    /// Refuses the nodes that were removed.
    fn ban(&mut self) {
        let removed = self.removed.borrow_and_update().clone();
        if removed.contains(&self.membership.me().node) {
            let reason = "this node was removed from the cluster with `maelctl node rm`; to let the machine join again, \
                          start with an empty data directory";
            self.fatal.send_replace(Some(reason.to_owned()));
        }
        for node in &removed {
            if !self.membership.is_banned(*node) {
                self.membership.ban(*node, self.clock.mono());
            }
        }
        self.cluster.transport.set_banned(removed);
    }
}

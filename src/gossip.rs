//! Who is in the cluster: SWIM without IO. Packets, evidence and a time go in; packets and events come out.
//!
//! foca (`swim`) decides which of two statements about a member holds. Whether a member is dead is decided here
//! (`probe`), because foca's own prober cannot meet our times: it pings at random, so a dead member is
//! missed by all for 4.6 periods in 1 of 100 cases; it never learns that it is deaf itself (Lifeguard); and a suspicion
//! is lost with the member that raised it. Instead the members form a ring in the order of their ids: once a period
//! everyone sends its successor a beat, which the transport acknowledges, so that two watch each member: its predecessor
//! misses the acknowledgement, its successor the beat. News goes round the ring in one copy for each with a receipt for
//! each (`spread`), where foca's random copies tell most of them several times. Views are compared by a digest in every
//! beat, and repaired (`meet`).
//!
//! Knows nothing of sockets, of connections, of the registry. Time and randomness are arguments; one seed replays.

mod codec;
mod freeze;
mod meet;
mod options;
mod packet;
mod peer;
mod probe;
mod roll;
mod settle;
mod spread;
mod swim;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use self::options::Options;
pub use self::peer::Peer;

use self::freeze::Freeze;
use self::meet::Meet;
use self::packet::Packet;
use self::probe::Detector;
use self::roll::Roll;
use self::spread::Spread;
use self::swim::Swim;
use crate::id::NodeId;
use crate::rng::Rng;
use crate::time::Mono;

/// To how many a leaving node says so itself; the others hear it from them.
const FAREWELLS: usize = 64;

/// How often it says so, and the pause between: at 20 % loss one of 100 misses all three, and hears it from others.
const FAREWELL_ROUNDS: u8 = 3;
const FAREWELL_EVERY: Duration = Duration::from_millis(10);

/// How often the gone members are looked through.
const PURGE_EVERY: Duration = Duration::from_secs(60);

/// What is held of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It answers.
    Alive,
    /// It does not answer us, and is given time to. Others need not know.
    Suspect,
    /// It was given up. Only a later life brings it back.
    Down,
    /// It said that it goes.
    Left,
}

impl State {
    fn is_live(self) -> bool {
        match self {
            Self::Alive | Self::Suspect => true,
            Self::Down | Self::Left => false,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Left => "left",
        })
    }
}

/// A member of the cluster, ours excepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its latest life.
    pub peer: Peer,
    /// What is held of it.
    pub state: State,
    /// When that began, on our clock.
    pub since: Mono,
}

/// What happened to the membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// New, or back in a later life (perhaps without a `Down` of the earlier one).
    Up(Peer),
    /// Does not answer us.
    Suspect(Peer),
    /// Answers us again.
    Trusted(Peer),
    /// Was given up.
    Down(Peer),
    /// Said that it goes.
    Left(Peer),
    /// The others had given us up, or knew a later start of ours: this is who we are now.
    Renewed(Peer),
    /// Our node id speaks from another address and started no earlier than we did: the data directory was copied. The
    /// shell must stop and say so.
    Usurped {
        /// The other.
        by: Peer,
    },
    /// More than a third vanished at once (true), or came back or were waited for long enough (false).
    Frozen(bool),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// A datagram; it may be lost.
    Send {
        /// To whom. Whoever answers at that address must prove the node id.
        to: Peer,
        /// At most `Options::packet_max`.
        bytes: Bytes,
    },
    /// For the node.
    Event(Event),
}

/// What the transport noticed of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// A packet went out and nothing at all came back in time, not even an acknowledgement.
    Silent,
    /// A connection timed out, or was closed without goodbye.
    Closed,
    /// The port is unreachable, or a stateless reset came: the process is gone.
    Refused,
    /// It said goodbye.
    Leaving,
    /// Anything authentic was heard.
    Alive,
}

/// Why a packet was refused. Nothing was changed by it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPacket {
    /// No byte at all.
    #[error("the packet is empty")]
    Empty,
    /// Not one of ours, or of a later release.
    #[error("the packet is of unknown kind {0}")]
    Kind(u8),
    /// Cut off.
    #[error("the packet ends too early")]
    Short,
    /// More than `Options::packet_max` bytes.
    #[error("the packet has {0} bytes; allowed are at most {1}")]
    TooLong(usize, usize),
    /// A whole packet and then more.
    #[error("{0} bytes are left over after the packet")]
    Trailing(usize),
    /// A field has a value that it cannot have.
    #[error("the packet has no valid value for {0}")]
    Value(&'static str),
    /// It speaks in the name of another node.
    #[error("node {from} sent a packet that says it is from {claimed}")]
    Sender {
        /// Whom the packet names.
        claimed: NodeId,
        /// Who sent it.
        from: NodeId,
    },
    /// The node was removed from the cluster.
    #[error("node {0} is banned from the cluster")]
    Banned(NodeId),
}

/// The membership as one node sees it. Drive it like this: hand in what arrives, call [`Membership::handle_timeout`] at
/// [`Membership::poll_timeout`], and after each call take all of [`Membership::poll_output`].
pub struct Membership {
    me: Peer,
    options: Options,
    rng: Rng,
    roll: Roll,
    swim: Swim,
    detector: Detector,
    spread: Spread,
    meet: Meet,
    freeze: Freeze,
    rtt: BTreeMap<NodeId, Duration>,
    banned: BTreeSet<NodeId>,
    outputs: VecDeque<Output>,
    purge_next: Mono,
    /// How many farewells are still to be said, and when the next.
    leaving: Option<(u8, Mono)>,
    usurper: Option<Peer>,
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").field("me", &self.me).field("alive", &self.roll.alive()).finish_non_exhaustive()
    }
}

impl Membership {
    /// A node that knows nobody yet.
    pub fn new(me: Peer, options: Options, mut rng: Rng, now: Mono) -> Self {
        let me = me.plain();
        let swim = Swim::new(me, rng.child("swim"));
        // Neighbours that start together must not ping together.
        let phase = Duration::from_nanos(rng.below(u64::try_from(options.probe_period.as_nanos()).unwrap_or(u64::MAX)));
        let detector = Detector::new(now.after(phase));
        Self {
            me,
            rng,
            roll: Roll::default(),
            swim,
            detector,
            spread: Spread::default(),
            meet: Meet::new(now.after(options.greet_down_every)),
            freeze: Freeze::default(),
            rtt: BTreeMap::new(),
            banned: BTreeSet::new(),
            outputs: VecDeque::new(),
            purge_next: now.after(PURGE_EVERY),
            leaving: None,
            usurper: None,
            options,
        }
    }

    /// Who we are: what was given to `new`, in its latest life.
    pub fn me(&self) -> &Peer {
        &self.me
    }

    /// Anything that arrived from a node whose id the transport has proved. Any bytes; never panics.
    ///
    /// # Errors
    /// Says why the packet was refused. For a log at the most: the sender may be of a later release.
    pub fn handle_datagram(&mut self, from: NodeId, bytes: &[u8], now: Mono) -> Result<(), BadPacket> {
        self.enter(now);
        if self.leaving.is_some() {
            return Ok(());
        }
        if self.banned.contains(&from) {
            return Err(BadPacket::Banned(from));
        }
        if bytes.len() > self.options.packet_max {
            return Err(BadPacket::TooLong(bytes.len(), self.options.packet_max));
        }
        self.take(from, Packet::decode(bytes)?, now)
    }

    fn take(&mut self, from: NodeId, packet: Packet, now: Mono) -> Result<(), BadPacket> {
        match packet {
            Packet::Intro { join, me: sender, you } => {
                self.check_sender(from, &sender)?;
                self.meet_intro(join, sender, you, now)?;
            }
            Packet::Leave(sender) => {
                self.check_sender(from, &sender)?;
                self.state_of(sender, State::Left, now);
            }
            _ if from == self.me.node => return Err(BadPacket::Sender { claimed: self.me.node, from }),
            Packet::Ping(view) => self.handle_ping(from, view, now),
            Packet::Ack(view) | Packet::Beat(view) => self.handle_view(from, view, now),
            Packet::Ask(target) => self.handle_ask(from, target, now),
            Packet::Reached(target) => self.heard(target, now),
            Packet::Silent(target) => self.accuse(from, target, now),
            Packet::List(entries) => self.meet_list(from, entries, now),
            Packet::Tell { peer, state, until } => self.handle_tell(from, (peer, state), until, now),
            Packet::Told(sign) => self.handle_told(from, sign, now),
            Packet::Sums { answer, sums } => self.meet_sums(from, answer, &sums, now),
        }
        Ok(())
    }

    /// A packet that names its sender must name the one whom the transport proved, and that cannot be us.
    fn check_sender(&mut self, from: NodeId, sender: &Peer) -> Result<(), BadPacket> {
        if sender.node != from {
            return Err(BadPacket::Sender { claimed: sender.node, from });
        }
        if from == self.me.node {
            self.is_usurped(sender, State::Alive);
            return Err(BadPacket::Sender { claimed: from, from });
        }
        Ok(())
    }

    /// What the transport noticed of a node.
    pub fn handle_evidence(&mut self, node: NodeId, evidence: Evidence, now: Mono) {
        self.enter(now);
        if self.leaving.is_some() || self.banned.contains(&node) {
            return;
        }
        let Some(member) = self.roll.get(node).cloned() else { return };
        match evidence {
            Evidence::Silent => self.miss_beat(node, now),
            Evidence::Closed => self.start_probe(node, probe::Cause::Closed, now),
            Evidence::Refused => self.start_probe(node, probe::Cause::Refused, now),
            Evidence::Leaving => self.state_of(member.peer, State::Left, now),
            Evidence::Alive => match member.state {
                State::Alive | State::Suspect => self.heard(node, now),
                State::Down => self.introduce(&member.peer, now),
                State::Left => {}
            },
        }
    }

    /// The round trip to a node as the transport measured it. Timeouts follow.
    pub fn set_rtt(&mut self, node: NodeId, rtt: Duration) {
        if self.roll.get(node).is_some() {
            self.rtt.insert(node, rtt);
        }
    }

    /// Says goodbye. Keep taking outputs and calling `handle_timeout` until `poll_timeout` is `None`, some 20 ms; after
    /// that this membership does nothing more.
    pub fn leave(&mut self, now: Mono) {
        if self.leaving.is_none() {
            self.leaving = Some((FAREWELL_ROUNDS, now));
            self.say_farewell(now);
        }
    }

    fn say_farewell(&mut self, now: Mono) {
        let Some((left, at)) = self.leaving else { return };
        if left == 0 || at > now {
            return;
        }
        self.leaving = Some((left - 1, now.after(FAREWELL_EVERY)));
        let packet = Packet::Leave(self.me).encode();
        for member in self.roll.pick(FAREWELLS, self.me.node, &mut self.rng) {
            self.outputs.push_back(Output::Send { to: member.peer, bytes: packet.clone() });
        }
    }

    /// Refuses a node from now on and removes it. The others hear that it is down; each must be told of the ban.
    pub fn ban(&mut self, node: NodeId, now: Mono) {
        self.enter(now);
        if node != self.me.node && !self.banned.contains(&node) {
            if let Some(member) = self.roll.live(node).cloned() {
                self.state_of(member.peer, State::Down, now);
            }
            self.banned.insert(node);
            self.drop_member(node);
        }
    }

    /// Lifts a ban, and drops a member that is down or left from the list.
    pub fn forget(&mut self, node: NodeId) {
        self.banned.remove(&node);
        if self.roll.live(node).is_none() {
            self.drop_member(node);
        }
    }

    /// Whether the node is refused.
    pub fn is_banned(&self, node: NodeId) -> bool {
        self.banned.contains(&node)
    }

    /// All refused nodes, by id.
    pub fn banned(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.banned.iter().copied()
    }

    /// When to call [`Membership::handle_timeout`]; never again if `None`.
    pub fn poll_timeout(&self) -> Option<Mono> {
        if let Some((left, at)) = self.leaving {
            return (left > 0).then_some(at);
        }
        let fixed = [Some(self.purge_next), self.spread.due(), self.freeze.due(), self.meet.due()];
        fixed.into_iter().flatten().chain(self.detector.due(&self.options)).min()
    }

    /// Does what is due. Too early or too late does no harm; how late is noticed.
    pub fn handle_timeout(&mut self, now: Mono) {
        if self.leaving.is_some() {
            self.say_farewell(now);
            return;
        }
        self.enter(now);
        self.run_detector(now);
        self.run_spread(now);
        self.run_meet(now);
        if self.purge_next <= now {
            self.purge_next = now.after(PURGE_EVERY);
            for node in self.roll.expired(now, self.options.keep_down, self.options.keep_down_max) {
                self.drop_member(node);
            }
        }
        self.thaw(now);
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// All that are known but us, by node id; the down and left ones too, for 24 hours and at most 4,096 of them.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.roll.iter().map(AsRef::as_ref)
    }

    /// What is held of a member; none if it is not known.
    pub fn state(&self, node: NodeId) -> Option<State> {
        Some(self.roll.get(node)?.state)
    }

    /// Whom to watch closely: the nearest alive on both sides of the ring. Every member is watched so by two.
    pub fn neighbours(&self) -> BTreeSet<NodeId> {
        let me = self.me.node;
        [self.roll.successor(me, |_| false), self.roll.predecessor(me)].into_iter().flatten().collect()
    }

    /// How many others are alive or suspect.
    pub fn alive_count(&self) -> usize {
        self.roll.alive()
    }

    /// Whether more than a third vanished at once, and nothing should be moved because of it yet.
    pub fn is_frozen(&self) -> bool {
        self.freeze.is_frozen()
    }

    /// Begins in the middle, knowing all these: a simulated world of 10,000 cannot afford 10,000 joins of 10,000.
    /// Without events and without a word to anyone. The members are shared between the nodes of the world.
    pub fn preload(&mut self, members: &[Arc<Member>], now: Mono) {
        self.roll.fill(members, self.me.node);
        self.rewatch(now);
    }
}

#[cfg(test)]
mod tests;

//! Membership: who is in the cluster and alive, told by SWIM (foca) with Lifeguard's damping around it.
//!
//! Sans-IO: packets, evidence and time go in, packets and events come out. Knows nothing of sockets, of certificates or
//! of what members do; the transport proves who sent a packet. foca keeps the member list and the protocol's messages;
//! timers, suspicion, local health and evidence are ours, because foca has fixed ones (ARCHITECTURE.md says why).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use foca::{AccumulatingRuntime, Foca, Identity, NoCustomBroadcast, OwnedNotification, Timer};
use rand_chacha::ChaCha8Rng;

use crate::id::NodeId;
use crate::rng::Rng;
use crate::time::Mono;

mod codec;
mod freeze;
mod options;
mod suspicion;
mod timers;

pub use codec::BadPacket;
pub use options::Options;

use codec::Codec;
use freeze::Freeze;
use suspicion::{Doubt, Suspicion};
use timers::Timers;

/// A member as others address it. Two of one node are never alive together: the greater (start, life, address) wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Who.
    pub node: NodeId,
    /// Where it is reached.
    pub address: SocketAddr,
    /// Which start of the node this is; greater than that of every earlier start.
    pub start: u64,
    /// How often it came back from being taken for dead within this start.
    pub life: u32,
}

impl Identity for Peer {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Self { life: self.life.checked_add(1)?, ..*self })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.start, self.life, self.address) > (adversary.start, adversary.life, adversary.address)
    }
}

/// What is known of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It answers.
    Alive,
    /// It did not answer somebody, and has not been heard since.
    Suspect,
    /// It is gone, without a word.
    Down,
    /// It said goodbye.
    Left,
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

/// A member, and since when it is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Which.
    pub peer: Peer,
    /// What it is.
    pub state: State,
    /// Since when.
    pub since: Mono,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A member came, or came back, or was started again.
    Up(Peer),
    /// Somebody could not reach it.
    Suspect(Peer),
    /// The suspicion was wrong.
    Trusted(Peer),
    /// It is gone.
    Down(Peer),
    /// It left in order.
    Left(Peer),
    /// We were taken for dead and have joined again as this.
    Renewed(Peer),
    /// Another process uses our node id: the data directory was copied. This node must stop.
    Usurped {
        /// The other one.
        by: Peer,
    },
    /// More than a third of the members were lost at once (true), or that is over (false).
    Frozen(bool),
}

/// What membership wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// A packet for a member, unreliable.
    Send {
        /// To whom.
        to: Peer,
        /// Never longer than [`Options::packet_max`].
        bytes: Bytes,
    },
    /// Something happened.
    Event(Event),
}

/// What the transport saw of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// The connection timed out or broke without a goodbye.
    Closed,
    /// The system said that nobody listens there any more.
    Refused,
    /// It said goodbye.
    Leaving,
    /// Something authentic came from it.
    Alive,
}

/// For how many members that are gone their state is kept.
const GONE_MAX: usize = 4096;

/// Up to this many members everybody is told of a death or a departure at once by whoever finds it; above, it spreads by
/// gossip. 64 packets of some 60 bytes are sent in under a millisecond.
const TELL_ALL: usize = 64;

/// How often a node that sees nobody alive tries a member that it lost.
const LONELY: Duration = Duration::from_secs(2);

type Swim = Foca<Peer, Codec, ChaCha8Rng, NoCustomBroadcast>;

/// The membership of one node.
pub struct Membership {
    swim: Swim,
    runtime: AccumulatingRuntime<Peer>,
    options: Options,
    timers: Timers,
    members: BTreeMap<NodeId, Member>,
    suspicions: BTreeMap<NodeId, Suspicion>,
    doubts: BTreeMap<NodeId, Doubt>,
    leaving: BTreeSet<NodeId>,
    banned: BTreeSet<NodeId>,
    outputs: VecDeque<Output>,
    freeze: Freeze,
    rng: Rng,
    /// Our incarnation as last sent.
    incarnation: u16,
    /// Lifeguard's local health: 0 is well; each step stretches our own probes once more.
    health: u32,
    lonely: Option<Mono>,
    alive: usize,
    left: bool,
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").field("me", self.me()).field("alive", &self.alive).finish_non_exhaustive()
    }
}

impl Membership {
    /// A node alone.
    pub fn new(me: Peer, options: Options, mut rng: Rng, _now: Mono) -> Self {
        let swim = Foca::new(me, options.config(1), rng.child("swim").into_generator(), Codec);
        Self {
            swim,
            runtime: AccumulatingRuntime::new(),
            freeze: Freeze::default(),
            timers: Timers::default(),
            members: BTreeMap::new(),
            suspicions: BTreeMap::new(),
            doubts: BTreeMap::new(),
            leaving: BTreeSet::new(),
            banned: BTreeSet::new(),
            outputs: VecDeque::new(),
            options,
            rng,
            incarnation: 0,
            health: 0,
            lonely: None,
            alive: 0,
            left: false,
        }
    }

    /// This node as it is known at the moment.
    pub fn me(&self) -> &Peer {
        self.swim.identity()
    }

    /// Every other member that is known, by node id; those that are gone too, for a day.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// How many others are alive, suspects included.
    pub fn alive_count(&self) -> usize {
        self.alive
    }

    /// Whether so many were lost at once that this may be the smaller side of a partition.
    pub fn is_frozen(&self) -> bool {
        self.freeze.is_frozen()
    }

    /// Asks a node that is there to let us in.
    pub fn join(&mut self, peer: Peer, now: Mono) {
        if self.left || peer.node == self.me().node || self.banned.contains(&peer.node) {
            return;
        }
        // An error is a packet that does not fit, which no announcement is.
        let _ = self.swim.announce(peer, &mut self.runtime);
        self.settle(now);
    }

    /// Takes in a packet. `from` is who sent it, as the transport proved.
    ///
    /// # Errors
    /// Whatever the bytes are, the worst is an error and no change.
    pub fn handle_datagram(&mut self, from: NodeId, bytes: &[u8], now: Mono) -> Result<(), BadPacket> {
        if self.left {
            return Ok(());
        }
        let (header, updates) = codec::parse(bytes, self.options.packet_max)?;
        if header.src.node != from {
            return Err(BadPacket::OtherSender { claimed: header.src.node, proven: from });
        }
        if self.banned.contains(&from) {
            return Err(BadPacket::Banned(from));
        }
        let me = *self.me();
        for update in &updates {
            let other = *update.id();
            // Of two with one id exactly one stops; lives are left out, since the two take new ones in turn.
            let is_other = other.node == me.node && (other.start, other.address) > (me.start, me.address);
            if is_other && update.state() != foca::State::Down {
                self.outputs.push_back(Output::Event(Event::Usurped { by: other }));
            }
            if other == header.src && update.state() == foca::State::Down {
                self.leaving.insert(from);
            }
        }
        self.settle_rivals(header.src);
        self.doubts.remove(&from);
        let handled = self.swim.handle_data(bytes, &mut self.runtime);
        self.settle(now);
        for update in &updates {
            let node = update.id().node;
            if update.state() == foca::State::Suspect && node != me.node {
                self.accuse(*update.id(), update.incarnation(), from, now);
            }
            self.review(node, now);
        }
        self.review(from, now);
        handled.map_err(|error| BadPacket::Protocol(error.to_string()))
    }

    /// Takes in what the transport saw. State: a death that it suggests is confirmed by one more packet first.
    pub fn handle_evidence(&mut self, node: NodeId, evidence: Evidence, now: Mono) {
        let Some(member) = self.members.get(&node).copied() else { return };
        if !matches!(member.state, State::Alive | State::Suspect) || self.left {
            return;
        }
        match evidence {
            Evidence::Alive => {
                self.doubts.remove(&node);
            }
            Evidence::Leaving => {
                self.leaving.insert(node);
                self.bury(member.peer, now);
            }
            Evidence::Refused => {
                let due = now.after(self.options.confirm);
                self.doubts.entry(node).or_insert(Doubt { peer: member.peer, due });
                self.ping(member.peer);
            }
            Evidence::Closed => {
                // A network that lost a connection may be slow and not dead: the usual suspicion, begun at once.
                if let Some(incarnation) = self.incarnation_of(node) {
                    let suspect = foca::Member::new(member.peer, incarnation, foca::State::Suspect);
                    let _ = self.swim.apply_many(std::iter::once(suspect), true, &mut self.runtime);
                    self.settle(now);
                    self.accuse(member.peer, incarnation, self.me().node, now);
                    self.warn(member.peer, incarnation);
                }
                self.ping(member.peer);
            }
        }
    }

    /// The smoothed round-trip time to a member, as the transport measured it: a suspect far away is given longer.
    pub fn set_rtt(&mut self, _node: NodeId, rtt: Duration) {
        self.options.set_rtt(rtt);
    }

    /// Says goodbye: everybody hears it from us where they are few, and some where they are many. Nothing is done after.
    pub fn leave(&mut self, now: Mono) {
        if self.left {
            return;
        }
        let me = *self.me();
        let farewell = foca::Member::new(me, self.incarnation, foca::State::Down);
        self.tell(&[farewell], me.node);
        let _ = self.swim.leave_cluster(&mut self.runtime);
        self.settle(now);
        self.left = true;
        self.timers.clear();
        self.suspicions.clear();
        self.doubts.clear();
        self.lonely = None;
    }

    /// Refuses a node from now on.
    pub fn ban(&mut self, node: NodeId, now: Mono) {
        self.banned.insert(node);
        if let Some(member) = self.members.get(&node).copied() {
            if matches!(member.state, State::Alive | State::Suspect) {
                self.bury(member.peer, now);
            }
            self.members.remove(&node);
        }
    }

    /// Whether a node is refused.
    pub fn is_banned(&self, node: NodeId) -> bool {
        self.banned.contains(&node)
    }

    /// When to call [`Membership::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Mono> {
        let suspicion = self.suspicions.values().map(|suspicion| suspicion.due(&self.options, self.alive)).min();
        let doubt = self.doubts.values().map(|doubt| doubt.due).min();
        let all = [self.timers.next(), suspicion, doubt, self.lonely, self.freeze.due()];
        all.into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Mono) {
        if let Some(due) = self.poll_timeout() {
            let late = now.since(due);
            if late > self.options.probe_period {
                self.overslept(late, now);
            }
        }
        while let Some(timer) = self.timers.pop(now) {
            // What fails is a timer that no longer matters, or a packet that does not fit; the next round is set already.
            let _ = self.swim.handle_timer(timer, &mut self.runtime);
            self.settle(now);
        }
        let (options, alive) = (&self.options, self.alive);
        let due = self.suspicions.iter().filter(|(_, s)| s.due(options, alive) <= now).map(|(node, _)| *node);
        for node in due.collect::<Vec<_>>() {
            self.review(node, now);
            if let Some(suspicion) = self.suspicions.remove(&node) {
                self.bury(suspicion.peer, now);
            }
        }
        let due = self.doubts.iter().filter(|(_, doubt)| doubt.due <= now).map(|(node, _)| *node);
        for node in due.collect::<Vec<_>>() {
            if let Some(doubt) = self.doubts.remove(&node) {
                self.bury(doubt.peer, now);
            }
        }
        if self.lonely.is_some_and(|due| due <= now) {
            self.call_out(now);
        }
        if let Some(frozen) = self.freeze.handle_timeout(now) {
            self.outputs.push_back(Output::Event(Event::Frozen(frozen)));
        }
    }

    /// What membership wants next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Two processes speak as one node: the lesser one is told of the other, and stops by [`Event::Usurped`]. One that is
    /// gone since it was started again does not hear it.
    fn settle_rivals(&mut self, sender: Peer) {
        let Some(known) = self.members.get(&sender.node).map(|member| member.peer) else { return };
        if known.address != sender.address {
            let is_known = (known.start, known.address) > (sender.start, sender.address);
            let (winner, loser) = if is_known { (known, sender) } else { (sender, known) };
            self.send(loser, foca::Message::Gossip, &[foca::Member::alive(winner)]);
        }
    }

    /// Our own loop was late: what others did not answer in that time proves nothing against them.
    fn overslept(&mut self, late: Duration, now: Mono) {
        self.health = self.options.health_max;
        for suspicion in self.suspicions.values_mut() {
            suspicion.since = suspicion.since.after(late).min(now);
        }
        for doubt in self.doubts.values_mut() {
            doubt.due = now.after(self.options.confirm);
        }
    }

    /// Somebody says that it could not reach a member.
    fn accuse(&mut self, peer: Peer, incarnation: u16, by: NodeId, now: Mono) {
        let is_suspect = self.state_of(peer.node).is_some_and(|member| {
            *member.id() == peer && member.state() == foca::State::Suspect && member.incarnation() == incarnation
        });
        if !is_suspect {
            return;
        }
        let fresh = Suspicion { peer, incarnation, since: now, accusers: BTreeSet::new() };
        let suspicion = self.suspicions.entry(peer.node).or_insert_with(|| fresh.clone());
        if suspicion.incarnation != incarnation || suspicion.peer != peer {
            *suspicion = fresh;
        }
        let is_new = suspicion.accusers.is_empty();
        suspicion.accusers.insert(by);
        if is_new {
            self.set_state(peer, State::Suspect, now);
            self.outputs.push_back(Output::Event(Event::Suspect(peer)));
        }
    }

    /// Drops a suspicion that foca no longer shares.
    fn review(&mut self, node: NodeId, now: Mono) {
        let Some(suspicion) = self.suspicions.get(&node) else { return };
        let (peer, incarnation) = (suspicion.peer, suspicion.incarnation);
        let state = self.state_of(node).map(|member| (*member.id(), member.state(), member.incarnation()));
        if state == Some((peer, foca::State::Suspect, incarnation)) {
            return;
        }
        self.suspicions.remove(&node);
        if let Some((peer, foca::State::Alive, _)) = state {
            self.set_state(peer, State::Alive, now);
            self.outputs.push_back(Output::Event(Event::Trusted(peer)));
        }
    }

    /// Declares a member dead, tells everybody, and tells it too in case it is not.
    fn bury(&mut self, peer: Peer, now: Mono) {
        let Some(incarnation) = self.incarnation_of(peer.node) else { return };
        let dead = foca::Member::new(peer, incarnation, foca::State::Down);
        let _ = self.swim.apply_many(std::iter::once(dead.clone()), true, &mut self.runtime);
        self.settle(now);
        self.tell(&[dead], peer.node);
        if !self.leaving.contains(&peer.node) {
            self.send(peer, foca::Message::TurnUndead, &[]);
        }
    }

    /// Tells every member alive, where they are few.
    fn tell(&mut self, news: &[foca::Member<Peer>], except: NodeId) {
        if self.alive > TELL_ALL {
            let _ = self.swim.gossip(&mut self.runtime);
            return;
        }
        let alive = self.members.values().filter(|m| matches!(m.state, State::Alive | State::Suspect));
        let all: Vec<Peer> = alive.map(|member| member.peer).filter(|peer| peer.node != except).collect();
        for peer in all {
            self.send(peer, foca::Message::Gossip, news);
        }
    }

    /// Lets a suspect know, so that it can refute at once.
    fn warn(&mut self, peer: Peer, incarnation: u16) {
        let accused = foca::Member::new(peer, incarnation, foca::State::Suspect);
        self.send(peer, foca::Message::Gossip, &[accused]);
    }

    /// A ping outside of foca's own rounds: any packet that comes back clears a doubt.
    fn ping(&mut self, peer: Peer) {
        self.send(peer, foca::Message::Ping(u8::MAX), &[]);
    }

    fn send(&mut self, to: Peer, message: foca::Message<Peer>, updates: &[foca::Member<Peer>]) {
        let header = foca::Header { src: *self.me(), src_incarnation: self.incarnation, dst: to, message };
        let bytes = codec::packet(&header, updates);
        self.outputs.push_back(Output::Send { to, bytes });
    }

    /// Nobody is alive: a lost member may be, and both sides of a partition of two must find each other again.
    fn call_out(&mut self, now: Mono) {
        self.lonely = None;
        let lost: Vec<Peer> =
            self.members.values().filter(|member| member.state == State::Down).map(|member| member.peer).collect();
        if self.alive > 0 || self.left || lost.is_empty() {
            return;
        }
        let chosen = usize::try_from(self.rng.below(lost.len() as u64)).unwrap_or(0);
        self.lonely = Some(now.after(LONELY));
        let _ = self.swim.announce(lost[chosen], &mut self.runtime);
        self.settle(now);
    }

    fn state_of(&self, node: NodeId) -> Option<&foca::Member<Peer>> {
        self.swim.iter_membership_state().find(|member| member.id().node == node)
    }

    fn incarnation_of(&self, node: NodeId) -> Option<u16> {
        self.state_of(node).map(foca::Member::incarnation)
    }

    fn set_state(&mut self, peer: Peer, state: State, now: Mono) {
        self.members.insert(peer.node, Member { peer, state, since: now });
    }

    /// Carries over what foca wants.
    fn settle(&mut self, now: Mono) {
        while let Some((to, bytes)) = self.runtime.to_send() {
            self.outputs.push_back(Output::Send { to, bytes });
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            match timer {
                Timer::ChangeSuspectToDown { member_id, incarnation, .. } => {
                    let me = self.me().node;
                    self.accuse(member_id, incarnation, me, now);
                }
                // The member list of foca forgets, and ours with it.
                Timer::ProbeRandomMember(_) | Timer::SendIndirectProbe { .. } => {
                    self.timers.add(now.after(after * (1 + self.health)), timer);
                }
                Timer::PeriodicAnnounce(_)
                | Timer::PeriodicAnnounceDown(_)
                | Timer::PeriodicGossip(_)
                | Timer::RemoveDown(_) => self.timers.add(now.after(after), timer),
            }
        }
        while let Some(notification) = self.runtime.to_notify() {
            self.note(notification, now);
        }
    }

    fn note(&mut self, notification: OwnedNotification<Peer>, now: Mono) {
        match notification {
            OwnedNotification::MemberUp(peer) => {
                if self.banned.contains(&peer.node) {
                    return self.bury(peer, now);
                }
                self.leaving.remove(&peer.node);
                self.suspicions.remove(&peer.node);
                self.set_state(peer, State::Alive, now);
                self.counted();
                let thawed = self.freeze.back(peer.node);
                self.outputs.push_back(Output::Event(Event::Up(peer)));
                if thawed {
                    self.outputs.push_back(Output::Event(Event::Frozen(false)));
                }
            }
            OwnedNotification::MemberDown(peer) => {
                self.suspicions.remove(&peer.node);
                self.doubts.remove(&peer.node);
                let before = self.alive;
                let left = self.leaving.remove(&peer.node);
                let (state, event) = match left {
                    true => (State::Left, Event::Left(peer)),
                    false => (State::Down, Event::Down(peer)),
                };
                if !self.banned.contains(&peer.node) {
                    self.set_state(peer, state, now);
                }
                self.counted();
                self.outputs.push_back(Output::Event(event));
                if !left && self.freeze.lost(peer.node, before, now) {
                    self.outputs.push_back(Output::Event(Event::Frozen(true)));
                }
                if self.alive == 0 && !self.left {
                    self.lonely = self.lonely.or_else(|| Some(now.after(LONELY)));
                }
            }
            OwnedNotification::Rename(before, after) => {
                self.suspicions.remove(&before.node);
                self.doubts.remove(&before.node);
                let is_alive = self.state_of(after.node).is_some_and(|member| member.state() != foca::State::Down);
                if is_alive {
                    self.set_state(after, State::Alive, now);
                    self.counted();
                    self.outputs.push_back(Output::Event(Event::Up(after)));
                }
            }
            OwnedNotification::Rejoin(me) => self.outputs.push_back(Output::Event(Event::Renewed(me))),
            OwnedNotification::DataSent(header) => self.incarnation = header.src_incarnation,
            OwnedNotification::DataReceived(header) => {
                if matches!(header.message, foca::Message::Ack(_)) {
                    self.health = self.health.saturating_sub(1);
                }
            }
            OwnedNotification::ProbeFailed(_, peer) => {
                self.health = (self.health + 1).min(self.options.health_max);
                if let Some(incarnation) = self.incarnation_of(peer.node) {
                    self.warn(peer, incarnation);
                }
            }
            OwnedNotification::Active | OwnedNotification::Idle | OwnedNotification::Defunct => {}
        }
    }

    /// The number of members changed: news must be repeated more often the more there are.
    fn counted(&mut self) {
        let alive = self.members.values().filter(|m| matches!(m.state, State::Alive | State::Suspect)).count();
        self.alive = alive;
        // Refused only if what is fixed had changed, which it has not.
        let _ = self.swim.set_config(self.options.config(alive + 1));
        while self.members.len() > alive + GONE_MAX {
            let gone = self.members.values().filter(|m| matches!(m.state, State::Down | State::Left));
            let Some(oldest) = gone.min_by_key(|member| member.since).map(|member| member.peer.node) else { break };
            self.members.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests;

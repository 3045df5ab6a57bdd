//! What is known of each peer's copy, and when to compare with it or to fetch from it.
//!
//! One fetch at a time: it is what the disk and the proof at its end allow, and most peers have the same to give.

use std::time::Duration;

use crate::crdt::replica::Replica;
use crate::crdt::replica::frame::Frame;
use crate::crdt::replica::pull::Pull;
use crate::id::NodeId;
use crate::time::{Mono, Wall};

/// How many peers are remembered: those of the largest cluster that is simulated, with room.
const PEERS_MAX: usize = 16 * 1024;

/// How far a peer's copy is from ours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lag {
    /// When the copies were last seen to be equal.
    pub equal_at: Option<Mono>,
    /// Whether they differed at the last comparison.
    pub differs: bool,
    /// Whether rows are being fetched from it.
    pub is_fetching: bool,
    /// How many frames wait to be sent to it.
    pub queued: usize,
}

#[derive(Debug, Default)]
pub(super) struct Peer {
    equal_at: Option<Mono>,
    equal_wall: Wall,
    differs: bool,
    /// When to compare.
    check: Option<Mono>,
    /// When to fetch, and the generation in which the difference was seen.
    pull: Option<(Mono, u64)>,
    /// Fetches since the copies were last equal.
    step: u32,
    was_useful: bool,
}

impl Peer {
    pub(super) fn stop(&mut self) {
        (self.check, self.pull) = (None, None);
    }

    /// When something is to be done; no fetch starts while another is under way.
    pub(super) fn due(&self, is_fetching: bool) -> Option<Mono> {
        let pull = self.pull.map(|(at, _)| at).filter(|_| !is_fetching);
        [self.check, pull].into_iter().flatten().min()
    }
}

impl Replica {
    /// How far a peer's copy is from ours, as far as it is known.
    #[must_use]
    pub fn lag(&self, peer: NodeId) -> Lag {
        let state = self.peers.get(&peer);
        Lag {
            equal_at: state.and_then(|state| state.equal_at),
            differs: state.is_some_and(|state| state.differs),
            is_fetching: self.pull.as_ref().is_some_and(|pull| pull.peer == peer),
            queued: self.out.iter().filter(|(to, _)| *to == peer).count(),
        }
    }

    /// When equality with every known member was last proven.
    pub(super) fn synced(&mut self) -> Wall {
        let equal = self.known.iter().map(|peer| self.peers.get(peer).map_or(Wall(0), |peer| peer.equal_wall));
        self.synced = self.synced.max(equal.min().unwrap_or_default());
        self.synced
    }

    fn peer(&mut self, peer: NodeId) -> Option<&mut Peer> {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            return None;
        }
        Some(self.peers.entry(peer).or_default())
    }

    /// Compares within some time.
    pub(super) fn check_soon(&mut self, peer: NodeId, within: Duration) {
        let at = self.now.mono.after(within);
        if let Some(state) = self.peer(peer) {
            state.check = Some(state.check.map_or(at, |check| check.min(at)));
        }
    }

    pub(super) fn send_root(&mut self, to: NodeId, answer: bool) {
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.check = None;
        }
        let (root, context) = (self.registry.root(), self.registry.context().digest());
        self.send(to, Frame::Root { root, context, answer, busy: self.pull.is_some() }.encode());
    }

    pub(super) fn on_root(&mut self, from: NodeId, root: u64, context: u64, answer: bool, busy: bool) {
        let is_equal = root == self.registry.root();
        let is_same = is_equal && context == self.registry.context().digest();
        let (now, generation) = (self.now, self.generation);
        let is_fetching = self.pull.as_ref().is_some_and(|pull| pull.peer == from);
        let Some(peer) = self.peers.get(&from) else { return };
        let wait =
            if peer.step == 0 { Duration::ZERO } else { self.options.retry(peer.step, peer.was_useful, &mut self.rng) };
        let Some(peer) = self.peer(from) else { return };
        peer.differs = !is_equal;
        if is_equal {
            (peer.equal_at, peer.equal_wall) = (Some(now.mono), now.wall);
        }
        if is_same {
            (peer.pull, peer.step) = (None, 0);
        } else if !busy && !is_fetching && peer.pull.is_none_or(|(_, seen)| seen != generation) {
            peer.pull = Some((now.mono.after(wait), generation));
        }
        self.handle_peers();
        if !answer {
            self.send_root(from, true);
        }
    }

    /// Compares with and fetches from those that are due.
    pub(super) fn handle_peers(&mut self) {
        let now = self.now.mono;
        let checks: Vec<NodeId> =
            self.peers.iter().filter(|(_, peer)| peer.check.is_some_and(|at| at <= now)).map(|(id, _)| *id).collect();
        for peer in checks {
            self.send_root(peer, false);
        }
        while self.pull.is_none() {
            let due = self.peers.iter().filter_map(|(id, peer)| peer.pull.map(|(at, seen)| (at, *id, seen)));
            let Some((_, id, seen)) = due.filter(|(at, ..)| *at <= now).min() else { return };
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.pull = None;
            }
            if seen == self.generation {
                self.start_pull(id);
            } else {
                // Another fetch may have brought it all.
                self.send_root(id, false);
            }
        }
    }

    fn start_pull(&mut self, peer: NodeId) {
        let session = self.rng.next_u64();
        self.pull = Some(Pull::new(peer, session, self.now.mono.after(self.options.stall)));
        let groups = if self.registry.is_empty() { Vec::new() } else { self.registry.tree().groups().to_vec() };
        self.send(peer, Frame::Ask { session, groups }.encode());
    }

    /// Gives a fetch up; the rows that it brought are kept.
    pub(super) fn end_pull(&mut self) {
        let Some(pull) = self.pull.take() else { return };
        self.stats.stalled += 1;
        self.after_pull(pull.peer, pull.has_changed);
        let generation = self.generation;
        let Some(step) = self.peers.get(&pull.peer).map(|peer| peer.step) else { return };
        let wait = self.options.retry(step, pull.has_changed, &mut self.rng);
        let at = self.now.mono.after(wait);
        if self.alive.contains(&pull.peer)
            && let Some(peer) = self.peers.get_mut(&pull.peer)
        {
            peer.pull = Some((at, generation));
        }
    }

    pub(super) fn after_pull(&mut self, peer: NodeId, has_changed: bool) {
        if has_changed {
            self.generation += 1;
        }
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.step = peer.step.saturating_add(1);
            peer.was_useful = has_changed;
        }
    }
}

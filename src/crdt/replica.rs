//! One node's copy of the registry among many: tells others what changed, finds out what differs, and mends it.
//!
//! **New rows are pushed** along a tree, unacknowledged. **What was lost is fetched**: two numbers are compared now and
//! then, and where they differ the one who knows less walks down the sums and asks for rows. **Deletes are forgotten**
//! by proof: when everything up to a moment of a writer has been fetched, that is remembered as one number per writer
//! (the [`Context`](crate::crdt::Context)), and a covered value that is not there any more needs no tombstone to stay away. So a node may
//! return after any time: its old rows are known as old, its own unseen writes as new.
//!
//! Does no IO, reads no clock, draws no randomness of its own: frames and times go in, outputs come out. The shell must
//! carry outputs out in order and commit before it sends; between [`Replica::write`] and [`Replica::publish`] or
//! [`Replica::undo`] it does nothing else with the replica.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::crdt::clock::Hlc;
use crate::crdt::registry::{Change, PutError, Registry, Write, Written};
use crate::crdt::row::{Key, Register};
use crate::crdt::tree::Place;
use crate::id::NodeId;
use crate::rng::Rng;
use crate::time::{Mono, Now, Wall};

mod answer;
mod collect;
mod frame;
mod options;
mod peers;
mod pull;
mod push;
mod receive;
#[cfg(test)]
mod tests;

pub use frame::{BadFrame, FRAME_MAX, Saved};
pub use options::{Collect, Options};
pub use peers::Lag;

use frame::{Blob, Frame, add_row};
use peers::Peer;
use pull::Pull;
use push::Recent;

/// What the shell is to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// To be sent after everything before it is durable.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        frame: Bytes,
    },
    /// Rows were changed by a peer or by time and must be made durable, all in one step. On a disk error the same
    /// output is tried again before anything else is written or sent.
    Commit {
        /// To be kept, and shown locally as own writes are.
        changes: Vec<Change>,
        /// Keys to be removed from the store; nobody can see them any more, or they are to vanish from view.
        forgotten: Vec<Key>,
        /// The clock's high-water mark.
        hlc: Hlc,
        /// The note to be replaced, in the same step as the rows or before them.
        saved: Option<Saved>,
    },
}

/// Counts since the start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stats {
    /// Frames that came.
    pub frames_in: u64,
    /// Frames that were handed out to be sent.
    pub frames_out: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Rows in frames that were handed out, each copy counted.
    pub rows_sent: u64,
    /// Rows that a frame brought and that changed something here.
    pub rows_taken: u64,
    /// Fetches that were finished.
    pub repairs: u64,
    /// Fetches that were given up.
    pub stalled: u64,
    /// Rows and frames that could not be read or joined.
    pub refused: u64,
    /// The last of them: who sent what and what is wrong with it.
    pub last_refused: Option<String>,
    /// Frames that were dropped because too much waited to be sent.
    pub dropped: u64,
    /// Keys of which only deletes were left and that were forgotten.
    pub collected: u64,
}

/// One node's copy of the registry.
///
/// Invariant: whatever an [`Output::Send`] reveals was in an [`Output::Commit`] before it, or is an own write that
/// [`Replica::publish`] was told to be durable.
#[derive(Debug)]
pub struct Replica {
    registry: Registry,
    node: NodeId,
    options: Options,
    rng: Rng,
    now: Now,
    alive: BTreeSet<NodeId>,
    known: BTreeSet<NodeId>,
    peers: BTreeMap<NodeId, Peer>,
    pull: Option<Pull>,
    /// Grows whenever a fetch changed something, so that older findings are looked at anew.
    generation: u64,
    recent: Recent,
    out: VecDeque<(NodeId, Bytes)>,
    out_bytes: usize,
    /// What waits to be committed, in the order that the store writes fastest.
    dirty: BTreeMap<Place, Bytes>,
    forgotten: BTreeSet<Key>,
    is_save_due: bool,
    synced: Wall,
    compare_at: Mono,
    collect_at: Mono,
    stats: Stats,
}

impl Replica {
    /// Takes over a registry as it was made durable, with the note that was kept beside it.
    #[must_use]
    pub fn new(mut registry: Registry, node: NodeId, saved: Saved, options: Options, mut rng: Rng, now: Now) -> Self {
        let own = registry.registers().map(|(_, register)| register.latest_of(node)).max().unwrap_or_default();
        registry.adopt(&saved.context);
        registry.raise_own(own);
        let compare_at = now.mono.after(options.between_compares(&mut rng));
        Self {
            registry,
            node,
            rng,
            now,
            alive: BTreeSet::new(),
            known: BTreeSet::new(),
            peers: BTreeMap::new(),
            pull: None,
            generation: 0,
            recent: Recent::default(),
            out: VecDeque::new(),
            out_bytes: 0,
            dirty: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            is_save_due: false,
            synced: saved.synced,
            compare_at,
            collect_at: now.mono.after(options.collect_every),
            stats: Stats::default(),
            options,
        }
    }

    /// The rows.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Counts since the start.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Writes rows here; see [`Registry::write`]. Commit what it says, then call [`Replica::publish`], or
    /// [`Replica::undo`] if that failed.
    ///
    /// # Errors
    /// As [`Registry::write`].
    pub fn write(&mut self, batch: Vec<Write>, now: Wall) -> Result<Written, PutError> {
        let written = self.registry.write(batch, now)?;
        for change in &written.changed {
            // A merge that still waits to be committed must not put the older bytes over this.
            if let Some(waiting) = self.dirty.get_mut(&Place::from(change.key.clone())) {
                *waiting = change.encoded.clone();
            }
            self.forgotten.remove(&change.key);
        }
        Ok(written)
    }

    /// Takes back a write that could not be made durable.
    pub fn undo(&mut self, written: Written) {
        let keys: Vec<Key> = written.changed.iter().map(|change| change.key.clone()).collect();
        self.registry.undo(written);
        for key in keys {
            match self.registry.register(&key).map(Register::encode) {
                Some(Ok(bytes)) => {
                    self.dirty.entry(key.into()).and_modify(|waiting| *waiting = bytes.into());
                }
                // It had been forgotten here, and the store may still have it.
                None => {
                    self.dirty.remove(&Place::from(key.clone()));
                    self.forgotten.insert(key);
                }
                Some(Err(_)) => {}
            }
        }
    }

    /// Sends own writes, which are durable, to all members.
    pub fn publish(&mut self, changes: &[Change], now: Now) {
        self.now = now;
        let own = changes.iter().filter_map(|change| self.registry.register(&change.key));
        let own = own.map(|register| register.latest_of(self.node)).max().unwrap_or_default();
        self.registry.raise_own(own);
        let mut rows = Vec::new();
        for change in changes {
            if !rows.is_empty() && rows.len() + change.encoded.len() > self.options.push_frame {
                self.push(Blob(std::mem::take(&mut rows)));
            }
            add_row(&mut rows, &change.key, &change.encoded);
        }
        if !rows.is_empty() {
            self.push(Blob(rows));
        }
    }

    fn push(&mut self, rows: Blob) {
        let id = self.rng.next_u64();
        self.forward(self.node, id, 0, rows);
    }

    /// Sends rows to our children in the tree of their origin.
    fn forward(&mut self, origin: NodeId, id: u64, depth: u8, rows: Blob) {
        let (flat, fan_out) = (self.options.flat, self.options.fan_out);
        let children = push::children(origin, self.node, &self.members(origin), flat, fan_out);
        // Whose own children would have to be taken over are remembered with the rows.
        let keep_rows = self.alive.len() >= flat && !children.is_empty();
        self.recent.add(self.now.mono, id, origin, depth, &rows, keep_rows);
        self.send_push(&children, origin, id, depth, rows);
    }

    fn send_push(&mut self, to: &[NodeId], origin: NodeId, id: u64, depth: u8, rows: Blob) {
        if to.is_empty() {
            return;
        }
        let count = frame::RowsIn(&rows.0).count() as u64;
        let frame = Frame::Push { origin: origin.0, id, depth, rows }.encode();
        for to in to {
            if self.send(*to, frame.clone()) {
                self.stats.rows_sent += count;
            }
        }
    }

    /// Everybody in the tree of an origin, which we may believe dead.
    fn members(&self, origin: NodeId) -> BTreeSet<NodeId> {
        let mut members = self.alive.clone();
        members.extend([self.node, origin]);
        members
    }

    /// Queues a frame. What does not fit is dropped; the next comparison finds what it would have brought.
    fn send(&mut self, to: NodeId, frame: Bytes) -> bool {
        if self.out_bytes + frame.len() > self.options.queue {
            self.stats.dropped += 1;
            self.check_soon(to, Duration::from_secs(1));
            return false;
        }
        self.out_bytes += frame.len();
        self.out.push_back((to, frame));
        true
    }

    /// Who is alive, and who belongs to the cluster (alive, down, but neither left nor removed).
    pub fn set_members(&mut self, mut alive: BTreeSet<NodeId>, mut known: BTreeSet<NodeId>, now: Now) {
        self.now = now;
        alive.remove(&self.node);
        known.remove(&self.node);
        let fresh: Vec<NodeId> = alive.difference(&self.alive).copied().collect();
        self.peers.retain(|peer, _| known.contains(peer) || alive.contains(peer));
        if self.pull.as_ref().is_some_and(|pull| !alive.contains(&pull.peer)) {
            self.end_pull();
        }
        for (_, peer) in self.peers.iter_mut().filter(|(id, _)| !alive.contains(id)) {
            peer.stop();
        }
        (self.alive, self.known) = (alive, known);
        // At the start of a large cluster everybody is new to everybody: a few comparisons find all there is.
        for peer in fresh.into_iter().take(self.options.flat) {
            let spread = self.rng.below(100);
            self.check_soon(peer, Duration::from_millis(spread));
        }
    }

    /// A connection to a peer is there: compares at once.
    pub fn connected(&mut self, peer: NodeId, now: Now) {
        self.now = now;
        self.send_root(peer, false);
    }

    /// A frame could not be sent, or the peer went down: what is under way with it ends, and its children in the tree
    /// get from us what it may not have sent on.
    pub fn unreachable(&mut self, peer: NodeId, now: Now) {
        self.now = now;
        if let Some(state) = self.peers.get_mut(&peer) {
            state.stop();
        }
        if self.pull.as_ref().is_some_and(|pull| pull.peer == peer) {
            self.end_pull();
        }
        let (flat, fan_out) = (self.options.flat, self.options.fan_out);
        let mut again = Vec::new();
        for (origin, id, depth, rows) in self.recent.since(now.mono) {
            let mut members = self.members(origin);
            members.insert(peer);
            if push::children(origin, self.node, &members, flat, fan_out).contains(&peer) {
                again.push((push::children(origin, peer, &members, flat, fan_out), origin, id, depth, rows.clone()));
            }
        }
        for (children, origin, id, depth, rows) in again {
            self.send_push(&children, origin, id, depth, rows);
        }
    }

    /// When [`Replica::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Mono> {
        let peers = self.peers.values().filter_map(|peer| peer.due(self.pull.is_some())).min();
        let pull = self.pull.as_ref().map(|pull| pull.deadline);
        let compare = (!self.alive.is_empty()).then_some(self.compare_at);
        // The wall clock may step; how long to wait by it is looked at again at every turn.
        let held = self.registry.poll_timeout().map(|due| {
            let wait = Duration::from_millis(due.0.saturating_sub(self.now.wall.0)).min(self.options.collect_every);
            self.now.mono.after(wait)
        });
        [peers, pull, compare, held, Some(self.collect_at)].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        self.release_held();
        if self.pull.as_ref().is_some_and(|pull| pull.deadline <= now.mono) {
            self.end_pull();
        }
        if self.collect_at <= now.mono {
            self.collect_at = now.mono.after(self.options.collect_every);
            self.collect();
        }
        if self.compare_at <= now.mono {
            self.compare_at = now.mono.after(self.options.between_compares(&mut self.rng));
            let index = self.rng.below(self.alive.len() as u64);
            if let Some(peer) = self.alive.iter().nth(usize::try_from(index).unwrap_or(0)).copied() {
                self.send_root(peer, false);
            }
        }
        self.handle_peers();
    }

    /// The next thing to do. Everything that waits to be committed comes first.
    pub fn poll_output(&mut self) -> Option<Output> {
        if !self.dirty.is_empty() || !self.forgotten.is_empty() || self.is_save_due {
            let changes = std::mem::take(&mut self.dirty).into_iter();
            let changes = changes.map(|(place, encoded)| Change { key: place.key, encoded }).collect();
            let forgotten = std::mem::take(&mut self.forgotten).into_iter().collect();
            let saved = std::mem::take(&mut self.is_save_due);
            let saved = saved.then(|| Saved { synced: self.synced(), context: self.registry.context().clone() });
            return Some(Output::Commit { changes, forgotten, hlc: self.registry.hlc(), saved });
        }
        let (to, frame) = self.out.pop_front()?;
        self.out_bytes -= frame.len();
        self.stats.frames_out += 1;
        self.stats.bytes_out += frame.len() as u64;
        Some(Output::Send { to, frame })
    }
}

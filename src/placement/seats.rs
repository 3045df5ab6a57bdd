//! Who attends to an event source that makes its events itself: one node for each of its seats, elected like everything
//! here by rendezvous, and handed over so that two attend at once only while their views of the cluster differ.
//!
//! Each node says which seats it holds and which of them it is leaving. A node takes a seat for which it is elected once
//! nobody else says so; one that is no longer elected takes nothing new, finishes, and then says that it left. What a
//! node said counts until it is known to be gone, so a crash costs the time of its detection and no more. A node that
//! is cut off goes on: on each side of a partition somebody attends, and when it heals the one who is not elected leaves.
//! What must not happen twice even then needs a claim that a majority grants: see the sources.
//!
//! Knows nothing of schedules or queues, and no clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{NodeId, SourceName};
use crate::time::Mono;

use super::elect;
use super::view::Node;

#[cfg(test)]
mod tests;

/// After its start a node listens first: what others hold reaches it with their first sheet, some milliseconds after they
/// are seen. Joining takes a second where the first packet is lost (its next try comes after one).
pub const LISTEN: Duration = Duration::from_secs(2);

/// A node that was asked to leave a seat says that it left after so long, finished or not; then the next one begins beside
/// it. Longer than most handlers take, shorter than people wait for a queue that nobody reads. The shell keeps to it.
pub const HANDOVER: Duration = Duration::from_secs(30);

/// Before a seat that was given up without being asked is taken again: whatever made that happen is logged once a second.
pub const AGAIN: Duration = Duration::from_secs(1);

/// Seats of one source at most. One poller of a queue brings some 2,000 messages a second; 64 are more than SQS gives.
pub const WIDTH_MAX: u32 = 64;

/// What a node says of its seats of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// It attends to these.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub held: BTreeSet<u32>,
    /// It takes nothing new for these, and finishes.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub leaving: BTreeSet<u32>,
    /// How many seats there should be; said by the holder of seat 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
}

impl Claim {
    /// Whether nothing is said.
    fn is_empty(&self) -> bool {
        self.held.is_empty() && self.leaving.is_empty()
    }
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// It has listened: tell the others that it may be elected. Until they hear that, and until it is in what
    /// [`Seats::handle_nodes`] is given, the node counts as cordoned here.
    Ready,
    /// Attend to this seat.
    Take(SourceName, u32),
    /// Leave this seat, and say [`Seats::left`] when that is done.
    Quit(SourceName, u32),
    /// Tell the others this; nothing any more if none.
    Say(SourceName, Option<Claim>),
    /// The source has that many seats now.
    Width(SourceName, u32),
}

/// What this node does for one seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mine {
    Held,
    Leaving,
    /// It was given up by itself and is not taken before this.
    Paused(Mono),
}

#[derive(Debug, Default)]
struct Source {
    /// Whether somebody should attend.
    is_wanted: bool,
    /// What the others say.
    claims: BTreeMap<NodeId, Claim>,
    mine: BTreeMap<u32, Mine>,
    /// What this node measured while it held seat 0.
    measured: Option<u32>,
    said: Option<Claim>,
    width: u32,
}

/// The seats of all sources, as one node sees them.
#[derive(Debug)]
pub struct Seats {
    me: NodeId,
    /// None once it has listened.
    listens_until: Option<Mono>,
    nodes: BTreeMap<NodeId, Node>,
    sources: BTreeMap<SourceName, Source>,
    /// Sources about which something changed.
    dirty: BTreeSet<SourceName>,
    timers: BTreeSet<(Mono, SourceName)>,
    outputs: VecDeque<Output>,
}

impl Seats {
    /// Of a node that starts now.
    pub fn new(me: NodeId, now: Mono) -> Self {
        Self {
            me,
            listens_until: Some(now.after(LISTEN)),
            nodes: BTreeMap::new(),
            sources: BTreeMap::new(),
            dirty: BTreeSet::new(),
            timers: BTreeSet::new(),
            outputs: VecDeque::new(),
        }
    }

    /// All nodes, this one among them; those that have not said yet that they are ready as cordoned ones.
    pub fn handle_nodes(&mut self, nodes: BTreeMap<NodeId, Node>) {
        self.nodes = nodes;
        self.dirty.extend(self.sources.keys().cloned());
    }

    /// All sources to which somebody should attend.
    pub fn handle_sources(&mut self, wanted: &BTreeSet<SourceName>) {
        for (name, source) in &mut self.sources {
            if source.is_wanted != wanted.contains(name) {
                source.is_wanted = !source.is_wanted;
                self.dirty.insert(name.clone());
            }
        }
        for name in wanted {
            if !self.sources.contains_key(name) {
                self.sources.insert(name.clone(), Source { is_wanted: true, ..Source::default() });
                self.dirty.insert(name.clone());
            }
        }
    }

    /// What all others say of their seats, of the nodes that are not known to be gone.
    pub fn handle_claims(&mut self, claims: &BTreeMap<SourceName, BTreeMap<NodeId, Claim>>) {
        for (name, source) in &mut self.sources {
            let new = claims.get(name).into_iter().flatten().filter(|(node, _)| **node != self.me);
            let new: BTreeMap<_, _> = new.map(|(node, claim)| (*node, claim.clone())).collect();
            if source.claims != new {
                source.claims = new;
                self.dirty.insert(name.clone());
            }
        }
        for (name, of) in claims {
            if !self.sources.contains_key(name) && of.keys().any(|node| *node != self.me) {
                let claims = of.iter().filter(|(node, _)| **node != self.me);
                let claims = claims.map(|(node, claim)| (*node, claim.clone())).collect();
                self.sources.insert(name.clone(), Source { claims, ..Source::default() });
            }
        }
    }

    /// The holder of seat 0 says how many seats the source should have. Nothing if that is another node.
    pub fn measured(&mut self, name: &SourceName, width: u32) {
        if let Some(source) = self.sources.get_mut(name) {
            source.measured = Some(width.clamp(1, WIDTH_MAX));
            self.dirty.insert(name.clone());
        }
    }

    /// Nothing more is done for this seat.
    pub fn left(&mut self, name: &SourceName, seat: u32, now: Mono) {
        let Some(source) = self.sources.get_mut(name) else { return };
        match source.mine.get(&seat) {
            Some(Mine::Held) => drop(source.mine.insert(seat, Mine::Paused(now.after(AGAIN)))),
            Some(Mine::Leaving) => drop(source.mine.remove(&seat)),
            Some(Mine::Paused(_)) | None => {}
        }
        self.dirty.insert(name.clone());
    }

    /// Whether this node does anything for any seat.
    pub fn is_idle(&self) -> bool {
        !self.sources.values().flat_map(|source| source.mine.values()).any(|mine| !matches!(mine, Mine::Paused(_)))
    }

    /// When [`Seats::settle`] should be called again.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.timers.first().map(|(due, _)| *due).into_iter().chain(self.listens_until).min()
    }

    /// What follows from all that was said, one after the other.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Draws the conclusions; call it after any `handle` and when [`Seats::poll_timeout`] is due.
    pub fn settle(&mut self, now: Mono) {
        if self.listens_until.take_if(|until| *until <= now).is_some() {
            self.outputs.push_back(Output::Ready);
            self.dirty.extend(self.sources.keys().cloned());
        }
        while let Some((due, name)) = self.timers.first().cloned().filter(|(due, _)| *due <= now) {
            self.timers.remove(&(due, name.clone()));
            self.dirty.insert(name);
        }
        for name in std::mem::take(&mut self.dirty) {
            let Some(mut source) = self.sources.remove(&name) else { continue };
            self.settle_one(&name, &mut source, now);
            let is_over = !source.is_wanted && source.mine.is_empty() && source.claims.is_empty();
            if !is_over {
                self.sources.insert(name, source);
            }
        }
    }

    fn settle_one(&mut self, name: &SourceName, source: &mut Source, now: Mono) {
        let holds_first = source.mine.get(&0) == Some(&Mine::Held);
        if !holds_first {
            source.measured = None;
        }
        let told = source.claims.values().filter(|claim| claim.held.contains(&0)).filter_map(|claim| claim.width).max();
        let width = if source.is_wanted { source.measured.or(told).unwrap_or(1).clamp(1, WIDTH_MAX) } else { 0 };
        if width != source.width {
            source.width = width;
            self.outputs.push_back(Output::Width(name.clone(), width));
        }
        let known: BTreeSet<u32> = source.mine.keys().copied().chain(0..width).collect();
        for seat in known {
            let is_mine = seat < width && elect::poller(name, seat, &self.nodes) == Some(self.me);
            self.settle_seat(name, source, seat, is_mine, now);
        }
        let of = |wanted: Mine| source.mine.iter().filter(move |(_, mine)| **mine == wanted).map(|(seat, _)| *seat);
        let (held, leaving): (BTreeSet<u32>, _) = (of(Mine::Held).collect(), of(Mine::Leaving).collect());
        let width = held.contains(&0).then_some(source.measured).flatten();
        let claim = Some(Claim { held, leaving, width }).filter(|claim| !claim.is_empty());
        if claim != source.said {
            source.said.clone_from(&claim);
            self.outputs.push_back(Output::Say(name.clone(), claim));
        }
    }

    fn settle_seat(&mut self, name: &SourceName, source: &mut Source, seat: u32, is_mine: bool, now: Mono) {
        match source.mine.get(&seat) {
            Some(Mine::Held) if is_mine => return,
            Some(Mine::Held) => {
                source.mine.insert(seat, Mine::Leaving);
                self.outputs.push_back(Output::Quit(name.clone(), seat));
                return;
            }
            Some(Mine::Leaving) => return,
            Some(Mine::Paused(until)) if is_mine && *until > now => {
                self.timers.insert((*until, name.clone()));
                return;
            }
            Some(Mine::Paused(_)) | None => drop(source.mine.remove(&seat)),
        }
        let is_taken = |claim: &Claim| claim.held.contains(&seat) || claim.leaving.contains(&seat);
        if !is_mine || self.listens_until.is_some() || source.claims.values().any(is_taken) {
            return;
        }
        source.mine.insert(seat, Mine::Held);
        self.outputs.push_back(Output::Take(name.clone(), seat));
    }
}

//! Which node gets how many instances of which component.
//!
//! # The rule
//!
//! An *edge* is one component, one node, and the place in the component's walk at which it may ask the node for one
//! instance. All edges of the cluster stand in one order:
//!
//! 1. first those that respect the bound of the node, then those that do not (the *hard* ones);
//! 2. then the number of instances that the component has on the node already, so that instances stand on different
//!    nodes as long as possible;
//! 3. then the [cost](super::rendezvous), then the lower node id, then the lower name of the component.
//!
//! The edges are gone through in this order, and each gives an instance to its node if the component still wants one
//! and the node takes it: it could hold the component at all (it is there and on duty, runs the engine, has the labels,
//! is large enough, has fewer than `max_per_node` of it), it has memory left, and, unless the edge is hard, its load has
//! not reached its bound. The bound is [`FACTOR`] of its fair share: what all components want, in bytes, divided among
//! the nodes that take work by their weights; or half of its memory, if that is more. So the last instance may stand across the bound, and a node is beyond it
//! by more than that only if no node within its bound could take what it has.
//!
//! Every instance asks its favourite nodes first, and a node prefers those for whom it is a favourite: nobody is moved
//! by a component for which the node is only the next best. The answer is a function of the nodes, the wants and
//! [`View::majority`] alone. What runs where now is not asked: two nodes that have heard different news of instances
//! would disagree. Rendezvous hashing is what keeps instances where they are.
//!
//! # What is kept
//!
//! [`Planner`] keeps the answer and corrects it after a change. A decision depends only on decisions before it, so
//! `walk` takes up the edges that a change touches, in order, and follows what comes out differently. There is one
//! answer, so history leaves no trace in it. How far a change spreads depends on how many nodes are full or at their
//! bound: with room everywhere a lost node touches its own instances and nobody else's.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::id::{ComponentName, NodeId};

use super::rendezvous::{Key, Share};
use super::view::{Duty, Node, Presence, Singleton, View, Want};
use line::Line;
use rank::Rank;
use walk::{NOWHERE, START};

mod explain;
mod line;
mod rank;
#[cfg(test)]
mod tests;
mod walk;

pub use explain::{Explanation, Needs, Refusal, Verdict};

/// How far above its fair share a node may be loaded, as a fraction. A quarter more: with a hundred instances of usual
/// sizes on a node, chance alone loads 2 nodes of 100 so high, so few instances are sent elsewhere; and a node at its
/// bound has a fifth less headroom than the average one. HAProxy and Envoy advise 1.25 to 1.5 for the same purpose.
pub const FACTOR: (u64, u64) = (5, 4);

/// A node that is filled to less than one part of so many is within its bound in any case: half of its memory. In a
/// cluster with little to do the fair share is less than one instance, and each one that is started would push others
/// from node to node.
const ROOMY: u64 = 2;

/// Above this share of all components it is cheaper to begin anew, in order, than to correct: a correction moves what
/// stands behind it in a line, and lines of small clusters are long.
const ANEW: usize = 16;

/// So few tasks are corrected in any case: either way they take microseconds.
const FEW: usize = 64;

/// How many instances of a component are meant to be on each node; none is left out, not written as 0.
pub type Targets = BTreeMap<NodeId, u32>;

/// Where an edge stands in the order of all. The component's name comes after the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct At {
    /// Kind ([`line::HARD`] or not) and round.
    level: u32,
    cost: u64,
    node: NodeId,
}

/// An edge to decide. The order of the fields is that of the rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Task {
    at: At,
    name: ComponentName,
    entry: u32,
    host: u32,
}

/// An instance that was placed.
#[derive(Debug, Clone, Copy)]
struct Seat {
    at: At,
    host: u32,
}

/// A node and what it was given.
#[derive(Debug)]
struct Host {
    id: NodeId,
    node: Node,
    share: Share,
    line: Line,
    limit: u64,
    /// Whether somebody may have been refused for memory or bound. True in case of doubt.
    pressed: bool,
}

impl Host {
    fn is_open(&self) -> bool {
        self.node.presence.keeps_its_share() && self.node.duty == Duty::Active
    }
}

/// A component and where it was placed. Invariant: `seats` in the order of the rule.
#[derive(Debug)]
struct Entry {
    name: ComponentName,
    key: Key,
    want: Want,
    rank: Rank,
    seats: Vec<Seat>,
    /// The earliest edge that waits to be decided.
    pending: Option<At>,
}

/// The answer of the [rule](self) for the facts so far, ready for the next change.
#[derive(Debug, Default)]
pub struct Planner {
    hosts: Vec<Host>,
    host_of: BTreeMap<NodeId, u32>,
    free_hosts: Vec<u32>,
    entries: Vec<Entry>,
    entry_of: BTreeMap<ComponentName, u32>,
    free_entries: Vec<u32>,
    majority: bool,
    /// Of all nodes that take work.
    weights: u64,
    /// What all components want, in bytes.
    total: u128,
    /// Components that some node may have refused. May hold too many, never too few.
    spilled: BTreeSet<u32>,
    tasks: BinaryHeap<Reverse<Task>>,
    /// The targets at the last [`Self::settle`] of components that were touched since.
    before: BTreeMap<ComponentName, Targets>,
}

impl Planner {
    /// The answer for a view.
    #[must_use]
    pub fn of(view: &View) -> Self {
        let mut planner = Self::default();
        planner.handle_majority(view.majority);
        view.nodes.iter().for_each(|(id, node)| planner.handle_node(*id, Some(node.clone())));
        view.wants.iter().for_each(|(name, want)| planner.handle_want(name, Some(want.clone())));
        planner.settle();
        planner
    }

    /// A node is new, has changed or is forgotten. A node that is gone may stay known: it costs little and is back
    /// faster.
    pub fn handle_node(&mut self, id: NodeId, node: Option<Node>) {
        match (self.host_of.get(&id).copied(), node) {
            (None, None) => {}
            (None, Some(node)) => self.add_host(id, node),
            (Some(host), None) => self.remove_host(host),
            (Some(host), Some(node)) if self.hosts[host as usize].node.weight != node.weight => {
                self.remove_host(host);
                self.add_host(id, node);
            }
            (Some(host), Some(node)) => self.change_host(host, node),
        }
    }

    /// A component is new, has changed, is wanted more or less often, or is gone.
    pub fn handle_want(&mut self, name: &ComponentName, want: Option<Want>) {
        match (self.entry_of.get(name).copied(), want) {
            (None, None) => {}
            (None, Some(want)) => self.add_entry(name, want),
            (Some(entry), None) => self.remove_entry(entry),
            (Some(entry), Some(want)) => {
                let same_place = self.entries[entry as usize].want.places_as(&want);
                if !same_place {
                    self.clear_entry(entry);
                }
                self.total -= demand(&self.entries[entry as usize].want);
                self.total += demand(&want);
                self.entries[entry as usize].want = want;
                self.recount(entry);
            }
        }
    }

    /// Whether more than half of the known members are seen: without them no strict singleton has a place.
    pub fn handle_majority(&mut self, majority: bool) {
        if self.majority != majority {
            self.majority = majority;
            for entry in self.entry_of.values().copied().collect::<Vec<_>>() {
                if self.entries[entry as usize].want.singleton == Singleton::Strict {
                    self.clear_entry(entry);
                    self.recount(entry);
                }
            }
        }
    }

    /// Whether more than half of the known members are seen.
    pub fn sees_majority(&self) -> bool {
        self.majority
    }

    /// Carries out what the changes since the last call mean. Returns the targets that each component had before, for
    /// those whose targets are different now.
    pub fn settle(&mut self) -> BTreeMap<ComponentName, Targets> {
        self.run();
        let mut before = std::mem::take(&mut self.before);
        before.retain(|name, targets| self.targets(name) != *targets);
        before
    }

    /// Where instances of this component are meant to be.
    pub fn targets(&self, name: &ComponentName) -> Targets {
        self.entry_of.get(name).map(|entry| self.entries[*entry as usize].targets()).unwrap_or_default()
    }

    /// How many of the first `some` instances, in the order of the rule, are meant to be on this node.
    pub fn first(&self, name: &ComponentName, node: NodeId, some: u32) -> u32 {
        let Some(entry) = self.entry_of.get(name).map(|entry| &self.entries[*entry as usize]) else { return 0 };
        let first = entry.seats.iter().take(some as usize).filter(|seat| seat.at.node == node);
        u32::try_from(first.count()).unwrap_or(u32::MAX)
    }

    /// What is meant to be on this node.
    pub fn share(&self, node: NodeId) -> BTreeMap<ComponentName, u32> {
        let mut share = BTreeMap::new();
        if let Some(host) = self.host_of.get(&node) {
            for taken in self.hosts[*host as usize].line.iter() {
                *share.entry(taken.name.clone()).or_insert(0) += 1;
            }
        }
        share
    }

    /// The sum of the reserves of what is meant to be on this node, and the bound of its load.
    pub fn load(&self, node: NodeId) -> Option<(u64, u64)> {
        self.host_of.get(&node).map(|host| &self.hosts[*host as usize]).map(|host| (host.line.load(), host.limit))
    }

    /// All nodes that are known.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.host_of.iter().map(|(id, host)| (*id, &self.hosts[*host as usize].node))
    }

    /// A node as it was last told.
    pub fn node(&self, node: NodeId) -> Option<&Node> {
        self.host_of.get(&node).map(|host| &self.hosts[*host as usize].node)
    }

    /// A component as it was last told.
    pub fn want(&self, name: &ComponentName) -> Option<&Want> {
        self.entry_of.get(name).map(|entry| &self.entries[*entry as usize].want)
    }

    fn add_host(&mut self, id: NodeId, node: Node) {
        let share = Share::of(node.weight);
        let new = Host { id, node, share, line: Line::default(), limit: 0, pressed: false };
        let open = if new.is_open() { u64::from(new.node.weight.get()) } else { 0 };
        let host = slot(&mut self.hosts, &mut self.free_hosts, new);
        self.host_of.insert(id, host);
        self.weights += open;
        self.offer(host, true);
    }

    fn remove_host(&mut self, host: u32) {
        let mut gone = self.hosts[host as usize].node.clone();
        gone.presence = Presence::Left;
        self.change_host(host, gone);
        self.run();
        self.host_of.remove(&self.hosts[host as usize].id);
        self.entries.iter_mut().for_each(|entry| entry.rank.purge(host));
        self.free_hosts.push(host);
    }

    fn change_host(&mut self, host: u32, node: Node) {
        let this = &mut self.hosts[host as usize];
        let (was_open, weight) = (this.is_open(), u64::from(node.weight.get()));
        let was = std::mem::replace(&mut this.node, node);
        let is_open = this.is_open();
        if was_open != is_open {
            self.weights = if is_open { self.weights + weight } else { self.weights - weight };
        }
        let (was, is) = (&was, &this.node);
        let same = was.capacity == is.capacity && was.labels == is.labels && was.engines == is.engines;
        if was_open == is_open && same {
            return;
        }
        let id = this.id;
        let held: Vec<_> = this
            .line
            .iter()
            .map(|taken| (taken.entry, At { level: taken.level, cost: taken.cost, node: id }))
            .collect();
        held.into_iter().for_each(|(entry, at)| self.trigger(entry, at, host));
        if is_open {
            self.offer(host, false);
        }
    }

    fn add_entry(&mut self, name: &ComponentName, want: Want) {
        self.total += demand(&want);
        let key = Key::component(name);
        let new = Entry { name: name.clone(), key, want, rank: Rank::default(), seats: Vec::new(), pending: None };
        let entry = slot(&mut self.entries, &mut self.free_entries, new);
        self.entry_of.insert(name.clone(), entry);
        self.recount(entry);
    }

    fn remove_entry(&mut self, entry: u32) {
        self.clear_entry(entry);
        let this = &mut self.entries[entry as usize];
        self.total -= demand(&this.want);
        this.want.wanted = 0;
        this.rank = Rank::default();
        this.pending = None;
        self.spilled.remove(&entry);
        self.entry_of.remove(&this.name);
        self.free_entries.push(entry);
    }

    /// Takes all seats away.
    fn clear_entry(&mut self, entry: u32) {
        while let Some(last) = self.entries[entry as usize].seats.len().checked_sub(1) {
            self.unseat(entry, last);
        }
    }

    /// Looks at the end of the walk: are there too many, or too few?
    fn recount(&mut self, entry: u32) {
        let this = &self.entries[entry as usize];
        let count = this.want.count() as usize;
        let from = this.seats.get(count).or_else(|| this.seats.last()).map(|seat| (seat.at, seat.host));
        let (at, host) = from.unwrap_or((START, NOWHERE));
        self.trigger(entry, at, host);
    }

    /// Keeps what the targets of a component were.
    fn remember(&mut self, entry: u32) {
        let this = &self.entries[entry as usize];
        self.before.entry(this.name.clone()).or_insert_with(|| this.targets());
    }

    fn run(&mut self) {
        self.set_bounds();
        if self.tasks.len() > FEW.max(self.entries.len() / ANEW) {
            self.begin_anew();
        }
        while let Some(Reverse(task)) = self.tasks.pop() {
            self.step(&task);
        }
    }

    fn set_bounds(&mut self) {
        for host in 0..u32::try_from(self.hosts.len()).unwrap_or(u32::MAX) {
            let this = &self.hosts[host as usize];
            let limit = if this.is_open() {
                let weight = u128::from(this.node.weight.get()) * u128::from(FACTOR.0);
                let share = self.total.saturating_mul(weight) / (u128::from(self.weights) * u128::from(FACTOR.1));
                u64::try_from(share).unwrap_or(u64::MAX).max(this.node.capacity / ROOMY).max(1)
            } else {
                0
            };
            if limit != this.limit {
                self.rebound(host, limit);
            }
        }
    }

    fn begin_anew(&mut self) {
        self.tasks.clear();
        self.spilled.clear();
        for host in &mut self.hosts {
            host.line.clear();
            host.pressed = false;
        }
        for entry in self.entry_of.values().copied().collect::<Vec<_>>() {
            if !self.entries[entry as usize].seats.is_empty() {
                self.remember(entry);
            }
            let this = &mut self.entries[entry as usize];
            this.seats.clear();
            this.pending = None;
            if this.want.count() > 0 {
                self.trigger(entry, START, NOWHERE);
            }
        }
    }
}

impl Entry {
    fn targets(&self) -> Targets {
        let mut targets = Targets::new();
        for seat in &self.seats {
            *targets.entry(seat.at.node).or_insert(0) += 1;
        }
        targets
    }
}

fn demand(want: &Want) -> u128 {
    u128::from(want.count()) * u128::from(want.reserve)
}

/// Puts a new one where an old one was, or at the end.
fn slot<T>(all: &mut Vec<T>, free: &mut Vec<u32>, new: T) -> u32 {
    if let Some(slot) = free.pop() {
        all[slot as usize] = new;
        return slot;
    }
    all.push(new);
    u32::try_from(all.len() - 1).unwrap_or(u32::MAX)
}

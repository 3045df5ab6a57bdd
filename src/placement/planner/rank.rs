//! The first nodes in the order of one component, kept because hashing a thousand nodes takes microseconds, and a
//! hundred thousand components have an order each.
//!
//! All nodes are ranked, those that are gone too, so that a loss changes no rank. Knows nothing of who may take what.

use crate::id::NodeId;
use crate::placement::rendezvous::{Key, Share};

/// Nodes that are kept beyond twice the wanted count. Enough that a walk past full and lost nodes rarely needs more (with
/// one node in ten gone or full, one walk in 10^8), and few enough that 100,000 components take 24 MB.
const SPARE: usize = 8;

/// One node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ranked {
    pub(super) cost: u64,
    pub(super) node: NodeId,
    pub(super) host: u32,
}

/// The cheapest nodes in order. Invariant: no node that is left out is cheaper than one that is in.
#[derive(Debug, Clone, Default)]
pub(super) struct Rank {
    entries: Vec<Ranked>,
    complete: bool,
}

impl Rank {
    /// How many are kept for this count.
    pub(super) fn kept(count: u32) -> usize {
        SPARE + 2 * count as usize
    }

    /// Ranks all nodes and keeps the first ones, or all.
    pub(super) fn build(key: &Key, hosts: impl Iterator<Item = (NodeId, Share, u32)>, keep: Option<usize>) -> Self {
        let mut entries: Vec<_> =
            hosts.map(|(node, share, host)| Ranked { cost: key.cost(node, share), node, host }).collect();
        let mut complete = true;
        if let Some(keep) = keep.filter(|keep| *keep < entries.len()) {
            entries.select_nth_unstable(keep);
            entries = entries[..keep].to_vec();
            complete = false;
        }
        entries.sort_unstable();
        Self { entries, complete }
    }

    pub(super) fn is_built(&self) -> bool {
        self.complete || !self.entries.is_empty()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn get(&self, position: usize) -> Option<Ranked> {
        self.entries.get(position).copied()
    }

    pub(super) fn first(&self, count: usize) -> &[Ranked] {
        &self.entries[..count]
    }

    pub(super) fn last(&self) -> Option<Ranked> {
        self.entries.last().copied()
    }

    /// The position behind this node, whether it is in or not.
    pub(super) fn after(&self, cost: u64, node: NodeId) -> usize {
        self.entries.partition_point(|entry| (entry.cost, entry.node) <= (cost, node))
    }

    /// Takes a new node in where it belongs.
    pub(super) fn insert(&mut self, new: Ranked) {
        if self.complete || self.last().is_some_and(|last| new < last) {
            self.entries.insert(self.after(new.cost, new.node), new);
        }
    }

    /// Forgets a node.
    pub(super) fn purge(&mut self, host: u32) {
        self.entries.retain(|entry| entry.host != host);
    }

    /// Gives memory back when much more is held than must be.
    pub(super) fn trim(&mut self, keep: usize) {
        if self.entries.len() > keep + SPARE {
            self.entries.truncate(keep);
            self.entries.shrink_to_fit();
            self.complete = false;
        }
    }
}

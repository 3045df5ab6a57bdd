//! Rows with one writer: what a node says of itself. The greatest version wins, and all go when their owner goes.
//!
//! Minimal on purpose: how they travel is the business of replication. Knows nothing of what a row means.

use std::collections::BTreeMap;

use crate::crdt::row::{Key, Row};
use crate::id::NodeId;

/// Which write of its owner it is. The epoch grows with every start of the owner, durably, before it sends anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnedVersion {
    /// The start of the owner.
    pub epoch: u64,
    /// The write since that start.
    pub seq: u64,
}

/// A row of an owner; none if the owner took it back.
///
/// Ordered by version first; the rest of the order only matters if a broken owner used one version twice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnedRow {
    /// Which write.
    pub version: OwnedVersion,
    /// What was written.
    pub row: Option<Row>,
}

impl OwnedRow {
    /// The greater of two copies: commutes, associates, repeats harmlessly.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        self.max(other)
    }
}

/// All owned rows that a node knows.
///
/// Invariant: all rows of one owner are of one epoch, its highest known; those of an earlier life are gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owned(BTreeMap<NodeId, (u64, BTreeMap<Key, OwnedRow>)>);

impl Owned {
    /// Takes a row in. True if anything changed. A row of a higher epoch drops all rows of the earlier one.
    pub fn merge(&mut self, owner: NodeId, key: Key, row: OwnedRow) -> bool {
        let (epoch, rows) = self.0.entry(owner).or_insert_with(|| (row.version.epoch, BTreeMap::new()));
        if row.version.epoch < *epoch {
            return false;
        }
        if row.version.epoch > *epoch {
            *epoch = row.version.epoch;
            rows.clear();
        }
        match rows.get(&key) {
            Some(known) if *known >= row => false,
            _ => {
                rows.insert(key, row);
                true
            }
        }
    }

    /// Forgets an owner with all its rows.
    pub fn drop_owner(&mut self, owner: NodeId) {
        self.0.remove(&owner);
    }

    /// A row, if its owner did not take it back.
    pub fn get(&self, owner: NodeId, key: &Key) -> Option<&Row> {
        self.0.get(&owner)?.1.get(key)?.row.as_ref()
    }

    /// The rows of one owner, those taken back left out.
    pub fn of(&self, owner: NodeId) -> impl Iterator<Item = (&Key, &Row)> {
        let rows = self.0.get(&owner).into_iter().flat_map(|(_, rows)| rows);
        rows.filter_map(|(key, row)| Some((key, row.row.as_ref()?)))
    }

    /// All rows that were not taken back, by owner and key.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Key, &Row)> {
        let rows = self.0.iter().flat_map(|(owner, (_, rows))| rows.iter().map(move |(key, row)| (*owner, key, row)));
        rows.filter_map(|(owner, key, row)| Some((owner, key, row.row.as_ref()?)))
    }
}

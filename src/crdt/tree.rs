//! Sums of digests over parts of the key space: how two nodes find what differs without naming every key.
//!
//! 64 groups of 64 buckets by the first bits of a key's hash. Knows places and digests, no rows.

use crate::crdt::row::{Key, Kind};
use crate::hash::Hash64;

/// Groups, and buckets in each. 4,096 buckets hold 24 keys each at 100,000 rows: one difference costs two lists of
/// 64 sums and a list of 24 keys, about 1.5 KB.
pub const FAN: usize = 64;

/// How far a hash is shifted to get its bucket among all.
const BUCKET_SHIFT: u32 = 64 - 12;

/// A key behind the hash that says where it stands, the same on every node: in memory, on disk and on the way to a peer
/// rows have the order of their places.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The hash of the key.
    pub hash: u64,
    /// The key.
    pub key: Key,
}

impl From<Key> for Place {
    fn from(key: Key) -> Self {
        Self { hash: place(key.kind(), key.name()), key }
    }
}

impl Place {
    /// Sorts before every key with this hash.
    pub(crate) fn first(hash: u64) -> Self {
        Self { hash, key: Key::least() }
    }
}

/// The hash that places a key.
#[must_use]
pub fn place(kind: Kind, name: &str) -> u64 {
    let mut hash = Hash64::default();
    hash.word(u64::from(kind.0));
    hash.bytes(name.as_bytes());
    hash.finish()
}

/// The hashes of one bucket, first and last.
#[must_use]
pub fn bucket_range(bucket: usize) -> (u64, u64) {
    let first = (bucket as u64) << BUCKET_SHIFT;
    (first, first | ((1 << BUCKET_SHIFT) - 1))
}

/// The sums.
///
/// Invariant: each sum is that of the digests below it; the root is the sum of all. A sum does not depend on the order,
/// and unlike xor two equal terms do not cancel.
#[derive(Debug, Clone)]
pub struct Tree {
    root: u64,
    groups: Box<[u64]>,
    buckets: Box<[u64]>,
}

impl Default for Tree {
    fn default() -> Self {
        Self { root: 0, groups: vec![0; FAN].into(), buckets: vec![0; FAN * FAN].into() }
    }
}

impl Tree {
    /// The sum of all.
    #[must_use]
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The sums of the groups.
    #[must_use]
    pub fn groups(&self) -> &[u64] {
        &self.groups
    }

    /// The sums of the buckets of one group; nothing for a group that does not exist.
    #[must_use]
    pub fn buckets(&self, group: usize) -> &[u64] {
        self.buckets.get(group * FAN..(group + 1) * FAN).unwrap_or_default()
    }

    /// The digest at a place changed; none is a key that is not there.
    pub(crate) fn change(&mut self, hash: u64, before: Option<u64>, after: Option<u64>) {
        let difference = after.unwrap_or(0).wrapping_sub(before.unwrap_or(0));
        self.root = self.root.wrapping_add(difference);
        let bucket = usize::try_from(hash >> BUCKET_SHIFT).unwrap_or(0);
        for sum in [self.groups.get_mut(bucket / FAN), self.buckets.get_mut(bucket)].into_iter().flatten() {
            *sum = sum.wrapping_add(difference);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sum_is_that_of_what_is_below_it_and_nothing_is_left_when_all_is_gone() {
        let mut tree = Tree::default();
        let places: Vec<u64> = (0..500).map(|n| place(Kind(1), &n.to_string())).collect();
        for (n, place) in places.iter().enumerate() {
            tree.change(*place, None, Some(n as u64 * 77));
            tree.change(*place, Some(n as u64 * 77), Some(u64::MAX - n as u64));
        }
        let sum = |sums: &[u64]| sums.iter().fold(0_u64, |a, b| a.wrapping_add(*b));
        assert_eq!(sum(tree.groups()), tree.root());
        for group in 0..FAN {
            assert_eq!(sum(tree.buckets(group)), tree.groups()[group]);
        }
        for (n, place) in places.iter().enumerate() {
            tree.change(*place, Some(u64::MAX - n as u64), None);
        }
        assert!(tree.root() == 0 && tree.groups().iter().all(|sum| *sum == 0));
    }

    #[test]
    fn a_key_has_the_same_place_in_every_release() {
        // It is on disk: another hash is another format of the store.
        assert_eq!(place(Kind::COMPONENT, "api"), 17_572_134_379_862_799_562);
        assert_ne!(place(Kind::COMPONENT, "api"), place(Kind::SOURCE, "api"));
        assert_eq!(bucket_range(4095), (0xfff0_0000_0000_0000, u64::MAX));
    }
}

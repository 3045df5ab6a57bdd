//! The side of a repair that has the rows. It keeps nothing between two requests: each is answered from the registry as
//! it is, so that an asker that stops or floods costs no memory here.

use bytes::Bytes;

use crate::crdt::registry::Registry;
use crate::crdt::replica::frame::{Frame, add_row, context_out, pack};
use crate::crdt::tree::FAN;

/// Compares the asker's groups with ours.
pub(super) fn digests(registry: &Registry, session: u64, groups: &[u64]) -> Bytes {
    let tree = registry.tree();
    let mut mask = 0_u64;
    for (group, ours) in tree.groups().iter().enumerate() {
        let theirs = groups.get(group).copied().unwrap_or(0);
        mask |= u64::from(*ours != theirs) << group;
    }
    // One side is empty: there is nothing to compare below.
    let is_whole = groups.is_empty() || registry.is_empty();
    let differing = (0..FAN).filter(|group| !is_whole && mask & (1 << group) != 0);
    let buckets = pack(differing.flat_map(|group| tree.buckets(group).iter().copied()));
    let rows = registry.len() as u64;
    Frame::Digests { session, rows, context: context_out(registry.context()), mask, buckets }.encode()
}

/// Answers a request for rows with at most about `chunk` bytes of them. Also says how many rows are in it.
pub(super) fn rows(
    registry: &Registry,
    session: u64,
    seq: u32,
    ranges: &[(u64, u64)],
    items: &[(u64, u64)],
    chunk: usize,
) -> (Bytes, u64) {
    let (mut rows, mut count, mut next) = (Vec::new(), 0, None);
    let mut present = Vec::new();
    'ranges: for (first, last) in ranges {
        for (hash, key, register, digest) in registry.range(*first, *last) {
            // Keys that share a hash stay together.
            if rows.len() >= chunk && present.last() != Some(&hash) {
                next = Some(hash);
                break 'ranges;
            }
            present.push(hash);
            if items.binary_search(&(hash, digest)).is_ok() {
                continue;
            }
            // What cannot be encoded cannot have come in; the asker would ask for it again.
            if let Ok(register) = register.encode() {
                add_row(&mut rows, key, &register);
                count += 1;
            }
        }
    }
    let answered = |hash: u64| next.is_none_or(|next| hash < next);
    let in_range = |hash: u64| {
        let range = ranges.partition_point(|(_, last)| *last < hash);
        ranges.get(range).is_some_and(|(first, _)| *first <= hash)
    };
    let only_theirs = items.iter().map(|(hash, _)| *hash);
    let mut absent: Vec<u64> =
        only_theirs.filter(|hash| answered(*hash) && in_range(*hash) && present.binary_search(hash).is_err()).collect();
    absent.dedup();
    let frame = Frame::Rows { session, seq, next, absent: pack(absent), rows: super::frame::Blob(rows) };
    (frame.encode(), count)
}

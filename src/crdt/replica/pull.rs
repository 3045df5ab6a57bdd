//! The side of a repair that asks: what differs is narrowed down by sums, then fetched in pieces, a few at a time.
//!
//! Holds the state of one fetch. What arrives is taken in by the replica; this says what to ask for next, and at the end
//! which of our values the other side has seen overwritten. Sends nothing itself.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::crdt::context::Context;
use crate::crdt::registry::Registry;
use crate::crdt::replica::frame::{Blob, Frame, ITEMS_MAX, RANGES_MAX, pack, unpack};
use crate::crdt::row::{Dot, Key, Register};
use crate::crdt::tree::{FAN, bucket_range};
use crate::id::NodeId;
use crate::time::Mono;

/// How many rows of the other side a request should cover: about a megabyte of usual rows (300 bytes).
const ROWS_PER_WANT: u128 = 3500;

/// One fetch from one peer.
#[derive(Debug)]
pub(super) struct Pull {
    pub(super) peer: NodeId,
    pub(super) id: u64,
    /// Given up then, unless something arrives.
    pub(super) deadline: Mono,
    /// What the peer had seen when it answered first; none until then, or if it cannot be true.
    pub(super) context: Option<Context>,
    /// Whether everything that arrived could be taken in and nothing came in between that the context covers. Only then
    /// may the peer's knowledge become ours.
    pub(super) is_clean: bool,
    /// Whether anything here was changed by it.
    pub(super) has_changed: bool,
    has_answer: bool,
    /// How many rows the peer has.
    rows: u128,
    work: VecDeque<(u64, u64)>,
    asked: BTreeMap<u32, Vec<(u64, u64)>>,
    seq: u32,
    /// Our values that the peer has seen overwritten.
    gone: BTreeMap<Key, Vec<Dot>>,
}

impl Pull {
    pub(super) fn new(peer: NodeId, id: u64, deadline: Mono) -> Self {
        Self {
            peer,
            id,
            deadline,
            context: None,
            is_clean: true,
            has_changed: false,
            has_answer: false,
            rows: 0,
            work: VecDeque::new(),
            asked: BTreeMap::new(),
            seq: 0,
            gone: BTreeMap::new(),
        }
    }

    /// The peer's sums have arrived. False if they had already.
    pub(super) fn compare(
        &mut self,
        registry: &Registry,
        rows: u64,
        context: Option<Context>,
        mask: u64,
        sums: &Blob,
    ) -> bool {
        if std::mem::replace(&mut self.has_answer, true) {
            return false;
        }
        self.is_clean &= context.is_some();
        self.context = context;
        self.rows = rows.into();
        if rows == 0 {
            // Nothing to fetch; but it may have seen all that we have go. Not so a node that is new.
            if self.context.as_ref().is_some_and(|context| !context.is_empty()) {
                registry.registers().for_each(|(key, register)| self.note(key, Some(register), None));
            }
            return true;
        }
        let mut theirs = unpack(sums);
        let has_sums = !sums.0.is_empty();
        for group in (0..FAN).filter(|group| mask & (1 << group) != 0) {
            let ours = registry.tree().buckets(group);
            for (bucket, ours) in ours.iter().enumerate() {
                if !has_sums || theirs.next() != Some(*ours) {
                    self.add(bucket_range(group * FAN + bucket));
                }
            }
        }
        true
    }

    /// Adds a range behind all others, as one with the last if it borders on it.
    fn add(&mut self, (first, last): (u64, u64)) {
        match self.work.back_mut() {
            Some(back) if back.1.checked_add(1) == Some(first) => back.1 = last,
            _ => self.work.push_back((first, last)),
        }
    }

    /// The next request, if there is anything left and no more than `window` are under way.
    pub(super) fn want(&mut self, registry: &Registry, window: usize) -> Option<Bytes> {
        if self.asked.len() >= window || self.work.is_empty() {
            return None;
        }
        let (mut ranges, mut items, mut covered) = (Vec::new(), Vec::new(), 0_u128);
        while let Some((first, mut last)) = self.work.pop_front() {
            let estimate = |last: u64| ((u128::from(last - first) + 1) * self.rows) >> 64;
            let room = ROWS_PER_WANT - covered.min(ROWS_PER_WANT);
            if estimate(last) > room {
                // As much of it as fits, but at least one bucket, so that it ends.
                let part = (room << 64) / self.rows.max(1);
                let end = first.saturating_add(u64::try_from(part).unwrap_or(u64::MAX)).max(first | (u64::MAX >> 12));
                if end < last {
                    self.work.push_front((end + 1, last));
                    last = end;
                }
            }
            let before = items.len();
            let mut cut = None;
            for (hash, _, _, digest) in registry.range(first, last) {
                let is_new = items.last().is_none_or(|(previous, _)| *previous != hash);
                if items.len() >= ITEMS_MAX / 2 && is_new && (items.len() > before || !ranges.is_empty()) {
                    cut = Some(hash);
                    break;
                }
                items.push((hash, digest));
            }
            if let Some(cut) = cut {
                self.work.push_front((cut, last));
                if cut > first {
                    ranges.push((first, cut - 1));
                }
                break;
            }
            covered += estimate(last);
            ranges.push((first, last));
            if covered >= ROWS_PER_WANT || ranges.len() >= RANGES_MAX {
                break;
            }
        }
        items.sort_unstable();
        items.truncate(ITEMS_MAX);
        self.seq = self.seq.wrapping_add(1);
        let items = pack(items.into_iter().flat_map(|(hash, digest)| [hash, digest]));
        let frame = Frame::Want { session: self.id, seq: self.seq, ranges: ranges.clone(), items };
        self.asked.insert(self.seq, ranges);
        Some(frame.encode())
    }

    /// A request has been answered up to `next`. False if it was not asked, or had been answered already.
    pub(super) fn answered(&mut self, seq: u32, next: Option<u64>) -> bool {
        let Some(ranges) = self.asked.remove(&seq) else { return false };
        let Some(next) = next else { return true };
        if ranges.first().is_none_or(|(first, _)| next <= *first) {
            // It gave nothing and asks to be asked again: that would never end.
            self.is_clean = false;
            return true;
        }
        for (first, last) in ranges.into_iter().rev().filter(|(_, last)| *last >= next) {
            self.work.push_front((first.max(next), last));
        }
        true
    }

    /// The peer has other values for a key, or none at all: which of ours has it seen overwritten?
    pub(super) fn note(&mut self, key: &Key, ours: Option<&Register>, theirs: Option<&Register>) {
        let (Some(ours), Some(context)) = (ours, &self.context) else { return };
        let dots = ours.siblings().iter().map(|sibling| sibling.dot);
        let gone = dots.filter(|dot| context.covers(*dot) && !theirs.is_some_and(|theirs| theirs.has(*dot)));
        let gone: Vec<Dot> = gone.collect();
        if !gone.is_empty() {
            self.gone.insert(key.clone(), gone);
        }
    }

    /// The peer has no key with these hashes.
    pub(super) fn miss(&mut self, registry: &Registry, hashes: impl Iterator<Item = u64>) {
        for hash in hashes {
            for (_, key, register, _) in registry.range(hash, hash) {
                self.note(key, Some(register), None);
            }
        }
    }

    /// A row came in another way meanwhile. If the peer has seen it, it may also have seen it overwritten, in a part
    /// that was compared before: then this fetch proves nothing.
    pub(super) fn disturb(&mut self, register: &Register, known: &Context) {
        if let Some(context) = &self.context {
            let mut dots = register.siblings().iter().map(|sibling| sibling.dot);
            self.is_clean &= !dots.any(|dot| context.covers(dot) && !known.covers(dot));
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.has_answer && self.work.is_empty() && self.asked.is_empty()
    }

    /// Our values that are gone, once it is done.
    pub(super) fn into_gone(self) -> BTreeMap<Key, Vec<Dot>> {
        self.gone
    }
}

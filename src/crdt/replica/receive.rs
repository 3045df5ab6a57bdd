//! What happens when a frame arrives. Any bytes are allowed to come.

use crate::crdt::clock::Hlc;
use crate::crdt::registry::Merged;
use crate::crdt::replica::frame::{BadFrame, Blob, Frame, RowsIn, add_row, context_in, pairs, unpack};
use crate::crdt::replica::{Replica, answer};
use crate::crdt::row::{Key, Register};
use crate::crdt::tree::Place;
use crate::id::NodeId;
use crate::time::Now;

/// How many relays a push passes at most: 32 levels of two are more than all nodes there can be.
const DEPTH_MAX: u8 = 32;

/// What became of one row.
enum Taken {
    Changed,
    Known,
    /// It waits aside, or cannot be read: we do not have what the sender has.
    Missing,
}

impl Replica {
    /// Takes in a frame of a peer.
    ///
    /// # Errors
    /// If it is none; it is counted and nothing was changed. A row in it that cannot be read is counted and left out, and is
    /// no error.
    pub fn handle_frame(&mut self, from: NodeId, frame: &[u8], now: Now) -> Result<(), BadFrame> {
        self.now = now;
        self.stats.frames_in += 1;
        self.stats.bytes_in += frame.len() as u64;
        let done = Frame::decode(frame).and_then(|frame| self.receive(from, frame));
        if let Err(error) = &done {
            self.refuse(from, "a frame", error);
        }
        done
    }

    fn receive(&mut self, from: NodeId, frame: Frame) -> Result<(), BadFrame> {
        match frame {
            Frame::Root { root, context, answer, busy } => {
                self.check_in(from);
                self.on_root(from, root, context, answer, busy);
                Ok(())
            }
            Frame::Push { origin, id, depth, rows } => self.on_push(from, NodeId(origin), id, depth, &rows),
            Frame::Ask { session, groups } => {
                let frame = answer::digests(&self.registry, session, &groups);
                self.send(from, frame);
                Ok(())
            }
            Frame::Digests { session, rows, context, mask, buckets } => {
                self.on_digests(from, session, rows, &context, mask, &buckets);
                Ok(())
            }
            Frame::Want { session, seq, ranges, items } => {
                let items = pairs(&items);
                if !items.is_sorted() {
                    return Err(BadFrame::Invalid("its items are not in order"));
                }
                let chunk = self.options.chunk;
                if self.out_bytes + chunk > self.options.queue {
                    // The asker does not read what it asked for; it will ask again.
                    self.stats.dropped += 1;
                    return Ok(());
                }
                let (frame, count) = answer::rows(&self.registry, session, seq, &ranges, &items, chunk);
                if self.send(from, frame) {
                    self.stats.rows_sent += count;
                }
                Ok(())
            }
            Frame::Rows { session, seq, next, absent, rows } => self.on_rows(from, session, seq, next, &absent, &rows),
        }
    }

    fn on_push(&mut self, from: NodeId, origin: NodeId, id: u64, depth: u8, rows: &Blob) -> Result<(), BadFrame> {
        if self.recent.knows(id) || origin == self.node {
            return Ok(());
        }
        let mut sound = Vec::with_capacity(rows.0.len());
        for row in RowsIn(&rows.0) {
            let (key, register) = row?;
            let Some((key, decoded)) = self.read(from, key, register) else { continue };
            add_row(&mut sound, &key, register);
            self.take(from, key, decoded, false);
        }
        if depth < DEPTH_MAX {
            self.forward(origin, id, depth + 1, Blob(sound));
        }
        Ok(())
    }

    fn on_digests(&mut self, from: NodeId, id: u64, rows: u64, context: &[(u64, u64)], mask: u64, sums: &Blob) {
        let deadline = self.now.mono.after(self.options.stall);
        let context = context_in(context);
        // A moment that cannot be: rows that come with it are kept aside, so what the peer has seen we have not.
        let is_true = context.iter().all(|(_, at)| self.registry.believes(at, self.now.wall));
        let own = context.seen(self.node);
        let Some(pull) = self.pull.as_mut().filter(|pull| pull.peer == from && pull.id == id) else { return };
        if !pull.compare(&self.registry, rows, is_true.then_some(context), mask, sums) {
            return;
        }
        pull.deadline = deadline;
        if is_true && own > self.registry.context().seen(self.node) {
            self.registry.recall(own);
        }
        self.go_on();
    }

    fn on_rows(
        &mut self,
        from: NodeId,
        id: u64,
        seq: u32,
        next: Option<u64>,
        absent: &Blob,
        rows: &Blob,
    ) -> Result<(), BadFrame> {
        let deadline = self.now.mono.after(self.options.stall);
        let Some(pull) = self.pull.as_mut().filter(|pull| pull.peer == from && pull.id == id) else { return Ok(()) };
        if !pull.answered(seq, next) {
            return Ok(());
        }
        pull.deadline = deadline;
        pull.miss(&self.registry, unpack(absent));
        let mut is_clean = true;
        let mut failed = None;
        for row in RowsIn(&rows.0) {
            let (key, register) = match row {
                Ok(row) => row,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            };
            let Some((key, theirs)) = self.read(from, key, register) else {
                is_clean = false;
                continue;
            };
            if let Some(pull) = &mut self.pull {
                pull.note(&key, self.registry.register(&key), Some(&theirs));
            }
            is_clean &= !matches!(self.take(from, key, theirs, true), Taken::Missing);
        }
        if let Some(pull) = &mut self.pull {
            pull.is_clean &= is_clean && failed.is_none();
        }
        self.go_on();
        failed.map_or(Ok(()), Err)
    }

    /// Asks for what is left, or ends the fetch.
    fn go_on(&mut self) {
        let Some(pull) = &mut self.pull else { return };
        let (peer, mut wants) = (pull.peer, Vec::new());
        while let Some(frame) = pull.want(&self.registry, self.options.window) {
            wants.push(frame);
        }
        let is_done = pull.is_done();
        for frame in wants {
            self.send(peer, frame);
        }
        if is_done {
            self.finish_pull();
        }
    }

    /// A fetch has brought everything. If nothing of it was left out, what the peer had seen at its beginning is now
    /// reflected here too, and our values that it had seen overwritten go.
    fn finish_pull(&mut self) {
        let Some(mut pull) = self.pull.take() else { return };
        self.stats.repairs += 1;
        let context = pull.context.take().filter(|_| pull.is_clean);
        let (peer, mut has_changed) = (pull.peer, pull.has_changed);
        if let Some(context) = context {
            for (key, gone) in pull.into_gone() {
                match self.registry.drop_values(&key, &gone) {
                    Some(Some(change)) => {
                        self.forgotten.remove(&change.key);
                        self.dirty.insert(change.key.into(), change.encoded);
                    }
                    Some(None) => {
                        self.dirty.remove(&Place::from(key.clone()));
                        self.forgotten.insert(key);
                    }
                    None => continue,
                }
                (has_changed, self.is_save_due) = (true, true);
            }
            has_changed |= self.registry.adopt(&context);
        }
        self.after_pull(peer, has_changed);
        self.send_root(peer, false);
        self.handle_peers();
    }

    /// Reads a row, or counts it as unreadable.
    fn read(&mut self, from: NodeId, key: &[u8], register: &[u8]) -> Option<(Key, Register)> {
        let key = Key::from_bytes(key).map_err(|error| self.refuse(from, "a key", &error)).ok()?;
        let decoded = Register::decode(register);
        decoded.map_err(|error| self.refuse(from, &key.to_string(), &error)).ok().map(|register| (key, register))
    }

    /// Merges a row.
    fn take(&mut self, from: NodeId, key: Key, theirs: Register, by_pull: bool) -> Taken {
        let name = key.clone();
        if let Some(pull) = self.pull.as_mut().filter(|_| !by_pull) {
            pull.disturb(&theirs, self.registry.context());
        }
        match self.registry.merge(key, theirs, self.now.wall) {
            Merged::Changed(change) => {
                self.stats.rows_taken += 1;
                self.forgotten.remove(&change.key);
                self.dirty.insert(change.key.into(), change.encoded);
                if let Some(pull) = self.pull.as_mut().filter(|_| by_pull) {
                    pull.has_changed = true;
                }
                Taken::Changed
            }
            Merged::Unchanged => Taken::Known,
            Merged::Held(_) | Merged::NoRoom(_) => Taken::Missing,
            Merged::Refused(error) => {
                self.refuse(from, &name.to_string(), &error);
                Taken::Missing
            }
        }
    }

    /// Rows that came from the future and are due now.
    pub(super) fn release_held(&mut self) {
        if self.registry.poll_timeout().is_none_or(|due| due > self.now.wall) {
            return;
        }
        for change in self.registry.handle_timeout(self.now.wall) {
            if let Some(pull) = &mut self.pull
                && let Some(register) = self.registry.register(&change.key)
            {
                pull.disturb(register, self.registry.context());
            }
            self.forgotten.remove(&change.key);
            self.dirty.insert(change.key.into(), change.encoded);
        }
    }

    fn refuse(&mut self, from: NodeId, what: &str, why: &dyn std::fmt::Display) {
        self.stats.refused += 1;
        self.stats.last_refused = Some(format!("{what} of node {from}: {why}"));
    }

    /// Whoever speaks to us is a peer.
    fn check_in(&mut self, from: NodeId) {
        if from != self.node && !self.peers.contains_key(&from) {
            self.check_soon(from, self.options.compare_max);
        }
    }
}

impl crate::crdt::registry::Registry {
    /// Our own writes up to a moment are durable: we have seen them.
    pub(super) fn raise_own(&mut self, at: Hlc) {
        let node = self.node();
        self.adopt(&[(node, at)].into_iter().collect());
    }
}

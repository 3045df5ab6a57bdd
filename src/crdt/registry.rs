//! All shared rows of one node: writes with an expectation, merges of what peers send, one number that proves equality.
//!
//! Holds no file and no socket: whatever changes is returned, to be made durable before it is acknowledged or sent on.
//! Knows no kind of row by name.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::crdt::clock::{Ahead, Clock, Hlc};
use crate::crdt::context::Context;
use crate::crdt::row::{Dot, Key, KeyError, Kind, ROW_MAX, Register, Row, RowError, Version};
use crate::crdt::tree::{Place, Tree};
use crate::id::NodeId;
use crate::time::Wall;

/// How much memory rows from the future may take while they wait, in bytes. Nobody should wait at all; 8 MiB holds
/// some ten thousand definitions, and what does not fit comes again with the next comparison.
const HELD_MAX: usize = 8 << 20;

/// What the writer believes to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Whatever is there; concurrent values are settled by this write.
    Any,
    /// No row. A key in conflict between a delete and a put counts as a row.
    Absent,
    /// Exactly the state that was read.
    Version(Version),
}

/// One write of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub key: Key,
    /// What; none is a delete.
    pub row: Option<Row>,
    /// What must be there before.
    pub expect: Expect,
}

/// A register that changed: the bytes to make durable, and to send to others after that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Of which key.
    pub key: Key,
    /// For [`Register::decode`].
    pub encoded: Bytes,
}

/// An accepted write.
#[derive(Debug)]
pub struct Written {
    /// What must be durable before the write is acknowledged; empty if everything was so already.
    pub changed: Vec<Change>,
    /// The version of the last key of the batch; none if it is deleted and was never there.
    pub version: Option<Version>,
    /// The clock's high-water mark, to be made durable in the same step.
    pub hlc: Hlc,
    undo: Vec<(Key, Option<Register>, Version)>,
}

impl Written {
    /// Whether nothing had to change.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.changed.is_empty()
    }
}

/// Why a write was refused. Nothing was changed, of no key of the batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// The key itself is wrong.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// [`Expect::Absent`], and it is there.
    #[error("{key} exists already, version {found}")]
    Exists {
        /// Which.
        key: Key,
        /// Its version.
        found: Version,
    },
    /// [`Expect::Version`], and nothing is there.
    #[error("{key} does not exist; expected was version {expected}")]
    Absent {
        /// Which.
        key: Key,
        /// What the writer had read.
        expected: Version,
    },
    /// [`Expect::Version`], and somebody wrote since.
    #[error("{key} was changed in the meantime: it has version {found}, expected was {expected}; read it again")]
    Stale {
        /// Which.
        key: Key,
        /// Its version.
        found: Version,
        /// What the writer had read.
        expected: Version,
    },
    /// Longer than [`ROW_MAX`].
    #[error("{key} would have {found} bytes; allowed are at most {ROW_MAX}")]
    TooLong {
        /// Which.
        key: Key,
        /// How long it is.
        found: usize,
    },
    /// Two writes of a batch to one key, which would make their order matter.
    #[error("{0} is written twice in one change")]
    Repeated(Key),
    /// The register does not fit its format.
    #[error("{key} cannot be written")]
    Encode {
        /// Which.
        key: Key,
        /// Why.
        source: RowError,
    },
    /// The clock stands at the end of time, because the wall clock did.
    #[error("the clock of this node is at its end (year 10889); set the time of the machine")]
    Clock,
}

/// What became of a remote register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merged {
    /// All of it was known.
    Unchanged,
    /// It brought something; make it durable, then send it on.
    Changed(Change),
    /// It is from the future: kept aside, unseen by readers, until [`Registry::handle_timeout`] finds it due.
    Held(Ahead),
    /// It is from the future and there is no room to keep it: left out, a later comparison brings it again.
    NoRoom(Ahead),
    /// It cannot be joined with ours, which is unchanged.
    Refused(RowError),
}

#[derive(Debug, Clone)]
struct Entry {
    register: Register,
    digest: u64,
}

impl Entry {
    fn new(key: &Key, register: Register) -> Self {
        Self { digest: register.digest(key.kind(), key.name()), register }
    }
}

/// The shared rows of one node.
///
/// Invariants: the tree sums the digests of all entries; the clock is at or after every dot in them; a write that the
/// context covers and that is not a current value has been overwritten, and does not come in again.
#[derive(Debug, Clone)]
pub struct Registry {
    node: NodeId,
    clock: Clock,
    rows: BTreeMap<Place, Entry>,
    tree: Tree,
    context: Context,
    held: BTreeMap<Key, (Register, Wall)>,
    held_weight: usize,
}

impl Registry {
    /// The registry of a node as it was made durable: its high-water mark and its registers, in any order; fastest in
    /// that of their places. Two registers of one key are merged.
    pub fn restore(node: NodeId, high_water: Hlc, rows: impl IntoIterator<Item = (Key, Register)>) -> Self {
        let mut clock = Clock::new(high_water);
        let rows = rows.into_iter().inspect(|(_, register)| clock.restore(register.latest()));
        let mut all: Vec<(Place, Register)> = rows.map(|(key, register)| (key.into(), register)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all.dedup_by(|again, first| {
            let is_same = again.0 == first.0;
            if is_same {
                first.1 = first.1.merge(&again.1);
            }
            is_same
        });
        let mut tree = Tree::default();
        let rows = all.into_iter().map(|(place, register)| {
            let entry = Entry::new(&place.key, register);
            tree.change(place.hash, None, Some(entry.digest));
            (place, entry)
        });
        let rows = rows.collect();
        Self { node, clock, rows, tree, context: Context::default(), held: BTreeMap::new(), held_weight: 0 }
    }

    /// Writes one row in a format that its kind's owner knows.
    ///
    /// # Errors
    /// See [`Registry::write`].
    pub fn put(&mut self, kind: Kind, name: &str, row: Row, expect: Expect, now: Wall) -> Result<Written, PutError> {
        let key = Key::new(kind, name)?;
        self.write(vec![Write { key, row: Some(row), expect }], now)
    }

    /// Deletes one row. Nothing there with [`Expect::Any`] is no error and no change.
    ///
    /// # Errors
    /// See [`Registry::write`].
    pub fn delete(&mut self, kind: Kind, name: &str, expect: Expect, now: Wall) -> Result<Written, PutError> {
        let key = Key::new(kind, name)?;
        self.write(vec![Write { key, row: None, expect }], now)
    }

    /// Writes several keys, all or none. A key that already has the row, with no conflict to settle, is left alone.
    ///
    /// The change is visible at once; if it cannot be made durable, give it to [`Registry::undo`].
    ///
    /// # Errors
    /// Names the first key that is refused. Nothing was changed.
    pub fn write(&mut self, batch: Vec<Write>, now: Wall) -> Result<Written, PutError> {
        let mut keys = BTreeSet::new();
        for write in &batch {
            if !keys.insert(&write.key) {
                return Err(PutError::Repeated(write.key.clone()));
            }
            self.check(write)?;
        }
        let last = batch.last().map(|write| write.key.clone());
        let batch: Vec<Write> = batch.into_iter().filter(|write| !self.is_done(write)).collect();
        let mut changed = Vec::with_capacity(batch.len());
        let mut after = Vec::with_capacity(batch.len());
        if !batch.is_empty() {
            // One moment for the whole batch: dots need to be unique per key only.
            let before = self.clock.last();
            let at = self.clock.tick(now);
            if at == before {
                return Err(PutError::Clock);
            }
            for Write { key, row, .. } in batch {
                let register = Register::write(self.register(&key), Dot { at, by: self.node }, row);
                match register.encode() {
                    Ok(bytes) => changed.push(Change { key: key.clone(), encoded: bytes.into() }),
                    Err(source) => return Err(PutError::Encode { key, source }),
                }
                after.push((key, register));
            }
        }
        let mut undo = Vec::with_capacity(after.len());
        for (key, register) in after {
            let version = register.version();
            let before = self.set(key.clone().into(), Some(register));
            undo.push((key, before, version));
        }
        let version = last.and_then(|key| self.register(&key).map(Register::version));
        Ok(Written { changed, version, hlc: self.clock.last(), undo })
    }

    /// Takes back a write that could not be made durable and was shown to nobody. A key that a peer's copy was merged
    /// into since keeps the write: it can no longer be told apart, and is in the register that became durable then.
    pub fn undo(&mut self, written: Written) {
        for (key, before, version) in written.undo {
            if self.register(&key).map(Register::version) == Some(version) {
                self.set(key.into(), before);
            }
        }
    }

    fn check(&self, write: &Write) -> Result<(), PutError> {
        let key = write.key.clone();
        if let Some(row) = &write.row
            && row.bytes.len() > ROW_MAX
        {
            return Err(PutError::TooLong { key, found: row.bytes.len() });
        }
        let live = self.register(&write.key).filter(|register| !register.is_tombstone()).map(Register::version);
        match (write.expect, live) {
            (Expect::Any, _) | (Expect::Absent, None) => Ok(()),
            (Expect::Absent, Some(found)) => Err(PutError::Exists { key, found }),
            (Expect::Version(expected), None) => Err(PutError::Absent { key, expected }),
            (Expect::Version(expected), Some(found)) if expected == found => Ok(()),
            (Expect::Version(expected), Some(found)) => Err(PutError::Stale { key, found, expected }),
        }
    }

    fn is_done(&self, write: &Write) -> bool {
        match self.register(&write.key) {
            None => write.row.is_none(),
            Some(register) => register.winner() == write.row.as_ref() && !register.is_conflict(),
        }
    }

    /// Takes in a register that a peer sent. Order, loss and repetition do not matter.
    pub fn merge(&mut self, key: Key, remote: Register, now: Wall) -> Merged {
        let place = Place::from(key);
        let known = self.rows.get(&place).map(|entry| &entry.register);
        if known == Some(&remote) {
            return Merged::Unchanged;
        }
        let is_old = |dot| self.context.covers(dot) && !known.is_some_and(|known| known.has(dot));
        let Some(remote) = remote.without(is_old) else { return Merged::Unchanged };
        let merged = known.map_or_else(|| remote.clone(), |known| known.merge(&remote));
        if known == Some(&merged) {
            return Merged::Unchanged;
        }
        let encoded = match merged.encode() {
            Ok(bytes) => bytes.into(),
            Err(error) => return Merged::Refused(error),
        };
        if let Err(ahead) = self.clock.observe(remote.latest(), now) {
            return self.hold(place.key, remote, ahead);
        }
        let key = place.key.clone();
        self.set(place, Some(merged));
        Merged::Changed(Change { key, encoded })
    }

    fn hold(&mut self, key: Key, remote: Register, ahead: Ahead) -> Merged {
        let old = self.held.get(&key).map(|(held, _)| held);
        let register = old.map_or_else(|| remote.clone(), |held| held.merge(&remote));
        let weight = self.held_weight - old.map_or(0, Register::weight) + register.weight();
        if weight > HELD_MAX {
            return Merged::NoRoom(ahead);
        }
        self.held_weight = weight;
        self.held.insert(key, (register, ahead.due));
        Merged::Held(ahead)
    }

    /// When the next row that was kept aside is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Wall> {
        self.held.values().map(|(_, due)| *due).min()
    }

    /// Takes in the rows that were kept aside and are due. What changed is to be made durable.
    pub fn handle_timeout(&mut self, now: Wall) -> Vec<Change> {
        let due = self.held.iter().filter(|(_, (_, due))| *due <= now).map(|(key, _)| key.clone()).collect::<Vec<_>>();
        let mut changes = Vec::new();
        for key in due {
            if let Some((register, _)) = self.held.remove(&key) {
                self.held_weight -= register.weight();
                if let Merged::Changed(change) = self.merge(key, register, now) {
                    changes.push(change);
                }
            }
        }
        changes
    }

    /// How many rows are kept aside because they are from the future: anything but 0 is a clock to look at.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// The register of a row that is there: its winner is not a delete.
    #[must_use]
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Register> {
        let key = Key::new(kind, name).ok()?;
        self.register(&key).filter(|register| register.winner().is_some())
    }

    /// All rows of a kind that are there, in the order of their names. Looks at every row of the registry.
    pub fn list(&self, kind: Kind) -> impl Iterator<Item = (&str, &Register)> {
        let rows =
            self.rows.iter().filter(|(place, entry)| place.key.kind() == kind && entry.register.winner().is_some());
        let mut rows: Vec<(&str, &Register)> = rows.map(|(place, entry)| (place.key.name(), &entry.register)).collect();
        rows.sort_unstable_by_key(|(name, _)| *name);
        rows.into_iter()
    }

    /// All keys that wait for somebody to settle them; also those whose winner is a delete.
    pub fn conflicts(&self) -> impl Iterator<Item = (&Key, &Register)> {
        self.registers().filter(|(_, register)| register.is_conflict())
    }

    /// The register of a key, deleted or not.
    #[must_use]
    pub fn register(&self, key: &Key) -> Option<&Register> {
        self.rows.get(&Place::from(key.clone())).map(|entry| &entry.register)
    }

    /// Every register, deleted ones included, in the order of places: what replication compares and sends.
    pub fn registers(&self) -> impl Iterator<Item = (&Key, &Register)> {
        self.rows.iter().map(|(place, entry)| (&place.key, &entry.register))
    }

    /// Forgets a key of which only deletes are left. True if it did. Only safe once every member has the delete.
    pub fn forget(&mut self, key: &Key) -> bool {
        let gone = self.register(key).is_some_and(Register::is_tombstone);
        if gone {
            self.set(key.clone().into(), None);
        }
        gone
    }

    /// A number that is equal on two nodes if all their registers are, and almost surely different otherwise.
    #[must_use]
    pub fn root(&self) -> u64 {
        self.tree.root()
    }

    /// The sums over parts of the key space.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The keys whose hashes lie in a range, both ends included: hash, key, register and the register's digest.
    pub fn range(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, &Key, &Register, u64)> {
        let start = self.rows.range(Place::first(from)..).take_while(move |(place, _)| place.hash <= to);
        start.map(|(place, entry)| (place.hash, &place.key, &entry.register, entry.digest))
    }

    /// Whose rows these are.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// What is known here of every writer without a gap.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Learns that everything up to these moments is in the rows, or was overwritten. The caller has proof of it.
    pub(crate) fn adopt(&mut self, context: &Context) -> bool {
        self.context.adopt(context)
    }

    /// Whether a moment that a peer names can be true: our clock has passed it, or it is less than
    /// [`crate::crdt::clock::MAX_AHEAD`] in the future.
    #[must_use]
    pub fn believes(&self, moment: Hlc, now: Wall) -> bool {
        self.clock.clone().observe(moment, now).is_ok()
    }

    /// Moves the clock to a moment that a peer has seen of us, so that no dot is given twice after a disk was set back.
    pub(crate) fn recall(&mut self, moment: Hlc) {
        self.clock.restore(moment);
    }

    /// Takes values away that are known to have been overwritten. None if there were no such; else the change, which
    /// is none itself if nothing is left of the key.
    pub(crate) fn drop_values(&mut self, key: &Key, gone: &[Dot]) -> Option<Option<Change>> {
        let register = self.register(key)?;
        if !gone.iter().any(|dot| register.has(*dot)) {
            return None;
        }
        let Some(left) = register.clone().without(|dot| gone.contains(&dot)) else {
            self.set(key.clone().into(), None);
            return Some(None);
        };
        let encoded = left.encode().ok()?.into();
        self.set(key.clone().into(), Some(left));
        Some(Some(Change { key: key.clone(), encoded }))
    }

    /// How many keys it knows, deleted ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it knows no key at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The clock's high-water mark, to be made durable together with whatever was merged.
    #[must_use]
    pub fn hlc(&self) -> Hlc {
        self.clock.last()
    }

    /// The one place that changes an entry, so that the tree never misses one. Gives the register that was there.
    fn set(&mut self, place: Place, register: Option<Register>) -> Option<Register> {
        let hash = place.hash;
        let new = register.map(|register| Entry::new(&place.key, register));
        let digest = new.as_ref().map(|new| new.digest);
        let old = match new {
            Some(new) => self.rows.insert(place, new),
            None => self.rows.remove(&place),
        };
        self.tree.change(hash, old.as_ref().map(|old| old.digest), digest);
        old.map(|old| old.register)
    }
}

#[cfg(test)]
mod tests;

//! One key's register: the values that are current, the clock that says so, and how two copies become one.
//!
//! Knows nothing of what a row means, of other keys or of time passing.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crdts::mvreg::Op;
use crdts::{CmRDT as _, CvRDT as _, MVReg, VClock};

use crate::crdt::clock::Hlc;
use crate::crdt::context::Context;
use crate::hash::Hash64;
use crate::id::NodeId;

mod codec;

pub use codec::{REGISTER_MAX, RowError};

/// The longest row in bytes. Definitions are a few hundred bytes; 64 KiB leaves room for a mounted file and keeps a
/// register within one stream push.
pub const ROW_MAX: usize = 64 * 1024;

/// The longest key in bytes, kind not counted: two names of 60 bytes and what may stand between them, twice over.
pub const KEY_MAX: usize = 256;

/// How many concurrent values are kept of one key, the greatest. More than two people at once is rare, and eight rows
/// still fit on a screen; a limit must be, or a loop of clashing writers grows a row for ever.
pub const SIBLINGS_MAX: usize = 8;

/// What a row is about. An open set: a kind that this release does not know is stored and forwarded all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(pub u16);

impl Kind {
    /// A component's definition.
    pub const COMPONENT: Self = Self(1);
    /// An event source's definition.
    pub const SOURCE: Self = Self(2);
    /// A setting or a file for components.
    pub const CONFIG: Self = Self(3);
    /// What people decided about a node: that it was removed, or what it is to do.
    pub const NODE: Self = Self(4);
    /// What a node does for a component, said by itself.
    pub const LOAD: Self = Self(5);
    /// What a node can and wants to do, said by itself.
    pub const FACTS: Self = Self(6);
    /// The definitions that a component had.
    pub const REVISIONS: Self = Self(7);
    /// How many instances of a component are wanted, said by the node that counts for it.
    pub const WANTED: Self = Self(8);
    /// Which seats of an event source a node holds, said by itself.
    pub const SEATS: Self = Self(9);
    /// The runs of a schedule.
    pub const RUNS: Self = Self(10);
    /// What happened at a node, a block of it, said by itself.
    pub const EVENTS: Self = Self(11);
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::COMPONENT => f.pad("component"),
            Self::SOURCE => f.pad("source"),
            Self::CONFIG => f.pad("config"),
            Self::NODE => f.pad("node"),
            Self::LOAD => f.pad("load"),
            Self::FACTS => f.pad("facts"),
            Self::REVISIONS => f.pad("revisions"),
            Self::WANTED => f.pad("wanted"),
            Self::SEATS => f.pad("seats"),
            Self::RUNS => f.pad("runs"),
            Self::EVENTS => f.pad("events"),
            Self(other) => write!(f, "kind-{other}"),
        }
    }
}

/// Why a text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No byte at all.
    #[error("the key is empty")]
    Empty,
    /// Longer than [`KEY_MAX`].
    #[error("the key has {0} bytes; allowed are at most {KEY_MAX}")]
    TooLong(usize),
    /// Bytes that are not a kind and a text.
    #[error("the key is malformed")]
    Malformed,
}

/// What a row is filed under. Invariant: 1 to [`KEY_MAX`] bytes. Ordered by kind, then by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    kind: Kind,
    name: Arc<str>,
}

impl Key {
    /// # Errors
    /// If the name is empty or too long.
    pub fn new(kind: Kind, name: &str) -> Result<Self, KeyError> {
        match name.len() {
            0 => Err(KeyError::Empty),
            1..=KEY_MAX => Ok(Self { kind, name: name.into() }),
            len => Err(KeyError::TooLong(len)),
        }
    }

    /// Sorts before every key; is none itself.
    pub(crate) fn least() -> Self {
        Self { kind: Kind(0), name: "".into() }
    }

    /// What it is about.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The name within its kind.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bytes for disk and wire, which sort like the key itself.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.kind.0.to_be_bytes().to_vec();
        bytes.extend_from_slice(self.name.as_bytes());
        bytes
    }

    /// # Errors
    /// If these are not the bytes of a key. Never panics.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let (kind, name) = bytes.split_first_chunk::<2>().ok_or(KeyError::Malformed)?;
        let name = std::str::from_utf8(name).map_err(|_| KeyError::Malformed)?;
        Self::new(Kind(u16::from_be_bytes(*kind)), name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// One value: opaque bytes and the number of the format they are written in, which only the kind's owner understands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// The format's number.
    pub format: u16,
    /// At most [`ROW_MAX`].
    pub bytes: Arc<[u8]>,
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the bytes: a setting may be a secret.
        write!(f, "Row {{ format: {}, {} bytes }}", self.format, self.bytes.len())
    }
}

/// One write. Ordered by time first, which makes the greatest the winner everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// When, on the writer's clock.
    pub at: Hlc,
    /// Who wrote.
    pub by: NodeId,
}

/// A current value of a key: one, or several while concurrent writes wait to be settled.
///
/// Ordered by dot; the rest of the order only matters if a broken node used one dot twice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sibling {
    /// The write that made it.
    pub dot: Dot,
    /// What the writer had seen of this key: the latest dot of each other node, sorted by node.
    seen: Box<[Dot]>,
    /// The row; none if the write was a delete.
    pub row: Option<Row>,
}

impl Sibling {
    /// All dots of its clock.
    fn dots(&self) -> impl Iterator<Item = Dot> {
        std::iter::once(self.dot).chain(self.seen.iter().copied())
    }

    fn clock(&self) -> VClock<NodeId> {
        self.dots().map(|dot| crdts::Dot::new(dot.by, dot.at.0)).collect()
    }
}

/// The state of a key as a caller saw it: the ETag of the API. Shown and parsed as 12 hexadecimal digits.
///
/// Two states of one key have the same version only by a collision of 48 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A text is not a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version; allowed are 12 hexadecimal digits, as shown by the last read")]
pub struct VersionError(String);

impl FromStr for Version {
    type Err = VersionError;
    fn from_str(text: &str) -> Result<Self, VersionError> {
        let hex = text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = hex.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        number.map(Self).ok_or_else(|| VersionError(text.to_owned()))
    }
}

/// All that is known of one key.
///
/// Cheap to clone. Invariant: 1 to [`SIBLINGS_MAX`] siblings, greatest dot first, none of which had seen another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register(Arc<[Sibling]>);

impl Register {
    /// The register after a write whose writer had seen `before`. `at` must be later than all that is in `before`.
    #[must_use]
    pub fn write(before: Option<&Self>, dot: Dot, row: Option<Row>) -> Self {
        let mut clock = before.map(Self::clock).unwrap_or_default();
        clock.apply(crdts::Dot::new(dot.by, dot.at.0));
        let seen = clock.iter().filter(|seen| *seen.actor != dot.by);
        let seen = seen.map(|seen| Dot { at: Hlc(seen.counter), by: *seen.actor }).collect();
        Self(Arc::new([Sibling { dot, seen, row }]))
    }

    /// One register out of two copies of the same key: what neither had seen replaced.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let mut all: Vec<&Sibling> = self.0.iter().chain(&*other.0).collect();
        // One order whoever merges with whom: among equal clocks the last one applied stays.
        all.sort_unstable();
        all.dedup();
        let mut register: MVReg<usize, NodeId> = MVReg::new();
        for (index, sibling) in all.iter().enumerate() {
            register.apply(Op::Put { clock: sibling.clock(), val: index });
        }
        let mut left = register.read().val;
        left.sort_unstable_by(|a, b| b.cmp(a));
        let mut left: Vec<Sibling> = left.into_iter().filter_map(|index| all.get(index)).copied().cloned().collect();
        left.dedup_by_key(|sibling| sibling.dot);
        left.truncate(SIBLINGS_MAX);
        Self(left.into())
    }

    /// The current values, the winner first.
    #[must_use]
    pub fn siblings(&self) -> &[Sibling] {
        &self.0
    }

    /// The value that every node acts on: that of the latest write, by (time, node). None if that was a delete.
    #[must_use]
    pub fn winner(&self) -> Option<&Row> {
        self.0.first().and_then(|sibling| sibling.row.as_ref())
    }

    /// Whether concurrent writes that differ wait for somebody to settle them. Two people who wrote the same agree.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.0.windows(2).any(|pair| matches!(pair, [a, b] if a.row != b.row))
    }

    /// Whether nothing but deletes is left.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        self.0.iter().all(|sibling| sibling.row.is_none())
    }

    /// The greatest moment in its clock.
    #[must_use]
    pub fn latest(&self) -> Hlc {
        self.0.iter().flat_map(Sibling::dots).map(|dot| dot.at).max().unwrap_or_default()
    }

    /// Whether every dot in its clock is known.
    #[must_use]
    pub fn is_covered(&self, context: &Context) -> bool {
        self.0.iter().flat_map(Sibling::dots).all(|dot| context.covers(dot))
    }

    /// Its dots of one writer, the greatest; zero if there is none.
    #[must_use]
    pub fn latest_of(&self, writer: NodeId) -> Hlc {
        let dots = self.0.iter().flat_map(Sibling::dots).filter(|dot| dot.by == writer);
        dots.map(|dot| dot.at).max().unwrap_or_default()
    }

    /// Whether a write is one of its current values.
    #[must_use]
    pub fn has(&self, dot: Dot) -> bool {
        self.0.iter().any(|sibling| sibling.dot == dot)
    }

    /// The same without some of its values; none if nothing is left.
    pub(crate) fn without(self, is_gone: impl Fn(Dot) -> bool) -> Option<Self> {
        if !self.0.iter().any(|sibling| is_gone(sibling.dot)) {
            return Some(self);
        }
        let left: Arc<[Sibling]> = self.0.iter().filter(|sibling| !is_gone(sibling.dot)).cloned().collect();
        (!left.is_empty()).then_some(Self(left))
    }

    fn clock(&self) -> VClock<NodeId> {
        let mut clock = VClock::new();
        for sibling in &*self.0 {
            clock.merge(sibling.clock());
        }
        clock
    }

    /// What a caller shows to prove that it has seen this state.
    #[must_use]
    pub fn version(&self) -> Version {
        let mut hash = Hash64::default();
        for dot in self.clock().iter() {
            hash.word(dot.actor.0);
            hash.word(dot.counter);
        }
        Version(hash.finish() >> 16)
    }

    /// A number that is equal on two nodes if their copies are, and almost surely different otherwise.
    #[must_use]
    pub fn digest(&self, kind: Kind, name: &str) -> u64 {
        let mut hash = Hash64::default();
        hash.word(u64::from(kind.0));
        hash.bytes(name.as_bytes());
        for sibling in &*self.0 {
            hash.word(sibling.seen.len() as u64);
            for dot in sibling.dots() {
                hash.word(dot.at.0);
                hash.word(dot.by.0);
            }
            match &sibling.row {
                None => hash.word(0),
                Some(row) => {
                    hash.word(1 + u64::from(row.format));
                    hash.bytes(&row.bytes);
                }
            }
        }
        hash.finish()
    }

    /// Roughly how much memory it takes, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        let rows = self.0.iter().map(|sibling| {
            size_of::<Sibling>()
                + sibling.seen.len() * size_of::<Dot>()
                + sibling.row.as_ref().map_or(0, |row| row.bytes.len())
        });
        rows.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(at: u64, by: u64) -> Dot {
        Dot { at: Hlc(at), by: NodeId(by) }
    }

    fn row(text: &str) -> Option<Row> {
        Some(Row { format: 1, bytes: text.as_bytes().into() })
    }

    #[test]
    fn concurrent_writes_are_both_kept_and_the_later_one_wins_on_either_side() {
        let (a, b) = (Register::write(None, dot(5, 1), row("a")), Register::write(None, dot(5, 2), row("b")));
        let merged = a.merge(&b);
        assert_eq!(merged, b.merge(&a));
        assert_eq!((merged.winner().cloned(), merged.is_conflict()), (row("b"), true));
    }

    #[test]
    fn concurrent_writes_of_the_same_row_are_no_conflict() {
        let same = Register::write(None, dot(5, 1), row("a")).merge(&Register::write(None, dot(6, 2), row("a")));
        assert_eq!((same.siblings().len(), same.is_conflict()), (2, false));
    }

    #[test]
    fn a_write_that_saw_both_settles_the_conflict() {
        let both = Register::write(None, dot(5, 1), row("a")).merge(&Register::write(None, dot(5, 2), row("b")));
        let settled = Register::write(Some(&both), dot(6, 1), row("c"));
        assert_eq!(settled.merge(&both), settled);
        assert_eq!(both.merge(&settled), settled);
    }

    #[test]
    fn an_old_copy_does_not_bring_a_deleted_row_back() {
        let old = Register::write(None, dot(5, 1), row("a"));
        let gone = Register::write(Some(&old), dot(6, 2), None);
        assert!(old.merge(&gone).is_tombstone() && gone.merge(&old).is_tombstone());
    }

    #[test]
    fn a_key_made_again_after_its_tombstone_was_forgotten_is_newer_than_old_copies() {
        let old = Register::write(None, dot(5, 1), row("a"));
        let again = Register::write(None, dot(9, 1), row("b"));
        assert_eq!(old.merge(&again), again);
    }

    #[test]
    fn the_greatest_eight_of_many_concurrent_writes_stay() {
        let writes = (1..=20).map(|by| Register::write(None, dot(5, by), row("x")));
        let merged = writes.reduce(|a, b| a.merge(&b)).expect("twenty");
        assert_eq!(merged.siblings().iter().map(|s| s.dot.by.0).collect::<Vec<_>>(), [20, 19, 18, 17, 16, 15, 14, 13]);
    }

    #[test]
    fn one_dot_used_twice_still_ends_equal_on_both_sides() {
        let (a, b) = (Register::write(None, dot(5, 1), row("a")), Register::write(None, dot(5, 1), row("b")));
        assert_eq!(a.merge(&b), b.merge(&a));
        let before = Register::write(None, dot(1, 7), row("z"));
        let (c, d) = (Register::write(Some(&before), dot(5, 1), row("a")), Register::write(None, dot(5, 1), row("b")));
        assert_eq!(c.merge(&d), d.merge(&c));
    }

    #[test]
    fn a_version_is_twelve_digits_and_changes_with_the_clock_alone() {
        let a = Register::write(None, dot(5, 1), row("a"));
        let text = a.version().to_string();
        assert_eq!((text.len(), text.parse()), (12, Ok(a.version())));
        assert_ne!(Register::write(Some(&a), dot(6, 1), row("a")).version(), a.version());
        for wrong in ["", "12", "+0123456789a", "0123456789abc", "äöüäöü"] {
            let error = wrong.parse::<Version>().expect_err("not a version").to_string();
            assert!(error.contains("12 hexadecimal digits"), "{error}");
        }
    }

    #[test]
    fn keys_sort_as_their_bytes_do_and_come_back_from_them() {
        let keys = [(1, "b"), (1, "ba"), (2, "a"), (300, "é")].map(|(kind, name)| Key::new(Kind(kind), name));
        let keys = keys.map(|key| key.expect("a key"));
        assert!(keys.is_sorted() && keys.iter().map(Key::to_bytes).is_sorted());
        for key in keys {
            assert_eq!(Key::from_bytes(&key.to_bytes()), Ok(key));
        }
        assert_eq!(Key::from_bytes(&[0, 1]), Err(KeyError::Empty));
        assert_eq!(Key::from_bytes(&[0]), Err(KeyError::Malformed));
        assert_eq!(Key::new(Kind(1), &"x".repeat(257)), Err(KeyError::TooLong(257)));
    }
}

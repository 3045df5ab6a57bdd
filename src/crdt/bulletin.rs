//! What nodes say of themselves, spread to all: the rows that this node owns go out as sheets, those of others come in.
//!
//! A sheet holds what its owner changed after a certain write, or everything. Whoever misses what came before asks for
//! everything, so a lost sheet, a restart on either side and a partition all end in the same way. Nothing of it is
//! durable: a node that starts again says everything anew. Does no IO; who is sent what and when is the shell's matter.
//!
//! Invariant: the rows held of an owner are those of one of its moments, never a mixture of two.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::crdt::owned::{Owned, OwnedRow, OwnedVersion};
use crate::crdt::row::{Key, ROW_MAX, Row};
use crate::id::NodeId;

/// Rows that were taken back and are kept, so that peers hear of it; who is further behind gets everything. A component
/// whose last instance ended leaves one, so this is many more than change between two sheets.
const TAKEN_BACK_MAX: usize = 1024;

/// The bytes of rows in one sheet at most: well below the longest message of the transport (2 MiB).
pub const SHEET_MAX: usize = 1 << 20;

/// One row on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    key: Vec<u8>,
    seq: u64,
    /// Its format and bytes; none if it was taken back.
    row: Option<(u16, Vec<u8>)>,
}

/// What an owner says: its rows of the writes after `from`, up to `upto`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sheet {
    /// The start of the owner.
    pub epoch: u64,
    /// The last write that the reader must know; with 0 the rows replace all that it holds.
    pub from: u64,
    /// The last write that is in it. Not the owner's latest, if all did not fit into one sheet.
    pub upto: u64,
    /// The rows, by write.
    pub lines: Vec<Line>,
}

/// What a peer has heard of this node's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heard {
    /// All writes up to this one.
    upto: u64,
    /// While everything is being sent in several sheets: what this node had written when that began.
    whole: u64,
}

impl Heard {
    /// Whether it has heard all that this node wrote up to `head`.
    #[must_use]
    pub fn is_all(self, head: u64) -> bool {
        self.upto == head
    }
}

/// What became of a sheet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Taken {
    /// It is known now, or was before.
    Known,
    /// Something before it is missing: everything is wanted.
    Missing,
}

/// A sheet that cannot be read. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSheet {
    /// A key is none.
    #[error("a row of the sheet has no valid key")]
    Key,
    /// A row is longer than a row may be.
    #[error("a row of the sheet has {0} bytes; allowed are at most {ROW_MAX}")]
    TooLong(usize),
    /// Writes are not in order, or not between the bounds that the sheet names.
    #[error("the rows of the sheet are not in order")]
    Order,
}

/// The rows of all nodes, as one node knows them.
#[derive(Debug)]
pub struct Bulletin {
    epoch: u64,
    seq: u64,
    mine: BTreeMap<Key, OwnedRow>,
    /// The same by write: what to send next.
    order: BTreeMap<u64, Key>,
    /// Of `mine`, those taken back.
    taken_back: usize,
    /// Writes up to here cannot be told one by one any more.
    floor: u64,
    theirs: Owned,
    /// Up to which write each owner is known.
    heads: BTreeMap<NodeId, (u64, u64)>,
}

impl Bulletin {
    /// Nothing is said yet. `epoch` must be greater than at any earlier start of this node.
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        Self {
            epoch,
            seq: 0,
            mine: BTreeMap::new(),
            order: BTreeMap::new(),
            taken_back: 0,
            floor: 0,
            theirs: Owned::default(),
            heads: BTreeMap::new(),
        }
    }

    /// Says something, or takes it back. True if it is news.
    pub fn post(&mut self, key: Key, row: Option<Row>) -> bool {
        let old = self.mine.get(&key);
        if old.and_then(|old| old.row.as_ref()) == row.as_ref() {
            return false;
        }
        if let Some(old) = old {
            self.order.remove(&old.version.seq);
            self.taken_back -= usize::from(old.row.is_none());
        }
        self.seq += 1;
        self.taken_back += usize::from(row.is_none());
        self.order.insert(self.seq, key.clone());
        self.mine.insert(key, OwnedRow { version: OwnedVersion { epoch: self.epoch, seq: self.seq }, row });
        while self.taken_back > TAKEN_BACK_MAX {
            self.forget_oldest();
        }
        true
    }

    fn forget_oldest(&mut self) {
        let gone = |(seq, key): (&u64, &Key)| self.mine.get(key)?.row.is_none().then(|| (*seq, key.clone()));
        let Some((seq, key)) = self.order.iter().find_map(gone) else { return };
        self.order.remove(&seq);
        self.mine.remove(&key);
        self.taken_back -= 1;
        self.floor = self.floor.max(seq);
    }

    /// The last write of this node.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.seq
    }

    /// What a peer has to hear next, and what it has heard once it has taken that.
    #[must_use]
    pub fn sheet(&self, heard: Heard) -> (Sheet, Heard) {
        let is_known = heard.upto > 0 && heard.upto <= self.seq && heard.whole >= self.floor;
        let (from, whole) = if is_known { (heard.upto, heard.whole) } else { (0, self.seq) };
        let mut sheet = Sheet { epoch: self.epoch, from, upto: self.seq, lines: Vec::new() };
        let mut bytes = 0;
        for (seq, key) in self.order.range(from + 1..) {
            let Some(row) = self.mine.get(key).map(|owned| &owned.row) else { continue };
            if from == 0 && row.is_none() {
                continue;
            }
            bytes += key.name().len() + row.as_ref().map_or(0, |row| row.bytes.len()) + 32;
            if bytes > SHEET_MAX && !sheet.lines.is_empty() {
                // The next one begins where this one ends; what was taken back before that is not needed by anybody.
                sheet.upto = seq - 1;
                break;
            }
            let row = row.as_ref().map(|row| (row.format, row.bytes.to_vec()));
            sheet.lines.push(Line { key: key.to_bytes(), seq: *seq, row });
        }
        let heard = Heard { upto: sheet.upto, whole: whole.max(sheet.upto) };
        (sheet, heard)
    }

    /// Takes in what an owner said. The second value names the keys that changed.
    ///
    /// # Errors
    /// Says what is wrong with the sheet.
    pub fn take(&mut self, owner: NodeId, sheet: Sheet) -> Result<(Taken, Vec<Key>), BadSheet> {
        let rows = read(&sheet)?;
        let head = self.heads.get(&owner).copied();
        match head {
            // From an earlier life, or told already.
            Some(known) if known >= (sheet.epoch, sheet.upto) && sheet.from > 0 => {
                return Ok((Taken::Known, Vec::new()));
            }
            Some((epoch, _)) if epoch > sheet.epoch => return Ok((Taken::Known, Vec::new())),
            Some(known) if known >= (sheet.epoch, sheet.from) && known.0 == sheet.epoch => {}
            _ if sheet.from == 0 => {}
            Some(_) | None => return Ok((Taken::Missing, Vec::new())),
        }
        let mut changed = Vec::new();
        if sheet.from == 0 {
            changed.extend(self.keys_of(owner));
            self.theirs.drop_owner(owner);
        }
        for (key, row) in rows {
            if self.theirs.merge(owner, key.clone(), row) {
                changed.push(key);
            }
        }
        self.heads.insert(owner, (sheet.epoch, sheet.upto));
        changed.sort_unstable();
        changed.dedup();
        Ok((Taken::Known, changed))
    }

    /// Forgets an owner that is gone; gives the keys that went.
    pub fn drop_owner(&mut self, owner: NodeId) -> Vec<Key> {
        let keys = self.keys_of(owner);
        self.theirs.drop_owner(owner);
        self.heads.remove(&owner);
        keys
    }

    fn keys_of(&self, owner: NodeId) -> Vec<Key> {
        self.theirs.of(owner).map(|(key, _)| key.clone()).collect()
    }

    /// A row of another node.
    #[must_use]
    pub fn get(&self, owner: NodeId, key: &Key) -> Option<&Row> {
        self.theirs.get(owner, key)
    }
}

/// Checks everything before anything is taken in.
fn read(sheet: &Sheet) -> Result<Vec<(Key, OwnedRow)>, BadSheet> {
    let mut last = sheet.from;
    let mut rows = Vec::with_capacity(sheet.lines.len());
    for line in &sheet.lines {
        let key = Key::from_bytes(&line.key).map_err(|_| BadSheet::Key)?;
        let length = line.row.as_ref().map_or(0, |(_, bytes)| bytes.len());
        if length > ROW_MAX {
            return Err(BadSheet::TooLong(length));
        }
        if line.seq <= last || line.seq > sheet.upto {
            return Err(BadSheet::Order);
        }
        last = line.seq;
        let version = OwnedVersion { epoch: sheet.epoch, seq: line.seq };
        let row = line.row.as_ref().map(|(format, bytes)| Row { format: *format, bytes: bytes.clone().into() });
        rows.push((key, OwnedRow { version, row }));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crdt::row::Kind;

    const OWNER: NodeId = NodeId(7);

    fn all(owner: &Bulletin) -> Sheet {
        owner.sheet(Heard::default()).0
    }

    fn after(owner: &Bulletin, upto: u64) -> Sheet {
        owner.sheet(Heard { upto, whole: upto }).0
    }

    fn key(name: &str) -> Key {
        Key::new(Kind(9), name).expect("a key")
    }

    fn row(text: &str) -> Option<Row> {
        Some(Row { format: 1, bytes: text.as_bytes().into() })
    }

    fn text(reader: &Bulletin, name: &str) -> Option<String> {
        reader.get(OWNER, &key(name)).map(|row| String::from_utf8_lossy(&row.bytes).into_owned())
    }

    #[test]
    fn a_reader_that_heard_everything_needs_only_what_changed_since() {
        let (mut owner, mut reader) = (Bulletin::new(1), Bulletin::new(1));
        assert!(owner.post(key("a"), row("1")) && owner.post(key("b"), row("1")) && !owner.post(key("b"), row("1")));
        assert_eq!(reader.take(OWNER, all(&owner)), Ok((Taken::Known, vec![key("a"), key("b")])));
        assert!(owner.post(key("a"), None) && owner.post(key("b"), row("2")));
        let sheet = after(&owner, 2);
        assert_eq!((sheet.from, sheet.upto, sheet.lines.len()), (2, 4, 2));
        assert_eq!(reader.take(OWNER, sheet.clone()), Ok((Taken::Known, vec![key("a"), key("b")])));
        assert_eq!((text(&reader, "a"), text(&reader, "b").as_deref()), (None, Some("2")));
        assert_eq!(reader.take(OWNER, sheet), Ok((Taken::Known, Vec::new())));
    }

    #[test]
    fn who_missed_something_says_so_and_gets_everything() {
        let (mut owner, mut reader) = (Bulletin::new(1), Bulletin::new(1));
        owner.post(key("a"), row("1"));
        owner.post(key("b"), row("1"));
        assert_eq!(reader.take(OWNER, after(&owner, 1)), Ok((Taken::Missing, Vec::new())));
        assert_eq!(reader.take(OWNER, all(&owner)).map(|(taken, _)| taken), Ok(Taken::Known));
        // The owner begins anew, and so does its counting.
        let mut again = Bulletin::new(2);
        again.post(key("b"), row("9"));
        assert_eq!(reader.take(OWNER, all(&again)), Ok((Taken::Known, vec![key("a"), key("b")])));
        assert_eq!((text(&reader, "a"), text(&reader, "b").as_deref()), (None, Some("9")));
        assert_eq!(reader.take(OWNER, all(&owner)), Ok((Taken::Known, Vec::new())), "of an earlier life");
        assert_eq!(text(&reader, "b").as_deref(), Some("9"));
        assert_eq!(reader.drop_owner(OWNER), [key("b")]);
        assert_eq!(reader.take(OWNER, after(&again, 1)).map(|(taken, _)| taken), Ok(Taken::Missing));
    }

    #[test]
    fn rows_that_do_not_fit_into_one_sheet_go_in_several() {
        let (mut owner, mut reader) = (Bulletin::new(1), Bulletin::new(1));
        for number in 0..40 {
            owner.post(key(&format!("k{number}")), row(&"x".repeat(60_000)));
        }
        // Something was forgotten after most of it was written: that must not make it begin again for ever.
        for number in 0..=TAKEN_BACK_MAX {
            owner.post(key(&format!("gone{number}")), row("1"));
            owner.post(key(&format!("gone{number}")), None);
        }
        let mut heard = Heard::default();
        let mut sheets = 0;
        while !heard.is_all(owner.head()) {
            let (sheet, after) = owner.sheet(heard);
            heard = after;
            assert_eq!(reader.take(OWNER, sheet).map(|(taken, _)| taken), Ok(Taken::Known));
            sheets += 1;
        }
        assert_eq!(sheets, 3);
        assert!((0..40).all(|number| text(&reader, &format!("k{number}")).is_some()));
    }

    #[test]
    fn what_was_taken_back_is_forgotten_within_a_bound_and_still_heard_of() {
        let (mut owner, mut reader) = (Bulletin::new(1), Bulletin::new(1));
        owner.post(key("stays"), row("1"));
        owner.post(key("first"), row("1"));
        let known = owner.head();
        assert!(reader.take(OWNER, all(&owner)).is_ok());
        owner.post(key("first"), None);
        for number in 0..TAKEN_BACK_MAX + 5 {
            owner.post(key(&format!("k{number}")), row("1"));
            owner.post(key(&format!("k{number}")), None);
        }
        assert!(owner.mine.len() <= TAKEN_BACK_MAX + 2);
        let sheet = after(&owner, known);
        assert_eq!(sheet.from, 0);
        assert!(reader.take(OWNER, sheet).is_ok());
        assert_eq!((text(&reader, "first"), text(&reader, "stays").as_deref()), (None, Some("1")));
    }

    #[test]
    fn a_sheet_that_lies_is_refused_whole() {
        let mut owner = Bulletin::new(1);
        owner.post(key("a"), row("1"));
        owner.post(key("b"), row("1"));
        let good = all(&owner);
        let mut reader = Bulletin::new(1);
        let with = |change: &dyn Fn(&mut Sheet)| {
            let mut sheet = good.clone();
            change(&mut sheet);
            sheet
        };
        let cases = [
            (with(&|sheet| sheet.lines.swap(0, 1)), BadSheet::Order),
            (with(&|sheet| sheet.upto = 1), BadSheet::Order),
            (with(&|sheet| sheet.lines[1].key.clear()), BadSheet::Key),
            (with(&|sheet| sheet.lines[1].row = Some((1, vec![0; ROW_MAX + 1]))), BadSheet::TooLong(ROW_MAX + 1)),
        ];
        for (sheet, error) in cases {
            assert_eq!(reader.take(OWNER, sheet), Err(error));
            assert_eq!(text(&reader, "a"), None);
        }
    }

    proptest! {
        #[test]
        fn whatever_is_lost_or_said_twice_a_reader_ends_with_the_rows_of_the_owner(
            steps in proptest::collection::vec((0..5_u8, any::<bool>(), 0..4_u8), 1..60),
        ) {
            let (mut owner, mut reader, mut heard) = (Bulletin::new(1), Bulletin::new(1), Heard::default());
            let tell = |owner: &Bulletin, reader: &mut Bulletin, heard: &mut Heard, is_lost: bool| {
                let (sheet, after) = owner.sheet(*heard);
                match reader.take(OWNER, sheet) {
                    // It arrived and the answer did not.
                    Ok(_) if is_lost => {}
                    Ok((Taken::Known, _)) => *heard = after,
                    Ok((Taken::Missing, _)) => *heard = Heard::default(),
                    Err(error) => panic!("{error}"),
                }
            };
            for (name, is_there, event) in steps {
                owner.post(key(&name.to_string()), is_there.then(|| row(&format!("{}", owner.head()))).flatten());
                match event {
                    0 => tell(&owner, &mut reader, &mut heard, false),
                    1 => tell(&owner, &mut reader, &mut heard, true),
                    2 => drop(reader.drop_owner(OWNER)),
                    _ => {}
                }
            }
            tell(&owner, &mut reader, &mut heard, false);
            tell(&owner, &mut reader, &mut heard, false);
            for name in 0..5_u8 {
                let key = key(&name.to_string());
                let said = owner.mine.get(&key).and_then(|owned| owned.row.as_ref());
                prop_assert_eq!(reader.get(OWNER, &key), said);
            }
        }
    }
}

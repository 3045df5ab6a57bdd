//! A disk that keeps what was committed, may refuse for a while, and knows when a value came back that had gone.

use std::collections::{BTreeMap, BTreeSet};

use maelstrom::crdt::{Change, Dot, Hlc, Key, Register, Saved};

/// What one host has made durable.
#[derive(Debug, Default, Clone)]
pub struct Disk {
    pub rows: BTreeMap<Key, Register>,
    pub hlc: Hlc,
    pub note: Vec<u8>,
    pub refuses: bool,
    /// Values that were here and went.
    buried: BTreeSet<(Key, Dot)>,
}

impl Disk {
    /// Makes all of it durable or refuses. An error names a value that came back.
    pub fn commit(
        &mut self,
        changes: &[Change],
        forgotten: &[Key],
        hlc: Hlc,
        saved: Option<&Saved>,
    ) -> Result<bool, String> {
        if self.refuses {
            return Ok(false);
        }
        if hlc < self.hlc {
            return Err("the clock went back".to_owned());
        }
        self.hlc = hlc;
        if let Some(saved) = saved {
            self.note = saved.encode();
        }
        for key in forgotten {
            if let Some(old) = self.rows.remove(key) {
                self.bury(key, &old, None);
            }
        }
        for Change { key, encoded } in changes {
            let register = Register::decode(encoded).map_err(|error| format!("{key} was committed as {error}"))?;
            let back = register
                .siblings()
                .iter()
                .find(|value| value.row.is_some() && self.buried.contains(&(key.clone(), value.dot)));
            if let Some(back) = back {
                return Err(format!("{key} {:?} came back on a disk", back.dot));
            }
            if let Some(old) = self.rows.insert(key.clone(), register.clone()) {
                self.bury(key, &old, Some(&register));
            }
        }
        Ok(true)
    }

    fn bury(&mut self, key: &Key, old: &Register, new: Option<&Register>) {
        for value in old.siblings() {
            if !new.is_some_and(|new| new.has(value.dot)) {
                self.buried.insert((key.clone(), value.dot));
            }
        }
    }

    pub fn saved(&self) -> Saved {
        if self.note.is_empty() { Saved::default() } else { Saved::decode(&self.note).expect("our own note") }
    }

    /// Whether a write is on this disk, or known here to have been overwritten.
    pub fn knows(&self, key: &Key, dot: Dot) -> bool {
        let by_row = self.rows.get(key).is_some_and(|register| register.latest_of(dot.by) >= dot.at);
        by_row || self.saved().context.covers(dot)
    }
}

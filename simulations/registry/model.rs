//! What must be true in the end: every write that became durable, and what its writer had seen.

use std::collections::{BTreeMap, BTreeSet};

use maelstrom::crdt::{Dot, Key, Register, Registry};

#[derive(Debug, Clone)]
struct Write {
    seen: BTreeSet<Dot>,
    is_put: bool,
    /// A disk has it. Without, it may turn up or not.
    is_certain: bool,
}

/// All writes of a world.
#[derive(Debug, Default)]
pub struct Model(BTreeMap<Key, BTreeMap<Dot, Write>>);

impl Model {
    /// What a writer of a key sees.
    pub fn seen(&self, key: &Key, before: Option<&Register>) -> BTreeSet<Dot> {
        let mut seen = BTreeSet::new();
        for value in before.map(Register::siblings).unwrap_or_default() {
            seen.insert(value.dot);
            if let Some(write) = self.0.get(key).and_then(|writes| writes.get(&value.dot)) {
                seen.extend(&write.seen);
            }
        }
        seen
    }

    /// A write is durable.
    pub fn write(&mut self, key: &Key, dot: Dot, seen: BTreeSet<Dot>, is_put: bool) -> Result<(), String> {
        let write = Write { seen, is_put, is_certain: true };
        match self.0.entry(key.clone()).or_default().insert(dot, write) {
            None => Ok(()),
            Some(_) => Err(format!("{key}: {dot:?} was given twice")),
        }
    }

    /// A disk is gone: what no other has is no longer certain.
    pub fn lost_disk(&mut self, is_known: impl Fn(&Key, Dot) -> bool) {
        for (key, writes) in &mut self.0 {
            for (dot, write) in writes {
                write.is_certain &= is_known(key, *dot);
            }
        }
    }

    /// The writes that were there at the same time and none of which had seen another.
    pub fn check(&self, registry: &Registry) -> Result<(), String> {
        for (key, writes) in &self.0 {
            let values = registry.register(key).map(Register::siblings).unwrap_or_default();
            for value in values.iter().filter(|value| value.row.is_some()) {
                if !writes.contains_key(&value.dot) {
                    return Err(format!("{key}: nobody wrote {:?}", value.dot));
                }
                let by = writes.iter().find(|(_, write)| write.is_certain && write.seen.contains(&value.dot));
                if let Some((by, write)) = by {
                    let what = if write.is_put { "overwritten" } else { "deleted" };
                    return Err(format!("{key}: {:?} came back; it was {what} by {by:?}", value.dot));
                }
            }
            for (dot, write) in writes.iter().filter(|(_, write)| write.is_certain && write.is_put) {
                let is_over = writes.values().any(|other| other.seen.contains(dot));
                if !is_over && !values.iter().any(|value| value.dot == *dot) {
                    return Err(format!("{key}: {dot:?} was lost; seen {:?}, found {values:?}", write.seen));
                }
            }
        }
        Ok(())
    }
}

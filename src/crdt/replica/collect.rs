//! Forgetting deletes. A delete is kept for those who still have what it deleted; it may go when our context says of
//! every write in its clock that we have seen it, for then an older copy is known as old without it.

use crate::crdt::replica::{Collect, Replica};
use crate::crdt::row::Key;
use crate::crdt::tree::Place;

/// How many keys are forgotten at a time, so that one commit stays short; the rest go in the next round.
const AT_ONCE: usize = 10_000;

impl Replica {
    pub(super) fn collect(&mut self) {
        let age = u64::try_from(self.options.tombstone_age.as_millis()).unwrap_or(u64::MAX);
        let before = self.now.wall.0.saturating_sub(age);
        let is_proven = self.options.collect == Collect::Proven;
        let context = self.registry.context();
        let ripe = self.registry.registers().filter(|(_, register)| {
            register.is_tombstone()
                && register.latest().wall().0 <= before
                && (!is_proven || register.is_covered(context))
        });
        let ripe: Vec<Key> = ripe.take(AT_ONCE).map(|(key, _)| key.clone()).collect();
        for key in ripe {
            if self.registry.forget(&key) {
                self.stats.collected += 1;
                self.dirty.remove(&Place::from(key.clone()));
                self.forgotten.insert(key);
                self.is_save_due = true;
            }
        }
    }
}

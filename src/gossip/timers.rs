//! foca's timers in the order in which they must fire.
//!
//! Two that are due at one moment fire in foca's own order (an indirect probe before the next round), then first in,
//! first out, so that one seed replays exactly.

use std::collections::BTreeMap;

use foca::Timer;

use super::Peer;
use crate::time::Mono;

#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeMap<(Mono, u8, u64), Timer<Peer>>,
    next: u64,
}

impl Timers {
    pub(super) fn add(&mut self, due: Mono, timer: Timer<Peer>) {
        let rank = match timer {
            Timer::SendIndirectProbe { .. } => 0,
            Timer::ProbeRandomMember(_) => 1,
            Timer::ChangeSuspectToDown { .. } => 2,
            Timer::PeriodicAnnounce(_) => 3,
            Timer::PeriodicGossip(_) => 4,
            Timer::RemoveDown(_) => 5,
            Timer::PeriodicAnnounceDown(_) => 6,
        };
        self.queue.insert((due, rank, self.next), timer);
        self.next += 1;
    }

    pub(super) fn next(&self) -> Option<Mono> {
        self.queue.first_key_value().map(|((due, ..), _)| *due)
    }

    /// The first that is due.
    pub(super) fn pop(&mut self, now: Mono) -> Option<Timer<Peer>> {
        let entry = self.queue.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }
}

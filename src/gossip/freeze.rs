//! Whether so many members vanished at once that it is likelier to be us or the network.
//!
//! Knows only counts. While frozen, placement stands still and routing goes on; both are the node's doing.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Mono;

#[derive(Debug, Default)]
pub(super) struct Freeze {
    losses: VecDeque<Mono>,
    /// How many there were before, and until when that is waited for.
    frozen: Option<(usize, Mono)>,
}

impl Freeze {
    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    pub(super) fn due(&self) -> Option<Mono> {
        self.frozen.map(|(_, until)| until)
    }

    /// One more went down, `alive` (us included) are left. True if this freezes. A single loss never does: in a
    /// cluster of two it is half of all, and the most ordinary of failures.
    pub(super) fn lost(&mut self, alive: usize, window: Duration, max: Duration, now: Mono) -> bool {
        while self.losses.front().is_some_and(|at| now.since(*at) > window) {
            self.losses.pop_front();
        }
        self.losses.push_back(now);
        let lost = self.losses.len();
        let before = alive + lost;
        if lost < 2 || lost * 3 <= before {
            return false;
        }
        let was = self.frozen.map_or(0, |(before, _)| before);
        let fresh = self.frozen.is_none();
        self.frozen = Some((before.max(was), now.after(max)));
        fresh
    }

    /// True if this ends the freeze: enough are back, or it lasted too long.
    pub(super) fn thaws(&mut self, alive: usize, now: Mono) -> bool {
        let over = self.frozen.is_some_and(|(before, until)| now >= until || alive * 3 >= before * 2);
        if over {
            self.frozen = None;
            self.losses.clear();
        }
        over
    }
}

//! The numbers that replication runs by, each with its reason.

use std::time::Duration;

use crate::rng::Rng;

/// When a delete may be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collect {
    /// When everything up to it has provably been seen here, so that no older copy can come in again.
    Proven,
    /// By age alone, as systems with a grace period do. A node that was away for longer brings deleted rows back. For
    /// measuring what the proof is worth.
    ByAge,
}

/// The numbers that replication runs by.
#[derive(Debug, Clone)]
pub struct Options {
    /// The shortest time between two comparisons with a random peer. With [`Options::compare_max`] each node sends one
    /// frame of about 25 bytes every 7.5 s and answers one: some 30 B/s on the wire of the 350 that a node may cost.
    pub compare_min: Duration,
    /// The longest.
    pub compare_max: Duration,
    /// The wait before a second fetch from a peer that still differs; doubles each time. A tenth of a second is about
    /// what a push, a commit and a relay take when the disk is slow.
    pub retry_min: Duration,
    /// What the wait grows to while fetches bring something: under constant writes there is always something.
    pub retry_busy: Duration,
    /// What it grows to while they bring nothing: a peer whose rows cannot be read here is asked twice a minute.
    pub retry_max: Duration,
    /// A fetch in which nothing arrives for so long is given up. A chunk takes tens of milliseconds, a disk that hangs
    /// some seconds.
    pub stall: Duration,
    /// How many bytes of rows an answer has at most, the last row apart. Each answer is one commit for the asker; at a
    /// few milliseconds for each, 30 MB in chunks of 1 MiB take a fraction of a second.
    pub chunk: usize,
    /// How many requests of a fetch are under way at a time: enough to keep sender, wire and disk busy, and 4 MiB at
    /// most in flight.
    pub window: usize,
    /// How many bytes of rows a push has at most, the last row apart: small enough to share a connection with probes.
    pub push_frame: usize,
    /// Up to how many members an origin sends to all itself: one hop is fastest, and 32 copies of a row are nothing.
    pub flat: usize,
    /// How many children a relay has above that: 1,000 members in four hops, 73 in two.
    pub fan_out: usize,
    /// How many bytes may wait to be sent. The shell drains at once, so only a burst or a disk that stands still gets
    /// here; eight full windows.
    pub queue: usize,
    /// How old a delete is at least when it is forgotten. Not needed for safety: for an hour a put after a delete is
    /// seen as its successor by all, not as a conflict by those who still have the delete.
    pub tombstone_age: Duration,
    /// How often deletes to forget are looked for: one walk over all rows, a few milliseconds at 100,000.
    pub collect_every: Duration,
    /// The rule for forgetting.
    pub collect: Collect,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            compare_min: Duration::from_secs(5),
            compare_max: Duration::from_secs(10),
            retry_min: Duration::from_millis(100),
            retry_busy: Duration::from_secs(1),
            retry_max: Duration::from_secs(30),
            stall: Duration::from_secs(3),
            chunk: 1 << 20,
            window: 4,
            push_frame: 256 << 10,
            flat: 32,
            fan_out: 8,
            queue: 32 << 20,
            tombstone_age: Duration::from_secs(3600),
            collect_every: Duration::from_secs(60),
            collect: Collect::Proven,
        }
    }
}

impl Options {
    pub(super) fn between_compares(&self, rng: &mut Rng) -> Duration {
        self.compare_min + jitter(self.compare_max.saturating_sub(self.compare_min), rng)
    }

    /// The wait before the next fetch from a peer, after `step` that did not end in equality.
    pub(super) fn retry(&self, step: u32, is_useful: bool, rng: &mut Rng) -> Duration {
        let longest = if is_useful { self.retry_busy } else { self.retry_max };
        let wait = self.retry_min.saturating_mul(1 << step.min(16)).min(longest);
        wait / 2 + jitter(wait, rng)
    }
}

/// Any time up to `most`.
pub(super) fn jitter(most: Duration, rng: &mut Rng) -> Duration {
    Duration::from_nanos(rng.below(u64::try_from(most.as_nanos()).unwrap_or(u64::MAX).saturating_add(1)))
}

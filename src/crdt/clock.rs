//! The hybrid logical clock: wall time where it can be trusted, a count where it cannot, one order everywhere.
//!
//! Reads no clock: wall time is an argument. Knows nothing of rows.

use std::fmt;
use std::time::Duration;

use crate::time::Wall;

/// How far ahead of our wall clock a remote time may be and still move our clock, in time. Machines with NTP are within
/// tens of milliseconds; ten times that leaves room for a bad day, and half a second of order is all that can be lost.
pub const MAX_AHEAD: Duration = Duration::from_millis(500);

/// [`MAX_AHEAD`] in milliseconds.
const MAX_AHEAD_MS: u64 = MAX_AHEAD.as_millis() as u64;

/// How many bits of an [`Hlc`] count within one millisecond. 48 bits of milliseconds last until the year 10889.
const COUNTER_BITS: u32 = 16;

/// The latest millisecond that fits.
const MS_MAX: u64 = u64::MAX >> COUNTER_BITS;

/// A moment of a hybrid logical clock: 48 bits of milliseconds since 1970 UTC, 16 bits of counter. Ordered like the
/// number that it is. Zero stands for "never".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The first moment of a millisecond; later than the end of time becomes the end of time.
    #[must_use]
    pub fn from_wall(wall: Wall) -> Self {
        Self(wall.0.min(MS_MAX) << COUNTER_BITS)
    }

    /// The millisecond it lies in.
    #[must_use]
    pub fn wall(self) -> Wall {
        Wall(self.0 >> COUNTER_BITS)
    }

    /// How far it is ahead of a wall clock, in milliseconds; zero if it is not.
    #[must_use]
    pub fn ahead_ms(self, now: Wall) -> u64 {
        self.wall().0.saturating_sub(now.0)
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.wall().0, self.0 & ((1 << COUNTER_BITS) - 1))
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A remote time is too far in the future; our clock did not move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the time is {ahead_ms} ms ahead of this node's clock; allowed are {MAX_AHEAD_MS} ms")]
pub struct Ahead {
    /// How far, in milliseconds.
    pub ahead_ms: u64,
    /// When our own clock will be near enough.
    pub due: Wall,
}

/// The clock of one node.
///
/// Invariant: never goes back and never gives the same moment twice, also over a restart if it is started with the last
/// moment that the node made durable.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    last: Hlc,
}

impl Clock {
    /// A clock that goes on after `high_water`, the greatest moment known to have been given.
    #[must_use]
    pub fn new(high_water: Hlc) -> Self {
        Self { last: high_water }
    }

    /// The greatest moment given or observed so far: what to make durable.
    #[must_use]
    pub fn last(&self) -> Hlc {
        self.last
    }

    /// A new moment, later than all before. If more than 65,536 fall into one millisecond, it runs into the next.
    pub fn tick(&mut self, now: Wall) -> Hlc {
        self.last = Hlc(self.last.0.saturating_add(1)).max(Hlc::from_wall(now));
        self.last
    }

    /// Learns of a remote moment, so that what is written here next is later.
    ///
    /// # Errors
    /// [`Ahead`] if it is more than [`MAX_AHEAD`] ahead of `now`: one broken clock would otherwise drag all others, and
    /// its rows would win for as long as it is wrong. The clock did not move. A moment that our own clock has passed
    /// already is always taken: it cannot move us.
    pub fn observe(&mut self, remote: Hlc, now: Wall) -> Result<(), Ahead> {
        let ahead_ms = remote.ahead_ms(now);
        if remote > self.last && ahead_ms > MAX_AHEAD_MS {
            return Err(Ahead { ahead_ms, due: Wall(remote.wall().0 - MAX_AHEAD_MS) });
        }
        self.restore(remote);
        Ok(())
    }

    /// Takes over a moment that is known to be ours or durable here already, however far ahead it is.
    pub fn restore(&mut self, known: Hlc) {
        self.last = self.last.max(known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_goes_back_when_the_wall_clock_does() {
        let mut clock = Clock::default();
        let first = clock.tick(Wall(1000));
        let second = clock.tick(Wall(1));
        assert_eq!((first.to_string(), second.to_string()), ("1000.0".to_owned(), "1000.1".to_owned()));
    }

    #[test]
    fn it_goes_on_after_the_moment_that_was_made_durable() {
        let mut clock = Clock::new(Hlc::from_wall(Wall(5000)));
        assert!(clock.tick(Wall(10)) > Hlc::from_wall(Wall(5000)));
    }

    #[test]
    fn a_counter_that_overflows_rolls_into_the_next_millisecond() {
        let mut clock = Clock::new(Hlc((7 << 16) | 0xffff));
        assert_eq!(clock.tick(Wall(7)).to_string(), "8.0");
    }

    #[test]
    fn what_is_written_after_a_remote_write_was_seen_is_later() {
        let mut clock = Clock::default();
        let remote = Hlc::from_wall(Wall(1500));
        assert_eq!(clock.observe(remote, Wall(1000)), Ok(()));
        assert!(clock.tick(Wall(1000)) > remote);
    }

    #[test]
    fn a_time_too_far_ahead_is_refused_and_does_not_move_the_clock() {
        let mut clock = Clock::default();
        let remote = Hlc::from_wall(Wall(1501));
        assert_eq!(clock.observe(remote, Wall(1000)), Err(Ahead { ahead_ms: 501, due: Wall(1001) }));
        assert_eq!(clock.last(), Hlc::default());
        assert_eq!(clock.observe(Hlc(u64::MAX), Wall(1000)).map_err(|ahead| ahead.due), Err(Wall(MS_MAX - 500)));
    }

    #[test]
    fn small_steps_cannot_drag_it_further_than_one_big_one() {
        let mut clock = Clock::default();
        for step in 1..100 {
            let _ = clock.observe(Hlc::from_wall(Wall(1000 + step * 400)), Wall(1000));
        }
        assert!(clock.last().ahead_ms(Wall(1000)) <= 500);
    }

    #[test]
    fn the_end_of_time_is_not_a_panic() {
        let mut clock = Clock::new(Hlc(u64::MAX));
        assert_eq!(clock.tick(Wall(u64::MAX)), Hlc(u64::MAX));
    }
}

//! Time as a value. The cores take a [`Now`] as an argument; no clock is read here.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment on a clock that never steps, in nanoseconds since the process (or the simulated world) began.
/// Meaningless outside the process that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(pub u64);

impl Mono {
    /// The moment `after` later; saturates at the end of time (584 years).
    #[must_use]
    pub fn after(self, after: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero if it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A moment on the wall clock, in milliseconds since 1970 UTC. May step in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Wall(pub u64);

/// Both clocks, read together once per turn of a loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// For measuring and for deadlines.
    pub mono: Mono,
    /// For what people read and for hybrid logical clocks.
    pub wall: Wall,
}

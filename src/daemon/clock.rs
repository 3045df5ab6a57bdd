//! The one place that reads clocks and draws system randomness; everything else is handed values.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::time::{Mono, Now, Wall};

/// The clocks of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "this is where the clock is read")]
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }

    #[expect(clippy::disallowed_methods, reason = "this is where the clock is read")]
    pub(crate) fn mono(&self) -> Mono {
        let elapsed = Instant::now().saturating_duration_since(self.start);
        // One nanosecond ahead: zero means "never" to the cores.
        Mono(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX).saturating_add(1))
    }

    #[expect(clippy::disallowed_methods, reason = "this is where the clock is read")]
    pub(crate) fn wall() -> Wall {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn now(&self) -> Now {
        Now { mono: self.mono(), wall: Self::wall() }
    }

    /// Waits until that moment; for ever if there is none.
    pub(crate) async fn reach(self, moment: Option<Mono>) {
        match moment {
            Some(moment) => tokio::time::sleep_until(self.instant(moment)).await,
            None => std::future::pending().await,
        }
    }

    /// The moment of the runtime's timers that is the same as `moment`.
    pub(crate) fn instant(&self, moment: Mono) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.start + std::time::Duration::from_nanos(moment.0))
    }
}

/// A seed from the system.
///
/// # Errors
/// The system gives no randomness.
pub(crate) fn seed() -> std::io::Result<u64> {
    use std::io::Read as _;
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

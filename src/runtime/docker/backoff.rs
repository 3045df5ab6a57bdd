//! How long to wait before the next try: doubled each time, with jitter, so that the nodes of a rack that lost power
//! together do not ask together.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use crate::rng::Rng;

/// Grows from `first` to `most`.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
    rng: Rng,
}

impl Backoff {
    pub(super) fn new(first: Duration, most: Duration) -> Self {
        // The seed only spreads waits, nothing decides by it, and none is replayed.
        let seed = RandomState::new().hash_one(0);
        Self { first, most, next: first, rng: Rng::from_seed(seed) }
    }

    /// Starts from the beginning.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }

    /// The next wait: between half and all of the current step.
    pub(super) fn next(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.most);
        let half = u64::try_from(step.as_micros() / 2).unwrap_or(u64::MAX);
        Duration::from_micros(half + self.rng.below(half + 1))
    }

    /// Waits that long.
    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.next()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_start_again_after_a_reset() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(400));
        for step in [100, 200, 400, 400] {
            let wait = backoff.next().as_millis();
            assert!((step / 2..=step).contains(&wait), "{wait} ms in step {step}");
        }
        backoff.reset();
        assert!(backoff.next().as_millis() <= 100);
    }
}

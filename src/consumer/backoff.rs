//! How long to wait before something that failed is tried again.
//!
//! Knows nothing of what it was.

use std::time::Duration;

use crate::rng::Rng;

/// The longest wait of a message: the 15 minutes that SQS itself knows as its longest delay.
const MESSAGE_MAX: Duration = Duration::from_secs(15 * 60);

/// First wait of a call that failed: a throttled service is asked again after it, and nobody notices.
const CALL: Duration = Duration::from_millis(200);

/// Longest wait of a call: a third of the shortest lease, so that an extension still comes in time.
const CALL_MAX: Duration = Duration::from_secs(10);

/// The wait of a message that was received this often: `first`, doubled with each receive, up to 15 minutes, and a
/// quarter more or less so that what failed together does not come back together.
pub fn backoff(first: Duration, receives: u32, rng: &mut Rng) -> Duration {
    // 2^16 seconds are far above the cap.
    let doubled = first.saturating_mul(1 << receives.saturating_sub(1).min(16));
    (doubled.min(MESSAGE_MAX) * 3 / 4 + jitter(doubled.min(MESSAGE_MAX) / 2, rng)).min(MESSAGE_MAX)
}

/// The wait of a call that has failed this often before: anything up to twice as much with each failure.
pub(super) fn call(tries: u32, rng: &mut Rng) -> Duration {
    let longest = CALL.saturating_mul(1 << tries.min(8)).min(CALL_MAX);
    longest / 2 + jitter(longest / 2, rng)
}

fn jitter(bound: Duration, rng: &mut Rng) -> Duration {
    Duration::from_nanos(rng.below(u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_waits_twice_as_long_each_time_up_to_a_quarter_of_an_hour() {
        let mut rng = Rng::from_seed(1);
        for (receives, seconds) in [(0, 10), (1, 10), (2, 20), (3, 40), (7, 640), (8, 900), (9, 900), (u32::MAX, 900)] {
            for _ in 0..100 {
                let wait = backoff(Duration::from_secs(10), receives, &mut rng).as_secs_f64();
                let (low, high) = (f64::from(seconds) * 0.75, (f64::from(seconds) * 1.25).min(900.0));
                assert!((low..=high).contains(&wait), "{receives}: {wait}");
            }
        }
    }

    #[test]
    fn a_call_is_never_repeated_at_once_and_never_later_than_a_third_of_a_lease() {
        let mut rng = Rng::from_seed(2);
        for tries in [0, 1, 5, u32::MAX] {
            let wait = call(tries, &mut rng);
            assert!(wait >= CALL / 2 && wait <= CALL_MAX, "{tries}: {wait:?}");
        }
    }
}

//! How many messages the component takes at once: more while it answers well, half as many when it says that it is
//! busy or does not answer in time, and none while it asked for a pause.
//!
//! Knows nothing of queues: all queues of a source share one.

use std::time::Duration;

use super::Outcome;
use super::backoff::call;
use crate::rng::Rng;
use crate::time::Mono;

/// Messages at once at the beginning, if the source allows them: ten receives. Doubled with each round of good answers,
/// so it matters where requests are long; and a component that takes less says so.
const FIRST: u32 = 100;

/// The longest pause that an answer can ask for: the longest that SQS delays a message.
const PAUSE_MAX: Duration = Duration::from_secs(15 * 60);

/// What is counted: millionths of a message, fine enough for one more in a round of the most that there can be.
const PARTS: u64 = 1_000_000;

/// The share of one poller of what a source may do at once.
#[derive(Debug)]
pub struct Throttle {
    most: u32,
    /// In [`PARTS`].
    allowed: u64,
    /// Doubles with each round of good answers until the first bad one.
    is_fast: bool,
    /// When it was cut last: what began before that says nothing new.
    cut: Option<Mono>,
    paused: Option<Mono>,
    /// Rounds in a row that were refused, without a word on how long.
    refused: u32,
    rng: Rng,
}

impl Throttle {
    /// At most this many messages at once.
    pub fn new(most: u32, rng: Rng) -> Self {
        let allowed = u64::from(FIRST.min(most).max(1)) * PARTS;
        Self { most, allowed, is_fast: true, cut: None, paused: None, refused: 0, rng }
    }

    /// The bound has changed.
    pub fn set_most(&mut self, most: u32) {
        self.most = most;
    }

    /// How many messages may be at the component at once; 1 at least, unless the bound is 0.
    pub fn allowed(&self) -> u32 {
        u32::try_from(self.allowed / PARTS).unwrap_or(u32::MAX).max(1).min(self.most)
    }

    /// Nothing is handed over before this.
    pub fn paused(&self) -> Option<Mono> {
        self.paused
    }

    /// The component answered a delivery of `count` messages that began at `begun`. `pause` is what it asked for, and
    /// for [`Outcome::Unserved`] when a new try makes sense.
    pub fn handle(&mut self, now: Mono, begun: Mono, count: u32, outcome: &Outcome, pause: Option<Duration>) {
        let pause = pause.map(|pause| pause.min(PAUSE_MAX));
        let is_new = self.cut.is_none_or(|cut| begun >= cut);
        match outcome {
            Outcome::Done(_) | Outcome::Refused | Outcome::Failed => {
                self.refused = 0;
                self.grow(count);
                if let Some(pause) = pause {
                    self.pause(now, pause);
                }
            }
            Outcome::TimedOut => self.cut(now, is_new),
            Outcome::Busy(_) | Outcome::Unserved => {
                // Each message of a round comes back by itself: one wait for all of them.
                if is_new {
                    let wait = call(self.refused, &mut self.rng);
                    self.refused = self.refused.saturating_add(1);
                    self.pause(now, wait);
                }
                self.cut(now, is_new);
                if let Some(pause) = pause {
                    self.pause(now, pause);
                }
            }
        }
    }

    fn grow(&mut self, count: u32) {
        let most = u64::from(self.most) * PARTS;
        let more = if self.is_fast { PARTS } else { PARTS * PARTS / self.allowed.max(PARTS) };
        self.allowed = (self.allowed + more * u64::from(count)).min(most.max(PARTS));
    }

    fn cut(&mut self, now: Mono, is_new: bool) {
        if is_new {
            self.allowed = (self.allowed.min(u64::from(self.most) * PARTS) / 2).max(PARTS);
            self.cut = Some(now);
            self.is_fast = false;
        }
    }

    fn pause(&mut self, now: Mono, pause: Duration) {
        self.paused = self.paused.max(Some(now.after(pause)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::Report;

    const SECOND: u64 = 1_000_000_000;

    fn throttle(most: u32) -> Throttle {
        Throttle::new(most, Rng::from_seed(3))
    }

    #[test]
    fn it_doubles_until_the_first_bad_answer_and_then_grows_by_one_a_round() {
        let mut throttle = throttle(1000);
        let good = Outcome::Done(Report::Good);
        assert_eq!(throttle.allowed(), 100);
        throttle.handle(Mono(1), Mono(0), 100, &good, None);
        assert_eq!(throttle.allowed(), 200);
        throttle.handle(Mono(2), Mono(1), 1, &Outcome::TimedOut, None);
        assert_eq!(throttle.allowed(), 100);
        for _ in 0..101 {
            throttle.handle(Mono(3), Mono(2), 1, &good, None);
        }
        assert_eq!(throttle.allowed(), 101);
    }

    #[test]
    fn one_round_cuts_once_and_never_below_one() {
        let mut throttle = throttle(16);
        for _ in 0..10 {
            throttle.handle(Mono(5), Mono(1), 1, &Outcome::TimedOut, None);
        }
        assert_eq!(throttle.allowed(), 8, "ten answers to what began before the cut");
        for at in 6..20 {
            throttle.handle(Mono(at), Mono(at), 1, &Outcome::TimedOut, None);
        }
        assert_eq!(throttle.allowed(), 1);
    }

    #[test]
    fn the_longest_pause_that_was_asked_for_holds_and_has_a_bound() {
        let mut throttle = throttle(4);
        let mut busy = |seconds| {
            let pause = Some(Duration::from_secs(seconds));
            throttle.handle(Mono(0), Mono(0), 1, &Outcome::Busy(pause), pause);
            throttle.paused()
        };
        busy(30);
        assert_eq!(busy(5), Some(Mono(30 * SECOND)));
        busy(100_000);
        assert_eq!(throttle.paused(), Some(Mono(900 * SECOND)));
    }

    #[test]
    fn a_good_answer_may_ask_for_a_pause_too() {
        let mut throttle = throttle(4);
        throttle.handle(Mono(0), Mono(0), 1, &Outcome::Done(Report::Good), Some(Duration::from_secs(3)));
        assert_eq!((throttle.allowed(), throttle.paused()), (4, Some(Mono(3 * SECOND))));
    }
}

//! Messages that wait for a call that takes ten of them: until it is full, or the first has waited long enough; and
//! those of a call that failed, which go one by one.
//!
//! Knows nothing of what the call does.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::CALL_MAX;
use crate::time::Mono;

#[derive(Debug)]
pub(super) struct Outbox {
    linger: Duration,
    /// With the moment at which each came.
    line: VecDeque<(Mono, u64)>,
    alone: BTreeSet<(Mono, u64)>,
}

impl Outbox {
    pub(super) fn new(linger: Duration) -> Self {
        Self { linger, line: VecDeque::new(), alone: BTreeSet::new() }
    }

    pub(super) fn push(&mut self, now: Mono, key: u64) {
        self.line.push_back((now, key));
    }

    /// Again, by itself, at `at`.
    pub(super) fn push_alone(&mut self, at: Mono, key: u64) {
        self.alone.insert((at, key));
    }

    pub(super) fn len(&self) -> usize {
        self.line.len() + self.alone.len()
    }

    /// The next call's entries, if it is time; `hurry` does not wait for more.
    pub(super) fn take(&mut self, now: Mono, hurry: bool) -> Option<Vec<u64>> {
        if let Some(first) = self.alone.first().copied().filter(|(at, _)| *at <= now) {
            self.alone.remove(&first);
            return Some(vec![first.1]);
        }
        let (since, _) = self.line.front()?;
        let is_time = hurry || self.line.len() >= CALL_MAX || since.after(self.linger) <= now;
        is_time.then(|| self.line.drain(..self.line.len().min(CALL_MAX)).map(|(_, key)| key).collect())
    }

    pub(super) fn timeout(&self) -> Option<Mono> {
        let line = self.line.front().map(|(since, _)| since.after(self.linger));
        let alone = self.alone.first().map(|(at, _)| *at);
        line.into_iter().chain(alone).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_go_at_once_and_fewer_after_the_linger() {
        let mut outbox = Outbox::new(Duration::from_millis(100));
        for key in 0..12 {
            outbox.push(Mono(key), key);
        }
        assert_eq!(outbox.take(Mono(12), false), Some((0..10).collect()));
        assert_eq!(outbox.take(Mono(12), false), None);
        assert_eq!(outbox.timeout(), Some(Mono(100_000_010)));
        assert_eq!(outbox.take(Mono(100_000_010), false), Some(vec![10, 11]));
    }

    #[test]
    fn what_failed_goes_by_itself_when_its_time_comes() {
        let mut outbox = Outbox::new(Duration::ZERO);
        outbox.push_alone(Mono(5), 1);
        outbox.push_alone(Mono(5), 2);
        assert_eq!(outbox.take(Mono(4), true), None);
        assert_eq!(outbox.take(Mono(5), false), Some(vec![1]));
        assert_eq!(outbox.take(Mono(5), false), Some(vec![2]));
        assert_eq!(outbox.len(), 0);
    }
}

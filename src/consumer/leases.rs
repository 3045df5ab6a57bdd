//! How long messages stay ours. A lease is short, so that a node that dies gives its messages back soon, and is
//! extended for as long as the message is held.
//!
//! Knows nothing of what is done with a message meanwhile.

use std::sync::Arc;
use std::time::Duration;

use super::{CALL_MAX, Call, Consumer, Effect, Fate, Held, State, backoff};
use crate::time::Mono;

/// A message is not ours for longer than this after its receive, whatever is extended: the bound of SQS (12 h), less a
/// minute for our clock and its.
const LONGEST: Duration = Duration::from_secs(12 * 3600 - 60);

/// When a lease is extended, in hundredths of its length: a third of it is left for tries after that, and more.
const EXTEND_AT: u32 = 40;

/// Leases that end this much later share the call, in hundredths of the length.
const TOGETHER: u32 = 10;

/// Less than this is not worth a call.
const SHORTEST: Duration = Duration::from_secs(1);

impl Consumer {
    /// The lease of a message runs until `ends`.
    pub(super) fn renew(&mut self, key: u64, now: Mono, ends: Mono, state: Option<State>) {
        let Some(held) = self.held.get_mut(&key) else { return };
        self.ends.remove(&(held.ends, key));
        if let Some(due) = held.due {
            self.dues.remove(&(due, key));
        }
        held.ends = ends;
        held.state = state.unwrap_or(held.state);
        let due = now.after(ends.since(now) * EXTEND_AT / 100);
        held.due = Some(due);
        self.ends.insert((ends, key));
        self.dues.insert((due, key));
    }

    /// Messages whose lease has ended are not ours.
    pub(super) fn expire(&mut self, now: Mono) {
        while let Some((_, key)) = self.ends.first().copied().filter(|(ends, _)| *ends <= now) {
            self.lose(now, key);
        }
    }

    /// A message is not ours any more. If it is at the component its answer will be ignored; what waits behind it in its
    /// group goes back, because the queue may give it out again first.
    pub(super) fn lose(&mut self, now: Mono, key: u64) {
        let Some(held) = self.held.get_mut(&key) else { return };
        self.ends.remove(&(held.ends, key));
        if let Some(due) = held.due.take() {
            self.dues.remove(&(due, key));
        }
        let (state, message) = (held.state, Arc::clone(&held.message));
        // It was on its way back: where it is now.
        let is_told = !matches!(state, State::Back(_) | State::Lost(_));
        if let State::Running(delivery) = state {
            held.state = State::Lost(delivery);
        } else {
            self.forget(key);
        }
        if is_told {
            self.counters.lease_lost += 1;
            for later in self.lines.take_group(message.group.as_ref()) {
                self.settle(now, later, State::Back(Duration::ZERO));
            }
            self.effects.push_back(Effect::Lost(message));
        }
    }

    /// Extends what is due, and what will be soon with it.
    pub(super) fn extend(&mut self, now: Mono) {
        let soon = now.after(self.options.visibility * TOGETHER / 100);
        while self.dues.first().is_some_and(|(due, _)| *due <= now) {
            let due: Vec<(Mono, u64)> = self.dues.range(..(soon, u64::MAX)).take(CALL_MAX).copied().collect();
            let (mut keys, mut changes) = (Vec::new(), Vec::new());
            for entry in due {
                self.dues.remove(&entry);
                let Some(held) = self.held.get_mut(&entry.1) else { continue };
                held.due = None;
                let length = extension(held, now, self.options.visibility);
                if let Some(length) = length {
                    keys.push(entry.1);
                    changes.push((Arc::clone(&held.receipt), length));
                }
            }
            if !keys.is_empty() {
                let call = self.call(Call::Extend(keys, now, self.options.visibility));
                self.effects.push_back(Effect::Change { call, changes });
            }
        }
    }

    pub(super) fn extended(&mut self, now: Mono, key: u64, fate: Fate, at: Mono, length: Duration) {
        let Some(held) = self.held.get_mut(&key) else { return };
        // A lease that had ended meanwhile, or another receipt that took its place: this answer says nothing of it.
        if matches!(held.state, State::Back(_) | State::Lost(_)) || held.due.is_some() {
            return;
        }
        match fate {
            Fate::Done => {
                let length = length.min(held.since.after(LONGEST).since(at));
                held.tries = 0;
                self.counters.extended += 1;
                self.renew(key, at, at.after(length), None);
            }
            Fate::Gone => self.lose(now, key),
            Fate::Failed => {
                let due = now.after(backoff::call(held.tries, &mut self.rng));
                held.tries += 1;
                held.due = Some(due);
                self.dues.insert((due, key));
            }
        }
    }
}

/// How long the lease is to be from now; none if it is not to be extended.
fn extension(held: &Held, now: Mono, visibility: Duration) -> Option<Duration> {
    if matches!(held.state, State::Back(_) | State::Lost(_)) {
        return None;
    }
    let length = visibility.min(held.since.after(LONGEST).since(now));
    (length >= SHORTEST && now.after(length) > held.ends).then_some(length)
}

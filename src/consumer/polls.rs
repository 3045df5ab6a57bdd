//! Receives: how many at once, for how many messages, and when the next may go.
//!
//! An idle queue is asked by one long poll. While receives come back full, more go at once, and each waits until it can
//! ask for ten; otherwise a busy queue would be asked for every slot that comes free.
//!
//! Knows nothing of messages.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{CALL_MAX, Trouble};
use crate::rng::Rng;
use crate::time::Mono;

/// Receives at once. At 10 ms each (the answer of SQS in its region) 8 of them bring 8,000 messages a second, more than
/// one node hands over.
const AT_ONCE: usize = 8;

/// How long a receive waits until ten slots are free, while the queue is known to have more: as long as deletes do.
const LINGER: Duration = super::LINGER;

/// The wait of a receive beside another one: long enough that SQS asks all its servers, short enough that a queue that
/// ran empty is soon left to one.
const BESIDE: Duration = Duration::from_secs(1);

/// How long receives must have been full, with slots to spare, until another poller is asked for.
const HUNGRY: Duration = Duration::from_secs(5);

/// First and longest wait after a receive that failed. A queue that is missing is asked for twice a minute.
const FAILED: Duration = Duration::from_millis(500);
const FAILED_MAX: Duration = Duration::from_secs(30);

/// How often the same receive is tried again when its answer was lost, and how long: SQS knows the attempt for five
/// minutes.
const SAME: u32 = 5;

/// Whether another poller would help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Receives are full and slots are free.
    More,
    /// As it is.
    Same,
    /// The queue was found empty.
    Fewer,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Poll {
    max: usize,
    wait: Duration,
    /// The call whose answer was lost, and how often it was tried.
    again: Option<(u64, u32)>,
}

#[derive(Debug)]
pub(super) struct Polls {
    fifo: bool,
    pub(super) long: Duration,
    flying: BTreeMap<u64, Poll>,
    /// To be tried again with the same name.
    lost: Vec<Poll>,
    wanted: usize,
    /// Whether the last receive brought all that was asked for.
    pub(super) was_full: bool,
    /// When the last one went.
    pub(super) last: Mono,
    lingers: Option<Mono>,
    fails: u32,
    not_before: Option<Mono>,
    hungry: Option<Mono>,
    was_empty: bool,
    /// Until then one message at a time.
    careful: Option<Mono>,
}

impl Polls {
    pub(super) fn new(fifo: bool, long: Duration) -> Self {
        Self {
            fifo,
            long,
            flying: BTreeMap::new(),
            lost: Vec::new(),
            wanted: 1,
            was_full: false,
            last: Mono::default(),
            lingers: None,
            fails: 0,
            not_before: None,
            hungry: None,
            was_empty: false,
            careful: None,
        }
    }

    /// A message of a FIFO queue failed. A receive would bring it together with those behind it, which cannot run until
    /// it did; each time that would cost them a receive, until they are dead letters that nobody ever saw. So until it
    /// has come back, each receive asks for one message: more of them at once instead.
    pub(super) fn be_careful(&mut self, until: Mono) {
        self.careful = self.careful.max(Some(until));
    }

    /// Messages that were asked for.
    pub(super) fn asked(&self) -> usize {
        self.flying.values().chain(&self.lost).map(|poll| poll.max).sum()
    }

    /// Whether no answer is awaited.
    pub(super) fn is_quiet(&self) -> bool {
        self.flying.is_empty()
    }

    /// The next receive, if it may go.
    pub(super) fn next(&mut self, now: Mono, free: usize, limit: usize) -> Option<Poll> {
        self.not_before = self.not_before.filter(|at| now < *at);
        if self.not_before.is_some() || self.flying.len() >= self.wanted {
            self.lingers = None;
            return None;
        }
        if let Some(poll) = self.lost.pop() {
            return Some(poll);
        }
        self.careful = self.careful.filter(|until| now < *until);
        let max = free.min(if self.careful.is_some() { 1 } else { CALL_MAX });
        if max == 0 {
            self.lingers = None;
            return None;
        }
        if self.was_full
            && self.careful.is_none()
            && max < limit.min(CALL_MAX)
            && now < self.lingers.get_or_insert(now).after(LINGER)
        {
            return None;
        }
        self.lingers = None;
        let wait = if self.flying.is_empty() { self.long } else { self.long.min(BESIDE) };
        Some(Poll { max, wait, again: None })
    }

    /// It goes, as this call. Gives its size, its wait, and the name by which it may be repeated.
    pub(super) fn begin(&mut self, now: Mono, call: u64, poll: Poll) -> (usize, Duration, u64) {
        self.last = now;
        let attempt = poll.again.map_or(call, |(attempt, _)| attempt);
        self.flying.insert(call, Poll { again: Some((attempt, poll.again.map_or(0, |(_, tries)| tries))), ..poll });
        (poll.max, poll.wait, attempt)
    }

    /// `free` were free while it was under way.
    pub(super) fn answered(&mut self, now: Mono, call: u64, count: usize, free: usize, limit: usize) {
        let Some(poll) = self.flying.remove(&call) else { return };
        (self.fails, self.not_before) = (0, None);
        self.was_full = count >= poll.max;
        self.was_empty = count == 0;
        let each = if self.careful.is_some() { 1 } else { CALL_MAX };
        let is_at_most = self.wanted >= AT_ONCE.min(limit.div_ceil(each));
        if self.was_full {
            let hungry = is_at_most && free >= CALL_MAX;
            self.hungry = if hungry { self.hungry.or(Some(now)) } else { None };
            self.wanted += usize::from(!is_at_most);
        } else {
            self.hungry = None;
            if count * 2 < poll.max {
                self.wanted = (self.wanted / 2).max(1);
            }
        }
    }

    pub(super) fn failed(&mut self, now: Mono, call: u64, trouble: Trouble, rng: &mut Rng) {
        let Some(poll) = self.flying.remove(&call) else { return };
        let longest = FAILED.saturating_mul(1 << self.fails.min(8)).min(FAILED_MAX);
        let jitter = rng.below(u64::try_from(longest.as_nanos() / 2).unwrap_or(0));
        self.not_before = Some(now.after(longest / 2 + Duration::from_nanos(jitter)));
        self.fails += 1;
        (self.wanted, self.was_full, self.hungry) = (1, false, None);
        let (attempt, tries) = poll.again.unwrap_or((call, 0));
        if self.fifo && (trouble == Trouble::Unanswered || tries > 0) && tries < SAME {
            self.lost.push(Poll { again: Some((attempt, tries + 1)), ..poll });
        }
    }

    pub(super) fn timeout(&self) -> Option<Mono> {
        self.not_before.or_else(|| Some(self.lingers?.after(LINGER)))
    }

    pub(super) fn need(&self, now: Mono) -> Need {
        match self.hungry {
            Some(since) if now.since(since) >= HUNGRY => Need::More,
            None if self.was_empty => Need::Fewer,
            Some(_) | None => Need::Same,
        }
    }
}

//! One poller of one queue: when to receive and how much, what to hand to the component, how long messages stay ours,
//! and when they are deleted or put back.
//!
//! A state machine without IO. Facts and a time go in through `handle_*` and `set_*`, [`Effect`]s come out, and
//! [`Consumer::poll_timeout`] says when to call again. Knows nothing of HTTP, of the SDK or of other pollers.
//!
//! Invariants: nothing is received that could not start now; a message is deleted only after its success, and put back
//! at most once; of a FIFO group one delivery is under way at a time, and none while an earlier message of the group is
//! neither deleted nor back on the queue; a message whose lease was lost is neither deleted nor put back.

mod answer;
mod backoff;
mod budget;
mod leases;
mod lines;
mod message;
mod outbox;
mod polls;
#[cfg(test)]
mod tests;
mod throttle;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use answer::{Outcome, Report, read as read_answer};
pub use backoff::backoff;
pub use budget::{Use, divide};
pub use message::{Attribute, Message};
pub use polls::Need;
pub use throttle::Throttle;

use crate::rng::Rng;
use crate::time::Mono;
use lines::Lines;
use outbox::Outbox;
use polls::Polls;

/// Entries of one delete or visibility call at most: the bound of SQS.
const CALL_MAX: usize = 10;

/// How long a delete waits for others to share its call: a tenth of a second is nothing against a lease, and at more
/// than 100 messages a second calls are full before it.
const LINGER: Duration = Duration::from_millis(100);

/// Tries of a release: what is not put back by then comes back when its lease ends, within seconds.
const RELEASES: u32 = 3;

/// A message that was received this often goes alone: if it failed twice with a batch, it is its turn to show whether
/// it is the one that poisons it. Known from the queue's own count, so that it holds on every node and after restarts.
const ALONE: u32 = 3;

/// Settings of one poller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Whether the queue keeps groups in order.
    pub fifo: bool,
    /// Messages per delivery at most.
    pub batch: usize,
    /// How long a delivery that is not full waits for more messages; not for FIFO queues.
    pub window: Duration,
    /// The length of a lease; it is extended for as long as a message is held.
    pub visibility: Duration,
    /// The longest wait of a receive.
    pub long_poll: Duration,
    /// The wait before a message that failed for the first time comes back; doubles with each receive.
    pub backoff: Duration,
    /// Whether messages that the component refuses (400 and the like) go to the dead-letter queue at once.
    pub buries: bool,
}

/// What has to be done. Every call is answered by a fact with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Receive; never cut off. [`Consumer::handle_received`] answers.
    Receive {
        /// Its number.
        call: u64,
        /// Messages at most, 1 to 10.
        max: usize,
        /// How long the queue may wait for one.
        wait: Duration,
        /// The same again if the answer of the call with this number was lost.
        attempt: u64,
    },
    /// Hand these to the component, in this order. [`Consumer::handle_answered`] answers.
    Deliver {
        /// Its number.
        delivery: u64,
        /// One, or a batch; of one group if the queue is FIFO.
        messages: Vec<Arc<Message>>,
    },
    /// Break off a delivery; no answer is expected.
    Cancel(u64),
    /// Delete by receipt. [`Consumer::handle_called`] answers, in the same order.
    Delete {
        /// Its number.
        call: u64,
        /// At most ten.
        receipts: Vec<Arc<str>>,
    },
    /// Set how long these stay invisible from now. [`Consumer::handle_called`] answers, in the same order.
    Change {
        /// Its number.
        call: u64,
        /// At most ten.
        changes: Vec<(Arc<str>, Duration)>,
    },
    /// Send a copy to the dead-letter queue. [`Consumer::handle_called`] answers.
    Bury {
        /// Its number.
        call: u64,
        /// The message.
        message: Arc<Message>,
    },
    /// Tell: the lease of this message ended while we held it, so it may be handled again, here or elsewhere.
    Lost(Arc<Message>),
}

/// Why a receive brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The service refused.
    Refused,
    /// No answer came: the service may have handed out messages.
    Unanswered,
}

/// What became of one entry of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is done.
    Done,
    /// The receipt is not valid any more.
    Gone,
    /// It was not done, and may be another time.
    Failed,
}

/// Counts since the start of this poller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it; docs/sources.md tells users")]
pub struct Counters {
    pub received: u64,
    pub delivered: u64,
    pub deleted: u64,
    pub failed: u64,
    pub released: u64,
    pub extended: u64,
    pub buried: u64,
    pub lease_lost: u64,
    pub received_again: u64,
    pub empty_receives: u64,
    pub calls: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not handed to the component yet.
    Waiting,
    /// Handed over.
    Running(u64),
    /// Handed over, and not ours any more.
    Lost(u64),
    /// Handled; to be deleted.
    Handled,
    /// To be sent to the dead-letter queue.
    Buried,
    /// To be put back, visible after this.
    Back(Duration),
}

#[derive(Debug)]
struct Held {
    message: Arc<Message>,
    /// The newest.
    receipt: Arc<str>,
    state: State,
    /// When it was received.
    since: Mono,
    /// When the lease ends.
    ends: Mono,
    /// When it is to be extended; none while a call is under way.
    due: Option<Mono>,
    /// Failed tries of what is being done with it.
    tries: u32,
}

/// A call that was not answered yet.
#[derive(Debug)]
enum Call {
    Delete(Vec<u64>),
    Extend(Vec<u64>, Mono, Duration),
    Release(Vec<u64>),
    Bury(u64),
}

/// One poller of one queue.
#[derive(Debug)]
pub struct Consumer {
    options: Options,
    limit: usize,
    paused: Option<Mono>,
    quits: bool,
    held: BTreeMap<u64, Held>,
    ids: BTreeMap<String, u64>,
    lines: Lines,
    deliveries: BTreeMap<u64, Vec<u64>>,
    /// Messages at the component.
    running: usize,
    ends: BTreeSet<(Mono, u64)>,
    dues: BTreeSet<(Mono, u64)>,
    deletes: Outbox,
    releases: Outbox,
    calls: BTreeMap<u64, Call>,
    polls: Polls,
    counters: Counters,
    effects: VecDeque<Effect>,
    next: u64,
    rng: Rng,
}

impl Consumer {
    /// Does nothing until [`Consumer::set_limit`].
    pub fn new(options: Options, rng: Rng) -> Self {
        Self {
            lines: Lines::new(options.fifo),
            // A group of a FIFO queue goes on when its message is deleted: nothing to wait for.
            deletes: Outbox::new(if options.fifo { Duration::ZERO } else { LINGER }),
            releases: Outbox::new(LINGER),
            polls: Polls::new(options.fifo, options.long_poll),
            options,
            limit: 0,
            paused: None,
            quits: false,
            held: BTreeMap::new(),
            ids: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            running: 0,
            ends: BTreeSet::new(),
            dues: BTreeSet::new(),
            calls: BTreeMap::new(),
            counters: Counters::default(),
            effects: VecDeque::new(),
            next: 0,
            rng,
        }
    }

    /// How many messages may be at the component at once. Below what is there now, nothing new is begun until it is not.
    pub fn set_limit(&mut self, now: Mono, limit: usize) {
        if limit != self.limit {
            self.limit = limit;
            self.turn(now);
        }
    }

    /// Nothing is handed over or received before this.
    pub fn set_pause(&mut self, now: Mono, until: Option<Mono>) {
        let until = until.filter(|until| now < *until);
        if until != self.paused {
            self.paused = until;
            self.turn(now);
        }
    }

    /// How long a receive may wait; for what is asked from now on.
    pub fn set_long_poll(&mut self, wait: Duration) {
        self.polls.long = wait;
    }

    /// What a receive brought.
    pub fn handle_received(&mut self, now: Mono, call: u64, result: Result<Vec<Message>, Trouble>) {
        let free = self.free();
        match result {
            Ok(messages) => {
                self.counters.received += messages.len() as u64;
                self.counters.empty_receives += u64::from(messages.is_empty());
                self.polls.answered(now, call, messages.len(), free, self.limit);
                for message in messages {
                    self.take(now, message);
                }
            }
            Err(trouble) => self.polls.failed(now, call, trouble, &mut self.rng),
        }
        self.turn(now);
    }

    /// What the component answered.
    pub fn handle_answered(&mut self, now: Mono, delivery: u64, outcome: &Outcome) {
        let Some(keys) = self.deliveries.remove(&delivery) else { return };
        self.running -= keys.len();
        let mut stop = false;
        let mut back: Vec<u64> = Vec::new();
        for key in keys {
            let Some(held) = self.held.get(&key) else { continue };
            if held.state != State::Running(delivery) {
                self.forget(key);
                continue;
            }
            let id = held.message.id.as_str();
            let receives = held.message.receives;
            let failed = |me: &mut Self| {
                me.counters.failed += 1;
                State::Back(backoff(me.options.backoff, receives, &mut me.rng))
            };
            let state = match outcome {
                // In a FIFO group what comes after a failure did not happen.
                Outcome::Done(report) if stop || !report.is_good(id) => failed(self),
                Outcome::Done(_) => State::Handled,
                Outcome::Refused if self.options.buries => State::Buried,
                Outcome::Refused | Outcome::Failed | Outcome::TimedOut => failed(self),
                Outcome::Busy(Some(after)) => State::Back(*after),
                Outcome::Busy(None) => failed(self),
                Outcome::Unserved => State::Waiting,
            };
            stop |= self.options.fifo && matches!(state, State::Back(_));
            if state == State::Waiting {
                back.push(key);
            } else {
                self.settle(now, key, state);
            }
        }
        for key in back.into_iter().rev() {
            self.wait_again(key);
        }
        self.turn(now);
    }

    /// What became of the entries of a call: as many fates as it had entries, or as many as there were, all of them
    /// [`Fate::Failed`], if it failed as a whole (an empty list says so).
    pub fn handle_called(&mut self, now: Mono, call: u64, fates: &[Fate]) {
        let fate = |index: usize| fates.get(index).copied().unwrap_or(Fate::Failed);
        match self.calls.remove(&call) {
            None => return,
            Some(Call::Delete(keys)) => {
                for (index, key) in keys.into_iter().enumerate() {
                    self.deleted(now, key, fate(index));
                }
            }
            Some(Call::Extend(keys, at, length)) => {
                for (index, key) in keys.into_iter().enumerate() {
                    self.extended(now, key, fate(index), at, length);
                }
            }
            Some(Call::Release(keys)) => {
                for (index, key) in keys.into_iter().enumerate() {
                    self.released(now, key, fate(index));
                }
            }
            Some(Call::Bury(key)) => self.buried(now, key, fate(0)),
        }
        self.turn(now);
    }

    /// The time that was asked for has come.
    pub fn handle_tick(&mut self, now: Mono) {
        self.turn(now);
    }

    /// Nothing new is received; what is here is finished, and what cannot start at once is put back.
    pub fn handle_quit(&mut self, now: Mono) {
        self.quits = true;
        self.turn(now);
    }

    /// Breaks off what is at the component and puts it back. Only after [`Consumer::handle_quit`].
    pub fn handle_grace_over(&mut self, now: Mono) {
        let running = std::mem::take(&mut self.deliveries);
        self.running = 0;
        // The newest first: of a group, the tail goes back before its head.
        for (delivery, keys) in running.into_iter().rev() {
            self.effects.push_back(Effect::Cancel(delivery));
            for key in keys.into_iter().rev() {
                match self.held.get(&key).map(|held| held.state) {
                    Some(State::Running(_)) => self.settle(now, key, State::Back(Duration::ZERO)),
                    Some(State::Lost(_)) => self.forget(key),
                    _ => {}
                }
            }
        }
        self.turn(now);
    }

    /// What has to be done next.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When to call [`Consumer::handle_tick`].
    pub fn poll_timeout(&self) -> Option<Mono> {
        let first = |set: &BTreeSet<(Mono, u64)>| set.first().map(|(at, _)| *at);
        let window = self.window_end().filter(|_| self.paused.is_none());
        let receive = self.polls.timeout().filter(|_| self.paused.is_none() && self.can_receive());
        let (deletes, releases) = (self.deletes.timeout(), self.releases_timeout());
        [first(&self.ends), first(&self.dues), deletes, releases, self.paused, window, receive]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether everything is finished after [`Consumer::handle_quit`].
    pub fn is_done(&self) -> bool {
        self.quits && self.held.is_empty() && self.calls.is_empty() && self.polls.is_quiet()
    }

    /// Counts since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Messages that are waiting or at the component, and those that a receive may bring.
    pub fn used(&self) -> Use {
        Use { held: self.active(), asked: self.polls.asked(), is_busy: self.polls.was_full, last: self.polls.last }
    }

    /// Messages that are held: not deleted and not put back.
    pub fn in_flight(&self) -> usize {
        self.held.len()
    }

    /// The moment at which the oldest of the messages that are held was sent.
    pub fn oldest(&self) -> Option<crate::time::Wall> {
        self.held.values().filter_map(|held| held.message.sent).min()
    }

    /// Whether another poller of this queue would help.
    pub fn need(&self, now: Mono) -> Need {
        self.polls.need(now)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn active(&self) -> usize {
        self.running + self.lines.len()
    }

    /// Slots that nothing uses and no receive has asked for.
    fn free(&self) -> usize {
        self.limit.saturating_sub(self.active() + self.polls.asked())
    }

    fn turn(&mut self, now: Mono) {
        self.paused = self.paused.filter(|until| now < *until);
        self.expire(now);
        self.deliver(now);
        self.put_back(now);
        self.extend(now);
        self.flush(now);
        self.receive(now);
    }

    fn take(&mut self, now: Mono, message: Message) {
        let message = Arc::new(message);
        let ends = now.after(self.options.visibility);
        if let Some(key) = self.ids.get(&message.id).copied() {
            let known = self.held.get_mut(&key).map(|held| {
                held.receipt = Arc::clone(&message.receipt);
                held.state
            });
            // We have it, and it came again: its lease had ended, or the queue gave it twice. It is ours again.
            match known {
                Some(State::Lost(delivery)) => self.renew(key, now, ends, Some(State::Running(delivery))),
                Some(State::Waiting | State::Running(_) | State::Buried | State::Handled) => {
                    self.renew(key, now, ends, None);
                }
                Some(State::Back(_)) | None => {
                    self.forget(key);
                    return self.take_new(now, ends, message);
                }
            }
            self.counters.received_again += 1;
            return;
        }
        self.take_new(now, ends, message);
    }

    fn take_new(&mut self, now: Mono, ends: Mono, message: Arc<Message>) {
        let key = self.number();
        self.ids.insert(message.id.clone(), key);
        self.lines.push(key, message.group.as_ref());
        let receipt = Arc::clone(&message.receipt);
        let held = Held { message, receipt, state: State::Waiting, since: now, ends, due: None, tries: 0 };
        self.held.insert(key, held);
        self.renew(key, now, ends, None);
    }

    fn deliver(&mut self, now: Mono) {
        if self.paused.is_some() {
            return;
        }
        while self.running < self.limit {
            if !self.quits && self.window_end().is_some_and(|end| now < end) {
                return;
            }
            let (held, alone) = (&self.held, self.options.batch > 1);
            let is_alone = |key: u64| alone && held.get(&key).is_some_and(|held: &Held| held.message.receives >= ALONE);
            let keys = self.lines.next(self.options.batch.min(self.limit - self.running), is_alone);
            if keys.is_empty() {
                return;
            }
            let delivery = self.number();
            let mut messages = Vec::with_capacity(keys.len());
            for key in &keys {
                if let Some(held) = self.held.get_mut(key) {
                    held.state = State::Running(delivery);
                    messages.push(Arc::clone(&held.message));
                }
            }
            self.running += keys.len();
            self.counters.delivered += keys.len() as u64;
            self.deliveries.insert(delivery, keys);
            self.effects.push_back(Effect::Deliver { delivery, messages });
        }
    }

    /// When a batch that is not full has waited long enough; none if there is nothing to wait for.
    fn window_end(&self) -> Option<Mono> {
        if self.options.fifo || self.options.window.is_zero() || self.lines.len() >= self.options.batch {
            return None;
        }
        // Without a free slot no more messages will come.
        if self.running + self.lines.len() >= self.limit {
            return None;
        }
        let held = self.held.get(&self.lines.first()?)?;
        Some(held.since.after(self.options.window))
    }

    /// Puts back what waits and will not start soon.
    fn put_back(&mut self, now: Mono) {
        let left = self.paused.map_or(Duration::ZERO, |until| until.since(now));
        if !self.quits && left <= self.options.visibility {
            return;
        }
        let delay = if self.quits { Duration::ZERO } else { left };
        for key in self.lines.take_all() {
            self.settle(now, key, State::Back(delay));
        }
    }

    /// The message is not at the component any more, and it is clear what becomes of it.
    fn settle(&mut self, now: Mono, key: u64, state: State) {
        let Some(held) = self.held.get_mut(&key) else { return };
        held.state = state;
        held.tries = 0;
        let group = held.message.group.clone();
        match state {
            State::Handled => self.deletes.push(now, key),
            State::Buried => {
                let message = Arc::clone(&held.message);
                let call = self.number();
                self.calls.insert(call, Call::Bury(key));
                self.counters.calls += 1;
                self.effects.push_back(Effect::Bury { call, message });
            }
            State::Back(delay) => {
                if self.options.fifo && !self.quits {
                    self.polls.be_careful(now.after(delay + self.options.visibility));
                }
                // What waits behind it in its group would overtake it: back with it, from the tail. The group is closed
                // for others until its head comes back.
                for later in self.lines.take_group(group.as_ref()) {
                    self.settle(now, later, State::Back(Duration::ZERO));
                }
                self.releases.push(now, key);
            }
            State::Waiting | State::Running(_) | State::Lost(_) => {}
        }
    }

    /// Handed to nobody: first in its line again.
    fn wait_again(&mut self, key: u64) {
        let Some(held) = self.held.get_mut(&key) else { return };
        held.state = State::Waiting;
        let group = held.message.group.clone();
        self.lines.push_front(key, group.as_ref());
    }

    fn forget(&mut self, key: u64) {
        let Some(held) = self.held.remove(&key) else { return };
        self.ends.remove(&(held.ends, key));
        if let Some(due) = held.due {
            self.dues.remove(&(due, key));
        }
        if self.ids.get(&held.message.id) == Some(&key) {
            self.ids.remove(&held.message.id);
        }
        if held.state == State::Waiting {
            self.lines.remove(key, held.message.group.as_ref());
        } else {
            self.lines.ended(held.message.group.as_ref());
        }
    }

    fn deleted(&mut self, now: Mono, key: u64, fate: Fate) {
        let again = match self.held.get_mut(&key) {
            Some(held) if held.state == State::Handled => held,
            _ => return,
        };
        match fate {
            Fate::Done => {
                self.counters.deleted += 1;
                self.forget(key);
            }
            Fate::Gone => self.lose(now, key),
            Fate::Failed => {
                let at = now.after(backoff::call(again.tries, &mut self.rng));
                again.tries += 1;
                self.deletes.push_alone(at, key);
            }
        }
    }

    fn released(&mut self, now: Mono, key: u64, fate: Fate) {
        let again = match self.held.get_mut(&key) {
            Some(held) if matches!(held.state, State::Back(_)) => held,
            _ => return,
        };
        if fate == Fate::Failed && again.tries < RELEASES {
            let at = now.after(backoff::call(again.tries, &mut self.rng));
            again.tries += 1;
            self.releases.push_alone(at, key);
            return;
        }
        self.counters.released += u64::from(fate == Fate::Done);
        self.forget(key);
    }

    fn buried(&mut self, now: Mono, key: u64, fate: Fate) {
        let receives = match self.held.get(&key) {
            Some(held) if held.state == State::Buried => held.message.receives,
            _ => return,
        };
        let state = if fate == Fate::Done {
            self.counters.buried += 1;
            State::Handled
        } else {
            self.counters.failed += 1;
            State::Back(backoff(self.options.backoff, receives, &mut self.rng))
        };
        self.settle(now, key, state);
    }

    /// When releases are to be looked at; not while a call of a FIFO queue is under way.
    fn releases_timeout(&self) -> Option<Mono> {
        if self.must_wait() { None } else { self.releases.timeout() }
    }

    /// Of a FIFO queue one release call at a time, so that nothing is back before what came after it.
    fn must_wait(&self) -> bool {
        self.options.fifo && self.calls.values().any(|call| matches!(call, Call::Release(_)))
    }

    fn flush(&mut self, now: Mono) {
        while let Some(keys) = self.deletes.take(now, self.quits) {
            let keys = self.in_state(keys, |state| state == State::Handled);
            let receipts: Vec<_> =
                keys.iter().filter_map(|key| self.held.get(key)).map(|h| h.receipt.clone()).collect();
            if !receipts.is_empty() {
                let call = self.call(Call::Delete(keys));
                self.effects.push_back(Effect::Delete { call, receipts });
            }
        }
        while !self.must_wait()
            && let Some(keys) = self.releases.take(now, self.quits)
        {
            let keys = self.in_state(keys, |state| matches!(state, State::Back(_)));
            let changes: Vec<_> = keys
                .iter()
                .filter_map(|key| self.held.get(key))
                .filter_map(|held| match held.state {
                    State::Back(delay) => Some((Arc::clone(&held.receipt), delay)),
                    State::Waiting | State::Running(_) | State::Lost(_) | State::Handled | State::Buried => None,
                })
                .collect();
            if !changes.is_empty() {
                let call = self.call(Call::Release(keys));
                self.effects.push_back(Effect::Change { call, changes });
            }
        }
    }

    fn in_state(&self, mut keys: Vec<u64>, is: impl Fn(State) -> bool) -> Vec<u64> {
        keys.retain(|key| self.held.get(key).is_some_and(|held| is(held.state)));
        keys
    }

    fn call(&mut self, call: Call) -> u64 {
        let number = self.number();
        self.calls.insert(number, call);
        self.counters.calls += 1;
        number
    }

    fn can_receive(&self) -> bool {
        // What cannot be deleted piles up: the queue is in trouble, and more would make it worse.
        let piled = self.deletes.len() + self.releases.len() > self.limit.max(10 * CALL_MAX);
        !self.quits && !piled && self.limit > 0
    }

    fn receive(&mut self, now: Mono) {
        while self.can_receive() && self.paused.is_none() {
            let Some(poll) = self.polls.next(now, self.free(), self.limit) else { return };
            let call = self.number();
            let (max, wait, attempt) = self.polls.begin(now, call, poll);
            self.counters.calls += 1;
            self.effects.push_back(Effect::Receive { call, max, wait, attempt });
        }
    }
}

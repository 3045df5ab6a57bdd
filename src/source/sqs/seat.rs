//! One poller: the loop that tells the cores what happened and does what they say, for all queues of a source.
//!
//! Decides nothing but when to begin and to end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinError, JoinSet};

use super::calls::{self, Receive, Told};
use super::client::Clients;
use super::event::{self, Origin};
use super::inspect::{self, Facts, Found, Redrive};
use super::status::QueueStatus;
use super::trouble::Trouble;
use super::{SqsSource, calls::is_lasting};
use crate::consumer::{self, Consumer, Effect, Fate, Message, Need, Options, Outcome, Throttle, divide};
use crate::id::SourceName;
use crate::model::Source;
use crate::model::source::{Refused, Sqs, Trigger};
use crate::rng::Rng;
use crate::source::attend::Seat;
use crate::time::Mono;

/// How often queues with a prefix are listed: a new queue is read within a minute, for one call.
const LIST: Duration = Duration::from_secs(60);

/// How often a queue that brings messages is asked how many are left. One that brings none is not asked.
const LOOK: Duration = Duration::from_secs(30);

/// The wait before queues that could not be found are looked for again, doubled up to half a minute.
const FIND: Duration = Duration::from_secs(1);
const FIND_MAX: Duration = Duration::from_secs(30);

/// The wait of a receive while there are fewer slots than queues, so that each gets its turn.
const TURN: Duration = Duration::from_secs(2);

/// How often what is shown to people is written down.
const SHOW: Duration = Duration::from_millis(250);

/// Messages that a queue may have in flight until we stop: nine tenths of what SQS allows, because a FIFO queue says
/// nothing at its limit and just brings no more.
const IN_FLIGHT_MAX: u64 = 120_000 * 9 / 10;

/// Seats of one source at most: at 8,000 messages a second each, more than one queue of SQS brings.
const SEATS_MAX: u32 = 16;

/// A seat has slots for a whole receive at least.
const SLOTS_MIN: u32 = 10;

/// Time between two changes of the number of seats: each is given a chance to help first.
const CHANGE: Duration = Duration::from_secs(10);

/// The time for the rest of an answer that began within the component's own limit. That limit comes first, because it
/// knows whether somebody got the message.
const REST: Duration = Duration::from_secs(5);

/// The time for a request where neither the source nor a component says.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The end of something that was begun.
enum Done {
    Received(String, u64, Told<Result<Vec<Message>, consumer::Trouble>>),
    Called(String, u64, Told<Vec<Fate>>),
    Answered { queue: String, delivery: u64, begun: Mono, count: u32, outcome: Outcome, pause: Option<Duration> },
    Listed(Result<Vec<Found>, Trouble>),
    Looked(String, Result<Facts, Trouble>),
}

/// One queue.
struct Queue {
    found: Found,
    origin: Arc<Origin>,
    redrive: Option<Redrive>,
    consumer: Consumer,
    facts: Option<Facts>,
    /// Messages received when it was looked at last.
    looked: u64,
    problem: Option<Trouble>,
    /// What became of it in the list: it is finished and dropped.
    is_gone: bool,
}

struct Poller {
    me: Arc<SqsSource>,
    seat: Seat,
    name: SourceName,
    settings: Sqs,
    clients: Clients,
    queues: BTreeMap<String, Queue>,
    throttle: Throttle,
    rng: Rng,
    work: JoinSet<Done>,
    deliveries: BTreeMap<(String, u64), AbortHandle>,
    /// Before the number of an attempt, so that no other poller has the same.
    prefix: String,
    quits: bool,
    list_at: Option<Mono>,
    look_at: Mono,
    /// When it was shown how it fares, and whether something happened since.
    shown: Mono,
    is_new: bool,
    changed: Mono,
    problem: Option<Trouble>,
}

/// Attends to a seat until it is to be left and all is done.
pub(super) async fn run(me: Arc<SqsSource>, seat: Seat) {
    let source = Arc::clone(&seat.source.borrow());
    let Trigger::Sqs(settings) = &source.trigger else { return };
    let clients = me.queues.clients(&inspect::place(settings)).await;
    let now = me.courier.now();
    let mut rng = Rng::from_seed(me.courier.random());
    let mut poller = Poller {
        throttle: Throttle::new(0, rng.child("throttle")),
        prefix: format!("{:016x}", rng.next_u64()),
        name: source.name.clone(),
        settings: settings.clone(),
        clients,
        queues: BTreeMap::new(),
        rng,
        work: JoinSet::new(),
        deliveries: BTreeMap::new(),
        quits: false,
        list_at: None,
        look_at: now.after(LOOK),
        shown: Mono::default(),
        is_new: true,
        changed: now,
        problem: None,
        me,
        seat,
    };
    poller.throttle = Throttle::new(poller.share(), poller.rng.child("throttle"));
    if poller.find().await {
        poller.poll().await;
    }
    poller.me.book.write(&poller.name, poller.seat.slot, None);
}

impl Poller {
    /// Finds the queues of the source; `false` if the seat is to be left before.
    async fn find(&mut self) -> bool {
        let mut wait = FIND;
        loop {
            let quit = self.seat.quit.clone();
            let found = quit.run_until_cancelled(inspect::find(&self.clients.calls, &self.settings)).await;
            match found {
                None => return false,
                Some(Ok(found)) => {
                    self.problem = None;
                    self.take_list(found).await;
                    return true;
                }
                Some(Err(trouble)) => {
                    if self.problem.as_ref() != Some(&trouble) {
                        tracing::warn!(source = %self.name, %trouble, hint = trouble.hint(), "queues are not found");
                    }
                    self.problem = Some(trouble);
                    self.show(self.me.courier.now());
                }
            }
            let changed = async {
                // A definition that changed may name another queue.
                let _ = self.seat.source.changed().await;
            };
            tokio::select! {
                () = self.seat.quit.cancelled() => return false,
                () = changed => return false,
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(FIND_MAX),
            }
        }
    }

    /// New queues are begun, and those that are not listed any more are finished.
    async fn take_list(&mut self, mut found: Vec<Found>) {
        let mut looks = Vec::new();
        for queue in found.iter().filter(|queue| !self.queues.contains_key(&queue.name)).cloned() {
            let clients = self.clients.clone();
            looks.push(async move { (inspect::look(&clients.calls, &queue).await, queue) });
        }
        let looked = inspect::look_at_all(looks).await;
        // With a prefix, a queue for the dead letters of another one is often among them.
        let of = |facts: &Facts| facts.redrive.as_ref().map(|redrive| redrive.name().to_owned());
        let mut dead: Vec<String> = looked.iter().filter_map(|(facts, _)| facts.as_ref().ok().and_then(of)).collect();
        dead.extend(self.queues.values().filter_map(|queue| Some(queue.redrive.as_ref()?.name().to_owned())));
        if self.settings.prefix {
            found.retain(|queue| !dead.contains(&queue.name));
        }
        let now = self.me.courier.now();
        for queue in self.queues.values_mut() {
            if !found.contains(&queue.found) && !queue.is_gone {
                tracing::info!(source = %self.name, queue = queue.found.name, "the queue is not there any more");
                queue.is_gone = true;
                queue.consumer.handle_quit(now);
            }
        }
        for (facts, queue) in looked {
            if found.contains(&queue) && !self.queues.contains_key(&queue.name) {
                tracing::info!(source = %self.name, queue = queue.name, seat = self.seat.slot, "reading this queue");
                self.begin(facts, queue);
            }
        }
        self.list_at = self.settings.prefix.then(|| now.after(LIST));
    }

    fn begin(&mut self, facts: Result<Facts, Trouble>, found: Found) {
        let (facts, problem) = match facts {
            Ok(facts) => (Some(facts), None),
            // It may be forbidden to look and not to receive.
            Err(trouble) => (None, Some(trouble)),
        };
        let sqs = &self.settings;
        let options = Options {
            fifo: found.name.ends_with(".fifo"),
            batch: sqs.batch.into(),
            window: sqs.window,
            visibility: sqs.visibility,
            long_poll: sqs.wait,
            backoff: sqs.backoff,
            buries: sqs.refused == Refused::DeadLetter,
        };
        let arn = facts.as_ref().map(|facts| facts.arn.clone()).unwrap_or_default();
        let queue = Queue {
            origin: Arc::new(Origin { queue: found.name.clone(), arn }),
            redrive: facts.as_ref().and_then(|facts| facts.redrive.clone()),
            consumer: Consumer::new(options, self.rng.child("queue")),
            looked: 0,
            is_gone: false,
            facts,
            problem,
            found,
        };
        self.queues.insert(queue.found.name.clone(), queue);
    }

    async fn poll(&mut self) {
        let stop = self.me.stop.clone();
        let grace = self.me.grace;
        let mut over = std::pin::pin!(async move {
            stop.cancelled().await;
            tokio::time::sleep(grace).await;
        });
        let mut is_over = false;
        loop {
            let now = self.me.courier.now();
            self.act(now);
            if self.quits && self.queues.values().all(|queue| queue.consumer.is_done()) {
                return;
            }
            let due = self.due();
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep(due.since(self.me.courier.now())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(done) = self.work.join_next(), if !self.work.is_empty() => {
                    if !self.take_done(done).await {
                        return;
                    }
                    // What else is done by now, so that one turn serves many.
                    while let Some(done) = self.work.try_join_next() {
                        if !self.take_done(done).await {
                            return;
                        }
                    }
                }
                () = timer => self.tick(),
                () = self.seat.quit.cancelled(), if !self.quits => self.quit("the seat is to be left"),
                Ok(()) = self.seat.source.changed(), if !self.quits => self.changed(),
                Ok(()) = self.seat.width.changed(), if !self.quits => {
                    self.seat.width.borrow_and_update();
                    self.throttle.set_most(self.share());
                }
                () = &mut over, if !is_over => {
                    is_over = true;
                    self.quit("the node stops");
                    let now = self.me.courier.now();
                    self.queues.values_mut().for_each(|queue| queue.consumer.handle_grace_over(now));
                }
            }
        }
    }

    /// What this seat may do of all that the source may do at once.
    fn share(&self) -> u32 {
        let width = (*self.seat.width.borrow()).max(1);
        let all = self.settings.concurrency.get();
        all / width + u32::from(self.seat.slot < all % width)
    }

    fn quit(&mut self, why: &str) {
        if !self.quits {
            tracing::info!(source = %self.name, seat = self.seat.slot, "no more messages are received: {why}");
            self.quits = true;
            let now = self.me.courier.now();
            self.queues.values_mut().for_each(|queue| queue.consumer.handle_quit(now));
        }
    }

    /// How many at once, and where requests go, is taken over; for the rest the seat is taken anew.
    fn changed(&mut self) {
        let source = Arc::clone(&self.seat.source.borrow_and_update());
        let Trigger::Sqs(new) = &source.trigger else { return self.quit("it is no queue any more") };
        let kept = Sqs {
            concurrency: self.settings.concurrency,
            path: self.settings.path.clone(),
            timeout: self.settings.timeout,
            ..new.clone()
        };
        if kept != self.settings {
            return self.quit("the source has changed");
        }
        self.settings = new.clone();
        self.throttle.set_most(self.share());
    }

    fn due(&self) -> Option<Mono> {
        let queues = self.queues.values().filter_map(|queue| queue.consumer.poll_timeout());
        let list = self.list_at.filter(|_| !self.quits);
        let show = self.is_new.then(|| self.shown.after(SHOW));
        queues.chain(list).chain(show).chain(Some(self.look_at)).min()
    }

    fn tick(&mut self) {
        let now = self.me.courier.now();
        for queue in self.queues.values_mut() {
            if queue.consumer.poll_timeout().is_some_and(|due| due <= now) {
                queue.consumer.handle_tick(now);
            }
        }
        if self.list_at.is_some_and(|at| at <= now) && !self.quits {
            self.list_at = None;
            let (clients, settings) = (self.clients.clone(), self.settings.clone());
            self.work.spawn(async move { Done::Listed(inspect::find(&clients.calls, &settings).await) });
        }
        if self.look_at <= now {
            self.look_at = now.after(LOOK);
            for (name, queue) in &mut self.queues {
                let received = queue.consumer.counters().received;
                if received != std::mem::replace(&mut queue.looked, received) {
                    let (clients, found, name) = (self.clients.clone(), queue.found.clone(), name.clone());
                    self.work.spawn(async move { Done::Looked(name, inspect::look(&clients.calls, &found).await) });
                }
            }
        }
        if self.is_new && self.shown.after(SHOW) <= now {
            self.show(now);
        }
    }

    /// Shares the slots out and does what the cores want, until they want nothing more.
    fn act(&mut self, now: Mono) {
        loop {
            let uses: Vec<_> = self.queues.values().map(|queue| queue.consumer.used()).collect();
            let limits = divide(self.throttle.allowed() as usize, &uses);
            let is_short = limits.iter().zip(&uses).any(|(limit, used)| *limit == 0 && used.asked == 0);
            let mut effects = Vec::new();
            for ((name, queue), (limit, used)) in self.queues.iter_mut().zip(limits.into_iter().zip(uses)) {
                let in_flight = queue.facts.as_ref().map_or(0, |facts| facts.in_flight);
                queue.consumer.set_long_poll(if is_short { self.settings.wait.min(TURN) } else { self.settings.wait });
                queue.consumer.set_pause(now, self.throttle.paused());
                queue.consumer.set_limit(now, if in_flight >= IN_FLIGHT_MAX { used.held } else { limit });
                while let Some(effect) = queue.consumer.poll_effect() {
                    effects.push((name.clone(), effect));
                }
            }
            if effects.is_empty() {
                break;
            }
            for (name, effect) in effects {
                self.carry_out(now, name, effect);
            }
        }
        self.queues.retain(|_, queue| !(queue.is_gone && queue.consumer.is_done()));
    }

    fn carry_out(&mut self, now: Mono, name: String, effect: Effect) {
        let Some(queue) = self.queues.get(&name) else { return };
        let (clients, found) = (self.clients.clone(), queue.found.clone());
        match effect {
            Effect::Receive { call, max, wait, attempt } => {
                let attempt = name.ends_with(".fifo").then(|| format!("{}-{attempt}", self.prefix));
                let receive = Receive { max, wait, visibility: self.settings.visibility, attempt };
                let work = async move { Done::Received(name, call, calls::receive(&clients, &found, receive).await) };
                self.work.spawn(work);
            }
            Effect::Delete { call, receipts } => {
                let work = async move { Done::Called(name, call, calls::delete(&clients, &found, &receipts).await) };
                self.work.spawn(work);
            }
            Effect::Change { call, changes } => {
                let work = async move { Done::Called(name, call, calls::change(&clients, &found, &changes).await) };
                self.work.spawn(work);
            }
            Effect::Bury { call, message } => {
                let redrive = queue.redrive.clone();
                let work = async move {
                    Done::Called(name, call, calls::bury(&clients, &found, redrive.as_ref(), &message).await)
                };
                self.work.spawn(work);
            }
            Effect::Deliver { delivery, messages } => self.deliver(now, name, delivery, messages),
            Effect::Cancel(delivery) => {
                if let Some(handle) = self.deliveries.remove(&(name, delivery)) {
                    handle.abort();
                }
            }
            Effect::Lost(message) => tracing::warn!(
                source = %self.name, queue = name, message = message.id,
                "this message became visible to others while it was held here, and may be handled twice"
            ),
        }
    }

    fn deliver(&mut self, now: Mono, name: String, delivery: u64, messages: Vec<Arc<Message>>) {
        let Some(queue) = self.queues.get(&name) else { return };
        let source: Arc<Source> = Arc::clone(&self.seat.source.borrow());
        let own = || Some(self.me.courier.component(&source.component)?.request_timeout + REST);
        let timeout = self.settings.timeout.or_else(own).unwrap_or(TIMEOUT);
        let event = event::event(&self.name, &source.component, &self.settings, &queue.origin, &messages, timeout);
        let (courier, is_batch) = (self.me.courier.clone(), self.settings.batch > 1);
        let key = (name.clone(), delivery);
        let handle = self.work.spawn(async move {
            let result = courier.send(event, event::ANSWER_MAX).await;
            let (outcome, pause) = event::outcome(&result, &messages, is_batch);
            if let Err(failure) = &result {
                tracing::debug!(queue = name, %failure, "messages were not handled");
            }
            let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
            Done::Answered { queue: name, delivery, begun: now, count, outcome, pause }
        });
        self.deliveries.insert(key, handle);
    }

    /// `false` if something of ours failed: then everything ends, and the messages come back by themselves.
    async fn take_done(&mut self, done: Result<Done, JoinError>) -> bool {
        let done = match done {
            Ok(done) => done,
            // A delivery that was broken off.
            Err(error) if error.is_cancelled() => return true,
            Err(error) => {
                tracing::error!(source = %self.name, %error, "a part of this poller failed");
                return false;
            }
        };
        let now = self.me.courier.now();
        self.is_new = true;
        match done {
            Done::Received(name, call, (result, trouble)) => {
                self.note(&name, trouble, result.is_ok());
                if let Some(queue) = self.queues.get_mut(&name) {
                    queue.consumer.handle_received(now, call, result);
                }
                self.measure(now);
            }
            Done::Called(name, call, (fates, trouble)) => {
                self.note(&name, trouble, false);
                if let Some(queue) = self.queues.get_mut(&name) {
                    queue.consumer.handle_called(now, call, &fates);
                }
            }
            Done::Answered { queue: name, delivery, begun, count, outcome, pause } => {
                self.throttle.handle(now, begun, count, &outcome, pause);
                self.deliveries.remove(&(name.clone(), delivery));
                if let Some(queue) = self.queues.get_mut(&name) {
                    queue.consumer.set_pause(now, self.throttle.paused());
                    queue.consumer.handle_answered(now, delivery, &outcome);
                }
            }
            Done::Listed(Ok(found)) => self.take_list(found).await,
            Done::Listed(Err(trouble)) => {
                tracing::debug!(source = %self.name, %trouble, "queues could not be listed");
                self.list_at = Some(now.after(LIST));
            }
            Done::Looked(name, facts) => {
                if let Some(queue) = self.queues.get_mut(&name)
                    && let Ok(facts) = facts
                {
                    if facts.in_flight >= IN_FLIGHT_MAX {
                        tracing::warn!(
                            source = %self.name, queue = name, in_flight = facts.in_flight,
                            "the queue has nearly as many messages in flight as it may; nothing is received until it has fewer"
                        );
                        // Nothing new comes in, so it is looked at again although nothing did.
                        queue.looked = u64::MAX;
                    }
                    queue.redrive.clone_from(&facts.redrive);
                    queue.facts = Some(facts);
                }
            }
        }
        true
    }

    /// Remembers what is wrong with a queue, and says so once.
    fn note(&mut self, name: &str, trouble: Option<Trouble>, is_well: bool) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        match trouble {
            None if is_well => queue.problem = None,
            None => {}
            Some(trouble) => {
                if queue.problem.as_ref() != Some(&trouble) && is_lasting(&trouble) {
                    tracing::warn!(source = %self.name, %trouble, hint = trouble.hint(), "the queue is in trouble");
                }
                queue.problem = Some(trouble);
            }
        }
    }

    /// Says whether more pollers would help.
    fn measure(&mut self, now: Mono) {
        if self.seat.slot != 0 || now.since(self.changed) < CHANGE {
            return;
        }
        let width = *self.seat.width.borrow();
        let most = (self.settings.concurrency.get() / SLOTS_MIN).clamp(1, SEATS_MAX);
        let needs: Vec<Need> = self.queues.values().map(|queue| queue.consumer.need(now)).collect();
        let wanted = if needs.contains(&Need::More) {
            (width + 1).min(most)
        } else if needs.iter().all(|need| *need == Need::Fewer) {
            width.saturating_sub(1).max(1)
        } else {
            width.min(most)
        };
        let is_new = self.seat.wanted.send_if_modified(|known| std::mem::replace(known, wanted) != wanted);
        if is_new {
            tracing::info!(source = %self.name, wanted, "as many pollers are wanted");
            self.changed = now;
        }
    }

    fn show(&mut self, now: Mono) {
        self.shown = now;
        // While messages are held their age grows.
        self.is_new = self.queues.values().any(|queue| queue.consumer.in_flight() > 0);
        let (seat, allowed) = (self.seat.slot, self.throttle.allowed());
        let said = |trouble: &Option<Trouble>| trouble.as_ref().map(|trouble| format!("{trouble}; {}", trouble.hint()));
        let mut page: Vec<QueueStatus> = Vec::new();
        for queue in self.queues.values() {
            let age = queue.consumer.oldest().map(|sent| (self.me.wall)().0.saturating_sub(sent.0));
            page.push(QueueStatus {
                queue: queue.found.name.clone(),
                seat,
                allowed,
                in_flight: queue.consumer.in_flight() as u64,
                backlog: queue.facts.as_ref().map(|facts| facts.visible),
                oldest_ms: age,
                problem: said(&queue.problem),
                counters: queue.consumer.counters(),
            });
        }
        if page.is_empty() {
            let queue = self.settings.queue.clone();
            page.push(QueueStatus { queue, seat, allowed, problem: said(&self.problem), ..QueueStatus::default() });
        }
        self.me.book.write(&self.name, seat, Some(page));
    }
}

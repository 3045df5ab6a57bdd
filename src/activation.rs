//! One component on this node: its instances, the events that wait for them, and what has to happen next.
//!
//! A state machine without IO. Facts and a time go in through [`Activation::handle`], [`Effect`]s come out, and
//! [`Activation::poll_timeout`] says when to call again. It claims slots through [`Gate`], which the data plane shares.
//! Knows nothing of HTTP, of runtimes or of other components.
//!
//! Invariants: an instance is closed before it is frozen or stopped, so no event is handed to it any more; at most one
//! start is under way per wanted instance, however many events wait; every ticket is answered exactly once.

mod instance;
mod leave;
mod plan;
pub mod queue;
mod strict;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::failure::{Failure, Phase};
use crate::id::{ComponentName, InstanceId};
use crate::model::Component;
use crate::model::happening::What;
use crate::model::instance::InstanceState;
use crate::model::share::Share;
use crate::model::units::format_bytes;

use crate::rng::Rng;
use crate::slots::{Gate, Slots};
use crate::time::{Mono, Now, Wall};

use instance::{Instance, State};
use leave::Leave;
pub use queue::Ticket;
use queue::{Queue, Waiter};

/// Wait before the start that follows a failed one; doubles with each failure. The first is short enough for an event
/// that is already waiting again.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);

/// The longest wait between two starts: a fixed image is noticed within half a minute without anybody's help.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// An event that comes during the wait is held if the next start is nearer than this, else refused with the reason.
const BACKOFF_HOLD: Duration = Duration::from_millis(500);

/// An instance that ends sooner than this after it became ready counts as a failed start (a crash loop).
const SHORT_LIFE: Duration = Duration::from_secs(10);

/// Between two looks at the load of a component that is in use; demand beyond the soft target is acted on within it.
const LOOK_BUSY: Duration = Duration::from_millis(250);

/// The same for a component that is not in use at the moment.
const LOOK_QUIET: Duration = Duration::from_secs(1);

/// What happened. `Started` to `StartFailed` answer [`Effect::Start`], and so on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The definition is new or has changed. The fingerprint covers what needs a new instance when it changes.
    Define(Arc<Component>, String),
    /// The component was removed.
    Remove,
    /// An event wants a slot.
    Wait(Waiter),
    /// An event does not want to wait any more.
    Cancel(Ticket),
    /// A slot was given back.
    Freed,
    /// The image of a starting instance is being fetched.
    Pulling(InstanceId),
    /// The image is there, the instance is being created.
    Creating(InstanceId),
    /// The instance runs: where it will listen, and its process or container id.
    Started(InstanceId, SocketAddr, String),
    /// The instance can take events.
    Ready(InstanceId),
    /// The start failed. Nothing of the instance is left, unless the phase is [`Phase::Ready`]: then it runs.
    StartFailed {
        /// Which instance.
        id: InstanceId,
        /// Where it failed.
        phase: Phase,
        /// In words.
        reason: String,
        /// Its last lines.
        log: Vec<String>,
    },
    /// The instance ended.
    Exited {
        /// Which instance.
        id: InstanceId,
        /// In words.
        how: String,
        /// Its last lines.
        log: Vec<String>,
    },
    /// The instance is frozen, or why it could not be.
    Frozen(InstanceId, Result<(), String>),
    /// The instance is thawed, or why it could not be.
    Thawed(InstanceId, Result<(), String>),
    /// The instance is gone, or why it could not be stopped.
    Stopped(InstanceId, Result<(), String>),
    /// The answer to a health check.
    Checked(InstanceId, Result<(), String>),
    /// The data plane could not reach the instance.
    Suspect(InstanceId),
    /// An instance from before the daemon's start.
    Found {
        /// Which instance.
        id: InstanceId,
        /// What it was started with.
        fingerprint: String,
        /// Where it listens.
        address: SocketAddr,
        /// Its process or container id.
        handle: String,
        /// Whether it is frozen.
        frozen: bool,
    },
    /// What the plan of the cluster wants of this node.
    Share(Share),
    /// Until when a strict singleton may run; what is over is none. It has to begin to stop then.
    Consent(Mono),
    /// An event that was told to go elsewhere has been answered there, or was not.
    Returned,
    /// An unused instance is to go: another component needs its memory.
    Evict(InstanceId, ComponentName),
    /// The memory that the next start needs will not come free soon: what is left, and what there is in all.
    NoRoom {
        /// Bytes.
        left: u64,
        /// Bytes.
        capacity: u64,
    },
    /// The node is stopping: refuse what waits, start nothing.
    Drain,
    /// The time that was asked for has come.
    Tick,
}

/// What has to be done.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Start an instance and watch it until it is ready.
    Start(InstanceId, Arc<Component>, String),
    /// Watch an adopted instance until it is ready.
    Watch(InstanceId, Arc<Component>, SocketAddr),
    /// Stop watching a starting instance: it ended.
    Abandon(InstanceId),
    /// Freeze it. It is closed.
    Freeze(InstanceId),
    /// Thaw it.
    Thaw(InstanceId),
    /// Stop it. It is closed.
    Stop(InstanceId, Arc<Component>),
    /// Check its health once.
    Check(InstanceId, Arc<Component>, SocketAddr),
    /// Ask the cluster for its consent to run a strict singleton here, or give it back: nothing of it is left.
    Claim(bool),
    /// Hand this slot, already claimed, to a waiting event.
    Grant(Ticket, Arc<Slots>),
    /// Tell a waiting event that it gets none.
    Refuse(Ticket, Failure),
    /// A line for the component's log; for the timeline of the cluster as well if it is a happening.
    Note(Option<InstanceId>, Option<What>, String),
    /// The instance is gone for good: forget its connections.
    Forget(InstanceId),
    /// Stop an instance that belongs to no component any more.
    Discard(InstanceId),
}

/// An instance as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its id.
    pub id: InstanceId,
    /// What it was started with.
    pub fingerprint: String,
    /// Where it is in its life.
    pub state: InstanceState,
    /// Whether its health checks fail.
    pub sick: bool,
    /// Where it listens.
    pub address: Option<SocketAddr>,
    /// Process or container id.
    pub handle: String,
    /// When its start was decided.
    pub started_at: Wall,
    /// Events it has now.
    pub in_flight: u32,
    /// Events it has finished.
    pub served: u64,
    /// When it was last in use.
    pub last_used: Mono,
}

/// Why the last start failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub phase: Phase,
    /// In words.
    pub reason: String,
    /// The last lines of the instance.
    pub log: Vec<String>,
    /// When it failed.
    pub at: Wall,
}

/// One component on this node.
#[derive(Debug)]
pub struct Activation {
    component: Arc<Component>,
    fingerprint: String,
    gate: Arc<Gate>,
    instances: BTreeMap<InstanceId, Instance>,
    queue: Queue,
    share: Share,
    /// Of a strict singleton: whether the consent to run was asked for, and until when it lasts.
    claims: bool,
    consent: Option<Mono>,
    /// Events that were told to go elsewhere and are not done.
    away: u32,
    /// The bytes that the next start needs and that are not free.
    short: Option<u64>,
    removed: bool,
    draining: bool,
    /// Failed starts in a row.
    failures: u32,
    /// No start before this moment.
    next_try: Mono,
    problem: Option<Problem>,
    next_look: Mono,
    /// The last turn.
    settled: Mono,
    /// Sum of `served` at the last look.
    seen: u64,
    /// Covers which instances there are and their states, now and when it was last asked.
    sum: (u64, u64),
}

impl Activation {
    /// A component without instances. Nothing happens before the first [`Activation::handle`].
    pub fn new(component: Arc<Component>, fingerprint: String, gate: Arc<Gate>) -> Self {
        Self {
            component,
            fingerprint,
            gate,
            instances: BTreeMap::new(),
            queue: Queue::default(),
            share: Share::default(),
            claims: false,
            consent: None,
            away: 0,
            short: None,
            removed: false,
            draining: false,
            failures: 0,
            next_try: Mono(0),
            problem: None,
            next_look: Mono(0),
            settled: Mono(0),
            seen: 0,
            sum: (0, 0),
        }
    }

    /// The definition in force.
    pub fn component(&self) -> &Arc<Component> {
        &self.component
    }

    /// What the data plane claims slots from.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// How many events wait.
    pub fn waiting(&self) -> u32 {
        self.queue.len()
    }

    /// Why the last start failed, if no start succeeded since.
    pub fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }

    /// What a new instance is made of.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// How many starts of that have failed.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether it is removed and nothing of it is left.
    pub fn is_over(&self) -> bool {
        self.removed && self.instances.is_empty() && self.queue.is_empty()
    }

    /// Whether an instance came, went or changed its state since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        let changed = self.sum.0 != self.sum.1;
        self.sum.1 = self.sum.0;
        changed
    }

    /// How many instances there are.
    pub fn instance_count(&self) -> usize {
        self.instances.len()
    }

    /// The instances, in the order of their ids.
    pub fn instances(&self) -> impl Iterator<Item = Shown> + '_ {
        self.instances.values().map(|instance| Shown {
            id: instance.id.clone(),
            fingerprint: instance.fingerprint.clone(),
            state: instance.shown(),
            sick: instance.is_sick(),
            address: instance.address,
            handle: instance.handle.clone(),
            started_at: instance.started_at,
            in_flight: instance.in_flight(),
            served: instance.slots.as_ref().map_or(0, |slots| slots.served()),
            last_used: instance.last_used(),
        })
    }

    /// The bytes that its instances set aside, those on their way out included.
    pub fn held(&self) -> u64 {
        self.instances.values().fold(0, |sum, instance| sum.saturating_add(instance.component.memory_reserve))
    }

    /// The bytes that come free by what is on its way out.
    pub fn leaving(&self) -> u64 {
        let leaving = self.instances.values().filter(|instance| instance.is_leaving());
        leaving.fold(0, |sum, instance| sum.saturating_add(instance.component.memory_reserve))
    }

    /// The bytes that the next start needs and that were not free.
    pub fn short(&self) -> Option<u64> {
        self.short
    }

    /// What the plan of the cluster wants of this node.
    pub fn share(&self) -> Share {
        self.share
    }

    /// What keeps this node from having what it is meant to have, or from giving up the rest; none if nothing does.
    pub fn waits_for(&self, now: Mono) -> Option<String> {
        let ready = |old: bool| {
            let such = |i: &&Instance| i.state == State::Ready && (i.fingerprint != self.fingerprint) == old;
            self.instances.values().filter(such).count()
        };
        if self.is_held() && ready(true) > 0 {
            return Some("its turn in the rollout".to_owned());
        }
        if self.share.count > 0 && !self.has_consent(now) {
            return Some("the consent of more than half of the nodes to run a strict singleton".to_owned());
        }
        if let Some(bytes) = self.short {
            return Some(format!("{} of memory, which instances in use have", format_bytes(bytes)));
        }
        if let Some(problem) = self.problem.as_ref().filter(|_| self.next_try > now) {
            let wait = self.next_try.since(now).as_millis();
            return Some(format!("{wait} ms after a failed start (phase {}): {}", problem.phase, problem.reason));
        }
        let (count, here) = (self.share.count as usize, ready(false));
        let serving = here + ready(true) + self.share.serving_elsewhere as usize;
        let is_needed = self.share.placed > 0 && here > count && serving <= self.share.placed as usize;
        is_needed.then(|| format!("instances elsewhere to serve before {} here may go", here - count))
    }

    /// Instances without an event that may go for others: since when, which, and the bytes that their end sets free. Those
    /// that nobody planned; and for an event that waits also those that are planned only because they were used lately.
    pub fn spares(&self, for_an_event: bool) -> Vec<(Mono, InstanceId, u64)> {
        let kept = if for_an_event { self.share.warm } else { self.share.count };
        let there = || self.instances.values().filter(|instance| !instance.is_leaving());
        let idle = there().filter(|i| i.in_flight() == 0 && matches!(i.state, State::Ready | State::Frozen));
        let mut idle: Vec<_> = idle.map(|i| (i.last_used(), i.id.clone(), i.component.memory_reserve)).collect();
        idle.sort();
        idle.truncate(there().count().saturating_sub(kept as usize));
        idle
    }

    /// Takes in a fact and everything that has come due. `free`: bytes that starts may set aside.
    pub fn handle(&mut self, fact: Fact, now: Now, free: u64, rng: &mut Rng, out: &mut Vec<Effect>) {
        self.apply(fact, now, rng, out);
        self.settle(now, free, rng, out);
    }

    /// Takes in a fact without acting on it: for what was there before the daemon started, so that all of it is known
    /// before the first decision.
    pub fn load(&mut self, fact: Fact, now: Now, rng: &mut Rng, out: &mut Vec<Effect>) {
        self.apply(fact, now, rng, out);
    }

    fn apply(&mut self, fact: Fact, now: Now, rng: &mut Rng, out: &mut Vec<Effect>) {
        match fact {
            Fact::Define(component, fingerprint) => self.define(component, fingerprint, out),
            Fact::Remove => {
                self.removed = true;
                self.refuse_all(&Failure::NoComponent(self.component.name.clone()), out);
            }
            Fact::Wait(waiter) => self.wait(waiter, now, out),
            Fact::Cancel(ticket) => {
                self.queue.cancel(ticket);
            }
            Fact::Freed | Fact::Tick => {}
            Fact::Pulling(id) => self.step(&id, Phase::Pull, now),
            Fact::Creating(id) => self.step(&id, Phase::Start, now),
            Fact::Started(id, address, handle) => {
                self.step(&id, Phase::Ready, now);
                if let Some(instance) = self.instances.get_mut(&id) {
                    instance.address = Some(address);
                    instance.handle = handle;
                }
            }
            Fact::Ready(id) => self.ready(&id, now, out),
            Fact::StartFailed { id, phase, reason, log } => {
                let Some(instance) = self.instances.get_mut(&id) else { return };
                let text = format!("start failed in phase {phase}: {reason}");
                out.push(Effect::Note(Some(id.clone()), Some(What::Failed), text));
                if instance.is_leaving() && phase != Phase::Ready {
                    // It was given up before; this says that nothing of it is left.
                    self.instances.remove(&id);
                    return out.push(Effect::Forget(id));
                }
                if phase == Phase::Ready {
                    // It runs, and what waits hears why before its end is seen.
                    instance.state = State::Stopping;
                    out.push(Effect::Stop(id, Arc::clone(&instance.component)));
                } else {
                    self.instances.remove(&id);
                    out.push(Effect::Forget(id));
                }
                self.failed(Problem { phase, reason, log, at: now.wall }, now, rng, out);
            }
            Fact::Exited { id, how, log } => self.exited(id, how, log, now, rng, out),
            Fact::Frozen(id, result) => self.frozen(&id, result, out),
            Fact::Thawed(id, result) => self.thawed(&id, result, now, out),
            Fact::Stopped(id, result) => match result {
                Ok(()) => {
                    if let Some(instance) = self.instances.remove(&id) {
                        self.gone(&instance, out);
                        out.push(Effect::Forget(id));
                    }
                }
                // The runtime keeps trying to clear it away; for the plan it is gone when its exit is seen.
                Err(reason) => out.push(Effect::Note(Some(id), None, format!("could not be stopped: {reason}"))),
            },
            Fact::Checked(id, result) => self.checked(id, result, now, out),
            Fact::Suspect(id) => {
                if let Some(instance) = self.instances.get_mut(&id) {
                    instance.next_check = now.mono;
                }
            }
            Fact::Found { id, fingerprint, address, handle, frozen } => {
                self.found(id, fingerprint, address, handle, frozen, now, out);
            }
            Fact::Share(share) => self.share = share,
            Fact::Consent(until) => self.consent = Some(until),
            Fact::Returned => self.away = self.away.saturating_sub(1),
            Fact::Evict(id, by) => self.evict(&id, &by, now, out),
            Fact::NoRoom { left, capacity } => self.no_room(left, capacity, now, out),
            Fact::Drain => {
                self.draining = true;
                self.refuse_all(&Failure::Draining, out);
            }
        }
    }

    fn define(&mut self, component: Arc<Component>, fingerprint: String, out: &mut Vec<Effect>) {
        self.removed = false;
        if fingerprint != self.fingerprint {
            // A new definition deserves a new try at once.
            self.failures = 0;
            self.next_try = Mono(0);
            self.problem = None;
            if !self.instances.is_empty() {
                out.push(Effect::Note(None, None, "definition changed: instances will be replaced".to_owned()));
            }
        }
        for instance in self.instances.values_mut().filter(|instance| instance.fingerprint == fingerprint) {
            instance.component = Arc::clone(&component);
            if let Some(slots) = &instance.slots {
                slots.set_limit(component.concurrency.get());
            }
        }
        self.component = component;
        self.fingerprint = fingerprint;
    }

    fn wait(&mut self, waiter: Waiter, now: Now, out: &mut Vec<Effect>) {
        let component = &self.component;
        if self.removed {
            return out.push(Effect::Refuse(waiter.ticket, Failure::NoComponent(component.name.clone())));
        }
        if self.draining {
            return out.push(Effect::Refuse(waiter.ticket, Failure::Draining));
        }
        if self.share.full_elsewhere && !self.instances.values().any(|instance| !instance.is_leaving()) {
            self.away = self.away.saturating_add(1);
            return out.push(Effect::Refuse(waiter.ticket, Failure::Elsewhere(component.name.clone())));
        }
        if let Some(failure) = self.hopeless(now.mono) {
            return out.push(Effect::Refuse(waiter.ticket, failure));
        }
        if let Err(full) = self.queue.push(waiter, component.queue_limit) {
            let failure = Failure::QueueFull {
                component: component.name.clone(),
                what: full.0,
                // Nobody knows when a slot is free; a second is what HTTP clients wait at least.
                retry_after: Duration::from_secs(1),
            };
            return out.push(Effect::Refuse(waiter.ticket, failure));
        }
        // Seen by the data plane before the next attempt to claim: a slot given back from now on is reported.
        self.gate.set_waiting(self.queue.len());
    }

    fn evict(&mut self, id: &InstanceId, by: &ComponentName, now: Now, out: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        let closed = instance.state == State::Frozen
            || (instance.state == State::Ready && instance.slots.as_ref().is_some_and(|slots| slots.close_if_idle()));
        if closed {
            let unused = now.mono.since(instance.last_used());
            instance.state = State::Stopping;
            let why = Leave::Evicted(unused, by.clone());
            out.push(Effect::Note(Some(id.clone()), None, format!("stopping: {why}")));
            instance.leave = Some(why);
            out.push(Effect::Stop(id.clone(), Arc::clone(&instance.component)));
        }
    }

    /// No memory for the next start. An old instance makes room for its successor if nothing else can; what waits goes
    /// elsewhere if nothing here will serve it.
    fn no_room(&mut self, left: u64, capacity: u64, now: Now, out: &mut Vec<Effect>) {
        let Some(reserve) = self.short else { return };
        let is_moving = |i: &Instance| i.is_leaving() || matches!(i.state, State::Starting(_));
        if !self.instances.values().any(is_moving) {
            let old = self.instances.values().filter(|i| i.state == State::Ready && i.fingerprint != self.fingerprint);
            if let Some(id) = old.min_by_key(|i| i.in_flight()).map(|i| i.id.clone()) {
                self.drain_where(now.mono, &Leave::NoRoomBeside, out, |candidate| *candidate.id == id);
            }
        }
        if self.instances.is_empty() {
            let failure = Failure::NoRoom {
                component: self.component.name.clone(),
                reserve: format_bytes(reserve),
                left: format_bytes(left),
                capacity: format_bytes(capacity),
            };
            self.refuse_all(&failure, out);
        }
    }

    /// The answer to an event that comes while starts fail and nothing is alive. None if it may wait.
    fn hopeless(&self, now: Mono) -> Option<Failure> {
        let problem = self.problem.as_ref()?;
        let retry_after = self.next_try.since(now);
        let alive = self.instances.values().any(|instance| !instance.is_leaving());
        (!alive && retry_after > BACKOFF_HOLD).then(|| self.not_started(problem, retry_after))
    }

    fn not_started(&self, problem: &Problem, retry_after: Duration) -> Failure {
        Failure::NotStarted {
            component: self.component.name.clone(),
            phase: problem.phase,
            reason: problem.reason.clone(),
            log: problem.log.clone(),
            retry_after,
        }
    }

    fn step(&mut self, id: &InstanceId, phase: Phase, now: Now) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        let State::Starting(before) = instance.state else { return };
        instance.state = State::Starting(phase);
        match phase {
            // An image that was there already took no time.
            Phase::Start if before == Phase::Pull => instance.born.pulled = now.mono,
            Phase::Start => {}
            Phase::Ready => instance.born.started = now.mono,
            Phase::Queue | Phase::Pull | Phase::Handler => {}
        }
    }

    fn ready(&mut self, id: &InstanceId, now: Now, out: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        let (State::Starting(_), Some(address)) = (instance.state, instance.address) else { return };
        instance.state = State::Ready;
        instance.born.ready = now.mono;
        instance.next_check = now.mono.after(instance.component.health.interval);
        let limit = instance.component.concurrency.get();
        instance.slots = Some(Arc::new(Slots::born(id.clone(), address, limit, instance.born)));
        let born = instance.born;
        let text = format!(
            "ready after {} ms (pull {}, start {}, ready {})",
            born.ready.since(born.asked).as_millis(),
            born.pulled.since(born.asked).as_millis(),
            born.started.since(born.pulled).as_millis(),
            born.ready.since(born.started).as_millis(),
        );
        out.push(Effect::Note(Some(id.clone()), Some(What::Ready), text));
        self.problem = None;
    }

    /// A start failed, or an instance ended too soon: wait before the next, and tell everybody who waits unless
    /// another instance may still answer them.
    fn failed(&mut self, problem: Problem, now: Now, rng: &mut Rng, out: &mut Vec<Effect>) {
        let pause = BACKOFF_MAX.min(BACKOFF_FIRST * 2_u32.saturating_pow(self.failures.min(16)));
        // Plus or minus a quarter, so that components broken by one cause do not start in step.
        let jitter = pause / 4 * u32::try_from(rng.below(201)).unwrap_or(100) / 100;
        self.failures = self.failures.saturating_add(1);
        self.next_try = now.mono.after(pause - pause / 4 + jitter);
        let failure = self.not_started(&problem, self.next_try.since(now.mono));
        self.problem = Some(problem);
        if !self.instances.values().any(|instance| !instance.is_leaving()) {
            self.refuse_all(&failure, out);
        }
    }

    fn exited(
        &mut self,
        id: InstanceId,
        how: String,
        log: Vec<String>,
        now: Now,
        rng: &mut Rng,
        out: &mut Vec<Effect>,
    ) {
        let Some(instance) = self.instances.remove(&id) else { return };
        if let Some(slots) = &instance.slots {
            slots.close();
        }
        out.push(Effect::Note(Some(id.clone()), None, how.clone()));
        self.ended(&instance, &how, &log, out);
        match instance.state {
            State::Starting(phase) => {
                out.push(Effect::Abandon(id.clone()));
                let reason = format!("the instance {how} before it was ready");
                self.failed(Problem { phase, reason, log, at: now.wall }, now, rng, out);
            }
            State::Ready | State::Freezing { .. } | State::Frozen | State::Thawing => {
                // Its leftovers (a container, a directory) go the same way as those of any stopped instance.
                out.push(Effect::Stop(id.clone(), Arc::clone(&instance.component)));
                if now.mono.since(instance.born.ready) < SHORT_LIFE {
                    let reason = format!("the instance {how} soon after its start");
                    self.failed(Problem { phase: Phase::Handler, reason, log, at: now.wall }, now, rng, out);
                }
            }
            State::Draining { .. } => out.push(Effect::Stop(id.clone(), Arc::clone(&instance.component))),
            State::Stopping => {}
        }
        out.push(Effect::Forget(id));
    }

    fn frozen(&mut self, id: &InstanceId, result: Result<(), String>, out: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        let State::Freezing { wake } = instance.state else { return };
        match result {
            Ok(()) if wake => {
                instance.state = State::Thawing;
                out.push(Effect::Thaw(id.clone()));
            }
            Ok(()) => {
                instance.state = State::Frozen;
                out.push(Effect::Note(Some(id.clone()), None, "frozen: unused".to_owned()));
            }
            Err(reason) => {
                instance.state = State::Ready;
                instance.unfreezable = true;
                if let Some(slots) = &instance.slots {
                    slots.open();
                }
                out.push(Effect::Note(Some(id.clone()), None, format!("could not be frozen, stays warm: {reason}")));
            }
        }
    }

    fn thawed(&mut self, id: &InstanceId, result: Result<(), String>, now: Now, out: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        let State::Thawing = instance.state else { return };
        match result {
            Ok(()) => {
                instance.state = State::Ready;
                instance.next_check = now.mono.after(instance.component.health.interval);
                if let Some(slots) = &instance.slots {
                    slots.open();
                }
                out.push(Effect::Note(Some(id.clone()), None, "thawed".to_owned()));
            }
            Err(reason) => {
                instance.state = State::Stopping;
                out.push(Effect::Note(Some(id.clone()), None, format!("could not be thawed, is replaced: {reason}")));
                instance.leave = Some(Leave::Unthawable(reason));
                out.push(Effect::Stop(id.clone(), Arc::clone(&instance.component)));
            }
        }
    }

    fn checked(&mut self, id: InstanceId, result: Result<(), String>, now: Now, out: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        instance.checking = false;
        if instance.state != State::Ready {
            return;
        }
        instance.next_check = now.mono.after(instance.component.health.interval);
        match result {
            Ok(()) => {
                if instance.is_sick() {
                    out.push(Effect::Note(Some(id), None, "health check passes again".to_owned()));
                }
                instance.failures = 0;
            }
            Err(reason) => {
                instance.failures = instance.failures.saturating_add(1);
                let of = instance.component.health.failures;
                let text = format!("health check failed, {} of {of}: {reason}", instance.failures);
                out.push(Effect::Note(Some(id), None, text));
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one fact")]
    fn found(
        &mut self,
        id: InstanceId,
        fingerprint: String,
        address: SocketAddr,
        handle: String,
        frozen: bool,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        if self.instances.contains_key(&id) {
            return;
        }
        let mut instance = Instance::starting(id.clone(), Arc::clone(&self.component), fingerprint, now);
        instance.address = Some(address);
        instance.handle = handle;
        if frozen {
            instance.state = State::Frozen;
            let slots = Slots::born(id.clone(), address, self.component.concurrency.get(), instance.born);
            slots.close();
            instance.slots = Some(Arc::new(slots));
        } else {
            instance.state = State::Starting(Phase::Ready);
            out.push(Effect::Watch(id.clone(), Arc::clone(&self.component), address));
        }
        let text = "adopted: it ran before this daemon started".to_owned();
        out.push(Effect::Note(Some(id.clone()), Some(What::Adopted), text));
        self.instances.insert(id, instance);
    }

    fn refuse_all(&mut self, failure: &Failure, out: &mut Vec<Effect>) {
        while let Some(waiter) = self.queue.pop() {
            out.push(Effect::Refuse(waiter.ticket, failure.clone()));
        }
    }
}

#[cfg(test)]
mod tests;

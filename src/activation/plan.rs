//! What has to happen now: called after each fact, it brings the instances towards what demand, definition, health and
//! idleness ask for, and says when to look again.
//!
//! Order matters and is the same each time: expire, hand out, thaw or start, replace, shrink, rest, publish.

use std::sync::Arc;
use std::time::Duration;

use super::instance::{Instance, State};
use super::scale::wanted;
use super::{Activation, Effect, LOOK_BUSY, LOOK_QUIET};
use crate::failure::{Failure, Phase};
use crate::hash::Hash64;
use crate::id::InstanceId;
use crate::model::Component;
use crate::model::component::{RestartOrder, Workload};
use crate::rng::Rng;
use crate::time::{Mono, Now};

/// The least time that a draining instance has for what it holds, however short the component's request timeout:
/// upgraded connections know no request timeout.
const DRAIN_LEAST: Duration = Duration::from_secs(60);

impl Activation {
    pub(super) fn settle(&mut self, now: Now, rng: &mut Rng, out: &mut Vec<Effect>) {
        self.expire(now.mono, out);
        self.publish();
        self.hand_out(rng, out);
        if self.removed {
            self.drain_where(now.mono, "component removed", out, |_| true);
        } else if !self.draining {
            self.grow(now, rng, out);
            self.replace(now.mono, out);
            self.shrink(now.mono, out);
            self.rest(now.mono, out);
            self.check(now.mono, out);
        }
        self.finish_drains(now.mono, out);
        self.publish();
        self.look(now.mono);
    }

    /// When to call `handle` with [`super::Fact::Tick`] at the latest.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let component = &self.component;
        let mut next = self.queue.next_deadline();
        let mut at = |moment: Mono| next = Some(next.map_or(moment, |earliest| earliest.min(moment)));
        // What was due at the last turn and could not be done then (kept as minimum, in use, at the maximum) waits for
        // the next look or the next fact: it must not make the loop spin.
        let settled = self.settled;
        if self.next_try > settled
            && (!self.queue.is_empty() || self.unmet_minimum() || self.instances.values().any(|i| self.to_replace(i)))
        {
            at(self.next_try);
        }
        for instance in self.instances.values() {
            let frozen_at = component.freeze_after.map(|after| instance.last_used().after(after));
            let stopped_at = instance.last_used().after(component.idle_timeout);
            match instance.state {
                State::Ready => {
                    at(self.next_look);
                    if !instance.checking {
                        at(instance.next_check);
                    }
                    if instance.in_flight() == 0 {
                        frozen_at.into_iter().chain([stopped_at]).filter(|&due| due > settled).for_each(&mut at);
                    }
                }
                State::Frozen if stopped_at > settled => at(stopped_at),
                State::Draining { until } if until > settled => at(until),
                State::Starting(_)
                | State::Freezing { .. }
                | State::Frozen
                | State::Thawing
                | State::Draining { .. }
                | State::Stopping => {}
            }
        }
        next
    }

    fn expire(&mut self, now: Mono, out: &mut Vec<Effect>) {
        let phase = self.waiting_phase();
        while let Some(waiter) = self.queue.pop_expired(now) {
            let failure = Failure::Deadline {
                component: self.component.name.clone(),
                phase,
                limit: waiter.deadline.since(waiter.since),
            };
            out.push(Effect::Refuse(waiter.ticket, failure));
        }
    }

    /// What those in the queue wait for: the instance that is furthest on its way, or a free slot.
    fn waiting_phase(&self) -> Phase {
        if self.instances.values().any(|instance| instance.state == State::Ready) {
            return Phase::Queue;
        }
        let phases = self.instances.values().filter_map(|instance| match instance.state {
            State::Starting(phase) => Some(phase),
            State::Ready
            | State::Freezing { .. }
            | State::Frozen
            | State::Thawing
            | State::Draining { .. }
            | State::Stopping => None,
        });
        phases.max().unwrap_or(Phase::Queue)
    }

    fn hand_out(&mut self, rng: &mut Rng, out: &mut Vec<Effect>) {
        while !self.queue.is_empty() {
            let Some(slots) = self.gate.claim_any(rng.next_u64()) else { break };
            match self.queue.pop() {
                Some(waiter) => out.push(Effect::Grant(waiter.ticket, slots)),
                None => break,
            }
        }
    }

    /// Thaws and starts what demand, minimum and replacements ask for.
    fn grow(&mut self, now: Now, rng: &mut Rng, out: &mut Vec<Effect>) {
        let demand = self.instances.values().map(Instance::in_flight).sum::<u32>().saturating_add(self.queue.len());
        self.peak.note(demand, now.mono);
        let mut want = wanted(&self.component, demand);
        let mut most = self.component.max_instances.get().min(self.component.max_per_node.get());
        let exclusive = self.is_exclusive();
        if exclusive {
            // Whatever is old or sick goes first; what follows starts when it is gone.
            self.drain_where(now.mono, "replaced", out, |plan| plan.old || plan.sick);
            if self.instances.values().any(|instance| !self.is_current(instance) || instance.is_leaving()) {
                return;
            }
        } else if self.instances.values().any(|instance| self.to_replace(instance)) {
            // A replacement may be one more than the maximum until the replaced one is gone.
            want = want.max(1);
            most += 1;
        }
        let mut awake = self.count(|instance| instance.is_awake() && !instance.is_sick());
        let mut there = self.count(|instance| !instance.is_leaving());
        let ids: Vec<InstanceId> = self.instances.keys().cloned().collect();
        for id in ids {
            if awake >= want {
                return;
            }
            let Some(instance) = self.instances.get_mut(&id) else { continue };
            if instance.fingerprint != self.fingerprint {
                continue;
            }
            match instance.state {
                State::Frozen => {
                    instance.state = State::Thawing;
                    out.push(Effect::Thaw(id));
                    awake += 1;
                }
                State::Freezing { wake: false } => {
                    instance.state = State::Freezing { wake: true };
                    awake += 1;
                }
                State::Starting(_)
                | State::Ready
                | State::Freezing { wake: true }
                | State::Thawing
                | State::Draining { .. }
                | State::Stopping => {}
            }
        }
        while awake < want && there < most && now.mono >= self.next_try {
            let id = InstanceId::new(&self.component.name, rng.next_u64());
            if self.instances.contains_key(&id) {
                continue;
            }
            let why = match self.queue.len() {
                0 => "starting".to_owned(),
                1 => "starting: 1 request waits".to_owned(),
                count => format!("starting: {count} requests wait"),
            };
            out.push(Effect::Note(Some(id.clone()), why));
            out.push(Effect::Start(id.clone(), Arc::clone(&self.component), self.fingerprint.clone()));
            let instance = Instance::starting(id.clone(), Arc::clone(&self.component), self.fingerprint.clone(), now);
            self.instances.insert(id, instance);
            awake += 1;
            there += 1;
        }
    }

    /// Lets old and sick instances go once others can take over.
    fn replace(&mut self, now: Mono, out: &mut Vec<Effect>) {
        let fresh = |instance: &Instance| instance.state == State::Ready && !instance.is_sick();
        if self.count(fresh) > 0 {
            self.drain_where(now, "replaced", out, |plan| plan.old || plan.sick);
        } else {
            // An old instance that is frozen serves nobody, and a new event should meet the new definition.
            self.drain_where(now, "replaced", out, |plan| plan.old && plan.resting);
        }
    }

    /// Gives up one instance at a time while demand stays low.
    fn shrink(&mut self, now: Mono, out: &mut Vec<Effect>) {
        let keep = wanted(&self.component, self.peak.get()).max(1);
        let ready = self.count(|instance| instance.state == State::Ready);
        if ready <= keep || !self.queue.is_empty() {
            return;
        }
        let least = self
            .instances
            .values()
            .filter(|instance| instance.state == State::Ready && self.is_current(instance))
            .min_by_key(|instance| (instance.in_flight(), instance.id.clone()))
            .map(|instance| instance.id.clone());
        if let Some(id) = least {
            self.drain_where(now, "demand is low", out, |plan| *plan.id == id);
        }
    }

    /// Freezes and stops what is unused.
    fn rest(&mut self, now: Mono, out: &mut Vec<Effect>) {
        if !self.queue.is_empty() {
            return;
        }
        let component = Arc::clone(&self.component);
        let mut ready = self.count(|instance| instance.state == State::Ready);
        let mut there = self.count(|instance| !instance.is_leaving());
        for instance in self.instances.values_mut() {
            let Some(slots) = &instance.slots else { continue };
            let unused = now.since(instance.last_used());
            let is_ready = instance.state == State::Ready;
            if !is_ready && instance.state != State::Frozen {
                continue;
            }
            if unused >= component.idle_timeout && there > component.min_instances {
                if is_ready && !slots.close_if_idle() {
                    continue;
                }
                ready -= u32::from(is_ready);
                there -= 1;
                instance.state = State::Stopping;
                out.push(Effect::Note(Some(instance.id.clone()), format!("stopping: unused for {unused:.0?}")));
                out.push(Effect::Stop(instance.id.clone(), Arc::clone(&instance.component)));
            } else if is_ready
                && !instance.unfreezable
                && component.freeze_after.is_some_and(|after| unused >= after)
                && ready > component.min_instances
                && slots.close_if_idle()
            {
                ready -= 1;
                instance.state = State::Freezing { wake: false };
                out.push(Effect::Freeze(instance.id.clone()));
            }
        }
    }

    fn check(&mut self, now: Mono, out: &mut Vec<Effect>) {
        for instance in self.instances.values_mut() {
            let Some(address) = instance.address else { continue };
            if instance.state == State::Ready && !instance.checking && now >= instance.next_check {
                instance.checking = true;
                out.push(Effect::Check(instance.id.clone(), Arc::clone(&instance.component), address));
            }
        }
    }

    fn finish_drains(&mut self, now: Mono, out: &mut Vec<Effect>) {
        for instance in self.instances.values_mut() {
            let State::Draining { until } = instance.state else { continue };
            let held = instance.in_flight();
            if held == 0 || now >= until {
                if held > 0 {
                    let text = format!("stopping although {held} requests are open: the time to drain is over");
                    out.push(Effect::Note(Some(instance.id.clone()), text));
                }
                instance.state = State::Stopping;
                out.push(Effect::Stop(instance.id.clone(), Arc::clone(&instance.component)));
            }
        }
    }

    fn drain_where(&mut self, now: Mono, why: &str, out: &mut Vec<Effect>, chosen: impl Fn(&Candidate<'_>) -> bool) {
        let until = now.after(self.component.request_timeout.max(DRAIN_LEAST));
        for instance in self.instances.values_mut() {
            let candidate = Candidate {
                id: &instance.id,
                old: instance.fingerprint != self.fingerprint,
                sick: instance.state == State::Ready && instance.is_sick(),
                resting: matches!(instance.state, State::Frozen),
            };
            if instance.is_leaving() || !chosen(&candidate) {
                continue;
            }
            if let Some(slots) = &instance.slots {
                slots.close();
            }
            out.push(Effect::Note(Some(instance.id.clone()), format!("draining: {why}")));
            if let State::Starting(_) = instance.state {
                out.push(Effect::Abandon(instance.id.clone()));
            }
            instance.state = State::Draining { until };
        }
    }

    /// Shows the data plane what is live, and how many wait.
    fn publish(&mut self) {
        let live: Vec<_> = self
            .instances
            .values()
            .filter(|instance| instance.state == State::Ready)
            .filter_map(|instance| instance.slots.clone())
            .collect();
        let shown = self.gate.live();
        if shown.len() != live.len() || !shown.iter().zip(&live).all(|(one, other)| Arc::ptr_eq(one, other)) {
            self.gate.set_live(live);
        }
        self.gate.set_waiting(self.queue.len());
        let mut sum = Hash64::default();
        for instance in self.instances.values() {
            sum.bytes(instance.id.as_str().as_bytes());
            sum.word(instance.shown() as u64);
        }
        self.sum.0 = sum.finish();
    }

    /// Sets the next look at the load: sooner while there is traffic.
    fn look(&mut self, now: Mono) {
        self.settled = now;
        if now < self.next_look {
            return;
        }
        let slots = || self.instances.values().filter_map(|instance| instance.slots.as_ref());
        let served: u64 = slots().map(|slots| slots.served()).sum();
        let busy = served != self.seen || slots().any(|slots| slots.in_flight() > 0);
        self.seen = served;
        self.next_look = now.after(if busy { LOOK_BUSY } else { LOOK_QUIET });
    }

    fn is_current(&self, instance: &Instance) -> bool {
        instance.fingerprint == self.fingerprint
    }

    /// Serves, but should be replaced by another before it goes.
    fn to_replace(&self, instance: &Instance) -> bool {
        instance.state == State::Ready && (!self.is_current(instance) || instance.is_sick())
    }

    fn unmet_minimum(&self) -> bool {
        self.count(|instance| instance.is_awake()) < self.component.min_instances
    }

    /// Counts instances of the definition in force.
    fn count(&self, such: impl Fn(&Instance) -> bool) -> u32 {
        let count = self.instances.values().filter(|instance| self.is_current(instance) && such(instance)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Whether two instances can never run side by side on this node: as the user asked, or because their ports
    /// would collide.
    fn is_exclusive(&self) -> bool {
        let Component { workload, port, network, restart_order, .. } = &*self.component;
        let fixed_port = match workload {
            Workload::Command(_) => port.is_some(),
            Workload::Image(_) => network.as_deref() == Some("host"),
        };
        fixed_port || *restart_order == RestartOrder::StopFirst
    }
}

/// What a drain may choose by.
struct Candidate<'a> {
    id: &'a InstanceId,
    old: bool,
    sick: bool,
    resting: bool,
}

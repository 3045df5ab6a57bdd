//! What has to happen now: called after each fact, it brings the instances towards what demand, definition, health and
//! idleness ask for, and says when to look again.
//!
//! Order matters and is the same each time: expire, hand out, thaw, start, replace, shrink, rest, publish.

use std::sync::Arc;
use std::time::Duration;

use super::instance::{Instance, State};
use super::leave::Leave;
use super::{Activation, Effect, LOOK_BUSY, LOOK_QUIET};
use crate::failure::{Failure, Phase};
use crate::hash::Hash64;
use crate::id::InstanceId;
use crate::model::Component;
use crate::model::component::{RestartOrder, Workload};
use crate::model::happening::What;
use crate::model::share::Share;
use crate::rng::Rng;
use crate::time::{Mono, Now};

/// The least time that a draining instance has for what it holds, however short the component's request timeout:
/// upgraded connections know no request timeout.
const DRAIN_LEAST: Duration = Duration::from_secs(60);

impl Activation {
    pub(super) fn settle(&mut self, now: Now, free: u64, rng: &mut Rng, out: &mut Vec<Effect>) {
        self.short = None;
        self.expire(now.mono, out);
        self.lapse(now.mono, out);
        self.publish();
        self.hand_out(rng, out);
        self.divert(out);
        if self.removed {
            self.drain_where(now.mono, &Leave::Removed, out, |_| true);
        } else if !self.draining {
            self.grow(now, free, rng, out);
            self.replace(now.mono, out);
            self.shrink(now.mono, out);
            self.rest(now.mono, out);
            self.check(now.mono, out);
        }
        self.finish_drains(now.mono, out);
        self.claim(out);
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
        self.consent_ends().filter(|due| *due > settled).into_iter().for_each(&mut at);
        if self.next_try > settled
            && (!self.queue.is_empty()
                || self.is_short_of_its_share()
                || self.instances.values().any(|i| self.to_replace(i)))
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

    /// Sends on what waits here and could be taken elsewhere at once.
    fn divert(&mut self, out: &mut Vec<Effect>) {
        while self.away < self.share.room_elsewhere {
            let Some(waiter) = self.queue.pop_movable() else { return };
            self.away += 1;
            out.push(Effect::Refuse(waiter.ticket, Failure::Elsewhere(self.component.name.clone())));
        }
    }

    /// Thaws and starts what demand, the plan and replacements ask for.
    fn grow(&mut self, now: Now, free: u64, rng: &mut Rng, out: &mut Vec<Effect>) {
        if !self.has_consent(now.mono) {
            return;
        }
        if self.is_exclusive() {
            if !self.is_held() {
                // Whatever is old or sick goes first; what follows starts when it is gone.
                self.drain_where(now.mono, &Leave::Replaced, out, |plan| plan.old || plan.sick);
            }
            if self.instances.values().any(|instance| !self.is_current(instance) || instance.is_leaving()) {
                return;
            }
        }
        self.wake(out);
        self.start(now, free, rng, out);
    }

    /// Thaws what the events that are here need, and what is always warm.
    fn wake(&mut self, out: &mut Vec<Effect>) {
        let demand = self.instances.values().map(Instance::in_flight).sum::<u32>().saturating_add(self.queue.len());
        let want = demand.div_ceil(self.component.concurrency_target.get()).max(self.share.warm);
        let mut awake = self.count(|instance| instance.is_awake() && !instance.is_sick());
        for (id, instance) in &mut self.instances {
            if awake >= want {
                return;
            }
            if instance.fingerprint != self.fingerprint {
                continue;
            }
            match instance.state {
                State::Frozen => {
                    instance.state = State::Thawing;
                    out.push(Effect::Thaw(id.clone()));
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
    }

    /// Starts what is missing of this node's share. An event that waits here without any instance gets one at once: it
    /// was sent here because the plan would put one here, and the plan follows.
    fn start(&mut self, now: Now, free: u64, rng: &mut Rng, out: &mut Vec<Effect>) {
        let want = self.meant();
        let mut there = self.present();
        let mut free = free;
        let reserve = self.component.memory_reserve;
        while there < want && now.mono >= self.next_try {
            if reserve > free {
                self.short = Some(reserve);
                return;
            }
            let id = InstanceId::new(&self.component.name, rng.next_u64());
            if self.instances.contains_key(&id) {
                continue;
            }
            let replaces = self.instances.values().any(|instance| self.to_replace(instance));
            let why = match self.queue.len() {
                0 if replaces => "starting: in place of one that is to be replaced".to_owned(),
                0 => format!("starting: {want} wanted on this node"),
                1 => "starting: 1 request waits".to_owned(),
                count => format!("starting: {count} requests wait"),
            };
            out.push(Effect::Note(Some(id.clone()), Some(What::Starting), why));
            out.push(Effect::Start(id.clone(), Arc::clone(&self.component), self.fingerprint.clone()));
            let instance = Instance::starting(id.clone(), Arc::clone(&self.component), self.fingerprint.clone(), now);
            self.instances.insert(id, instance);
            free -= reserve;
            there += 1;
        }
    }

    /// How many instances of the definition in force are to be here.
    fn meant(&self) -> u32 {
        if self.is_strict() {
            // What waits raises the demand, and the plan says where the one instance is.
            return self.share.count.min(1);
        }
        let replaces = self.share.placed == 0
            && !self.is_held()
            && self.instances.values().any(|instance| self.to_replace(instance));
        let is_asked =
            !self.queue.is_empty() && !self.instances.values().any(|instance| instance.state == State::Ready);
        self.share.count.max(u32::from(replaces || is_asked))
    }

    /// Whether old instances stay for now: it is not this node's turn, or the plan has not heard of the new definition.
    pub(super) fn is_held(&self) -> bool {
        let of = crate::hash::hash64(self.fingerprint.as_bytes()).max(1);
        self.share.hold || (self.share.of != 0 && self.share.of != of)
    }

    /// How many count for that. Before it is this node's turn old ones count as well.
    fn present(&self) -> u32 {
        let is_held = self.is_held();
        let held = |instance: &&Instance| is_held && instance.state == State::Ready && !self.is_current(instance);
        let held = u32::try_from(self.instances.values().filter(held).count()).unwrap_or(u32::MAX);
        self.count(|instance| !instance.is_leaving() && !instance.is_sick()).saturating_add(held)
    }

    /// Lets old and sick instances go, one for each that took over.
    fn replace(&mut self, now: Mono, out: &mut Vec<Effect>) {
        if self.is_held() {
            return;
        }
        // An old instance that is frozen or still starts serves nobody, and a new event should meet the new definition.
        self.drain_where(now, &Leave::Replaced, out, |plan| plan.old && (plan.resting || plan.starting));
        let outdated = |instance: &&Instance| self.to_replace(instance);
        let replaced = u32::try_from(self.instances.values().filter(outdated).count()).unwrap_or(u32::MAX);
        if replaced == 0 {
            return;
        }
        let fresh = self.count(|instance| instance.state == State::Ready && !instance.is_sick());
        let spare = if self.share.count == 0 && self.share.placed > 0 {
            // Its place is elsewhere now.
            (fresh + replaced + self.share.serving_elsewhere).saturating_sub(self.share.placed)
        } else {
            (fresh + replaced).saturating_sub(self.meant())
        };
        self.drain_some(spare, now, &Leave::Replaced, out, |this, instance| this.to_replace(instance));
    }

    /// Gives up what is beyond this node's share, as soon as it is not missed.
    fn shrink(&mut self, now: Mono, out: &mut Vec<Effect>) {
        let Share { count, placed, serving_elsewhere, leave, .. } = self.share;
        if leave && self.queue.is_empty() {
            self.drain_where(now, &Leave::NodeEmptied, out, |plan| plan.resting);
        }
        // What nobody wants stays as it is until it was unused for long enough: it may be wanted again.
        if placed == 0 && !leave {
            return;
        }
        if self.is_strict() && count == 0 && placed > 0 {
            // There it starts when nothing is left here.
            return self.drain_where(now, &Leave::Elsewhere, out, |_| true);
        }
        let ready = self.count(|instance| instance.state == State::Ready);
        let serving = self.instances.values().filter(|instance| instance.state == State::Ready).count();
        let serving = u32::try_from(serving).unwrap_or(u32::MAX).saturating_add(serving_elsewhere);
        let spare = ready.saturating_sub(count).min(serving.saturating_sub(placed));
        if spare == 0 || (!self.queue.is_empty() && !leave) {
            return;
        }
        let why = match (leave, count) {
            (true, _) => Leave::NodeEmptied,
            (false, 0) => Leave::Elsewhere,
            (false, _) => Leave::LowDemand,
        };
        self.drain_some(spare, now, &why, out, |this, instance| this.is_current(instance));
    }

    /// Drains up to so many of these that are ready, the sick ones and those with the fewest events first.
    fn drain_some(
        &mut self,
        some: u32,
        now: Mono,
        why: &Leave,
        out: &mut Vec<Effect>,
        these: impl Fn(&Self, &Instance) -> bool,
    ) {
        if some == 0 {
            return;
        }
        let ready = self.instances.values().filter(|instance| instance.state == State::Ready && these(self, instance));
        let mut order: Vec<_> = ready.map(|i| (!i.is_sick(), i.in_flight(), i.id.clone())).collect();
        order.sort();
        order.truncate(some as usize);
        self.drain_where(now, why, out, |plan| order.iter().any(|(_, _, id)| id == plan.id));
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
            if unused >= component.idle_timeout && there > self.share.count {
                if is_ready && !slots.close_if_idle() {
                    continue;
                }
                ready -= u32::from(is_ready);
                there -= 1;
                instance.state = State::Stopping;
                let why = Leave::Unused(unused);
                out.push(Effect::Note(Some(instance.id.clone()), None, format!("stopping: {why}")));
                instance.leave = Some(why);
                out.push(Effect::Stop(instance.id.clone(), Arc::clone(&instance.component)));
            } else if is_ready
                && !instance.unfreezable
                && component.freeze_after.is_some_and(|after| unused >= after)
                && ready > self.share.warm
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
                    out.push(Effect::Note(Some(instance.id.clone()), None, text));
                }
                instance.state = State::Stopping;
                out.push(Effect::Stop(instance.id.clone(), Arc::clone(&instance.component)));
            }
        }
    }

    pub(super) fn drain_where(
        &mut self,
        now: Mono,
        why: &Leave,
        out: &mut Vec<Effect>,
        chosen: impl Fn(&Candidate<'_>) -> bool,
    ) {
        let until = now.after(self.component.request_timeout.max(DRAIN_LEAST));
        for instance in self.instances.values_mut() {
            let candidate = Candidate {
                id: &instance.id,
                old: instance.fingerprint != self.fingerprint,
                sick: instance.state == State::Ready && instance.is_sick(),
                resting: matches!(instance.state, State::Frozen),
                starting: matches!(instance.state, State::Starting(_)),
            };
            if instance.is_leaving() || !chosen(&candidate) {
                continue;
            }
            if let Some(slots) = &instance.slots {
                slots.close();
            }
            let is_sick = *why == Leave::Replaced && candidate.sick && !candidate.old;
            let why = if is_sick { Leave::Sick } else { why.clone() };
            let what = match () {
                () if why.is_move() => Some(What::Moved),
                // Its end follows at once.
                () if instance.in_flight() == 0 => None,
                () => Some(What::Draining),
            };
            out.push(Effect::Note(Some(instance.id.clone()), what, format!("draining: {why}")));
            instance.leave = Some(why);
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

    fn is_short_of_its_share(&self) -> bool {
        self.present() < self.meant()
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
pub(super) struct Candidate<'a> {
    pub(super) id: &'a InstanceId,
    old: bool,
    sick: bool,
    resting: bool,
    starting: bool,
}

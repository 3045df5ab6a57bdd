//! One world: machines, the words between them, instances that take time to start, requests, and what befalls it all.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use maelstrom::activation::queue::Waiter;
use maelstrom::activation::{Effect, Fact};
use maelstrom::failure::Failure;
use maelstrom::hash::Hash64;
use maelstrom::id::{ComponentName, InstanceId, NodeId};
use maelstrom::model::Component;
use maelstrom::node::Input;
use maelstrom::placement::way::Choice;
use maelstrom::placement::{Duty, Engine, Node, Presence};
use maelstrom::rng::Rng;
use maelstrom::slots::Slots;
use maelstrom::time::{Mono, Now, Wall};

use crate::machine::{Machine, Word};

const MIB: u64 = 1 << 20;
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// How long things go wrong, and how long it is quiet afterwards: longer than the window, the idle timeout of every
/// component, and the longest request after another.
const TROUBLE: Duration = Duration::from_secs(90);
const QUIET: Duration = Duration::from_secs(300);

/// How long a word is on its way. Sheets are gathered for 10 ms, and never overtake each other.
const WORD: Duration = Duration::from_millis(12);

/// What happened at least once; a world that never gets there proves nothing about it.
#[derive(Debug, Default, Clone)]
pub struct Seen(BTreeMap<&'static str, u64>);

/// What has to happen in some world.
pub const ALL: [&str; 9] =
    ["answered", "hop", "sent elsewhere", "no room", "evicted", "crash", "return", "drain", "several nodes"];

impl Seen {
    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    pub fn note(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// What of this never happened.
    pub fn blind(&self, all: &[&'static str]) -> Vec<&'static str> {
        all.iter().copied().filter(|what| !self.0.contains_key(what)).collect()
    }
}

#[derive(Debug, Clone)]
struct Request {
    component: ComponentName,
    entrance: NodeId,
    avoid: Vec<NodeId>,
    takes: Duration,
    turns: u32,
    stays: bool,
    /// Sent elsewhere by the core of this node.
    sent_by: Option<NodeId>,
}

enum Event {
    Hears(NodeId, NodeId, u64, Vec<Word>),
    Sees(NodeId, NodeId),
    Arrives(Request),
    Hops(Request, NodeId),
    Ends(NodeId, u64, Arc<Slots>, Request),
    Fact(NodeId, u64, ComponentName, Fact),
    Tick(NodeId),
    Befalls,
}

struct Host {
    machine: Option<Machine>,
    /// Of the process: what was meant for an earlier one is lost.
    life: u64,
    waiting: BTreeMap<u64, Request>,
    capacity: u64,
    duty: Duty,
}

pub struct World {
    now: Mono,
    events: BTreeMap<(Mono, u64), Event>,
    count: u64,
    hosts: BTreeMap<NodeId, Host>,
    components: Vec<Arc<Component>>,
    rng: Rng,
    seen: Seen,
    trace: Hash64,
    asked: u64,
    ended: u64,
    lost: u64,
}

impl World {
    /// The hash of all that happened, and what was seen.
    ///
    /// # Errors
    /// What does not hold.
    pub fn run(seed: u64) -> Result<(u64, Seen), String> {
        let mut rng = Rng::from_seed(seed);
        let components: Vec<_> = (0..2 + rng.below(6)).map(|index| component(index, &mut rng)).collect();
        let mut world = Self {
            now: Mono(0),
            events: BTreeMap::new(),
            count: 0,
            hosts: BTreeMap::new(),
            components,
            rng,
            seen: Seen::default(),
            trace: Hash64::default(),
            asked: 0,
            ended: 0,
            lost: 0,
        };
        for index in 0..2 + world.rng.below(5) {
            let capacity = (150 + world.rng.below(600)) * MIB;
            let host = Host { machine: None, life: 0, waiting: BTreeMap::new(), capacity, duty: Duty::Active };
            world.hosts.insert(NodeId(index + 1), host);
        }
        let ids: Vec<NodeId> = world.hosts.keys().copied().collect();
        ids.iter().for_each(|id| world.boot(*id));
        world.after(MS * 300, Event::Befalls);
        world.until(Mono(0).after(TROUBLE))?;
        world.mend();
        world.until(Mono(0).after(TROUBLE + QUIET))?;
        world.judge()?;
        Ok((world.trace.finish(), world.seen))
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.count += 1;
        self.events.insert((self.now.after(delay), self.count), event);
    }

    fn until(&mut self, end: Mono) -> Result<(), String> {
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((at, number), event) = entry.remove_entry();
            self.now = at;
            self.trace.word(at.0 ^ number);
            self.take(event)?;
        }
        self.now = end;
        Ok(())
    }

    fn clock(&self) -> Now {
        Now { mono: self.now, wall: Wall(self.now.0 / 1_000_000) }
    }

    fn delay(&mut self, least: u64, most: u64) -> Duration {
        MS * u32::try_from(least + self.rng.below(most - least + 1)).unwrap_or(1)
    }

    fn take(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Hears(to, from, life, words) => {
                let is_there = self.hosts[&from].machine.is_some() && self.hosts[&from].life == life;
                if let Some(machine) = self.machine(to).filter(|_| is_there) {
                    words.iter().for_each(|word| machine.hear((from, life), word));
                    return self.settle(to);
                }
            }
            Event::Sees(to, about) => {
                let nodes = self.nodes();
                let (is_gone, life) = (self.hosts[&about].machine.is_none(), self.hosts[&about].life);
                if let Some(machine) = self.machine(to) {
                    if is_gone || machine.is_another_life(about, life) {
                        machine.forget(about);
                    }
                    machine.see(&nodes, true);
                    return self.settle(to);
                }
            }
            Event::Arrives(request) => return self.arrive(request),
            Event::Hops(request, to) => return self.hop(request, to),
            Event::Ends(node, life, slots, request) => {
                let now = self.clock();
                if self.hosts[&node].life != life {
                    self.lost += 1;
                    self.done(&request);
                    return Ok(());
                }
                slots.release(now.mono);
                self.ended += 1;
                self.seen.note("answered");
                self.done(&request);
                if let Some(machine) = self.machine(node) {
                    machine.fact(&request.component, Fact::Freed, now);
                    return self.settle(node);
                }
            }
            Event::Fact(node, life, name, fact) => {
                let now = self.clock();
                if self.hosts[&node].life == life
                    && let Some(machine) = self.machine(node)
                {
                    machine.fact(&name, fact, now);
                    return self.settle(node);
                }
            }
            Event::Tick(node) => {
                let now = self.clock();
                if let Some(machine) =
                    self.machine(node).filter(|machine| machine.due().is_some_and(|due| due <= now.mono))
                {
                    machine.core.handle(Input::Tick, now);
                    return self.settle(node);
                }
            }
            Event::Befalls => return self.befall(),
        }
        Ok(())
    }

    fn machine(&mut self, node: NodeId) -> Option<&mut Machine> {
        self.hosts.get_mut(&node)?.machine.as_mut()
    }

    fn nodes(&self) -> BTreeMap<NodeId, Node> {
        let node = |(id, host): (&NodeId, &Host)| {
            let mib = u32::try_from(host.capacity / MIB).unwrap_or(u32::MAX);
            let node = Node {
                name: format!("n{}", id.0).parse().expect("a name"),
                presence: if host.machine.is_some() { Presence::Alive } else { Presence::Down },
                duty: host.duty,
                capacity: host.capacity,
                weight: NonZeroU32::new(mib).expect("some memory"),
                labels: BTreeMap::new(),
                engines: [Engine::Process].into(),
            };
            (*id, node)
        };
        self.hosts.iter().map(node).collect()
    }

    /// Everybody sees, at a moment of their own, how a node is now.
    fn spread(&mut self, about: NodeId, (least, most): (u64, u64)) {
        let ids: Vec<NodeId> = self.hosts.keys().copied().collect();
        for id in ids {
            let delay = self.delay(least, most);
            self.after(delay, Event::Sees(id, about));
        }
    }

    fn boot(&mut self, id: NodeId) {
        let (rng, components) = (Rng::from_seed(self.rng.next_u64()), self.components.clone());
        let Some(host) = self.hosts.get_mut(&id) else { return };
        host.life += 1;
        host.machine = Some(Machine::new(id, host.capacity, &components, rng));
        self.spread(id, (1, 30));
        // They tell each other everything.
        let others: Vec<NodeId> = self.hosts.keys().copied().filter(|other| *other != id).collect();
        for other in others {
            let Some(words) = self.machine(other).map(|machine| machine.everything()) else { continue };
            let life = self.hosts[&other].life;
            self.after(WORD, Event::Hears(id, other, life, words));
        }
    }

    fn crash(&mut self, id: NodeId) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        host.machine = None;
        host.life += 1;
        let waiting = std::mem::take(&mut host.waiting);
        self.lost += waiting.len() as u64;
        waiting.values().for_each(|request| self.done(request));
        self.spread(id, (100, 1500));
    }

    fn befall(&mut self) -> Result<(), String> {
        if self.now >= Mono(0).after(TROUBLE) {
            return Ok(());
        }
        let pause = self.delay(1, 400);
        self.after(pause, Event::Befalls);
        let ids: Vec<NodeId> = self.hosts.keys().copied().collect();
        let id = ids[self.rng.below(ids.len() as u64) as usize];
        let is_up = self.hosts[&id].machine.is_some();
        match self.rng.below(60) {
            0 if is_up && self.hosts.values().filter(|host| host.machine.is_some()).count() > 1 => {
                self.seen.note("crash");
                self.crash(id);
            }
            1..=3 if !is_up => {
                self.seen.note("return");
                self.boot(id);
            }
            4 => {
                self.seen.note("drain");
                let duty = [Duty::Active, Duty::Draining, Duty::Cordoned][self.rng.below(3) as usize];
                self.set_duty(id, duty);
            }
            _ => {
                let burst = 1 + self.rng.below(40) * self.rng.below(2);
                let index = self.rng.below(self.components.len() as u64) as usize;
                let longest = if self.rng.below(10) == 0 { 20_000 } else { 400 };
                let takes = self.delay(1, longest);
                for _ in 0..burst {
                    let entrance = ids[self.rng.below(ids.len() as u64) as usize];
                    let component = self.components[index].name.clone();
                    let request = Request {
                        component,
                        entrance,
                        avoid: Vec::new(),
                        takes,
                        turns: 0,
                        stays: false,
                        sent_by: None,
                    };
                    if self.hosts[&entrance].machine.is_some() {
                        self.asked += 1;
                        let delay = self.delay(0, 20);
                        self.after(delay, Event::Arrives(request));
                    }
                }
            }
        }
        Ok(())
    }

    fn set_duty(&mut self, id: NodeId, duty: Duty) {
        if let Some(host) = self.hosts.get_mut(&id) {
            host.duty = duty;
        }
        self.spread(id, (1, 30));
    }

    /// Everything is well again, and nobody asks for anything.
    fn mend(&mut self) {
        let ids: Vec<NodeId> = self.hosts.keys().copied().collect();
        for id in ids {
            if self.hosts[&id].machine.is_none() {
                self.boot(id);
            }
            self.set_duty(id, Duty::Active);
        }
    }

    fn arrive(&mut self, mut request: Request) -> Result<(), String> {
        let entrance = request.entrance;
        let Some(machine) = self.machine(entrance) else {
            self.lost += 1;
            self.done(&request);
            return Ok(());
        };
        if request.avoid.len() < 3 {
            if let Some(slots) = machine.claim(&request.component) {
                self.begin(entrance, slots, request);
                return self.settle(entrance);
            }
            if let Choice::There(node) = machine.way(&request.component, &request.avoid, request.sent_by.is_some()) {
                request.avoid.push(node);
                self.seen.note("hop");
                let delay = self.delay(0, 3);
                self.after(delay, Event::Hops(request, node));
                return Ok(());
            }
        }
        let stays = request.sent_by.is_some() || request.avoid.len() >= 3;
        self.done(&request);
        request.sent_by = None;
        self.wait(entrance, request, stays)
    }

    fn hop(&mut self, request: Request, to: NodeId) -> Result<(), String> {
        let Some(machine) = self.machine(to) else {
            // The stream is refused: the next one.
            self.after(MS, Event::Arrives(request));
            return Ok(());
        };
        match machine.claim(&request.component) {
            Some(slots) => {
                self.begin(to, slots, request);
                self.settle(to)
            }
            None => self.wait(to, request, false),
        }
    }

    fn begin(&mut self, node: NodeId, slots: Arc<Slots>, request: Request) {
        let life = self.hosts[&node].life;
        self.after(request.takes, Event::Ends(node, life, slots, request));
    }

    fn wait(&mut self, node: NodeId, mut request: Request, stays: bool) -> Result<(), String> {
        request.stays = stays;
        let now = self.clock();
        let Some(machine) = self.machine(node) else { return Ok(()) };
        if !machine.could_hold(&request.component) {
            return self.refused(node, request, false);
        }
        let (name, deadline) = (request.component.clone(), now.mono.after(SECOND * 60));
        self.count += 1;
        let ticket = self.count;
        if let Some(host) = self.hosts.get_mut(&node) {
            host.waiting.insert(ticket, request);
        }
        if let Some(machine) = self.machine(node) {
            machine.fact(&name, Fact::Wait(Waiter { ticket, since: now.mono, deadline, bytes: 1, stays }), now);
        }
        self.settle(node)
    }

    /// The core that sent it elsewhere hears that it is done.
    fn done(&mut self, request: &Request) {
        if let Some(by) = request.sent_by {
            let life = self.hosts[&by].life;
            self.after(MS, Event::Fact(by, life, request.component.clone(), Fact::Returned));
        }
    }

    /// The answer of a node that does not take it: its entrance looks for another, or gives up.
    fn refused(&mut self, by: NodeId, mut request: Request, is_final: bool) -> Result<(), String> {
        if !is_final && by != request.entrance {
            self.done(&request);
            request.sent_by = None;
            self.after(MS, Event::Arrives(request));
            return Ok(());
        }
        if !is_final && request.sent_by == Some(by) && request.turns < 3000 {
            request.turns += 1;
            // Where it could only wait it begins anew after a while, as the proxy does.
            let pause = if request.stays { MS * 20 } else { Duration::ZERO };
            if request.stays {
                request.avoid.clear();
                self.done(&request);
                request.sent_by = None;
            }
            self.after(pause, Event::Arrives(request));
            return Ok(());
        }
        self.ended += 1;
        self.done(&request);
        Ok(())
    }

    fn settle(&mut self, node: NodeId) -> Result<(), String> {
        let now = self.clock();
        let Some(machine) = self.machine(node) else { return Ok(()) };
        let mut todo: VecDeque<_> = machine.settle(now).into();
        let words = machine.words();
        let (totals, capacity, due) = (machine.core.totals(), machine.core.capacity(), machine.due());
        if totals.reserved > capacity {
            return Err(format!("node {node} handed out {} of {capacity} at {:?}", totals.reserved, self.now));
        }
        let life = self.hosts[&node].life;
        if !words.is_empty() {
            let ids: Vec<NodeId> = self.hosts.keys().copied().filter(|id| *id != node).collect();
            for id in ids {
                self.after(WORD, Event::Hears(id, node, life, words.clone()));
            }
        }
        if let Some(due) = due {
            let wait = due.since(self.now).max(Duration::from_nanos(1));
            self.after(wait, Event::Tick(node));
        }
        while let Some((name, effect)) = todo.pop_front() {
            self.carry_out(node, life, name, effect)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, node: NodeId, life: u64, name: ComponentName, effect: Effect) -> Result<(), String> {
        let later = |world: &mut Self, delay: Duration, fact: Fact| {
            world.after(delay, Event::Fact(node, life, name.clone(), fact));
        };
        match effect {
            Effect::Start(id, ..) => {
                let (started, ready) = (self.delay(1, 50), self.delay(50, 900));
                if self.rng.below(50) == 0 {
                    let failed = Fact::StartFailed {
                        id,
                        phase: maelstrom::failure::Phase::Start,
                        reason: "it does not start".into(),
                        log: Vec::new(),
                    };
                    later(self, ready, failed);
                } else {
                    let address = ([127, 0, 0, 1], 1).into();
                    later(self, started, Fact::Started(id.clone(), address, "1".into()));
                    later(self, ready, Fact::Ready(id));
                }
            }
            Effect::Stop(id, _) => {
                let delay = self.delay(1, 300);
                later(self, delay, Fact::Stopped(id, Ok(())));
            }
            Effect::Freeze(id) => later(self, MS, Fact::Frozen(id, Ok(()))),
            Effect::Thaw(id) => later(self, MS, Fact::Thawed(id, Ok(()))),
            Effect::Check(id, ..) => later(self, MS, Fact::Checked(id, Ok(()))),
            Effect::Grant(ticket, slots) => {
                match self.hosts.get_mut(&node).and_then(|host| host.waiting.remove(&ticket)) {
                    Some(request) => self.begin(node, slots, request),
                    None => return Err(format!("node {node} granted a ticket twice")),
                }
            }
            Effect::Refuse(ticket, failure) => {
                let Some(mut request) = self.hosts.get_mut(&node).and_then(|host| host.waiting.remove(&ticket)) else {
                    return Err(format!("node {node} refused a ticket twice"));
                };
                if matches!(failure, Failure::NoRoom { .. }) {
                    self.seen.note("no room");
                }
                if matches!(failure, Failure::Elsewhere(_)) {
                    self.seen.note("sent elsewhere");
                    if node == request.entrance {
                        self.done(&request);
                        request.sent_by = Some(node);
                    } else {
                        later(self, MS * 20, Fact::Returned);
                    }
                }
                let is_final = matches!(failure, Failure::Deadline { .. } | Failure::QueueFull { .. });
                return self.refused(node, request, is_final);
            }
            Effect::Note(_, _, text) if text.contains("needs its memory") => self.seen.note("evicted"),
            Effect::Claim(_)
            | Effect::Watch(..)
            | Effect::Abandon(_)
            | Effect::Note(..)
            | Effect::Forget(_)
            | Effect::Discard(_) => {}
        }
        Ok(())
    }

    /// It was quiet for long: what runs is what is wanted.
    fn judge(&mut self) -> Result<(), String> {
        let waiting: usize = self.hosts.values().map(|host| host.waiting.len()).sum();
        if self.asked != self.ended + self.lost || waiting > 0 {
            let (asked, ended, lost) = (self.asked, self.ended, self.lost);
            return Err(format!("{asked} requests, {ended} ended, {lost} lost with their node, {waiting} wait"));
        }
        let mut instances: BTreeMap<ComponentName, BTreeMap<NodeId, Vec<InstanceId>>> = BTreeMap::new();
        for (id, host) in &self.hosts {
            let Some(machine) = &host.machine else { continue };
            for one in machine.core.iter() {
                let ids: Vec<InstanceId> = one.instances().map(|shown| shown.id).collect();
                if !ids.is_empty() {
                    instances.entry(one.component().name.clone()).or_default().insert(*id, ids);
                }
            }
        }
        let total: u64 = self.hosts.values().map(|host| host.capacity).sum();
        let needed: u64 = self.components.iter().map(|one| u64::from(one.min_instances) * one.memory_reserve).sum();
        for component in &self.components {
            let there = instances.get(&component.name);
            let count: usize = there.into_iter().flat_map(BTreeMap::values).map(Vec::len).sum();
            let min = component.min_instances as usize;
            if there.is_some_and(|there| there.len() > 1) {
                self.seen.note("several nodes");
            }
            // Where memory is short not all minimums have a place.
            if count > min || (count < min && needed * 2 < total) {
                let all = self.hosts.iter().filter_map(|(id, host)| Some((id, host.machine.as_ref()?)));
                let views: Vec<_> =
                    all.map(|(id, machine)| format!("{id}: {}", machine.view(&component.name))).collect();
                let name = &component.name;
                return Err(format!("{name} has {count} instances, and {min} are wanted\n  {}", views.join("\n  ")));
            }
        }
        Ok(())
    }
}

fn component(index: u64, rng: &mut Rng) -> Arc<Component> {
    let min = if rng.below(4) == 0 { 1 + rng.below(2) } else { 0 };
    let document = serde_json::json!({
        "command": ["serve"],
        "memory": format!("{}MiB", [16, 64, 100, 128][rng.below(4) as usize]),
        "concurrency": 1 + rng.below(10),
        "instances": {"min": min, "max": min.max(1 + rng.below(8))},
        "idle": {"freeze": "3s", "stop": format!("{}s", 5 + rng.below(40))},
        "queue": 500,
    });
    let name = format!("component-{index}").parse().expect("a name");
    Arc::new(Component::parse(&name, &document).expect("a component"))
}

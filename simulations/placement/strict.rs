//! One world of strict singletons: machines whose words, views and votes are lost where the network is cut, one way or
//! both, machines that crash and return, clocks that do not run alike, stops that take as long as they may. There are
//! never two instances of one component, and when all is well again there is one.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use maelstrom::activation::queue::Waiter;
use maelstrom::activation::{Effect, Fact};
use maelstrom::hash::Hash64;
use maelstrom::id::{ComponentName, InstanceId, NodeId};
use maelstrom::model::Component;
use maelstrom::node::Input;
use maelstrom::placement::lease::{Answer, Ask, HOLD, TERM};
use maelstrom::placement::way::Choice;
use maelstrom::placement::{Duty, Engine, Node, Presence};
use maelstrom::rng::Rng;
use maelstrom::slots::Slots;
use maelstrom::time::{Mono, Now, Wall};

use crate::machine::{Machine, Word};
use crate::world::Seen;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// How long things go wrong, and then all is well: longer than a vote, a stop and the slowest view together.
const TROUBLE: Duration = Duration::from_secs(240);
const QUIET: Duration = Duration::from_secs(90);

/// A process that is killed is gone within this.
const KILL: u64 = 500;

/// What has to happen in some world.
pub const ALL: [&str; 8] =
    ["started", "moved", "lapsed", "killed by its guard", "crash", "cut", "one-way cut", "answered"];

enum Event {
    Hears(NodeId, NodeId, u64, Vec<Word>),
    Sees(NodeId, NodeId),
    Asks(NodeId, NodeId, u64, Ask),
    Answers(NodeId, NodeId, u64, u64, Answer),
    Fact(NodeId, u64, ComponentName, Fact),
    Gone(InstanceId),
    Guards(NodeId, ComponentName),
    Ends(NodeId, u64, ComponentName, Arc<Slots>),
    Tick(NodeId),
    Boots(NodeId),
    Befalls,
}

struct Host {
    machine: Option<Machine>,
    life: u64,
    duty: Duty,
    /// How fast its clock runs, of 1,000.
    rate: u64,
    /// Whom it sees, as it was last told.
    sees: BTreeMap<NodeId, Presence>,
}

pub struct World {
    now: Mono,
    events: BTreeMap<(Mono, u64), Event>,
    count: u64,
    hosts: BTreeMap<NodeId, Host>,
    components: Vec<Arc<Component>>,
    /// Nothing passes from the first to the second.
    cuts: BTreeSet<(NodeId, NodeId)>,
    /// What runs, from the order to start it to its last moment, and where.
    alive: BTreeMap<InstanceId, NodeId>,
    /// Of these, what has been asked to stop.
    stopping: BTreeSet<InstanceId>,
    /// Until when a guard lets live what takes its time to stop, on the clock of its node.
    guarded: BTreeMap<(NodeId, ComponentName), Mono>,
    last: BTreeMap<ComponentName, NodeId>,
    rng: Rng,
    seen: Seen,
    trace: Hash64,
}

impl World {
    /// The hash of all that happened, and what was seen.
    ///
    /// # Errors
    /// What does not hold.
    pub fn run(seed: u64) -> Result<(u64, Seen), String> {
        let mut rng = Rng::from_seed(seed);
        let components: Vec<_> = (0..1 + rng.below(3)).map(|index| component(index, &mut rng)).collect();
        let hosts = (0..3 + rng.below(3)).map(|index| {
            let rate = 980 + rng.below(41);
            let host = Host { machine: None, life: 0, duty: Duty::Active, rate, sees: BTreeMap::new() };
            (NodeId(index + 1), host)
        });
        let mut world = Self {
            now: Mono(1),
            events: BTreeMap::new(),
            count: 0,
            hosts: hosts.collect(),
            components,
            cuts: BTreeSet::new(),
            alive: BTreeMap::new(),
            stopping: BTreeSet::new(),
            guarded: BTreeMap::new(),
            last: BTreeMap::new(),
            rng,
            seen: Seen::default(),
            trace: Hash64::default(),
        };
        world.ids().into_iter().for_each(|id| world.boot(id));
        world.after(SECOND, Event::Befalls);
        world.until(Mono(1).after(TROUBLE))?;
        world.mend();
        world.until(Mono(1).after(TROUBLE + QUIET))?;
        world.judge()?;
        Ok((world.trace.finish(), world.seen))
    }

    fn ids(&self) -> Vec<NodeId> {
        self.hosts.keys().copied().collect()
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.count += 1;
        self.events.insert((self.now.after(delay), self.count), event);
    }

    fn delay(&mut self, least: u64, most: u64) -> Duration {
        MS * u32::try_from(least + self.rng.below(most - least + 1)).unwrap_or(1)
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

    /// The clock of a node.
    fn clock(&self, node: NodeId) -> Now {
        let mono = u128::from(self.now.0) * u128::from(self.hosts[&node].rate) / 1000;
        Now { mono: Mono(u64::try_from(mono).unwrap_or(u64::MAX)), wall: Wall(self.now.0 / 1_000_000) }
    }

    fn passes(&self, from: NodeId, to: NodeId) -> bool {
        !self.cuts.contains(&(from, to))
    }

    fn lives(&self, node: NodeId, life: u64) -> bool {
        self.hosts[&node].machine.is_some() && self.hosts[&node].life == life
    }

    fn machine(&mut self, node: NodeId) -> Option<&mut Machine> {
        self.hosts.get_mut(&node)?.machine.as_mut()
    }

    fn take(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Hears(to, from, life, words) => {
                if !self.lives(from, life) || !self.passes(from, to) {
                    return Ok(());
                }
                if let Some(machine) = self.machine(to) {
                    words.iter().for_each(|word| machine.hear((from, life), word));
                    return self.settle(to);
                }
            }
            Event::Sees(to, about) => return self.see(to, about),
            Event::Asks(to, from, life, ask) => {
                let now = self.clock(to).mono;
                if self.passes(from, to)
                    && let Some(machine) = self.machine(to)
                {
                    let answer = machine.leases.handle_ask(from, &ask, now);
                    let delay = self.delay(1, 400);
                    self.after(delay, Event::Answers(from, to, life, ask.number.1, answer));
                }
            }
            Event::Answers(to, from, life, number, answer) => {
                if self.lives(to, life)
                    && self.passes(from, to)
                    && let Some(machine) = self.machine(to)
                {
                    machine.leases.handle_answer(from, number, &answer);
                    return self.settle(to);
                }
            }
            Event::Fact(node, life, name, fact) => {
                let now = self.clock(node);
                if self.lives(node, life)
                    && let Some(machine) = self.machine(node)
                {
                    machine.fact(&name, fact, now);
                    return self.settle(node);
                }
            }
            Event::Guards(node, name) => {
                let now = self.clock(node).mono;
                if self.guarded.get(&(node, name.clone())).is_some_and(|until| *until <= now) {
                    let stopping = &self.stopping;
                    let dies =
                        |id: &InstanceId, at: NodeId| at == node && id.component() == name && stopping.contains(id);
                    let before = self.alive.len();
                    self.alive.retain(|id, at| !dies(id, *at));
                    if self.alive.len() < before {
                        self.seen.note("killed by its guard");
                    }
                }
            }
            Event::Gone(id) => drop(self.alive.remove(&id)),
            Event::Ends(node, life, name, slots) => {
                let now = self.clock(node);
                if self.lives(node, life)
                    && let Some(machine) = self.machine(node)
                {
                    slots.release(now.mono);
                    machine.fact(&name, Fact::Freed, now);
                    return self.settle(node);
                }
            }
            Event::Tick(node) => {
                let now = self.clock(node);
                let is_due = |machine: &&mut Machine| {
                    let due = machine.due().into_iter().chain(machine.leases.poll_timeout()).min();
                    due.is_some_and(|due| due <= now.mono)
                };
                if let Some(machine) = self.machine(node).filter(is_due) {
                    machine.core.handle(Input::Tick, now);
                    return self.settle(node);
                }
            }
            Event::Boots(node) if self.hosts[&node].machine.is_none() => self.boot(node),
            Event::Boots(_) => {}
            Event::Befalls => return self.befall(),
        }
        Ok(())
    }

    /// One node takes notice of how another is now.
    fn see(&mut self, to: NodeId, about: NodeId) -> Result<(), String> {
        let is_there = self.hosts[&about].machine.is_some() && self.passes(about, to) && self.passes(to, about);
        let (life, now) = (self.hosts[&about].life, if is_there { Presence::Alive } else { Presence::Down });
        let Some(host) = self.hosts.get_mut(&to) else { return Ok(()) };
        let before = host.sees.insert(about, now);
        let Some(machine) = host.machine.as_mut() else { return Ok(()) };
        if now == Presence::Down || machine.is_another_life(about, life) {
            machine.forget(about);
        }
        if now == Presence::Alive && before != Some(now) {
            // Each hears all that the other has to say.
            let (words, life) = (machine.everything(), self.hosts[&to].life);
            self.after(MS * 20, Event::Hears(about, to, life, words));
        }
        self.show(to)
    }

    /// What a node makes of all that it sees.
    fn show(&mut self, to: NodeId) -> Result<(), String> {
        let sees = self.hosts[&to].sees.clone();
        let node = |id: &NodeId| {
            let host = &self.hosts[id];
            let presence = if *id == to { Presence::Alive } else { *sees.get(id).unwrap_or(&Presence::Down) };
            let node = Node {
                name: format!("n{}", id.0).parse().expect("a name"),
                presence,
                duty: host.duty,
                capacity: 1 << 30,
                weight: NonZeroU32::MIN,
                labels: BTreeMap::new(),
                engines: [Engine::Process].into(),
            };
            (*id, node)
        };
        let nodes: BTreeMap<NodeId, Node> = self.hosts.keys().map(node).collect();
        let seen = nodes.values().filter(|node| node.presence.can_act()).count();
        let majority = seen * 2 > nodes.len();
        if let Some(machine) = self.machine(to) {
            machine.see(&nodes, majority);
        }
        self.settle(to)
    }

    /// Everybody sees it at a moment of their own. A loss takes a while to be noticed.
    fn spread(&mut self, about: NodeId, (least, most): (u64, u64)) {
        for id in self.ids() {
            let delay = self.delay(least, most);
            self.after(delay, Event::Sees(id, about));
        }
    }

    fn boot(&mut self, id: NodeId) {
        let ids: BTreeSet<NodeId> = self.hosts.keys().copied().collect();
        let (rng, components, now) =
            (Rng::from_seed(self.rng.next_u64()), self.components.clone(), self.clock(id).mono);
        let Some(host) = self.hosts.get_mut(&id) else { return };
        host.life += 1;
        let mut machine = Machine::start((id, host.life), 1 << 30, &components, rng, now);
        machine.leases.handle_known(ids.clone());
        host.machine = Some(machine);
        host.sees.clear();
        for other in ids {
            let delay = self.delay(1, 300);
            self.after(delay, Event::Sees(id, other));
        }
        self.spread(id, (1, 300));
    }

    fn crash(&mut self, id: NodeId) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        host.machine = None;
        host.life += 1;
        self.alive.retain(|_, node| *node != id);
        self.spread(id, (100, 6000));
    }

    /// Notices come also of what changed on the way.
    fn rewire(&mut self) {
        for id in self.ids() {
            self.spread(id, (300, 9000));
        }
    }

    fn befall(&mut self) -> Result<(), String> {
        if self.now >= Mono(1).after(TROUBLE) {
            return Ok(());
        }
        let pause = self.delay(50, 3000);
        self.after(pause, Event::Befalls);
        let ids = self.ids();
        let draw = |rng: &mut Rng| ids[rng.below(ids.len() as u64) as usize];
        let id = draw(&mut self.rng);
        match self.rng.below(12) {
            0 => {
                self.seen.note("cut");
                let part: BTreeSet<NodeId> = ids.iter().filter(|_| self.rng.below(2) == 0).copied().collect();
                let across = |(a, b): &(NodeId, NodeId)| part.contains(a) != part.contains(b);
                self.cuts = ids.iter().flat_map(|a| ids.iter().map(|b| (*a, *b))).filter(across).collect();
                self.rewire();
            }
            1 => {
                self.seen.note("one-way cut");
                let other = draw(&mut self.rng);
                self.cuts.insert((id, other));
                self.rewire();
            }
            2..=3 => {
                self.cuts.clear();
                self.rewire();
            }
            4 if self.hosts[&id].machine.is_some() => {
                self.seen.note("crash");
                self.crash(id);
                if self.rng.below(2) == 0 {
                    // Back while its votes would still bind it.
                    let delay = self.delay(200, 3000);
                    self.after(delay, Event::Boots(id));
                }
            }
            5..=6 if self.hosts[&id].machine.is_none() => self.boot(id),
            7 => {
                let duty = [Duty::Active, Duty::Draining, Duty::Cordoned][self.rng.below(3) as usize];
                self.hosts.get_mut(&id).expect("there").duty = duty;
                self.spread(id, (1, 30));
            }
            _ => {
                let name = self.components[self.rng.below(self.components.len() as u64) as usize].name.clone();
                return self.request(id, &name);
            }
        }
        Ok(())
    }

    /// A request comes in at a node, and waits where the node sends it.
    fn request(&mut self, entrance: NodeId, name: &ComponentName) -> Result<(), String> {
        let Some(machine) = self.machine(entrance) else { return Ok(()) };
        let to = match machine.way(name, &[], false) {
            Choice::There(node) if self.passes(entrance, node) => node,
            Choice::There(_) | Choice::Here => entrance,
        };
        let now = self.clock(to);
        self.count += 1;
        let deadline = now.mono.after(SECOND * 30);
        let waiter = Waiter { ticket: self.count, since: now.mono, deadline, bytes: 1, stays: true };
        if let Some(machine) = self.machine(to) {
            machine.fact(name, Fact::Wait(waiter), now);
        }
        self.settle(to)
    }

    fn mend(&mut self) {
        self.cuts.clear();
        for id in self.ids() {
            self.hosts.get_mut(&id).expect("there").duty = Duty::Active;
            if self.hosts[&id].machine.is_none() {
                self.boot(id);
            }
        }
        self.rewire();
    }

    fn settle(&mut self, node: NodeId) -> Result<(), String> {
        let now = self.clock(node);
        let (life, rate) = (self.hosts[&node].life, self.hosts[&node].rate);
        let Some(machine) = self.machine(node) else { return Ok(()) };
        let mut effects = machine.settle(now);
        let ask = machine.leases.poll_ask(now.mono);
        let mut permits = Vec::new();
        while let Some((name, until)) = machine.leases.poll_permit() {
            permits.push((name.clone(), until.after(TERM - HOLD)));
            machine.fact(&name, Fact::Consent(until), now);
            effects.extend(machine.settle(now));
        }
        let words = machine.words();
        let due = machine.due().into_iter().chain(machine.leases.poll_timeout()).min();
        for other in self.ids().into_iter().filter(|other| *other != node) {
            if !words.is_empty() {
                self.after(MS * 12, Event::Hears(other, node, life, words.clone()));
            }
            if let Some(ask) = &ask {
                let delay = self.delay(1, 400);
                self.after(delay, Event::Asks(other, node, life, ask.clone()));
            }
        }
        for (name, until) in permits {
            let wait = u64::try_from(until.since(now.mono).as_nanos()).unwrap_or(u64::MAX).div_ceil(rate) * 1000;
            self.guarded.insert((node, name.clone()), until);
            self.after(Duration::from_nanos(wait), Event::Guards(node, name));
        }
        if let Some(due) = due {
            let wait = u64::try_from(due.since(now.mono).as_nanos()).unwrap_or(u64::MAX).div_ceil(rate) * 1000;
            self.after(Duration::from_nanos(wait.max(1000)), Event::Tick(node));
        }
        for (name, effect) in effects {
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
                if let Some((other, at)) = self.alive.iter().find(|(other, _)| other.component() == name) {
                    return Err(format!("{id} starts on {node} while {other} runs on {at}, at {:?}", self.now));
                }
                self.seen.note("started");
                if self.last.insert(name.clone(), node).is_some_and(|last| last != node) {
                    self.seen.note("moved");
                }
                self.alive.insert(id.clone(), node);
                let (started, ready) = (self.delay(1, 50), self.delay(50, 900));
                later(self, started, Fact::Started(id.clone(), ([127, 0, 0, 1], 1).into(), "1".into()));
                later(self, ready, Fact::Ready(id));
            }
            Effect::Stop(id, component) => {
                self.stopping.insert(id.clone());
                let grace = u64::try_from(component.stop.grace.as_millis()).unwrap_or(u64::MAX);
                let delay = self.delay(1, grace + KILL);
                self.after(delay, Event::Gone(id.clone()));
                later(self, delay, Fact::Stopped(id, Ok(())));
            }
            Effect::Freeze(id) => later(self, MS, Fact::Frozen(id, Ok(()))),
            Effect::Thaw(id) => later(self, MS, Fact::Thawed(id, Ok(()))),
            Effect::Check(id, ..) => later(self, MS, Fact::Checked(id, Ok(()))),
            Effect::Grant(_, slots) => {
                self.seen.note("answered");
                let takes = self.delay(1, 4000);
                self.after(takes, Event::Ends(node, life, name, slots));
            }
            Effect::Note(_, _, text) if text.contains("consent") => self.seen.note("lapsed"),
            Effect::Refuse(..)
            | Effect::Claim(_)
            | Effect::Watch(..)
            | Effect::Abandon(_)
            | Effect::Note(..)
            | Effect::Forget(_)
            | Effect::Discard(_) => {}
        }
        Ok(())
    }

    fn judge(&self) -> Result<(), String> {
        for component in &self.components {
            let name = &component.name;
            let count = self.alive.keys().filter(|id| id.component() == *name).count();
            if count < component.min_instances as usize {
                let views = self.hosts.iter().filter_map(|(id, host)| {
                    let machine = host.machine.as_ref()?;
                    Some(format!("{id}: {} {:?}", machine.view(name), machine.leases))
                });
                let views: Vec<_> = views.collect();
                return Err(format!("{name} has no instance\n  {}", views.join("\n  ")));
            }
        }
        Ok(())
    }
}

fn component(index: u64, rng: &mut Rng) -> Arc<Component> {
    let document = serde_json::json!({
        "command": ["serve"],
        "singleton": "strict",
        "memory": "16MiB",
        "concurrency": 3,
        "min": rng.below(2),
        "idle": {"freeze": "3s", "stop": "20s"},
        "stop": {"grace": format!("{}s", rng.below(12))},
        "queue": 50,
    });
    Arc::new(Component::parse(&format!("single-{index}").parse().expect("a name"), &document).expect("a component"))
}

//! One machine: the node and the scheduler as the daemon drives them, and what it has heard of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use maelstrom::activation::{Activation, Effect, Fact};
use maelstrom::id::{ComponentName, NodeId};
use maelstrom::model::Component;
use maelstrom::model::instance::InstanceState;
use maelstrom::node::{Input, Node as Core};
use maelstrom::placement::lease::Leases;
use maelstrom::placement::scheduler::{self, Definition, Observed, Output, Running, Wanted};
use maelstrom::placement::way::{Choice, There, choose};
use maelstrom::placement::{Node, Places, Scheduler};
use maelstrom::rng::Rng;
use maelstrom::slots::{Gates, Slots};
use maelstrom::time::{Mono, Now};

/// What a machine tells the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    Load(ComponentName, Option<Running>),
    Wanted(ComponentName, Option<Wanted>),
}

pub struct Machine {
    pub id: NodeId,
    pub core: Core,
    pub gates: Arc<Gates>,
    pub leases: Leases,
    scheduler: Scheduler,
    places: Places,
    loads: BTreeMap<ComponentName, BTreeMap<NodeId, Running>>,
    wanted: BTreeMap<ComponentName, BTreeMap<NodeId, Wanted>>,
    components: BTreeMap<ComponentName, (Arc<Component>, Definition)>,
    dirty: BTreeSet<ComponentName>,
    said: BTreeMap<ComponentName, Running>,
    words: Vec<Word>,
    lives: BTreeMap<NodeId, u64>,
    rng: Rng,
}

impl Machine {
    pub fn new(id: NodeId, capacity: u64, components: &[Arc<Component>], rng: Rng) -> Self {
        Self::start((id, 1), capacity, components, rng, Mono(1))
    }

    /// One that begins its so-and-so-many-th life.
    pub fn start(
        (id, life): (NodeId, u64),
        capacity: u64,
        components: &[Arc<Component>],
        mut rng: Rng,
        now: Mono,
    ) -> Self {
        let gates = Arc::new(Gates::default());
        let core = Core::new(rng.child("node"), Arc::clone(&gates)).with_capacity(capacity);
        let known = |component: &Arc<Component>| {
            (component.name.clone(), (Arc::clone(component), Definition::of(component, "v1")))
        };
        Self {
            id,
            core,
            gates,
            leases: Leases::new(id, life, life > 1, now),
            scheduler: Scheduler::new(id),
            places: Places::default(),
            loads: BTreeMap::new(),
            wanted: BTreeMap::new(),
            components: components.iter().map(known).collect(),
            dirty: components.iter().map(|component| component.name.clone()).collect(),
            said: BTreeMap::new(),
            words: Vec::new(),
            lives: BTreeMap::new(),
            rng,
        }
    }

    /// All that it would tell somebody who has heard nothing.
    pub fn everything(&self) -> Vec<Word> {
        let loads = self.said.iter().map(|(name, load)| Word::Load(name.clone(), Some(*load)));
        let own = |(name, by): (&ComponentName, &BTreeMap<NodeId, Wanted>)| {
            Some(Word::Wanted(name.clone(), Some(*by.get(&self.id)?)))
        };
        loads.chain(self.wanted.iter().filter_map(own)).collect()
    }

    /// A word of this life of a node. What an earlier one said is void.
    pub fn hear(&mut self, (from, life): (NodeId, u64), word: &Word) {
        if self.lives.insert(from, life).is_some_and(|before| before != life) {
            self.forget(from);
        }
        let name = match word {
            Word::Load(name, load) => {
                put(&mut self.loads, name, from, *load);
                name
            }
            Word::Wanted(name, wanted) => {
                put(&mut self.wanted, name, from, *wanted);
                name
            }
        };
        self.dirty.insert(name.clone());
    }

    pub fn is_another_life(&self, node: NodeId, life: u64) -> bool {
        self.lives.get(&node).is_some_and(|known| *known != life)
    }

    /// A node is gone, with all that it said.
    pub fn forget(&mut self, node: NodeId) {
        for name in self.components.keys() {
            put(&mut self.loads, name, node, None);
            put(&mut self.wanted, name, node, None);
            self.dirty.insert(name.clone());
        }
    }

    pub fn see(&mut self, nodes: &BTreeMap<NodeId, Node>, majority: bool) {
        self.scheduler.handle_nodes(nodes.clone(), majority);
    }

    pub fn fact(&mut self, name: &ComponentName, fact: Fact, now: Now) {
        if self.core.get(name).is_none() {
            let component = Arc::clone(&self.components[name].0);
            self.core.handle(Input::Component(name.clone(), Fact::Define(component, "v1".into())), now);
        }
        self.core.handle(Input::Component(name.clone(), fact), now);
    }

    /// Lets the scheduler act on what changed, until nothing follows any more. What has to be done by the runtime and for
    /// requests is returned; what the others should hear is in [`Self::words`].
    pub fn settle(&mut self, now: Now) -> Vec<(ComponentName, Effect)> {
        let mut effects = Vec::new();
        for _ in 0..100 {
            while let Some((name, effect)) = self.core.poll_effect() {
                if let Effect::Claim(is_claimed) = effect {
                    self.leases.handle_claim(&name, is_claimed, now.mono);
                }
                effects.push((name, effect));
            }
            self.say();
            for name in std::mem::take(&mut self.dirty) {
                let definition = self.components.get(&name).map(|(_, definition)| definition.clone());
                let wanted = self.wanted.get(&name).into_iter().flatten().filter(|(by, _)| **by != self.id);
                let observed = Observed {
                    definition,
                    running: self.loads.get(&name).cloned().unwrap_or_default(),
                    wanted: wanted.map(|(by, wanted)| (*by, *wanted)).collect(),
                };
                self.scheduler.handle_component(&name, observed);
            }
            self.scheduler.settle(now.mono);
            let mut quiet = true;
            while let Some(output) = self.scheduler.poll_output() {
                quiet = false;
                match output {
                    Output::Say(name, wanted) => {
                        put(&mut self.wanted, &name, self.id, wanted);
                        self.words.push(Word::Wanted(name, wanted));
                    }
                    Output::Share(name, share) => self.fact(&name, Fact::Share(share), now),
                }
            }
            if quiet {
                if let Some(places) = self.scheduler.take_places() {
                    self.places = places;
                }
                return effects;
            }
        }
        panic!("node {} never comes to rest", self.id);
    }

    pub fn words(&mut self) -> Vec<Word> {
        std::mem::take(&mut self.words)
    }

    /// Looks whether the load of each component is still what was said.
    fn say(&mut self) {
        let of = |one: &Activation| {
            let mut load = Running { events: one.waiting(), ..Running::default() };
            for shown in one.instances() {
                match shown.state {
                    InstanceState::Ready => {
                        load.ready += 1;
                        load.current += 1;
                        load.slots += one.component().concurrency.get();
                    }
                    InstanceState::Pulling | InstanceState::Starting | InstanceState::Frozen => load.coming += 1,
                    InstanceState::Draining | InstanceState::Stopping => {}
                }
                load.events += shown.in_flight;
            }
            let is_there = one.instance_count() > 0 || one.waiting() > 0;
            (one.component().name.clone(), is_there.then_some(load))
        };
        let loads: Vec<_> = self.core.iter().map(of).collect();
        for (name, load) in loads {
            if self.said.get(&name).copied() != load {
                put(&mut self.loads, &name, self.id, load);
                match load {
                    Some(load) => drop(self.said.insert(name.clone(), load)),
                    None => drop(self.said.remove(&name)),
                }
                self.dirty.insert(name.clone());
                self.words.push(Word::Load(name, load));
            }
        }
    }

    /// When it wants to be called again.
    pub fn due(&self) -> Option<Mono> {
        self.core.poll_timeout().into_iter().chain(self.scheduler.poll_timeout()).min()
    }

    pub fn claim(&mut self, name: &ComponentName) -> Option<Arc<Slots>> {
        self.gates.get(name).try_claim(self.rng.next_u64())
    }

    /// Where a request goes that found no slot here, as the daemon decides it.
    pub fn way(&mut self, name: &ComponentName, avoid: &[NodeId], is_sent: bool) -> Choice {
        let (mut here, mut there) = (0, Vec::new());
        for (&node, load) in self.loads.get(name).into_iter().flatten() {
            if node == self.id {
                here = load.ready + load.coming;
            } else if !avoid.contains(&node) && self.places.takes_work(node) {
                let Running { ready, coming, slots, events, .. } = *load;
                there.push(There { node, ready, coming, slots, load: events });
            }
        }
        let first = || self.places.first(name, &scheduler::needs(&self.components[name].0), avoid);
        choose(self.id, here, &there, is_sent, self.rng.next_u64(), first)
    }

    /// For people who look for a cause.
    pub fn view(&self, name: &ComponentName) -> String {
        let share = self.core.get(name).map(Activation::share);
        let shown: Vec<_> = self.core.get(name).into_iter().flat_map(Activation::instances).collect();
        let (owner, wanted, loads) = (self.scheduler.owner(name), self.wanted.get(name), self.loads.get(name));
        format!("{share:?} owner {owner:?} wanted {wanted:?} loads {loads:?} instances {shown:?}")
    }

    pub fn could_hold(&self, name: &ComponentName) -> bool {
        self.places.fits(self.id, &scheduler::needs(&self.components[name].0))
            || self.loads.get(name).is_some_and(|loads| loads.contains_key(&self.id))
    }
}

fn put<T>(
    all: &mut BTreeMap<ComponentName, BTreeMap<NodeId, T>>,
    name: &ComponentName,
    node: NodeId,
    value: Option<T>,
) {
    let of = all.entry(name.clone()).or_default();
    match value {
        Some(value) => drop(of.insert(node, value)),
        None => drop(of.remove(&node)),
    }
    if of.is_empty() {
        all.remove(name);
    }
}

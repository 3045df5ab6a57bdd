//! The node: all components of this machine behind one `handle`, still without IO.
//!
//! Facts and a time go in through [`Node::handle`], [`Effect`]s are pulled with [`Node::poll_effect`], and
//! [`Node::poll_timeout`] says when to call again. The daemon drives it with real ones, simulations with fake ones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::activation::{Activation, Effect, Fact};
use crate::id::{ComponentName, InstanceId};
use crate::model::Component;
use crate::rng::Rng;
use crate::slots::Gates;
use crate::time::{Mono, Now};

/// What can reach a node.
#[derive(Debug, Clone)]
pub enum Input {
    /// Something about one component. [`Fact::Define`] creates it if it is new; that may wait until the first event
    /// or instance asks for it, unless instances of it are kept.
    Component(ComponentName, Fact),
    /// An instance of ours that ran before the daemon started; sent between [`Node::define`] and the first other input.
    Found {
        /// Which.
        id: InstanceId,
        /// The fact for its component.
        fact: Fact,
    },
    /// Time has passed.
    Tick,
    /// The node is stopping.
    Drain,
}

/// What all instances of a node are together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// How many there are.
    pub instances: usize,
    /// The bytes of memory that their components reserve for them.
    pub reserved: u128,
}

impl Totals {
    fn of(activation: Option<&Activation>) -> Self {
        let instances = activation.map_or(0, Activation::instance_count);
        let reserve = activation.map_or(0, |activation| activation.component().memory_reserve);
        Self { instances, reserved: instances as u128 * u128::from(reserve) }
    }

    fn replace(&mut self, before: Self, after: Self) {
        self.instances = self.instances + after.instances - before.instances;
        self.reserved = self.reserved + after.reserved - before.reserved;
    }
}

/// All components of this machine.
///
/// Invariant: the totals are the sum over all activations; who asks for them need not walk over a hundred thousand.
#[derive(Debug)]
pub struct Node {
    totals: Totals,
    activations: BTreeMap<ComponentName, Activation>,
    /// When each component wants to be called; `due` is the same the other way round.
    timers: BTreeSet<(Mono, ComponentName)>,
    due: BTreeMap<ComponentName, Mono>,
    effects: VecDeque<(ComponentName, Effect)>,
    scratch: Vec<Effect>,
    /// Components whose instances changed since it was last asked.
    changed: BTreeSet<ComponentName>,
    rng: Rng,
    gates: Arc<Gates>,
    draining: bool,
}

impl Node {
    /// A node that knows of no component. `rng` draws instance ids and jitter.
    pub fn new(rng: Rng, gates: Arc<Gates>) -> Self {
        Self {
            totals: Totals::default(),
            activations: BTreeMap::new(),
            timers: BTreeSet::new(),
            due: BTreeMap::new(),
            effects: VecDeque::new(),
            scratch: Vec::new(),
            changed: BTreeSet::new(),
            rng,
            gates,
            draining: false,
        }
    }

    /// Makes a component known without acting on it: for the registry's content at start-up.
    pub fn define(&mut self, component: Arc<Component>, fingerprint: String) {
        let gate = self.gates.get(&component.name);
        let before = self.activations.insert(component.name.clone(), Activation::new(component, fingerprint, gate));
        self.totals.replace(Totals::of(before.as_ref()), Totals::default());
    }

    /// What all instances are together.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// One component, also while it is being removed.
    pub fn get(&self, component: &ComponentName) -> Option<&Activation> {
        self.activations.get(component)
    }

    /// All components in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Activation> {
        self.activations.values()
    }

    /// Takes in what happened.
    pub fn handle(&mut self, input: Input, now: Now) {
        match input {
            Input::Component(name, fact) => self.component(name, fact, now),
            Input::Found { id, fact } => {
                let name = id.component();
                match self.activations.get_mut(&name) {
                    Some(activation) => {
                        let before = Totals::of(Some(activation));
                        activation.load(fact, now, &mut self.rng, &mut self.scratch);
                        self.totals.replace(before, Totals::of(Some(activation)));
                        self.collect(&name);
                    }
                    // Its component was removed while the daemon was down.
                    None => self.effects.push_back((name, Effect::Discard(id))),
                }
            }
            Input::Tick => {}
            Input::Drain => {
                self.draining = true;
                let names: Vec<_> = self.activations.keys().cloned().collect();
                for name in names {
                    self.component(name, Fact::Drain, now);
                }
            }
        }
        while let Some((moment, name)) = self.timers.first().cloned() {
            if moment > now.mono {
                break;
            }
            self.component(name, Fact::Tick, now);
        }
    }

    /// Lets every component act on what was loaded; the first call after start-up.
    pub fn settle_all(&mut self, now: Now) {
        let names: Vec<_> = self.activations.keys().cloned().collect();
        for name in names {
            self.component(name, Fact::Tick, now);
        }
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<(ComponentName, Effect)> {
        self.effects.pop_front()
    }

    /// The components whose instances came, went or changed their state since this was last asked.
    pub fn take_changed(&mut self) -> BTreeSet<ComponentName> {
        std::mem::take(&mut self.changed)
    }

    /// When to call [`Node::handle`] with [`Input::Tick`] at the latest.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.timers.first().map(|&(moment, _)| moment)
    }

    fn component(&mut self, name: ComponentName, fact: Fact, now: Now) {
        if let Fact::Define(component, fingerprint) = &fact
            && !self.activations.contains_key(&name)
        {
            self.define(Arc::clone(component), fingerprint.clone());
            if self.draining {
                self.component(name.clone(), Fact::Drain, now);
            }
        }
        let Some(activation) = self.activations.get_mut(&name) else {
            return self.unknown(name, fact);
        };
        let before = Totals::of(Some(activation));
        activation.handle(fact, now, &mut self.rng, &mut self.scratch);
        self.totals.replace(before, Totals::of(Some(activation)));
        let over = activation.is_over();
        if activation.take_changed() || over {
            self.changed.insert(name.clone());
        }
        let next = if over { None } else { activation.poll_timeout() };
        if over {
            self.activations.remove(&name);
        }
        // A moment that has passed already is for the next turn: one turn handles each component once.
        let next = next.map(|moment| moment.max(Mono(now.mono.0 + 1)));
        if let Some(before) = self.due.remove(&name) {
            self.timers.remove(&(before, name.clone()));
        }
        if let Some(moment) = next {
            self.due.insert(name.clone(), moment);
            self.timers.insert((moment, name.clone()));
        }
        self.collect(&name);
    }

    /// Answers a ticket for a component that is gone: every ticket is answered exactly once.
    fn unknown(&mut self, name: ComponentName, fact: Fact) {
        if let Fact::Wait(waiter) = fact {
            let failure = crate::failure::Failure::NoComponent(name.clone());
            self.effects.push_back((name, Effect::Refuse(waiter.ticket, failure)));
        }
    }

    fn collect(&mut self, name: &ComponentName) {
        self.effects.extend(self.scratch.drain(..).map(|effect| (name.clone(), effect)));
    }

    /// Whether [`Input::Drain`] came.
    pub fn is_draining(&self) -> bool {
        self.draining
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_totals_are_those_of_all_instances_also_after_a_change_and_a_removal() {
        let component = |reserve: &str| {
            let doc = serde_json::json!({"command": ["x"], "instances": {"min": 2, "max": 2}, "memory": reserve});
            Arc::new(Component::parse(&"api".parse().expect("a name"), &doc).expect("a component"))
        };
        let name: ComponentName = "api".parse().expect("a name");
        let mut node = Node::new(Rng::from_seed(1), Arc::new(Gates::default()));
        let now = Now { mono: Mono(0), wall: crate::time::Wall(0) };
        let walked = |node: &Node| {
            let totals = node.iter().map(|activation| Totals::of(Some(activation)));
            totals.fold(Totals::default(), |mut all, one| {
                all.replace(Totals::default(), one);
                all
            })
        };
        node.handle(Input::Component(name.clone(), Fact::Define(component("64MiB"), "one".into())), now);
        let first = node.totals();
        assert!(first.instances > 0 && first.reserved == first.instances as u128 * (64 << 20), "{first:?}");
        node.handle(Input::Component(name.clone(), Fact::Define(component("32MiB"), "one".into())), now);
        assert_eq!((node.totals(), node.totals().reserved), (walked(&node), first.reserved / 2));
        node.define(component("32MiB"), "two".into());
        assert_eq!(node.totals(), Totals::default());
        node.handle(Input::Component(name, Fact::Remove), now);
        assert_eq!(node.totals(), walked(&node));
    }
}

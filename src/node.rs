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
    /// The bytes of memory that they set aside.
    pub reserved: u64,
}

impl Totals {
    fn of(activation: Option<&Activation>) -> Self {
        let instances = activation.map_or(0, Activation::instance_count);
        Self { instances, reserved: activation.map_or(0, Activation::held) }
    }

    fn replace(&mut self, before: Self, after: Self) {
        self.instances = self.instances + after.instances - before.instances;
        self.reserved = self.reserved + after.reserved - before.reserved;
    }
}

/// All components of this machine.
///
/// Invariants: the totals are the sum over all activations; who asks for them need not walk over a hundred thousand.
/// Nothing is started beyond the capacity, so they are above it only if it was lowered while instances ran on.
#[derive(Debug)]
pub struct Node {
    totals: Totals,
    /// Bytes that instances may set aside in all.
    capacity: u64,
    /// Components whose next start waits for memory.
    short: BTreeSet<ComponentName>,
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
            capacity: u64::MAX,
            short: BTreeSet::new(),
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

    /// The same with a bound: the bytes of memory that its instances may set aside in all.
    #[must_use]
    pub fn with_capacity(self, capacity: u64) -> Self {
        Self { capacity, ..self }
    }

    /// Bytes that instances may set aside in all.
    pub fn capacity(&self) -> u64 {
        self.capacity
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
        // What is new may be without hope at once; everything else waits for memory that comes free.
        let is_new = matches!(fact, Fact::Wait(_) | Fact::Share(_) | Fact::Define(..)) || !self.short.contains(&name);
        let before = Totals::of(Some(activation));
        let free = self.capacity.saturating_sub(self.totals.reserved);
        activation.handle(fact, now, free, &mut self.rng, &mut self.scratch);
        let after = Totals::of(Some(activation));
        self.totals.replace(before, after);
        let (short, over) = (activation.short(), activation.is_over());
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
        if after.reserved < before.reserved {
            // In the order of names: who waits is asked again.
            for name in std::mem::take(&mut self.short) {
                self.component(name, Fact::Tick, now);
            }
        }
        match short {
            Some(reserve) => {
                self.short.insert(name.clone());
                if is_new {
                    self.make_room(name, reserve, now);
                }
            }
            None => drop(self.short.remove(&name)),
        }
    }

    /// Lets unused instances of others go, the longest unused first and no more than must, so that one that reserves so
    /// much can start. If that is not enough nobody goes, and the component hears of it.
    fn make_room(&mut self, name: ComponentName, reserve: u64, now: Now) {
        let left = self.capacity.saturating_sub(self.totals.reserved);
        let leaving = self.activations.values().fold(0_u64, |sum, one| sum.saturating_add(one.leaving()));
        let mut missing = reserve.saturating_sub(left.saturating_add(leaving));
        let for_an_event = self.activations.get(&name).is_some_and(|one| one.waiting() > 0);
        let others = self.activations.values().filter(|one| one.component().name != name);
        let mut spares: Vec<_> = others.flat_map(|other| other.spares(for_an_event)).collect();
        let all = spares.iter().fold(0_u64, |sum, (_, _, reserve)| sum.saturating_add(*reserve));
        if all < missing {
            return self.component(name, Fact::NoRoom { left, capacity: self.capacity }, now);
        }
        spares.sort();
        for (_, id, won) in spares {
            if missing == 0 {
                return;
            }
            missing = missing.saturating_sub(won);
            self.component(id.component(), Fact::Evict(id, name.clone()), now);
        }
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
    #![expect(clippy::wildcard_enum_match_arm, reason = "a story looks at one effect among many")]

    use super::*;
    use crate::model::share::Share;

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
        node.handle(
            Input::Component(name.clone(), Fact::Share(Share { count: 2, placed: 2, ..Share::default() })),
            now,
        );
        let first = node.totals();
        assert!(first.instances > 0 && first.reserved == first.instances as u64 * (64 << 20), "{first:?}");
        node.handle(Input::Component(name.clone(), Fact::Define(component("32MiB"), "one".into())), now);
        assert_eq!((node.totals(), node.totals().reserved), (walked(&node), first.reserved / 2));
        node.define(component("32MiB"), "two".into());
        assert_eq!(node.totals(), Totals::default());
        node.handle(Input::Component(name, Fact::Remove), now);
        assert_eq!(node.totals(), walked(&node));
    }

    /// Three components that reserve 64 MiB on a node with room for two instances; the first two have one each.
    fn full() -> (Node, [ComponentName; 3], Now) {
        let names: [ComponentName; 3] = ["one", "three", "two"].map(|name| name.parse().expect("a name"));
        let mut node = Node::new(Rng::from_seed(1), Arc::new(Gates::default())).with_capacity(150 << 20);
        let mut now = Now { mono: Mono(0), wall: crate::time::Wall(0) };
        for name in &names {
            let doc = serde_json::json!({"command": ["x"], "memory": "64MiB"});
            let component = Arc::new(Component::parse(name, &doc).expect("a component"));
            node.handle(Input::Component(name.clone(), Fact::Define(component, "v".into())), now);
        }
        for name in &names[..2] {
            wait(&mut node, name, now);
            for id in starts(&mut node) {
                let address = ([127, 0, 0, 1], 1).into();
                node.handle(Input::Component(name.clone(), Fact::Started(id.clone(), address, "1".into())), now);
                node.handle(Input::Component(name.clone(), Fact::Ready(id)), now);
            }
            now.mono = now.mono.after(std::time::Duration::from_millis(1));
        }
        (node, names, now)
    }

    fn wait(node: &mut Node, name: &ComponentName, now: Now) {
        let deadline = now.mono.after(std::time::Duration::from_secs(60));
        let waiter =
            crate::activation::queue::Waiter { ticket: now.mono.0, since: now.mono, deadline, bytes: 1, stays: false };
        node.handle(Input::Component(name.clone(), Fact::Wait(waiter)), now);
    }

    fn starts(node: &mut Node) -> Vec<InstanceId> {
        let effects = std::iter::from_fn(|| node.poll_effect());
        effects.filter_map(|(_, effect)| if let Effect::Start(id, ..) = effect { Some(id) } else { None }).collect()
    }

    fn effects(node: &mut Node) -> (Vec<InstanceId>, usize) {
        let (mut stops, mut refusals) = (Vec::new(), 0);
        while let Some((_, effect)) = node.poll_effect() {
            match effect {
                Effect::Stop(id, _) => stops.push(id),
                Effect::Refuse(_, failure) => {
                    assert!(matches!(failure, crate::failure::Failure::NoRoom { .. }), "{failure}");
                    refusals += 1;
                }
                Effect::Start(id, ..) => panic!("{id} was started without room"),
                _ => {}
            }
        }
        (stops, refusals)
    }

    #[test]
    fn the_longest_unused_instance_makes_room_and_what_waited_for_it_starts_when_it_is_gone() {
        let (mut node, [one, _, three], now) = full();
        let live = node.get(&one).expect("known").gate().live();
        live.iter().for_each(|slots| slots.release(now.mono));
        let other: ComponentName = "three".parse().expect("a name");
        let live = node.get(&other).expect("known").gate().live();
        live.iter().for_each(|slots| slots.release(now.mono.after(std::time::Duration::from_millis(1))));
        wait(&mut node, &three, now);
        let (stops, refusals) = effects(&mut node);
        assert_eq!((stops.iter().map(InstanceId::component).collect::<Vec<_>>(), refusals), (vec![one.clone()], 0));
        assert!(node.totals().reserved <= node.capacity());
        node.handle(Input::Component(one, Fact::Stopped(stops[0].clone(), Ok(()))), now);
        assert_eq!(starts(&mut node).len(), 1);
        assert!(node.totals().reserved <= node.capacity());
    }

    #[test]
    fn busy_instances_are_never_sent_away_and_the_event_hears_that_there_is_no_room() {
        let (mut node, [.., three], now) = full();
        wait(&mut node, &three, now);
        let (stops, refusals) = effects(&mut node);
        assert_eq!((stops.len(), refusals), (0, 1), "both have the event that started them");
    }
}

//! What one node makes of all that it has heard: the counts of the components that it owns, and its own share of every
//! component.
//!
//! It is told states, not events: how a component stands now, who the nodes are now. The same state told twice changes
//! nothing. A count travels as a row of the owner; whoever does not own a component takes the owner's word, and while a
//! new owner has said nothing yet, the last count that was heard.
//!
//! Does no IO. Knows nothing of how a state is heard or an instance is started.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::elect::{able, on_duty};
use super::places::Places;
use super::planner::{Explanation, Needs, Planner, Targets};
use super::rendezvous::{Key, elected};
use super::scale::{Because, Rule, Scale};
use super::view::{Constraint, Duty, Engine, Node, Singleton, Want};
use crate::hash::hash64;
use crate::id::{ComponentName, NodeId};
use crate::model::Component;
use crate::model::component::{RolloutOrder, Workload};
use crate::model::share::Share;
use crate::time::Mono;

/// A component's definition, as far as placement is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// How it is scaled.
    pub rule: Rule,
    /// Memory in bytes that an instance sets aside.
    pub reserve: u64,
    /// Instances at most on one node.
    pub max_per_node: NonZeroU32,
    /// What it needs to run.
    pub engine: Engine,
    /// What it asks of a node's labels.
    pub constraints: Vec<Constraint>,
    /// Whether it may run twice.
    pub singleton: Singleton,
    /// What an instance of it was started with. Another one is old.
    pub fingerprint: Arc<str>,
    /// In which order over the nodes old instances are replaced.
    pub order: RolloutOrder,
}

impl Definition {
    /// Out of a component and the fingerprint of its instances.
    #[must_use]
    pub fn of(component: &Component, fingerprint: &str) -> Self {
        let Needs { engine, constraints, reserve } = needs(component);
        Self {
            rule: Rule::from(component),
            reserve,
            max_per_node: component.max_per_node,
            engine,
            constraints: constraints.to_vec(),
            singleton: component.singleton,
            fingerprint: fingerprint.into(),
            order: component.rollout.order,
        }
    }

    fn want(&self, wanted: u32, because: Because) -> Want {
        let Self { reserve, max_per_node, engine, singleton, .. } = *self;
        Want { wanted, because, reserve, max_per_node, engine, singleton, constraints: self.constraints.clone() }
    }
}

/// What an instance of a component needs of its node.
pub fn needs(component: &Component) -> Needs<'_> {
    Needs {
        engine: match component.workload {
            Workload::Image(_) => Engine::Docker,
            Workload::Command(_) => Engine::Process,
        },
        constraints: &component.constraints,
        reserve: component.memory_reserve,
    }
}

/// What a node has of a component, as it said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Running {
    /// Events in flight and waiting.
    pub events: u32,
    /// Events that the ready ones take at once.
    pub slots: u32,
    /// Instances that take events.
    pub ready: u32,
    /// Of these, those of the definition in force.
    pub current: u32,
    /// Instances that start or are frozen.
    pub coming: u32,
}

impl Running {
    fn has_old(&self) -> bool {
        self.current < self.ready
    }
}

/// How many instances there are to be, as the owner says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// In the whole cluster.
    pub count: u32,
    /// Why so many.
    #[serde(default)]
    pub because: Because,
}

/// How a component stands, as far as this node has heard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// None if there is no such component.
    pub definition: Option<Definition>,
    /// What nodes that are there have of it, this one included.
    pub running: BTreeMap<NodeId, Running>,
    /// What other nodes say is wanted.
    pub wanted: BTreeMap<NodeId, Wanted>,
}

/// What is to be done with the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// This node says from now on that so many are wanted; nothing any more if none.
    Say(ComponentName, Option<Wanted>),
    /// What this node is meant to do for a component has changed.
    Share(ComponentName, Share),
}

#[derive(Debug, Default)]
struct Entry {
    observed: Observed,
    owner: Option<NodeId>,
    /// There while this node is the owner.
    scale: Option<Scale>,
    /// What is wanted, and on whose word.
    wanted: Wanted,
    author: Option<NodeId>,
    said: Option<Wanted>,
    share: Share,
    due: Option<Mono>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { count: 0, because: Because::Unused }
    }
}

/// See the head of this file.
#[derive(Debug)]
pub struct Scheduler {
    me: NodeId,
    nodes: BTreeMap<NodeId, Node>,
    planner: Planner,
    entries: BTreeMap<ComponentName, Entry>,
    timers: BTreeSet<(Mono, ComponentName)>,
    touched: BTreeSet<ComponentName>,
    outputs: VecDeque<Output>,
    /// Whether nodes or wants changed since somebody took the places.
    moved: bool,
}

impl Scheduler {
    /// A node that has heard nothing.
    #[must_use]
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            nodes: BTreeMap::new(),
            planner: Planner::default(),
            entries: BTreeMap::new(),
            timers: BTreeSet::new(),
            touched: BTreeSet::new(),
            outputs: VecDeque::new(),
            moved: true,
        }
    }

    /// All nodes as they are now, this one included; whether more than half of the known members are seen.
    pub fn handle_nodes(&mut self, nodes: BTreeMap<NodeId, Node>, majority: bool) {
        self.planner.handle_majority(majority);
        let gone: Vec<_> = self.nodes.keys().filter(|id| !nodes.contains_key(id)).copied().collect();
        let changed: Vec<_> = nodes.iter().filter(|(id, node)| self.nodes.get(id) != Some(node)).collect();
        if gone.is_empty() && changed.is_empty() {
            return;
        }
        self.moved = true;
        for id in &gone {
            self.planner.handle_node(*id, None);
        }
        for (id, node) in &changed {
            self.planner.handle_node(**id, Some((*node).clone()));
        }
        let acts = |node: &Node| (node.presence.can_act(), node.duty, node.weight);
        let same = |id: &NodeId| self.nodes.get(id).map(acts) == nodes.get(id).map(acts);
        let moved: Vec<NodeId> = gone.into_iter().chain(changed.iter().map(|(id, _)| **id)).collect();
        let elections: Vec<NodeId> = moved.into_iter().filter(|id| !same(id)).collect();
        self.nodes = nodes;
        if !elections.is_empty() {
            self.elect(&elections);
            // Who serves where has changed with them.
            self.touched.extend(self.entries.keys().cloned());
        }
    }

    /// How a component stands now.
    pub fn handle_component(&mut self, name: &ComponentName, observed: Observed) {
        let nodes = &self.nodes;
        let entry = self
            .entries
            .entry(name.clone())
            .or_insert_with(|| Entry { owner: super::owner(name, nodes), ..Entry::default() });
        if entry.observed != observed {
            entry.observed = observed;
            self.touched.insert(name.clone());
        }
    }

    /// Works out what follows; call it after any number of changes, and when [`Self::poll_timeout`] says so.
    pub fn settle(&mut self, now: Mono) {
        while let Some((due, name)) = self.timers.first().cloned().filter(|(due, _)| *due <= now) {
            self.timers.remove(&(due, name.clone()));
            self.touched.insert(name);
        }
        let mut touched = std::mem::take(&mut self.touched);
        for name in &touched {
            self.count(name, now);
        }
        touched.extend(self.planner.settle().into_keys());
        for name in touched {
            self.share(&name);
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Self::settle`] at the latest.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// What readers need to choose a node for an instance that cannot wait for the plan; none if it is what it was. A
    /// copy of all nodes is not made for every change of a load.
    pub fn take_places(&mut self) -> Option<Places> {
        std::mem::take(&mut self.moved).then(|| Places::of(&self.planner))
    }

    /// Why a component is where it is. `definition`: for one that is not wanted at the moment.
    pub fn explain(&mut self, name: &ComponentName, definition: &Definition) -> Option<Explanation> {
        let is_new = self.planner.want(name).is_none();
        if is_new {
            self.planner.handle_want(name, Some(definition.want(0, Because::Unused)));
        }
        let explanation = self.planner.explain(name);
        if is_new {
            self.planner.handle_want(name, None);
        }
        explanation
    }

    /// Who counts for a component.
    pub fn owner(&self, name: &ComponentName) -> Option<NodeId> {
        self.entries.get(name).map_or_else(|| super::owner(name, &self.nodes), |entry| entry.owner)
    }

    /// Elects the owners anew after these nodes came, went or changed. A newcomer is compared with the owner alone: a
    /// hundred thousand components are not ranked over a thousand nodes for each change.
    fn elect(&mut self, changed: &[NodeId]) {
        let nodes = &self.nodes;
        let is_on_duty = |id: &NodeId| nodes.get(id).is_some_and(|n| n.presence.can_act() && n.duty == Duty::Active);
        let some_on_duty = on_duty(nodes).next().is_some();
        let newcomers: Vec<(NodeId, NonZeroU32)> =
            changed.iter().filter(|id| is_on_duty(id)).filter_map(|id| Some((*id, nodes.get(id)?.weight))).collect();
        for (name, entry) in &mut self.entries {
            let key = Key::component(name);
            let stays = entry.owner.filter(|owner| is_on_duty(owner) && !changed.contains(owner));
            entry.owner = match stays.and_then(|owner| Some((owner, nodes.get(&owner)?.weight))) {
                Some(owner) => elected(&key, newcomers.iter().copied().chain([owner])),
                None if some_on_duty => elected(&key, on_duty(nodes)),
                None => elected(&key, able(nodes)),
            };
        }
    }

    /// How many are wanted: as owner by counting, else by what was heard.
    fn count(&mut self, name: &ComponentName, now: Mono) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let before = entry.due.take();
        before.map(|due| self.timers.remove(&(due, name.clone())));
        let Some(definition) = &entry.observed.definition else {
            if entry.said.take().is_some() {
                self.outputs.push_back(Output::Say(name.clone(), None));
            }
            self.moved = true;
            self.planner.handle_want(name, None);
            return;
        };
        let heard = &entry.observed.wanted;
        if entry.owner == Some(self.me) {
            let most = heard.values().map(|wanted| wanted.count).max().unwrap_or(0).max(entry.wanted.count);
            let scale = entry.scale.get_or_insert_with(|| Scale::resume(&definition.rule, most, now));
            let demand = entry.observed.running.values().fold(0_u32, |sum, node| sum.saturating_add(node.events));
            scale.handle(&definition.rule, demand, now);
            let (count, because) = scale.wanted();
            entry.wanted = Wanted { count, because };
            entry.due = scale.poll_timeout(&definition.rule);
        } else {
            entry.scale = None;
            let by = entry.owner.and_then(|owner| heard.get(&owner));
            entry.wanted = match by {
                Some(wanted) => *wanted,
                // It has taken its word back.
                None if entry.author == entry.owner && entry.owner.is_some() => Wanted::default(),
                // It has not spoken yet: what was said last goes on.
                None => heard.values().copied().chain([entry.wanted]).max_by_key(|w| w.count).unwrap_or_default(),
            };
            entry.wanted.count = entry.wanted.count.clamp(definition.rule.min, definition.rule.max);
        }
        let has_spoken = entry.owner == Some(self.me) || entry.owner.is_some_and(|owner| heard.contains_key(&owner));
        if has_spoken {
            entry.author = entry.owner;
        }
        let is_idle = entry.wanted.count == 0 && entry.observed.running.is_empty();
        let speaks =
            if entry.owner == Some(self.me) { !is_idle } else { !has_spoken && entry.said.is_some() && !is_idle };
        let says = speaks.then_some(entry.wanted);
        if says.map(|says| says.count) != entry.said.map(|said| said.count) {
            entry.said = says;
            self.outputs.push_back(Output::Say(name.clone(), says));
        }
        if let Some(due) = entry.due {
            self.timers.insert((due, name.clone()));
        }
        // What serves on a cordoned node goes on serving, so nobody else needs to.
        let cordoned = entry.observed.running.iter().filter(|(id, _)| {
            self.nodes.get(id).is_some_and(|node| node.duty == Duty::Cordoned && node.presence.keeps_its_share())
        });
        let covered = cordoned.fold(0_u32, |sum, (_, running)| sum.saturating_add(running.ready));
        let planned = entry.wanted.count.saturating_sub(covered);
        let want = definition.want(planned, entry.wanted.because);
        self.moved |= self.planner.want(name).is_none_or(|before| !before.plans_as(&want));
        self.planner.handle_want(name, Some(want));
    }

    /// What this node is meant to do.
    fn share(&mut self, name: &ComponentName) {
        let Some(entry) = self.entries.get(name) else { return };
        let targets = self.planner.targets(name);
        let here = entry.observed.running.get(&self.me).copied().unwrap_or_default();
        let others = || entry.observed.running.iter().filter(|(id, _)| **id != self.me);
        let takes_work =
            |id: &NodeId| self.nodes.get(id).is_some_and(|node| node.presence.can_act() && node.duty != Duty::Draining);
        let elsewhere = others().fold(0_u32, |sum, (_, running)| sum.saturating_add(running.ready + running.coming));
        // What goes there from here is among the events there, so a node is full only when some wait.
        let room =
            others().filter(|(id, node)| takes_work(id) && node.events <= node.slots).map(|(_, node)| node.slots);
        let count = targets.get(&self.me).copied().unwrap_or(0);
        let duty = self.nodes.get(&self.me).map(|node| node.duty).unwrap_or_default();
        let is_cordoned = duty == Duty::Cordoned && entry.wanted.count > 0;
        // On a cordoned node what serves is kept as if it had its place there.
        let kept = if is_cordoned { here.ready.min(entry.wanted.count) } else { 0 };
        let definition = entry.observed.definition.as_ref();
        let (min, max) = definition.map_or((0, 0), |definition| (definition.rule.min, definition.rule.max));
        let share = Share {
            count: count.max(kept),
            warm: self.planner.first(name, self.me, min),
            placed: targets.values().fold(0_u32, |sum, count| sum.saturating_add(*count)),
            serving_elsewhere: others().fold(0_u32, |sum, (_, running)| sum.saturating_add(running.ready)),
            room_elsewhere: if here.events > here.slots { room.fold(0_u32, u32::saturating_add) } else { 0 },
            full_elsewhere: elsewhere >= max && max > 0,
            hold: here.has_old()
                && definition.is_some_and(|definition| self.waits_its_turn(entry, definition, &targets)),
            of: definition
                .filter(|_| count > 0 || here != Running::default())
                .map_or(0, |definition| hash64(definition.fingerprint.as_bytes()).max(1)),
            apart: definition.is_some_and(|definition| definition.singleton == Singleton::Strict)
                && !self.planner.sees_majority(),
            leave: duty == Duty::Draining,
        };
        let Some(entry) = self.entries.get_mut(name) else { return };
        if share != entry.share {
            entry.share = share;
            self.outputs.push_back(Output::Share(name.clone(), share));
        }
        let gone = entry.observed.definition.is_none();
        // Who was told that it is apart hears when it is not.
        let forgotten = !entry.share.apart
            && entry.wanted.count == 0
            && entry.observed.running.is_empty()
            && entry.observed.wanted.is_empty();
        if gone || (forgotten && entry.said.is_none() && entry.due.is_none()) {
            self.planner.handle_want(name, None);
            self.entries.remove(name);
        }
    }
}

impl Scheduler {
    /// Whether this node's old instances stay for now, because it is another node's turn to replace its own. The nodes
    /// come in the order of their ids.
    fn waits_its_turn(&self, entry: &Entry, definition: &Definition, targets: &Targets) -> bool {
        let running = &entry.observed.running;
        let mut before = running.iter().filter(|(id, _)| **id < self.me);
        match definition.order {
            RolloutOrder::Parallel => false,
            RolloutOrder::Series => {
                before.any(|(id, node)| node.has_old() || node.current < targets.get(id).copied().unwrap_or(0))
            }
            RolloutOrder::SeriesFirst => {
                let some_new = running.values().any(|node| node.current > 0);
                !some_new && before.any(|(_, node)| node.has_old())
            }
        }
    }
}

#[cfg(test)]
mod tests;

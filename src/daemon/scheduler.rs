//! The task that owns the [`Scheduler`]: hands it what the board, the catalog and membership say, and carries out what
//! follows. It decides nothing.
//!
//! Everything is read as it stands now, so it does not matter how often something changed in between.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};

use super::board::{Board, Facts, Heards, Load, News};
use super::catalog::{Catalog, fingerprint};
use super::clock::Clock;
use super::cluster::View;
use super::driver::Message;
use crate::gossip::{Member, State};
use crate::id::{ComponentName, NodeId};
use crate::model::Component;
use crate::model::duty::Duty;
use crate::model::instance::InstanceState;
use crate::model::share::Share;
use crate::placement::scheduler::{Definition, Observed, Output, Running};
use crate::placement::{Engine, Explanation, Node, Places, Presence, Scheduler};

/// Questions that may wait. People ask them.
const QUESTIONS: usize = 64;

/// What a component's plan is.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) explanation: Explanation,
    /// Who counts.
    pub(crate) owner: Option<NodeId>,
}

/// Somebody wants to know why a component is where it is.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) component: ComponentName,
    pub(crate) reply: oneshot::Sender<Option<Plan>>,
}

/// See the head of this file.
pub(crate) struct Task {
    scheduler: Scheduler,
    board: Arc<Board>,
    catalog: Arc<Catalog>,
    view: Arc<ArcSwap<View>>,
    places: Arc<ArcSwap<Places>>,
    messages: mpsc::Sender<Message>,
    clock: Clock,
    questions: mpsc::Receiver<Question>,
    /// All nodes as they were last told.
    nodes: BTreeMap<NodeId, Node>,
    /// The same for those who elect.
    shown: watch::Sender<Arc<BTreeMap<NodeId, Node>>>,
    /// What a definition with these settings means for placement: making its fingerprint takes longer than all the rest.
    definitions: BTreeMap<ComponentName, (Arc<Component>, Option<String>, Definition)>,
}

impl Task {
    pub(crate) fn new(
        board: Arc<Board>,
        catalog: Arc<Catalog>,
        view: Arc<ArcSwap<View>>,
        places: Arc<ArcSwap<Places>>,
        messages: mpsc::Sender<Message>,
        clock: Clock,
    ) -> (Self, mpsc::Sender<Question>) {
        let (asks, questions) = mpsc::channel(QUESTIONS);
        let (scheduler, nodes, definitions) = (Scheduler::new(board.me()), BTreeMap::new(), BTreeMap::new());
        let shown = watch::Sender::default();
        let task =
            Self { scheduler, board, catalog, view, places, messages, clock, questions, nodes, shown, definitions };
        (task, asks)
    }

    /// All nodes as placement sees them, from now on.
    pub(crate) fn nodes(&self) -> watch::Receiver<Arc<BTreeMap<NodeId, Node>>> {
        self.shown.subscribe()
    }

    /// Runs until the loop that starts and stops instances is gone.
    pub(crate) async fn run(mut self) {
        let kept: Vec<_> = self.catalog.read().kept().cloned().collect();
        self.board.changed(kept);
        self.board.nodes_changed();
        loop {
            let timer = self.clock.reach(self.scheduler.poll_timeout());
            tokio::select! {
                biased;
                () = self.messages.closed() => return,
                news = self.board.next_news() => self.take(news),
                question = self.questions.recv() => match question {
                    Some(question) => self.answer(question),
                    None => return,
                },
                () = timer => {}
            }
            self.scheduler.settle(self.clock.mono());
            if let Some(places) = self.scheduler.take_places() {
                self.places.store(Arc::new(places));
            }
            while let Some(output) = self.scheduler.poll_output() {
                match output {
                    Output::Say(component, wanted) => self.board.want(&component, wanted),
                    Output::Share(component, share) => {
                        // A daemon that stops leaves its instances alone: whether they stay is the operator's setting.
                        let share = Share { leave: share.leave && self.is_told_to_drain(), ..share };
                        if self.messages.send(Message::Share(component, share)).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }

    fn is_told_to_drain(&self) -> bool {
        self.board.read().facts.get(&self.board.me()).is_some_and(|facts| facts.duty == Duty::Draining)
    }

    fn take(&mut self, news: News) {
        if news.nodes {
            let view = self.view.load_full();
            self.nodes = nodes(&self.nodes, &self.board.read(), &view, self.board.me());
            let known = self.nodes.values().filter(|node| node.presence != Presence::Left).count();
            let seen = self.nodes.values().filter(|node| node.presence.can_act()).count();
            self.scheduler.handle_nodes(self.nodes.clone(), seen * 2 > known);
            self.shown.send_replace(Arc::new(self.nodes.clone()));
        }
        for component in news.components {
            let observed = self.observe(&component);
            self.scheduler.handle_component(&component, observed);
        }
    }

    fn observe(&mut self, component: &ComponentName) -> Observed {
        let definition = self.definition(component);
        let heard = self.board.read();
        let me = self.board.me();
        let current = definition.as_ref().map(|definition| Arc::clone(&definition.fingerprint)).unwrap_or_default();
        let running = heard.loads.get(component).into_iter().flatten();
        let wanted = heard.wanted.get(component).into_iter().flatten().filter(|(node, _)| **node != me);
        Observed {
            definition,
            running: running.map(|(node, load)| (*node, of_load(load, &current))).collect(),
            wanted: wanted.map(|(node, wanted)| (*node, *wanted)).collect(),
        }
    }

    fn definition(&mut self, name: &ComponentName) -> Option<Definition> {
        let read = self.catalog.read();
        let Some(component) = read.component(name).map(|entry| Arc::clone(&entry.value)) else {
            self.definitions.remove(name);
            return None;
        };
        let mark = read.settings.mark(&component);
        drop(read);
        let is_same =
            |known: &Arc<Component>, marked: &Option<String>| Arc::ptr_eq(known, &component) && *marked == mark;
        let definition = match self.definitions.get(name).filter(|(known, marked, _)| is_same(known, marked)) {
            Some((_, _, definition)) => definition.clone(),
            None => Definition::of(&component, &fingerprint(&component, mark.as_deref())),
        };
        self.definitions.insert(name.clone(), (component, mark, definition.clone()));
        Some(definition)
    }

    fn answer(&mut self, question: Question) {
        let definition = self.definition(&question.component);
        let plan = definition.and_then(|definition| {
            let explanation = self.scheduler.explain(&question.component, &definition)?;
            Some(Plan { explanation, owner: self.scheduler.owner(&question.component) })
        });
        // Who asked may have gone.
        let _ = question.reply.send(plan);
    }
}

fn of_load(load: &Load, fingerprint: &str) -> Running {
    let current =
        load.instances.iter().filter(|told| told.state == InstanceState::Ready && told.version == fingerprint).count();
    let Load { ready, coming, slots, events, .. } = *load;
    Running { events, slots, ready, coming, current: u32::try_from(current).unwrap_or(u32::MAX) }
}

/// All nodes as placement sees them. What a node said of itself outlives it: one that is only missing keeps its share.
fn nodes(before: &BTreeMap<NodeId, Node>, heard: &Heards, view: &View, me: NodeId) -> BTreeMap<NodeId, Node> {
    let states: BTreeMap<NodeId, State> =
        view.members.iter().map(|Member { peer, state, .. }| (peer.node, *state)).chain([(me, State::Alive)]).collect();
    let known: BTreeSet<NodeId> = before.keys().chain(heard.facts.keys()).copied().collect();
    let node = |id: NodeId| -> Option<(NodeId, Node)> {
        let state = states.get(&id)?;
        let old = before.get(&id);
        let was = old.map(|old| old.presence);
        let node = match (heard.facts.get(&id), old) {
            (Some(facts), _) => Node { presence: presence(*state, was, view), ..of_facts(facts)? },
            // It is there, and what it is will be heard in a moment.
            (None, Some(old)) if matches!(state, State::Alive | State::Suspect) => {
                Node { presence: old.presence, ..old.clone() }
            }
            (None, Some(old)) => Node { presence: presence(*state, was, view), ..old.clone() },
            (None, None) => return None,
        };
        Some((id, node))
    };
    known.into_iter().filter_map(node).collect()
}

fn presence(state: State, was: Option<Presence>, view: &View) -> Presence {
    match state {
        State::Alive => Presence::Alive,
        State::Suspect => Presence::Suspect,
        State::Left => Presence::Left,
        // Once given up it stays so, also when others are lost later.
        State::Down if view.frozen.is_some() && was != Some(Presence::Down) => Presence::Missing,
        State::Down => Presence::Down,
    }
}

/// None if its name is none: a node checks its own before it starts.
fn of_facts(facts: &Facts) -> Option<Node> {
    let mib = u32::try_from(facts.memory >> 20).unwrap_or(u32::MAX);
    let engine = if facts.runtime == Engine::Docker.to_string() { Engine::Docker } else { Engine::Process };
    Some(Node {
        name: facts.name.parse().ok()?,
        presence: Presence::Alive,
        duty: if facts.draining { Duty::Draining } else { facts.duty },
        capacity: facts.memory,
        weight: NonZeroU32::new(mib).unwrap_or(NonZeroU32::MIN),
        labels: facts.labels.clone(),
        engines: [engine].into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::Peer;
    use crate::time::Mono;

    fn view(states: &[State], is_frozen: bool) -> View {
        let address = ([127, 0, 0, 1], 1).into();
        let member = |(index, state): (usize, &State)| Member {
            peer: Peer { node: NodeId(index as u64 + 2), address, start: 1, life: 0 },
            state: *state,
            since: Mono(0),
        };
        let members = states.iter().enumerate().map(member).collect();
        View { members, frozen: is_frozen.then_some(Mono(0)), ..View::default() }
    }

    fn heard(nodes: std::ops::RangeInclusive<u64>) -> Heards {
        let facts = |n: u64| Facts {
            name: format!("n{n}"),
            runtime: "process".into(),
            draining: false,
            attends: false,
            duty: Duty::Active,
            memory: 1 << 30,
            labels: BTreeMap::new(),
        };
        Heards { facts: nodes.map(|n| (NodeId(n), facts(n))).collect(), ..Heards::default() }
    }

    fn presences(nodes: &BTreeMap<NodeId, Node>) -> Vec<Presence> {
        nodes.values().map(|node| node.presence).collect()
    }

    #[test]
    fn a_node_that_goes_alone_is_down_and_many_that_go_at_once_are_missing_until_they_are_given_up() {
        let me = NodeId(1);
        let all = nodes(&BTreeMap::new(), &heard(1..=4), &view(&[State::Alive; 3], false), me);
        assert_eq!(presences(&all), [Presence::Alive; 4]);
        let one = nodes(&all, &heard(1..=3), &view(&[State::Alive, State::Alive, State::Down], false), me);
        assert_eq!(presences(&one)[3], Presence::Down);
        let two = nodes(&one, &heard(1..=2), &view(&[State::Alive, State::Down, State::Down], true), me);
        assert_eq!(presences(&two)[2..], [Presence::Missing, Presence::Down], "who was given up stays so");
        assert_eq!(two[&NodeId(3)].capacity, 1 << 30, "what it said is kept");
        let over = nodes(&two, &heard(1..=2), &view(&[State::Alive, State::Down, State::Down], false), me);
        assert_eq!(presences(&over)[2..], [Presence::Down, Presence::Down]);
        let back = nodes(&over, &heard(1..=3), &view(&[State::Alive, State::Alive, State::Down], false), me);
        assert_eq!(presences(&back)[2..], [Presence::Alive, Presence::Down]);
    }

    #[test]
    fn a_node_is_not_known_before_it_has_said_what_it_is() {
        let all = nodes(&BTreeMap::new(), &heard(1..=1), &view(&[State::Alive], false), NodeId(1));
        assert_eq!(all.len(), 1);
    }
}

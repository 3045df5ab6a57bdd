//! The one loop that owns the node: messages and time in, effects out. It decides nothing and never waits for an
//! effect; each instance has a [`super::keeper`] that carries effects out in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::board::{Board, Load, load_of};
use super::catalog::Catalog;
use super::clock::Clock;
use super::consent::Consent;
use super::keeper::{Keeper, Order, Workshop};
use crate::activation::queue::Waiter;
use crate::activation::{Activation, Effect, Fact, Problem, Shown, Ticket};
use crate::failure::Failure;
use crate::id::{ComponentName, InstanceId};
use crate::model::component::Singleton;
use crate::model::happening::What;
use crate::model::share::Share;
use crate::node::{Input, Node, Totals};
use crate::slots::Slots;
use crate::time::Mono;

/// Messages that may wait for the loop. A turn takes some microseconds, so this is tens of milliseconds of work, and
/// four times the default queue of a component.
pub(crate) const MESSAGES: usize = 16_384;

/// How often it is looked whether the load of a component is still what others were told.
const SAMPLE: Duration = Duration::from_millis(100);

/// What reaches the loop.
#[derive(Debug)]
pub(crate) enum Message {
    /// A fact.
    Input(Input),
    /// Components of which the catalog says something new.
    Changed(Vec<ComponentName>),
    /// What the plan of the cluster wants of this node for a component.
    Share(ComponentName, Share),
    /// An event wants a slot.
    Wait { component: ComponentName, waiter: Waiter, reply: Reply },
    /// Somebody wants to see a component (or all of them).
    Look { component: Option<ComponentName>, reply: oneshot::Sender<Vec<Status>> },
    /// Somebody wants to know how much there is of everything.
    Total { reply: oneshot::Sender<Totals> },
    /// Takes over what ran before, before anything else is sent.
    Load { inputs: Vec<Input>, done: oneshot::Sender<()> },
    /// Stop all instances, or those alone that may not run without this daemon; answered when the last one is gone.
    StopAll { done: oneshot::Sender<()>, only_strict: bool },
    /// Leave the loop. What keepers do at the moment is given up.
    Leave,
}

pub(crate) type Reply = oneshot::Sender<Result<Arc<Slots>, Failure>>;

/// One component as it stands.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub(crate) component: ComponentName,
    pub(crate) instances: Vec<Shown>,
    pub(crate) waiting: u32,
    pub(crate) problem: Option<Problem>,
    pub(crate) waits_for: Option<String>,
    /// What a new instance is made of.
    pub(crate) fingerprint: String,
    /// Failed starts of that.
    pub(crate) failures: u32,
}

/// The loop's state.
pub(crate) struct Driver {
    node: Node,
    catalog: Arc<Catalog>,
    clock: Clock,
    messages: mpsc::Receiver<Message>,
    missed: Arc<AtomicBool>,
    workshop: Arc<Workshop>,
    keepers: BTreeMap<InstanceId, Keeper>,
    replies: BTreeMap<Ticket, Reply>,
    board: Arc<Board>,
    consent: Arc<Consent>,
    /// What the board says of this node's components.
    said: BTreeMap<ComponentName, Load>,
}

impl Driver {
    pub(crate) fn new(
        node: Node,
        clock: Clock,
        messages: mpsc::Receiver<Message>,
        missed: Arc<AtomicBool>,
        workshop: Arc<Workshop>,
        board: Arc<Board>,
        consent: Arc<Consent>,
    ) -> Self {
        let catalog = Arc::clone(&workshop.catalog);
        let (keepers, replies, said) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { node, catalog, clock, messages, missed, workshop, keepers, replies, board, consent, said }
    }

    /// Runs until [`Message::Leave`].
    pub(crate) async fn run(mut self) {
        let mut samples = tokio::time::interval(SAMPLE);
        samples.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let timer = self.clock.reach(self.node.poll_timeout());
            let message = tokio::select! {
                biased;
                message = self.messages.recv() => message,
                () = timer => Some(Message::Input(Input::Tick)),
                _ = samples.tick(), if !self.said.is_empty() => {
                    let names: Vec<_> = self.said.keys().cloned().collect();
                    names.into_iter().for_each(|name| self.say(name));
                    continue;
                }
            };
            match message {
                None | Some(Message::Leave) => break,
                Some(message) => self.turn(message),
            }
            if self.missed.swap(false, Ordering::AcqRel) {
                self.freed_everywhere();
            }
            self.carry_out();
            for name in self.node.take_changed() {
                self.say(name);
            }
        }
    }

    /// Tells the other nodes what this one does for a component, if they should know.
    fn say(&mut self, component: ComponentName) {
        let now = self.clock.mono();
        let load = self
            .node
            .get(&component)
            .and_then(|activation| load_of(&status(activation, now), activation.component().concurrency.get()));
        match (self.said.get(&component), load) {
            (None, None) => {}
            (Some(said), Some(load)) if !said.differs(&load) => {}
            (_, Some(load)) => {
                self.board.load(&component, Some(load.clone()));
                self.said.insert(component, load);
            }
            (Some(_), None) => {
                self.board.load(&component, None);
                self.said.remove(&component);
            }
        }
    }

    fn turn(&mut self, message: Message) {
        let now = self.clock.now();
        match message {
            Message::Input(input) => self.node.handle(input, now),
            Message::Changed(components) => {
                self.board.changed(components.iter().cloned());
                components.into_iter().for_each(|component| self.update(component, false));
            }
            Message::Share(component, share) => {
                self.meet(&component);
                self.node.handle(Input::Component(component, Fact::Share(share)), now);
            }
            Message::Wait { component, waiter, reply } => {
                self.meet(&component);
                self.replies.insert(waiter.ticket, reply);
                self.node.handle(Input::Component(component.clone(), Fact::Wait(waiter)), now);
                // Who counts hears of the first one that waits at once, and of more whenever they have doubled.
                let waiting = self.node.get(&component).map_or(0, Activation::waiting);
                if waiting.is_power_of_two() {
                    self.say(component);
                }
            }
            Message::Look { component, reply } => {
                let all = match &component {
                    Some(name) => self.node.get(name).into_iter().map(|one| status(one, now.mono)).collect(),
                    None => self.node.iter().map(|one| status(one, now.mono)).collect(),
                };
                // Who asked may have gone; that is no concern of the loop.
                let _ = reply.send(all);
            }
            Message::Total { reply } => {
                let _ = reply.send(self.node.totals());
            }
            Message::Load { inputs, done } => {
                for input in inputs {
                    if let Input::Found { id, .. } = &input {
                        self.meet(&id.component());
                    }
                    self.node.handle(input, now);
                }
                self.node.settle_all(now);
                let _ = done.send(());
            }
            Message::StopAll { done, only_strict } => self.stop_all(done, only_strict),
            Message::Leave => {}
        }
    }

    /// Lets the node know a component that somebody asks for. It knows those that were asked for before, and those of
    /// which it keeps instances.
    fn meet(&mut self, component: &ComponentName) {
        if self.node.get(component).is_none() {
            self.update(component.clone(), true);
        }
    }

    /// Tells the node what the catalog says of a component, if it is or becomes its concern.
    fn update(&mut self, component: ComponentName, is_concern: bool) {
        let is_known = self.node.get(&component).is_some();
        let fact = self.catalog.read().fact(&component, is_concern || is_known);
        if let Some(fact) = fact {
            self.node.handle(Input::Component(component, fact), self.clock.now());
        }
    }

    /// Looks at all components in which events wait: a message about a free slot was lost to a full queue.
    fn freed_everywhere(&mut self) {
        let waiting: Vec<_> = self
            .node
            .iter()
            .filter(|activation| activation.waiting() > 0)
            .map(|activation| activation.component().name.clone())
            .collect();
        for component in waiting {
            self.node.handle(Input::Component(component, Fact::Freed), self.clock.now());
        }
    }

    fn carry_out(&mut self) {
        while let Some((component, effect)) = self.node.poll_effect() {
            match effect {
                Effect::Start(id, definition, fingerprint) => {
                    self.order(&id, Order::Start { component: definition, fingerprint });
                }
                Effect::Watch(id, definition, address) => {
                    self.order(&id, Order::Watch { component: definition, address });
                }
                Effect::Abandon(id) => {
                    if let Some(keeper) = self.keepers.get(&id) {
                        keeper.abandon();
                    }
                }
                Effect::Freeze(id) => self.order(&id, Order::Freeze),
                Effect::Thaw(id) => self.order(&id, Order::Thaw),
                Effect::Stop(id, definition) => self.order(&id, Order::Stop(Some(definition))),
                Effect::Discard(id) => {
                    self.board.note_instance(What::Stopped, &id, "its component was removed while its node was away");
                    self.order(&id, Order::Stop(None));
                    self.keepers.remove(&id);
                }
                Effect::Claim(is_claimed) => self.consent.claim(&component, is_claimed),
                Effect::Check(id, definition, address) => self.workshop.check(id, definition, address),
                Effect::Grant(ticket, slots) => self.grant(ticket, slots),
                Effect::Refuse(ticket, failure) => {
                    let is_sent = matches!(failure, Failure::Elsewhere(_));
                    let told = self.replies.remove(&ticket).is_some_and(|reply| reply.send(Err(failure)).is_ok());
                    if is_sent && !told {
                        // It has gone meanwhile, and will not come back.
                        self.node.handle(Input::Component(component.clone(), Fact::Returned), self.clock.now());
                    }
                    if is_sent {
                        // It must not be counted here any more when it is counted there.
                        self.say(component);
                    }
                }
                Effect::Note(instance, what, text) => {
                    self.workshop.note(&component, instance.as_ref(), &text);
                    if let (Some(what), Some(instance)) = (what, &instance) {
                        self.board.note_instance(what, instance, &text);
                    }
                }
                Effect::Forget(id) => {
                    // The keeper finishes the orders it has and ends.
                    self.keepers.remove(&id);
                    self.workshop.forget(&id);
                }
            }
        }
    }

    /// Hands the slot over, or gives it back if the event has gone meanwhile.
    fn grant(&mut self, ticket: Ticket, slots: Arc<Slots>) {
        let unused = match self.replies.remove(&ticket) {
            Some(reply) => reply.send(Ok(slots)).err().and_then(Result::ok),
            None => Some(slots),
        };
        if let Some(slots) = unused {
            slots.release(self.clock.mono());
            self.node.handle(Input::Component(slots.instance.component(), Fact::Freed), self.clock.now());
        }
    }

    fn order(&mut self, id: &InstanceId, order: Order) {
        let workshop = &self.workshop;
        let keeper = self.keepers.entry(id.clone()).or_insert_with(|| Keeper::start(id.clone(), Arc::clone(workshop)));
        keeper.order(order);
    }

    /// Stops every instance. The node is draining by now and starts none.
    fn stop_all(&mut self, done: oneshot::Sender<()>, only_strict: bool) {
        let all = self.node.iter().map(|activation| Arc::clone(activation.component()));
        let names: Vec<_> = all.filter(|one| !only_strict || one.singleton == Singleton::Strict).collect();
        let mut stopped = Vec::new();
        for component in names {
            let Some(activation) = self.node.get(&component.name) else { continue };
            let ids: Vec<_> = activation.instances().map(|shown| shown.id).collect();
            for id in ids {
                if let Some(keeper) = self.keepers.get(&id) {
                    keeper.abandon();
                }
                self.order(&id, Order::Stop(Some(Arc::clone(&component))));
                stopped.extend(self.keepers.remove(&id));
            }
        }
        if !only_strict {
            // Also those of instances that are on their way out.
            stopped.extend(std::mem::take(&mut self.keepers).into_values());
        }
        self.workshop.finish(stopped, done);
    }
}

fn status(activation: &Activation, now: Mono) -> Status {
    Status {
        component: activation.component().name.clone(),
        instances: activation.instances().collect(),
        waiting: activation.waiting(),
        problem: activation.problem().cloned(),
        waits_for: activation.waits_for(now),
        fingerprint: activation.fingerprint().to_owned(),
        failures: activation.failures(),
    }
}

//! The data plane's way to the core: turns a wait for a slot into a message to the loop and a reply to come.
//!
//! The warm path never gets here: [`crate::intake::Lease::get`] claims a slot without it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use arc_swap::ArcSwap;

use super::board::{Board, Load};
use super::catalog::Catalog;
use super::clock::Clock;
use super::driver::Message;
use crate::activation::Fact;
use crate::activation::queue::Waiter;
use crate::failure::Failure;
use crate::id::{ComponentName, InstanceId, NodeId};
use crate::intake::{Ask, Intake, Way};
use crate::model::Component;
use crate::node::Input;
use crate::placement::way::{Choice, There, choose};
use crate::placement::{Places, scheduler};
use crate::slots::Slots;
use crate::source::courier::Components as _;
use crate::time::Mono;

/// Handle to the loop, for the data plane.
#[derive(Debug)]
pub(crate) struct CoreHandle {
    messages: mpsc::Sender<Message>,
    /// Set when a message that a slot is free could not be sent: the loop then looks at every component that waits.
    missed: Arc<AtomicBool>,
    clock: Clock,
    tickets: AtomicU64,
    random: AtomicU64,
    board: Arc<Board>,
    catalog: Arc<Catalog>,
    places: Arc<ArcSwap<Places>>,
}

impl CoreHandle {
    pub(crate) fn new(
        messages: mpsc::Sender<Message>,
        missed: Arc<AtomicBool>,
        clock: Clock,
        seed: u64,
        board: Arc<Board>,
        catalog: Arc<Catalog>,
        places: Arc<ArcSwap<Places>>,
    ) -> Self {
        let (tickets, random) = (AtomicU64::new(1), AtomicU64::new(seed));
        Self { messages, missed, clock, tickets, random, board, catalog, places }
    }

    /// Whether an event may wait here: an instance is here, or could be.
    fn could_hold(&self, component: &Component) -> Result<(), Failure> {
        let (places, needs) = (self.places.load(), scheduler::needs(component));
        let me = self.board.me();
        if places.fits(me, &needs) {
            return Ok(());
        }
        let has_some = self.board.read().loads.get(&component.name).is_some_and(|loads| loads.contains_key(&me));
        if has_some {
            return Ok(());
        }
        Err(Failure::Nowhere { component: component.name.clone(), reason: places.why_nowhere(&needs) })
    }

    fn tell(&self, input: Input) {
        if self.messages.try_send(Message::Input(input)).is_err() {
            self.missed.store(true, Ordering::Release);
        }
    }
}

/// Gives the place in the queue up when the event goes away while it waits.
struct Place<'a> {
    core: &'a CoreHandle,
    component: &'a ComponentName,
    ticket: u64,
    answered: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.answered {
            // If the loop's queue is full the grant later finds nobody, and the loop gives the slot back.
            self.core.tell(Input::Component(self.component.clone(), Fact::Cancel(self.ticket)));
        }
    }
}

impl Intake for CoreHandle {
    fn now(&self) -> Mono {
        self.clock.mono()
    }

    fn random(&self) -> u64 {
        // SplitMix64 over a shared counter: good enough to choose an instance, and one relaxed addition.
        let mut x = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn wait(&self, ask: Ask) -> Pin<Box<dyn Future<Output = Result<Arc<Slots>, Failure>> + Send + '_>> {
        Box::pin(async move {
            let component = &ask.gate.component;
            self.could_hold(&ask.component)?;
            let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
            let Ask { deadline, bytes, stays, .. } = ask;
            let waiter = Waiter { ticket, since: self.clock.mono(), deadline, bytes, stays };
            let (reply, answer) = oneshot::channel();
            let message = Message::Wait { component: component.clone(), waiter, reply };
            if let Err(error) = self.messages.try_send(message) {
                return Err(match error {
                    mpsc::error::TrySendError::Full(_) => Failure::QueueFull {
                        component: component.clone(),
                        what: format!("{} requests are on their way into it", super::driver::MESSAGES),
                        retry_after: Duration::from_secs(1),
                    },
                    mpsc::error::TrySendError::Closed(_) => Failure::Draining,
                });
            }
            let mut place = Place { core: self, component, ticket, answered: false };
            let answer = answer.await;
            place.answered = true;
            answer.unwrap_or(Err(Failure::Draining))
        })
    }

    fn node(&self) -> Option<NodeId> {
        Some(self.board.me())
    }

    fn way(&self, component: &ComponentName, avoid: &[NodeId], is_sent: bool) -> Way {
        let Some((definition, _)) = self.catalog.live(component) else { return Way::Here };
        let me = self.board.me();
        let places = self.places.load();
        let mut here = 0;
        let mut there = Vec::new();
        for (&node, load) in self.board.read().loads.get(component).into_iter().flatten() {
            let Load { ready, coming, slots, events, .. } = *load;
            if node == me {
                here = ready + coming;
            } else if !avoid.contains(&node) && places.takes_work(node) {
                there.push(There { node, ready, coming, slots, load: events });
            }
        }
        let first = || places.first(component, &scheduler::needs(&definition), avoid);
        match choose(me, here, &there, is_sent, self.random(), first) {
            Choice::Here => Way::Here,
            Choice::There(node) => Way::There(node),
        }
    }

    fn returned(&self, component: &ComponentName) {
        self.tell(Input::Component(component.clone(), Fact::Returned));
    }

    fn freed(&self, component: &ComponentName) {
        self.tell(Input::Component(component.clone(), Fact::Freed));
    }

    fn suspect(&self, instance: &InstanceId, reason: &str) {
        tracing::info!(%instance, reason, "instance could not be reached");
        self.tell(Input::Component(instance.component(), Fact::Suspect(instance.clone())));
    }
}

//! The consent of the cluster to run strict singletons: asks the other nodes, answers them, and tells the loop.
//!
//! Decides nothing: `placement::lease` says who is asked when, and what follows from the answers.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use super::ask::Ask as Question;
use super::clock::Clock;
use super::cluster::{Cluster, View};
use super::driver::Message;
use super::guard::Guards;
use super::registrar::Registrar;
use crate::activation::Fact;
use crate::gossip::State;
use crate::id::{ComponentName, NodeId};
use crate::node::Input;
use crate::placement::lease::{Answer, Ask, Leases, VOTE};
use crate::store::{Store, StoreError};
use crate::telemetry;
use crate::time::Mono;
use crate::wire;

/// The note of the store that holds the nodes that count: those that were ever seen, and neither left nor were removed.
/// A node that starts while it is cut off must not believe that it is all there is.
const KNOWN: &str = "known";

/// How often it is looked who is known.
const LOOK: Duration = Duration::from_secs(1);

/// How long another node may take to answer. A later answer would still count, and the next question is as good.
const ANSWER: Duration = Duration::from_secs(1);

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Consent {
    core: Mutex<Leases>,
    wake: Notify,
    clock: Clock,
    guards: Arc<Guards>,
}

/// What [`Consent::run`] works with.
pub(crate) struct Surroundings {
    pub(crate) me: NodeId,
    /// Those that counted when the process before ended.
    pub(crate) known: BTreeSet<NodeId>,
    pub(crate) cluster: Cluster,
    pub(crate) removed: watch::Receiver<BTreeSet<NodeId>>,
    pub(crate) registrar: Registrar,
    pub(crate) messages: mpsc::Sender<Message>,
}

/// Those that counted when the last process ended; none if there was none.
pub(crate) fn read_known(store: &mut Store) -> Result<BTreeSet<NodeId>, StoreError> {
    let note = store.note(KNOWN)?.unwrap_or_default();
    Ok(wire::decode::<BTreeSet<NodeId>, { 1 << 20 }>(&note).unwrap_or_default())
}

impl Consent {
    /// `known`: those that counted when the process before ended.
    pub(crate) fn new(
        me: NodeId,
        start: u64,
        known: &BTreeSet<NodeId>,
        clock: Clock,
        guards: Arc<Guards>,
    ) -> Arc<Self> {
        // Alone it can have voted for nobody but itself.
        let has_voted = known.iter().any(|node| *node != me);
        let mut core = Leases::new(me, start, has_voted, clock.mono());
        core.handle_known(known.clone());
        Arc::new(Self { core: Mutex::new(core), wake: Notify::new(), clock, guards })
    }

    fn core(&self) -> MutexGuard<'_, Leases> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node runs a component or wants to, or has given it up and stopped it.
    pub(crate) fn claim(&self, component: &ComponentName, is_claimed: bool) {
        self.core().handle_claim(component, is_claimed, self.clock.mono());
        self.wake.notify_one();
    }

    /// Answers another node.
    pub(crate) fn answer(&self, from: NodeId, ask: &Ask) -> Answer {
        self.core().handle_ask(from, ask, self.clock.mono())
    }

    /// Runs until the loop that starts and stops instances is gone.
    pub(crate) async fn run(self: Arc<Self>, mut around: Surroundings) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let timer = self.clock.reach(self.core().poll_timeout());
            tokio::select! {
                biased;
                () = around.messages.closed() => return,
                () = self.wake.notified() => {}
                () = timer => {}
                _ = looks.tick() => {}
            }
            let view = around.cluster.view.load_full();
            self.look(&view, &mut around).await;
            let ask = self.core().poll_ask(self.clock.mono());
            self.tell(&around.messages).await;
            if let Some(ask) = ask {
                self.ask(&ask, &view, &around);
            }
        }
    }

    /// Takes in who is known, and keeps it for the next start before it counts.
    async fn look(&self, view: &View, around: &mut Surroundings) {
        let now = self.clock.mono();
        let known = known(&around.known, view, &around.removed.borrow_and_update(), around.me, now);
        if known != around.known {
            let bytes = wire::encode(&known).unwrap_or_default();
            around.registrar.note(KNOWN, bytes).await;
            around.known.clone_from(&known);
            self.core().handle_known(known);
        }
    }

    fn ask(self: &Arc<Self>, ask: &Ask, view: &View, around: &Surroundings) {
        let question = Question::Consent(ask.clone()).encode();
        for member in view.members.iter().filter(|member| member.state != State::Left) {
            let (this, peer, number, question) = (Arc::clone(self), member.peer, ask.number.1, question.clone());
            let (transport, messages) = (around.cluster.transport.clone(), around.messages.clone());
            telemetry::spawn("consent", async move {
                let answer = transport.call(peer.node, peer.address, question, ANSWER).await;
                // One that does not know the question has no answer.
                let Some(answer) = answer.ok().and_then(|answer| wire::decode::<Answer, { 2 << 20 }>(&answer).ok())
                else {
                    return;
                };
                this.core().handle_answer(peer.node, number, &answer);
                this.tell(&messages).await;
            });
        }
    }

    /// Tells the loop until when it may run what.
    async fn tell(&self, messages: &mpsc::Sender<Message>) {
        loop {
            let Some((component, until)) = self.core().poll_permit() else { return };
            self.guards.extend(&component, until);
            let input = Input::Component(component, Fact::Consent(until));
            // Closed: the daemon is leaving.
            if messages.send(Message::Input(input)).await.is_err() {
                return;
            }
        }
    }
}

/// Who counts. One that left does so until the votes that it gave are over.
fn known(
    before: &BTreeSet<NodeId>,
    view: &View,
    removed: &BTreeSet<NodeId>,
    me: NodeId,
    now: Mono,
) -> BTreeSet<NodeId> {
    let mut known = before.clone();
    known.insert(me);
    for member in &view.members {
        if member.state != State::Left {
            known.insert(member.peer.node);
        } else if now.since(member.since) > VOTE {
            known.remove(&member.peer.node);
        }
    }
    known.retain(|node| !removed.contains(node));
    known
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::{Member, Peer};

    #[test]
    fn a_node_counts_from_when_it_was_seen_until_it_left_or_was_removed() {
        let me = NodeId(1);
        let member = |node: u64, state, since: Mono| {
            let peer = Peer { node: NodeId(node), address: ([127, 0, 0, 1], 1).into(), start: 1, life: 0 };
            Member { peer, state, since }
        };
        let later = Mono(1).after(VOTE * 2);
        let view = View {
            members: vec![
                member(2, State::Alive, Mono(1)),
                member(3, State::Down, Mono(1)),
                member(4, State::Left, Mono(1)),
                member(5, State::Left, later),
            ],
            ..View::default()
        };
        let before: BTreeSet<NodeId> = [1, 4, 5, 6, 7].map(NodeId).into();
        let now = known(&before, &view, &[NodeId(7)].into(), me, later);
        assert_eq!(now, [1, 2, 3, 5, 6].map(NodeId).into(), "6 was seen before the start and not since");
    }
}

//! What this node and the others say of themselves: facts about a node, and its load for each component.
//!
//! Own rows go to each peer in sheets that it acknowledges, one under way at a time; those of peers are kept while they
//! are alive. Decides nothing; `crdt::bulletin` says what is sent, `placement` what follows from what was heard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::ask::Ask;
use super::chronicle::Chronicle;
use crate::crdt::bulletin::{Bulletin, Heard, Sheet, Taken};
use crate::crdt::{Key, Kind, Row};
use crate::gossip::Peer;
use crate::id::{ComponentName, NodeId, SourceName};
use crate::model::duty::Duty;
use crate::model::instance::InstanceState;
use crate::placement::scheduler::Wanted;
use crate::placement::seats::Claim;
use crate::telemetry;
use crate::transport::Transport;

/// The format of the rows here: JSON, to which fields can be added.
pub(super) const FORMAT: u16 = 1;

/// How long a peer may take to acknowledge a sheet: many round trips.
const TELL: Duration = Duration::from_secs(2);

/// The pause after a sheet that was not acknowledged, doubled up to the second.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Changes that come within this time share a sheet. Nobody waits for it on the warm path, and a cold start takes
/// longer; at a thousand changes a second it saves nine sheets of ten.
const GATHER: Duration = Duration::from_millis(10);

/// Instances that a load names one by one; it counts all of them. More would not fit into a row of 64 KiB.
const NAMED: usize = 128;

/// What a node is and wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) name: String,
    /// `docker` or `process`.
    pub(crate) runtime: String,
    /// Takes no new work.
    #[serde(default)]
    pub(crate) draining: bool,
    /// What people want of it.
    #[serde(default)]
    pub(crate) duty: Duty,
    /// It has listened long enough to be elected for seats of sources.
    #[serde(default)]
    pub(crate) attends: bool,
    /// Bytes that instances may set aside.
    #[serde(default)]
    pub(crate) memory: u64,
    /// What its operator calls it.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
}

/// An instance as its node tells the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) id: String,
    pub(crate) state: InstanceState,
    pub(crate) version: String,
    #[serde(default)]
    pub(crate) address: Option<String>,
    #[serde(default)]
    pub(crate) handle: String,
    /// Milliseconds since the epoch.
    pub(crate) started: u64,
}

/// What a node does for a component.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) ready: u32,
    /// Starting or frozen.
    pub(crate) coming: u32,
    /// Slots of the ready ones.
    pub(crate) slots: u32,
    /// Events in flight and waiting.
    pub(crate) events: u32,
    pub(crate) instances: Vec<Told>,
    /// What keeps the node from doing what it is meant to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) waits_for: Option<String>,
    /// Why the last start failed, if none succeeded since.
    #[serde(default)]
    pub(crate) trouble: Option<Trouble>,
}

/// The last failed start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trouble {
    /// Of the definition.
    pub(crate) version: String,
    /// How many starts of it failed.
    pub(crate) failures: u32,
    /// In a sentence.
    pub(crate) problem: String,
}

impl Load {
    /// Whether others should hear of `now` when they know `self`: always of instances, of events only when they changed
    /// by an eighth, when room came or went, or when the first one waits or none does any more: who counts starts instances for
    /// what waits, however little it is.
    pub(crate) fn differs(&self, now: &Self) -> bool {
        let moved = self.events.abs_diff(now.events);
        let room = |load: &Self| load.events < load.slots;
        let waits = |load: &Self| load.events > load.slots;
        let quiet = |load: &Self| load.events == 0;
        (self.ready, self.coming, self.slots) != (now.ready, now.coming, now.slots)
            || self.instances != now.instances
            || self.waits_for.is_some() != now.waits_for.is_some()
            || self.trouble != now.trouble
            || room(self) != room(now)
            || waits(self) != waits(now)
            || quiet(self) != quiet(now)
            || moved > self.events / 8
    }
}

/// What was heard of others, and said by this node.
#[derive(Debug, Default)]
pub(crate) struct Heards {
    pub(crate) facts: BTreeMap<NodeId, Facts>,
    pub(crate) loads: BTreeMap<ComponentName, BTreeMap<NodeId, Load>>,
    pub(crate) wanted: BTreeMap<ComponentName, BTreeMap<NodeId, Wanted>>,
    pub(crate) seats: BTreeMap<SourceName, BTreeMap<NodeId, Claim>>,
}

/// What changed since somebody last looked. Bounded by the number of components.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) components: BTreeSet<ComponentName>,
    pub(crate) nodes: bool,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Board {
    me: NodeId,
    bulletin: Mutex<Bulletin>,
    /// Of all that are alive, this node included.
    heard: RwLock<Heards>,
    head: watch::Sender<u64>,
    news: Mutex<News>,
    has_news: Notify,
    tellers: Mutex<BTreeMap<NodeId, JoinHandle<()>>>,
    seat_news: watch::Sender<u64>,
    chronicle: Chronicle,
}

impl Board {
    pub(crate) fn new(me: NodeId, epoch: u64, facts: Facts) -> Arc<Self> {
        let board = Self {
            me,
            bulletin: Mutex::new(Bulletin::new(epoch)),
            heard: RwLock::default(),
            head: watch::Sender::new(0),
            news: Mutex::default(),
            has_news: Notify::new(),
            tellers: Mutex::default(),
            seat_news: watch::Sender::new(0),
            chronicle: Chronicle::new(me, epoch, &facts.name),
        };
        board.say(facts);
        Arc::new(board)
    }

    pub(crate) fn me(&self) -> NodeId {
        self.me
    }

    /// What happened on all nodes.
    pub(crate) fn chronicle(&self) -> &Chronicle {
        &self.chronicle
    }

    fn bulletin(&self) -> MutexGuard<'_, Bulletin> {
        self.bulletin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Heards> {
        self.heard.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this node is and wants from now on.
    pub(crate) fn say(&self, facts: Facts) {
        let row = row(&facts);
        self.heard.write().unwrap_or_else(PoisonError::into_inner).facts.insert(self.me, facts);
        self.nodes_changed();
        self.post(Kind::FACTS, "self", row);
    }

    /// Says the same with a change.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Facts)) {
        let facts = self.read().facts.get(&self.me).cloned();
        if let Some(mut facts) = facts {
            change(&mut facts);
            self.say(facts);
        }
    }

    /// What this node does for a component; nothing any more if `None`.
    pub(crate) fn load(&self, component: &ComponentName, load: Option<Load>) {
        let row = load.as_ref().and_then(row);
        self.heard.write().unwrap_or_else(PoisonError::into_inner).set(component.clone(), self.me, load);
        self.changed([component.clone()]);
        self.post(Kind::LOAD, component.as_str(), row);
    }

    /// How many instances of a component are wanted, as this node counts; nothing any more if `None`.
    pub(crate) fn want(&self, component: &ComponentName, wanted: Option<Wanted>) {
        let row = wanted.as_ref().and_then(row);
        self.heard.write().unwrap_or_else(PoisonError::into_inner).wants(component.clone(), self.me, wanted);
        self.post(Kind::WANTED, component.as_str(), row);
    }

    /// Something about these components changed.
    pub(crate) fn changed(&self, components: impl IntoIterator<Item = ComponentName>) {
        self.news().components.extend(components);
        self.has_news.notify_one();
    }

    /// Something about nodes changed.
    pub(crate) fn nodes_changed(&self) {
        self.news().nodes = true;
        self.has_news.notify_one();
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something changed, and says what. For one reader.
    pub(crate) async fn next_news(&self) -> News {
        loop {
            let news = std::mem::take(&mut *self.news());
            if news.nodes || !news.components.is_empty() {
                return news;
            }
            self.has_news.notified().await;
        }
    }

    /// Which seats of a source this node holds; nothing any more if `None`.
    pub(crate) fn seats(&self, source: &SourceName, claim: Option<Claim>) {
        let row = claim.as_ref().and_then(row);
        put(&mut self.heard.write().unwrap_or_else(PoisonError::into_inner).seats, source.clone(), self.me, claim);
        self.post(Kind::SEATS, source.as_str(), row);
    }

    /// Changes whenever another node says something new of its seats.
    pub(crate) fn seat_news(&self) -> watch::Receiver<u64> {
        self.seat_news.subscribe()
    }

    fn post(&self, kind: Kind, name: &str, row: Option<Row>) {
        // A name of a component is a key.
        if let Ok(key) = Key::new(kind, name) {
            self.post_row(key, row);
        }
    }

    pub(super) fn post_row(&self, key: Key, row: Option<Row>) {
        let mut bulletin = self.bulletin();
        if bulletin.post(key, row) {
            self.head.send_replace(bulletin.head());
        }
    }

    /// Takes in what a peer said, and says what it wants to hear. None if it cannot be read.
    pub(crate) fn take(&self, from: NodeId, sheet: Sheet) -> Option<Taken> {
        let mut bulletin = self.bulletin();
        let (taken, changed) = match bulletin.take(from, sheet) {
            Ok(done) => done,
            Err(error) => {
                tracing::debug!(%from, %error, "what a peer says of itself cannot be read");
                return None;
            }
        };
        let mut heard = self.heard.write().unwrap_or_else(PoisonError::into_inner);
        for key in &changed {
            heard.apply(from, key, bulletin.get(from, key));
        }
        drop(heard);
        let rows = changed.iter().filter(|key| key.kind() == Kind::EVENTS);
        let blocks: Vec<Row> = rows.filter_map(|key| bulletin.get(from, key).cloned()).collect();
        drop(bulletin);
        self.chronicle.take(from, &blocks);
        self.tell_of(&changed);
        Some(taken)
    }

    /// A peer is there, or there again: it hears everything.
    pub(crate) fn greet(self: &Arc<Self>, transport: &Transport, peer: Peer) {
        let work = Arc::clone(self).tell(transport.clone(), peer);
        let old = self.tellers().insert(peer.node, telemetry::spawn("peer teller", work));
        old.inspect(JoinHandle::abort);
    }

    /// A peer is gone, with all that it said but what happened.
    pub(crate) fn part(&self, node: NodeId) {
        self.tellers().remove(&node).inspect(JoinHandle::abort);
        let gone = self.bulletin().drop_owner(node);
        let mut heard = self.heard.write().unwrap_or_else(PoisonError::into_inner);
        let name = heard.facts.get(&node).map_or_else(|| node.to_string(), |facts| facts.name.clone());
        let count = |load: &Load| load.ready.saturating_add(load.coming);
        let instances =
            heard.loads.iter().filter_map(|(component, of)| Some((component.clone(), count(of.get(&node)?))));
        let instances = instances.collect();
        for key in &gone {
            heard.apply(node, key, None);
        }
        self.chronicle.part(node, &name, instances);
        drop(heard);
        self.tell_of(&gone);
    }

    fn tell_of(&self, keys: &[Key]) {
        if keys.iter().any(|key| key.kind() == Kind::FACTS) {
            self.nodes_changed();
        }
        if keys.iter().any(|key| key.kind() == Kind::SEATS) {
            self.seat_news.send_modify(|count| *count += 1);
        }
        let about = keys.iter().filter(|key| [Kind::LOAD, Kind::WANTED].contains(&key.kind()));
        self.changed(about.filter_map(|key| key.name().parse().ok()));
    }

    fn tellers(&self) -> MutexGuard<'_, BTreeMap<NodeId, JoinHandle<()>>> {
        self.tellers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn tell(self: Arc<Self>, transport: Transport, peer: Peer) {
        let mut head = self.head.subscribe();
        let (mut heard, mut pause) = (Heard::default(), AGAIN.0);
        loop {
            let now = *head.borrow_and_update();
            if heard.is_all(now) {
                if head.changed().await.is_err() {
                    return;
                }
                tokio::time::sleep(GATHER).await;
                continue;
            }
            let (sheet, after) = self.bulletin().sheet(heard);
            let question = Ask::Sheet(sheet).encode();
            let answer = transport.call(peer.node, peer.address, question, TELL).await;
            match answer.ok().and_then(|answer| taken(&answer)) {
                Some(Taken::Known) => (heard, pause) = (after, AGAIN.0),
                Some(Taken::Missing) if heard != Heard::default() => heard = Heard::default(),
                // Not there, or not yet one of its members.
                Some(Taken::Missing) | None => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(AGAIN.1);
                    heard = Heard::default();
                }
            }
        }
    }
}

/// The answer to a sheet.
pub(crate) fn answer(taken: Option<Taken>) -> Bytes {
    taken.and_then(|taken| crate::wire::encode(&taken).ok()).unwrap_or_default().into()
}

fn taken(answer: &[u8]) -> Option<Taken> {
    crate::wire::decode::<Taken, 16>(answer).ok()
}

fn row<T: Serialize>(value: &T) -> Option<Row> {
    // Structs of texts and numbers can always be written.
    Some(Row { format: FORMAT, bytes: serde_json::to_vec(value).ok()?.into() })
}

fn value<'a, T: Deserialize<'a>>(row: Option<&'a Row>) -> Option<T> {
    let row = row.filter(|row| row.format == FORMAT)?;
    serde_json::from_slice(&row.bytes).inspect_err(|error| tracing::debug!(%error, "a row of a peer is none")).ok()
}

impl Heards {
    fn apply(&mut self, owner: NodeId, key: &Key, row: Option<&Row>) {
        match key.kind() {
            Kind::FACTS => match value(row) {
                Some(facts) => drop(self.facts.insert(owner, facts)),
                None => drop(self.facts.remove(&owner)),
            },
            Kind::LOAD => {
                if let Ok(component) = key.name().parse() {
                    self.set(component, owner, value(row));
                }
            }
            Kind::WANTED => {
                if let Ok(component) = key.name().parse() {
                    self.wants(component, owner, value(row));
                }
            }
            Kind::SEATS => {
                if let Ok(source) = key.name().parse() {
                    put(&mut self.seats, source, owner, value(row));
                }
            }
            // A later release says more.
            _ => {}
        }
    }

    fn set(&mut self, component: ComponentName, owner: NodeId, load: Option<Load>) {
        put(&mut self.loads, component, owner, load);
    }

    fn wants(&mut self, component: ComponentName, owner: NodeId, wanted: Option<Wanted>) {
        put(&mut self.wanted, component, owner, wanted);
    }
}

fn put<K: Ord, T>(all: &mut BTreeMap<K, BTreeMap<NodeId, T>>, about: K, owner: NodeId, value: Option<T>) {
    match value {
        Some(value) => drop(all.entry(about).or_default().insert(owner, value)),
        None => {
            if let Some(of) = all.get_mut(&about) {
                of.remove(&owner);
                if of.is_empty() {
                    all.remove(&about);
                }
            }
        }
    }
}

/// The load of a component out of its instances and the events that wait.
pub(crate) fn load_of(status: &super::driver::Status, limit: u32) -> Option<Load> {
    let is_quiet = status.problem.is_none() && status.waits_for.is_none();
    if status.instances.is_empty() && status.waiting == 0 && is_quiet {
        return None;
    }
    let mut load = Load { events: status.waiting, waits_for: status.waits_for.clone(), ..Load::default() };
    for shown in &status.instances {
        match shown.state {
            InstanceState::Ready => {
                load.ready += 1;
                load.slots = load.slots.saturating_add(limit);
            }
            InstanceState::Pulling | InstanceState::Starting | InstanceState::Frozen => load.coming += 1,
            InstanceState::Draining | InstanceState::Stopping => {}
        }
        load.events = load.events.saturating_add(shown.in_flight);
    }
    let told = status.instances.iter().take(NAMED).map(|shown| Told {
        id: shown.id.to_string(),
        state: shown.state,
        version: shown.fingerprint.clone(),
        address: shown.address.map(|address| address.to_string()),
        handle: shown.handle.clone(),
        started: shown.started_at.0,
    });
    load.instances = told.collect();
    load.trouble = status.problem.as_ref().map(|problem| Trouble {
        version: status.fingerprint.clone(),
        failures: status.failures,
        problem: format!("{} (phase {})", problem.reason, problem.phase),
    });
    Some(load)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_hear_of_the_first_event_that_waits_and_not_of_each_that_comes() {
        let load = |events| Load { ready: 8, slots: 80, events, ..Load::default() };
        assert!(load(80).differs(&load(81)), "one waits");
        assert!(load(81).differs(&load(80)), "none waits any more");
        assert!(!load(81).differs(&load(85)) && !load(70).differs(&load(74)), "less than an eighth");
        assert!(load(70).differs(&load(80)) && load(1).differs(&load(0)));
    }
}

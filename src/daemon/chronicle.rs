//! The timeline of the cluster on this node: writes down what happens here, takes in what others say, and hands both to
//! those who look.
//!
//! Blocks travel as rows of the board. Decides nothing; `timeline` says what is kept.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast;

use super::ask::Ask;
use super::board::{Board, FORMAT};
use super::clock::Clock;
use crate::crdt::{Key, Kind, Row};
use crate::gossip::Peer;
use crate::id::{ComponentName, InstanceId, NodeId};
use crate::model::happening::What;
use crate::telemetry;
use crate::time::Wall;
use crate::timeline::{Block, Entry, Filter, Ring, Subject, Timeline, Told};
use crate::transport::Transport;

/// Entries that a follower may lag behind: a start of three hundred instances at once.
const FOLLOW_LAG: usize = 1024;

/// A start within this time after a node with instances of the component went away is said to take over from it. The
/// plan follows within some hundred milliseconds, and waits for memory that comes free for a few seconds.
const TAKE_OVER: Duration = Duration::from_secs(10);

/// Peers that are asked for what nobody says of himself any more, after a start: one would do, unless it has just
/// started as well.
const ASKED: u32 = 3;

/// How long such a peer may take: many round trips for some hundred kilobytes.
const ASK: Duration = Duration::from_secs(2);

/// The longest answer in bytes: sixteen nodes that are gone at 150 KiB each are below the longest message.
pub(crate) const PAST_MAX: usize = 4 << 20;

/// What went away with a node, and when.
#[derive(Debug)]
struct Lost {
    node: String,
    instances: u32,
    at: Wall,
}

#[derive(Debug)]
struct Pages {
    ring: Ring,
    timeline: Timeline,
    lost: BTreeMap<ComponentName, Lost>,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Chronicle {
    me: NodeId,
    pages: Mutex<Pages>,
    news: broadcast::Sender<Arc<Told>>,
    asked: AtomicU32,
}

impl Chronicle {
    pub(crate) fn new(me: NodeId, epoch: u64, name: &str) -> Self {
        let pages = Pages { ring: Ring::new(epoch, name), timeline: Timeline::default(), lost: BTreeMap::new() };
        Self { me, pages: Mutex::new(pages), news: broadcast::Sender::new(FOLLOW_LAG), asked: AtomicU32::new(0) }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes an entry down; gives the row that says so to others.
    fn write(&self, entry: Entry) -> Option<(Key, Row)> {
        let mut pages = self.pages();
        let Pages { ring, timeline, .. } = &mut *pages;
        let (place, block) = ring.push(entry);
        let row = Row { format: FORMAT, bytes: block.encode().into() };
        let news = timeline.take(self.me, block.clone());
        // Nobody may listen. Under the lock, so that who begins to follow gets each entry once.
        news.into_iter().for_each(|told| drop(self.news.send(told)));
        // A number is a key.
        Some((Key::new(Kind::EVENTS, &place.to_string()).ok()?, row))
    }

    /// Takes in blocks that their node says. One that cannot be read is of a later release.
    pub(crate) fn take(&self, owner: NodeId, rows: &[Row]) {
        if rows.is_empty() {
            return;
        }
        let rows = rows.iter().filter(|row| row.format == FORMAT);
        let mut blocks: Vec<Block> = rows.filter_map(|row| Block::parse(&row.bytes)).collect();
        // Places are used again, so their order is not that of the blocks.
        blocks.sort_by_key(|block| (block.life, block.first));
        let mut pages = self.pages();
        let news = blocks.into_iter().flat_map(|block| pages.timeline.take(owner, block));
        news.for_each(|told| drop(self.news.send(told)));
    }

    /// A node is gone, with so many instances.
    pub(crate) fn part(&self, node: NodeId, name: &str, instances: BTreeMap<ComponentName, u32>) {
        let (now, mut pages) = (Clock::wall(), self.pages());
        pages.timeline.part(node);
        let is_late = |lost: &Lost| now.0.saturating_sub(lost.at.0) > TAKE_OVER.as_millis() as u64;
        pages.lost.retain(|_, lost| !is_late(lost));
        let lost = instances.into_iter().filter(|(_, instances)| *instances > 0);
        let lost = lost.map(|(component, instances)| (component, Lost { node: name.to_owned(), instances, at: now }));
        pages.lost.extend(lost);
    }

    /// The node whose place an instance that starts now takes.
    fn takes_over(&self, component: &ComponentName, now: Wall) -> Option<String> {
        let mut pages = self.pages();
        let lost = pages.lost.get_mut(component)?;
        let is_late = now.0.saturating_sub(lost.at.0) > TAKE_OVER.as_millis() as u64;
        let is_open = !is_late && lost.instances > 0;
        lost.instances = lost.instances.saturating_sub(1);
        is_open.then(|| lost.node.clone())
    }

    pub(crate) fn read(&self, filter: &Filter) -> Vec<Arc<Told>> {
        self.pages().timeline.read(filter)
    }

    /// All that pass, and from then on every entry as it comes, whether it passes or not: none twice, none between lost.
    pub(crate) fn follow(&self, filter: &Filter) -> (Vec<Arc<Told>>, broadcast::Receiver<Arc<Told>>) {
        let pages = self.pages();
        (pages.timeline.read(filter), self.news.subscribe())
    }

    /// The answer to who asks for the past.
    pub(crate) fn past(&self, asker: NodeId) -> Bytes {
        let blocks = self.pages().timeline.past(asker);
        let mut bytes = 0;
        let fit = blocks.into_iter().map(|(node, block)| (node.0, block.encode())).take_while(|(_, block)| {
            bytes += block.len() + 16;
            bytes < PAST_MAX / 2
        });
        crate::wire::encode(&fit.collect::<Vec<(u64, Vec<u8>)>>()).unwrap_or_default().into()
    }
}

impl Board {
    /// Writes down what happened on this node.
    pub(crate) fn note(&self, what: What, subject: Subject, component: Option<&ComponentName>, text: &str) {
        self.enter(Entry::new(Clock::wall(), what, subject, component.map(ComponentName::as_str), text));
    }

    /// The same of an instance.
    pub(crate) fn note_instance(&self, what: What, instance: &InstanceId, text: &str) {
        let (component, now) = (instance.component(), Clock::wall());
        let lost = (what == What::Starting).then(|| self.chronicle().takes_over(&component, now)).flatten();
        let subject = Subject::Instance(instance.to_string());
        let entry = |what, text: &str| Entry::new(now, what, subject, Some(component.as_str()), text);
        match lost {
            Some(node) => self.enter(entry(What::Moved, &format!("takes over from node {node}, which is gone"))),
            None => self.enter(entry(what, text)),
        }
    }

    /// Writes down what all nodes see of a peer; it is shown once.
    pub(crate) fn note_peer(&self, what: What, peer: &Peer, name: &str, text: &str) {
        let entry = Entry::new(Clock::wall(), what, Subject::Node(name.to_owned()), None, text);
        self.enter(entry.once(format!("{what}:{}:{}:{}", peer.node, peer.start, peer.life)));
    }

    fn enter(&self, entry: Entry) {
        if let Some((key, row)) = self.chronicle().write(entry) {
            self.post_row(key, Some(row));
        }
    }

    /// Asks a peer for what nobody says of himself any more, if this node has not asked enough of them since its start.
    pub(crate) fn remember(self: &Arc<Self>, transport: &Transport, peer: Peer) {
        if self.chronicle().asked.fetch_add(1, Ordering::Relaxed) >= ASKED {
            return;
        }
        let (board, transport) = (Arc::clone(self), transport.clone());
        telemetry::spawn("timeline", async move {
            let answer = transport.call(peer.node, peer.address, Ask::Past.encode(), ASK).await;
            let blocks =
                answer.ok().and_then(|answer| crate::wire::decode::<Vec<(u64, Vec<u8>)>, PAST_MAX>(&answer).ok());
            let mut pages = board.chronicle().pages();
            for (node, block) in blocks.unwrap_or_default() {
                if let Some(block) = Block::parse(&block) {
                    pages.timeline.recall(NodeId(node), block);
                }
            }
        });
    }
}

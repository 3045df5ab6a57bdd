//! Who is connected, who is being dialled, and who may not be: plain state behind one lock, without IO.
//!
//! Of several connections to one node both sides use the same: the newest of those that the lower node id dialled, else
//! the newest. A side closes only what it dialled itself, so the two never close each other's choice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, watch};

use super::close::DialError;
use super::frame::PIECE;
use super::hello::Hello;
use super::link::Link;
use crate::id::NodeId;

/// Datagrams kept per peer while it is dialled. They are probes: an older one is of no use any more.
const WAITING: usize = 4;

/// The first pause after a failed dial. Doubles with every further failure.
const PAUSE_FIRST: Duration = Duration::from_millis(100);

/// The longest pause after no answer: how late a peer that was dead is dialled, if it does not dial itself.
const PAUSE_UNREACHABLE: Duration = Duration::from_secs(5);

/// The first and the longest pause after a refusal: a person must act before the answer changes.
const PAUSE_REFUSED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// The outcome of a dial that others wait for; `None` while it lasts.
pub(super) type Dial = watch::Receiver<Option<Result<(), DialError>>>;

/// What is known of one node.
#[derive(Debug)]
pub(super) struct Peer {
    /// Open connections, oldest first.
    pub(super) links: Vec<Arc<Link>>,
    pub(super) dial: Option<Dial>,
    /// A pause after failed dials lasts.
    pub(super) resting: bool,
    failures: u32,
    waiting: VecDeque<Bytes>,
    /// Room for bytes that are pushed to it.
    pub(super) room: Arc<Semaphore>,
}

/// All nodes.
#[derive(Debug)]
pub(super) struct Table {
    me: NodeId,
    in_flight: usize,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    pub(super) banned: BTreeSet<NodeId>,
    pub(super) stopping: bool,
}

/// What followed from a new connection.
#[derive(Debug)]
pub(super) struct Added {
    /// There was none to this process before.
    pub(super) first: bool,
    /// Connections to an earlier process of the same node; they are out of the table.
    pub(super) stale: Vec<Arc<Link>>,
    /// Datagrams that waited for it.
    pub(super) waiting: VecDeque<Bytes>,
}

impl Table {
    pub(super) fn new(me: NodeId, in_flight: usize) -> Self {
        Self { me, in_flight, peers: BTreeMap::new(), banned: BTreeSet::new(), stopping: false }
    }

    pub(super) fn peer(&mut self, node: NodeId) -> &mut Peer {
        let pieces = self.in_flight.div_ceil(PIECE);
        self.peers.entry(node).or_insert_with(|| Peer {
            links: Vec::new(),
            dial: None,
            resting: false,
            failures: 0,
            waiting: VecDeque::new(),
            room: Arc::new(Semaphore::new(pieces)),
        })
    }

    /// The connection to use.
    pub(super) fn current(&self, node: NodeId) -> Option<&Arc<Link>> {
        let open = || self.peers.get(&node)?.links.iter().rev().find(|link| link.is_open());
        let by_lower = |link: &&Arc<Link>| link.dialled == (self.me < node) && link.is_open();
        self.peers.get(&node)?.links.iter().rev().find(by_lower).or_else(open)
    }

    /// Whether another process uses the node id: one that speaks from another address and was not started before. The
    /// one that comes later is refused.
    pub(super) fn has_rival(&self, hello: &Hello) -> bool {
        let links = self.peers.get(&hello.node).into_iter().flat_map(|peer| &peer.links);
        // Before a process knows its address it names the wildcard.
        let mut known = links.filter(|link| link.is_open() && !link.peer.address.ip().is_unspecified());
        let elsewhere = |link: &Arc<Link>| link.peer.address != hello.address && !hello.address.ip().is_unspecified();
        known.any(|link| link.peer.start >= hello.start && elsewhere(link))
    }

    /// Takes a connection in.
    pub(super) fn add(&mut self, link: &Arc<Link>) -> Added {
        let start = link.peer.start;
        let peer = self.peer(link.peer.node);
        let (same, stale) = std::mem::take(&mut peer.links).into_iter().partition(|old| old.peer.start == start);
        peer.links = same;
        let first = peer.links.is_empty();
        peer.links.push(Arc::clone(link));
        peer.failures = 0;
        peer.resting = false;
        Added { first, stale, waiting: std::mem::take(&mut peer.waiting) }
    }

    /// Takes a connection out; true if it was the last one to its node.
    pub(super) fn remove(&mut self, link: &Arc<Link>) -> bool {
        let node = link.peer.node;
        let Some(peer) = self.peers.get_mut(&node) else { return false };
        let before = peer.links.len();
        peer.links.retain(|other| !Arc::ptr_eq(other, link));
        let last = before > peer.links.len() && peer.links.is_empty();
        self.tidy(node);
        last
    }

    /// Whether nothing is on its way any more, pushed messages and datagrams.
    pub(super) fn is_sent(&self) -> bool {
        let pieces = self.in_flight.div_ceil(PIECE);
        let links = |peer: &Peer| peer.links.iter().all(|link| !link.is_open() || link.has_sent_datagrams());
        self.peers.values().all(|peer| peer.room.available_permits() == pieces && links(peer))
    }

    /// Keeps a datagram for the connection that is being made; the oldest goes when there are too many.
    pub(super) fn wait(&mut self, node: NodeId, bytes: Bytes) {
        let waiting = &mut self.peer(node).waiting;
        if waiting.len() == WAITING {
            waiting.pop_front();
        }
        waiting.push_back(bytes);
    }

    /// A dial has ended. After a failure says how long to pause; `random` spreads the pauses of many nodes.
    pub(super) fn dialled(&mut self, node: NodeId, failed: Option<&DialError>, random: u64) -> Option<Duration> {
        let peer = self.peer(node);
        peer.dial = None;
        let pause = failed.filter(|_| peer.links.is_empty()).map(|error| {
            peer.waiting.clear();
            peer.resting = true;
            peer.failures = peer.failures.saturating_add(1);
            pause(peer.failures, error.is_refusal(), random)
        });
        if pause.is_none() {
            self.tidy(node);
        }
        pause
    }

    /// The pause after failed dials is over.
    pub(super) fn rested(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.resting = false;
        }
    }

    /// Forgets a node of which there is nothing to remember.
    fn tidy(&mut self, node: NodeId) {
        let idle = |peer: &Peer| peer.links.is_empty() && peer.dial.is_none() && !peer.resting && peer.failures == 0;
        if self.peers.get(&node).is_some_and(idle) {
            self.peers.remove(&node);
        }
    }
}

/// Between half and all of a pause that doubles.
fn pause(failures: u32, refused: bool, random: u64) -> Duration {
    let (first, longest) = if refused { PAUSE_REFUSED } else { (PAUSE_FIRST, PAUSE_UNREACHABLE) };
    let whole = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest);
    let half = whole / 2;
    let spread = u64::try_from(half.as_millis()).unwrap_or(0).max(1);
    half + Duration::from_millis(random % spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_are_longer_after_a_refusal() {
        for failures in 1..100 {
            for random in [0, 7, u64::MAX] {
                let unreachable = pause(failures, false, random);
                assert!(unreachable >= PAUSE_FIRST / 2 && unreachable <= PAUSE_UNREACHABLE, "{unreachable:?}");
                let refused = pause(failures, true, random);
                assert!(refused >= PAUSE_REFUSED.0 / 2 && refused <= PAUSE_REFUSED.1, "{refused:?}");
            }
        }
        assert!(pause(9, true, 0) >= PAUSE_REFUSED.1 / 2);
    }

    #[test]
    fn a_failed_dial_makes_the_peer_rest_and_drops_what_waited() {
        let node = NodeId(2);
        let mut table = Table::new(NodeId(1), 1 << 20);
        for byte in 0..9 {
            table.wait(node, Bytes::from(vec![byte]));
        }
        assert_eq!(table.peer(node).waiting.len(), WAITING);
        assert_eq!(table.peer(node).waiting[0][0], 5);
        assert!(table.dialled(node, Some(&DialError::TimedOut), 3).is_some());
        assert!(table.peer(node).resting && table.peer(node).waiting.is_empty());
        table.rested(node);
        assert!(!table.peer(node).resting);
    }
}

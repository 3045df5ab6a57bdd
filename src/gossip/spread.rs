//! How news of a member reaches everybody: one copy for each, and a receipt for each copy.
//!
//! Whoever learns something at first hand tells the *herald* of that member: the first alive after it on the ring. The
//! herald divides the ring into parts and tells the first member of each, who does the same with the rest of its part;
//! the end of the part travels with the news, so that all go by the same division though their lists may differ. A copy
//! without a receipt is repeated; who stays silent is passed over, and the next one of its part is told in its place.
//! So losses cost repetitions and not members, and random copies, most of which tell what is known already, are not
//! needed. Whom even this misses is found by comparing views (`meet`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::packet::Packet;
use super::{Membership, Peer, State};
use crate::hash::Hash64;
use crate::id::NodeId;
use crate::time::Mono;

/// Into how many parts a ring is divided. 32 makes two steps of 1,000 members and three of 10,000; with 8 or 16 more
/// members stand between, each of which may be slow (simulated: nothing gained), and more would be a burst of more than
/// 3 kB on the herald's line.
const PARTS: usize = 32;

/// After so many copies without a receipt a member is passed over. At 20 % loss one of 20 living ones is, and its part
/// may hear the news twice; each copy more costs `Options::retell` where a dead one stands in the way.
const PASSED_OVER: u8 = 3;

/// After so many copies it is given up. At 20 % loss one of 100,000 heard none of seven (and learns by comparing).
const COPIES: u8 = 7;

/// So many copies may wait for a receipt; others are sent once. 1,000 changes in a tenth of a second, which is the loss
/// of half of 2,000 members, need so many.
const ERRANDS_MAX: usize = 4096;

/// A member that came less than this ago is told and passes nothing on: its list may still lack pages, and whom it does
/// not know it cannot tell. A lost page is asked for within 0.2 s (a join) or 1.4 s (by comparing).
const NEWCOMER: Duration = Duration::from_secs(1);

/// How long an errand counts as done if it comes again, and how many are remembered: what 10,000 members make of 100
/// changes a second in that time (simulated, a fiftieth of them standing still).
const DONE_FOR: Duration = Duration::from_secs(2);
const DONE_MAX: usize = 512;

type News = (Peer, State);

/// One copy under way.
#[derive(Debug)]
struct Errand {
    news: News,
    /// Where the part ends that the other shall tell; exclusive.
    until: NodeId,
    copies: u8,
    due: Mono,
}

#[derive(Debug, Default)]
pub(super) struct Spread {
    /// By whom it is for, and its sign.
    errands: BTreeMap<(NodeId, u32), Errand>,
    /// The same in the order of time.
    due: BTreeSet<(Mono, (NodeId, u32))>,
    /// The signs of what was passed on lately.
    done: BTreeMap<u32, Mono>,
}

impl Spread {
    pub(super) fn due(&self) -> Option<Mono> {
        self.due.first().map(|(at, _)| *at)
    }

    fn is_first_time(&mut self, sign: u32, now: Mono) -> bool {
        if self.done.len() >= DONE_MAX {
            self.done.retain(|_, at| now.since(*at) < DONE_FOR);
        }
        if self.done.len() >= DONE_MAX {
            // To tell twice does no harm.
            self.done.clear();
        }
        self.done.insert(sign, now).is_none_or(|at| now.since(at) >= DONE_FOR)
    }

    fn end(&mut self, key: (NodeId, u32)) -> Option<Errand> {
        let errand = self.errands.remove(&key)?;
        self.due.remove(&(errand.due, key));
        Some(errand)
    }
}

impl Membership {
    /// Sees to it that everybody hears what we learnt at first hand.
    pub(super) fn spread(&mut self, news: News, now: Mono) {
        let subject = news.0.node;
        match self.herald(subject, now) {
            Some(herald) => self.tell(herald, news, subject, now),
            None => self.cover(news, subject, now),
        }
    }

    /// The first alive after a member on the ring, newcomers left out; none if that is us.
    fn herald(&self, subject: NodeId, now: Mono) -> Option<NodeId> {
        let me = self.me.node;
        let next = self.roll.successor(subject, |node| self.is_newcomer(node, now))?;
        let way = |to: NodeId| to.0.wrapping_sub(subject.0);
        (subject == me || way(next) < way(me)).then_some(next)
    }

    /// Tells everybody between us and `until`, round the ring.
    fn cover(&mut self, news: News, until: NodeId, now: Mono) {
        let nodes = self.roll.between(self.me.node, until, news.0.node);
        let (new, nodes): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|node| self.is_newcomer(*node, now));
        for node in new {
            // A part in which there is nobody.
            self.tell(node, news, NodeId(node.0.wrapping_add(1)), now);
        }
        let part = nodes.len().div_ceil(PARTS).max(1);
        for (nth, first) in nodes.iter().enumerate().step_by(part) {
            let end = nodes.get(nth + part).copied().unwrap_or(until);
            self.tell(*first, news, end, now);
        }
    }

    fn is_newcomer(&self, node: NodeId, now: Mono) -> bool {
        self.roll.get(node).is_some_and(|member| now.since(member.since) < NEWCOMER)
    }

    fn tell(&mut self, node: NodeId, news: News, until: NodeId, now: Mono) {
        let Some(member) = self.roll.get(node).cloned() else { return };
        let key = (node, sign(&news, until));
        if self.spread.errands.contains_key(&key) {
            return;
        }
        if self.spread.errands.len() < ERRANDS_MAX {
            let due = now.after(self.retell(node));
            self.spread.errands.insert(key, Errand { news, until, copies: 1, due });
            self.spread.due.insert((due, key));
        }
        self.send(&member.peer, &Packet::Tell { peer: news.0, state: news.1, until });
    }

    /// How long a receipt is waited for: longer than two ways.
    fn retell(&self, node: NodeId) -> Duration {
        let far = self.rtt.get(&node).map_or(Duration::ZERO, |rtt| *rtt * 2);
        self.options.retell.max(far)
    }

    pub(super) fn handle_tell(&mut self, from: NodeId, news: News, until: NodeId, now: Mono) {
        let (peer, state) = news;
        let is_known = self.roll.get(peer.node).is_some();
        let mut is_new = false;
        if peer.node == self.me.node {
            if !self.about_us(&peer, state, now)
                && let Some(sender) = self.roll.get(from).map(|member| member.peer)
            {
                self.introduce(&sender, now);
            }
        } else {
            is_new = self.note(peer, state, now);
        }
        if self.roll.live(from).is_some() {
            self.heard(from, now);
        }
        if let Some(sender) = self.roll.get(from).map(|member| member.peer) {
            self.send(&sender, &Packet::Told(sign(&news, until)));
        }
        if !self.holds(&news) {
            // Something later is known, and spreads by itself.
        } else if self.herald(peer.node, now).is_none() {
            // We tell all others when we learn it, and not each time that we are told.
            if is_new || !is_known {
                self.cover(news, peer.node, now);
            }
        } else if self.spread.is_first_time(sign(&news, until), now) {
            self.cover(news, until, now);
        }
    }

    pub(super) fn handle_told(&mut self, from: NodeId, sign: u32, now: Mono) {
        if self.roll.live(from).is_some() {
            self.heard(from, now);
        }
        self.spread.end((from, sign));
    }

    /// Whether nothing later is known. What is said of strangers may be so.
    fn holds(&self, (peer, state): &News) -> bool {
        if peer.node == self.me.node {
            return *peer == self.me && state.is_live();
        }
        let ours = self.roll.get(peer.node);
        ours.is_none_or(|ours| ours.peer == *peer && ours.state.is_live() == state.is_live())
    }

    /// Repeats what was not confirmed.
    pub(super) fn run_spread(&mut self, now: Mono) {
        while let Some((_, key)) = self.spread.due.first().copied().filter(|(at, _)| *at <= now) {
            let Some(errand) = self.spread.end(key) else { continue };
            let (node, sign) = key;
            let Errand { news, until, copies, .. } = errand;
            if !self.holds(&news) {
                continue;
            }
            let member = self.roll.live(node).cloned();
            let is_passed_over = copies == PASSED_OVER || (member.is_none() && copies < PASSED_OVER);
            if is_passed_over && let Some(next) = self.roll.between(node, until, news.0.node).first() {
                self.tell(*next, news, until, now);
            }
            if let Some(member) = member.filter(|_| copies < COPIES) {
                let due = now.after(self.retell(node));
                self.spread.errands.insert(key, Errand { news, until, copies: copies + 1, due });
                self.spread.due.insert((due, key));
                debug_assert_eq!(sign, self::sign(&news, until), "an errand keeps its sign");
                self.send(&member.peer, &Packet::Tell { peer: news.0, state: news.1, until });
            }
        }
    }
}

/// An errand in four bytes: a receipt names it.
fn sign((peer, state): &News, until: NodeId) -> u32 {
    let mut hash = Hash64::default();
    for word in [peer.node.0, peer.start, u64::from(peer.life), u64::from(state.is_live()), until.0] {
        hash.word(word);
    }
    hash.finish() as u32
}

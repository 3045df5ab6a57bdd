//! The list of members as the rest of the node sees it: a ring in the order of node ids, with a digest of its view.
//!
//! Knows no packet. foca decides which of two statements about a member holds (`swim`); here stands what it decided.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::{Member, Peer, State};
use crate::hash::Hash64;
use crate::id::NodeId;
use crate::rng::Rng;
use crate::time::Mono;

/// Invariants: we are not in it; `alive` counts those alive or suspect; `gone` names the down and the left ones.
#[derive(Debug, Default)]
pub(super) struct Roll {
    /// Shared, because a list of 10,000 members is held by each of 10,000 simulated nodes.
    members: BTreeMap<NodeId, Arc<Member>>,
    gone: BTreeSet<NodeId>,
    alive: usize,
    digest: u64,
}

impl Roll {
    pub(super) fn get(&self, node: NodeId) -> Option<&Arc<Member>> {
        self.members.get(&node)
    }

    /// The member, if it is not down and has not left.
    pub(super) fn live(&self, node: NodeId) -> Option<&Arc<Member>> {
        self.get(node).filter(|member| member.state.is_live())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members.values()
    }

    pub(super) fn alive(&self) -> usize {
        self.alive
    }

    pub(super) fn gone(&self) -> usize {
        self.gone.len()
    }

    /// Equal on two nodes if and only if (but for one in 4 billion) the same lives are alive for both.
    pub(super) fn digest(&self, me: &Peer) -> u32 {
        (self.digest ^ fingerprint(me)) as u32
    }

    /// The same in so many parts (a power of two), by group.
    pub(super) fn sums(&self, me: &Peer, groups: usize) -> Vec<u32> {
        let mut sums = vec![0; groups];
        let live = self.members.values().filter(|member| member.state.is_live());
        for peer in live.map(|member| &member.peer).chain([me]) {
            sums[group(peer.node, groups)] ^= fingerprint(peer) as u32;
        }
        sums
    }

    pub(super) fn set(&mut self, member: Arc<Member>) {
        self.remove(member.peer.node);
        if member.state.is_live() {
            self.alive += 1;
            self.digest ^= fingerprint(&member.peer);
        } else {
            self.gone.insert(member.peer.node);
        }
        self.members.insert(member.peer.node, member);
    }

    /// Takes over a whole list in place of what there was.
    pub(super) fn fill(&mut self, members: &[Arc<Member>], not: NodeId) {
        *self = Self::default();
        let others = members.iter().filter(|member| member.peer.node != not);
        self.members = others.map(|member| (member.peer.node, member.clone())).collect();
        for member in self.members.values() {
            if member.state.is_live() {
                self.alive += 1;
                self.digest ^= fingerprint(&member.peer);
            } else {
                self.gone.insert(member.peer.node);
            }
        }
    }

    pub(super) fn remove(&mut self, node: NodeId) -> Option<Arc<Member>> {
        let old = self.members.remove(&node)?;
        if old.state.is_live() {
            self.alive -= 1;
            self.digest ^= fingerprint(&old.peer);
        } else {
            self.gone.remove(&node);
        }
        Some(old)
    }

    /// The first after `me` round the ring that is alive and not passed over.
    pub(super) fn successor(&self, me: NodeId, skip: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let after = self.members.range((Bound::Excluded(me), Bound::Unbounded));
        let first = |(node, member): &(&NodeId, &Arc<Member>)| member.state == State::Alive && !skip(**node);
        after.chain(self.members.range(..me)).find(first).map(|(node, _)| *node)
    }

    /// Those alive or suspect after one and before another on the ring, in that order; all others if the two are one.
    pub(super) fn between(&self, after: NodeId, before: NodeId, not: NodeId) -> Vec<NodeId> {
        let whole = after >= before;
        let end = if whole { Bound::Unbounded } else { Bound::Excluded(before) };
        let first = self.members.range((Bound::Excluded(after), end));
        let second = whole.then(|| self.members.range(..before)).into_iter().flatten();
        let live = first.chain(second).filter(|(node, member)| member.state.is_live() && **node != not);
        live.map(|(node, _)| *node).filter(|node| *node != after).collect()
    }

    /// The first before `me` round the ring that is alive: who should be pinging us.
    pub(super) fn predecessor(&self, me: NodeId) -> Option<NodeId> {
        let before = self.members.range(..me).rev();
        let after = self.members.range((Bound::Excluded(me), Bound::Unbounded)).rev();
        before.chain(after).find(|(_, member)| member.state == State::Alive).map(|(node, _)| *node)
    }

    /// Up to `count` different ones that are alive, by chance, without `not`.
    pub(super) fn pick(&self, count: usize, not: NodeId, rng: &mut Rng) -> Vec<Arc<Member>> {
        let mut found: Vec<Arc<Member>> = Vec::with_capacity(count);
        // A few draws more than wanted, because a draw may hit one twice.
        for _ in 0..count * 4 {
            if found.len() == count {
                break;
            }
            let taken = |node| node == not || found.iter().any(|member| member.peer.node == node);
            match self.successor(NodeId(rng.next_u64()), taken).and_then(|node| self.get(node)) {
                Some(member) => found.push(member.clone()),
                None => break,
            }
        }
        found
    }

    /// One that is down (not left), by chance.
    pub(super) fn pick_down(&self, rng: &mut Rng) -> Option<&Arc<Member>> {
        let from = NodeId(rng.next_u64());
        let round = self.gone.range(from..).chain(self.gone.range(..from));
        round.filter_map(|node| self.get(*node)).find(|member| member.state == State::Down)
    }

    /// The gone ones, those that went last first.
    pub(super) fn gone_latest_first(&self) -> Vec<&Arc<Member>> {
        let mut gone: Vec<&Arc<Member>> = self.gone.iter().filter_map(|node| self.get(*node)).collect();
        gone.sort_by_key(|member| Reverse(member.since));
        gone
    }

    /// Who has been gone too long, or is one too many.
    pub(super) fn expired(&self, now: Mono, keep: Duration, max: usize) -> Vec<NodeId> {
        let old = |(at, member): &(usize, &Arc<Member>)| *at >= max || now.since(member.since) >= keep;
        self.gone_latest_first().into_iter().enumerate().filter(old).map(|(_, member)| member.peer.node).collect()
    }
}

/// In which of so many groups (a power of two) a member is summed up.
pub(super) fn group(node: NodeId, groups: usize) -> usize {
    let mut hash = Hash64::default();
    hash.word(node.0);
    hash.finish() as usize & (groups - 1)
}

/// One life of one node as a number.
fn fingerprint(peer: &Peer) -> u64 {
    let mut hash = Hash64::default();
    hash.word(peer.node.0);
    hash.word(peer.start);
    hash.word(u64::from(peer.life));
    hash.finish()
}

//! How nodes come together: joining, introductions, comparing and repairing views, taking a new life.
//!
//! Decides nothing about who is dead. An introduction says who I am and what I believe of you; it is answered only where
//! the two disagree, and each answer brings them nearer, so that it ends. Who joins gets a list of all that are known.
//! Views that stay different are repaired by their difference: the members are summed up in groups, the sums compared,
//! and only the groups that differ are listed. What a list says of others is never taken as news of a death: after a
//! partition each side holds the other's friends down, and to believe it would kill the living. They are told instead
//! and come back in a new life.

use std::collections::BTreeMap;
use std::time::Duration;

use super::packet::{GROUPS_MAX, Packet};
use super::probe::Cause;
use super::roll::group;
use super::{BadPacket, Event, Member, Membership, Peer, State};
use crate::id::NodeId;
use crate::time::Mono;

/// A join is tried again after 200 ms, and twice as long each time, this often; then the shell must ask again.
const JOIN_EVERY: Duration = Duration::from_millis(200);
const JOIN_TRIES: u32 = 6;

/// Sums, and a list, go to one node at most this often: less than `JOIN_EVERY`, or a join tried again is not answered.
const LIST_EVERY: Duration = Duration::from_millis(150);

/// Views that differ without change for this long are compared in parts. News is everywhere before (0.35 s, simulated
/// for 10,000 nodes at 20 % loss).
const ODD: Duration = Duration::from_millis(500);

/// The same for views that differ and change all the time. In a storm of changes two nodes hardly ever hold quite the
/// same, and to compare them each time would be more than the changes themselves.
const ODD_IN_STORM: Duration = Duration::from_secs(3);

/// So many members are summed up together: 64 bytes of sums and 432 bytes of list for each difference at 256 members.
const GROUP: usize = 16;

/// So many introductions a second may one node have: two that never agree must not shout.
const INTRODUCTIONS: u8 = 8;

/// So many gone members are put into a list, the latest first.
const GONE_IN_LIST: usize = 256;

/// So many members are told from one list that the sender holds them down.
const TOLD: usize = 64;

#[derive(Debug)]
struct Join {
    peer: Peer,
    next: Mono,
    tries: u32,
}

/// What is remembered of one other node for a short while.
#[derive(Debug, Default)]
struct Contact {
    introduced: Option<(Mono, u8)>,
    listed: Option<Mono>,
    summed: Option<Mono>,
    odd: Option<Odd>,
}

/// That its view differs from ours.
#[derive(Debug, Clone, Copy)]
struct Odd {
    /// Its digest and ours, and since when both have been so.
    digests: (u32, u32),
    since: Mono,
    /// Since when they have differed at each comparison.
    first: Mono,
}

#[derive(Debug)]
pub(super) struct Meet {
    joins: BTreeMap<NodeId, Join>,
    contacts: BTreeMap<NodeId, Contact>,
    greet_at: Mono,
}

impl Meet {
    pub(super) fn new(greet_at: Mono) -> Self {
        Self { joins: BTreeMap::new(), contacts: BTreeMap::new(), greet_at }
    }

    pub(super) fn due(&self) -> Option<Mono> {
        self.joins.values().map(|join| join.next).chain(Some(self.greet_at)).min()
    }
}

impl Membership {
    /// Announces us to a node whose identity the transport learned when it connected. It answers with its list.
    pub fn join(&mut self, peer: Peer, now: Mono) {
        self.enter(now);
        let peer = peer.plain();
        if peer.node == self.me.node {
            self.is_usurped(&peer, State::Alive);
        } else if self.leaving.is_none() && !self.banned.contains(&peer.node) {
            let node = peer.node;
            self.meet.joins.insert(node, Join { peer, next: now, tries: 0 });
            self.run_joins(now);
        }
    }

    fn run_joins(&mut self, now: Mono) {
        let due: Vec<NodeId> =
            self.meet.joins.iter().filter(|(_, join)| join.next <= now).map(|(node, _)| *node).collect();
        for node in due {
            let Some(join) = self.meet.joins.get_mut(&node) else { continue };
            let peer = join.peer;
            join.next = now.after(JOIN_EVERY * 2_u32.pow(join.tries));
            join.tries += 1;
            if join.tries >= JOIN_TRIES {
                self.meet.joins.remove(&node);
            }
            // It has let us in, but a page of its list may be lost.
            if let Some(member) = self.roll.live(node).cloned() {
                self.introduce(&member.peer, now);
                self.send_sums(&member.peer, now);
            } else {
                let you = Some((peer, State::Alive));
                self.send(&peer, &Packet::Intro { join: true, me: self.me, you });
            }
        }
    }

    pub(super) fn run_meet(&mut self, now: Mono) {
        self.run_joins(now);
        if self.meet.greet_at <= now {
            self.meet.greet_at = now.after(self.greet_every());
            self.meet.contacts.retain(|_, contact| contact.is_of_use(now));
            if let Some(member) = self.roll.pick_down(&mut self.rng).cloned() {
                self.introduce(&member.peer, now);
            }
        }
    }

    /// One that is down is greeted ten times a second by the whole cluster, and once a second at most by each node:
    /// fast where half of the cluster is missing, cheap where one machine was sold.
    fn greet_every(&self) -> Duration {
        let share = self.roll.alive() / (10 * self.roll.gone().max(1));
        self.options.greet_down_every * u32::try_from(share.clamp(1, 60)).unwrap_or(60)
    }

    /// Says who we are and what we believe of the other.
    pub(super) fn introduce(&mut self, to: &Peer, now: Mono) {
        let contact = self.meet.contacts.entry(to.node).or_default();
        let (since, count) =
            contact.introduced.filter(|(since, _)| now.since(*since).as_secs() < 1).unwrap_or((now, 0));
        if count >= INTRODUCTIONS {
            return;
        }
        contact.introduced = Some((since, count + 1));
        let (to, you) = match self.roll.get(to.node) {
            // Two processes of one node id: the one that is not known here has to hear of the other, at its own address.
            Some(member) if !to.wins_over(&member.peer) && to.address != member.peer.address => {
                (*to, Some((member.peer, member.state)))
            }
            Some(member) if !to.wins_over(&member.peer) => (member.peer, Some((member.peer, member.state))),
            Some(_) | None => (*to, None),
        };
        self.send(&to, &Packet::Intro { join: false, me: self.me, you });
    }

    pub(super) fn meet_intro(
        &mut self,
        join: bool,
        sender: Peer,
        you: Option<(Peer, State)>,
        now: Mono,
    ) -> Result<(), BadPacket> {
        self.state_of(sender, State::Alive, now);
        self.heard_life(&sender, now);
        let accepted = self.roll.live(sender.node).is_some_and(|member| member.peer == sender);
        let agreed = match you {
            Some((peer, state)) if peer.node == self.me.node => self.about_us(&peer, state, now),
            Some(_) => return Err(BadPacket::Value("whom it believes us to be")),
            None => false,
        };
        if !accepted || !agreed {
            self.introduce(&sender, now);
        }
        if join {
            self.send_list(&sender, |_| true, now);
        }
        Ok(())
    }

    /// What another believes of us. True if it is so.
    pub(super) fn about_us(&mut self, peer: &Peer, state: State, now: Mono) -> bool {
        if self.is_usurped(peer, state) {
            return true;
        }
        if self.me.wins_over(peer) {
            return false;
        }
        if *peer == self.me && state.is_live() {
            return true;
        }
        // Given up, or known in a later start: our counter was set back. Either way only a later life is believed.
        let life = peer.life.saturating_add(1);
        let me = Peer { start: peer.start, life, ..self.me };
        if self.leaving.is_none() && me.wins_over(&self.me) {
            self.me = me;
            self.event(Event::Renewed(me));
            self.spread((me, State::Alive), now);
        }
        false
    }

    /// Whether our node id is alive elsewhere and started no earlier. Said once.
    pub(super) fn is_usurped(&mut self, peer: &Peer, state: State) -> bool {
        let ours = &self.me;
        let usurped =
            peer.node == ours.node && peer.address != ours.address && peer.start >= ours.start && state == State::Alive;
        if usurped && self.usurper.as_ref() != Some(peer) {
            self.usurper = Some(*peer);
            self.event(Event::Usurped { by: *peer });
        }
        usurped
    }

    // ---- views --------------------------------------------------------------------------------------------------

    /// A neighbour's view beside ours. News may be on its way; a difference that lasts is repaired.
    pub(super) fn compare(&mut self, member: &Member, theirs: u32, now: Mono) {
        let digests = (theirs, self.roll.digest(&self.me));
        let node = member.peer.node;
        if digests.0 == digests.1 {
            self.meet.joins.remove(&node);
            if let Some(contact) = self.meet.contacts.get_mut(&node) {
                contact.odd = None;
            }
            return;
        }
        let contact = self.meet.contacts.entry(node).or_default();
        let odd = contact.odd.get_or_insert(Odd { digests, since: now, first: now });
        if odd.digests != digests {
            (odd.digests, odd.since) = (digests, now);
        }
        if now.since(odd.since) >= ODD || now.since(odd.first) >= ODD_IN_STORM {
            contact.odd = None;
            self.send_sums(&member.peer, now);
        }
    }

    fn send_sums(&mut self, to: &Peer, now: Mono) {
        let contact = self.meet.contacts.entry(to.node).or_default();
        if contact.summed.is_none_or(|at| now.since(at) >= LIST_EVERY) {
            contact.summed = Some(now);
            let groups = (self.roll.alive() / GROUP).next_power_of_two().min(GROUPS_MAX);
            let sums = self.roll.sums(&self.me, groups);
            self.send(to, &Packet::Sums { answer: true, sums });
        }
    }

    /// Lists what differs from another's sums, and lets it do the same.
    pub(super) fn meet_sums(&mut self, from: NodeId, answer: bool, theirs: &[u32], now: Mono) {
        let Some(sender) = self.roll.live(from).map(|member| member.peer) else { return };
        self.heard(from, now);
        let sums = self.roll.sums(&self.me, theirs.len());
        if sums == theirs {
            if answer {
                let packet = Packet::Ack(self.view(&sender));
                self.send(&sender, &packet);
            }
            return;
        }
        let differs = |node| sums[group(node, sums.len())] != theirs[group(node, sums.len())];
        self.send_list(&sender, differs, now);
        if answer {
            self.send(&sender, &Packet::Sums { answer: false, sums });
        }
    }

    fn send_list(&mut self, to: &Peer, is_wanted: impl Fn(NodeId) -> bool, now: Mono) {
        let contact = self.meet.contacts.entry(to.node).or_default();
        if contact.listed.is_some_and(|at| now.since(at) < LIST_EVERY) {
            return;
        }
        contact.listed = Some(now);
        // We come first and always: whoever joins learns so who it is that lets it in.
        let mut entries = vec![(self.me, State::Alive)];
        let live = self.roll.iter().filter(|member| member.state.is_live() && is_wanted(member.peer.node));
        entries.extend(live.map(|member| (member.peer, member.state)));
        let gone = self.roll.gone_latest_first();
        let gone = gone.iter().filter(|member| is_wanted(member.peer.node)).take(GONE_IN_LIST);
        entries.extend(gone.map(|member| (member.peer, member.state)));
        for part in entries.chunks(Packet::entries_max(self.options.packet_max)) {
            self.send(to, &Packet::List(part.to_vec()));
        }
    }

    pub(super) fn meet_list(&mut self, from: NodeId, entries: Vec<(Peer, State)>, now: Mono) {
        // Only members are believed; a seed is one by its own entry, the first of its list.
        let joined = self.meet.joins.contains_key(&from);
        if let Some((first, _)) = entries.first().filter(|(first, _)| joined && first.node == from) {
            self.note(*first, State::Alive, now);
        }
        let Some(sender) = self.roll.live(from).cloned() else { return };
        self.heard(from, now);
        let (mut told, mut is_new) = (0, false);
        for (peer, state) in entries {
            if peer.node == self.me.node {
                if !self.about_us(&peer, state, now) {
                    self.introduce(&sender.peer, now);
                }
            } else if !self.banned.contains(&peer.node) {
                is_new |= self.meet_entry(peer, state, &mut told, now);
            }
        }
        if is_new && !joined {
            // What was missed here was perhaps missed beside us too.
            let beside = self.neighbours().into_iter().filter(|node| *node != from);
            for peer in beside.filter_map(|node| Some(self.roll.live(node)?.peer)).collect::<Vec<_>>() {
                self.send_sums(&peer, now);
            }
        }
    }

    /// True if it is new.
    fn meet_entry(&mut self, peer: Peer, state: State, told: &mut usize, now: Mono) -> bool {
        let ours = self.roll.get(peer.node).filter(|member| !peer.wins_over(&member.peer)).cloned();
        let Some(ours) = ours else { return self.note(peer, state, now) };
        if ours.peer != peer {
            return false;
        }
        match (state, ours.state.is_live()) {
            (State::Alive | State::Suspect, false) if ours.state == State::Down && *told < TOLD => {
                *told += 1;
                self.introduce(&ours.peer, now);
            }
            (State::Left, true) => return self.note(peer, state, now),
            (State::Down, true) => self.start_probe(peer.node, Cause::Routine, now),
            (State::Alive | State::Suspect | State::Down | State::Left, _) => {}
        }
        false
    }
}

impl Contact {
    fn is_of_use(&self, now: Mono) -> bool {
        let recent = |at: Option<Mono>| at.is_some_and(|at| now.since(at) < Duration::from_secs(5));
        recent(self.introduced.map(|(at, _)| at))
            || recent(self.listed)
            || recent(self.summed)
            || recent(self.odd.map(|odd| odd.first))
    }
}

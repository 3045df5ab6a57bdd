//! How nodes come together: joining, introductions, comparing and repairing views, taking a new life.
//!
//! Decides nothing about who is dead. An introduction says who I am and what I believe of you; it is answered only where
//! the two disagree, and each answer brings them nearer, so that it ends. A list is all that one knows (or what changed
//! of late). What a whole list says of others is never taken as news of a death: after a partition each side holds the
//! other's friends down, and to believe it would kill the living. They are told instead and come back in a new life.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::packet::{Packet, Why};
use super::peer::{Id, Peer};
use super::probe::Cause;
use super::{BadPacket, Event, Member, Membership, State};
use crate::id::NodeId;
use crate::time::Mono;

/// A join is tried again after 200 ms, and twice as long each time, this often; then the shell must ask again.
const JOIN_EVERY: Duration = Duration::from_millis(200);
const JOIN_TRIES: u32 = 6;

/// How long a change counts as news: longer than it takes to spread at 20 % loss and 10,000 nodes (0.6 s, simulated).
const NEWS: Duration = Duration::from_secs(2);

/// A list goes to one node at most this often.
const LIST_EVERY: Duration = Duration::from_millis(500);
const NEWS_EVERY: Duration = Duration::from_millis(40);

/// Views that differ without change for this long are repaired by exchanging lists.
const ODD: Duration = Duration::from_millis(500);

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
    newsed: Option<Mono>,
    /// Its digest and ours, and since when both have been the same and different from each other.
    odd: Option<(u32, u32, Mono)>,
}

#[derive(Debug)]
pub(super) struct Meet {
    joins: BTreeMap<NodeId, Join>,
    contacts: BTreeMap<NodeId, Contact>,
    /// Who changed when, oldest first.
    news: VecDeque<(Mono, NodeId)>,
    check_at: Option<Mono>,
    greet_at: Mono,
}

impl Meet {
    pub(super) fn new(greet_at: Mono) -> Self {
        Self { joins: BTreeMap::new(), contacts: BTreeMap::new(), news: VecDeque::new(), check_at: None, greet_at }
    }

    pub(super) fn due(&self) -> Option<Mono> {
        self.joins.values().map(|join| join.next).chain(self.check_at).chain(Some(self.greet_at)).min()
    }

    /// The list changed: soon the neighbours compare theirs.
    pub(super) fn changed(&mut self, node: NodeId, check_after: Duration, now: Mono) {
        self.joins.remove(&node);
        self.forget_old_news(now);
        self.news.push_back((now, node));
        self.check_at.get_or_insert_with(|| now.after(check_after));
    }

    fn forget_old_news(&mut self, now: Mono) {
        while self.news.front().is_some_and(|(at, _)| now.since(*at) > NEWS) {
            self.news.pop_front();
        }
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
            let you = Some((peer, State::Alive));
            self.send(&peer, &Packet::Intro { join: true, me: *self.me.peer.as_ref(), you });
        }
    }

    pub(super) fn run_meet(&mut self, now: Mono) {
        self.run_joins(now);
        if self.meet.check_at.is_some_and(|at| at <= now) {
            self.meet.check_at = None;
            self.probe_successor(now);
        }
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
        self.send(&to, &Packet::Intro { join: false, me: *self.me.peer.as_ref(), you });
    }

    pub(super) fn meet_intro(
        &mut self,
        join: bool,
        sender: Peer,
        you: Option<(Peer, State)>,
        now: Mono,
    ) -> Result<(), BadPacket> {
        let was_live = self.roll.live(sender.node).is_some();
        self.swim.apply(sender.into(), State::Alive, true)?;
        self.settle(now);
        self.heard_life(&sender, now);
        let accepted = self.roll.live(sender.node).is_some_and(|member| member.peer == sender);
        let agreed = match you {
            Some((peer, state)) if peer.node == self.me.node => self.about_us(&peer, state),
            Some(_) => return Err(BadPacket::Value("whom it believes us to be")),
            None => false,
        };
        self.settle(now);
        if !accepted || !agreed {
            self.introduce(&sender, now);
        }
        if join {
            self.send_list(&sender, Why::All, now);
        } else if accepted && !was_live {
            // Back after it was given up: there may be a partition behind it.
            self.send_list(&sender, Why::AllAndYours, now);
        }
        Ok(())
    }

    /// What another believes of us. True if it is so.
    fn about_us(&mut self, peer: &Peer, state: State) -> bool {
        if self.is_usurped(peer, state) {
            return true;
        }
        let is_live = match state {
            State::Alive | State::Suspect => true,
            State::Down | State::Left => false,
        };
        if self.me.peer.wins_over(peer) {
            return false;
        }
        if *peer == *self.me.peer && is_live {
            return true;
        }
        // Given up, or known in a later start: our counter was set back. Either way only a later life is believed.
        let life = peer.life.saturating_add(1);
        let me = Peer { start: peer.start, life, ..*self.me.peer.as_ref() };
        if self.leaving.is_none() && me.wins_over(&self.me.peer) {
            // foca refuses only the identity that we already have.
            let _ = self.swim.become_peer(Id::from(me));
            if let Some(id) = self.swim.out.renewed.clone() {
                self.me = id;
            }
        }
        false
    }

    /// Whether our node id is alive elsewhere and started no earlier. Said once.
    pub(super) fn is_usurped(&mut self, peer: &Peer, state: State) -> bool {
        let ours = self.me.peer.as_ref();
        let usurped =
            peer.node == ours.node && peer.address != ours.address && peer.start >= ours.start && state == State::Alive;
        if usurped && self.usurper.as_ref() != Some(peer) {
            self.usurper = Some(*peer);
            self.event(Event::Usurped { by: *peer });
        }
        usurped
    }

    // ---- views --------------------------------------------------------------------------------------------------

    /// A neighbour's view beside ours. A difference right after a change is somebody whom the news missed; one that
    /// lasts is repaired by lists.
    pub(super) fn compare(&mut self, member: &Member, theirs: u32, now: Mono) {
        let ours = self.roll.digest(&self.me.peer);
        let node = member.peer.node;
        if theirs == ours {
            if let Some(contact) = self.meet.contacts.get_mut(&node) {
                contact.odd = None;
            }
            return;
        }
        let contact = self.meet.contacts.entry(node).or_default();
        let (_, _, since) = *contact.odd.get_or_insert((theirs, ours, now));
        match contact.odd {
            Some((a, b, _)) if (a, b) == (theirs, ours) => {
                if now.since(since) >= ODD {
                    self.send_list(&member.peer, Why::AllAndYours, now);
                    return;
                }
            }
            Some(_) | None => contact.odd = Some((theirs, ours, now)),
        }
        self.send_news(&member.peer, now);
    }

    fn send_news(&mut self, to: &Peer, now: Mono) {
        self.meet.forget_old_news(now);
        let contact = self.meet.contacts.entry(to.node).or_default();
        if self.meet.news.is_empty() || contact.newsed.is_some_and(|at| now.since(at) < NEWS_EVERY) {
            return;
        }
        contact.newsed = Some(now);
        let mut nodes: Vec<NodeId> = self.meet.news.iter().rev().map(|(_, node)| *node).collect();
        nodes.truncate(Packet::entries_max(self.options.packet_max));
        let entries = nodes.iter().filter_map(|node| self.roll.get(*node));
        let entries = entries.map(|member| (member.peer, member.state)).collect();
        self.send(to, &Packet::List { why: Why::News, entries });
    }

    fn send_list(&mut self, to: &Peer, why: Why, now: Mono) {
        let contact = self.meet.contacts.entry(to.node).or_default();
        if contact.listed.is_some_and(|at| now.since(at) < LIST_EVERY) {
            return;
        }
        contact.listed = Some(now);
        contact.odd = None;
        let mut entries = vec![(*self.me.peer.as_ref(), State::Alive)];
        let live = self.roll.iter().filter(|member| self.roll.live(member.peer.node).is_some());
        entries.extend(live.map(|member| (member.peer, member.state)));
        let gone = self.roll.gone_latest_first();
        entries.extend(gone.iter().take(GONE_IN_LIST).map(|member| (member.peer, member.state)));
        for (page, part) in entries.chunks(Packet::entries_max(self.options.packet_max)).enumerate() {
            // One page is enough to ask for the other's.
            let why = if page == 0 { why } else { Why::All };
            self.send(to, &Packet::List { why, entries: part.to_vec() });
        }
    }

    pub(super) fn meet_list(
        &mut self,
        from: NodeId,
        why: Why,
        entries: Vec<(Peer, State)>,
        now: Mono,
    ) -> Result<(), BadPacket> {
        // Only members are believed; a seed is one by its own entry, the first of its list.
        let joined = self.meet.joins.contains_key(&from);
        if let Some((first, _)) = entries.first().filter(|(first, _)| joined && first.node == from) {
            self.swim.apply((*first).into(), State::Alive, true)?;
            self.settle(now);
        }
        let Some(sender) = self.roll.live(from).cloned() else { return Ok(()) };
        self.heard(from, now);
        let mut told = 0;
        for (peer, state) in entries {
            if peer.node == self.me.node {
                if !self.about_us(&peer, state) {
                    self.introduce(&sender.peer, now);
                }
                self.settle(now);
            } else if !self.banned.contains(&peer.node) {
                self.meet_entry(peer, state, why, &mut told, now)?;
            }
        }
        self.settle(now);
        if why == Why::AllAndYours {
            self.send_list(&sender.peer, Why::All, now);
        }
        Ok(())
    }

    fn meet_entry(&mut self, peer: Peer, state: State, why: Why, told: &mut usize, now: Mono) -> Result<(), BadPacket> {
        let ours = self.roll.get(peer.node).filter(|member| !peer.wins_over(&member.peer)).cloned();
        let Some(ours) = ours else {
            return self.swim.apply(peer.into(), state, false);
        };
        if ours.peer != peer {
            return Ok(());
        }
        let ours_live = self.roll.live(peer.node).is_some();
        match (state, ours_live) {
            (State::Alive | State::Suspect, false) if ours.state == State::Down && *told < TOLD => {
                *told += 1;
                self.introduce(&ours.peer, now);
            }
            (State::Down | State::Left, true) if why == Why::News || state == State::Left => {
                self.swim.apply(peer.into(), state, false)?;
            }
            (State::Down, true) => self.start_probe(peer.node, Cause::Routine, now),
            (State::Alive | State::Suspect | State::Down | State::Left, _) => {}
        }
        Ok(())
    }
}

impl Contact {
    fn is_of_use(&self, now: Mono) -> bool {
        let recent = |at: Option<Mono>| at.is_some_and(|at| now.since(at) < Duration::from_secs(5));
        recent(self.introduced.map(|(at, _)| at))
            || recent(self.listed)
            || recent(self.newsed)
            || recent(self.odd.map(|(_, _, at)| at))
    }
}

//! Who is dead: beats round the ring, rounds of help, suspicion, and the verdict.
//!
//! Decides from silence and evidence alone; what a verdict does to the list is foca's and the list's business. One probe
//! per member at a time. Round 0 is a ping, or the beat that was not acknowledged. Round 1 and each later one is a ping and up to three others asked to ping;
//! they answer that they reached it or that they did not, and each who did not is an accuser. Whoever has not answered
//! by the end of round 1 is suspect. Any authentic word from it, at any time, ends the probe.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::packet::{Packet, View};
use super::{Event, Member, Membership, Options, Peer, State};
use crate::hash::Hash64;
use crate::id::NodeId;
use crate::time::Mono;

/// How many probes and how many favours may run at once. A node in a cluster of 50 has 3; these bound memory.
const PROBES_MAX: usize = 128;
const FAVOURS_MAX: usize = 256;

/// How bad our own health can get: Lifeguard's.
const HEALTH_MAX: u32 = 8;

/// The length of a suspicion in thousandths of the shortest, by how many accusers are wanted (row) and how many there
/// are (column): 6 - 5 * ln(C + 1) / ln(K + 1), Lifeguard's formula with its 6; a table, so that no float decides.
const STRETCH: [[u32; 4]; 4] =
    [[1000, 1000, 1000, 1000], [6000, 1000, 1000, 1000], [6000, 2845, 1000, 1000], [6000, 3500, 2038, 1000]];

/// Why a member is probed. Later ones weigh more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// Its turn on the ring, or somebody holds it down.
    Routine,
    /// Its connection died without goodbye: no suspicion is needed if another cannot reach it either.
    Closed,
    /// Its port is closed: one ping, then the verdict.
    Refused,
}

#[derive(Debug)]
struct Probe {
    cause: Cause,
    round: u32,
    /// When the round ends.
    due: Mono,
    suspect_since: Option<Mono>,
    accusers: BTreeSet<NodeId>,
    /// Whether anybody was asked in this round, and whether anybody answered.
    asked: bool,
    answered: bool,
    /// The shortest suspicion for the distance to this member.
    suspicion: Duration,
    /// How many accusers can be had.
    wanted: usize,
}

impl Probe {
    fn verdict_at(&self) -> Option<Mono> {
        let row = STRETCH[self.wanted.min(3)];
        Some(self.suspect_since?.after(self.suspicion * row[self.accusers.len().min(3)] / 1000))
    }

    fn wake(&self) -> Mono {
        self.verdict_at().map_or(self.due, |at| at.min(self.due))
    }
}

/// A ping on behalf of another.
#[derive(Debug)]
struct Favour {
    /// When to ping once more; `None` after that.
    again: Option<Mono>,
    due: Mono,
}

#[derive(Debug)]
pub(super) struct Detector {
    probes: BTreeMap<NodeId, Probe>,
    /// By (whom we ping, who asked).
    favours: BTreeMap<(NodeId, NodeId), Favour>,
    /// 0 is well. Each step makes us slower to blame others.
    health: u32,
    ring_next: Mono,
    /// Whom the last beat went to, unless it was missed.
    beaten: Option<NodeId>,
    /// Our predecessor on the ring and when it was last heard.
    watch: Option<(NodeId, Mono)>,
}

impl Detector {
    pub(super) fn new(ring_next: Mono) -> Self {
        Self { probes: BTreeMap::new(), favours: BTreeMap::new(), health: 0, ring_next, beaten: None, watch: None }
    }

    pub(super) fn due(&self, options: &Options) -> Option<Mono> {
        let probes = self.probes.values().map(Probe::wake);
        let favours = self.favours.values().map(|favour| favour.again.unwrap_or(favour.due));
        let watch = self.watch.map(|(_, heard)| heard.after(self.patience(options)));
        probes.chain(favours).chain(watch).chain(Some(self.ring_next)).min()
    }

    pub(super) fn forget(&mut self, node: NodeId) {
        self.probes.remove(&node);
    }

    fn period(&self, options: &Options) -> Duration {
        options.probe_period * (4 + self.health) / 4
    }

    /// How long the predecessor may be silent: a period, and the time that it takes it to try again after a loss.
    fn patience(&self, options: &Options) -> Duration {
        self.period(options) + options.probe_timeout * 5 / 2
    }
}

impl Membership {
    // ---- what is heard ------------------------------------------------------------------------------------------

    /// An authentic word from a member: it is alive.
    pub(super) fn heard(&mut self, node: NodeId, now: Mono) {
        if let Some((watched, at)) = &mut self.detector.watch
            && *watched == node
        {
            *at = now;
        }
        let askers: Vec<NodeId> = self
            .detector
            .favours
            .range((node, NodeId(0))..=(node, NodeId(u64::MAX)))
            .map(|((_, asker), _)| *asker)
            .collect();
        for asker in askers {
            self.detector.favours.remove(&(node, asker));
            self.answer(asker, &Packet::Reached(node));
        }
        let Some(probe) = self.detector.probes.remove(&node) else { return };
        if probe.round == 0 {
            self.detector.health = self.detector.health.saturating_sub(1);
        }
        if probe.suspect_since.is_some()
            && let Some(member) = self.roll.live(node).cloned()
        {
            self.roll.set(Member { state: State::Alive, since: now, ..*member.as_ref() }.into());
            self.event(Event::Trusted(member.peer));
            self.rewatch(now);
        }
    }

    /// The same, if the speaker is in the life that we hold alive.
    pub(super) fn heard_life(&mut self, peer: &Peer, now: Mono) {
        if self.roll.live(peer.node).is_some_and(|member| member.peer == *peer) {
            self.heard(peer.node, now);
        }
    }

    pub(super) fn handle_ping(&mut self, from: NodeId, view: View, now: Mono) {
        if let Some(member) = self.recognise(from, view, now) {
            let packet = Packet::Ack(self.view(&member.peer));
            self.send(&member.peer, &packet);
        }
    }

    /// An answer or a beat.
    pub(super) fn handle_view(&mut self, from: NodeId, view: View, now: Mono) {
        self.recognise(from, view, now);
    }

    /// A member in the life that it believes to have, which knows us in ours. Anyone else gets an introduction.
    fn recognise(&mut self, from: NodeId, view: View, now: Mono) -> Option<std::sync::Arc<Member>> {
        let known = self.roll.get(from).cloned();
        let pair = known.as_ref().map(|member| pair(&member.peer, &self.me));
        match (known, self.roll.live(from).is_some()) {
            (Some(member), true) if pair == Some(view.pair) => {
                self.heard(from, now);
                self.compare(&member, view.digest, now);
                Some(member)
            }
            (Some(member), _) => {
                self.introduce(&member.peer, now);
                None
            }
            // Its address is not known, so it cannot be answered; its own joining will bring it in.
            (None, _) => None,
        }
    }

    /// Somebody cannot reach `target` and asks us to try.
    pub(super) fn handle_ask(&mut self, from: NodeId, target: NodeId, now: Mono) {
        if target == self.me.node {
            self.answer(from, &Packet::Reached(target));
            return;
        }
        if self.roll.live(target).is_none() {
            self.answer(from, &Packet::Silent(target));
            return;
        }
        if self.roll.live(from).is_none() || self.detector.favours.len() >= FAVOURS_MAX {
            return;
        }
        let timeout = self.timeout(target);
        let favour = Favour { again: Some(now.after(timeout / 2)), due: now.after(timeout) };
        self.detector.favours.insert((target, from), favour);
        self.ping(target);
    }

    /// A helper could not reach the one that we probe.
    pub(super) fn accuse(&mut self, from: NodeId, target: NodeId, now: Mono) {
        if self.roll.live(from).is_none() {
            return;
        }
        self.heard(from, now);
        if let Some(probe) = self.detector.probes.get_mut(&target) {
            probe.answered = true;
            probe.accusers.insert(from);
        }
    }

    // ---- what is due --------------------------------------------------------------------------------------------

    pub(super) fn run_detector(&mut self, now: Mono) {
        let favours = self.detector.favours.iter().filter(|(_, favour)| favour.again.unwrap_or(favour.due) <= now);
        for (target, asker) in favours.map(|(key, _)| *key).collect::<Vec<_>>() {
            let again = self.detector.favours.get_mut(&(target, asker)).and_then(|favour| favour.again.take());
            if again.is_some() {
                self.ping(target);
            } else {
                self.detector.favours.remove(&(target, asker));
                self.answer(asker, &Packet::Silent(target));
            }
        }
        let probes = self.detector.probes.iter().filter(|(_, probe)| probe.wake() <= now);
        for node in probes.map(|(node, _)| *node).collect::<Vec<_>>() {
            self.run_probe(node, now);
        }
        if self.detector.ring_next <= now {
            self.detector.ring_next = now.after(self.detector.period(&self.options));
            self.beat();
        }
        if let Some((node, heard)) = self.detector.watch
            && heard.after(self.detector.patience(&self.options)) <= now
        {
            // Once a period, whatever comes of it.
            self.detector.watch = Some((node, now));
            self.start_probe(node, Cause::Routine, now);
        }
    }

    /// Sends the next one round the ring that is not being probed a beat.
    fn beat(&mut self) {
        if self.detector.beaten.is_some() {
            // The last one arrived: Lifeguard's measure of being well.
            self.detector.health = self.detector.health.saturating_sub(1);
        }
        self.detector.beaten = self.next_on_ring();
        if let Some(member) = self.detector.beaten.and_then(|node| self.roll.get(node)).cloned() {
            let packet = Packet::Beat(self.view(&member.peer));
            self.send(&member.peer, &packet);
        }
    }

    /// The transport heard nothing after a packet to this one, a beat as a rule.
    pub(super) fn miss_beat(&mut self, node: NodeId, now: Mono) {
        if self.detector.beaten == Some(node) {
            self.detector.beaten = None;
        }
        // What was not heard was round 0.
        if self.add_probe(node, Cause::Routine, now) {
            self.run_probe(node, now);
        }
    }

    fn next_on_ring(&self) -> Option<NodeId> {
        self.roll.successor(self.me.node, |node| self.detector.probes.contains_key(&node))
    }

    /// Finds out whether a member is alive. A probe that runs goes on, with the weightier cause.
    pub(super) fn start_probe(&mut self, node: NodeId, cause: Cause, now: Mono) {
        let due = now.after(self.timeout(node));
        if self.add_probe(node, cause, due) {
            self.ping(node);
        }
    }

    /// Whether it is a new one.
    fn add_probe(&mut self, node: NodeId, cause: Cause, due: Mono) -> bool {
        if self.roll.live(node).is_none() {
            return false;
        }
        if let Some(probe) = self.detector.probes.get_mut(&node) {
            probe.cause = probe.cause.max(cause);
            return false;
        }
        if self.detector.probes.len() >= PROBES_MAX {
            return false;
        }
        let timeout = self.timeout(node);
        let others = self.roll.alive().saturating_sub(1);
        let probe = Probe {
            cause,
            round: 0,
            due,
            suspect_since: None,
            accusers: BTreeSet::new(),
            asked: false,
            answered: false,
            // The profile's ratio of suspicion to timeout, for members that are farther away than the profile expects.
            suspicion: self.options.suspicion.max(timeout * 6),
            wanted: self.options.accusers.min(others),
        };
        self.detector.probes.insert(node, probe).is_none()
    }

    fn run_probe(&mut self, node: NodeId, now: Mono) {
        let timeout = self.timeout(node);
        let (Some(member), Some(probe)) = (self.roll.live(node).cloned(), self.detector.probes.get_mut(&node)) else {
            self.detector.forget(node);
            return;
        };
        let confirmed = match probe.cause {
            Cause::Routine => false,
            Cause::Closed => probe.round >= 1 && (probe.wanted == 0 || !probe.accusers.is_empty()),
            Cause::Refused => true,
        };
        if confirmed || probe.verdict_at().is_some_and(|at| at <= now) {
            self.detector.forget(node);
            self.state_of(member.peer, State::Down, now);
            // It may hear, and come back in a new life.
            let told = Some((member.peer, State::Down));
            self.send(&member.peer, &Packet::Intro { join: false, me: self.me, you: told });
            return;
        }
        if probe.asked && !probe.answered {
            // Not even the helpers: more likely it is us.
            self.detector.health = (self.detector.health + 1).min(HEALTH_MAX);
        }
        let suspect = probe.round >= 1 && probe.suspect_since.is_none();
        if suspect {
            probe.suspect_since = Some(now);
        }
        probe.round += 1;
        probe.due = now.after(timeout * 3 / 2);
        probe.answered = false;
        let helpers = self.roll.pick(self.options.helpers, node, &mut self.rng);
        probe.asked = !helpers.is_empty();
        if suspect {
            self.roll.set(Member { state: State::Suspect, since: now, ..*member.as_ref() }.into());
            self.event(Event::Suspect(member.peer));
            self.rewatch(now);
            // Whoever comes after it on the ring has lost its watch.
            self.detector.ring_next = now;
            // It may be silent because it holds another process for us; then it must hear our address.
            self.introduce(&member.peer, now);
        }
        // The suspect itself is told first: its answer is the refutation.
        self.ping(node);
        for helper in helpers {
            self.send(&helper.peer, &Packet::Ask(node));
        }
    }

    /// Our loop stood still: silence proves nothing. All probes begin again and nobody is suspect.
    pub(super) fn start_over(&mut self, now: Mono) {
        self.detector.health = (self.detector.health + 1).min(HEALTH_MAX);
        self.detector.favours.clear();
        if let Some((_, heard)) = &mut self.detector.watch {
            *heard = now;
        }
        let again: Vec<NodeId> = self.detector.probes.keys().copied().collect();
        for node in again {
            // To be heard is to be alive, and who is not will be found out again.
            self.heard(node, now);
            self.start_probe(node, Cause::Routine, now);
        }
    }

    /// Notes who our predecessor is after the list changed.
    pub(super) fn rewatch(&mut self, now: Mono) {
        let predecessor = self.roll.predecessor(self.me.node);
        if predecessor != self.detector.watch.map(|(node, _)| node) {
            self.detector.watch = predecessor.map(|node| (node, now));
        }
    }

    // ---- small parts --------------------------------------------------------------------------------------------

    /// How long a ping to this member may take, in our state of health.
    fn timeout(&self, node: NodeId) -> Duration {
        let far = self.rtt.get(&node).map_or(Duration::ZERO, |rtt| *rtt * 3);
        self.options.probe_timeout.max(far) * (2 + self.detector.health) / 2
    }

    fn ping(&mut self, node: NodeId) {
        if let Some(member) = self.roll.get(node).cloned() {
            let packet = Packet::Ping(self.view(&member.peer));
            self.send(&member.peer, &packet);
        }
    }

    fn answer(&mut self, node: NodeId, packet: &Packet) {
        if let Some(member) = self.roll.live(node).cloned() {
            self.send(&member.peer, packet);
        }
    }

    pub(super) fn view(&self, to: &Peer) -> View {
        View { pair: pair(&self.me, to), digest: self.roll.digest(&self.me) }
    }
}

/// Which lives of sender and receiver are meant.
fn pair(from: &Peer, to: &Peer) -> u32 {
    let mut hash = Hash64::default();
    for peer in [from, to] {
        hash.word(peer.start);
        hash.word(u64::from(peer.life));
    }
    hash.finish() as u32
}

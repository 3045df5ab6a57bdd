//! A cluster that attends to sources, in steps of twenty milliseconds: the seats core of each node, views of the others that
//! lag behind the truth, attendants that take their time to finish, and faults drawn from one seed.
//!
//! Membership is not run here, only its promise: a node that cannot be reached is given up within [`DETECT`], and what a
//! node says of itself is heard within [`SPREAD`] by those that can reach it.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use maelstrom::hash::Hash64;
use maelstrom::id::{NodeId, SourceName};
use maelstrom::placement::seats::{Claim, HANDOVER, LISTEN, Output, Seats};
use maelstrom::placement::{Duty, Engine, Node, Presence};
use maelstrom::rng::Rng;
use maelstrom::time::Mono;

/// The longest that a node which cannot be reached counts as alive: p99 of a silent host among 50 is 1.8 s.
pub const DETECT: Duration = Duration::from_millis(2_000);
/// The longest way of a statement to a node that can be reached.
pub const SPREAD: Duration = Duration::from_millis(100);
/// How long two may hold one seat although they can reach each other, and how long a seat may be empty beyond what its
/// last holder needed to leave: a view is late by the one, and a hand-over by the other, twice: that it begins and that it ended.
pub const BOUND: Duration = Duration::from_millis(2_200 + 2 * STEP_MS);

const STEP_MS: u64 = 20;
const STEP: Duration = Duration::from_millis(STEP_MS);

/// What goes wrong. Each is drawn with the same weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A node dies with all it knows and is started again after some seconds.
    Crash,
    /// A node says that it goes, finishes, and is started again.
    Leave,
    /// The nodes fall into two parts that do not hear each other.
    Partition,
    /// A node is drained by an operator, and taken back later.
    Drain,
    /// Another node comes.
    Join,
}

pub const FAULTS: [Fault; 5] = [Fault::Crash, Fault::Leave, Fault::Partition, Fault::Drain, Fault::Join];

/// How long seats were held twice by nodes that could reach each other, and how long by nobody, in milliseconds.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    pub overlaps: Vec<u64>,
    pub gaps: Vec<u64>,
    pub faults: BTreeMap<Fault, u64>,
    pub handed_over: u64,
}

#[derive(Debug)]
struct Machine {
    seats: Seats,
    /// Which part of a partition it is in.
    part: u64,
    duty: Duty,
    stopping: bool,
    /// Seats that are being left, and when that is done.
    finishing: BTreeMap<(SourceName, u32), Duration>,
    held: BTreeSet<(SourceName, u32)>,
    claims: BTreeMap<SourceName, Claim>,
    /// When it believes otherwise of another node: it is gone, or back.
    beliefs: BTreeMap<u64, Belief>,
    /// What its core was told of the nodes.
    sees: Vec<(u64, Presence, Duty)>,
    is_told: bool,
    is_ready: bool,
}

#[derive(Debug, Clone, Copy)]
struct Belief {
    alive: bool,
    /// When what is true now is believed, if that is something else.
    turns: Option<Duration>,
}

#[derive(Debug)]
pub struct World {
    rng: Rng,
    now: Duration,
    up: BTreeMap<u64, Machine>,
    /// Nodes that are away, and when they come back.
    away: BTreeMap<u64, Duration>,
    parts_until: Option<Duration>,
    drained_until: BTreeMap<u64, Duration>,
    /// What was said and is on its way: when it arrives, by whom, to whom.
    under_way: Vec<(Duration, u64, u64, SourceName, Option<Claim>)>,
    /// What each has heard of each.
    heard: BTreeMap<u64, BTreeMap<SourceName, BTreeMap<NodeId, Claim>>>,
    /// Nodes that went after they had said so.
    left: BTreeSet<u64>,
    /// To whom something new was said.
    has_heard: BTreeSet<u64>,
    sources: BTreeSet<SourceName>,
    slowest: Duration,
    overlap_since: BTreeMap<(u64, u64, SourceName, u32), Duration>,
    empty_since: BTreeMap<(SourceName, u32), Duration>,
    /// Of each seat, when its last holder is done at the latest.
    excused: Duration,
    trace: Hash64,
    seen: Seen,
}

fn node(id: u64, presence: Presence, duty: Duty) -> Node {
    Node {
        name: format!("n{id}").parse().expect("a name"),
        presence,
        duty,
        capacity: 1 << 30,
        weight: NonZeroU32::new(1024).expect("some"),
        labels: BTreeMap::new(),
        engines: [Engine::Process].into(),
    }
}

impl World {
    fn new(seed: u64, slowest: Option<Duration>) -> Self {
        let mut rng = Rng::from_seed(seed);
        let sources = (0..1 + rng.below(4)).map(|n| format!("source-{n}").parse().expect("a name")).collect();
        let drawn = Duration::from_millis([0, 50, 3_000, 40_000][rng.below(4) as usize]);
        let slowest = slowest.unwrap_or(drawn);
        let mut world = Self {
            rng,
            now: Duration::ZERO,
            up: BTreeMap::new(),
            away: BTreeMap::new(),
            parts_until: None,
            drained_until: BTreeMap::new(),
            under_way: Vec::new(),
            heard: BTreeMap::new(),
            left: BTreeSet::new(),
            has_heard: BTreeSet::new(),
            sources,
            slowest,
            overlap_since: BTreeMap::new(),
            empty_since: BTreeMap::new(),
            excused: Duration::ZERO,
            trace: Hash64::default(),
            seen: Seen::default(),
        };
        let count = 2 + world.rng.below(6);
        (0..count).for_each(|id| world.start(id));
        world
    }

    /// Two minutes of faults, drawn from `faults`, then quiet until everything must have come to rest. Attendants take up
    /// to `slowest` to finish; drawn as well if none.
    ///
    /// # Errors
    /// What must not be, and when it was.
    pub fn run(seed: u64, faults: &[Fault], every: Duration, slowest: Option<Duration>) -> Result<(u64, Seen), String> {
        let mut world = Self::new(seed, slowest);
        let calm_before = LISTEN + BOUND;
        let (mut next, end) = (calm_before + every, Duration::from_secs(120));
        while world.now < end {
            if world.now >= next && !faults.is_empty() {
                let fault = faults[world.rng.below(faults.len() as u64) as usize];
                world.strike(fault);
                next = world.now + world.between(every / 2, every * 3 / 2);
            }
            world.step()?;
        }
        world.heal();
        // A node that leaves finishes, comes back and is elected, and who holds its seat then finishes as well.
        let rest = world.now + HANDOVER * 2 + Duration::from_secs(10) + LISTEN + BOUND * 4;
        while world.now < rest {
            world.step()?;
        }
        world.is_at_rest()?;
        Ok((world.trace.finish(), world.seen))
    }

    fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let span = u64::try_from((high - low).as_millis()).unwrap_or(u64::MAX).max(1);
        low + Duration::from_millis(self.rng.below(span))
    }

    fn mono(&self) -> Mono {
        Mono(0).after(self.now)
    }

    fn start(&mut self, id: u64) {
        let mut seats = Seats::new(NodeId(id), self.mono());
        seats.handle_sources(&self.sources);
        let machine = Machine {
            seats,
            part: 0,
            duty: Duty::Active,
            stopping: false,
            finishing: BTreeMap::new(),
            held: BTreeSet::new(),
            claims: BTreeMap::new(),
            beliefs: BTreeMap::new(),
            sees: Vec::new(),
            is_told: false,
            is_ready: false,
        };
        // Its new life is greeted, and what the last one said is void.
        for (other, known) in &mut self.up {
            known.beliefs.remove(&id);
            self.heard.entry(*other).or_default().values_mut().for_each(|of| drop(of.remove(&NodeId(id))));
            self.has_heard.insert(*other);
        }
        self.left.remove(&id);
        self.up.insert(id, machine);
        self.heard.insert(id, BTreeMap::new());
        // Nothing is empty while those that could fill it listen.
        self.excuse(LISTEN);
    }

    /// Seats may be empty for that much longer than usual.
    fn excuse(&mut self, time: Duration) {
        self.excused = self.excused.max(self.now + time);
    }

    fn die(&mut self, id: u64, back: Duration) {
        self.up.remove(&id);
        self.heard.remove(&id);
        self.under_way.retain(|(_, by, to, ..)| *by != id && *to != id);
        self.away.insert(id, self.now + back);
    }

    fn strike(&mut self, fault: Fault) {
        let ids: Vec<u64> = self.up.keys().copied().collect();
        let one = ids[self.rng.below(ids.len() as u64) as usize];
        match fault {
            Fault::Crash if ids.len() > 1 => {
                let back = self.between(Duration::from_millis(100), Duration::from_secs(20));
                self.die(one, back);
            }
            Fault::Leave if ids.len() > 1 && self.up.values().filter(|machine| !machine.stopping).count() > 1 => {
                self.up.get_mut(&one).expect("a node").stopping = true;
            }
            Fault::Partition if ids.len() > 1 && self.parts_until.is_none() => {
                let parts: Vec<u64> = ids.iter().map(|_| self.rng.below(2)).collect();
                for (id, part) in ids.iter().zip(parts) {
                    self.up.get_mut(id).expect("a node").part = part;
                }
                self.parts_until = Some(self.now + self.between(Duration::from_millis(200), Duration::from_secs(15)));
            }
            Fault::Drain if ids.len() > 1 => {
                self.up.get_mut(&one).expect("a node").duty = Duty::Draining;
                let until = self.now + self.between(Duration::from_secs(1), Duration::from_secs(15));
                self.drained_until.insert(one, until);
            }
            Fault::Join if ids.len() + self.away.len() < 9 => {
                // Never one that was there before.
                let id = 100 + self.rng.next_u64() / 2;
                self.start(id);
            }
            Fault::Crash | Fault::Leave | Fault::Partition | Fault::Drain | Fault::Join => return,
        }
        *self.seen.faults.entry(fault).or_default() += 1;
        // Whoever is elected now may be gone as well, and nobody knows it yet.
        self.excuse(Duration::ZERO);
    }

    fn heal(&mut self) {
        self.parts_until = Some(self.now);
        self.drained_until.values_mut().for_each(|until| *until = Duration::ZERO);
        self.away.values_mut().for_each(|back| *back = Duration::ZERO);
    }

    fn reach(&self, a: u64, b: u64) -> bool {
        match (self.up.get(&a), self.up.get(&b)) {
            (Some(a), Some(b)) => a.part == b.part,
            _ => false,
        }
    }

    fn step(&mut self) -> Result<(), String> {
        self.now += STEP;
        let now = self.now;
        if self.parts_until.is_some_and(|until| until <= now) {
            self.parts_until = None;
            self.up.values_mut().for_each(|machine| machine.part = 0);
        }
        let over: Vec<u64> = self.drained_until.iter().filter(|(_, until)| **until <= now).map(|(id, _)| *id).collect();
        for id in over {
            self.drained_until.remove(&id);
            self.up.get_mut(&id).into_iter().for_each(|machine| machine.duty = Duty::Active);
        }
        let back: Vec<u64> = self.away.iter().filter(|(_, back)| **back <= now).map(|(id, _)| *id).collect();
        for id in back {
            self.away.remove(&id);
            self.start(id);
        }
        self.hear();
        let ids: Vec<u64> = self.up.keys().copied().collect();
        for id in ids {
            self.turn(id);
        }
        self.check()
    }

    /// What arrives now.
    fn hear(&mut self) {
        let now = self.now;
        if self.under_way.iter().all(|(at, ..)| *at > now) {
            return;
        }
        // Sheets are acknowledged and come in order: what cannot arrive yet is told when the two reach each other, and what
        // was said after it waits for it.
        let mut waits = BTreeSet::new();
        for (at, by, to, source, claim) in std::mem::take(&mut self.under_way) {
            if at > now || waits.contains(&(by, to)) || !self.reach(by, to) {
                waits.insert((by, to));
                self.under_way.push((at, by, to, source, claim));
                continue;
            }
            self.has_heard.insert(to);
            let heard = self.heard.entry(to).or_default().entry(source).or_default();
            match claim {
                Some(claim) => drop(heard.insert(NodeId(by), claim)),
                None => drop(heard.remove(&NodeId(by))),
            }
        }
    }

    fn say(&mut self, by: u64, to: u64, source: &SourceName, claim: Option<Claim>) {
        let at = self.now + self.between(Duration::from_millis(1), SPREAD);
        // In order: a later sheet holds what an earlier one held.
        let last = self.under_way.iter().filter(|(_, from, other, ..)| *from == by && *other == to).map(|sent| sent.0);
        let at = last.max().map_or(at, |last| last.max(at));
        self.under_way.push((at, by, to, source.clone(), claim));
    }

    /// One look of one node.
    fn turn(&mut self, id: u64) {
        let others: Vec<u64> = self.up.keys().copied().filter(|other| *other != id).collect();
        let known: BTreeSet<u64> = others.iter().copied().chain(self.up[&id].beliefs.keys().copied()).collect();
        let mut greeted = Vec::new();
        for other in known {
            let truth = self.reach(id, other);
            let belief = self.up[&id].beliefs.get(&other).copied().unwrap_or(Belief { alive: false, turns: None });
            let turns = match (belief.alive == truth, belief.turns) {
                (true, _) => None,
                (false, Some(turns)) => Some(turns),
                (false, None) if truth => Some(self.now + self.between(Duration::from_millis(1), SPREAD)),
                (false, None) => Some(self.now + self.between(Duration::from_millis(100), DETECT)),
            };
            let mut belief = Belief { turns, ..belief };
            if turns.is_some_and(|turns| turns <= self.now) {
                belief = Belief { alive: truth, turns: None };
                if truth {
                    greeted.push(other);
                } else {
                    self.under_way.retain(|(_, by, to, ..)| (*by, *to) != (other, id));
                    self.has_heard.insert(id);
                    self.heard.entry(id).or_default().values_mut().for_each(|of| drop(of.remove(&NodeId(other))));
                }
            }
            self.up.get_mut(&id).expect("a node").beliefs.insert(other, belief);
        }
        // Who is there again hears everything, and says everything: it knows that it was taken for dead.
        for other in greeted {
            for (by, to) in [(id, other), (other, id)] {
                for source in self.sources.clone() {
                    let claim = self.up[&by].claims.get(&source).cloned();
                    self.say(by, to, &source, claim);
                }
            }
        }
        let sees = self.sees(id);
        let (mono, now) = (self.mono(), self.now);
        let heard = self.has_heard.remove(&id).then(|| self.heard[&id].clone());
        let machine = self.up.get_mut(&id).expect("a node");
        let done: Vec<_> =
            machine.finishing.iter().filter(|(_, at)| **at <= now).map(|(seat, _)| seat.clone()).collect();
        for (source, seat) in done {
            machine.finishing.remove(&(source.clone(), seat));
            machine.seats.left(&source, seat, mono);
        }
        if machine.sees != sees {
            machine
                .seats
                .handle_nodes(sees.iter().map(|(id, is, duty)| (NodeId(*id), node(*id, *is, *duty))).collect());
            machine.sees = sees;
        }
        if let Some(heard) = heard {
            machine.seats.handle_claims(&heard);
        }
        machine.seats.settle(mono);
        while let Some(output) = self.up.get_mut(&id).expect("a node").seats.poll_output() {
            self.carry_out(id, output);
        }
        let machine = &self.up[&id];
        if machine.stopping && machine.is_told && machine.seats.is_idle() {
            let back = self.between(Duration::from_millis(100), Duration::from_secs(10));
            self.left.insert(id);
            self.die(id, back);
        } else if machine.stopping {
            self.up.get_mut(&id).expect("a node").is_told = true;
        }
    }

    /// All nodes, as this one believes. Duty travels with what nodes say: here it is known at once to those that believe
    /// the node alive, which is the hardest case for the claims.
    fn sees(&self, id: u64) -> Vec<(u64, Presence, Duty)> {
        let duty = |id: u64| match self.up.get(&id) {
            Some(machine) if machine.stopping => Duty::Draining,
            Some(machine) if !machine.is_ready => Duty::Cordoned,
            Some(machine) => machine.duty,
            None if self.left.contains(&id) => Duty::Draining,
            None => Duty::Active,
        };
        let beliefs = self.up[&id].beliefs.iter();
        let others = beliefs
            .map(|(other, belief)| (*other, if belief.alive { Presence::Alive } else { Presence::Down }, duty(*other)));
        others.chain([(id, Presence::Alive, duty(id))]).collect()
    }

    fn carry_out(&mut self, id: u64, output: Output) {
        self.trace.word(u64::try_from(self.now.as_millis()).unwrap_or(0));
        self.trace.word(id);
        match output {
            Output::Ready => self.up.get_mut(&id).expect("a node").is_ready = true,
            Output::Take(source, seat) => {
                self.trace.word(1 + u64::from(seat));
                self.seen.handed_over += 1;
                self.up.get_mut(&id).expect("a node").held.insert((source.clone(), seat));
                if seat == 0 && self.rng.below(3) == 0 {
                    let width = u32::try_from(1 + self.rng.below(5)).expect("few");
                    self.up.get_mut(&id).expect("a node").seats.measured(&source, width);
                }
            }
            Output::Quit(source, seat) => {
                self.trace.word(1_000 + u64::from(seat));
                let takes = self.between(Duration::ZERO, self.slowest + STEP).min(HANDOVER);
                self.excuse(takes);
                let machine = self.up.get_mut(&id).expect("a node");
                machine.held.remove(&(source.clone(), seat));
                machine.finishing.insert((source, seat), self.now + takes);
            }
            Output::Say(source, claim) => {
                let machine = self.up.get_mut(&id).expect("a node");
                match &claim {
                    Some(claim) => drop(machine.claims.insert(source.clone(), claim.clone())),
                    None => drop(machine.claims.remove(&source)),
                }
                let others: Vec<u64> = self
                    .up
                    .keys()
                    .copied()
                    .filter(|other| self.up[&id].beliefs.get(other).is_some_and(|belief| belief.alive))
                    .collect();
                for other in others {
                    self.say(id, other, &source, claim.clone());
                }
            }
            Output::Width(..) => {}
        }
    }

    /// Whether a node could hold a seat now.
    fn is_on_duty(machine: &Machine) -> bool {
        machine.duty == Duty::Active && !machine.stopping && machine.is_ready
    }

    fn check(&mut self) -> Result<(), String> {
        let ids: Vec<u64> = self.up.keys().copied().collect();
        let mut twice = BTreeSet::new();
        for (index, a) in ids.iter().enumerate() {
            for b in &ids[index + 1..] {
                if self.reach(*a, *b) {
                    let both = self.up[a].held.intersection(&self.up[b].held);
                    twice.extend(both.map(|(source, seat)| (*a, *b, source.clone(), *seat)));
                }
            }
        }
        let over: Vec<_> = self.overlap_since.keys().filter(|key| !twice.contains(*key)).cloned().collect();
        for key in over {
            let since = self.overlap_since.remove(&key).expect("just listed");
            self.seen.overlaps.push(millis(self.now - since));
        }
        for key in twice {
            let since = *self.overlap_since.entry(key.clone()).or_insert(self.now);
            if self.now - since > BOUND {
                return Err(format!("at {:?}: held twice for {:?}: {key:?}", self.now, self.now - since));
            }
        }
        // Seat 0 of each source, in the whole cluster: somebody on duty must be there to fill it.
        let can = self.up.values().any(Self::is_on_duty);
        for source in self.sources.clone() {
            let key = (source, 0);
            if !can {
                self.excuse(BOUND);
            }
            if self.up.values().any(|machine| machine.held.contains(&key)) {
                // Not the time before the first of them was taken.
                if let Some(since) = self.empty_since.remove(&key).filter(|since| *since > LISTEN) {
                    self.seen.gaps.push(millis(self.now - since));
                }
                continue;
            }
            let since = *self.empty_since.entry(key.clone()).or_insert(self.now);
            if self.now > since.max(self.excused) + BOUND {
                return Err(format!("at {:?}: nobody holds {key:?} since {since:?}", self.now));
            }
        }
        Ok(())
    }

    /// Each seat has one holder, the same for all.
    fn is_at_rest(&self) -> Result<(), String> {
        for source in &self.sources {
            let width = self
                .up
                .values()
                .filter(|machine| machine.held.contains(&(source.clone(), 0)))
                .filter_map(|machine| machine.claims.get(source).and_then(|claim| claim.width))
                .max();
            for seat in 0..width.unwrap_or(1) {
                let key = (source.clone(), seat);
                let holders: Vec<u64> =
                    self.up.iter().filter(|(_, machine)| machine.held.contains(&key)).map(|(id, _)| *id).collect();
                if holders.len() != 1 {
                    return Err(format!("at rest {key:?} is held by {holders:?}"));
                }
            }
        }
        let beyond = self.up.values().flat_map(|machine| machine.finishing.keys()).count();
        if beyond > 0 { Err(format!("at rest {beyond} seats are still being left")) } else { Ok(()) }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Seen {
    /// Adds what another world saw.
    pub fn add(&mut self, other: &Self) {
        self.overlaps.extend(&other.overlaps);
        self.gaps.extend(&other.gaps);
        self.handed_over += other.handed_over;
        for (fault, count) in &other.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
    }
}

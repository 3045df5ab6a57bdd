//! One cluster with one schedule: nodes, their disks, the network between them, and the component that counts.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use maelstrom::crdt::{Dot, Hlc, Register, Row};
use maelstrom::id::{NodeId, SourceName};
use maelstrom::model::Source;
use maelstrom::model::source::{Delivery, Trigger};
use maelstrom::placement::seats::{Claim, HANDOVER, LISTEN, Output, Seats};
use maelstrom::placement::{Duty, Engine, Node, Presence};
use maelstrom::rng::Rng;
use maelstrom::schedule::claim::{majority, may_grant};
use maelstrom::schedule::ledger::{Holder, Ledger, Outcome, Run, RunId, Status};
use maelstrom::schedule::runs::{Known, Runs};
use maelstrom::time::{Mono, Wall};
use serde_json::json;

/// Milliseconds between two looks at the world.
const TICK: u64 = 50;
/// Faults end here, and the world some time later.
const CALM: u64 = 90_000;
const END: u64 = 150_000;
/// After this much silence a node is held for gone: what the daemon needs for a machine that vanishes.
const DETECT: u64 = 2_000;
/// So long after it is heard again a node is known to be there.
const MEET: u64 = 500;
/// A request goes out within so many looks of its decision: the component may have to be started.
const SETS_OUT: u64 = 10;
/// Between two times at which a node says again what seats it holds.
const SAY_AGAIN: u64 = 500;
/// Between two comparisons of the registry with another node.
const COMPARE: u64 = 5_000;
/// For runs to end before the seat is given back, as in the daemon.
const LINGER: u64 = 2_000;
/// A message takes up to this many looks.
const DELAY: u64 = 4;
/// Some morning.
const BASE: u64 = 1_790_000_000_000;

/// What happened, over all worlds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    pub planned: u64,
    pub fired: u64,
    pub doubled: u64,
    pub skipped_for_votes: u64,
    pub lost: u64,
    pub retried: u64,
    pub crashes: u64,
    pub splits: u64,
    pub steps: u64,
    pub handovers: u64,
    pub two_holders_ms: u64,
}

impl Seen {
    fn fields(&self) -> [(&'static str, u64); 10] {
        [
            ("planned", self.planned),
            ("fired", self.fired),
            ("doubled", self.doubled),
            ("skipped_for_votes", self.skipped_for_votes),
            ("lost", self.lost),
            ("retried", self.retried),
            ("crashes", self.crashes),
            ("splits", self.splits),
            ("steps", self.steps),
            ("handovers", self.handovers),
        ]
    }

    /// Counts add up; of times the longest holds.
    pub fn add(&mut self, other: &Self) {
        self.planned += other.planned;
        self.fired += other.fired;
        self.doubled += other.doubled;
        self.skipped_for_votes += other.skipped_for_votes;
        self.lost += other.lost;
        self.retried += other.retried;
        self.crashes += other.crashes;
        self.splits += other.splits;
        self.steps += other.steps;
        self.handovers += other.handovers;
        self.two_holders_ms = self.two_holders_ms.max(other.two_holders_ms);
    }

    /// What never happened: then nothing is proven of it.
    pub fn blind(&self) -> Vec<&'static str> {
        self.fields().into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
    }
}

/// What a crash leaves.
#[derive(Debug, Clone, Default)]
struct Disk {
    register: Option<Register>,
    granted: BTreeMap<bool, Wall>,
    life: u64,
    hlc: u64,
    /// What the register holds, and how often it changed.
    ledger: Ledger,
    version: u64,
}

/// How far a run is.
#[derive(Debug, Clone)]
enum Phase {
    /// Asks these, each at its moment; so many granted it.
    Claims { ask: Vec<(u64, usize)>, granted: usize },
    /// The request goes out at this moment.
    Sends(u64),
    /// The component answers at this moment, well or not.
    Waits(u64, bool),
}

#[derive(Debug)]
struct Process {
    seats: Seats,
    heard: BTreeMap<NodeId, Claim>,
    said: Option<Claim>,
    alive: BTreeMap<NodeId, u64>,
    /// It attends: since when it has asked the others, or why not yet.
    attends: Option<u64>,
    /// It leaves the seat by then.
    leaves: Option<u64>,
    flights: BTreeMap<(RunId, u32), (Run, Phase)>,
    /// Until then, and as long as the ledger is this one, nothing is to be decided.
    rests: Option<(u64, Option<Wall>)>,
}

#[derive(Debug)]
struct Machine {
    disk: Disk,
    /// None while it is down, and when it comes back.
    process: Option<Process>,
    back: u64,
    /// Its clock is ahead by this.
    offset: i64,
    side: u8,
    last_heard: Vec<u64>,
    heard_since: Vec<u64>,
}

#[derive(Debug)]
enum Message {
    Row(Register),
    Claim(NodeId, Option<Claim>),
}

pub struct World {
    rng: Rng,
    now: u64,
    source: SourceName,
    rules: Runs,
    delivery: Delivery,
    machines: Vec<Machine>,
    post: BTreeMap<(u64, u64), (usize, usize, Message)>,
    sent: u64,
    /// Where each run was handled.
    handled: BTreeMap<RunId, Vec<u64>>,
    together: u64,
    seen: Seen,
}

fn node(at: usize) -> NodeId {
    NodeId(at as u64 + 1)
}

impl World {
    pub fn run(seed: u64) -> Result<Seen, String> {
        let mut world = Self::new(seed);
        while world.now < END {
            world.now += TICK;
            world.trouble();
            world.deliver();
            for at in 0..world.machines.len() {
                world.look(at);
            }
            world.watch()?;
        }
        world.check()?;
        Ok(world.seen)
    }

    fn new(seed: u64) -> Self {
        let mut rng = Rng::from_seed(seed);
        let delivery = if rng.below(2) == 0 { "at-least-once" } else { "at-most-once" };
        let period = 1 + rng.below(3);
        let doc = json!({"component": "c", "cron": {"schedule": format!("*/{period} * * * * *"), "path": "/",
            "missed": "all", "start_deadline": "10m", "delivery": delivery,
            "retries": if delivery == "at-least-once" { rng.below(3) } else { 0 }}});
        let source: SourceName = "s".parse().expect("a name");
        let parsed = Source::parse(&source, &doc).expect("a source");
        let Trigger::Cron(cron) = parsed.trigger else { panic!("a schedule") };
        let rules = Runs::new(&source, &cron).expect("rules");
        let count = 3 + rng.below(3) as usize;
        let begun = Row { format: 1, bytes: Ledger::begun(Wall(BASE)).encode().into() };
        let register = Register::write(None, Dot { at: Hlc::from_wall(Wall(BASE)), by: node(0) }, Some(begun));
        let machines = (0..count).map(|_| Machine {
            disk: Disk {
                register: Some(register.clone()),
                hlc: BASE << 16,
                ledger: Ledger::begun(Wall(BASE)),
                ..Disk::default()
            },
            process: None,
            back: 0,
            offset: 0,
            side: 0,
            last_heard: vec![0; count],
            heard_since: vec![0; count],
        });
        Self {
            now: 0,
            source,
            rules,
            delivery: cron.delivery,
            machines: machines.collect(),
            post: BTreeMap::new(),
            sent: 0,
            handled: BTreeMap::new(),
            together: 0,
            seen: Seen::default(),
            rng,
        }
    }

    fn wall(&self, at: usize) -> Wall {
        Wall((BASE + self.now).saturating_add_signed(self.machines[at].offset))
    }

    fn mono(&self) -> Mono {
        Mono(self.now * 1_000_000 + 1)
    }

    fn reach(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.machines[a], &self.machines[b]);
        a.process.is_some() && b.process.is_some() && a.side == b.side
    }

    fn once_in(&mut self, seconds: u64) -> bool {
        self.rng.below(seconds * 1000 / TICK) == 0
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        if !self.reach(from, to) || (self.now < CALM && self.rng.below(20) == 0) {
            return;
        }
        self.sent += 1;
        let due = self.now + TICK * (1 + self.rng.below(DELAY));
        self.post.insert((due, self.sent), (from, to, message));
    }

    /// Crashes, returns, splits and steps.
    fn trouble(&mut self) {
        if self.now >= CALM {
            for machine in &mut self.machines {
                (machine.side, machine.offset) = (0, 0);
                machine.back = machine.back.min(self.now);
            }
        }
        let is_calm = self.now >= CALM;
        if !is_calm && self.once_in(15) {
            self.seen.splits += 1;
            for at in 0..self.machines.len() {
                self.machines[at].side = self.rng.below(2) as u8;
            }
        }
        if !is_calm && self.once_in(10) {
            self.machines.iter_mut().for_each(|machine| machine.side = 0);
        }
        for at in 0..self.machines.len() {
            if !is_calm && self.machines[at].process.is_some() && self.once_in(25) {
                self.crash(at);
            }
            if !is_calm && self.once_in(20) {
                self.seen.steps += 1;
                self.machines[at].offset = self.rng.below(5_000).cast_signed() - 2_500;
            }
            if self.machines[at].process.is_none() && self.machines[at].back <= self.now {
                let (seats, mono) = (Seats::new(node(at), self.mono()), self.now);
                let machine = &mut self.machines[at];
                machine.disk.life += 1;
                machine.last_heard.fill(mono.saturating_sub(DETECT));
                let (heard, alive, flights) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
                machine.process = Some(Process {
                    seats,
                    heard,
                    said: None,
                    alive,
                    attends: None,
                    leaves: None,
                    flights,
                    rests: None,
                });
            }
        }
    }

    fn crash(&mut self, at: usize) {
        self.seen.crashes += 1;
        self.machines[at].process = None;
        self.machines[at].back = self.now + 1_000 + self.rng.below(15_000);
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.post.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (from, to, message) = entry.remove();
            if !self.reach(from, to) {
                continue;
            }
            let machine = &mut self.machines[to];
            match message {
                Message::Row(row) => machine.disk.take(&row),
                Message::Claim(of, claim) => {
                    let Some(process) = &mut machine.process else { continue };
                    match claim {
                        Some(claim) => drop(process.heard.insert(of, claim)),
                        None => drop(process.heard.remove(&of)),
                    }
                }
            }
        }
    }

    /// One node does what it has to do.
    fn look(&mut self, at: usize) {
        if self.machines[at].process.is_none() {
            return;
        }
        self.see_others(at);
        self.settle(at);
        self.attend(at);
        self.fly(at);
        let others: Vec<usize> = (0..self.machines.len()).filter(|other| *other != at).collect();
        if (self.now / TICK + at as u64).is_multiple_of(COMPARE / TICK) {
            let other = others[self.rng.below(others.len() as u64) as usize];
            let rows = [at, other].map(|of| self.machines[of].disk.register.clone());
            for (to, row) in [(other, rows[0].clone()), (at, rows[1].clone())] {
                row.into_iter().for_each(|row| self.send(if to == at { other } else { at }, to, Message::Row(row)));
            }
        }
        if (self.now / TICK + at as u64).is_multiple_of(SAY_AGAIN / TICK) {
            self.say(at);
        }
    }

    fn say(&mut self, at: usize) {
        let said = self.machines[at].process.as_ref().and_then(|process| process.said.clone());
        for other in (0..self.machines.len()).filter(|other| *other != at) {
            self.send(at, other, Message::Claim(node(at), said.clone()));
        }
    }

    fn see_others(&mut self, at: usize) {
        for other in 0..self.machines.len() {
            let machine = &self.machines[at];
            if other == at {
                self.machines[at].last_heard[other] = self.now;
            } else if self.reach(at, other) {
                if self.now - machine.last_heard[other] >= DETECT {
                    self.machines[at].heard_since[other] = self.now;
                }
                self.machines[at].last_heard[other] = self.now;
            }
        }
        let alive: BTreeMap<NodeId, u64> = (0..self.machines.len())
            .filter(|other| {
                let machine = &self.machines[at];
                let is_known = *other == at || self.now - machine.heard_since[*other] >= MEET;
                is_known && self.now - machine.last_heard[*other] < DETECT
            })
            .map(|other| (node(other), self.machines[other].disk.life))
            .collect();
        let now = self.mono();
        let count = self.machines.len();
        let Some(process) = &mut self.machines[at].process else { return };
        process.heard.retain(|of, _| alive.contains_key(of));
        process.seats.handle_claims(&BTreeMap::from([(self.source.clone(), process.heard.clone())]));
        if process.alive == alive {
            process.seats.settle(now);
            return;
        }
        process.alive = alive;
        let presence = |id: &NodeId| if process.alive.contains_key(id) { Presence::Alive } else { Presence::Down };
        let nodes = (0..count).map(|other| (node(other), placed(other, presence(&node(other))))).collect();
        process.seats.handle_nodes(nodes);
        process.seats.handle_sources(&BTreeSet::from([self.source.clone()]));
        process.seats.settle(now);
    }

    fn settle(&mut self, at: usize) {
        let mut says = false;
        let now = self.now;
        let Some(process) = &mut self.machines[at].process else { return };
        while let Some(output) = process.seats.poll_output() {
            match output {
                // It asks the others first.
                Output::Take(..) => (process.attends, process.leaves) = (Some(now + 2 * TICK), None),
                Output::Quit(..) => {
                    process.leaves = Some(now + LINGER);
                    self.seen.handovers += 1;
                }
                Output::Say(_, claim) => (process.said, says) = (claim, true),
                Output::Ready | Output::Width(..) => {}
            }
        }
        if process.leaves.is_some_and(|by| by <= now || process.flights.is_empty()) {
            (process.attends, process.leaves) = (None, None);
            process.seats.left(&self.source, 0, Mono(now * 1_000_000 + 1));
        }
        if says {
            self.say(at);
        }
    }

    /// Takes its turn if it has the seat.
    fn attend(&mut self, at: usize) {
        let Some(process) = &self.machines[at].process else { return };
        let Some(since) = process.attends.filter(|since| *since <= self.now && process.leaves.is_none()) else {
            return;
        };
        if since == self.now {
            for other in (0..self.machines.len()).filter(|other| self.reach(at, *other)).collect::<Vec<_>>() {
                let theirs = self.machines[other].disk.register.clone();
                theirs.into_iter().for_each(|theirs| self.machines[at].disk.take(&theirs));
            }
        }
        let (now, wall) = (self.now, self.wall(at));
        let (me, rules) = (self.holder(at), self.rules.clone());
        let Some(process) = &self.machines[at].process else { return };
        let mine: BTreeSet<(RunId, u32)> = process.flights.keys().copied().collect();
        let alive = process.alive.clone();
        let is_gone = |holder: Holder| match holder.node == me.node {
            true => holder.life != me.life,
            false => alive.get(&holder.node).is_none_or(|life| *life > holder.life),
        };
        let disk = &self.machines[at].disk;
        if process
            .rests
            .is_some_and(|(version, until)| version == disk.version && until.is_none_or(|until| wall < until))
        {
            return;
        }
        let before = disk.ledger.clone();
        let mut ledger = before.clone();
        let turn = rules.turn(&mut ledger, wall, &Known { me, mine: &mine, is_gone: &is_gone });
        let version = disk.version;
        if let Some(process) = &mut self.machines[at].process {
            process.rests = Some((version, turn.next));
        }
        if ledger == before {
            return;
        }
        self.write(at, &ledger);
        for run in turn.fire {
            self.seen.retried += u64::from(run.attempt > 1);
            let phase = if self.delivery == Delivery::AtMostOnce {
                let mut ask: Vec<(u64, usize)> = (0..self.machines.len()).map(|other| (now, other)).collect();
                ask.iter_mut().for_each(|(due, _)| *due += TICK * (1 + self.rng.below(DELAY)));
                Phase::Claims { ask, granted: 0 }
            } else {
                Phase::Sends(now + TICK * (1 + self.rng.below(SETS_OUT)))
            };
            if let Some(process) = &mut self.machines[at].process {
                process.flights.insert(run.key(), (run, phase));
            }
        }
    }

    /// Moves what is under way on.
    fn fly(&mut self, at: usize) {
        let Some(process) = &mut self.machines[at].process else { return };
        let now = self.now;
        let mut is_claiming = false;
        for (key, (run, phase)) in std::mem::take(&mut process.flights) {
            let next = match phase {
                // One claim after the other.
                Phase::Claims { .. } if is_claiming => Some(phase),
                Phase::Claims { ask, granted } => {
                    is_claiming = true;
                    self.claims(at, &run, ask, granted)
                }
                Phase::Sends(due) if due <= now => {
                    self.seen.fired += 1;
                    self.handled.entry(run.id()).or_default().push(now);
                    let fails = self.now < CALM && self.rng.below(10) == 0;
                    Some(Phase::Waits(now + TICK * (1 + self.rng.below(40)), !fails))
                }
                Phase::Waits(due, is_ok) if due <= now => {
                    let status = if is_ok { Status::Ok } else { Status::Failed };
                    self.note(at, &run, Outcome::because(status, "as the component says"));
                    None
                }
                Phase::Sends(_) | Phase::Waits(..) => Some(phase),
            };
            if let (Some(next), Some(process)) = (next, &mut self.machines[at].process) {
                process.flights.insert(key, (run, next));
            }
        }
    }

    fn claims(&mut self, at: usize, run: &Run, mut ask: Vec<(u64, usize)>, mut granted: usize) -> Option<Phase> {
        let id = run.id();
        for (_, voter) in ask.extract_if(.., |(due, _)| *due <= self.now).collect::<Vec<_>>() {
            if voter != at && !self.reach(at, voter) {
                continue;
            }
            let disk = &mut self.machines[voter].disk;
            if may_grant(disk.granted.get(&id.is_manual).copied(), id.planned) {
                disk.granted.insert(id.is_manual, id.planned);
                // The answer may be lost.
                granted += usize::from(voter == at || self.now >= CALM || self.rng.below(20) > 0);
            }
        }
        if granted >= majority(self.machines.len()) {
            return Some(Phase::Sends(self.now + TICK * (1 + self.rng.below(SETS_OUT))));
        }
        if ask.is_empty() {
            self.seen.skipped_for_votes += 1;
            self.note(at, run, Outcome::because(Status::Skipped, "too few votes"));
            return None;
        }
        Some(Phase::Claims { ask, granted })
    }

    fn note(&mut self, at: usize, run: &Run, outcome: Outcome) {
        let (wall, random) = (self.wall(at), self.rng.next_u64());
        let mut ledger = self.machines[at].disk.ledger.clone();
        self.rules.end(&mut ledger, run, wall, outcome, random);
        self.write(at, &ledger);
    }

    fn write(&mut self, at: usize, ledger: &Ledger) {
        let wall = self.wall(at);
        let disk = &mut self.machines[at].disk;
        let seen = disk.register.as_ref().map_or(0, |register| register.latest().0);
        disk.hlc = Hlc::from_wall(wall).0.max(disk.hlc.max(seen) + 1);
        let row = Row { format: 1, bytes: ledger.encode().into() };
        let register = Register::write(disk.register.as_ref(), Dot { at: Hlc(disk.hlc), by: node(at) }, Some(row));
        disk.set(register.clone());
        for other in (0..self.machines.len()).filter(|other| *other != at) {
            self.send(at, other, Message::Row(register.clone()));
        }
    }

    fn holder(&self, at: usize) -> Holder {
        Holder { node: node(at), life: self.machines[at].disk.life }
    }

    /// Whether the seat has the holders that it may have now.
    fn watch(&mut self) -> Result<(), String> {
        let is_holder = |machine: &Machine| {
            machine.process.as_ref().is_some_and(|process| process.attends.is_some() && process.leaves.is_none())
        };
        let holders: Vec<usize> = (0..self.machines.len()).filter(|at| is_holder(&self.machines[*at])).collect();
        let meet = holders.iter().any(|a| holders.iter().any(|b| a < b && self.reach(*a, *b)));
        self.together = if meet { self.together + TICK } else { 0 };
        self.seen.two_holders_ms = self.seen.two_holders_ms.max(self.together);
        let spread = SAY_AGAIN + 2 * TICK * DELAY;
        // A message that is lost is said again, and so perhaps is the next: three times at most in some thousand worlds.
        if self.together > DETECT + 4 * spread {
            return Err(format!("{holders:?} hold the seat at {} ms and see each other", self.now));
        }
        let settled = CALM + DETECT + MEET + LINGER + millis(LISTEN) + spread;
        if self.now > settled && self.now < settled + millis(HANDOVER) && holders.len() != 1 {
            return Err(format!("{holders:?} hold the seat at {} ms, long after all faults", self.now));
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), String> {
        // What is planned so late may be under way.
        let last = Wall(BASE + END - 5_000);
        let planned: Vec<Wall> = self.rules.times().following(Wall(BASE)).take_while(|at| *at <= last).collect();
        self.seen.planned += planned.len() as u64;
        self.seen.lost +=
            self.machines[0].disk.ledger.ended().iter().filter(|ended| ended.outcome.status == Status::Lost).count()
                as u64;
        for (id, times) in &self.handled {
            self.seen.doubled += times.len() as u64 - 1;
            if self.delivery == Delivery::AtMostOnce && times.len() > 1 {
                return Err(format!("{id} was fired at {times:?}"));
            }
        }
        for planned in planned {
            let id = RunId { planned, is_manual: false };
            let is_safe = self.delivery == Delivery::AtLeastOnce || planned.0 > BASE + CALM + 15_000;
            if is_safe && !self.handled.contains_key(&id) {
                return Err(format!("{id} was never fired ({:?})", self.delivery));
            }
        }
        Ok(())
    }
}

impl Disk {
    fn set(&mut self, register: Register) {
        if self.register.as_ref() == Some(&register) {
            return;
        }
        let rows = register.siblings().iter().filter_map(|sibling| sibling.row.as_ref());
        self.ledger = Ledger::merge(rows.filter_map(|row| Ledger::parse(&row.bytes)));
        self.register = Some(register);
        self.version += 1;
    }

    fn take(&mut self, row: &Register) {
        self.set(self.register.as_ref().map_or_else(|| row.clone(), |own| own.merge(row)));
    }
}

fn placed(at: usize, presence: Presence) -> Node {
    Node {
        name: format!("n{at}").parse().expect("a name"),
        presence,
        duty: Duty::Active,
        capacity: 1 << 30,
        weight: NonZeroU32::new(1024).expect("not zero"),
        labels: BTreeMap::new(),
        engines: BTreeSet::from([Engine::Process]),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

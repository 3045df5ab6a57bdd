//! One world: hosts with disks and clocks, a network, people who write, and a misfortune now and then.
//!
//! Everything is drawn from the seed, by one generator for each purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use maelstrom::crdt::{Collect, Dot, Expect, Key, Kind, Options, Output, Registry, Replica, Row, Saved, Write};
use maelstrom::hash::hash64;
use maelstrom::id::NodeId;
use maelstrom::rng::Rng;
use maelstrom::time::{Mono, Now, Wall};

use crate::disk::Disk;
use crate::model::Model;
use crate::net::{Happening, Host, Net, Weather};

/// Where wall clocks start, in milliseconds; far from 0, so that they can step back.
const START: u64 = 1_700_000_000_000;

/// How far the quiet phase is in the future of everything else: every row from the future is due by then.
const QUIET_JUMP: u64 = 3 * 3_600_000;

/// How often the script acts, about.
const STEP: Duration = Duration::from_millis(150);

#[derive(Debug, Clone)]
struct Letter {
    from: NodeId,
    to: NodeId,
    bytes: bytes::Bytes,
}

struct Machine {
    id: NodeId,
    disk: Disk,
    replica: Option<Replica>,
    /// An output that the disk refused.
    stuck: Option<Output>,
    /// How far the wall clock is off, in milliseconds.
    skew: i64,
    wakes_at: Option<Mono>,
}

/// What happened at least once; a world that never gets there proves nothing about it.
#[derive(Debug, Default, Clone)]
pub struct Seen(BTreeMap<&'static str, u64>);

impl Seen {
    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    fn count(&mut self, what: &'static str, count: u64) {
        *self.0.entry(what).or_default() += count;
    }

    /// What never happened.
    pub fn blind(&self) -> Vec<&'static str> {
        self.0.iter().filter(|(_, count)| **count == 0).map(|(what, _)| *what).collect()
    }
}

pub struct World {
    net: Net<Letter>,
    rng: Rng,
    machines: Vec<Machine>,
    keys: Vec<Key>,
    options: Options,
    model: Model,
    next_id: u64,
    may_wipe: bool,
    is_lossy: bool,
    jump: u64,
    seen: Seen,
}

impl World {
    /// Runs one seed. The trace, or what went wrong; and what happened.
    pub fn run(seed: u64, collect: Collect) -> (Result<u64, String>, Seen) {
        let mut world = Self::new(seed, collect);
        let end = world.trouble().and_then(|()| world.quiet());
        world.tally();
        (end.map(|()| world.net.trace_hash()), world.seen)
    }

    fn new(seed: u64, collect: Collect) -> Self {
        let mut root = Rng::from_seed(seed);
        let weather = Self::weather(&mut root.child("weather"));
        let net = Net::new(root.child("net"), weather);
        let mut rng = root.child("script");
        let count = 3 + rng.below(3) * rng.below(3);
        let keys = (0..2 + rng.below(4)).map(|n| Key::new(Kind(1 + n as u16 % 3), &n.to_string()).expect("a key"));
        let options = Options {
            compare_min: Duration::from_millis(300),
            compare_max: Duration::from_millis(1500),
            retry_max: Duration::from_secs(2),
            stall: Duration::from_millis(500),
            // Small enough that an answer is cut.
            chunk: 64 << rng.below(6),
            window: 1 + rng.below(3) as usize,
            push_frame: 100,
            flat: 2 + rng.below(6) as usize,
            fan_out: 2,
            tombstone_age: Duration::from_millis(rng.below(3) * 700),
            collect_every: Duration::from_millis(500),
            collect,
            ..Options::default()
        };
        let mut world = Self {
            net,
            machines: Vec::new(),
            keys: keys.collect(),
            options,
            model: Model::default(),
            next_id: 0,
            may_wipe: true,
            is_lossy: rng.below(3) > 0,
            jump: 0,
            seen: Seen::default(),
            rng,
        };
        for _ in 0..count.min(7) {
            let id = world.new_id();
            let skew = world.rng.below(400) as i64;
            let machine = Machine { id, disk: Disk::default(), replica: None, stuck: None, skew, wakes_at: None };
            world.machines.push(machine);
        }
        world
    }

    fn weather(rng: &mut Rng) -> Weather {
        Weather {
            loss: rng.below(4) * rng.below(80),
            twice: rng.below(200),
            fastest: Duration::from_micros(100),
            slowest: Duration::from_micros(200 + rng.below(3) * rng.below(100_000)),
        }
    }

    fn new_id(&mut self) -> NodeId {
        self.next_id += 1;
        NodeId(self.next_id * 0x9e37_79b9 % 0xffff)
    }

    fn now(&self, host: Host) -> Now {
        let mono = self.net.now();
        let wall = (START + self.jump + mono.0 / 1_000_000).saturating_add_signed(self.machines[host].skew);
        Now { mono, wall: Wall(wall) }
    }

    fn any_host(&mut self) -> Host {
        self.rng.below(self.machines.len() as u64) as usize
    }

    // ---- running a host ---------------------------------------------------------------------------------------------

    fn start(&mut self, host: Host) {
        let now = self.now(host);
        let seed = self.rng.next_u64();
        let machine = &mut self.machines[host];
        let rows = machine.disk.rows.iter().map(|(key, register)| (key.clone(), register.clone()));
        let registry = Registry::restore(machine.id, machine.disk.hlc, rows);
        let saved: Saved = machine.disk.saved();
        let rng = Rng::from_seed(seed);
        machine.replica = Some(Replica::new(registry, machine.id, saved, self.options.clone(), rng, now));
        (machine.stuck, machine.wakes_at) = (None, None);
    }

    fn stop(&mut self, host: Host) {
        if let Some(replica) = self.machines[host].replica.take() {
            self.note(&replica);
        }
        self.machines[host].stuck = None;
    }

    fn note(&mut self, replica: &Replica) {
        let stats = replica.stats();
        self.seen.count("fetches finished", stats.repairs);
        self.seen.count("fetches given up", stats.stalled);
        self.seen.count("deletes forgotten", stats.collected);
        self.seen.count("rows taken", stats.rows_taken);
        self.seen.count("rows from the future", replica.registry().held() as u64);
        self.seen.count("conflicts", replica.registry().conflicts().count() as u64);
    }

    /// Tells every running host who is there: all, or those that it can reach.
    fn tell_members(&mut self, all: bool) {
        let known: BTreeSet<NodeId> = self.machines.iter().map(|machine| machine.id).collect();
        for host in 0..self.machines.len() {
            let now = self.now(host);
            let reaches = |other: Host| all || !(self.net.is_cut(host, other) || self.net.is_cut(other, host));
            let up = self.machines.iter().enumerate().filter(|(_, machine)| machine.replica.is_some());
            let alive: BTreeSet<NodeId> = up.filter(|(other, _)| reaches(*other)).map(|(_, m)| m.id).collect();
            if let Some(replica) = &mut self.machines[host].replica {
                replica.set_members(alive, known.clone(), now);
            }
        }
    }

    fn connect_all(&mut self) {
        let ids: Vec<NodeId> = self.machines.iter().map(|machine| machine.id).collect();
        for host in 0..self.machines.len() {
            let now = self.now(host);
            if let Some(replica) = &mut self.machines[host].replica {
                for id in ids.iter().filter(|id| **id != ids[host]) {
                    replica.connected(*id, now);
                }
            }
        }
    }

    /// Carries out what a replica wants, as the daemon does.
    fn drain(&mut self, host: Host) -> Result<(), String> {
        loop {
            let machine = &mut self.machines[host];
            let Some(replica) = &mut machine.replica else { return Ok(()) };
            let Some(output) = machine.stuck.take().or_else(|| replica.poll_output()) else { break };
            match &output {
                Output::Commit { changes, forgotten, hlc, saved } => {
                    if !machine.disk.commit(changes, forgotten, *hlc, saved.as_ref())? {
                        machine.stuck = Some(output);
                        self.seen.count("commits refused", 1);
                        break;
                    }
                }
                Output::Send { to, frame } => {
                    let (from, to) = (machine.id, *to);
                    let letter = Letter { from, to, bytes: frame.clone() };
                    let Some(other) = self.machines.iter().position(|machine| machine.id == to) else { continue };
                    let is_cut = self.net.is_cut(host, other);
                    // Streams as the daemon has them, or worse than that.
                    if self.is_lossy {
                        self.net.send(host, other, letter);
                    } else {
                        self.net.send_stream(host, other, letter);
                    }
                    if is_cut && self.rng.below(2) == 0 {
                        let now = self.now(host);
                        if let Some(replica) = &mut self.machines[host].replica {
                            replica.unreachable(to, now);
                        }
                    }
                }
            }
        }
        let machine = &mut self.machines[host];
        if let Some(due) = machine.replica.as_ref().and_then(Replica::poll_timeout) {
            let is_sooner = machine.wakes_at.is_none_or(|at| due < at || at <= self.net.now());
            if is_sooner {
                machine.wakes_at = Some(due);
                self.net.wake(host, due);
            }
        }
        Ok(())
    }

    fn happen(&mut self, happening: Happening<Letter>) -> Result<(), String> {
        match happening {
            Happening::Deliver { to, message, .. } => {
                self.net.trace(hash64(&message.bytes));
                let now = self.now(to);
                // A misfortune of its own: bytes that are not what was sent.
                let mut bytes = message.bytes.to_vec();
                if self.rng.below(200) == 0 && !bytes.is_empty() {
                    let cut = self.rng.below(bytes.len() as u64) as usize;
                    bytes.truncate(cut);
                }
                let machine = &mut self.machines[to];
                if let Some(replica) = machine.replica.as_mut().filter(|_| machine.id == message.to) {
                    // A frame that is none is counted, and loss like any other.
                    let _ = replica.handle_frame(message.from, &bytes, now);
                }
                self.drain(to)
            }
            Happening::Wake(host) => {
                let now = self.now(host);
                let machine = &mut self.machines[host];
                machine.wakes_at = None;
                if let Some(replica) = &mut machine.replica
                    && replica.poll_timeout().is_some_and(|due| due <= now.mono)
                {
                    replica.handle_timeout(now);
                }
                self.drain(host)
            }
            Happening::Script(_) => Ok(()),
        }
    }

    fn run_until(&mut self, end: Mono) -> Result<(), String> {
        while let Some(happening) = self.net.next(end) {
            self.happen(happening)?;
        }
        Ok(())
    }

    fn run_for(&mut self, time: Duration) -> Result<(), String> {
        self.run_until(self.net.now().after(time))
    }

    // ---- the script -------------------------------------------------------------------------------------------------

    fn trouble(&mut self) -> Result<(), String> {
        for host in 0..self.machines.len() {
            self.start(host);
        }
        self.tell_members(true);
        for _ in 0..40 + self.rng.below(60) {
            let pause = Duration::from_micros(self.rng.below(2 * STEP.as_micros() as u64));
            self.run_for(pause)?;
            match self.rng.below(100) {
                0..60 => self.write()?,
                60..66 => self.partition(),
                66..70 => self.cut_one_way(),
                70..77 => self.heal(),
                77..80 => self.crash(),
                80..88 => self.restart(),
                88..91 => self.step_clock(),
                91..94 => self.refuse(),
                94..95 => self.wipe(),
                95..97 => self.run_for(Duration::from_secs(5))?,
                _ => self.net.set_weather(Self::weather(&mut self.rng)),
            }
            for host in 0..self.machines.len() {
                let heals = self.rng.below(4) == 0;
                self.machines[host].disk.refuses &= !heals;
                self.drain(host)?;
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), String> {
        let host = self.any_host();
        let key = self.keys[self.rng.below(self.keys.len() as u64) as usize].clone();
        let text = vec![b'x'; self.rng.below(60) as usize];
        let mut bytes = self.rng.next_u64().to_le_bytes().to_vec();
        bytes.extend(text);
        let row = (self.rng.below(10) < 6).then(|| Row { format: 1, bytes: bytes.into() });
        let (is_put, fate) = (row.is_some(), self.rng.below(40));
        let now = self.now(host);
        let machine = &mut self.machines[host];
        // The registrar writes nothing while a commit waits.
        let Some(replica) = machine.replica.as_mut().filter(|_| machine.stuck.is_none()) else { return Ok(()) };
        let seen = self.model.seen(&key, replica.registry().register(&key));
        let write = Write { key: key.clone(), row, expect: Expect::Any };
        let written = replica.write(vec![write], now.wall).map_err(|error| error.to_string())?;
        if written.is_unchanged() {
            return Ok(());
        }
        if fate == 0 {
            // Power fails before it is on the disk: it never was.
            self.stop(host);
            return Ok(());
        }
        let changes = written.changed.clone();
        if !machine.disk.commit(&changes, &[], written.hlc, None)? {
            replica.undo(written);
            return Ok(());
        }
        let dot: Dot = replica.registry().register(&key).expect("written").siblings()[0].dot;
        self.model.write(&key, dot, seen, is_put)?;
        self.seen.count(if is_put { "puts" } else { "deletes" }, 1);
        if fate == 1 {
            // Power fails after: nobody was told.
            self.stop(host);
            return Ok(());
        }
        replica.publish(&changes, now);
        self.drain(host)
    }

    fn partition(&mut self) {
        let side: Vec<bool> = self.machines.iter().map(|_| self.rng.below(2) == 0).collect();
        for a in 0..side.len() {
            for b in (0..side.len()).filter(|b| side[a] != side[*b]) {
                self.net.cut(a, b);
            }
        }
        self.seen.count("partitions", 1);
        // Membership may notice, or not yet.
        if self.rng.below(2) == 0 {
            self.tell_members(false);
        }
    }

    fn cut_one_way(&mut self) {
        let (from, to) = (self.any_host(), self.any_host());
        self.net.cut(from, to);
        self.seen.count("one-way cuts", 1);
    }

    fn heal(&mut self) {
        self.net.heal();
        self.tell_members(true);
        if self.rng.below(2) == 0 {
            self.connect_all();
        }
    }

    fn crash(&mut self) {
        let host = self.any_host();
        self.stop(host);
        self.seen.count("crashes", 1);
        if self.rng.below(2) == 0 {
            self.tell_members(false);
        }
    }

    fn restart(&mut self) {
        // Who is down comes first.
        let down = self.machines.iter().position(|machine| machine.replica.is_none());
        let host = down.unwrap_or_else(|| self.any_host());
        self.stop(host);
        self.start(host);
        self.tell_members(false);
        self.seen.count("restarts", 1);
    }

    fn step_clock(&mut self) {
        let host = self.any_host();
        let skew = match self.rng.below(4) {
            0 => -(self.rng.below(3_600_000) as i64),
            1 => self.rng.below(3_600_000) as i64,
            2 => self.rng.below(2000) as i64,
            _ => 0,
        };
        self.machines[host].skew = skew;
        self.seen.count("clock steps", 1);
    }

    fn refuse(&mut self) {
        let host = self.any_host();
        self.machines[host].disk.refuses = true;
    }

    /// The disk is replaced: the machine is another node from then on. Once in a world, so that nine values at a time
    /// cannot be.
    fn wipe(&mut self) {
        if !std::mem::replace(&mut self.may_wipe, false) {
            return;
        }
        let host = self.any_host();
        self.stop(host);
        let id = self.new_id();
        (self.machines[host].disk, self.machines[host].id) = (Disk::default(), id);
        let machines = &self.machines;
        self.model.lost_disk(|key, dot| machines.iter().any(|machine| machine.disk.knows(key, dot)));
        self.start(host);
        self.tell_members(false);
        self.seen.count("wiped disks", 1);
    }

    // ---- the end ----------------------------------------------------------------------------------------------------

    fn is_equal(&self) -> bool {
        let mut copies = self.machines.iter().map(|machine| {
            let registry = machine.replica.as_ref().map(Replica::registry);
            registry.map(|registry| (registry.root(), registry.context().digest(), registry.held()))
        });
        let first = copies.next();
        copies.all(|copy| Some(copy) == first)
    }

    fn quiet(&mut self) -> Result<(), String> {
        self.jump = QUIET_JUMP;
        self.net.set_weather(Weather::CALM);
        self.net.heal();
        for host in 0..self.machines.len() {
            self.machines[host].skew = host as i64;
            self.machines[host].disk.refuses = false;
            if self.machines[host].replica.is_none() {
                self.start(host);
            }
        }
        self.tell_members(true);
        self.connect_all();
        for host in 0..self.machines.len() {
            self.drain(host)?;
        }
        let mut seconds = 0;
        while !self.is_equal() {
            seconds += 1;
            if seconds > 60 {
                return Err(self.difference());
            }
            self.run_for(Duration::from_secs(1))?;
        }
        self.check()?;
        // Deletes go, and nothing comes back for it.
        self.run_for(Duration::from_secs(4))?;
        if !self.is_equal() {
            return Err(format!("it did not stay equal: {}", self.difference()));
        }
        self.check()?;
        for machine in &self.machines {
            let root = machine.replica.as_ref().map(|replica| replica.registry().root());
            self.net.trace(root.unwrap_or(0));
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let mut first = None;
        for (host, machine) in self.machines.iter().enumerate() {
            let Some(replica) = &machine.replica else { continue };
            let registry = replica.registry();
            self.model.check(registry).map_err(|why| format!("host {host}: {why}"))?;
            let first = first.get_or_insert(registry);
            if !registry.registers().eq(first.registers()) {
                return Err("equal roots, other rows".to_owned());
            }
            let rows: BTreeMap<_, _> = registry.registers().collect();
            if !machine.disk.rows.iter().eq(rows) {
                return Err(format!("host {host}: the disk has other rows than the memory"));
            }
        }
        Ok(())
    }

    fn difference(&self) -> String {
        let mut text = format!("not equal after {:?}", self.net.now());
        for machine in &self.machines {
            let Some(replica) = &machine.replica else { continue };
            let registry = replica.registry();
            let rows: Vec<_> = registry.registers().map(|(key, register)| (key, register.siblings())).collect();
            let context: Vec<_> = registry.context().iter().collect();
            text += &format!("\n  {}: held {} {rows:?} {context:?} {:?}", machine.id, registry.held(), replica.stats());
        }
        text
    }

    fn tally(&mut self) {
        for host in 0..self.machines.len() {
            self.stop(host);
        }
    }
}

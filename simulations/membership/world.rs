//! One world of members: hosts that run the membership core, a network between them, and what may befall them.
//!
//! Plays the transport too: whoever sends to a dead process hears that the port is closed. Knows no scenario; those are
//! the tests and the benchmark.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use maelstrom::gossip::{Event, Evidence, Member, Membership, Options, Output, Peer, State};
use maelstrom::id::NodeId;
use maelstrom::rng::Rng;
use maelstrom::time::Mono;

use crate::net::{Happening, Host, Net, Weather};

/// What travels.
#[derive(Debug, Clone)]
pub enum Message {
    Datagram(Bytes),
    /// What the system says where nobody listens.
    Refused,
    /// The transport of the other side has it.
    Arrived,
}

/// What a socket buffer keeps for a process that does not run: 200 kB of small packets.
const INBOX: usize = 1500;

/// The kind of packet that the transport reports if it is not acknowledged.
const BEAT: u8 = 9;

/// When it does. The real one waits as long, and its own repetition of a lost packet, which is not played here, makes
/// it miss less.
const SILENCE: Duration = Duration::from_millis(51);

fn is_beat(message: &Message) -> bool {
    matches!(message, Message::Datagram(bytes) if bytes.first() == Some(&BEAT))
}

/// A member counts as healthy again this long after it was stalled, cut off or started: its rejoining takes a while.
const SETTLED: Duration = Duration::from_secs(6);

#[derive(Debug)]
struct Place {
    core: Option<Membership>,
    start: u64,
    /// Nothing answers for it, not even the system.
    is_dark: bool,
    stalled: Option<Mono>,
    inbox: Vec<(Host, Message)>,
    /// To whom a beat went that is not acknowledged, and until when it should be.
    beaten: Option<(Host, Mono)>,
    wake: Option<Mono>,
    /// Since when nothing has been wrong with it; none while something is.
    well: Option<Mono>,
}

/// What was counted.
#[derive(Debug, Default, Clone, Copy)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
    /// Of the packets, those that carry news of members: lists (kind 7) and news (10).
    pub news: u64,
    /// Members that nothing was wrong with, declared down by somebody.
    pub false_downs: u64,
    pub suspicions: u64,
}

pub struct World {
    net: Net<Message>,
    places: Vec<Place>,
    rng: Rng,
    options: Options,
    torn: bool,
    /// Of those that run: what they said, in the order of time.
    pub events: Vec<(Mono, Host, Event)>,
    /// Whether events are kept; a large world has too many.
    pub keeps_events: bool,
    pub count: Count,
}

/// Any odd number that scatters: the ids of real nodes are random, and who watches whom goes by them.
const SCATTER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Its inverse: the product of both is 1.
const GATHER: u64 = 0xf1de_83e1_9937_733d;

pub fn node(host: Host) -> NodeId {
    NodeId((host as u64 + 1).wrapping_mul(SCATTER))
}

fn host(node: NodeId) -> Host {
    node.0.wrapping_mul(GATHER) as Host - 1
}

fn address(host: Host) -> SocketAddr {
    SocketAddr::from(([10, (host >> 16) as u8, (host >> 8) as u8, host as u8], 8374))
}

impl World {
    /// Hosts that run nothing yet.
    pub fn empty(seed: u64, hosts: usize, weather: Weather) -> Self {
        let mut rng = Rng::from_seed(seed);
        let net = Net::new(rng.child("net"), weather);
        let place = |_| Place {
            core: None,
            start: 0,
            is_dark: false,
            stalled: None,
            inbox: Vec::new(),
            beaten: None,
            wake: None,
            well: None,
        };
        Self {
            net,
            places: (0..hosts).map(place).collect(),
            rng,
            options: Options::fast(),
            torn: false,
            events: Vec::new(),
            keeps_events: true,
            count: Count::default(),
        }
    }

    /// Members that have all joined through the first.
    pub fn joined(seed: u64, hosts: usize, weather: Weather) -> Self {
        let mut world = Self::empty(seed, hosts, weather);
        for host in 0..hosts {
            world.start(host, Some(0));
        }
        world.run(Duration::from_secs(15));
        world
    }

    /// Members that know each other from the beginning, as they would after a long time together.
    pub fn acquainted(seed: u64, hosts: usize, weather: Weather) -> Self {
        let mut world = Self::empty(seed, hosts, weather);
        world.keeps_events = false;
        let now = world.now();
        let peers: Vec<Peer> =
            (0..hosts).map(|host| Peer { node: node(host), address: address(host), start: 1, life: 0 }).collect();
        // Shared: ten thousand members that each know ten thousand would not fit into memory otherwise.
        let mut members: Vec<Arc<Member>> =
            peers.iter().map(|peer| Arc::new(Member { peer: *peer, state: State::Alive, since: now })).collect();
        members.sort_by_key(|member| member.peer.node);
        for (host, me) in peers.iter().enumerate() {
            let rng = world.rng.child("member");
            // Not all at one moment: their rounds would run in step for ever.
            let begun = now.after(Duration::from_micros(world.rng.below(1_000_000)));
            let mut core = Membership::new(*me, world.options.clone(), rng, begun);
            core.preload(&members, begun);
            let place = &mut world.places[host];
            (place.start, place.core, place.well) = (1, Some(core), Some(now));
            world.plan(host);
        }
        world
    }

    pub fn now(&self) -> Mono {
        self.net.now()
    }

    pub fn hosts(&self) -> usize {
        self.places.len()
    }

    pub fn trace_hash(&self) -> u64 {
        self.net.trace_hash()
    }

    pub fn set_weather(&mut self, weather: Weather) {
        self.net.set_weather(weather);
    }

    pub fn member(&self, host: Host) -> Option<&Membership> {
        self.places[host].core.as_ref()
    }

    pub fn is_running(&self, host: Host) -> bool {
        self.places[host].core.is_some()
    }

    // ---- what befalls hosts ----------------------------------------------------------------------------------------

    /// Starts a process on a host, which joins through a seed.
    pub fn start(&mut self, host: Host, seed: Option<Host>) {
        let place = &mut self.places[host];
        place.start += 1;
        (place.is_dark, place.stalled, place.well) = (false, None, Some(self.net.now()));
        place.inbox.clear();
        place.beaten = None;
        let me = Peer { node: node(host), address: address(host), start: place.start, life: 0 };
        let rng = self.rng.child("member");
        let now = self.net.now();
        let mut core = Membership::new(me, self.options.clone(), rng, now);
        if let Some(seed) = seed.filter(|seed| *seed != host) {
            // The transport has shaken hands with it and knows who it is.
            let (start, life) = (self.places[seed].start.max(1), 0);
            let life = self.places[seed].core.as_ref().map_or(life, |core| core.me().life);
            core.join(Peer { node: node(seed), address: address(seed), start, life }, now);
        }
        self.places[host].core = Some(core);
        self.plan(host);
    }

    /// A second process with the same data directory, at the address of another host.
    pub fn start_copy(&mut self, of: Host, at: Host, seed: Host) {
        let start = self.places[of].start + 1;
        let me = Peer { node: node(of), address: address(at), start, life: 0 };
        let now = self.net.now();
        let mut core = Membership::new(me, self.options.clone(), self.rng.child("copy"), now);
        core.join(Peer { node: node(seed), address: address(seed), start: self.places[seed].start, life: 0 }, now);
        (self.places[at].core, self.places[at].start) = (Some(core), start);
        self.plan(at);
    }

    /// The host is gone and says nothing any more.
    pub fn lose_host(&mut self, host: Host) {
        self.end(host);
        self.places[host].is_dark = true;
    }

    /// The process is gone; the system says so to whoever asks.
    pub fn kill(&mut self, host: Host) {
        self.end(host);
        self.places[host].is_dark = false;
    }

    fn end(&mut self, host: Host) {
        let place = &mut self.places[host];
        (place.core, place.stalled, place.well, place.wake) = (None, None, None, None);
        place.inbox.clear();
    }

    /// It says goodbye and ends.
    pub fn leave(&mut self, host: Host) {
        let now = self.now();
        if let Some(core) = &mut self.places[host].core {
            core.leave(now);
        }
        self.plan(host);
        self.kill(host);
    }

    /// The process does not run for a while.
    pub fn stall(&mut self, host: Host, time: Duration) {
        if self.is_running(host) {
            let until = self.now().after(time);
            self.places[host].stalled = Some(until);
            self.places[host].well = None;
            self.net.wake(host, until);
        }
    }

    /// Nothing passes between these and the others; one-way: only from the others to these.
    pub fn partition(&mut self, side: &BTreeSet<Host>, is_one_way: bool) {
        self.torn = true;
        for &inner in side {
            for outer in (0..self.hosts()).filter(|outer| !side.contains(outer)) {
                self.net.cut(outer, inner);
                if !is_one_way {
                    self.net.cut(inner, outer);
                }
            }
        }
        self.places.iter_mut().for_each(|place| place.well = None);
    }

    pub fn heal(&mut self) {
        self.torn = false;
        self.net.heal();
        let now = self.now();
        for place in self.places.iter_mut().filter(|place| place.core.is_some() && place.stalled.is_none()) {
            place.well = Some(now);
        }
    }

    // ---- time ------------------------------------------------------------------------------------------------------

    pub fn run(&mut self, time: Duration) {
        let end = self.now().after(time);
        self.run_until(end, |_| false);
    }

    /// Until it is so, and at most so long; whether it came to be.
    pub fn wait(&mut self, most: Duration, is_so: impl Fn(&Self) -> bool) -> bool {
        let end = self.now().after(most);
        while self.now() < end {
            if is_so(self) {
                return true;
            }
            let step = self.now().after(Duration::from_millis(10)).min(end);
            self.run_until(step, |_| false);
        }
        is_so(self)
    }

    fn run_until(&mut self, end: Mono, is_enough: impl Fn(&Self) -> bool) {
        while let Some(happening) = self.net.next(end) {
            match happening {
                Happening::Deliver { from, to, message } => self.deliver(from, to, message),
                Happening::Wake(host) => self.wake(host),
                Happening::Script(_) => {}
            }
            if is_enough(self) {
                return;
            }
        }
    }

    fn deliver(&mut self, from: Host, to: Host, message: Message) {
        let place = &mut self.places[to];
        if place.core.is_none() {
            if !place.is_dark && matches!(message, Message::Datagram(_)) && place.start > 0 {
                self.net.send(to, from, Message::Refused);
            }
            return;
        }
        if place.stalled.is_some() {
            if place.inbox.len() < INBOX {
                place.inbox.push((from, message));
            }
            return;
        }
        if is_beat(&message) {
            self.net.send(to, from, Message::Arrived);
        }
        self.hand(from, to, message);
        self.plan(to);
    }

    fn hand(&mut self, from: Host, to: Host, message: Message) {
        let now = self.net.now();
        let proven = self.places[from].core.as_ref().map_or_else(|| node(from), |core| core.me().node);
        let Some(core) = &mut self.places[to].core else { return };
        match message {
            Message::Datagram(bytes) => {
                // Refused packets are part of life: a former self, a banned one.
                let _ = core.handle_datagram(proven, &bytes, now);
            }
            Message::Arrived => self.places[to].beaten = None,
            Message::Refused => core.handle_evidence(node(from), Evidence::Refused, now),
        }
    }

    fn wake(&mut self, host: Host) {
        let now = self.net.now();
        if let Some(until) = self.places[host].stalled {
            if until > now {
                return;
            }
            self.places[host].stalled = None;
            self.places[host].well = (!self.torn).then_some(now);
            let inbox = std::mem::take(&mut self.places[host].inbox);
            // Which of its tasks runs first is chance.
            if self.rng.below(2) == 0 {
                self.timeout(host, now);
            }
            for (from, message) in inbox {
                self.hand(from, host, message);
            }
            self.timeout(host, now);
            self.places[host].wake = None;
            self.plan(host);
        } else {
            if let Some((to, _)) = self.places[host].beaten.take_if(|(_, until)| *until <= now)
                && let Some(core) = &mut self.places[host].core
            {
                core.handle_evidence(node(to), Evidence::Silent, now);
                self.plan(host);
            }
            if self.places[host].wake != Some(now) {
                return;
            }
            self.places[host].wake = None;
            self.timeout(host, now);
            self.plan(host);
        }
    }

    fn timeout(&mut self, host: Host, now: Mono) {
        if let Some(core) = &mut self.places[host].core
            && core.poll_timeout().is_some_and(|due| due <= now)
        {
            core.handle_timeout(now);
        }
    }

    /// Carries out what a member wants, and asks when it must be woken.
    fn plan(&mut self, from: Host) {
        let now = self.net.now();
        while let Some(output) = self.places[from].core.as_mut().and_then(Membership::poll_output) {
            match output {
                Output::Send { to, bytes } => {
                    self.count.packets += 1;
                    self.count.bytes += bytes.len() as u64;
                    self.count.news += u64::from(matches!(bytes.first(), Some(7 | 10)));
                    assert!(bytes.len() <= 1162, "longer than a datagram");
                    let SocketAddr::V4(address) = to.address else { panic!("no such address") };
                    let [_, high, middle, low] = address.ip().octets();
                    let to = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                    if to < self.places.len() {
                        if bytes.first() == Some(&BEAT) {
                            self.places[from].beaten = Some((to, now.after(SILENCE)));
                            self.net.wake(from, now.after(SILENCE));
                        }
                        self.net.send(from, to, Message::Datagram(bytes));
                    }
                }
                Output::Event(event) => self.note(from, event, now),
            }
        }
        let due = self.places[from].core.as_ref().and_then(Membership::poll_timeout);
        let place = &mut self.places[from];
        if let Some(due) = due.map(|due| due.max(now))
            && place.wake.is_none_or(|wake| due < wake)
        {
            place.wake = Some(due);
            self.net.wake(from, due);
        }
    }

    fn note(&mut self, by: Host, event: Event, now: Mono) {
        match event {
            Event::Suspect(_) => self.count.suspicions += 1,
            Event::Down(peer) => {
                let about = &self.places[host(peer.node)];
                let is_well = about.well.is_some_and(|since| now.since(since) > SETTLED);
                let is_this = about.core.as_ref().is_some_and(|core| *core.me() == peer);
                self.count.false_downs += u64::from(is_well && is_this && !self.torn);
                self.net.trace((by as u64) << 32 | peer.node.0);
            }
            Event::Up(_)
            | Event::Trusted(_)
            | Event::Left(_)
            | Event::Renewed(_)
            | Event::Usurped { .. }
            | Event::Frozen(_) => {}
        }
        if self.keeps_events {
            self.events.push((now, by, event));
        }
    }

    // ---- what is seen ----------------------------------------------------------------------------------------------

    /// How one sees another.
    pub fn seen(&self, by: Host, of: Host) -> Option<State> {
        self.member(by)?.state(node(of))
    }

    /// Those that run, in the order in which they watch each other, beginning after one.
    pub fn ring_after(&self, host: Host) -> Vec<Host> {
        let mut ring: Vec<Host> = self.running().filter(|other| *other != host).collect();
        ring.sort_by_key(|other| node(*other).0.wrapping_sub(node(host).0));
        ring
    }

    /// Those that run.
    pub fn running(&self) -> impl Iterator<Item = Host> + '_ {
        (0..self.hosts()).filter(|host| self.is_running(*host))
    }

    /// Whether all others that run see it so.
    pub fn all_see(&self, of: Host, state: State) -> bool {
        self.running().filter(|by| *by != of).all(|by| self.seen(by, of) == Some(state))
    }

    /// Whether everybody that runs is alive for everybody that runs.
    pub fn is_whole(&self) -> bool {
        self.running().all(|host| self.all_see(host, State::Alive))
    }

    /// Who does not see whom alive, for a message.
    pub fn blind(&self) -> Vec<(Host, Host, Option<State>)> {
        let mut blind = Vec::new();
        for by in self.running() {
            for of in self.running().filter(|of| *of != by) {
                if self.seen(by, of) != Some(State::Alive) {
                    blind.push((by, of, self.seen(by, of)));
                }
            }
        }
        blind
    }

    pub fn any_event(&self, is: impl Fn(Host, &Event) -> bool) -> bool {
        self.events.iter().any(|(_, by, event)| is(*by, event))
    }
}

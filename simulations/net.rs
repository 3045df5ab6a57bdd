//! The simulated network and its clock: what is sent arrives late, twice, out of order or never, and one seed decides.
//!
//! Knows hosts as numbers and messages as values; what they mean is the world's that drives it. Every delivery is
//! folded into the trace hash, so that two runs of one seed can be compared in full.

use std::cmp::Ordering;
use std::collections::{BTreeSet, BinaryHeap};
use std::time::Duration;

use maelstrom::rng::Rng;
use maelstrom::time::Mono;

/// A simulated machine, counted from 0.
pub type Host = usize;

/// What comes out of the network, one at a time, in the order of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening<M> {
    /// A message arrives.
    Deliver { from: Host, to: Host, message: M },
    /// A host asked to be woken; it may have asked for several moments.
    Wake(Host),
    /// A step of the world's own script.
    Script(u32),
}

/// How links behave. The same for all pairs that are not cut.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Of 1,000 messages, how many are lost.
    pub loss: u64,
    /// Of 1,000 messages, how many arrive twice.
    pub twice: u64,
    /// The shortest way. Reorder comes from the spread up to `slowest`.
    pub fastest: Duration,
    /// The longest way.
    pub slowest: Duration,
}

impl Weather {
    /// A quiet network in one building.
    pub const CALM: Self =
        Self { loss: 0, twice: 0, fastest: Duration::from_micros(100), slowest: Duration::from_micros(400) };
}

/// What will happen when; of what happens at one moment, what was planned first.
#[derive(Debug)]
struct Planned<M> {
    at: Mono,
    nth: u64,
    happening: Happening<M>,
}

impl<M> Ord for Planned<M> {
    /// The earliest is the greatest: it is on top of the heap.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.nth).cmp(&(self.at, self.nth))
    }
}

impl<M> PartialOrd for Planned<M> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<M> PartialEq for Planned<M> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<M> Eq for Planned<M> {}

/// The network. Invariant: time never goes back.
#[derive(Debug)]
pub struct Net<M> {
    queue: BinaryHeap<Planned<M>>,
    next: u64,
    now: Mono,
    rng: Rng,
    weather: Weather,
    cut: BTreeSet<(Host, Host)>,
    trace: u64,
}

impl<M: Clone> Net<M> {
    pub fn new(rng: Rng, weather: Weather) -> Self {
        let cut = BTreeSet::new();
        Self { queue: BinaryHeap::new(), next: 0, now: Mono(0), rng, weather, cut, trace: 0xcbf2_9ce4_8422_2325 }
    }

    pub fn now(&self) -> Mono {
        self.now
    }

    pub fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
    }

    /// Nothing passes from one to the other any more; the way back is a cut of its own.
    pub fn cut(&mut self, from: Host, to: Host) {
        self.cut.insert((from, to));
    }

    /// Whether messages from one to the other are swallowed at the moment.
    pub fn is_cut(&self, from: Host, to: Host) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Every link works again.
    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// A datagram: may be lost, doubled, reordered.
    pub fn send(&mut self, from: Host, to: Host, message: M) {
        if self.is_cut(from, to) || self.rng.below(1000) < self.weather.loss {
            return;
        }
        if self.rng.below(1000) < self.weather.twice {
            let at = self.arrival();
            self.put(at, Happening::Deliver { from, to, message: message.clone() });
        }
        let at = self.arrival();
        self.put(at, Happening::Deliver { from, to, message });
    }

    /// A message on a stream: loss costs time instead (one retransmission timeout per loss), a cut swallows it whole as
    /// a connection does that times out. Messages of different streams overtake each other.
    pub fn send_stream(&mut self, from: Host, to: Host, message: M) {
        if self.is_cut(from, to) {
            return;
        }
        let mut at = self.arrival();
        while self.rng.below(1000) < self.weather.loss {
            at = at.after(self.weather.slowest * 2);
        }
        self.put(at, Happening::Deliver { from, to, message });
    }

    /// Wakes a host at a moment, or at once if that has passed.
    pub fn wake(&mut self, host: Host, at: Mono) {
        self.put(at.max(self.now), Happening::Wake(host));
    }

    /// A step of the script at a moment.
    pub fn script(&mut self, at: Mono, step: u32) {
        self.put(at.max(self.now), Happening::Script(step));
    }

    /// The next happening up to and including `end`; the clock stands at it, or at `end` if there is none.
    pub fn next(&mut self, end: Mono) -> Option<Happening<M>> {
        if self.queue.peek().is_none_or(|next| next.at > end) {
            self.now = self.now.max(end);
            return None;
        }
        let Planned { at, happening, .. } = self.queue.pop()?;
        self.now = at;
        let kind = match &happening {
            Happening::Deliver { from, to, .. } => (*from as u64) << 32 | (*to as u64) << 2,
            Happening::Wake(host) => (*host as u64) << 2 | 1,
            Happening::Script(step) => u64::from(*step) << 2 | 2,
        };
        self.trace(at.0);
        self.trace(kind);
        Some(happening)
    }

    /// Folds a number into the trace: whatever must be equal in two runs of one seed.
    pub fn trace(&mut self, number: u64) {
        for byte in number.to_le_bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The hash of all that happened so far.
    pub fn trace_hash(&self) -> u64 {
        self.trace
    }

    fn arrival(&mut self) -> Mono {
        let spread = self.weather.slowest.saturating_sub(self.weather.fastest).as_nanos() as u64;
        let late = Duration::from_nanos(self.rng.below(spread + 1));
        self.now.after(self.weather.fastest + late)
    }

    fn put(&mut self, at: Mono, happening: Happening<M>) {
        self.queue.push(Planned { at, nth: self.next, happening });
        self.next += 1;
    }
}

//! The instances that one node was given, in the order of the rule, and which of them its memory and its bound allow.
//!
//! Knows nothing of other nodes.

use crate::id::ComponentName;

/// Where an instance stands in the line of a node. The parts of the rule's order that differ within one node.
pub(super) type Place<'a> = (u32, u64, &'a ComponentName);

/// Levels from here on may fill a node's memory; those below only up to its bound.
pub(super) const HARD: u32 = 1 << 31;

/// What a node may be given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// A node whose load has reached this takes nothing more at the levels below [`HARD`].
    pub(super) limit: u64,
    /// No load is ever above this.
    pub(super) capacity: u64,
}

impl Bounds {
    fn allow(self, level: u32, before: u64, reserve: u64) -> bool {
        before.saturating_add(reserve) <= self.capacity && (level >= HARD || before < self.limit)
    }
}

/// One instance in the line.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    pub(super) level: u32,
    pub(super) cost: u64,
    pub(super) name: ComponentName,
    pub(super) entry: u32,
    pub(super) reserve: u64,
}

impl Taken {
    pub(super) fn place(&self) -> Place<'_> {
        (self.level, self.cost, &self.name)
    }
}

/// The line. Invariant: sorted by place, `load` is the sum of all reserves.
#[derive(Debug, Clone, Default)]
pub(super) struct Line {
    taken: Vec<Taken>,
    load: u64,
}

impl Line {
    pub(super) fn load(&self) -> u64 {
        self.load
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Taken> {
        self.taken.iter()
    }

    pub(super) fn clear(&mut self) {
        self.taken.clear();
        self.load = 0;
    }

    pub(super) fn insert(&mut self, taken: Taken) {
        self.load += taken.reserve;
        let at = match self.taken.last() {
            // From scratch everything comes in order.
            Some(last) if last.place() > taken.place() => self.position(taken.place()),
            _ => self.taken.len(),
        };
        self.taken.insert(at, taken);
    }

    pub(super) fn remove(&mut self, place: Place<'_>) {
        let at = self.position(place);
        assert!(self.taken.get(at).is_some_and(|taken| taken.place() == place), "what leaves a line stood in it");
        self.load -= self.taken.remove(at).reserve;
    }

    /// Whether the node takes an instance of this reserve at this place. What stands behind it does not matter.
    pub(super) fn admits(&self, place: Place<'_>, reserve: u64, bounds: Bounds) -> bool {
        // Most nodes have room for all that is in line, and then no sum is needed.
        bounds.allow(place.0, self.load, reserve) || bounds.allow(place.0, self.load_before(place), reserve)
    }

    /// The first one behind this place (or of all) for whom there is no room any more.
    pub(super) fn first_over(&self, after: Option<Place<'_>>, bounds: Bounds) -> Option<&Taken> {
        if self.load <= bounds.capacity && self.load < bounds.limit {
            return None;
        }
        let from = after.map_or(0, |after| self.taken.partition_point(|taken| taken.place() <= after));
        let mut before: u64 = self.taken[..from].iter().map(|taken| taken.reserve).sum();
        self.taken[from..].iter().find(|taken| {
            let allowed = bounds.allow(taken.level, before, taken.reserve);
            before += taken.reserve;
            !allowed
        })
    }

    pub(super) fn load_before(&self, place: Place<'_>) -> u64 {
        let at = self.position(place);
        if at * 2 < self.taken.len() {
            self.taken[..at].iter().map(|taken| taken.reserve).sum()
        } else {
            self.load - self.taken[at..].iter().map(|taken| taken.reserve).sum::<u64>()
        }
    }

    fn position(&self, place: Place<'_>) -> usize {
        self.taken.partition_point(|taken| taken.place() < place)
    }
}

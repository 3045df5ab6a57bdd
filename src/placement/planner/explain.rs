//! Why the targets of a component are what they are: typed reasons, and one sentence for each.

use std::fmt;
use std::num::NonZeroU32;

use crate::id::{ComponentName, NodeId, NodeName};
use crate::model::units::format_bytes;
use crate::placement::scale::Because;
use crate::placement::view::{Constraint, Duty, Engine, Node, Presence, Singleton, Want};

use super::line::HARD;
use super::rank::{Rank, Ranked};
use super::{At, Entry, Host, Planner};

/// Why a node is given no (further) instance of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It was given up.
    Down,
    /// It said that it goes.
    Left,
    /// Its work goes elsewhere.
    Draining,
    /// It takes no new work.
    Cordoned,
    /// It cannot run the component.
    Engine(Engine),
    /// A label is wrong or missing.
    Label(Constraint),
    /// One instance reserves more than it has in all.
    TooSmall {
        /// Of an instance, in bytes.
        reserve: u64,
        /// Of the node, in bytes.
        capacity: u64,
    },
    /// A strict singleton runs only where a majority is seen.
    NoMajority,
    /// It has as many as one node may have.
    PerNode(NonZeroU32),
    /// Its memory is given to instances that prefer it more.
    Memory {
        /// Of an instance, in bytes.
        reserve: u64,
        /// What is left, in bytes.
        left: u64,
        /// Of the node, in bytes.
        capacity: u64,
    },
    /// It has reached its bound, and others have not.
    Bound {
        /// What it is given, in bytes.
        load: u64,
        /// The bound, in bytes.
        limit: u64,
    },
}

impl fmt::Display for Refusal {
    /// Continues a sentence that begins with the name of the node.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down => f.write_str("is down"),
            Self::Left => f.write_str("left the cluster"),
            Self::Draining => f.write_str("is draining"),
            Self::Cordoned => f.write_str("is cordoned"),
            Self::Engine(engine) => write!(f, "does not run {engine} instances"),
            Self::Label(require) => write!(f, "does not have {require} among its labels"),
            Self::TooSmall { reserve, capacity } => write!(
                f,
                "has {} in all, and one instance reserves {}",
                format_bytes(*capacity),
                format_bytes(*reserve)
            ),
            Self::NoMajority => f.write_str("may not run it: no majority of the members is seen"),
            Self::PerNode(most) => write!(f, "has {most}, as many as one node may have"),
            Self::Memory { reserve, left, capacity } => write!(
                f,
                "has {} left of {}, and one instance reserves {}",
                format_bytes(*left),
                format_bytes(*capacity),
                format_bytes(*reserve)
            ),
            Self::Bound { load, limit } => write!(
                f,
                "has reached its bound: {} are reserved, and 1.25 of its fair share are {}",
                format_bytes(*load),
                format_bytes(*limit)
            ),
        }
    }
}

/// What an instance needs of its node.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'a> {
    /// What runs it.
    pub engine: Engine,
    /// What the labels of the node must be.
    pub constraints: &'a [Constraint],
    /// Memory in bytes that it sets aside.
    pub reserve: u64,
}

impl Needs<'_> {
    /// Why a node could not hold an instance at all, even if it had no other.
    pub fn misfit(&self, node: &Node) -> Option<Refusal> {
        match (node.presence, node.duty) {
            (Presence::Down, _) => return Some(Refusal::Down),
            (Presence::Left, _) => return Some(Refusal::Left),
            (_, Duty::Draining) => return Some(Refusal::Draining),
            (_, Duty::Cordoned) => return Some(Refusal::Cordoned),
            (Presence::Alive | Presence::Suspect | Presence::Missing, Duty::Active) => {}
        }
        if !node.engines.contains(&self.engine) {
            return Some(Refusal::Engine(self.engine));
        }
        if let Some(constraint) = self.constraints.iter().find(|constraint| !constraint.is_met(&node.labels)) {
            return Some(Refusal::Label(constraint.clone()));
        }
        let Self { reserve, .. } = *self;
        (reserve > node.capacity).then_some(Refusal::TooSmall { reserve, capacity: node.capacity })
    }
}

/// What the rule made of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Which node.
    pub node: NodeId,
    /// As people say it.
    pub name: NodeName,
    /// Its place in the order of the component, from 1.
    pub rank: usize,
    /// Its weight.
    pub weight: NonZeroU32,
    /// How many instances it is given.
    pub instances: u32,
    /// Whether it was given one beyond its bound, because no node within its bound could take it.
    pub beyond_bound: bool,
    /// Why it was not given (more) although it was its turn; none if it was not.
    pub refusal: Option<Refusal>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (rank {}, weight {}): ", self.name, self.rank, self.weight)?;
        match (self.instances, &self.refusal) {
            (0, None) => return f.write_str("not needed"),
            (0, Some(refusal)) => return write!(f, "none, because it {refusal}"),
            (1, _) => f.write_str("1 instance")?,
            (some, _) => write!(f, "{some} instances")?,
        }
        if self.beyond_bound {
            f.write_str(", beyond its bound because no node within its bound could take it")?;
        }
        match &self.refusal {
            Some(refusal) => write!(f, "; no more, because it {refusal}"),
            None => Ok(()),
        }
    }
}

/// Why this count, and why these nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Which component.
    pub component: ComponentName,
    /// How many are wanted.
    pub wanted: u32,
    /// Why so many.
    pub because: Because,
    /// How many of them have no place.
    pub unplaced: u32,
    /// All nodes in the order of the component.
    pub nodes: Vec<Verdict>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} of {} wanted: {}", self.wanted, self.component, self.because)?;
        if self.unplaced > 0 {
            writeln!(f, "{} of them without a place: no node can take more", self.unplaced)?;
        }
        self.nodes.iter().try_for_each(|verdict| writeln!(f, "{verdict}"))
    }
}

impl Planner {
    /// Why a component is where it is; none if it is not known.
    pub fn explain(&self, name: &ComponentName) -> Option<Explanation> {
        let entry = &self.entries[*self.entry_of.get(name)? as usize];
        let ranked = self.rank_all(entry);
        let verdicts = ranked.iter().enumerate().map(|(position, ranked)| self.verdict(entry, position + 1, *ranked));
        let placed = u32::try_from(entry.seats.len()).unwrap_or(u32::MAX);
        Some(Explanation {
            component: name.clone(),
            wanted: entry.want.count(),
            because: entry.want.because,
            unplaced: entry.want.count().saturating_sub(placed),
            nodes: verdicts.collect(),
        })
    }

    fn rank_all(&self, entry: &Entry) -> Vec<Ranked> {
        let hosts = self.host_of.values().map(|host| {
            let known = &self.hosts[*host as usize];
            (known.id, known.share, *host)
        });
        let rank = Rank::build(&entry.key, hosts, None);
        (0..).map_while(|position| rank.get(position)).collect()
    }

    fn verdict(&self, entry: &Entry, rank: usize, ranked: Ranked) -> Verdict {
        let host = &self.hosts[ranked.host as usize];
        let seats = || entry.seats.iter().filter(|seat| seat.host == ranked.host);
        let instances = u32::try_from(seats().count()).unwrap_or(u32::MAX);
        let refusal = self.misfit(entry, host).or_else(|| self.full(entry, host, instances));
        Verdict {
            node: host.id,
            name: host.node.name.clone(),
            rank,
            weight: host.node.weight,
            instances,
            beyond_bound: seats().any(|seat| seat.at.level >= HARD),
            refusal,
        }
    }

    /// Why the node could not hold the component at all.
    pub(super) fn misfit(&self, entry: &Entry, host: &Host) -> Option<Refusal> {
        let Want { engine, reserve, singleton, ref constraints, .. } = entry.want;
        let needs = Needs { engine, constraints, reserve };
        let misfit = needs.misfit(&host.node);
        misfit.or_else(|| (singleton == Singleton::Strict && !self.majority).then_some(Refusal::NoMajority))
    }

    /// Why the node, which has some already, was not given one more when it was its turn.
    fn full(&self, entry: &Entry, host: &Host, has: u32) -> Option<Refusal> {
        let (want, capacity, load) = (&entry.want, host.node.capacity, host.line.load());
        let satisfied = entry.seats.len() >= want.count() as usize;
        let at = At { level: has, cost: entry.key.cost(host.id, host.share), node: host.id };
        if satisfied && entry.seats.last().is_none_or(|last| last.at < at) {
            return None;
        }
        if has >= want.max_per_node.get() {
            return Some(Refusal::PerNode(want.max_per_node));
        }
        let left = capacity.saturating_sub(load);
        if want.reserve > left {
            return Some(Refusal::Memory { reserve: want.reserve, left, capacity });
        }
        Some(Refusal::Bound { load, limit: host.limit })
    }
}

//! What placement is told: the nodes, and the components with their wanted counts.
//!
//! Facts alone, as the whole cluster knows them; nothing is derived here. What runs where now is not among them: see
//! [`super::planner`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU32;

use crate::id::{ComponentName, NodeId, NodeName};

use super::scale::Because;
pub use crate::model::component::Singleton;
pub use crate::model::constraint::Constraint;
pub use crate::model::duty::Duty;

/// Everything at once: for simulations and tests. The daemon feeds a [`super::Planner`] with changes instead.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// All nodes that are known, also those that are gone.
    pub nodes: BTreeMap<NodeId, Node>,
    /// All components, also those of which nothing is wanted.
    pub wants: BTreeMap<ComponentName, Want>,
    /// Whether more than half of the known members are seen.
    pub majority: bool,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// As people say it: for the sentences alone.
    pub name: NodeName,
    /// Whether it is there.
    pub presence: Presence,
    /// Whether it takes work.
    pub duty: Duty,
    /// Memory in bytes that instances may reserve here in all.
    pub capacity: u64,
    /// How much of the work is its fair share, beside the weights of others: the capacity in MiB unless the operator
    /// says otherwise.
    pub weight: NonZeroU32,
    /// What the operator calls it.
    pub labels: BTreeMap<String, String>,
    /// What it can run.
    pub engines: BTreeSet<Engine>,
}

/// Whether a node is there, as membership says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// It answers.
    Alive,
    /// It does not answer one of us. Nothing is moved for a suspicion.
    Suspect,
    /// It was given up together with so many others that the network is the likelier cause. It keeps its share, so that
    /// nothing is placed again, until it is back or [`Presence::Down`].
    Missing,
    /// It was given up.
    Down,
    /// It said that it goes.
    Left,
}

impl Presence {
    /// Whether instances there count as placed.
    pub fn keeps_its_share(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect | Self::Missing)
    }

    /// Whether it can do something for others: own a component's count, poll a queue.
    pub fn can_act(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

/// What runs an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engine {
    /// Containers.
    Docker,
    /// Programs on the node itself.
    Process,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Docker => "docker",
            Self::Process => "process",
        })
    }
}

/// A component, as far as placement is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// How many instances should run in the cluster, in all; never above the component's maximum.
    pub wanted: u32,
    /// Why so many.
    pub because: Because,
    /// Memory in bytes that each sets aside.
    pub reserve: u64,
    /// Instances at most on one node.
    pub max_per_node: NonZeroU32,
    /// What it needs to run.
    pub engine: Engine,
    /// All of these must be met.
    pub constraints: Vec<Constraint>,
    /// Whether it may run twice.
    pub singleton: Singleton,
}

impl Want {
    /// The count that is planned: of a singleton never more than one.
    pub fn count(&self) -> u32 {
        if self.singleton == Singleton::No { self.wanted } else { self.wanted.min(1) }
    }

    /// Whether the plan is the same with the other one.
    pub(super) fn plans_as(&self, other: &Self) -> bool {
        self.count() == other.count() && self.places_as(other)
    }

    /// Whether targets are the same with the other one.
    pub(super) fn places_as(&self, other: &Self) -> bool {
        self.reserve == other.reserve
            && self.max_per_node == other.max_per_node
            && self.engine == other.engine
            && self.constraints == other.constraints
            && self.singleton == other.singleton
    }
}

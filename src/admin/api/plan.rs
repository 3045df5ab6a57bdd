//! Why a component runs where it runs: what `maelctl explain comp` shows.

use serde::{Deserialize, Serialize};

/// The plan of one component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanView {
    /// Which component.
    pub component: String,
    /// How many instances are wanted in the cluster.
    pub wanted: u32,
    /// Why so many.
    pub why: String,
    /// How many of them no node has a place for.
    pub unplaced: u32,
    /// The name of the node that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_by: Option<String>,
    /// All nodes, in the order in which this component prefers them.
    pub nodes: Vec<PlanNode>,
}

/// What the plan makes of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanNode {
    /// Its name.
    pub node: String,
    /// Its place in the order of the component, from 1.
    pub rank: usize,
    /// How many instances it is meant to have.
    pub planned: u32,
    /// How many take events.
    pub ready: u32,
    /// How many start or are frozen.
    pub coming: u32,
    /// Events in flight and waiting.
    pub events: u32,
    /// Why it is given no more, as the end of a sentence that begins with its name; none if no more are needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// What keeps it from having what it is meant to have, or from giving up the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
}

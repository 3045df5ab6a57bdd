//! What the admin API shows of a component's change: how far it is, and what was before.
//!
//! Knows nothing of where the values come from.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How far a component has come with the definition in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutView {
    /// Of the component.
    pub name: String,
    /// `done`, `rolling`, `failing`, `failed` or `rolled-back`.
    pub state: String,
    /// The same in a sentence.
    pub message: String,
    /// In force.
    pub revision: u32,
    /// Why it came into force.
    pub reason: String,
    /// Of the instances that it makes.
    pub version: String,
    /// Instances of it that serve, or are frozen and would.
    pub ready: u32,
    /// Instances of it that are on their way.
    pub coming: u32,
    /// Instances of other definitions.
    pub old: u32,
    /// Instances that are kept even when idle.
    pub min: u32,
    /// The same for each node that has some, in the order of their names.
    #[serde(default)]
    pub nodes: Vec<RolloutNode>,
    /// Why the last start failed, or why the revision before was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// RFC 3339: when it came into force.
    pub updated_at: String,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutNode {
    /// Its name.
    pub node: String,
    /// As in [`RolloutView`].
    pub ready: u32,
    /// As in [`RolloutView`].
    pub coming: u32,
    /// As in [`RolloutView`].
    pub old: u32,
    /// Why its last start failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A definition that a component had, or has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RevisionView {
    /// Grows with each change.
    pub revision: u32,
    /// Whether it is what counts now.
    pub in_force: bool,
    /// Why it came into force: `put`, `undo to revision N`, `rollback of revision N to revision M: ...`.
    pub reason: String,
    /// `healthy` or `failed`; none as long as nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Of the instances that it makes.
    pub version: String,
    /// RFC 3339: when it came into force.
    pub at: String,
    /// The definition in full, secrets redacted.
    pub definition: Value,
}

//! What happened in the cluster, as the admin API shows it.
//!
//! Knows nothing of who writes it down.

use serde::{Deserialize, Serialize};

use crate::time::Wall;

/// The most entries that `tail` may ask for: all that a cluster of 150 nodes keeps.
pub const EVENTS_MAX: u32 = 100_000;

/// Which entries of the timeline.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventQuery {
    /// Those that concern this component.
    pub component: Option<String>,
    /// Those by or about this node, by name or id.
    pub node: Option<String>,
    /// Those of the last so many milliseconds, on the clock of the node that answers.
    pub since_ms: Option<u64>,
    /// The last so many of those, at most [`EVENTS_MAX`]; all if none.
    pub tail: Option<u32>,
    /// Whether the stream goes on with every entry as it comes.
    pub follow: bool,
}

impl EventQuery {
    /// The moment from which on entries are wanted.
    #[must_use]
    pub fn since(&self, now: Wall) -> Option<Wall> {
        self.since_ms.map(|since| Wall(now.0.saturating_sub(since)))
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// RFC 3339, on the clock of the node that says it.
    pub at: String,
    /// The name of the node that says it; of what several saw, one of them.
    pub node: String,
    /// What happened: `starting`, `ready`, `stopped`, `crashed`, `put`, `down`, ... A later release may know more.
    pub kind: String,
    /// What it is about: `component`, `instance`, `source`, `setting` or `node`.
    pub what: String,
    /// The name or id of that. Empty if entries were lost to a slow reader.
    pub subject: String,
    /// The component that it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// Why, and what there is to know.
    pub text: String,
}

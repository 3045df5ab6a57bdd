//! What people want of a node: that it works, that it keeps what it has, or that it is emptied.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a node is to do. Somebody decided it; the node follows, also after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Duty {
    /// All work.
    #[default]
    Active,
    /// Keeps the instances it has, and is given no new ones.
    Cordoned,
    /// Takes no new work, and gives away what it has.
    Draining,
}

impl fmt::Display for Duty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Active => "active",
            Self::Cordoned => "cordoned",
            Self::Draining => "draining",
        })
    }
}

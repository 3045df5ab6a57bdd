//! What can happen in a cluster, as a word: the kinds of the entries of its timeline.
//!
//! Knows nothing of where and when.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A kind of happening. A word is one of these whatever it is about; what it is about stands beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// An instance is being started.
    Starting,
    /// An instance takes events.
    Ready,
    /// An instance of before the daemon's start goes on.
    Adopted,
    /// An instance takes no new events and finishes those it has.
    Draining,
    /// An instance goes because its place is on another node, or comes because another node is gone.
    Moved,
    /// An instance was ended.
    Stopped,
    /// An instance ended by itself.
    Crashed,
    /// A start failed.
    Failed,
    /// A definition or a setting was created or changed.
    Put,
    /// A definition, a setting or a node was removed.
    Removed,
    /// An event source was switched on.
    Enabled,
    /// An event source was switched off.
    Disabled,
    /// Instances are being replaced by those of a new definition.
    Rollout,
    /// A new definition works.
    RolledOut,
    /// A new definition does not work.
    RolloutFailed,
    /// A new definition did not work, and the one before is in force again.
    RolledBack,
    /// A node has started, or is back.
    Up,
    /// A node is dead.
    Down,
    /// A node has left.
    Left,
    /// A node is to give away what it has.
    Drain,
    /// A node is to be given nothing new.
    Cordon,
    /// A node is to work as before.
    Uncordon,
    /// A later release knows the word.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Adopted => "adopted",
            Self::Draining => "draining",
            Self::Moved => "moved",
            Self::Stopped => "stopped",
            Self::Crashed => "crashed",
            Self::Failed => "failed",
            Self::Put => "put",
            Self::Removed => "removed",
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::Rollout => "rollout",
            Self::RolledOut => "rolled-out",
            Self::RolloutFailed => "rollout-failed",
            Self::RolledBack => "rolled-back",
            Self::Up => "up",
            Self::Down => "down",
            Self::Left => "left",
            Self::Drain => "drain",
            Self::Cordon => "cordon",
            Self::Uncordon => "uncordon",
            Self::Unknown => "unknown",
        })
    }
}

//! What is known of a running instance of a component.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where an instance is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// Its image is being fetched.
    Pulling,
    /// It is being created, or runs and is not ready yet.
    Starting,
    /// It takes events.
    Ready,
    /// It is in memory and gets no processor time; the next event thaws it.
    Frozen,
    /// It takes no new events and finishes those it has.
    Draining,
    /// It was asked to stop.
    Stopping,
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pulling => "pulling",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Frozen => "frozen",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
        })
    }
}

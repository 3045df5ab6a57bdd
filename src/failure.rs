//! Why an event was not answered by a component, and in which phase. Each source says what a failure looks like in
//! its own world (a status code, a message left on the queue); nothing here knows of either.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::ComponentName;

/// Where on its way an event was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Waiting for a free slot of a live instance.
    Queue,
    /// The image is being fetched.
    Pull,
    /// The instance is being created and started.
    Start,
    /// The instance runs and is not ready yet.
    Ready,
    /// The event was handed to the instance.
    Handler,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queue => "queue",
            Self::Pull => "pull",
            Self::Start => "start",
            Self::Ready => "ready",
            Self::Handler => "handler",
        })
    }
}

/// Why an event was not answered. Every text tells the user what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// No event source matches.
    #[error("no event source matches this host and path; `maelctl es ls` lists them")]
    NoRoute,
    /// The source names a component that is not there.
    #[error("the event source names component {0}, which does not exist; `maelctl comp put {0} ...` creates it")]
    NoComponent(ComponentName),
    /// The queue in front of the component is full.
    #[error("component {component} is at its limit and its queue is full ({what}); try again in {retry_after:?}")]
    QueueFull {
        /// Whose queue.
        component: ComponentName,
        /// Which bound was reached, with its value.
        what: String,
        /// When a new try makes sense.
        retry_after: Duration,
    },
    /// The deadline passed. State: if the phase is `Handler` the component may have acted on the event.
    #[error("component {component} did not answer within {limit:?}: the deadline passed in phase {phase}")]
    Deadline {
        /// Whose deadline.
        component: ComponentName,
        /// Where the time went.
        phase: Phase,
        /// The whole time that was allowed.
        limit: Duration,
    },
    /// No instance could be started. State: the event was not handed to anyone.
    #[error("component {component} could not be started (phase {phase}): {reason}")]
    NotStarted {
        /// Which component.
        component: ComponentName,
        /// Where its start failed.
        phase: Phase,
        /// What failed, in words.
        reason: String,
        /// The last lines that the instance wrote, oldest first.
        log: Vec<String>,
        /// When the next start will be tried.
        retry_after: Duration,
    },
    /// This node has no memory for an instance. State: the event was not handed to anyone.
    #[error(
        "there is no room for an instance of component {component}: it reserves {reserve}, and {left} of this node's {capacity} are left; `maelctl explain comp {component}` shows all nodes"
    )]
    NoRoom {
        /// Which component.
        component: ComponentName,
        /// What an instance reserves, as people write it.
        reserve: String,
        /// What nobody reserves.
        left: String,
        /// All that instances may reserve here.
        capacity: String,
    },
    /// No instance of the component is on this node, and it cannot hold one. State: the event was not handed to anyone.
    #[error(
        "no node that was asked can run component {component}: {reason}; `maelctl explain comp {component}` shows all"
    )]
    Nowhere {
        /// Which component.
        component: ComponentName,
        /// What nodes lack, in words.
        reason: String,
    },
    /// The event is better off at another node: it could be taken there at once, or the component has as many instances
    /// there as it may have. State: the event was not handed to anyone. Who gets this says so when the event is done, see
    /// `Intake::returned`.
    #[error(
        "the instances of component {0} are on other nodes, and none of them could take the request in time; try again"
    )]
    Elsewhere(ComponentName),
    /// The node is stopping or the component was removed while the event waited.
    #[error("this node is draining; try again, another node or the restarted one will answer")]
    Draining,
    /// The instance failed while it had the event.
    #[error("instance of component {component} failed: {reason}")]
    Upstream {
        /// Which component.
        component: ComponentName,
        /// Whether any byte of the event had been sent: if not, another instance may try.
        sent: bool,
        /// What failed, in words.
        reason: String,
    },
    /// The body is larger than the source allows.
    #[error("the request body is larger than {limit} bytes, the limit of component {component}")]
    BodyTooLarge {
        /// Which component.
        component: ComponentName,
        /// The bound in bytes.
        limit: u64,
    },
}

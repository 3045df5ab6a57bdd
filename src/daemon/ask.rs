//! What nodes ask each other, besides requests that they forward and lines of logs: one question, one answer.
//!
//! Knows nothing of how a question travels, nor who answers: `control` does.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::runs::Claim;
use crate::crdt::bulletin::Sheet;
use crate::id::{ComponentName, SourceName};
use crate::placement::lease;
use crate::wire;

/// The longest question in bytes: a sheet and what is around its rows.
const MAX: usize = 2 << 20;

/// The answer that is yes.
pub(crate) const GRANTED: &[u8] = &[1];

/// A question. New ones are added at the end: a node answers nothing to one that it does not know.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// How it fares: the answer is a `NodeView` as JSON, to which fields can be added.
    Status,
    /// To take in what it says of itself: the answer is a [`crate::crdt::bulletin::Taken`].
    Sheet(Sheet),
    /// Its instances, of one component or of all: the answer is a list of `InstanceView` as JSON.
    Instances(Option<ComponentName>),
    /// How its pollers of a source fare: the answer is a list of `PollerView` as JSON.
    Pollers(SourceName),
    /// What happened at nodes that are gone, in earlier lives, and at the one who asks: blocks of the timeline with their
    /// nodes.
    Past,
    /// Its votes for strict singletons: the answer is a [`lease::Answer`].
    Consent(lease::Ask),
    /// What it knows of the runs of a schedule: the answer is the row, or nothing.
    Runs(SourceName),
    /// To grant a planned time: the answer is [`GRANTED`] or nothing.
    Grant(Claim),
    /// To have an instance of a component ready: the answer is [`GRANTED`] when one is, or a sentence.
    Warm(ComponentName),
}

impl Ask {
    /// The bytes of the question.
    pub(crate) fn encode(&self) -> Bytes {
        // Names, numbers and rows that are within their bounds can always be written.
        wire::encode(self).unwrap_or_default().into()
    }

    /// None if it is of a later release, or nonsense.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        wire::decode::<Self, MAX>(bytes).ok()
    }
}

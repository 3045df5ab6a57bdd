//! What the admin API shows: each type is one JSON object. Fields are only ever added.
//!
//! Knows nothing of where the values come from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::event::EventView;
use crate::model::duty::Duty;
use crate::model::instance::InstanceState;

/// The version of the shapes in this file; another one only if a field goes or changes its meaning.
pub const API_VERSION: &str = "v1";

/// A list with its age: how old the oldest fact in it may be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct List<T> {
    /// [`API_VERSION`].
    pub api_version: String,
    /// The things, in a fixed order.
    pub items: Vec<T>,
    /// Milliseconds since this node last heard from the node it heard from longest ago; 0 if it is alone.
    pub view_age: u64,
}

impl<T> List<T> {
    /// Wraps what this node alone knows.
    pub fn new(items: Vec<T>) -> Self {
        Self { api_version: API_VERSION.to_owned(), items, view_age: 0 }
    }
}

/// What a put did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It was not there before.
    Created,
    /// It was there and differed.
    Updated,
    /// It was there, the same.
    Unchanged,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Unchanged => "unchanged",
        })
    }
}

/// The answer to a put. State: it is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutAnswer {
    /// Of what.
    pub name: String,
    /// The version that is there now.
    pub version: String,
    /// What the put did.
    pub changed: Change,
    /// What is allowed and likely not meant, as sentences.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What could not be done and is not needed, as sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// The answer to a delete. State: it is on disk; instances stop after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The component, if one was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// The event sources that were removed.
    pub sources: Vec<String>,
    /// The settings that were removed; with a component those of it alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<String>,
}

/// A setting. Of a secret neither the value nor its length is ever shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CfgView {
    /// Unique for its component, or among those for all.
    pub name: String,
    /// Whose; none is for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// Whether the value is sealed.
    pub secret: bool,
    /// None if it is a secret, no text, or in a list and longer than 1 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Bytes of the value; none of a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The components that are given it.
    #[serde(default)]
    pub users: Vec<String>,
    /// Changes with every put.
    pub version: String,
    /// RFC 3339: when it was put.
    pub updated_at: String,
    /// Set while two puts at the same moment have not been resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<ConflictView>,
}

/// Instances by state.
pub type InstanceCounts = BTreeMap<InstanceState, u32>;

/// A component and how it fares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComponentView {
    /// Unique in the cluster.
    pub name: String,
    /// Of the definition.
    pub version: String,
    /// The definition in full, secrets redacted.
    pub definition: Value,
    /// Its instances in the cluster.
    #[serde(default)]
    pub instances: InstanceCounts,
    /// Events that wait for a slot.
    #[serde(default)]
    pub waiting: u64,
    /// The names of the event sources that activate it.
    #[serde(default)]
    pub sources: Vec<String>,
    /// Set while two puts at the same moment have not been resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<ConflictView>,
    /// RFC 3339: when the definition was put.
    pub updated_at: String,
    /// Why it does not work at this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// The last that happened to it, oldest first; not in a list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<EventView>,
}

/// Two definitions of one name, put on two nodes at the same moment. Putting either resolves it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConflictView {
    /// What is not in effect: a sentence for each, with when and on which node it was written.
    pub others: Vec<String>,
    /// The definitions that are not in effect, in the same order, secrets redacted.
    pub definitions: Vec<Value>,
}

/// The last failed start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What failed, in a sentence.
    pub message: String,
    /// `pull`, `start` or `ready`.
    pub phase: String,
    /// RFC 3339.
    pub at: String,
    /// The last lines that the instance wrote, oldest first.
    #[serde(default)]
    pub log: Vec<String>,
    /// Milliseconds from now to the next try; none if nothing asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_in_ms: Option<u64>,
}

/// An event source and how it fares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceView {
    /// Unique in the cluster.
    pub name: String,
    /// Of the definition.
    pub version: String,
    /// `http`, `cron` or `sqs`.
    pub kind: String,
    /// What it activates.
    pub component: String,
    /// Whether it takes events.
    pub enabled: bool,
    /// The definition in full, secrets redacted.
    pub definition: Value,
    /// Whether its component does not exist.
    #[serde(default)]
    pub orphaned: bool,
    /// Set while two puts at the same moment have not been resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<ConflictView>,
    /// RFC 3339: when the definition was put.
    pub updated_at: String,
    /// RFC 3339: the next planned fire of a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<String>,
    /// RFC 3339, with the zone's offset: the next five planned times of a schedule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<String>,
    /// Why it does not work at this moment, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Of a queue source: who reads its queues, and how that fares. Only where one source is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pollers: Vec<PollerView>,
}

/// How one queue fares at one poller of a source. Counts are since this poller began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PollerView {
    /// Name of the node.
    pub node: String,
    /// Which seat of the source.
    pub seat: u32,
    /// The queue's name.
    pub queue: String,
    /// Messages at the component or waiting for it.
    pub in_flight: u64,
    /// How many may be at the component at once; adapts to its answers.
    pub allowed: u32,
    /// Messages that can be received, about, as the queue said last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<u64>,
    /// Milliseconds since the oldest message in flight was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_ms: Option<u64>,
    /// Messages received.
    pub received: u64,
    /// Messages handed to the component.
    pub delivered: u64,
    /// Messages deleted after their success.
    pub deleted: u64,
    /// Failures of messages.
    pub failed: u64,
    /// Messages put back.
    pub released: u64,
    /// Extensions of a message's visibility.
    pub extended: u64,
    /// Messages sent to the dead-letter queue.
    pub buried: u64,
    /// Messages that became visible to others while they were held.
    pub lease_lost: u64,
    /// Receives without a message.
    pub empty_receives: u64,
    /// Calls to the queue service: what it costs.
    pub api_calls: u64,
    /// Why it does not work at this moment, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceView {
    /// Its id.
    pub id: String,
    /// Of which component.
    pub component: String,
    /// Of the definition that it runs.
    pub version: String,
    /// Where it is in its life.
    pub state: InstanceState,
    /// The name of the node it is on.
    pub node: String,
    /// Where it listens; none before it has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Process id or container id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// `process` or `docker`.
    pub runtime: String,
    /// RFC 3339.
    pub started_at: String,
    /// Events in it now.
    pub in_flight: u32,
    /// Events that it has answered.
    pub served: u64,
    /// Milliseconds since it gave back its last event; none before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_ms_ago: Option<u64>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its identity, 16 hexadecimal digits.
    pub id: String,
    /// As people say it.
    pub name: String,
    /// Where peers and clients reach it.
    pub address: String,
    /// `alive`, `suspect`, `down`, `draining` or `left`.
    pub state: String,
    /// Of the program.
    pub version: String,
    /// Milliseconds since it started.
    pub age_ms: u64,
    /// `process`, `docker` or none.
    pub runtime: String,
    /// How many it runs.
    pub instances: u32,
    /// How many components it knows.
    pub components: u32,
    /// Load average of the last minute; none if the system does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// Memory; none if the system does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<NodeMemory>,
    /// Where peers speak to it (UDP).
    #[serde(default)]
    pub peer: String,
    /// Whether it is the node that answers.
    #[serde(default)]
    pub own: bool,
    /// Milliseconds since it took its state.
    #[serde(default)]
    pub since_ms: u64,
    /// Milliseconds to it and back, as measured by the node that answers; none for itself or without connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// Milliseconds since its registry was last seen equal to that of the node that answers; none if never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_lag_ms: Option<u64>,
    /// Milliseconds that its wall clock is ahead of the answering node's; negative if behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_offset_ms: Option<i64>,
    /// Whether it tells the other nodes what this says: false means that it could not be asked, and that everything
    /// but its state is as old as the last answer.
    #[serde(default)]
    pub answered: bool,
    /// `active`, `cordoned` or `draining`: what people want of it.
    #[serde(default)]
    pub duty: Duty,
}

/// Memory of a node in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMemory {
    /// Of the machine.
    pub total: u64,
    /// That the system could still give.
    pub available: u64,
    /// Set aside for instances.
    pub reserved: u64,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// RFC 3339.
    pub at: String,
    /// The name of the node that has it.
    #[serde(default)]
    pub node: String,
    /// Who wrote it, or whom it is about.
    pub instance: String,
    /// `stdout`, `stderr` or `system`.
    pub stream: String,
    /// As it was written, without line feed; not safe to put on a terminal as it is.
    pub text: String,
    /// Nobody wrote it: it says that the lines of the node are missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub missing: bool,
}

/// Where the time of an event went, in milliseconds. A phase that was not passed through is 0.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Timing {
    /// Waiting for a slot.
    pub queue_ms: f64,
    /// Fetching the image.
    pub pull_ms: f64,
    /// Creating and starting the instance.
    pub start_ms: f64,
    /// Until the instance was ready.
    pub ready_ms: f64,
    /// In the component, up to the head of its answer.
    pub handler_ms: f64,
    /// All of it.
    pub total_ms: f64,
}

/// What a node runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionView {
    /// [`API_VERSION`].
    pub api_version: String,
    /// Of the program.
    pub version: String,
    /// The node's name.
    pub node: String,
    /// The node's identity.
    pub node_id: String,
}

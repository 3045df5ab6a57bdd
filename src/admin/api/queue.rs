//! What the admin API shows of queues.
//!
//! Knows nothing of where the values come from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::SourceName;

/// The most messages that a look at a queue may show: two screens.
pub const PEEK_MAX: u32 = 100;

/// The longest body in bytes that is shown of a message: a hundred of them stay at 6 MiB.
pub const PEEK_BODY: usize = 64 * 1024;

/// Which queue is meant: one that an event source reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRef {
    /// Its name.
    pub name: String,
    /// The source that reads it, if several regions or endpoints have one of this name.
    pub source: Option<SourceName>,
    /// Its dead-letter queue instead.
    pub dlq: bool,
}

/// A queue that an event source reads. Numbers are about right: the service counts on many servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueView {
    /// Its name.
    pub name: String,
    /// The source that reads it.
    pub source: String,
    /// Who handles its messages.
    pub component: String,
    /// Its URL, if the service was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Messages that wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<u64>,
    /// Messages that were received and not deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
    /// Milliseconds since the oldest message that a poller of ours holds was sent; the service does not tell the age of
    /// those that wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_ms: Option<u64>,
    /// Messages whose delay has not passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delayed: Option<u64>,
    /// The queue for messages that fail too often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dlq: Option<String>,
    /// Messages in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dlq_messages: Option<u64>,
    /// How often a message may be received before it goes there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_receives: Option<u32>,
    /// Why something of this is not known, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Messages of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peeked {
    /// Which queue.
    pub queue: String,
    /// In the order in which the queue gave them.
    pub messages: Vec<MessageView>,
    /// What the look has changed, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageView {
    /// Given by the service.
    pub id: String,
    /// Its beginning, at most [`PEEK_BODY`] bytes.
    pub body: String,
    /// Of the whole body, in bytes.
    pub size: u64,
    /// RFC 3339: when it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<String>,
    /// How often it was received, this look included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receives: Option<u64>,
    /// Its group in a FIFO queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Attributes that its sender gave it, as text; of one that is no text the number of bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// What became of dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redriven {
    /// Where they go.
    pub queue: String,
    /// Where they come from.
    pub dlq: String,
    /// The service moves them from now on; `moved` is 0.
    pub started: bool,
    /// How many this request moved.
    pub moved: u64,
    /// Whether there may be more: ask again.
    pub more: bool,
}

/// A queue that was emptied; messages may go on to disappear for a minute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    /// Which one.
    pub queue: String,
    /// About how many messages it had.
    pub messages: u64,
}

//! A message of a queue.
//!
//! Knows nothing of what becomes of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::time::Wall;

/// A message as the queue gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The same each time that it is received.
    pub id: String,
    /// What it is deleted by; new each time.
    pub receipt: Arc<str>,
    /// How often it was received, this time included.
    pub receives: u32,
    /// Its group, if it has one.
    pub group: Option<Arc<str>>,
    /// When it was sent, by the queue's clock.
    pub sent: Option<Wall>,
    /// Its text.
    pub body: Bytes,
    /// The MD5 of the text, as the queue says.
    pub md5: String,
    /// What the queue says of it, by the names of SQS.
    pub system: BTreeMap<String, String>,
    /// What its sender says of it.
    pub attributes: BTreeMap<String, Attribute>,
}

/// One attribute of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// `String`, `Number` or `Binary`, with what the sender put behind it.
    pub kind: String,
    /// Text of the first two.
    pub text: Option<String>,
    /// Bytes of the third.
    pub bytes: Option<Bytes>,
}

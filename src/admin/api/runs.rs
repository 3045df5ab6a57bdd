//! The runs of schedules, as the API shows them.

use serde::{Deserialize, Serialize};

/// The most planned times that are listed at once: a day of five-minutely ones is a screen or two; who wants more asks for
/// something else.
pub const NEXT_MAX: usize = 100;

/// A run of a schedule, or an attempt at one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunView {
    /// The same for all attempts, and in the header `Maelstrom-Run-Id` of their requests.
    pub run: String,
    /// RFC 3339: its planned time; when it was asked for, of one by hand.
    pub planned_at: String,
    /// Counts from 1.
    pub attempt: u32,
    /// `schedule`, `manual`, `catch-up` or `retry`.
    pub cause: String,
    /// `waiting`, `running`, `ok`, `failed`, `skipped`, `replaced` or `lost`.
    pub status: String,
    /// RFC 3339: when its request was sent; none if none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// RFC 3339: when its end was noted; none before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// The name or id of the node that carried it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Who answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The status of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// Why it did not go well, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The end of the answer's body; not safe to put on a terminal as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

/// When a schedule runs next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextView {
    /// The source.
    pub name: String,
    /// Its expression.
    pub schedule: String,
    /// The zone of its fields.
    pub timezone: String,
    /// Of the zone data.
    pub zone_data: String,
    /// Whether it runs at all.
    pub enabled: bool,
    /// Milliseconds after the planned times at which runs begin.
    pub jitter_ms: u64,
    /// RFC 3339, with the zone's offset.
    pub times: Vec<String>,
}

//! An event source: what activates a component.
//!
//! Knows nothing of the components that exist, nor of how events are taken in.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use crate::id::{ComponentName, SourceName};

pub mod defaults;
mod doc;
mod parse;
#[cfg(test)]
mod tests;

/// A validated event source definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Unique in the cluster.
    pub name: SourceName,
    /// What it activates.
    pub component: ComponentName,
    /// A disabled source is kept and does nothing.
    pub enabled: bool,
    /// Where events come from.
    pub trigger: Trigger,
}

/// Where events come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// Requests to a host and path.
    Http(Http),
    /// A schedule.
    Cron(Cron),
    /// A queue.
    Sqs(Sqs),
}

/// Requests to a host and path prefix. At least one of the two is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Lower-case host without port: exact, or `*.` and a domain; `None` is any host.
    pub host: Option<String>,
    /// Starts with `/`, no trailing `/` unless it is `/`; matches whole segments.
    pub path: String,
    /// Whether the prefix is cut off before the component sees the path.
    pub strip_prefix: bool,
}

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    /// As the user wrote it, syntax checked; single spaces, and `@every` and `@at` in one spelling.
    pub expression: String,
    /// IANA name of the zone; UTC unless said.
    pub timezone: String,
    /// `GET`, `POST`, ...
    pub method: String,
    /// Path of the request, starts with `/`.
    pub path: String,
    /// Headers of the request.
    pub headers: BTreeMap<String, String>,
    /// Body of the request.
    pub body: Option<String>,
}

/// A queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sqs {
    /// Name, URL, or name prefix.
    pub queue: String,
    /// Whether `queue` is a prefix: all queues that start with it, in the order of their names.
    pub prefix: bool,
    /// Path of the request, starts with `/`.
    pub path: String,
    /// Messages handled at once in the cluster.
    pub concurrency: NonZeroU32,
    /// Messages per request, 1 to 10.
    pub batch: u8,
    /// Region; that of the environment if none.
    pub region: Option<String>,
    /// Endpoint URL in place of the provider's.
    pub endpoint: Option<String>,
}

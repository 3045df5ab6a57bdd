//! What the admin API takes and answers, and the trait that the daemon implements to do it.
//!
//! Wire types are apart from the core's: a change inside never changes the API by accident. Units: durations are
//! whole milliseconds and say so in their names, times are RFC 3339 in UTC, memory is bytes. Knows nothing of HTTP
//! connections nor of how the daemon works.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::id::{ComponentName, InstanceId, SourceName};
use crate::model::cfg::CfgKey;
use crate::model::duty::Duty;
use crate::time::Wall;

mod error;
mod event;
mod plan;
mod queue;
mod rollout;
mod runs;
mod view;

pub use error::{ApiError, Code};
pub use event::{EVENTS_MAX, EventQuery, EventView};
pub use plan::{PlanNode, PlanView};
pub use queue::{MessageView, PEEK_BODY, PEEK_MAX, Peeked, Purged, QueueRef, QueueView, Redriven};
pub use rollout::{RevisionView, RolloutNode, RolloutView};
pub use runs::{NEXT_MAX, NextView, RunView};
pub use view::{
    API_VERSION, CfgView, Change, ComponentView, ConflictView, InstanceCounts, InstanceView, List, LogLine, NodeMemory,
    NodeView, PollerView, Problem, PutAnswer, Removed, SourceView, Timing, VersionView,
};

/// A future that can be a method of a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The largest request body in bytes. A definition may have 256 KiB as JSON; 1 MiB leaves room for white space and
/// escapes.
pub const BODY_MAX: usize = 1024 * 1024;

/// The largest body in bytes of an event given to `invoke`, and of its answer: 6 MiB, what hosted functions take
/// when they are called directly.
pub const INVOKE_BODY_MAX: usize = 6 * 1024 * 1024;

/// Lines of a log that may wait for a slow reader. At 16 KiB for the longest line this is 4 MiB at most.
pub const LOG_QUEUE: usize = 256;

/// The most lines that `tail` may ask for; a whole log book has fewer than this unless its lines are shorter than
/// 100 bytes.
pub const TAIL_MAX: u32 = 100_000;

/// Which version of a thing a change is based on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Expect {
    /// Whatever is there.
    #[default]
    Any,
    /// Nothing may be there yet.
    Absent,
    /// This version must be there.
    Version(String),
}

impl Expect {
    /// Whether a thing of version `current` (`None`: it is not there) may be changed. The error is a
    /// [`Code::Conflict`] that carries the current version.
    ///
    /// # Errors
    /// It is not what was expected.
    pub fn check(&self, what: &str, current: Option<&str>) -> Result<(), ApiError> {
        match (self, current) {
            (Self::Any, _) | (Self::Absent, None) => Ok(()),
            (Self::Version(wanted), Some(there)) if wanted == there => Ok(()),
            (Self::Absent, Some(there)) => {
                Err(ApiError::conflict(format!("{what} exists already, with version {there}"), Some(there)))
            }
            (Self::Version(wanted), Some(there)) => Err(ApiError::conflict(
                format!("{what} has version {there}, and the change is based on {wanted}"),
                Some(there),
            )),
            (Self::Version(wanted), None) => {
                Err(ApiError::conflict(format!("{what} is not there, and the change is based on {wanted}"), None))
            }
        }
    }
}

/// Which lines of a component's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// How many of the last lines, at most [`TAIL_MAX`].
    pub tail: u32,
    /// Whether the stream goes on with every line as it comes.
    pub follow: bool,
    /// Only lines of this instance, which may be gone already.
    pub instance: Option<InstanceId>,
    /// Only lines of this origin: `stdout`, `stderr` or `system`.
    pub stream: Option<String>,
}

/// An event made by hand.
#[derive(Debug, Clone)]
pub struct Invoke {
    /// `GET`, `POST`, ...
    pub method: http::Method,
    /// Path and query, starts with `/`.
    pub path: String,
    /// Headers, lower-case names, in order.
    pub headers: http::HeaderMap,
    /// At most [`INVOKE_BODY_MAX`] bytes.
    pub body: Bytes,
    /// Until the head of the answer; the component's own `request_timeout` if none.
    pub timeout: Option<std::time::Duration>,
}

/// What a component answered to an [`Invoke`].
#[derive(Debug)]
pub struct Invoked {
    /// Status of the component's answer.
    pub status: http::StatusCode,
    /// Headers of the component's answer.
    pub headers: http::HeaderMap,
    /// Parts of the body in order; the channel's bound holds the component back. An `Err` says why the body ended
    /// early.
    pub body: mpsc::Receiver<Result<Bytes, ApiError>>,
    /// Where the time went, up to the head of the answer.
    pub timing: Timing,
}

/// The daemon as the admin API sees it. Names are checked before a method is called; documents are not.
///
/// Every method answers within the deadline of the server ([`crate::admin::server::REQUEST_TIMEOUT`]) or is dropped;
/// a dropped future must leave a change either done or not begun. Exempt are [`Control::invoke`], whose timeout is
/// its own, and the streams of [`Control::logs`] and [`Control::events`], which end when the receiver is dropped.
pub trait Control: fmt::Debug + Send + Sync + 'static {
    /// The wall clock, for the moments that the API prints relative to now.
    fn now(&self) -> Wall;

    /// Creates or replaces a component. The same document again is [`Change::Unchanged`] and touches nothing.
    /// Fails with [`Code::Invalid`] and every wrong field, or [`Code::Conflict`].
    fn put_component(
        &self,
        name: ComponentName,
        doc: Value,
        expect: Expect,
    ) -> BoxFuture<'_, Result<PutAnswer, ApiError>>;

    /// What `put_component` would answer, without doing it.
    fn check_component(
        &self,
        name: ComponentName,
        doc: Value,
        expect: Expect,
    ) -> BoxFuture<'_, Result<PutAnswer, ApiError>>;

    /// One component. Fails with [`Code::NotFound`] and the nearest name as suggestion.
    fn get_component(&self, name: ComponentName) -> BoxFuture<'_, Result<ComponentView, ApiError>>;

    /// All components in the order of their names.
    fn list_components(&self) -> BoxFuture<'_, Result<List<ComponentView>, ApiError>>;

    /// How far a component has come with the definition in force.
    fn rollout(&self, name: ComponentName) -> BoxFuture<'_, Result<RolloutView, ApiError>>;

    /// The definitions that a component had, the newest first.
    fn revisions(&self, name: ComponentName) -> BoxFuture<'_, Result<List<RevisionView>, ApiError>>;

    /// Puts an earlier definition again: that of a revision, or the one before. Fails with [`Code::NotFound`] if that is
    /// not kept.
    fn undo_component(&self, name: ComponentName, to: Option<u32>) -> BoxFuture<'_, Result<PutAnswer, ApiError>>;

    /// Removes a component and its event sources.
    fn delete_component(&self, name: ComponentName, expect: Expect) -> BoxFuture<'_, Result<Removed, ApiError>>;

    /// Creates or replaces an event source. The component need not exist: that is a warning.
    fn put_source(&self, name: SourceName, doc: Value, expect: Expect) -> BoxFuture<'_, Result<PutAnswer, ApiError>>;

    /// What `put_source` would answer, without doing it.
    fn check_source(&self, name: SourceName, doc: Value, expect: Expect) -> BoxFuture<'_, Result<PutAnswer, ApiError>>;

    /// One event source. Fails with [`Code::NotFound`] and the nearest name as suggestion.
    fn get_source(&self, name: SourceName) -> BoxFuture<'_, Result<SourceView, ApiError>>;

    /// All event sources in the order of their names.
    fn list_sources(&self) -> BoxFuture<'_, Result<List<SourceView>, ApiError>>;

    /// Removes an event source.
    fn delete_source(&self, name: SourceName, expect: Expect) -> BoxFuture<'_, Result<Removed, ApiError>>;

    /// Switches an event source on or off and keeps the rest of it.
    fn set_source_enabled(&self, name: SourceName, enabled: bool) -> BoxFuture<'_, Result<PutAnswer, ApiError>>;

    /// The runs of a schedule, the newest first. Fails with [`Code::Invalid`] if the source is no schedule.
    fn list_runs(&self, name: SourceName) -> BoxFuture<'_, Result<List<RunView>, ApiError>>;

    /// The next planned times of a schedule, at most [`NEXT_MAX`]. Fails with [`Code::Invalid`] if it is none.
    fn next_runs(&self, name: SourceName, count: usize) -> BoxFuture<'_, Result<NextView, ApiError>>;

    /// Has a schedule run now, whatever its times; the node that attends to it begins it. Fails with [`Code::Invalid`] if
    /// it is none, and with [`Code::Conflict`] if it is disabled, or was asked for too often.
    fn ask_run(&self, name: SourceName) -> BoxFuture<'_, Result<RunView, ApiError>>;

    /// Creates or replaces a setting; a secret is sealed and never shown. What is a secret stays one until it is removed.
    /// Fails with [`Code::TooLarge`] above [`crate::model::cfg::VALUE_MAX`].
    fn put_setting(
        &self,
        key: CfgKey,
        value: Bytes,
        secret: bool,
        expect: Expect,
    ) -> BoxFuture<'_, Result<PutAnswer, ApiError>>;

    /// What `put_setting` would answer, without doing it.
    fn check_setting(
        &self,
        key: CfgKey,
        value: Bytes,
        secret: bool,
        expect: Expect,
    ) -> BoxFuture<'_, Result<PutAnswer, ApiError>>;

    /// One setting, without its value if it is a secret.
    fn get_setting(&self, key: CfgKey) -> BoxFuture<'_, Result<CfgView, ApiError>>;

    /// All settings: those for all components, then those of each, in the order of names.
    fn list_settings(&self) -> BoxFuture<'_, Result<List<CfgView>, ApiError>>;

    /// Removes a setting. Fails with [`Code::Conflict`] if components could not start without it, unless `force`.
    fn delete_setting(&self, key: CfgKey, force: bool, expect: Expect) -> BoxFuture<'_, Result<Removed, ApiError>>;

    /// All nodes that this one knows, itself included.
    fn list_nodes(&self) -> BoxFuture<'_, Result<List<NodeView>, ApiError>>;

    /// One node, by name or id.
    fn get_node(&self, name: String) -> BoxFuture<'_, Result<NodeView, ApiError>>;

    /// Removes a node that is down or has left, for good: it may not come back under its id.
    fn remove_node(&self, name: String) -> BoxFuture<'_, Result<NodeView, ApiError>>;

    /// What a node is to do from now on. Fails with [`Code::Conflict`] if no other node would be active, unless `force`.
    fn set_duty(&self, name: String, duty: Duty, force: bool) -> BoxFuture<'_, Result<NodeView, ApiError>>;

    /// Why a component runs where it runs.
    fn explain(&self, component: ComponentName) -> BoxFuture<'_, Result<PlanView, ApiError>>;

    /// Instances, of one component or of all, in the order of their ids.
    fn list_instances(&self, component: Option<ComponentName>) -> BoxFuture<'_, Result<List<InstanceView>, ApiError>>;

    /// Lines of a component's log: the last ones, then those that come if `follow`. The sender of the channel (of
    /// [`LOG_QUEUE`]) waits for a slow reader; what it has to pass over is told by a line of stream `system`.
    fn logs(
        &self,
        component: ComponentName,
        query: LogQuery,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<LogLine>, ApiError>>;

    /// What happened in the cluster, as far as this node has heard: oldest first, then what comes if `follow`. The same
    /// channel and the same word about gaps as for [`Control::logs`].
    fn events(&self, query: EventQuery) -> BoxFuture<'_, Result<mpsc::Receiver<EventView>, ApiError>>;

    /// Sends an event to a component as a source would.
    fn invoke(&self, component: ComponentName, event: Invoke) -> BoxFuture<'_, Result<Invoked, ApiError>>;

    /// The queues that event sources read, in the order of their names. What could not be found out of one is said in it.
    fn list_queues(&self) -> BoxFuture<'_, Result<List<QueueView>, ApiError>>;

    /// Up to `limit` messages of a queue, given back at once. Each look counts as a receive for the queue.
    fn peek_queue(&self, queue: QueueRef, limit: u32) -> BoxFuture<'_, Result<Peeked, ApiError>>;

    /// Moves dead letters back to their queue: all by the service if it can do that, else up to `max` one by one, for some
    /// seconds. A dropped future may leave one message in both queues.
    fn redrive_queue(&self, queue: QueueRef, max: Option<u64>) -> BoxFuture<'_, Result<Redriven, ApiError>>;

    /// Deletes all messages of a queue.
    fn purge_queue(&self, queue: QueueRef) -> BoxFuture<'_, Result<Purged, ApiError>>;

    /// What this node runs.
    fn version(&self) -> BoxFuture<'_, Result<VersionView, ApiError>>;
}

/// A moment as the API writes it: RFC 3339 in UTC with milliseconds. A moment out of the calendar's range reads as
/// 1970.
pub fn rfc3339(at: Wall) -> String {
    let millis = i64::try_from(at.0).unwrap_or_default();
    let moment = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{moment:.3}")
}

/// The moment that [`rfc3339`] wrote; `None` if the text is no RFC 3339 time after 1970.
pub fn parse_rfc3339(text: &str) -> Option<Wall> {
    let moment: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(moment.as_millisecond()).ok().map(Wall)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_in_utc_with_milliseconds_and_read_back() {
        let at = Wall(1_700_000_000_120);
        assert_eq!(rfc3339(at), "2023-11-14T22:13:20.120Z");
        assert_eq!(parse_rfc3339(&rfc3339(at)), Some(at));
        assert_eq!(rfc3339(Wall(u64::MAX)), "1970-01-01T00:00:00.000Z");
        assert_eq!(parse_rfc3339("yesterday"), None);
    }

    #[test]
    fn a_change_based_on_another_version_is_a_conflict_that_names_the_current_one() {
        assert!(Expect::Any.check("component a", Some("2")).is_ok());
        assert!(Expect::Absent.check("component a", None).is_ok());
        assert!(Expect::Version("2".into()).check("component a", Some("2")).is_ok());
        for (expect, current) in
            [(Expect::Absent, Some("2")), (Expect::Version("1".into()), Some("2")), (Expect::Version("1".into()), None)]
        {
            let error = expect.check("component a", current).expect_err("a conflict");
            assert_eq!(error.code, Code::Conflict);
            assert_eq!(error.current.as_deref(), current);
        }
    }
}

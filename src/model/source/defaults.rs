//! What an event source is given where its document says nothing, and the bounds of what it may say.
//!
//! Knows nothing of documents. `docs/sources.md` repeats the values; a test compares.

use std::time::Duration;

use crate::model::source::cron::{Delivery, Gap, Missed, Overlap, Repeat};

/// Path prefix of an HTTP source that names only a host: everything.
pub const PREFIX: &str = "/";

/// Zone of a schedule: the only one without gaps and repeats, and the same on every node.
pub const TIMEZONE: &str = "UTC";
/// Method of a scheduled request without a body.
pub const METHOD: &str = "GET";
/// Method of a scheduled request with a body: many servers drop the body of a `GET`.
pub const METHOD_WITH_BODY: &str = "POST";
/// The methods that a scheduled request may have: those of HTTP that reach a handler.
pub const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// Largest header of a scheduled request in bytes, name and value: common servers refuse 8 KiB for all of them.
pub const HEADER_MAX: usize = 4_096;

/// A nightly job is done on the night of the change, as Vixie's cron does it.
pub const DST_GAP: Gap = Gap::RunAtTransition;
/// And once on the night of the other change.
pub const DST_OVERLAP: Repeat = Repeat::First;
/// What cron does and most expect: a run that takes long delays no other.
pub const OVERLAP: Overlap = Overlap::Allow;
/// One run makes up for those that no node could fire: most jobs do what is left to do.
pub const MISSED: Missed = Missed::Latest;
/// How late a run may begin: long enough for a node that is started again, short enough that a job meant for the night
/// does not come at noon.
pub const START_DEADLINE: Duration = Duration::from_secs(3600);
/// Shortest such time: less than it takes to find out that a node died would leave out what it had to fire.
pub const START_DEADLINE_MIN: Duration = Duration::from_secs(10);
/// Longest such time: a week, so that what is due can be searched for.
pub const START_DEADLINE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most planned times that are made up for: Kubernetes gives up above 100; we fire the last 100.
pub const MISSED_MAX: u32 = 100;
/// Longest spread of the beginnings: a day.
pub const JITTER_MAX: Duration = Duration::from_secs(24 * 3600);
/// How often a failed run is tried again: not unless asked for, since a request may not be safe to repeat.
pub const RETRIES: u32 = 0;
/// Most tries after the first: with doubled pauses up to a minute they last ten minutes.
pub const RETRIES_MAX: u32 = 16;
/// A lost run is worse than a doubled one, which can be told by its idempotency key.
pub const DELIVERY: Delivery = Delivery::AtLeastOnce;

/// Messages handled at once in the cluster: one receive call brings at most 10, so one poller is kept busy.
pub const CONCURRENCY: u32 = 10;
/// Most messages at once: SQS lets a queue have 120,000 in flight.
pub const CONCURRENCY_MAX: u32 = 120_000;
/// Messages per request: one, so that the answer's status speaks for one message.
pub const BATCH: u32 = 1;
/// Most messages per request: what one receive call of SQS brings.
pub const BATCH_MAX: u32 = 10;
/// How long a request waits for more messages: not at all, as a request with one message never does.
pub const WINDOW: Duration = Duration::ZERO;
/// Longest wait for more messages: that of Lambda.
pub const WINDOW_MAX: Duration = Duration::from_secs(300);
/// How long a receive waits: the most that SQS allows, so that an idle queue costs three calls a minute.
pub const WAIT: Duration = Duration::from_secs(20);
/// Shortest wait: without one SQS asks some of its servers and finds nothing where something is.
pub const WAIT_MIN: Duration = Duration::from_secs(1);
/// How long messages are hidden: a node that dies delays them by this. Shorter would cost more extensions than a second
/// saved is worth.
pub const VISIBILITY: Duration = Duration::from_secs(30);
/// Shortest: an extension, its deadline and a second try fit into it.
pub const VISIBILITY_MIN: Duration = Duration::from_secs(10);
/// Longest: the bound of SQS.
pub const VISIBILITY_MAX: Duration = Duration::from_secs(12 * 3600);
/// The wait after the first failure: what failed for a moment works again, and a queue with three receives is not used
/// up within a restart of what the component needs.
pub const BACKOFF: Duration = Duration::from_secs(10);
/// Longest first wait: no wait is longer.
pub const BACKOFF_MAX: Duration = Duration::from_secs(900);
/// Longest queue name in bytes, `.fifo` included: the bound of SQS.
pub const QUEUE_NAME_MAX: usize = 80;
/// Longest queue or endpoint URL in bytes: far above a host name, an account and a queue name.
pub const URL_MAX: usize = 1_024;

/// For how long a one-off event is tried again while it fails: longer than a rollout that went wrong and was taken back.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(3600);
/// At most: two weeks, as long as a queue keeps a message.
pub const GIVE_UP_MAX: Duration = Duration::from_secs(14 * 24 * 3600);

//! What a component is given where its document says nothing, and the bounds of what it may say; each with its reason.
//!
//! Knows nothing of documents. `docs/components.md` repeats the values; a test compares.

use std::time::Duration;

/// Port of an image that names none: what the earlier Maelstrom documented, and the usual one of unprivileged servers.
pub const PORT: u16 = 8080;

/// Events that one instance is given at once. Cloud Run's default; one process with an event loop or a pool of
/// threads takes it, while the earlier Maelstrom's 1 started a container for every second request.
pub const CONCURRENCY: u32 = 80;
/// Largest `concurrency.limit`: above the ephemeral ports (about 28,000) of one address pair there is nothing to gain,
/// the rest is room for instances that hold streams.
pub const CONCURRENCY_MAX: u32 = 100_000;
/// Share of the limit, in percent, at which scaling adds an instance. The remaining 30 % take the events that arrive
/// during a start; Knative uses the same 70.
pub const TARGET_PERCENT: u32 = 70;

/// Instances kept when idle: none. What nobody uses costs nothing.
pub const MIN_INSTANCES: u32 = 0;
/// Instances at most: 800 events at once with the default concurrency, and a runaway client cannot fill a cluster of
/// the usual 1-50 machines. `min` above it raises it.
pub const MAX_INSTANCES: u32 = 10;
/// Largest `instances.max`: 100 on each of 1,000 nodes, the largest cluster that is simulated.
pub const INSTANCES_MAX: u32 = 100_000;

/// Memory set aside for an instance: the earlier Maelstrom's and Lambda's smallest and default size. A smaller
/// `memory.limit` lowers it.
pub const MEMORY_RESERVE: u64 = 128 << 20;
/// Least reserve apart from 0. A smaller one is a number whose unit was forgotten: `128` is 128 bytes.
pub const MEMORY_RESERVE_MIN: u64 = 1 << 20;
/// Least limit: Docker refuses to start a container with less.
pub const MEMORY_LIMIT_MIN: u64 = 6 << 20;
/// Most memory: beyond any machine that is sold, so a slip of the unit.
pub const MEMORY_MAX: u64 = 64 << 40;

/// Most processor share in thousandths of a core: beyond any machine that is sold.
pub const CPU_MAX: u32 = 4_096_000;

/// Unused time until an instance is frozen. A wake takes about a millisecond, so the next event hardly notices; 30 s
/// leave room for what a program does after its answers (exporters of metrics and traces flush every 5 to 15 s), which
/// would stand still in a frozen instance. OpenWhisk pauses after 10 s.
pub const FREEZE_AFTER: Duration = Duration::from_secs(30);
/// Unused time until an instance is stopped: the earlier Maelstrom's; Cloud Run keeps idle instances up to 15 minutes.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest time in any field about idleness: a year, beyond which `instances.min` says what is meant.
pub const IDLE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// Shortest time until frozen or stopped: below it, pauses between two requests of one page would freeze and thaw.
pub const IDLE_MIN: Duration = Duration::from_millis(100);

/// From start to readiness. Slow runtimes (JVM, migrations at start) take tens of seconds; the earlier Maelstrom's.
pub const START_TIMEOUT: Duration = Duration::from_secs(60);
/// For the head of an answer, queue and cold start included. It must leave the handler time after a pull and the 60 s
/// of a start, so 60 s would fail the first request to a slow component; 300 s is what Knative, Cloud Run and the
/// earlier Maelstrom give.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
/// Shortest timeout: below it, timers and networks decide and not the program.
pub const TIMEOUT_MIN: Duration = Duration::from_millis(10);
/// Longest timeout: a day, the longest run that hosted batch functions allow.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// Events that may wait. A burst of 1,000 clients against a stopped component must be answered in full, and four such
/// bursts fit; a waiting event holds a few KiB, so a full queue costs some tens of MiB.
pub const QUEUE_LIMIT: u32 = 4_096;
/// Most events that may wait: at 10 KiB each ten gigabytes, more than a node should risk.
pub const QUEUE_MAX: u32 = 1_000_000;

/// The largest request body. Bodies are streamed, so this guards the instance and not the node: twice Cloud Run's
/// 32 MiB, which covers forms and photographs; uploads say `unlimited`.
pub const MAX_BODY: u64 = 64 << 20;

/// Between two checks of a ready instance: the earlier Maelstrom's and Kubernetes' default.
pub const HEALTH_INTERVAL: Duration = Duration::from_secs(10);
/// Shortest interval: ten checks a second already cost a small instance a share of its processor.
pub const HEALTH_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Longest interval: an hour; a check that is rarer protects no one.
pub const HEALTH_INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// For the answer of one check. Kubernetes' 1 s kills instances that collect garbage or are busy.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// Failures in a row: Kubernetes' default; the earlier Maelstrom's 1 replaced an instance for a single lost answer.
pub const HEALTH_FAILURES: u32 = 3;
/// Most failures in a row: with the shortest interval still 100 s.
pub const HEALTH_FAILURES_MAX: u32 = 1_000;

/// From the first start of a new definition until one of its instances is ready: Kubernetes' `progressDeadlineSeconds`.
/// A large image is fetched in it, and several starts of a slow program still fit.
pub const ROLLOUT_DEADLINE: Duration = Duration::from_secs(600);

/// How an instance is asked to stop: what Docker, systemd and Kubernetes send.
pub const STOP_SIGNAL: &str = "SIGTERM";
/// Signals that ask a program to stop in one convention or another; `SIGWINCH` is Apache's graceful stop.
pub const STOP_SIGNALS: [&str; 9] =
    ["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGKILL", "SIGABRT", "SIGUSR1", "SIGUSR2", "SIGWINCH"];
/// From the signal to the kill: Docker's.
pub const STOP_GRACE: Duration = Duration::from_secs(10);
/// Longest grace: an hour, so that a drain ends.
pub const STOP_GRACE_MAX: Duration = Duration::from_secs(3600);

/// Longest environment entry in bytes, name and value: Linux starts no program with a longer one (`MAX_ARG_STRLEN`).
pub const ENV_ENTRY_MAX: usize = 131_071;

//! Logs and tasks: the one place that sets up tracing, and the one place that spawns, so that no task is nameless and
//! no panic goes unseen.
//!
//! Knows nothing of what is logged or what runs.

use std::fmt;
use std::future::Future;
use std::io::IsTerminal as _;
use std::str::FromStr;

use tokio::task::JoinHandle;
use tracing::{Instrument as _, Level};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people: one line, coloured on a terminal.
    #[default]
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// A text is not the name of a log format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a log format; allowed are `text` and `json`")]
pub struct FormatError(String);

impl FromStr for Format {
    type Err = FormatError;
    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(FormatError(other.to_owned())),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Tracing could not be set up. State: nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum TracingError {
    /// The filter does not parse.
    #[error("{filter:?} is not a log filter; examples: `info`, `warn,maelstrom::proxy=debug`")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process has set it up already.
    #[error("tracing is set up already")]
    Twice,
}

/// Whether what a module says at this level never holds what users keep secret. bollard writes the body of every call into
/// its DEBUG lines, and with it the variables of containers; no filter asks for that.
fn is_discreet(target: &str, level: Level) -> bool {
    !target.starts_with("bollard") || level <= Level::INFO
}

/// Sends log lines that pass `filter` to stderr (stdout is for data), and every panic with them.
///
/// # Errors
/// The filter does not parse, or the process has called this before.
pub fn init_tracing(format: Format, filter: &str) -> Result<(), TracingError> {
    let filter =
        EnvFilter::try_new(filter).map_err(|source| TracingError::Filter { filter: filter.to_owned(), source })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let discreet = filter_fn(|line| is_discreet(line.target(), *line.level()));
    match format {
        Format::Text => lines.finish().with(discreet).try_init(),
        Format::Json => lines.json().flatten_event(true).finish().with(discreet).try_init(),
    }
    .map_err(|_| TracingError::Twice)?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("(not a text)");
        tracing::error!(place, message, "panic: this is a bug of maelstrom, please report it");
    }));
    Ok(())
}

/// Runs `future` as a task of its own. Its panic is logged under `name` and reaches whoever awaits the handle.
///
/// The span is of level DEBUG: with the usual filter `info` it costs nothing on each poll, which a connection task on
/// the warm path would pay for.
#[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let guarded = async move {
        let _name = PanicName(name);
        future.await
    };
    tokio::spawn(guarded.instrument(tracing::debug_span!("task", name)))
}

/// Says which task panicked: the panic hook knows the place in the code, and not the task.
struct PanicName(&'static str);

impl Drop for PanicName {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.0, "a task ended by a panic");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_bodies_of_calls_to_docker_are_in_no_log() {
        for level in [Level::DEBUG, Level::TRACE] {
            assert!(!is_discreet("bollard::docker", level));
            assert!(is_discreet("maelstrom::runtime::docker", level));
        }
        assert!(is_discreet("bollard::docker", Level::WARN));
    }

    #[tokio::test]
    async fn a_panic_is_logged_under_the_name_of_its_task_and_reaches_the_handle() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);

        let end = spawn("doomed", async { panic!("as planned") }).await;

        assert!(end.expect_err("it panicked").is_panic());
        let text = String::from_utf8(lines.0.lock().expect("no writer panics").clone()).expect("text");
        assert!(text.contains("task=\"doomed\""), "{text}");
    }

    #[tokio::test]
    async fn a_task_gives_its_value_to_the_handle() {
        assert_eq!(spawn("sum", async { 1 + 1 }).await.expect("no panic"), 2);
    }

    #[test]
    fn a_bad_format_or_filter_is_refused_with_what_is_allowed() {
        assert!("xml".parse::<Format>().expect_err("refused").to_string().contains("`text` and `json`"));
        assert!(matches!(init_tracing(Format::Text, "a=b=c"), Err(TracingError::Filter { .. })));
    }
}

//! Copies what a container writes into the log book: from its first line, without a gap and without a line twice,
//! over restarts of Docker and of the daemon.
//!
//! Every line comes with the time at which Docker read it. That time goes into the book, so the book itself says
//! where to go on.

use std::time::Duration;

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::StreamExt as _;

use super::Shared;
use super::backoff::Backoff;
use super::instance::Instance;
use crate::id::InstanceId;
use crate::runtime::logs::{Line, Stream};
use crate::time::Wall;

/// Lines written to the book in one go. Docker hands over what is there, so this bounds memory (16 KiB a line) and
/// not the wait for a line.
const BATCH: usize = 64;

/// Lines of the book that are looked at to find out what is in it already. More in one millisecond would come twice.
const LOOK_BACK: usize = 1000;

/// Between two tries to read on. The first also bounds how late the end of a container is noticed here.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Where to go on: everything before `at`, and the first `seen` lines at `at`, are in the book.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Mark {
    at: Wall,
    seen: usize,
}

impl Mark {
    fn of_book(shared: &Shared, id: &InstanceId) -> Self {
        let lines = shared.logs.tail(&id.component(), LOOK_BACK, Some(id));
        Self::of(lines.iter().filter(|line| line.stream != Stream::System).map(|line| line.at))
    }

    fn of(times: impl Iterator<Item = Wall>) -> Self {
        let mut mark = Self::default();
        for at in times {
            mark.advance(at);
        }
        mark
    }

    fn advance(&mut self, at: Wall) {
        if at > self.at {
            *self = Self { at, seen: 1 };
        } else if at == self.at {
            self.seen += 1;
        }
    }
}

/// Drops the lines before a mark from a stream that is read anew.
#[derive(Debug)]
struct Skip {
    until: Mark,
    passed: usize,
}

impl Skip {
    fn is_known(&mut self, at: Wall) -> bool {
        if at == self.until.at && self.passed < self.until.seen {
            self.passed += 1;
            return true;
        }
        at < self.until.at
    }
}

/// Follows a container until it ends. `new` says that nothing of it can be in the book yet; `at` is about now, for
/// what there is to say.
pub(super) async fn follow(shared: &Shared, instance: &Instance, new: bool, at: Wall) {
    let Some(container) = instance.container() else { return };
    let mut mark = if new { Mark::default() } else { Mark::of_book(shared, &instance.id) };
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        // Asked before reading: what it wrote until its end is then certainly read.
        let last = instance.is_ended();
        let before = mark;
        match read(shared, &instance.id, container, true, &mut mark).await {
            End::Closed if last => break,
            End::Closed => {}
            End::Gone => break,
            End::Impossible(reason) => {
                shared.logs.system(at, &instance.id, impossible(&reason));
                break;
            }
        }
        if mark != before {
            backoff.reset();
        }
        tokio::select! {
            () = instance.wait_ended() => {}
            () = backoff.wait() => {}
        }
    }
    instance.set_captured();
}

/// Reads what a container that ended has left to say.
pub(super) async fn rest(shared: &Shared, id: &InstanceId, container: &str) {
    let mut mark = Mark::of_book(shared, id);
    // Whatever stands in the way, the container is cleared away next; there is no later try.
    let _: End = read(shared, id, container, false, &mut mark).await;
}

fn impossible(reason: &str) -> String {
    format!("what this instance writes cannot be shown here: its log driver does not allow reading ({reason})")
}

enum End {
    /// The stream is at its end, or broke.
    Closed,
    /// The container does not exist any more.
    Gone,
    /// The log driver keeps nothing that can be read.
    Impossible(String),
}

async fn read(shared: &Shared, id: &InstanceId, container: &str, follow: bool, mark: &mut Mark) -> End {
    let since = i32::try_from(mark.at.0 / 1000).unwrap_or(i32::MAX);
    let options =
        LogsOptionsBuilder::new().follow(follow).stdout(true).stderr(true).timestamps(true).since(since).build();
    let docker = shared.client.docker();
    let mut chunks = docker.logs(container, Some(options)).ready_chunks(BATCH);
    let component = id.component();
    let mut skip = Skip { until: *mark, passed: 0 };
    while let Some(chunk) = chunks.next().await {
        let mut lines = Vec::with_capacity(chunk.len());
        let mut end = None;
        for output in chunk {
            let output = match output {
                Ok(output) => output,
                Err(error) => {
                    let call = shared.client.explain("logs", &error);
                    end = Some(match call.status {
                        Some(404) => End::Gone,
                        // Docker says 409 while it removes a container, and 5xx when a driver cannot be read.
                        Some(409) => End::Closed,
                        Some(_) => End::Impossible(call.message),
                        None => End::Closed,
                    });
                    break;
                }
            };
            let (at, stream, text) = parse(&output, mark.at);
            if skip.is_known(at) {
                continue;
            }
            mark.advance(at);
            lines.push(Line { at, instance: id.clone(), stream, text: text.into_owned() });
        }
        shared.logs.append(&component, lines);
        if let Some(end) = end {
            return end;
        }
    }
    End::Closed
}

/// Takes the time off a line. One without (a driver that keeps none) counts as written at the `last` one.
fn parse(output: &LogOutput, last: Wall) -> (Wall, Stream, std::borrow::Cow<'_, str>) {
    let (stream, bytes) = match output {
        LogOutput::StdErr { message } => (Stream::Stderr, message),
        LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
            (Stream::Stdout, message)
        }
    };
    if let Some(space) = bytes.iter().take(40).position(|byte| *byte == b' ')
        && let Ok(time) = std::str::from_utf8(&bytes[..space])
        && let Some(at) = wall(time)
    {
        return (at, stream, String::from_utf8_lossy(&bytes[space + 1..]));
    }
    (last, stream, String::from_utf8_lossy(bytes))
}

/// Reads a time as Docker writes it: RFC 3339 with up to nine digits of a second.
pub(super) fn wall(text: &str) -> Option<Wall> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok().map(Wall)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_loses_its_time_and_nothing_else() {
        let message = "2026-11-23T19:04:07.681030754Z hello  world\n".into();
        let output = LogOutput::StdErr { message };
        let (at, stream, text) = parse(&output, Wall(0));
        assert_eq!((at, stream, &*text), (Wall(1_795_460_647_681), Stream::Stderr, "hello  world\n"));
    }

    #[test]
    fn a_line_without_time_is_kept_whole() {
        let output = LogOutput::StdOut { message: "no time here".into() };
        assert_eq!(parse(&output, Wall(9)), (Wall(9), Stream::Stdout, "no time here".into()));
    }

    #[test]
    fn reading_anew_gives_no_line_twice_and_loses_none_of_the_same_millisecond() {
        let all = [1, 5, 5, 5, 7].map(Wall);
        for known in 0..=all.len() {
            let mut skip = Skip { until: Mark::of(all[..known].iter().copied()), passed: 0 };
            let new: Vec<Wall> = all.into_iter().filter(|at| !skip.is_known(*at)).collect();
            assert_eq!(new, all[known..], "{known} known");
        }
    }
}

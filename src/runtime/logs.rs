//! The log book: what instances write, kept on disk within bounds and handed to those who follow along.
//!
//! It outlives instances and the daemon. Text is kept as it came, whatever it may do to a terminal; it is made
//! harmless only when displayed ([`Line`]'s `Display`). Knows nothing of processes, containers or HTTP.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;

use crate::id::{ComponentName, InstanceId};
use crate::time::Wall;

mod segments;

use segments::Segments;

/// The longest line in bytes; a longer one is kept as several. 16 KiB is what Docker's own log splits at, so both
/// runtimes show the same lines.
pub const LINE_MAX: usize = 16 * 1024;

/// Lines that a follower may lag behind. At 100 bytes a line this is 100 KiB per component that is followed; a
/// terminal over ssh prints about 10,000 lines a second, so 1024 covers a stall of 100 ms.
const FOLLOW_LAG: usize = 1024;

/// Books with an open file at once. Each costs one of the 1024 descriptors that a process has by default; opening a
/// closed one again costs about 20 µs.
const OPEN_MAX: usize = 128;

/// How long the logs of a removed component are kept: a week, so that what failed on a Friday can be read on Monday.
const REMOVED_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Bytes that the logs of all removed components may take: eight full books.
const REMOVED_BYTES: u64 = 8 * 2 * segments::SEGMENT_MAX;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Standard output of the instance.
    Stdout,
    /// Standard error of the instance.
    Stderr,
    /// What the runtime says about the instance.
    System,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::System => "system",
        })
    }
}

/// One line of an instance. `Display` gives the text alone, safe for a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When it was read.
    pub at: Wall,
    /// Who wrote it, or whom it is about.
    pub instance: InstanceId,
    /// Where it came from.
    pub stream: Stream,
    /// What it says: no line feed, at most [`LINE_MAX`] bytes, otherwise as it was written.
    pub text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&sanitized(&self.text))
    }
}

/// Replaces what could move the cursor, change colours or reorder text on a terminal by its escape (`\u{1b}`).
/// Tabs stay.
pub fn sanitized(text: &str) -> Cow<'_, str> {
    // The bidirectional controls can make a line read as another one.
    let bad = |c: char| {
        (c.is_control() && c != '\t')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(bad) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if bad(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// What a follower receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// The next line.
    Line(Arc<Line>),
    /// The follower was too slow: this many lines were passed over. They are still in the book.
    Gap(u64),
}

/// Lines of one component as they come. Bounded: a reader that is too slow gets [`Followed::Gap`].
#[derive(Debug)]
pub struct Follow {
    lines: broadcast::Receiver<Arc<Line>>,
    instance: Option<InstanceId>,
}

impl Follow {
    /// Waits for the next line. `None` once the book itself is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<Followed> {
        loop {
            match self.lines.recv().await {
                Ok(line) if self.instance.as_ref().is_none_or(|wanted| *wanted == line.instance) => {
                    return Some(Followed::Line(line));
                }
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(count)) => return Some(Followed::Gap(count)),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// The log of one component.
#[derive(Debug)]
struct Book {
    segments: Segments,
    /// There while anyone follows.
    followers: Option<broadcast::Sender<Arc<Line>>>,
    /// Lines that could not be written since the last that could.
    lost: u64,
    /// Number of the last use of any book, to close the file that was not used for longest.
    used: u64,
}

/// All logs of this node. Cheap to use from many tasks; calls touch files in the page cache and take microseconds,
/// except [`LogBook::tail`], which may read a whole book (milliseconds).
#[derive(Debug)]
pub struct LogBook {
    dir: PathBuf,
    books: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    books: BTreeMap<ComponentName, Arc<Mutex<Book>>>,
    uses: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while a book is written leaves at worst a torn line, which reading tolerates.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LogBook {
    /// Opens the logs under `data_dir/logs`, readable by the owner alone.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let dir = data_dir.join("logs");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { dir, books: Mutex::default() })
    }

    /// The time to put on a line that has none of its own: that of reading it. Read here and not handed down, because
    /// lines come between two turns of any loop.
    #[expect(clippy::disallowed_methods, reason = "the stamp of a line decides nothing")]
    pub fn stamp() -> Wall {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// Writes lines of one component, oldest first. Text with line feeds becomes several lines, and text longer than
    /// [`LINE_MAX`] too. A full disk does not stop an instance: what cannot be written is counted, and the count is
    /// written as a system line as soon as the disk takes one again.
    pub fn append(&self, component: &ComponentName, lines: impl IntoIterator<Item = Line>) {
        let book = self.book(component);
        let mut book = lock(&book);
        let mut ready = Vec::new();
        for line in lines {
            split(line, &mut ready);
        }
        let Some(first) = ready.first() else { return };
        if book.lost > 0 {
            let text = format!("{} lines before this one could not be written to the log", book.lost);
            ready.insert(0, Line { at: first.at, instance: first.instance.clone(), stream: Stream::System, text });
        }
        match book.segments.write(&ready) {
            Ok(()) => book.lost = 0,
            Err(error) => {
                if book.lost == 0 {
                    tracing::warn!(%component, error = &error as &dyn std::error::Error, "cannot write the log");
                }
                book.lost += ready.len() as u64;
            }
        }
        if let Some(followers) = &book.followers {
            for line in ready {
                // Fails if nobody listens any more; the next lines then are not sent at all.
                if followers.send(Arc::new(line)).is_err() {
                    book.followers = None;
                    break;
                }
            }
        }
    }

    /// Writes one line of the runtime itself about an instance.
    pub fn system(&self, at: Wall, instance: &InstanceId, text: impl Into<String>) {
        let line = Line { at, instance: instance.clone(), stream: Stream::System, text: text.into() };
        self.append(&instance.component(), [line]);
    }

    /// The last `count` lines of a component, or of one of its instances, oldest first. Empty if there are none or
    /// they cannot be read.
    pub fn tail(&self, component: &ComponentName, count: usize, instance: Option<&InstanceId>) -> Vec<Line> {
        let book = self.book(component);
        let mut book = lock(&book);
        book.segments.tail(count, instance)
    }

    /// The last `count` lines of an instance that may be gone already, oldest first: for the answer that says why it
    /// failed. Without time and stream; not sanitised.
    pub fn last_lines(&self, instance: &InstanceId, count: usize) -> Vec<String> {
        let lines = self.tail(&instance.component(), count, Some(instance));
        lines.into_iter().map(|line| line.text).collect()
    }

    /// The last `count` lines, and from then on every line as it comes: none twice, none between lost.
    pub fn follow(
        &self,
        component: &ComponentName,
        count: usize,
        instance: Option<&InstanceId>,
    ) -> (Vec<Line>, Follow) {
        let book = self.book(component);
        let mut book = lock(&book);
        let lines = book.followers.get_or_insert_with(|| broadcast::channel(FOLLOW_LAG).0).subscribe();
        (book.segments.tail(count, instance), Follow { lines, instance: instance.cloned() })
    }

    /// Deletes logs of components that are not `known` any more: those older than a week, and the oldest beyond
    /// 64 MiB in all. To be called about once an hour; may take milliseconds.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn sweep(&self, now: Wall, known: &BTreeSet<ComponentName>) -> io::Result<()> {
        let mut removed = segments::list(&self.dir)?;
        removed.retain(|found| !known.contains(&found.component));
        // Newest first: what comes after the bound is reached goes.
        removed.sort_by_key(|found| std::cmp::Reverse(found.written));
        let mut kept = 0;
        for found in removed {
            kept += found.bytes;
            let age = Duration::from_millis(now.0.saturating_sub(found.written.0));
            if age > REMOVED_AGE || kept > REMOVED_BYTES {
                let book = self.book(&found.component);
                lock(&book).segments.delete();
                lock(&self.books).books.remove(&found.component);
            }
        }
        Ok(())
    }

    /// The book of a component; closes the file of another if too many are open.
    fn book(&self, component: &ComponentName) -> Arc<Mutex<Book>> {
        let mut shelf = lock(&self.books);
        shelf.uses += 1;
        let used = shelf.uses;
        let book = shelf.books.entry(component.clone()).or_insert_with(|| {
            let segments = Segments::new(&self.dir, component);
            Arc::new(Mutex::new(Book { segments, followers: None, lost: 0, used }))
        });
        let book = Arc::clone(book);
        if shelf.books.len() > OPEN_MAX {
            shelf.close_oldest(&book);
        }
        drop(shelf);
        lock(&book).used = used;
        book
    }
}

impl Shelf {
    /// Drops the book not used for longest that nobody uses now. What is in it stays on disk.
    fn close_oldest(&mut self, except: &Arc<Mutex<Book>>) {
        let idle = |book: &Arc<Mutex<Book>>| {
            // One reference: ours. A book with followers is not dropped, or they would hear of an end.
            if Arc::ptr_eq(book, except) || Arc::strong_count(book) > 1 {
                return None;
            }
            let book = book.try_lock().ok()?;
            let followed = book.followers.as_ref().is_some_and(|followers| followers.receiver_count() > 0);
            (!followed).then_some(book.used)
        };
        let oldest = self.books.iter().filter_map(|(name, book)| Some((idle(book)?, name.clone()))).min();
        if let Some((_, name)) = oldest {
            self.books.remove(&name);
        }
    }
}

/// Cuts a text at line feeds and at [`LINE_MAX`], on character boundaries.
fn split(line: Line, into: &mut Vec<Line>) {
    let text = line.text.strip_suffix('\n').unwrap_or(&line.text);
    if text.len() <= LINE_MAX && !text.contains('\n') {
        let text = text.strip_suffix('\r').unwrap_or(text).to_owned();
        into.push(Line { text, ..line });
        return;
    }
    for mut part in text.split('\n') {
        part = part.strip_suffix('\r').unwrap_or(part);
        loop {
            let cut = part.floor_char_boundary(LINE_MAX);
            let (head, rest) = part.split_at(cut);
            into.push(Line { text: head.to_owned(), instance: line.instance.clone(), ..line });
            part = rest;
            if part.is_empty() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests;

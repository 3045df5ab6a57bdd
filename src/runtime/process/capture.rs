//! What an instance writes, from its files into the log book.
//!
//! Standard output and error are files, not pipes: a pipe breaks with the daemon (SIGPIPE), or fills up and stops the
//! program while nobody reads. The price is that a file grows; so what was read is given back to the file system at
//! once by punching a hole, which needs no help of the writer. While the daemon is down files grow with what the
//! instance writes, and shrink again when it is back.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};

use super::record::Home;
use crate::id::{ComponentName, InstanceId};
use crate::runtime::logs::{LINE_MAX, Line, LogBook, Stream};

/// Bytes read at once. The largest piece that is handled between two looks at anything else: under a millisecond.
const CHUNK: usize = 64 * 1024;

/// Bytes per stream before the caller gets its turn: about 5 ms of work.
const TURN: usize = 16 * CHUNK;

/// Unread bytes beyond which all but the newest are passed over: as much as the book can hold, so that only lines are
/// lost that would fall out of the book anyway.
const BACKLOG_MAX: u64 = 8 * 1024 * 1024;

/// What is kept of such a backlog: the newest. Short lines take six times their length in the book, and the line that
/// tells of the gap must not fall out of it at once.
const BACKLOG_KEPT: u64 = 512 * 1024;

/// Read bytes that are given back at once. Punching costs some 10 µs, and a file is never longer than the backlog plus
/// this.
const FREE_STEP: u64 = 256 * 1024;

/// File system blocks are at most this large; holes are punched on their boundaries.
const BLOCK: u64 = 4096;

#[derive(Debug)]
struct Output {
    stream: Stream,
    file: File,
    /// Offset of the first byte that is not in the book.
    position: u64,
    /// Offset up to which the file is a hole.
    freed: u64,
}

/// Both streams of one instance.
#[derive(Debug)]
pub(super) struct Capture {
    component: ComponentName,
    instance: InstanceId,
    logs: Arc<LogBook>,
    outputs: [Output; 2],
    /// Where the positions are kept, so that a restarted daemon repeats no line.
    positions: File,
}

/// Makes the files that an instance writes to: output and error, to be handed to it.
pub(super) fn create(home: &Home) -> io::Result<(File, File)> {
    let open = |name: &str| OpenOptions::new().append(true).create(true).mode(0o600).open(home.log().join(name));
    Ok((open("out")?, open("err")?))
}

impl Capture {
    /// Begins where the last reader of this instance stopped.
    pub(super) fn open(home: &Home, instance: &InstanceId, logs: Arc<LogBook>) -> io::Result<Self> {
        let positions = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(home.0.join("position"))?;
        let mut kept = [0; 16];
        // Shorter than that is the empty file of a new instance.
        let kept = positions.read_exact_at(&mut kept, 0).map(|()| kept).unwrap_or_default();
        let (out, err) = kept.split_at(8);
        let position = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        let outputs = [
            Output::open(&home.log().join("out"), Stream::Stdout, position(out))?,
            Output::open(&home.log().join("err"), Stream::Stderr, position(err))?,
        ];
        Ok(Self { component: instance.component(), instance: instance.clone(), logs, outputs, positions })
    }

    /// Takes over what there is. At the end (`last`) a line without line feed too. True if there is more.
    pub(super) fn drain(&mut self, last: bool) -> bool {
        let mut more = false;
        let before = [self.outputs[0].position, self.outputs[1].position];
        for output in &mut self.outputs {
            let read = output.drain(last, &mut |stream, texts| {
                let at = LogBook::stamp();
                let line = |text| Line { at, instance: self.instance.clone(), stream, text };
                self.logs.append(&self.component, texts.into_iter().map(line));
            });
            match read {
                Ok(rest) => more |= rest,
                Err(error) => {
                    tracing::warn!(instance = %self.instance, error = &error as &dyn std::error::Error, "cannot read its output");
                }
            }
        }
        let now = [self.outputs[0].position, self.outputs[1].position];
        if now != before {
            let bytes: Vec<u8> = now.iter().flat_map(|position| position.to_le_bytes()).collect();
            // A position that is lost costs lines that come twice, after a crash.
            _ = self.positions.write_all_at(&bytes, 0);
        }
        more
    }
}

impl Output {
    fn open(path: &Path, stream: Stream, position: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { stream, file, position, freed: position / BLOCK * BLOCK })
    }

    /// Returns whether there is more.
    fn drain(&mut self, last: bool, sink: &mut impl FnMut(Stream, Vec<String>)) -> io::Result<bool> {
        let mut chunk = vec![0; CHUNK];
        let mut taken = 0;
        loop {
            let count = self.file.read_at(&mut chunk, self.position)?;
            let used = lines_in(&chunk[..count], last, |texts| sink(self.stream, texts));
            self.position += used as u64;
            taken += used;
            self.free();
            if used == 0 || (count < CHUNK && !last) {
                return Ok(false);
            }
            if taken >= TURN {
                self.skip_backlog(sink)?;
                return Ok(true);
            }
        }
    }

    /// Gives up the older part of what was written faster than it can be read.
    fn skip_backlog(&mut self, sink: &mut impl FnMut(Stream, Vec<String>)) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let backlog = length.saturating_sub(self.position);
        if backlog > BACKLOG_MAX {
            let skipped = backlog - BACKLOG_KEPT;
            self.position += skipped;
            sink(
                Stream::System,
                vec![format!("{skipped} bytes of {} passed over: written faster than they can be kept", self.stream)],
            );
            self.free();
        }
        Ok(())
    }

    /// Gives read bytes back to the file system.
    fn free(&mut self) {
        let end = self.position / BLOCK * BLOCK;
        if end < self.freed + FREE_STEP {
            return;
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if fallocate(&self.file, flags, self.freed, end - self.freed).is_err() {
            // A file system without holes. The file is cut when all was read; a line written just now may be lost.
            if self.file.metadata().is_ok_and(|about| about.len() == self.position) && self.file.set_len(0).is_ok() {
                self.position = 0;
                self.freed = 0;
            }
            return;
        }
        self.freed = end;
    }
}

/// Gives whole lines on; returns the bytes used. What may still grow stays, unless it is longer than a line may be.
fn lines_in(bytes: &[u8], last: bool, sink: impl FnOnce(Vec<String>)) -> usize {
    let end = match bytes.iter().rposition(|byte| *byte == b'\n') {
        Some(at) => at + 1,
        None if last => bytes.len().min(LINE_MAX),
        None if bytes.len() >= LINE_MAX => LINE_MAX,
        None => return 0,
    };
    let whole = bytes[..end].strip_suffix(b"\n").unwrap_or(&bytes[..end]);
    if end > 0 {
        sink(whole.split(|byte| *byte == b'\n').map(|line| String::from_utf8_lossy(line).into_owned()).collect());
    }
    end
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_line_is_taken_when_it_is_whole_and_the_last_one_at_the_end() {
        let mut bench = Bench::new();
        bench.write(b"one\ntw");
        assert_eq!(bench.drain(false), ["one"]);
        bench.write(b"o\nthree");
        assert_eq!(bench.drain(false), ["one", "two"]);
        assert_eq!(bench.drain(true), ["one", "two", "three"]);
    }

    #[test]
    fn a_reader_that_begins_again_repeats_no_line() {
        let mut bench = Bench::new();
        bench.write(b"one\ntwo\nthr");
        bench.drain(false);
        bench.capture = Capture::open(&bench.home, &bench.instance, Arc::clone(&bench.logs)).expect("a capture");
        bench.write(b"ee\n");
        assert_eq!(bench.drain(true), ["one", "two", "three"]);
    }

    #[test]
    fn the_disk_space_of_what_was_read_is_given_back() {
        let mut bench = Bench::new();
        for _ in 0..40 {
            bench.write("some line of forty characters, no more.\n".repeat(5000).as_bytes());
            while bench.capture.drain(false) {}
        }
        let used = bench.out.metadata().expect("its size").blocks() * 512;
        assert!(used < 2 * FREE_STEP, "{used} bytes of 8 MB are still there");
    }

    #[test]
    fn a_flood_is_passed_over_visibly() {
        let mut bench = Bench::new();
        bench.write("0123456789abcde\n".repeat(2 * 1024 * 1024).as_bytes());
        while bench.capture.drain(false) {}
        let lines = bench.logs.tail(&bench.instance.component(), 1_000_000, None);
        let gap = lines.iter().find(|line| line.stream == Stream::System).expect("a gap is told");
        assert!(gap.text.contains("passed over"), "{gap:?}");
    }

    #[test]
    fn a_line_without_end_is_taken_in_pieces() {
        let mut bench = Bench::new();
        bench.write(&vec![b'x'; LINE_MAX + 10]);
        assert_eq!(bench.drain(false).len(), 1);
        assert_eq!(bench.drain(true).iter().map(String::len).sum::<usize>(), LINE_MAX + 10);
    }

    struct Bench {
        _dir: tempfile::TempDir,
        home: Home,
        instance: InstanceId,
        logs: Arc<LogBook>,
        out: File,
        capture: Capture,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let instance: InstanceId = "api-1".parse().expect("an id");
            let home = Home(dir.path().join("api-1"));
            home.create(false).expect("a home");
            let (out, _) = create(&home).expect("files");
            let logs = Arc::new(LogBook::open(dir.path()).expect("a log book"));
            let capture = Capture::open(&home, &instance, Arc::clone(&logs)).expect("a capture");
            Self { _dir: dir, home, instance, logs, out, capture }
        }

        fn write(&mut self, bytes: &[u8]) {
            self.out.write_all(bytes).expect("written");
        }

        fn drain(&mut self, last: bool) -> Vec<String> {
            self.capture.drain(last);
            self.logs.last_lines(&self.instance, 1000)
        }
    }
}

//! The two files of one book on disk, and how a line looks in them: `<ms since 1970> <o|e|s> <instance> <text>`.
//! Readable with `less`, and a torn last line harms nothing but itself.
//!
//! Knows nothing of followers.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::{Line, Stream};
use crate::id::{ComponentName, InstanceId};
use crate::time::Wall;

/// The size of one of the two files in bytes, at most. 4 MiB is about 40,000 lines: an hour at ten lines a second.
/// A thousand components with full books then take 8 GiB, and reading one whole book takes about 10 ms.
pub(super) const SEGMENT_MAX: u64 = 4 * 1024 * 1024;

/// Bytes read at once from the end of a file. Holds about 600 lines: most questions are for fewer.
const BLOCK: u64 = 64 * 1024;

/// Current and previous file. The current is opened when first written.
#[derive(Debug)]
pub(super) struct Segments {
    current: PathBuf,
    previous: PathBuf,
    open: Option<(File, u64)>,
}

/// A book found on disk.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) component: ComponentName,
    pub(super) bytes: u64,
    pub(super) written: Wall,
}

/// All books in a directory.
pub(super) fn list(dir: &Path) -> io::Result<Vec<Found>> {
    let mut all: Vec<Found> = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.split('.').next()) else { continue };
        // Only what we could have written; anything else in the directory is left alone.
        let (Ok(component), Ok(about)) = (name.parse::<ComponentName>(), entry.metadata()) else { continue };
        let modified = about.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let written = Wall(u64::try_from(modified.as_millis()).unwrap_or(u64::MAX));
        match all.iter_mut().find(|found| found.component == component) {
            Some(found) => {
                found.bytes += about.len();
                found.written = found.written.max(written);
            }
            None => all.push(Found { component, bytes: about.len(), written }),
        }
    }
    Ok(all)
}

impl Segments {
    pub(super) fn new(dir: &Path, component: &ComponentName) -> Self {
        let current = dir.join(format!("{component}.log"));
        Self { previous: dir.join(format!("{component}.log.1")), current, open: None }
    }

    /// Writes all lines or none.
    pub(super) fn write(&mut self, lines: &[Line]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(lines.iter().map(|line| line.text.len() + 96).sum());
        for line in lines {
            encode(line, &mut bytes);
        }
        let (mut file, mut size) = match self.open.take() {
            Some(open) => open,
            None => self.open_current()?,
        };
        if size > 0 && size + bytes.len() as u64 > SEGMENT_MAX {
            drop(file);
            std::fs::rename(&self.current, &self.previous)?;
            (file, size) = self.open_current()?;
        }
        if let Err(error) = file.write_all(&bytes) {
            // Half a line in the middle of the file would swallow the next one. If even this fails, the file is
            // repaired when it is opened next.
            if file.set_len(size).is_ok() {
                self.open = Some((file, size));
            }
            return Err(error);
        }
        self.open = Some((file, size + bytes.len() as u64));
        Ok(())
    }

    /// Opens the current file; a last line torn by a crash is cut off.
    fn open_current(&self) -> io::Result<(File, u64)> {
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.current)?;
        let mut size = file.metadata()?.len();
        let whole = end_of_whole_lines(&file, size)?;
        if whole < size {
            file.set_len(whole)?;
            size = whole;
        }
        Ok((file, size))
    }

    /// The last `count` lines, oldest first.
    pub(super) fn tail(&mut self, count: usize, instance: Option<&InstanceId>) -> Vec<Line> {
        let mut lines = Vec::new();
        for path in [&self.current, &self.previous] {
            // A file that is not there has no lines.
            let Ok(file) = File::open(path) else { continue };
            // What was read before an error is still worth showing.
            _ = read_back(&file, |bytes| {
                if let Some(line) = decode(bytes).filter(|line| instance.is_none_or(|one| *one == line.instance)) {
                    lines.push(line);
                }
                lines.len() < count
            });
            if lines.len() >= count {
                break;
            }
        }
        lines.truncate(count);
        lines.reverse();
        lines
    }

    /// Removes both files.
    pub(super) fn delete(&mut self) {
        self.open = None;
        for path in [&self.current, &self.previous] {
            // Gone already is what was wanted; anything else is tried again at the next sweep.
            _ = std::fs::remove_file(path);
        }
    }
}

fn end_of_whole_lines(file: &File, size: u64) -> io::Result<u64> {
    let mut end = size;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        block.resize((end - start) as usize, 0);
        file.read_exact_at(&mut block, start)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Gives each whole line from the last to the first, until `more` says no.
fn read_back(file: &File, mut more: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let mut end = file.metadata()?.len();
    // The beginning of a line whose end was in the block before. `None` until the first line feed was seen: what is
    // after the last line feed is torn.
    let mut rest: Option<Vec<u8>> = None;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let mut block = vec![0; (end - start) as usize];
        file.read_exact_at(&mut block, start)?;
        let mut parts = block.rsplit(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            let first_of_block = parts.peek().is_none();
            let line = match rest.take() {
                Some(tail) if tail.is_empty() => Some(part.to_vec()),
                Some(tail) => Some([part, &tail].concat()),
                None => None,
            };
            if first_of_block {
                rest = match line {
                    Some(line) => Some(line),
                    None if block.contains(&b'\n') => Some(part.to_vec()),
                    None => None,
                };
                break;
            }
            if let Some(line) = line
                && !more(&line)
            {
                return Ok(());
            }
            rest = Some(Vec::new());
        }
        end = start;
    }
    if let Some(line) = rest {
        more(&line);
    }
    Ok(())
}

fn encode(line: &Line, into: &mut Vec<u8>) {
    let tag = match line.stream {
        Stream::Stdout => 'o',
        Stream::Stderr => 'e',
        Stream::System => 's',
    };
    into.extend_from_slice(format!("{} {tag} {} ", line.at.0, line.instance).as_bytes());
    into.extend_from_slice(line.text.as_bytes());
    into.push(b'\n');
}

/// `None` for anything that `encode` did not write.
fn decode(bytes: &[u8]) -> Option<Line> {
    let mut parts = std::str::from_utf8(bytes).ok()?.splitn(4, ' ');
    let at = Wall(parts.next()?.parse().ok()?);
    let stream = match parts.next()? {
        "o" => Stream::Stdout,
        "e" => Stream::Stderr,
        "s" => Stream::System,
        _ => return None,
    };
    Some(Line { at, stream, instance: parts.next()?.parse().ok()?, text: parts.next()?.to_owned() })
}

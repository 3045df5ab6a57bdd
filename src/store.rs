//! What a node must not forget, in its data directory: who it is, how often it started, its clock, its registers.
//!
//! Every call blocks on the disk, so the daemon calls from a thread that may. Decides nothing: it keeps what the
//! registry says and gives it back. Layout of the directory: `lock`, held while a daemon runs, and `registry.redb`.
//!
//! The file is one embedded database (redb): copy on write, checksummed pages, one fsync per commit. Each record has a
//! checksum of its own on top, so that a damaged row is found even where the pages are sound.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use redb::Database;

use crate::crdt::clock::Hlc;
use crate::crdt::registry::Change;
use crate::crdt::row::{Key, Register};
use crate::id::{ClusterId, NodeId};
use crate::rng::Rng;

mod error;
mod file;

pub use error::StoreError;

/// The format that this release writes, and the newest it can read. Goes up when an older release could no longer make
/// sense of the file.
///
/// 1: rows in the order of their keys. 2: in that of their places, in which they come from peers, so that a node that
/// joins appends.
pub const FORMAT: u64 = 2;

/// A row that could not be read and was put aside in the file, unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Its key, as far as it can be read.
    pub key: String,
    /// What is wrong with it.
    pub why: String,
}

/// What the data directory held.
#[derive(Debug)]
pub struct Loaded {
    /// Who this node is.
    pub node: NodeId,
    /// Which cluster it belongs to. Made up at the first start; a node that joins another takes that one's over.
    pub cluster: ClusterId,
    /// Which start this is, from 1. Durable already.
    pub epoch: u64,
    /// The clock's high-water mark.
    pub hlc: Hlc,
    /// All registers, in the order of their places.
    pub registers: Vec<(Key, Register)>,
    /// Rows that were put aside at this start; worth a warning each.
    pub quarantined: Vec<Quarantined>,
    /// Whether the directory was empty.
    pub is_first_start: bool,
}

/// The open data directory of this node.
///
/// Invariant: what [`Store::commit`] acknowledged is found by the next [`Store::open`], whatever ends the process.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// None after a failure: redb refuses all work then, and is opened anew by the next call.
    database: Option<Database>,
    /// Keeps other processes out for as long as it is open.
    _lock: Lock,
}

impl Store {
    /// Opens the data directory, and makes it at the first start with ids drawn from `seed` (which must come from the
    /// system's randomness then; later it is not used). Bumps the epoch.
    ///
    /// # Errors
    /// One sentence for the operator: what is wrong with which path and what to do. Never panics on what is in the
    /// files and never replaces a file that it cannot read.
    pub fn open(dir: &Path, seed: u64) -> Result<(Self, Loaded), StoreError> {
        let at = |doing| move |source| StoreError::from_io(dir, doing, source);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at("create"))?;
        let lock = lock(dir)?;
        let path = dir.join("registry.redb");
        let is_first_start = !path.try_exists().map_err(at("read"))?;
        if is_first_start {
            create(dir, &path, seed)?;
        }
        let database = guard(&path, "open", || file::open(&path))?;
        let (database, mut loaded) = guard(&path, "read", || {
            let loaded = file::load(&database, &path)?;
            Ok((database, loaded))
        })?;
        loaded.is_first_start = is_first_start;
        Ok((Self { path, database: Some(database), _lock: lock }, loaded))
    }

    /// Makes registers and the clock's high-water mark durable, all or nothing: when it returns, they are on the disk.
    /// One call costs one fsync however many changes it carries, so gather what waits.
    ///
    /// # Errors
    /// Nothing of it is kept, except that after [`StoreError::Io`] nobody can know what the disk did. The store stays
    /// usable: each call tries anew.
    pub fn commit(&mut self, changes: &[Change], hlc: Hlc) -> Result<(), StoreError> {
        self.with("write", |database| file::commit(database, changes, hlc))
    }

    /// Removes the registers of forgotten keys, durably.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn forget(&mut self, keys: &[Key]) -> Result<(), StoreError> {
        self.with("write", |database| file::forget(database, keys))
    }

    /// Takes over the id of the cluster that this node has joined, durably.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn set_cluster(&mut self, cluster: ClusterId) -> Result<(), StoreError> {
        self.with("write", |database| file::set_cluster(database, cluster))
    }

    /// Keeps a small piece of bytes of another module under a name, durably; none removes it.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn set_note(&mut self, name: &str, bytes: Option<&[u8]>) -> Result<(), StoreError> {
        self.with("write", |database| file::set_note(database, name, bytes))
    }

    /// Reads a note back.
    ///
    /// # Errors
    /// If the file cannot be read, or the note in it is damaged.
    pub fn note(&mut self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.with("read", |database| file::note(database, name))
    }

    fn with<T>(
        &mut self,
        doing: &'static str,
        act: impl FnOnce(&Database) -> Result<T, file::Failure>,
    ) -> Result<T, StoreError> {
        let path = self.path.clone();
        let database = match self.database.take() {
            Some(database) => database,
            None => guard(&path, "open", || file::open(&path))?,
        };
        // A database that failed is closed inside the guard: closing writes too.
        let (database, value) = guard(&path, doing, || act(&database).map(|value| (database, value)))?;
        self.database = Some(database);
        Ok(value)
    }
}

/// Runs one piece of work on the file. redb documents that it may panic on a file that was altered outside of it, and
/// turns "cannot happen" checks into panics in debug builds; that must not take the node down, so a panic is an answer
/// here: the file is damaged. Nothing that the closure touched is used again after a panic.
fn guard<T>(path: &Path, doing: &'static str, act: impl FnOnce() -> Result<T, file::Failure>) -> Result<T, StoreError> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(failure)) => Err(failure.at(path, doing)),
        Err(_) => Err(StoreError::Damaged { path: path.to_owned(), why: "its inner structure is broken".to_owned() }),
    }
}

/// Keeps other processes out until it is dropped, or the process ends, however it ends.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // To close the file is not enough: a process that is being started holds a copy of it until its program runs.
        let _ = self.0.unlock();
    }
}

/// Takes the lock of a data directory.
fn lock(dir: &Path) -> Result<Lock, StoreError> {
    let path = dir.join("lock");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).map_err(|source| StoreError::from_io(&path, "open", source))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Only for the message; whoever holds it may be writing just now.
            let _ = file.take(20).read_to_string(&mut holder);
            let holder = holder.trim().parse::<u32>().map(|id| format!(" (process {id})")).unwrap_or_default();
            return Err(StoreError::InUse { dir: dir.to_owned(), holder });
        }
        Err(TryLockError::Error(source)) => return Err(StoreError::from_io(&path, "lock", source)),
    }
    // Who holds it is a courtesy to the next one: on a full disk the node must still start.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(Lock(file))
}

/// Makes the file under another name and moves it in place when it is whole, so that a file that is there but empty
/// or half written is always damage and never a first start.
fn create(dir: &Path, path: &Path, seed: u64) -> Result<(), StoreError> {
    let new = dir.join("registry.redb.new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(StoreError::from_io(&new, "replace", error));
        }
        _ => {}
    }
    let mut rng = Rng::from_seed(seed);
    let (node, cluster) = (NodeId(rng.next_u64()), ClusterId(rng.next_u64()));
    guard(&new, "create", || file::create(&new, node, cluster))?;
    let moved = File::open(&new).and_then(|file| file.sync_all()).and_then(|()| fs::rename(&new, path));
    moved.and_then(|()| File::open(dir)?.sync_all()).map_err(|source| StoreError::from_io(path, "create", source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_with_its_owner_although_a_process_that_is_being_started_has_a_copy() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = lock(dir.path()).expect("free");
        let copy = first.0.try_clone().expect("as a fork makes it");
        assert!(lock(dir.path()).is_err());
        drop(first);
        assert!(lock(dir.path()).is_ok());
        drop(copy);
    }
}

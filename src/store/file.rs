//! The tables in the file and the transactions on them: the one place that names redb.
//!
//! Knows nothing of directories, locks or first starts.

use std::io;
use std::path::Path;

use redb::{Builder, Database, ReadableTable, Table, TableDefinition, WriteTransaction};

use crate::crdt::clock::Hlc;
use crate::crdt::registry::Change;
use crate::crdt::row::{Key, Register};
use crate::crdt::tree;
use crate::hash::Hash64;
use crate::id::{ClusterId, NodeId};
use crate::store::error::StoreError;
use crate::store::{FORMAT, Loaded, Quarantined};

type Bytes = &'static [u8];

/// Format, ids, epoch, clock, each a sealed number; and the notes of others, sealed, as `note/<name>`.
const META: TableDefinition<'_, &'static str, Bytes> = TableDefinition::new("meta");
/// The bytes of a place to a sealed register.
const ROWS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("placed");
/// The same by the bytes of keys, as format 1 had it.
const ROWS_1: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("rows");
/// Rows that could not be read, exactly as they were.
const ASIDE: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("quarantine");

/// How much of the file is cached, in bytes. All rows live in the registry anyway, so only the inner pages that a
/// commit passes through are worth memory: about 1 % of 40 MB with 100,000 rows. redb's default is 1 GiB.
const CACHE: usize = 4 << 20;

/// Why a piece of work on the file failed.
pub(super) enum Failure {
    Engine(redb::Error),
    Damaged(String),
    Newer(u64),
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Engine(error.into())
    }
}

impl Failure {
    /// The same as a sentence for the operator.
    pub(super) fn at(self, path: &Path, doing: &'static str) -> StoreError {
        let owned = path.to_owned();
        match self {
            Self::Engine(redb::Error::Io(source)) => StoreError::from_io(path, doing, source),
            Self::Engine(error @ redb::Error::DatabaseAlreadyOpen) => {
                StoreError::Io { path: owned, doing, source: io::Error::other(error) }
            }
            Self::Engine(error @ (redb::Error::PreviousIo | redb::Error::DatabaseClosed)) => {
                StoreError::Io { path: owned, doing, source: io::Error::other(error) }
            }
            Self::Engine(redb::Error::Corrupted(why)) | Self::Damaged(why) => StoreError::Damaged { path: owned, why },
            Self::Engine(error) => StoreError::Damaged { path: owned, why: error.to_string() },
            Self::Newer(found) => StoreError::Newer { path: owned, found },
        }
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    // Without the check redb trusts a file that was closed cleanly, and may panic on it or give wrong rows later.
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    builder
}

/// Opens a file that must be whole; an empty one is refused.
pub(super) fn open(path: &Path) -> Result<Database, Failure> {
    Ok(builder().open(path)?)
}

/// Makes a new file.
pub(super) fn create(path: &Path, node: NodeId, cluster: ClusterId) -> Result<(), Failure> {
    let database = builder().create(path)?;
    let change = database.begin_write()?;
    {
        let mut meta = change.open_table(META)?;
        for (name, number) in [("format", FORMAT), ("node", node.0), ("cluster", cluster.0), ("epoch", 0), ("hlc", 0)] {
            set_number(&mut meta, name, number)?;
        }
        change.open_table(ROWS)?;
        change.open_table(ASIDE)?;
    }
    change.commit()?;
    database.close()?;
    Ok(())
}

/// Reads everything, bumps the epoch and puts damaged rows aside, in one durable step.
pub(super) fn load(database: &Database, path: &Path) -> Result<Loaded, Failure> {
    let change = database.begin_write()?;
    let loaded = {
        let mut meta = change.open_table(META)?;
        let format = number(&meta, "format")?;
        if format > FORMAT {
            return Err(Failure::Newer(format));
        }
        if format == 0 {
            return Err(Failure::Damaged(format!("{} says format 0, which nobody wrote", path.display())));
        }
        let epoch = number(&meta, "epoch")?.saturating_add(1);
        set_number(&mut meta, "epoch", epoch)?;
        let mut rows = change.open_table(ROWS)?;
        if format == 1 {
            take_over(&change, &mut rows)?;
            set_number(&mut meta, "format", FORMAT)?;
        }
        let (registers, damaged) = read_rows(&rows)?;
        let mut aside = change.open_table(ASIDE)?;
        let mut quarantined = Vec::new();
        for (place, value, why) in damaged {
            aside.insert(&place[..], &value[..])?;
            rows.remove(&place[..])?;
            let key = place.get(size_of::<u64>()..).and_then(|key| Key::from_bytes(key).ok());
            let key = key.map_or_else(|| format!("{place:02x?}"), |key| key.to_string());
            quarantined.push(Quarantined { key, why });
        }
        Loaded {
            node: NodeId(number(&meta, "node")?),
            cluster: ClusterId(number(&meta, "cluster")?),
            epoch,
            hlc: Hlc(number(&meta, "hlc")?),
            registers,
            quarantined,
            is_first_start: false,
        }
    };
    change.commit()?;
    Ok(loaded)
}

/// Moves the rows of a file of format 1, unread: they are checked after that as all others are.
fn take_over(change: &WriteTransaction, rows: &mut Table<'_, Bytes, Bytes>) -> Result<(), Failure> {
    let mut all = Vec::new();
    for entry in change.open_table(ROWS_1)?.iter()? {
        let (key, value) = entry?;
        all.push((place_of(key.value()), value.value().to_vec()));
    }
    all.sort();
    for (place, value) in all {
        rows.insert(&place[..], &value[..])?;
    }
    change.delete_table(ROWS_1)?;
    Ok(())
}

/// Rows that are sound, and of the others place, value and what is wrong.
type Read = (Vec<(Key, Register)>, Vec<(Vec<u8>, Vec<u8>, String)>);

fn read_rows(rows: &Table<'_, Bytes, Bytes>) -> Result<Read, Failure> {
    let (mut registers, mut damaged) = (Vec::new(), Vec::new());
    for entry in rows.iter()? {
        let (place, value) = entry?;
        match read_row(place.value(), value.value()) {
            Ok(row) => registers.push(row),
            Err(why) => damaged.push((place.value().to_vec(), value.value().to_vec(), why)),
        }
    }
    Ok((registers, damaged))
}

fn read_row(place: &[u8], value: &[u8]) -> Result<(Key, Register), String> {
    let (hash, key) = place.split_first_chunk::<8>().ok_or("its key is cut short")?;
    let bytes = unseal(key, value).ok_or("its checksum is wrong")?;
    let key = Key::from_bytes(key).map_err(|error| error.to_string())?;
    if *hash != tree::place(key.kind(), key.name()).to_be_bytes() {
        return Err("it stands in the place of another".to_owned());
    }
    Ok((key, Register::decode(bytes).map_err(|error| error.to_string())?))
}

/// The bytes under which a row is filed, which sort as places do. Bytes that are no key get a place too, and are found
/// out when they are read.
fn place_of(key: &[u8]) -> Vec<u8> {
    let hash = Key::from_bytes(key).map_or(0, |key| tree::place(key.kind(), key.name()));
    [&hash.to_be_bytes(), key].concat()
}

/// Writes registers and the high-water mark; durable when it returns.
pub(super) fn commit(database: &Database, changes: &[Change], hlc: Hlc) -> Result<(), Failure> {
    // Of two changes of one key the later stays: the order of equal places is kept.
    let mut sorted: Vec<_> = changes.iter().map(|change| (place_of(&change.key.to_bytes()), change)).collect();
    sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
    let change = database.begin_write()?;
    {
        let mut rows = change.open_table(ROWS)?;
        for (place, Change { key, encoded }) in sorted {
            rows.insert(&place[..], &seal(&key.to_bytes(), encoded)[..])?;
        }
        let mut meta = change.open_table(META)?;
        // Callers gather changes of several writes; the mark must not go back if they come out of order.
        let mark = number(&meta, "hlc")?.max(hlc.0);
        set_number(&mut meta, "hlc", mark)?;
    }
    Ok(change.commit()?)
}

/// Removes rows.
pub(super) fn forget(database: &Database, keys: &[Key]) -> Result<(), Failure> {
    let change = database.begin_write()?;
    {
        let mut rows = change.open_table(ROWS)?;
        for key in keys {
            rows.remove(&place_of(&key.to_bytes())[..])?;
        }
    }
    Ok(change.commit()?)
}

/// Writes the cluster's id.
pub(super) fn set_cluster(database: &Database, cluster: ClusterId) -> Result<(), Failure> {
    let change = database.begin_write()?;
    set_number(&mut change.open_table(META)?, "cluster", cluster.0)?;
    Ok(change.commit()?)
}

/// Writes or removes a note.
pub(super) fn set_note(database: &Database, name: &str, bytes: Option<&[u8]>) -> Result<(), Failure> {
    let name = format!("note/{name}");
    let change = database.begin_write()?;
    {
        let mut meta = change.open_table(META)?;
        match bytes {
            Some(bytes) => meta.insert(&name[..], &seal(name.as_bytes(), bytes)[..])?,
            None => meta.remove(&name[..])?,
        };
    }
    Ok(change.commit()?)
}

/// Reads a note.
pub(super) fn note(database: &Database, name: &str) -> Result<Option<Vec<u8>>, Failure> {
    use redb::ReadableDatabase as _;
    let name = format!("note/{name}");
    let meta = database.begin_read()?.open_table(META)?;
    let Some(value) = meta.get(&name[..])? else { return Ok(None) };
    let bytes = unseal(name.as_bytes(), value.value());
    bytes.map(|bytes| Some(bytes.to_vec())).ok_or_else(|| Failure::Damaged(format!("the checksum of {name} is wrong")))
}

fn number(meta: &impl ReadableTable<&'static str, Bytes>, name: &str) -> Result<u64, Failure> {
    let value = meta.get(name)?.ok_or_else(|| Failure::Damaged(format!("{name} is missing")))?;
    let bytes = unseal(name.as_bytes(), value.value()).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u64::from_le_bytes).ok_or_else(|| Failure::Damaged(format!("the checksum of {name} is wrong")))
}

fn set_number(meta: &mut Table<'_, &'static str, Bytes>, name: &str, number: u64) -> Result<(), Failure> {
    meta.insert(name, &seal(name.as_bytes(), &number.to_le_bytes())[..])?;
    Ok(())
}

fn checksum(key: &[u8], bytes: &[u8]) -> [u8; 8] {
    let mut hash = Hash64::default();
    hash.bytes(key);
    hash.bytes(bytes);
    hash.finish().to_le_bytes()
}

/// The bytes with a checksum in front, which covers the key too: a value that slid to another key is damage.
fn seal(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut value = checksum(key, bytes).to_vec();
    value.extend_from_slice(bytes);
    value
}

fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, bytes) = value.split_first_chunk::<8>()?;
    (*sum == checksum(key, bytes)).then_some(bytes)
}

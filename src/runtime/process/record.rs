//! What is kept of each instance in `data_dir/instances/<id>/`, so that a daemon that was killed finds it again:
//! `record` (this file), `log/` with what it wrote, `position` up to where that was read, `scratch/` to work in.
//!
//! No fsync anywhere: a record is of use only while its process runs, and a machine that loses what the page cache
//! holds has lost the process too. A directory without a record belongs to a start that was cut short.

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tree;
use crate::id::{ClusterId, InstanceId, NodeId};
use crate::runtime::Owner;

/// One instance that runs, or ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: InstanceId,
    pub(super) version: String,
    pub(super) node: NodeId,
    pub(super) cluster: ClusterId,
    pub(super) address: SocketAddr,
    pub(super) pid: i32,
    /// Clock ticks from boot to its start.
    pub(super) start: u64,
    /// Which boot.
    pub(super) boot: String,
}

impl Record {
    pub(super) fn owner(&self) -> Owner {
        Owner { node: self.node, cluster: self.cluster }
    }

    /// Whether the process still runs and is the one that was started: same boot, pid, start time and group, and no
    /// mark of another instance. A program may overwrite its environment (to change its title), so that no mark at
    /// all is not held against it.
    pub(super) fn runs(&self) -> bool {
        if self.boot != tree::boot_id() {
            return false;
        }
        let Some(stat) = tree::stat(self.pid) else { return false };
        let same = stat.start == self.start && stat.group == self.pid && stat.state != 'Z';
        same && tree::marks(self.pid).is_none_or(|marks| marks.instance == self.id && marks.are_of(&self.owner()))
    }
}

/// The directory of one instance.
#[derive(Debug, Clone)]
pub(super) struct Home(pub(super) PathBuf);

impl Home {
    pub(super) fn of(instances: &Path, id: &InstanceId) -> Self {
        Self(instances.join(id.as_str()))
    }

    /// Makes the directory, for the owner alone.
    pub(super) fn create(&self, scratch: bool) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700);
        builder.create(&self.0)?;
        builder.create(self.log())?;
        if scratch { builder.create(self.scratch()) } else { Ok(()) }
    }

    pub(super) fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    pub(super) fn scratch(&self) -> PathBuf {
        self.0.join("scratch")
    }

    /// Writes the record: whole or not at all.
    pub(super) fn write(&self, record: &Record) -> io::Result<()> {
        let temporary = self.0.join("record.new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        fs::rename(temporary, self.0.join("record"))
    }

    /// The record, if there is a whole one.
    pub(super) fn read(&self) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.0.join("record")).ok()?).ok()
    }

    /// Removes everything. Gone already is no error.
    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// All instance directories, whatever is in them.
pub(super) fn homes(instances: &Path) -> io::Result<Vec<(InstanceId, Home)>> {
    let mut homes = Vec::new();
    for entry in fs::read_dir(instances)? {
        let entry = entry?;
        if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            homes.push((id, Home(entry.path())));
        }
    }
    Ok(homes)
}

//! What can go wrong with a data directory, as sentences for the operator: what, where, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::store::FORMAT;

/// Why the data directory could not be used. What was acknowledged before is untouched.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error(
        "data dir {} is in use by another maelstromd{holder}: stop that one, or start this one with another --data-dir",
        dir.display()
    )]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// Who, in brackets; empty if unknown.
        holder: String,
    },
    /// A later release wrote it.
    #[error(
        "{} was written by a newer maelstromd (format {found}, this one knows {FORMAT}): \
         upgrade this node, or start with an empty --data-dir",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// Bytes that no release wrote. The file is left where it is.
    #[error(
        "{} is damaged ({why}): put a backup in its place, or move it away and start again; \
         the node then comes up as a new one and knows no component",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// No room. Nothing was changed.
    #[error("cannot {doing} {}: no room is left on its disk; nothing was changed, make room and try again", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
    },
    /// Not allowed.
    #[error(
        "cannot {doing} {}: this user may not, or the disk is read-only; let the user who runs maelstromd own the \
         directory and all in it",
        path.display()
    )]
    Permission {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Anything else that the system said. If it was a write, nobody knows whether the disk has it.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl StoreError {
    pub(super) fn from_io(path: &Path, doing: &'static str, source: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let path = path.to_owned();
        let kind = source.kind();
        if matches!(kind, Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge) {
            Self::Full { path, doing }
        } else if matches!(kind, Kind::PermissionDenied | Kind::ReadOnlyFilesystem) {
            Self::Permission { path, doing, source }
        } else if matches!(kind, Kind::InvalidData | Kind::UnexpectedEof) {
            Self::Damaged { path, why: source.to_string() }
        } else {
            Self::Io { path, doing, source }
        }
    }
}

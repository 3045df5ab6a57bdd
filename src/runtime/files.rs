//! Settings that instances are given as files. They lie in memory and never on a disk, in a directory that only the
//! daemon's user may enter, and go with their instance; what a killed daemon left is swept by the next one.
//!
//! Knows nothing of how an instance is started. Works on the calling thread: the files are small and in memory.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{InstanceSpec, Owner, RuntimeError};
use crate::failure::Phase;
use crate::id::InstanceId;
use crate::model::cfg::Delivery;

/// Where file systems in memory usually are.
const IN_MEMORY: [&str; 2] = ["/dev/shm", "/run"];

/// What `statfs` says of tmpfs and of ramfs.
const MEMORY_TYPES: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Who is to read the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// The user of the daemon.
    Us,
    /// Any user, as an image may name one: the directory around them, which a container does not pass through, keeps
    /// those of this machine out.
    Anyone,
}

/// The files of one instance.
#[derive(Debug, Default)]
pub(super) struct Placed {
    /// The directory of those that have a name only, if there are any.
    pub(super) dir: Option<PathBuf>,
    /// Of those that have a path: where they are on this machine, and the path.
    pub(super) files: Vec<(PathBuf, String)>,
    /// Variables that are to hold the path of a file: their name, and the path or the name of the file.
    pub(super) variables: Vec<(String, String)>,
}

/// The files of all instances of this owner.
#[derive(Debug)]
pub(super) struct Files {
    /// Above the directories of the instances; none where no file system is in memory.
    root: Option<PathBuf>,
    /// Held while directories come and go, so that the root is not removed while an instance gets its own.
    changing: Mutex<()>,
}

fn failed(reason: String) -> RuntimeError {
    RuntimeError { phase: Phase::Start, reason, unavailable: false }
}

impl Files {
    /// Makes nothing yet.
    pub(super) fn new(owner: &Owner) -> Self {
        let in_memory = |dir: &&str| rustix::fs::statfs(*dir).is_ok_and(|stat| is_memory(stat.f_type));
        let dir = IN_MEMORY.iter().find(|dir| in_memory(dir) && may_write(dir));
        let root = dir.map(|dir| Path::new(dir).join(format!("maelstrom-{}", owner.node)));
        Self { root, changing: Mutex::default() }
    }

    /// Writes the files of an instance, in place of any that were there.
    ///
    /// # Errors
    /// There is no room, or no place in memory. Nothing is left of them then.
    pub(super) fn place(&self, spec: &InstanceSpec, reader: Reader) -> Result<Placed, RuntimeError> {
        if !spec.cfg.iter().any(|given| matches!(given.to, Delivery::File { .. })) {
            return Ok(Placed::default());
        }
        let Some(root) = &self.root else {
            return Err(failed(format!(
                "component {} takes settings as files, and this node has no file system in memory to keep them in (a \
                 tmpfs at {}, which the daemon may write)",
                spec.component.name,
                IN_MEMORY.join(" or ")
            )));
        };
        let placed = self.write(root, spec, reader);
        if placed.is_err() {
            self.remove(&spec.id);
        }
        placed
            .map_err(|error| failed(format!("cannot keep the settings of an instance in {}: {error}", root.display())))
    }

    fn write(&self, root: &Path, spec: &InstanceSpec, reader: Reader) -> io::Result<Placed> {
        let (dir_mode, file_mode) = match reader {
            Reader::Us => (0o700, 0o400),
            Reader::Anyone => (0o755, 0o444),
        };
        let home = root.join(spec.id.as_str());
        let (named, placed) = (home.join("named"), home.join("placed"));
        {
            let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
            secure(root)?;
            match fs::remove_dir_all(&home) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            for dir in [&home, &named, &placed] {
                fs::create_dir(dir)?;
                // Whatever the mask of the daemon says.
                fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(dir_mode))?;
            }
        }
        let mut all = Placed::default();
        for given in &spec.cfg {
            let Delivery::File { path, variable } = &given.to else { continue };
            let file = if path.starts_with('/') {
                let file = placed.join(all.files.len().to_string());
                all.files.push((file.clone(), path.clone()));
                file
            } else {
                all.dir = Some(named.clone());
                named.join(path)
            };
            let mut open = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
            open.write_all(&given.value)?;
            open.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(file_mode))?;
            all.variables.extend(variable.iter().map(|variable| (variable.clone(), path.clone())));
        }
        Ok(all)
    }

    /// Removes the files of an instance. None at all is no error.
    pub(super) fn remove(&self, id: &InstanceId) {
        let Some(root) = &self.root else { return };
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        match fs::remove_dir_all(root.join(id.as_str())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => tracing::warn!(instance = %id, %error, "could not remove the settings of an instance"),
            Ok(()) => {}
        }
        // The last one takes the root along; that it is not empty is no error.
        let _ = fs::remove_dir(root);
    }

    /// Removes what is there of instances that are not to be kept.
    pub(super) fn sweep(&self, keep: impl Fn(&InstanceId) -> bool) {
        let entries = self.root.as_ref().and_then(|root| fs::read_dir(root).ok());
        for entry in entries.into_iter().flatten().flatten() {
            if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok())
                && !keep(&id)
            {
                self.remove(&id);
            }
        }
    }
}

fn is_memory(kind: impl TryInto<u64>) -> bool {
    kind.try_into().is_ok_and(|kind| MEMORY_TYPES.contains(&kind))
}

fn may_write(dir: &str) -> bool {
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
}

/// Makes the root, for its owner alone. In a directory that everybody may write to, somebody else may have been first.
fn secure(root: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(root) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(root)?;
    let is_ours = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0;
    is_ours.then_some(()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::PermissionDenied, "it is not a directory of the daemon's user alone; remove it")
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Arc;

    use super::*;
    use crate::id::{ClusterId, NodeId};
    use crate::model::Component;
    use crate::model::cfg::Given;

    fn spec(cfg: Vec<Given>) -> InstanceSpec {
        let name = "api".parse().expect("a name");
        let component = Component::parse(&name, &serde_json::json!({"image": "x"})).expect("a component");
        InstanceSpec { id: InstanceId::new(&name, 1), component: Arc::new(component), version: "1".into(), cfg }
    }

    fn file(path: &str, value: &str) -> Given {
        let to = Delivery::File { path: path.into(), variable: Some("P".into()) };
        Given::new(to, value.as_bytes()).expect("a value")
    }

    fn files(dir: &Path) -> Files {
        Files { root: Some(dir.join("root")), changing: Mutex::default() }
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().expect("there").permissions().mode() & 0o7777
    }

    #[test]
    fn the_usual_place_is_in_memory_and_of_this_node() {
        let files = Files::new(&Owner { node: NodeId(7), cluster: ClusterId(8) });
        let root = files.root.expect("a tmpfs");
        assert!(root.ends_with("maelstrom-0000000000000007") && root.starts_with("/dev/shm"), "{root:?}");
        assert!(!root.exists(), "nothing is made before it is needed");
        let on_disk = rustix::fs::statfs("/proc").expect("proc");
        assert!(!is_memory(on_disk.f_type));
    }

    #[test]
    fn files_are_for_their_reader_alone_and_go_with_the_instance() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = files(dir.path());
        let root = dir.path().join("root");
        let given = || vec![file("a.key", "one"), file("/etc/b", "two"), file("/etc/c", "three")];
        for (reader, inner, of_file) in [(Reader::Us, 0o700, 0o400), (Reader::Anyone, 0o755, 0o444)] {
            let spec = spec(given());
            let placed = files.place(&spec, reader).expect("placed");
            let named = placed.dir.expect("a named one");
            assert_eq!(fs::read(named.join("a.key")).expect("there"), b"one");
            let read: Vec<_> =
                placed.files.iter().map(|(file, at)| (fs::read_to_string(file).expect("there"), &**at)).collect();
            assert_eq!(read, [("two".to_owned(), "/etc/b"), ("three".to_owned(), "/etc/c")]);
            assert_eq!(placed.variables.len(), 3);
            assert_eq!((mode(&root), mode(&named), mode(&named.join("a.key"))), (0o700, inner, of_file));
        }
        files.remove(&spec(Vec::new()).id);
        assert!(!root.exists());
        files.remove(&spec(Vec::new()).id);
    }

    #[test]
    fn without_files_nothing_is_made_and_without_memory_files_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let variable = Given::new(Delivery::Variable("A".into()), b"x").expect("a text");
        files(dir.path()).place(&spec(vec![variable]), Reader::Us).expect("nothing to do");
        assert!(!dir.path().join("root").exists());
        let none = Files { root: None, changing: Mutex::default() };
        let error = none.place(&spec(vec![file("a", "hush")]), Reader::Us).expect_err("no place");
        assert!(error.reason.contains("component api") && error.reason.contains("tmpfs"), "{error}");
    }

    #[test]
    fn what_somebody_else_prepared_is_not_used() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = files(dir.path());
        let (root, elsewhere) = (dir.path().join("root"), dir.path().join("elsewhere"));
        fs::create_dir(&elsewhere).expect("a directory");
        std::os::unix::fs::symlink(&elsewhere, &root).expect("a link");
        let error = files.place(&spec(vec![file("a", "hush")]), Reader::Us).expect_err("a link");
        assert!(error.reason.contains("daemon's user alone") && !error.reason.contains("hush"), "{error}");
        assert_eq!(fs::read_dir(&elsewhere).expect("a directory").count(), 0);
        fs::remove_file(&root).expect("a link");
        fs::create_dir(&root).expect("a directory");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("ours");
        assert!(files.place(&spec(vec![file("a", "hush")]), Reader::Us).is_err());
    }

    #[test]
    fn what_a_killed_daemon_left_is_swept_but_for_those_that_run() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = files(dir.path());
        let [one, other] = [1, 2].map(|n| {
            let spec = spec(vec![file("a", "x")]);
            InstanceSpec { id: InstanceId::new(&spec.component.name, n), ..spec }
        });
        for spec in [&one, &other] {
            files.place(spec, Reader::Us).expect("placed");
        }
        files.sweep(|id| *id == other.id);
        let left = fs::read_dir(dir.path().join("root")).expect("a directory").flatten();
        assert_eq!(left.map(|entry| entry.file_name()).collect::<Vec<_>>(), [other.id.as_str()]);
    }
}

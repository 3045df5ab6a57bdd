//! Freezing by writing the kernel's own file, where this is permitted. Docker's pause does the same 15 ms later, by
//! way of containerd and runc.
//!
//! Knows of process ids and files only, not of the Docker API.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The kernel freezes a few hundred processes in well under a millisecond; one that sits in uninterruptible IO takes
/// as long as its disk.
const SETTLE: Duration = Duration::from_secs(2);

/// Between two looks at whether all processes have stopped.
const LOOK: Duration = Duration::from_millis(1);

/// The control group of one container. Invariant: its path names the container, so that a process id of another
/// machine or namespace can never lead to a wrong group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Freezer {
    /// `freezer.state` (version 1) or `cgroup.freeze` (version 2).
    control: PathBuf,
    v2: bool,
}

impl Freezer {
    /// Finds the group of a container by its main process. `None` if there is none that we may write.
    pub(super) fn find(pid: i64, container: &str) -> Option<Self> {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let freezer = Self::from_groups(&groups, container, Path::new("/sys/fs/cgroup"))?;
        // Asks for the permission without writing anything.
        fs::OpenOptions::new().write(true).open(&freezer.control).ok()?;
        Some(freezer)
    }

    /// `groups` is the text of `/proc/PID/cgroup`.
    fn from_groups(groups: &str, container: &str, root: &Path) -> Option<Self> {
        let mut unified = None;
        for line in groups.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            if container.is_empty() || !path.contains(container) || path.contains("..") {
                continue;
            }
            // With --init or a nested systemd the process may sit below the group of the container.
            let end = path
                .find(container)
                .map_or(path.len(), |at| path[at..].find('/').map_or(path.len(), |slash| at + slash));
            let path = path[..end].trim_start_matches('/');
            if controllers.split(',').any(|controller| controller == "freezer") {
                return Some(Self { control: root.join("freezer").join(path).join("freezer.state"), v2: false });
            }
            if number == "0" && controllers.is_empty() {
                unified = Some(Self { control: root.join(path).join("cgroup.freeze"), v2: true });
            }
        }
        unified
    }

    /// Whether it is frozen, or about to be.
    pub(super) fn is_frozen(&self) -> bool {
        let text = fs::read_to_string(&self.control).unwrap_or_default();
        if self.v2 { text.trim() == "1" } else { !text.is_empty() && text.trim() != "THAWED" }
    }

    /// Whether no process in it runs any more.
    fn is_still(&self) -> io::Result<bool> {
        if !self.v2 {
            return Ok(fs::read_to_string(&self.control)?.trim() == "FROZEN");
        }
        let events = fs::read_to_string(self.control.with_file_name("cgroup.events"))?;
        Ok(events.lines().any(|line| line == "frozen 1"))
    }

    /// Freezes and waits until nothing runs any more. If that does not come about it is thawed again.
    pub(super) async fn freeze(&self) -> io::Result<()> {
        self.write(true)?;
        let settled = tokio::time::timeout(SETTLE, async {
            while !self.is_still()? {
                tokio::time::sleep(LOOK).await;
                // Version 1 may stay in FREEZING until it is told once more.
                self.write(true)?;
            }
            Ok(())
        });
        match settled.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                self.thaw()?;
                Err(error)
            }
            Err(_) => {
                self.thaw()?;
                Err(io::Error::new(io::ErrorKind::TimedOut, "the processes did not stop"))
            }
        }
    }

    /// Lets it run again. Returns as soon as the kernel has woken its processes: tens of microseconds, which is why
    /// this is no task for a thread of its own.
    pub(super) fn thaw(&self) -> io::Result<()> {
        self.write(false)
    }

    fn write(&self, frozen: bool) -> io::Result<()> {
        let word = match (self.v2, frozen) {
            (false, true) => "FROZEN",
            (false, false) => "THAWED",
            (true, true) => "1",
            (true, false) => "0",
        };
        // `write` alone would create a missing file, which the kernel refuses; a plain directory would not.
        let mut file = fs::OpenOptions::new().write(true).open(&self.control)?;
        io::Write::write_all(&mut file, word.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef";

    fn control(groups: &str) -> Option<String> {
        let freezer = Freezer::from_groups(groups, ID, Path::new("/cg"))?;
        Some(freezer.control.to_string_lossy().into_owned())
    }

    #[test]
    fn the_group_is_found_in_both_versions_and_with_both_drivers() {
        let v1 = format!("12:memory:/docker/{ID}\n3:cpu,freezer:/docker/{ID}\n0::/system.slice/x\n");
        assert_eq!(control(&v1).as_deref(), Some("/cg/freezer/docker/0123456789abcdef/freezer.state"));
        let v2 = format!("0::/system.slice/docker-{ID}.scope\n");
        assert_eq!(control(&v2).as_deref(), Some("/cg/system.slice/docker-0123456789abcdef.scope/cgroup.freeze"));
        let nested = format!("0::/docker/{ID}/init\n");
        assert_eq!(control(&nested).as_deref(), Some("/cg/docker/0123456789abcdef/cgroup.freeze"));
    }

    #[test]
    fn a_process_of_something_else_is_never_frozen() {
        assert_eq!(control("0::/system.slice/sshd.service\n3:freezer:/\n"), None);
        assert_eq!(control(&format!("0::/../docker/{ID}\n")), None);
        assert_eq!(Freezer::from_groups("0::/docker/x", "", Path::new("/cg")), None);
    }

    #[test]
    fn the_state_is_read_from_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let freezer = Freezer { control: dir.path().join("freezer.state"), v2: false };
        assert!(!freezer.is_frozen());
        for (text, frozen) in [("THAWED\n", false), ("FREEZING\n", true), ("FROZEN\n", true)] {
            fs::write(&freezer.control, text).expect("a file");
            assert_eq!(freezer.is_frozen(), frozen, "{text}");
        }
    }
}

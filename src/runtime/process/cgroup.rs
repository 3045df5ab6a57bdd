//! Control groups of instances: limits, freezing, and a list of members that no process can leave. Version 2 and
//! version 1, in whatever mix is mounted; without permission there are none, and the caller does without.
//!
//! Each instance has its own group `maelstrom/<node>/<id>` in each hierarchy that is of use for it. Knows nothing of
//! instances otherwise.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::id::{InstanceId, NodeId};

/// The period of the processor share in microseconds: the kernel's default.
const CPU_PERIOD: u64 = 100_000;

/// The smallest quota in microseconds that the kernel takes.
const CPU_QUOTA_MIN: u64 = 1000;

/// Tries to remove a group whose last member has just died, with a pause growing by a millisecond: 55 ms in all. The
/// kernel lets go of a dead process within one or two.
const REMOVE_TRIES: u64 = 10;

/// What a hierarchy can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Two { memory: bool, cpu: bool },
    OneFreezer,
    OneMemory,
    OneCpu,
}

impl Kind {
    fn freezes(self) -> bool {
        matches!(self, Self::Two { .. } | Self::OneFreezer)
    }
    fn limits_memory(self) -> bool {
        matches!(self, Self::OneMemory | Self::Two { memory: true, .. })
    }
    fn limits_cpu(self) -> bool {
        matches!(self, Self::OneCpu | Self::Two { cpu: true, .. })
    }
}

/// The hierarchies in which groups may be made.
#[derive(Debug, Clone, Default)]
pub(super) struct Hierarchies {
    /// With the directory `…/maelstrom/<node>`.
    all: Vec<(Kind, PathBuf)>,
}

/// Limits of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Limits {
    /// Bytes.
    pub(super) memory: Option<u64>,
    /// Thousandths of a core.
    pub(super) cpu: Option<u32>,
}

/// The groups of one instance.
#[derive(Debug, Clone, Default)]
pub(super) struct Group {
    dirs: Vec<(Kind, PathBuf)>,
}

impl Hierarchies {
    /// Finds what is mounted and permitted.
    pub(super) fn detect(node: NodeId) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mounts = mounts(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        let all = mounts.into_iter().filter_map(|mount| usable(&mount, node)).collect();
        Self { all }
    }

    /// Makes the groups of an instance, empty. What cannot be made is left out.
    pub(super) fn create(&self, id: &InstanceId, limits: Limits) -> Group {
        let mut dirs = Vec::new();
        let mut frozen = false;
        for (kind, base) in &self.all {
            // One hierarchy to freeze in is enough; those of controllers are needed for limits only.
            let freeze = kind.freezes() && !frozen;
            let memory = limits.memory.is_some() && kind.limits_memory();
            let cpu = limits.cpu.is_some() && kind.limits_cpu();
            if !(freeze || memory || cpu) {
                continue;
            }
            let dir = base.join(id.as_str());
            if let Err(error) = make(&dir).and_then(|()| limit(*kind, &dir, limits)) {
                tracing::debug!(dir = %dir.display(), error = &error as &dyn std::error::Error, "no cgroup");
                _ = fs::remove_dir(&dir);
                continue;
            }
            frozen |= freeze;
            dirs.push((*kind, dir));
        }
        Group { dirs }
    }

    /// The groups that an instance has already.
    pub(super) fn find(&self, id: &InstanceId) -> Group {
        let dirs = self.all.iter().map(|(kind, base)| (*kind, base.join(id.as_str())));
        Group { dirs: dirs.filter(|(_, dir)| dir.is_dir()).collect() }
    }

    /// All instances that have a group.
    pub(super) fn ids(&self) -> Vec<InstanceId> {
        let entries = self.all.iter().filter_map(|(_, base)| fs::read_dir(base).ok()).flatten().flatten();
        let mut ids: Vec<InstanceId> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        ids.sort();
        ids.dedup();
        ids
    }
}

impl Group {
    /// Moves a process in. Children that it has from then on follow it.
    ///
    /// The first move after a quiet time waits in the kernel for all processors to pass a safe point: 13 ms were seen.
    pub(super) fn add(&self, pid: i32) -> io::Result<()> {
        self.dirs.iter().try_for_each(|(_, dir)| write(&dir.join("cgroup.procs"), &pid.to_string()))
    }

    /// Whether a limit holds.
    pub(super) fn holds(&self, limits: Limits) -> (bool, bool) {
        let any = |can: fn(Kind) -> bool| self.dirs.iter().any(|(kind, _)| can(*kind));
        (limits.memory.is_none() || any(Kind::limits_memory), limits.cpu.is_none() || any(Kind::limits_cpu))
    }

    /// All members now.
    pub(super) fn members(&self) -> Vec<i32> {
        let lists = self.dirs.iter().filter_map(|(_, dir)| fs::read_to_string(dir.join("cgroup.procs")).ok());
        let mut pids: Vec<i32> = lists.flat_map(|list| list.lines().flat_map(str::parse).collect::<Vec<_>>()).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Freezes or thaws all members in one step. `None` if no group can.
    pub(super) fn set_frozen(&self, frozen: bool) -> Option<io::Result<()>> {
        let (kind, dir) = self.dirs.iter().find(|(kind, _)| kind.freezes())?;
        Some(match (kind, frozen) {
            (Kind::Two { .. }, true) => write(&dir.join("cgroup.freeze"), "1"),
            (Kind::Two { .. }, false) => write(&dir.join("cgroup.freeze"), "0"),
            (Kind::OneFreezer | Kind::OneMemory | Kind::OneCpu, true) => write(&dir.join("freezer.state"), "FROZEN"),
            (Kind::OneFreezer | Kind::OneMemory | Kind::OneCpu, false) => write(&dir.join("freezer.state"), "THAWED"),
        })
    }

    /// Whether it is frozen, or on its way there.
    pub(super) fn is_frozen(&self) -> bool {
        let Some((kind, dir)) = self.dirs.iter().find(|(kind, _)| kind.freezes()) else { return false };
        let (file, thawed) = match kind {
            Kind::Two { .. } => ("cgroup.freeze", "0"),
            Kind::OneFreezer | Kind::OneMemory | Kind::OneCpu => ("freezer.state", "THAWED"),
        };
        fs::read_to_string(dir.join(file)).is_ok_and(|state| state.trim() != thawed)
    }

    /// Whether the kernel killed a member because the limit was reached.
    pub(super) fn was_out_of_memory(&self) -> bool {
        self.dirs.iter().any(|(kind, dir)| {
            let file = if *kind == Kind::OneMemory { "memory.oom_control" } else { "memory.events" };
            let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
            text.lines().filter_map(|line| line.strip_prefix("oom_kill ")).any(|count| count.trim() != "0")
        })
    }

    /// Removes the groups; they must be empty. Blocks.
    pub(super) fn remove(&self) {
        for (_, dir) in &self.dirs {
            for pause in 1..=REMOVE_TRIES {
                match fs::remove_dir(dir) {
                    Ok(()) => break,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(_) => std::thread::sleep(Duration::from_millis(pause)),
                }
            }
        }
    }
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    // In one write: the kernel takes each as a whole command.
    fs::OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes())
}

fn limit(kind: Kind, dir: &Path, limits: Limits) -> io::Result<()> {
    if let Some(bytes) = limits.memory.filter(|_| kind.limits_memory()) {
        let bytes = bytes.to_string();
        if kind == Kind::OneMemory {
            write(&dir.join("memory.limit_in_bytes"), &bytes)?;
            // Not there without swap accounting.
            _ = write(&dir.join("memory.memsw.limit_in_bytes"), &bytes);
        } else {
            write(&dir.join("memory.max"), &bytes)?;
            // A limit that swap stretches is none; and half an instance is of no use, so all of it is killed.
            _ = write(&dir.join("memory.swap.max"), "0");
            _ = write(&dir.join("memory.oom.group"), "1");
        }
    }
    if let Some(thousandths) = limits.cpu.filter(|_| kind.limits_cpu()) {
        let quota = (u64::from(thousandths) * CPU_PERIOD / 1000).max(CPU_QUOTA_MIN);
        if kind == Kind::OneCpu {
            write(&dir.join("cpu.cfs_period_us"), &CPU_PERIOD.to_string())?;
            write(&dir.join("cpu.cfs_quota_us"), &quota.to_string())?;
        } else {
            write(&dir.join("cpu.max"), &format!("{quota} {CPU_PERIOD}"))?;
        }
    }
    Ok(())
}

/// A mounted hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    two: bool,
    /// Names of version 1 controllers.
    controllers: Vec<String>,
    point: PathBuf,
    /// The group of this process, relative to the mount point.
    own: PathBuf,
}

/// Reads which hierarchies there are from `/proc/self/mountinfo`, and where we are in them from `/proc/self/cgroup`.
fn mounts(mountinfo: &str, own: &str) -> Vec<Mount> {
    let mut found = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let (&[_, _, _, root, point, ..], &[kind, _, options, ..]) = (left.as_slice(), right.as_slice()) else {
            continue;
        };
        if kind != "cgroup" && kind != "cgroup2" {
            continue;
        }
        let two = kind == "cgroup2";
        let controllers: Vec<String> = options.split(',').map(str::to_owned).collect();
        let own = own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (names, path) = (parts.next()?, parts.next()?);
            let ours = if two {
                names.is_empty()
            } else {
                names.split(',').any(|name| controllers.iter().any(|one| one == name))
            };
            // A container without its own view of cgroups is mounted at its own group.
            ours.then(|| path.strip_prefix(root).unwrap_or(path).trim_start_matches('/'))
        });
        found.push(Mount { two, controllers, point: point.into(), own: own.unwrap_or_default().into() });
    }
    found
}

/// Makes `maelstrom/<node>` in our own group, or else at the top. Within our own group, limits put on the daemon hold
/// for the instances too; version 2 lets a group with processes (ours) not pass controllers on, and then the top is
/// where they are to be had.
fn usable(mount: &Mount, node: NodeId) -> Option<(Kind, PathBuf)> {
    let has = |name: &str| mount.controllers.iter().any(|one| one == name);
    let one = [("freezer", Kind::OneFreezer), ("memory", Kind::OneMemory), ("cpu", Kind::OneCpu)];
    let one = one.iter().find(|(name, _)| has(name)).map(|(_, kind)| *kind);
    if !mount.two && one.is_none() {
        return None;
    }
    let mut second_best = None;
    for parent in [mount.point.join(&mount.own), mount.point.clone()] {
        let top = parent.join("maelstrom");
        let base = top.join(node.to_string());
        let offered = if mount.two { pass_on(&parent) } else { Vec::new() };
        if make(&top).and_then(|()| make(&base)).is_err() {
            continue;
        }
        if let Some(kind) = one.filter(|_| !mount.two) {
            return Some((kind, base));
        }
        pass_on(&top);
        let passed = pass_on(&base);
        let can = |name: &str| passed.iter().any(|one| one == name);
        let found = (Kind::Two { memory: can("memory"), cpu: can("cpu") }, base);
        // Nothing more is to be had at the top if the kernel has its controllers in version 1.
        if found.0 == (Kind::Two { memory: true, cpu: true }) || offered.is_empty() && parent == mount.point {
            return Some(second_best.unwrap_or(found));
        }
        second_best.get_or_insert(found);
    }
    second_best
}

/// Lets children of a version 2 group have the controllers that we use. Returns those that they have then.
fn pass_on(dir: &Path) -> Vec<String> {
    for name in ["memory", "cpu"] {
        // Refused where it is not offered, or where the group has processes of its own.
        _ = write(&dir.join("cgroup.subtree_control"), &format!("+{name}"));
    }
    let passed = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    passed.split_ascii_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXED: &str = "\
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw
42 31 0:39 / /proc rw - proc proc rw";

    #[test]
    fn hierarchies_of_both_versions_are_found_with_our_own_place_in_them() {
        let found = mounts(MIXED, "9:name=systemd:/\n4:memory:/a/b\n1:cpu,cpuacct:/\n0::/user.slice");
        let short: Vec<_> = found.iter().map(|mount| (mount.two, mount.point.to_str(), mount.own.to_str())).collect();
        assert_eq!(
            short,
            [
                (false, Some("/sys/fs/cgroup/cpu"), Some("")),
                (false, Some("/sys/fs/cgroup/memory"), Some("a/b")),
                (true, Some("/sys/fs/cgroup/unified"), Some("user.slice")),
            ]
        );
    }

    #[test]
    fn a_container_without_its_own_view_is_placed_below_its_mount() {
        let info = "32 31 0:29 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw";
        assert_eq!(mounts(info, "0::/docker/abc/inner")[0].own, PathBuf::from("inner"));
    }

    #[test]
    fn without_any_cgroup_everything_is_left_out() {
        let id: InstanceId = "api-1".parse().expect("an id");
        let group = Hierarchies::default().create(&id, Limits { memory: Some(1), cpu: Some(1) });
        assert_eq!(group.holds(Limits { memory: Some(1), cpu: None }), (false, true));
        assert!(group.set_frozen(true).is_none() && group.members().is_empty() && group.add(1).is_ok());
    }
}

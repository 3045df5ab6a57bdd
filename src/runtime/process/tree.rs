//! Processes of an instance as `/proc` shows them: which there are, whose they are, and how all of them end.
//!
//! A process belongs to an instance if it is in its cgroup, if its environment carries the instance's id (children
//! inherit it, whatever session or group they move to), or if it is in the process group of the first process. Knows
//! nothing of records, logs or cgroup files.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use super::cgroup::Group;
use crate::id::InstanceId;
use crate::runtime::Owner;

/// Rounds of killing before giving up, with a pause growing by a millisecond each: 210 ms in all. A tree that forks
/// on its way down is gone after two or three; what is left after twenty hangs in the kernel.
const KILL_ROUNDS: u64 = 20;

/// What `/proc/<pid>/stat` says that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// One letter; `Z` is dead and not yet waited for.
    pub(super) state: char,
    /// Process group.
    pub(super) group: i32,
    /// Clock ticks from the boot to its start: with the pid this names a process for as long as the machine is up.
    pub(super) start: u64,
}

/// Reads the state of a process; `None` if there is none.
pub(super) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name in parentheses may contain anything, closing parentheses too.
    let mut fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
    Some(Stat {
        state: fields.next()?.chars().next()?,
        group: fields.nth(1)?.parse().ok()?,
        start: fields.nth(16)?.parse().ok()?,
    })
}

/// The boot that pids and start times belong to.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The marks of an instance in the environment of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) instance: InstanceId,
    node: String,
    cluster: String,
}

impl Marks {
    pub(super) fn are_of(&self, owner: &Owner) -> bool {
        self.node == owner.node.to_string() && self.cluster == owner.cluster.to_string()
    }
}

/// The marks of a process. `None` if it has none, or is not ours to look at.
pub(super) fn marks(pid: i32) -> Option<Marks> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let get = |name: &[u8]| {
        let value = environ.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(name))?;
        std::str::from_utf8(value).ok()
    };
    Some(Marks {
        instance: get(b"MAELSTROM_INSTANCE_ID=")?.parse().ok()?,
        node: get(b"MAELSTROM_NODE_ID=")?.to_owned(),
        cluster: get(b"MAELSTROM_CLUSTER_ID=")?.to_owned(),
    })
}

/// All process ids but our own.
pub(super) fn all() -> Vec<i32> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != own).collect()
}

/// All processes with their marks that belong to `owner`. Reads two files per process of the machine: about 10 µs
/// each.
pub(super) fn of_owner(owner: &Owner) -> Vec<(i32, InstanceId)> {
    let found = all().into_iter().filter_map(|pid| Some((pid, marks(pid)?)));
    found.filter(|(_, marks)| marks.are_of(owner)).map(|(pid, marks)| (pid, marks.instance)).collect()
}

/// Which processes to look for.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    pub(super) id: &'a InstanceId,
    pub(super) owner: &'a Owner,
    /// The process group of the first process, while it cannot be anyone else's: as long as the first process has
    /// not been waited for, its number is not given away again.
    pub(super) group: Option<Pid>,
    /// Its cgroups.
    pub(super) cgroup: &'a Group,
}

impl Tree<'_> {
    /// All living members. Blocks for some milliseconds on a machine with hundreds of processes.
    pub(super) fn members(&self) -> Vec<Pid> {
        let own = rustix::process::getpid();
        let mut found = self.cgroup.members();
        found.extend(all().into_iter().filter(|pid| {
            marks(*pid).is_some_and(|marks| marks.instance == *self.id && marks.are_of(self.owner))
                || self
                    .group
                    .is_some_and(|group| stat(*pid).is_some_and(|stat| stat.group == group.as_raw_nonzero().get()))
        }));
        found.sort_unstable();
        found.dedup();
        found.retain(|pid| stat(*pid).is_some_and(|stat| stat.state != 'Z' && stat.state != 'X'));
        found.into_iter().filter_map(Pid::from_raw).filter(|pid| *pid != own).collect()
    }

    /// Kills all members until none is left. Returns those that did not go. Blocks.
    pub(super) fn kill(&self) -> Vec<Pid> {
        let mut members = Vec::new();
        for round in 1..=KILL_ROUNDS {
            members = self.members();
            if members.is_empty() {
                break;
            }
            for pid in &members {
                // Gone in between is what we want, and not permitted is seen in the next round.
                _ = rustix::process::kill_process(*pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(round));
            for pid in &members {
                // Orphans become our children where the daemon is the first process of a container. Others are not
                // ours to wait for, and the call says so.
                _ = rustix::process::waitid(WaitId::Pid(*pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
            }
        }
        members
    }
}

/// A handle on a process that is certainly the one with this start time.
pub(super) fn open(pid: Pid, start: u64) -> Option<std::os::fd::OwnedFd> {
    let handle = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
    // Looked at after the handle was opened: if the start time still fits now, the handle is on that process.
    let stat = stat(pid.as_raw_nonzero().get())?;
    (stat.start == start && stat.state != 'Z').then_some(handle)
}

/// A signal by its name, with or without `SIG`. Only those that a program may be asked to stop with.
pub(super) fn signal(name: &str) -> Option<Signal> {
    Some(match name.strip_prefix("SIG").unwrap_or(name) {
        "HUP" => Signal::HUP,
        "INT" => Signal::INT,
        "QUIT" => Signal::QUIT,
        "ABRT" => Signal::ABORT,
        "KILL" => Signal::KILL,
        "USR1" => Signal::USR1,
        "USR2" => Signal::USR2,
        "ALRM" => Signal::ALARM,
        "TERM" => Signal::TERM,
        "CONT" => Signal::CONT,
        "WINCH" => Signal::WINCH,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_parentheses_does_not_confuse_the_fields() {
        let text = "12 (a) b) (c) S 1 77 5 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 999 1";
        assert_eq!(parse_stat(text), Some(Stat { state: 'S', group: 77, start: 123_456 }));
    }

    #[test]
    fn our_own_start_time_is_found_and_stays() {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        assert!(stat(own).is_some_and(|one| one.start > 0 && Some(one.start) == stat(own).map(|two| two.start)));
        assert!(!all().contains(&own));
    }

    #[test]
    fn signals_are_known_with_and_without_their_prefix() {
        assert_eq!((signal("SIGTERM"), signal("INT"), signal("SIGFOO")), (Some(Signal::TERM), Some(Signal::INT), None));
    }
}

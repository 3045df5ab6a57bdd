//! Instances as processes of this machine: each its own process group, directory and (where permitted) cgroup.
//!
//! What is kept on disk (see `record`) lets a daemon that was killed find its instances again. A process is ours only
//! if record, start time and environment agree; no other is ever signalled. Knows nothing of requests.

mod capture;
mod cgroup;
mod command;
mod record;
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::files::{Files, Placed, Reader};
use super::logs::{Line, LogBook, Stream};
use super::{
    BoxFuture, Exit, Found, InstanceSpec, OnProgress, Owner, Progress, Runtime, RuntimeError, RuntimeEvent, Started,
};
use crate::failure::Phase;
use crate::id::InstanceId;
use crate::telemetry;

use capture::Capture;
use cgroup::{Group, Hierarchies, Limits};
use record::{Home, Record};
use tree::Tree;

/// Between two looks at what an instance wrote, while it writes: a follower sees lines as good as at once.
const LOOK_BUSY: Duration = Duration::from_millis(10);

/// The same for an instance that has been silent: five system calls a second.
const LOOK_QUIET: Duration = Duration::from_millis(200);

/// From the kill to the end. The kernel needs milliseconds; more than this means that a process hangs in it.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

/// Runs components as processes. Dropped, it watches them no more; they run on.
#[derive(Debug)]
pub struct ProcessRuntime(Arc<Inner>);

impl Drop for ProcessRuntime {
    fn drop(&mut self) {
        self.0.dropped.cancel();
    }
}

#[derive(Debug)]
struct Inner {
    /// `data_dir/instances`.
    instances: PathBuf,
    owner: Owner,
    logs: Arc<LogBook>,
    events: mpsc::Sender<RuntimeEvent>,
    cgroups: Hierarchies,
    files: Files,
    running: Mutex<BTreeMap<InstanceId, Arc<Running>>>,
    dropped: CancellationToken,
}

/// A process that runs, as far as is known.
#[derive(Debug)]
struct Running {
    record: Record,
    pid: Pid,
    home: Home,
    group: Group,
    frozen: AtomicBool,
    /// It is in its cgroup, if it has one: not before can it be frozen there.
    joined: CancellationToken,
    /// Nothing of it is left.
    gone: CancellationToken,
}

fn failed(reason: String) -> RuntimeError {
    RuntimeError { phase: Phase::Start, reason, unavailable: false }
}

impl ProcessRuntime {
    /// Prepares the directory of instances. Call [`Runtime::adopt`] next, and within a tokio runtime.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(
        data_dir: &Path,
        owner: Owner,
        logs: Arc<LogBook>,
        events: mpsc::Sender<RuntimeEvent>,
    ) -> Result<Self, RuntimeError> {
        let instances = data_dir.join("instances");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&instances);
        made.map_err(|error| failed(format!("cannot make {}: {error}", instances.display())))?;
        let cgroups = Hierarchies::detect(owner.node);
        Ok(Self(Arc::new(Inner {
            instances,
            owner,
            logs,
            events,
            cgroups,
            files: Files::new(&owner),
            running: Mutex::default(),
            dropped: CancellationToken::new(),
        })))
    }
}

impl ProcessRuntime {
    /// Kills an instance that another process of this node started, if it is still there; nothing else is touched.
    ///
    /// # Errors
    /// It is there and cannot be killed.
    pub async fn kill(&self, id: &InstanceId) -> Result<(), RuntimeError> {
        let home = Home::of(&self.0.instances, id);
        if home.0.exists() {
            self.0.adopt_one(id, home)?;
        }
        self.0.stop(id, "SIGKILL", Duration::ZERO).await
    }
}

impl Inner {
    fn running(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: &InstanceId) -> Option<Arc<Running>> {
        self.running().get(id).cloned()
    }

    fn note(&self, id: &InstanceId, text: impl Into<String>) {
        self.logs.system(LogBook::stamp(), id, text);
    }

    fn start(self: &Arc<Self>, spec: &InstanceSpec) -> Result<Started, RuntimeError> {
        let component = &spec.component;
        let wanted = command::wanted(component)?;
        let taken = self.running().values().map(|running| running.record.address.port()).collect();
        let address = command::address(component, &taken)?;
        let home = Home::of(&self.instances, &spec.id);
        let io = |error: io::Error| failed(format!("cannot prepare {}: {error}", home.0.display()));
        home.remove().map_err(io)?;
        home.create(wanted.cwd.is_none()).map_err(io)?;
        let limits = Limits { memory: component.memory_limit, cpu: component.cpu.map(std::num::NonZeroU32::get) };
        let group = self.cgroups.create(&spec.id, limits);
        let placed = self.files.place(spec, Reader::Us);
        let started = placed.and_then(|placed| self.spawn(spec, address, &home, &group, &placed));
        if started.is_err() {
            group.remove();
            self.files.remove(&spec.id);
            if let Err(error) = home.remove() {
                tracing::warn!(dir = %home.0.display(), %error, "could not remove what is left of a failed start");
            }
            return started;
        }
        let (memory, cpu) = group.holds(limits);
        for (held, what) in [(memory, "memory"), (cpu, "cpu")] {
            if !held {
                self.note(&spec.id, format!("the {what} limit is not enforced: this node may not make cgroups for it"));
            }
        }
        started
    }

    fn spawn(
        self: &Arc<Self>,
        spec: &InstanceSpec,
        address: std::net::SocketAddr,
        home: &Home,
        group: &Group,
        placed: &Placed,
    ) -> Result<Started, RuntimeError> {
        let mut command = command::build(spec, &self.owner, address, home)?;
        command::hand_over(&mut command, placed);
        let io = |error: io::Error| failed(format!("cannot prepare {}: {error}", home.0.display()));
        let (out, err) = capture::create(home).map_err(io)?;
        let child = command.stdout(out).stderr(err).spawn().map_err(|error| command::explain(&command, &error))?;
        // Not waited for here: its number stays ours until the watcher has taken its exit status.
        let raw = i32::try_from(child.id()).unwrap_or_default();
        drop(child);
        let Some(pid) = Pid::from_raw(raw) else { return Err(failed("the system gave no process id".to_owned())) };
        // The daemon may be protected from the kernel's killer; its components must not be.
        _ = fs::write(format!("/proc/{raw}/oom_score_adj"), "0");
        let started = self.watch_new(spec, address, home, group, pid);
        if started.is_err() {
            _ = rustix::process::kill_process_group(pid, Signal::KILL);
            _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
        }
        started
    }

    fn watch_new(
        self: &Arc<Self>,
        spec: &InstanceSpec,
        address: std::net::SocketAddr,
        home: &Home,
        group: &Group,
        pid: Pid,
    ) -> Result<Started, RuntimeError> {
        let raw = pid.as_raw_nonzero().get();
        let start = tree::stat(raw).map(|stat| stat.start).unwrap_or_default();
        let record = Record {
            id: spec.id.clone(),
            version: spec.version.clone(),
            node: self.owner.node,
            cluster: self.owner.cluster,
            address,
            pid: raw,
            start,
            boot: tree::boot_id(),
        };
        home.write(&record).map_err(|error| failed(format!("cannot write into {}: {error}", home.0.display())))?;
        let handle = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK);
        let handle = handle.map_err(|error| failed(format!("cannot watch process {raw}: {error}")))?;
        self.watch(record, pid, handle, home.clone(), group.clone(), None)?;
        Ok(Started { address, handle: raw.to_string() })
    }

    /// Takes an instance over: from now on its end is seen, and what it writes goes into the log. `adopted` says of one
    /// from before whether it is frozen.
    fn watch(
        self: &Arc<Self>,
        record: Record,
        pid: Pid,
        handle: OwnedFd,
        home: Home,
        group: Group,
        adopted: Option<bool>,
    ) -> Result<(), RuntimeError> {
        let id = record.id.clone();
        let io = |error: io::Error| failed(format!("cannot watch instance {id}: {error}"));
        let capture = Capture::open(&home, &id, Arc::clone(&self.logs)).map_err(io)?;
        #[expect(
            deprecated,
            reason = "its successor is an unsafe function; an owned descriptor keeps the promise it asks for"
        )]
        let handle = AsyncFd::new(handle).map_err(io)?;
        let running = Arc::new(Running {
            record,
            pid,
            home,
            group,
            frozen: AtomicBool::new(adopted.unwrap_or(false)),
            joined: CancellationToken::new(),
            gone: CancellationToken::new(),
        });
        self.running().insert(id, Arc::clone(&running));
        telemetry::spawn("process", Arc::clone(self).follow(running, handle, capture, adopted.is_none()));
        Ok(())
    }

    async fn follow(self: Arc<Self>, running: Arc<Running>, handle: AsyncFd<OwnedFd>, mut capture: Capture, new: bool) {
        if new {
            // Beside the start, not before its end: the kernel takes 10 ms and more to move a process. Its number is
            // ours for as long as this task has not waited for it. Children that it has by then are found by their marks.
            let joining = Arc::clone(&running);
            let joined = tokio::task::spawn_blocking(move || joining.group.add(joining.record.pid)).await;
            if let Ok(Err(error)) = joined {
                tracing::debug!(instance = %running.record.id, %error, "not in its cgroup");
            }
        }
        running.joined.cancel();
        let mut pause = LOOK_BUSY;
        loop {
            tokio::select! {
                biased;
                () = self.dropped.cancelled() => return,
                _ = handle.readable() => break,
                () = tokio::time::sleep(pause) => {}
            }
            pause = if capture.drain(false) { LOOK_BUSY } else { LOOK_QUIET.min(pause * 2) };
        }
        let this = Arc::clone(&self);
        let ended = Arc::clone(&running);
        let ending = tokio::task::spawn_blocking(move || this.end(&ended, &handle, capture));
        let exit = ending.await.unwrap_or(Exit { code: None, out_of_memory: false });
        let id = running.record.id.clone();
        self.running().remove(&id);
        running.gone.cancel();
        // Closed: the daemon is leaving and nobody asks any more.
        let _ = self.events.send(RuntimeEvent::Exited(id, exit)).await;
    }

    /// Clears away what is left when the first process has ended. Blocks for some milliseconds.
    fn end(&self, running: &Running, handle: &AsyncFd<OwnedFd>, mut capture: Capture) -> Exit {
        // Frozen members cannot die.
        _ = running.group.set_frozen(false);
        let id = &running.record.id;
        // The group is still ours: its first process has not been waited for.
        for pid in self.tree(id, &running.group, Some(running.pid)).kill() {
            tracing::error!(instance = %id, pid = pid.as_raw_nonzero().get(), "a process of an ended instance does not die");
        }
        // An adopted process is no child of ours: its exit code went to somebody else.
        use std::os::fd::AsFd as _;
        let status = rustix::process::waitid(WaitId::PidFd(handle.as_fd()), WaitIdOptions::EXITED).ok().flatten();
        let code = status
            .and_then(|status| status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)));
        while capture.drain(true) {}
        let out_of_memory = running.group.was_out_of_memory();
        running.group.remove();
        self.files.remove(id);
        if let Err(error) = running.home.remove() {
            tracing::warn!(dir = %running.home.0.display(), %error, "could not remove what is left of an instance");
        }
        Exit { code, out_of_memory }
    }

    fn tree<'a>(&'a self, id: &'a InstanceId, group: &'a Group, first: Option<Pid>) -> Tree<'a> {
        Tree { id, owner: &self.owner, group: first, cgroup: group }
    }

    fn set_frozen(&self, id: &InstanceId, frozen: bool) -> Result<(), RuntimeError> {
        let ready = |reason| RuntimeError { phase: Phase::Ready, reason, unavailable: false };
        let running = self.get(id).ok_or_else(|| ready(format!("instance {id} does not run")))?;
        match running.group.set_frozen(frozen) {
            Some(done) => done.map_err(|error| ready(format!("the cgroup refuses: {error}")))?,
            None => {
                let signal = if frozen { Signal::STOP } else { Signal::CONT };
                for pid in self.tree(id, &running.group, Some(running.pid)).members() {
                    let sent = rustix::process::kill_process(pid, signal);
                    if let Err(error) = sent
                        && error != rustix::io::Errno::SRCH
                    {
                        return Err(ready(format!("process {}: {error}", pid.as_raw_nonzero())));
                    }
                }
            }
        }
        running.frozen.store(frozen, Ordering::Release);
        Ok(())
    }

    async fn stop(&self, id: &InstanceId, signal: &str, grace: Duration) -> Result<(), RuntimeError> {
        let Some(running) = self.get(id) else { return Ok(()) };
        if running.frozen.load(Ordering::Acquire)
            && let Err(error) = self.set_frozen(id, false)
        {
            tracing::warn!(instance = %id, %error, "could not be thawed before its stop");
        }
        let signal = tree::signal(signal).unwrap_or(Signal::TERM);
        // It cannot be another group: the number is ours until the watcher, which ends `gone`, has waited for it.
        if !running.gone.is_cancelled() {
            _ = rustix::process::kill_process_group(running.pid, signal);
        }
        if tokio::time::timeout(grace, running.gone.cancelled()).await.is_ok() {
            return Ok(());
        }
        if signal != Signal::KILL {
            self.note(id, format!("killed: it did not end within its grace of {grace:?}"));
        }
        // Under the lock that the watcher takes after its wait: while the entry is there the number is ours.
        if self.running().contains_key(id) {
            _ = rustix::process::kill_process(running.pid, Signal::KILL);
        }
        tokio::time::timeout(KILLED_WITHIN, running.gone.cancelled()).await.map_err(|_| RuntimeError {
            phase: Phase::Ready,
            reason: format!("process {} does not end although it was killed", running.record.pid),
            unavailable: false,
        })
    }

    fn adopt(self: &Arc<Self>) -> Result<Vec<Found>, RuntimeError> {
        let io = |error: io::Error| failed(format!("cannot read {}: {error}", self.instances.display()));
        for (id, home) in record::homes(&self.instances).map_err(io)? {
            self.adopt_one(&id, home)?;
        }
        // A start that was cut short between its process and its record.
        for (_, id) in tree::of_owner(&self.owner) {
            if self.get(&id).is_none() {
                self.clear(&id, &Home::of(&self.instances, &id), &self.cgroups.find(&id), false);
            }
        }
        for id in self.cgroups.ids() {
            if self.get(&id).is_none() {
                self.cgroups.find(&id).remove();
            }
        }
        self.files.sweep(|id| self.get(id).is_some());
        let running = self.running();
        Ok(running.values().filter(|running| !running.gone.is_cancelled()).map(|running| running.found()).collect())
    }

    /// Takes over what runs of an instance, and clears away what does not.
    fn adopt_one(self: &Arc<Self>, id: &InstanceId, home: Home) -> Result<(), RuntimeError> {
        if self.get(id).is_some() {
            return Ok(());
        }
        let record = home.read();
        if record.as_ref().is_some_and(|record| record.owner() != self.owner) {
            tracing::warn!(dir = %home.0.display(), "an instance of another node is left alone");
            return Ok(());
        }
        let group = self.cgroups.find(id);
        let handle = record.as_ref().filter(|record| record.runs()).and_then(|record| {
            let pid = Pid::from_raw(record.pid)?;
            Some((pid, tree::open(pid, record.start)?))
        });
        match (record, handle) {
            (Some(record), Some((pid, handle))) => {
                let stopped = tree::stat(record.pid).is_some_and(|stat| stat.state == 'T');
                let frozen = stopped || group.is_frozen();
                self.watch(record, pid, handle, home, group, Some(frozen))
            }
            (record, _) => {
                self.clear(id, &home, &group, record.is_some());
                Ok(())
            }
        }
    }

    /// Clears away what is left of an instance whose first process is gone.
    fn clear(&self, id: &InstanceId, home: &Home, group: &Group, read: bool) {
        if read && let Ok(mut capture) = Capture::open(home, id, Arc::clone(&self.logs)) {
            while capture.drain(true) {}
            let line = Line {
                at: LogBook::stamp(),
                instance: id.clone(),
                stream: Stream::System,
                text: "ended while the daemon was down".to_owned(),
            };
            self.logs.append(&id.component(), [line]);
        }
        _ = group.set_frozen(false);
        self.tree(id, group, None).kill();
        group.remove();
        self.files.remove(id);
        if let Err(error) = home.remove() {
            tracing::warn!(dir = %home.0.display(), %error, "could not remove what is left of an instance");
        }
    }
}

impl Running {
    fn found(&self) -> Found {
        Found {
            id: self.record.id.clone(),
            version: self.record.version.clone(),
            started: Started { address: self.record.address, handle: self.record.pid.to_string() },
            frozen: self.frozen.load(Ordering::Acquire),
        }
    }
}

impl Runtime for ProcessRuntime {
    fn name(&self) -> &'static str {
        "process"
    }

    fn start<'a>(
        &'a self,
        spec: &'a InstanceSpec,
        progress: OnProgress,
    ) -> BoxFuture<'a, Result<Started, RuntimeError>> {
        Box::pin(async move {
            progress(Progress::Creating);
            self.0.start(spec)
        })
    }

    fn freeze<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async move {
            if let Some(running) = self.0.get(id) {
                running.joined.cancelled().await;
            }
            self.0.set_frozen(id, true)
        })
    }

    fn thaw<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async move { self.0.set_frozen(id, false) })
    }

    fn stop<'a>(
        &'a self,
        id: &'a InstanceId,
        signal: &'a str,
        grace: Duration,
    ) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(self.0.stop(id, signal, grace))
    }

    fn adopt(&self) -> BoxFuture<'_, Result<Vec<Found>, RuntimeError>> {
        Box::pin(async move { self.0.adopt() })
    }
}

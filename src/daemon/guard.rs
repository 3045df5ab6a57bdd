//! What keeps the promise of a strict singleton when this daemon cannot: a process beside each instance, which kills it
//! when the consent to it has run out and the daemon has not said that it is longer.
//!
//! A daemon that is killed leaves its instances running; those that must never run twice may run only as long as the
//! others wait. The daemon writes into the guard's stdin how many milliseconds the consent lasts; the end of that stream
//! means that the daemon is gone, and nothing else. A daemon that starts again stops what it finds by itself.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::DaemonError;
use super::clock::Clock;
use crate::id::{ClusterId, ComponentName, InstanceId, NodeId};
use crate::placement::lease::{HOLD, TERM};
use crate::runtime::docker::DockerRuntime;
use crate::runtime::logs::LogBook;
use crate::runtime::process::ProcessRuntime;
use crate::runtime::{Owner, Runtime as _, RuntimeEvent};
use crate::time::Mono;

/// The command of `maelstromd` that is a guard.
pub const COMMAND: &str = "guard";

/// What a guard must know, in the order of its arguments.
#[derive(Debug, Clone)]
pub struct Post {
    /// Of the node.
    pub data_dir: PathBuf,
    /// `docker` or `process`.
    pub runtime: String,
    /// Docker's address if not the usual one, else empty.
    pub docker_host: String,
    /// Whose instance it is.
    pub node: NodeId,
    /// Of the node.
    pub cluster: ClusterId,
}

impl Post {
    fn owner(&self) -> Owner {
        Owner { node: self.node, cluster: self.cluster }
    }
}

/// A kill that fails is tried again so often and so late: Docker may be on its way back.
const AGAIN: (u32, Duration) = (600, Duration::from_millis(500));

/// Messages of the daemon that may wait. One counts, the last.
const MESSAGES: usize = 4;

/// Ends of instances that may be reported; nobody listens.
const EVENTS: usize = 1024;

/// The guards of this daemon's instances.
#[derive(Debug)]
pub(crate) struct Guards {
    post: Post,
    clock: Clock,
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    guards: BTreeMap<InstanceId, (Child, ChildStdin)>,
    /// Until when the consent to each component lasts.
    until: BTreeMap<ComponentName, Mono>,
}

impl Guards {
    pub(crate) fn new(post: Post, clock: Clock) -> Arc<Self> {
        Arc::new(Self { post, clock, all: Mutex::default() })
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a guard beside an instance that is about to be started.
    pub(crate) fn begin(&self, id: &InstanceId) -> std::io::Result<()> {
        let Post { data_dir, runtime, docker_host, node, cluster } = &self.post;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(COMMAND).arg(data_dir).args([runtime, docker_host]);
        command.args([node.to_string(), cluster.to_string(), id.to_string()]);
        // What ends the daemon's group must not end it.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let mut child = command.spawn()?;
        let Some(input) = child.stdin.take() else { return Err(std::io::Error::other("it has no stdin")) };
        // Nothing here waits for a guard that reads nothing.
        rustix::io::ioctl_fionbio(&input, true)?;
        let mut all = self.all();
        let until = all.until.get(&id.component()).copied().unwrap_or_default();
        say(&input, until, self.clock.mono())?;
        all.guards.insert(id.clone(), (child, input));
        Ok(())
    }

    /// The consent to a component lasts until then, up to the beginning of its stop.
    pub(crate) fn extend(&self, component: &ComponentName, until: Mono) {
        let now = self.clock.mono();
        let mut all = self.all();
        all.until.insert(component.clone(), until);
        for (id, (_, input)) in all.guards.iter().filter(|(id, _)| id.component() == *component) {
            if let Err(error) = say(input, until, now) {
                tracing::warn!(instance = %id, %error, "the guard of a strict singleton does not listen");
            }
        }
    }

    /// Nothing of the instance is left.
    pub(crate) fn end(&self, id: &InstanceId) {
        if let Some((mut child, input)) = self.all().guards.remove(id) {
            drop(input);
            // It is gone already if it had to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn say(mut input: &ChildStdin, until: Mono, now: Mono) -> std::io::Result<()> {
    let left = until.after(TERM.saturating_sub(HOLD)).since(now);
    input.write_all(format!("{}\n", left.as_millis()).as_bytes())
}

/// A guard: waits until the consent is over, then kills the instance. Blocks.
///
/// # Errors
/// The instance could not be killed.
pub fn guard(post: &Post, id: &InstanceId, daemon: impl Read + Send + 'static) -> Result<(), DaemonError> {
    let clock = Clock::new();
    let (heard, hears) = sync_channel(MESSAGES);
    std::thread::spawn(move || {
        for line in BufReader::new(daemon).lines().map_while(Result::ok) {
            let left = line.parse().map(Duration::from_millis).unwrap_or_default();
            if heard.send(clock.mono().after(left)).is_err() {
                return;
            }
        }
    });
    let mut until = clock.mono().after(TERM);
    loop {
        let left = until.since(clock.mono());
        match hears.recv_timeout(left) {
            Ok(later) => until = later,
            Err(RecvTimeoutError::Timeout) => break,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(until.since(clock.mono()));
                break;
            }
        }
    }
    let failed = |source| DaemonError::Io { doing: format!("kill instance {id}, whose consent is over"), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let mut last = std::io::Error::other("not tried");
    for _ in 0..AGAIN.0 {
        match runtime.block_on(kill(post, id)) {
            Ok(()) => return Ok(()),
            Err(error) => last = std::io::Error::other(error),
        }
        std::thread::sleep(AGAIN.1);
    }
    Err(failed(last))
}

async fn kill(post: &Post, id: &InstanceId) -> Result<(), String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let logs = Arc::new(LogBook::open(&post.data_dir).map_err(|error| words(&error))?);
    let (events, _unheard) = tokio::sync::mpsc::channel::<RuntimeEvent>(EVENTS);
    if post.runtime != "docker" {
        let opened = ProcessRuntime::open(&post.data_dir, post.owner(), logs, events).map_err(|error| words(&error))?;
        return opened.kill(id).await.map_err(|error| words(&error));
    }
    let host = Some(&*post.docker_host).filter(|host| !host.is_empty());
    let connected = DockerRuntime::connect(host, &post.data_dir, post.owner(), logs, events).await;
    let docker = connected.map_err(|error| words(&error))?;
    docker.stop(id, "SIGKILL", Duration::ZERO).await.map_err(|error| words(&error))
}

//! What starts, freezes and stops instances. Two implementations behind one trait: [`process`] on the node itself and
//! [`docker`]. Both pass the same contract test (`tests/support/contract.rs`).
//!
//! Knows nothing of requests, queues or the registry; decides nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::failure::Phase;
use crate::id::{ClusterId, InstanceId, NodeId};
use crate::model::Component;
use crate::model::cfg::{Delivery, Given};
use crate::model::component::Image;

pub mod docker;
mod files;
pub mod logs;
pub mod probe;
pub mod process;

pub use logs::LogBook;

/// A future that can be a method of a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Everything a runtime needs to start one instance.
#[derive(Debug, Clone)]
pub struct InstanceSpec {
    /// Its id: in the environment as `MAELSTROM_INSTANCE_ID`, and in the labels.
    pub id: InstanceId,
    /// What to run.
    pub component: Arc<Component>,
    /// The version of the definition; an adopted instance of another version is replaced.
    pub version: String,
    /// Its settings with their values.
    pub cfg: Vec<Given>,
}

impl InstanceSpec {
    /// The environment that the user wants for it: what the definition says, then its settings, which win.
    pub(crate) fn variables(&self) -> BTreeMap<&str, &str> {
        let env = self.component.env.iter().map(|(name, value)| (&**name, &**value));
        let given = self.cfg.iter().filter_map(|given| match &given.to {
            // A value that is no text does not become a variable.
            Delivery::Variable(name) => Some((&**name, std::str::from_utf8(&given.value).ok()?)),
            Delivery::File { .. } => None,
        });
        env.chain(given).collect()
    }
}

/// Whose instances these are: kept with each, so that another node's or program's are never touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// This node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
}

/// An instance that runs. Running is not yet ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Where it listens, or will.
    pub address: SocketAddr,
    /// Process id or container id, for people.
    pub handle: String,
}

/// An instance of ours that was there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: InstanceId,
    /// The version of the definition that it was started with.
    pub version: String,
    /// Where it listens.
    pub started: Started,
    /// Whether it is frozen at this moment.
    pub frozen: bool,
}

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, or 128 + signal.
    pub code: Option<i32>,
    /// Whether the kernel killed it for its memory.
    pub out_of_memory: bool,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.out_of_memory, self.code) {
            (true, _) => f.write_str("killed: out of memory (raise memory_limit)"),
            (false, Some(code)) if code > 128 && code < 192 => write!(f, "killed by signal {}", code - 128),
            (false, Some(code)) => write!(f, "exited with code {code}"),
            (false, None) => f.write_str("ended, exit code unknown"),
        }
    }
}

/// A step of a runtime failed. State: nothing of the instance is left behind when `start` fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct RuntimeError {
    /// Pull, start, or ready for everything later.
    pub phase: Phase,
    /// What failed and what to do, in words for the user.
    pub reason: String,
    /// Whether the runtime itself is unreachable (Docker stopped): everything else on it fails too.
    pub unavailable: bool,
}

/// What a runtime tells unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// An instance ended, asked for or not. Comes exactly once for every started or adopted instance.
    Exited(InstanceId, Exit),
    /// The runtime cannot be reached. Instances may go on running.
    Lost(String),
    /// The runtime is there again; `list` tells what runs.
    Back,
}

/// What a runtime reports while it starts an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Bytes of the image so far, and in all where known.
    Pulling(u64, Option<u64>),
    /// The image is there; the instance is being created.
    Creating,
}

/// Where a start reports its progress; must not block.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// Starts, freezes and stops instances.
pub trait Runtime: fmt::Debug + Send + Sync + 'static {
    /// `process` or `docker`.
    fn name(&self) -> &'static str;

    /// The digest that the tag of an image stands for, which is the same for all nodes; else in words why that is not
    /// known here. Answers within seconds.
    fn digest<'a>(&'a self, image: &'a Image) -> BoxFuture<'a, Result<String, String>> {
        let _ = image;
        Box::pin(async { Err(format!("this node runs components as {} and asks no registry", self.name())) })
    }

    /// Fetches what is missing, creates and starts. Returns when it runs; readiness is seen by the caller.
    fn start<'a>(
        &'a self,
        spec: &'a InstanceSpec,
        progress: OnProgress,
    ) -> BoxFuture<'a, Result<Started, RuntimeError>>;

    /// Takes its processor time away. It keeps memory and sockets.
    fn freeze<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// Gives its processor time back.
    fn thaw<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// Asks it to stop, kills it after `grace`, removes what is left of it, children included. An instance that is
    /// gone already is not an error.
    fn stop<'a>(
        &'a self,
        id: &'a InstanceId,
        signal: &'a str,
        grace: Duration,
    ) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// Finds all instances of this node that run, takes them over (exit events, logs), and clears away what is left
    /// of ones that ended. Called at start-up and after [`RuntimeEvent::Back`].
    fn adopt(&self) -> BoxFuture<'_, Result<Vec<Found>, RuntimeError>>;
}

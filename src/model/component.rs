//! A component: what a user deploys. Defaults and bounds are stated once, in [`defaults`].
//!
//! Knows nothing of events, nodes or instances.

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use crate::id::ComponentName;
use crate::model::cfg::CfgUse;
use crate::model::constraint::Constraint;

pub mod defaults;
mod doc;
mod parse;
mod rollout;
mod scale;
mod settings;
mod singleton;
#[cfg(test)]
mod tests;
mod volumes;
mod workload;

pub use rollout::{Rollout, RolloutOrder};
pub use singleton::Singleton;
pub(in crate::model) use volumes::absolute_path;

/// A validated component definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Unique in the cluster.
    pub name: ComponentName,
    /// What runs.
    pub workload: Workload,
    /// The port that the instance listens on. For an image 8080 unless said; for a command `None` means that each
    /// instance is given a free port in `PORT`.
    pub port: Option<NonZeroU16>,
    /// Environment of each instance. Names starting with `MAELSTROM_` are refused: they are ours.
    pub env: BTreeMap<String, String>,
    /// The settings that each instance is given; a setting of this component itself needs not be named to be given.
    pub cfg: Vec<CfgUse>,
    /// Memory in bytes that placement sets aside for an instance.
    pub memory_reserve: u64,
    /// Memory in bytes beyond which an instance is killed; never below the reserve.
    pub memory_limit: Option<u64>,
    /// Processor share in thousandths of a core.
    pub cpu: Option<NonZeroU32>,
    /// Events that one instance is given at once; more wait in the queue.
    pub concurrency: NonZeroU32,
    /// Events per instance at which scaling adds another; never above `concurrency`.
    pub concurrency_target: NonZeroU32,
    /// Instances kept even when idle.
    pub min_instances: u32,
    /// Instances at most in the cluster; never below `min_instances`.
    pub max_instances: NonZeroU32,
    /// Instances at most on one node.
    pub max_per_node: NonZeroU32,
    /// Whether it may run twice. A singleton has a maximum of one.
    pub singleton: Singleton,
    /// How long unused until frozen; `None` never freezes.
    pub freeze_after: Option<Duration>,
    /// How long unused until stopped.
    pub idle_timeout: Duration,
    /// From the start of the instance to its readiness.
    pub start_timeout: Duration,
    /// From the arrival of a request to the last byte of the answer's head, queue and cold start included.
    pub request_timeout: Duration,
    /// Events that may wait for a slot.
    pub queue_limit: u32,
    /// The largest request body in bytes; `None` is unlimited.
    pub max_body: Option<u64>,
    /// How an instance shows that it works.
    pub health: Health,
    /// Whether a changed component starts new instances before it stops old ones.
    pub restart_order: RestartOrder,
    /// How a change is carried out over the nodes.
    pub rollout: Rollout,
    /// Where files outside the instance are seen inside.
    pub volumes: Vec<Volume>,
    /// Container network; the runtime's default if none.
    pub network: Option<String>,
    /// Log driver and options of the container runtime; logs are captured by us in any case.
    pub log: LogOptions,
    /// What a node must be to run it, by its labels; all of them must be met.
    pub constraints: Vec<Constraint>,
    /// Labels of the user, passed to containers.
    pub labels: BTreeMap<String, String>,
    /// How an instance is asked to stop.
    pub stop: Stop,
}

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workload {
    /// A container image.
    Image(Image),
    /// A program on the node itself.
    Command(Command),
}

/// A container image and how to get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `[registry/]name[:tag][@digest]`.
    pub reference: String,
    /// The digest that the tag stood for when the component was put. None if nobody could tell, or if the reference has
    /// one itself.
    pub pinned: Option<String>,
    /// Replaces the image's command if not empty.
    pub command: Vec<String>,
    /// Replaces the image's entrypoint if not empty.
    pub entrypoint: Vec<String>,
    /// When to fetch it.
    pub pull: PullPolicy,
    /// For a registry that asks for a login.
    pub credentials: Option<Credentials>,
}

/// A registry login. `Debug` does not show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Who.
    pub username: String,
    /// The secret.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:***", self.username)
    }
}

/// When an image is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// Before every start.
    Always,
    /// If the node does not have it.
    #[default]
    Missing,
    /// Never; a missing image is a failure of the start.
    Never,
}

/// A program on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments; never empty. A program without `/` is looked up in `PATH`.
    pub argv: Vec<String>,
    /// Working directory; the instance's own scratch directory if none.
    pub cwd: Option<String>,
}

/// How an instance shows that it works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// `GET` of this path must answer 2xx or 3xx; `None`: an accepted connection is enough.
    pub path: Option<String>,
    /// Between two checks of a ready instance.
    pub interval: Duration,
    /// For the answer of one check.
    pub timeout: Duration,
    /// Failures in a row after which the instance is replaced.
    pub failures: NonZeroU32,
}

/// The order of a replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestartOrder {
    /// The new instance is ready before the old one stops: no gap.
    #[default]
    StartFirst,
    /// The old one stops first: never two at once.
    StopFirst,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// What is mounted.
    pub kind: VolumeKind,
    /// Path on the host, or name of the volume; empty for tmpfs.
    pub source: String,
    /// Absolute path in the instance.
    pub target: String,
    /// Whether the instance may only read.
    pub read_only: bool,
}

/// What a mount is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeKind {
    /// A path of the host.
    Bind,
    /// A named volume of the container runtime.
    Volume,
    /// Memory.
    Tmpfs,
}

/// Options of the container runtime's own log driver.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// The runtime's default if none.
    pub driver: Option<String>,
    /// As the driver wants them.
    pub options: BTreeMap<String, String>,
}

/// How an instance is asked to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// One of the names in the manual, such as `SIGTERM`.
    pub signal: String,
    /// From the signal to the kill.
    pub grace: Duration,
}

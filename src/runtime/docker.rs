//! Containers by the Docker engine's API. They survive the daemon and are adopted by the next one; none is ever
//! leaked, and none of another node, cluster or program is touched.
//!
//! Knows nothing of requests, queues or the registry; decides nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::files::Files;
use super::{BoxFuture, Found, InstanceSpec, LogBook, OnProgress, Owner, Runtime, RuntimeError, RuntimeEvent, Started};
use crate::failure::Phase;
use crate::id::InstanceId;
use crate::model::component::Image;

mod adopt;
mod backoff;
mod capture;
mod client;
mod create;
mod digest;
mod ending;
mod events;
mod freezer;
mod instance;
mod pull;
mod start;

pub use create::{LABEL_CLUSTER, LABEL_COMPONENT, LABEL_INSTANCE, LABEL_NODE, LABEL_PORT, LABEL_VERSION};

use client::{CallError, Client, QUICK, SLOW};
use freezer::Freezer;
use instance::{Frozen, Table};
use pull::Pulls;

/// The runtime for images. Dropping it ends its tasks; containers go on running.
#[derive(Debug)]
pub struct DockerRuntime(Arc<Shared>);

/// What all parts of the runtime work on.
#[derive(Debug)]
struct Shared {
    client: Arc<Client>,
    owner: Owner,
    logs: Arc<LogBook>,
    events: mpsc::Sender<RuntimeEvent>,
    table: Table,
    pulls: Pulls,
    files: Files,
    /// The engine's own log driver.
    log_driver: String,
    /// Whether `adopt` was called; before that, containers that nobody knows are not strays.
    adopted: AtomicBool,
    /// The daemon stops.
    closed: CancellationToken,
}

impl DockerRuntime {
    /// Connects to Docker and starts to listen for ends. `host` is the path of its socket or a `DOCKER_HOST`
    /// (`unix://PATH`, `tcp://HOST:PORT`); `/var/run/docker.sock` if none.
    ///
    /// `data_dir` must exist. `events` should have room for one event per instance; a full queue delays reports and
    /// loses none.
    ///
    /// # Errors
    /// Docker does not answer (`unavailable`), or the host is of a kind that is not supported.
    pub async fn connect(
        host: Option<&str>,
        data_dir: &Path,
        owner: Owner,
        logs: Arc<LogBook>,
        events: mpsc::Sender<RuntimeEvent>,
    ) -> Result<Self, RuntimeError> {
        tracing::debug!(?host, ?data_dir, "connecting to Docker");
        let client = Client::connect(host).await.map_err(|error| error.at(Phase::Start))?;
        let info = client.call("info", SLOW, async |docker| docker.info().await).await;
        let info = info.map_err(|error| error.at(Phase::Start))?;
        let shared = Arc::new(Shared {
            client: Arc::new(client),
            owner,
            logs,
            events,
            table: Table::default(),
            pulls: Pulls::default(),
            files: Files::new(&owner),
            log_driver: info.logging_driver.unwrap_or_default(),
            adopted: AtomicBool::new(false),
            closed: CancellationToken::new(),
        });
        crate::telemetry::spawn("docker-events", events::run(Arc::clone(&shared)));
        Ok(Self(shared))
    }

    /// Whether Docker answers on `host`: for the choice of a runtime.
    ///
    /// # Errors
    /// It does not; the text says what to do.
    pub async fn ping(host: Option<&str>) -> Result<(), RuntimeError> {
        Client::connect(host).await.map(drop).map_err(|error| error.at(Phase::Start))
    }
}

impl Drop for DockerRuntime {
    fn drop(&mut self) {
        self.0.closed.cancel();
    }
}

impl Runtime for DockerRuntime {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn digest<'a>(&'a self, image: &'a Image) -> BoxFuture<'a, Result<String, String>> {
        Box::pin(digest::digest(&self.0.client, image))
    }

    fn start<'a>(
        &'a self,
        spec: &'a InstanceSpec,
        progress: OnProgress,
    ) -> BoxFuture<'a, Result<Started, RuntimeError>> {
        let (shared, spec) = (Arc::clone(&self.0), spec.clone());
        // A task of its own: if the caller goes away in the middle, what was created is still removed.
        let (wanted, result) = oneshot::channel();
        crate::telemetry::spawn("docker-start", start::start(shared, spec, progress, wanted));
        Box::pin(async move { result.await.unwrap_or_else(|_| Err(panicked())) })
    }

    fn freeze<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(self.0.freeze(id))
    }

    fn thaw<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async move {
            let Some(instance) = self.0.table.get(id).filter(|instance| !instance.is_ended()) else {
                return Err(unknown(id));
            };
            let mut frozen = instance.frozen.lock().await;
            let container = instance.container().ok_or_else(|| unknown(id))?;
            thaw(&self.0, container, &mut frozen).await.map_err(|error| error.at(Phase::Ready))
        })
    }

    fn stop<'a>(
        &'a self,
        id: &'a InstanceId,
        signal: &'a str,
        grace: Duration,
    ) -> BoxFuture<'a, Result<(), RuntimeError>> {
        let (shared, id, signal) = (Arc::clone(&self.0), id.clone(), signal.to_owned());
        // A task of its own: a stop that has begun is brought to its end.
        let task =
            crate::telemetry::spawn("docker-stop", async move { ending::stop(&shared, &id, &signal, grace).await });
        Box::pin(async move { task.await.unwrap_or_else(|_| Err(panicked())) })
    }

    fn adopt(&self) -> BoxFuture<'_, Result<Vec<Found>, RuntimeError>> {
        Box::pin(async move {
            let found = adopt::adopt(&self.0).await.map_err(|error| error.at(Phase::Start))?;
            self.0.adopted.store(true, Ordering::Release);
            Ok(found)
        })
    }
}

impl Shared {
    async fn freeze(&self, id: &InstanceId) -> Result<(), RuntimeError> {
        let Some(instance) = self.table.get(id).filter(|instance| !instance.is_ended()) else {
            return Err(unknown(id));
        };
        let container = instance.container().ok_or_else(|| unknown(id))?;
        let mut frozen = instance.frozen.lock().await;
        if instance.is_stopping() {
            return Err(unknown(id));
        }
        if *frozen != Frozen::No {
            return Ok(());
        }
        if let Some(freezer) = self.freezer(instance.pid(), container) {
            match freezer.freeze().await {
                Ok(()) => {
                    *frozen = Frozen::File(freezer);
                    return Ok(());
                }
                Err(error) => tracing::debug!(%id, %error, "cannot freeze by file; pausing"),
            }
        }
        let paused = self.client.call("pause", SLOW, async |docker| docker.pause_container(container).await).await;
        paused.map_err(|error| error.at(Phase::Ready))?;
        *frozen = Frozen::Paused;
        Ok(())
    }

    /// Looks up the freezer of a container that is not in the table.
    async fn freezer_of(&self, container: &str) -> Option<Freezer> {
        let found = self.client.call("inspect", QUICK, async |docker| docker.inspect_container(container, None).await);
        let pid = found.await.ok()?.state?.pid?;
        self.freezer(pid, container)
    }
}

/// Thaws in the way in which it was frozen. One that runs is no error.
async fn thaw(shared: &Shared, container: &str, frozen: &mut Frozen) -> Result<(), CallError> {
    match frozen {
        Frozen::No => return Ok(()),
        Frozen::File(freezer) => match freezer.thaw() {
            Ok(()) => {}
            // The group goes with its last process.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                let message = format!("cannot thaw container {container}: {error}");
                return Err(CallError { status: None, message, unavailable: false });
            }
        },
        Frozen::Paused => {
            let call = shared.client.call("unpause", SLOW, async |docker| docker.unpause_container(container).await);
            match call.await {
                Ok(()) => {}
                // Someone else was faster, or it has ended.
                Err(error) if error.is_missing() || error.message.contains("is not paused") => {}
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
    }
    *frozen = Frozen::No;
    Ok(())
}

fn unknown(id: &InstanceId) -> RuntimeError {
    RuntimeError { phase: Phase::Ready, reason: format!("instance {id} does not run"), unavailable: false }
}

fn panicked() -> RuntimeError {
    let reason = "a task of the Docker runtime broke off; this is a bug, the log of maelstromd has more".to_owned();
    RuntimeError { phase: Phase::Start, reason, unavailable: false }
}

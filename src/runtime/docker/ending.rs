//! The end of a container: asked for or not, it is reported once, with all that it wrote in the log book, and
//! removed, however often Docker has to be asked.

use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error;
use bollard::query_parameters::{
    KillContainerOptionsBuilder, RemoveContainerOptionsBuilder, WaitContainerOptionsBuilder,
};
use futures_util::StreamExt as _;

use super::backoff::Backoff;
use super::client::{CallError, QUICK, SLOW};
use super::create::{LABEL_CLUSTER, LABEL_NODE, container_name};
use super::freezer::Freezer;
use super::instance::Instance;
use super::{Shared, thaw};
use crate::failure::Phase;
use crate::id::InstanceId;
use crate::runtime::{RuntimeError, RuntimeEvent};

/// How long an end waits for the last lines. Docker closes the log stream within 10 ms of the end; this only bounds
/// the case that it never does, which some log drivers were seen to do.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Docker's own report that the kernel ran out of memory may come a little after the end.
const OOM_LATE: Duration = Duration::from_millis(50);

/// A killed process is gone in milliseconds, unless it hangs in the kernel.
const AFTER_KILL: Duration = Duration::from_secs(10);

/// Between two tries to remove what could not be removed: a busy device or network is free again in seconds; what
/// is not removed within an hour needs a person, and the next start of the daemon tries again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
const TRIES: usize = 64;

/// Tells the end of an instance and clears it away. Only for whom [`Instance::set_ended`] or
/// [`Instance::set_started`] told to.
pub(super) fn report(shared: &Arc<Shared>, instance: Arc<Instance>) {
    let shared = Arc::clone(shared);
    crate::telemetry::spawn("docker-end", async move {
        if instance.exit().code == Some(137) && !instance.is_stopping() && !instance.exit().out_of_memory {
            find_out_of_memory(&shared, &instance).await;
        }
        // After this nothing more of it is waited for.
        drop(tokio::time::timeout(LAST_WORDS, instance.wait_captured()).await);
        shared.files.remove(&instance.id);
        let exit = instance.exit();
        if shared.events.send(RuntimeEvent::Exited(instance.id.clone(), exit)).await.is_err() {
            // The daemon stops. What is left is found and cleared away at its next start.
            return;
        }
        if !instance.is_stopping()
            && let Some(container) = instance.container()
        {
            remove_surely(&shared, container).await;
        }
        shared.table.remove(&instance);
    });
}

async fn find_out_of_memory(shared: &Shared, instance: &Instance) {
    let Some(container) = instance.container() else { return };
    tokio::time::sleep(OOM_LATE).await;
    let inspected =
        shared.client.call("inspect", QUICK, async |docker| docker.inspect_container(container, None).await);
    if let Ok(inspected) = inspected.await
        && inspected.state.and_then(|state| state.oom_killed) == Some(true)
    {
        instance.set_out_of_memory();
    }
}

/// Stops and removes an instance, whether it is in the table or not.
pub(super) async fn stop(
    shared: &Arc<Shared>,
    id: &InstanceId,
    signal: &str,
    grace: Duration,
) -> Result<(), RuntimeError> {
    let Some(instance) = shared.table.get(id) else {
        return stop_unknown(shared, id, signal, grace).await;
    };
    let Some(container) = instance.container() else {
        let reason = format!("instance {id} is being created and cannot be stopped yet");
        return Err(RuntimeError { phase: Phase::Start, reason, unavailable: false });
    };
    instance.set_stopping();
    // Nobody freezes it from here on: `freeze` looks at `stopping` under this lock.
    let mut frozen = instance.frozen.lock().await;
    if let Err(error) = thaw(shared, container, &mut frozen).await
        && error.unavailable
    {
        return Err(error.at(Phase::Ready));
    }
    if !instance.is_ended() {
        end(shared, Some(&instance), container, signal, grace).await.map_err(|error| error.at(Phase::Ready))?;
    }
    drop(tokio::time::timeout(LAST_WORDS, instance.wait_captured()).await);
    remove_or_retry(shared, container).await.map_err(|error| error.at(Phase::Ready))?;
    // Here the end is certain, whether or not Docker told it.
    if instance.set_ended(None) {
        report(shared, instance.clone());
    }
    Ok(())
}

/// One that is not in the table: started before the daemon and not adopted, or gone.
async fn stop_unknown(
    shared: &Arc<Shared>,
    id: &InstanceId,
    signal: &str,
    grace: Duration,
) -> Result<(), RuntimeError> {
    let Some(owned) = find_own(shared, &container_name(id)).await.map_err(|error| error.at(Phase::Ready))? else {
        return Ok(());
    };
    let stopped = async {
        if owned.running {
            if owned.paused {
                drop(
                    shared
                        .client
                        .call("unpause", SLOW, async |docker| docker.unpause_container(&owned.container).await)
                        .await,
                );
            } else if let Some(freezer) = shared.freezer(owned.pid, &owned.container)
                && freezer.is_frozen()
            {
                drop(freezer.thaw());
            }
            end(shared, None, &owned.container, signal, grace).await?;
        }
        remove_or_retry(shared, &owned.container).await
    };
    stopped.await.map_err(|error: CallError| error.at(Phase::Ready))
}

/// A container of this owner, looked up by name.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) container: String,
    pub(super) running: bool,
    pub(super) paused: bool,
    pub(super) pid: i64,
}

/// Looks a container up. None if there is none, or if it is not ours.
pub(super) async fn find_own(shared: &Shared, name: &str) -> Result<Option<Owned>, CallError> {
    let found = shared.client.call("inspect", QUICK, async |docker| docker.inspect_container(name, None).await).await;
    let found = match found {
        Ok(found) => found,
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => return Err(error),
    };
    let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
    let ours = labels.get(LABEL_NODE) == Some(&shared.owner.node.to_string())
        && labels.get(LABEL_CLUSTER) == Some(&shared.owner.cluster.to_string());
    let state = found.state.unwrap_or_default();
    Ok(found.id.filter(|_| ours).map(|container| Owned {
        container,
        running: state.running.unwrap_or(false),
        paused: state.paused.unwrap_or(false),
        pid: state.pid.unwrap_or(0),
    }))
}

/// Signals a container, waits for its end, and kills it after `grace`.
async fn end(
    shared: &Arc<Shared>,
    instance: Option<&Arc<Instance>>,
    container: &str,
    signal: &str,
    grace: Duration,
) -> Result<(), CallError> {
    if !grace.is_zero() {
        match kill(shared, container, signal).await {
            Ok(true) => {
                if tokio::time::timeout(grace, wait(shared, instance, container)).await.is_ok() {
                    return Ok(());
                }
            }
            Ok(false) => return Ok(()),
            Err(error) if error.unavailable => return Err(error),
            // A signal that Docker does not know must not keep it alive.
            Err(error) => tracing::warn!(container, signal, %error, "cannot signal; killing at once"),
        }
    }
    if kill(shared, container, "SIGKILL").await? {
        // If it is not gone by then the removal says why.
        drop(tokio::time::timeout(AFTER_KILL, wait(shared, instance, container)).await);
    }
    Ok(())
}

/// Sends a signal. False if nothing runs any more.
async fn kill(shared: &Shared, container: &str, signal: &str) -> Result<bool, CallError> {
    let options = KillContainerOptionsBuilder::new().signal(signal).build();
    let call = shared.client.call("kill", SLOW, async |docker| docker.kill_container(container, Some(options)).await);
    match call.await {
        Ok(()) => Ok(true),
        Err(error) if error.is_missing() || error.is_conflict() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits until a container has ended: told by the events or by Docker's own wait, whichever comes first. To be called
/// with a deadline.
async fn wait(shared: &Arc<Shared>, instance: Option<&Arc<Instance>>, container: &str) {
    let told = async {
        match instance {
            Some(instance) => instance.wait_ended().await,
            None => std::future::pending().await,
        }
    };
    let asked = async {
        let docker = shared.client.docker();
        let options = WaitContainerOptionsBuilder::new().condition("not-running").build();
        match docker.wait_container(container, Some(options)).next().await {
            Some(Ok(end)) => Some(end.status_code),
            Some(Err(Error::DockerContainerWaitError { code, .. })) => Some(code),
            Some(Err(error)) if shared.client.explain("wait", &error).is_missing() => None,
            // Docker went away; the events will tell.
            Some(Err(_)) | None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = told => {}
        code = asked => {
            let code = code.and_then(|code| i32::try_from(code).ok());
            if let Some(instance) = instance
                && instance.set_ended(code)
            {
                report(shared, Arc::clone(instance));
            }
        }
    }
}

/// Removes a container, kills it if it still runs, and waits until it is gone. One that is gone is no error.
pub(super) async fn remove(shared: &Shared, container: &str) -> Result<(), CallError> {
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    let call =
        shared.client.call("remove", SLOW, async |docker| docker.remove_container(container, Some(options)).await);
    match call.await {
        Ok(()) => Ok(()),
        Err(error) if error.is_missing() => Ok(()),
        Err(error) if error.is_conflict() => wait_removed(shared, container).await.then_some(()).ok_or(error),
        Err(error) => Err(error),
    }
}

/// Someone else removes it already (409): waits for that.
async fn wait_removed(shared: &Shared, container: &str) -> bool {
    let gone = async {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        loop {
            let found =
                shared.client.call("inspect", QUICK, async |docker| docker.inspect_container(container, None).await);
            if found.await.is_err_and(|error| error.is_missing()) {
                return;
            }
            backoff.wait().await;
        }
    };
    tokio::time::timeout(SLOW, gone).await.is_ok()
}

/// Removes a container now, or else in the background.
///
/// # Errors
/// Docker cannot be reached; then nothing is tried in the background, as `adopt` finds what is left.
async fn remove_or_retry(shared: &Arc<Shared>, container: &str) -> Result<(), CallError> {
    match remove(shared, container).await {
        Ok(()) => Ok(()),
        Err(error) if error.unavailable => Err(error),
        Err(error) => {
            tracing::warn!(container, %error, "cannot remove the container now; trying again in the background");
            let (shared, container) = (Arc::clone(shared), container.to_owned());
            crate::telemetry::spawn("docker-remove", async move { remove_surely(&shared, &container).await });
            Ok(())
        }
    }
}

/// Removes a container however often it takes, until the daemon stops.
pub(super) async fn remove_surely(shared: &Shared, container: &str) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    for _ in 0..TRIES {
        match remove(shared, container).await {
            Ok(()) => return,
            Err(error) => tracing::debug!(container, %error, "cannot remove the container yet"),
        }
        tokio::select! {
            () = shared.closed.cancelled() => return,
            () = backoff.wait() => {}
        }
    }
    tracing::warn!(container, "gave up removing a container; `docker rm -f` does it by hand");
}

impl Shared {
    /// The freezer of a container, where Docker runs on this machine and we may write the file.
    pub(super) fn freezer(&self, pid: i64, container: &str) -> Option<Freezer> {
        (self.client.is_local() && pid > 0).then(|| Freezer::find(pid, container)).flatten()
    }
}

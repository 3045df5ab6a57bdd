//! Creates and starts one container, with as few calls as there can be: create, start, and one look for its address.
//! The image is asked for only when Docker says that it is not there.

use std::sync::Arc;

use bollard::models::{ContainerCreateBody, ContainerInspectResponse};
use bollard::query_parameters::CreateContainerOptionsBuilder;
use tokio::sync::oneshot;

use super::client::{CallError, QUICK, SLOW};
use super::ending::{find_own, remove, remove_surely, report};
use super::instance::Instance;
use super::{Shared, capture, create, pull};
use crate::failure::Phase;
use crate::model::component::{Image, PullPolicy, Workload};
use crate::runtime::files::{Placed, Reader};
use crate::runtime::{InstanceSpec, OnProgress, Progress, RuntimeError, Started};
use crate::time::Wall;

/// Starts an instance and answers on `wanted`. If nobody waits for the answer any more, it is removed again.
pub(super) async fn start(
    shared: Arc<Shared>,
    spec: InstanceSpec,
    progress: OnProgress,
    mut wanted: oneshot::Sender<Result<Started, RuntimeError>>,
) {
    let Some(instance) = shared.table.insert(&spec.id) else {
        let reason = format!("instance {} is there already", spec.id);
        // Nobody waiting is fine: nothing was done.
        drop(wanted.send(Err(RuntimeError { phase: Phase::Start, reason, unavailable: false })));
        return;
    };
    let result = run(&shared, &spec, &instance, &progress, &mut wanted).await;
    let undelivered = match result {
        Ok(inspected) => {
            let address = create::address(&inspected, create::port(&spec.component));
            let handle = instance.container().unwrap_or_default().to_owned();
            if wanted.send(Ok(Started { address, handle })).is_ok() {
                if instance.set_started() {
                    report(&shared, instance);
                }
                return;
            }
            None
        }
        Err(error) => Some((wanted, error)),
    };
    // Nobody is told of the end of an instance that never was.
    let _: bool = instance.set_ended(None);
    let name = create::container_name(&spec.id);
    // By name while Docker has not told an id: the call for it may still be on its way.
    let container = match instance.container() {
        Some(container) => Some(container.to_owned()),
        None => find_own(&shared, &name).await.ok().flatten().map(|found| found.container),
    };
    let removed = match &container {
        Some(container) => remove(&shared, container).await.is_ok(),
        None => true,
    };
    if let Some((wanted, error)) = undelivered {
        // Fine if the caller is gone: what it asked for is gone too.
        drop(wanted.send(Err(error)));
    }
    if let Some(container) = container
        && !removed
    {
        remove_surely(&shared, &container).await;
    }
    shared.files.remove(&spec.id);
    shared.table.remove(&instance);
}

/// Writes the settings that the instance is given as files.
fn place(shared: &Shared, spec: &InstanceSpec) -> Result<Placed, RuntimeError> {
    let placed = shared.files.place(spec, Reader::Anyone)?;
    let has_files = placed.dir.is_some() || !placed.files.is_empty();
    if has_files && !shared.client.is_local() {
        let reason = format!(
            "component {} takes settings as files, and Docker is on another machine, where they cannot be put; take \
             them as variables",
            spec.component.name
        );
        return Err(RuntimeError { phase: Phase::Start, reason, unavailable: false });
    }
    Ok(placed)
}

fn unwanted(spec: &InstanceSpec) -> RuntimeError {
    let reason = format!("the start of instance {} was called off", spec.id);
    RuntimeError { phase: Phase::Start, reason, unavailable: false }
}

async fn run(
    shared: &Arc<Shared>,
    spec: &InstanceSpec,
    instance: &Arc<Instance>,
    progress: &OnProgress,
    wanted: &mut oneshot::Sender<Result<Started, RuntimeError>>,
) -> Result<ContainerInspectResponse, RuntimeError> {
    let Workload::Image(image) = &spec.component.workload else {
        let reason = format!("component {} is a command, which the Docker runtime cannot run", spec.component.name);
        return Err(RuntimeError { phase: Phase::Start, reason, unavailable: false });
    };
    let mut body = create::body(spec, image, &shared.owner, &shared.log_driver)?;
    create::hand_over(&mut body, &place(shared, spec)?);
    let fetch = async |wanted: &mut oneshot::Sender<_>| {
        tokio::select! {
            result = shared.pulls.pull(&shared.client, image, progress) => result,
            () = wanted.closed() => Err(unwanted(spec)),
        }
    };
    let mut fetched = image.pull == PullPolicy::Always;
    if fetched {
        fetch(wanted).await?;
    }
    progress(Progress::Creating);
    let container = loop {
        match create_container(shared, spec, &body).await {
            Ok(container) => break container,
            Err(error) if is_no_image(&error) && !fetched => {
                if image.pull == PullPolicy::Never {
                    return Err(pull::never(image));
                }
                fetch(wanted).await?;
                fetched = true;
                progress(Progress::Creating);
            }
            Err(error) => return Err(refused(image, error)),
        }
    };
    instance.set_container(container.clone());
    if wanted.is_closed() {
        return Err(unwanted(spec));
    }
    let call = shared.client.call("start", SLOW, async |docker| docker.start_container(&container, None).await);
    call.await.map_err(|error| error.at(Phase::Start))?;
    let call = shared.client.call("inspect", QUICK, async |docker| docker.inspect_container(&container, None).await);
    let inspected = call.await.map_err(|error| error.at(Phase::Start))?;
    let state = inspected.state.as_ref();
    if let Some(pid) = state.and_then(|state| state.pid) {
        instance.set_pid(pid);
    }
    let at = state.and_then(|state| capture::wall(state.started_at.as_deref()?)).unwrap_or(Wall(0));
    shared.capture(instance, true, at);
    Ok(inspected)
}

impl Shared {
    /// Copies what an instance writes into the log book from now on, as long as the daemon runs.
    pub(super) fn capture(self: &Arc<Self>, instance: &Arc<Instance>, new: bool, at: Wall) {
        let (shared, instance) = (Arc::clone(self), Arc::clone(instance));
        crate::telemetry::spawn("docker-logs", async move {
            tokio::select! {
                () = shared.closed.cancelled() => {}
                () = capture::follow(&shared, &instance, new, at) => {}
            }
        });
    }
}

/// Creates the container. A leftover of ours with the same name is removed, once.
async fn create_container(
    shared: &Shared,
    spec: &InstanceSpec,
    body: &ContainerCreateBody,
) -> Result<String, CallError> {
    let name = create::container_name(&spec.id);
    let mut cleared = false;
    loop {
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let body = body.clone();
        let call =
            shared.client.call("create", SLOW, async |docker| docker.create_container(Some(options), body).await);
        match call.await {
            Ok(created) => {
                for warning in created.warnings {
                    tracing::debug!(instance = %spec.id, warning, "Docker warns");
                }
                return Ok(created.id);
            }
            Err(error) if error.is_conflict() && !cleared => {
                cleared = true;
                let Some(leftover) = find_own(shared, &name).await? else {
                    let message = format!(
                        "a container named {name} is there already and is not ours; `docker rm {name}` makes room \
                         (Docker: {error})"
                    );
                    return Err(CallError { message, ..error });
                };
                if let Some(freezer) = shared.freezer(leftover.pid, &leftover.container)
                    && freezer.is_frozen()
                {
                    drop(freezer.thaw());
                }
                remove(shared, &leftover.container).await?;
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_no_image(error: &CallError) -> bool {
    error.is_missing() && error.message.to_lowercase().contains("no such image")
}

fn refused(image: &Image, error: CallError) -> RuntimeError {
    if is_no_image(&error) {
        // Fetched, and removed by someone in the same moment.
        let reason = format!("image {} went away while an instance was created; try again", image.reference);
        return RuntimeError { phase: Phase::Pull, reason, unavailable: false };
    }
    error.at(Phase::Start)
}

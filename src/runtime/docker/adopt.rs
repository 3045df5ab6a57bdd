//! Finds the containers of this owner and takes them over; clears away what is left of ones that ended.

use std::sync::Arc;

use bollard::models::ContainerInspectResponse;

use super::client::{CallError, QUICK};
use super::create::{LABEL_INSTANCE, LABEL_PORT, LABEL_VERSION};
use super::ending::{remove_surely, report};
use super::events::{is_running, list};
use super::instance::{Frozen, Instance};
use super::{Shared, capture, create};
use crate::id::InstanceId;
use crate::runtime::{Found, Started};
use crate::time::Wall;

pub(super) async fn adopt(shared: &Arc<Shared>) -> Result<Vec<Found>, CallError> {
    let mut all = Vec::new();
    for listed in list(shared).await? {
        let label = |name: &str| listed.labels.as_ref().and_then(|labels| labels.get(name)).cloned();
        let Some(container) = listed.id.clone() else { continue };
        let Some(id) = label(LABEL_INSTANCE).and_then(|id| id.parse::<InstanceId>().ok()) else {
            tracing::warn!(container, "a container has our labels and no instance; it is left alone");
            continue;
        };
        if !is_running(&listed) {
            if !shared.table.contains(&id) {
                clear(shared, id, container);
            }
            continue;
        }
        let call =
            shared.client.call("inspect", QUICK, async |docker| docker.inspect_container(&container, None).await);
        let inspected = match call.await {
            Ok(inspected) => inspected,
            // Gone since the list was made.
            Err(error) if error.is_missing() => continue,
            Err(error) => return Err(error),
        };
        let Some(frozen) = take_over(shared, &id, &container, &inspected).await else { continue };
        let port = label(LABEL_PORT).and_then(|port| port.parse().ok()).unwrap_or(0);
        let started = Started { address: create::address(&inspected, port), handle: container };
        all.push(Found { id, version: label(LABEL_VERSION).unwrap_or_default(), started, frozen });
    }
    shared.files.sweep(|id| shared.table.contains(id));
    all.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(all)
}

/// Puts a container that runs into the table, if it is not there already. Says whether it is frozen; none if it is
/// being started or is ending at this moment.
async fn take_over(
    shared: &Arc<Shared>,
    id: &InstanceId,
    container: &str,
    inspected: &ContainerInspectResponse,
) -> Option<bool> {
    let Some(instance) = shared.table.insert(id) else {
        let known = shared.table.get(id)?;
        let running = known.is_started() && !known.is_ended() && known.container() == Some(container);
        return if running { Some(*known.frozen.lock().await != Frozen::No) } else { None };
    };
    instance.set_container(container.to_owned());
    let state = inspected.state.clone().unwrap_or_default();
    let pid = state.pid.unwrap_or(0);
    instance.set_pid(pid);
    let is_frozen = find_frozen(shared, &instance, container, state.paused == Some(true)).await;
    let at = state.started_at.as_deref().and_then(capture::wall).unwrap_or(Wall(0));
    shared.capture(&instance, false, at);
    let mut ended = instance.set_started();
    if state.running == Some(false) {
        // It ended between the list and the look.
        ended |= instance.set_ended(state.exit_code.and_then(|code| i32::try_from(code).ok()));
    }
    if ended {
        report(shared, instance);
        return None;
    }
    Some(is_frozen)
}

/// Docker knows of its own pause only; a group that we froze says so itself.
async fn find_frozen(shared: &Shared, instance: &Instance, container: &str, paused: bool) -> bool {
    let mut frozen = instance.frozen.lock().await;
    if paused {
        *frozen = Frozen::Paused;
    } else if let Some(freezer) = shared.freezer(instance.pid(), container)
        && freezer.is_frozen()
    {
        *frozen = Frozen::File(freezer);
    }
    *frozen != Frozen::No
}

/// Keeps the last words of a container that ended while no daemon ran, and removes it.
fn clear(shared: &Arc<Shared>, id: InstanceId, container: String) {
    let shared = Arc::clone(shared);
    crate::telemetry::spawn("docker-clear", async move {
        // A log that cannot be read in time is not worth a container that stays.
        drop(tokio::time::timeout(QUICK, capture::rest(&shared, &id, &container)).await);
        remove_surely(&shared, &container).await;
    });
}

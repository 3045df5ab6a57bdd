//! Listens to Docker: which of our containers ended, and whether Docker itself is there. What was missed while it was
//! not, is found by listing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum as State, EventMessage};
use bollard::query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder};
use futures_util::StreamExt as _;

use super::Shared;
use super::backoff::Backoff;
use super::client::{CallError, QUICK, SLOW};
use super::create::{LABEL_INSTANCE, owner_filter};
use super::ending::{remove_surely, report};
use super::instance::{Frozen, Instance};
use crate::runtime::RuntimeEvent;

/// Docker drops an event if its reader is slow, and the time between two subscriptions has a gap. A list of our own
/// containers costs Docker about 1 ms per ten of them; this often, nothing missed stays unnoticed for long.
const RECONCILE: Duration = Duration::from_secs(30);

/// The first list after a subscription: a subscription is in place within milliseconds.
const FIRST_RECONCILE: Duration = Duration::from_millis(100);

/// Between two tries to reach Docker. A restart of it takes 1-10 s.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Runs until the daemon stops.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut lost = false;
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        let reason = tokio::select! {
            () = shared.closed.cancelled() => return,
            reason = listen(&shared, &mut lost, &mut backoff) => reason,
        };
        if !lost && let Err(error) = shared.client.reconnect().await {
            lost = true;
            tracing::warn!(%reason, "lost Docker");
            // At its start Docker kills what it finds (unless it is set to live-restore), and would wait for what is
            // frozen. One that goes on runs until it is frozen anew.
            for instance in shared.table.running() {
                thaw_to_end(instance).await;
            }
            if shared.events.send(RuntimeEvent::Lost(error.message)).await.is_err() {
                return;
            }
        }
        if lost && !find_again(&shared, &mut backoff).await {
            return;
        }
        // A stream that always breaks at once must not make a busy loop.
        backoff.wait().await;
    }
}

/// Asks until Docker answers. False if the daemon stops before.
async fn find_again(shared: &Shared, backoff: &mut Backoff) -> bool {
    loop {
        tokio::select! {
            () = shared.closed.cancelled() => return false,
            () = backoff.wait() => {}
        }
        if shared.client.reconnect().await.is_ok() {
            return true;
        }
    }
}

/// Reads events until the stream ends. The reader itself never waits for anything else, or Docker would drop events.
async fn listen(shared: &Arc<Shared>, lost: &mut bool, backoff: &mut Backoff) -> String {
    let options = EventsOptionsBuilder::new()
        .filters(
            &[
                ("type".to_owned(), vec!["container".to_owned()]),
                ("label".to_owned(), owner_filter(&shared.owner)),
                ("event".to_owned(), ["die", "oom", "destroy", "kill", "pause", "unpause"].map(str::to_owned).to_vec()),
            ]
            .into_iter()
            .collect(),
        )
        .build();
    let docker = shared.client.docker();
    let mut events = Box::pin(docker.events(Some(options)));
    let mut reconciling = Box::pin(tokio::time::sleep(FIRST_RECONCILE));
    let (done, mut checked) = tokio::sync::mpsc::channel::<Result<(), CallError>>(1);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => take(shared, &event),
                Some(Err(error)) => return error.to_string(),
                None => return "the event stream ended".to_owned(),
            },
            () = &mut reconciling => {
                let (shared, done) = (Arc::clone(shared), done.clone());
                crate::telemetry::spawn("docker-reconcile", async move {
                    let result = reconcile(&shared).await;
                    // Nobody waits for it when the stream has ended meanwhile.
                    drop(done.send(result).await);
                });
                // Started again when the result is there.
                reconciling = Box::pin(tokio::time::sleep(Duration::MAX));
            }
            Some(result) = checked.recv() => {
                reconciling = Box::pin(tokio::time::sleep(RECONCILE));
                match result {
                    Ok(()) => {
                        backoff.reset();
                        if std::mem::take(lost) {
                            tracing::info!("Docker is back");
                            drop(shared.events.send(RuntimeEvent::Back).await);
                        }
                    }
                    Err(error) if error.unavailable => return error.message,
                    Err(error) => tracing::warn!(%error, "cannot list containers"),
                }
            }
        }
    }
}

fn take(shared: &Arc<Shared>, event: &EventMessage) {
    let Some(actor) = &event.actor else { return };
    let attributes = actor.attributes.as_ref();
    let attribute = |name: &str| attributes.and_then(|all| all.get(name)).map(String::as_str);
    let Some(instance) = attribute(LABEL_INSTANCE).and_then(|id| id.parse().ok()).and_then(|id| shared.table.get(&id))
    else {
        return;
    };
    // An earlier container of the same name may still be going away.
    if actor.id.is_none() || instance.container() != actor.id.as_deref() {
        return;
    }
    match event.action.as_deref() {
        Some("oom") => instance.set_out_of_memory(),
        Some("die") => ended(shared, instance, attribute("exitCode").and_then(|code| code.parse().ok())),
        Some("destroy") => ended(shared, instance, None),
        Some("kill") if !instance.is_stopping() => drop(crate::telemetry::spawn("docker-thaw", thaw_to_end(instance))),
        Some("pause" | "unpause") => paused(shared, instance),
        _ => {}
    }
}

fn ended(shared: &Arc<Shared>, instance: Arc<Instance>, code: Option<i32>) {
    if instance.set_ended(code) {
        report(shared, instance);
    }
}

/// Someone signals it (`docker stop`, `docker rm -f`, Docker itself as it stops). Docker does not know that it is frozen
/// and would wait for it.
async fn thaw_to_end(instance: Arc<Instance>) {
    let mut frozen = instance.frozen.lock().await;
    if let Frozen::File(freezer) = &*frozen {
        match freezer.thaw() {
            Ok(()) => *frozen = Frozen::No,
            Err(error) => tracing::debug!(instance = %instance.id, %error, "cannot thaw"),
        }
    }
}

/// Someone paused or unpaused it, perhaps we. The state itself is asked for, as events may come late.
fn paused(shared: &Arc<Shared>, instance: Arc<Instance>) {
    let shared = Arc::clone(shared);
    crate::telemetry::spawn("docker-paused", async move {
        let mut frozen = instance.frozen.lock().await;
        let Some(container) = instance.container() else { return };
        let found =
            shared.client.call("inspect", QUICK, async |docker| docker.inspect_container(container, None).await).await;
        let Ok(found) = found else { return };
        let paused = found.state.and_then(|state| state.paused).unwrap_or(false);
        match (&*frozen, paused) {
            (Frozen::No, true) => *frozen = Frozen::Paused,
            (Frozen::Paused, false) => *frozen = Frozen::No,
            _ => {}
        }
    });
}

/// All containers of this owner.
pub(super) async fn list(shared: &Shared) -> Result<Vec<ContainerSummary>, CallError> {
    let filters = [("label".to_owned(), owner_filter(&shared.owner))].into_iter().collect();
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    shared.client.call("list", SLOW, async |docker| docker.list_containers(Some(options)).await).await
}

/// Whether a container has a process at this moment.
pub(super) fn is_running(container: &ContainerSummary) -> bool {
    matches!(container.state, Some(State::RUNNING | State::PAUSED | State::RESTARTING))
}

/// Compares what we think with what is: reports ends that were missed, and removes what nobody knows.
pub(super) async fn reconcile(shared: &Arc<Shared>) -> Result<(), CallError> {
    // The table first: what is started after this is not missed from the list.
    let running = shared.table.running();
    let listed = list(shared).await?;
    for instance in running {
        let found = listed.iter().find(|found| found.id.as_deref() == instance.container());
        match found {
            Some(found) if is_running(found) => {}
            Some(_) => {
                let code = exit_code(shared, &instance).await;
                ended(shared, instance, code);
            }
            None => ended(shared, instance, None),
        }
    }
    if shared.adopted.load(Ordering::Acquire) {
        for stray in listed {
            remove_stray(shared, &stray);
        }
    }
    Ok(())
}

/// Removes a container of ours that is not in the table: left over from a start that failed while Docker was away.
fn remove_stray(shared: &Arc<Shared>, stray: &ContainerSummary) {
    let id = stray.labels.as_ref().and_then(|labels| labels.get(LABEL_INSTANCE)).and_then(|id| id.parse().ok());
    let (Some(id), Some(container)) = (id, stray.id.clone()) else { return };
    // The table is looked at after the list was made: an entry is made before its container and goes after it.
    if shared.table.contains(&id) || matches!(stray.state, Some(State::REMOVING)) {
        return;
    }
    tracing::info!(instance = %id, "removing a container that nobody knows");
    let shared = Arc::clone(shared);
    crate::telemetry::spawn("docker-remove", async move {
        if let Some(freezer) = shared.freezer_of(&container).await
            && freezer.is_frozen()
        {
            drop(freezer.thaw());
        }
        remove_surely(&shared, &container).await;
    });
}

async fn exit_code(shared: &Shared, instance: &Instance) -> Option<i32> {
    let container = instance.container()?;
    let found = shared.client.call("inspect", QUICK, async |docker| docker.inspect_container(container, None).await);
    let state = found.await.ok()?.state?;
    if state.oom_killed == Some(true) {
        instance.set_out_of_memory();
    }
    state.exit_code.and_then(|code| i32::try_from(code).ok())
}

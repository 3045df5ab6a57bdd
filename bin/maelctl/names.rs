//! Completion of names: asks the node while the user types, briefly, and is silent if it does not answer.
//!
//! Knows nothing of shells.

use std::time::Duration;

use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use maelstrom::admin::client::Client;

/// The variable by which a shell asks for completions.
pub(crate) const VARIABLE: &str = "MAELCTL_COMPLETE";

/// A key press that takes longer feels broken.
const PATIENCE: Duration = Duration::from_millis(300);

/// Names of components.
pub(crate) fn components() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        ask(async |client| {
            let list = client.components().await.ok()?;
            Some(list.items.into_iter().map(|component| component.name).collect())
        })
    })
}

/// Names of event sources.
pub(crate) fn sources() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        ask(async |client| {
            let list = client.sources().await.ok()?;
            Some(list.items.into_iter().map(|source| source.name).collect())
        })
    })
}

/// Names of settings.
pub(crate) fn settings() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        ask(async |client| {
            let list = client.settings().await.ok()?;
            Some(list.items.into_iter().map(|setting| setting.name).collect())
        })
    })
}

/// Names of nodes.
pub(crate) fn nodes() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        ask(async |client| {
            let list = client.nodes().await.ok()?;
            Some(list.items.into_iter().map(|node| node.name).collect())
        })
    })
}

/// Names of queues.
pub(crate) fn queues() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        ask(async |client| {
            let list = client.queues().await.ok()?;
            Some(list.items.into_iter().map(|queue| queue.name).collect())
        })
    })
}

/// Ids of instances.
pub(crate) fn instances() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        ask(async |client| {
            let list = client.instances(None).await.ok()?;
            Some(list.items.into_iter().map(|instance| instance.id).collect())
        })
    })
}

fn ask(question: impl AsyncFnOnce(&Client) -> Option<Vec<String>>) -> Vec<CompletionCandidate> {
    // The command line is not parsed while it is typed: the node is that of the environment.
    let node = std::env::var("MAEL_NODE").unwrap_or_else(|_| crate::cli::NODE.to_owned());
    let token = std::env::var("MAEL_TOKEN").ok();
    let targets: Option<Vec<_>> = node.split(',').map(|target| target.parse().ok()).collect();
    let names = targets.and_then(|targets| {
        let client = Client::new(targets, token.as_deref()).ok()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let names = runtime.block_on(async { tokio::time::timeout(PATIENCE, question(&client)).await.ok()? });
        runtime.shutdown_background();
        names
    });
    names.unwrap_or_default().into_iter().map(CompletionCandidate::new).collect()
}

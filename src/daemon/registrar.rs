//! The one writer of the registry: checks a change, makes it durable, shows it, and only then acknowledges it.
//!
//! Changes that wait together become one write to disk. Knows nothing of HTTP; `control` speaks for it.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::catalog::{Catalog, Definitions, fingerprint, row};
use super::clock::Clock;
use super::driver::Message;
use crate::activation::Fact;
use crate::crdt::{Change, Expect, Key, Kind, PutError, Registry, Version, Write, Written};
use crate::id::{ComponentName, SourceName};
use crate::model::{Component, Invalid, Source, suggest};
use crate::node::Input;
use crate::router::table::conflict;
use crate::store::{Store, StoreError};

/// Changes that may wait for the registrar: at a few milliseconds for each write to disk a second's worth.
const REQUESTS: usize = 256;

/// Changes that share one write to disk; more would make the first of them wait without making the disk faster.
const TOGETHER: usize = 64;

/// A change of the registry.
#[derive(Debug)]
pub(crate) enum Edit {
    PutComponent { name: ComponentName, doc: Value, expect: Expect },
    RemoveComponent { name: ComponentName, expect: Expect },
    PutSource { name: SourceName, doc: Value, expect: Expect },
    EnableSource { name: SourceName, enabled: bool },
    RemoveSource { name: SourceName, expect: Expect },
}

/// What became of it.
#[derive(Debug, Clone)]
pub(crate) struct Edited {
    pub(crate) version: Option<Version>,
    pub(crate) created: bool,
    pub(crate) changed: bool,
    pub(crate) warnings: Vec<String>,
    /// Sources that were removed with their component.
    pub(crate) sources: Vec<SourceName>,
}

/// Why a change was refused. State: nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum EditError {
    #[error("{0}")]
    Invalid(Invalid),
    #[error("{kind} {name} does not exist")]
    NotFound { kind: &'static str, name: String, suggestion: Option<String> },
    #[error("source {other} has the same host and path already; change one of the two or disable it")]
    Taken { other: SourceName },
    #[error("{0}")]
    Stale(PutError),
    #[error("{0}")]
    Refused(String),
    #[error("the change could not be made durable and was not made: {0}")]
    Disk(String),
    #[error("too many changes wait for the disk; try again in a second")]
    Busy,
    #[error("this node is stopping; try another node, or this one when it is back")]
    Stopping,
}

struct Request {
    edit: Edit,
    reply: oneshot::Sender<Result<Edited, EditError>>,
}

/// Handle to the registrar's thread. The thread ends when all handles are gone.
#[derive(Debug, Clone)]
pub(crate) struct Registrar(mpsc::Sender<Request>);

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.edit.fmt(f)
    }
}

impl Registrar {
    /// Starts the thread; the second value ends when it has ended and the store is closed.
    pub(crate) fn start(
        registry: Registry,
        store: Store,
        catalog: Arc<Catalog>,
        messages: mpsc::Sender<Message>,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (sender, requests) = mpsc::channel(REQUESTS);
        let desk = Desk { registry, store, catalog, messages };
        (Self(sender), tokio::task::spawn_blocking(move || desk.run(requests)))
    }

    pub(crate) async fn edit(&self, edit: Edit) -> Result<Edited, EditError> {
        let (reply, answer) = oneshot::channel();
        self.0.try_send(Request { edit, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => EditError::Busy,
            mpsc::error::TrySendError::Closed(_) => EditError::Stopping,
        })?;
        answer.await.unwrap_or(Err(EditError::Stopping))
    }
}

struct Desk {
    registry: Registry,
    store: Store,
    catalog: Arc<Catalog>,
    messages: mpsc::Sender<Message>,
}

type Pending = (oneshot::Sender<Result<Edited, EditError>>, Edited, Written);

impl Desk {
    fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < TOGETHER {
                let Ok(next) = requests.try_recv() else { break };
                batch.push(next);
            }
            self.serve(batch);
        }
    }

    fn serve(&mut self, batch: Vec<Request>) {
        let mut pending: Vec<Pending> = Vec::new();
        for request in batch {
            match self.write(request.edit) {
                // Nobody waits any more is no reason to undo: the change may have been seen as accepted elsewhere.
                Ok((edited, written)) => pending.push((request.reply, edited, written)),
                Err(error) => drop(request.reply.send(Err(error))),
            }
        }
        let changes: Vec<Change> = pending.iter().flat_map(|(.., written)| written.changed.clone()).collect();
        if changes.is_empty() {
            return acknowledge(pending);
        }
        match self.store.commit(&changes, self.registry.hlc()) {
            Ok(()) => {
                self.show(&changes);
                acknowledge(pending);
            }
            Err(error) => self.take_back(pending, &error),
        }
    }

    /// Checks a change and makes it in memory. The definitions follow at once, so that the next of the batch sees it.
    fn write(&mut self, edit: Edit) -> Result<(Edited, Written), EditError> {
        let now = Clock::wall();
        let mut edited =
            Edited { version: None, created: false, changed: false, warnings: Vec::new(), sources: Vec::new() };
        let writes = match edit {
            Edit::PutComponent { name, doc, expect } => {
                let component = Component::parse(&name, &doc).map_err(EditError::Invalid)?;
                edited.created = !self.catalog.read().components.contains_key(&name);
                vec![Write { key: key(Kind::COMPONENT, name.as_str())?, row: Some(row(&component.to_doc())), expect }]
            }
            Edit::RemoveComponent { name, expect } => {
                let definitions = self.catalog.read();
                if !definitions.components.contains_key(&name) {
                    return Err(missing("component", name.as_str(), definitions.components.keys().map(|n| n.as_str())));
                }
                let sources = definitions.sources.values().filter(|source| source.value.component == name);
                edited.sources = sources.map(|source| source.value.name.clone()).collect();
                let mut writes = Vec::new();
                for source in &edited.sources {
                    writes.push(Write { key: key(Kind::SOURCE, source.as_str())?, row: None, expect: Expect::Any });
                }
                writes.push(Write { key: key(Kind::COMPONENT, name.as_str())?, row: None, expect });
                writes
            }
            Edit::PutSource { name, doc, expect } => {
                let source = Source::parse(&name, &doc).map_err(EditError::Invalid)?;
                edited.created = !self.catalog.read().sources.contains_key(&name);
                edited.warnings = self.check_source(&source)?;
                vec![Write { key: key(Kind::SOURCE, name.as_str())?, row: Some(row(&source.to_doc())), expect }]
            }
            Edit::EnableSource { name, enabled } => {
                let mut source = {
                    let definitions = self.catalog.read();
                    let found = definitions.sources.get(&name).ok_or_else(|| {
                        missing("source", name.as_str(), definitions.sources.keys().map(|n| n.as_str()))
                    })?;
                    Source::clone(&found.value)
                };
                source.enabled = enabled;
                edited.warnings = self.check_source(&source)?;
                let row = Some(row(&source.to_doc()));
                vec![Write { key: key(Kind::SOURCE, name.as_str())?, row, expect: Expect::Any }]
            }
            Edit::RemoveSource { name, expect } => {
                let definitions = self.catalog.read();
                if !definitions.sources.contains_key(&name) {
                    return Err(missing("source", name.as_str(), definitions.sources.keys().map(|n| n.as_str())));
                }
                vec![Write { key: key(Kind::SOURCE, name.as_str())?, row: None, expect }]
            }
        };
        let written = self.registry.write(writes, now).map_err(|error| match error {
            stale @ (PutError::Exists { .. } | PutError::Absent { .. } | PutError::Stale { .. }) => {
                EditError::Stale(stale)
            }
            other @ (PutError::Key(_)
            | PutError::TooLong { .. }
            | PutError::Repeated(_)
            | PutError::Encode { .. }
            | PutError::Clock) => EditError::Refused(other.to_string()),
        })?;
        edited.version = written.version;
        edited.changed = !written.is_unchanged();
        edited.created &= edited.changed;
        self.catalog.change(|definitions| {
            for change in &written.changed {
                follow(definitions, &self.registry, &change.key);
            }
        });
        Ok((edited, written))
    }

    fn check_source(&self, source: &Source) -> Result<Vec<String>, EditError> {
        let definitions = self.catalog.read();
        if !definitions.components.contains_key(&source.component) {
            let names = definitions.components.keys().map(|n| n.as_str());
            return Err(missing("component", source.component.as_str(), names));
        }
        if let Some(other) = conflict(source, definitions.sources.values().map(|entry| &*entry.value)) {
            return Err(EditError::Taken { other: other.clone() });
        }
        Ok(match &source.trigger {
            crate::model::source::Trigger::Http(_) => Vec::new(),
            crate::model::source::Trigger::Cron(_) | crate::model::source::Trigger::Sqs(_) => {
                vec!["stored and listed; this version acts on http sources only".to_owned()]
            }
        })
    }

    /// Shows durable changes to the router and to the node.
    fn show(&self, changes: &[Change]) {
        self.catalog.route();
        for change in changes.iter().filter(|change| change.key.kind() == Kind::COMPONENT) {
            let Ok(name) = change.key.name().parse::<ComponentName>() else { continue };
            let component = self.catalog.read().components.get(&name).map(|entry| Arc::clone(&entry.value));
            let fact = match component {
                Some(component) => {
                    let fingerprint = fingerprint(&component);
                    Fact::Define(component, fingerprint)
                }
                None => Fact::Remove,
            };
            // Closed means that the daemon is leaving; the change is durable and the next start acts on it.
            let _ = self.messages.blocking_send(Message::Input(Input::Component(name, fact)));
        }
    }

    fn take_back(&mut self, pending: Vec<Pending>, error: &StoreError) {
        tracing::error!(%error, "changes could not be made durable");
        let mut replies = Vec::new();
        for (reply, _, written) in pending.into_iter().rev() {
            self.registry.undo(written);
            replies.push(reply);
        }
        let definitions = Definitions::of(&self.registry);
        self.catalog.change(|all| *all = definitions);
        for reply in replies {
            let _ = reply.send(Err(EditError::Disk(error.to_string())));
        }
    }
}

fn acknowledge(pending: Vec<Pending>) {
    for (reply, edited, _) in pending {
        let _ = reply.send(Ok(edited));
    }
}

/// Brings the definition of one key up to its register.
fn follow(definitions: &mut Definitions, registry: &Registry, key: &Key) {
    let register = registry.register(key);
    match key.kind() {
        Kind::COMPONENT => definitions.set_component(key.name(), register),
        Kind::SOURCE => definitions.set_source(key.name(), register),
        _ => {}
    }
}

fn key(kind: Kind, name: &str) -> Result<Key, EditError> {
    Key::new(kind, name).map_err(|error| EditError::Refused(error.to_string()))
}

fn missing<'a>(kind: &'static str, name: &str, names: impl Iterator<Item = &'a str>) -> EditError {
    let suggestion = suggest::nearest(name, names).map(str::to_owned);
    EditError::NotFound { kind, name: name.to_owned(), suggestion }
}

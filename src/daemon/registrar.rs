//! The one writer of the registry: checks a change, makes it durable, shows it, and only then acknowledges it and sends
//! it to peers. What peers send takes the same way.
//!
//! Changes that wait together become one write to disk. Knows nothing of HTTP and sockets; `control` and `cluster`
//! speak for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use super::catalog::{Catalog, Definition, Definitions, FEW, beside, on_all_cores, row};
use super::clock::Clock;
use super::driver::Message;
use super::duty::{self, Duties};
use super::history;
use super::runs;
use crate::crdt::replica::{Lag, Output, Replica};
use crate::crdt::{Change, Expect, Hlc, Key, Kind, PutError, Registry, Row, Version, Write, Written};
use crate::id::{ComponentName, NodeId, SourceName};
use crate::model::cfg::{CfgKey, CfgName};
use crate::model::duty::Duty;
use crate::model::{Component, Invalid, Source, suggest};
use crate::rollout::{Outcome, Why};
use crate::router::table::conflict;
use crate::store::{Store, StoreError};
use crate::time::Mono;

use super::cluster::Post;

/// The note of the store that holds what replication must not forget.
pub(crate) const SYNCED: &str = "synced";

/// Before a write to a disk that failed is tried again: a full disk is not emptied faster.
const DISK_AGAIN: Duration = Duration::from_secs(1);

/// Of the time between two routing tables, how many times longer it is than building one took, while changes keep
/// coming: a node that receives a whole registry spends a fifth of its time on tables.
const ROUTE_SHARE: u32 = 4;

/// Changes that may wait for the registrar: at a few milliseconds for each write to disk a second's worth.
const REQUESTS: usize = 256;

/// Changes that share one write to disk; more would make the first of them wait without making the disk faster.
const TOGETHER: usize = 64;

/// A change of the registry.
#[derive(Debug)]
pub(crate) enum Edit {
    PutComponent {
        name: ComponentName,
        doc: Value,
        expect: Expect,
    },
    /// Puts an earlier definition again: that of a revision, or the one before.
    UndoComponent {
        name: ComponentName,
        to: Option<u32>,
    },
    /// What became of the revision in force, and the one to go back to.
    Judge {
        name: ComponentName,
        number: u32,
        outcome: Outcome,
        back_to: Option<u32>,
    },
    RemoveComponent {
        name: ComponentName,
        expect: Expect,
    },
    PutSource {
        name: SourceName,
        doc: Value,
        expect: Expect,
    },
    EnableSource {
        name: SourceName,
        enabled: bool,
    },
    RemoveSource {
        name: SourceName,
        expect: Expect,
    },
    /// What is known of the runs of a schedule.
    Runs {
        name: SourceName,
        act: runs::Act,
    },
    /// The row keeps the value, sealed if it is a secret.
    PutSetting {
        key: CfgKey,
        row: Row,
        expect: Expect,
    },
    RemoveSetting {
        key: CfgKey,
        /// Also if components could not start without it.
        force: bool,
        expect: Expect,
    },
    /// The node may never come back: `maelctl node rm`.
    RemoveNode {
        node: NodeId,
    },
    /// What a node is to do from now on.
    SetDuty {
        node: NodeId,
        duty: Duty,
    },
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
    /// Settings of a component alone that were removed with it.
    pub(crate) settings: Vec<CfgName>,
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
    #[error("component {name} {problem}")]
    NoRevision { name: ComponentName, problem: String },
    #[error("{key} is used by {}, which could not start without it", names(.users))]
    InUse { key: CfgKey, users: Vec<ComponentName> },
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

/// What reaches the thread.
enum Request {
    Edit(Edit, oneshot::Sender<Result<Edited, EditError>>),
    /// A peer's frame.
    Frame(NodeId, Bytes),
    /// Who is there.
    Members {
        alive: BTreeSet<NodeId>,
        known: BTreeSet<NodeId>,
    },
    /// A peer has come, or is there again: compare.
    Connected(NodeId),
    /// A peer cannot be reached.
    Unreachable(NodeId),
    /// How far behind peers are.
    Lags(Vec<NodeId>, oneshot::Sender<Vec<Lag>>),
    /// A small thing to keep, without hurry.
    Note(&'static str, Vec<u8>),
    /// Whether a planned time that must not be fired twice is granted.
    Grant(runs::Claim, oneshot::Sender<bool>),
}

/// Handle to the registrar's thread. The thread ends when all handles are gone.
#[derive(Debug, Clone)]
pub(crate) struct Registrar(mpsc::Sender<Request>);

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Edit(..) => "edit",
            Self::Frame(..) => "frame",
            Self::Members { .. } => "members",
            Self::Connected(_) => "connected",
            Self::Unreachable(_) => "unreachable",
            Self::Lags(..) => "lags",
            Self::Note(..) => "note",
            Self::Grant(..) => "grant",
        })
    }
}

impl Registrar {
    /// Starts the thread; the second value ends when it has ended and the store is closed.
    pub(crate) fn start(desk: Desk) -> (Self, tokio::task::JoinHandle<()>) {
        let (sender, requests) = mpsc::channel(REQUESTS);
        let handle = tokio::runtime::Handle::current();
        (Self(sender), tokio::task::spawn_blocking(move || desk.run(requests, &handle)))
    }

    pub(crate) async fn edit(&self, edit: Edit) -> Result<Edited, EditError> {
        let (reply, answer) = oneshot::channel();
        self.0.try_send(Request::Edit(edit, reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => EditError::Busy,
            mpsc::error::TrySendError::Closed(_) => EditError::Stopping,
        })?;
        answer.await.unwrap_or(Err(EditError::Stopping))
    }

    /// Hands over a peer's frame; false if the queue is full, and the next comparison brings it again.
    pub(crate) fn frame(&self, from: NodeId, bytes: Bytes) -> bool {
        self.0.try_send(Request::Frame(from, bytes)).is_ok()
    }

    pub(crate) async fn members(&self, alive: BTreeSet<NodeId>, known: BTreeSet<NodeId>) {
        let _ = self.0.send(Request::Members { alive, known }).await;
    }

    pub(crate) async fn connected(&self, peer: NodeId) {
        let _ = self.0.send(Request::Connected(peer)).await;
    }

    pub(crate) async fn unreachable(&self, peer: NodeId) {
        let _ = self.0.send(Request::Unreachable(peer)).await;
    }

    pub(crate) async fn note(&self, name: &'static str, bytes: Vec<u8>) {
        let _ = self.0.send(Request::Note(name, bytes)).await;
    }

    /// Grants a planned time, durably, unless it or a later one was granted before.
    pub(crate) async fn grant(&self, claim: runs::Claim) -> bool {
        let (reply, answer) = oneshot::channel();
        self.0.try_send(Request::Grant(claim, reply)).is_ok() && answer.await.unwrap_or(false)
    }

    /// How far behind these peers are, in their order; empty if this node is stopping.
    pub(crate) async fn lags(&self, peers: Vec<NodeId>) -> Vec<Lag> {
        let (reply, answer) = oneshot::channel();
        let _ = self.0.send(Request::Lags(peers, reply)).await;
        answer.await.unwrap_or_default()
    }
}

/// What the thread owns.
pub(crate) struct Desk {
    pub(crate) replica: Replica,
    pub(crate) store: Store,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) messages: mpsc::Sender<Message>,
    pub(crate) clock: Clock,
    pub(crate) post: Arc<Post>,
    /// The nodes that were removed for good.
    pub(crate) removed: watch::Sender<BTreeSet<NodeId>>,
    pub(crate) duties: watch::Sender<Duties>,
}

type Pending = (oneshot::Sender<Result<Edited, EditError>>, Edited, Written);

/// When the routing table was built, and whether it is behind.
#[derive(Debug, Default)]
struct Routes {
    stale: bool,
    built: Mono,
    took: Duration,
}

impl Desk {
    fn run(mut self, mut requests: mpsc::Receiver<Request>, handle: &tokio::runtime::Handle) {
        let mut routes = Routes::default();
        loop {
            let due = self.replica.poll_timeout();
            let first = match due {
                None => requests.blocking_recv().map(Some),
                Some(due) => {
                    let until = self.clock.instant(due);
                    // The timer belongs to the runtime, so it is made inside.
                    let next = async { tokio::time::timeout_at(until, requests.recv()).await };
                    match handle.block_on(next) {
                        Ok(request) => request.map(Some),
                        Err(_) => Some(None),
                    }
                }
            };
            let Some(first) = first else { break };
            let mut batch: Vec<Request> = first.into_iter().collect();
            while batch.len() < TOGETHER {
                let Ok(next) = requests.try_recv() else { break };
                batch.push(next);
            }
            self.serve(batch, &mut routes);
            if self.replica.poll_timeout().is_some_and(|due| due <= self.clock.mono()) {
                self.replica.handle_timeout(self.clock.now());
            }
            self.drain(&mut routes);
            let waits = !requests.is_empty();
            if routes.stale && (!waits || self.clock.mono().since(routes.built) >= routes.took * ROUTE_SHARE) {
                self.route(&mut routes);
            }
        }
        if routes.stale {
            self.route(&mut routes);
        }
    }

    fn route(&self, routes: &mut Routes) {
        let begun = self.clock.mono();
        self.catalog.route();
        routes.built = self.clock.mono();
        routes.took = routes.built.since(begun);
        routes.stale = false;
    }

    fn serve(&mut self, batch: Vec<Request>, routes: &mut Routes) {
        let mut pending: Vec<Pending> = Vec::new();
        for request in batch {
            match request {
                Request::Edit(edit, reply) => match self.write(edit) {
                    // Nobody waits any more is no reason to undo: the change may have been seen as accepted elsewhere.
                    Ok((edited, written)) => pending.push((reply, edited, written)),
                    Err(error) => drop(reply.send(Err(error))),
                },
                Request::Frame(from, bytes) => {
                    if let Err(error) = self.replica.handle_frame(from, &bytes, self.clock.now()) {
                        tracing::debug!(%from, %error, "a frame of a peer was refused");
                    }
                }
                Request::Members { alive, known } => self.replica.set_members(alive, known, self.clock.now()),
                Request::Connected(peer) => self.replica.connected(peer, self.clock.now()),
                Request::Unreachable(peer) => self.replica.unreachable(peer, self.clock.now()),
                Request::Lags(peers, reply) => {
                    let _ = reply.send(peers.into_iter().map(|peer| self.replica.lag(peer)).collect());
                }
                Request::Grant(claim, reply) => drop(reply.send(self.grant(&claim))),
                Request::Note(name, bytes) => {
                    if let Err(error) = self.store.set_note(name, Some(&bytes)) {
                        tracing::warn!(%error, name, "a note could not be made durable");
                    }
                }
            }
        }
        let changes: Vec<Change> = pending.iter().flat_map(|(.., written)| written.changed.clone()).collect();
        if changes.is_empty() {
            return acknowledge(pending);
        }
        match self.store.commit(&changes, self.replica.registry().hlc()) {
            Ok(()) => {
                self.replica.publish(&changes, self.clock.now());
                // First to the peers, so that their disks work while this node routes.
                self.drain(routes);
                self.show(&changes.iter().map(|change| &change.key).collect::<Vec<_>>());
                // Many times a second runs begin and end; no route depends on them.
                if changes.iter().any(|change| change.key.kind() != Kind::RUNS) {
                    self.route(routes);
                }
                acknowledge(pending);
            }
            Err(error) => self.take_back(pending, &error),
        }
    }

    /// Does what replication asks for, in its order.
    fn drain(&mut self, routes: &mut Routes) {
        while let Some(output) = self.replica.poll_output() {
            match output {
                Output::Send { to, frame } => {
                    if !self.post.push(to, frame) {
                        self.replica.unreachable(to, self.clock.now());
                    }
                }
                Output::Commit { changes, forgotten, hlc, saved } => {
                    let saved = saved.map(|saved| saved.encode());
                    // What was forgotten may have been visible, if a peer proved that it was deleted.
                    let keys: Vec<&Key> = changes.iter().map(|change| &change.key).chain(&forgotten).collect();
                    let (registry, store) = (self.replica.registry(), &mut self.store);
                    // Of many rows, reading takes as long as the disk. Nothing of it is shown before it is durable.
                    let read = beside(
                        keys.len() > FEW,
                        || read(registry, &keys),
                        || {
                            while let Err(error) = keep(store, &changes, &forgotten, hlc, saved.as_deref()) {
                                tracing::error!(%error, "what peers sent could not be made durable; trying again");
                                std::thread::sleep(DISK_AGAIN);
                            }
                        },
                    );
                    self.define(read);
                    self.show(&keys);
                    routes.stale |= keys.iter().any(|key| key.kind() != Kind::RUNS);
                }
            }
        }
    }

    /// Checks a change and makes it in memory. The definitions follow at once, so that the next of the batch sees it.
    fn write(&mut self, edit: Edit) -> Result<(Edited, Written), EditError> {
        let now = Clock::wall();
        let mut edited = Edited {
            version: None,
            created: false,
            changed: false,
            warnings: Vec::new(),
            sources: Vec::new(),
            settings: Vec::new(),
        };
        let writes = match edit {
            Edit::PutComponent { name, doc, expect } => {
                let component = Component::parse(&name, &doc).map_err(EditError::Invalid)?;
                edited.created = self.catalog.read().component(&name).is_none();
                self.put(&component, expect, Why::Put)?
            }
            Edit::UndoComponent { name, to } => {
                let definitions = self.catalog.read();
                if definitions.component(&name).is_none() {
                    return Err(missing("component", name.as_str(), definitions.names().map(|n| n.as_str())));
                }
                let (to, doc) = history::earlier(&definitions, &name, to)?;
                drop(definitions);
                let component = Component::parse_stored(&name, &doc).map_err(EditError::Invalid)?;
                self.put(&component, Expect::Any, Why::Undo { to })?
            }
            Edit::Judge { name, number, outcome, back_to } => self.judge(&name, number, outcome, back_to)?,
            Edit::RemoveComponent { name, expect } => {
                let definitions = self.catalog.read();
                if definitions.component(&name).is_none() {
                    return Err(missing("component", name.as_str(), definitions.names().map(|n| n.as_str())));
                }
                let sources = definitions.sources.values().filter(|source| source.value.component == name);
                edited.sources = sources.map(|source| source.value.name.clone()).collect();
                let mut writes = Vec::new();
                for source in &edited.sources {
                    writes.push(Write { key: key(Kind::SOURCE, source.as_str())?, row: None, expect: Expect::Any });
                    writes.extend(runs::removed(&definitions, source)?);
                }
                writes.push(history::removed(&name)?);
                edited.settings = definitions.settings.own(&name).cloned().collect();
                for setting in &edited.settings {
                    let setting = CfgKey { component: Some(name.clone()), name: setting.clone() };
                    writes.push(Write { key: setting_key(&setting)?, row: None, expect: Expect::Any });
                }
                writes.push(Write { key: key(Kind::COMPONENT, name.as_str())?, row: None, expect });
                writes
            }
            Edit::PutSource { name, doc, expect } => {
                let source = Source::parse(&name, &doc).map_err(EditError::Invalid)?;
                edited.created = !self.catalog.read().sources.contains_key(&name);
                edited.warnings = self.check_source(&source)?;
                let begun = runs::begun(&self.catalog.read(), &source, now)?;
                let put = Write { key: key(Kind::SOURCE, name.as_str())?, row: Some(row(&source.to_doc())), expect };
                begun.into_iter().chain([put]).collect()
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
                let begun = runs::begun(&self.catalog.read(), &source, now)?;
                let row = Some(row(&source.to_doc()));
                let put = Write { key: key(Kind::SOURCE, name.as_str())?, row, expect: Expect::Any };
                begun.into_iter().chain([put]).collect()
            }
            Edit::Runs { name, act } => {
                let definitions = self.catalog.read();
                if !definitions.sources.contains_key(&name) {
                    return Err(missing("source", name.as_str(), definitions.sources.keys().map(|n| n.as_str())));
                }
                runs::acted(&definitions, &name, act, now)?.into_iter().collect()
            }
            Edit::RemoveSource { name, expect } => {
                let definitions = self.catalog.read();
                if !definitions.sources.contains_key(&name) {
                    return Err(missing("source", name.as_str(), definitions.sources.keys().map(|n| n.as_str())));
                }
                let removed = Write { key: key(Kind::SOURCE, name.as_str())?, row: None, expect };
                runs::removed(&definitions, &name)?.into_iter().chain([removed]).collect()
            }
            Edit::PutSetting { key, row, expect } => {
                let definitions = self.catalog.read();
                edited.created = definitions.settings.get(&key).is_none();
                if let Some(component) = &key.component
                    && definitions.component(component).is_none()
                {
                    edited.warnings = vec![format!("component {component} does not exist yet")];
                }
                vec![Write { key: setting_key(&key)?, row: Some(row), expect }]
            }
            Edit::RemoveSetting { key, force, expect } => {
                let definitions = self.catalog.read();
                let settings = &definitions.settings;
                if settings.get(&key).is_none() {
                    let known: Vec<CfgKey> = settings.iter().map(|(known, _)| known).collect();
                    let alike = known.iter().filter(|known| known.component == key.component);
                    return Err(missing("setting", key.name.as_str(), alike.map(|known| known.name.as_str())));
                }
                let users = settings.needed_by(&key);
                if !force && !users.is_empty() {
                    return Err(EditError::InUse { key, users });
                }
                vec![Write { key: setting_key(&key)?, row: None, expect }]
            }
            Edit::RemoveNode { node } => {
                let row = Some(duty::removed_row());
                vec![Write { key: key(Kind::NODE, &node.to_string())?, row, expect: Expect::Any }]
            }
            Edit::SetDuty { node, duty } => {
                if self.removed.borrow().contains(&node) {
                    return Err(EditError::Refused(format!("node {node} was removed from the cluster")));
                }
                let row = duty::duty_row(duty);
                vec![Write { key: key(Kind::NODE, &node.to_string())?, row, expect: Expect::Any }]
            }
        };
        let written = self.replica.write(writes, now).map_err(|error| match error {
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
        let keys: Vec<&Key> = written.changed.iter().map(|change| &change.key).collect();
        self.define(read(self.replica.registry(), &keys));
        Ok((edited, written))
    }

    /// A definition, and what is kept of the one that it replaces.
    fn put(&self, component: &Component, expect: Expect, why: Why) -> Result<Vec<Write>, EditError> {
        let replaced = history::replaced(&self.catalog.read(), component, why, Clock::wall())?;
        let row = Some(row(&component.to_doc()));
        let put = Write { key: key(Kind::COMPONENT, component.name.as_str())?, row, expect };
        Ok(replaced.into_iter().chain([put]).collect())
    }

    /// Notes what became of a revision, and goes back to an earlier one.
    fn judge(
        &self,
        name: &ComponentName,
        number: u32,
        outcome: Outcome,
        back_to: Option<u32>,
    ) -> Result<Vec<Write>, EditError> {
        let definitions = self.catalog.read();
        if history::in_force(&definitions, name).is_none_or(|revision| revision.number != number) {
            // Somebody was faster.
            return Ok(Vec::new());
        }
        let (Some(to), Outcome::Failed { problem }) = (back_to, &outcome) else {
            return Ok(history::marked(&definitions, name, number, outcome)?.into_iter().collect());
        };
        let problem = problem.clone();
        let (to, doc) = history::earlier(&definitions, name, Some(to))?;
        drop(definitions);
        let component = Component::parse_stored(name, &doc).map_err(EditError::Invalid)?;
        self.put(&component, Expect::Any, Why::Rollback { of: number, to, problem })
    }

    fn check_source(&self, source: &Source) -> Result<Vec<String>, EditError> {
        let definitions = self.catalog.read();
        if definitions.component(&source.component).is_none() {
            let names = definitions.names().map(|n| n.as_str());
            return Err(missing("component", source.component.as_str(), names));
        }
        if let Some(other) = conflict(source, definitions.sources.values().map(|entry| &*entry.value)) {
            return Err(EditError::Taken { other: other.clone() });
        }
        Ok(Vec::new())
    }

    /// Puts definitions in place. Readers wait no longer than for that.
    fn define(&self, read: Vec<Definition>) {
        let are_runs = read.iter().all(|definition| matches!(definition, Definition::Runs(..)));
        let set = |definitions: &mut Definitions| read.into_iter().for_each(|definition| definitions.set(definition));
        if are_runs { self.catalog.note(set) } else { self.catalog.change(set) }
    }

    /// See [`Registrar::grant`]. What cannot be made durable is not granted.
    fn grant(&mut self, claim: &runs::Claim) -> bool {
        if !runs::is_claimable(&self.catalog.read(), claim) {
            return false;
        }
        runs::grant(&mut self.store, claim).unwrap_or_else(|error| {
            tracing::warn!(%error, source = %claim.source, "a claim could not be made durable and was not granted");
            false
        })
    }

    /// Shows durable changes to the node, and tells the cluster who was removed and who is to do what.
    fn show(&mut self, keys: &[&Key]) {
        if keys.iter().any(|key| key.kind() == Kind::NODE) {
            self.removed.send_replace(duty::removed_nodes(self.replica.registry()));
            self.duties.send_replace(duty::duties(self.replica.registry()));
        }
        let mut components: Vec<ComponentName> = keys
            .iter()
            .filter(|key| key.kind() == Kind::COMPONENT)
            .inspect(|key| tracing::debug!(component = key.name(), "in effect here"))
            .filter_map(|key| key.name().parse().ok())
            .collect();
        for key in keys.iter().filter(|key| key.kind() == Kind::RUNS) {
            if let Ok(name) = key.name().parse() {
                self.catalog.tell_runs(&name);
            }
        }
        for key in keys.iter().filter(|key| key.kind() == Kind::SOURCE) {
            let Ok(name) = key.name().parse::<SourceName>() else { continue };
            if !self.catalog.read().sources.contains_key(&name)
                && let Err(error) = runs::forget(&mut self.store, &name)
            {
                tracing::warn!(%error, source = %name, "what was granted of a removed schedule stays in the store");
            }
        }
        let settings = keys.iter().filter(|key| key.kind() == Kind::CONFIG);
        let settings: Vec<CfgKey> = settings.filter_map(|key| CfgKey::from_row_name(key.name())).collect();
        if !settings.is_empty() {
            let definitions = self.catalog.read();
            components.extend(settings.iter().flat_map(|key| definitions.settings.users(key)).cloned());
        }
        if !components.is_empty() {
            // Closed means that the daemon is leaving; the change is durable and the next start acts on it.
            let _ = self.messages.blocking_send(Message::Changed(components));
        }
    }

    fn take_back(&mut self, pending: Vec<Pending>, error: &StoreError) {
        tracing::error!(%error, "changes could not be made durable");
        let (mut replies, mut keys) = (Vec::new(), Vec::new());
        for (reply, _, written) in pending.into_iter().rev() {
            keys.extend(written.changed.iter().map(|change| change.key.clone()));
            self.replica.undo(written);
            replies.push(reply);
        }
        // Who asked for a component in between has seen what is not there now.
        let keys: Vec<&Key> = keys.iter().collect();
        self.define(read(self.replica.registry(), &keys));
        self.show(&keys);
        for reply in replies {
            let _ = reply.send(Err(EditError::Disk(error.to_string())));
        }
    }
}

/// Makes what peers sent durable.
fn keep(
    store: &mut Store,
    changes: &[Change],
    forgotten: &[Key],
    hlc: Hlc,
    saved: Option<&[u8]>,
) -> Result<(), StoreError> {
    // In this order: the note says what is known to be deleted, and must not be younger than the rows.
    if let Some(saved) = saved {
        store.set_note(SYNCED, Some(saved))?;
    }
    if !changes.is_empty() {
        store.commit(changes, hlc)?;
    }
    if !forgotten.is_empty() {
        store.forget(forgotten)?;
    }
    Ok(())
}

/// What keys define by their registers.
fn read(registry: &Registry, keys: &[&Key]) -> Vec<Definition> {
    on_all_cores(keys, |key| Definition::new(key, registry.register(key)))
}

fn acknowledge(pending: Vec<Pending>) {
    for (reply, edited, _) in pending {
        let _ = reply.send(Ok(edited));
    }
}

fn key(kind: Kind, name: &str) -> Result<Key, EditError> {
    Key::new(kind, name).map_err(|error| EditError::Refused(error.to_string()))
}

fn setting_key(setting: &CfgKey) -> Result<Key, EditError> {
    key(Kind::CONFIG, &setting.row_name())
}

/// The names of the first components of a list, and how many more there are.
fn names(components: &[ComponentName]) -> String {
    /// As many as fit two lines of a terminal.
    const SHOWN: usize = 8;
    let mut shown: Vec<String> = components.iter().take(SHOWN).map(|name| format!("component {name}")).collect();
    if components.len() > SHOWN {
        shown.push(format!("{} more", components.len() - SHOWN));
    }
    shown.join(", ")
}

fn missing<'a>(kind: &'static str, name: &str, names: impl Iterator<Item = &'a str>) -> EditError {
    let suggestion = suggest::nearest(name, names).map(str::to_owned);
    EditError::NotFound { kind, name: name.to_owned(), suggestion }
}

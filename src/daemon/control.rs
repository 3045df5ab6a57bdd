//! What the admin API can do, done: reads from the catalog and the loop, changes through the registrar.
//!
//! Decides nothing itself; turns inner types into those of the wire.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use super::ask::{Ask, GRANTED};
use super::board::{self, Board};
use super::catalog::{Catalog, Definitions, Entry};
use super::clock::Clock;
use super::cluster::{Cluster, View};
use super::consent::Consent;
use super::driver::{Message, Status};
use super::duty::Duties;
use super::fires;
use super::pin::pin;
use super::registrar::{Edit, EditError, Edited, Registrar};
use super::rollouts;
use super::scheduler::Question;
use crate::admin::api::{
    ApiError, CfgView, Change, Code, ComponentView, ConflictView, Control, EventQuery, EventView, Expect,
    InstanceCounts, InstanceView, Invoke, Invoked, List, LogLine, LogQuery, NextView, NodeMemory, NodeView, Peeked,
    Problem, Purged, PutAnswer, QueueRef, QueueView, Redriven, Removed, RevisionView, RolloutView, RunView, SourceView,
    VersionView, rfc3339,
};
use crate::crdt::Sibling;
use crate::crdt::bulletin::{Sheet, Taken};
use crate::crdt::replica::Lag;
use crate::gossip::{Member, State};
use crate::id::{ComponentName, NodeId, NodeName, SourceName};
use crate::intake::Intake;
use crate::model::cfg::CfgKey;
use crate::model::duty::Duty;
use crate::model::{Component, Source};
use crate::runtime::logs::LogBook;
use crate::runtime::{BoxFuture, Runtime};
use crate::source::courier::Courier;
use crate::source::sqs::inspect::Queues;
use crate::source::sqs::status::Book;
use crate::time::Wall;
use crate::wire;

mod events;
mod invoke;
mod logs;
mod noted;
mod pollers;
mod queues;
mod runs;
mod settings;

pub(crate) use noted::Noted;

/// Everything that the API can reach.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) node: NodeId,
    pub(crate) name: NodeName,
    pub(crate) address: String,
    pub(crate) started: Wall,
    pub(crate) clock: Clock,
    pub(crate) runtime: &'static str,
    pub(crate) engine: Arc<dyn Runtime>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) registrar: Registrar,
    pub(crate) messages: mpsc::Sender<Message>,
    pub(crate) logs: Arc<LogBook>,
    pub(crate) core: Arc<dyn Intake>,
    pub(crate) courier: Courier,
    pub(crate) queues: Arc<Book>,
    pub(crate) cluster: Cluster,
    pub(crate) peer: SocketAddr,
    pub(crate) board: Arc<Board>,
    pub(crate) duties: watch::Receiver<Duties>,
    pub(crate) questions: mpsc::Sender<Question>,
    pub(crate) consent: Arc<Consent>,
    pub(crate) services: Queues,
}

/// How long a peer may take to say how it fares: many round trips, and still a quick answer to `node ls`.
const ASK: Duration = Duration::from_millis(500);

impl Desk {
    async fn look(&self, component: Option<ComponentName>) -> Result<Vec<Status>, ApiError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.messages.send(Message::Look { component, reply }).await;
        sent.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    async fn edit(&self, edit: Edit) -> Result<Edited, ApiError> {
        let noted = Noted::of(&edit, &self.catalog, &self.board);
        let edited = self.registrar.edit(edit).await.map_err(|error| match error {
            EditError::Invalid(invalid) => ApiError::fields("the definition", invalid),
            EditError::NotFound { kind, name, suggestion } => {
                let error = ApiError::not_found(kind, &name, suggestion.as_deref());
                match kind {
                    "component" if error.hint.is_none() => {
                        error.hint(format!("maelctl comp put {name} ... creates it"))
                    }
                    "setting" if error.hint.is_none() => {
                        error.hint("`maelctl cfg ls` lists them with their components")
                    }
                    _ => error,
                }
            }
            EditError::NoRevision { ref name, .. } => ApiError::new(Code::NotFound, error.to_string())
                .hint(format!("maelctl comp rollout history {name} lists those that are kept")),
            EditError::Taken { .. } => ApiError::new(Code::Conflict, error.to_string()),
            EditError::InUse { .. } => ApiError::new(Code::Conflict, error.to_string())
                .hint("put the components without it first, or remove it all the same with --force"),
            EditError::Stale(put) => {
                use crate::crdt::PutError;
                let current = match &put {
                    PutError::Exists { found, .. } | PutError::Stale { found, .. } => Some(found.to_string()),
                    PutError::Absent { .. }
                    | PutError::Key(_)
                    | PutError::TooLong { .. }
                    | PutError::Repeated(_)
                    | PutError::Encode { .. }
                    | PutError::Clock => None,
                };
                ApiError::conflict(put.to_string(), current.as_deref())
            }
            EditError::Refused(_) => ApiError::invalid(error.to_string()),
            EditError::Disk(_) => ApiError::new(Code::Unavailable, error.to_string())
                .hint("make room in the node's data directory, or use another node"),
            EditError::Busy | EditError::Stopping => ApiError::new(Code::Unavailable, error.to_string()),
        })?;
        if let Some(noted) = noted {
            noted.write(&edited, &self.catalog, &self.board);
        }
        Ok(edited)
    }

    fn component_view(&self, definitions: &Definitions, entry: &Entry<Component>, status: &Status) -> ComponentView {
        let mut instances = InstanceCounts::new();
        for shown in &status.instances {
            *instances.entry(shown.state).or_default() += 1;
        }
        let name = &entry.value.name;
        for (node, load) in self.board.read().loads.get(name).into_iter().flatten() {
            if *node != self.node {
                load.instances.iter().for_each(|told| *instances.entry(told.state).or_default() += 1);
            }
        }
        let sources = definitions.sources.values().filter(|source| source.value.component == *name);
        ComponentView {
            name: name.to_string(),
            version: entry.version.to_string(),
            definition: entry.value.redacted(),
            instances,
            waiting: u64::from(status.waiting),
            sources: sources.map(|source| source.value.name.to_string()).collect(),
            conflict: conflict(&entry.others, |doc| Component::parse(name, doc).ok().map(|other| other.redacted())),
            updated_at: rfc3339(entry.updated),
            events: Vec::new(),
            problem: status.problem.as_ref().map(|problem| Problem {
                message: problem.reason.clone(),
                phase: problem.phase.to_string(),
                at: rfc3339(problem.at),
                log: problem.log.clone(),
                retry_in_ms: None,
            }),
        }
    }

    fn source_view(&self, definitions: &Definitions, entry: &Entry<Source>) -> SourceView {
        let source = &entry.value;
        SourceView {
            name: source.name.to_string(),
            version: entry.version.to_string(),
            kind: source.trigger.name().to_owned(),
            component: source.component.to_string(),
            enabled: source.enabled,
            definition: source.to_doc(),
            orphaned: definitions.component(&source.component).is_none(),
            conflict: conflict(&entry.others, |doc| Source::parse(&source.name, doc).ok().map(|other| other.to_doc())),
            updated_at: rfc3339(entry.updated),
            next_at: None,
            next: Vec::new(),
            problem: None,
            pollers: Vec::new(),
        }
    }

    /// Asks these nodes, without this one, for a list as JSON each.
    async fn ask_some<T: serde::de::DeserializeOwned>(&self, nodes: &BTreeSet<NodeId>, ask: &Ask) -> Vec<T> {
        let view = self.cluster.view.load();
        let transport = &self.cluster.transport;
        let question = ask.encode();
        let there = view.members.iter().map(|member| member.peer);
        let there = there.filter(|peer| nodes.contains(&peer.node) && peer.node != self.node);
        let asked = there.map(|peer| {
            let question = question.clone();
            async move {
                let answer = transport.call(peer.node, peer.address, question, ASK).await.ok()?;
                serde_json::from_slice::<Vec<T>>(&answer).ok()
            }
        });
        futures_util::future::join_all(asked).await.into_iter().flatten().flatten().collect()
    }

    fn instances(&self, status: &Status) -> Vec<InstanceView> {
        let now = self.clock.mono();
        let views = status.instances.iter().map(|shown| InstanceView {
            id: shown.id.to_string(),
            component: status.component.to_string(),
            version: shown.fingerprint.clone(),
            state: shown.state,
            node: self.name.to_string(),
            address: shown.address.map(|address| address.to_string()),
            handle: (!shown.handle.is_empty()).then(|| shown.handle.clone()),
            runtime: self.runtime.to_owned(),
            started_at: rfc3339(shown.started_at),
            in_flight: shown.in_flight,
            served: shown.served,
            last_used_ms_ago: (shown.served > 0).then(|| millis(now.since(shown.last_used))),
        });
        views.collect()
    }

    /// A list with the age of what this node knows: for how long it has been cut off from nodes that may have written.
    fn aged<T>(&self, items: Vec<T>) -> List<T> {
        let view = self.cluster.view.load();
        let now = self.clock.mono();
        let suspects = view.members.iter().filter(|member| member.state == State::Suspect).map(|member| member.since);
        let since = suspects.chain(view.frozen).chain(view.alone).min();
        List { view_age: since.map_or(0, |since| millis(now.since(since))), ..List::new(items) }
    }

    /// Answers a peer.
    pub(crate) async fn answer_peer(&self, from: NodeId, question: &[u8]) -> Bytes {
        match Ask::decode(question) {
            Some(Ask::Status) => {}
            Some(Ask::Sheet(sheet)) => return board::answer(self.take_sheet(from, sheet)),
            Some(Ask::Instances(component)) => {
                let statuses = self.look(component).await.unwrap_or_default();
                let views: Vec<_> = statuses.iter().flat_map(|status| self.instances(status)).collect();
                return serde_json::to_vec(&views).unwrap_or_default().into();
            }
            Some(Ask::Past) => return self.board.chronicle().past(from),
            Some(Ask::Consent(ask)) => {
                return wire::encode(&self.consent.answer(from, &ask)).unwrap_or_default().into();
            }
            Some(Ask::Runs(source)) => {
                let ledger = self.catalog.read().ledger(&source);
                return ledger.map(|ledger| ledger.encode()).unwrap_or_default().into();
            }
            Some(Ask::Grant(claim)) => {
                let granted = self.registrar.grant(claim).await;
                return Bytes::from_static(if granted { GRANTED } else { &[] });
            }
            Some(Ask::Warm(component)) => {
                return match self.courier.warm(&component, fires::WARM).await {
                    Ok(()) => Bytes::from_static(GRANTED),
                    Err(failure) => failure.to_string().into(),
                };
            }
            Some(Ask::Pollers(source)) => return serde_json::to_vec(&self.pollers(&source)).unwrap_or_default().into(),
            // A newer release may ask what this one does not know; no answer says so.
            None => return Bytes::new(),
        }
        let view = self.own_view().await.ok().and_then(|view| serde_json::to_vec(&view).ok());
        view.unwrap_or_default().into()
    }

    /// The instances of all nodes that have some, as they say themselves; of one that does not answer none are shown.
    async fn instances_elsewhere(&self, component: Option<ComponentName>) -> Vec<InstanceView> {
        let with_some: BTreeSet<NodeId> = {
            let heard = self.board.read();
            let loads = heard.loads.iter().filter(|(name, _)| component.as_ref().is_none_or(|wanted| wanted == *name));
            loads.flat_map(|(_, loads)| loads.keys().copied()).filter(|node| *node != self.node).collect()
        };
        self.ask_some(&with_some, &Ask::Instances(component)).await
    }

    /// What a peer says of itself counts while it is alive for this node.
    fn take_sheet(&self, from: NodeId, sheet: Sheet) -> Option<Taken> {
        let view = self.cluster.view.load();
        let is_there = |member: &Member| matches!(member.state, State::Alive | State::Suspect);
        if !view.members.iter().any(|member| member.peer.node == from && is_there(member)) {
            return Some(Taken::Missing);
        }
        self.board.take(from, sheet)
    }

    /// How this node fares.
    async fn own_view(&self) -> Result<NodeView, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(Message::Total { reply }).await.map_err(|_| stopping())?;
        let totals = answer.await.map_err(|_| stopping())?;
        let components = self.catalog.read().names().len();
        let age_ms = Clock::wall().0.saturating_sub(self.started.0);
        Ok(NodeView {
            id: self.node.to_string(),
            name: self.name.to_string(),
            address: self.address.clone(),
            state: "alive".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            age_ms,
            runtime: self.runtime.to_owned(),
            instances: u32::try_from(totals.instances).unwrap_or(u32::MAX),
            components: u32::try_from(components).unwrap_or(u32::MAX),
            load: load(),
            memory: memory(totals.reserved),
            peer: self.peer.to_string(),
            own: true,
            since_ms: age_ms,
            rtt_ms: None,
            registry_lag_ms: None,
            clock_offset_ms: None,
            answered: true,
            duty: self.duty(self.node),
        })
    }

    /// How another node fares: what it says itself, and what this node sees of it.
    async fn ask(&self, member: &Member, view: &View, lag: Option<Lag>) -> NodeView {
        let Member { peer, state, since } = *member;
        let transport = &self.cluster.transport;
        let is_there = matches!(state, State::Alive | State::Suspect);
        let question = Ask::Status.encode();
        let said: Option<NodeView> = match is_there {
            true => transport.call(peer.node, peer.address, question, ASK).await.ok(),
            false => None,
        }
        .and_then(|answer| serde_json::from_slice(&answer).ok());
        let info = view.peers.get(&peer.node);
        let now = self.clock.mono();
        let answered = said.is_some();
        let said = said.unwrap_or_else(|| NodeView {
            id: String::new(),
            name: info.map_or_else(|| peer.node.to_string(), |info| info.hello.name.to_string()),
            address: String::new(),
            state: String::new(),
            version: info.map(|info| info.hello.version.clone()).unwrap_or_default(),
            age_ms: 0,
            runtime: String::new(),
            instances: 0,
            components: 0,
            load: None,
            memory: None,
            peer: String::new(),
            own: false,
            since_ms: 0,
            rtt_ms: None,
            registry_lag_ms: None,
            clock_offset_ms: None,
            answered,
            duty: Duty::Active,
        });
        NodeView {
            id: peer.node.to_string(),
            state: state.to_string(),
            peer: peer.address.to_string(),
            own: false,
            since_ms: millis(now.since(since)),
            rtt_ms: transport.rtt(peer.node).filter(|_| is_there).map(|rtt| rtt.as_secs_f64() * 1e3),
            registry_lag_ms: lag.filter(|_| is_there).and_then(|lag| match lag.differs {
                false => lag.equal_at.map(|_| 0),
                true => lag.equal_at.map(|at| millis(now.since(at))),
            }),
            clock_offset_ms: info.map(|info| info.clock_offset_ms),
            answered,
            duty: self.duty(peer.node),
            ..said
        }
    }

    /// What people want of a node.
    fn duty(&self, node: NodeId) -> Duty {
        self.duties.borrow().get(&node).copied().unwrap_or_default()
    }

    fn unknown_component(&self, name: &ComponentName) -> ApiError {
        let definitions = self.catalog.read();
        ApiError::not_found("component", name.as_str(), definitions.names().map(ComponentName::as_str))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn stopping() -> ApiError {
    ApiError::new(Code::Unavailable, "this node is stopping").hint("ask another node, or this one when it is back")
}

/// The values that lost, while puts at the same moment have not been settled. `show` redacts a document; one that it
/// cannot read is left out, since what is secret in it cannot be known.
fn conflict(others: &[Sibling], show: impl Fn(&Value) -> Option<Value>) -> Option<ConflictView> {
    if others.is_empty() {
        return None;
    }
    let names = others.iter().map(sibling);
    let definitions = others.iter().map(|other| {
        let doc = other.row.as_ref().and_then(|row| serde_json::from_slice(&row.bytes).ok());
        doc.and_then(|doc| show(&doc)).unwrap_or(Value::Null)
    });
    Some(ConflictView { others: names.collect(), definitions: definitions.collect() })
}

/// A write that lost, in words.
fn sibling(other: &Sibling) -> String {
    let what = if other.row.is_some() { "put" } else { "removed" };
    format!("{what} {} on {}", rfc3339(other.dot.at.wall()), other.dot.by)
}

/// Where in the list the node of this name or id is.
fn place_of(nodes: &[NodeView], name: &str) -> Result<usize, ApiError> {
    let mut found = nodes.iter().enumerate().filter(|(_, node)| node.name == name || node.id == name);
    match (found.next(), found.next()) {
        (Some((place, _)), None) => Ok(place),
        (Some(_), Some(_)) => Err(ApiError::new(Code::Conflict, format!("several nodes are named {name}"))
            .hint("use the id that `maelctl node ls -o wide` shows")),
        (None, _) => Err(ApiError::not_found("node", name, nodes.iter().map(|node| node.name.as_str()))),
    }
}

fn expectation(expect: Expect) -> Result<crate::crdt::Expect, ApiError> {
    Ok(match expect {
        Expect::Any => crate::crdt::Expect::Any,
        Expect::Absent => crate::crdt::Expect::Absent,
        Expect::Version(text) => crate::crdt::Expect::Version(
            text.parse().map_err(|error: crate::crdt::row::VersionError| ApiError::invalid(error.to_string()))?,
        ),
    })
}

fn answer(name: &str, edited: Edited) -> PutAnswer {
    PutAnswer {
        name: name.to_owned(),
        version: edited.version.map(|version| version.to_string()).unwrap_or_default(),
        changed: match (edited.changed, edited.created) {
            (false, _) => Change::Unchanged,
            (true, true) => Change::Created,
            (true, false) => Change::Updated,
        },
        warnings: edited.warnings,
        notes: Vec::new(),
    }
}

/// What a put of this document would do to what is there.
fn would<T: PartialEq>(name: &str, new: &T, old: Option<&Entry<T>>, expect: &Expect) -> Result<PutAnswer, ApiError> {
    let current = old.map(|entry| entry.version.to_string());
    expect.check(name, current.as_deref())?;
    let changed = match old {
        None => Change::Created,
        Some(entry) if *entry.value == *new => Change::Unchanged,
        Some(_) => Change::Updated,
    };
    let (version, warnings, notes) = (current.unwrap_or_default(), Vec::new(), Vec::new());
    Ok(PutAnswer { name: name.to_owned(), version, changed, warnings, notes })
}

impl Control for Desk {
    fn now(&self) -> Wall {
        Clock::wall()
    }

    fn put_component(
        &self,
        name: ComponentName,
        doc: Value,
        expect: Expect,
    ) -> BoxFuture<'_, Result<PutAnswer, ApiError>> {
        Box::pin(async move {
            let expect = expectation(expect)?;
            let (doc, note) = pin(&self.engine, &self.catalog, &name, doc).await;
            let edited = self.edit(Edit::PutComponent { name: name.clone(), doc, expect }).await?;
            Ok(PutAnswer { notes: note.into_iter().collect(), ..answer(name.as_str(), edited) })
        })
    }

    fn check_component(
        &self,
        name: ComponentName,
        doc: Value,
        expect: Expect,
    ) -> BoxFuture<'_, Result<PutAnswer, ApiError>> {
        Box::pin(async move {
            let (doc, note) = pin(&self.engine, &self.catalog, &name, doc).await;
            let new = Component::parse(&name, &doc).map_err(|invalid| ApiError::fields("the definition", invalid))?;
            let would =
                would(name.as_str(), &new, self.catalog.read().component(&name).map(|entry| &**entry), &expect)?;
            Ok(PutAnswer { notes: note.into_iter().collect(), ..would })
        })
    }

    fn get_component(&self, name: ComponentName) -> BoxFuture<'_, Result<ComponentView, ApiError>> {
        Box::pin(async move {
            let status = self.look(Some(name.clone())).await?.pop().unwrap_or_else(|| nothing(&name));
            let definitions = self.catalog.read();
            match definitions.component(&name) {
                Some(entry) => {
                    let view = self.component_view(&definitions, entry, &status);
                    Ok(ComponentView { events: self.events_of(&name), ..view })
                }
                None => {
                    drop(definitions);
                    Err(self.unknown_component(&name))
                }
            }
        })
    }

    fn list_components(&self) -> BoxFuture<'_, Result<List<ComponentView>, ApiError>> {
        Box::pin(async move {
            let statuses = self.look(None).await?.into_iter();
            let statuses: BTreeMap<_, _> = statuses.map(|status| (status.component.clone(), status)).collect();
            let definitions = self.catalog.read();
            let views = definitions.components().map(|entry| {
                let name = &entry.value.name;
                let none = nothing(name);
                self.component_view(&definitions, entry, statuses.get(name).unwrap_or(&none))
            });
            Ok(self.aged(views.collect()))
        })
    }

    fn rollout(&self, name: ComponentName) -> BoxFuture<'_, Result<RolloutView, ApiError>> {
        Box::pin(async move {
            let view = rollouts::status(&self.catalog, &self.board, &name);
            view.ok_or_else(|| self.unknown_component(&name))
        })
    }

    fn revisions(&self, name: ComponentName) -> BoxFuture<'_, Result<List<RevisionView>, ApiError>> {
        Box::pin(async move {
            let views = rollouts::history(&self.catalog.read(), &name);
            views.map(|views| self.aged(views)).ok_or_else(|| self.unknown_component(&name))
        })
    }

    fn undo_component(&self, name: ComponentName, to: Option<u32>) -> BoxFuture<'_, Result<PutAnswer, ApiError>> {
        Box::pin(async move {
            let edited = self.edit(Edit::UndoComponent { name: name.clone(), to }).await?;
            Ok(answer(name.as_str(), edited))
        })
    }

    fn delete_component(&self, name: ComponentName, expect: Expect) -> BoxFuture<'_, Result<Removed, ApiError>> {
        Box::pin(async move {
            let expect = expectation(expect)?;
            let edited = self.edit(Edit::RemoveComponent { name: name.clone(), expect }).await?;
            let sources = edited.sources.iter().map(ToString::to_string).collect();
            let settings = edited.settings.iter().map(ToString::to_string).collect();
            Ok(Removed { component: Some(name.to_string()), sources, settings })
        })
    }

    fn put_source(&self, name: SourceName, doc: Value, expect: Expect) -> BoxFuture<'_, Result<PutAnswer, ApiError>> {
        Box::pin(async move {
            let expect = expectation(expect)?;
            let read = Source::parse(&name, &doc).ok();
            let notes = read.as_ref().map(runs::notes).unwrap_or_default();
            let edited = self.edit(Edit::PutSource { name: name.clone(), doc, expect }).await?;
            Ok(self.advised(read.as_ref(), PutAnswer { notes, ..answer(name.as_str(), edited) }).await)
        })
    }

    fn check_source(&self, name: SourceName, doc: Value, expect: Expect) -> BoxFuture<'_, Result<PutAnswer, ApiError>> {
        Box::pin(async move {
            let new = Source::parse(&name, &doc).map_err(|invalid| ApiError::fields("the definition", invalid))?;
            let would = would(name.as_str(), &new, self.catalog.read().sources.get(&name), &expect)?;
            Ok(self.advised(Some(&new), PutAnswer { notes: runs::notes(&new), ..would }).await)
        })
    }

    fn get_source(&self, name: SourceName) -> BoxFuture<'_, Result<SourceView, ApiError>> {
        Box::pin(async move {
            let mut view = {
                let definitions = self.catalog.read();
                let entry = definitions.sources.get(&name).ok_or_else(|| {
                    ApiError::not_found("source", name.as_str(), definitions.sources.keys().map(SourceName::as_str))
                })?;
                let next = runs::shown(&entry.value);
                let next_at = next.first().cloned();
                SourceView { next, next_at, ..self.source_view(&definitions, entry) }
            };
            view.pollers = self.all_pollers(&name).await;
            view.problem = view.pollers.iter().find_map(|poller| poller.problem.clone());
            Ok(view)
        })
    }

    fn list_sources(&self) -> BoxFuture<'_, Result<List<SourceView>, ApiError>> {
        Box::pin(async move {
            let definitions = self.catalog.read();
            Ok(self.aged(definitions.sources.values().map(|entry| self.source_view(&definitions, entry)).collect()))
        })
    }

    fn delete_source(&self, name: SourceName, expect: Expect) -> BoxFuture<'_, Result<Removed, ApiError>> {
        Box::pin(async move {
            let expect = expectation(expect)?;
            self.edit(Edit::RemoveSource { name: name.clone(), expect }).await?;
            Ok(Removed { component: None, sources: vec![name.to_string()], settings: Vec::new() })
        })
    }

    fn set_source_enabled(&self, name: SourceName, enabled: bool) -> BoxFuture<'_, Result<PutAnswer, ApiError>> {
        Box::pin(async move {
            let edited = self.edit(Edit::EnableSource { name: name.clone(), enabled }).await?;
            Ok(answer(name.as_str(), edited))
        })
    }

    fn list_runs(&self, name: SourceName) -> BoxFuture<'_, Result<List<RunView>, ApiError>> {
        Box::pin(async move { self.list_runs(&name) })
    }

    fn next_runs(&self, name: SourceName, count: usize) -> BoxFuture<'_, Result<NextView, ApiError>> {
        Box::pin(async move { self.next_runs(&name, count) })
    }

    fn ask_run(&self, name: SourceName) -> BoxFuture<'_, Result<RunView, ApiError>> {
        Box::pin(self.ask_run(name))
    }

    fn put_setting(
        &self,
        key: CfgKey,
        value: Bytes,
        secret: bool,
        expect: Expect,
    ) -> BoxFuture<'_, Result<PutAnswer, ApiError>> {
        Box::pin(self.put_setting(key, value, secret, expect))
    }

    fn check_setting(
        &self,
        key: CfgKey,
        value: Bytes,
        secret: bool,
        expect: Expect,
    ) -> BoxFuture<'_, Result<PutAnswer, ApiError>> {
        Box::pin(async move { self.check_setting(&key, &value, secret, &expect) })
    }

    fn get_setting(&self, key: CfgKey) -> BoxFuture<'_, Result<CfgView, ApiError>> {
        Box::pin(async move { self.get_setting(&key) })
    }

    fn list_settings(&self) -> BoxFuture<'_, Result<List<CfgView>, ApiError>> {
        Box::pin(async move { Ok(self.list_settings()) })
    }

    fn delete_setting(&self, key: CfgKey, force: bool, expect: Expect) -> BoxFuture<'_, Result<Removed, ApiError>> {
        Box::pin(self.delete_setting(key, force, expect))
    }

    fn list_nodes(&self) -> BoxFuture<'_, Result<List<NodeView>, ApiError>> {
        Box::pin(async move {
            let view = self.cluster.view.load_full();
            let lags = self.registrar.lags(view.members.iter().map(|member| member.peer.node).collect()).await;
            let own = self.own_view().await?;
            let mut lags = lags.into_iter();
            let asked: Vec<_> = view.members.iter().map(|member| self.ask(member, &view, lags.next())).collect();
            let mut items = futures_util::future::join_all(asked).await;
            items.push(own);
            items.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
            Ok(self.aged(items))
        })
    }

    fn get_node(&self, name: String) -> BoxFuture<'_, Result<NodeView, ApiError>> {
        Box::pin(async move {
            let mut nodes = self.list_nodes().await?.items;
            let place = place_of(&nodes, &name)?;
            Ok(nodes.swap_remove(place))
        })
    }

    fn remove_node(&self, name: String) -> BoxFuture<'_, Result<NodeView, ApiError>> {
        Box::pin(async move {
            let mut nodes = self.list_nodes().await?.items;
            let node = nodes.swap_remove(place_of(&nodes, &name)?);
            if node.own || node.state == State::Alive.to_string() || node.state == State::Suspect.to_string() {
                let message =
                    format!("node {} is {}; only a node that is down or has left is removed", node.name, node.state);
                return Err(ApiError::new(Code::Conflict, message).hint("stop its maelstromd first"));
            }
            let id = node.id.parse::<NodeId>().map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
            self.edit(Edit::RemoveNode { node: id }).await?;
            Ok(node)
        })
    }

    fn explain(&self, component: ComponentName) -> BoxFuture<'_, Result<crate::admin::api::PlanView, ApiError>> {
        Box::pin(super::explain::explain(self, component))
    }

    fn set_duty(&self, name: String, duty: Duty, force: bool) -> BoxFuture<'_, Result<NodeView, ApiError>> {
        Box::pin(async move {
            let mut nodes = self.list_nodes().await?.items;
            let place = place_of(&nodes, &name)?;
            let works = |node: &NodeView| node.state == State::Alive.to_string() && node.duty == Duty::Active;
            let node = nodes.swap_remove(place);
            if !force && duty != Duty::Active && node.duty != duty && !nodes.iter().any(works) {
                let message =
                    format!("no other node is alive and active: without {} nothing can be started", node.name);
                return Err(ApiError::new(Code::Conflict, message).hint("--force does it all the same"));
            }
            let id = node.id.parse::<NodeId>().map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
            self.edit(Edit::SetDuty { node: id, duty }).await?;
            Ok(NodeView { duty, ..node })
        })
    }

    fn list_instances(&self, component: Option<ComponentName>) -> BoxFuture<'_, Result<List<InstanceView>, ApiError>> {
        Box::pin(async move {
            if let Some(name) = &component
                && self.catalog.read().component(name).is_none()
            {
                return Err(self.unknown_component(name));
            }
            let theirs = self.instances_elsewhere(component.clone());
            let (statuses, theirs) = tokio::join!(self.look(component), theirs);
            let mut views: Vec<_> = statuses?.iter().flat_map(|status| self.instances(status)).collect();
            views.extend(theirs);
            views.sort_by(|a, b| (&a.component, &a.node, &a.id).cmp(&(&b.component, &b.node, &b.id)));
            Ok(self.aged(views))
        })
    }

    fn logs(
        &self,
        component: ComponentName,
        query: LogQuery,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<LogLine>, ApiError>> {
        Box::pin(self.logs(component, query))
    }

    fn events(&self, query: EventQuery) -> BoxFuture<'_, Result<mpsc::Receiver<EventView>, ApiError>> {
        Box::pin(async move { Ok(self.events(query)) })
    }

    fn invoke(&self, component: ComponentName, event: Invoke) -> BoxFuture<'_, Result<Invoked, ApiError>> {
        Box::pin(self.call(component, event))
    }

    fn list_queues(&self) -> BoxFuture<'_, Result<List<QueueView>, ApiError>> {
        Box::pin(self.list_queues())
    }

    fn peek_queue(&self, queue: QueueRef, limit: u32) -> BoxFuture<'_, Result<Peeked, ApiError>> {
        Box::pin(self.peek_queue(queue, limit))
    }

    fn redrive_queue(&self, queue: QueueRef, max: Option<u64>) -> BoxFuture<'_, Result<Redriven, ApiError>> {
        Box::pin(self.redrive_queue(queue, max))
    }

    fn purge_queue(&self, queue: QueueRef) -> BoxFuture<'_, Result<Purged, ApiError>> {
        Box::pin(self.purge_queue(queue))
    }

    fn version(&self) -> BoxFuture<'_, Result<VersionView, ApiError>> {
        Box::pin(async move {
            Ok(VersionView {
                api_version: crate::admin::api::API_VERSION.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                node: self.name.to_string(),
                node_id: self.node.to_string(),
            })
        })
    }
}

fn nothing(name: &ComponentName) -> Status {
    let (fingerprint, failures) = (String::new(), 0);
    let (component, instances) = (name.clone(), Vec::new());
    Status { component, instances, waiting: 0, problem: None, waits_for: None, fingerprint, failures }
}

/// The load of the last minute.
fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// The machine's memory in bytes; beyond any if the system does not say.
pub(crate) fn total_memory() -> u64 {
    memory(0).map_or(u64::MAX, |memory| memory.total)
}

fn memory(reserved: u64) -> Option<NodeMemory> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    };
    Some(NodeMemory { total: field("MemTotal:")?, available: field("MemAvailable:")?, reserved })
}

//! The registry's content as typed definitions, and the routing table made of it. Read by many, written by the
//! registrar alone.
//!
//! A node holds every component of the cluster and serves few of them, so the definition of a component is read when
//! somebody first asks for it. Of a row that comes only the outline is looked at.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, RwLock, RwLockReadGuard};

use arc_swap::ArcSwap;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::sync::watch;

use super::seal::Seal;
use crate::activation::Fact;
use crate::crdt::{Key, Kind, Register, Registry, Row, Sibling, Version};
use crate::id::{ComponentName, SourceName};
use crate::model::cfg::{CfgKey, CfgName, Given};
use crate::model::{Component, Source};
use crate::rollout::Revisions;
use crate::router::Table;
use crate::schedule::Ledger;
use crate::slots::{Gate, Gates};
use crate::source::courier::Components;
use crate::time::Wall;

mod settings;

pub(crate) use settings::{Setting, Settings};

/// The format of the rows that this version writes: the canonical document of the definition as JSON.
pub(crate) const ROW_FORMAT: u16 = 1;

/// A definition and the state of its row.
#[derive(Debug, Clone)]
pub(crate) struct Entry<T> {
    pub(crate) value: Arc<T>,
    pub(crate) version: Version,
    pub(crate) updated: Wall,
    /// Concurrent writes that differ from the value and wait for somebody to settle them; nearly always none.
    pub(crate) others: Vec<Sibling>,
}

/// A component whose row is not read before somebody asks for what it says.
#[derive(Debug)]
pub(crate) struct Unread {
    register: Register,
    /// Whether instances are kept without anybody asking.
    is_kept: bool,
    /// The settings that it names.
    uses: Vec<CfgName>,
    entry: OnceLock<Option<Arc<Entry<Component>>>>,
}

/// What the node acts on before an event comes, as the canonical document has it. The rest of the row is
/// only checked to be JSON.
#[derive(Deserialize)]
struct Outline {
    instances: Instances,
    /// Rows of earlier releases have none.
    #[serde(default)]
    cfg: Vec<Named>,
    /// The short form of the above, which no canonical document has.
    min: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Instances {
    min: u32,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

impl Unread {
    /// None if the row is deleted, or cannot be read.
    fn new(register: &Register, name: &ComponentName) -> Option<Self> {
        let row = register.winner()?;
        let unread = Self { register: register.clone(), is_kept: false, uses: Vec::new(), entry: OnceLock::new() };
        match serde_json::from_slice::<Outline>(&row.bytes) {
            Ok(outline) if outline.min.is_none() => {
                let uses = outline.cfg.iter().filter_map(|named| named.name.parse().ok()).collect();
                Some(Self { is_kept: outline.instances.min > 0, uses, ..unread })
            }
            // Not as this version writes it, or nonsense: reading it tells.
            _ => {
                let component = Arc::clone(&unread.entry(name)?.value);
                let uses = component.cfg.iter().map(|one| one.name.clone()).collect();
                Some(Self { is_kept: component.min_instances > 0, uses, ..unread })
            }
        }
    }

    /// The definition. None, with one warning, if this version cannot read it.
    fn entry(&self, name: &ComponentName) -> Option<&Arc<Entry<Component>>> {
        let parse = |doc: &serde_json::Value| Component::parse_stored(name, doc);
        self.entry.get_or_init(|| entry(&self.register, parse, name.as_str()).map(Arc::new)).as_ref()
    }
}

/// All definitions.
#[derive(Debug, Default)]
pub(crate) struct Definitions {
    components: BTreeMap<ComponentName, Unread>,
    pub(crate) sources: BTreeMap<SourceName, Entry<Source>>,
    /// Of the components that changed since they were created.
    revisions: BTreeMap<ComponentName, Register>,
    /// Of the schedules.
    runs: BTreeMap<SourceName, Register>,
    pub(crate) settings: Settings,
}

impl Definitions {
    /// Reads the whole registry. A row that this version cannot read is left out with a warning; it stays stored.
    pub(crate) fn of(registry: &Registry) -> Self {
        let mut all = Self::default();
        let rows: Vec<(&Key, &Register)> = registry.registers().collect();
        for definition in on_all_cores(&rows, |(key, register)| Definition::new(key, Some(register))) {
            all.set(definition);
        }
        all
    }

    pub(crate) fn set(&mut self, definition: Definition) {
        match definition {
            Definition::Component(name, unread) => {
                let uses = unread.as_ref().map(|unread| unread.uses.clone()).unwrap_or_default();
                let before = match unread {
                    Some(unread) => self.components.insert(name.clone(), unread),
                    None => self.components.remove(&name),
                };
                let before = before.map(|before| before.uses).unwrap_or_default();
                self.settings.set_uses(&name, &before, &uses);
            }
            Definition::Setting(key, setting) => self.settings.set(key, setting),
            Definition::Source(name, Some(entry)) => drop(self.sources.insert(name, entry)),
            Definition::Source(name, None) => drop(self.sources.remove(&name)),
            Definition::Revisions(name, Some(register)) => drop(self.revisions.insert(name, register)),
            Definition::Revisions(name, None) => drop(self.revisions.remove(&name)),
            Definition::Runs(name, Some(register)) => drop(self.runs.insert(name, register)),
            Definition::Runs(name, None) => drop(self.runs.remove(&name)),
            Definition::Other => {}
        }
    }

    /// A component's definition; none if there is none that this version can read.
    pub(crate) fn component(&self, name: &ComponentName) -> Option<&Arc<Entry<Component>>> {
        self.components.get(name)?.entry(name)
    }

    /// The definitions that a component had, and has; none if there is none that this version can read.
    pub(crate) fn revisions(&self, name: &ComponentName) -> Option<Revisions> {
        let entry = self.component(name)?;
        let kept = self.revisions.get(name).map(super::history::read).unwrap_or_default();
        Some(kept.with(self.fingerprint(&entry.value), entry.updated))
    }

    /// What is known of the runs of a schedule; none if nothing is.
    pub(crate) fn ledger(&self, name: &SourceName) -> Option<Ledger> {
        self.runs.get(name).map(super::runs::read)
    }

    /// What changes whenever a component or its revisions do; none if there is no such component.
    pub(crate) fn versions(&self, name: &ComponentName) -> Option<(Version, Option<Version>)> {
        let component = self.components.get(name)?.register.version();
        Some((component, self.revisions.get(name).map(Register::version)))
    }

    /// The definitions of all components, in the order of their names: all of them are read.
    pub(crate) fn components(&self) -> impl Iterator<Item = &Arc<Entry<Component>>> {
        self.components.iter().filter_map(|(name, unread)| unread.entry(name))
    }

    /// The names of all components in order.
    pub(crate) fn names(&self) -> impl ExactSizeIterator<Item = &ComponentName> {
        self.components.keys()
    }

    /// The names of those of which instances are kept without anybody asking.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &ComponentName> {
        self.components.iter().filter(|(_, unread)| unread.is_kept).map(|(name, _)| name)
    }

    /// What the node is to be told of a component that has changed or is asked for; nothing if that is no concern of it
    /// before an event comes.
    pub(crate) fn fact(&self, name: &ComponentName, is_concern: bool) -> Option<Fact> {
        let is_kept = || self.components.get(name).is_some_and(|unread| unread.is_kept);
        if !is_concern && !is_kept() {
            return None;
        }
        Some(match self.component(name) {
            Some(entry) => Fact::Define(Arc::clone(&entry.value), self.fingerprint(&entry.value)),
            None => Fact::Remove,
        })
    }

    /// Covers what a running instance of a component was made of: its definition and its settings.
    pub(crate) fn fingerprint(&self, component: &Component) -> String {
        fingerprint(component, self.settings.mark(component).as_deref())
    }
}

/// What one key of the registry defines now; none if nothing any more, or nothing that this version can read.
#[derive(Debug)]
pub(crate) enum Definition {
    Component(ComponentName, Option<Unread>),
    Source(SourceName, Option<Entry<Source>>),
    Revisions(ComponentName, Option<Register>),
    Setting(CfgKey, Option<Setting>),
    Runs(SourceName, Option<Register>),
    /// Of a kind that is no definition, or under a name that is none.
    Other,
}

impl Definition {
    pub(crate) fn new(key: &Key, register: Option<&Register>) -> Self {
        match key.kind() {
            Kind::COMPONENT => key.name().parse::<ComponentName>().map_or(Self::Other, |name| {
                let unread = register.and_then(|register| Unread::new(register, &name));
                Self::Component(name, unread)
            }),
            Kind::SOURCE => key.name().parse::<SourceName>().map_or(Self::Other, |name| {
                let parse = |doc: &serde_json::Value| Source::parse(&name, doc);
                let entry = register.and_then(|register| entry(register, parse, name.as_str()));
                Self::Source(name, entry)
            }),
            Kind::REVISIONS => key.name().parse::<ComponentName>().map_or(Self::Other, |name| {
                Self::Revisions(name, register.filter(|register| !register.is_tombstone()).cloned())
            }),
            Kind::RUNS => key.name().parse::<SourceName>().map_or(Self::Other, |name| {
                Self::Runs(name, register.filter(|register| !register.is_tombstone()).cloned())
            }),
            Kind::CONFIG => CfgKey::from_row_name(key.name())
                .map_or(Self::Other, |key| Self::Setting(key, register.and_then(Setting::new))),
            _ => Self::Other,
        }
    }
}

/// So few items are done sooner than threads are started: at two microseconds each they take a quarter of a millisecond.
pub(crate) const FEW: usize = 128;

/// Does the same with each item, in their order, on all processors if they are many.
pub(crate) fn on_all_cores<I: Sync, O: Send>(items: &[I], act: impl Fn(&I) -> O + Sync) -> Vec<O> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if items.len() <= FEW || cores == 1 {
        return items.iter().map(act).collect();
    }
    let act = &act;
    std::thread::scope(|scope| {
        let parts = items.chunks(items.len().div_ceil(cores));
        let started: Vec<_> = parts.map(|part| scope.spawn(move || part.iter().map(act).collect::<Vec<O>>())).collect();
        let mut all = Vec::with_capacity(items.len());
        for part in started {
            match part.join() {
                Ok(part) => all.extend(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    })
}

fn entry<T, E: std::fmt::Display>(
    register: &Register,
    parse: impl FnOnce(&serde_json::Value) -> Result<T, E>,
    name: &str,
) -> Option<Entry<T>> {
    let row = register.winner()?;
    let value = match serde_json::from_slice(&row.bytes) {
        Ok(doc) => parse(&doc).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match value {
        Ok(value) => Some(Entry {
            value: Arc::new(value),
            version: register.version(),
            updated: register.latest().wall(),
            others: match register.is_conflict() {
                true => register.siblings().iter().filter(|other| other.row.as_ref() != Some(row)).cloned().collect(),
                false => Vec::new(),
            },
        }),
        Err(error) => {
            tracing::warn!(name, format = row.format, error, "a row of the registry cannot be read and is left alone");
            None
        }
    }
}

/// The row of a document.
pub(crate) fn row(doc: &serde_json::Value) -> Row {
    Row { format: ROW_FORMAT, bytes: doc.to_string().into_bytes().into() }
}

/// Keys of a definition that a running instance does not depend on: changing them needs no new instance.
const LIVE_KEYS: [&str; 11] = [
    "concurrency",
    "constraints",
    "health",
    "idle",
    "instances",
    "max_body",
    "queue",
    "request_timeout",
    "rollout",
    "singleton",
    "start_timeout",
];

/// FNV-1a over the canonical document without [`LIVE_KEYS`] and over the mark of the settings, so that it is the same in
/// the next build and an adopted instance is recognised.
pub(crate) fn fingerprint(component: &Component, settings: Option<&str>) -> String {
    let mut doc = component.to_doc();
    if let Some(object) = doc.as_object_mut() {
        for key in LIVE_KEYS {
            object.remove(key);
        }
        // In the place of what the definition names stands what was found; a component without settings has neither, as
        // in releases that knew none.
        object.remove("cfg");
        object.extend(settings.map(|mark| ("cfg".to_owned(), mark.into())));
    }
    // A document of texts, numbers and lists can always be written.
    let bytes = serde_json::to_vec(&doc).unwrap_or_default();
    let hash = bytes
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

/// What readers share.
#[derive(Debug)]
pub(crate) struct Catalog {
    definitions: RwLock<Definitions>,
    pub(crate) table: Arc<ArcSwap<Table>>,
    gates: Arc<Gates>,
    seal: Seal,
    changes: watch::Sender<u64>,
    /// Who wants to know when something is known of the runs of a schedule.
    run_news: Mutex<BTreeMap<SourceName, watch::Sender<u64>>>,
}

impl Catalog {
    pub(crate) fn new(definitions: Definitions, gates: Arc<Gates>, seal: Seal) -> Self {
        let catalog = Self {
            definitions: RwLock::new(definitions),
            table: Arc::new(ArcSwap::from_pointee(Table::default())),
            gates,
            seal,
            changes: watch::Sender::new(0),
            run_news: Mutex::default(),
        };
        catalog.route();
        catalog
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Definitions> {
        self.definitions.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Definitions)) {
        change(&mut self.definitions.write().unwrap_or_else(std::sync::PoisonError::into_inner));
        self.changes.send_modify(|count| *count += 1);
    }

    /// The same for what is no definition, such as the runs of a schedule: nobody who follows definitions is disturbed.
    pub(crate) fn note(&self, change: impl FnOnce(&mut Definitions)) {
        change(&mut self.definitions.write().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    /// Changes when something durable is known of the runs of this schedule.
    pub(crate) fn run_news(&self, name: &SourceName) -> watch::Receiver<u64> {
        let mut news = self.run_news.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        news.entry(name.clone()).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// Tells those who follow the runs of a schedule.
    pub(crate) fn tell_runs(&self, name: &SourceName) {
        let mut news = self.run_news.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(sender) = news.get(name) {
            if sender.receiver_count() == 0 {
                news.remove(name);
            } else {
                sender.send_modify(|count| *count += 1);
            }
        }
    }

    /// Changes with every change of any definition.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What seals new secrets.
    pub(crate) fn seal(&self) -> &Seal {
        &self.seal
    }

    /// The settings of a component with their values, opened for a start that is under way.
    ///
    /// # Errors
    /// A sentence for the user: which one is missing or cannot be opened, and what to do.
    pub(crate) fn hand_out(&self, component: &Component) -> Result<Vec<Given>, String> {
        let definitions = self.read();
        let given = definitions.settings.resolve(component).into_iter().map(|one| {
            let key = &one.key;
            let row = one.setting.and_then(Setting::row).ok_or_else(|| {
                format!(
                    "{key}, which component {} uses, does not exist: `maelctl cfg put {}=VALUE` creates it for all \
                     components, with --component {} for this one alone",
                    component.name, key.name, component.name
                )
            })?;
            let place = Key::new(Kind::CONFIG, &key.row_name()).map_err(|error| format!("{key}: {error}"))?;
            let value = self.seal.open(&place, row).map_err(|error| format!("{key} {error}"))?;
            Given::new(one.to.to, &value).map_err(|error| format!("{key} {error}"))
        });
        given.collect()
    }

    /// Makes a new routing table and shows it to the data plane.
    pub(crate) fn route(&self) {
        let definitions = self.read();
        let table = Table::build(definitions.sources.values().map(|source| {
            let component = definitions.component(&source.value.component);
            let live = component.map(|entry| (Arc::clone(&entry.value), self.gates.get(&entry.value.name)));
            (&*source.value, live)
        }));
        drop(definitions);
        for shadowed in table.shadowed() {
            tracing::warn!(winner = %shadowed.winner, loser = %shadowed.loser, "two sources want the same host and path");
        }
        self.table.store(Arc::new(table));
    }
}

impl Components for Catalog {
    fn live(&self, name: &ComponentName) -> Option<(Arc<Component>, Arc<Gate>)> {
        let component = Arc::clone(&self.read().component(name)?.value);
        Some((component, self.gates.get(name)))
    }
}

/// Does both, the first on a thread of its own if it is long; gives what the first says when both are done.
pub(crate) fn beside<O: Send>(is_long: bool, first: impl FnOnce() -> O + Send, second: impl FnOnce()) -> O {
    if !is_long {
        second();
        return first();
    }
    std::thread::scope(|scope| {
        let first = scope.spawn(first);
        second();
        first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_cores_do_comes_back_in_order_whatever_its_length() {
        for count in [0, 1, FEW, FEW + 1, 1000] {
            let items: Vec<usize> = (0..count).collect();
            assert_eq!(on_all_cores(&items, |item| item * 2), items.iter().map(|item| item * 2).collect::<Vec<_>>());
        }
    }
}

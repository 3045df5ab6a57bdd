//! The registry's content as typed definitions, and the routing table made of it. Read by many, written by the
//! registrar alone.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use arc_swap::ArcSwap;

use crate::crdt::{Kind, Register, Registry, Row, Sibling, Version};
use crate::id::{ComponentName, SourceName};
use crate::model::{Component, Source};
use crate::router::Table;
use crate::slots::Gates;
use crate::time::Wall;

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

/// All definitions.
#[derive(Debug, Default)]
pub(crate) struct Definitions {
    pub(crate) components: BTreeMap<ComponentName, Entry<Component>>,
    pub(crate) sources: BTreeMap<SourceName, Entry<Source>>,
}

impl Definitions {
    /// Reads the whole registry. A row that this version cannot read is left out with a warning; it stays stored.
    pub(crate) fn of(registry: &Registry) -> Self {
        let mut all = Self::default();
        for (name, register) in registry.list(Kind::COMPONENT) {
            all.set_component(name, Some(register));
        }
        for (name, register) in registry.list(Kind::SOURCE) {
            all.set_source(name, Some(register));
        }
        all
    }

    pub(crate) fn set_component(&mut self, name: &str, register: Option<&Register>) {
        let Ok(name) = name.parse::<ComponentName>() else { return };
        match register.and_then(|register| entry(register, |doc| Component::parse(&name, doc), name.as_str())) {
            Some(entry) => self.components.insert(name, entry),
            None => self.components.remove(&name),
        };
    }

    pub(crate) fn set_source(&mut self, name: &str, register: Option<&Register>) {
        let Ok(name) = name.parse::<SourceName>() else { return };
        match register.and_then(|register| entry(register, |doc| Source::parse(&name, doc), name.as_str())) {
            Some(entry) => self.sources.insert(name, entry),
            None => self.sources.remove(&name),
        };
    }
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
const LIVE_KEYS: [&str; 8] =
    ["concurrency", "health", "idle", "instances", "max_body", "queue", "request_timeout", "start_timeout"];

/// Covers what a running instance was made of: FNV-1a over the canonical document without [`LIVE_KEYS`], so that it is
/// the same in the next build and an adopted instance is recognised.
pub(crate) fn fingerprint(component: &Component) -> String {
    let mut doc = component.to_doc();
    if let Some(object) = doc.as_object_mut() {
        for key in LIVE_KEYS {
            object.remove(key);
        }
    }
    let hash = doc
        .to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

/// What readers share.
#[derive(Debug)]
pub(crate) struct Catalog {
    definitions: RwLock<Definitions>,
    pub(crate) table: Arc<ArcSwap<Table>>,
    gates: Arc<Gates>,
}

impl Catalog {
    pub(crate) fn new(definitions: Definitions, gates: Arc<Gates>) -> Self {
        let catalog = Self {
            definitions: RwLock::new(definitions),
            table: Arc::new(ArcSwap::from_pointee(Table::default())),
            gates,
        };
        catalog.route();
        catalog
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Definitions> {
        self.definitions.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Definitions)) {
        change(&mut self.definitions.write().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    /// Makes a new routing table and shows it to the data plane.
    pub(crate) fn route(&self) {
        let definitions = self.read();
        let table = Table::build(definitions.sources.values().map(|source| {
            let component = definitions.components.get(&source.value.component);
            let live = component.map(|entry| (Arc::clone(&entry.value), self.gates.get(&entry.value.name)));
            (&*source.value, live)
        }));
        drop(definitions);
        for shadowed in table.shadowed() {
            tracing::warn!(winner = %shadowed.winner, loser = %shadowed.loser, "two sources want the same host and path");
        }
        self.table.store(Arc::new(table));
    }

    /// Where events for this component go, without a source: for `invoke`.
    pub(crate) fn live(&self, name: &ComponentName) -> Option<(Arc<Component>, Arc<crate::slots::Gate>)> {
        let component = Arc::clone(&self.read().components.get(name)?.value);
        Some((component, self.gates.get(name)))
    }
}

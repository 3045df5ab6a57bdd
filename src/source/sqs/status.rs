//! How the pollers of this node fare, for people who look.
//!
//! Knows nothing of how it came to be.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::consumer::Counters;
use crate::id::SourceName;

/// How one queue fares at one poller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueStatus {
    /// Its name.
    pub queue: String,
    /// Which seat of the source.
    pub seat: u32,
    /// Messages at the component or waiting for it.
    pub in_flight: u64,
    /// How many may be at the component at once; adapts to its answers.
    pub allowed: u32,
    /// Messages that can be received, about; as the queue said last.
    pub backlog: Option<u64>,
    /// Milliseconds since the oldest message in flight was sent.
    pub oldest_ms: Option<u64>,
    /// What it has counted.
    pub counters: Counters,
    /// Why it does not work at this moment, in a sentence.
    pub problem: Option<String>,
}

/// What all pollers of this node say.
#[derive(Debug, Default)]
pub struct Book {
    pages: Mutex<BTreeMap<(SourceName, u32), Vec<QueueStatus>>>,
}

impl Book {
    /// What the pollers of a source say here, by seat and queue.
    pub fn of(&self, source: &SourceName) -> Vec<QueueStatus> {
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let range = (source.clone(), 0)..=(source.clone(), u32::MAX);
        pages.range(range).flat_map(|(_, page)| page.iter().cloned()).collect()
    }

    pub(super) fn write(&self, source: &SourceName, seat: u32, page: Option<Vec<QueueStatus>>) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (source.clone(), seat);
        match page {
            Some(page) => drop(pages.insert(key, page)),
            None => drop(pages.remove(&key)),
        }
    }
}

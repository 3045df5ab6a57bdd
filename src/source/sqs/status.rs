//! How the pollers of this node fare, for people who look.
//!
//! Knows nothing of how it came to be.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::consumer::Counters;
use crate::id::SourceName;

/// How one queue fares at one poller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
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
    /// Messages received.
    pub received: u64,
    /// Messages handed to the component.
    pub delivered: u64,
    /// Messages deleted after their success.
    pub deleted: u64,
    /// Failures of messages.
    pub failed: u64,
    /// Messages put back.
    pub released: u64,
    /// Extensions of a message's visibility.
    pub extended: u64,
    /// Messages sent to the dead-letter queue.
    pub buried: u64,
    /// Messages that became visible to others while they were held.
    pub lease_lost: u64,
    /// Receives without a message.
    pub empty_receives: u64,
    /// Calls to the queue service: what it costs.
    pub api_calls: u64,
    /// Why it does not work at this moment, in a sentence.
    pub problem: Option<String>,
}

impl QueueStatus {
    /// Takes over the counts of a poller.
    pub(super) fn count(&mut self, counters: Counters) {
        let Counters {
            received,
            delivered,
            deleted,
            failed,
            released,
            extended,
            buried,
            lease_lost,
            received_again: _,
            empty_receives,
            calls,
        } = counters;
        *self = Self {
            received,
            delivered,
            deleted,
            failed,
            released,
            extended,
            buried,
            lease_lost,
            empty_receives,
            api_calls: calls,
            ..std::mem::take(self)
        };
    }
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

//! Connections to instances that wait for their next request: HTTP/1.1 ones in a stack per instance, and one shared
//! HTTP/2 connection per instance that speaks it.
//!
//! Knows nothing of requests, and nothing of which instances exist until one is used.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;

use crate::id::InstanceId;
use crate::proxy::body::Payload;
use crate::proxy::upstream::{ConnectError, Upstream, dial};
use crate::telemetry;

/// All connections to instances.
///
/// The list of instances is an immutable map, copied when an instance is first used or forgotten, so that the warm path
/// takes only the lock of its own instance, for a push or a pop.
#[derive(Debug)]
pub struct Pool {
    homes: ArcSwap<BTreeMap<InstanceId, Arc<Home>>>,
    /// Connections that are kept per instance.
    most: usize,
}

/// The waiting connections of one instance.
#[derive(Debug)]
pub(crate) struct Home {
    most: usize,
    state: Mutex<State>,
    shared: tokio::sync::Mutex<Option<http2::SendRequest<Payload>>>,
}

#[derive(Debug, Default)]
struct State {
    /// The last one used is the first one taken, so that the rest can grow old and go.
    idle: Vec<Waiting>,
    /// Counts sweeps: the age of a waiting connection without a look at the clock.
    sweep: u64,
    /// The instance is gone: nothing comes back.
    closed: bool,
}

#[derive(Debug)]
struct Waiting {
    upstream: Box<Upstream>,
    since: u64,
}

impl Pool {
    /// An empty pool that keeps at most `most` connections per instance.
    pub fn new(most: usize) -> Self {
        Self { homes: ArcSwap::default(), most }
    }

    pub(crate) fn home(&self, instance: &InstanceId) -> Arc<Home> {
        if let Some(home) = self.homes.load().get(instance) {
            return Arc::clone(home);
        }
        let fresh = Arc::new(Home { most: self.most, state: Mutex::default(), shared: tokio::sync::Mutex::default() });
        self.homes.rcu(|homes| {
            let mut homes = BTreeMap::clone(homes);
            homes.entry(instance.clone()).or_insert_with(|| Arc::clone(&fresh));
            homes
        });
        self.homes.load().get(instance).map_or(fresh, Arc::clone)
    }

    /// Closes the waiting connections of an instance that is gone. Those in use are closed when their answer ends.
    pub fn forget(&self, instance: &InstanceId) {
        if let Some(home) = self.homes.load().get(instance) {
            home.close();
        }
        self.homes.rcu(|homes| {
            let mut homes = BTreeMap::clone(homes);
            homes.remove(instance);
            homes
        });
    }

    /// Closes what has waited since before the last sweep, and drops the entries of instances that have no connection.
    /// To be called once per idle time: a connection waits between one and two of them.
    pub fn sweep(&self) {
        let homes = self.homes.load_full();
        let empty: Vec<&InstanceId> = homes.iter().filter(|(_, home)| home.sweep()).map(|(id, _)| id).collect();
        for instance in empty {
            self.forget(instance);
        }
    }

    /// How many connections wait, over all instances.
    pub fn idle(&self) -> usize {
        self.homes.load().values().map(|home| home.lock().idle.len()).sum()
    }
}

impl Home {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A push or a pop leaves the list whole even if a panic came between.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn check_out(&self) -> Option<Box<Upstream>> {
        self.lock().idle.pop().map(|waiting| waiting.upstream)
    }

    /// Takes a connection back if it can serve again.
    pub(crate) fn check_in(&self, mut upstream: Box<Upstream>) {
        if !upstream.settle() {
            return;
        }
        let mut state = self.lock();
        if !state.closed && state.idle.len() < self.most {
            let since = state.sweep;
            state.idle.push(Waiting { upstream, since });
        }
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        drop(idle);
        if let Ok(mut shared) = self.shared.try_lock() {
            *shared = None;
        }
    }

    /// True if nothing is left and nobody uses it.
    fn sweep(self: &Arc<Self>) -> bool {
        let mut state = self.lock();
        let now = state.sweep;
        state.sweep += 1;
        let old = state.idle.iter().take_while(|waiting| waiting.since < now).count();
        let old: Vec<Waiting> = state.idle.drain(..old).collect();
        let empty = state.idle.is_empty();
        drop(state);
        drop(old);
        // Two owners: the map and the sweep's own copy of it are one map, so one count.
        let shared = self.shared.try_lock().is_ok_and(|shared| shared.as_ref().is_none_or(|sender| sender.is_closed()));
        empty && shared && Arc::strong_count(self) == 1
    }

    /// The shared HTTP/2 connection, opened if there is none. Those who ask meanwhile wait for the one attempt.
    pub(crate) async fn shared(
        &self,
        address: SocketAddr,
        limit: Duration,
    ) -> Result<http2::SendRequest<Payload>, ConnectError> {
        let mut shared = self.shared.lock().await;
        if let Some(sender) = shared.as_ref()
            && !sender.is_closed()
        {
            return Ok(sender.clone());
        }
        let stream = dial(address, limit).await?;
        let (sender, connection) = http2::Builder::new(Spawner)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ConnectError::Handshake(address, error))?;
        telemetry::spawn("upstream http2", async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "HTTP/2 connection to an instance ended");
            }
        });
        *shared = Some(sender.clone());
        Ok(sender)
    }
}

/// Starts what an HTTP/2 connection needs beside itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spawner;

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        telemetry::spawn("http2", future);
    }
}

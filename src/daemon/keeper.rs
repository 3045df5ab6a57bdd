//! Carries out what the core decided for one instance, in order, and reports back. One task per instance: starting can
//! take minutes and must hold nobody else up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::catalog::Catalog;
use super::clock::Clock;
use super::driver::Message;
use super::guard::Guards;
use crate::activation::Fact;
use crate::failure::Phase;
use crate::id::{ComponentName, InstanceId};
use crate::model::Component;
use crate::model::component::Singleton;
use crate::node::Input;
use crate::proxy::Forwarder;
use crate::runtime::logs::LogBook;
use crate::runtime::{InstanceSpec, Progress, Runtime, RuntimeError, probe};
use crate::telemetry;

/// Orders that may wait for one keeper. The core gives the next order only after the last was answered, except for a
/// stop, so two would do.
const ORDERS: usize = 8;

/// How many of an instance's last lines go into the answer when it fails: enough for the end of a stack trace.
pub(crate) const LAST_LINES: usize = 20;

/// The grace of an instance that never became ready, or whose component is gone: it holds no event.
const SHORT_GRACE: Duration = Duration::from_secs(2);

/// An instance that is being created cannot be stopped yet. The call that creates it has an end of its own, which is a
/// minute at most.
const CLEAR_AGAIN: Duration = Duration::from_millis(250);
const CLEAR_TRIES: u32 = 300;

/// What a keeper can be told.
#[derive(Debug)]
pub(crate) enum Order {
    Start {
        component: Arc<Component>,
        fingerprint: String,
    },
    Watch {
        component: Arc<Component>,
        address: SocketAddr,
    },
    Freeze,
    Thaw,
    /// With the definition that says how, if there is still one.
    Stop(Option<Arc<Component>>),
}

/// What all keepers share.
#[derive(Debug)]
pub(crate) struct Workshop {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) logs: Arc<LogBook>,
    pub(crate) forwarder: Arc<Forwarder>,
    pub(crate) messages: mpsc::Sender<Message>,
    pub(crate) guards: Arc<Guards>,
}

impl Workshop {
    /// Reports a fact; waits for room, for a fact must not get lost.
    pub(crate) async fn report(&self, id: &InstanceId, fact: Fact) {
        // Closed means that the daemon is leaving.
        let _ = self.messages.send(Message::Input(Input::Component(id.component(), fact))).await;
    }

    /// One health check, outside the keeper: a slow one must not hold a thaw up.
    pub(crate) fn check(self: &Arc<Self>, id: InstanceId, component: Arc<Component>, address: SocketAddr) {
        let workshop = Arc::clone(self);
        telemetry::spawn("health check", async move {
            let result = probe::check(address, &component.health).await.map_err(|error| error.to_string());
            workshop.report(&id, Fact::Checked(id.clone(), result)).await;
        });
    }

    pub(crate) fn note(&self, component: &ComponentName, instance: Option<&InstanceId>, text: &str) {
        match instance {
            Some(instance) => {
                tracing::info!(%instance, "{text}");
                self.logs.system(Clock::wall(), instance, text);
            }
            None => tracing::info!(%component, "{text}"),
        }
    }

    pub(crate) fn forget(&self, id: &InstanceId) {
        self.forwarder.pool().forget(id);
        self.guards.end(id);
    }

    /// Answers `done` when all these keepers have carried out their orders.
    pub(crate) fn finish(&self, keepers: impl IntoIterator<Item = Keeper>, done: oneshot::Sender<()>) {
        let tasks: Vec<_> = keepers.into_iter().map(|keeper| keeper.task).collect();
        telemetry::spawn("stop all", async move {
            for task in tasks {
                // A keeper that panicked has been logged by the spawner.
                let _ = task.await;
            }
            let _ = done.send(());
        });
    }

    /// The last lines of an instance for a failure's answer.
    pub(crate) fn last_lines(&self, id: &InstanceId) -> Vec<String> {
        self.logs.last_lines(id, LAST_LINES)
    }
}

/// Handle to the task of one instance. Dropped, the task finishes the orders it has and ends.
#[derive(Debug)]
pub(crate) struct Keeper {
    orders: mpsc::Sender<Order>,
    abandoned: CancellationToken,
    task: JoinHandle<()>,
}

impl Keeper {
    pub(crate) fn start(id: InstanceId, workshop: Arc<Workshop>) -> Self {
        let (orders, receiver) = mpsc::channel(ORDERS);
        let abandoned = CancellationToken::new();
        let work = Work { id, workshop, abandoned: abandoned.clone() };
        let task = telemetry::spawn("keeper", work.run(receiver));
        Self { orders, abandoned, task }
    }

    pub(crate) fn order(&self, order: Order) {
        if let Err(error) = self.orders.try_send(order) {
            tracing::error!(%error, "an order was lost: a keeper is stuck");
        }
    }

    /// Ends the wait for readiness; what runs is stopped without a report.
    pub(crate) fn abandon(&self) {
        self.abandoned.cancel();
    }
}

struct Work {
    id: InstanceId,
    workshop: Arc<Workshop>,
    abandoned: CancellationToken,
}

impl Work {
    async fn run(self, mut orders: mpsc::Receiver<Order>) {
        while let Some(order) = orders.recv().await {
            match order {
                Order::Start { component, fingerprint } => self.start(component, fingerprint).await,
                Order::Watch { component, address } => self.watch(&component, address, component.start_timeout).await,
                Order::Freeze => {
                    let result = self.workshop.runtime.freeze(&self.id).await.map_err(|error| error.reason);
                    self.report(Fact::Frozen(self.id.clone(), result)).await;
                }
                Order::Thaw => {
                    let result = self.workshop.runtime.thaw(&self.id).await.map_err(|error| error.reason);
                    self.report(Fact::Thawed(self.id.clone(), result)).await;
                }
                Order::Stop(component) => {
                    let result = match &component {
                        Some(component) => self.stop(&component.stop.signal, component.stop.grace).await,
                        None => self.stop("SIGTERM", SHORT_GRACE).await,
                    };
                    self.report(Fact::Stopped(self.id.clone(), result.map_err(|error| error.reason))).await;
                }
            }
        }
    }

    async fn start(&self, component: Arc<Component>, fingerprint: String) {
        // Never older than what the fingerprint covers; if it is newer, the next fingerprint replaces this instance.
        let cfg = match self.workshop.catalog.hand_out(&component) {
            Ok(cfg) => cfg,
            Err(reason) => return self.start_failed(Phase::Start, reason).await,
        };
        if component.singleton == Singleton::Strict
            && let Err(error) = self.workshop.guards.begin(&self.id)
        {
            return self.start_failed(Phase::Start, format!("a strict singleton needs a guard: {error}")).await;
        }
        let spec = InstanceSpec { id: self.id.clone(), component: Arc::clone(&component), version: fingerprint, cfg };
        // On a task of its own: a panic in a runtime must not leave the core waiting for an answer.
        let (runtime, progress) = (Arc::clone(&self.workshop.runtime), self.progress());
        let mut starting = telemetry::spawn("start", async move { runtime.start(&spec, progress).await });
        let started = tokio::select! {
            biased;
            () = self.abandoned.cancelled() => {
                // A runtime whose caller goes away begins nothing more, and clears away what it has begun.
                starting.abort();
                // What is in the middle of a step goes on to its end, and is there to be stopped only then.
                let _ = (&mut starting).await;
                return self.clear().await;
            }
            started = &mut starting => started,
        };
        let started = match started {
            Ok(Ok(started)) => started,
            Ok(Err(error)) => return self.start_failed(error.phase, error.reason).await,
            Err(_) => return self.start_failed(Phase::Start, "the runtime failed, see the daemon's log".into()).await,
        };
        self.report(Fact::Started(self.id.clone(), started.address, started.handle)).await;
        self.watch(&component, started.address, component.start_timeout).await;
    }

    /// Waits for readiness and reports it, or stops what does not become ready.
    async fn watch(&self, component: &Component, address: SocketAddr, limit: Duration) {
        let ready = tokio::select! {
            biased;
            () = self.abandoned.cancelled() => None,
            ready = probe::wait_ready(address, &component.health, limit) => Some(ready),
        };
        match ready {
            Some(Ok(())) => self.report(Fact::Ready(self.id.clone())).await,
            Some(Err(error)) => {
                // The core answers with an order to stop it.
                self.start_failed(Phase::Ready, error.to_string()).await;
            }
            None => self.clear().await,
        }
    }

    /// Stops what is there of it, also what is just being made. An order to stop finds nothing left, which is fine.
    async fn clear(&self) {
        for _ in 0..CLEAR_TRIES {
            match self.stop("SIGTERM", SHORT_GRACE).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(instance = %self.id, %error, "not cleared away yet"),
            }
            tokio::time::sleep(CLEAR_AGAIN).await;
        }
        tracing::warn!(instance = %self.id, "could not clear an instance away");
    }

    async fn start_failed(&self, phase: Phase, reason: String) {
        let log = self.workshop.last_lines(&self.id);
        self.report(Fact::StartFailed { id: self.id.clone(), phase, reason, log }).await;
    }

    async fn stop(&self, signal: &str, grace: Duration) -> Result<(), RuntimeError> {
        self.workshop.runtime.stop(&self.id, signal, grace).await
    }

    async fn report(&self, fact: Fact) {
        self.workshop.report(&self.id, fact).await;
    }

    /// Tells the core when the phase changes; the bytes of a pull are for the log only.
    fn progress(&self) -> crate::runtime::OnProgress {
        let (id, workshop) = (self.id.clone(), Arc::clone(&self.workshop));
        let pulling = AtomicBool::new(false);
        Arc::new(move |progress| {
            let fact = match progress {
                Progress::Pulling(..) if pulling.swap(true, Ordering::Relaxed) => return,
                Progress::Pulling(..) => Fact::Pulling(id.clone()),
                Progress::Creating => Fact::Creating(id.clone()),
            };
            // Progress is for people: one report less does no harm.
            let _ = workshop.messages.try_send(Message::Input(Input::Component(id.component(), fact)));
        })
    }
}

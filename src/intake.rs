//! Where the data plane gets a slot for an event: at once from a live instance, or from the core, which holds the
//! event and starts what is missing.
//!
//! Knows nothing of HTTP. The daemon implements [`Intake`]; tests implement it with a fixed instance.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::failure::Failure;
use crate::id::{ComponentName, InstanceId, NodeId};
use crate::model::Component;
use crate::slots::{Gate, Slots};
use crate::time::Mono;

/// An event that wants a slot.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The component's live instances.
    pub gate: Arc<Gate>,
    /// Its definition.
    pub component: Arc<Component>,
    /// When the event is no longer worth anything.
    pub deadline: Mono,
    /// Bytes that the event holds in memory while it waits, for the queue's bound.
    pub bytes: u64,
    /// It is not sent elsewhere: it was, at as many nodes as may be asked.
    pub stays: bool,
}

/// Where an event should go that found no free slot on this node at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It waits here.
    Here,
    /// To this node.
    There(NodeId),
}

/// The core as the data plane sees it.
pub trait Intake: fmt::Debug + Send + Sync + 'static {
    /// The monotonic clock.
    fn now(&self) -> Mono;

    /// Random bits for the choice of an instance.
    fn random(&self) -> u64;

    /// Waits for a slot in the component's queue; raises demand. Dropping the future gives the place up.
    ///
    /// # Errors
    /// Queue full, deadline passed, start failed, draining.
    fn wait(&self, ask: Ask) -> Pin<Box<dyn Future<Output = Result<Arc<Slots>, Failure>> + Send + '_>>;

    /// This node, if it is one of several.
    fn node(&self) -> Option<NodeId> {
        None
    }

    /// Which node should take an event for this component that found no free slot here. `avoid`: nodes that were tried
    /// for this event already. `is_sent`: the core said that it is better off elsewhere.
    fn way(&self, component: &ComponentName, avoid: &[NodeId], is_sent: bool) -> Way {
        let _ = (component, avoid, is_sent);
        Way::Here
    }

    /// An event that the core sent elsewhere is done, or given up.
    fn returned(&self, component: &ComponentName) {
        let _ = component;
    }

    /// A slot was given back while others wait for one.
    fn freed(&self, component: &ComponentName);

    /// The instance does not accept connections although it should: check its health now.
    fn suspect(&self, instance: &InstanceId, reason: &str);
}

/// An event that the core sent elsewhere ([`Failure::Elsewhere`]), until dropped.
#[derive(Debug)]
pub struct Away {
    core: Arc<dyn Intake>,
    component: ComponentName,
}

impl Away {
    /// From the answer of the core on.
    pub fn begin(core: &Arc<dyn Intake>, component: &ComponentName) -> Self {
        Self { core: Arc::clone(core), component: component.clone() }
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        self.core.returned(&self.component);
    }
}

/// A slot of an instance, held until dropped. Hold it until the last byte of the answer.
#[derive(Debug)]
pub struct Lease {
    slots: Arc<Slots>,
    gate: Arc<Gate>,
    core: Arc<dyn Intake>,
}

impl Lease {
    /// Gets a slot: the warm path takes no lock and no turn of the core's loop.
    ///
    /// # Errors
    /// As [`Intake::wait`].
    pub async fn get(core: &Arc<dyn Intake>, ask: Ask) -> Result<Self, Failure> {
        let gate = Arc::clone(&ask.gate);
        let slots = match gate.try_claim(core.random()) {
            Some(slots) => slots,
            None => core.wait(ask).await?,
        };
        Ok(Self { slots, gate, core: Arc::clone(core) })
    }

    /// Gets a slot if one is free at once.
    pub fn try_get(core: &Arc<dyn Intake>, gate: &Arc<Gate>) -> Option<Self> {
        let slots = gate.try_claim(core.random())?;
        Some(Self { slots, gate: Arc::clone(gate), core: Arc::clone(core) })
    }

    /// Gets a slot of an instance that is not in `avoid`, if one is free at once; else as [`Lease::get`], which may
    /// answer with an avoided instance. For a new try after an instance refused the event.
    ///
    /// # Errors
    /// As [`Intake::wait`].
    pub async fn get_elsewhere(core: &Arc<dyn Intake>, ask: Ask, avoid: &[InstanceId]) -> Result<Self, Failure> {
        let live = ask.gate.live();
        let other = live.iter().find(|slots| !avoid.contains(&slots.instance) && slots.try_claim()).map(Arc::clone);
        match other {
            Some(slots) => Ok(Self { slots, gate: ask.gate, core: Arc::clone(core) }),
            None => Self::get(core, ask).await,
        }
    }

    /// The instance that holds the slot.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.slots.release(self.core.now());
        if self.gate.waiting() > 0 || self.slots.is_closed() {
            self.core.freed(&self.gate.component);
        }
    }
}

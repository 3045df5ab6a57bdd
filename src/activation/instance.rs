//! One instance as the core sees it: where it is in its life, and since when.

use std::net::SocketAddr;
use std::sync::Arc;

use super::leave::Leave;
use crate::failure::Phase;
use crate::id::InstanceId;
use crate::model::Component;
use crate::model::instance::InstanceState;
use crate::slots::{Born, Slots};
use crate::time::{Mono, Now, Wall};

/// Where an instance is in its life, with what each step needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Being started; the phase says how far it is.
    Starting(Phase),
    /// Takes events.
    Ready,
    /// Being frozen; `wake` if an event asked for it meanwhile.
    Freezing {
        /// Thaw as soon as it is frozen.
        wake: bool,
    },
    /// Frozen.
    Frozen,
    /// Being thawed.
    Thawing,
    /// Finishes what it has, at most until then.
    Draining {
        /// When it is stopped in any case.
        until: Mono,
    },
    /// Asked to stop.
    Stopping,
}

/// One instance.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: InstanceId,
    /// The definition that it was started with.
    pub(super) component: Arc<Component>,
    pub(super) fingerprint: String,
    pub(super) state: State,
    pub(super) born: Born,
    pub(super) started_at: Wall,
    pub(super) address: Option<SocketAddr>,
    pub(super) handle: String,
    /// There once it is ready.
    pub(super) slots: Option<Arc<Slots>>,
    /// Health checks failed in a row.
    pub(super) failures: u32,
    pub(super) checking: bool,
    pub(super) next_check: Mono,
    /// Freezing it failed once: it stays warm.
    pub(super) unfreezable: bool,
    /// Why it goes, once that is decided.
    pub(super) leave: Option<Leave>,
}

impl Instance {
    pub(super) fn starting(id: InstanceId, component: Arc<Component>, fingerprint: String, now: Now) -> Self {
        Self {
            id,
            component,
            fingerprint,
            state: State::Starting(Phase::Start),
            born: Born { asked: now.mono, pulled: now.mono, started: now.mono, ready: now.mono },
            started_at: now.wall,
            address: None,
            handle: String::new(),
            slots: None,
            failures: 0,
            checking: false,
            next_check: now.mono,
            unfreezable: false,
            leave: None,
        }
    }

    /// Whether it counts as there or coming for new events.
    pub(super) fn is_awake(&self) -> bool {
        matches!(self.state, State::Starting(_) | State::Ready | State::Thawing | State::Freezing { wake: true })
    }

    /// Whether it is on its way out.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.state, State::Draining { .. } | State::Stopping)
    }

    /// Whether its health checks failed too often.
    pub(super) fn is_sick(&self) -> bool {
        self.failures >= self.component.health.failures.get()
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.slots.as_ref().map_or(0, |slots| slots.in_flight())
    }

    /// When it was last in use; its readiness counts as use.
    pub(super) fn last_used(&self) -> Mono {
        self.slots.as_ref().map_or(self.born.ready, |slots| slots.last_release())
    }

    /// What people see of the state.
    pub(super) fn shown(&self) -> InstanceState {
        match self.state {
            State::Starting(Phase::Pull) => InstanceState::Pulling,
            State::Starting(_) => InstanceState::Starting,
            State::Ready => InstanceState::Ready,
            State::Freezing { .. } | State::Frozen | State::Thawing => InstanceState::Frozen,
            State::Draining { .. } => InstanceState::Draining,
            State::Stopping => InstanceState::Stopping,
        }
    }
}

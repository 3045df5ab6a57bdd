//! The part of a component's document that says whether it may run twice.
//!
//! Knows nothing of nodes or of how it is seen to.

use crate::model::component::RestartOrder;
use crate::model::reader::{Errors, Object};

/// Whether a component may run twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Singleton {
    /// As often as wanted.
    #[default]
    No,
    /// Once is wanted. Two may run for a moment while a node is torn off or an instance is replaced.
    BestEffort,
    /// Never twice: it runs only with the consent of more than half of the known nodes, and the next one starts only when
    /// the last one is known to be gone.
    Strict,
}

impl Singleton {
    /// The word in documents; none if it may run as often as wanted.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::No => None,
            Self::BestEffort => Some("best-effort"),
            Self::Strict => Some("strict"),
        }
    }
}

/// Reads the field, and refuses what cannot be had beside it.
pub(super) fn read(top: &Object<'_>, restart: RestartOrder, e: &mut Errors) -> Singleton {
    let kinds = [Singleton::Strict, Singleton::BestEffort];
    let kinds = kinds.map(|kind| (kind.name().unwrap_or_default(), kind));
    let singleton = top.get("singleton").one_of(&kinds, e).unwrap_or_default();
    let order = top.get("restart");
    if singleton == Singleton::Strict && order.is_given() && restart == RestartOrder::StartFirst {
        order.refuse(e, "would run a strict singleton twice while it is replaced", RestartOrder::StopFirst.name());
    }
    singleton
}

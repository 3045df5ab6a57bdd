//! The part of a component's document that says how a change of it is carried out.
//!
//! Knows nothing of nodes or instances.

use std::time::Duration;

use crate::model::component::defaults as d;
use crate::model::reader::{Errors, Field};

/// Fields of `rollout`.
pub(super) const ROLLOUT: &[&str] = &["order", "rollback", "deadline"];

/// How a change is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rollout {
    /// In which order over the nodes.
    pub order: RolloutOrder,
    /// Whether a definition that fails is taken back.
    pub rollback: bool,
    /// From the first start of a new definition until one of its instances is ready; then it has failed.
    pub deadline: Duration,
}

impl Default for Rollout {
    fn default() -> Self {
        Self { order: RolloutOrder::default(), rollback: true, deadline: d::ROLLOUT_DEADLINE }
    }
}

/// The order over the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RolloutOrder {
    /// All at once.
    Parallel,
    /// One after the other.
    Series,
    /// One, and when it works all others at once: a broken definition is met by one node, and a good one needs the time
    /// of two starts on any number of nodes.
    #[default]
    SeriesFirst,
}

impl RolloutOrder {
    /// The word in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Parallel => "parallel",
            Self::Series => "series",
            Self::SeriesFirst => "series-first",
        }
    }
}

/// An object, or the order alone.
pub(super) fn read(field: &Field<'_>, e: &mut Errors) -> Rollout {
    let orders = [RolloutOrder::Parallel, RolloutOrder::Series, RolloutOrder::SeriesFirst];
    let orders = orders.map(|order| (order.name(), order));
    let mut rollout = Rollout::default();
    if !field.is_object() {
        rollout.order = field.one_of(&orders, e).unwrap_or_default();
    } else if let Some(object) = field.object(ROLLOUT, e) {
        rollout.order = object.get("order").one_of(&orders, e).unwrap_or_default();
        rollout.rollback = object.get("rollback").flag(e).unwrap_or(rollout.rollback);
        let deadline = object.get("deadline").duration(d::TIMEOUT_MIN..=d::TIMEOUT_MAX, e);
        rollout.deadline = deadline.unwrap_or(rollout.deadline);
    }
    rollout
}

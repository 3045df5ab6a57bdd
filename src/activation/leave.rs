//! Why an instance goes, and what people are told of its end.
//!
//! Decides nothing.

use std::fmt;
use std::time::Duration;

use super::instance::{Instance, State};
use super::{Activation, Effect};
use crate::id::ComponentName;
use crate::model::happening::What;

/// Why an instance goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Leave {
    /// Its component was removed.
    Removed,
    /// Others of the definition in force take over.
    Replaced,
    /// The same, because its health checks fail.
    Sick,
    /// There is no memory for its successor beside it.
    NoRoomBeside,
    /// The plan has it elsewhere.
    Elsewhere,
    /// Nothing is to be left on its node.
    NodeEmptied,
    /// Fewer are enough.
    LowDemand,
    /// Nobody wanted anything of it for so long.
    Unused(Duration),
    /// The same, and another component needs its memory.
    Evicted(Duration, ComponentName),
    /// It could not be thawed.
    Unthawable(String),
    /// It is a strict singleton, and too few nodes consent to it.
    NoConsent,
}

impl Leave {
    /// Whether it goes because its place is on another node.
    pub(super) fn is_move(&self) -> bool {
        matches!(self, Self::Elsewhere | Self::NodeEmptied)
    }
}

impl fmt::Display for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removed => f.write_str("component removed"),
            Self::Replaced => f.write_str("replaced by the definition in force"),
            Self::Sick => f.write_str("replaced, its health checks fail"),
            Self::NoRoomBeside => f.write_str("there is no memory for its successor beside it"),
            Self::Elsewhere => f.write_str("its place is on another node"),
            Self::NodeEmptied => f.write_str("its node is to be empty"),
            Self::LowDemand => f.write_str("demand is low"),
            Self::Unused(unused) => write!(f, "unused for {unused:.0?}"),
            Self::Evicted(unused, by) => write!(f, "unused for {unused:.0?}, and {by} needs its memory"),
            Self::Unthawable(reason) => write!(f, "it could not be thawed: {reason}"),
            Self::NoConsent => f.write_str(
                "a strict singleton runs only with the consent of more than half of the nodes, and too few of them have \
                 answered",
            ),
        }
    }
}

impl Activation {
    /// Tells of an instance that was stopped. Of one whose start failed all has been said.
    pub(super) fn gone(&self, instance: &Instance, out: &mut Vec<Effect>) {
        let why = match &instance.leave {
            Some(why) => why.to_string(),
            None if self.draining => "its node stops".to_owned(),
            None => return,
        };
        out.push(Effect::Note(Some(instance.id.clone()), Some(What::Stopped), format!("stopped: {why}")));
    }

    /// Tells of an instance that ended: as it was to, or by itself.
    pub(super) fn ended(&self, instance: &Instance, how: &str, log: &[String], out: &mut Vec<Effect>) {
        // At a stop of the daemon instances are ended past this core.
        if self.draining || instance.is_leaving() {
            return self.gone(instance, out);
        }
        let last = log.iter().rev().find(|line| !line.trim().is_empty());
        let last = last.map(|line| format!("; its last line: {}", line.trim())).unwrap_or_default();
        let (what, when) = match matches!(instance.state, State::Starting(_)) {
            true => (What::Failed, " before it was ready"),
            false => (What::Crashed, ""),
        };
        out.push(Effect::Note(Some(instance.id.clone()), Some(what), format!("{how}{when}{last}")));
    }
}

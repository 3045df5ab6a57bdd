//! How long a member is suspected before it is given up: shorter the more others say the same (Lifeguard).
//!
//! Every member that hears of a suspicion keeps its own, so that one whose accuser dies ends all the same.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Options, Peer};
use crate::id::NodeId;
use crate::time::Mono;

/// A member that somebody could not reach.
#[derive(Debug, Clone)]
pub(super) struct Suspicion {
    pub(super) peer: Peer,
    pub(super) incarnation: u16,
    pub(super) since: Mono,
    pub(super) accusers: BTreeSet<NodeId>,
}

/// How many accusers make the wait as short as it gets: Lifeguard's k.
const ENOUGH: usize = 3;

impl Suspicion {
    /// When it is given up.
    pub(super) fn due(&self, options: &Options, alive: usize) -> Mono {
        // In a cluster of three only one other can confirm.
        let enough = ENOUGH.min(alive.saturating_sub(1)).max(1);
        let share = match self.accusers.len().min(enough) {
            accusers if accusers == enough => 1.0,
            accusers => ((accusers as f64).max(1.0)).ln() / ((enough as f64) + f64::EPSILON).ln().max(f64::EPSILON),
        };
        let spread = options.suspicion_max.saturating_sub(options.suspicion_min);
        let wait = options.suspicion_max.saturating_sub(spread.mul_f64(share.clamp(0.0, 1.0)));
        self.since.after(wait.max(Duration::ZERO) + options.slack())
    }
}

/// A member of which the transport says that it is gone; a packet from it before `due` says otherwise.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doubt {
    pub(super) peer: Peer,
    pub(super) due: Mono,
}

//! Who may fire a planned time that must not be fired twice: whoever a majority of the known nodes grants it.
//!
//! A node grants a planned time of a schedule only if it is later than all that it granted before, and makes that durable
//! before it answers; so it grants each at most once, in all its lives. Two majorities of the same nodes share one, so at
//! most one claim of a planned time succeeds. Where the known nodes differ, two majorities may share none: a node that
//! joined one side of a partition counts there and is not known on the other.

use crate::time::Wall;

/// Whether a node grants a planned time, given the latest that it granted of this schedule.
pub fn may_grant(granted: Option<Wall>, planned: Wall) -> bool {
    granted.is_none_or(|granted| planned > granted)
}

/// How many grants are needed where so many nodes are known, the claimant among them.
pub fn majority(known: usize) -> usize {
    known / 2 + 1
}

//! Who sends a new row to whom: a tree that every node computes alone from the origin and the members it believes alive.
//!
//! Views may differ for a moment; whom that leaves out, the next comparison repairs. Knows no row.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::crdt::replica::frame::Blob;
use crate::id::NodeId;
use crate::time::Mono;

/// How many pushes are remembered, to know a copy when it comes. At 1,000 changes a second a copy that is 0.25 s late
/// still counts as one; a later one is sent on once more and changes nothing.
const RECENT_MAX: usize = 256;

/// How many bytes of rows are remembered for the children of a relay that turns out to be gone.
const RECENT_BYTES: usize = 4 << 20;

/// How long a push is of use to them; by then the repair has been there.
const RECENT_FOR: Duration = Duration::from_secs(5);

/// To whom `node` sends what `origin` wrote. `members` has both.
pub(super) fn children(
    origin: NodeId,
    node: NodeId,
    members: &BTreeSet<NodeId>,
    flat: usize,
    fan_out: usize,
) -> Vec<NodeId> {
    let members: Vec<NodeId> = members.iter().copied().collect();
    let count = members.len();
    if count <= flat {
        return if node == origin { members.into_iter().filter(|to| *to != node).collect() } else { Vec::new() };
    }
    // Places are counted from the origin around the ring of ids, so that each origin loads other relays.
    let (Ok(start), Ok(own)) = (members.binary_search(&origin), members.binary_search(&node)) else {
        return Vec::new();
    };
    let place = (own + count - start) % count;
    let first = place * fan_out + 1;
    (first..(first + fan_out).min(count)).filter_map(|place| members.get((start + place) % count)).copied().collect()
}

#[derive(Debug)]
struct Push {
    id: u64,
    at: Mono,
    origin: NodeId,
    depth: u8,
    rows: Blob,
}

/// The pushes of the last moments.
#[derive(Debug, Default)]
pub(super) struct Recent {
    pushes: VecDeque<Push>,
    bytes: usize,
}

impl Recent {
    pub(super) fn knows(&self, id: u64) -> bool {
        self.pushes.iter().any(|push| push.id == id)
    }

    pub(super) fn add(&mut self, now: Mono, id: u64, origin: NodeId, depth: u8, rows: &Blob, keep_rows: bool) {
        let rows = if keep_rows { rows.clone() } else { Blob::default() };
        self.bytes += rows.0.len();
        self.pushes.push_back(Push { id, at: now, origin, depth, rows });
        while self.pushes.len() > RECENT_MAX || self.bytes > RECENT_BYTES {
            let Some(old) = self.pushes.pop_front() else { break };
            self.bytes -= old.rows.0.len();
        }
    }

    /// What may not have come through a relay that is gone: origin, id, depth and rows.
    pub(super) fn since(&self, now: Mono) -> impl Iterator<Item = (NodeId, u64, u8, &Blob)> {
        let fresh = self.pushes.iter().filter(move |push| now.since(push.at) <= RECENT_FOR && !push.rows.0.is_empty());
        fresh.map(|push| (push.origin, push.id, push.depth, &push.rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_gets_one_copy_in_few_steps_whatever_the_number_of_members() {
        for count in [1_u64, 2, 3, 32, 33, 50, 1000] {
            let members: BTreeSet<NodeId> = (0..count).map(|n| NodeId(n * 7919 % 104_729)).collect();
            let origin = *members.iter().nth(count as usize / 3).expect("a member");
            let (mut reached, mut steps) = (vec![origin], 0);
            let mut last = vec![origin];
            while !last.is_empty() {
                last = last.iter().flat_map(|node| children(origin, *node, &members, 32, 8)).collect();
                reached.extend(&last);
                steps += usize::from(!last.is_empty());
            }
            assert_eq!(reached.len(), members.len(), "each once");
            assert_eq!(reached.into_iter().collect::<BTreeSet<_>>(), members);
            assert!(steps <= 4, "{count}: {steps}");
        }
    }
}

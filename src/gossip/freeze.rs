//! Notices that many members vanish at once, which is a broken network more often than that many deaths.
//!
//! Only a flag: what is not done while it is set is for others to know.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::NodeId;
use crate::time::Mono;

/// Losses within this time count as one: the longest suspicion and the spread of its verdict, doubled.
const WINDOW: Duration = Duration::from_secs(5);

/// After this the lost members are taken for lost.
const GIVE_UP: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(super) struct Freeze {
    lost: BTreeMap<NodeId, Mono>,
    since: Option<Mono>,
}

impl Freeze {
    pub(super) fn is_frozen(&self) -> bool {
        self.since.is_some()
    }

    pub(super) fn due(&self) -> Option<Mono> {
        self.since.map(|since| since.after(GIVE_UP))
    }

    /// A member was lost, of so many others that were alive before; true if the cluster freezes now.
    pub(super) fn lost(&mut self, node: NodeId, before: usize, now: Mono) -> bool {
        if self.since.is_none() {
            self.lost.retain(|_, at| now.since(*at) <= WINDOW);
        }
        // Those alive before this one went, and those that went before it, and this node.
        let all = before + self.lost.len() + 1;
        self.lost.insert(node, now);
        let freezes = self.since.is_none() && self.lost.len() > 1 && self.lost.len() * 3 > all;
        if freezes {
            self.since = Some(now);
        }
        freezes
    }

    /// A member is there again; true if the cluster is no longer frozen.
    pub(super) fn back(&mut self, node: NodeId) -> bool {
        let was = self.lost.remove(&node).is_some();
        let thaws = was && self.lost.is_empty() && self.since.is_some();
        if thaws {
            self.since = None;
        }
        thaws
    }

    /// Some(false) if the lost members are given up now.
    pub(super) fn handle_timeout(&mut self, now: Mono) -> Option<bool> {
        if self.due()? > now {
            return None;
        }
        self.lost.clear();
        self.since = None;
        Some(false)
    }
}

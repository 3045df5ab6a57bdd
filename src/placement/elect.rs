//! Who looks after what: the owner of a component's count, and who polls a queue or fires a schedule.
//!
//! One node each, the first in the order of a [`Key`] among those that can act, so that all agree without a word. While
//! views differ two nodes may believe to be elected: counts are absolute and the later one wins, and what must not happen
//! twice needs a claim or a drained hand-over besides.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use crate::id::{ComponentName, NodeId, SourceName};

use super::rendezvous::{Key, elected};
use super::view::{Duty, Node};

/// Who sums up the demand for a component and writes its wanted count. It is the node that the first instance would
/// be placed on if all could hold it, so that most of the demand is its own. Where no node is on duty, one of those that
/// are there still decides.
pub fn owner(component: &ComponentName, nodes: &BTreeMap<NodeId, Node>) -> Option<NodeId> {
    let key = Key::component(component);
    elected(&key, on_duty(nodes)).or_else(|| elected(&key, able(nodes)))
}

/// Who polls this slot of an event source, or fires this schedule. A node that drains, or has only just begun and is
/// therefore cordoned, is not elected; where no other is there, nobody is.
pub fn poller(source: &SourceName, slot: u32, nodes: &BTreeMap<NodeId, Node>) -> Option<NodeId> {
    elected(&Key::slot(source, slot), on_duty(nodes))
}

pub(super) fn on_duty(nodes: &BTreeMap<NodeId, Node>) -> impl Iterator<Item = (NodeId, NonZeroU32)> {
    let on_duty = nodes.iter().filter(|(_, node)| node.presence.can_act() && node.duty == Duty::Active);
    on_duty.map(|(id, node)| (*id, node.weight))
}

pub(super) fn able(nodes: &BTreeMap<NodeId, Node>) -> impl Iterator<Item = (NodeId, NonZeroU32)> {
    nodes.iter().filter(|(_, node)| node.presence.can_act()).map(|(id, node)| (*id, node.weight))
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use crate::placement::Presence;

    #[test]
    fn a_slot_moves_only_when_its_poller_goes_or_a_better_one_comes() {
        let mut nodes: BTreeMap<_, _> = (0..10).map(|n| (NodeId(n), samples::node(n, 1024))).collect();
        let source: SourceName = "orders".parse().expect("a name");
        let all = |nodes: &BTreeMap<_, _>| (0..200).map(|slot| poller(&source, slot, nodes)).collect::<Vec<_>>();
        let before = all(&nodes);
        let change: [fn(&mut Node); 4] = [
            |node| node.presence = Presence::Down,
            |node| node.presence = Presence::Missing,
            |node| node.duty = Duty::Draining,
            |node| node.duty = Duty::Cordoned,
        ];
        for change in change {
            let gone = NodeId(3);
            change(nodes.get_mut(&gone).expect("a node"));
            for (was, is) in before.iter().zip(all(&nodes)) {
                assert!(if *was == Some(gone) { is.is_some() && is != *was } else { is == *was });
            }
            nodes.insert(gone, samples::node(3, 1024));
            assert_eq!(all(&nodes), before);
        }
        nodes.get_mut(&NodeId(3)).expect("a node").presence = Presence::Suspect;
        assert_eq!(all(&nodes), before, "a suspicion moves nothing");
    }

    #[test]
    fn a_cluster_that_drains_has_owners_but_no_pollers() {
        let mut nodes: BTreeMap<_, _> = (0..3).map(|n| (NodeId(n), samples::node(n, 1024))).collect();
        let first = owner(&samples::name(1), &nodes).expect("an owner");
        nodes.values_mut().for_each(|node| node.duty = Duty::Draining);
        assert_eq!(owner(&samples::name(1), &nodes), Some(first));
        assert_eq!(poller(&"orders".parse().expect("a name"), 0, &nodes), None);
        nodes.get_mut(&first).expect("a node").presence = Presence::Down;
        assert!(owner(&samples::name(1), &nodes).is_some_and(|next| next != first));
        assert_eq!(owner(&samples::name(1), &BTreeMap::new()), None);
    }
}

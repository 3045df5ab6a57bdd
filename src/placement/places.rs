//! A snapshot of the nodes and of what is planned on each, for the choice that cannot wait for a plan: where the first
//! instance of a component starts.

use std::collections::BTreeMap;

use super::planner::{Needs, Planner};
use super::rendezvous::{Key, Share, elected};
use super::view::{Duty, Node};
use crate::id::{ComponentName, NodeId};

/// Nodes that a sentence names: more nobody reads.
const NAMED: usize = 3;

/// See the head of this file.
#[derive(Debug, Clone, Default)]
pub struct Places(BTreeMap<NodeId, Place>);

#[derive(Debug, Clone)]
struct Place {
    node: Node,
    share: Share,
    /// Bytes that what is planned there reserves.
    load: u64,
    /// Above it others are preferred.
    limit: u64,
}

impl Places {
    pub(super) fn of(planner: &Planner) -> Self {
        let place = |(id, node): (NodeId, &Node)| {
            let (load, limit) = planner.load(id).unwrap_or_default();
            (id, Place { node: node.clone(), share: Share::of(node.weight), load, limit })
        };
        Self(planner.nodes().map(place).collect())
    }

    /// The node where the first instance belongs: what the rule of [`super::planner`] would say if it were planned last,
    /// the same on all nodes that have heard the same. Where the plan leaves no room, one that might make some: an unused
    /// instance goes for an event that waits. None if no node can hold one, or all of them are in `avoid`.
    pub fn first(&self, component: &ComponentName, needs: &Needs<'_>, avoid: &[NodeId]) -> Option<NodeId> {
        let key = Key::component(component);
        let can = |id: &NodeId, place: &Place| {
            place.node.presence.can_act() && needs.misfit(&place.node).is_none() && !avoid.contains(id)
        };
        let order = |(id, place): (&NodeId, &Place)| {
            let is_full = place.load.saturating_add(needs.reserve) > place.node.capacity;
            (is_full, place.load >= place.limit.max(1), key.cost(*id, place.share), *id)
        };
        let able = self.0.iter().filter(|(id, place)| can(id, place));
        able.map(order).min().map(|(.., id)| id)
    }

    /// Whether this node could hold an instance at all; true for one that is not known yet.
    pub fn fits(&self, node: NodeId, needs: &Needs<'_>) -> bool {
        self.0.get(&node).is_none_or(|place| needs.misfit(&place.node).is_none())
    }

    /// Why no node could hold one, as a sentence about some of them.
    pub fn why_nowhere(&self, needs: &Needs<'_>) -> String {
        let misfits = self.0.values().filter(|place| place.node.presence.can_act());
        let mut words: Vec<String> = misfits
            .filter_map(|place| Some(format!("node {} {}", place.node.name, needs.misfit(&place.node)?)))
            .collect();
        let more = words.len().saturating_sub(NAMED);
        words.truncate(NAMED);
        if more > 0 {
            words.push(format!("and so on for {more} more"));
        }
        words.join(", ")
    }

    /// Who counts for a component, and does once what is to be done once.
    pub fn owner(&self, component: &ComponentName) -> Option<NodeId> {
        let acts = |duty: Option<Duty>| {
            let nodes = self.0.iter().filter(move |(_, place)| {
                place.node.presence.can_act() && duty.is_none_or(|duty| place.node.duty == duty)
            });
            elected(&Key::component(component), nodes.map(|(id, place)| (*id, place.node.weight)))
        };
        acts(Some(Duty::Active)).or_else(|| acts(None))
    }

    /// Whether a node is known and takes new work.
    pub fn takes_work(&self, node: NodeId) -> bool {
        self.0.get(&node).is_some_and(|place| place.node.presence.can_act() && place.node.duty != Duty::Draining)
    }
}

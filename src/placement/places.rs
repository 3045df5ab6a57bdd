//! A snapshot of the nodes and of what is planned on each, for the choice that cannot wait for a plan: where the first
//! instance of a component starts.

use std::collections::BTreeMap;

use super::planner::Planner;
use super::rendezvous::{Key, Share, elected};
use super::view::{Constraint, Duty, Engine, Node};
use crate::id::{ComponentName, NodeId};

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
    /// the same on all nodes that have heard the same. None if no node can hold one, or all of them are in `avoid`.
    pub fn first(
        &self,
        component: &ComponentName,
        (engine, constraints, reserve): (Engine, &[Constraint], u64),
        avoid: &[NodeId],
    ) -> Option<NodeId> {
        let key = Key::component(component);
        let can = |id: &NodeId, place: &Place| {
            let Place { node, load, .. } = place;
            node.presence.can_act()
                && node.duty == Duty::Active
                && node.engines.contains(&engine)
                && constraints.iter().all(|constraint| constraint.is_met(&node.labels))
                && load.saturating_add(reserve) <= node.capacity
                && !avoid.contains(id)
        };
        let able = self.0.iter().filter(|(id, place)| can(id, place));
        able.map(|(id, place)| (place.load >= place.limit.max(1), key.cost(*id, place.share), *id))
            .min()
            .map(|(_, _, id)| id)
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

//! Nodes, components and whole random clusters for the tests of placement.

use std::num::NonZeroU32;

use crate::id::{ComponentName, NodeId};
use crate::rng::Rng;

use super::scale::Because;
use super::view::{Constraint, Duty, Engine, Node, Presence, Singleton, View, Want};

pub(super) const MIB: u64 = 1 << 20;

pub(super) fn name(index: u64) -> ComponentName {
    format!("component-{index}").parse().expect("a name")
}

/// A node on duty that runs everything, weighted by its memory.
pub(super) fn node(index: u64, mib: u32) -> Node {
    Node {
        name: format!("node-{index}").parse().expect("a name"),
        presence: Presence::Alive,
        duty: Duty::Active,
        capacity: u64::from(mib) * MIB,
        weight: NonZeroU32::new(mib).expect("some memory"),
        labels: [("zone".to_owned(), if index.is_multiple_of(2) { "a" } else { "b" }.to_owned())].into(),
        engines: [Engine::Docker, Engine::Process].into(),
    }
}

/// A component without any condition.
pub(super) fn want(wanted: u32, mib: u64) -> Want {
    Want {
        wanted,
        because: Because::Minimum,
        reserve: mib * MIB,
        max_per_node: NonZeroU32::new(10).expect("not zero"),
        engine: Engine::Process,
        constraints: Vec::new(),
        singleton: Singleton::No,
    }
}

/// Nodes of this memory, and components that want one to three instances of usual sizes.
pub(super) fn cluster(nodes: u64, mib: u32, components: u64, rng: &mut Rng) -> View {
    let sizes = [64, 128, 128, 256, 512];
    View {
        nodes: (0..nodes).map(|n| (NodeId(rng.next_u64()), node(n, mib))).collect(),
        wants: (0..components)
            .map(|c| (name(c), want(1 + rng.below(3) as u32, sizes[rng.below(5) as usize])))
            .collect(),
        majority: true,
    }
}

/// A node that may have any trouble, and little memory.
pub(super) fn odd_node(index: u64, rng: &mut Rng) -> Node {
    let mut node = node(index, 64 << rng.below(6));
    if rng.below(4) == 0 {
        node.weight = NonZeroU32::new(1 + rng.below(5000) as u32).expect("not zero");
    }
    node.presence = match rng.below(12) {
        0 => Presence::Down,
        1 => Presence::Left,
        2 => Presence::Missing,
        3 => Presence::Suspect,
        _ => Presence::Alive,
    };
    node.duty = match rng.below(12) {
        0 => Duty::Draining,
        1 => Duty::Cordoned,
        _ => Duty::Active,
    };
    if rng.below(6) == 0 {
        node.engines.remove(&Engine::Docker);
    }
    if rng.below(6) == 0 {
        node.labels.clear();
    }
    node
}

/// A component that may have any condition.
pub(super) fn odd_want(rng: &mut Rng) -> Want {
    let mut want = want(rng.below(7) as u32, [0, 1, 16, 64, 64, 128, 300, 1024][rng.below(8) as usize]);
    want.max_per_node = NonZeroU32::new(1 + rng.below(4) as u32).expect("not zero");
    if rng.below(3) == 0 {
        want.engine = Engine::Docker;
    }
    if rng.below(4) == 0 {
        want.constraints = vec![Constraint { key: "zone".into(), value: "a".into(), equal: rng.below(2) == 0 }];
    }
    want.singleton = match rng.below(10) {
        0 => Singleton::Strict,
        1 => Singleton::BestEffort,
        _ => Singleton::No,
    };
    want
}

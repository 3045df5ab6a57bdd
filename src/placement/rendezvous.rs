//! Weighted rendezvous hashing: every key puts all nodes into an order of its own, in which a node of twice the weight
//! comes first twice as often. A node that is lost or added changes nobody's order but its own place in it.
//!
//! Each pair of key and node has a cost: a number with an exponential distribution, drawn by hashing, divided by the
//! node's weight. The cheapest node is first; of equal costs the lower node id is first. All of it is integer
//! arithmetic, so that every machine gives the same answer: the logarithm of a C library may differ in the last bit.
//!
//! Knows nothing of memory, components or sources: a key is a hash, a node an id and a weight.

use std::num::NonZeroU32;

use crate::hash::Hash64;
use crate::id::{ComponentName, NodeId, SourceName};

/// Intervals of the table of logarithms. Between two entries a line is drawn, which is wrong by at most one part in
/// 2,000: less than what a thousand nodes can tell from chance.
const STEPS: usize = 1024;

/// Bits behind the point of a logarithm: the whole part is at most 64, and two more bits make the cost fit.
const POINT: u32 = 56;

/// `1 - log2(1 + i / STEPS)`: from 1 down to 0.
static LOG: [u64; STEPS + 1] = logarithms();

const fn logarithms() -> [u64; STEPS + 1] {
    let mut table = [0; STEPS + 1];
    let mut step = 0;
    while step < STEPS {
        // Squaring doubles a logarithm: whenever the square passes 2, the next bit is 1.
        let mut x = (1_u128 << 63) + ((step as u128) << 63) / STEPS as u128;
        let mut log = 0_u64;
        let mut bit = POINT;
        while bit > 0 {
            bit -= 1;
            x = (x * x) >> 63;
            if x >> 64 != 0 {
                x >>= 1;
                log |= 1 << bit;
            }
        }
        table[step] = (1 << POINT) - log;
        step += 1;
    }
    table
}

/// `-log2(hash / 2^64)`, with [`POINT`] bits behind the point. Never falls when the hash falls.
fn minus_log2(hash: u64) -> u64 {
    let hash = hash.max(1);
    let zeros = hash.leading_zeros();
    let digits = (hash << zeros) << 1;
    let step = (digits >> (64 - STEPS.ilog2())) as usize;
    let part = u128::from(digits << STEPS.ilog2());
    let fall = (u128::from(LOG[step] - LOG[step + 1]) * part) >> 64;
    (u64::from(zeros) << POINT) + LOG[step] - u64::try_from(fall).unwrap_or(0)
}

/// What is placed or elected, as a hash of its name.
#[derive(Debug, Clone)]
pub struct Key(Hash64);

impl Key {
    /// Of a component: where its instances are, and who decides how many.
    #[must_use]
    pub fn component(name: &ComponentName) -> Self {
        let mut hash = Hash64::default();
        hash.bytes(name.as_str().as_bytes());
        Self(hash)
    }

    /// Of one of the slots of an event source: who polls the queue or fires the schedule.
    #[must_use]
    pub fn slot(source: &SourceName, slot: u32) -> Self {
        let mut hash = Hash64::default();
        hash.bytes(source.as_str().as_bytes());
        // A component of the same name has another key: its hash ends before this word.
        hash.word(u64::from(slot));
        Self(hash)
    }

    /// Low is preferred; never 0.
    pub(super) fn cost(&self, node: NodeId, share: Share) -> u64 {
        let mut hash = self.0.clone();
        hash.word(node.0);
        let cost = (u128::from(minus_log2(hash.finish())) * u128::from(share.0)) >> (POINT + 6);
        u64::try_from(cost).unwrap_or(u64::MAX).max(1)
    }
}

/// The reciprocal of a weight: a multiplication per cost instead of a division.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share(u64);

impl Share {
    pub(super) fn of(weight: NonZeroU32) -> Self {
        Self(u64::MAX / u64::from(weight.get()))
    }
}

/// The first node in the order of this key; none if there is no node.
pub fn elected(key: &Key, nodes: impl IntoIterator<Item = (NodeId, NonZeroU32)>) -> Option<NodeId> {
    nodes.into_iter().map(|(node, weight)| (key.cost(node, Share::of(weight)), node)).min().map(|(_, node)| node)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The nodes in the order of this key, the preferred one first.
    fn ranked(key: &Key, nodes: impl IntoIterator<Item = (NodeId, NonZeroU32)>) -> Vec<NodeId> {
        let mut order: Vec<_> =
            nodes.into_iter().map(|(node, weight)| (key.cost(node, Share::of(weight)), node)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, node)| node).collect()
    }

    fn name(index: u32) -> ComponentName {
        format!("component-{index}").parse().expect("a name")
    }

    fn weight(of: u32) -> NonZeroU32 {
        NonZeroU32::new(of).expect("a weight")
    }

    #[test]
    fn the_logarithm_is_right_to_one_part_in_two_thousand_and_never_falls() {
        let mut last = u64::MAX;
        for power in 0..64 {
            for step in 0..5000_u64 {
                let hash = (1 << power) + ((u128::from(step) << power) / 5000) as u64;
                let log = minus_log2(hash);
                assert!(power < 13 || log <= last, "{hash}");
                last = log;
                let right = 64.0 - (hash as f64).log2();
                let error = (log as f64 / (1_u64 << POINT) as f64 - right).abs();
                assert!(error <= right / 2000.0 + 1e-9, "{hash}: {error} of {right}");
            }
        }
    }

    #[test]
    fn a_cost_of_an_earlier_release_is_still_the_same() {
        // Nodes of two releases in one cluster must agree.
        let cost = |node, of| Key::component(&name(1)).cost(NodeId(node), Share::of(weight(of)));
        let costs = (cost(1, 1), cost(2, 65_536), cost(u64::MAX, 3));
        assert_eq!(costs, (599_653_100_249_120_903, 3_196_707_206_701, 51_667_560_087_931_311));
    }

    #[test]
    fn a_node_is_first_as_often_as_its_weight_says() {
        let nodes: Vec<_> = (0..10).map(|n| (NodeId(n), weight(if n < 5 { 1024 } else { 3072 }))).collect();
        let mut first = BTreeMap::new();
        for index in 0..100_000 {
            *first.entry(elected(&Key::component(&name(index)), nodes.clone()).expect("a node")).or_insert(0_u32) += 1;
        }
        for (node, count) in first {
            let fair = if node.0 < 5 { 5_000.0 } else { 15_000.0 };
            // Four standard deviations.
            assert!((f64::from(count) - fair).abs() < 4.0 * f64::sqrt(fair), "{node}: {count}");
        }
    }

    #[test]
    fn without_a_node_the_others_keep_their_order() {
        let nodes: Vec<_> = (0..20).map(|n| (NodeId(n * 7), weight(1 + n as u32))).collect();
        for index in 0..200 {
            let key = Key::component(&name(index));
            let all = ranked(&key, nodes.clone());
            assert_eq!(elected(&key, nodes.clone()), all.first().copied());
            let rest = ranked(&key, nodes.iter().copied().filter(|(node, _)| *node != all[0]));
            assert_eq!(rest, all[1..]);
        }
    }

    #[test]
    fn slots_of_one_source_are_elected_apart() {
        let nodes: Vec<_> = (0..8).map(|n| (NodeId(n), weight(1))).collect();
        let source: SourceName = "orders".parse().expect("a name");
        let owners: Vec<_> = (0..64).map(|slot| elected(&Key::slot(&source, slot), nodes.clone())).collect();
        for (node, _) in &nodes {
            assert!(owners.contains(&Some(*node)), "{node} polls nothing of 64 slots");
        }
        assert_eq!(elected(&Key::slot(&source, 0), []), None);
    }
}

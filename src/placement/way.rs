//! Which node takes an event that found no free slot on the node where it came in.
//!
//! Every node decides for itself, from what the others said of themselves a moment ago; all of them choose alike where
//! nothing runs yet, so that events that come in everywhere at once start one instance and not one on each node. A wrong
//! guess costs one hop: the node that was chosen holds the event, or refuses and the next one is asked.
//!
//! Knows nothing of requests, connections or time.

use crate::id::NodeId;

/// What another node has for it, as it said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct There {
    /// Which.
    pub node: NodeId,
    /// Instances that take events.
    pub ready: u32,
    /// Instances that start or are frozen.
    pub coming: u32,
    /// Slots of the ready ones.
    pub slots: u32,
    /// Events that they have, and that wait there.
    pub load: u32,
}

impl There {
    fn has_room(&self) -> bool {
        self.ready > 0 && self.load < self.slots
    }

    /// Whether its load is the smaller share of its slots.
    fn is_freer_than(&self, other: &Self) -> bool {
        u64::from(self.load) * u64::from(other.slots.max(1)) < u64::from(other.load) * u64::from(self.slots.max(1))
    }
}

/// Who takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// This node: it holds the event, and starts what is missing.
    Here,
    /// Another.
    There(NodeId),
}

/// Chooses. `here`: instances that this node has, ready, coming or frozen. `first` is the node where a first instance
/// would start, this one included; it is asked only where nothing runs or comes. Nodes that were tried for the event
/// already are not among them.
/// `is_sent`: it waited here, and is better off elsewhere.
pub fn choose(
    me: NodeId,
    here: u32,
    there: &[There],
    is_sent: bool,
    random: u64,
    first: impl FnOnce() -> Option<NodeId>,
) -> Choice {
    let free: Vec<&There> = there.iter().filter(|there| there.has_room()).collect();
    if let Some(best) = better_of_two(&free, random) {
        return Choice::There(best.node);
    }
    if is_sent {
        // What this node sends there makes it look full; only where some wait it is.
        let open: Vec<&There> = there.iter().filter(|there| there.ready > 0 && there.load <= there.slots).collect();
        if let Some(best) = better_of_two(&open, random) {
            return Choice::There(best.node);
        }
    }
    // Where others wait as well: how many instances there are to be is decided by what waits anywhere, and who waits is
    // told when there is room elsewhere.
    if here > 0 {
        return Choice::Here;
    }
    let busy: Vec<&There> = there.iter().filter(|there| there.ready + there.coming > 0).collect();
    if let Some(best) = better_of_two(&busy, random) {
        return Choice::There(best.node);
    }
    match first() {
        Some(node) if node != me => Choice::There(node),
        Some(_) | None => Choice::Here,
    }
}

/// The freer of two drawn by chance: nearly as even as the freest of all, and what was said a moment ago does not send
/// everybody to the same node.
fn better_of_two<'a>(of: &[&'a There], random: u64) -> Option<&'a There> {
    let count = of.len();
    let first = of.get((random & 0xffff_ffff) as usize % count.max(1))?;
    if count == 1 {
        return Some(first);
    }
    let step = 1 + (random >> 32) as usize % (count - 1);
    let second = of.get(((random & 0xffff_ffff) as usize + step) % count)?;
    Some(if second.is_freer_than(first) { second } else { first })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);

    fn there(node: u64, ready: u32, coming: u32, load: u32) -> There {
        There { node: NodeId(node), ready, coming, slots: ready * 10, load }
    }

    fn choose_alone(here: u32, others: &[There], first: u64) -> Choice {
        let choices =
            (0..8).map(|random| choose(ME, here, others, false, random << 32 | random, || Some(NodeId(first))));
        let choices: Vec<Choice> = choices.collect();
        assert!(choices.windows(2).all(|pair| pair[0] == pair[1]), "chance decides nothing here: {choices:?}");
        choices[0]
    }

    #[test]
    fn where_nothing_runs_all_choose_the_first_in_rank() {
        assert_eq!(choose_alone(0, &[], 1), Choice::Here);
        assert_eq!(choose_alone(0, &[], 2), Choice::There(NodeId(2)));
        assert_eq!(choose(ME, 0, &[], false, 0, || None), Choice::Here, "nobody can: this node says why");
    }

    #[test]
    fn an_instance_that_runs_or_comes_somewhere_is_not_started_a_second_time() {
        assert_eq!(choose_alone(0, &[there(3, 1, 0, 2)], 1), Choice::There(NodeId(3)));
        assert_eq!(choose_alone(0, &[there(3, 1, 0, 10)], 1), Choice::There(NodeId(3)));
        assert_eq!(choose_alone(0, &[there(3, 0, 1, 4)], 1), Choice::There(NodeId(3)));
        assert_eq!(choose_alone(0, &[there(3, 0, 0, 0)], 1), Choice::Here);
    }

    #[test]
    fn an_event_goes_where_there_is_room_and_else_waits_where_instances_are() {
        assert_eq!(choose_alone(1, &[there(3, 1, 0, 9)], 2), Choice::There(NodeId(3)));
        assert_eq!(choose_alone(1, &[there(3, 1, 0, 10)], 2), Choice::Here);
        assert_eq!(choose_alone(1, &[], 2), Choice::Here);
        let sent = |load| choose(ME, 1, &[there(3, 1, 0, load)], true, 0, || None);
        assert_eq!((sent(10), sent(11)), (Choice::There(NodeId(3)), Choice::Here), "it is full when some wait");
    }

    #[test]
    fn of_two_with_room_the_freer_one_is_taken_and_a_full_one_never() {
        let others = [there(2, 2, 0, 15), there(3, 1, 0, 3), there(4, 1, 0, 10)];
        for random in 0..1000_u64 {
            let random = random.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let choice = choose(ME, 0, &others, false, random, || None);
            assert_eq!(choice, Choice::There(NodeId(3)), "both with room are always drawn");
        }
    }
}

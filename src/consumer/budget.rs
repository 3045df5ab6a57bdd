//! How the slots of one poller are divided over the queues of a source, which are read in the order of their names.
//!
//! Knows nothing of queues but what they use.

use super::CALL_MAX;

/// What one queue has of the slots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    /// Messages that wait or are at the component.
    pub held: usize,
    /// Messages that a receive under way may bring.
    pub asked: usize,
    /// Whether its last receive brought all that was asked for.
    pub is_busy: bool,
}

/// How many slots each queue may have, the most important queue first. A busy queue takes all that is free, and those
/// behind it get none; the others share what is free, one receive's worth each at most, so that each is asked while
/// nothing is busy. Together they never get more than `total`, except what they already have.
pub fn divide(total: usize, queues: &[Use]) -> Vec<usize> {
    let used: usize = queues.iter().map(|queue| queue.held + queue.asked).sum();
    let mut free = total.saturating_sub(used);
    let mut limits = Vec::with_capacity(queues.len());
    let mut is_closed = false;
    for (index, queue) in queues.iter().enumerate() {
        let behind = queues.len() - index - 1;
        let more = match queue {
            _ if is_closed => 0,
            Use { is_busy: true, .. } => free,
            // The last has nobody to share with.
            _ if behind == 0 => free,
            // It is being asked.
            Use { asked: 1.., .. } => 0,
            Use { .. } => free.div_ceil(behind + 1).min(CALL_MAX),
        };
        is_closed |= queue.is_busy;
        free -= more;
        limits.push(queue.held + queue.asked + more);
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(held: usize, asked: usize, is_busy: bool) -> Use {
        Use { held, asked, is_busy }
    }

    #[test]
    fn one_queue_gets_everything() {
        assert_eq!(divide(7, &[queue(0, 0, false)]), [7]);
        assert_eq!(divide(7, &[queue(3, 2, true)]), [7]);
        assert_eq!(divide(2, &[queue(3, 2, true)]), [5], "what it has it keeps");
    }

    #[test]
    fn a_busy_queue_goes_before_those_behind_it() {
        assert_eq!(divide(20, &[queue(5, 0, true), queue(0, 0, false), queue(3, 0, true)]), [17, 0, 3]);
        assert_eq!(divide(20, &[queue(0, 10, false), queue(5, 0, true)]), [10, 10]);
    }

    #[test]
    fn idle_queues_are_all_asked_as_long_as_there_is_a_slot_for_each() {
        assert_eq!(divide(3, &[Use::default(); 3]), [1, 1, 1]);
        assert_eq!(divide(2, &[Use::default(); 3]), [1, 1, 0], "the first first");
        assert_eq!(divide(100, &[Use::default(); 3]), [10, 10, 80]);
    }

    #[test]
    fn never_more_is_given_than_there_is() {
        let mut rng = crate::rng::Rng::from_seed(4);
        for _ in 0..10_000 {
            let total = usize::try_from(rng.below(60)).expect("small");
            let mut some = |bound| usize::try_from(rng.below(bound)).expect("small");
            let queues: Vec<Use> = (0..some(6) + 1).map(|_| queue(some(9), some(9), some(2) == 0)).collect();
            let limits = divide(total, &queues);
            let used: usize = queues.iter().map(|queue| queue.held + queue.asked).sum();
            assert!(limits.iter().sum::<usize>() <= total.max(used), "{total} {queues:?} {limits:?}");
            assert!(limits.iter().zip(&queues).all(|(limit, queue)| *limit >= queue.held + queue.asked));
        }
    }
}

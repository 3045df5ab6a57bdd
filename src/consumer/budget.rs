//! How the slots of one poller are divided over the queues of a source, which are read in the order of their names.
//!
//! Knows nothing of queues but what they use.

use super::CALL_MAX;
use crate::time::Mono;

/// What one queue has of the slots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    /// Messages that wait or are at the component.
    pub held: usize,
    /// Messages that a receive under way may bring.
    pub asked: usize,
    /// Whether its last receive brought all that was asked for.
    pub is_busy: bool,
    /// When it was asked last.
    pub last: Mono,
}

/// How many slots each queue may have, the most important queue first. A busy queue takes all that is free, and those
/// behind it get none. The others share what is free, one receive's worth each at most; if it is not enough for each,
/// who was asked longest ago goes first. Together they never get more than `total`, except what they already have.
pub fn divide(total: usize, queues: &[Use]) -> Vec<usize> {
    let used: usize = queues.iter().map(|queue| queue.held + queue.asked).sum();
    let mut free = total.saturating_sub(used);
    let mut limits: Vec<usize> = queues.iter().map(|queue| queue.held + queue.asked).collect();
    let busy = queues.iter().position(|queue| queue.is_busy);
    let before = &queues[..busy.unwrap_or(queues.len())];
    let mut idle: Vec<(Mono, usize)> = before
        .iter()
        .enumerate()
        .filter(|(_, queue)| queue.asked == 0)
        .map(|(index, queue)| (queue.last, index))
        .collect();
    idle.sort_unstable();
    for (rank, (_, index)) in idle.iter().enumerate() {
        let sharers = idle.len() - rank + usize::from(busy.is_some());
        let more = if sharers == 1 && queues.len() == 1 { free } else { free.div_ceil(sharers).min(CALL_MAX) };
        free -= more;
        limits[*index] += more;
    }
    if let Some(busy) = busy {
        limits[busy] += free;
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(held: usize, asked: usize, is_busy: bool) -> Use {
        Use { held, asked, is_busy, last: Mono(0) }
    }

    #[test]
    fn one_queue_gets_everything() {
        assert_eq!(divide(70, &[queue(0, 0, false)]), [70]);
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
        assert_eq!(divide(100, &[Use::default(); 3]), [10, 10, 10]);
    }

    #[test]
    fn with_too_few_slots_who_was_asked_longest_ago_goes_first() {
        let mut queues = [Use::default(); 3];
        let mut asked = Vec::new();
        for turn in 1..=6 {
            let limits = divide(1, &queues);
            let next = limits.iter().position(|limit| *limit == 1).expect("one is asked");
            queues[next].last = Mono(turn);
            asked.push(next);
        }
        assert_eq!(asked, [0, 1, 2, 0, 1, 2]);
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

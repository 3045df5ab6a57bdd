//! Whether a new definition works, or has to be taken back: a function of what was seen of it so far.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::rollout::revisions::{Outcome, Revision, Revisions, Why};

/// How long an instance must have served for its definition to be healthy: as long as an instance must live for its end
/// not to count as a failed start.
const PROVEN: Duration = Duration::from_secs(10);

/// Failed starts after which a definition is given up: one may be chance, two one cause that has passed. With the pauses
/// between starts, a program that exits at once is given up after about a second.
const FAILED_STARTS: u32 = 3;

/// What was seen of the definition in force.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// For how long it has been tried: since its first instance or failed start.
    pub tried: Duration,
    /// For how long one of its instances has been ready; none if none is.
    pub ready: Option<Duration>,
    /// Its failed starts on all nodes.
    pub failures: u32,
    /// Why the last one failed.
    pub problem: Option<String>,
    /// The fingerprints of which instances serve at this moment.
    pub serving: BTreeSet<String>,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is known what became of it.
    Settled,
    /// Too early to say.
    Open,
    /// It works.
    Healthy,
    /// It does not.
    Failed {
        /// Why.
        problem: String,
        /// The revision to go back to, if that is wanted and there is one that worked.
        back_to: Option<u32>,
    },
}

/// Judges revision `number`, which is in force. A rollback that fails is not rolled back again.
pub fn judge(all: &Revisions, number: u32, seen: &Seen, deadline: Duration, may_roll_back: bool) -> Verdict {
    let Some(revision) = all.get(number) else { return Verdict::Open };
    if revision.is_healthy() {
        return Verdict::Settled;
    }
    if let Some(ready) = seen.ready {
        return if ready >= PROVEN { Verdict::Healthy } else { Verdict::Open };
    }
    if is_failed(revision) {
        return Verdict::Settled;
    }
    let why = seen.problem.clone();
    let problem = if seen.failures >= FAILED_STARTS {
        format!("{} starts failed: {}", seen.failures, why.unwrap_or_else(|| "nobody knows why".to_owned()))
    } else if seen.tried >= deadline {
        let late = format!("not ready within {}", crate::model::units::format_duration(deadline));
        why.map_or_else(|| late.clone(), |why| format!("{late}: {why}"))
    } else {
        return Verdict::Open;
    };
    let may = may_roll_back && !matches!(revision.why, Why::Rollback { .. });
    let back_to = all.good_before(number, &seen.serving).filter(|_| may).map(|good| good.number);
    Verdict::Failed { problem, back_to }
}

fn is_failed(revision: &Revision) -> bool {
    matches!(revision.outcome, Some(Outcome::Failed { .. }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::time::Wall;

    const DEADLINE: Duration = Duration::from_secs(60);

    /// Two definitions, of which the first served.
    fn two() -> Revisions {
        let mut all = Revisions::first("a".into(), Wall(1));
        all.mark(1, Outcome::Healthy);
        all.push(("a", &json!({})), "b".into(), Wall(2), Why::Put, json!({}));
        all
    }

    fn seen(tried: u64, ready: Option<u64>, failures: u32) -> Seen {
        let problem = (failures > 0).then(|| "exited with code 1".to_owned());
        let (tried, ready) = (Duration::from_secs(tried), ready.map(Duration::from_secs));
        Seen { tried, ready, failures, problem, serving: BTreeSet::new() }
    }

    fn verdict(all: &Revisions, number: u32, seen: &Seen) -> Verdict {
        judge(all, number, seen, DEADLINE, true)
    }

    #[test]
    fn what_has_served_for_a_while_is_healthy_and_before_that_nothing_is_said() {
        assert_eq!(verdict(&two(), 2, &seen(5, None, 0)), Verdict::Open);
        assert_eq!(verdict(&two(), 2, &seen(15, Some(9), 0)), Verdict::Open);
        assert_eq!(verdict(&two(), 2, &seen(15, Some(10), 2)), Verdict::Healthy);
        assert_eq!(verdict(&two(), 1, &seen(999, None, 9)), Verdict::Settled, "it worked once: that is another matter");
    }

    #[test]
    fn three_failed_starts_or_the_deadline_take_it_back_to_what_served() {
        assert_eq!(verdict(&two(), 2, &seen(1, None, 2)), Verdict::Open);
        let problem = "3 starts failed: exited with code 1".to_owned();
        assert_eq!(verdict(&two(), 2, &seen(1, None, 3)), Verdict::Failed { problem, back_to: Some(1) });
        let problem = "not ready within 1m".to_owned();
        assert_eq!(verdict(&two(), 2, &seen(60, None, 0)), Verdict::Failed { problem, back_to: Some(1) });
        let problem = "not ready within 1m: exited with code 1".to_owned();
        assert_eq!(verdict(&two(), 2, &seen(60, None, 1)), Verdict::Failed { problem, back_to: Some(1) });
    }

    #[test]
    fn nothing_is_taken_back_where_nothing_served_or_nobody_wants_it() {
        let mut all = two();
        let failed = |verdict: Verdict| match verdict {
            Verdict::Failed { back_to, .. } => back_to,
            other @ (Verdict::Settled | Verdict::Open | Verdict::Healthy) => panic!("{other:?}"),
        };
        assert_eq!(failed(judge(&all, 2, &seen(1, None, 3), DEADLINE, false)), None);
        let alone = Revisions::first("a".into(), Wall(1));
        assert_eq!(failed(verdict(&alone, 1, &seen(1, None, 3))), None);
        let back = Why::Rollback { of: 2, to: 1, problem: "x".into() };
        all.push(("b", &json!({})), "a".into(), Wall(3), back, json!({}));
        assert_eq!(failed(verdict(&all, 3, &seen(1, None, 3))), None, "a rollback is not rolled back");
    }

    #[test]
    fn what_serves_at_this_moment_is_good_enough_to_go_back_to() {
        let mut all = Revisions::first("a".into(), Wall(1));
        all.push(("a", &json!({})), "b".into(), Wall(2), Why::Put, json!({}));
        let back_to = |seen: &Seen| match verdict(&all, 2, seen) {
            Verdict::Failed { back_to, .. } => back_to,
            other @ (Verdict::Settled | Verdict::Open | Verdict::Healthy) => panic!("{other:?}"),
        };
        let failed = seen(1, None, 3);
        assert_eq!(back_to(&failed), None);
        assert_eq!(back_to(&Seen { serving: ["a".to_owned()].into(), ..failed }), Some(1));
    }

    #[test]
    fn a_failure_is_said_once_and_what_serves_after_all_is_healthy() {
        let mut all = two();
        all.mark(2, Outcome::Failed { problem: "x".into() });
        assert_eq!(verdict(&all, 2, &seen(99, None, 9)), Verdict::Settled);
        assert_eq!(verdict(&all, 2, &seen(99, Some(10), 9)), Verdict::Healthy);
    }
}

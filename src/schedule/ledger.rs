//! What the cluster knows of the runs of one schedule: up to which planned time all is decided, what is under way, and
//! how the last runs ended. One row of the registry, written by whoever fires.
//!
//! Copies that were written at the same moment are joined: nothing decided is undone, no end is lost. Knows no clock and
//! decides nothing; `runs` does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::model::schedule::rfc3339;
use crate::time::Wall;

/// Ended runs that are kept, of those that went well and of the others each: a day of an hourly job nearly, and small
/// enough to be sent to all nodes with every run.
pub const KEPT: usize = 20;

/// Bytes of output that are kept of all runs together, newest first: a row stays below 20 KiB.
const OUTPUT_TOTAL: usize = 8 * 1024;

/// Bytes that are kept of one run's output.
pub const OUTPUT_MAX: usize = 1024;

/// Characters that are kept of why a run did not go well: some lines of a terminal.
const PROBLEM_MAX: usize = 400;

/// The longest row in bytes; a register holds eight of them and 64 KiB are the most for one.
const BYTES_MAX: usize = 48 * 1024;

/// Runs under way at most, those that wait among them; what comes then is skipped.
pub const OPEN_MAX: usize = 64;

/// Which run: a planned time, or a moment at which somebody asked for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId {
    /// The planned time.
    pub planned: Wall,
    /// Somebody asked for it.
    pub is_manual: bool,
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by_hand = if self.is_manual { "-manual" } else { "" };
        write!(f, "{}{by_hand}", rfc3339(self.planned))
    }
}

/// Why a run was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Its time had come.
    Schedule,
    /// Somebody asked for it.
    Manual,
    /// Its time had passed while nobody could fire.
    CatchUp,
    /// An attempt before it failed or was lost.
    Retry,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Schedule => "schedule",
            Self::Manual => "manual",
            Self::CatchUp => "catch-up",
            Self::Retry => "retry",
        })
    }
}

/// How an attempt ended. In this order: where copies disagree, the later one holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The node that had it is gone; the component may have handled it.
    Lost,
    /// It was not begun.
    Skipped,
    /// It was given up for a later one.
    Replaced,
    /// No answer of the component in time, or one that is none of 2xx.
    Failed,
    /// 2xx.
    Ok,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lost => "lost",
            Self::Skipped => "skipped",
            Self::Replaced => "replaced",
            Self::Failed => "failed",
            Self::Ok => "ok",
        })
    }
}

/// One life of a node's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holder {
    /// The node.
    pub node: NodeId,
    /// When its process began: grows with every start.
    pub life: u64,
}

/// A run that is not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    planned: Wall,
    #[serde(default, skip_serializing_if = "is_false")]
    is_manual: bool,
    /// Counts from 1.
    pub attempt: u32,
    /// Why it is begun.
    pub cause: Cause,
    /// It is not begun before.
    pub due: Wall,
    /// Who carries it out, and since when; none while it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<(Holder, Wall)>,
}

impl Run {
    /// One that waits until `due`.
    pub fn new(id: RunId, cause: Cause, due: Wall) -> Self {
        let RunId { planned, is_manual } = id;
        Self { planned, is_manual, attempt: 1, cause, due, held: None }
    }

    /// Which run.
    pub fn id(&self) -> RunId {
        RunId { planned: self.planned, is_manual: self.is_manual }
    }

    /// What an attempt is known by.
    pub fn key(&self) -> (RunId, u32) {
        (self.id(), self.attempt)
    }

    /// Of two copies of a run the greater one holds.
    fn rank(&self) -> (u32, Option<(Holder, Wall)>, Wall, Cause) {
        (self.attempt, self.held, self.due, self.cause)
    }

    /// Whether this process carries it out.
    pub fn is_held_by(&self, holder: Holder) -> bool {
        self.held.is_some_and(|(by, _)| by == holder)
    }
}

/// What became of an attempt. All but the status may be unknown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// The status of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<u16>,
    /// Who answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Why it did not go well, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The end of what the component answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

impl Outcome {
    /// One with a status and the reason for it.
    pub fn because(status: Status, problem: impl Into<String>) -> Self {
        let problem = problem.into().chars().take(PROBLEM_MAX).collect();
        Self { status, http: None, instance: None, problem: Some(problem), output: None }
    }
}

/// An attempt that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    planned: Wall,
    #[serde(default, skip_serializing_if = "is_false")]
    is_manual: bool,
    /// Counts from 1.
    pub attempt: u32,
    /// Why it was begun.
    pub cause: Cause,
    /// Who carried it out, and when that began; none if nobody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<(Holder, Wall)>,
    /// When that was noted.
    pub at: Wall,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Ended {
    /// The end of a run's attempt.
    pub fn new(run: &Run, at: Wall, outcome: Outcome) -> Self {
        let Run { planned, is_manual, attempt, cause, held, .. } = *run;
        Self { planned, is_manual, attempt, cause, held, at, outcome }
    }

    /// Which run.
    pub fn id(&self) -> RunId {
        RunId { planned: self.planned, is_manual: self.is_manual }
    }

    fn is_ok(&self) -> bool {
        self.outcome.status == Status::Ok
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// All that is known.
///
/// Invariant: at most one open run of an id, in the order of ids; ended attempts in the order of (id, attempt).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// Planned times up to this one are nobody's: the schedule was defined, changed or resumed then.
    #[serde(default)]
    pub since: Wall,
    /// What becomes of planned times up to this one is decided: they are open, ended or skipped.
    #[serde(default)]
    pub decided: Wall,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    open: Vec<Run>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ended: Vec<Ended>,
}

impl Ledger {
    /// Of a schedule that is new at this moment.
    pub fn begun(since: Wall) -> Self {
        Self { since, ..Self::default() }
    }

    /// Reads a row; none if this release cannot.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let read: Self = serde_json::from_slice(bytes).ok()?;
        Some(Self::merge([read]))
    }

    /// As a row. The oldest ended runs are left out until it is short enough.
    pub fn encode(&self) -> Vec<u8> {
        let mut kept = self.clone();
        loop {
            // Texts and numbers can always be written.
            let bytes = serde_json::to_vec(&kept).unwrap_or_default();
            if bytes.len() <= BYTES_MAX || kept.ended.is_empty() {
                return bytes;
            }
            kept.ended.remove(0);
        }
    }

    /// Up to where planned times are not to be looked at any more.
    pub fn floor(&self) -> Wall {
        self.since.max(self.decided)
    }

    /// What is not done, in the order of planned times.
    pub fn open(&self) -> &[Run] {
        &self.open
    }

    /// What ended, in the order of planned times.
    pub fn ended(&self) -> &[Ended] {
        &self.ended
    }

    /// The open run of an id.
    pub fn run(&self, id: RunId) -> Option<&Run> {
        self.open.iter().find(|run| run.id() == id)
    }

    /// Whether an attempt of it went well.
    pub fn is_done(&self, id: RunId) -> bool {
        self.ended.iter().any(|ended| ended.id() == id && ended.is_ok())
    }

    /// Adds a run, or puts the next attempt in the place of the last one.
    pub fn set(&mut self, run: Run) {
        match self.open.binary_search_by_key(&run.id(), Run::id) {
            Ok(at) => self.open[at] = run,
            Err(at) => self.open.insert(at, run),
        }
    }

    /// Notes the end of an attempt; the run is open no more.
    pub fn end(&mut self, run: &Run, at: Wall, outcome: Outcome) {
        self.open.retain(|open| open.id() != run.id());
        self.ended.push(Ended::new(run, at, outcome));
        self.cut();
    }

    /// Takes a run out of which another copy knows that it is done.
    pub fn drop_run(&mut self, id: RunId) {
        self.open.retain(|open| open.id() != id);
    }

    /// Joins copies that were written at the same moment.
    pub fn merge(copies: impl IntoIterator<Item = Self>) -> Self {
        let mut copies = copies.into_iter();
        let mut all = copies.next().unwrap_or_default();
        all.cut();
        for copy in copies {
            all = all.join(copy);
        }
        all
    }

    fn join(self, other: Self) -> Self {
        let open = |a: &Self, b: &Self| -> Vec<Run> {
            a.open.iter().filter(|run| b.run(run.id()).is_some() || !b.has_closed(run.id())).cloned().collect()
        };
        let mut runs: BTreeMap<RunId, Run> = BTreeMap::new();
        for run in open(&self, &other).into_iter().chain(open(&other, &self)) {
            match runs.get_mut(&run.id()) {
                Some(known) if run.rank() > known.rank() => *known = run,
                Some(_) => {}
                None => drop(runs.insert(run.id(), run)),
            }
        }
        let mut all = Self {
            since: self.since.max(other.since),
            decided: self.decided.max(other.decided),
            open: runs.into_values().collect(),
            ended: self.ended.into_iter().chain(other.ended).collect(),
        };
        all.cut();
        let ended: BTreeSet<(RunId, u32)> = all.ended.iter().map(|ended| (ended.id(), ended.attempt)).collect();
        all.open.retain(|run| ended.range(run.key()..=(run.id(), u32::MAX)).next().is_none());
        all
    }

    /// Whether this copy knew of a run that is not open here, and knows no more how it ended.
    fn has_closed(&self, id: RunId) -> bool {
        !id.is_manual && self.decided >= id.planned && !self.remembers(id.planned)
    }

    /// Whether the end of a run of this time would be among those that are kept.
    fn remembers(&self, planned: Wall) -> bool {
        [true, false].into_iter().all(|is_ok| {
            let mut kept = self.ended.iter().filter(|ended| ended.is_ok() == is_ok && !ended.is_manual);
            let oldest = kept.next().map(|ended| ended.planned);
            kept.count() + 1 < KEPT || oldest.is_none_or(|oldest| planned >= oldest)
        })
    }

    /// Brings ended attempts in order, and leaves out what is too much.
    fn cut(&mut self) {
        // Of one attempt the better outcome is first, and stays.
        self.ended.sort_by(|a, b| {
            (a.id(), a.attempt, Reverse(&a.outcome), a.at, a.held).cmp(&(
                b.id(),
                b.attempt,
                Reverse(&b.outcome),
                b.at,
                b.held,
            ))
        });
        self.ended.dedup_by_key(|ended| (ended.id(), ended.attempt));
        let mut counts: BTreeMap<(bool, bool), usize> = BTreeMap::new();
        let (mut output, mut kept) = (0, Vec::new());
        for mut ended in std::mem::take(&mut self.ended).into_iter().rev() {
            let count = counts.entry((ended.is_ok(), ended.is_manual)).or_default();
            *count += 1;
            if *count > KEPT {
                continue;
            }
            output += ended.outcome.output.as_ref().map_or(0, String::len);
            if output > OUTPUT_TOTAL {
                ended.outcome.output = None;
            }
            kept.push(ended);
        }
        kept.reverse();
        self.ended = kept;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Holder = Holder { node: NodeId(1), life: 1 };

    fn id(second: u64) -> RunId {
        RunId { planned: Wall(second * 1000), is_manual: false }
    }

    fn outcome(status: Status) -> Outcome {
        Outcome { status, http: None, instance: None, problem: None, output: None }
    }

    /// Decides, begins and ends every second of a range.
    fn ran(ledger: &mut Ledger, seconds: std::ops::Range<u64>, status: Status) {
        for second in seconds {
            let run = Run { held: Some((A, Wall(0))), ..Run::new(id(second), Cause::Schedule, Wall(0)) };
            ledger.decided = Wall(second * 1000);
            ledger.set(run.clone());
            ledger.end(&run, Wall(second * 1000 + 1), outcome(status));
        }
    }

    #[test]
    fn the_last_twenty_of_each_kind_are_kept_and_a_row_stays_small() {
        let mut ledger = Ledger::begun(Wall(5));
        ran(&mut ledger, 0..100, Status::Ok);
        ran(&mut ledger, 100..125, Status::Failed);
        assert_eq!(ledger.ended().len(), 2 * KEPT);
        assert_eq!(ledger.ended()[0].id(), id(80));
        let text = "x".repeat(OUTPUT_MAX);
        for ended in &mut ledger.ended {
            ended.outcome.output = Some(text.clone());
            ended.outcome.problem = Some("\u{1}".repeat(500));
        }
        ledger.cut();
        assert_eq!(ledger.ended().iter().filter(|ended| ended.outcome.output.is_some()).count(), 8);
        let bytes = ledger.encode();
        assert!(bytes.len() <= BYTES_MAX, "{}", bytes.len());
        let read = Ledger::parse(&bytes).expect("a ledger");
        assert_eq!((read.since, read.decided, read.ended().last()), (Wall(5), Wall(124_000), ledger.ended().last()));
    }

    #[test]
    fn an_end_that_one_copy_knows_closes_the_run_of_the_other_also_when_it_is_forgotten() {
        let mut stale = Ledger::begun(Wall(0));
        stale.decided = Wall(1000);
        stale.set(Run { held: Some((A, Wall(0))), ..Run::new(id(1), Cause::Schedule, Wall(1000)) });
        let mut fresh = stale.clone();
        let run = fresh.run(id(1)).cloned().expect("open");
        fresh.end(&run, Wall(2000), outcome(Status::Ok));
        assert_eq!(Ledger::merge([stale.clone(), fresh.clone()]).open(), []);
        ran(&mut fresh, 2..60, Status::Ok);
        assert!(!fresh.is_done(id(1)));
        assert_eq!(Ledger::merge([stale.clone(), fresh]).open(), []);
        // A copy that never heard of it does not close it.
        assert_eq!(Ledger::merge([stale.clone(), Ledger::begun(Wall(0))]).open(), stale.open());
        // Nor one that decided it otherwise and would still know.
        let mut other = Ledger::begun(Wall(0));
        ran(&mut other, 2..4, Status::Ok);
        assert_eq!(Ledger::merge([stale.clone(), other]).open(), stale.open());
    }

    #[test]
    fn of_two_ends_of_one_attempt_the_better_holds_and_a_later_attempt_stays_open() {
        let mut a = Ledger::begun(Wall(0));
        let run = Run { held: Some((A, Wall(0))), ..Run::new(id(1), Cause::Schedule, Wall(1000)) };
        a.decided = Wall(1000);
        a.set(run.clone());
        let mut b = a.clone();
        a.end(&run, Wall(3000), outcome(Status::Lost));
        a.set(Run { attempt: 2, ..Run::new(id(1), Cause::Retry, Wall(3000)) });
        b.end(&run, Wall(2000), outcome(Status::Ok));
        let both = Ledger::merge([a, b]);
        assert!(both.is_done(id(1)));
        assert_eq!(both.ended().len(), 1);
        assert_eq!(both.open().iter().map(|run| run.attempt).collect::<Vec<_>>(), [2]);
    }

    fn any_ledger() -> impl Strategy<Value = Ledger> {
        let status = prop::sample::select(vec![Status::Lost, Status::Skipped, Status::Failed, Status::Ok]);
        let step = (0u64..40, 1u32..4, any::<bool>(), any::<bool>(), prop::option::of(status), 0u64..9);
        (prop::collection::vec(step, 0..60), 0u64..9).prop_map(|(steps, since)| {
            let mut ledger = Ledger::begun(Wall(since));
            for (second, attempt, is_manual, is_held, status, at) in steps {
                let id = RunId { planned: Wall(second * 1000), is_manual };
                let held = is_held.then_some((Holder { node: NodeId(at % 3), life: at }, Wall(at)));
                let run = Run { attempt, held, ..Run::new(id, Cause::Schedule, Wall(at)) };
                ledger.decided = ledger.decided.max(Wall(second * 1000));
                match status {
                    Some(status) => ledger.end(&run, Wall(at), outcome(status)),
                    None => ledger.set(run),
                }
            }
            Ledger::merge([ledger])
        })
    }

    proptest! {
        #[test]
        fn copies_merge_in_either_order_and_twice_is_once(a in any_ledger(), b in any_ledger()) {
            let both = Ledger::merge([a.clone(), b.clone()]);
            prop_assert_eq!(&both, &Ledger::merge([b.clone(), a.clone()]));
            prop_assert_eq!(&Ledger::merge([both.clone(), both.clone()]), &both);
            prop_assert_eq!(Ledger::parse(&both.encode()), Some(both.clone()));
            prop_assert!(both.decided >= a.decided.max(b.decided));
        }
    }
}

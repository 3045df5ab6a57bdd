//! What is to be done now for one schedule: which planned times are due and which were missed, what may begin beside
//! what is under way, what is tried again and what is lost.
//!
//! All state is in the [`Ledger`], so that any node can go on where another stopped: a turn takes it, a time, and what is
//! known of the other nodes, and changes it; what it says to fire is fired once the change is durable. A planned time is
//! decided exactly once by who has seen the ledger, whatever the clock does. Knows nothing of requests.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::ledger::{Cause, Holder, KEPT, Ledger, OPEN_MAX, Outcome, Run, RunId, Status};
use super::times::Times;
use crate::hash::hash64;
use crate::id::SourceName;
use crate::model::invalid::Refusal;
use crate::model::schedule::rfc3339;
use crate::model::source::{Cron, Delivery, Missed, Overlap};
use crate::time::Wall;

/// What is not fired later than this was fired in time. Longer than a hand-over from a node that died takes (its
/// detection, a second or two, and a vote), and still what people call "at eight".
const IN_TIME: Duration = Duration::from_secs(5);

/// How long a run that somebody asked for may wait for a node that fires.
pub const MANUAL_WAIT: Duration = Duration::from_secs(60);

/// Between two looks at whether nodes that have runs are still there.
const LOOK: Duration = Duration::from_millis(500);

/// The first pause before a new try; it doubles with each.
const BACKOFF: Duration = Duration::from_secs(1);
/// And the longest.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// In which steps a missed past is searched, first; they double. A minute has sixty planned times at most.
const SEARCH: u64 = 60_000;

/// The rules of one schedule.
#[derive(Debug, Clone)]
pub struct Runs {
    times: Times,
    overlap: Overlap,
    missed: Missed,
    start_deadline: Duration,
    shift: Duration,
    retries: u32,
    delivery: Delivery,
}

/// What is to be done after a turn.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Turn {
    /// These begin now, once the ledger is durable, in this order.
    pub fire: Vec<Run>,
    /// When the next turn is due at the latest; any change of the ledger is a reason for one as well.
    pub next: Option<Wall>,
}

/// What else must be known.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// This process.
    pub me: Holder,
    /// What it carries out, of this source.
    pub mine: &'a BTreeSet<(RunId, u32)>,
    /// Whether a process is known to be gone for good.
    pub is_gone: &'a dyn Fn(Holder) -> bool,
}

impl std::fmt::Debug for Known<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").field("me", &self.me).field("mine", self.mine).finish_non_exhaustive()
    }
}

impl Runs {
    /// The rules of a definition.
    ///
    /// # Errors
    /// An expression or a zone that this release does not know.
    pub fn new(source: &SourceName, cron: &Cron) -> Result<Self, Refusal> {
        let spread = u64::try_from(cron.jitter.as_millis()).unwrap_or(u64::MAX);
        let share = (u128::from(hash64(source.as_str().as_bytes())) * u128::from(spread)) >> 64;
        Ok(Self {
            times: Times::new(cron)?,
            overlap: cron.overlap,
            missed: cron.missed,
            start_deadline: cron.start_deadline,
            shift: Duration::from_millis(u64::try_from(share).unwrap_or(spread)),
            retries: cron.retries,
            delivery: cron.delivery,
        })
    }

    /// The planned times.
    pub fn times(&self) -> &Times {
        &self.times
    }

    /// How much later than planned runs begin.
    pub fn shift(&self) -> Duration {
        self.shift
    }

    /// When the next planned time is fired, if all goes well.
    pub fn next_fire(&self, ledger: &Ledger, now: Wall) -> Option<Wall> {
        let from = ledger.floor().max(back(now, self.shift));
        self.times.after(from).map(|planned| on(planned, self.shift))
    }

    /// Does what is due. The ledger is to be made durable before anything is fired; if it did not change, nothing is.
    pub fn turn(&self, ledger: &mut Ledger, now: Wall, known: &Known<'_>) -> Turn {
        self.bury(ledger, now, known);
        self.plan(ledger, now);
        let fire = self.begin(ledger, now, known.me);
        Turn { fire, next: self.next_turn(ledger, now, known.me) }
    }

    /// Notes the end of an attempt that this process carried out, and plans the next one if it failed. `random`: a share
    /// of 2^64 for the pause.
    pub fn end(&self, ledger: &mut Ledger, run: &Run, now: Wall, outcome: Outcome, random: u64) {
        let failed = outcome.status == Status::Failed;
        if ledger.run(run.id()).is_none_or(|open| open.attempt != run.attempt) {
            // Others gave it up meanwhile, and perhaps began anew; how it ended is worth knowing all the same.
            let again = ledger.run(run.id()).cloned();
            ledger.end(run, now, outcome);
            again.into_iter().for_each(|again| ledger.set(again));
            return;
        }
        ledger.end(run, now, outcome);
        let tries = run.attempt.saturating_sub(1);
        if failed && tries < self.retries && self.delivery == Delivery::AtLeastOnce {
            let pause = BACKOFF.saturating_mul(1 << tries.min(6)).min(BACKOFF_MAX);
            // Between half of it and all.
            let half = u64::try_from(pause.as_millis() / 2).unwrap_or(0);
            let more = u64::try_from((u128::from(half) * u128::from(random)) >> 64).unwrap_or(0);
            ledger.set(next_attempt(run, on(now, Duration::from_millis(half + more))));
        }
    }

    /// Runs whose process is gone end as lost; unless that may be once too often, they begin again.
    fn bury(&self, ledger: &mut Ledger, now: Wall, known: &Known<'_>) {
        let lost = ledger.open().iter().filter(|run| match run.held {
            Some((holder, _)) if holder == known.me => !known.mine.contains(&run.key()),
            Some((holder, _)) => (known.is_gone)(holder),
            None => false,
        });
        for run in lost.cloned().collect::<Vec<_>>() {
            ledger.end(&run, now, Outcome::because(Status::Lost, "the node that carried it out is gone"));
            let is_late = now > on(run.id().planned, self.shift.saturating_add(self.start_deadline));
            if self.delivery == Delivery::AtLeastOnce && !is_late && !ledger.is_done(run.id()) {
                ledger.set(next_attempt(&run, now));
            }
        }
    }

    /// Decides the planned times that have come.
    fn plan(&self, ledger: &mut Ledger, now: Wall) {
        let (floor, last) = (ledger.floor(), back(now, self.shift));
        let due = |from: Wall| self.times.following(from).take_while(move |planned| *planned <= last);
        if due(floor).next().is_none() {
            return;
        }
        let most = match self.missed {
            Missed::None | Missed::Latest => 1,
            Missed::All(most) => usize::try_from(most).unwrap_or(usize::MAX),
        };
        let late = if self.missed == Missed::None { IN_TIME } else { self.start_deadline };
        // What is too late cannot be chosen; the rest is searched backward by time, since it may be many.
        let oldest = back(last, late).0.saturating_sub(1).max(floor.0);
        let mut span = SEARCH;
        let chosen = loop {
            let from = Wall(last.0.saturating_sub(span).max(oldest));
            let mut found: VecDeque<Wall> = VecDeque::new();
            for planned in due(from) {
                found.push_back(planned);
                if found.len() > most {
                    found.pop_front();
                }
            }
            if found.len() >= most || from.0 <= oldest {
                break found;
            }
            span = span.saturating_mul(2);
        };
        let first = chosen.front().copied();
        let skipped = due(floor).next().filter(|planned| first.is_none_or(|first| *planned < first));
        if let Some(skipped) = skipped {
            let until = first.map_or(last, |first| Wall(first.0 - 1));
            let id = RunId { planned: skipped, is_manual: false };
            let problem = format!("planned times from {} to {} were missed", rfc3339(skipped), rfc3339(until));
            let run = Run::new(id, Cause::CatchUp, skipped);
            ledger.end(&run, now, Outcome::because(Status::Skipped, problem));
        }
        let newest = chosen.back().copied();
        for planned in chosen {
            let in_time = Some(planned) == newest && now <= on(planned, self.shift + IN_TIME);
            let cause = if in_time { Cause::Schedule } else { Cause::CatchUp };
            let run = Run::new(RunId { planned, is_manual: false }, cause, on(planned, self.shift));
            if ledger.open().len() < OPEN_MAX {
                ledger.set(run);
            } else {
                let problem = format!("{OPEN_MAX} runs are not done");
                ledger.end(&run, now, Outcome::because(Status::Skipped, problem));
            }
        }
        ledger.decided = ledger.decided.max(last);
    }

    /// Begins what waits and may.
    fn begin(&self, ledger: &mut Ledger, now: Wall, me: Holder) -> Vec<Run> {
        let mut fire = Vec::new();
        let mut waits = false;
        let due = ledger.open().iter().filter(|run| run.held.is_none() && run.due <= now);
        for mut run in due.cloned().collect::<Vec<_>>() {
            let id = run.id();
            if ledger.is_done(id) {
                ledger.drop_run(id);
                continue;
            }
            if id.is_manual && run.attempt == 1 && now > on(id.planned, MANUAL_WAIT) {
                ledger.end(&run, now, Outcome::because(Status::Skipped, "no node took it in time"));
                continue;
            }
            let others: Vec<Run> =
                ledger.open().iter().filter(|other| other.held.is_some() && other.id() != id).cloned().collect();
            if let Some(other) = others.first() {
                match self.overlap {
                    Overlap::Allow => {}
                    Overlap::Forbid => {
                        let problem = format!("the run of {} is not done", other.id());
                        ledger.end(&run, now, Outcome::because(Status::Skipped, problem));
                        continue;
                    }
                    Overlap::Replace if others.iter().any(|other| other.id().planned > id.planned) => {
                        ledger.end(&run, now, Outcome::because(Status::Replaced, "a later run took its place"));
                        continue;
                    }
                    Overlap::Replace => {
                        for other in &others {
                            fire.retain(|run: &Run| run.id() != other.id());
                            let problem = format!("the run of {id} took its place");
                            ledger.end(other, now, Outcome::because(Status::Replaced, problem));
                        }
                    }
                    Overlap::Queue if waits => {
                        let problem = format!("the run of {} is not done, and one waits", other.id());
                        ledger.end(&run, now, Outcome::because(Status::Skipped, problem));
                        continue;
                    }
                    Overlap::Queue => {
                        waits = true;
                        continue;
                    }
                }
            }
            run.held = Some((me, now));
            ledger.set(run.clone());
            fire.push(run);
        }
        fire
    }

    fn next_turn(&self, ledger: &Ledger, now: Wall, me: Holder) -> Option<Wall> {
        let planned = self.times.after(ledger.floor()).map(|planned| on(planned, self.shift));
        let waiting = ledger.open().iter().filter(|run| run.held.is_none() && run.due > now).map(|run| run.due);
        let elsewhere = ledger.open().iter().any(|run| run.held.is_some_and(|(holder, _)| holder != me));
        let look = elsewhere.then(|| on(now, LOOK));
        planned.into_iter().chain(waiting).chain(look).min()
    }
}

/// Whether one more run may be asked for by hand: as many as are kept, so that none is forgotten while it could be begun
/// twice.
pub fn may_ask(ledger: &Ledger, now: Wall) -> bool {
    let since = back(now, MANUAL_WAIT);
    let open = ledger.open().iter().map(Run::id);
    let recent = open.chain(ledger.ended().iter().map(super::ledger::Ended::id));
    recent.filter(|id| id.is_manual && id.planned >= since).count() < KEPT / 2
}

fn next_attempt(run: &Run, due: Wall) -> Run {
    let mut next = Run::new(run.id(), Cause::Retry, due);
    next.attempt = run.attempt.saturating_add(1);
    next
}

fn on(moment: Wall, time: Duration) -> Wall {
    Wall(moment.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
}

fn back(moment: Wall, time: Duration) -> Wall {
    Wall(moment.0.saturating_sub(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests;

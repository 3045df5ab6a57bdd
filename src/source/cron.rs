//! Fires schedules: the one node that has a schedule's seat attends to it.
//!
//! Decides nothing: `schedule::runs` says what to fire. What it says is made durable first, so that whoever takes the seat
//! next knows of it. Knows nothing of the registry or of other nodes; [`Records`] does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::id::{ComponentName, SourceName};
use crate::model::Source;
use crate::model::schedule::rfc3339;
use crate::model::source::{Cron, Delivery, Trigger};
use crate::schedule::ledger::{Holder, Ledger, OUTPUT_MAX, Outcome, Run, RunId, Status};
use crate::schedule::runs::{Known, Runs, Turn};
use crate::source::attend::{Attendant, Seat};
use crate::source::courier::{Answer, Courier, Event, ONCE};
use crate::telemetry;
use crate::time::Wall;

/// The longest time without a look at the clock: a clock that is put forward is noticed that much later.
const LOOK: Duration = Duration::from_secs(10);

/// How long before its time a run is decided and made durable, so that its request is sent in time: a write to disk takes
/// some milliseconds, the votes of others a round trip and a write more.
const EARLY: Duration = Duration::from_millis(100);

/// Before what could not be made durable is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// How often the end of a run is tried to be noted; then it counts as lost.
const NOTE_TRIES: u32 = 30;

/// For runs to end before the seat is given back; longer ones go on beside the next holder. Most handlers take less.
const LINGER: Duration = Duration::from_secs(2);

/// Bytes of an answer that are read for its end.
const READ: usize = 64 * 1024;

/// How long before a run its component is started, as long as nobody measured how long that takes.
const LEAD: Duration = Duration::from_secs(5);
/// At least, for the way there and back.
const LEAD_MIN: Duration = Duration::from_millis(500);
/// At most: an instance would idle for the rest.
const LEAD_MAX: Duration = Duration::from_secs(60);

/// What took no longer was no start: waking a frozen instance takes less.
const READY: Duration = Duration::from_millis(20);

/// A component that ran so recently is warm.
const WARM: Duration = Duration::from_secs(5);

const SOURCE: HeaderName = HeaderName::from_static("maelstrom-cron-source");
const PLANNED: HeaderName = HeaderName::from_static("maelstrom-planned-at");
const RUN: HeaderName = HeaderName::from_static("maelstrom-run-id");
const ATTEMPT: HeaderName = HeaderName::from_static("maelstrom-attempt");
const CAUSE: HeaderName = HeaderName::from_static("maelstrom-cause");

/// A future behind a trait.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How a claim went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Votes {
    /// So many nodes granted it.
    pub granted: usize,
    /// So many were needed.
    pub needed: usize,
}

/// What a node knows of runs and of other nodes; the daemon.
pub trait Records: fmt::Debug + Send + Sync + 'static {
    /// This process.
    fn me(&self) -> Holder;

    /// The wall clock.
    fn now(&self) -> Wall;

    /// What is known of the runs of a schedule; none if nothing is.
    fn read(&self, source: &SourceName) -> Option<Ledger>;

    /// Changes when that does.
    fn news(&self, source: &SourceName) -> watch::Receiver<u64>;

    /// Changes it; durable when this returns.
    ///
    /// # Errors
    /// A sentence. State: nothing was changed.
    fn change(
        &self,
        source: &SourceName,
        act: Box<dyn FnOnce(&mut Ledger) + Send>,
    ) -> BoxFuture<'_, Result<(), String>>;

    /// Takes over what other nodes know and this one may not know yet.
    fn catch_up<'a>(&'a self, source: &'a SourceName) -> BoxFuture<'a, ()>;

    /// Whether a process is known to be gone for good.
    fn is_gone(&self, holder: Holder) -> bool;

    /// Asks the known nodes for a planned time that must not be fired twice.
    fn claim<'a>(&'a self, source: &'a SourceName, id: RunId) -> BoxFuture<'a, Votes>;

    /// Sees to it that an instance is ready where the next event would go, within this time.
    ///
    /// # Errors
    /// A sentence.
    fn warm<'a>(&'a self, component: &'a ComponentName, limit: Duration) -> BoxFuture<'a, Result<(), String>>;

    /// Random bits.
    fn random(&self) -> u64;
}

/// Attends to schedules.
#[derive(Debug)]
pub struct Schedules {
    courier: Courier,
    records: Arc<dyn Records>,
    /// What this process carries out.
    running: watch::Sender<BTreeMap<SourceName, BTreeSet<(RunId, u32)>>>,
}

impl Schedules {
    /// None is attended to yet.
    pub fn new(courier: Courier, records: Arc<dyn Records>) -> Self {
        Self { courier, records, running: watch::Sender::default() }
    }
}

impl Attendant for Schedules {
    fn takes(&self, source: &Source) -> bool {
        matches!(source.trigger, Trigger::Cron(_))
    }

    fn attend(self: Arc<Self>, seat: Seat) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.look_after(seat).await })
    }
}

/// When a component is started ahead of its next run.
#[derive(Debug)]
struct Ahead {
    /// So long before.
    lead: Duration,
    /// For this run it was done.
    done: Option<Wall>,
    /// When something was last fired.
    fired: Wall,
    measured: watch::Sender<Option<Duration>>,
}

impl Schedules {
    async fn look_after(self: Arc<Self>, mut seat: Seat) {
        let name = seat.source.borrow().name.clone();
        let mut news = self.records.news(&name);
        // What the last holder wrote may not be here yet.
        self.records.catch_up(&name).await;
        let measured = watch::Sender::new(None);
        let mut ahead = Ahead { lead: LEAD, done: None, fired: Wall(0), measured };
        while !seat.quit.is_cancelled() {
            let source = Arc::clone(&seat.source.borrow_and_update());
            let Trigger::Cron(cron) = &source.trigger else { break };
            news.borrow_and_update();
            let next = match Runs::new(&name, cron) {
                Ok(rules) => self.turn(&source, cron, &rules, &mut ahead, &seat.rest).await,
                Err(refusal) => {
                    tracing::warn!(source = %name, %refusal, "this release cannot fire this schedule");
                    None
                }
            };
            let now = self.records.now();
            let now = later(now, EARLY);
            let pause = next.map_or(LOOK, |next| Duration::from_millis(next.0.saturating_sub(now.0)).min(LOOK));
            tokio::select! {
                biased;
                () = seat.quit.cancelled() => {}
                changed = seat.source.changed() => if changed.is_err() { break },
                changed = news.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(pause) => {}
            }
        }
        let mut running = self.running.subscribe();
        if tokio::time::timeout(LINGER, running.wait_for(|all| !all.contains_key(&name))).await.is_err() {
            tracing::info!(source = %name, "runs go on after the seat is given back");
        }
    }

    /// Does what is due, and says when to look again.
    async fn turn(
        self: &Arc<Self>,
        source: &Arc<Source>,
        cron: &Cron,
        rules: &Runs,
        ahead: &mut Ahead,
        rest: &TaskTracker,
    ) -> Option<Wall> {
        let name = &source.name;
        let turn = match self.decide(name, rules).await {
            Ok(turn) => turn,
            Err(problem) => {
                tracing::warn!(source = %name, problem, "what is due could not be made durable and is not fired yet");
                return Some(later(self.records.now(), AGAIN));
            }
        };
        for run in turn.fire {
            ahead.fired = self.records.now();
            if cron.delivery == Delivery::AtMostOnce {
                let Votes { granted, needed } = self.records.claim(name, run.id()).await;
                if granted < needed {
                    let problem = format!("{granted} nodes granted it, and {needed} are needed to be sure");
                    tracing::warn!(source = %name, run = %run.id(), problem, "a planned time is skipped");
                    self.note(name, rules, &run, Outcome::because(Status::Skipped, problem)).await;
                    continue;
                }
            }
            self.set_running(name, &run, true);
            let carried = Arc::clone(self).carry_out(Arc::clone(source), rules.clone(), run);
            telemetry::spawn("scheduled run", rest.track_future(carried));
        }
        let warm = self.ahead(source, rules, ahead);
        turn.next.into_iter().chain(warm).min()
    }

    /// A turn, durable. Nothing is written if nothing is due.
    async fn decide(self: &Arc<Self>, name: &SourceName, rules: &Runs) -> Result<Turn, String> {
        let records = Arc::clone(&self.records);
        let mine = self.running.borrow().get(name).cloned().unwrap_or_default();
        let me = records.me();
        let (now, rules) = (later(records.now(), EARLY), rules.clone());
        let act = move |ledger: &mut Ledger| {
            let is_gone = |holder| records.is_gone(holder);
            rules.turn(ledger, now, &Known { me, mine: &mine, is_gone: &is_gone })
        };
        if let Some(ledger) = self.records.read(name) {
            let mut tried = ledger.clone();
            let turn = act(&mut tried);
            if tried == ledger {
                return Ok(turn);
            }
        }
        let (told, turn) = tokio::sync::oneshot::channel();
        let act = Box::new(move |ledger: &mut Ledger| drop(told.send(act(ledger))));
        self.records.change(name, act).await?;
        turn.await.map_err(|_| "nothing was decided".to_owned())
    }

    /// Starts the component in time for its next run; when to look again for that.
    fn ahead(&self, source: &Arc<Source>, rules: &Runs, ahead: &mut Ahead) -> Option<Wall> {
        // What was ready says nothing of how long a start takes.
        if let Some(took) = ahead.measured.send_replace(None).filter(|took| *took > READY) {
            ahead.lead = (took * 2 + LEAD_MIN).min(LEAD_MAX);
        }
        let (ledger, now) = (self.records.read(&source.name)?, later(self.records.now(), EARLY));
        let next = rules.next_fire(&ledger, now)?;
        if ahead.done == Some(next) || later(ahead.fired, WARM) > next {
            return None;
        }
        let at = Wall(next.0.saturating_sub(millis(ahead.lead)));
        if at > now {
            return Some(at);
        }
        ahead.done = Some(next);
        let (records, component, measured) =
            (Arc::clone(&self.records), source.component.clone(), ahead.measured.clone());
        telemetry::spawn("start ahead", async move {
            let begun = records.now();
            match records.warm(&component, LEAD_MAX).await {
                Ok(()) => {
                    let took = Duration::from_millis(records.now().0.saturating_sub(begun.0));
                    measured.send_replace(Some(took));
                }
                // The run itself will say so.
                Err(problem) => tracing::debug!(%component, problem, "could not be started ahead of a run"),
            }
        });
        None
    }

    /// Sends the request of a run and notes how it ended.
    async fn carry_out(self: Arc<Self>, source: Arc<Source>, rules: Runs, mut run: Run) {
        let name = &source.name;
        let Trigger::Cron(cron) = &source.trigger else { return };
        // Not longer than it was decided ahead, whatever the clock does meanwhile.
        let early = run.due.0.saturating_sub(self.records.now().0);
        tokio::time::sleep(Duration::from_millis(early).min(EARLY)).await;
        run.held = Some((self.records.me(), self.records.now()));
        let outcome = tokio::select! {
            outcome = self.send(&source, cron, &run) => Some(outcome),
            () = self.given_up(name, &run) => None,
        };
        if let Some(outcome) = outcome {
            if outcome.status != Status::Ok {
                tracing::info!(source = %name, run = %run.id(), attempt = run.attempt, problem = outcome.problem, "a scheduled run failed");
            }
            self.note(name, &rules, &run, outcome).await;
        }
        self.set_running(name, &run, false);
    }

    async fn note(&self, name: &SourceName, rules: &Runs, run: &Run, outcome: Outcome) {
        let (random, now) = (self.records.random(), self.records.now());
        for _ in 0..NOTE_TRIES {
            let (rules, run, outcome) = (rules.clone(), run.clone(), outcome.clone());
            let act = Box::new(move |ledger: &mut Ledger| rules.end(ledger, &run, now, outcome, random));
            let Err(problem) = self.records.change(name, act).await else { return };
            tracing::debug!(source = %name, problem, "the end of a run could not be noted");
            if self.records.read(name).is_none() {
                // The schedule was removed.
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Waits until a run is no longer this process's because a later one took its place.
    async fn given_up(&self, name: &SourceName, run: &Run) {
        let mut news = self.records.news(name);
        loop {
            let ledger = self.records.read(name);
            let is_ours = |open: &Run| open.attempt == run.attempt && open.is_held_by(self.records.me());
            // A schedule that is removed fires no more, and what it began ends by itself.
            if ledger.is_some_and(|ledger| !ledger.run(run.id()).is_some_and(is_ours)) {
                return;
            }
            if news.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn send(&self, source: &Source, cron: &Cron, run: &Run) -> Outcome {
        match self.courier.send(event(source, cron, run), READ).await {
            Ok(answer) => outcome(&answer),
            Err(failure) => Outcome::because(Status::Failed, failure.to_string()),
        }
    }

    fn set_running(&self, name: &SourceName, run: &Run, is_running: bool) {
        self.running.send_modify(|all| {
            let runs = all.entry(name.clone()).or_default();
            if is_running {
                runs.insert(run.key());
            } else {
                runs.remove(&run.key());
            }
            if runs.is_empty() {
                all.remove(name);
            }
        });
    }
}

/// The request of a run.
fn event(source: &Source, cron: &Cron, run: &Run) -> Event {
    let identity = format!("{}/{}", source.name, run.id());
    let mut said = HeaderMap::new();
    let mut say = |name: HeaderName, value: String| {
        // Names, numbers and times are visible ASCII.
        said.extend(HeaderValue::from_str(&value).ok().map(|value| (name, value)));
    };
    say(SOURCE, source.name.to_string());
    say(PLANNED, rfc3339(run.id().planned));
    say(RUN, identity.clone());
    say(ATTEMPT, run.attempt.to_string());
    say(CAUSE, run.cause.to_string());
    if cron.delivery == Delivery::AtMostOnce {
        let (name, value) = ONCE;
        said.insert(name, value);
    }
    Event::of(source, &cron.request, &identity, said)
}

/// How a run ended that was answered.
fn outcome(answer: &Answer) -> Outcome {
    let is_ok = answer.status.is_success();
    let text = String::from_utf8_lossy(&answer.body);
    let mut from = text.len().saturating_sub(OUTPUT_MAX);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let output = text.get(from..).filter(|text| !text.is_empty()).map(str::to_owned);
    Outcome {
        status: if is_ok { Status::Ok } else { Status::Failed },
        http: Some(answer.status.as_u16()),
        instance: answer.timing.as_ref().map(|timing| timing.instance.to_string()),
        problem: (!is_ok).then(|| format!("the component answered {}", answer.status)),
        output,
    }
}

fn later(moment: Wall, time: Duration) -> Wall {
    Wall(moment.0.saturating_add(millis(time)))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

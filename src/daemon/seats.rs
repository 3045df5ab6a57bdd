//! The task that owns the [`Seats`]: tells it what the board, the catalog and the scheduler say, and has this node's
//! seats attended to. It decides nothing.
//!
//! Everything is read as it stands now, so it does not matter how often something changed in between.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::board::Board;
use super::catalog::Catalog;
use super::clock::Clock;
use super::registrar::{Edit, EditError, Registrar};
use crate::crdt::Expect;
use crate::id::{NodeId, SourceName};
use crate::model::Source;
use crate::placement::seats::{AGAIN, HANDOVER, Output, Seats};
use crate::placement::{Duty, Node};
use crate::source::attend::{Attendant, Seat};
use crate::telemetry;

/// Changes that come within this time are looked at together: a look costs a step for each source, and nobody waits for
/// it but a source that was just put.
const GATHER: Duration = Duration::from_millis(20);

/// Messages of attendants that may wait: each has two at most under way.
const REPORTS: usize = 256;

/// What an attendant says.
#[derive(Debug)]
enum Report {
    /// How many seats its source should have.
    Width(SourceName, u32),
    /// It returned.
    Left(SourceName, u32),
}

/// A seat that this node attends to.
struct Attended {
    /// Which attendant: a source may change its kind.
    kind: usize,
    quit: CancellationToken,
    source: watch::Sender<Arc<Source>>,
    width: watch::Sender<u32>,
}

/// See the head of this file.
pub(crate) struct Task {
    seats: Seats,
    board: Arc<Board>,
    catalog: Arc<Catalog>,
    nodes: watch::Receiver<Arc<BTreeMap<NodeId, Node>>>,
    clock: Clock,
    attendants: Vec<Arc<dyn Attendant>>,
    attended: BTreeMap<(SourceName, u32), Attended>,
    widths: BTreeMap<SourceName, u32>,
    /// The sources that somebody attends to, and who.
    sources: BTreeMap<SourceName, (usize, Arc<Source>)>,
    rest: TaskTracker,
    registrar: Registrar,
    reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    idle: watch::Sender<bool>,
}

impl Task {
    pub(crate) fn new(
        board: Arc<Board>,
        catalog: Arc<Catalog>,
        nodes: watch::Receiver<Arc<BTreeMap<NodeId, Node>>>,
        clock: Clock,
        registrar: Registrar,
        attendants: Vec<Arc<dyn Attendant>>,
    ) -> (Self, Leaving) {
        let (idle, is_idle) = watch::channel(true);
        let rest = TaskTracker::new();
        let leaving = Leaving { is_idle, rest: rest.clone() };
        let task = Self {
            seats: Seats::new(board.me(), clock.mono()),
            board,
            catalog,
            nodes,
            clock,
            attendants,
            attended: BTreeMap::new(),
            widths: BTreeMap::new(),
            sources: BTreeMap::new(),
            rest,
            registrar,
            reports: mpsc::channel(REPORTS),
            idle,
        };
        (task, leaving)
    }

    /// Runs until `leave`; what is still attended to is given up then.
    pub(crate) async fn run(mut self, leave: CancellationToken) {
        let (mut heard, mut changed) = (self.board.seat_news(), self.catalog.changes());
        self.look_at_nodes();
        self.look_at_sources();
        self.look_at_claims();
        loop {
            self.carry_out();
            let timer = self.clock.reach(self.seats.poll_timeout());
            tokio::select! {
                () = leave.cancelled() => return self.attended.values().for_each(|attended| attended.quit.cancel()),
                report = self.reports.1.recv() => {
                    if let Some(report) = report {
                        self.take(report);
                    }
                }
                news = self.nodes.changed() => {
                    if news.is_err() {
                        return;
                    }
                    self.look_at_nodes();
                }
                Ok(()) = heard.changed() => {
                    heard.borrow_and_update();
                    self.look_at_claims();
                }
                Ok(()) = changed.changed() => {
                    tokio::time::sleep(GATHER).await;
                    changed.borrow_and_update();
                    self.look_at_sources();
                }
                () = timer => {}
            }
        }
    }

    fn look_at_nodes(&mut self) {
        let mut nodes = BTreeMap::clone(&self.nodes.borrow_and_update());
        let heard = self.board.read();
        let is_ready = |id: &NodeId| heard.facts.get(id).is_none_or(|facts| facts.attends);
        let new = nodes.iter_mut().filter(|(id, node)| node.duty == Duty::Active && !is_ready(id));
        new.for_each(|(_, node)| node.duty = Duty::Cordoned);
        drop(heard);
        self.seats.handle_nodes(nodes);
    }

    fn look_at_claims(&mut self) {
        self.seats.handle_claims(&self.board.read().seats);
    }

    fn look_at_sources(&mut self) {
        let definitions = self.catalog.read();
        let attended = definitions.sources.values().filter_map(|entry| {
            let source = &entry.value;
            let kind = self.attendants.iter().position(|attendant| attendant.takes(source))?;
            let is_wanted = source.enabled && definitions.component(&source.component).is_some();
            is_wanted.then(|| (source.name.clone(), (kind, Arc::clone(source))))
        });
        self.sources = attended.collect();
        drop(definitions);
        let mut wanted: BTreeSet<SourceName> = self.sources.keys().cloned().collect();
        for ((name, _), attended) in &self.attended {
            match self.sources.get(name) {
                Some((kind, source)) if *kind == attended.kind => {
                    attended.source.send_if_modified(|known| {
                        let is_new = known != source;
                        known.clone_from(source);
                        is_new
                    });
                }
                // The attendant of the kind that it was leaves first.
                _ => drop(wanted.remove(name)),
            }
        }
        self.seats.handle_sources(&wanted);
    }

    fn take(&mut self, report: Report) {
        match report {
            Report::Width(name, width) => self.seats.measured(&name, width),
            Report::Left(name, seat) => {
                self.attended.remove(&(name.clone(), seat));
                self.seats.left(&name, seat, self.clock.mono());
                self.look_at_sources();
            }
        }
    }

    fn carry_out(&mut self) {
        self.seats.settle(self.clock.mono());
        while let Some(output) = self.seats.poll_output() {
            match output {
                Output::Ready => self.board.change(|facts| facts.attends = true),
                Output::Take(name, seat) => self.attend(name, seat),
                Output::Quit(name, seat) => {
                    tracing::info!(source = %name, seat, "leaving this seat");
                    if let Some(attended) = self.attended.get(&(name, seat)) {
                        attended.quit.cancel();
                    }
                }
                Output::Say(name, claim) => self.board.seats(&name, claim),
                Output::Width(name, width) => {
                    for (_, attended) in self.attended.range((name.clone(), 0)..=(name.clone(), u32::MAX)) {
                        attended.width.send_replace(width);
                    }
                    self.widths.insert(name, width);
                }
            }
        }
        self.widths.retain(|name, width| *width > 0 || self.sources.contains_key(name));
        self.idle.send_if_modified(|idle| std::mem::replace(idle, self.seats.is_idle()) != self.seats.is_idle());
    }

    fn attend(&mut self, name: SourceName, seat: u32) {
        let found =
            self.sources.get(&name).and_then(|(kind, source)| Some((*kind, source, self.attendants.get(*kind)?)));
        let Some((kind, source, attendant)) = found else {
            // It is gone again; the next look tells the seats.
            self.seats.left(&name, seat, self.clock.mono());
            return;
        };
        tracing::info!(source = %name, seat, "attending to this seat");
        let quit = CancellationToken::new();
        let (source, source_seen) = watch::channel(Arc::clone(source));
        let (width, width_seen) = watch::channel(self.widths.get(&name).copied().unwrap_or(1));
        let (wanted, wanted_seen) = watch::channel(1);
        let over = CancellationToken::new();
        let work = Arc::clone(attendant).attend(Seat {
            source: source_seen,
            slot: seat,
            width: width_seen,
            wanted,
            quit: quit.clone(),
            over: over.clone(),
            rest: self.rest.clone(),
        });
        let reports = self.reports.0.clone();
        let work = telemetry::spawn("source", self.rest.track_future(work));
        let (registrar, sources, of, until) = (self.registrar.clone(), source.subscribe(), name.clone(), quit.clone());
        telemetry::spawn("attendant", async move {
            follow(work, &of, seat, wanted_seen, until, &reports).await;
            if over.is_cancelled() {
                remove(&registrar, &sources).await;
            }
            let _ = reports.send(Report::Left(of, seat)).await;
        });
        self.attended.insert((name, seat), Attended { kind, quit, source, width });
    }
}

/// Removes a source that is over, unless it was changed or removed in the meantime.
async fn remove(registrar: &Registrar, source: &watch::Receiver<Arc<Source>>) {
    let done = Arc::clone(&source.borrow());
    loop {
        // A change that came in the meantime is another event.
        if *source.borrow() != done {
            return;
        }
        let edit = Edit::RemoveSource { name: done.name.clone(), expect: Expect::Any };
        match registrar.edit(edit).await {
            Ok(_) => return tracing::info!(source = %done.name, "over, and removed"),
            Err(EditError::NotFound { .. }) => return,
            Err(error) => tracing::warn!(source = %done.name, %error, "a source that is over could not be removed"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Passes on what an attendant measures, until it returned, also by a panic, or was waited for long enough.
async fn follow(
    mut work: JoinHandle<()>,
    name: &SourceName,
    seat: u32,
    mut wanted: watch::Receiver<u32>,
    quit: CancellationToken,
    reports: &mpsc::Sender<Report>,
) {
    let waited = async {
        quit.cancelled().await;
        tokio::time::sleep(HANDOVER).await;
    };
    let mut waited = pin!(waited);
    loop {
        tokio::select! {
            biased;
            ended = &mut work => {
                if let Err(error) = ended {
                    tracing::error!(source = %name, seat, %error, "the attendant failed");
                }
                break;
            }
            () = &mut waited => {
                tracing::warn!(source = %name, seat, after = ?HANDOVER, "still finishing: the seat is given back all the same");
                break;
            }
            Ok(()) = wanted.changed(), if seat == 0 => {
                let width = *wanted.borrow_and_update();
                let _ = reports.send(Report::Width(name.clone(), width)).await;
            }
        }
    }
}

/// What a daemon that stops waits for.
#[derive(Debug)]
pub(crate) struct Leaving {
    is_idle: watch::Receiver<bool>,
    rest: TaskTracker,
}

impl Leaving {
    /// Waits until no seat is held here any more, which begins when the node says that it takes no more work, and until
    /// what went on after the seats were given back has ended; at most for `limit`.
    pub(crate) async fn wait(mut self, limit: Duration) {
        let left = async {
            let _ = self.is_idle.wait_for(|idle| *idle).await;
            self.rest.close();
            self.rest.wait().await;
        };
        if tokio::time::timeout(limit, left).await.is_err() {
            tracing::info!(open = self.rest.len(), "leaving sources that did not finish in time");
        }
    }
}

//! What a source is that a node looks after: one that makes events itself, and of which each event should be made once
//! in the cluster. Nodes are elected for the seats of such a source (`placement::seats`); who has a seat attends to it.
//!
//! Knows no kind of source.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::model::Source;

/// A kind of source that nodes are elected for.
pub trait Attendant: fmt::Debug + Send + Sync + 'static {
    /// Whether it takes this source.
    fn takes(&self, source: &Source) -> bool;

    /// Looks after one seat of a source until `seat.quit`, then takes nothing new, finishes or gives back what must not
    /// meet the work of the next holder, and returns: another node takes the seat then, or after
    /// `placement::seats::HANDOVER` if that is sooner. A return before `quit` gives the seat up for a moment.
    ///
    /// What may go on beside the work of the next holder (a run of a schedule that is written down as open) must not
    /// hold the seat: spawn it on `seat.rest`, for which the node waits before it stops.
    fn attend(self: Arc<Self>, seat: Seat) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// What this node was elected for.
#[derive(Debug)]
pub struct Seat {
    /// The definition; changes while the seat is held.
    pub source: watch::Receiver<Arc<Source>>,
    /// Which of the source's seats, from 0.
    pub slot: u32,
    /// How many seats the source has now.
    pub width: watch::Receiver<u32>,
    /// How many seats the source should have, as far as this one can tell. Only what seat 0 says counts.
    pub wanted: watch::Sender<u32>,
    /// Take nothing new, and return when all is done.
    pub quit: CancellationToken,
    /// Cancelled by the attendant: nothing is left to do, ever. The source is removed once the attendant has returned, and
    /// before the seat is given back.
    pub over: CancellationToken,
    /// What goes on after the seat was given back. A node that stops waits for it as for requests.
    pub rest: TaskTracker,
}

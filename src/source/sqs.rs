//! The source `sqs`: messages of queues, each handed to its component like a request.
//!
//! What to do next is decided in `consumer`; here it is done: `seat` is the loop of one poller, `calls` speaks with the
//! service, `event` with the component.

pub mod advice;
mod calls;
pub mod client;
mod event;
pub mod inspect;
mod seat;
pub mod status;
pub mod trouble;
pub mod upkeep;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::model::Source;
use crate::model::source::Trigger;
use crate::source::attend::{Attendant, Seat};
use crate::source::courier::Courier;
use crate::time::Wall;
use inspect::Queues;
use status::Book;

/// How long a seat is held for what is under way after it is to be left. Sooner than another node takes it without
/// asking (30 s, `placement::seats`): what is left then goes on beside the next holder's work, on messages that only this
/// one can see.
const HOLD: Duration = Duration::from_secs(25);

/// What remains of a stopping node's time when messages are given back whose requests take too long: a call and its
/// repetition.
const GIVE_BACK: Duration = Duration::from_secs(3);

/// Attends to queues.
#[derive(Debug)]
pub struct SqsSource {
    courier: Courier,
    wall: fn() -> Wall,
    queues: Arc<Queues>,
    book: Arc<Book>,
    stop: CancellationToken,
    grace: Duration,
}

impl SqsSource {
    /// `wall` is the wall clock, `stop` the stop of the node and `grace` how long requests may go on after it.
    pub fn new(
        courier: Courier,
        wall: fn() -> Wall,
        book: Arc<Book>,
        stop: CancellationToken,
        grace: Duration,
    ) -> Self {
        Self { courier, wall, queues: Arc::default(), book, stop, grace: grace.saturating_sub(GIVE_BACK) }
    }
}

impl Attendant for SqsSource {
    fn takes(&self, source: &Source) -> bool {
        matches!(source.trigger, Trigger::Sqs(_))
    }

    fn attend(self: Arc<Self>, seat: Seat) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (quit, rest) = (seat.quit.clone(), seat.rest.clone());
        Box::pin(async move {
            // Its own task, because it goes on when the seat is left with messages under way.
            let mut work = crate::telemetry::spawn("queue poller", rest.track_future(seat::run(self, seat)));
            let left = async {
                quit.cancelled().await;
                tokio::time::sleep(HOLD).await;
            };
            tokio::select! {
                ended = &mut work => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a poller failed; its messages come back when they are visible again");
                    }
                }
                () = left => {}
            }
        })
    }
}

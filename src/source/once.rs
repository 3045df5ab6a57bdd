//! Attends to one-off events: waits until it is time, sends the event until it is answered, and says that the source is
//! over. At least once: who takes the seat after a crash sends again, with the same `idempotency-key`.
//!
//! Knows nothing of schedules; a source that repeats is `cron`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use crate::model::Source;
use crate::model::source::{Once, Trigger};
use crate::source::attend::{Attendant, Seat};
use crate::source::courier::{Courier, Event};
use crate::time::Wall;

/// The longest wait without a look at the clock, which may be put forward or back.
const LOOK: Duration = Duration::from_secs(10);

/// The first pause after a failure, doubled up to the second: a component that starts badly is not hit every moment, and
/// one that is back is not kept waiting for long.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Attends to one-off events.
#[derive(Debug)]
pub struct Later {
    courier: Courier,
    wall: fn() -> Wall,
}

impl Later {
    /// With the wall clock.
    pub fn new(courier: Courier, wall: fn() -> Wall) -> Self {
        Self { courier, wall }
    }

    fn until(&self, moment: u64) -> Duration {
        Duration::from_millis(moment.saturating_sub((self.wall)().0))
    }

    async fn run(self: Arc<Self>, mut seat: Seat) {
        let mut pause = PAUSE.0;
        loop {
            let source = Arc::clone(&seat.source.borrow_and_update());
            let Trigger::Once(once) = &source.trigger else { return };
            let left = self.until(once.at);
            if left > Duration::ZERO {
                tokio::select! {
                    () = seat.quit.cancelled() => return,
                    _ = seat.source.changed() => {}
                    () = tokio::time::sleep(left.min(LOOK)) => {}
                }
                continue;
            }
            let Err(problem) = self.send(&source, once).await else {
                seat.over.cancel();
                return;
            };
            let end = once.at.saturating_add(u64::try_from(once.give_up_after.as_millis()).unwrap_or(u64::MAX));
            if self.until(end) == Duration::ZERO {
                tracing::warn!(source = %source.name, component = %source.component, problem, "an event is given up");
                seat.over.cancel();
                return;
            }
            tracing::info!(source = %source.name, component = %source.component, problem, again_in = ?pause, "an event failed");
            tokio::select! {
                () = seat.quit.cancelled() => return,
                () = tokio::time::sleep(self.courier.jittered(pause)) => {}
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// One try. The problem is a sentence.
    async fn send(&self, source: &Source, once: &Once) -> Result<(), String> {
        let mut said = HeaderMap::new();
        if let Ok(at) = HeaderValue::try_from(once.moment()) {
            said.insert("maelstrom-planned-at", at);
        }
        let event = Event::of(source, &once.request, &format!("{}-{}", source.name, once.at), said);
        match self.courier.send(event, 0).await {
            Ok(answer) if answer.status.is_success() => Ok(()),
            Ok(answer) => Err(format!("it answered {}", answer.status)),
            Err(failure) => Err(failure.to_string()),
        }
    }
}

impl Attendant for Later {
    fn takes(&self, source: &Source) -> bool {
        matches!(source.trigger, Trigger::Once(_))
    }

    fn attend(self: Arc<Self>, seat: Seat) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.run(seat))
    }
}

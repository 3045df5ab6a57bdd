//! What the admin API shows of the timeline.

use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::Desk;
use crate::admin::api::{EventQuery, EventView, LOG_QUEUE, rfc3339};
use crate::id::ComponentName;
use crate::timeline::{Filter, Told};

use super::super::clock::Clock;

/// Entries that the view of a component has: what fits below it on a screen.
const OF_COMPONENT: usize = 8;

impl Desk {
    /// The last entries of a component.
    pub(super) fn events_of(&self, component: &ComponentName) -> Vec<EventView> {
        let filter = Filter { component: Some(component.to_string()), ..Filter::default() };
        let all = self.board.chronicle().read(&filter);
        all[all.len().saturating_sub(OF_COMPONENT)..].iter().map(view).collect()
    }

    pub(super) fn events(&self, query: EventQuery) -> mpsc::Receiver<EventView> {
        let since = query.since(Clock::wall());
        let filter = Filter { component: query.component, node: query.node, since };
        let (all, mut news) = self.board.chronicle().follow(&filter);
        let skip = query.tail.map_or(0, |tail| all.len().saturating_sub(tail as usize));
        let (sender, receiver) = mpsc::channel(LOG_QUEUE);
        crate::telemetry::spawn("events", async move {
            for told in &all[skip..] {
                if sender.send(view(told)).await.is_err() {
                    return;
                }
            }
            drop(all);
            if !query.follow {
                return;
            }
            loop {
                let next = tokio::select! {
                    () = sender.closed() => return,
                    next = news.recv() => next,
                };
                let view = match next {
                    Ok(told) if filter.takes(&told) => view(&told),
                    Ok(_) => continue,
                    Err(RecvError::Lagged(count)) => passed_over(count),
                    Err(RecvError::Closed) => return,
                };
                if sender.send(view).await.is_err() {
                    return;
                }
            }
        });
        receiver
    }
}

fn view(told: &Arc<Told>) -> EventView {
    let (what, subject) = told.entry.subject.parts();
    EventView {
        at: rfc3339(told.entry.at),
        node: told.name.clone(),
        kind: told.entry.what.to_string(),
        what: what.to_owned(),
        subject: subject.to_owned(),
        component: told.entry.component.clone(),
        text: told.entry.text.clone(),
    }
}

fn passed_over(count: u64) -> EventView {
    EventView {
        at: rfc3339(Clock::wall()),
        node: String::new(),
        kind: "gap".to_owned(),
        what: String::new(),
        subject: String::new(),
        component: None,
        text: format!("{count} entries were passed over: the reader was too slow"),
    }
}

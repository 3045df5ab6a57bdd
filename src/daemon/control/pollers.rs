//! How the pollers of queue sources fare, here and on all nodes.
//!
//! Knows nothing of queues.

use std::collections::BTreeSet;

use super::{Ask, Desk};
use crate::admin::api::PollerView;
use crate::id::{NodeId, SourceName};
use crate::source::sqs::status::QueueStatus;

impl Desk {
    /// How the pollers of a source fare on this node.
    pub(super) fn pollers(&self, source: &SourceName) -> Vec<PollerView> {
        let views = self.queues.of(source).into_iter().map(|status| {
            let QueueStatus { queue, seat, in_flight, allowed, backlog, oldest_ms, counters, problem } = status;
            PollerView {
                node: self.name.to_string(),
                seat,
                queue,
                in_flight,
                allowed,
                backlog,
                oldest_ms,
                received: counters.received,
                delivered: counters.delivered,
                deleted: counters.deleted,
                failed: counters.failed,
                released: counters.released,
                extended: counters.extended,
                buried: counters.buried,
                lease_lost: counters.lease_lost,
                empty_receives: counters.empty_receives,
                api_calls: counters.calls,
                problem,
            }
        });
        views.collect()
    }

    /// The same on all nodes that attend to it; what a node that does not answer would say is left out.
    pub(super) async fn all_pollers(&self, source: &SourceName) -> Vec<PollerView> {
        let attending: BTreeSet<NodeId> =
            self.board.read().seats.get(source).into_iter().flat_map(|claims| claims.keys().copied()).collect();
        let mut pollers = self.pollers(source);
        pollers.extend(self.ask_some(&attending, &Ask::Pollers(source.clone())).await);
        pollers.sort_by(|a, b| (a.seat, &a.queue, &a.node).cmp(&(b.seat, &b.queue, &b.node)));
        pollers
    }
}

//! Events that wait for a slot: first in, first out, bounded by count, bytes and age (each event's deadline).
//! Full is an answer.

use std::collections::{BTreeMap, BTreeSet};

use crate::time::Mono;

/// Identifies one waiting event to the shell.
pub type Ticket = u64;

/// Bytes that the waiting events of one component may hold together. Bodies are streamed and not read while they wait,
/// so an event holds its head only: at 1 KiB each this is room for 65,536 of them.
pub const MAX_BYTES: u64 = 64 << 20;

/// One waiting event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiter {
    /// Who.
    pub ticket: Ticket,
    /// When it came.
    pub since: Mono,
    /// Until when it waits.
    pub deadline: Mono,
    /// What it holds in memory.
    pub bytes: u64,
    /// It is not sent elsewhere: it was, at as many nodes as may be asked.
    pub stays: bool,
}

/// Why an event was not queued: the bound with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Full(pub String);

/// The queue of one component. Invariant: `order`, `arrivals` and `deadlines` hold the same events, `movable` some
/// of them.
#[derive(Debug, Default)]
pub struct Queue {
    /// Arrival number to waiter.
    order: BTreeMap<u64, Waiter>,
    /// Ticket to arrival number.
    arrivals: BTreeMap<Ticket, u64>,
    deadlines: BTreeSet<(Mono, u64)>,
    /// The arrival numbers of those that may be sent elsewhere.
    movable: BTreeSet<u64>,
    next: u64,
    bytes: u64,
}

impl Queue {
    /// Appends an event.
    ///
    /// # Errors
    /// Says which bound is reached.
    pub fn push(&mut self, waiter: Waiter, limit: u32) -> Result<(), Full> {
        if self.order.len() >= limit as usize {
            return Err(Full(format!("{limit} requests wait")));
        }
        if self.bytes.saturating_add(waiter.bytes) > MAX_BYTES {
            return Err(Full(format!("{} bytes wait, {MAX_BYTES} allowed", self.bytes)));
        }
        let arrival = self.next;
        self.next += 1;
        self.bytes += waiter.bytes;
        self.arrivals.insert(waiter.ticket, arrival);
        self.deadlines.insert((waiter.deadline, arrival));
        if !waiter.stays {
            self.movable.insert(arrival);
        }
        self.order.insert(arrival, waiter);
        Ok(())
    }

    /// The event that waits longest.
    pub fn pop(&mut self) -> Option<Waiter> {
        let (&arrival, _) = self.order.first_key_value()?;
        self.take(arrival)
    }

    /// The event that waits longest of those that may be sent elsewhere.
    pub fn pop_movable(&mut self) -> Option<Waiter> {
        self.take(*self.movable.first()?)
    }

    /// Takes an event out that no longer wants to wait. None if it is not here.
    pub fn cancel(&mut self, ticket: Ticket) -> Option<Waiter> {
        let arrival = *self.arrivals.get(&ticket)?;
        self.take(arrival)
    }

    /// The next event whose deadline has passed.
    pub fn pop_expired(&mut self, now: Mono) -> Option<Waiter> {
        let &(deadline, arrival) = self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.take(arrival)
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Mono> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// How many wait.
    pub fn len(&self) -> u32 {
        u32::try_from(self.order.len()).unwrap_or(u32::MAX)
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn take(&mut self, arrival: u64) -> Option<Waiter> {
        let waiter = self.order.remove(&arrival)?;
        self.arrivals.remove(&waiter.ticket);
        self.deadlines.remove(&(waiter.deadline, arrival));
        self.movable.remove(&arrival);
        self.bytes -= waiter.bytes;
        Some(waiter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(ticket: Ticket, deadline: u64, bytes: u64) -> Waiter {
        Waiter { ticket, since: Mono(0), deadline: Mono(deadline), bytes, stays: ticket.is_multiple_of(2) }
    }

    #[test]
    fn events_leave_in_the_order_they_came() {
        let mut queue = Queue::default();
        for ticket in [5, 3, 9] {
            queue.push(waiter(ticket, 100 - ticket, 1), 10).expect("room");
        }
        assert_eq!(queue.cancel(3).map(|w| w.ticket), Some(3));
        assert_eq!(queue.pop().map(|w| w.ticket), Some(5));
        assert_eq!(queue.pop().map(|w| w.ticket), Some(9));
        assert!(queue.is_empty() && queue.next_deadline().is_none() && queue.bytes == 0);
    }

    #[test]
    fn a_full_queue_says_which_bound_is_reached() {
        let mut queue = Queue::default();
        queue.push(waiter(1, 1, 0), 1).expect("room");
        assert_eq!(queue.push(waiter(2, 1, 0), 1), Err(Full("1 requests wait".into())));
        assert!(queue.push(waiter(2, 1, MAX_BYTES + 1), 10).is_err());
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn only_events_past_their_deadline_expire_and_the_earliest_first() {
        let mut queue = Queue::default();
        for (ticket, deadline) in [(1, 30), (2, 10), (3, 20)] {
            queue.push(waiter(ticket, deadline, 1), 10).expect("room");
        }
        assert_eq!(queue.next_deadline(), Some(Mono(10)));
        assert_eq!(queue.pop_expired(Mono(20)).map(|w| w.ticket), Some(2));
        assert_eq!(queue.pop_expired(Mono(20)).map(|w| w.ticket), Some(3));
        assert_eq!(queue.pop_expired(Mono(20)), None);
    }

    #[test]
    fn only_those_that_may_be_sent_elsewhere_are() {
        let mut queue = Queue::default();
        for ticket in 1..=4 {
            queue.push(waiter(ticket, 9, 1), 10).expect("there is room");
        }
        assert_eq!(queue.pop_movable().map(|waiter| waiter.ticket), Some(1));
        assert_eq!(queue.cancel(3).map(|waiter| waiter.ticket), Some(3));
        assert_eq!((queue.pop_movable(), queue.len()), (None, 2));
    }
}

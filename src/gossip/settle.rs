//! Where every call begins, and where statements about members end: lateness is noticed, and what holds becomes the list
//! and events.
//!
//! Decides nothing itself.

use std::sync::Arc;

use super::packet::Packet;
use super::{Event, Member, Membership, Output, Peer, State};
use crate::id::NodeId;
use crate::time::Mono;

impl Membership {
    /// Every call begins here: if our own loop stood still, nobody else is to blame.
    pub(super) fn enter(&mut self, now: Mono) {
        if self.poll_timeout().is_some_and(|due| now.since(due) > self.options.late) {
            self.start_over(now);
        }
    }

    pub(super) fn send(&mut self, to: &Peer, packet: &Packet) {
        self.outputs.push_back(Output::Send { to: *to, bytes: packet.encode() });
    }

    pub(super) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// States something of a member that we learnt at first hand: if it is new, the others are to hear it.
    pub(super) fn state_of(&mut self, peer: Peer, state: State, now: Mono) {
        if self.note(peer, state, now) {
            self.spread((peer, state), now);
        }
    }

    /// Takes in what is said of a member other than us. True if it is new and holds.
    pub(super) fn note(&mut self, peer: Peer, state: State, now: Mono) -> bool {
        if peer.node == self.me.node || self.banned.contains(&peer.node) {
            return false;
        }
        let old = self.roll.get(peer.node).cloned();
        // Most of what is said is known, and foca searches its whole list.
        let is_known = old
            .as_ref()
            .is_some_and(|old| old.peer == peer && (old.state.is_live() == state.is_live() || !old.state.is_live()));
        if is_known || !self.swim.is_new(old.as_deref(), peer, state) {
            return false;
        }
        let was_live = old.is_some_and(|old| old.state.is_live());
        let state = if state.is_live() { State::Alive } else { state };
        self.roll.set(Arc::new(Member { peer, state, since: now }));
        self.detector.forget(peer.node);
        self.rewatch(now);
        match state {
            State::Alive | State::Suspect => {
                self.event(Event::Up(peer));
                self.thaw(now);
            }
            State::Down if was_live => {
                self.event(Event::Down(peer));
                self.rtt.remove(&peer.node);
                if self.freeze.lost(self.roll.alive() + 1, self.options.freeze_window, self.options.freeze_max, now) {
                    self.event(Event::Frozen(true));
                }
            }
            State::Left if was_live => {
                self.event(Event::Left(peer));
                self.rtt.remove(&peer.node);
            }
            State::Down | State::Left => {}
        }
        true
    }

    pub(super) fn thaw(&mut self, now: Mono) {
        if self.freeze.thaws(self.roll.alive() + 1, now) {
            self.event(Event::Frozen(false));
        }
    }

    /// Removes a member that is down or left from the list and from foca's.
    pub(super) fn drop_member(&mut self, node: NodeId) {
        self.swim.forget(node);
        self.detector.forget(node);
        self.rtt.remove(&node);
        self.roll.remove(node);
    }
}

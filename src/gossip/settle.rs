//! Where every call begins and ends: lateness is noticed, and what foca decided becomes the list, events and packets.
//!
//! Decides nothing itself.

use std::sync::Arc;

use super::packet::Packet;
use super::peer::Peer;
use super::{Event, Member, Membership, Output, State};
use crate::id::NodeId;
use crate::time::Mono;

impl Membership {
    /// Every call begins here: if our own loop stood still, nobody else is to blame.
    pub(super) fn enter(&mut self, now: Mono) {
        if self.poll_timeout().is_some_and(|due| now.since(due) > self.options.late) {
            self.start_over(now);
        }
    }

    /// States something of a member that the others are to hear.
    pub(super) fn state_of(&mut self, peer: &Peer, state: State) {
        // foca fails only where it cannot encode a member, and any member fits.
        let _ = self.swim.apply((*peer).into(), state, true);
    }

    pub(super) fn send(&mut self, to: &Peer, packet: &Packet<'_>) {
        self.outputs.push_back(Output::Send { to: *to, bytes: packet.encode() });
    }

    pub(super) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Every call ends here: what foca decided becomes the list, events, packets.
    pub(super) fn settle(&mut self, now: Mono) {
        loop {
            if let Some(id) = self.swim.out.renewed.take() {
                self.me = id;
                self.event(Event::Renewed(*self.me.peer.as_ref()));
            }
            for node in std::mem::take(&mut self.swim.out.changed) {
                self.reconcile(node, now);
            }
            if self.swim.has_news() && self.spread_next.is_none() {
                self.spread_next =
                    Some(self.spread_last.map_or(now, |last| now.max(last.after(self.options.spread_every))));
            }
            if self.spread_next.is_none_or(|at| at > now) {
                break;
            }
            self.spread_next = None;
            self.spread_last = Some(now);
            // The only way to fail is a member that cannot be encoded.
            let _ = self.swim.gossip();
        }
        for (to, bytes) in std::mem::take(&mut self.swim.out.sends) {
            if !self.banned.contains(&to.node) {
                self.outputs.push_back(Output::Send { to: *to.peer.as_ref(), bytes });
            }
        }
    }

    /// Brings the list to what foca holds of one member.
    fn reconcile(&mut self, node: NodeId, now: Mono) {
        let Some((id, state)) = self.swim.look(node) else { return };
        if node == self.me.node {
            return;
        }
        if self.banned.contains(&node) {
            match state {
                // Somebody who has not heard of the ban spoke of it.
                State::Alive | State::Suspect => self.state_of(&id.peer, State::Down),
                State::Down | State::Left => {}
            }
            self.detector.forget(node);
            self.roll.remove(node);
            return;
        }
        let old = self.roll.get(node).cloned();
        let was_live = self.roll.live(node).is_some();
        if old
            .as_ref()
            .is_some_and(|old| old.peer == *id.peer && (old.state == state || (was_live && state == State::Alive)))
        {
            return;
        }
        let peer = *id.peer.as_ref();
        self.roll.set(Arc::new(Member { peer, state, since: now }));
        self.detector.forget(node);
        self.meet.changed(node, self.options.check_after, now);
        self.rewatch(now);
        match state {
            State::Alive | State::Suspect => {
                self.event(Event::Up(peer));
                self.thaw(now);
            }
            State::Down if was_live => {
                self.event(Event::Down(peer));
                self.rtt.remove(&node);
                if self.freeze.lost(self.roll.alive() + 1, self.options.freeze_window, self.options.freeze_max, now) {
                    self.event(Event::Frozen(true));
                }
            }
            State::Left if was_live => {
                self.event(Event::Left(peer));
                self.rtt.remove(&node);
            }
            State::Down | State::Left => {}
        }
    }

    pub(super) fn thaw(&mut self, now: Mono) {
        if self.freeze.thaws(self.roll.alive() + 1, now) {
            self.event(Event::Frozen(false));
        }
    }

    /// Removes a member that is down or left from the list and from foca's.
    pub(super) fn drop_member(&mut self, node: NodeId) {
        if let Some((id, _)) = self.swim.look(node) {
            // Does nothing but drop the entry.
            let _ = self.swim.drop_down(id);
        }
        self.detector.forget(node);
        self.rtt.remove(&node);
        self.roll.remove(node);
    }
}

//! foca as we use it: of two statements about a member it says which holds, and it remembers whom we never met alive.
//!
//! Its prober and its broadcasts stand still (see the head of `gossip`), so that nothing of foca's travels. It searches
//! its list from the front, and therefore learns of a member only when there is something to decide.

use std::num::NonZeroU8;
use std::time::Duration;

use bytes::{Buf, BufMut};
use foca::{Foca, Header, NoCustomBroadcast, Notification, Runtime, Timer};

use super::{BadPacket, Member, Peer, State};
use crate::id::NodeId;
use crate::rng::Rng;

impl foca::Identity for Peer {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Self { life: self.life.checked_add(1)?, ..*self })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        self.wins_over(other)
    }
}

pub(super) struct Swim {
    foca: Foca<Peer, Silence, Rng, NoCustomBroadcast>,
}

impl Swim {
    pub(super) fn new(me: Peer, rng: Rng) -> Self {
        let config = foca::Config {
            max_transmissions: NonZeroU8::MIN,
            remove_down_after: None,
            notify_down_members: false,
            periodic_announce: None,
            periodic_announce_to_down_members: None,
            periodic_gossip: None,
            ..foca::Config::simple()
        };
        Self { foca: Foca::new(me, config, rng, Silence) }
    }

    /// Whether a statement about a member other than us changes what is held of it; the statement then holds. A death
    /// of a stranger changes nothing, but is remembered: that life is not believed any more.
    pub(super) fn is_new(&mut self, ours: Option<&Member>, peer: Peer, state: State) -> bool {
        if let Some(ours) = ours {
            self.apply(ours.peer, ours.state);
        }
        self.apply(peer, state)
    }

    fn apply(&mut self, peer: Peer, state: State) -> bool {
        let member = match state {
            State::Alive | State::Suspect => foca::Member::alive(peer),
            State::Down | State::Left => foca::Member::down(peer),
        };
        let mut noticed = Noticed(false);
        // It fails only where something must be encoded, and nothing is.
        self.foca.apply_many(std::iter::once(member), false, &mut noticed).is_ok() && noticed.0
    }

    /// Forgets a node that is down, so that even the same life may come back.
    pub(super) fn forget(&mut self, node: NodeId) {
        let known = self.foca.iter_membership_state().find(|member| member.id().node == node);
        if let Some(peer) = known.map(|member| *member.id()) {
            // Does nothing but drop the entry, if it is down.
            let _ = self.foca.handle_timer(Timer::RemoveDown(peer), &mut Noticed(false));
        }
    }
}

/// Whether foca noticed that a member changed.
struct Noticed(bool);

impl Runtime<Peer> for Noticed {
    fn notify(&mut self, notification: Notification<'_, Peer>) {
        self.0 |= match notification {
            Notification::MemberUp(_) | Notification::MemberDown(_) | Notification::Rename(..) => true,
            Notification::Rejoin(_)
            | Notification::Active
            | Notification::Idle
            | Notification::Defunct
            | Notification::DataReceived(_)
            | Notification::DataSent(_)
            | Notification::ProbeFailed(..) => false,
        };
    }

    fn send_to(&mut self, _: Peer, _: &[u8]) {}

    fn submit_after(&mut self, _: Timer<Peer>, _: Duration) {}
}

/// What foca would write and read: nothing.
struct Silence;

const UNUSED: BadPacket = BadPacket::Value("a packet of foca, which is not used");

impl foca::Codec<Peer> for Silence {
    type Error = BadPacket;

    fn encode_header(&mut self, _: &Header<Peer>, _: impl BufMut) -> Result<(), BadPacket> {
        Err(UNUSED)
    }

    fn decode_header(&mut self, _: impl Buf) -> Result<Header<Peer>, BadPacket> {
        Err(UNUSED)
    }

    fn encode_member(&mut self, _: &foca::Member<Peer>, _: impl BufMut) -> Result<(), BadPacket> {
        Err(UNUSED)
    }

    fn decode_member(&mut self, _: impl Buf) -> Result<foca::Member<Peer>, BadPacket> {
        Err(UNUSED)
    }
}

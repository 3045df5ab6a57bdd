//! foca as we use it: it keeps the list, decides which statement about a member holds, spreads changes, and takes a new
//! life when others have given us up. Its prober stands still (see the head of `gossip`).
//!
//! Knows no time: none of foca's timers is kept, because all of them belong to what it does not do here.

use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use bytes::Bytes;
use foca::{Foca, NoCustomBroadcast, Notification, Runtime, Timer};

use super::codec::{Codec, member_of, state_of};
use super::options::Options;
use super::packet::Packet;
use super::peer::Id;
use super::{BadPacket, State};
use crate::id::NodeId;
use crate::rng::Rng;

/// How many are sent each round of news.
pub(super) const FAN_OUT: usize = 3;

/// What foca wants done and what it noticed.
#[derive(Default)]
pub(super) struct Out {
    pub(super) sends: Vec<(Id, Bytes)>,
    /// Members whose life or state is another.
    pub(super) changed: Vec<NodeId>,
    pub(super) renewed: Option<Id>,
}

impl Runtime<Id> for Out {
    fn notify(&mut self, notification: Notification<'_, Id>) {
        match notification {
            Notification::MemberUp(id) | Notification::MemberDown(id) | Notification::Rename(_, id) => {
                if !self.changed.contains(&id.node) {
                    self.changed.push(id.node);
                }
            }
            Notification::Rejoin(id) => self.renewed = Some(id.clone()),
            Notification::Active
            | Notification::Idle
            | Notification::Defunct
            | Notification::DataReceived(_)
            | Notification::DataSent(_)
            | Notification::ProbeFailed(..) => {}
        }
    }

    fn send_to(&mut self, to: Id, data: &[u8]) {
        self.sends.push((to, Packet::Swim(data).encode()));
    }

    fn submit_after(&mut self, _: Timer<Id>, _: Duration) {}
}

pub(super) struct Swim {
    foca: Foca<Id, Codec, Rng, NoCustomBroadcast>,
    pub(super) out: Out,
}

impl Swim {
    pub(super) fn new(me: Id, options: &Options, rng: Rng) -> Self {
        let copies = usize::from(options.spread_rounds.max(1)) * FAN_OUT;
        let config = foca::Config {
            num_indirect_probes: NonZeroUsize::new(FAN_OUT).unwrap_or(NonZeroUsize::MIN),
            max_transmissions: u8::try_from(copies).ok().and_then(NonZeroU8::new).unwrap_or(NonZeroU8::MIN),
            // One byte goes to the kind. Never changed later: foca would panic in debug builds.
            max_packet_size: NonZeroUsize::new(options.packet_max.saturating_sub(1)).unwrap_or(NonZeroUsize::MIN),
            remove_down_after: None,
            notify_down_members: true,
            periodic_announce: None,
            periodic_announce_to_down_members: None,
            periodic_gossip: None,
            ..foca::Config::simple()
        };
        Self { foca: Foca::new(me, config, rng, Codec), out: Out::default() }
    }

    /// States something of a member. `spread`: the others are to hear of it if it is new.
    pub(super) fn apply(&mut self, id: Id, state: State, spread: bool) -> Result<(), BadPacket> {
        let update = std::iter::once(member_of(id, state));
        self.foca.apply_many(update, spread, &mut self.out).map_err(refused)
    }

    /// Takes over a whole list without a word to anyone.
    pub(super) fn preload(&mut self, ids: impl Iterator<Item = Id>) -> Result<(), BadPacket> {
        let done = self.foca.apply_many(ids.map(|id| member_of(id, State::Alive)), false, &mut self.out);
        self.out = Out::default();
        done.map_err(refused)
    }

    pub(super) fn handle(&mut self, bytes: &[u8]) -> Result<(), BadPacket> {
        self.foca.handle_data(bytes, &mut self.out).map_err(refused)
    }

    /// One round of news.
    pub(super) fn gossip(&mut self) -> Result<(), BadPacket> {
        self.foca.gossip(&mut self.out).map_err(refused)
    }

    pub(super) fn has_news(&self) -> bool {
        self.foca.updates_backlog() > 0
    }

    /// Takes a new life. The old one is declared down on the way.
    pub(super) fn become_peer(&mut self, id: Id) -> Result<(), BadPacket> {
        self.foca.change_identity(id.clone(), &mut self.out).map_err(refused)?;
        self.out.renewed = Some(id);
        Ok(())
    }

    /// What foca holds of a node. A search through the list.
    pub(super) fn look(&self, node: NodeId) -> Option<(Id, State)> {
        let member = self.foca.iter_membership_state().find(|member| member.id().node == node)?;
        Some((member.id().clone(), state_of(member)))
    }

    /// Drops a member that is down, so that even the same life may come back.
    pub(super) fn drop_down(&mut self, id: Id) -> Result<(), BadPacket> {
        self.foca.handle_timer(Timer::RemoveDown(id), &mut self.out).map_err(refused)
    }
}

fn refused(error: foca::Error) -> BadPacket {
    BadPacket::Refused(error.to_string())
}

//! The packets of membership: beats, pings, requests to ping for another, introductions, lists, a farewell, and foca's.
//!
//! Knows no member list. The first byte is the kind; which version of all this is spoken is settled by the transport
//! when it connects.

use bytes::{Buf as _, BufMut as _, Bytes};

use super::codec::{get_peer, get_state, get_u8, get_u32, get_u64, put_peer, put_state};
use super::peer::Peer;
use super::{BadPacket, State};
use crate::id::NodeId;

/// The kind of foca's packets.
pub(super) const SWIM: u8 = 0;

/// The most bytes that one entry of a list takes: an IPv6 peer with the largest numbers, and its state.
const ENTRY_MAX: usize = 8 + 1 + 16 + 2 + 10 + 5 + 1;

/// A view in eight bytes. Two nodes of equal views have equal digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View {
    /// Which life of itself and of the receiver the sender has in mind.
    pub(super) pair: u32,
    /// Everyone alive, the sender included.
    pub(super) digest: u32,
}

/// Why a list is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// What changed of late; each entry is news.
    News,
    /// Everything, as an answer.
    All,
    /// Everything, and the receiver's list is wanted too.
    AllAndYours,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    /// foca's, without the kind.
    Swim(&'a [u8]),
    Ping(View),
    Ack(View),
    /// Please ping this one for me.
    Ask(NodeId),
    /// It answered me.
    Reached(NodeId),
    /// It did not.
    Silent(NodeId),
    /// Who I am, and what I believe of you. `join`: send me your list.
    Intro {
        join: bool,
        me: Peer,
        you: Option<(Peer, State)>,
    },
    List {
        why: Why,
        entries: Vec<(Peer, State)>,
    },
    Leave(Peer),
    /// I live. The transport tells whether it arrived, so no answer is wanted.
    Beat(View),
}

impl<'a> Packet<'a> {
    pub(super) fn encode(&self) -> Bytes {
        let mut buf = Vec::with_capacity(64);
        match self {
            Self::Swim(bytes) => {
                buf.put_u8(SWIM);
                buf.put_slice(bytes);
            }
            Self::Ping(view) => put_view(&mut buf, 1, *view),
            Self::Ack(view) => put_view(&mut buf, 2, *view),
            Self::Ask(node) => put_node(&mut buf, 3, *node),
            Self::Reached(node) => put_node(&mut buf, 4, *node),
            Self::Silent(node) => put_node(&mut buf, 5, *node),
            Self::Intro { join, me, you } => {
                buf.put_u8(6);
                buf.put_u8(u8::from(*join) | u8::from(you.is_some()) << 1);
                put_peer(&mut buf, me);
                if let Some((peer, state)) = you {
                    put_peer(&mut buf, peer);
                    put_state(&mut buf, *state);
                }
            }
            Self::List { why, entries } => {
                buf.put_u8(7);
                buf.put_u8(match why {
                    Why::News => 0,
                    Why::All => 1,
                    Why::AllAndYours => 2,
                });
                for (peer, state) in entries {
                    put_peer(&mut buf, peer);
                    put_state(&mut buf, *state);
                }
            }
            Self::Leave(me) => {
                buf.put_u8(8);
                put_peer(&mut buf, me);
            }
            Self::Beat(view) => put_view(&mut buf, 9, *view),
        }
        buf.into()
    }

    pub(super) fn decode(mut bytes: &'a [u8]) -> Result<Self, BadPacket> {
        let buf = &mut bytes;
        let packet = match get_u8(buf).map_err(|_| BadPacket::Empty)? {
            SWIM => return Ok(Self::Swim(buf)),
            1 => Self::Ping(get_view(buf)?),
            2 => Self::Ack(get_view(buf)?),
            3 => Self::Ask(NodeId(get_u64(buf)?)),
            4 => Self::Reached(NodeId(get_u64(buf)?)),
            5 => Self::Silent(NodeId(get_u64(buf)?)),
            6 => {
                let flags = get_u8(buf)?;
                if flags > 3 {
                    return Err(BadPacket::Value("the flags of an introduction"));
                }
                let me = get_peer(buf)?;
                let you = if flags & 2 == 0 { None } else { Some((get_peer(buf)?, get_state(buf)?)) };
                Self::Intro { join: flags & 1 == 1, me, you }
            }
            7 => {
                let why = match get_u8(buf)? {
                    0 => Why::News,
                    1 => Why::All,
                    2 => Why::AllAndYours,
                    _ => return Err(BadPacket::Value("the reason of a list")),
                };
                let mut entries = Vec::new();
                while buf.has_remaining() {
                    let peer = get_peer(buf)?;
                    entries.push((peer, get_state(buf)?));
                }
                Self::List { why, entries }
            }
            8 => Self::Leave(get_peer(buf)?),
            9 => Self::Beat(get_view(buf)?),
            kind => return Err(BadPacket::Kind(kind)),
        };
        match bytes.len() {
            0 => Ok(packet),
            left => Err(BadPacket::Trailing(left)),
        }
    }

    /// How many entries fit into one list.
    pub(super) fn entries_max(packet_max: usize) -> usize {
        (packet_max.saturating_sub(2) / ENTRY_MAX).max(1)
    }
}

fn put_view(buf: &mut Vec<u8>, kind: u8, view: View) {
    buf.put_u8(kind);
    buf.put_u32(view.pair);
    buf.put_u32(view.digest);
}

fn get_view(buf: &mut &[u8]) -> Result<View, BadPacket> {
    Ok(View { pair: get_u32(buf)?, digest: get_u32(buf)? })
}

fn put_node(buf: &mut Vec<u8>, kind: u8, node: NodeId) {
    buf.put_u8(kind);
    buf.put_u64(node.0);
}

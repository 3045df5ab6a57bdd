//! The packets of membership: beats, pings, requests to ping for another, introductions, news, lists, a farewell.
//!
//! Knows no member list. The first byte is the kind; which version of all this is spoken is settled by the transport
//! when it connects.

use bytes::{Buf as _, BufMut as _, Bytes};

use super::codec::{get_peer, get_state, get_u8, get_u32, get_u64, put_peer, put_state};
use super::{BadPacket, Peer, State};
use crate::id::NodeId;

/// Into how many groups members are summed up at most: a packet holds so many sums.
pub(super) const GROUPS_MAX: usize = 256;

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

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Packet {
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
    /// All that I hold of some members, or of all.
    List(Vec<(Peer, State)>),
    Leave(Peer),
    /// I live. The transport tells whether it arrived, so no answer is wanted.
    Beat(View),
    /// News of a member, to be passed on to all between you and `until`.
    Tell {
        peer: Peer,
        state: State,
        until: NodeId,
    },
    /// The receipt for one of these.
    Told(u32),
    /// My view in parts, a power of two of them. `answer`: send me yours.
    Sums {
        answer: bool,
        sums: Vec<u32>,
    },
}

impl Packet {
    pub(super) fn encode(&self) -> Bytes {
        let mut buf = Vec::with_capacity(64);
        match self {
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
            Self::List(entries) => {
                buf.put_u8(7);
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
            Self::Tell { peer, state, until } => {
                buf.put_u8(10);
                put_peer(&mut buf, peer);
                put_state(&mut buf, *state);
                buf.put_u64(until.0);
            }
            Self::Told(sign) => {
                buf.put_u8(11);
                buf.put_u32(*sign);
            }
            Self::Sums { answer, sums } => {
                buf.put_u8(12);
                buf.put_u8(u8::from(*answer));
                sums.iter().for_each(|sum| buf.put_u32(*sum));
            }
        }
        buf.into()
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Result<Self, BadPacket> {
        let buf = &mut bytes;
        let packet = match get_u8(buf).map_err(|_| BadPacket::Empty)? {
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
                let mut entries = Vec::new();
                while buf.has_remaining() {
                    let peer = get_peer(buf)?;
                    entries.push((peer, get_state(buf)?));
                }
                Self::List(entries)
            }
            8 => Self::Leave(get_peer(buf)?),
            9 => Self::Beat(get_view(buf)?),
            10 => Self::Tell { peer: get_peer(buf)?, state: get_state(buf)?, until: NodeId(get_u64(buf)?) },
            11 => Self::Told(get_u32(buf)?),
            12 => {
                let answer = match get_u8(buf)? {
                    0 => false,
                    1 => true,
                    _ => return Err(BadPacket::Value("whether sums are wanted")),
                };
                let mut sums = Vec::new();
                while buf.has_remaining() {
                    sums.push(get_u32(buf)?);
                }
                if !sums.len().is_power_of_two() || sums.len() > GROUPS_MAX {
                    return Err(BadPacket::Value("a number of sums"));
                }
                Self::Sums { answer, sums }
            }
            kind => return Err(BadPacket::Kind(kind)),
        };
        match bytes.len() {
            0 => Ok(packet),
            left => Err(BadPacket::Trailing(left)),
        }
    }

    /// How many entries fit into one list.
    pub(super) fn entries_max(packet_max: usize) -> usize {
        (packet_max.saturating_sub(1) / ENTRY_MAX).max(1)
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

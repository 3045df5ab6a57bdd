//! The bytes of a membership packet, for foca and for the packets that we make ourselves.
//!
//! Fixed widths, big-endian. A packet is a header and, after some messages, a count and that many members.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use foca::{Header, Member, Message, State};

use super::Peer;
use crate::id::NodeId;

/// Why a packet was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPacket {
    /// Longer than is ever sent.
    #[error("the packet has {found} bytes; allowed are at most {limit}")]
    TooLong {
        /// How long it is.
        found: usize,
        /// How long it may be.
        limit: usize,
    },
    /// It ends in the middle of something.
    #[error("the packet ends too early")]
    Short,
    /// It goes on after its end.
    #[error("the packet has {0} bytes after its end")]
    Trailing(usize),
    /// A byte that stands for nothing.
    #[error("{what} is {found}, which is not known")]
    Unknown {
        /// What it should be.
        what: &'static str,
        /// What it is.
        found: u8,
    },
    /// It claims to be from somebody else.
    #[error("the packet claims to be from {claimed} and came from {proven}")]
    OtherSender {
        /// What it says.
        claimed: NodeId,
        /// What the transport proved.
        proven: NodeId,
    },
    /// Its sender was removed.
    #[error("{0} was removed from the cluster")]
    Banned(NodeId),
    /// foca refuses it.
    #[error("{0}")]
    Protocol(String),
}

/// No buffer left: foca then sends what fits.
const FULL: BadPacket = BadPacket::Short;

/// The longest peer: node, start, life, family, IPv6 address, port.
const PEER_MAX: usize = 8 + 8 + 4 + 1 + 16 + 2;

/// The format of foca's messages here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Codec;

impl foca::Codec<Peer> for Codec {
    type Error = BadPacket;

    fn encode_header(&mut self, header: &Header<Peer>, buf: impl BufMut) -> Result<(), BadPacket> {
        put_header(header, buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Peer>, BadPacket> {
        get_header(buf)
    }

    fn encode_member(&mut self, member: &Member<Peer>, buf: impl BufMut) -> Result<(), BadPacket> {
        put_member(member, buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Peer>, BadPacket> {
        get_member(buf)
    }
}

/// Reads a whole packet without believing it.
pub(super) fn parse(bytes: &[u8], limit: usize) -> Result<(Header<Peer>, Vec<Member<Peer>>), BadPacket> {
    if bytes.len() > limit {
        return Err(BadPacket::TooLong { found: bytes.len(), limit });
    }
    let mut rest = bytes;
    let header = get_header(&mut rest)?;
    let mut members = Vec::new();
    if rest.has_remaining() {
        let count = need(&rest, 2).map(|()| rest.get_u16())?;
        for _ in 0..count {
            members.push(get_member(&mut rest)?);
        }
    }
    match rest.remaining() {
        0 => Ok((header, members)),
        more => Err(BadPacket::Trailing(more)),
    }
}

/// A packet of our own; the caller keeps `updates` to a handful.
pub(super) fn packet(header: &Header<Peer>, updates: &[Member<Peer>]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(128);
    // A growing buffer is never full.
    let _ = put_header(header, &mut bytes);
    if !updates.is_empty() {
        bytes.put_u16(u16::try_from(updates.len()).unwrap_or(u16::MAX));
        for member in updates {
            let _ = put_member(member, &mut bytes);
        }
    }
    bytes.freeze()
}

fn need(buf: &impl Buf, bytes: usize) -> Result<(), BadPacket> {
    if buf.remaining() < bytes { Err(BadPacket::Short) } else { Ok(()) }
}

fn put_peer(peer: &Peer, mut buf: impl BufMut) {
    buf.put_u64(peer.node.0);
    buf.put_u64(peer.start);
    buf.put_u32(peer.life);
    match peer.address.ip() {
        IpAddr::V4(ip) => {
            buf.put_u8(4);
            buf.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            buf.put_u8(6);
            buf.put_slice(&ip.octets());
        }
    }
    buf.put_u16(peer.address.port());
}

fn get_peer(mut buf: impl Buf) -> Result<Peer, BadPacket> {
    need(&buf, 21)?;
    let (node, start, life) = (NodeId(buf.get_u64()), buf.get_u64(), buf.get_u32());
    let ip = match buf.get_u8() {
        4 => {
            need(&buf, 4)?;
            IpAddr::V4(Ipv4Addr::from(buf.get_u32()))
        }
        6 => {
            need(&buf, 16)?;
            IpAddr::V6(Ipv6Addr::from(buf.get_u128()))
        }
        found => return Err(BadPacket::Unknown { what: "an address family", found }),
    };
    need(&buf, 2)?;
    Ok(Peer { node, address: SocketAddr::new(ip, buf.get_u16()), start, life })
}

fn put_member(member: &Member<Peer>, mut buf: impl BufMut) -> Result<(), BadPacket> {
    if buf.remaining_mut() < PEER_MAX + 3 {
        return Err(FULL);
    }
    put_peer(member.id(), &mut buf);
    buf.put_u16(member.incarnation());
    buf.put_u8(match member.state() {
        State::Alive => 0,
        State::Suspect => 1,
        State::Down => 2,
    });
    Ok(())
}

fn get_member(mut buf: impl Buf) -> Result<Member<Peer>, BadPacket> {
    let peer = get_peer(&mut buf)?;
    need(&buf, 3)?;
    let incarnation = buf.get_u16();
    let state = match buf.get_u8() {
        0 => State::Alive,
        1 => State::Suspect,
        2 => State::Down,
        found => return Err(BadPacket::Unknown { what: "a state", found }),
    };
    Ok(Member::new(peer, incarnation, state))
}

fn put_header(header: &Header<Peer>, mut buf: impl BufMut) -> Result<(), BadPacket> {
    if buf.remaining_mut() < 3 * PEER_MAX + 4 {
        return Err(FULL);
    }
    put_peer(&header.src, &mut buf);
    buf.put_u16(header.src_incarnation);
    put_peer(&header.dst, &mut buf);
    let mut about = |kind: u8, peer: Option<&Peer>, number: Option<u8>| {
        buf.put_u8(kind);
        if let Some(number) = number {
            buf.put_u8(number);
        }
        if let Some(peer) = peer {
            put_peer(peer, &mut buf);
        }
    };
    match &header.message {
        Message::Ping(number) => about(0, None, Some(*number)),
        Message::Ack(number) => about(1, None, Some(*number)),
        Message::PingReq { target, probe_number } => about(2, Some(target), Some(*probe_number)),
        Message::IndirectPing { origin, probe_number } => about(3, Some(origin), Some(*probe_number)),
        Message::IndirectAck { target, probe_number } => about(4, Some(target), Some(*probe_number)),
        Message::ForwardedAck { origin, probe_number } => about(5, Some(origin), Some(*probe_number)),
        Message::Announce => about(6, None, None),
        Message::Feed => about(7, None, None),
        Message::Gossip => about(8, None, None),
        Message::Broadcast => about(9, None, None),
        Message::TurnUndead => about(10, None, None),
    }
    Ok(())
}

fn get_header(mut buf: impl Buf) -> Result<Header<Peer>, BadPacket> {
    let src = get_peer(&mut buf)?;
    need(&buf, 2)?;
    let src_incarnation = buf.get_u16();
    let dst = get_peer(&mut buf)?;
    need(&buf, 1)?;
    let kind = buf.get_u8();
    let mut probe_number = 0;
    if kind <= 5 {
        need(&buf, 1)?;
        probe_number = buf.get_u8();
    }
    let message = match kind {
        0 => Message::Ping(probe_number),
        1 => Message::Ack(probe_number),
        2 => Message::PingReq { target: get_peer(&mut buf)?, probe_number },
        3 => Message::IndirectPing { origin: get_peer(&mut buf)?, probe_number },
        4 => Message::IndirectAck { target: get_peer(&mut buf)?, probe_number },
        5 => Message::ForwardedAck { origin: get_peer(&mut buf)?, probe_number },
        6 => Message::Announce,
        7 => Message::Feed,
        8 => Message::Gossip,
        9 => Message::Broadcast,
        10 => Message::TurnUndead,
        found => return Err(BadPacket::Unknown { what: "a message", found }),
    };
    Ok(Header { src, src_incarnation, dst, message })
}

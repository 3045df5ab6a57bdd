//! Peers, states and foca's packets as bytes: compact, checked in full before anything acts on them.
//!
//! Knows no member list. Every reader refuses what is too short, what is not a value, and what is left over; none takes
//! memory for a length that a packet merely claims.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut};
use foca::{Header, Message};

use super::peer::{Id, Peer};
use super::{BadPacket, State};
use crate::id::NodeId;

/// foca knows no leaving: a member that left is down in its highest incarnation, which nothing else uses here.
pub(super) const LEFT: u16 = u16::MAX;

pub(super) fn put_peer(buf: &mut Vec<u8>, peer: &Peer) {
    buf.put_u64(peer.node.0);
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
    put_number(buf, peer.start);
    put_number(buf, u64::from(peer.life));
}

pub(super) fn get_peer(buf: &mut impl Buf) -> Result<Peer, BadPacket> {
    let node = NodeId(get_u64(buf)?);
    let ip = match get_u8(buf)? {
        4 => IpAddr::V4(Ipv4Addr::from(buf.try_get_u32().map_err(|_| BadPacket::Short)?)),
        6 => IpAddr::V6(Ipv6Addr::from(buf.try_get_u128().map_err(|_| BadPacket::Short)?)),
        _ => return Err(BadPacket::Value("the family of an address")),
    };
    let port = buf.try_get_u16().map_err(|_| BadPacket::Short)?;
    let start = get_number(buf)?;
    let life = u32::try_from(get_number(buf)?).map_err(|_| BadPacket::Value("a life"))?;
    Ok(Peer { node, address: SocketAddr::new(ip, port), start, life })
}

/// A suspicion is nobody's news: the suspect is alive until it is down.
pub(super) fn put_state(buf: &mut Vec<u8>, state: State) {
    buf.put_u8(match state {
        State::Alive | State::Suspect => 0,
        State::Down => 1,
        State::Left => 2,
    });
}

pub(super) fn get_state(buf: &mut impl Buf) -> Result<State, BadPacket> {
    match get_u8(buf)? {
        0 => Ok(State::Alive),
        1 => Ok(State::Down),
        2 => Ok(State::Left),
        _ => Err(BadPacket::Value("a state")),
    }
}

pub(super) fn get_u8(buf: &mut impl Buf) -> Result<u8, BadPacket> {
    buf.try_get_u8().map_err(|_| BadPacket::Short)
}

pub(super) fn get_u32(buf: &mut impl Buf) -> Result<u32, BadPacket> {
    buf.try_get_u32().map_err(|_| BadPacket::Short)
}

pub(super) fn get_u64(buf: &mut impl Buf) -> Result<u64, BadPacket> {
    buf.try_get_u64().map_err(|_| BadPacket::Short)
}

/// Seven bits a byte, lowest first; the high bit says that more follow.
fn put_number(buf: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        buf.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    buf.put_u8(number as u8);
}

fn get_number(buf: &mut impl Buf) -> Result<u64, BadPacket> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = get_u8(buf)?;
        let bits = u64::from(byte & 0x7f);
        if (bits << shift) >> shift != bits || (byte == 0 && shift > 0) {
            return Err(BadPacket::Value("a number"));
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(BadPacket::Value("a number"))
}

/// What foca writes and reads. Of its messages only two are used: the others belong to its prober, which never runs.
#[derive(Debug)]
pub(super) struct Codec;

impl foca::Codec<Id> for Codec {
    type Error = BadPacket;

    fn encode_header(&mut self, header: &Header<Id>, buf: impl BufMut) -> Result<(), BadPacket> {
        let kind = match &header.message {
            Message::Gossip => 0,
            Message::TurnUndead => 1,
            Message::Ping(_)
            | Message::Ack(_)
            | Message::PingReq { .. }
            | Message::IndirectPing { .. }
            | Message::IndirectAck { .. }
            | Message::ForwardedAck { .. }
            | Message::Announce
            | Message::Feed
            | Message::Broadcast => return Err(BadPacket::Value("a message of foca that is not used")),
        };
        let mut bytes = vec![kind];
        put_peer(&mut bytes, &header.src.peer);
        put_peer(&mut bytes, &header.dst.peer);
        put_whole(&bytes, buf)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Id>, BadPacket> {
        let message = match get_u8(&mut buf)? {
            0 => Message::Gossip,
            1 => Message::TurnUndead,
            _ => return Err(BadPacket::Value("a message of foca")),
        };
        let src = get_peer(&mut buf)?.into();
        let dst = get_peer(&mut buf)?.into();
        Ok(Header { src, src_incarnation: 0, dst, message })
    }

    fn encode_member(&mut self, member: &foca::Member<Id>, buf: impl BufMut) -> Result<(), BadPacket> {
        let mut bytes = Vec::with_capacity(32);
        put_peer(&mut bytes, &member.id().peer);
        put_state(&mut bytes, state_of(member));
        put_whole(&bytes, buf)
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<foca::Member<Id>, BadPacket> {
        let peer = get_peer(&mut buf)?;
        Ok(member_of(peer.into(), get_state(&mut buf)?))
    }
}

/// All or nothing: foca goes on with the buffer as it is when an item does not fit.
fn put_whole(bytes: &[u8], mut buf: impl BufMut) -> Result<(), BadPacket> {
    if buf.remaining_mut() < bytes.len() {
        return Err(BadPacket::Short);
    }
    buf.put_slice(bytes);
    Ok(())
}

pub(super) fn state_of(member: &foca::Member<Id>) -> State {
    match member.state() {
        foca::State::Alive => State::Alive,
        foca::State::Suspect => State::Suspect,
        foca::State::Down if member.incarnation() == LEFT => State::Left,
        foca::State::Down => State::Down,
    }
}

pub(super) fn member_of(id: Id, state: State) -> foca::Member<Id> {
    match state {
        State::Alive | State::Suspect => foca::Member::new(id, 0, foca::State::Alive),
        State::Down => foca::Member::new(id, 0, foca::State::Down),
        State::Left => foca::Member::new(id, LEFT, foca::State::Down),
    }
}

/// Reads a packet of foca from end to end before foca sees it: who sent it and whom it speaks of.
pub(super) fn read_swim(mut bytes: &[u8]) -> Result<(Peer, Vec<(Peer, State)>), BadPacket> {
    use foca::Codec as _;
    let header = Codec.decode_header(&mut bytes)?;
    let mut news = Vec::new();
    if header.message == Message::Gossip {
        let count = bytes.try_get_u16().map_err(|_| BadPacket::Short)?;
        for _ in 0..count {
            let peer = get_peer(&mut bytes)?;
            news.push((peer, get_state(&mut bytes)?));
        }
    }
    match bytes.len() {
        0 => Ok((*header.src.peer.as_ref(), news)),
        left => Err(BadPacket::Trailing(left)),
    }
}

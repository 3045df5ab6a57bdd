//! Peers and states as bytes: compact, checked in full before anything acts on them.
//!
//! Knows no member list. Every reader refuses what is too short and what is not a value.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut};

use super::{BadPacket, Peer, State};
use crate::id::NodeId;

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

//! The introduction: the first message on every connection, both ways, before anything else.
//!
//! The certificate says which node it is and the introduction the rest; where the two contradict each other, the
//! connection ends. Knows nothing of what is sent afterwards.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::Connection;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::close::{Code, DialError};
use super::frame::{self, FrameError, MESSAGE_TIME};
use super::trust;
use crate::id::{NodeId, NodeName};
use crate::time::Wall;
use crate::wire;

/// The longest introduction in bytes: a name of 60 bytes and a version of 64 make about 170; the rest is room for later
/// kinds.
const HELLO_MAX: usize = 1024;

/// The longest version in bytes: a release, a commit and a date fit.
const VERSION_MAX: usize = 64;

/// How a node introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Its identity, the same as in its certificate.
    pub node: NodeId,
    /// What people call it.
    pub name: NodeName,
    /// Where others reach it. A port of 0 is replaced by the one that is bound.
    pub address: SocketAddr,
    /// Which start of the node this is: another number is another process.
    pub start: u64,
    /// The release that it runs: 1 to 64 printable characters of ASCII, since it is shown to people.
    pub version: String,
    /// The TCP port of its HTTP listener, where a line is kept to it ([`super::Transport::watch`]); 0 if it cannot be
    /// reached there.
    pub http: u16,
    /// Its wall clock when it sent this; filled in by the transport.
    pub wall: Wall,
}

/// What the wire carries. Grows at the end only.
#[derive(Debug, Serialize, Deserialize)]
enum Greeting {
    Hello(Hello),
}

/// A peer as it introduced itself, and what was seen of it. Reads like its [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// What it said.
    pub hello: Hello,
    /// Where its packets come from; differs from the advertised address behind NAT.
    pub seen: SocketAddr,
    /// How far its wall clock is ahead of ours, in milliseconds.
    pub clock_offset_ms: i64,
}

impl Deref for PeerInfo {
    type Target = Hello;
    fn deref(&self) -> &Hello {
        &self.hello
    }
}

/// How far a clock was ahead that showed `sent` when a message left and the message came when ours showed `received`,
/// in milliseconds. Half of the round trip is taken for the way; the error is at most the other half.
#[must_use]
pub fn clock_offset_ms(sent: Wall, received: Wall, rtt: Duration) -> i64 {
    let way = i128::try_from(rtt.as_millis() / 2).unwrap_or(0);
    let offset = i128::from(sent.0) + way - i128::from(received.0);
    i64::try_from(offset).unwrap_or(if offset < 0 { i64::MIN } else { i64::MAX })
}

/// Introduces this node to the one that it dialled, and reads the answer.
pub(super) async fn greet(
    connection: &Connection,
    own: &Hello,
    expected: Option<NodeId>,
    clock: &(dyn Fn() -> Wall + Send + Sync),
) -> Result<PeerInfo, DialError> {
    let found = certified(connection)?;
    if let Some(expected) = expected.filter(|expected| *expected != found) {
        connection.close(Code::Unused.number(), format!("node {expected} was dialled").as_bytes());
        return Err(DialError::OtherNode { expected, found });
    }
    let (mut send, mut receive) = connection.open_bi().await.map_err(|error| DialError::of(&error))?;
    let hello = Greeting::Hello(Hello { wall: clock(), ..own.clone() });
    write(connection, &mut send, &hello).await?;
    let hello = read(connection, &mut receive).await?;
    check(connection, found, own, &hello)?;
    Ok(info(connection, hello, clock()))
}

/// Waits for the introduction of a node that dialled, and answers. A banned node is told so and nothing else, and so is
/// one whose id another process uses.
pub(super) async fn answer(
    connection: &Connection,
    own: &Hello,
    is_banned: impl FnOnce(NodeId) -> bool,
    is_rival: impl FnOnce(&Hello) -> bool,
    clock: &(dyn Fn() -> Wall + Send + Sync),
) -> Result<PeerInfo, DialError> {
    let found = certified(connection)?;
    if is_banned(found) {
        connection.close(Code::Banned.number(), b"this node was removed from the cluster");
        return Err(DialError::BannedThere(found));
    }
    let (mut send, mut receive) = connection.accept_bi().await.map_err(|error| DialError::of(&error))?;
    let hello = read(connection, &mut receive).await?;
    let received = clock();
    check(connection, found, own, &hello)?;
    if is_rival(&hello) {
        connection.close(Code::Copied.number(), DialError::Copied.to_string().as_bytes());
        return Err(DialError::Copied);
    }
    write(connection, &mut send, &Greeting::Hello(Hello { wall: clock(), ..own.clone() })).await?;
    Ok(info(connection, hello, received))
}

/// The node that the certificate of the other side was made for. TLS has checked the certificate.
fn certified(connection: &Connection) -> Result<NodeId, DialError> {
    let chain = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let node = chain.as_deref().and_then(|chain| chain.first()).and_then(trust::node_of);
    node.ok_or_else(|| refuse(connection, Code::Misbehaved, "its certificate names no node"))
}

fn check(connection: &Connection, found: NodeId, own: &Hello, hello: &Hello) -> Result<(), DialError> {
    if hello.node != found {
        let why = format!("it calls itself node {} and its certificate is that of node {found}", hello.node);
        return Err(refuse(connection, Code::Misbehaved, &why));
    }
    let is_version =
        (1..=VERSION_MAX).contains(&hello.version.len()) && hello.version.bytes().all(|b| b.is_ascii_graphic());
    if !is_version {
        let why = format!("its version is not one: allowed are 1 to {VERSION_MAX} printable characters of ASCII");
        return Err(refuse(connection, Code::Misbehaved, &why));
    }
    if hello.node != own.node {
        return Ok(());
    }
    let (code, error) =
        if hello.start == own.start { (Code::Myself, DialError::Myself) } else { (Code::Copied, DialError::Copied) };
    connection.close(code.number(), error.to_string().as_bytes());
    Err(error)
}

fn info(connection: &Connection, hello: Hello, received: Wall) -> PeerInfo {
    let clock_offset_ms = clock_offset_ms(hello.wall, received, connection.rtt());
    PeerInfo { clock_offset_ms, seen: seen(connection), hello }
}

/// Where the packets of a connection come from; an IPv4 address is one also on a socket for both families.
pub(super) fn seen(connection: &Connection) -> SocketAddr {
    let address = connection.remote_address();
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

async fn write(connection: &Connection, send: &mut quinn::SendStream, greeting: &Greeting) -> Result<(), DialError> {
    let bytes = wire::encode(greeting).map_err(|error| DialError::Failed(error.to_string()))?;
    frame::write(send, &Bytes::from(bytes)).await.map_err(|error| failed(connection, &error))
}

async fn read(connection: &Connection, receive: &mut quinn::RecvStream) -> Result<Hello, DialError> {
    let budget = Arc::new(Semaphore::new(HELLO_MAX));
    let bytes = frame::read(receive, HELLO_MAX, &budget, MESSAGE_TIME).await;
    let bytes = bytes.map_err(|error| failed(connection, &error))?;
    match wire::decode::<Greeting, HELLO_MAX>(&bytes) {
        Ok(Greeting::Hello(hello)) => Ok(hello),
        Err(error) => Err(refuse(connection, Code::Misbehaved, &error.to_string())),
    }
}

/// A stream of the introduction failed: because of its bytes, or because the connection ended, which says why.
fn failed(connection: &Connection, error: &FrameError) -> DialError {
    match (connection.close_reason(), error) {
        (Some(reason), _) => DialError::of(&reason),
        (None, FrameError::Ended) => refuse(connection, Code::Misbehaved, "it broke off"),
        (None, FrameError::TooSlow | FrameError::Stalled) => DialError::TimedOut,
        (None, FrameError::TooLong(_) | FrameError::Malformed) => {
            refuse(connection, Code::Misbehaved, &error.to_string())
        }
    }
}

fn refuse(connection: &Connection, code: Code, why: &str) -> DialError {
    connection.close(code.number(), why.as_bytes());
    DialError::Introduction(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_round_trip_is_taken_off_the_clock_offset() {
        let rtt = Duration::from_millis(20);
        assert_eq!(clock_offset_ms(Wall(1_000), Wall(1_010), rtt), 0);
        assert_eq!(clock_offset_ms(Wall(5_000), Wall(1_010), rtt), 4_000);
        assert_eq!(clock_offset_ms(Wall(0), Wall(u64::MAX), rtt), i64::MIN);
    }
}

//! One request over one stream between two nodes: where it came in, and where an instance takes it.
//!
//! `ask` is the side where it came in, `serve` the other; `wire` says what their bytes are. A request never makes
//! a second hop: who serves one looks for a slot on its own node only. The slot is held until the last byte of the
//! answer was taken by the stream.
//!
//! Each side ends its half with the last thing that it says, in the same packet. Who wants no more lets go of what it
//! reads, and the other side is told: so a client that leaves cancels its request.
//!
//! Knows nothing of how streams are made: [`Peers`] opens them, and whoever accepts them hands them in.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::id::NodeId;

pub(crate) mod ask;
pub(crate) mod body;
pub(crate) mod serve;
pub(crate) mod wire;

/// Bytes for which room is made for a head: more than most have, and less than what the allocator has at hand at once
/// (1,032 in glibc). More is made where more comes.
pub(crate) const ROOM: usize = 1000;

/// Both halves of a stream to another node. Dropping a half ends it: the other side then reads its end, or can write no
/// more.
pub struct PeerStream {
    /// What this side writes.
    pub send: Box<dyn AsyncWrite + Send + Unpin>,
    /// What the other side wrote.
    pub receive: Box<dyn AsyncRead + Send + Unpin>,
}

impl fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerStream").finish_non_exhaustive()
    }
}

/// Another node asks for something else than an answer to a request.
pub struct Question<A> {
    /// What it said.
    pub bytes: bytes::Bytes,
    /// Takes what it is to read.
    pub send: Box<dyn AsyncWrite + Send + Unpin>,
    /// Ends when it wants no more.
    pub abandoned: A,
}

impl<A> fmt::Debug for Question<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// How streams to other nodes are opened.
pub trait Peers: fmt::Debug + Send + Sync + 'static {
    /// Opens a stream, or says why there is none.
    fn open(&self, node: NodeId) -> Pin<Box<dyn Future<Output = Result<PeerStream, String>> + Send + '_>>;
}

//! What the transport tells its user: what arrived, what failed, and what is open.
//!
//! Values only; knows nothing of how any of it comes about.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::close::{DialError, Ending};
use super::frame::MESSAGE_MAX;
use super::hello::{self, PeerInfo};
use super::link::Reply;
use super::trust::TrustError;
use crate::id::NodeId;

/// What arrives. Bytes of a push or a call count against the sender's budget until they are dropped: copy what is kept.
#[derive(Debug)]
pub enum Incoming {
    /// The first connection to this process of the peer.
    Connected {
        /// Who it is.
        peer: PeerInfo,
    },
    /// The last connection to a peer ended.
    Closed {
        /// Who it was.
        node: NodeId,
        /// The address that it advertised.
        address: SocketAddr,
        /// How it ended.
        how: Ending,
    },
    /// Something was sent to a peer and nothing came back in time, not even an acknowledgement.
    Silent {
        /// Who is silent.
        node: NodeId,
    },
    /// One datagram.
    Datagram {
        /// Who sent it.
        from: NodeId,
        /// What was sent.
        bytes: Bytes,
    },
    /// One message that wants no answer.
    Push {
        /// Who sent it.
        from: NodeId,
        /// What was sent.
        bytes: Bytes,
    },
    /// One message that wants an answer.
    Call {
        /// Who sent it.
        from: NodeId,
        /// What was sent.
        bytes: Bytes,
        /// Where the answer goes.
        reply: Reply,
    },
    /// A message that [`super::Transport::push`] took did not arrive, or it is not known whether it did.
    PushFailed {
        /// To whom it should have gone.
        node: NodeId,
    },
}

/// The transport cannot start. State: nothing is bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken or not one of this host.
    #[error("UDP address {address} cannot be bound: {source}")]
    Address {
        /// What was asked for.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Certificates or TLS.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// A message was not taken. State: nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// Too many bytes are on their way to this peer already.
    #[error("too many bytes are on their way to this peer")]
    Full,
    /// Longer than [`MESSAGE_MAX`].
    #[error("the message has {0} bytes; allowed are at most {MESSAGE_MAX}")]
    TooLong(usize),
    /// There is no connection and none can be made now.
    #[error(transparent)]
    Dial(#[from] DialError),
}

/// A call has no answer. State: the other side may or may not have acted on it, but for `TooLong` and `Dial`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Longer than [`MESSAGE_MAX`].
    #[error("the request has {0} bytes; allowed are at most {MESSAGE_MAX}")]
    TooLong(usize),
    /// There is no connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The deadline passed.
    #[error("no answer before the deadline")]
    Deadline,
    /// The other side has no answer, or the connection ended.
    #[error("there is no answer: {0}")]
    NoAnswer(String),
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Probes, rows and questions between nodes.
    Control,
    /// Streams of requests.
    Data,
}

/// One open connection, for people to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionView {
    /// Who is at the other end.
    pub node: NodeId,
    /// Where its packets come from.
    pub address: SocketAddr,
    /// The measured round trip.
    pub rtt: Duration,
    /// UDP payload sent, in bytes.
    pub bytes_out: u64,
    /// UDP payload received, in bytes.
    pub bytes_in: u64,
    /// What it is for.
    pub kind: Kind,
}

impl ConnectionView {
    pub(super) fn new(node: NodeId, connection: &quinn::Connection, kind: Kind) -> Self {
        let stats = connection.stats();
        let (bytes_out, bytes_in) = (stats.udp_tx.bytes, stats.udp_rx.bytes);
        Self { node, address: hello::seen(connection), rtt: connection.rtt(), bytes_out, bytes_in, kind }
    }
}

//! How connections end: the codes that both sides understand, and the sentences that people read.
//!
//! Knows nothing of who is at the other end.

use std::fmt;
use std::net::SocketAddr;

use quinn::{ConnectionError, VarInt};

use crate::id::NodeId;

/// Why a side closed a connection, as it stands in the closing packet. Numbers are never used again for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    /// The process ends in order.
    Goodbye = 1,
    /// There is another connection between the two; this one is not needed.
    Duplicate = 2,
    /// The node was removed from the cluster.
    Banned = 3,
    /// The dialler is the node itself, under another address.
    Myself = 4,
    /// Another process with the same node id.
    Copied = 5,
    /// It said something that this release does not accept.
    Misbehaved = 6,
    /// It took nothing for too long.
    Stalled = 7,
    /// The side has no more use for the connection.
    Unused = 8,
}

impl Code {
    /// Every code, for reading.
    const ALL: [Self; 8] = [
        Self::Goodbye,
        Self::Duplicate,
        Self::Banned,
        Self::Myself,
        Self::Copied,
        Self::Misbehaved,
        Self::Stalled,
        Self::Unused,
    ];

    pub(super) fn number(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }

    fn of(number: VarInt) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.number() == number)
    }
}

/// Whether the other side ended a connection as a duplicate: what was on the way may be sent again on the other one.
pub(super) fn is_duplicate(error: &ConnectionError) -> bool {
    matches!(error, ConnectionError::ApplicationClosed(close) if Code::of(close.error_code) == Some(Code::Duplicate))
}

/// How the last connection to a node ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The node said that it leaves.
    Goodbye,
    /// Nothing was heard for the idle timeout.
    TimedOut,
    /// The process is gone: its port is closed, or a new process at its address does not know the connection.
    Reset,
    /// Anything else, as a sentence.
    Failed(String),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Goodbye => "it said goodbye",
            Self::TimedOut => "nothing was heard from it any more",
            Self::Reset => "its process is gone",
            Self::Failed(why) => why,
        })
    }
}

impl Ending {
    pub(super) fn of(error: &ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) if Code::of(close.error_code) == Some(Code::Goodbye) => {
                Self::Goodbye
            }
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::Reset => Self::Reset,
            ConnectionError::VersionMismatch
            | ConnectionError::TransportError(_)
            | ConnectionError::ConnectionClosed(_)
            | ConnectionError::ApplicationClosed(_)
            | ConnectionError::LocallyClosed
            | ConnectionError::CidsExhausted => Self::Failed(DialError::of(error).to_string()),
        }
    }
}

/// Why there is no connection to an address. State: nothing was sent but the attempt itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The host says that the port is closed.
    #[error("no process listens there")]
    NobodyThere,
    /// No answer at all.
    #[error("no answer: the host is down, or UDP does not reach it")]
    TimedOut,
    /// Its certificate comes from another authority.
    #[error("it belongs to another cluster: one of the two was started with the wrong join token")]
    OtherCluster,
    /// The same cluster id and another secret.
    #[error(
        "it has another secret of the same cluster: one of the two was started with a wrong or outdated join token"
    )]
    OtherSecret,
    /// A certificate is expired or not valid yet.
    #[error("the clocks of the two hosts differ by days: set the time (NTP) on the wrong one")]
    Clocks,
    /// The other side has this node on its list of removed nodes.
    #[error("this node was removed from the cluster (`maelctl node rm`): it may not come back under its old id")]
    BannedHere,
    /// This side has the other node on its list of removed nodes.
    #[error("node {0} was removed from the cluster")]
    BannedThere(NodeId),
    /// The address is one of this process.
    #[error("the address is that of this node itself")]
    Myself,
    /// Another process runs with the id of this node.
    #[error(
        "another process runs with the id of this node: its data directory was copied; stop one of the two and give it \
         an empty data directory"
    )]
    Copied,
    /// Another node answers at the address.
    #[error("node {found} answers there instead of node {expected}")]
    OtherNode {
        /// Who was dialled.
        expected: NodeId,
        /// Who is there.
        found: NodeId,
    },
    /// What it says of itself contradicts its certificate, or cannot be read.
    #[error("it does not introduce itself as a node of this release can understand: {0}")]
    Introduction(String),
    /// The two releases have no protocol in common.
    #[error("it speaks no protocol that this release knows: one of the two must be upgraded")]
    Protocol,
    /// This socket cannot send there.
    #[error("the address cannot be dialled from {local}: {why}")]
    Address {
        /// Where this node listens.
        local: SocketAddr,
        /// What is wrong with it.
        why: String,
    },
    /// Earlier attempts failed and the pause after them is not over.
    #[error("the last attempts failed; the next one follows in at most a minute")]
    Resting,
    /// The transport is closed.
    #[error("this node is stopping")]
    Stopping,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl DialError {
    /// Whether the other side is there and will say the same next time, until a person changes something.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::OtherCluster
            | Self::OtherSecret
            | Self::Clocks
            | Self::BannedHere
            | Self::BannedThere(_)
            | Self::Copied
            | Self::OtherNode { .. }
            | Self::Introduction(_)
            | Self::Protocol => true,
            Self::NobodyThere
            | Self::TimedOut
            | Self::Myself
            | Self::Address { .. }
            | Self::Resting
            | Self::Stopping
            | Self::Failed(_) => false,
        }
    }

    /// The sentence for an error of QUIC. TLS alerts are read from their codes, which both sides see alike.
    pub(super) fn of(error: &ConnectionError) -> Self {
        match error {
            ConnectionError::TransportError(error) => {
                Self::of_alert(error.code.into()).unwrap_or_else(|| Self::Failed(error.to_string()))
            }
            ConnectionError::ConnectionClosed(close) => Self::of_alert(close.error_code.into())
                .unwrap_or_else(|| Self::Failed(printable(error.to_string().as_bytes()))),
            ConnectionError::ApplicationClosed(close) => match Code::of(close.error_code) {
                Some(Code::Banned) => Self::BannedHere,
                Some(Code::Myself) => Self::Myself,
                Some(Code::Copied) => Self::Copied,
                Some(Code::Goodbye) => Self::Failed("it is stopping".to_owned()),
                Some(Code::Duplicate | Code::Misbehaved | Code::Stalled | Code::Unused) | None => {
                    Self::Failed(format!("it closed the connection: {}", printable(&close.reason)))
                }
            },
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::Reset => Self::Failed("its process was restarted".to_owned()),
            ConnectionError::LocallyClosed => Self::Failed("this node closed the connection".to_owned()),
            ConnectionError::VersionMismatch => Self::Protocol,
            ConnectionError::CidsExhausted => Self::Failed(error.to_string()),
        }
    }

    /// RFC 9001 puts TLS alerts at 0x100; the alerts are those of RFC 8446.
    fn of_alert(code: u64) -> Option<Self> {
        match code {
            0x130 => Some(Self::OtherCluster), // unknown_ca
            0x133 => Some(Self::OtherSecret),  // decrypt_error: a signature by another key of the same name
            0x12d => Some(Self::Clocks),       // certificate_expired, also sent for "not valid yet"
            0x178 => Some(Self::Protocol),     // no_application_protocol
            0x12a | 0x12b | 0x12e | 0x174 => Some(Self::Failed("its certificate is not that of a node".to_owned())),
            _ => None,
        }
    }
}

/// Text from the other side, cut and without control characters, so that it cannot write log lines of its own.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().filter(|sign| !sign.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_peer_write_no_lines_of_their_own() {
        let reason = bytes::Bytes::from(format!("bye\n2026 ERROR forged \u{1b}[31m{}", "x".repeat(5000)));
        let by_quic = ConnectionError::ConnectionClosed(quinn::ConnectionClose {
            error_code: quinn::TransportErrorCode::PROTOCOL_VIOLATION,
            frame_type: None,
            reason: reason.clone(),
        });
        let by_peer = quinn::ApplicationClose { error_code: VarInt::from_u32(999), reason };
        for error in [by_quic, ConnectionError::ApplicationClosed(by_peer)] {
            let text = DialError::of(&error).to_string();
            assert!(text.contains("forged") && text.len() < 400, "{text:?}");
            assert!(!text.chars().any(char::is_control), "{text:?}");
        }
    }
}

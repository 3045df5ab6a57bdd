//! Who a member is, and which of two that claim one node id is the later one.
//!
//! Knows neither packets nor time.

use std::fmt;
use std::net::SocketAddr;

use crate::id::NodeId;

/// One life of one node. Two peers of one node id are ordered: see [`Peer::wins_over`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The node, from its data directory.
    pub node: NodeId,
    /// Where it listens. The scope and flow of an IPv6 address do not travel and are 0.
    pub address: SocketAddr,
    /// When the process began: a persisted counter that grows with every start, in the order of milliseconds since 1970.
    pub start: u64,
    /// Counts up from 0 within one process each time the others had given it up.
    pub life: u32,
}

impl Peer {
    /// Whether this one is later than another peer of the same node. A strict total order over (start, life, address):
    /// were it not strict, two nodes with one id would replace each other for ever.
    pub fn wins_over(&self, other: &Self) -> bool {
        (self.start, self.life, self.address) > (other.start, other.life, other.address)
    }

    /// The same, without what does not travel.
    pub(super) fn plain(mut self) -> Self {
        self.address = SocketAddr::new(self.address.ip(), self.address.port());
        self
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} (start {}, life {})", self.node, self.address, self.start, self.life)
    }
}

//! Who this node is to others: cluster, secret and address, put together from the store, the token and the settings.
//!
//! The secret is in the store before the first packet leaves.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::id::{ClusterId, NodeId};
use crate::store::{Loaded, Store, StoreError};
use crate::transport::token::{Secret, Token};
use crate::wire;

/// The note of the store that holds the secret.
const SECRET: &str = "secret";

/// Why a node cannot be the one that its settings ask for. State: nothing was sent, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The token is for another cluster.
    #[error(
        "the data directory belongs to cluster {own} and the token to cluster {other}; use a token of cluster {own}, or \
         an empty data directory to join cluster {other}"
    )]
    OtherCluster {
        /// In the data directory.
        own: ClusterId,
        /// In the token.
        other: ClusterId,
    },
    /// The same cluster, another secret.
    #[error(
        "the token has another secret than this node, which is in cluster {0} already; print a new token with \
         `maelstromd token` on a node that runs, or leave the token out"
    )]
    OtherSecret(ClusterId),
    /// Seeds without a token, at a first start.
    #[error(
        "--join needs the token of the cluster at the first start; print it with `maelstromd token` on a node of the \
         cluster and give it with --token-file or MAEL_TOKEN"
    )]
    NoToken,
    /// The advertised address.
    #[error("advertise = {address:?}: {problem}; allowed: an address of this machine or of its NAT as HOST:PORT")]
    Advertise {
        /// As given.
        address: String,
        /// What is wrong.
        problem: String,
    },
    /// The note is none.
    #[error("the secret in the data directory is damaged: {0}; restore the directory, or start with an empty one")]
    Damaged(String),
    /// The data directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gives no randomness.
    #[error("cannot draw a secret: {0}")]
    Random(String),
}

/// The secret of the cluster that this node belongs to; takes the token's over where that loses nothing.
///
/// # Errors
/// The token and the data directory are of different clusters, or the disk fails.
pub(crate) fn settle(
    store: &mut Store,
    loaded: &mut Loaded,
    token: Option<&Token>,
    joins: bool,
) -> Result<Secret, IdentityError> {
    let kept = match store.note(SECRET)? {
        Some(bytes) => {
            let bytes: [u8; 32] =
                bytes.as_slice().try_into().map_err(|_| IdentityError::Damaged(format!("{} bytes", bytes.len())))?;
            Some(Secret::from_bytes(bytes))
        }
        None => None,
    };
    let has_peers = !read_peers(store)?.is_empty();
    // A node that never had a peer nor a row loses nothing when it joins another cluster.
    let is_blank = loaded.registers.is_empty() && !has_peers;
    let secret = match (kept, token) {
        (Some(kept), Some(token)) if token.cluster == loaded.cluster => {
            if kept.as_bytes() != token.secret.as_bytes() {
                return Err(IdentityError::OtherSecret(loaded.cluster));
            }
            return Ok(kept);
        }
        (Some(_), Some(token)) if !is_blank => {
            return Err(IdentityError::OtherCluster { own: loaded.cluster, other: token.cluster });
        }
        (_, Some(token)) => {
            store.set_cluster(token.cluster)?;
            loaded.cluster = token.cluster;
            token.secret.clone()
        }
        (_, None) if is_blank && joins => return Err(IdentityError::NoToken),
        (Some(kept), None) => return Ok(kept),
        (None, None) => Secret::generate().map_err(|error| IdentityError::Random(error.to_string()))?,
    };
    store.set_note(SECRET, Some(secret.as_bytes()))?;
    Ok(secret)
}

/// The peers of the last run. A note that cannot be read is none: seeds find them again.
pub(crate) fn read_peers(store: &mut Store) -> Result<Vec<SocketAddr>, StoreError> {
    let note = store.note(super::PEERS)?.unwrap_or_default();
    Ok(wire::decode::<Vec<SocketAddr>, { 1 << 20 }>(&note).unwrap_or_default())
}

/// The other nodes of the cluster as of the last run. A note that cannot be read is none, as in earlier releases.
pub(crate) fn read_known(store: &mut Store) -> Result<BTreeSet<NodeId>, StoreError> {
    let note = store.note(super::KNOWN)?.unwrap_or_default();
    Ok(wire::decode::<BTreeSet<NodeId>, { 1 << 20 }>(&note).unwrap_or_default())
}

pub(crate) fn encode_known(known: &BTreeSet<NodeId>) -> Vec<u8> {
    // A set of ids is within what the codec can write.
    wire::encode(known).unwrap_or_default()
}

pub(crate) fn encode_peers(peers: &[SocketAddr]) -> Vec<u8> {
    // A list of addresses is within what the codec can write.
    wire::encode(peers).unwrap_or_default()
}

/// Where peers reach this node: what the user says, else the address it listens on, else the one that the system would
/// use to reach the first seed.
///
/// # Errors
/// The advertised name has no address.
pub(crate) fn address(
    listen: SocketAddr,
    advertise: Option<&str>,
    seeds: &[String],
) -> Result<SocketAddr, IdentityError> {
    use std::net::ToSocketAddrs as _;
    if let Some(text) = advertise {
        let wrong = |problem: String| IdentityError::Advertise { address: text.to_owned(), problem };
        let mut found = text.to_socket_addrs().map_err(|error| wrong(error.to_string()))?;
        let address = found.next().ok_or_else(|| wrong("has no address".to_owned()))?;
        if address.ip().is_unspecified() {
            return Err(wrong("is no address that a peer could reach".to_owned()));
        }
        return Ok(address);
    }
    if !listen.ip().is_unspecified() {
        return Ok(listen);
    }
    let seeds = seeds.iter().filter_map(|seed| seed.to_socket_addrs().ok()).flatten();
    // RFC 5737 and RFC 3849: addresses that nobody has. Connecting a UDP socket asks the routing table and sends nothing.
    let anyone: SocketAddr = match listen.is_ipv4() {
        true => (Ipv4Addr::new(192, 0, 2, 1), 9).into(),
        false => (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into(),
    };
    let towards = |target: SocketAddr| -> Option<IpAddr> {
        let socket = UdpSocket::bind((if target.is_ipv4() { "0.0.0.0" } else { "::" }, 0)).ok()?;
        socket.connect(target).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let ip = seeds.chain([anyone]).find_map(towards);
    let local = if listen.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) };
    Ok(SocketAddr::new(ip.unwrap_or(local), listen.port()))
}

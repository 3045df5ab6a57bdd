//! Lines: a TCP connection to a neighbour on which nothing is ever sent, so that the end of its process is heard.
//!
//! When a process dies its system ends its TCP connections at once, while a UDP port is only found closed by the next
//! packet to it. So a node keeps a line to the HTTP port of the few nodes that it watches; that port is open on every
//! node, and a line costs no byte while it is quiet. Its end proves nothing: it only lets the UDP port be asked at once
//! ([`super::probe`]). Where no line can be had, probes find the death later. Knows nothing of who must be watched.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::Inner;
use super::close::{Code, Ending};
use super::probe;
use crate::id::NodeId;

/// How long connecting may take: a handshake on a LAN is a millisecond, and a second one is sent after 1 s.
const CONNECT: Duration = Duration::from_millis(1500);

/// The pause before a line is made again, doubled after each failure up to the second: HTTP listeners end connections
/// that say nothing after a minute or so, and whose port is behind a firewall need not be asked often.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How often it is looked whether a node is connected to, in which a handshake on a LAN fits many times.
const NO_LINK: Duration = Duration::from_millis(200);

/// When the port is asked after the line ended: a dying process closes its sockets one after the other, within a
/// millisecond where measured.
const ASK_AFTER: [Duration; 3] = [Duration::from_millis(5), Duration::from_millis(20), Duration::from_millis(100)];

/// Keeps a line to a node for as long as this runs.
pub(super) async fn keep(inner: Arc<Inner>, node: NodeId) {
    let mut pause = AGAIN.0;
    loop {
        let target = inner.table().current(node).and_then(|link| {
            let port = link.peer.hello.http;
            (port != 0).then(|| SocketAddr::new(link.peer.seen.ip(), port))
        });
        let connected = match target {
            // It is being connected to; the line follows.
            None => {
                tokio::time::sleep(NO_LINK).await;
                continue;
            }
            Some(target) => tokio::time::timeout(CONNECT, TcpStream::connect(target)).await.ok().and_then(Result::ok),
        };
        match connected {
            Some(stream) => {
                pause = AGAIN.0;
                until_ended(&stream).await;
                drop(stream);
                ask(&inner, node).await;
            }
            None => pause = (pause * 2).min(AGAIN.1),
        }
        // Up to a half more, so that many nodes do not come back to one at the same time.
        tokio::time::sleep(pause + pause.mul_f64(inner.random() as f64 / u64::MAX as f64 / 2.0)).await;
    }
}

async fn until_ended(stream: &TcpStream) {
    let mut bytes = [0; 64];
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut bytes) {
            // Nothing should come; what does is of no concern.
            Ok(1..) => {}
            Ok(0) => return,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Asks whether the process is there, and ends its connection if not.
async fn ask(inner: &Inner, node: NodeId) {
    for wait in ASK_AFTER {
        tokio::time::sleep(wait).await;
        let Some(link) = inner.table().current(node).cloned() else { return };
        if probe::is_closed(link.peer.seen).await {
            link.end(Code::Unused, Ending::Reset);
            return;
        }
    }
}

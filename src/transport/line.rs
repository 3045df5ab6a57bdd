//! Lines: an idle TCP connection to a neighbour, by which the end of its process is heard.
//!
//! When a process dies its system ends its TCP connections at once, while a UDP port is only found closed by the next
//! packet to it. So a node keeps a line to the HTTP port of the few nodes that it watches; that port is open on every
//! node. The line asks for the node's health once, so that its HTTP side takes it for the idle connection that it is, and
//! is made anew whenever it ends: some 20 bytes a second. Where that fails, the UDP port is asked ([`super::probe`]), and
//! only its answer proves a death. Where no line can be had, pings find it later. Knows nothing of who must be watched.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::Inner;
use super::close::{Code, Ending};
use super::probe;
use crate::id::NodeId;

/// How long connecting may take: a handshake on a LAN is a millisecond, and a second one is sent after 1 s.
const CONNECT: Duration = Duration::from_millis(1500);

/// The pause before a line is tried again, doubled after each failure up to the second: a port that is behind a firewall
/// need not be asked often.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A line that ends sooner was not closed for being idle: the process is dying, or does not want it. The shortest idle
/// timeout of our own HTTP side is 75 s.
const SHORT: Duration = Duration::from_secs(5);

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
        let Some(target) = target else {
            // It is being connected to; the line follows.
            tokio::time::sleep(NO_LINK).await;
            continue;
        };
        if let Ok(Ok(stream)) = tokio::time::timeout(CONNECT, connect(target, inner.line_path)).await {
            let ended = until_ended(&stream);
            tokio::pin!(ended);
            if tokio::time::timeout(SHORT, &mut ended).await.is_err() {
                ended.await;
                // Whether the process is still there is told by the next line.
                pause = AGAIN.0;
                continue;
            }
        }
        ask(&inner, node).await;
        // Up to a half more, so that many nodes do not come back to one at the same time.
        tokio::time::sleep(pause + pause.mul_f64(inner.random() as f64 / u64::MAX as f64 / 2.0)).await;
        pause = (pause * 2).min(AGAIN.1);
    }
}

/// A connection that has asked for the node's health.
async fn connect(target: SocketAddr, path: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
    Ok(stream)
}

async fn until_ended(stream: &TcpStream) {
    let mut bytes = [0; 256];
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut bytes) {
            // The answer, which is of no concern.
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

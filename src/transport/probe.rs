//! Whether a process still listens on a port: a byte from a connected socket, and the host's answer.
//!
//! An unconnected UDP socket, such as the one of QUIC, is not told that a port is closed; a connected one is: the ICMP
//! message becomes `ECONNREFUSED`. The byte is no QUIC packet, so a living endpoint ignores it. Knows nothing of QUIC.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;

/// How long to wait for the host's answer. On loopback it is there when `send` returns, on a LAN within a millisecond.
const ANSWER: Duration = Duration::from_millis(100);

/// How often it is asked meanwhile. A dying process may have its port open a moment longer than what told of its end,
/// and a byte that came in then is never answered.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// True only if the host said that the port is closed. No answer means nothing: the process lives, or the host is dead,
/// or a firewall is silent.
pub(super) async fn is_closed(address: SocketAddr) -> bool {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let asked = async {
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(address).await?;
        loop {
            socket.send(&[0]).await?;
            let mut byte = [0; 1];
            if let Ok(answer) = tokio::time::timeout(ASK_EVERY, socket.recv(&mut byte)).await {
                return answer;
            }
        }
    };
    let answer = tokio::time::timeout(ANSWER, asked).await;
    matches!(answer, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused)
}

/// Returns once the port is known to be closed; never, if it is not.
pub(super) async fn until_closed(address: SocketAddr, first: Duration, every: Duration) {
    tokio::time::sleep(first).await;
    while !is_closed(address).await {
        tokio::time::sleep(every).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_closes_while_it_is_asked_is_found_closed() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
        let address = socket.local_addr().expect("bound");
        let closing = async move {
            // The first byte has come by then.
            socket.readable().await.expect("a byte");
            drop(socket);
        };
        assert!(tokio::join!(is_closed(address), closing).0);
    }

    #[tokio::test]
    async fn a_closed_port_is_told_from_an_open_one_on_both_families() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let socket = UdpSocket::bind(host).await.expect("loopback");
            let address = socket.local_addr().expect("bound");
            assert!(!is_closed(address).await);
            drop(socket);
            assert!(is_closed(address).await);
        }
    }
}

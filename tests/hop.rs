//! The data plane over two nodes: all that holds on one node, and what can only go wrong between two. Real QUIC.

#![allow(
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "tests wait in real time; the rig is a module of this file alone"
)]

#[path = "proxy/cases.rs"]
mod cases;
#[path = "proxy/rig.rs"]
mod rig;

/// Instances are on another node than that where requests come in.
const IS_HOP: bool = true;

use std::sync::atomic::Ordering;
use std::time::Duration;

use maelstrom::id::NodeId;
use maelstrom::source::http::Options;
use rig::{Rig, component, eventually, honest, scripted};
use tokio::io::AsyncWriteExt as _;

const GET: &str = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";

/// A rig whose node with the instances is `far`, and whose entrance has an instance of its own if asked for.
async fn two_nodes(far: &[std::net::SocketAddr]) -> Rig {
    Rig::with(component(), Options::default(), far).await
}

fn entrance(rig: &Rig) -> &rig::Entry {
    rig.entry.as_ref().expect("two nodes")
}

/// An instance that says when a request has come, and never answers.
async fn silent() -> (std::net::SocketAddr, std::sync::Arc<std::sync::atomic::AtomicU64>) {
    let count = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let seen = std::sync::Arc::clone(&count);
    let address = scripted(move |_, mut stream| {
        let seen = std::sync::Arc::clone(&seen);
        async move {
            stream.until("\r\n\r\n").await;
            seen.fetch_add(1, Ordering::SeqCst);
            let _ = stream.rest().await;
        }
    })
    .await;
    (address, count)
}

#[tokio::test]
async fn a_node_that_dies_with_a_request_costs_a_post_an_answer_and_a_get_another_try() {
    for (request, expected) in [(POST, "HTTP/1.1 502"), (GET, "HTTP/1.1 200")] {
        let (held, seen) = silent().await;
        let rig = two_nodes(&[held]).await;
        let mut client = rig.connect().await;
        client.send(request).await;
        eventually("the instance has it", || seen.load(Ordering::SeqCst) == 1).await;
        let (here, _) = honest().await;
        rig.set_here(&[here]);
        entrance(&rig).far.goodbye(Duration::from_millis(100)).await;
        let answer = client.answer().await;
        assert!(answer.starts_with(expected), "{request:?}: {answer}");
        assert!(expected.contains("200") || answer.contains("the node that had the request was lost"), "{answer}");
    }
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_costs_no_request_whatever_its_method() {
    for request in [POST, GET] {
        let rig = two_nodes(&[]).await;
        // Nobody has this id.
        *entrance(&rig).core.ways.lock().expect("no panic") = vec![NodeId(9)];
        let (here, _) = honest().await;
        let slow = tokio::time::sleep(Duration::from_millis(200));
        let asked = async {
            let answer = rig.ask(request).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        };
        // Nothing is free here when it comes, so that it is sent away first.
        tokio::join!(asked, async {
            slow.await;
            rig.set_here(&[here]);
        });
    }
}

#[tokio::test]
async fn a_body_waits_for_a_slot_at_the_other_node_and_is_whole_if_it_goes_elsewhere() {
    let rig = two_nodes(&[]).await;
    let mut client = rig.connect().await;
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc").await;
    eventually("it waits over there", || rig.core.waits.load(Ordering::SeqCst) == 1).await;
    // The node goes before it has a slot: nothing of the body was taken.
    let (here, _) = honest().await;
    rig.set_here(&[here]);
    entrance(&rig).far.goodbye(Duration::from_millis(100)).await;
    client.send("def").await;
    let answer = client.answer().await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("abcdef"), "{answer}");
}

#[tokio::test]
async fn a_request_that_made_a_hop_makes_no_second_one() {
    let (instance, _) = honest().await;
    let rig = two_nodes(&[]).await;
    // The other node would send it on, if it were asked.
    *rig.core.ways.lock().expect("no panic") = vec![NodeId(1)];
    let mut client = rig.connect().await;
    client.send(GET).await;
    eventually("it waits over there", || rig.core.waits.load(Ordering::SeqCst) == 1).await;
    rig.set(&[instance]);
    assert!(client.answer().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn nonsense_on_a_stream_ends_it_and_nothing_else() {
    let (instance, _) = honest().await;
    let rig = two_nodes(&[instance]).await;
    let (far, other) = (entrance(&rig).far.clone(), rig::quic(3));
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 0, 0, 0, 0], &[0, 255, 255, 255, 255], &[0, 0, 0, 0, 2, 1, 9], &[]]
    {
        let stream = other.open_data(NodeId(2), far.local_addr(), rig::PATIENCE).await.expect("a stream");
        let (mut receive, mut send) = stream.into_halves();
        send.write_all(bytes).await.expect("written");
        send.shutdown().await.expect("ended");
        let mut answer = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut receive, &mut answer).await;
        assert!(answer.is_empty(), "{answer:?}");
    }
    assert!(rig.ask(GET).await.starts_with("HTTP/1.1 200"));
    rig.all_released().await;
}

/// An answer that has begun and whose rest nobody reads.
async fn stalled(rig: &Rig) -> rig::Client {
    let mut client = rig.connect().await;
    client.send("GET /big?50000000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.until("\r\n\r\n").await;
    client
}

#[tokio::test]
async fn clients_that_read_nothing_do_not_stop_the_others() {
    let (instance, seen) = honest().await;
    let rig = two_nodes(&[instance]).await;
    let mut clients = Vec::new();
    for _ in 0..24 {
        clients.push(stalled(&rig).await);
    }
    let sent = || seen.sent.load(Ordering::SeqCst);
    let mut before = 0;
    // All that fits is on its way.
    while sent() != before {
        before = sent();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let answer = tokio::time::timeout(Duration::from_secs(5), rig.ask(GET)).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn hundreds_of_websockets_are_open_between_two_nodes_at_once() {
    let (instance, _) = honest().await;
    let mut many = component();
    many.concurrency = std::num::NonZeroU32::new(1_000).expect("not 0");
    let rig = Rig::with(many, Options::default(), &[]).await;
    rig.set_wide(&[instance], 1_000);
    let mut sockets = Vec::new();
    for _ in 0..200 {
        let mut socket = rig.connect().await;
        socket.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        assert!(socket.until("\r\n\r\n").await.starts_with("HTTP/1.1 101"));
        sockets.push(socket);
    }
    for socket in &mut sockets {
        socket.send("ping").await;
        assert_eq!(socket.bytes(4).await, "ping");
    }
}

#[tokio::test]
async fn who_waits_for_a_connection_to_a_node_hears_at_once_that_it_is_gone() {
    let near = rig::quic(1);
    // A host that says nothing: the port is open, and nobody reads.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    let asked = near.open_data(NodeId(9), address, rig::PATIENCE);
    let told = async {
        // Its first packet shows that it is being dialled.
        silent.set_nonblocking(true).expect("a socket");
        let silent = tokio::net::UdpSocket::from_std(silent).expect("a socket");
        silent.readable().await.expect("a packet");
        near.abandon_data(NodeId(9));
        silent
    };
    let (opened, _silent) = tokio::join!(asked, told);
    let error = opened.expect_err("nobody is there").to_string();
    assert!(error.contains("known to be gone"), "{error}");
}

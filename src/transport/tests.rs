//! What a peer that has the secret and speaks nonsense can do: raw connections of QUIC against a transport.

use quinn::Connection;
use tokio::sync::mpsc::Receiver;

use super::token::Secret;
use super::*;
use crate::id::ClusterId;

const SOON: Duration = Duration::from_secs(20);

fn node(id: u64) -> (Transport, Receiver<Incoming>) {
    let secret = Secret::from_bytes([5; 32]);
    let clock = || Wall(1_800_000_000_000);
    let trust = Trust::new(ClusterId(1), &secret, NodeId(id), clock()).expect("trust");
    let listen: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let hello = Hello {
        node: NodeId(id),
        name: "node".parse().expect("a name"),
        address: listen,
        start: 1,
        version: "test".to_owned(),
        http: 0,
        wall: Wall(0),
    };
    Transport::bind(listen, trust, hello, Options::default(), clock).expect("bound")
}

/// A connection with TLS and nothing more.
async fn raw(from: &Transport, to: &Transport) -> Connection {
    let config = from.0.configs().control.clone();
    let connecting = from.0.endpoint.connect_with(config, to.local_addr(), trust::SERVER_NAME).expect("dialled");
    connecting.await.expect("connected")
}

/// A connection that has introduced itself.
async fn introduced(from: &Transport, to: &Transport) -> Connection {
    let config = from.0.configs().control.clone();
    from.0.connect(config, to.local_addr(), None).await.expect("introduced").0
}

async fn reason(connection: &Connection) -> String {
    tokio::time::timeout(SOON, connection.closed()).await.expect("closed in time").to_string()
}

fn noise(round: usize, length: usize) -> Vec<u8> {
    let mut hash = crate::hash::Hash64::default();
    let byte = |at: usize| {
        hash.word((round * 10_000 + at) as u64);
        hash.finish().to_le_bytes()[0]
    };
    (0..length).map(byte).collect()
}

#[tokio::test]
async fn a_version_that_people_could_not_read_is_refused_on_both_sides() {
    let ((one, _one), (two, mut reports)) = (node(1), node(2));
    for version in ["", "1.0\n\u{1b}[2J", &"9".repeat(65)] {
        one.0.hello.lock().expect("no panic").version = version.to_owned();
        let error = one.dial(two.local_addr(), SOON).await.expect_err("refused").to_string();
        assert!(error.contains("its version is not one"), "{error}");
        let error = two.dial(one.local_addr(), SOON).await.expect_err("refused").to_string();
        assert!(error.contains("its version is not one"), "{error}");
    }
    assert!(reports.try_recv().is_err(), "nobody was introduced");
}

#[tokio::test]
async fn an_introduction_of_random_or_cut_bytes_ends_the_connection() {
    let ((one, _one), (two, mut reports)) = (node(1), node(2));
    // The kind, then the hello itself: what the wire carries after the version.
    let hello = crate::wire::encode(&(0_u8, one.0.hello())).expect("a hello");
    for round in 0..30 {
        let bytes = match round % 3 {
            0 => noise(round, round * 7),
            1 => [u32::to_be_bytes(500).as_slice(), &noise(round, 500)].concat(),
            _ => {
                let length = u32::try_from(hello.len()).expect("short");
                [length.to_be_bytes().as_slice(), &hello[..hello.len() * round / 40]].concat()
            }
        };
        let connection = raw(&one, &two).await;
        let (mut send, _receive) = connection.open_bi().await.expect("a stream");
        let _ = send.write_all(&bytes).await;
        let _ = send.finish();
        let why = reason(&connection).await;
        assert!(why.starts_with("closed by peer: "), "{why}");
    }
    assert!(reports.try_recv().is_err(), "nobody was introduced");
    assert!(two.dial(one.local_addr(), SOON).await.is_ok());
}

#[tokio::test]
async fn messages_that_lie_about_their_length_end_the_connection_with_a_sentence() {
    let ((one, _one), (two, mut reports)) = (node(1), node(2));
    let head = |length: usize| u32::try_from(length).expect("fits").to_be_bytes();
    let cases = [
        (head(MESSAGE_MAX + 1).to_vec(), "allowed are at most"),
        (head(u32::MAX as usize).to_vec(), "allowed are at most"),
        ([head(100).as_slice(), &[0; 50]].concat(), "cut short"),
        ([head(100).as_slice(), &[0; 101]].concat(), "bytes after its end"),
        (vec![0, 0], "cut short"),
        (Vec::new(), "cut short"),
    ];
    for (bytes, expected) in &cases {
        for is_call in [false, true] {
            let connection = introduced(&one, &two).await;
            let mut send = if is_call {
                connection.open_bi().await.expect("a stream").0
            } else {
                connection.open_uni().await.expect("a stream")
            };
            let _ = send.write_all(bytes).await;
            let _ = send.finish();
            let why = reason(&connection).await;
            assert!(why.contains(expected), "{why}");
        }
    }
    while let Ok(report) = reports.try_recv() {
        assert!(matches!(report, Incoming::Connected { .. } | Incoming::Closed { .. }), "{report:?}");
    }
}

#[tokio::test]
async fn random_bytes_on_every_kind_of_stream_disturb_nobody_else() {
    let ((one, _one), (two, mut reports)) = (node(1), node(2));
    telemetry::spawn("reports", async move { while reports.recv().await.is_some() {} });
    for round in 0..60 {
        let connection = introduced(&one, &two).await;
        let bytes = noise(round, round * 97);
        let _ = connection.send_datagram(bytes[..bytes.len().min(1100)].to_vec().into());
        if let Ok(mut send) = connection.open_uni().await {
            let _ = send.write_all(&bytes).await;
        }
        if let Ok((mut send, mut receive)) = connection.open_bi().await {
            let _ = send.write_all(&bytes).await;
            let _ = receive.stop(Code::Unused.number());
        }
        if round % 2 == 0 {
            connection.close(Code::Unused.number(), &bytes[..bytes.len().min(500)]);
        }
    }
    let (three, _three) = node(3);
    assert!(three.dial(two.local_addr(), SOON).await.is_ok());
    assert_eq!(three.connections().len(), 1);
}

#[tokio::test]
async fn a_message_that_never_ends_gives_its_place_back() {
    let ((one, _one), (two, _two)) = (node(1), node(2));
    let connection = introduced(&one, &two).await;
    let mut send = connection.open_uni().await.expect("a stream");
    send.write_all(&[0, 0, 1, 0, 7]).await.expect("written");
    let why = reason(&connection).await;
    assert!(why.contains("did not come within"), "{why}");
}

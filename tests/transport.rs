//! The peer transport on real sockets: what two nodes can say to each other, who is refused and with which sentence,
//! and what is noticed of a peer that died.
//!
//! No assertion on how fast anything is, but for generous deadlines.
#![allow(
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    reason = "tests wait in real time, look for one kind of report among all, and say what they measured"
)]

use std::collections::BTreeSet;
use std::future::Future;
use std::io::{BufRead as _, Write};
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use maelstrom::id::{ClusterId, NodeId};
use maelstrom::time::Wall;
use maelstrom::transport::token::Secret;
use maelstrom::transport::trust::Trust;
use maelstrom::transport::{
    CallError, DialError, Ending, Hello, Incoming, Kind, MESSAGE_MAX, Options, PushError, Transport,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc::Receiver;

/// Long enough for a busy machine; nothing waits for it but a failing test.
const SOON: Duration = Duration::from_secs(20);
const DAY: u64 = 86_400_000;

fn wall() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    Wall(u64::try_from(since.as_millis()).expect("not in the far future"))
}

/// Everything that is logged in this process: the sentences of refusals are for people, and people read logs.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

static LOG: LazyLock<Lines> = LazyLock::new(|| {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::WARN);
    let _ = subscriber.with_writer(move || writer.clone()).try_init();
    lines
});

async fn until_logged(parts: &[&str]) {
    eventually(&parts.join(" .. "), || {
        let text = String::from_utf8_lossy(&LOG.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
        text.lines().any(|line| parts.iter().all(|part| line.contains(part)))
    })
    .await;
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never happened: {what}");
}

/// One node under test.
struct Node {
    id: NodeId,
    at: SocketAddr,
    transport: Transport,
    incoming: Receiver<Incoming>,
}

struct Plan {
    id: u64,
    called: u64,
    start: u64,
    listen: SocketAddr,
    http: u16,
    cluster: u64,
    secret: u8,
    clock_ahead: i64,
    options: Options,
}

fn plan(id: u64) -> Plan {
    let listen = "127.0.0.1:0".parse().expect("an address");
    let options = Options::default();
    Plan { id, called: id, start: 1, listen, http: 0, cluster: 1, secret: 1, clock_ahead: 0, options }
}

fn start(plan: Plan) -> Node {
    LazyLock::force(&LOG);
    let clock = move || Wall(wall().0.saturating_add_signed(plan.clock_ahead));
    let secret = Secret::from_bytes([plan.secret; 32]);
    let trust = Trust::new(ClusterId(plan.cluster), &secret, NodeId(plan.id), clock()).expect("trust");
    let hello = Hello {
        node: NodeId(plan.called),
        name: format!("node-{}", plan.called).parse().expect("a name"),
        address: plan.listen,
        start: plan.start,
        version: "0.1.0".to_owned(),
        http: plan.http,
        wall: Wall(0),
    };
    let (transport, incoming) = Transport::bind(plan.listen, trust, hello, plan.options, clock).expect("bound");
    Node { id: NodeId(plan.id), at: transport.local_addr(), transport, incoming }
}

fn node(id: u64) -> Node {
    start(plan(id))
}

impl Node {
    async fn next(&mut self) -> Incoming {
        soon(self.incoming.recv()).await.expect("the transport lives")
    }

    /// The next report for which `pick` has something; the ones before are dropped.
    async fn until<T>(&mut self, pick: impl Fn(Incoming) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(self.next().await) {
                return found;
            }
        }
    }

    async fn connected(&mut self) -> NodeId {
        self.until(|incoming| match incoming {
            Incoming::Connected { peer } => Some(peer.node),
            _ => None,
        })
        .await
    }

    async fn closed(&mut self) -> (NodeId, Ending) {
        self.until(|incoming| match incoming {
            Incoming::Closed { node, how, .. } => Some((node, how)),
            _ => None,
        })
        .await
    }

    async fn dial(&self, to: &Self) -> Result<NodeId, DialError> {
        self.transport.dial(to.at, SOON).await.map(|peer| peer.node)
    }
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work).await.expect("in time")
}

/// Answers calls and drops the rest, for ever.
fn serve(mut node: Node) -> Transport {
    let transport = node.transport.clone();
    tokio::spawn(async move {
        while let Some(incoming) = node.incoming.recv().await {
            if let Incoming::Call { bytes, reply, .. } = incoming {
                reply.send(bytes);
            }
        }
    });
    transport
}

#[tokio::test]
async fn two_nodes_talk_by_datagram_push_and_call_on_both_families() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let listen: SocketAddr = listen.parse().expect("an address");
        let mut one = start(Plan { listen, ..plan(1) });
        let mut two = start(Plan { listen, ..plan(2) });
        assert!(one.transport.send_datagram(two.id, two.at, Bytes::from_static(b"probe")));
        assert_eq!(two.connected().await, one.id);
        assert_eq!(one.connected().await, two.id);
        match two.next().await {
            Incoming::Datagram { from, bytes } => assert_eq!((from, &*bytes), (one.id, &b"probe"[..])),
            other => panic!("{other:?}"),
        }
        two.transport.push(one.id, one.at, Bytes::from_static(b"rows")).expect("taken");
        match one.next().await {
            Incoming::Push { from, bytes } => assert_eq!((from, &*bytes), (two.id, &b"rows"[..])),
            other => panic!("{other:?}"),
        }
        let one_transport = one.transport.clone();
        let call = one_transport.call(two.id, two.at, Bytes::from_static(b"what?"), SOON);
        let answer = async {
            match two.next().await {
                Incoming::Call { from, bytes, reply } => {
                    assert_eq!((from, &*bytes), (one.id, &b"what?"[..]));
                    reply.send(Bytes::from_static(b"that"));
                }
                other => panic!("{other:?}"),
            }
        };
        let (answered, ()) = tokio::join!(call, answer);
        assert_eq!(answered.expect("an answer"), "that");
        assert!(one.transport.rtt(two.id).is_some());
        assert!(one.transport.datagram_max() >= 1162);
        let views = one.transport.connections();
        assert_eq!((views.len(), views[0].node, views[0].kind), (1, two.id, Kind::Control));
    }
}

#[tokio::test]
async fn the_largest_datagram_arrives_and_a_larger_one_is_refused() {
    let (one, mut two) = (node(1), node(2));
    one.dial(&two).await.expect("connected");
    let most = one.transport.datagram_max();
    assert!(one.transport.send_datagram(two.id, two.at, vec![7; most].into()));
    let got = two
        .until(|incoming| match incoming {
            Incoming::Datagram { bytes, .. } => Some(bytes.len()),
            _ => None,
        })
        .await;
    assert_eq!(got, most);
    assert!(!one.transport.send_datagram(two.id, two.at, vec![7; 70_000].into()));
}

#[tokio::test]
async fn a_peer_is_described_as_it_introduced_itself_with_the_offset_of_its_clock() {
    let one = node(1);
    let two = start(Plan { clock_ahead: 60_000, start: 9, ..plan(2) });
    let peer = one.transport.dial(two.at, SOON).await.expect("connected");
    assert_eq!((peer.node, peer.name.as_str(), peer.start), (two.id, "node-2", 9));
    assert_eq!((peer.address, peer.seen), (two.at, two.at));
    assert!((50_000..70_000).contains(&peer.clock_offset_ms), "{}", peer.clock_offset_ms);
}

#[tokio::test]
async fn another_secret_is_refused_with_a_sentence_on_both_sides() {
    let one = node(1);
    let two = start(Plan { secret: 2, ..plan(2) });
    assert_eq!(one.dial(&two).await, Err(DialError::OtherSecret));
    until_logged(&["cannot connect to", &two.at.to_string(), "another secret"]).await;
    until_logged(&["refused a connection from", &one.at.to_string(), "another secret"]).await;
}

#[tokio::test]
async fn another_cluster_is_refused_with_a_sentence_on_both_sides() {
    let one = node(1);
    let two = start(Plan { cluster: 2, ..plan(2) });
    assert_eq!(one.dial(&two).await, Err(DialError::OtherCluster));
    until_logged(&["cannot connect to", &two.at.to_string(), "another cluster"]).await;
    until_logged(&["refused a connection from", &one.at.to_string(), "another cluster"]).await;
}

#[tokio::test]
async fn clocks_that_differ_by_months_are_named_as_the_cause_on_both_sides() {
    let days = i64::try_from(DAY).expect("fits");
    for clock_ahead in [-90 * days, 90 * days] {
        let one = node(1);
        let two = start(Plan { clock_ahead, ..plan(2) });
        assert_eq!(one.dial(&two).await, Err(DialError::Clocks));
        until_logged(&["cannot connect to", &two.at.to_string(), "set the time"]).await;
        until_logged(&["refused a connection from", &one.at.to_string(), "set the time"]).await;
    }
}

#[tokio::test]
async fn an_expired_certificate_is_renewed() {
    let one = node(1);
    let two = node(2);
    two.transport.renew(Wall(wall().0 - 60 * DAY)).expect("renewed");
    assert_eq!(one.dial(&two).await, Err(DialError::Clocks));
    two.transport.renew(wall()).expect("renewed");
    assert_eq!(one.dial(&two).await, Ok(two.id));
}

#[tokio::test]
async fn a_node_that_calls_itself_by_another_id_than_its_certificate_is_refused() {
    let mut one = node(1);
    let forger = start(Plan { called: 3, ..plan(2) });
    let error = forger.dial(&one).await.expect_err("refused");
    assert!(error.to_string().contains("its certificate is that of node"), "{error}");
    assert!(matches!(one.dial(&forger).await, Err(DialError::Introduction(_))));
    until_logged(&["refused a connection from", &forger.at.to_string(), "it calls itself node"]).await;
    assert!(one.incoming.try_recv().is_err(), "nothing was reported");
}

#[tokio::test]
async fn another_node_at_the_address_of_a_known_one_is_not_taken_for_it() {
    let (one, two) = (node(1), node(2));
    let error = one.transport.call(NodeId(7), two.at, Bytes::new(), SOON).await.expect_err("refused");
    assert_eq!(error, CallError::Dial(DialError::OtherNode { expected: NodeId(7), found: two.id }));
    // And it rests: no second attempt at once.
    let error = one.transport.call(NodeId(7), two.at, Bytes::new(), SOON).await.expect_err("refused");
    assert_eq!(error, CallError::Dial(DialError::Resting));
}

#[tokio::test]
async fn a_banned_node_is_told_so_and_may_come_back_when_the_list_is_cleared() {
    let (mut one, mut two) = (node(1), node(2));
    two.dial(&one).await.expect("connected");
    assert_eq!(one.connected().await, two.id);
    one.transport.ban(two.id);
    let (_, how) = two.closed().await;
    assert!(matches!(&how, Ending::Failed(why) if why.contains("was removed from the cluster")), "{how}");
    assert_eq!(one.closed().await.0, two.id);
    assert_eq!(two.dial(&one).await, Err(DialError::BannedHere));
    assert_eq!(one.transport.push(two.id, two.at, Bytes::new()), Err(PushError::Dial(DialError::BannedThere(two.id))));
    until_logged(&["cannot connect to", &one.at.to_string(), "node rm"]).await;
    one.transport.set_banned(BTreeSet::new());
    assert_eq!(two.dial(&one).await, Ok(one.id));
}

#[tokio::test]
async fn the_own_address_and_a_copied_data_directory_are_told_apart() {
    let one = node(1);
    assert_eq!(one.dial(&one).await, Err(DialError::Myself));
    let copy = start(Plan { start: 2, ..plan(1) });
    assert_eq!(copy.dial(&one).await, Err(DialError::Copied));
    until_logged(&["refused a connection from", &copy.at.to_string(), "data directory was copied"]).await;
}

#[tokio::test]
async fn when_both_dial_one_connection_stays_and_no_message_is_lost() {
    let (one, mut two) = (node(1), node(2));
    for round in 0..20 {
        one.transport.push(two.id, two.at, format!("{round}").into()).expect("taken");
        two.transport.push(one.id, one.at, Bytes::new()).expect("taken");
    }
    let (first, second) = tokio::join!(one.dial(&two), two.dial(&one));
    assert_eq!((first, second), (Ok(two.id), Ok(one.id)));
    let mut rounds = BTreeSet::new();
    while rounds.len() < 20 {
        rounds.insert(
            two.until(|incoming| match incoming {
                Incoming::Push { bytes, .. } => Some(bytes),
                Incoming::Closed { how, .. } => panic!("closed: {how}"),
                _ => None,
            })
            .await,
        );
    }
    let count = |node: &Node| node.transport.connections().len();
    eventually("one connection on both sides", || count(&one) == 1 && count(&two) == 1).await;
    assert!(two.incoming.try_recv().is_err(), "the spare connections ended unseen");
}

#[tokio::test]
async fn the_longest_message_arrives_whole_and_a_longer_one_is_refused() {
    let (one, mut two) = (node(1), node(2));
    let long: Bytes = (0..MESSAGE_MAX).map(|at| u8::try_from(at % 251).expect("small")).collect::<Vec<_>>().into();
    one.transport.push(two.id, two.at, long.clone()).expect("taken");
    let got = two
        .until(|incoming| match incoming {
            Incoming::Push { bytes, .. } => Some(bytes),
            _ => None,
        })
        .await;
    assert!(got == long);
    drop(got);
    let longer = Bytes::from(vec![0; MESSAGE_MAX + 1]);
    assert_eq!(one.transport.push(two.id, two.at, longer.clone()), Err(PushError::TooLong(MESSAGE_MAX + 1)));
    let refused = one.transport.call(two.id, two.at, longer, SOON).await;
    assert_eq!(refused, Err(CallError::TooLong(MESSAGE_MAX + 1)));
    let two = serve(two);
    assert_eq!(one.transport.call(NodeId(2), two.local_addr(), long.clone(), SOON).await, Ok(long));
}

#[tokio::test]
async fn a_call_without_an_answer_ends_by_its_deadline_or_when_the_reply_is_dropped() {
    let (one, mut two) = (node(1), node(2));
    let call = |deadline| one.transport.call(two.id, two.at, Bytes::new(), deadline);
    let first = call(Duration::from_millis(300)).await;
    assert_eq!(first, Err(CallError::Deadline));
    let second = call(SOON);
    let drops = async {
        for _ in 0..2 {
            two.incoming.recv().await;
        }
        drop(two.incoming.recv().await);
    };
    let (second, ()) = tokio::join!(second, drops);
    assert!(matches!(second, Err(CallError::NoAnswer(_))), "{second:?}");
}

#[tokio::test]
async fn a_peer_that_reads_nothing_costs_bounded_memory_and_is_let_go() {
    let options = Options { queue: 2, ..Options::default() };
    let (mut one, two) = (node(1), start(Plan { options, ..plan(2) }));
    one.dial(&two).await.expect("connected");
    let message = Bytes::from(vec![1; MESSAGE_MAX]);
    let mut full = false;
    for _ in 0..200 {
        match one.transport.push(two.id, two.at, message.clone()) {
            Ok(()) => {}
            Err(PushError::Full) => full = true,
            Err(other) => panic!("{other}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(full);
    let views = one.transport.connections();
    let sent: u64 = views.iter().map(|view| view.bytes_out).sum();
    assert!(sent < 64 << 20, "{sent} bytes were taken from a peer whose messages nobody reads");
    let (_, how) = one.closed().await;
    assert!(matches!(&how, Ending::Failed(why) if why.contains("took nothing")), "{how}");
    until_logged(&["connection to a peer ended", &two.at.to_string(), "took nothing"]).await;
}

#[tokio::test]
async fn a_peer_that_floods_with_datagrams_is_let_go() {
    let (one, two) = (node(1), start(Plan { options: Options { queue: 2, ..Options::default() }, ..plan(2) }));
    one.dial(&two).await.expect("connected");
    let sender = one.transport.clone();
    let flood = tokio::spawn(async move {
        loop {
            for _ in 0..100 {
                sender.send_datagram(NodeId(2), two.at, Bytes::from_static(b"x"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    until_logged(&["connection to a peer ended", "it floods"]).await;
    flood.abort();
    drop(two.incoming);
}

#[tokio::test]
async fn random_and_cut_bytes_at_the_port_disturb_nobody() {
    let (one, two) = (node(1), node(2));
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let mut state = 1_u64;
    for round in 0..3_000_usize {
        let length = round % 1400;
        let mut packet = Vec::with_capacity(length);
        for _ in 0..length {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            packet.push((state >> 33).to_le_bytes()[0]);
        }
        // A third looks like a first packet of QUIC, a third like a later one.
        if let Some(first) = packet.first_mut() {
            *first = [*first, 0xc0 | *first, 0x40 | (*first & 0x3f)][round % 3];
        }
        if round % 6 == 1 && length > 5 {
            packet[1..5].copy_from_slice(&[0, 0, 0, 1]);
        }
        let _ = socket.send_to(&packet, two.at);
    }
    let two = serve(two);
    let answer = one.transport.call(NodeId(2), two.local_addr(), Bytes::from_static(b"well?"), SOON).await;
    assert_eq!(answer.as_deref(), Ok(&b"well?"[..]));
}

#[tokio::test]
async fn data_streams_run_apart_from_control_and_in_both_directions() {
    let (one, two) = (node(1), node(2));
    let mut out = one.transport.open_data(two.id, two.at, SOON).await.expect("a stream");
    out.write_all(b"request").await.expect("written");
    out.shutdown().await.expect("ended");
    let (from, mut stream) = soon(two.transport.accept_data()).await.expect("a stream");
    assert_eq!(from, one.id);
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("read");
    assert_eq!(text, "request");
    stream.write_all(b"response").await.expect("written");
    stream.shutdown().await.expect("ended");
    text.clear();
    out.read_to_string(&mut text).await.expect("read");
    assert_eq!(text, "response");
    // The other side uses the same connection.
    let mut back = two.transport.open_data(one.id, one.at, SOON).await.expect("a stream");
    back.write_all(b"!").await.expect("written");
    let (from, stream) = soon(one.transport.accept_data()).await.expect("a stream");
    assert_eq!(from, two.id);
    stream.abort();
    let kinds: Vec<Kind> = one.transport.connections().iter().map(|view| view.kind).collect();
    assert_eq!(kinds, [Kind::Data]);
    one.transport.ban(two.id);
    let ended = || one.transport.connections().is_empty() && two.transport.connections().is_empty();
    eventually("the data connection of a banned node ends", ended).await;
    assert_eq!(two.transport.open_data(one.id, one.at, SOON).await.err(), Some(DialError::BannedHere));
}

#[tokio::test]
async fn a_goodbye_is_heard_by_all_and_nobody_is_let_in_afterwards() {
    let (one, mut two, mut three) = (node(1), node(2), node(3));
    one.dial(&two).await.expect("connected");
    three.dial(&one).await.expect("connected");
    one.transport.goodbye(SOON).await;
    assert_eq!(two.closed().await, (one.id, Ending::Goodbye));
    assert_eq!(three.closed().await, (one.id, Ending::Goodbye));
    assert!(!one.transport.send_datagram(two.id, two.at, Bytes::new()));
    assert_eq!(one.dial(&two).await, Err(DialError::Stopping));
    assert!(two.transport.dial(one.at, Duration::from_secs(2)).await.is_err());
}

#[tokio::test]
async fn what_was_sent_before_a_goodbye_arrives() {
    let (one, mut two) = (node(1), node(2));
    for _ in 0..5 {
        one.transport.push(two.id, two.at, vec![1; 100_000].into()).expect("taken");
    }
    one.dial(&two).await.expect("connected");
    assert!(one.transport.send_datagram(two.id, two.at, Bytes::from_static(b"I leave")));
    one.transport.goodbye(SOON).await;
    let (mut pushes, mut datagrams) = (0, 0);
    loop {
        match two.next().await {
            Incoming::Push { .. } => pushes += 1,
            Incoming::Datagram { .. } => datagrams += 1,
            Incoming::Closed { how, .. } => break assert_eq!(how, Ending::Goodbye),
            _ => {}
        }
    }
    assert_eq!((pushes, datagrams), (5, 1));
}

#[tokio::test]
async fn a_closed_port_is_known_without_waiting_for_the_deadline() {
    let one = node(1);
    let gone = UdpSocket::bind("127.0.0.1:0").expect("loopback").local_addr().expect("bound");
    assert_eq!(one.transport.dial(gone, SOON).await.map(|peer| peer.node), Err(DialError::NobodyThere));
    assert!(one.transport.push(NodeId(9), gone, Bytes::new()).is_ok());
    let mut one = one;
    assert!(matches!(one.next().await, Incoming::Silent { node: NodeId(9) }));
    assert!(matches!(one.next().await, Incoming::PushFailed { node: NodeId(9) }));
}

#[tokio::test]
async fn an_address_of_the_other_family_is_refused_with_a_sentence() {
    let one = node(1);
    let error = one.transport.dial("[::1]:9".parse().expect("an address"), SOON).await.expect_err("refused");
    assert!(matches!(error, DialError::Address { .. }), "{error}");
    let both = start(Plan { listen: "[::]:0".parse().expect("an address"), ..plan(2) });
    let at = SocketAddr::new("127.0.0.1".parse().expect("an address"), both.at.port());
    assert_eq!(one.transport.dial(at, SOON).await.map(|peer| peer.seen), Ok(at));
}

// ---- a peer in a process of its own, to be killed -------------------------------------------------------------------

const CHILD: &str = "MAELSTROM_TEST_TRANSPORT_CHILD";

/// Not a test of its own: run by the tests below in a process that they kill.
#[tokio::test]
async fn child_of_the_tests_that_kill() {
    let Ok(port) = std::env::var(CHILD) else { return };
    let (port, number) = port.split_once(' ').expect("port and start");
    let listen = format!("127.0.0.1:{port}").parse().expect("an address");
    // The system takes connections in; nobody needs to read them.
    let http = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let http_port = http.local_addr().expect("bound").port();
    let child = start(Plan { listen, http: http_port, start: number.parse().expect("a number"), ..plan(2) });
    println!("listens on {}", child.at);
    let _serving = serve(child);
    std::future::pending::<()>().await;
}

struct Child {
    process: std::process::Child,
    at: SocketAddr,
}

impl Child {
    fn new(port: u16, number: u64) -> Self {
        let mut process = std::process::Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "child_of_the_tests_that_kill", "--nocapture"])
            .env(CHILD, format!("{port} {number}"))
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("started");
        let lines = std::io::BufReader::new(process.stdout.take().expect("piped")).lines();
        let at = lines.map_while(Result::ok).find_map(|line| line.split_once("listens on ")?.1.parse().ok());
        Self { process, at: at.expect("an address") }
    }

    fn signal(&self, name: &str) {
        let sent =
            std::process::Command::new("kill").args([&format!("-{name}"), &self.process.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    fn kill(&mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("gone");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_is_noticed_by_the_next_packet_to_it() {
    let mut child = Child::new(0, 1);
    let mut one = node(1);
    one.transport.dial(child.at, SOON).await.expect("connected");
    tokio::time::sleep(Duration::from_millis(300)).await;
    child.kill();
    let before = SystemTime::now();
    assert!(one.transport.send_datagram(NodeId(2), child.at, Bytes::from_static(b"probe")));
    assert_eq!(one.closed().await, (NodeId(2), Ending::Reset));
    println!("noticed after {:?}", before.elapsed().unwrap_or_default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_watched_process_is_noticed_without_any_packet() {
    let mut child = Child::new(0, 1);
    let mut one = node(1);
    one.transport.dial(child.at, SOON).await.expect("connected");
    one.transport.watch(&[NodeId(2)].into());
    // Long enough for the line, and for everything that was sent to be acknowledged.
    tokio::time::sleep(Duration::from_millis(500)).await;
    child.kill();
    assert_eq!(one.closed().await, (NodeId(2), Ending::Reset));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_after_a_packet_is_reported_and_an_answer_is_not() {
    let child = Child::new(0, 1);
    let mut one = node(1);
    one.transport.dial(child.at, SOON).await.expect("connected");
    assert_eq!(one.connected().await, NodeId(2));
    one.transport.send_datagram(NodeId(2), child.at, Bytes::from_static(b"probe"));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(one.incoming.try_recv().is_err(), "it was acknowledged");
    child.signal("STOP");
    one.transport.send_datagram(NodeId(2), child.at, Bytes::from_static(b"probe"));
    let silent = |incoming| matches!(incoming, Incoming::Silent { node: NodeId(2) }).then_some(());
    one.until(silent).await;
    child.signal("CONT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_restarted_at_the_same_address_is_known_as_a_new_one() {
    let mut child = Child::new(0, 1);
    let mut one = node(1);
    one.transport.dial(child.at, SOON).await.expect("connected");
    tokio::time::sleep(Duration::from_millis(300)).await;
    child.kill();
    let child = Child::new(child.at.port(), 2);
    // The old connection is reset by the new process, which has the key of the one before.
    let before = SystemTime::now();
    assert!(one.transport.send_datagram(NodeId(2), child.at, vec![0; 100].into()));
    assert_eq!(one.closed().await, (NodeId(2), Ending::Reset));
    println!("reset after {:?}", before.elapsed().unwrap_or_default());
    let answer = one.transport.call(NodeId(2), child.at, Bytes::from_static(b"again"), SOON).await;
    assert_eq!(answer.as_deref(), Ok(&b"again"[..]));
    let peer = one
        .until(|incoming| match incoming {
            Incoming::Connected { peer } => Some(peer),
            _ => None,
        })
        .await;
    assert_eq!(peer.start, 2);
}

#[tokio::test]
async fn a_new_process_that_dials_first_replaces_the_connection_of_the_old_one() {
    let mut one = node(1);
    let old = node(2);
    old.dial(&one).await.expect("connected");
    assert_eq!(one.connected().await, old.id);
    let new = start(Plan { start: 2, ..plan(2) });
    new.dial(&one).await.expect("connected");
    assert_eq!(one.closed().await, (old.id, Ending::Reset));
    assert_eq!(one.connected().await, new.id);
    assert_eq!(one.transport.connections().len(), 1);
    assert_eq!(one.transport.connections()[0].address, new.at);
}

#[tokio::test]
async fn idle_connections_send_next_to_nothing() {
    let (one, two) = (node(1), node(2));
    one.dial(&two).await.expect("connected");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let sum = || one.transport.connections().iter().map(|view| view.bytes_out + view.bytes_in).sum::<u64>();
    let before = sum();
    let seconds = std::env::var("MAELSTROM_TEST_IDLE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let bytes = sum() - before;
    one.transport.send_datagram(two.id, two.at, vec![0; 21].into());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before_probes = sum();
    for _ in 0..10 {
        one.transport.send_datagram(two.id, two.at, vec![0; 21].into());
        tokio::time::sleep(Duration::from_millis(2)).await;
        two.transport.send_datagram(one.id, one.at, vec![0; 21].into());
        tokio::time::sleep(Duration::from_millis(98)).await;
    }
    println!("{} bytes for a probe of 21 bytes and its answer", (sum() - before_probes) / 10);
    println!("{bytes} bytes of UDP payload, both ways, in {seconds} s");
    assert!(bytes < 60 * seconds + 300, "{bytes} bytes in {seconds} s");
}

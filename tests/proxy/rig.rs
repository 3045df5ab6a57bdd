//! What the proxy is tested with: a core with fixed instances, instances that misbehave on demand, and clients that
//! write bytes as they please. Everything over real sockets.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use maelstrom::failure::{Failure, Phase};
use maelstrom::id::{ClusterId, ComponentName, InstanceId, NodeId};
use maelstrom::intake::{Ask, Intake, Way};
use maelstrom::model::component::{Command, Component, Health, LogOptions, RestartOrder, Stop, Workload};
use maelstrom::model::source::{Http, Source, Trigger};
use maelstrom::proxy::{self, Forwarder, PeerStream, Peers};
use maelstrom::router::Table;
use maelstrom::slots::{Gate, Slots};
use maelstrom::source::http::{HttpSource, Options};
use maelstrom::telemetry;
use maelstrom::time::{Mono, Wall};
use maelstrom::transport::token::Secret;
use maelstrom::transport::trust::Trust;
use maelstrom::transport::{self, Hello, Transport};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// No step of a test takes longer, unless something hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A core with the instances that a test gives it.
#[derive(Debug)]
pub(crate) struct Fixed {
    started: tokio::time::Instant,
    random: AtomicU64,
    pub(crate) suspects: Mutex<Vec<String>>,
    /// How often an event had to wait for a slot.
    pub(crate) waits: AtomicU64,
    /// Nodes that events may go to, the first first.
    pub(crate) ways: Mutex<Vec<NodeId>>,
}

impl Intake for Fixed {
    fn now(&self) -> Mono {
        Mono(u64::try_from(self.started.elapsed().as_nanos()).expect("a test is short"))
    }

    fn random(&self) -> u64 {
        self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }

    fn wait(&self, ask: Ask) -> Pin<Box<dyn Future<Output = Result<Arc<Slots>, Failure>> + Send + '_>> {
        self.waits.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            loop {
                if let Some(slots) = ask.gate.claim_any(self.random()) {
                    return Ok(slots);
                }
                if self.now() >= ask.deadline {
                    return Err(Failure::Deadline {
                        component: ask.component.name.clone(),
                        phase: Phase::Start,
                        limit: ask.component.request_timeout,
                    });
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
    }

    fn way(&self, _component: &ComponentName, avoid: &[NodeId], _is_sent: bool) -> Way {
        let ways = self.ways.lock().expect("no panic");
        ways.iter().find(|node| !avoid.contains(node)).map_or(Way::Here, |node| Way::There(*node))
    }

    fn freed(&self, _component: &ComponentName) {}

    fn suspect(&self, instance: &InstanceId, _reason: &str) {
        self.suspects.lock().expect("no panic").push(instance.to_string());
    }
}

pub(crate) fn component() -> Component {
    let one = NonZeroU32::MIN;
    Component {
        name: "api".parse().expect("a name"),
        workload: Workload::Command(Command { argv: vec!["x".into()], cwd: None }),
        port: None,
        env: BTreeMap::new(),
        cfg: Vec::new(),
        memory_reserve: 1,
        memory_limit: None,
        cpu: None,
        concurrency: one,
        concurrency_target: one,
        min_instances: 0,
        max_instances: one,
        max_per_node: one,
        singleton: maelstrom::model::component::Singleton::No,
        freeze_after: None,
        idle_timeout: PATIENCE,
        start_timeout: PATIENCE,
        request_timeout: PATIENCE,
        queue_limit: 10,
        max_body: None,
        health: Health { path: None, interval: PATIENCE, timeout: PATIENCE, failures: one },
        restart_order: RestartOrder::StartFirst,
        rollout: maelstrom::model::component::Rollout::default(),
        volumes: Vec::new(),
        network: None,
        log: LogOptions::default(),
        constraints: Vec::new(),
        labels: BTreeMap::new(),
        stop: Stop { signal: "SIGTERM".into(), grace: PATIENCE },
    }
}

impl Fixed {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            // The clock of the test, which may not be read but for its timers.
            started: tokio::time::sleep(Duration::ZERO).deadline(),
            random: AtomicU64::new(1),
            suspects: Mutex::default(),
            waits: AtomicU64::new(0),
            ways: Mutex::default(),
        })
    }
}

impl Entry {
    /// A node in front of another one, which serves what comes over its transport.
    fn before(component: &Arc<Component>, far: &Arc<Forwarder>, core: &Arc<Fixed>, gate: &Arc<Gate>) -> Self {
        let (near, there) = (quic(1), quic(2));
        let peers = Quic { transport: near, address: there.local_addr() };
        let forwarder = Forwarder::new(proxy::Options::default()).with_peers(Arc::new(peers));
        let (core_here, gate_here) = (Fixed::new(), Arc::new(Gate::new(component.name.clone())));
        let entry = Self { forwarder: Arc::new(forwarder), core: core_here, gate: gate_here, far: there.clone() };
        *entry.core.ways.lock().expect("no panic") = vec![NodeId(2)];
        let (far, core, live) = (Arc::clone(far), Arc::clone(core), (Arc::clone(component), Arc::clone(gate)));
        telemetry::spawn("serving", async move {
            while let Some((_, stream)) = there.accept_data().await {
                let abandoned = stream.abandoned();
                let (receive, send) = stream.into_halves();
                let (far, core, live) = (Arc::clone(&far), Arc::clone(&core) as Arc<dyn Intake>, live.clone());
                telemetry::spawn("serve", async move {
                    let find = |_: &ComponentName| Some(live);
                    let question = far.serve_peer(&core, find, PeerStream { send, receive }, abandoned).await;
                    assert!(question.is_none(), "nobody asks for anything else here");
                });
            }
        });
        entry
    }
}

/// A listener in front of instances.
pub(crate) struct Rig {
    pub(crate) address: SocketAddr,
    pub(crate) core: Arc<Fixed>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) slots: Mutex<Vec<Arc<Slots>>>,
    /// Instances so far: an id is never used again.
    count: AtomicU64,
    pub(crate) forwarder: Arc<Forwarder>,
    pub(crate) table: Arc<ArcSwap<Table>>,
    pub(crate) source: Option<HttpSource>,
    pub(crate) shutdown: CancellationToken,
    /// The node where requests come in, if it is another one than that of the instances.
    pub(crate) entry: Option<Entry>,
}

/// Of the two nodes the one without instances.
pub(crate) struct Entry {
    pub(crate) forwarder: Arc<Forwarder>,
    pub(crate) core: Arc<Fixed>,
    pub(crate) gate: Arc<Gate>,
    /// Of the other node; closed, it is gone.
    pub(crate) far: Transport,
}

/// Streams to other nodes over real QUIC.
#[derive(Debug)]
struct Quic {
    transport: Transport,
    address: SocketAddr,
}

impl Peers for Quic {
    fn open(&self, node: NodeId) -> Pin<Box<dyn Future<Output = Result<PeerStream, String>> + Send + '_>> {
        Box::pin(async move {
            let stream = self.transport.open_data(node, self.address, PATIENCE).await;
            let (receive, send) = stream.map_err(|error| error.to_string())?.into_halves();
            Ok(PeerStream { send, receive })
        })
    }
}

pub(crate) fn quic(node: u64) -> Transport {
    let clock = || Wall(1_800_000_000_000);
    let secret = Secret::from_bytes([7; 32]);
    let trust = Trust::new(ClusterId(1), &secret, NodeId(node), clock()).expect("trust");
    let listen = ([127, 0, 0, 1], 0).into();
    let hello = Hello {
        node: NodeId(node),
        name: format!("node-{node}").parse().expect("a name"),
        address: listen,
        start: 1,
        version: "test".to_owned(),
        http: 0,
        wall: Wall(0),
    };
    let (transport, mut reports) =
        Transport::bind(listen, trust, hello, transport::Options::default(), clock).expect("bound");
    telemetry::spawn("reports", async move { while reports.recv().await.is_some() {} });
    transport
}

impl Rig {
    pub(crate) async fn new(instances: &[SocketAddr]) -> Self {
        Self::with(component(), Options::default(), instances).await
    }

    pub(crate) async fn with(component: Component, options: Options, instances: &[SocketAddr]) -> Self {
        let core = Fixed::new();
        let gate = Arc::new(Gate::new(component.name.clone()));
        let source = Source {
            name: "web".parse().expect("a name"),
            component: component.name.clone(),
            enabled: true,
            trigger: Trigger::Http(Http { host: None, path: "/".into(), strip_prefix: false }),
        };
        let cut = Source {
            name: "cut".parse().expect("a name"),
            trigger: Trigger::Http(Http { host: Some("cut.example".into()), path: "/cut".into(), strip_prefix: true }),
            ..source.clone()
        };
        let component = Arc::new(component);
        let far = Arc::new(Forwarder::new(proxy::Options::default()));
        let entry = crate::IS_HOP.then(|| Entry::before(&component, &far, &core, &gate));
        let forwarder = Arc::clone(entry.as_ref().map_or(&far, |entry| &entry.forwarder));
        let shown = entry.as_ref().map_or(&gate, |entry| &entry.gate);
        let live = Some((Arc::clone(&component), Arc::clone(shown)));
        let table = Table::build([(&source, live.clone()), (&cut, live)]);
        let table = Arc::new(ArcSwap::from_pointee(table));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let source = HttpSource::serve(
            listener,
            Arc::clone(&table),
            Arc::clone(entry.as_ref().map_or(&core, |entry| &entry.core)) as Arc<dyn Intake>,
            Arc::clone(&forwarder),
            options,
            shutdown.clone(),
        );
        let rig = Self {
            address,
            core,
            gate,
            slots: Mutex::default(),
            count: AtomicU64::new(0),
            forwarder: far,
            table,
            source: Some(source),
            shutdown,
            entry,
        };
        rig.set(instances);
        rig
    }

    /// Where requests come in.
    pub(crate) fn entrance(&self) -> (&Arc<Forwarder>, &Arc<Fixed>) {
        self.entry.as_ref().map_or((&self.forwarder, &self.core), |entry| (&entry.forwarder, &entry.core))
    }

    /// Makes these the live instances.
    pub(crate) fn set(&self, instances: &[SocketAddr]) {
        self.set_wide(instances, 100);
    }

    /// The same with so many slots each.
    pub(crate) fn set_wide(&self, instances: &[SocketAddr], limit: u32) {
        let name: ComponentName = "api".parse().expect("a name");
        let slots: Vec<Arc<Slots>> = instances
            .iter()
            .map(|&address| {
                let id = InstanceId::new(&name, self.count.fetch_add(1, Ordering::SeqCst));
                Arc::new(Slots::new(id, address, limit, Mono(0)))
            })
            .collect();
        *self.slots.lock().expect("no panic") = slots.clone();
        self.gate.set_live(slots);
    }

    /// Makes these the live instances of the node where requests come in.
    pub(crate) fn set_here(&self, instances: &[SocketAddr]) {
        let name: ComponentName = "api".parse().expect("a name");
        let slots = |&address| Arc::new(Slots::new(InstanceId::new(&name, 77), address, 100, Mono(0)));
        let gate = self.entry.as_ref().map_or(&self.gate, |entry| &entry.gate);
        gate.set_live(instances.iter().map(slots).collect());
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.slots.lock().expect("no panic").iter().map(|slots| slots.in_flight()).sum()
    }

    pub(crate) fn served(&self) -> u64 {
        self.slots.lock().expect("no panic").iter().map(|slots| slots.served()).sum()
    }

    /// Waits until every slot is given back; fails if one never is. More releases than claims fail in the slots.
    pub(crate) async fn all_released(&self) {
        eventually("all slots are released", || self.in_flight() == 0).await;
    }

    pub(crate) async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.expect("a connection"), read: Vec::new() }
    }

    /// One request on a connection of its own; everything that came back.
    pub(crate) async fn ask(&self, request: &str) -> String {
        let mut client = self.connect().await;
        client.send(request).await;
        client.answer().await
    }

    /// An HTTP/2 client with prior knowledge.
    pub(crate) async fn http2<B>(&self) -> hyper::client::conn::http2::SendRequest<B>
    where
        B: hyper::body::Body + Unpin + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = TcpStream::connect(self.address).await.expect("a connection");
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        telemetry::spawn("test client", connection);
        sender
    }
}

/// Waits for something that other tasks bring about.
pub(crate) async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let wait = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never: {what}");
}

/// A client that writes what the test says.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    pub(crate) fn of(stream: TcpStream) -> Self {
        Self { stream, read: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("the connection takes bytes");
    }

    /// Reads until the buffer has `text`; gives all up to its end.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        let wait = async {
            loop {
                if let Some(at) = find(&self.read, text.as_bytes()) {
                    let rest = self.read.split_off(at + text.len());
                    return String::from_utf8_lossy(&std::mem::replace(&mut self.read, rest)).into_owned();
                }
                if self.stream.read_buf(&mut self.read).await.expect("bytes") == 0 {
                    panic!("closed before {text:?}; got {:?}", String::from_utf8_lossy(&self.read));
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never came: {text:?}"))
    }

    /// Reads one answer with `Content-Length`, without body, or chunked.
    pub(crate) async fn answer(&mut self) -> String {
        let head = self.until("\r\n\r\n").await;
        let lower = head.to_ascii_lowercase();
        if lower.contains("transfer-encoding: chunked") {
            return head + &self.until("0\r\n\r\n").await;
        }
        let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let length: usize = length.map_or(0, |text| text.parse().expect("a length"));
        head + &self.bytes(length).await
    }

    pub(crate) async fn bytes(&mut self, count: usize) -> String {
        let wait = async {
            while self.read.len() < count {
                assert!(self.stream.read_buf(&mut self.read).await.expect("bytes") > 0, "closed early");
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the bytes come");
        let rest = self.read.split_off(count);
        String::from_utf8_lossy(&std::mem::replace(&mut self.read, rest)).into_owned()
    }

    /// How many bytes of the body of an answer come until the other side closes.
    pub(crate) async fn body_until_closed(&mut self, byte: u8) -> usize {
        self.until("\r\n\r\n").await;
        let mut total = 0;
        loop {
            total += self.read.iter().filter(|&&found| found == byte).count();
            self.read.clear();
            if self.stream.read_buf(&mut self.read).await.unwrap_or(0) == 0 {
                return total;
            }
        }
    }

    /// Everything until the other side closes (or resets).
    pub(crate) async fn rest(&mut self) -> String {
        let wait = async { while self.stream.read_buf(&mut self.read).await.unwrap_or(0) > 0 {} };
        tokio::time::timeout(PATIENCE, wait).await.expect("the connection is closed");
        String::from_utf8_lossy(&std::mem::take(&mut self.read)).into_owned()
    }
}

pub(crate) fn find(all: &[u8], part: &[u8]) -> Option<usize> {
    all.windows(part.len()).position(|window| window == part)
}

/// An address that refuses connections.
pub(crate) async fn refusing() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address")
}

/// An instance made of a script for each connection.
pub(crate) async fn scripted<F, R>(script: F) -> SocketAddr
where
    F: Fn(usize, Client) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    telemetry::spawn("test instance", async move {
        let mut count = 0;
        while let Ok((stream, _)) = listener.accept().await {
            telemetry::spawn("test script", script(count, Client { stream, read: Vec::new() }));
            count += 1;
        }
    });
    address
}

pub(crate) type AnyBody = UnsyncBoxBody<Bytes, Infallible>;

/// What an honest instance has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) requests: AtomicU64,
    pub(crate) sent: AtomicU64,
    /// Requests that were dropped before their answer.
    pub(crate) cancelled: AtomicU64,
}

struct Cancelled<'a>(&'a Seen, bool);

impl Drop for Cancelled<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.cancelled.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// An instance that speaks HTTP/1.1 and HTTP/2 and does what the path says.
pub(crate) async fn honest() -> (SocketAddr, Arc<Seen>) {
    let seen = Arc::<Seen>::default();
    let shared = Arc::clone(&seen);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    telemetry::spawn("test instance", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&shared);
            telemetry::spawn("test connection", async move {
                let service = hyper::service::service_fn(move |request| {
                    let seen = Arc::clone(&seen);
                    async move { Ok::<_, Infallible>(serve(request, seen).await) }
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await.ok();
            });
        }
    });
    (address, seen)
}

fn text(text: String) -> Response<AnyBody> {
    Response::new(Full::new(Bytes::from(text)).boxed_unsync())
}

async fn serve(mut request: Request<Incoming>, seen: Arc<Seen>) -> Response<AnyBody> {
    seen.requests.fetch_add(1, Ordering::SeqCst);
    match request.uri().path().to_owned().as_str() {
        // The head as it arrived.
        "/head" | "/" | "/x" => {
            let mut lines = format!("{} {} {:?}\n", request.method(), request.uri(), request.version());
            for (name, value) in request.headers() {
                lines.push_str(&format!("{name}: {}\n", value.to_str().expect("text")));
            }
            text(lines)
        }
        "/count" => {
            let (mut trailers, mut count) = (HeaderMap::new(), 0);
            let mut body = request.into_body();
            while let Some(frame) = body.frame().await {
                let Ok(frame) = frame else { return text("broken".into()) };
                if let Some(data) = frame.data_ref() {
                    count += data.len();
                }
                if let Ok(found) = frame.into_trailers() {
                    trailers = found;
                }
            }
            text(format!("{count} {trailers:?}"))
        }
        "/echo" => Response::new(request.into_body().map_err(|_| panic!("body broke")).boxed_unsync()),
        "/big" => {
            const CHUNK: usize = 64 * 1024;
            let total: u64 = request.uri().query().expect("a size").parse().expect("a number");
            let stream = futures_util::stream::unfold(total, move |left| {
                let seen = Arc::clone(&seen);
                async move {
                    let next = usize::try_from(left).expect("a size").min(CHUNK);
                    seen.sent.fetch_add(next as u64, Ordering::SeqCst);
                    (next > 0).then(|| (Ok(Frame::data(Bytes::from(vec![b'x'; next]))), left - next as u64))
                }
            });
            Response::new(StreamBody::new(stream).boxed_unsync())
        }
        "/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "42".parse().expect("a value"));
            trailers.insert("maelstrom-evil", "1".parse().expect("a value"));
            // Of unknown length, so that it is chunked over HTTP/1.1: only then are there trailers.
            let frames = [Frame::data(Bytes::from_static(b"data")), Frame::trailers(trailers)];
            let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok)));
            let mut response = Response::new(body.boxed_unsync());
            response.headers_mut().insert("trailer", "x-sum, maelstrom-evil".parse().expect("a value"));
            response
        }
        "/grpc/only-trailers" => {
            let mut response = Response::new(Empty::new().boxed_unsync());
            response.headers_mut().insert("content-type", "application/grpc".parse().expect("a value"));
            response.headers_mut().insert("grpc-status", "5".parse().expect("a value"));
            response.headers_mut().insert("x-version", format!("{:?}", request.version()).parse().expect("a value"));
            response
        }
        "/hang" => {
            let mut cancelled = Cancelled(&seen, false);
            tokio::time::sleep(PATIENCE).await;
            cancelled.1 = true;
            text("late".into())
        }
        "/status" => {
            let status: u16 = request.uri().query().expect("a status").parse().expect("a number");
            let mut response = Response::new(Empty::new().boxed_unsync());
            *response.status_mut() = StatusCode::from_u16(status).expect("a status");
            response
        }
        "/reply-headers" => {
            let mut response = text("ok".into());
            for (name, value) in [
                ("connection", "x-hop"),
                ("x-hop", "1"),
                ("keep-alive", "timeout=9"),
                ("maelstrom-x", "1"),
                ("x-own", "1"),
            ] {
                response.headers_mut().insert(name, value.parse().expect("a value"));
            }
            response
        }
        "/ws" => {
            let upgrade = hyper::upgrade::on(&mut request);
            telemetry::spawn("test upgrade", async move {
                let mut stream = TokioIo::new(upgrade.await.expect("an upgrade"));
                let mut buffer = [0; 1024];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    stream.write_all(&buffer[..count]).await.expect("a reader");
                }
            });
            let mut response = Response::new(Empty::new().boxed_unsync());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("connection", "upgrade".parse().expect("a value"));
            response.headers_mut().insert("upgrade", "websocket".parse().expect("a value"));
            response
        }
        other => {
            let mut response = text(format!("nothing at {other}"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

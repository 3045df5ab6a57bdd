//! The HTTP listener: connections in, each request looked up and handed to the proxy.
//!
//! HTTP/1.0, HTTP/1.1 and HTTP/2 without TLS (prior knowledge) on one port. `GET /.well-known/maelstrom/health` on any
//! host is answered here, without a look at the routes, so that a load balancer's check wakes nothing: 200, or 503 once
//! the node drains. Knows nothing of instances, and of failures only that [`super::respond`] answers them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::failure::Failure;
use crate::intake::Intake;
use crate::proxy::{Body, Forwarder, Origin, Payload};
use crate::router::Table;
use crate::source::respond::{self, Reader, Refusal};
use crate::source::stream::{self, Activity, ClientStream};
use crate::telemetry;

/// The path that is answered by the node itself.
pub const HEALTH: &str = "/.well-known/maelstrom/health";

/// Wait after the system refused a connection (no descriptors, no memory): long enough not to spin, short enough not to
/// be noticed once the cause is gone.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that are taken in at the end at most: the system's queue holds as many (`net.core.somaxconn`).
const WAITING: usize = 4096;

/// How often a connection is looked at, as a fraction of the time for a head: a slow head is cut at most that much late.
const LOOKS: u32 = 4;

/// The shortest time between two looks; a timer must not run without pause whatever the settings are.
const SHORTEST: Duration = Duration::from_millis(10);

/// Settings of the listener. Every default says how it was found.
#[derive(Debug, Clone)]
pub struct Options {
    /// Connections at once; more wait in the system's queue. A connection at rest costs about 20 KiB, so this is 200 MiB.
    pub connections: usize,
    /// From the first byte of a request's head to its last. A head is one packet, or a few; 10 s is for the worst of links.
    pub head_timeout: Duration,
    /// Without a request. Longer than the 60 s of the usual load balancer in front: who closes first may cut a request.
    pub idle_timeout: Duration,
    /// Bytes of a request's head at most. Twice the largest default of common servers (Jetty and Node.js 8 to 16 KiB,
    /// nginx 32 KiB): what those let pass must pass here.
    pub head_max: usize,
    /// HTTP/2 streams per connection; the usual figure (nginx 128, h2 in Go 250).
    pub streams: u32,
    /// How long requests and upgraded connections may go on after the shutdown began.
    pub drain: Duration,
    /// How long a connection at rest stays open after the shutdown began, unless a request comes, whose answer then says
    /// that it was the last. Closed at once it would break what is on its way here. A round trip around the world takes
    /// a third of a second, and who keeps connections busy uses each of them within one.
    pub linger: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections: 10_000,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            head_max: 64 * 1024,
            streams: 200,
            drain: Duration::from_secs(30),
            linger: Duration::from_secs(1),
        }
    }
}

/// What the listener has seen. Counts since its start.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections open now.
    pub open: AtomicU64,
    /// Requests, whatever their answer.
    pub requests: AtomicU64,
    /// Requests that no component answered.
    pub failures: AtomicU64,
}

/// A running listener.
#[derive(Debug)]
pub struct HttpSource {
    stats: Arc<Stats>,
    task: JoinHandle<()>,
}

impl HttpSource {
    /// Serves until `shutdown`, then drains. Also keeps the forwarder's connections tidy.
    pub fn serve(
        listener: TcpListener,
        table: Arc<ArcSwap<Table>>,
        core: Arc<dyn Intake>,
        forwarder: Arc<Forwarder>,
        options: Options,
        shutdown: CancellationToken,
    ) -> Self {
        let stats = Arc::<Stats>::default();
        telemetry::spawn("pool", Arc::clone(&forwarder).tend(shutdown.clone()));
        let server = Arc::new(Server {
            table,
            core,
            forwarder,
            options,
            stats: Arc::clone(&stats),
            shutdown,
            kill: CancellationToken::new(),
        });
        Self { stats, task: telemetry::spawn("http listener", run(server, listener)) }
    }

    /// What it has seen.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Waits until it has drained after its shutdown.
    pub async fn drained(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the HTTP listener failed");
        }
    }
}

#[derive(Debug)]
struct Server {
    table: Arc<ArcSwap<Table>>,
    core: Arc<dyn Intake>,
    forwarder: Arc<Forwarder>,
    options: Options,
    stats: Arc<Stats>,
    shutdown: CancellationToken,
    /// Ends what has not drained in time.
    kill: CancellationToken,
}

async fn run(server: Arc<Server>, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(server.options.connections));
    let tracker = TaskTracker::new();
    let take = |stream, peer, permit: Option<OwnedSemaphorePermit>| {
        let server = Arc::clone(&server);
        telemetry::spawn(
            "http connection",
            tracker.track_future(async move {
                server.stats.connections.fetch_add(1, Ordering::Relaxed);
                server.stats.open.fetch_add(1, Ordering::Relaxed);
                let _open = Open(&server.stats.open);
                let alive = connection(&server, stream, peer);
                server.kill.run_until_cancelled(alive).await;
                drop(permit);
            }),
        );
    };
    loop {
        let accept = async {
            // The semaphore is never closed.
            let permit = Arc::clone(&room).acquire_owned().await.ok();
            (listener.accept().await, permit)
        };
        let Some((accepted, permit)) = server.shutdown.run_until_cancelled(accept).await else { break };
        match accepted {
            Ok((stream, peer)) => take(stream, peer, permit),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // The system has accepted these for us, and would reset them.
    for (stream, peer) in waiting(listener) {
        take(stream, peer, Arc::clone(&room).try_acquire_owned().ok());
    }
    tracker.close();
    let drained = async {
        tracker.wait().await;
        while server.forwarder.tunnels() > 0 {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    };
    if tokio::time::timeout(server.options.drain, drained).await.is_err() {
        tracing::info!(open = tracker.len(), tunnels = server.forwarder.tunnels(), "closing what did not end in time");
        server.kill.cancel();
        server.forwarder.close_tunnels();
        tracker.wait().await;
    }
}

/// The connections that wait to be taken in. Closes the listener.
fn waiting(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    // Not by way of the runtime, which may not have heard of them yet.
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    let accepted = std::iter::from_fn(|| listener.accept().ok());
    let usable = |(stream, peer): (std::net::TcpStream, SocketAddr)| {
        stream.set_nonblocking(true).ok()?;
        Some((TcpStream::from_std(stream).ok()?, peer))
    };
    accepted.take(WAITING).filter_map(usable).collect()
}

struct Open<'a>(&'a AtomicU64);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connection(server: &Arc<Server>, mut stream: TcpStream, peer: SocketAddr) {
    let options = &server.options;
    let Ok(local) = stream.local_addr() else { return };
    if stream.set_nodelay(true).is_err() {
        return;
    }
    // The first bytes may take as long as between two requests: load balancers open connections ahead.
    // `readable` may return too early, which would make it a head that does not arrive.
    let mut byte = [0; 1];
    let first = tokio::time::timeout(options.idle_timeout, stream.peek(&mut byte));
    let first = tokio::select! {
        biased;
        first = first => first,
        () = until_lingered(server) => return,
    };
    let Ok(Ok(1..)) = first else { return };
    let Ok(Ok((first, http2))) = tokio::time::timeout(options.head_timeout, stream::version(&mut stream)).await else {
        return;
    };
    let activity = Activity::new(options.head_max);
    let origin = Arc::new(Origin::outside(peer.ip(), local));
    let service = service_fn(|request| {
        let visit = activity.begin();
        let head = (!http2).then(|| Arc::clone(&activity));
        let (server, origin) = (Arc::clone(server), Arc::clone(&origin));
        async move {
            let mut response = answer(&server, &origin, head.as_deref(), request).await;
            let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if head.is_some() && !switched && server.shutdown.is_cancelled() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response.map(|body| body.keep(Box::new(visit))))
        }
    });
    let result = if http2 {
        let io = TokioIo::new(ClientStream::new(stream, first, None));
        let connection = http2::Builder::new(Spawner)
            .timer(TokioTimer::new())
            .max_concurrent_streams(options.streams)
            .max_header_list_size(u32::try_from(options.head_max).unwrap_or(u32::MAX))
            .keep_alive_interval(options.idle_timeout)
            .serve_connection(io, service);
        let mut connection = pin!(connection);
        tokio::select! {
            biased;
            result = connection.as_mut() => result,
            () = until_closing(server, &activity) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    } else {
        let io = TokioIo::new(ClientStream::new(stream, first, Some(Arc::clone(&activity))));
        let connection = http1::Builder::new()
            // Its own timer would also run between requests and be made anew for each; `until_closing` does both.
            .header_read_timeout(None)
            .max_header_size(options.head_max)
            // Room for the largest head and what came with it.
            .max_buf_size(options.head_max * 2)
            .serve_connection(io, service)
            .with_upgrades();
        let mut connection = pin!(connection);
        tokio::select! {
            biased;
            result = connection.as_mut() => result,
            slow = until_closing_slow(server, &activity) => {
                if slow {
                    return;
                }
                // Whatever is answered from now on is the last on its connection.
                tokio::select! {
                    biased;
                    result = connection.as_mut() => result,
                    () = until_lingered(server) => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                }
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// Until the node drains, and what was on its way then has had the time to arrive.
async fn until_lingered(server: &Server) {
    server.shutdown.cancelled().await;
    tokio::time::sleep(server.options.linger).await;
}

async fn until_closing(server: &Server, activity: &Activity) {
    until_closing_slow(server, activity).await;
}

/// Until the node drains (false), or the connection stood still for too long (true): between requests, or within a head.
async fn until_closing_slow(server: &Server, activity: &Activity) -> bool {
    let options = &server.options;
    let step = (options.head_timeout / LOOKS).max(SHORTEST);
    let mut tick = tokio::time::interval(step);
    let (mut before, mut still) = (activity.state(), Duration::ZERO);
    while server.shutdown.run_until_cancelled(tick.tick()).await.is_some() {
        let now = activity.state();
        still = if now == before && now.0 == 0 { still + step } else { Duration::ZERO };
        before = now;
        let limit = if activity.in_head() { options.head_timeout } else { options.idle_timeout };
        if still >= limit {
            return true;
        }
    }
    false
}

/// Starts the streams of an HTTP/2 connection.
#[derive(Debug, Clone, Copy)]
struct Spawner;

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        telemetry::spawn("http stream", future);
    }
}

async fn answer(
    server: &Server,
    origin: &Origin,
    head: Option<&Activity>,
    request: Request<Incoming>,
) -> Response<Body> {
    server.stats.requests.fetch_add(1, Ordering::Relaxed);
    let reader = Reader::of(request.headers());
    if let Err(refusal) = check(&request, head) {
        server.stats.failures.fetch_add(1, Ordering::Relaxed);
        return respond::refused(refusal, &reader, head.is_some());
    }
    let path = request.uri().path();
    if path == HEALTH && matches!(*request.method(), Method::GET | Method::HEAD) {
        return respond::health(server.shutdown.is_cancelled());
    }
    let target = server.table.load().lookup(host(&request), path).map(Arc::clone);
    let result = match target {
        Some(target) => server.forwarder.forward(&server.core, &target, request.map(Payload::from), origin).await,
        None => Err(Failure::NoRoute),
    };
    result.unwrap_or_else(|failure| {
        server.stats.failures.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%failure, "a request was not answered by a component");
        respond::failed(&failure, &reader)
    })
}

/// What the request was sent to, as the client wrote it; the target's authority goes before the `Host` header.
fn host(request: &Request<Incoming>) -> &str {
    let named = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    request.uri().authority().map_or_else(|| named.unwrap_or_default(), |authority| authority.as_str())
}

fn check(request: &Request<Incoming>, head: Option<&Activity>) -> Result<(), Refusal> {
    let headers = request.headers();
    if let Some(activity) = head {
        let chunked = headers.contains_key(header::TRANSFER_ENCODING);
        if activity.take_head(|head| chunked && stream::has_two_lengths(head)) {
            return Err(Refusal::TwoLengths);
        }
    }
    if *request.method() == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => Err(Refusal::Host),
        (Some(host), None) if !valid_host(host.as_bytes()) => Err(Refusal::Host),
        (None, None) if request.version() == Version::HTTP_11 => Err(Refusal::Host),
        _ => Ok(()),
    }
}

/// The characters of hosts, ports and IPv6 literals; anything else could mean something else to the next reader.
fn valid_host(host: &[u8]) -> bool {
    host.iter().all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']'))
}

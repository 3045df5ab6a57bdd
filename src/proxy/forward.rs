//! The way of one request: a slot, a connection, the exchange; another try where that is safe; the answer that holds
//! slot and connection until its last byte.
//!
//! Knows nothing of listeners or of how failures look to a client.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::header::HeaderValue;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version, request};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::io::AsyncWrite;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, Phase};
use crate::id::{ComponentName, InstanceId, NodeId};
use crate::intake::{Ask, Away, Intake, Lease, Way};
use crate::model::Component;
use crate::proxy::body::{Body, Payload, Progress};
use crate::proxy::headers::{self, Marks, Origin};
use crate::proxy::hop::ask::{Outcome, Source as Rest};
use crate::proxy::hop::serve::{Feed, First, Go};
use crate::proxy::hop::wire::{Answered, Asked};
use crate::proxy::hop::{self, PeerStream, Peers, Question};
use crate::proxy::pool::Pool;
use crate::proxy::retry::{Retries, Trouble};
use crate::proxy::upgrade::Tunnels;
use crate::proxy::upstream::{ConnectError, Link, Upstream};
use crate::router::{Target, pattern};
use crate::slots::Gate;
use crate::telemetry;

/// Bytes that a request holds while it waits for a slot: hyper's first read buffer (8 KiB) and the parsed head.
const HELD: u64 = 12 * 1024;

/// Other nodes that are asked for one request at most; then it waits here. Each costs a round trip, and who is third in
/// rank is as good as any.
const HOPS: usize = 3;

/// The shortest time between two sweeps; a timer must not run without pause whatever the settings are.
const SHORTEST: Duration = Duration::from_millis(10);

/// Settings of the way to instances. Every default says how it was found.
#[derive(Debug, Clone)]
pub struct Options {
    /// For a TCP connection to an instance. Instances are on this node, where a connection takes microseconds; two
    /// seconds cover one lost SYN.
    pub connect_timeout: Duration,
    /// How long a connection waits for its next request: it is closed between once and twice this. Node.js and uvicorn
    /// close theirs after 5 s; closing ours first avoids sending into a closing connection.
    pub idle_timeout: Duration,
    /// Waiting connections per instance; more than this many at once are rare beyond a burst.
    pub idle_per_instance: usize,
    /// Instances that are tried for one request at most.
    pub tries: u32,
    /// Waits before a try that may meet the same instance again: time for the core to check a suspect.
    pub backoff: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(2),
            idle_per_instance: 256,
            tries: 3,
            backoff: Duration::from_millis(20),
        }
    }
}

/// Where the time of a request went. In the extensions of what [`Forwarder::call`] answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// Waiting for a slot, cold start included, over all tries.
    pub wait: Duration,
    /// Getting a connection, on the last try; nothing if one was waiting.
    pub connect: Duration,
    /// From the first byte sent to the head of the answer, on the last try.
    pub first_byte: Duration,
    /// How many instances were tried.
    pub tries: u32,
    /// Who answered.
    pub instance: InstanceId,
}

/// Hands requests to instances. Shared by all who do.
#[derive(Debug)]
pub struct Forwarder {
    options: Options,
    pool: Pool,
    tunnels: Arc<Tunnels>,
    peers: Option<Arc<dyn Peers>>,
}

/// What is the same on every try.
struct Errand<'a> {
    core: &'a Arc<dyn Intake>,
    component: &'a Arc<Component>,
    gate: &'a Arc<Gate>,
    limit: Duration,
    /// Bytes that it holds while it waits.
    held: u64,
    grpc: bool,
    /// The client wants to change the protocol.
    is_upgrade: bool,
    progress: Option<Arc<Progress>>,
    /// Measured on the last try.
    connect: Duration,
    first_byte: Duration,
}

/// An answer as it came.
enum Delivered {
    /// From an instance of this node.
    Here { response: Response<Incoming>, link: Link, lease: Lease, timing: Timing },
    /// From one of another node.
    There { answered: Answered, rest: Rest },
}

impl Forwarder {
    /// No connection is made before the first request.
    pub fn new(options: Options) -> Self {
        let pool = Pool::new(options.idle_per_instance);
        Self { options, pool, tunnels: Arc::default(), peers: None }
    }

    /// The same in a cluster: what finds no slot here may go to another node.
    #[must_use]
    pub fn with_peers(self, peers: Arc<dyn Peers>) -> Self {
        Self { peers: Some(peers), ..self }
    }

    /// The connections to instances; for [`Pool::forget`] when an instance is gone.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Upgraded connections, such as WebSockets, that are open.
    pub fn tunnels(&self) -> usize {
        self.tunnels.open()
    }

    /// Closes all upgraded connections, now and from now on.
    pub fn close_tunnels(&self) {
        self.tunnels.close();
    }

    /// Closes old connections until `shutdown`. Run it once per forwarder.
    pub async fn tend(self: Arc<Self>, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(self.options.idle_timeout.max(SHORTEST));
        while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
            self.pool.sweep();
        }
    }

    /// Forwards a request that came from `origin`. The answer's body holds the slot until its last byte or its drop.
    ///
    /// # Errors
    /// Every reason why no answer of the component came, see [`Failure`]. Dropping the future cancels the request: the
    /// connection to the instance is closed and the slot given back.
    pub async fn forward(
        &self,
        core: &Arc<dyn Intake>,
        target: &Target,
        request: Request<Payload>,
        origin: &Origin,
    ) -> Result<Response<Body>, Failure> {
        self.run(core, target, request, origin).await.map(|(response, _)| response)
    }

    /// Calls a component on our own behalf: an invocation, a schedule, a queue. `said` are the `maelstrom-*` headers by
    /// which the event says what it is. [`Timing`] is in the extensions of the answer.
    ///
    /// # Errors
    /// As [`Forwarder::forward`].
    pub async fn call(
        &self,
        core: &Arc<dyn Intake>,
        target: &Target,
        request: Request<Payload>,
        said: HeaderMap,
    ) -> Result<Response<Body>, Failure> {
        let (mut response, timing) = self.run(core, target, request, &Origin::inside(said)).await?;
        response.extensions_mut().insert(timing);
        Ok(response)
    }

    async fn run(
        &self,
        core: &Arc<dyn Intake>,
        target: &Target,
        mut request: Request<Payload>,
        origin: &Origin,
    ) -> Result<(Response<Body>, Timing), Failure> {
        let Some((component, gate)) = &target.live else {
            return Err(Failure::NoComponent(target.component.clone()));
        };
        if let Some(limit) = component.max_body
            && !request.body_mut().limit(limit)
        {
            return Err(Failure::BodyTooLarge { component: component.name.clone(), limit });
        }
        let on_upgrade = hyper::upgrade::on(&mut request);
        let (mut parts, payload) = request.into_parts();
        let protocol = headers::upgrade(&parts);
        let mut errand = Errand {
            core,
            component,
            gate,
            limit: component.request_timeout,
            held: HELD + payload.held(),
            grpc: headers::is_grpc(&parts.headers) && parts.version == Version::HTTP_2,
            is_upgrade: protocol.is_some(),
            progress: payload.progress(),
            connect: Duration::ZERO,
            first_byte: Duration::ZERO,
        };
        let upgrade = protocol.is_some().then_some(on_upgrade);
        let request_id = request_id(core.random());
        let marks = Marks { origin, component: &component.name, request_id: request_id.clone(), upgrade: protocol };
        headers::to_instance(&mut parts, &marks);
        address(&mut parts, target.strip.as_deref(), errand.grpc);
        let request = Request::from_parts(parts, payload);
        let delivered = self.deliver(&mut errand, request, self.peers.as_deref(), None).await;
        let too_large = errand.progress.as_deref().is_some_and(Progress::is_too_large);
        match (delivered, component.max_body) {
            (Err(_), Some(limit)) if too_large => {
                Err(Failure::BodyTooLarge { component: component.name.clone(), limit })
            }
            (Err(failure), _) => Err(failure),
            (Ok(Delivered::Here { response, link, lease, timing }), _) => {
                Ok((self.answer(response, link, lease, upgrade, request_id)?, timing))
            }
            (Ok(Delivered::There { answered, rest }), _) => self.answer_from(answered, rest, upgrade, request_id),
        }
    }

    /// Gets a request to an instance, here or on another node, as often as may be tried.
    async fn deliver(
        &self,
        errand: &mut Errand<'_>,
        mut request: Request<Payload>,
        peers: Option<&dyn Peers>,
        mut go: Option<Go<'_>>,
    ) -> Result<Delivered, Failure> {
        let (core, name) = (errand.core, &errand.component.name);
        let deadline = core.now().after(errand.limit);
        let mut timer = pin!(tokio::time::sleep(errand.limit));
        let mut retries = Retries::new(self.options.tries, &request);
        let mut wait = Duration::ZERO;
        let mut avoid: Vec<NodeId> = Vec::new();
        // While it is on its way to another node because the core sent it there. Its end is the head of the answer: what
        // follows is bounded by the other node's own slots.
        let mut away: Option<Away> = None;
        // Why no instance can be here, once that was tried.
        let mut no_room: Option<Failure> = None;
        loop {
            let asked = core.now();
            let mut free = None;
            if let Some(peers) = peers.filter(|_| retries.avoid().is_empty() && avoid.len() < HOPS) {
                free = Lease::try_get(core, errand.gate);
                if free.is_none()
                    && let Way::There(node) = core.way(name, &avoid, away.is_some())
                {
                    let ask = hop::ask::Ask {
                        peers,
                        node,
                        component: name,
                        remaining: deadline.since(asked),
                        is_grpc: errand.grpc,
                        is_upgrade: errand.is_upgrade,
                    };
                    avoid.push(node);
                    request = match ask.send(request).await {
                        Outcome::Answer(answered, rest) => return Ok(Delivered::There { answered, rest }),
                        Outcome::Failed(failure) => return Err(failure),
                        Outcome::Deadline => return Err(deadline_passed(errand, Phase::Handler)),
                        Outcome::Back(request, reason) => {
                            away = None;
                            tracing::debug!(%node, component = %name, reason, "a request goes elsewhere");
                            *request
                        }
                        Outcome::Lost(reason) => {
                            let reason = format!("the node that had the request was lost: {reason}");
                            let failure = Failure::Upstream { component: name.clone(), sent: true, reason };
                            retries.next_node().ok_or(failure)?
                        }
                    };
                    continue;
                }
            }
            let lease = match (free, no_room.take()) {
                (Some(lease), _) => lease,
                (None, Some(failure)) => return Err(failure),
                (None, None) => {
                    let (gate, component) = (Arc::clone(errand.gate), Arc::clone(errand.component));
                    // Sent elsewhere, and there is nowhere to go: it waits here until it is served.
                    let stays = away.take().is_some() || avoid.len() >= HOPS;
                    let ask = Ask { gate, component, deadline, bytes: errand.held, stays };
                    let lease = within(timer.as_mut(), self.lease(core, ask, retries.avoid())).await;
                    match lease.unwrap_or_else(|| Err(deadline_passed(errand, Phase::Queue))) {
                        // There is room at another node, or nothing may start here.
                        Err(failure @ Failure::Elsewhere(_)) => {
                            let sent = Away::begin(core, name);
                            if peers.is_none() {
                                // The node that sent it here sends it on; until that is seen in what the others say of
                                // themselves, it is on its way.
                                let pause = self.options.backoff;
                                telemetry::spawn("sent back", async move {
                                    tokio::time::sleep(pause).await;
                                    drop(sent);
                                });
                                return Err(failure);
                            }
                            wait += core.now().since(asked);
                            if stays {
                                // Nothing may start here, and all that were asked refused; in a moment it may be others.
                                avoid = Vec::new();
                                let pause = within(timer.as_mut(), tokio::time::sleep(self.options.backoff)).await;
                                pause.ok_or_else(|| deadline_passed(errand, Phase::Queue))?;
                            } else {
                                away = Some(sent);
                            }
                            continue;
                        }
                        Err(failure @ (Failure::NoRoom { .. } | Failure::Nowhere { .. })) => {
                            let (Some(me), Some(_)) = (core.node().filter(|me| !avoid.contains(me)), peers) else {
                                return Err(failure);
                            };
                            wait += core.now().since(asked);
                            avoid.push(me);
                            no_room = Some(failure);
                            continue;
                        }
                        lease => lease?,
                    }
                }
            };
            let claimed = core.now();
            wait += claimed.since(asked);
            if let Some(go) = &mut go {
                go.say().await;
            }
            headers::set_remaining(request.headers_mut(), deadline.since(claimed));
            let trouble = match self.exchange(errand, &lease, request, timer.as_mut()).await {
                Ok((response, link)) => {
                    let timing = Timing {
                        wait,
                        connect: errand.connect,
                        first_byte: errand.first_byte,
                        tries: u32::try_from(retries.avoid().len()).unwrap_or(u32::MAX).saturating_add(1),
                        instance: lease.slots().instance.clone(),
                    };
                    return Ok(Delivered::Here { response, link, lease, timing });
                }
                Err(trouble) => trouble,
            };
            request = match retries.next(&lease.slots().instance, trouble) {
                Ok(request) => request,
                Err(None) => return Err(deadline_passed(errand, Phase::Handler)),
                Err(Some((sent, reason))) => {
                    return Err(Failure::Upstream { component: name.clone(), sent, reason });
                }
            };
        }
    }

    /// Serves a request of another node with an instance of this one. `find` knows the components, `abandoned` ends
    /// when the other node wants no answer any more. Returns when the answer was taken, or then.
    pub async fn serve_peer<F, A>(
        &self,
        core: &Arc<dyn Intake>,
        find: F,
        stream: PeerStream,
        abandoned: A,
    ) -> Option<Question<A>>
    where
        F: FnOnce(&ComponentName) -> Option<(Arc<Component>, Arc<Gate>)>,
        A: Future<Output = ()>,
    {
        let mut send = stream.send;
        let (asked, frames) = match hop::serve::read_first(stream.receive).await {
            Ok(First::Request(asked, frames)) => (asked, frames),
            Ok(First::Question(bytes)) => return Some(Question { bytes, send, abandoned }),
            Err(error) => {
                tracing::debug!(%error, "a request of another node cannot be read");
                return None;
            }
        };
        let live = find(&asked.component);
        let (mut feed, payload) = Feed::new(frames, &asked);
        let switched = tokio::select! {
            biased;
            switched = self.serve_one(core, live, asked, payload, &mut send) => switched,
            () = feed.run() => None,
            () = abandoned => None,
        };
        if let Some((instance, lease, link)) = switched {
            let stream = PeerStream { send, receive: feed.into_raw() };
            self.tunnels.run_hop(instance, stream, Some(lease)).await;
            drop(link);
        }
        None
    }

    /// Gives the instance's end of a protocol that was changed to.
    async fn serve_one(
        &self,
        core: &Arc<dyn Intake>,
        live: Option<(Arc<Component>, Arc<Gate>)>,
        asked: Asked,
        payload: Payload,
        send: &mut Box<dyn AsyncWrite + Send + Unpin>,
    ) -> Option<(OnUpgrade, Lease, Link)> {
        let mut buf = BytesMut::with_capacity(hop::ROOM);
        let delivered = match &live {
            None => Err(Failure::NoComponent(asked.component.clone())),
            Some((component, gate)) => {
                let mut errand = Errand {
                    core,
                    component,
                    gate,
                    limit: asked.remaining,
                    held: HELD,
                    grpc: asked.is_grpc,
                    is_upgrade: asked.is_upgrade,
                    progress: payload.progress(),
                    connect: Duration::ZERO,
                    first_byte: Duration::ZERO,
                };
                let go = Go { send, is_due: asked.has_body };
                self.deliver(&mut errand, asked.into_request(payload), None, Some(go)).await
            }
        };
        // Whether it was sent is noticed by whoever waits for it.
        let _ = match delivered {
            Ok(Delivered::Here { mut response, link, lease, timing }) => {
                let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                let instance = switched.then(|| hyper::upgrade::on(&mut response));
                let (parts, body) = response.into_parts();
                let Timing { instance: id, wait, connect, first_byte, .. } = timing;
                let (status, headers) = (parts.status, parts.headers);
                Answered { status, headers, instance: id, wait, connect, first_byte }.put(&mut buf);
                if let Some(instance) = instance {
                    let written = hop::ask::write(send, &mut buf, false).await.is_ok();
                    return written.then_some((instance, lease, link));
                }
                let mut body = Body::streamed(body, link, lease);
                hop::ask::send_rest(&mut body, send, &mut buf).await
            }
            // It was not offered another node.
            Ok(Delivered::There { .. }) => Ok(()),
            Err(failure) => {
                hop::wire::put_failure(&mut buf, &failure);
                hop::ask::write(send, &mut buf, true).await
            }
        };
        None
    }

    /// Makes the answer of another node one for the client.
    fn answer_from(
        &self,
        answered: Answered,
        rest: Rest,
        upgrade: Option<OnUpgrade>,
        request_id: HeaderValue,
    ) -> Result<(Response<Body>, Timing), Failure> {
        let Answered { status, headers, instance, wait, connect, first_byte } = answered;
        let timing = Timing { wait, connect, first_byte, tries: 1, instance };
        let (mut parts, ()) = Response::new(()).into_parts();
        (parts.status, parts.headers) = (status, headers);
        headers::to_client(&mut parts, request_id, matches!(rest, Rest::Switched(_)));
        let body = match (rest, upgrade) {
            (Rest::Body(inflow), _) => Body::inflow(inflow),
            (Rest::Switched(stream), Some(client)) => {
                let tunnels = Arc::clone(&self.tunnels);
                telemetry::spawn("tunnel", async move { tunnels.run_hop(client, stream, None).await });
                Body::empty()
            }
            (Rest::Switched(_), None) => return Err(switched_unasked(timing.instance.component())),
        };
        Ok((Response::from_parts(parts, body), timing))
    }

    async fn lease(&self, core: &Arc<dyn Intake>, ask: Ask, avoid: &[InstanceId]) -> Result<Lease, Failure> {
        if avoid.is_empty() {
            return Lease::get(core, ask).await;
        }
        if ask.gate.live().iter().all(|slots| avoid.contains(&slots.instance)) {
            tokio::time::sleep(self.options.backoff).await;
        }
        Lease::get_elsewhere(core, ask, avoid).await
    }

    /// One try with one instance.
    async fn exchange(
        &self,
        exchange: &mut Errand<'_>,
        lease: &Lease,
        request: Request<Payload>,
        timer: Pin<&mut Sleep>,
    ) -> Result<(Response<Incoming>, Link), Trouble> {
        if exchange.grpc {
            return self.over_http2(exchange, lease, request, timer).await;
        }
        self.over_http1(exchange, lease, request, timer).await
    }

    async fn over_http1(
        &self,
        exchange: &mut Errand<'_>,
        lease: &Lease,
        mut request: Request<Payload>,
        mut timer: Pin<&mut Sleep>,
    ) -> Result<(Response<Incoming>, Link), Trouble> {
        let slots = lease.slots();
        let home = self.pool.home(&slots.instance);
        // A connection that changes its protocol never comes back, and a fresh one cannot be stale.
        let mut waiting = if exchange.is_upgrade { None } else { home.check_out() };
        loop {
            let reused = waiting.is_some();
            let started = exchange.core.now();
            let mut upstream = match waiting.take() {
                Some(upstream) => upstream,
                None => {
                    let limit = self.options.connect_timeout;
                    let opened = if exchange.is_upgrade {
                        within(timer.as_mut(), Upstream::open_to_upgrade(slots.address, limit)).await
                    } else {
                        within(timer.as_mut(), Upstream::open(slots.address, limit)).await
                    };
                    match opened {
                        Some(Ok(upstream)) => upstream,
                        Some(Err(error)) => return Err(refused(exchange.core, lease, request, &error)),
                        None => return Err(Trouble::Deadline),
                    }
                }
            };
            let connected = exchange.core.now();
            let answer = within(timer.as_mut(), upstream.exchange(request)).await;
            let mut error = match answer {
                Some(Ok(response)) => {
                    exchange.connect = connected.since(started);
                    exchange.first_byte = exchange.core.now().since(connected);
                    let early = exchange.progress.as_deref().is_some_and(Progress::is_running);
                    let link = upstream.into_link(home, early);
                    return Ok((response, link));
                }
                Some(Err(error)) => error,
                None => return Err(Trouble::Deadline),
            };
            let reason = chain(error.error());
            match error.take_message() {
                // It was closed while it waited; a fresh one tells whether the instance is there.
                Some(unsent) if reused => request = unsent,
                Some(unsent) => {
                    exchange.core.suspect(&slots.instance, &reason);
                    return Err(Trouble::Unsent(Box::new(unsent), reason));
                }
                None => {
                    if !reused && exchange.progress.as_deref().is_none_or(|progress| !progress.failed()) {
                        exchange.core.suspect(&slots.instance, &reason);
                    }
                    return Err(Trouble::Lost(reason));
                }
            }
        }
    }

    async fn over_http2(
        &self,
        exchange: &mut Errand<'_>,
        lease: &Lease,
        request: Request<Payload>,
        mut timer: Pin<&mut Sleep>,
    ) -> Result<(Response<Incoming>, Link), Trouble> {
        let slots = lease.slots();
        let home = self.pool.home(&slots.instance);
        let started = exchange.core.now();
        let mut sender = match within(timer.as_mut(), home.shared(slots.address, self.options.connect_timeout)).await {
            Some(Ok(sender)) => sender,
            Some(Err(error)) => return Err(refused(exchange.core, lease, request, &error)),
            None => return Err(Trouble::Deadline),
        };
        let connected = exchange.core.now();
        match within(timer, sender.try_send_request(request)).await {
            Some(Ok(response)) => {
                exchange.connect = connected.since(started);
                exchange.first_byte = exchange.core.now().since(connected);
                Ok((response, Link::Stream))
            }
            Some(Err(mut error)) => {
                let reason = format!("{} (gRPC needs HTTP/2 without TLS)", chain(error.error()));
                Err(match error.take_message() {
                    Some(unsent) => Trouble::Unsent(Box::new(unsent), reason),
                    None => Trouble::Lost(reason),
                })
            }
            None => Err(Trouble::Deadline),
        }
    }

    fn answer(
        &self,
        mut response: Response<Incoming>,
        link: Link,
        lease: Lease,
        upgrade: Option<OnUpgrade>,
        request_id: HeaderValue,
    ) -> Result<Response<Body>, Failure> {
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let instance_end = switched.then(|| hyper::upgrade::on(&mut response));
        let (mut parts, body) = response.into_parts();
        headers::to_client(&mut parts, request_id, switched);
        let body = match (instance_end, upgrade) {
            (None, _) => Body::streamed(body, link, lease),
            (Some(instance), Some(client)) => {
                let tunnels = Arc::clone(&self.tunnels);
                telemetry::spawn("tunnel", async move {
                    tunnels.run(client, instance, lease).await;
                    drop(link);
                });
                Body::empty()
            }
            (Some(_), None) => return Err(switched_unasked(lease.slots().instance.component())),
        };
        Ok(Response::from_parts(parts, body))
    }
}

fn deadline_passed(errand: &Errand<'_>, phase: Phase) -> Failure {
    Failure::Deadline { component: errand.component.name.clone(), phase, limit: errand.limit }
}

fn switched_unasked(component: ComponentName) -> Failure {
    Failure::Upstream { component, sent: true, reason: "it changed the protocol without being asked to".to_owned() }
}

/// What `work` gives, or `None` if the time ran out first.
async fn within<T>(timer: Pin<&mut Sleep>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        out = work => Some(out),
        () = timer => None,
    }
}

fn refused(core: &Arc<dyn Intake>, lease: &Lease, request: Request<Payload>, error: &ConnectError) -> Trouble {
    let reason = chain(error);
    core.suspect(&lease.slots().instance, &reason);
    Trouble::Unsent(Box::new(request), reason)
}

/// An error with its causes, for people.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn request_id(random: u64) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 16];
    for (at, digit) in text.iter_mut().enumerate() {
        *digit = DIGITS[(random >> (60 - 4 * at)) as usize & 15];
    }
    // Hexadecimal digits are a header value.
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

/// Where to, as the instance is to see it: origin form over HTTP/1.1, with scheme and authority over HTTP/2.
fn address(parts: &mut request::Parts, prefix: Option<&str>, http2: bool) {
    parts.version = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    let asterisk = parts.method == Method::OPTIONS && parts.uri.path() == "*";
    let origin_form = parts.uri.authority().is_none() && !asterisk;
    if origin_form && prefix.is_none() && !http2 {
        return;
    }
    let whole = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let path = match prefix {
        None => Some(whole),
        Some(prefix) => {
            let path = pattern::strip(prefix, whole.path());
            match whole.query() {
                None => PathAndQuery::try_from(path).ok(),
                Some(query) => PathAndQuery::try_from(format!("{path}?{query}")).ok(),
            }
        }
    };
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = path.or_else(|| Some(PathAndQuery::from_static("/")));
    if http2 {
        let host = parts.headers.remove(http::header::HOST);
        let authority = host.and_then(|host| http::uri::Authority::try_from(host.as_bytes()).ok());
        uri.authority = authority.or_else(|| parts.uri.authority().cloned());
        uri.scheme = uri.authority.is_some().then_some(http::uri::Scheme::HTTP);
    }
    if let Ok(uri) = Uri::from_parts(uri) {
        parts.uri = uri;
    }
}

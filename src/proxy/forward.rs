//! The way of one request: a slot, a connection, the exchange; another try where that is safe; the answer that holds
//! slot and connection until its last byte.
//!
//! Knows nothing of listeners or of how failures look to a client.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderValue;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version, request};
use hyper::body::Incoming;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, Phase};
use crate::id::InstanceId;
use crate::intake::{Ask, Intake, Lease};
use crate::proxy::body::{Body, Payload, Progress};
use crate::proxy::headers::{self, Marks, Origin};
use crate::proxy::pool::Pool;
use crate::proxy::retry::{Retries, Trouble};
use crate::proxy::upgrade::Tunnels;
use crate::proxy::upstream::{ConnectError, Link, Upstream};
use crate::router::{Target, pattern};
use crate::telemetry;

/// Bytes that a request holds while it waits for a slot: hyper's first read buffer (8 KiB) and the parsed head.
const HELD: u64 = 12 * 1024;

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
}

/// What is the same on every try.
struct Exchange<'a> {
    core: &'a Arc<dyn Intake>,
    grpc: bool,
    /// The client's end of an upgrade.
    upgrade: Option<hyper::upgrade::OnUpgrade>,
    progress: Option<Arc<Progress>>,
    /// Measured on the last try.
    connect: Duration,
    first_byte: Duration,
}

impl Forwarder {
    /// No connection is made before the first request.
    pub fn new(options: Options) -> Self {
        let pool = Pool::new(options.idle_per_instance);
        Self { options, pool, tunnels: Arc::default() }
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

    /// Calls a component on our own behalf: an invocation, a schedule, a queue. [`Timing`] is in the extensions of the
    /// answer.
    ///
    /// # Errors
    /// As [`Forwarder::forward`].
    pub async fn call(
        &self,
        core: &Arc<dyn Intake>,
        target: &Target,
        request: Request<Payload>,
    ) -> Result<Response<Body>, Failure> {
        let (mut response, timing) = self.run(core, target, request, &Origin::inside()).await?;
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
        let arrived = core.now();
        let limit = component.request_timeout;
        let deadline = arrived.after(limit);
        let mut timer = pin!(tokio::time::sleep(limit));
        if let Some(limit) = component.max_body
            && !request.body_mut().limit(limit)
        {
            return Err(Failure::BodyTooLarge { component: component.name.clone(), limit });
        }
        let held = HELD + request.body().held();
        let on_upgrade = hyper::upgrade::on(&mut request);
        let (mut parts, payload) = request.into_parts();
        let protocol = headers::upgrade(&parts);
        let mut exchange = Exchange {
            core,
            grpc: headers::is_grpc(&parts.headers) && parts.version == Version::HTTP_2,
            upgrade: protocol.is_some().then_some(on_upgrade),
            progress: payload.progress(),
            connect: Duration::ZERO,
            first_byte: Duration::ZERO,
        };
        let request_id = request_id(core.random());
        let marks = Marks { origin, component: &component.name, request_id: request_id.clone(), upgrade: protocol };
        headers::to_instance(&mut parts, &marks);
        address(&mut parts, target.strip.as_deref(), exchange.grpc);
        let mut request = Request::from_parts(parts, payload);
        let mut retries = Retries::new(self.options.tries, &request);
        let mut wait = Duration::ZERO;

        loop {
            let asked = core.now();
            let ask = Ask { gate: Arc::clone(gate), component: Arc::clone(component), deadline, bytes: held };
            let lease = within(timer.as_mut(), self.lease(core, ask, retries.avoid())).await;
            let lease = lease.unwrap_or_else(|| {
                Err(Failure::Deadline { component: component.name.clone(), phase: Phase::Queue, limit })
            })?;
            let claimed = core.now();
            wait += claimed.since(asked);
            headers::set_remaining(request.headers_mut(), deadline.since(claimed));
            let trouble = match self.exchange(&mut exchange, &lease, request, timer.as_mut()).await {
                Ok((response, link)) => {
                    let timing = Timing {
                        wait,
                        connect: exchange.connect,
                        first_byte: exchange.first_byte,
                        tries: u32::try_from(retries.avoid().len()).unwrap_or(u32::MAX).saturating_add(1),
                        instance: lease.slots().instance.clone(),
                    };
                    return Ok((self.answer(response, link, lease, exchange.upgrade, request_id)?, timing));
                }
                Err(trouble) => trouble,
            };
            let progress = exchange.progress.as_deref();
            if let (Some(limit), true) = (component.max_body, progress.is_some_and(Progress::is_too_large)) {
                return Err(Failure::BodyTooLarge { component: component.name.clone(), limit });
            }
            request = match retries.next(&lease.slots().instance, trouble) {
                Ok(request) => request,
                Err(None) => {
                    return Err(Failure::Deadline { component: component.name.clone(), phase: Phase::Handler, limit });
                }
                Err(Some((sent, reason))) => {
                    return Err(Failure::Upstream { component: component.name.clone(), sent, reason });
                }
            };
        }
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
        exchange: &mut Exchange<'_>,
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
        exchange: &mut Exchange<'_>,
        lease: &Lease,
        mut request: Request<Payload>,
        mut timer: Pin<&mut Sleep>,
    ) -> Result<(Response<Incoming>, Link), Trouble> {
        let slots = lease.slots();
        let home = self.pool.home(&slots.instance);
        // A connection that changes its protocol never comes back, and a fresh one cannot be stale.
        let mut waiting = if exchange.upgrade.is_some() { None } else { home.check_out() };
        loop {
            let reused = waiting.is_some();
            let started = exchange.core.now();
            let mut upstream = match waiting.take() {
                Some(upstream) => upstream,
                None => {
                    let limit = self.options.connect_timeout;
                    let opened = if exchange.upgrade.is_some() {
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
        exchange: &mut Exchange<'_>,
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
        upgrade: Option<hyper::upgrade::OnUpgrade>,
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
            (Some(_), None) => {
                return Err(Failure::Upstream {
                    component: lease.slots().instance.component(),
                    sent: true,
                    reason: "it changed the protocol without being asked to".to_owned(),
                });
            }
        };
        Ok(Response::from_parts(parts, body))
    }
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

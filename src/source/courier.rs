//! Hands events that were made here to their component: a schedule's, a queue's, one made by hand. They take the way of
//! every request, and may wait, be started for, and go to another node like one.
//!
//! Knows nothing of where an event came from, nor what becomes of its source when it failed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;

use crate::failure::{Failure, Phase};
use crate::id::{ComponentName, SourceName};
use crate::intake::{Ask, Intake, Lease, Way};
use crate::model::{self, Component, Source};
use crate::proxy::{Body, Forwarder, Payload, Timing};
use crate::router::Target;
use crate::slots::Gate;
use crate::time::Mono;

/// Where components are looked up; the daemon's catalog.
pub trait Components: fmt::Debug + Send + Sync + 'static {
    /// The definition in force and its live instances; none if there is no such component.
    fn live(&self, name: &ComponentName) -> Option<(Arc<Component>, Arc<Gate>)>;
}

/// An event that was made here.
#[derive(Debug, Clone)]
pub struct Event {
    /// Which source made it.
    pub source: SourceName,
    /// Who gets it.
    pub component: ComponentName,
    /// Its method.
    pub method: Method,
    /// Path and query, starts with `/`.
    pub path: String,
    /// Headers that the user wants; `maelstrom-*` among them are dropped.
    pub headers: HeaderMap,
    /// What we say of it: `maelstrom-*` headers. With [`ONCE`] among them it is sent to one instance at most, whatever
    /// its method.
    pub said: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// From here to the end of the answer; the component's `request_timeout` if none.
    pub timeout: Option<Duration>,
}

impl Event {
    /// The request that a source makes. `identity` is the same whenever the event is made again: the `idempotency-key`,
    /// unless the user says another.
    pub fn of(source: &Source, request: &model::source::Request, identity: &str, said: HeaderMap) -> Self {
        // Both were checked when the source was put; an identity is of names, numbers and times.
        let header =
            |name: &str, value: &str| Some((HeaderName::try_from(name).ok()?, HeaderValue::from_str(value).ok()?));
        let mut headers: HeaderMap = request.headers.iter().filter_map(|(name, value)| header(name, value)).collect();
        if let Some((name, value)) = header("idempotency-key", identity) {
            headers.entry(name).or_insert(value);
        }
        Self {
            source: source.name.clone(),
            component: source.component.clone(),
            method: request.method.parse().unwrap_or_default(),
            path: request.path.clone(),
            headers,
            said,
            body: request.body.clone().unwrap_or_default().into(),
            timeout: request.timeout,
        }
    }
}

/// The header, and the value, that forbid to send an event again once a byte of it was sent.
pub const ONCE: (HeaderName, HeaderValue) = (crate::proxy::DELIVERY, HeaderValue::from_static("at-most-once"));

/// What a component answered, all of it.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// The first bytes of its body, as many as were wanted.
    pub body: Bytes,
    /// Whether there was more of it.
    pub is_cut: bool,
    /// Who answered and where the time went.
    pub timing: Option<Timing>,
}

/// Carries events. Shared by all sources.
#[derive(Debug, Clone)]
pub struct Courier {
    core: Arc<dyn Intake>,
    forwarder: Arc<Forwarder>,
    components: Arc<dyn Components>,
}

impl Courier {
    /// Over the way that requests take.
    pub fn new(core: Arc<dyn Intake>, forwarder: Arc<Forwarder>, components: Arc<dyn Components>) -> Self {
        Self { core, forwarder, components }
    }

    /// The definition that events for this component meet now.
    pub fn component(&self, name: &ComponentName) -> Option<Arc<Component>> {
        self.components.live(name).map(|(component, _)| component)
    }

    /// A pause of three quarters of this up to all of it: those that failed together do not come again together.
    pub fn jittered(&self, pause: Duration) -> Duration {
        let part = u32::try_from(self.core.random() % 256).unwrap_or(0);
        pause * 3 / 4 + pause / 4 * part / 256
    }

    /// Waits until an instance on this node could take an event at once, and starts one if none is there.
    ///
    /// # Errors
    /// As for an event that waits.
    pub async fn warm(&self, name: &ComponentName, limit: Duration) -> Result<(), Failure> {
        let Some((component, gate)) = self.components.live(name) else {
            return Err(Failure::NoComponent(name.clone()));
        };
        let ask = Ask { gate, component, deadline: self.core.now().after(limit), bytes: 0, stays: true };
        Lease::get(&self.core, ask).await.map(drop)
    }

    /// Where the next event for this component would go.
    pub fn way(&self, name: &ComponentName) -> Way {
        let has_room = self.components.live(name).is_some_and(|(_, gate)| Lease::try_get(&self.core, &gate).is_some());
        if has_room { Way::Here } else { self.core.way(name, &[], false) }
    }

    /// The monotonic clock.
    pub fn now(&self) -> Mono {
        self.core.now()
    }

    /// Random bits.
    pub fn random(&self) -> u64 {
        self.core.random()
    }

    /// Delivers an event and reads the whole answer, of whose body the first `keep` bytes are kept. The instance is in
    /// use until then. Dropping the future cancels the event.
    ///
    /// # Errors
    /// Every reason why no answer, or only a part of one, came: see [`Failure`].
    pub async fn send(&self, event: Event, keep: usize) -> Result<Answer, Failure> {
        let component = event.component.clone();
        let own = || self.component(&component).map(|component| component.request_timeout);
        let limit = event.timeout.or_else(own);
        let exchange = async {
            let response = self.open(event).await?;
            let timing = response.extensions().get::<Timing>().cloned();
            let (head, body) = response.into_parts();
            let (body, is_cut) = read(body, keep).await.map_err(|reason| Failure::Upstream {
                component: component.clone(),
                sent: true,
                reason: format!("its answer broke off: {reason}"),
            })?;
            Ok(Answer { status: head.status, headers: head.headers, body, is_cut, timing })
        };
        match limit {
            // There is no component, which is the answer.
            None => exchange.await,
            Some(limit) => tokio::time::timeout(limit, exchange).await.unwrap_or_else(|_| {
                Err(Failure::Deadline { component: component.clone(), phase: Phase::Handler, limit })
            }),
        }
    }

    /// Delivers an event and gives the answer as it comes; `timeout` is not looked at. [`Timing`] is in its extensions.
    ///
    /// # Errors
    /// As [`Courier::send`].
    pub async fn open(&self, event: Event) -> Result<Response<Body>, Failure> {
        let Event { source, component, method, path, headers, said, body, .. } = event;
        let live = self.components.live(&component);
        let target = Target { source, component: component.clone(), live, strip: None };
        let mut request = Request::builder().method(method).uri(path).body(Payload::from(body)).map_err(|error| {
            Failure::Upstream {
                component,
                sent: false,
                reason: format!("no request can be made of the event: {error}"),
            }
        })?;
        *request.headers_mut() = headers;
        let host = format!("{}.maelstrom", target.source);
        if let Ok(host) = HeaderValue::from_str(&host) {
            request.headers_mut().entry(header::HOST).or_insert(host);
        }
        self.forwarder.call(&self.core, &target, request, said).await
    }
}

/// Reads all of a body and keeps its beginning.
async fn read(mut body: Body, keep: usize) -> Result<(Bytes, bool), String> {
    let (mut kept, mut is_cut) = (BytesMut::new(), false);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() else { continue };
        let room = keep - kept.len();
        is_cut |= data.len() > room;
        kept.extend_from_slice(&data[..data.len().min(room)]);
    }
    Ok((kept.freeze(), is_cut))
}

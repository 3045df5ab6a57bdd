//! Asks the admin API of a node, over its unix socket or over TCP, with a deadline on everything.
//!
//! One connection per question: a command line asks once or twice. Of several nodes the first that accepts a connection
//! is asked; a question that was sent is never sent again. Knows nothing of output or exit codes.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ETAG, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::admin::api::{
    ApiError, CfgView, Code, ComponentView, EventQuery, Expect, InstanceView, Invoke, List, LogQuery, NextView,
    NodeView, Peeked, PlanView, Purged, PutAnswer, QueueRef, QueueView, Redriven, Removed, RevisionView, RolloutView,
    RunView, SourceView, Timing, VersionView,
};
use crate::admin::server::events::{self, STATUS, TIMING};
use crate::model::cfg::CfgKey;
use crate::model::duty::Duty;

mod connect;
mod stream;
mod target;

pub use crate::runtime::logs::sanitized;
pub use stream::{BodyStream, EventStream, LineStream, LogStream};
pub use target::{Target, TargetError};

/// To connect. A node on this machine answers in microseconds, one across the world in a third of a second; three
/// lost SYN packets are repeated within 7 s, and nobody waits that long for a command to say so.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// For a whole answer: that of the server and time for the way.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);

/// The largest answer in bytes that is taken: 100,000 components of half a kibibyte.
const ANSWER_MAX: usize = 64 * 1024 * 1024;

/// What is added to the timeout of an `invoke`: time for the way, so that the node's own refusal arrives.
const INVOKE_GRACE: Duration = Duration::from_secs(2);

/// How long an `invoke` without a timeout is waited for: the longest that the server allows.
const INVOKE_LONGEST: Duration = Duration::from_secs(3605);

/// A question had no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there. State: nothing was asked.
    #[error("node {target} cannot be reached")]
    Unreachable {
        /// Where.
        target: Target,
        /// Why.
        source: io::Error,
    },
    /// The node was asked and did not answer. State: a change may have been made.
    #[error("node {target} did not answer within {limit:?}")]
    Timeout {
        /// Where.
        target: Target,
        /// How long was waited.
        limit: Duration,
    },
    /// The connection broke, or the answer is none of the admin API. State: a change may have been made.
    #[error("node {target} gave no answer of the admin API: {what}")]
    Protocol {
        /// Where.
        target: Target,
        /// What came instead.
        what: String,
    },
    /// The node refused.
    #[error(transparent)]
    Refused(#[from] ApiError),
}

/// Asks one node of those it was given.
#[derive(Clone)]
pub struct Client {
    /// At least one.
    targets: Arc<[Target]>,
    /// The one that answered last.
    current: Arc<AtomicUsize>,
    token: Option<HeaderValue>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the token.
        f.debug_struct("Client").field("targets", &self.targets).finish_non_exhaustive()
    }
}

/// A component's answer to an event.
#[derive(Debug)]
pub struct Answered {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: http::HeaderMap,
    /// Where the time went, up to the head of the answer.
    pub timing: Timing,
    /// What follows.
    pub body: BodyStream,
}

/// The kind of a definition: its part of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A component.
    Component,
    /// An event source.
    Source,
}

impl Kind {
    fn path(self, name: &str) -> String {
        match self {
            Self::Component => format!("/v1/components/{}", escape(name)),
            Self::Source => format!("/v1/sources/{}", escape(name)),
        }
    }
}

impl Client {
    /// A client of the nodes at `targets`, which are tried in this order. Nothing is connected yet.
    ///
    /// # Errors
    /// The token cannot be sent in a header, or there is no target.
    pub fn new(targets: impl Into<Arc<[Target]>>, token: Option<&str>) -> Result<Self, ApiError> {
        let targets = targets.into();
        if targets.is_empty() {
            return Err(ApiError::invalid("no node to ask is named"));
        }
        let token = token.map(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| ApiError::invalid("the token has characters that no token has"))?;
            value.set_sensitive(true);
            Ok::<_, ApiError>(value)
        });
        Ok(Self { targets, current: Arc::default(), token: token.transpose()? })
    }

    /// Which node is asked.
    pub fn target(&self) -> &Target {
        &self.targets[self.current.load(Ordering::Relaxed) % self.targets.len()]
    }

    /// Creates or replaces a definition; with `dry_run` only checks it.
    ///
    /// # Errors
    /// See [`ClientError`], as for every question.
    pub async fn put(
        &self,
        kind: Kind,
        name: &str,
        doc: &Value,
        expect: &Expect,
        dry_run: bool,
    ) -> Result<PutAnswer, ClientError> {
        let query = if dry_run { "?dry_run=true" } else { "" };
        let request = self.request(Method::PUT, &format!("{}{query}", kind.path(name)), doc.to_string().into());
        self.ask(expecting(request, expect)?).await
    }

    /// Removes a definition; a component takes its event sources with it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete(&self, kind: Kind, name: &str, expect: &Expect) -> Result<Removed, ClientError> {
        let request = self.request(Method::DELETE, &kind.path(name), Bytes::new());
        self.ask(expecting(request, expect)?).await
    }

    /// One component.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn component(&self, name: &str) -> Result<ComponentView, ClientError> {
        self.get(&Kind::Component.path(name)).await
    }

    /// Why a component runs where it runs.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn explain(&self, name: &str) -> Result<PlanView, ClientError> {
        self.get(&format!("{}/plan", Kind::Component.path(name))).await
    }

    /// All components.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn components(&self) -> Result<List<ComponentView>, ClientError> {
        self.get("/v1/components").await
    }

    /// How far a component has come with the definition in force.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn rollout(&self, name: &str) -> Result<RolloutView, ClientError> {
        self.get(&format!("{}/rollout", Kind::Component.path(name))).await
    }

    /// The definitions that a component had, the newest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn revisions(&self, name: &str) -> Result<List<RevisionView>, ClientError> {
        self.get(&format!("{}/revisions", Kind::Component.path(name))).await
    }

    /// Puts an earlier definition again: that of a revision, or the one before.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn undo(&self, name: &str, to: Option<u32>) -> Result<PutAnswer, ClientError> {
        let query = to.map(|to| format!("?to={to}")).unwrap_or_default();
        let path = format!("{}/undo{query}", Kind::Component.path(name));
        self.ask(self.request(Method::POST, &path, Bytes::new())).await
    }

    /// One event source.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn source(&self, name: &str) -> Result<SourceView, ClientError> {
        self.get(&Kind::Source.path(name)).await
    }

    /// All event sources.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn sources(&self) -> Result<List<SourceView>, ClientError> {
        self.get("/v1/sources").await
    }

    /// Switches an event source on or off.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn set_source_enabled(&self, name: &str, enabled: bool) -> Result<PutAnswer, ClientError> {
        let action = if enabled { "enable" } else { "disable" };
        let path = format!("{}/{action}", Kind::Source.path(name));
        self.ask(self.request(Method::POST, &path, Bytes::new())).await
    }

    /// The runs of a schedule, the newest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn runs(&self, name: &str) -> Result<List<RunView>, ClientError> {
        self.get(&format!("{}/runs", Kind::Source.path(name))).await
    }

    /// The next planned times of a schedule.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn next_runs(&self, name: &str, count: u32) -> Result<NextView, ClientError> {
        self.get(&format!("{}/next?count={count}", Kind::Source.path(name))).await
    }

    /// Has a schedule run now.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn ask_run(&self, name: &str) -> Result<RunView, ClientError> {
        let path = format!("{}/run", Kind::Source.path(name));
        self.ask(self.request(Method::POST, &path, Bytes::new())).await
    }

    /// Creates or replaces a setting; with `dry_run` only checks it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn put_setting(
        &self,
        key: &CfgKey,
        value: impl Into<Bytes>,
        secret: bool,
        expect: &Expect,
        dry_run: bool,
    ) -> Result<PutAnswer, ClientError> {
        let query = [("secret=true", secret), ("dry_run=true", dry_run)];
        let query: Vec<&str> = query.iter().filter(|(_, is_on)| *is_on).map(|(part, _)| *part).collect();
        let request = self.request(Method::PUT, &setting_path(key, &query), value.into());
        self.ask(expecting(request, expect)?).await
    }

    /// One setting.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn setting(&self, key: &CfgKey) -> Result<CfgView, ClientError> {
        self.get(&setting_path(key, &[])).await
    }

    /// All settings.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn settings(&self) -> Result<List<CfgView>, ClientError> {
        self.get("/v1/cfg").await
    }

    /// Removes a setting; with `force` also one that components need.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete_setting(&self, key: &CfgKey, force: bool, expect: &Expect) -> Result<Removed, ClientError> {
        let query: &[&str] = if force { &["force=true"] } else { &[] };
        let request = self.request(Method::DELETE, &setting_path(key, query), Bytes::new());
        self.ask(expecting(request, expect)?).await
    }

    /// The queues that event sources read.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn queues(&self) -> Result<List<QueueView>, ClientError> {
        self.get("/v1/queues").await
    }

    /// Messages of a queue.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn peek_queue(&self, queue: &QueueRef, limit: u32) -> Result<Peeked, ClientError> {
        self.ask(self.request(Method::POST, &queue_path(queue, "peek", Some(("limit", limit.into()))), Bytes::new()))
            .await
    }

    /// Moves dead letters back: what of it this one request can do.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn redrive_queue(&self, queue: &QueueRef, max: Option<u64>) -> Result<Redriven, ClientError> {
        let path = queue_path(queue, "redrive", max.map(|max| ("max", max)));
        self.ask(self.request(Method::POST, &path, Bytes::new())).await
    }

    /// Deletes all messages of a queue.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn purge_queue(&self, queue: &QueueRef) -> Result<Purged, ClientError> {
        self.ask(self.request(Method::POST, &queue_path(queue, "purge", None), Bytes::new())).await
    }

    /// All nodes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn nodes(&self) -> Result<List<NodeView>, ClientError> {
        self.get("/v1/nodes").await
    }

    /// One node, by name or id.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn node(&self, name: &str) -> Result<NodeView, ClientError> {
        self.get(&format!("/v1/nodes/{}", escape(name))).await
    }

    /// Removes a node that is down or has left.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn remove_node(&self, name: &str) -> Result<NodeView, ClientError> {
        self.ask(self.request(Method::DELETE, &format!("/v1/nodes/{}", escape(name)), Bytes::new())).await
    }

    /// What a node is to do from now on.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn set_duty(&self, name: &str, duty: Duty, force: bool) -> Result<NodeView, ClientError> {
        let action = match duty {
            Duty::Active => "uncordon",
            Duty::Cordoned => "cordon",
            Duty::Draining => "drain",
        };
        let query = if force { "?force=true" } else { "" };
        let path = format!("/v1/nodes/{}/{action}{query}", escape(name));
        self.ask(self.request(Method::POST, &path, Bytes::new())).await
    }

    /// Instances, of one component or all.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn instances(&self, component: Option<&str>) -> Result<List<InstanceView>, ClientError> {
        let query = component.map(|name| format!("?component={}", escape(name))).unwrap_or_default();
        self.get(&format!("/v1/instances{query}")).await
    }

    /// What the node runs.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn version(&self) -> Result<VersionView, ClientError> {
        self.get("/v1/version").await
    }

    /// Lines of a component's log.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn logs(&self, component: &str, query: &LogQuery) -> Result<LogStream, ClientError> {
        let mut path = format!("/v1/logs/{}?tail={}", escape(component), query.tail);
        if query.follow {
            path.push_str("&follow=true");
        }
        if let Some(instance) = &query.instance {
            path.push_str(&format!("&instance={}", escape(instance.as_str())));
        }
        if let Some(stream) = &query.stream {
            path.push_str(&format!("&stream={}", escape(stream)));
        }
        let response = self.send(self.request(Method::GET, &path, Bytes::new()), ANSWER_TIMEOUT).await?;
        Ok(LogStream::new(BodyStream::new(self.target().clone(), response.into_body())))
    }

    /// What happened in the cluster.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn events(&self, query: &EventQuery) -> Result<EventStream, ClientError> {
        let mut path = format!("/v1/events?follow={}", query.follow);
        for (name, value) in [("component", &query.component), ("node", &query.node)] {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", escape(value)));
            }
        }
        if let Some(since) = query.since_ms {
            path.push_str(&format!("&since_ms={since}"));
        }
        if let Some(tail) = query.tail {
            path.push_str(&format!("&tail={tail}"));
        }
        let response = self.send(self.request(Method::GET, &path, Bytes::new()), ANSWER_TIMEOUT).await?;
        Ok(EventStream::new(BodyStream::new(self.target().clone(), response.into_body())))
    }

    /// Sends an event to a component.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn invoke(&self, component: &str, event: &Invoke) -> Result<Answered, ClientError> {
        let mut path = format!("/v1/invoke/{}?method={}&path={}", escape(component), event.method, escape(&event.path));
        if let Some(timeout) = event.timeout {
            path.push_str(&format!("&timeout_ms={}", timeout.as_millis()));
        }
        let mut request = self.request(Method::POST, &path, event.body.clone());
        events::pack(&event.headers, request.headers_mut());
        let limit = event.timeout.map_or(INVOKE_LONGEST, |timeout| timeout + INVOKE_GRACE);
        let response = self.send(request, limit).await?;
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let status = header(STATUS).and_then(|status| status.parse().ok());
        let timing = header(TIMING).and_then(|timing| serde_json::from_str(timing).ok()).unwrap_or_default();
        let Some(status) = status else {
            return Err(self.protocol("an answer to invoke without maelstrom-status"));
        };
        let headers = events::unpack(response.headers())?;
        Ok(Answered { status, headers, timing, body: BodyStream::new(self.target().clone(), response.into_body()) })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(self.request(Method::GET, path, Bytes::new())).await
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        // Every part of the path is a constant or escaped.
        *request.uri_mut() = path.parse().unwrap_or_default();
        if let Some(token) = &self.token {
            request.headers_mut().insert(http::header::AUTHORIZATION, token.clone());
        }
        request
    }

    /// Sends, and reads the answer whole.
    async fn ask<T: DeserializeOwned>(&self, request: Request<Full<Bytes>>) -> Result<T, ClientError> {
        let answer = async {
            let response = self.send(request, ANSWER_TIMEOUT).await?;
            let tag = response.headers().contains_key(ETAG);
            let body = self.whole(response.into_body()).await?;
            serde_json::from_slice(&body).map_err(|error| {
                let kind = if tag { "a versioned answer" } else { "an answer" };
                self.protocol(&format!("{kind} that this version does not understand: {error}"))
            })
        };
        self.within(ANSWER_TIMEOUT, answer).await
    }

    /// Sends, and waits for the head of the answer; a refusal becomes an error.
    async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<http::Response<Incoming>, ClientError> {
        let mut sender = self.connect().await?;
        let host = HeaderValue::from_str(&self.target().authority());
        request.headers_mut().insert(http::header::HOST, host.unwrap_or(HeaderValue::from_static("localhost")));
        let answer = async { sender.send_request(request).await.map_err(|error| self.protocol(&chain(&error))) };
        let response = self.within(limit, answer).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = self.within(ANSWER_TIMEOUT, self.whole(response.into_body())).await?;
        match serde_json::from_slice::<ApiError>(&body) {
            Ok(error) => Err(error.into()),
            Err(_) if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN => {
                Err(ApiError::new(Code::Unauthorized, format!("node {} refused: {status}", self.target())).into())
            }
            Err(_) => Err(self.protocol(&format!("{status} in a shape that is not ours"))),
        }
    }

    /// Connects to the first node that accepts, beginning with the one that answered last. Nothing was asked before, so
    /// trying the next is safe for every question.
    async fn connect(&self) -> Result<hyper::client::conn::http1::SendRequest<Full<Bytes>>, ClientError> {
        let first = self.current.load(Ordering::Relaxed);
        let mut place = first;
        loop {
            let failed = match connect::connect(&self.targets[place % self.targets.len()]).await {
                Ok(sender) => {
                    self.current.store(place % self.targets.len(), Ordering::Relaxed);
                    return Ok(sender);
                }
                Err(error) => error,
            };
            place += 1;
            if place == first + self.targets.len() {
                return Err(failed);
            }
        }
    }

    async fn whole(&self, body: Incoming) -> Result<Bytes, ClientError> {
        let whole = Limited::new(body, ANSWER_MAX).collect().await;
        whole.map(http_body_util::Collected::to_bytes).map_err(|error| self.protocol(&chain(&*error)))
    }

    async fn within<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let late = || ClientError::Timeout { target: self.target().clone(), limit };
        tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(late()))
    }

    fn protocol(&self, what: &str) -> ClientError {
        ClientError::Protocol { target: self.target().clone(), what: what.to_owned() }
    }
}

fn setting_path(key: &CfgKey, query: &[&str]) -> String {
    let component = key.component.as_ref().map(|component| format!("component={component}"));
    let query = component.into_iter().chain(query.iter().map(|part| (*part).to_owned())).collect::<Vec<_>>().join("&");
    let mark = if query.is_empty() { "" } else { "?" };
    format!("/v1/cfg/{}{mark}{query}", escape(key.name.as_str()))
}

fn queue_path(queue: &QueueRef, action: &str, number: Option<(&str, u64)>) -> String {
    let source = queue.source.as_ref().map(|source| format!("source={source}"));
    let dlq = queue.dlq.then(|| "dlq=true".to_owned());
    let number = number.map(|(name, number)| format!("{name}={number}"));
    let query = source.into_iter().chain(dlq).chain(number).collect::<Vec<_>>().join("&");
    let mark = if query.is_empty() { "" } else { "?" };
    format!("/v1/queues/{}/{action}{mark}{query}", escape(&queue.name))
}

/// Says on a request what it is based on.
fn expecting(mut request: Request<Full<Bytes>>, expect: &Expect) -> Result<Request<Full<Bytes>>, ClientError> {
    match expect {
        Expect::Any => {}
        Expect::Absent => {
            request.headers_mut().insert(http::header::IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        Expect::Version(version) => {
            let tag = HeaderValue::from_str(&format!("\"{version}\""))
                .map_err(|_| ApiError::invalid(format!("{version:?} is not a version")))?;
            request.headers_mut().insert(http::header::IF_MATCH, tag);
        }
    }
    Ok(request)
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Escapes everything that could mean something in a URL.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_place_in_the_path() {
        assert_eq!(Kind::Component.path("a/../b?c#d"), "/v1/components/a%2F..%2Fb%3Fc%23d");
    }

    #[test]
    fn the_token_is_not_shown() {
        let client = Client::new(["http://localhost:1".parse().expect("a target")], Some("hush")).expect("a client");
        assert!(!format!("{client:?}").contains("hush"));
    }
}

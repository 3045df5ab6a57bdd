//! Every path of the admin API in one table, and what each does.
//!
//! Checks names, parameters and bounds; leaves documents to [`Control`].

use std::str::FromStr;
use std::sync::Arc;

use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;

use crate::admin::api::{
    ApiError, BODY_MAX, Change, Code, Control, EVENTS_MAX, EventQuery, Expect, LogQuery, NEXT_MAX, PEEK_MAX, PutAnswer,
    QueueRef, TAIL_MAX,
};
use crate::admin::server::body::{self, Body};
use crate::admin::server::query::{self, Query};
use crate::admin::server::{REQUEST_TIMEOUT, events, guard};
use crate::id::{ComponentName, NodeName};
use crate::model::cfg::CfgKey;
use crate::model::duty::Duty;

/// The description of everything here, for people and generators.
const OPENAPI: &str = include_str!("openapi.json");

/// Lines of a log if the request does not say: what fits on a large terminal.
const TAIL: u64 = 100;

/// Planned times of a schedule if the request does not say.
const NEXT: usize = 5;

/// Messages that a look at a queue shows if the request does not say: those of one receive.
const PEEK: u64 = 10;

/// The longest name of a queue in bytes: the bound of SQS.
const QUEUE_NAME_MAX: usize = 80;

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Components,
    Component,
    Plan,
    Rollout,
    Revisions,
    Undo,
    Sources,
    Source,
    Enable,
    Disable,
    Runs,
    Next,
    AskRun,
    Settings,
    Setting,
    Queues,
    Peek,
    Redrive,
    Purge,
    Nodes,
    Node,
    Duty(Duty),
    Instances,
    Logs,
    Events,
    Invoke,
    Version,
    OpenApi,
}

/// Paths, where `{name}` is one segment, with their methods.
#[rustfmt::skip]
const TABLE: &[(&str, Place, &[Method])] = &[
    ("/v1/components", Place::Components, &[Method::GET]),
    ("/v1/components/{name}", Place::Component, &[Method::GET, Method::PUT, Method::DELETE]),
    ("/v1/components/{name}/plan", Place::Plan, &[Method::GET]),
    ("/v1/components/{name}/rollout", Place::Rollout, &[Method::GET]),
    ("/v1/components/{name}/revisions", Place::Revisions, &[Method::GET]),
    ("/v1/components/{name}/undo", Place::Undo, &[Method::POST]),
    ("/v1/sources", Place::Sources, &[Method::GET]),
    ("/v1/sources/{name}", Place::Source, &[Method::GET, Method::PUT, Method::DELETE]),
    ("/v1/sources/{name}/enable", Place::Enable, &[Method::POST]),
    ("/v1/sources/{name}/disable", Place::Disable, &[Method::POST]),
    ("/v1/sources/{name}/runs", Place::Runs, &[Method::GET]),
    ("/v1/sources/{name}/next", Place::Next, &[Method::GET]),
    ("/v1/sources/{name}/run", Place::AskRun, &[Method::POST]),
    ("/v1/cfg", Place::Settings, &[Method::GET]),
    ("/v1/cfg/{name}", Place::Setting, &[Method::GET, Method::PUT, Method::DELETE]),
    ("/v1/queues", Place::Queues, &[Method::GET]),
    ("/v1/queues/{name}/peek", Place::Peek, &[Method::POST]),
    ("/v1/queues/{name}/redrive", Place::Redrive, &[Method::POST]),
    ("/v1/queues/{name}/purge", Place::Purge, &[Method::POST]),
    ("/v1/nodes", Place::Nodes, &[Method::GET]),
    ("/v1/nodes/{name}", Place::Node, &[Method::GET, Method::DELETE]),
    ("/v1/nodes/{name}/drain", Place::Duty(Duty::Draining), &[Method::POST]),
    ("/v1/nodes/{name}/cordon", Place::Duty(Duty::Cordoned), &[Method::POST]),
    ("/v1/nodes/{name}/uncordon", Place::Duty(Duty::Active), &[Method::POST]),
    ("/v1/instances", Place::Instances, &[Method::GET]),
    ("/v1/logs/{name}", Place::Logs, &[Method::GET]),
    ("/v1/events", Place::Events, &[Method::GET]),
    ("/v1/invoke/{name}", Place::Invoke, &[Method::POST]),
    ("/v1/version", Place::Version, &[Method::GET]),
    ("/v1/openapi.json", Place::OpenApi, &[Method::GET]),
];

/// Every method and path that is served.
pub fn routes() -> impl Iterator<Item = (Method, &'static str)> {
    TABLE.iter().flat_map(|(path, _, methods)| methods.iter().map(|method| (method.clone(), *path)))
}

/// Answers a request; a refusal is an answer.
pub(super) async fn answer(
    request: Request<Incoming>,
    control: &Arc<dyn Control>,
    stop: CancellationToken,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Some((place, methods, name)) = find(head.uri.path()) else {
        return guard::check(&head).map_or_else(|error| body::refusal(&error), |()| unknown(head.uri.path()));
    };
    if let Err(error) = guard::check(&head) {
        return body::refusal(&error);
    }
    if !methods.contains(&head.method) {
        let allowed = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let message = format!("{} does not take {}; allowed is {allowed}", head.uri.path(), head.method);
        return body::wrong_method(&ApiError::new(Code::MethodNotAllowed, message), &allowed);
    }
    let asked = Asked { head: &head, name, control };
    let answered = if place == Place::Invoke {
        asked.invoke(body).await
    } else {
        tokio::time::timeout(REQUEST_TIMEOUT, asked.answer(place, body, stop)).await.unwrap_or_else(|_| {
            Err(ApiError::new(Code::Timeout, format!("the request was not answered within {REQUEST_TIMEOUT:?}")))
        })
    };
    match answered {
        Ok(response) => response,
        Err(error) => {
            if error.code == Code::Internal {
                tracing::error!(method = %head.method, path = head.uri.path(), %error, "an admin request failed");
            }
            body::refusal(&error)
        }
    }
}

/// The place of a path and the name in it, still escaped.
fn find(path: &str) -> Option<(Place, &'static [Method], &str)> {
    TABLE.iter().find_map(|(pattern, place, methods)| {
        let mut name = "";
        let mut segments = path.split('/');
        for wanted in pattern.split('/') {
            let segment = segments.next()?;
            if wanted == "{name}" {
                name = segment;
            } else if wanted != segment {
                return None;
            }
        }
        segments.next().is_none().then_some((*place, *methods, name))
    })
}

fn unknown(path: &str) -> Response<Body> {
    let known = TABLE.iter().map(|(path, _, _)| *path);
    let near = crate::model::suggest::nearest(path, known);
    let mut error = ApiError::new(Code::NotFound, format!("there is no {path:?} in the admin API"));
    error.suggestion = near.map(str::to_owned);
    error.hint = Some(match near {
        Some(near) => format!("did you mean {near}?"),
        None => "/v1/openapi.json lists every path".to_owned(),
    });
    body::refusal(&error)
}

/// A request whose path and method are known.
struct Asked<'a> {
    head: &'a Parts,
    name: &'a str,
    control: &'a Arc<dyn Control>,
}

impl Asked<'_> {
    async fn answer(&self, place: Place, body: Incoming, stop: CancellationToken) -> Result<Response<Body>, ApiError> {
        let ok = StatusCode::OK;
        let control = self.control;
        match place {
            Place::Components => {
                self.query(&[])?;
                Ok(body::json(ok, &control.list_components().await?))
            }
            Place::Component => self.component(body).await,
            Place::Rollout => {
                self.query(&[])?;
                Ok(body::json(ok, &control.rollout(self.name()?).await?))
            }
            Place::Revisions => {
                self.query(&[])?;
                Ok(body::json(ok, &control.revisions(self.name()?).await?))
            }
            Place::Undo => {
                let to = self.query(&["to"])?.number("to", u32::MAX.into())?;
                let to = to.and_then(|to| u32::try_from(to).ok());
                Ok(put(&control.undo_component(self.name()?, to).await?))
            }
            Place::Sources => {
                self.query(&[])?;
                Ok(body::json(ok, &control.list_sources().await?))
            }
            Place::Source => self.source(body).await,
            Place::Enable | Place::Disable => {
                self.query(&[])?;
                Ok(put(&control.set_source_enabled(self.name()?, place == Place::Enable).await?))
            }
            Place::Runs => {
                self.query(&[])?;
                Ok(body::json(ok, &control.list_runs(self.name()?).await?))
            }
            Place::Next => {
                let count = self.query(&["count"])?.number("count", NEXT_MAX as u64)?;
                let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(NEXT);
                Ok(body::json(ok, &control.next_runs(self.name()?, count).await?))
            }
            Place::AskRun => {
                self.query(&[])?;
                Ok(body::json(ok, &control.ask_run(self.name()?).await?))
            }
            Place::Settings => {
                self.query(&[])?;
                Ok(body::json(ok, &control.list_settings().await?))
            }
            Place::Setting => self.setting(body).await,
            Place::Queues => {
                self.query(&[])?;
                Ok(body::json(ok, &control.list_queues().await?))
            }
            Place::Peek => {
                let query = self.query(&["source", "dlq", "limit"])?;
                let limit = query.number("limit", PEEK_MAX.into())?.unwrap_or(PEEK).max(1);
                let limit = u32::try_from(limit).unwrap_or(PEEK_MAX);
                Ok(body::json(ok, &control.peek_queue(self.queue(&query)?, limit).await?))
            }
            Place::Redrive => {
                let query = self.query(&["source", "max"])?;
                let max = query.number("max", u64::MAX)?;
                Ok(body::json(ok, &control.redrive_queue(self.queue(&query)?, max).await?))
            }
            Place::Purge => {
                let query = self.query(&["source", "dlq"])?;
                Ok(body::json(ok, &control.purge_queue(self.queue(&query)?).await?))
            }
            Place::Nodes => {
                self.query(&[])?;
                Ok(body::json(ok, &control.list_nodes().await?))
            }
            Place::Node => {
                self.query(&[])?;
                // A name or an id; both follow the rule for names.
                let name = self.name::<NodeName>()?.to_string();
                let node = match self.head.method == Method::DELETE {
                    true => control.remove_node(name).await?,
                    false => control.get_node(name).await?,
                };
                Ok(body::json(ok, &node))
            }
            Place::Duty(duty) => {
                let force = self.query(&["force"])?.flag("force")?;
                let node = self.control.set_duty(self.name::<NodeName>()?.to_string(), duty, force).await?;
                Ok(body::json(ok, &node))
            }
            Place::Plan => {
                self.query(&[])?;
                Ok(body::json(ok, &control.explain(self.name()?).await?))
            }
            Place::Instances => {
                let component = self.query(&["component"])?.parsed("component")?;
                Ok(body::json(ok, &control.list_instances(component).await?))
            }
            Place::Logs => {
                let lines = control.logs(self.name()?, self.log_query()?).await?;
                Ok(body::lines(lines, stop))
            }
            Place::Events => Ok(body::lines(control.events(self.event_query()?).await?, stop)),
            Place::Invoke => self.invoke(body).await,
            Place::Version => {
                self.query(&[])?;
                Ok(body::json(ok, &control.version().await?))
            }
            Place::OpenApi => Ok(body::typed(ok, "application/json", OPENAPI.into())),
        }
    }

    async fn component(&self, body: Incoming) -> Result<Response<Body>, ApiError> {
        let name = self.name()?;
        if self.head.method == Method::PUT {
            let dry_run = self.query(&["dry_run"])?.flag("dry_run")?;
            let expect = self.expect()?;
            let doc = body::read_json(body, BODY_MAX).await?;
            let answer = match dry_run {
                true => self.control.check_component(name, doc, expect).await?,
                false => self.control.put_component(name, doc, expect).await?,
            };
            return Ok(put(&answer));
        }
        self.query(&[])?;
        if self.head.method == Method::DELETE {
            return Ok(body::json(StatusCode::OK, &self.control.delete_component(name, self.expect()?).await?));
        }
        let view = self.control.get_component(name).await?;
        Ok(body::versioned(StatusCode::OK, &view.version, &view))
    }

    async fn source(&self, body: Incoming) -> Result<Response<Body>, ApiError> {
        let name = self.name()?;
        if self.head.method == Method::PUT {
            let dry_run = self.query(&["dry_run"])?.flag("dry_run")?;
            let expect = self.expect()?;
            let doc = body::read_json(body, BODY_MAX).await?;
            let answer = match dry_run {
                true => self.control.check_source(name, doc, expect).await?,
                false => self.control.put_source(name, doc, expect).await?,
            };
            return Ok(put(&answer));
        }
        self.query(&[])?;
        if self.head.method == Method::DELETE {
            return Ok(body::json(StatusCode::OK, &self.control.delete_source(name, self.expect()?).await?));
        }
        let view = self.control.get_source(name).await?;
        Ok(body::versioned(StatusCode::OK, &view.version, &view))
    }

    /// The body of a put is the value, byte for byte.
    async fn setting(&self, body: Incoming) -> Result<Response<Body>, ApiError> {
        let known: &[&str] = match self.head.method {
            Method::PUT => &["component", "secret", "dry_run"],
            Method::DELETE => &["component", "force"],
            _ => &["component"],
        };
        let query = self.query(known)?;
        let key = CfgKey { component: query.parsed("component")?, name: self.name()? };
        if self.head.method == Method::PUT {
            let (secret, dry_run, expect) = (query.flag("secret")?, query.flag("dry_run")?, self.expect()?);
            let value = body::read(body, BODY_MAX).await?;
            let answer = match dry_run {
                true => self.control.check_setting(key, value, secret, expect).await?,
                false => self.control.put_setting(key, value, secret, expect).await?,
            };
            return Ok(put(&answer));
        }
        if self.head.method == Method::DELETE {
            let removed = self.control.delete_setting(key, query.flag("force")?, self.expect()?).await?;
            return Ok(body::json(StatusCode::OK, &removed));
        }
        let view = self.control.get_setting(key).await?;
        Ok(body::versioned(StatusCode::OK, &view.version, &view))
    }

    async fn invoke(&self, body: Incoming) -> Result<Response<Body>, ApiError> {
        let query = self.query(events::QUERY)?;
        events::invoke(self.control, self.name()?, &query, &self.head.headers, body).await
    }

    fn log_query(&self) -> Result<LogQuery, ApiError> {
        let query = self.query(&["tail", "follow", "instance", "stream"])?;
        let stream = query.text("stream").map(str::to_owned);
        if let Some(stream) = stream.as_deref().filter(|stream| !["stdout", "stderr", "system"].contains(stream)) {
            let message = format!("query parameter stream is {stream:?}; allowed is stdout, stderr or system");
            return Err(ApiError::invalid(message));
        }
        let tail = query.number("tail", TAIL_MAX.into())?.unwrap_or(TAIL);
        Ok(LogQuery {
            tail: u32::try_from(tail).unwrap_or(TAIL_MAX),
            follow: query.flag("follow")?,
            instance: query.parsed("instance")?,
            stream,
        })
    }

    fn event_query(&self) -> Result<EventQuery, ApiError> {
        let query = self.query(&["component", "node", "since_ms", "tail", "follow"])?;
        Ok(EventQuery {
            component: query.parsed::<ComponentName>("component")?.map(|name| name.to_string()),
            node: query.parsed::<NodeName>("node")?.map(|name| name.to_string()),
            since_ms: query.number("since_ms", u64::MAX)?,
            tail: query.number("tail", EVENTS_MAX.into())?.and_then(|tail| u32::try_from(tail).ok()),
            follow: query.flag("follow")?,
        })
    }

    fn query(&self, known: &[&str]) -> Result<Query, ApiError> {
        Query::parse(self.head.uri.query(), known)
    }

    /// The name in the path.
    fn name<N: FromStr<Err: std::fmt::Display>>(&self) -> Result<N, ApiError> {
        let name = query::decode(self.name)?;
        name.parse().map_err(|error| ApiError::invalid(format!("name {name:?} {error}")))
    }

    /// The queue in the path.
    fn queue(&self, query: &Query) -> Result<QueueRef, ApiError> {
        let name = query::decode(self.name)?;
        let inner = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        if name.is_empty() || name.len() > QUEUE_NAME_MAX || !name.bytes().all(inner) {
            let allowed = "[A-Za-z0-9_-], at most 80 bytes, with .fifo at its end if it is one";
            return Err(ApiError::invalid(format!("name {name:?} is not the name of a queue; allowed is {allowed}")));
        }
        // Not every path takes it.
        let dlq = query.flag("dlq")?;
        Ok(QueueRef { name, source: query.parsed("source")?, dlq })
    }

    /// What the change is based on.
    fn expect(&self) -> Result<Expect, ApiError> {
        let header = |name| self.head.headers.get(name).map(|value| value.to_str().unwrap_or_default());
        match (header(IF_MATCH), header(IF_NONE_MATCH)) {
            (None, None) => Ok(Expect::Any),
            (None, Some("*")) => Ok(Expect::Absent),
            (None, Some(other)) => Err(ApiError::invalid(format!("If-None-Match is {other:?}; allowed is *"))),
            (Some(_), Some(_)) => Err(ApiError::invalid("both If-Match and If-None-Match are given")),
            (Some(tag), None) => {
                let version = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
                let version = version.filter(|version| !version.is_empty() && !version.contains('"'));
                let wrong = || ApiError::invalid(format!("If-Match is {tag:?}; allowed is one \"VERSION\" in quotes"));
                version.map(|version| Expect::Version(version.to_owned())).ok_or_else(wrong)
            }
        }
    }
}

/// The answer to a put.
fn put(answer: &PutAnswer) -> Response<Body> {
    let status = if answer.changed == Change::Created { StatusCode::CREATED } else { StatusCode::OK };
    body::versioned(status, &answer.version, answer)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_openapi_document_lists_exactly_the_routes_that_are_served() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).expect("JSON");
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for method in item.as_object().expect("methods").keys().filter(|key| *key != "parameters") {
                described.insert((method.to_uppercase(), path.clone()));
            }
        }
        let served: BTreeSet<_> = routes().map(|(method, path)| (method.to_string(), path.to_owned())).collect();
        assert_eq!(described, served);
    }

    #[test]
    fn every_reference_in_the_openapi_document_leads_somewhere() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).expect("JSON");
        let mut open = vec![&document];
        while let Some(value) = open.pop() {
            if let Some(reference) = value.get("$ref").and_then(serde_json::Value::as_str) {
                let pointer = reference.strip_prefix('#').expect("a local reference");
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
            open.extend(value.as_object().into_iter().flat_map(|object| object.values()));
            open.extend(value.as_array().into_iter().flatten());
        }
    }

    #[test]
    fn a_path_matches_by_whole_segments() {
        assert_eq!(find("/v1/components/a").map(|found| (found.0, found.2)), Some((Place::Component, "a")));
        assert_eq!(find("/v1/sources/a/enable").map(|found| found.0), Some(Place::Enable));
        for none in ["/", "/v1", "/v1/component", "/v1/components/a/b", "/v1/sources/a/enable/b"] {
            assert!(find(none).is_none(), "{none}");
        }
    }
}

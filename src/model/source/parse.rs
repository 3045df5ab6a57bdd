//! From an untrusted document to an event source: every field once, every error of the document at once.
//!
//! Knows nothing of where the document came from, nor whether the component exists.

use std::num::NonZeroU32;

use serde_json::Value;

use crate::id::{ComponentName, NameError, SourceName};
use crate::model::invalid::{Invalid, Refusal};
use crate::model::reader::{Errors, Field, Object};
use crate::model::source::defaults as d;
use crate::model::source::{Cron, Http, Source, Sqs, Trigger};
use crate::model::{address, check_size, schedule};

const TOP: &[&str] = &["component", "enabled", "http", "cron", "sqs"];
/// The fields of which exactly one is given.
const TRIGGERS: [&str; 3] = ["http", "cron", "sqs"];
const HTTP: &[&str] = &["host", "path", "strip_prefix"];
const CRON: &[&str] = &["schedule", "timezone", "method", "path", "headers", "body"];
const SQS: &[&str] = &["queue", "prefix", "path", "concurrency", "batch", "region", "endpoint"];

/// Start of the headers that Maelstrom sets on requests.
const OUR_HEADERS: &str = "maelstrom-";
/// Headers that say how a message is framed or a connection is kept: the client that sends the request sets them.
const FRAMING: [&str; 8] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

impl Source {
    /// Every field that a document may have: the path of the object (empty for the document itself) and the names.
    pub const FIELDS: &'static [(&'static str, &'static [&'static str])] =
        &[("", TOP), ("http", HTTP), ("cron", CRON), ("sqs", SQS)];

    /// Reads a definition.
    ///
    /// # Errors
    /// All errors of the document, in the order of its fields.
    pub fn parse(name: &SourceName, doc: &Value) -> Result<Self, Invalid> {
        let mut errors = Errors::default();
        let parsed = Field::document(doc).object(TOP, &mut errors).and_then(|top| read(name, &top, &mut errors));
        if let Some(source) = &parsed {
            check_size(&source.to_doc(), &mut errors);
        }
        errors.finish(parsed)
    }
}

fn read(name: &SourceName, top: &Object<'_>, e: &mut Errors) -> Option<Source> {
    let component = required(top, "component", "the name of a component", e).parsed(e, |text| {
        text.parse::<ComponentName>().map_err(|error: NameError| {
            Refusal::new("is not a name", format!("[a-z0-9][a-z0-9_-]*, at most 60 bytes; it {error}"))
        })
    });
    let enabled = top.get("enabled").flag(e).unwrap_or(true);
    let given: Vec<&str> = TRIGGERS.into_iter().filter(|name| top.get(name).is_given()).collect();
    if given.len() != 1 {
        let problem = match given[..] {
            [] => "names no http, cron or sqs".to_owned(),
            _ => format!("names {} at once", given.join(" and ")),
        };
        e.add("document", String::new(), Refusal::new(problem, "exactly one of http, cron and sqs"));
    }
    // Each is read even if there is one too many: all errors at once.
    let http = top.get("http").object(HTTP, e).and_then(|object| http(&object, e)).map(Trigger::Http);
    let cron = top.get("cron").object(CRON, e).and_then(|object| cron(&object, e)).map(Trigger::Cron);
    let sqs = top.get("sqs").object(SQS, e).and_then(|object| sqs(&object, e)).map(Trigger::Sqs);
    Some(Source { name: name.clone(), component: component?, enabled, trigger: http.or(cron).or(sqs)? })
}

/// A field that must be there.
fn required<'a>(object: &Object<'a>, name: &str, form: &str, e: &mut Errors) -> Field<'a> {
    let field = object.get(name);
    if !field.is_given() {
        field.refuse(e, "is missing", form);
    }
    field
}

/// The path of a request that the source makes.
fn target(object: &Object<'_>, e: &mut Errors) -> Option<String> {
    let field = required(object, "path", "the path of the request, such as /tasks/clean", e);
    field.parsed(e, |text| address::check_target(text).map(|()| text.to_owned()))
}

fn http(object: &Object<'_>, e: &mut Errors) -> Option<Http> {
    let (host, path) = (object.get("host"), object.get("path"));
    if !host.is_given() && !path.is_given() {
        host.refuse(e, "is missing, and so is path", "a host, a path or both; path / takes every request");
    }
    let parsed = host.parsed(e, address::parse_host);
    let prefix = path.parsed(e, address::parse_prefix);
    let strip_prefix = object.get("strip_prefix").flag(e).unwrap_or(false);
    Some(Http { host: parsed, path: prefix.unwrap_or_else(|| d::PREFIX.to_owned()), strip_prefix })
}

fn cron(object: &Object<'_>, e: &mut Errors) -> Option<Cron> {
    let expression = required(object, "schedule", "a schedule such as */5 * * * * or @daily", e);
    let expression = expression.parsed(e, schedule::parse);
    let timezone = object.get("timezone").parsed(e, schedule::parse_zone);
    let methods = d::METHODS.map(|method| (method, method));
    let method = object.get("method").one_of(&methods, e);
    let path = target(object, e);
    let headers = object.get("headers").pairs(e, header_name, header_value);
    let body = object.get("body").secret().scalar(e).map(std::borrow::Cow::into_owned);
    let default_method = if body.is_some() { d::METHOD_WITH_BODY } else { d::METHOD };
    Some(Cron {
        expression: expression?,
        timezone: timezone.unwrap_or_else(|| d::TIMEZONE.to_owned()),
        method: method.unwrap_or(default_method).to_owned(),
        path: path?,
        headers,
        body,
    })
}

/// A header name in lower case, in which it is compared.
fn header_name(text: &str) -> Result<String, Refusal> {
    let form = "a header name such as content-type; not maelstrom-* and none that frames the message";
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || text.len() > d::HEADER_MAX || !text.bytes().all(token) {
        return Err(Refusal::new("is not a header name", form));
    }
    let name = text.to_ascii_lowercase();
    if name.starts_with(OUR_HEADERS) || FRAMING.contains(&name.as_str()) {
        return Err(Refusal::new("is a header that Maelstrom sets itself", form));
    }
    Ok(name)
}

fn header_value(text: &str) -> Result<(), Refusal> {
    let fits = text.len() <= d::HEADER_MAX && text.bytes().all(|b| b == b'\t' || (0x20..0x7f).contains(&b));
    let form = || format!("visible ASCII and spaces, at most {} bytes", d::HEADER_MAX);
    fits.then_some(()).ok_or_else(|| Refusal::new("is not a header value", form()))
}

fn sqs(object: &Object<'_>, e: &mut Errors) -> Option<Sqs> {
    let prefix = object.get("prefix").flag(e).unwrap_or(false);
    let queue = required(object, "queue", "the name or URL of a queue", e);
    let queue = queue.parsed(e, |text| queue_name(text, prefix));
    let path = target(object, e);
    let concurrency = object.get("concurrency").whole(1..=d::CONCURRENCY_MAX, e);
    let field = object.get("batch");
    let batch = field.whole(1..=d::BATCH_MAX, e).unwrap_or(d::BATCH);
    if let Some(concurrency) = concurrency.filter(|concurrency| *concurrency < batch) {
        field.refuse(e, format!("is above sqs.concurrency {concurrency}"), format!("1 to {concurrency}"));
    }
    let region = object.get("region").parsed(e, |text| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let fits = (1..=32).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-');
        fits.then(|| text.to_owned()).ok_or_else(|| Refusal::new("is not a region", "a region such as eu-central-1"))
    });
    let endpoint = object.get("endpoint").parsed(e, |text| check_url(text).map(str::to_owned));
    Some(Sqs {
        queue: queue?,
        prefix,
        path: path?,
        concurrency: NonZeroU32::new(concurrency.unwrap_or(d::CONCURRENCY)).unwrap_or(NonZeroU32::MIN),
        batch: u8::try_from(batch).unwrap_or(1),
        region,
        endpoint,
    })
}

fn queue_name(text: &str, prefix: bool) -> Result<String, Refusal> {
    let form = "[A-Za-z0-9_-], at most 80 bytes, with .fifo at its end if it is one; or a URL";
    if text.contains("://") && !prefix {
        let url = check_url(text)?;
        let name = url.rsplit('/').next().unwrap_or_default();
        return queue_name(name, false).map(|_| url.to_owned());
    }
    let name = if prefix { text } else { text.strip_suffix(".fifo").unwrap_or(text) };
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if name.is_empty() || text.len() > d::QUEUE_NAME_MAX || !name.bytes().all(inner) {
        return Err(match prefix {
            true => Refusal::new("is not the start of a queue name", "[A-Za-z0-9_-], at most 80 bytes, and no URL"),
            false => Refusal::new("is not a queue name", form),
        });
    }
    Ok(text.to_owned())
}

/// `http` or `https`, a host with an optional port, a path; no login, query or fragment.
fn check_url(text: &str) -> Result<&str, Refusal> {
    let refuse = |problem: &str| Err(Refusal::new(problem, "http(s)://HOST[:PORT][/PATH], at most 1024 bytes"));
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return refuse("is not an http or https URL");
    };
    if text.len() > d::URL_MAX {
        return refuse("is too long");
    }
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if host.contains('@') {
        return refuse("has a login in it, and credentials come from the environment of the node");
    }
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let wrong_port =
        |port: &str| !port.bytes().all(|b| b.is_ascii_digit()) || !port.parse::<u16>().is_ok_and(|p| p > 0);
    if port.is_some_and(wrong_port) || name.starts_with('*') || address::parse_host(name).is_err() {
        return refuse("has no host, or a wrong one or a wrong port");
    }
    if !path.is_empty() && (address::check_target(path).is_err() || path.contains('?')) {
        return refuse("has a path with a query or with characters that a URL does not hold");
    }
    Ok(text)
}

//! The request that a source makes of its own: the fields that the kinds share that say it in full.
//!
//! Knows nothing of when it is made.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::model::invalid::Refusal;
use crate::model::reader::{Errors, Object};
use crate::model::source::defaults as d;
use crate::model::source::parse;
use crate::model::units::format_duration;

/// Start of the headers that Maelstrom sets on requests.
const OUR_HEADERS: &str = "maelstrom-";
/// Headers that say how a message is framed or a connection is kept: the client that sends the request sets them.
const FRAMING: [&str; 8] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// The request that a source makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`, ...
    pub method: String,
    /// Starts with `/`.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Sent as it is.
    pub body: Option<String>,
    /// From the request to the end of its answer; the component's `request_timeout` if none.
    pub timeout: Option<Duration>,
}

impl Request {
    /// Reads its fields among those of the section; every error is noted.
    pub(super) fn read(object: &Object<'_>, e: &mut Errors) -> Option<Self> {
        let methods = d::METHODS.map(|method| (method, method));
        let method = object.get("method").one_of(&methods, e);
        let path = parse::target(object, e);
        let headers = object.get("headers").pairs(e, header_name, header_value);
        let body = object.get("body").secret().scalar(e).map(std::borrow::Cow::into_owned);
        let timeout = parse::timeout(object, e);
        let default_method = if body.is_some() { d::METHOD_WITH_BODY } else { d::METHOD };
        Some(Self { method: method.unwrap_or(default_method).to_owned(), path: path?, headers, body, timeout })
    }

    /// Writes its fields into the section.
    pub(super) fn write(&self, section: &mut Value) {
        section["method"] = json!(self.method);
        section["path"] = json!(self.path);
        section["headers"] = json!(self.headers);
        section["body"] = json!(self.body);
        section["timeout"] = json!(self.timeout.map(format_duration));
    }
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

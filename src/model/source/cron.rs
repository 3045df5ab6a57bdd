//! The source `cron`: requests that are made by a schedule.
//!
//! Knows nothing of the clock: `model::schedule` says what a schedule is.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::model::invalid::Refusal;
use crate::model::reader::{Errors, Object};
use crate::model::schedule;
use crate::model::source::defaults as d;
use crate::model::source::{Section, parse};
use crate::model::units::format_duration;

/// Start of the headers that Maelstrom sets on requests.
const OUR_HEADERS: &str = "maelstrom-";
/// Headers that say how a message is framed or a connection is kept: the client that sends the request sets them.
const FRAMING: [&str; 8] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    /// As the user wrote it, syntax checked; single spaces, and `@every` and `@at` in one spelling.
    pub expression: String,
    /// IANA name of the zone; UTC unless said.
    pub timezone: String,
    /// `GET`, `POST`, ...
    pub method: String,
    /// Path of the request, starts with `/`.
    pub path: String,
    /// Headers of the request.
    pub headers: BTreeMap<String, String>,
    /// Body of the request.
    pub body: Option<String>,
    /// From the request to the end of its answer; the component's `request_timeout` if none.
    pub timeout: Option<Duration>,
}

impl Section for Cron {
    const NAME: &'static str = "cron";
    const FIELDS: &'static [&'static str] = &["schedule", "timezone", "method", "path", "headers", "body", "timeout"];

    fn read(object: &Object<'_>, e: &mut Errors) -> Option<Self> {
        let expression = parse::required(object, "schedule", "a schedule such as */5 * * * * or @daily", e);
        let expression = expression.parsed(e, schedule::parse);
        let timezone = object.get("timezone").parsed(e, schedule::parse_zone);
        let methods = d::METHODS.map(|method| (method, method));
        let method = object.get("method").one_of(&methods, e);
        let path = parse::target(object, e);
        let headers = object.get("headers").pairs(e, header_name, header_value);
        let body = object.get("body").secret().scalar(e).map(std::borrow::Cow::into_owned);
        let default_method = if body.is_some() { d::METHOD_WITH_BODY } else { d::METHOD };
        Some(Self {
            expression: expression?,
            timezone: timezone.unwrap_or_else(|| d::TIMEZONE.to_owned()),
            method: method.unwrap_or(default_method).to_owned(),
            path: path?,
            headers,
            body,
            timeout: parse::timeout(object, e),
        })
    }

    fn to_doc(&self) -> Value {
        json!({
            "schedule": self.expression,
            "timezone": self.timezone,
            "method": self.method,
            "path": self.path,
            "headers": self.headers,
            "body": self.body,
            "timeout": self.timeout.map(format_duration),
        })
    }
}

/// A header name in lower case, in which it is compared.
pub(super) fn header_name(text: &str) -> Result<String, Refusal> {
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

pub(super) fn header_value(text: &str) -> Result<(), Refusal> {
    let fits = text.len() <= d::HEADER_MAX && text.bytes().all(|b| b == b'\t' || (0x20..0x7f).contains(&b));
    let form = || format!("visible ASCII and spaces, at most {} bytes", d::HEADER_MAX);
    fits.then_some(()).ok_or_else(|| Refusal::new("is not a header value", form()))
}

//! The source `once`: one request, made at a moment, after which the source is removed.
//!
//! Knows nothing of the clock.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::model::invalid::Refusal;
use crate::model::reader::{Errors, Object};
use crate::model::source::cron::{header_name, header_value};
use crate::model::source::defaults as d;
use crate::model::source::{Section, parse};
use crate::model::units::format_duration;

/// One request, made at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// When, in milliseconds since 1970 UTC. In the past is at once.
    pub at: u64,
    /// For how long after that it is tried again while it fails.
    pub give_up_after: Duration,
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

impl Once {
    /// The moment as people write it.
    pub fn moment(&self) -> String {
        let millis = i64::try_from(self.at).unwrap_or(i64::MAX);
        jiff::Timestamp::from_millisecond(millis).map_or_else(|_| self.at.to_string(), |at| at.to_string())
    }
}

impl Section for Once {
    const NAME: &'static str = "once";
    const FIELDS: &'static [&'static str] = &["at", "give_up_after", "method", "path", "headers", "body", "timeout"];

    fn read(object: &Object<'_>, e: &mut Errors) -> Option<Self> {
        let at = parse::required(object, "at", "a time such as 2030-01-31T08:00:00Z", e).parsed(e, moment);
        let within = Duration::ZERO..=d::GIVE_UP_MAX;
        let give_up_after = object.get("give_up_after").duration(within, e).unwrap_or(d::GIVE_UP_AFTER);
        let methods = d::METHODS.map(|method| (method, method));
        let method = object.get("method").one_of(&methods, e);
        let path = parse::target(object, e);
        let headers = object.get("headers").pairs(e, header_name, header_value);
        let body = object.get("body").secret().scalar(e).map(std::borrow::Cow::into_owned);
        let default_method = if body.is_some() { d::METHOD_WITH_BODY } else { d::METHOD };
        Some(Self {
            at: at?,
            give_up_after,
            method: method.unwrap_or(default_method).to_owned(),
            path: path?,
            headers,
            body,
            timeout: parse::timeout(object, e),
        })
    }

    fn to_doc(&self) -> Value {
        json!({
            "at": self.moment(),
            "give_up_after": format_duration(self.give_up_after),
            "method": self.method,
            "path": self.path,
            "headers": self.headers,
            "body": self.body,
            "timeout": self.timeout.map(format_duration),
        })
    }
}

fn moment(text: &str) -> Result<u64, Refusal> {
    let at = text.trim().parse::<jiff::Timestamp>().ok().and_then(|at| u64::try_from(at.as_millisecond()).ok());
    at.ok_or_else(|| Refusal::new("is not a time", "a time with its offset, such as 2030-01-31T08:00:00+01:00"))
}

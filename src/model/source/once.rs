//! The source `once`: one request, made at a moment, after which the source is removed.
//!
//! Knows nothing of the clock.

use std::time::Duration;

use serde_json::{Value, json};

use crate::model::invalid::Refusal;
use crate::model::reader::{Errors, Object};
use crate::model::source::defaults as d;
use crate::model::source::{Request, Section, parse};
use crate::model::units::format_duration;

/// One request, made at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// When, in milliseconds since 1970 UTC. In the past is at once.
    pub at: u64,
    /// For how long after that it is tried again while it fails.
    pub give_up_after: Duration,
    /// What is sent.
    pub request: Request,
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
        let request = Request::read(object, e);
        Some(Self { at: at?, give_up_after, request: request? })
    }

    fn to_doc(&self) -> Value {
        let mut doc = json!({"at": self.moment(), "give_up_after": format_duration(self.give_up_after)});
        self.request.write(&mut doc);
        doc
    }
}

fn moment(text: &str) -> Result<u64, Refusal> {
    let at = text.trim().parse::<jiff::Timestamp>().ok().and_then(|at| u64::try_from(at.as_millisecond()).ok());
    at.ok_or_else(|| Refusal::new("is not a time", "a time with its offset, such as 2030-01-31T08:00:00+01:00"))
}

//! The source `cron`: requests that are made by a schedule.
//!
//! Knows nothing of the clock: `model::schedule` says what a schedule is.

use std::time::Duration;

use serde_json::{Value, json};

use crate::model::invalid::Refusal;
use crate::model::reader::{Errors, Object};
use crate::model::schedule;
use crate::model::source::defaults as d;
use crate::model::source::{Request, Section, parse};
use crate::model::units::format_duration;

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    /// As the user wrote it, syntax checked; single spaces, and `@every` and `@at` in one spelling.
    pub expression: String,
    /// IANA name of the zone; UTC unless said.
    pub timezone: String,
    /// What is sent.
    pub request: Request,
    /// What becomes of a fixed time that a day does not have.
    pub gap: Gap,
    /// What becomes of a fixed time that a day has twice.
    pub repeat: Repeat,
    /// What happens when a run is due and another is not done.
    pub overlap: Overlap,
    /// What becomes of planned times at which no node could fire.
    pub missed: Missed,
    /// How late a planned time may still be fired.
    pub start_deadline: Duration,
    /// Runs begin up to this much later than planned, by a share that follows from the source's name.
    pub jitter: Duration,
    /// How often a run that failed is tried again.
    pub retries: u32,
    /// What is promised of each planned time.
    pub delivery: Delivery,
}

/// What becomes of a fixed time that a day does not have, because clocks were put forward over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// It is left out on that day.
    Skip,
    /// It is the moment at which clocks are put forward.
    RunAtTransition,
}

/// What becomes of a fixed time that a day has twice, because clocks were put back over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It is the earlier of the two.
    First,
    /// It is the later of the two.
    Second,
    /// It is both.
    Both,
}

/// What happens when a run is due and another is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// Both run.
    Allow,
    /// The new one is skipped.
    Forbid,
    /// The old one is given up.
    Replace,
    /// One waits until the old one is done; what comes while one waits is skipped.
    Queue,
}

/// What becomes of planned times at which no node could fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// They are skipped.
    None,
    /// The latest is fired.
    Latest,
    /// The last so many are fired, in their order.
    All(u32),
}

/// What is promised of each planned time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Nothing is left out; when nodes cannot see each other it may be fired twice.
    AtLeastOnce,
    /// Nothing is fired twice; when too few nodes can be seen it is skipped.
    AtMostOnce,
}

const GAPS: [(&str, Gap); 2] = [("skip", Gap::Skip), ("run-at-transition", Gap::RunAtTransition)];
const REPEATS: [(&str, Repeat); 3] = [("first", Repeat::First), ("second", Repeat::Second), ("both", Repeat::Both)];
const OVERLAPS: [(&str, Overlap); 4] =
    [("allow", Overlap::Allow), ("forbid", Overlap::Forbid), ("replace", Overlap::Replace), ("queue", Overlap::Queue)];
const DELIVERIES: [(&str, Delivery); 2] =
    [("at-least-once", Delivery::AtLeastOnce), ("at-most-once", Delivery::AtMostOnce)];

/// The word for a choice.
fn word<T: PartialEq>(choices: &[(&'static str, T)], choice: &T) -> &'static str {
    choices.iter().find(|(_, one)| one == choice).map_or("", |(word, _)| word)
}

/// `none`, `latest`, `all` or `all:N`.
fn missed(text: &str) -> Result<Missed, Refusal> {
    let lower = text.to_ascii_lowercase();
    match lower.as_str() {
        "none" => return Ok(Missed::None),
        "latest" => return Ok(Missed::Latest),
        "all" => return Ok(Missed::All(d::MISSED_MAX)),
        _ => {}
    }
    let count = lower.strip_prefix("all:").and_then(|count| count.parse().ok());
    count.filter(|count| (1..=d::MISSED_MAX).contains(count)).map(Missed::All).ok_or_else(|| {
        Refusal::new("is not a choice", format!("none, latest, all, all:N with N from 1 to {}", d::MISSED_MAX))
    })
}

impl Section for Cron {
    const NAME: &'static str = "cron";
    const FIELDS: &'static [&'static str] = &[
        "schedule",
        "timezone",
        "dst_gap",
        "dst_overlap",
        "method",
        "path",
        "headers",
        "body",
        "timeout",
        "overlap",
        "missed",
        "start_deadline",
        "jitter",
        "retries",
        "delivery",
    ];

    fn read(object: &Object<'_>, e: &mut Errors) -> Option<Self> {
        let expression = parse::required(object, "schedule", "a schedule such as */5 * * * * or @daily", e);
        let expression = expression.parsed(e, schedule::parse);
        let timezone = object.get("timezone").parsed(e, schedule::parse_zone);
        let request = Request::read(object, e);
        let (gap, repeat) = (object.get("dst_gap").one_of(&GAPS, e), object.get("dst_overlap").one_of(&REPEATS, e));
        let overlap = object.get("overlap").one_of(&OVERLAPS, e);
        let missed = object.get("missed").parsed(e, missed);
        let start_deadline = object.get("start_deadline").duration(d::START_DEADLINE_MIN..=d::START_DEADLINE_MAX, e);
        let jitter = object.get("jitter").duration(Duration::ZERO..=d::JITTER_MAX, e);
        let again = object.get("retries");
        let retries = again.whole(0..=d::RETRIES_MAX, e).unwrap_or(d::RETRIES);
        let delivery = object.get("delivery").one_of(&DELIVERIES, e).unwrap_or(d::DELIVERY);
        if delivery == Delivery::AtMostOnce && retries > 0 {
            again.refuse(e, "repeats what cron.delivery at-most-once forbids to repeat", "0, or at-least-once");
        }
        Some(Self {
            expression: expression?,
            timezone: timezone.unwrap_or_else(|| d::TIMEZONE.to_owned()),
            request: request?,
            gap: gap.unwrap_or(d::DST_GAP),
            repeat: repeat.unwrap_or(d::DST_OVERLAP),
            overlap: overlap.unwrap_or(d::OVERLAP),
            missed: missed.unwrap_or(d::MISSED),
            start_deadline: start_deadline.unwrap_or(d::START_DEADLINE),
            jitter: jitter.unwrap_or_default(),
            retries,
            delivery,
        })
    }

    fn to_doc(&self) -> Value {
        let mut doc = json!({
            "schedule": self.expression,
            "timezone": self.timezone,
            "dst_gap": word(&GAPS, &self.gap),
            "dst_overlap": word(&REPEATS, &self.repeat),
            "overlap": word(&OVERLAPS, &self.overlap),
            "missed": match self.missed {
                Missed::None => "none".to_owned(),
                Missed::Latest => "latest".to_owned(),
                Missed::All(most) => format!("all:{most}"),
            },
            "start_deadline": format_duration(self.start_deadline),
            "jitter": format_duration(self.jitter),
            "retries": self.retries,
            "delivery": word(&DELIVERIES, &self.delivery),
        });
        self.request.write(&mut doc);
        doc
    }
}

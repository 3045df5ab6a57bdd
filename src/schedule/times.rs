//! The planned times of a schedule: which moment comes next after a given one.
//!
//! Crate `cron` finds the next local time that the fields take; which moment that is in a zone whose clocks are put
//! forward and back is decided here. Knows nothing of runs.

use chrono::{DateTime, Offset as _, TimeZone as _, Utc};
use chrono_tz::Tz;

use crate::model::invalid::Refusal;
use crate::model::schedule::{self, Fields, Plan};
use crate::model::source::{Cron, Gap, Repeat};
use crate::time::Wall;

/// The version of the zone data that is compiled in.
pub const ZONE_DATA: &str = chrono_tz::IANA_TZDB_VERSION;

/// Longer than clocks were ever put forward or back at once (a day, where the date line moved), in seconds.
const JUMP: i64 = 25 * 3600;

/// Between two looks at a zone's offset, in seconds: no zone has changed it twice within a day since 1970.
const STEP: i64 = 24 * 3600;

/// Moments at which clocks change that are looked at in one search. Crate `cron` ends in the year 2100, before which no
/// zone has so many.
const CHANGES_MAX: usize = 1_000;

/// When a schedule fires.
#[derive(Debug, Clone)]
pub struct Times(Kind);

#[derive(Debug, Clone)]
enum Kind {
    /// In milliseconds since 1970, so that all nodes have the same phase.
    Every(u64),
    At(Wall),
    Fields(Box<Clockwork>),
}

/// Local times, and what becomes of them when clocks change.
#[derive(Debug, Clone)]
struct Clockwork {
    /// Each gives local times; the earliest counts. Two if a day needs only one of day and weekday.
    patterns: Vec<cron::Schedule>,
    zone: Tz,
    /// A local time that does not exist is the moment of the change.
    fills_gap: bool,
    /// Of a local time that comes twice, the first counts.
    first: bool,
    /// And the second.
    second: bool,
}

/// When a zone's clocks are changed, in seconds since 1970, and the offsets before and after, in seconds.
#[derive(Debug, Clone, Copy)]
struct Change {
    at: i64,
    before: i64,
    after: i64,
}

impl Times {
    /// Of a definition.
    ///
    /// # Errors
    /// An expression or a zone that this release does not know.
    pub fn new(cron: &Cron) -> Result<Self, Refusal> {
        let fields = match schedule::read(&cron.expression)? {
            Plan::Every(every) => {
                return Ok(Self(Kind::Every(u64::try_from(every.as_millis()).unwrap_or(u64::MAX).max(1))));
            }
            Plan::At(at) => return Ok(Self(Kind::At(at))),
            Plan::Fields(fields) => fields,
        };
        let zone = cron.timezone.parse::<Tz>().map_err(|error| Refusal::new(error.to_string(), "an IANA name"))?;
        // Who takes every hour counts hours as they pass: none is made up for, and a repeated one is one more.
        let by_clock = !fields.is_every_hour();
        Ok(Self(Kind::Fields(Box::new(Clockwork {
            patterns: patterns(&fields)?,
            zone,
            fills_gap: by_clock && cron.gap == Gap::RunAtTransition,
            first: !by_clock || cron.repeat != Repeat::Second,
            second: !by_clock || cron.repeat != Repeat::First,
        }))))
    }

    /// The first planned time after a moment; none if there is no more, or none before the year 2101.
    pub fn after(&self, moment: Wall) -> Option<Wall> {
        match &self.0 {
            Kind::Every(every) => (moment.0 / every).checked_add(1)?.checked_mul(*every).map(Wall),
            Kind::At(at) => (*at > moment).then_some(*at),
            Kind::Fields(clockwork) => {
                let seconds = clockwork.after(i64::try_from(moment.0 / 1_000).ok()?)?;
                u64::try_from(seconds).ok()?.checked_mul(1_000).map(Wall)
            }
        }
    }

    /// A moment as people of the zone write it: RFC 3339 with its offset.
    pub fn local(&self, moment: Wall) -> String {
        let utc = i64::try_from(moment.0).ok().and_then(DateTime::<Utc>::from_timestamp_millis);
        match (&self.0, utc) {
            (Kind::Fields(clockwork), Some(utc)) if clockwork.zone != Tz::UTC => {
                utc.with_timezone(&clockwork.zone).to_rfc3339()
            }
            _ => schedule::rfc3339(moment),
        }
    }

    /// The planned times after a moment, in order.
    pub fn following(&self, moment: Wall) -> impl Iterator<Item = Wall> + '_ {
        std::iter::successors(self.after(moment), |last| self.after(*last))
    }
}

/// The fields as crate `cron` reads them: with seconds, Sunday as 1, and both day and weekday needed.
fn patterns(fields: &Fields) -> Result<Vec<cron::Schedule>, Refusal> {
    let pattern = |days: &str, weekdays: &str| {
        let [seconds, minutes, hours, months] = [fields.seconds, fields.minutes, fields.hours, fields.months].map(list);
        let text = format!("{seconds} {minutes} {hours} {days} {months} {weekdays}");
        text.parse::<cron::Schedule>().map_err(|error| Refusal::new(error.to_string(), "a schedule"))
    };
    let days = list(fields.days);
    let is_any_weekday = fields.weekdays.count_ones() == 7;
    let weekdays = if is_any_weekday { "*".to_owned() } else { list(fields.weekdays << 1) };
    if fields.is_either_day {
        return Ok(vec![pattern(&days, "*")?, pattern("*", &weekdays)?]);
    }
    Ok(vec![pattern(&days, &weekdays)?])
}

fn list(set: u64) -> String {
    let numbers = (0..64).filter(|bit| set & (1 << bit) != 0).map(|bit| bit.to_string());
    numbers.collect::<Vec<_>>().join(",")
}

impl Clockwork {
    /// The first planned second after a second.
    fn after(&self, second: i64) -> Option<i64> {
        let mut from = second.checked_add(1)?;
        for _ in 0..CHANGES_MAX {
            let offset = self.offset(from)?;
            let mut local = from + offset;
            if let Some(change) = self.change(from - JUMP, from)? {
                let begins = change.at == from && change.after > change.before;
                if begins && self.fills_gap && self.has_local(from + change.before, from + change.after) {
                    return Some(from);
                }
                if !self.second && change.after < change.before {
                    local = local.max(change.at + change.before);
                }
            }
            let found = self.local_from(local)?;
            let moment = found - offset;
            if moment - from > 2 * JUMP {
                // Whatever the offset is there, nothing is planned before.
                from = moment - JUMP;
                continue;
            }
            match self.change(from, moment + JUMP)? {
                Some(change) if change.at <= moment => from = change.at,
                // It comes again after the change, and that one counts.
                Some(change) if !self.first && found >= change.at + change.after => from = change.at,
                Some(_) | None => return Some(moment),
            }
        }
        None
    }

    fn offset(&self, second: i64) -> Option<i64> {
        let utc = DateTime::<Utc>::from_timestamp(second, 0)?.naive_utc();
        Some(i64::from(self.zone.offset_from_utc_datetime(&utc).fix().local_minus_utc()))
    }

    /// The first change of clocks after one second and not after another; the outer none: out of the calendar.
    #[expect(clippy::option_option, reason = "the outer one is the end of the calendar, and ends every search")]
    fn change(&self, after: i64, until: i64) -> Option<Option<Change>> {
        let mut low = after;
        let before = self.offset(low)?;
        while low < until {
            let mut high = (low + STEP).min(until);
            if self.offset(high)? == before {
                low = high;
                continue;
            }
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                if self.offset(middle)? == before {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            return Some(Some(Change { at: high, before, after: self.offset(high)? }));
        }
        Some(None)
    }

    /// The first local second that the fields take, from one on.
    fn local_from(&self, local: i64) -> Option<i64> {
        let before = DateTime::<Utc>::from_timestamp(local - 1, 0)?;
        self.patterns.iter().filter_map(|pattern| pattern.after(&before).next()).map(|found| found.timestamp()).min()
    }

    fn has_local(&self, from: i64, until: i64) -> bool {
        self.local_from(from).is_some_and(|found| found < until)
    }
}

#[cfg(test)]
mod tests;

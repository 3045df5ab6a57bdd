//! The syntax of schedules and zone names: whether a text is one, and its one spelling.
//!
//! Knows nothing of the clock: when a schedule fires is decided in `schedule::times`, from what this file read.

use std::time::Duration;

use crate::model::invalid::Refusal;
use crate::model::suggest;
use crate::model::units::{DURATION_FORM, format_duration, parse_duration};
use crate::time::Wall;

const FORM: &str = "5 fields (minute hour day month weekday), 6 with seconds first, @yearly, @monthly, @weekly, \
                    @daily, @hourly, @every DURATION or @at TIME";

/// Between two runs of `@every`. One second is the finest that the 6-field form can say too.
const EVERY_MIN: Duration = Duration::from_secs(1);

/// The words that stand for whole schedules.
const WORDS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
/// Sunday is 0, and 7 too.
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
/// The last day of each month in the longest year.
const LAST_DAYS: [u64; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// One of the fields: which values it takes, and which names they have.
struct Part {
    name: &'static str,
    least: u64,
    most: u64,
    names: &'static [&'static str],
}

const PARTS: [Part; 6] = [
    Part { name: "second", least: 0, most: 59, names: &[] },
    Part { name: "minute", least: 0, most: 59, names: &[] },
    Part { name: "hour", least: 0, most: 23, names: &[] },
    Part { name: "day", least: 1, most: 31, names: &[] },
    Part { name: "month", least: 1, most: 12, names: &MONTHS },
    Part { name: "weekday", least: 0, most: 7, names: &DAYS },
];

/// What a schedule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// At the local times that these fields take.
    Fields(Fields),
    /// Again and again.
    Every(Duration),
    /// Once, at this moment.
    At(Wall),
}

/// The values that fields take, each as bits: bit 5 of `minutes` is minute 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    /// 0 to 59.
    pub seconds: u64,
    /// 0 to 59.
    pub minutes: u64,
    /// 0 to 23.
    pub hours: u64,
    /// 1 to 31.
    pub days: u64,
    /// 1 to 12.
    pub months: u64,
    /// 0 to 6, Sunday is 0.
    pub weekdays: u64,
    /// A day needs only one of the two: both day and weekday are named, and neither begins with `*`. The rule of Vixie's
    /// cron, which nearly all have taken over.
    pub is_either_day: bool,
}

impl Fields {
    /// Whether every hour is taken: then it is meant by elapsed time and not by the hands of the clock.
    pub fn is_every_hour(&self) -> bool {
        self.hours == bits(0, 23, 1)
    }
}

/// Checks a schedule and gives it back with single spaces; `@every` and `@at` in canonical units and UTC.
///
/// # Errors
/// What is not a schedule, and dates that no year has, such as 31 February.
pub fn parse(text: &str) -> Result<String, Refusal> {
    let text = text.trim();
    if text.starts_with('@') {
        let lower = text.to_ascii_lowercase();
        return Ok(match read(text)? {
            Plan::Every(every) => format!("@every {}", format_duration(every)),
            Plan::At(at) => format!("@at {}", rfc3339(at)),
            Plan::Fields(_) => lower,
        });
    }
    read(text)?;
    Ok(text.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
}

/// Reads a schedule.
///
/// # Errors
/// As [`parse`].
pub fn read(text: &str) -> Result<Plan, Refusal> {
    let text = text.trim();
    match text.strip_prefix('@') {
        Some(word) => read_word(text, word),
        None => read_fields(text).map(Plan::Fields),
    }
}

fn read_fields(text: &str) -> Result<Fields, Refusal> {
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let parts = match fields.len() {
        6 => &PARTS[..],
        5 => &PARTS[1..],
        count => return Err(Refusal::new(format!("has {count} fields"), FORM)),
    };
    // Five fields are meant at second 0.
    let mut sets = [1; 6];
    for (at, (part, field)) in parts.iter().zip(&fields).enumerate() {
        sets[at + 6 - parts.len()] = part.parse(field)?;
    }
    let [seconds, minutes, hours, days, months, weekdays] = sets;
    let is_star = |field: &str| field.starts_with(['*', '?']);
    let is_either_day = fields.iter().rev().step_by(2).take(2).all(|field| !is_star(field));
    let exists = |month: &usize| days & bits(1, LAST_DAYS[*month], 1) != 0;
    if !is_either_day && !(0..12).filter(|month| months & (1 << (month + 1)) != 0).any(|month| exists(&month)) {
        return Err(Refusal::new("names a day that its months never have", "a date that exists, such as 0 0 28 2 *"));
    }
    let weekdays = (weekdays | (weekdays >> 7)) & bits(0, 6, 1);
    Ok(Fields { seconds, minutes, hours, days, months, weekdays, is_either_day })
}

fn read_word(text: &str, word: &str) -> Result<Plan, Refusal> {
    if let Some(every) = word.strip_prefix("every ") {
        let every = parse_duration(every)
            .map_err(|refusal| Refusal::new(format!("{} after @every", refusal.problem), DURATION_FORM))?;
        if every < EVERY_MIN {
            return Err(Refusal::new("runs more often than every second", "@every 1s and more"));
        }
        return Ok(Plan::Every(every));
    }
    if let Some(at) = word.strip_prefix("at ") {
        let at = at.trim().parse::<jiff::Timestamp>().ok();
        return at.and_then(|at| u64::try_from(at.as_millisecond()).ok()).map(|at| Plan::At(Wall(at))).ok_or_else(
            || Refusal::new("has no time after @at", "a time with its offset, such as @at 2030-01-31T08:00:00+01:00"),
        );
    }
    let lower = text.to_ascii_lowercase();
    if let Some((_, fields)) = WORDS.iter().find(|(word, _)| *word == lower) {
        return read_fields(fields).map(Plan::Fields);
    }
    let near = suggest::nearest(&lower, WORDS.iter().map(|(word, _)| *word))
        .map_or_else(String::new, |near| format!("; did you mean {near}?"));
    Err(Refusal::new(format!("is not a schedule{near}"), FORM))
}

impl Part {
    /// The values that a field names, as bits.
    fn parse(&self, field: &str) -> Result<u64, Refusal> {
        let mut set = 0;
        for item in field.split(',') {
            set |= self.item(item).ok_or_else(|| self.refuse(item))?;
        }
        Ok(set)
    }

    /// `*`, `?` for a day, `n`, `a-b`, each with an optional `/step`; `n/step` goes on to the end.
    fn item(&self, item: &str) -> Option<u64> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(number(step).filter(|step| (1..=self.most).contains(step))?)),
            None => (item, None),
        };
        let is_day = self.name == "day" || self.name == "weekday";
        let (first, last) = match range.split_once('-') {
            _ if range == "*" || (range == "?" && is_day) => (self.least, self.most),
            Some((first, last)) => (self.value(first)?, self.value(last)?),
            None => {
                let only = self.value(range)?;
                (only, if step.is_some() { self.most } else { only })
            }
        };
        (first <= last).then(|| bits(first, last, step.unwrap_or(1)))
    }

    fn value(&self, text: &str) -> Option<u64> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let value = match named {
            Some(at) => self.least + u64::try_from(at).ok()?,
            None => number(text)?,
        };
        (self.least..=self.most).contains(&value).then_some(value)
    }

    fn refuse(&self, item: &str) -> Refusal {
        let item: String = item.chars().take(20).collect();
        let names = match (self.names.first(), self.names.last()) {
            (Some(first), Some(last)) => format!(" or {first} to {last}"),
            _ => String::new(),
        };
        Refusal::new(
            format!("has {item:?} as its {}", self.name),
            format!("{} to {}{names}, *, ranges a-b with a not above b, steps */n, lists a,b", self.least, self.most),
        )
    }
}

/// A number of one or two digits.
fn number(text: &str) -> Option<u64> {
    let digits = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// Every `step`th value of a range as bits; `last` is below 64.
fn bits(first: u64, last: u64, step: u64) -> u64 {
    let mut set = 0;
    let mut value = first;
    while value <= last {
        set |= 1 << value;
        value += step;
    }
    set
}

/// A moment as people and headers write it, in UTC; milliseconds only if there are some.
pub fn rfc3339(at: Wall) -> String {
    let at = i64::try_from(at.0).ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    // Beyond the year 9999.
    at.unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// Checks the IANA name of a zone against the compiled-in table and gives it in its own case.
///
/// # Errors
/// A name that the table does not have; a near one is proposed.
pub fn parse_zone(text: &str) -> Result<String, Refusal> {
    let names = || chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
    if let Some(name) = names().find(|name| name.eq_ignore_ascii_case(text)) {
        return Ok(name.to_owned());
    }
    let near = suggest::nearest(text, names()).map_or_else(String::new, |near| format!("; did you mean {near}?"));
    Err(Refusal::new(format!("is not a time zone{near}"), "an IANA name such as UTC or Europe/Berlin"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn schedules_are_taken_in_their_usual_forms() {
        for (text, canonical) in [
            ("*/5 * * * *", "*/5 * * * *"),
            ("  0  8 *  * mon-fri ", "0 8 * * mon-fri"),
            ("30 0 8 1,15 JAN-JUN ?", "30 0 8 1,15 JAN-JUN ?"),
            ("0 0 29 2 *", "0 0 29 2 *"),
            ("0 0 31 2,3 *", "0 0 31 2,3 *"),
            ("0 0 31 2 mon", "0 0 31 2 mon"),
            ("5/15 0-6/2 * * 7", "5/15 0-6/2 * * 7"),
            ("@Hourly", "@hourly"),
            ("@every 90s", "@every 1m30s"),
            ("@at 2030-01-31T08:00:00+01:00", "@at 2030-01-31T07:00:00Z"),
        ] {
            assert_eq!(parse(text).expect(text), canonical);
        }
    }

    #[test]
    fn what_never_fires_or_says_nothing_is_refused() {
        for (text, word) in [
            ("", "0 fields"),
            ("* * * *", "4 fields"),
            ("* * * * * * *", "7 fields"),
            ("60 * * * *", "minute"),
            ("* 24 * * *", "hour"),
            ("* * 0 * *", "day"),
            ("* * * 13 *", "month"),
            ("* * * * 8", "weekday"),
            ("* * * * FOO", "weekday"),
            ("5-1 * * * *", "minute"),
            ("*/0 * * * *", "minute"),
            ("? * * * *", "minute"),
            ("1,,2 * * * *", "minute"),
            ("0 0 31 2 *", "never have"),
            ("0 0 30 feb *", "never have"),
            ("0 0 31 4,6,9,11 *", "never have"),
            ("0 0 31 2 */2", "never have"),
            ("@at 1969-12-31T00:00:00Z", "after @at"),
            ("@every", "not a schedule"),
            ("@every 0s", "every second"),
            ("@every soon", "after @every"),
            ("@at tomorrow", "after @at"),
            ("@at 2030-01-31T08:00:00", "after @at"),
            ("@dayly", "did you mean @daily?"),
        ] {
            let refusal = parse(text).expect_err(text);
            assert!(refusal.problem.contains(word), "{text}: {refusal}");
        }
    }

    #[test]
    fn zones_have_their_own_case_and_a_near_one_is_proposed() {
        assert_eq!(parse_zone("europe/berlin").expect("a zone"), "Europe/Berlin");
        assert_eq!(parse_zone("utc").expect("a zone"), "UTC");
        let refusal = parse_zone("Europe/Berln").expect_err("no zone");
        assert!(refusal.problem.contains("Europe/Berlin"), "{refusal}");
        assert!(parse_zone("").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_what_it_gives_is_stable(
            text in "([0-9*?,/A-Z-]{1,6} ){4,5}[0-9*?]|@(every|at) [0-9:TZhms.+-]{0,12}|\\PC{0,30}",
        ) {
            if let Ok(canonical) = parse(&text) {
                prop_assert_eq!(parse(&canonical).ok(), Some(canonical));
            }
        }
    }
}

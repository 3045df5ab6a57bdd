//! The syntax of schedules and zone names: whether a text is one, and its one spelling.
//!
//! Knows nothing of the clock: when a schedule fires is decided elsewhere, from a text that this file let pass.

use std::time::Duration;

use crate::model::invalid::Refusal;
use crate::model::suggest;
use crate::model::units::{DURATION_FORM, format_duration, parse_duration};

const FORM: &str = "5 fields (minute hour day month weekday), 6 with seconds first, @yearly, @monthly, @weekly, \
                    @daily, @hourly, @every DURATION or @at TIME";

/// Between two runs of `@every`. One second is the finest that the 6-field form can say too.
const EVERY_MIN: Duration = Duration::from_secs(1);

/// The words that stand for whole schedules.
const WORDS: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

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

/// Checks a schedule and gives it back with single spaces; `@every` and `@at` in canonical units and UTC.
///
/// # Errors
/// What is not a schedule, and dates that no year has, such as 31 February.
pub fn parse(text: &str) -> Result<String, Refusal> {
    let text = text.trim();
    if let Some(word) = text.strip_prefix('@') {
        return parse_word(text, word);
    }
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let parts = match fields.len() {
        6 => &PARTS[..],
        5 => &PARTS[1..],
        count => return Err(Refusal::new(format!("has {count} fields"), FORM)),
    };
    let mut sets = Vec::with_capacity(6);
    for (part, field) in parts.iter().zip(&fields) {
        sets.push(part.parse(field)?);
    }
    let (days, months) = (sets[sets.len() - 3], sets[sets.len() - 2]);
    let exists = |month: &usize| days & bits(1, LAST_DAYS[*month], 1) != 0;
    if !(0..12).filter(|month| months & (1 << (month + 1)) != 0).any(|month| exists(&month)) {
        return Err(Refusal::new("names a day that its months never have", "a date that exists, such as 0 0 28 2 *"));
    }
    Ok(fields.join(" "))
}

fn parse_word(text: &str, word: &str) -> Result<String, Refusal> {
    if let Some(every) = word.strip_prefix("every ") {
        let every = parse_duration(every)
            .map_err(|refusal| Refusal::new(format!("{} after @every", refusal.problem), DURATION_FORM))?;
        if every < EVERY_MIN {
            return Err(Refusal::new("runs more often than every second", "@every 1s and more"));
        }
        return Ok(format!("@every {}", format_duration(every)));
    }
    if let Some(at) = word.strip_prefix("at ") {
        return match at.trim().parse::<jiff::Timestamp>() {
            Ok(at) => Ok(format!("@at {at}")),
            Err(_) => Err(Refusal::new(
                "has no time after @at",
                "a time with its offset, such as @at 2030-01-31T08:00:00+01:00",
            )),
        };
    }
    let lower = text.to_ascii_lowercase();
    if WORDS.contains(&lower.as_str()) {
        return Ok(lower);
    }
    let near = suggest::nearest(&lower, WORDS).map_or_else(String::new, |near| format!("; did you mean {near}?"));
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

//! Planned times beside a reference that walks through every day, or every minute, and knows zones by another way.

use chrono::{Datelike as _, Duration, LocalResult, NaiveDate, NaiveDateTime, Timelike as _};
use serde_json::{Value, json};

use super::*;
use crate::model::Source;
use crate::model::source::Trigger;

/// Zones, and the hours in which their clocks change: one that is left out, and one that comes twice.
const ZONES: [(&str, [u32; 2]); 6] = [
    ("Europe/Berlin", [1, 2]),
    ("America/New_York", [1, 2]),
    // Half an hour.
    ("Australia/Lord_Howe", [1, 2]),
    // At midnight, and no more since 2019.
    ("America/Sao_Paulo", [0, 23]),
    // Four times a year.
    ("Africa/Casablanca", [2, 3]),
    // At midnight, and no more since 2022.
    ("Asia/Tehran", [0, 23]),
];

fn times(doc: Value) -> Times {
    let mut cron = json!({"path": "/"});
    cron.as_object_mut().expect("an object").extend(doc.as_object().cloned().unwrap_or_default());
    let name = "s".parse().expect("a name");
    let source = Source::parse(&name, &json!({"component": "c", "cron": cron})).expect("a source");
    let Trigger::Cron(cron) = source.trigger else { panic!("a schedule") };
    Times::new(&cron).expect("times")
}

fn wall(text: &str) -> Wall {
    let at: jiff::Timestamp = text.parse().expect("a time");
    Wall(u64::try_from(at.as_millisecond()).expect("after 1970"))
}

fn check(doc: Value, after: &str, expected: &[&str]) {
    let found: Vec<String> =
        times(doc.clone()).following(wall(after)).take(expected.len()).map(schedule::rfc3339).collect();
    assert_eq!(found, expected, "{doc}");
}

#[test]
fn fields_words_intervals_and_single_moments_have_their_times() {
    let after = "2026-11-27T23:30:00Z";
    check(json!({"schedule": "*/20 * * * *"}), after, &["2026-11-27T23:40:00Z", "2026-11-28T00:00:00Z"]);
    check(json!({"schedule": "15 30 23 * * *"}), after, &["2026-11-27T23:30:15Z", "2026-11-28T23:30:15Z"]);
    check(json!({"schedule": "@yearly"}), after, &["2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"]);
    check(json!({"schedule": "@weekly"}), after, &["2026-11-29T00:00:00Z", "2026-12-06T00:00:00Z"]);
    // The phase does not depend on when somebody asks.
    check(json!({"schedule": "@every 7s"}), after, &["2026-11-27T23:30:03Z", "2026-11-27T23:30:10Z"]);
    check(json!({"schedule": "@every 7s"}), "2026-11-27T23:30:02.999Z", &["2026-11-27T23:30:03Z"]);
    check(json!({"schedule": "0 8 * * *", "timezone": "Asia/Tokyo"}), after, &["2026-11-28T23:00:00Z"]);
    let once = times(json!({"schedule": "@at 2026-11-28T01:00:00+01:00"}));
    assert_eq!(once.following(wall(after)).collect::<Vec<_>>(), [wall("2026-11-28T00:00:00Z")]);
    assert_eq!(once.after(wall("2026-11-28T00:00:00Z")), None);
}

#[test]
fn weekdays_count_from_sunday_and_one_of_day_and_weekday_is_enough_if_neither_is_a_star() {
    let after = "2026-11-27T23:30:00Z";
    let sunday = "2026-11-29T00:00:00Z";
    for schedule in ["0 0 * * 0", "0 0 * * 7", "0 0 * * sun", "0 0 * * 7-7"] {
        check(json!({"schedule": schedule}), after, &[sunday, "2026-12-06T00:00:00Z"]);
    }
    check(json!({"schedule": "0 0 * * 5-7"}), after, &["2026-11-28T00:00:00Z", sunday, "2026-12-04T00:00:00Z"]);
    check(json!({"schedule": "0 0 1 * mon"}), after, &["2026-11-30T00:00:00Z", "2026-12-01T00:00:00Z"]);
    // Every other day that is a Monday.
    check(json!({"schedule": "0 0 */2 * mon"}), after, &["2026-12-07T00:00:00Z", "2026-12-21T00:00:00Z"]);
    check(json!({"schedule": "0 0 31 2 mon"}), after, &["2027-02-01T00:00:00Z", "2027-02-08T00:00:00Z"]);
}

#[test]
fn what_never_comes_again_ends_the_search() {
    assert_eq!(times(json!({"schedule": "0 0 29 2 *"})).following(wall("2026-01-01T00:00:00Z")).count(), 18);
    // The hour that is left out each year, on the one day of the year 2027 that has it.
    let skipped = json!({"schedule": "30 2 28 3 *", "timezone": "Europe/Berlin", "dst_gap": "skip"});
    check(skipped, "2026-04-01T00:00:00Z", &["2028-03-28T00:30:00Z"]);
    for text in ["2100-12-31T23:59:59Z", "9999-12-30T00:00:00Z"] {
        assert_eq!(times(json!({"schedule": "* * * * *"})).after(wall(text)), None);
    }
    assert_eq!(times(json!({"schedule": "* * * * *"})).after(Wall(u64::MAX)), None);
    assert_eq!(times(json!({"schedule": "@every 1s"})).after(Wall(u64::MAX)), None);
}

/// The moment of the change that left out a local time: the first whose local time is later.
fn change_over(zone: Tz, local: NaiveDateTime) -> i64 {
    let mut second = local.and_utc().timestamp() - 26 * 3600;
    while zone.from_utc_datetime(&DateTime::from_timestamp(second, 0).expect("a time").naive_utc()).naive_local()
        < local
    {
        second += 60;
    }
    second
}

/// Day by day: what each local time of each day is.
fn reference(zone: Tz, at: &[(u32, u32)], gap: &str, overlap: &str) -> Vec<i64> {
    let mut all = Vec::new();
    let mut day = NaiveDate::from_ymd_opt(2006, 12, 31).expect("a day");
    while day.year() < 2038 {
        for (hour, minute) in at {
            let local = day.and_hms_opt(*hour, *minute, 0).expect("a time");
            match zone.from_local_datetime(&local) {
                LocalResult::Single(one) => all.push(one.timestamp()),
                LocalResult::Ambiguous(one, other) => {
                    let (first, second) = (one.min(other).timestamp(), one.max(other).timestamp());
                    all.extend((overlap != "second").then_some(first));
                    all.extend((overlap != "first").then_some(second));
                }
                LocalResult::None => all.extend((gap != "skip").then(|| change_over(zone, local))),
            }
        }
        day = day.succ_opt().expect("a day");
    }
    let (from, until) = (wall("2007-01-01T00:00:00Z"), wall("2037-12-31T00:00:00Z"));
    let span = |second: &i64| (from.0 / 1000..until.0 / 1000).contains(&u64::try_from(*second).expect("after 1970"));
    all.retain(span);
    all.sort_unstable();
    all.dedup();
    all
}

/// The days on which clocks are not what they were the day before, as seconds of their beginnings in UTC.
fn days_of_change(zone: Tz) -> Vec<i64> {
    let noon = |day: i64| {
        let utc = DateTime::from_timestamp(day * 86_400 + 43_200, 0).expect("a time").naive_utc();
        zone.from_utc_datetime(&utc).naive_local() - utc
    };
    let from = (wall("2007-01-05T00:00:00Z").0 / 86_400_000).cast_signed();
    let until = (wall("2037-12-25T00:00:00Z").0 / 86_400_000).cast_signed();
    (from..until).filter(|day| noon(*day) != noon(day - 1)).map(|day| day * 86_400).collect()
}

#[test]
fn fixed_times_follow_each_rule_in_each_zone_from_2007_to_2037() {
    for (name, hours) in ZONES {
        let schedule = format!("15,45 {},{} * * *", hours[0], hours[1]);
        let at: Vec<(u32, u32)> = hours.into_iter().flat_map(|hour| [(hour, 15), (hour, 45)]).collect();
        let zone: Tz = name.parse().expect("a zone");
        let changes = days_of_change(zone);
        assert!(changes.len() >= 24, "{name}: {} changes", changes.len());
        let mut seen = std::collections::BTreeSet::new();
        let first = [("skip", "first"), ("run-at-transition", "first")];
        for (gap, overlap) in first.into_iter().chain([("run-at-transition", "second"), ("skip", "both")]) {
            let expected = reference(zone, &at, gap, overlap);
            let doc = json!({"schedule": schedule, "timezone": name, "dst_gap": gap, "dst_overlap": overlap});
            let times = times(doc);
            for day in &changes {
                let span = day - 3 * 86_400..day + 3 * 86_400;
                let expected: Vec<i64> = expected.iter().copied().filter(|second| span.contains(second)).collect();
                let after = Wall(u64::try_from(span.start * 1000 - 1).expect("after 1970"));
                let found = times.following(after).map(|at| (at.0 / 1000).cast_signed());
                let found: Vec<i64> = found.take_while(|second| span.contains(second)).collect();
                assert_eq!(found, expected, "{name} {gap} {overlap} around {}", schedule::rfc3339(after));
            }
            seen.insert(expected);
        }
        assert_eq!(seen.len(), 4, "{name}: each rule makes a difference");
    }
}

#[test]
fn a_time_of_each_day_comes_on_each_day_from_2007_to_2037() {
    for (name, hours) in ZONES {
        let zone: Tz = name.parse().expect("a zone");
        let expected = reference(zone, &[(hours[1], 15)], "run-at-transition", "first");
        let times = times(json!({"schedule": format!("15 {} * * *", hours[1]), "timezone": name}));
        let found = times.following(wall("2006-12-31T23:59:59Z")).map(|at| (at.0 / 1000).cast_signed());
        assert_eq!(found.take(expected.len()).collect::<Vec<_>>(), expected, "{name}");
        assert!(expected.len() >= 31 * 365, "{name}: {} days", expected.len());
    }
}

#[test]
fn every_hour_follows_elapsed_time_around_each_change_in_each_zone() {
    for (name, _) in ZONES {
        let zone: Tz = name.parse().expect("a zone");
        let docs = ["first", "second", "both"].map(|overlap| {
            times(json!({"schedule": "*/15 * * * *", "timezone": name, "dst_overlap": overlap, "dst_gap": "skip"}))
        });
        let mut changes = 0;
        let local = |minute: i64| {
            let utc = DateTime::from_timestamp(minute * 60, 0).expect("a time").naive_utc();
            zone.from_utc_datetime(&utc).naive_local()
        };
        let (mut hour, last) = (wall("2007-01-01T00:00:00Z").0 / 3_600_000, wall("2037-12-31T00:00:00Z").0 / 3_600_000);
        while hour < last {
            let minute = (hour * 60).cast_signed();
            let before = local(minute);
            if local(minute + 60) - before != Duration::minutes(60) {
                changes += 1;
                let minutes = (minute - 180)..(minute + 240);
                let expected: Vec<i64> = minutes.filter(|minute| local(*minute).minute() % 15 == 0).collect();
                for times in &docs {
                    let after = Wall(u64::try_from((minute - 180) * 60_000 - 1).expect("after 1970"));
                    let found = times.following(after).map(|at| (at.0 / 60_000).cast_signed());
                    assert_eq!(found.take(expected.len()).collect::<Vec<_>>(), expected, "{name}, minute {minute}");
                }
            }
            hour += 1;
        }
        assert!(changes >= 24, "{name}: {changes} changes");
    }
}

#[test]
fn two_local_times_in_one_gap_are_one_moment() {
    let doc = json!({"schedule": "0,15,30 2 * * *", "timezone": "Europe/Berlin"});
    check(
        doc,
        "2027-03-28T00:00:00Z",
        &["2027-03-28T01:00:00Z", "2027-03-29T00:00:00Z", "2027-03-29T00:15:00Z", "2027-03-29T00:30:00Z"],
    );
}

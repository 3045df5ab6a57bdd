//! Durations and amounts of bytes as people write them, and the one way in which they are written back.
//!
//! Knows nothing of the fields that hold them, nor of their bounds.

use std::time::Duration;

use crate::model::invalid::Refusal;

/// What a duration looks like, for refusals.
pub const DURATION_FORM: &str = "a number with unit ms, s, m or h, such as 10s";
/// What an amount of bytes looks like, for refusals.
pub const BYTES_FORM: &str =
    "a number with unit B, KiB, MiB, GiB, TiB (powers of 1024) or KB, MB, GB, TB (powers of 1000), such as 128MiB";

/// Milliseconds of each unit, largest first: the order in which they must be written.
const DURATION_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Bytes of each unit. Where two divide an amount equally well, the first is written.
const BYTE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Digits that a number may have on each side of its point: 18 always fit a `u64`.
const DIGITS: usize = 18;

/// Reads `1h30m`, `250ms`, `1.5s` or a bare number of seconds. Units go from large to small, each at most once.
///
/// # Errors
/// Anything else, and what is finer than a millisecond or longer than 2^64 of them.
pub fn parse_duration(text: &str) -> Result<Duration, Refusal> {
    let refuse = |problem: &str| Refusal::new(problem, DURATION_FORM);
    let mut rest = text.trim();
    if let Some((number, "")) = split_number(rest) {
        let millis = scale(number, 1_000).ok_or_else(|| refuse("is not a duration"))?;
        return exact(millis).map(Duration::from_millis).ok_or_else(|| refuse("is finer than a millisecond"));
    }
    let mut total: u64 = 0;
    let mut units = DURATION_UNITS.as_slice();
    while !rest.is_empty() {
        let (number, after) = split_number(rest).ok_or_else(|| refuse("is not a duration"))?;
        let after = after.trim_start();
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if !DURATION_UNITS.iter().any(|&(name, _)| name == unit) {
            return Err(refuse("is not a duration"));
        }
        let at = units.iter().position(|&(name, _)| name == unit);
        let at = at.ok_or_else(|| refuse("has its units out of order or twice"))?;
        let millis = scale(number, units[at].1).ok_or_else(|| refuse("is too long"))?;
        let millis = exact(millis).ok_or_else(|| refuse("is finer than a millisecond"))?;
        total = total.checked_add(millis).ok_or_else(|| refuse("is too long"))?;
        units = &units[at + 1..];
        rest = after.trim_start();
    }
    if units.len() == DURATION_UNITS.len() {
        return Err(refuse("is not a duration"));
    }
    Ok(Duration::from_millis(total))
}

/// Writes a duration so that equal ones look equal: `1h30m`, `5m`, `250ms`, `0s`. What is finer than a millisecond
/// is left out; [`parse_duration`] never makes any.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, millis) in DURATION_UNITS {
        let count = rest / millis;
        rest %= millis;
        if count > 0 {
            text.push_str(&count.to_string());
            text.push_str(unit);
        }
    }
    text
}

/// Reads `128MiB`, `1.5GB`, `64 Ki` or a bare number of bytes; a broken byte is dropped. Case does not matter.
///
/// # Errors
/// Anything else. `128M` is refused because Docker reads it as 1024 x 1024 and Kubernetes as 1000 x 1000.
pub fn parse_bytes(text: &str) -> Result<u64, Refusal> {
    let refuse = |problem: &str| Refusal::new(problem, BYTES_FORM);
    let (number, unit) = split_number(text.trim()).ok_or_else(|| refuse("is not an amount of bytes"))?;
    let unit = unit.trim_start();
    let same = |name: &str| name.eq_ignore_ascii_case(unit) || (unit.len() == 2 && is_binary(name, unit));
    let factor = match unit {
        "" => 1,
        _ => match BYTE_UNITS.iter().find(|(name, _)| same(name)) {
            Some((_, factor)) => *factor,
            None if ["k", "m", "g", "t"].iter().any(|letter| letter.eq_ignore_ascii_case(unit)) => {
                return Err(refuse("does not say whether its unit counts by 1000 or by 1024"));
            }
            None => return Err(refuse("is not an amount of bytes")),
        },
    };
    scale(number, factor).map(|(whole, _)| whole).ok_or_else(|| refuse("is too large"))
}

/// Whether `unit` is the two-letter spelling of a binary unit: `Mi` for `MiB`.
fn is_binary(name: &str, unit: &str) -> bool {
    name.len() == 3 && name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(unit))
}

/// Writes an amount of bytes so that equal ones look equal, without loss: the unit that leaves the smallest whole
/// number.
pub fn format_bytes(bytes: u64) -> String {
    if bytes == 0 {
        return "0B".to_owned();
    }
    let mut best = (bytes, "B");
    for (unit, factor) in BYTE_UNITS {
        if bytes.is_multiple_of(factor) && bytes / factor < best.0 {
            best = (bytes / factor, unit);
        }
    }
    format!("{}{}", best.0, best.1)
}

/// Reads a number with at most three decimals as thousandths: `0.5` is 500.
pub(in crate::model) fn parse_thousandths(text: &str) -> Option<u64> {
    match split_number(text)? {
        (number, "") => scale(number, 1_000).and_then(exact),
        _ => None,
    }
}

/// Cuts the decimal number off the front of a text: its whole and its broken digits, and what follows.
fn split_number(text: &str) -> Option<((&str, &str), &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (whole, rest) = text.split_at(end);
    let (part, rest) = match rest.strip_prefix('.') {
        Some(rest) => {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            if end == 0 {
                return None;
            }
            rest.split_at(end)
        }
        None => ("", rest),
    };
    (!whole.is_empty() && whole.len() <= DIGITS && part.len() <= DIGITS).then_some(((whole, part), rest))
}

/// Multiplies a decimal number: the whole result, and whether nothing was lost. `None` if it does not fit.
fn scale((whole, part): (&str, &str), factor: u64) -> Option<(u64, bool)> {
    let factor = u128::from(factor);
    let (part, power) = match part {
        "" => (0, 1),
        _ => (part.parse::<u128>().ok()?, 10u128.checked_pow(u32::try_from(part.len()).ok()?)?),
    };
    let broken = part.checked_mul(factor)?;
    let total = whole.parse::<u128>().ok()?.checked_mul(factor)?.checked_add(broken / power)?;
    Some((u64::try_from(total).ok()?, broken % power == 0))
}

fn exact((whole, lossless): (u64, bool)) -> Option<u64> {
    lossless.then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_in_every_spelling_and_written_in_one() {
        for (text, millis, written) in [
            ("1h30m", 5_400_000, "1h30m"),
            ("90m", 5_400_000, "1h30m"),
            ("300s", 300_000, "5m"),
            ("300", 300_000, "5m"),
            ("0.25", 250, "250ms"),
            (" 1.5 s ", 1_500, "1s500ms"),
            ("1h 30m", 5_400_000, "1h30m"),
            ("0", 0, "0s"),
        ] {
            let read = parse_duration(text).expect(text);
            assert_eq!(read, Duration::from_millis(millis), "{text}");
            assert_eq!(format_duration(read), written);
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_form() {
        let refused = ["", "s", "5 parsecs", "-1s", "1e3", "5m1h", "1s1s", "1.s", ".5s", "0.1ms", "1h30", "+1s", "１s"];
        for text in refused.into_iter().chain(["9999999999999999999s", "999999999999999999h"]) {
            let refusal = parse_duration(text).expect_err(text);
            assert_eq!(refusal.allowed, DURATION_FORM);
        }
    }

    #[test]
    fn bytes_are_read_in_every_spelling_and_written_in_one() {
        for (text, bytes, written) in [
            ("128MiB", 128 << 20, "128MiB"),
            ("128 mib", 128 << 20, "128MiB"),
            ("128Mi", 128 << 20, "128MiB"),
            ("131072KiB", 128 << 20, "128MiB"),
            ("1.5GB", 1_500_000_000, "1500MB"),
            ("128MB", 128_000_000, "128MB"),
            ("0.3KiB", 307, "307B"),
            ("1024", 1024, "1KiB"),
            ("0", 0, "0B"),
        ] {
            assert_eq!(parse_bytes(text).expect(text), bytes, "{text}");
            assert_eq!(format_bytes(bytes), written);
        }
    }

    #[test]
    fn a_bare_letter_is_refused_because_docker_and_kubernetes_disagree() {
        assert!(parse_bytes("128M").expect_err("M").problem.contains("1000 or by 1024"));
        for text in ["", "MiB", "-1", "12 apples", "99999999TiB", "1.MiB", "1e9"] {
            assert_eq!(parse_bytes(text).expect_err(text).allowed, BYTES_FORM);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(millis: u64, bytes: u64) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)).ok().filter(|_| millis < 1 << 60),
                Some(duration).filter(|_| millis < 1 << 60));
            let bytes = bytes >> 5;
            prop_assert_eq!(parse_bytes(&format_bytes(bytes)).ok(), Some(bytes));
        }

        #[test]
        fn no_text_makes_them_panic(text in "[0-9.hmsKMGiB -]{0,24}|\\PC{0,24}") {
            let _ = (parse_duration(&text), parse_bytes(&text), parse_thousandths(&text));
        }
    }
}

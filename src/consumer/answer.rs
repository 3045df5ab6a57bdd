//! What the answer of a component says of the messages that it was given.
//!
//! Knows nothing of HTTP but statuses; headers and bodies come as text.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was handled; which of its messages were not.
    Done(Report),
    /// The component will never take them: 4xx, except those that say "later".
    Refused,
    /// It failed and may be tried again.
    Failed,
    /// No answer in time.
    TimedOut,
    /// The component is busy: not before this, if it says so.
    Busy(Option<Duration>),
    /// Nobody got them.
    Unserved,
}

/// Which messages of a delivery were not handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// All were.
    Good,
    /// These were not, by message id.
    Failed(BTreeSet<String>),
    /// What it says makes no sense: none counts as handled.
    Malformed,
}

impl Report {
    /// Whether this message was handled.
    pub fn is_good(&self, id: &str) -> bool {
        match self {
            Self::Good => true,
            Self::Failed(ids) => !ids.contains(id),
            Self::Malformed => false,
        }
    }
}

/// No refusals although they begin with 4: they ask for the same again.
const LATER: [u16; 2] = [408, 425];

#[derive(Deserialize)]
struct Batch {
    #[serde(rename = "batchItemFailures", default)]
    failures: Option<Vec<Item>>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(rename = "itemIdentifier")]
    id: String,
}

/// Reads an answer. `ids` are the messages that were handed over if they went as a batch: only then the body is looked
/// at, and `body` is none if it was too long to keep. `pause` is the pause that the answer asks for in seconds.
pub fn read(status: u16, pause: Option<Duration>, body: Option<&[u8]>, ids: Option<&BTreeSet<&str>>) -> Outcome {
    match status {
        200..=299 => Outcome::Done(ids.map_or(Report::Good, |ids| report(body, ids))),
        429 | 503 => Outcome::Busy(pause),
        400..=499 if !LATER.contains(&status) => Outcome::Refused,
        _ => Outcome::Failed,
    }
}

/// As Lambda reads it: nothing, `null`, an object without failures or with an empty list is good; an id that was not
/// handed over, an empty one or anything else is not to be trusted.
fn report(body: Option<&[u8]>, ids: &BTreeSet<&str>) -> Report {
    let Some(body) = body else { return Report::Malformed };
    if body.trim_ascii().is_empty() {
        return Report::Good;
    }
    let failures = match serde_json::from_slice::<Option<Batch>>(body) {
        Ok(batch) => batch.and_then(|batch| batch.failures).unwrap_or_default(),
        // A text such as `ok` says nothing of single messages; JSON that was meant to, and fails to, does.
        Err(_) if !matches!(body.trim_ascii_start().first(), Some(b'{')) => return Report::Good,
        Err(_) => return Report::Malformed,
    };
    let failed: BTreeSet<String> = failures.into_iter().map(|item| item.id).collect();
    if failed.is_empty() {
        return Report::Good;
    }
    if failed.iter().all(|id| ids.contains(id.as_str())) { Report::Failed(failed) } else { Report::Malformed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_reports_as_for_lambda() {
        let ids = BTreeSet::from(["a", "b"]);
        let failed = |ids: &[&str]| Report::Failed(ids.iter().map(|&id| id.to_owned()).collect());
        for (body, expected) in [
            ("", Report::Good),
            (" \n", Report::Good),
            ("ok", Report::Good),
            ("null", Report::Good),
            ("{}", Report::Good),
            (r#"{"batchItemFailures":null}"#, Report::Good),
            (r#"{"batchItemFailures":[]}"#, Report::Good),
            (r#"{"batchItemFailures":[{"itemIdentifier":"b"}],"more":1}"#, failed(&["b"])),
            (r#"{"batchItemFailures":[{"itemIdentifier":"a"},{"itemIdentifier":"b"}]}"#, failed(&["a", "b"])),
            (r#"{"batchItemFailures":[{"itemIdentifier":""}]}"#, Report::Malformed),
            (r#"{"batchItemFailures":[{"itemIdentifier":"c"}]}"#, Report::Malformed),
            (r#"{"batchItemFailures":[{"itemIdentifier":null}]}"#, Report::Malformed),
            (r#"{"batchItemFailures":[{}]}"#, Report::Malformed),
            (r#"{"batchItemFailures":{}}"#, Report::Malformed),
            (r#"{"batchItemFailures":["#, Report::Malformed),
        ] {
            assert_eq!(report(Some(body.as_bytes()), &ids), expected, "{body}");
        }
        assert_eq!(report(None, &ids), Report::Malformed);
    }

    #[test]
    fn the_status_speaks_for_a_single_message() {
        let asked = Some(Duration::from_secs(7));
        for (status, pause, expected) in [
            (200, None, Outcome::Done(Report::Good)),
            (204, asked, Outcome::Done(Report::Good)),
            (301, None, Outcome::Failed),
            (400, None, Outcome::Refused),
            (404, asked, Outcome::Refused),
            (408, None, Outcome::Failed),
            (425, None, Outcome::Failed),
            (429, None, Outcome::Busy(None)),
            (429, asked, Outcome::Busy(asked)),
            (500, None, Outcome::Failed),
            (503, asked, Outcome::Busy(asked)),
        ] {
            assert_eq!(read(status, pause, Some(b"{\"batchItemFailures\":3}"), None), expected, "{status}");
        }
    }
}

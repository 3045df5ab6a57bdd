//! A message, or a batch of them, as a request, and the answer as what became of them.
//!
//! Knows nothing of queues but their names.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde_json::{Map, Value, json};

use crate::consumer::{Attribute, Message, Outcome, read_answer};
use crate::failure::{Failure, Phase};
use crate::id::SourceName;
use crate::model::source::Sqs;
use crate::source::courier::{Answer, Event};
use crate::time::Wall;

/// Bytes of an answer that are read: ten failures, and what a handler may say besides.
pub(super) const ANSWER_MAX: usize = 64 * 1024;

/// The longest value that becomes a header: servers refuse more than 8 KiB for all of them.
const HEADER_MAX: usize = 4096;

/// The wait for a component that does not exist: somebody has to put it.
const NO_COMPONENT: Duration = Duration::from_secs(5);

/// Where a message comes from, for Lambda's form.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin {
    pub(super) queue: String,
    pub(super) arn: String,
}

/// The request for these messages.
pub(super) fn event(
    source: &SourceName,
    component: &crate::id::ComponentName,
    settings: &Sqs,
    origin: &Origin,
    messages: &[Arc<Message>],
    timeout: Duration,
) -> Event {
    let (mut headers, mut said) = (HeaderMap::new(), HeaderMap::new());
    say(&mut said, "maelstrom-queue", &origin.queue);
    let body = if settings.batch > 1 {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        said.insert("maelstrom-batch-size", HeaderValue::from(messages.len()));
        let records: Vec<Value> = messages.iter().map(|message| record(message, origin)).collect();
        Bytes::from(json!({ "Records": records }).to_string())
    } else {
        messages.first().map(|message| one(message, &mut headers, &mut said)).unwrap_or_default()
    };
    Event {
        source: source.clone(),
        component: component.clone(),
        method: Method::POST,
        path: settings.path.clone(),
        headers,
        said,
        body,
        timeout: Some(timeout),
    }
}

/// What a single message says of itself.
fn one(message: &Message, headers: &mut HeaderMap, said: &mut HeaderMap) -> Bytes {
    let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&message.body).is_ok();
    let kind = if is_json { "application/json" } else { "text/plain; charset=utf-8" };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Ok(id) = HeaderValue::from_str(&message.id) {
        headers.insert("idempotency-key", id);
    }
    say(said, "maelstrom-message-id", &message.id);
    said.insert("maelstrom-receive-count", HeaderValue::from(message.receives));
    if let Some(sent) = message.sent {
        say(said, "maelstrom-sent-at", &rfc3339(sent));
    }
    let named = [
        ("MessageGroupId", "maelstrom-group"),
        ("MessageDeduplicationId", "maelstrom-deduplication-id"),
        ("SequenceNumber", "maelstrom-sequence-number"),
        ("SenderId", "maelstrom-sender-id"),
        ("DeadLetterQueueSourceArn", "maelstrom-dead-letter-source"),
    ];
    for (name, header) in named {
        if let Some(value) = message.system.get(name) {
            say(said, header, value);
        }
    }
    let first = message.system.get("ApproximateFirstReceiveTimestamp").and_then(|text| text.parse().ok());
    if let Some(first) = first {
        say(said, "maelstrom-first-received-at", &rfc3339(Wall(first)));
    }
    if let Some(Ok(trace)) = message.system.get("AWSTraceHeader").map(|trace| HeaderValue::from_str(trace)) {
        headers.insert("x-amzn-trace-id", trace);
    }
    for (name, attribute) in &message.attributes {
        let value = match attribute {
            Attribute { text: Some(text), .. } => text.clone(),
            Attribute { bytes: Some(bytes), .. } => STANDARD.encode(bytes),
            Attribute { .. } => continue,
        };
        say(said, &format!("maelstrom-attribute-{}", name.to_ascii_lowercase()), &value);
    }
    message.body.clone()
}

/// A header, if it can be one: what has line breaks in it, or is very long, cannot.
fn say(said: &mut HeaderMap, name: &str, value: &str) {
    if value.len() > HEADER_MAX {
        return;
    }
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes())) {
        said.append(name, value);
    }
}

/// As Lambda gives it to a function.
fn record(message: &Message, origin: &Origin) -> Value {
    let attributes: Map<String, Value> = message
        .attributes
        .iter()
        .map(|(name, attribute)| {
            let value = json!({
                "stringValue": attribute.text,
                "binaryValue": attribute.bytes.as_ref().map(|bytes| STANDARD.encode(bytes)),
                "stringListValues": [],
                "binaryListValues": [],
                "dataType": attribute.kind,
            });
            (name.clone(), value)
        })
        .collect();
    json!({
        "messageId": message.id,
        "receiptHandle": &*message.receipt,
        "body": String::from_utf8_lossy(&message.body),
        "attributes": message.system,
        "messageAttributes": attributes,
        "md5OfBody": message.md5,
        "eventSource": "aws:sqs",
        "eventSourceARN": origin.arn,
        "awsRegion": origin.arn.split(':').nth(3).unwrap_or_default(),
    })
}

/// RFC 3339 in UTC with milliseconds.
fn rfc3339(at: Wall) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    let Ok(at) = jiff::Timestamp::from_millisecond(millis) else { return String::new() };
    let mut text = String::new();
    // Writing into a String does not fail.
    let _ = write!(text, "{at:.3}");
    text
}

/// What became of the messages, and the pause that was asked for.
pub(super) fn outcome(
    result: &Result<Answer, Failure>,
    messages: &[Arc<Message>],
    is_batch: bool,
) -> (Outcome, Option<Duration>) {
    match result {
        Ok(answer) => {
            let pause = pause(&answer.headers);
            let ids: BTreeSet<&str> = messages.iter().map(|message| message.id.as_str()).collect();
            let body = (!answer.is_cut).then_some(&*answer.body);
            (read_answer(answer.status.as_u16(), pause, body, is_batch.then_some(&ids)), pause)
        }
        Err(failure) => failed(failure),
    }
}

/// `pause-seconds`, or `Retry-After` in seconds; the longer one.
fn pause(headers: &HeaderMap) -> Option<Duration> {
    let seconds = |name: &str| {
        let text = headers.get(name)?.to_str().ok()?.trim();
        text.parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()))
    };
    seconds("pause-seconds").max(seconds("retry-after"))
}

/// A message that nobody got stays with us, whatever the reason; what somebody may have got has failed.
fn failed(failure: &Failure) -> (Outcome, Option<Duration>) {
    match failure {
        Failure::QueueFull { retry_after, .. } | Failure::NotStarted { retry_after, .. } => {
            (Outcome::Unserved, Some(*retry_after))
        }
        Failure::NoComponent(_) | Failure::NoRoute => (Outcome::Unserved, Some(NO_COMPONENT)),
        Failure::Deadline { phase: Phase::Handler, .. } => (Outcome::TimedOut, None),
        Failure::Upstream { sent: true, .. } => (Outcome::Failed, None),
        Failure::BodyTooLarge { .. } => (Outcome::Refused, None),
        Failure::Deadline { .. }
        | Failure::Upstream { sent: false, .. }
        | Failure::NoRoom { .. }
        | Failure::Nowhere { .. }
        | Failure::Elsewhere(_)
        | Failure::Draining => (Outcome::Unserved, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Source;
    use crate::model::source::Trigger;

    fn settings(batch: u8) -> Sqs {
        let doc = json!({"component": "api", "sqs": {"queue": "q", "path": "/job?x=1", "batch": batch}});
        let source = Source::parse(&"in".parse().expect("a name"), &doc).expect("valid");
        let Trigger::Sqs(sqs) = source.trigger else { panic!("{source:?}") };
        sqs
    }

    fn message(body: &'static str) -> Arc<Message> {
        let text = |kind: &str, text: &str| Attribute { kind: kind.into(), text: Some(text.into()), bytes: None };
        Arc::new(Message {
            id: "m-1".into(),
            receipt: "r-1".into(),
            receives: 2,
            group: Some("g".into()),
            sent: Some(Wall(1_700_000_000_123)),
            body: Bytes::from_static(body.as_bytes()),
            md5: "md5".into(),
            system: [("MessageGroupId", "g"), ("SentTimestamp", "1700000000123")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            attributes: [
                ("Colour.Of_it".to_owned(), text("String", "grün")),
                ("lines".to_owned(), text("String", "a\nb")),
                (
                    "raw".to_owned(),
                    Attribute { kind: "Binary".into(), text: None, bytes: Some(Bytes::from_static(&[1, 2])) },
                ),
            ]
            .into(),
        })
    }

    fn made(batch: u8, body: &'static str) -> Event {
        let origin = Origin { queue: "q".into(), arn: "arn:aws:sqs:eu-central-1:1:q".into() };
        let (source, component) = ("in".parse().expect("a name"), "api".parse().expect("a name"));
        event(&source, &component, &settings(batch), &origin, &[message(body)], Duration::from_secs(1))
    }

    #[test]
    fn a_message_is_its_body_and_says_the_rest_in_headers() {
        let event = made(1, "hello");
        assert_eq!((event.method, event.path.as_str(), &event.body[..]), (Method::POST, "/job?x=1", &b"hello"[..]));
        assert_eq!(event.headers["content-type"], "text/plain; charset=utf-8");
        assert_eq!(event.headers["idempotency-key"], "m-1");
        let said: Vec<(&str, &[u8])> =
            event.said.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let expected: [(&str, &[u8]); 7] = [
            ("maelstrom-queue", b"q"),
            ("maelstrom-message-id", b"m-1"),
            ("maelstrom-receive-count", b"2"),
            ("maelstrom-sent-at", b"2023-11-14T22:13:20.123Z"),
            ("maelstrom-group", b"g"),
            ("maelstrom-attribute-colour.of_it", "grün".as_bytes()),
            ("maelstrom-attribute-raw", b"AQI="),
        ];
        assert_eq!(said, expected);
        assert_eq!(made(1, "{\"a\": 1}").headers["content-type"], "application/json");
    }

    #[test]
    fn a_batch_has_the_form_that_lambda_gives_to_functions() {
        let event = made(10, "hello");
        assert_eq!(event.said["maelstrom-batch-size"], "1");
        let body: Value = serde_json::from_slice(&event.body).expect("JSON");
        let record = &body["Records"][0];
        for (pointer, expected) in [
            ("/messageId", json!("m-1")),
            ("/receiptHandle", json!("r-1")),
            ("/body", json!("hello")),
            ("/attributes/SentTimestamp", json!("1700000000123")),
            ("/messageAttributes/raw/binaryValue", json!("AQI=")),
            ("/messageAttributes/lines/stringValue", json!("a\nb")),
            ("/eventSource", json!("aws:sqs")),
            ("/awsRegion", json!("eu-central-1")),
        ] {
            assert_eq!(record.pointer(pointer), Some(&expected), "{pointer}");
        }
    }

    #[test]
    fn what_nobody_got_is_not_counted_as_a_failure() {
        let component: crate::id::ComponentName = "api".parse().expect("a name");
        let upstream = |sent| Failure::Upstream { component: component.clone(), sent, reason: String::new() };
        let deadline = |phase| Failure::Deadline { component: component.clone(), phase, limit: Duration::ZERO };
        for (failure, expected) in [
            (Failure::Draining, Outcome::Unserved),
            (upstream(false), Outcome::Unserved),
            (upstream(true), Outcome::Failed),
            (deadline(Phase::Start), Outcome::Unserved),
            (deadline(Phase::Handler), Outcome::TimedOut),
            (Failure::BodyTooLarge { component: component.clone(), limit: 1 }, Outcome::Refused),
        ] {
            assert_eq!(failed(&failure).0, expected, "{failure}");
        }
    }

    #[test]
    fn the_longer_pause_counts() {
        let mut headers = HeaderMap::new();
        assert_eq!(pause(&headers), None);
        headers.insert("retry-after", HeaderValue::from_static("3"));
        headers.insert("pause-seconds", HeaderValue::from_static("7"));
        assert_eq!(pause(&headers), Some(Duration::from_secs(7)));
        headers.insert("pause-seconds", HeaderValue::from_static("soon"));
        assert_eq!(pause(&headers), Some(Duration::from_secs(3)));
    }
}

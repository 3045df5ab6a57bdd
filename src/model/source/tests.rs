//! Event sources from documents and back. Knows nothing of other parts of the crate.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::{FieldError, Invalid};

fn name() -> SourceName {
    "in".parse().expect("a name")
}

fn parse(doc: &Value) -> Result<Source, Invalid> {
    Source::parse(&name(), doc)
}

fn good(doc: Value) -> Source {
    parse(&doc).unwrap_or_else(|errors| panic!("{doc}: {errors}"))
}

/// The only error of a document.
fn refused(doc: Value) -> FieldError {
    let Invalid(mut errors) = parse(&doc).expect_err(&doc.to_string());
    assert_eq!(errors.len(), 1, "{doc}: {errors:?}");
    errors.remove(0)
}

#[test]
fn each_kind_gets_its_defaults() {
    assert_eq!(
        good(json!({"component": "api", "http": {"host": "API.example.com"}})).to_doc(),
        json!({"component": "api", "enabled": true,
            "http": {"host": "api.example.com", "path": "/", "strip_prefix": false}})
    );
    assert_eq!(
        good(json!({"component": "api", "enabled": false, "cron": {"schedule": "0  8 * * mon", "path": "/run?x=1"}}))
            .to_doc(),
        json!({"component": "api", "enabled": false, "cron": {"schedule": "0 8 * * mon", "timezone": "UTC",
            "dst_gap": "run-at-transition", "dst_overlap": "first",
            "method": "GET", "path": "/run?x=1", "headers": {}, "body": null, "timeout": null,
            "overlap": "allow", "missed": "latest", "start_deadline": "1h", "jitter": "0s", "retries": 0,
            "delivery": "at-least-once"}})
    );
    assert_eq!(
        good(json!({"component": "api", "sqs": {"queue": "jobs.fifo", "path": "/job"}})).to_doc(),
        json!({"component": "api", "enabled": true, "sqs": {"queue": "jobs.fifo", "prefix": false, "path": "/job",
            "concurrency": 10, "batch": 1, "window": "0s", "wait": "20s", "visibility": "30s", "backoff": "10s", "refused": "retry",
            "region": null, "endpoint": null, "timeout": null}})
    );
}

#[test]
fn one_event_later_has_its_moment_in_utc() {
    let doc = json!({"component": "api", "once": {"at": "2030-01-31T08:00:00+01:00", "path": "/run", "body": "x"}});
    assert_eq!(
        good(doc).to_doc(),
        json!({"component": "api", "enabled": true, "once": {"at": "2030-01-31T07:00:00Z", "give_up_after": "1h",
            "method": "POST", "path": "/run", "headers": {}, "body": "x", "timeout": null}})
    );
    let error = refused(json!({"component": "api", "once": {"at": "tomorrow", "path": "/"}}));
    assert_eq!((error.field.as_str(), error.problem.as_str()), ("once.at", "is not a time"));
    let error = refused(json!({"component": "api", "once": {"at": "1969-01-01T00:00:00Z", "path": "/"}}));
    assert_eq!(error.field, "once.at");
}

#[test]
fn the_spelling_does_not_matter() {
    let cron = |extra: Value| {
        let mut doc = json!({"schedule": "@every 90s", "path": "/", "body": "{}"});
        doc.as_object_mut().expect("an object").extend(extra.as_object().cloned().unwrap_or_default());
        good(json!({"component": "api", "cron": doc}))
    };
    let plain = cron(json!({"headers": ["Content-Type=text/plain"], "timezone": "europe/BERLIN"}));
    let other = cron(json!({"headers": {"content-type": "text/plain"}, "timezone": "Europe/Berlin", "method": "post"}));
    assert_eq!(plain, other);
}

#[test]
fn a_queue_may_be_a_name_a_url_or_a_prefix() {
    for sqs in [
        json!({"queue": "https://sqs.eu-central-1.amazonaws.com/123456789012/jobs", "path": "/"}),
        json!({"queue": "http://[::1]:9324/queue/jobs.fifo", "path": "/", "endpoint": "http://localhost:9324"}),
        json!({"queue": "jobs-", "prefix": true, "path": "/", "region": "eu-central-1", "batch": 10}),
    ] {
        good(json!({"component": "api", "sqs": sqs}));
    }
}

#[test]
fn each_refusal_names_its_field_its_value_and_what_is_allowed() {
    for (kind, inner, at, shown, problem) in [
        ("http", json!({}), "http.host", "", "missing, and so is path"),
        ("http", json!("example.com"), "http", "\"example.com\"", "not an object"),
        ("http", json!({"host": "a:80"}), "http.host", "\"a:80\"", "port"),
        ("http", json!({"host": "a.*.b"}), "http.host", "\"a.*.b\"", "first label"),
        ("http", json!({"path": "api"}), "http.path", "\"api\"", "start with /"),
        ("http", json!({"path": "/a/../b"}), "http.path", "\"/a/../b\"", ".."),
        ("http", json!({"path": "/", "strip_prefix": "maybe"}), "http.strip_prefix", "\"maybe\"", "choice"),
        ("http", json!({"path": "/", "hosst": "a"}), "http.hosst", "\"hosst\"", "did you mean host?"),
        ("cron", json!({"path": "/"}), "cron.schedule", "", "missing"),
        ("cron", json!({"schedule": "* * * * *"}), "cron.path", "", "missing"),
        ("cron", json!({"schedule": "0 0 31 2 *", "path": "/"}), "cron.schedule", "\"0 0 31 2 *\"", "never have"),
        ("cron", json!({"schedule": "@daily", "path": "/", "timezone": "Mars"}), "cron.timezone", "\"Mars\"", "zone"),
        ("cron", json!({"schedule": "@daily", "path": "/", "method": "GOT"}), "cron.method", "\"GOT\"", "mean GET?"),
        ("cron", json!({"schedule": "@daily", "path": "/", "body": {}}), "cron.body", "an object of 0", "not a text"),
        (
            "cron",
            json!({"schedule": "@daily", "path": "/", "headers": {"Maelstrom-X": "a"}}),
            "cron.headers.Maelstrom-X",
            "\"Maelstrom-X\"",
            "sets itself",
        ),
        (
            "cron",
            json!({"schedule": "@daily", "path": "/", "headers": {"a": "b\r\nc: d"}}),
            "cron.headers.a",
            "***",
            "not a header value",
        ),
        ("cron", json!({"schedule": "@daily", "path": "/", "missed": "all:0"}), "cron.missed", "\"all:0\"", "choice"),
        (
            "cron",
            json!({"schedule": "@daily", "path": "/", "missed": "all:101"}),
            "cron.missed",
            "\"all:101\"",
            "choice",
        ),
        ("cron", json!({"schedule": "@daily", "path": "/", "dst_gap": "both"}), "cron.dst_gap", "\"both\"", "choice"),
        (
            "cron",
            json!({"schedule": "@daily", "path": "/", "overlap": "queu"}),
            "cron.overlap",
            "\"queu\"",
            "mean queue",
        ),
        ("cron", json!({"schedule": "@daily", "path": "/", "retries": 17}), "cron.retries", "17", "out of range"),
        (
            "cron",
            json!({"schedule": "@daily", "path": "/", "retries": 1, "delivery": "at-most-once"}),
            "cron.retries",
            "1",
            "forbids to repeat",
        ),
        (
            "cron",
            json!({"schedule": "@daily", "path": "/", "start_deadline": "1s"}),
            "cron.start_deadline",
            "\"1s\"",
            "too short",
        ),
        ("sqs", json!({"path": "/"}), "sqs.queue", "", "missing"),
        ("sqs", json!({"queue": "a b", "path": "/"}), "sqs.queue", "\"a b\"", "not a queue name"),
        ("sqs", json!({"queue": "ftp://h/q", "path": "/"}), "sqs.queue", "\"ftp://h/q\"", "not an http"),
        ("sqs", json!({"queue": "http://u:p@h/q", "path": "/"}), "sqs.queue", "\"http://***@h/q\"", "login"),
        ("sqs", json!({"queue": "a.fifo", "prefix": true, "path": "/"}), "sqs.queue", "\"a.fifo\"", "start of a queue"),
        ("sqs", json!({"queue": "q", "path": "/", "batch": 11}), "sqs.batch", "11", "out of range"),
        ("sqs", json!({"queue": "q", "path": "/", "concurrency": 0}), "sqs.concurrency", "0", "out of range"),
        (
            "sqs",
            json!({"queue": "q", "path": "/", "concurrency": 2, "batch": 3}),
            "sqs.batch",
            "3",
            "above sqs.concurrency 2",
        ),
        ("sqs", json!({"queue": "q", "path": "/", "visibility": "9s"}), "sqs.visibility", "\"9s\"", "too short"),
        ("sqs", json!({"queue": "q", "path": "/", "wait": "21s"}), "sqs.wait", "\"21s\"", "too long"),
        ("sqs", json!({"queue": "q", "path": "/", "window": "6m"}), "sqs.window", "\"6m\"", "too long"),
        ("sqs", json!({"queue": "q", "path": "/", "refused": "drop"}), "sqs.refused", "\"drop\"", "not a choice"),
        ("sqs", json!({"queue": "q", "path": "/", "region": "EU"}), "sqs.region", "\"EU\"", "not a region"),
        ("sqs", json!({"queue": "q", "path": "/", "endpoint": "h:1"}), "sqs.endpoint", "\"h:1\"", "not an http"),
    ] {
        let error = refused(json!({"component": "api", kind: inner}));
        assert_eq!((error.field.as_str(), error.value.as_str()), (at, shown), "{error}");
        assert!(error.problem.contains(problem), "{error}");
        assert!(!error.allowed.is_empty(), "{error}");
    }
}

#[test]
fn exactly_one_trigger_and_a_component_are_needed() {
    assert!(refused(json!({"component": "api"})).problem.contains("no http, cron, sqs or once"));
    let both = json!({"component": "api", "http": {"path": "/"}, "sqs": {"queue": "q", "path": "/"}});
    assert!(refused(both).problem.contains("http and sqs at once"));
    assert_eq!(refused(json!({"http": {"path": "/"}})).field, "component");
    assert!(refused(json!({"component": "A", "http": {"path": "/"}})).allowed.contains("'A' at position 0"));
}

#[test]
fn the_manual_names_every_field() {
    let manual = include_str!("../../../docs/sources.md");
    for (object, names) in Source::FIELDS {
        for name in *names {
            let path = if object.is_empty() { (*name).to_owned() } else { format!("{object}.{name}") };
            assert!(manual.contains(&format!("| `{path}` |")), "docs/sources.md has no row for {path}");
        }
    }
}

/// Any JSON whose keys are often those of a source.
fn any_json() -> impl Strategy<Value = Value> {
    let names: Vec<&'static str> = Source::FIELDS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    let texts = vec!["api", "/a", "a.example", "* * * * *", "@daily", "UTC", "q", "http://h/q", "3"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        prop::sample::select(texts).prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        let key = prop_oneof![4 => prop::sample::select(names.clone()).prop_map(str::to_owned), 1 => "\\PC{0,8}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..8).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// Any trigger that `parse` can give.
fn any_trigger() -> impl Strategy<Value = Trigger> {
    let host = prop::option::of("(\\*\\.)?[a-z0-9_]{1,8}\\.[a-z]{2,5}");
    let http = (host, "(/[a-z0-9%A-Z~]{1,2}x){1,3}|/", any::<bool>())
        .prop_filter("a % needs digits", |(_, path, _)| !path.contains('%'))
        .prop_map(|(host, path, strip_prefix)| Trigger::Http(Http { host, path, strip_prefix }));
    let schedule = prop::sample::select(vec!["*/5 * * * *", "0 0 29 2 *", "@hourly", "@every 1m30s", "1 2 3 4 5 6"]);
    let zone = prop::sample::select(vec!["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires"]);
    let method = prop::sample::select(defaults::METHODS.to_vec());
    let headers = prop::collection::btree_map("[a-l][a-l-]{0,5}x", "[ -~]{0,8}", 0..3);
    let rules = (
        prop::sample::select(vec![Gap::Skip, Gap::RunAtTransition]),
        prop::sample::select(vec![Repeat::First, Repeat::Second, Repeat::Both]),
        prop::sample::select(vec![Overlap::Allow, Overlap::Forbid, Overlap::Replace, Overlap::Queue]),
        prop_oneof![Just(Missed::None), Just(Missed::Latest), (1u32..=100).prop_map(Missed::All)],
        10u64..=600_000,
        0u32..=16,
    );
    let cron = (schedule, zone, method, "/[a-z?]{0,8}", headers, prop::option::of("\\PC{0,12}"), rules).prop_map(
        |(expression, timezone, method, path, headers, body, (gap, repeat, overlap, missed, seconds, retries))| {
            let (expression, timezone, method) = (expression.to_owned(), timezone.to_owned(), method.to_owned());
            let delivery = if retries == 0 { Delivery::AtMostOnce } else { Delivery::AtLeastOnce };
            Trigger::Cron(Cron {
                expression,
                timezone,
                request: Request {
                    method,
                    path,
                    headers,
                    timeout: body.is_some().then_some(Duration::from_secs(90)),
                    body,
                },
                gap,
                repeat,
                overlap,
                missed,
                start_deadline: Duration::from_secs(seconds),
                jitter: Duration::from_secs(seconds / 60),
                retries,
                delivery,
            })
        },
    );
    let sqs = (
        "[A-Za-z0-9_-]{1,20}",
        any::<bool>(),
        "/[a-z]{0,8}",
        10u32..=120_000,
        1u8..=10,
        prop::option::of("[a-z]{2}-1"),
    )
        .prop_map(|(queue, prefix, path, concurrency, batch, region)| {
            let concurrency = NonZeroU32::new(concurrency).expect("not zero");
            let endpoint = (batch > 5).then(|| "http://localhost:9324".to_owned());
            let timeout = prefix.then_some(Duration::from_millis(1500));
            let refused = if prefix { Refused::DeadLetter } else { Refused::Retry };
            let (window, backoff) = (Duration::from_secs(u64::from(batch)), Duration::from_millis(1500));
            let visibility = Duration::from_secs(10 + u64::from(batch));
            Trigger::Sqs(Sqs {
                queue,
                prefix,
                path,
                concurrency,
                batch,
                window,
                wait: Duration::from_secs(u64::from(batch)),
                visibility,
                backoff,
                refused,
                region,
                endpoint,
                timeout,
            })
        });
    let once = (0..4_102_444_800_000_u64, 0..86_400_u64, "/[a-z?]{0,8}", prop::option::of("\\PC{0,12}")).prop_map(
        |(at, seconds, path, body)| {
            let (give_up_after, method) = (Duration::from_secs(seconds), "PUT".to_owned());
            let request = Request { method, path, headers: BTreeMap::new(), body, timeout: None };
            Trigger::Once(Once { at, give_up_after, request })
        },
    );
    prop_oneof![http, cron, sqs, once]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_json_makes_parse_panic_and_what_it_takes_is_canonical(doc in any_json()) {
        match parse(&doc) {
            Ok(source) => prop_assert_eq!(parse(&source.to_doc()), Ok(source)),
            Err(Invalid(errors)) => prop_assert!(!errors.is_empty()),
        }
    }

    #[test]
    fn a_source_comes_back_from_its_document(trigger in any_trigger(), enabled: bool) {
        let (name, component) = ("in".parse().expect("a name"), "api".parse().expect("a name"));
        let source = Source { name, component, enabled, trigger };
        prop_assert_eq!(parse(&source.to_doc()), Ok(source));
    }
}

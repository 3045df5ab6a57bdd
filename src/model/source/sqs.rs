//! The source `sqs`: messages of a queue.
//!
//! Knows nothing of queues that exist.

use std::num::NonZeroU32;
use std::time::Duration;

use serde_json::{Value, json};

use crate::model::address;
use crate::model::invalid::Refusal;
use crate::model::reader::{Errors, Object};
use crate::model::source::defaults as d;
use crate::model::source::{Section, parse};
use crate::model::units::format_duration;

/// A queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sqs {
    /// Name, URL, or name prefix.
    pub queue: String,
    /// Whether `queue` is a prefix: all queues that start with it, in the order of their names.
    pub prefix: bool,
    /// Path of the request, starts with `/`.
    pub path: String,
    /// Messages handled at once in the cluster.
    pub concurrency: NonZeroU32,
    /// Messages per request, 1 to 10. Above 1 they come as JSON.
    pub batch: u8,
    /// How long a request that is not full waits for more messages.
    pub window: Duration,
    /// How long a receive waits for a message.
    pub wait: Duration,
    /// How long a message is hidden from others after a node that has it fell silent.
    pub visibility: Duration,
    /// The wait after the first failure of a message; doubles with each.
    pub backoff: Duration,
    /// What becomes of a message that the component refuses.
    pub refused: Refused,
    /// Region; that of the environment if none.
    pub region: Option<String>,
    /// Endpoint URL in place of the provider's.
    pub endpoint: Option<String>,
    /// From the request to the end of its answer; the component's `request_timeout` if none.
    pub timeout: Option<Duration>,
}

/// What becomes of a message that the component refuses: 4xx, except 408, 425 and 429.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// As for any other failure: it comes again, until the queue's own rule makes it a dead letter.
    Retry,
    /// It goes to the dead-letter queue at once.
    DeadLetter,
}

impl Refused {
    const WORDS: [(&'static str, Self); 2] = [("retry", Self::Retry), ("dead-letter", Self::DeadLetter)];
}

impl Section for Sqs {
    const NAME: &'static str = "sqs";
    const FIELDS: &'static [&'static str] = &[
        "queue",
        "prefix",
        "path",
        "concurrency",
        "batch",
        "window",
        "wait",
        "visibility",
        "backoff",
        "refused",
        "region",
        "endpoint",
        "timeout",
    ];

    fn read(object: &Object<'_>, e: &mut Errors) -> Option<Self> {
        let prefix = object.get("prefix").flag(e).unwrap_or(false);
        let queue = parse::required(object, "queue", "the name or URL of a queue", e);
        let queue = queue.parsed(e, |text| queue_name(text, prefix));
        let path = parse::target(object, e);
        let concurrency = object.get("concurrency").whole(1..=d::CONCURRENCY_MAX, e);
        let field = object.get("batch");
        let batch = field.whole(1..=d::BATCH_MAX, e).unwrap_or(d::BATCH);
        if let Some(concurrency) = concurrency.filter(|concurrency| *concurrency < batch) {
            field.refuse(e, format!("is above sqs.concurrency {concurrency}"), format!("1 to {concurrency}"));
        }
        let window = object.get("window").duration(Duration::ZERO..=d::WINDOW_MAX, e);
        let wait = object.get("wait").duration(d::WAIT_MIN..=d::WAIT, e);
        let visibility = object.get("visibility").duration(d::VISIBILITY_MIN..=d::VISIBILITY_MAX, e);
        let backoff = object.get("backoff").duration(Duration::ZERO..=d::BACKOFF_MAX, e);
        let refused = object.get("refused").one_of(&Refused::WORDS, e);
        let region = object.get("region").parsed(e, |text| {
            let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            let fits = (1..=32).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-');
            fits.then(|| text.to_owned())
                .ok_or_else(|| Refusal::new("is not a region", "a region such as eu-central-1"))
        });
        let endpoint = object.get("endpoint").parsed(e, |text| check_url(text).map(str::to_owned));
        Some(Self {
            queue: queue?,
            prefix,
            path: path?,
            concurrency: NonZeroU32::new(concurrency.unwrap_or(d::CONCURRENCY)).unwrap_or(NonZeroU32::MIN),
            batch: u8::try_from(batch).unwrap_or(1),
            window: window.unwrap_or(d::WINDOW),
            wait: wait.unwrap_or(d::WAIT),
            visibility: visibility.unwrap_or(d::VISIBILITY),
            backoff: backoff.unwrap_or(d::BACKOFF),
            refused: refused.unwrap_or(Refused::Retry),
            region,
            endpoint,
            timeout: parse::timeout(object, e),
        })
    }

    fn to_doc(&self) -> Value {
        json!({
            "queue": self.queue,
            "prefix": self.prefix,
            "path": self.path,
            "concurrency": self.concurrency,
            "batch": self.batch,
            "window": format_duration(self.window),
            "wait": format_duration(self.wait),
            "visibility": format_duration(self.visibility),
            "backoff": format_duration(self.backoff),
            "refused": Refused::WORDS.iter().find(|(_, it)| *it == self.refused).map(|(word, _)| *word),
            "region": self.region,
            "endpoint": self.endpoint,
            "timeout": self.timeout.map(format_duration),
        })
    }
}

fn queue_name(text: &str, prefix: bool) -> Result<String, Refusal> {
    let form = "[A-Za-z0-9_-], at most 80 bytes, with .fifo at its end if it is one; or a URL";
    if text.contains("://") && !prefix {
        let url = check_url(text)?;
        let name = url.rsplit('/').next().unwrap_or_default();
        return queue_name(name, false).map(|_| url.to_owned());
    }
    let name = if prefix { text } else { text.strip_suffix(".fifo").unwrap_or(text) };
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if name.is_empty() || text.len() > d::QUEUE_NAME_MAX || !name.bytes().all(inner) {
        return Err(match prefix {
            true => Refusal::new("is not the start of a queue name", "[A-Za-z0-9_-], at most 80 bytes, and no URL"),
            false => Refusal::new("is not a queue name", form),
        });
    }
    Ok(text.to_owned())
}

/// `http` or `https`, a host with an optional port, a path; no login, query or fragment.
fn check_url(text: &str) -> Result<&str, Refusal> {
    let refuse = |problem: &str| Err(Refusal::new(problem, "http(s)://HOST[:PORT][/PATH], at most 1024 bytes"));
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return refuse("is not an http or https URL");
    };
    if text.len() > d::URL_MAX {
        return refuse("is too long");
    }
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if host.contains('@') {
        return refuse("has a login in it, and credentials come from the environment of the node");
    }
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let wrong_port =
        |port: &str| !port.bytes().all(|b| b.is_ascii_digit()) || !port.parse::<u16>().is_ok_and(|p| p > 0);
    if port.is_some_and(wrong_port) || name.starts_with('*') || address::parse_host(name).is_err() {
        return refuse("has no host, or a wrong one or a wrong port");
    }
    if !path.is_empty() && (address::check_target(path).is_err() || path.contains('?')) {
        return refuse("has a path with a query or with characters that a URL does not hold");
    }
    Ok(text)
}

//! `maelctl invoke`: sends an event to a component by hand.
//!
//! The body of the answer goes to stdout as it is, the rest to stderr.

use std::io::Read as _;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use maelstrom::admin::api::{Expect, INVOKE_BODY_MAX, Invoke, Timing};
use maelstrom::admin::client::{Answered, Kind};

use crate::cli::{self, Format};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::names;

const EXAMPLES: &str = "\
Examples:
  maelctl invoke hello
  maelctl invoke hello --path /jobs -d '{\"id\": 7}' --header 'content-type: application/json'
  maelctl invoke hello --data @event.json --show-timing
  maelctl invoke hello --path /remind -d '{\"id\": 7}' --in 20m
  maelctl invoke hello --path /report --at 2030-01-31T08:00:00+01:00
";

#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES)]
pub(crate) struct Args {
    /// Which component
    #[arg(value_parser = cli::name, add = names::components())]
    name: String,
    /// Method of the event [default: GET, or POST with data]
    #[arg(short = 'X', long)]
    method: Option<Method>,
    /// Path and query of the event
    #[arg(long, default_value = "/")]
    path: String,
    /// Header of the event
    #[arg(short = 'H', long = "header", value_name = "'NAME: VALUE'", value_parser = cli::header)]
    headers: Vec<(String, String)>,
    /// Body of the event; @FILE is a file, @- is stdin
    #[arg(short, long, value_name = "DATA")]
    data: Option<String>,
    /// Until the answer begins [default: that of the component]
    #[arg(long, value_name = "DURATION", value_parser = cli::duration)]
    timeout: Option<std::time::Duration>,
    /// Say on stderr where the time went
    #[arg(long)]
    show_timing: bool,
    /// Not now but then; `es ls` shows it until it is done, `es rm` takes it back
    #[arg(long, value_name = "TIME", conflicts_with_all = ["in", "show_timing"])]
    at: Option<String>,
    /// Not now but after this time
    #[arg(long = "in", id = "in", value_name = "DURATION", value_parser = cli::duration, conflicts_with = "show_timing")]
    after: Option<std::time::Duration>,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    if !args.path.starts_with('/') {
        return Err(Failure::usage(format!("--path is {:?}; allowed is /PATH[?QUERY]", args.path)));
    }
    let body = args.data.as_deref().map(data).transpose()?;
    if args.at.is_some() || args.after.is_some() {
        return later(args, body, context).await;
    }
    let default = if body.is_some() { Method::POST } else { Method::GET };
    let event = Invoke {
        method: args.method.unwrap_or(default),
        path: args.path,
        headers: headers(&args.headers)?,
        body: body.unwrap_or_default(),
        timeout: args.timeout,
    };
    let answered = context.client.invoke(&args.name, &event).await?;
    let (status, timing) = (answered.status, answered.timing);
    match context.format {
        Format::Json | Format::Yaml => structured(answered, context).await?,
        Format::Table | Format::Wide | Format::Name => {
            let mut body = answered.body;
            while let Some(part) = body.next().await? {
                context.data(&part)?;
            }
        }
    }
    if args.show_timing {
        context.say(&shown(&timing));
    }
    if status.is_client_error() || status.is_server_error() {
        return Err(Failure::new(Exit::Failure, format!("component {} answered {status}", args.name))
            .hint(format!("maelctl logs {}", args.name)));
    }
    Ok(())
}

/// Leaves the event to the cluster: a source of the kind `once`.
#[expect(clippy::disallowed_methods, reason = "a duration from now on is one of the user's own clock")]
async fn later(args: Args, body: Option<Bytes>, context: &Context) -> Result<(), Failure> {
    let at = match (args.at, args.after) {
        (Some(at), _) => at
            .parse::<jiff::Timestamp>()
            .map_err(|_| Failure::usage(format!("--at is {at:?}; allowed is a time such as 2030-01-31T08:00:00Z")))?,
        (None, after) => jiff::Timestamp::now()
            .saturating_add(after.unwrap_or_default())
            .map_err(|error| Failure::usage(format!("--in is too long: {error}")))?,
    };
    let mut once = serde_json::json!({"at": at.to_string(), "path": args.path});
    if let Some(method) = args.method {
        once["method"] = method.as_str().into();
    }
    if let Some(body) = body {
        let body = String::from_utf8(body.into());
        once["body"] = body.map_err(|_| Failure::usage("an event for later has a body of UTF-8 text"))?.into();
    }
    if !args.headers.is_empty() {
        let headers: serde_json::Map<_, _> =
            args.headers.into_iter().map(|(name, value)| (name, value.into())).collect();
        once["headers"] = headers.into();
    }
    if let Some(timeout) = args.timeout {
        once["timeout"] = format!("{}ms", timeout.as_millis()).into();
    }
    // A name has 60 bytes; the moment and the process tell apart what one component gets.
    let short: String = args.name.chars().take(32).collect();
    let name = format!("{short}-{}-{}", at.as_millisecond(), std::process::id());
    let document = serde_json::json!({"component": args.name, "once": once});
    let answer = context.client.put(Kind::Source, &name, &document, &Expect::Absent, false).await;
    context.put("event source", answer, false)
}

/// The body that `-d` says.
fn data(text: &str) -> Result<Bytes, Failure> {
    let Some(path) = text.strip_prefix('@') else { return Ok(text.to_owned().into()) };
    let failed = |error: std::io::Error| Failure::new(Exit::Failure, format!("cannot read {path}: {error}"));
    let mut bytes = Vec::new();
    let limit = INVOKE_BODY_MAX as u64 + 1;
    match path {
        "-" => std::io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(failed)?,
        path => std::fs::File::open(path).map_err(failed)?.take(limit).read_to_end(&mut bytes).map_err(failed)?,
    };
    if bytes.len() > INVOKE_BODY_MAX {
        return Err(Failure::new(Exit::Failure, format!("{path} is larger than {INVOKE_BODY_MAX} bytes")));
    }
    Ok(bytes.into())
}

fn headers(pairs: &[(String, String)]) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            (Ok(name), Ok(value)) => drop(headers.append(name, value)),
            _ => return Err(Failure::usage(format!("--header {name:?}: {value:?} cannot be sent as a header"))),
        }
    }
    Ok(headers)
}

/// The whole answer for scripts. A body that is not UTF-8 is shown as far as it is.
async fn structured(answered: Answered, context: &Context) -> Result<(), Failure> {
    let Answered { status, headers, timing, mut body } = answered;
    let mut whole = BytesMut::new();
    while let Some(part) = body.next().await? {
        whole.extend_from_slice(&part);
        if whole.len() > INVOKE_BODY_MAX {
            return Err(Failure::new(Exit::Failure, format!("the answer is larger than {INVOKE_BODY_MAX} bytes"))
                .hint("without -o it is passed on as it comes"));
        }
    }
    let mut shown = serde_json::Map::new();
    for name in headers.keys() {
        let values: Vec<_> =
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        shown.insert(name.to_string(), values.join(", ").into());
    }
    let value = serde_json::json!({
        "apiVersion": maelstrom::admin::api::API_VERSION,
        "status": status.as_u16(),
        "headers": shown,
        "body": String::from_utf8_lossy(&whole),
        "timing": timing,
    });
    context.structured(&value).map(drop)
}

fn shown(timing: &Timing) -> String {
    let phases = [
        ("queue", timing.queue_ms),
        ("pull", timing.pull_ms),
        ("start", timing.start_ms),
        ("ready", timing.ready_ms),
        ("handler", timing.handler_ms),
        ("total", timing.total_ms),
    ];
    phases.map(|(name, ms)| format!("{name} {ms:.1}ms")).join("  ")
}

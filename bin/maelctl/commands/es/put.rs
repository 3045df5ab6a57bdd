//! `maelctl es put`: creates or replaces an event source.
//!
//! Turns flags into the document that the API takes; the node checks the values.

use maelstrom::admin::client::Kind;

use crate::cli;
use crate::context::Context;
use crate::document::{Document, PutFlags};
use crate::exit::Failure;
use crate::names;

const EXAMPLES: &str = "\
Examples:
  maelctl es put web --component hello --http-host hello.example
  maelctl es put api --component hello --http-host '*.example' --http-path /api --strip-prefix
  maelctl es put nightly --component hello --cron '0 3 * * *' --tz Europe/Berlin --path /clean
  maelctl es put jobs --component hello --sqs jobs --path /job --concurrency 20
  maelctl es put web -f web.yml
";

/// The three triggers; a source has one of them.
const TRIGGERS: [&str; 3] = ["http", "cron", "sqs"];

#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES)]
pub(crate) struct Args {
    /// Its name: [a-z0-9][a-z0-9_-]*, at most 60 bytes
    #[arg(value_parser = cli::name, add = names::sources())]
    name: String,
    /// The component that it activates
    #[arg(long, short, value_name = "NAME", add = names::components())]
    component: Option<String>,
    /// Keep it and do nothing until `es enable`
    #[arg(long)]
    disabled: bool,
    #[command(flatten)]
    put: PutFlags,
    #[command(flatten)]
    http: Http,
    #[command(flatten)]
    cron: Cron,
    #[command(flatten)]
    sqs: Sqs,
    #[command(flatten)]
    request: Request,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Requests from outside")]
struct Http {
    /// Host, or `*.` and a domain [default: any]
    #[arg(long, value_name = "HOST", conflicts_with_all = ["schedule", "queue"])]
    http_host: Option<String>,
    /// Path prefix, by whole segments [default: /]
    #[arg(long, value_name = "PATH", conflicts_with_all = ["schedule", "queue"])]
    http_path: Option<String>,
    /// Cut the prefix off before the component sees the path
    #[arg(long, conflicts_with_all = ["schedule", "queue"])]
    strip_prefix: bool,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "A schedule")]
struct Cron {
    /// Such as '*/5 * * * *' or @daily
    #[arg(long = "cron", id = "schedule", value_name = "EXPR", conflicts_with = "queue")]
    schedule: Option<String>,
    /// Time zone [default: UTC]
    #[arg(long, value_name = "ZONE", conflicts_with = "queue")]
    tz: Option<String>,
    /// Method of the request [default: GET, or POST with a body]
    #[arg(long, conflicts_with = "queue")]
    method: Option<String>,
    /// Header of the request
    #[arg(long = "header", value_name = "'NAME: VALUE'", value_parser = cli::header, conflicts_with = "queue")]
    headers: Vec<(String, String)>,
    /// Body of the request
    #[arg(long, value_name = "TEXT", conflicts_with = "queue")]
    body: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "A queue")]
struct Sqs {
    /// Name or URL of an SQS queue
    #[arg(long = "sqs", id = "queue", value_name = "QUEUE")]
    queue: Option<String>,
    /// QUEUE is a prefix: all queues that start with it
    #[arg(long)]
    prefix: bool,
    /// Messages handled at once in the cluster
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Messages per request, 1 to 10
    #[arg(long, value_name = "N")]
    batch: Option<u32>,
    /// Region [default: that of the node's environment]
    #[arg(long)]
    region: Option<String>,
    /// In place of the provider's endpoint
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "A schedule or a queue")]
struct Request {
    /// Path of the request to the component
    #[arg(long)]
    path: Option<String>,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let (name, dry_run, expect) = (args.name.clone(), args.put.dry_run, args.put.expect());
    let document = document(args)?;
    if !TRIGGERS.iter().any(|trigger| document.has(trigger)) {
        return Err(Failure::usage("nothing says where events come from")
            .hint("give --http-host or --http-path, --cron, --sqs or -f FILE; `maelctl es put --help` has examples"));
    }
    let answer = context.client.put(Kind::Source, &name, &document.into_value(), &expect, dry_run).await;
    context.put("event source", answer, dry_run)
}

fn document(args: Args) -> Result<Document, Failure> {
    let mut doc = args.put.document()?;
    doc.set("component", args.component);
    if args.disabled {
        doc.set("enabled", Some(false));
    }
    let Http { http_host, http_path, strip_prefix } = args.http;
    // A trigger by flags takes the place of another one in the file.
    let chosen = [http_host.is_some() || http_path.is_some(), args.cron.schedule.is_some(), args.sqs.queue.is_some()];
    if let Some(chosen) = chosen.iter().position(|given| *given) {
        for (index, trigger) in TRIGGERS.iter().enumerate() {
            if index != chosen {
                doc.remove(trigger);
            }
        }
    }
    doc.set("http.host", http_host);
    doc.set("http.path", http_path);
    if strip_prefix {
        doc.set("http.strip_prefix", Some(true));
    }
    let Cron { schedule, tz, method, headers, body } = args.cron;
    doc.set("cron.schedule", schedule);
    doc.set("cron.timezone", tz);
    doc.set("cron.method", method);
    doc.pairs("cron.headers", headers);
    doc.set("cron.body", body);
    let Sqs { queue, prefix, concurrency, batch, region, endpoint } = args.sqs;
    doc.set("sqs.queue", queue);
    if prefix {
        doc.set("sqs.prefix", Some(true));
    }
    doc.set("sqs.concurrency", concurrency);
    doc.set("sqs.batch", batch);
    doc.set("sqs.region", region);
    doc.set("sqs.endpoint", endpoint);
    if args.request.path.is_some() {
        match (doc.has("cron"), doc.has("sqs")) {
            (true, _) => doc.set("cron.path", args.request.path),
            (false, true) => doc.set("sqs.path", args.request.path),
            (false, false) => {
                return Err(Failure::usage("--path is the path of a schedule's or a queue's request")
                    .hint("requests from outside are chosen by --http-path"));
            }
        }
    }
    Ok(doc)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use maelstrom::id::SourceName;
    use maelstrom::model::Source;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn every_flag_ends_in_a_field_that_a_source_has() {
        let name: SourceName = "s".parse().expect("a name");
        for (words, section) in [
            (vec!["--http-host", "a.example", "--http-path", "/a", "--strip-prefix"], "http"),
            (
                vec![
                    "--cron", "@daily", "--tz", "UTC", "--method", "POST", "--header", "a: b", "--body", "x", "--path",
                    "/",
                ],
                "cron",
            ),
            (
                vec![
                    "--sqs",
                    "q",
                    "--prefix",
                    "--concurrency",
                    "20",
                    "--batch",
                    "5",
                    "--region",
                    "eu-central-1",
                    "--endpoint",
                    "http://localhost:9324",
                    "--path",
                    "/",
                ],
                "sqs",
            ),
        ] {
            let line = ["put", "s", "--component", "c", "--disabled"].into_iter().chain(words);
            let args = Line::try_parse_from(line).expect("flags").args;
            let doc = document(args).expect("a document").into_value();
            Source::parse(&name, &doc).expect("a source");
            let (_, fields) = Source::FIELDS.iter().find(|(path, _)| *path == section).expect("a section");
            for field in *fields {
                assert!(doc[section].get(field).is_some(), "no flag sets {section}.{field}");
            }
        }
    }
}

//! `maelctl es put`: creates or replaces an event source.
//!
//! Turns flags into the document that the API takes; the node checks the values.

use maelstrom::admin::client::Kind;
use maelstrom::model::source::Trigger;

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

mod cron;
mod http;
mod sqs;

/// The flags of one kind of trigger.
trait Section {
    /// The object of the document that they fill.
    const NAME: &'static str;

    /// Whether the flag is there that makes a source one of this kind.
    fn is_chosen(&self) -> bool;

    /// Whether any of the flags is there.
    fn is_given(&self) -> bool;

    /// Puts them into the document.
    fn fill(self, doc: &mut Document);
}

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
    http: http::HttpFlags,
    #[command(flatten)]
    cron: cron::CronFlags,
    #[command(flatten)]
    sqs: sqs::SqsFlags,
    #[command(flatten)]
    request: Request,
}

/// For the kinds that make requests of their own.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "A schedule or a queue")]
struct Request {
    /// Path of the request to the component
    #[arg(long)]
    path: Option<String>,
    /// For how long an answer is waited for [default: the component's request timeout]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<String>,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let (name, dry_run, expect) = (args.name.clone(), args.put.dry_run, args.put.expect());
    let document = document(args)?;
    if !Trigger::NAMES.iter().any(|trigger| document.has(trigger)) {
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
    let mut given = Vec::new();
    fill(args.http, &mut doc, &mut given);
    fill(args.cron, &mut doc, &mut given);
    fill(args.sqs, &mut doc, &mut given);
    if let [first, second, ..] = given[..] {
        return Err(Failure::usage(format!("flags of {first} and of {second} are given at once"))
            .hint("a source has one trigger; `maelctl es put --help` lists the flags of each"));
    }
    let Request { path, timeout } = args.request;
    for (flag, field, value) in [("--path", "path", path), ("--timeout", "timeout", timeout)] {
        let Some(value) = value else { continue };
        let Some(section) = Trigger::NAMES.iter().find(|name| **name != http::HttpFlags::NAME && doc.has(name)) else {
            return Err(Failure::usage(format!("{flag} is about the request of a schedule or a queue"))
                .hint("requests from outside are chosen by --http-path"));
        };
        doc.set(&format!("{section}.{field}"), Some(value));
    }
    Ok(doc)
}

/// A trigger by flags takes the place of another one in the file.
fn fill<S: Section>(flags: S, doc: &mut Document, given: &mut Vec<&'static str>) {
    if flags.is_given() {
        given.push(S::NAME);
    }
    if flags.is_chosen() {
        Trigger::NAMES.iter().filter(|name| **name != S::NAME).for_each(|name| doc.remove(name));
    }
    flags.fill(doc);
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
                    "--cron",
                    "@daily",
                    "--tz",
                    "UTC",
                    "--method",
                    "POST",
                    "--header",
                    "a: b",
                    "--body",
                    "x",
                    "--path",
                    "/",
                    "--timeout",
                    "90s",
                    "--overlap",
                    "queue",
                    "--missed",
                    "all:3",
                    "--start-deadline",
                    "5m",
                    "--jitter",
                    "10s",
                    "--retries",
                    "2",
                    "--delivery",
                    "at-least-once",
                    "--dst-gap",
                    "skip",
                    "--dst-overlap",
                    "both",
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
                    "--window",
                    "1s",
                    "--poll-wait",
                    "10s",
                    "--visibility",
                    "60s",
                    "--backoff",
                    "5s",
                    "--refused",
                    "dead-letter",
                    "--region",
                    "eu-central-1",
                    "--endpoint",
                    "http://localhost:9324",
                    "--path",
                    "/",
                    "--timeout",
                    "90s",
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

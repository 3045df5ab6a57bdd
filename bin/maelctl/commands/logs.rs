//! `maelctl logs`: prints what a component wrote.

use std::borrow::Cow;

use maelstrom::admin::api::{LogLine, LogQuery, TAIL_MAX};
use maelstrom::admin::client::sanitized;
use maelstrom::id::InstanceId;

use crate::cli::{self, Format};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::names;

const EXAMPLES: &str = "\
Examples:
  maelctl logs hello
  maelctl logs -f -n 0 hello
  maelctl logs hello --stream stderr --raw
  maelctl logs hello -o json | jq -r .text
";

#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES)]
pub(crate) struct Args {
    /// Which component
    #[arg(value_parser = cli::name, add = names::components())]
    name: String,
    /// Go on with every line as it comes
    #[arg(short, long)]
    follow: bool,
    /// How many of the last lines
    #[arg(short = 'n', long, value_name = "LINES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=i64::from(TAIL_MAX)))]
    tail: u32,
    /// Only of this instance
    #[arg(long, value_name = "ID", add = names::instances())]
    instance: Option<InstanceId>,
    /// Only of this origin
    #[arg(long, value_parser = ["stdout", "stderr", "system"])]
    stream: Option<String>,
    /// With the moment of each line
    #[arg(short, long)]
    timestamps: bool,
    /// The text alone
    #[arg(long, conflicts_with = "timestamps")]
    raw: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    if context.format == Format::Yaml {
        return Err(Failure::usage("-o yaml has no end marks for lines").hint("use -o json: one object a line"));
    }
    let Args { name, follow, tail, instance, stream, timestamps, raw } = args;
    let mut lines = context.client.logs(&name, &LogQuery { tail, follow, instance, stream }).await?;
    let (mut none, mut partial) = (true, false);
    while let Some(line) = lines.next().await? {
        if line.missing {
            partial = true;
            context.say(&line.text);
            continue;
        }
        none = false;
        let text = if context.format == Format::Json { json(&line)? } else { text(&line, raw, timestamps, context) };
        context.data(text.as_bytes())?;
    }
    if follow {
        context.say("the node has ended the stream");
    } else if none {
        context.say(&format!("no lines; component {name} has not written any"));
    }
    if partial { Err(Failure::silent(Exit::Partial)) } else { Ok(()) }
}

fn json(line: &LogLine) -> Result<String, Failure> {
    let text = serde_json::to_string(line);
    text.map(|text| format!("{text}\n")).map_err(|error| Failure::new(Exit::Failure, format!("cannot print: {error}")))
}

fn text(line: &LogLine, raw: bool, timestamps: bool, context: &Context) -> String {
    // A file gets what was written; a terminal gets nothing that could move its cursor.
    let text = if context.terminal { sanitized(&line.text) } else { Cow::Borrowed(line.text.as_str()) };
    if raw {
        return format!("{text}\n");
    }
    let at = if timestamps { format!("{} ", line.at) } else { String::new() };
    let mark = if line.stream == "system" { '*' } else { '|' };
    format!("{at}{} {} {mark} {text}\n", line.node, line.instance)
}

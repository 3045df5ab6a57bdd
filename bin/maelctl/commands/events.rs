//! `maelctl events`: prints what happened in the cluster.

use std::time::Duration;

use maelstrom::admin::api::{EVENTS_MAX, EventQuery, EventView, List};
use maelstrom::admin::client::sanitized;

use crate::cli::{self, Format};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::names;
use crate::output::{Column, Table};

const EXAMPLES: &str = "\
Examples:
  maelctl events --since 10m
  maelctl events -f --component hello
  maelctl events --on n2 -o wide
  maelctl events -f -o json | jq -r .text
";

const AFTER: &str = "\
Each node keeps its last 512 entries in memory, and all nodes have those of all, also of the last that died.";

const COLUMNS: &[Column] =
    &[("AGE", false), ("TIME", true), ("NODE", false), ("KIND", false), ("SUBJECT", false), ("WHY", false)];

#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES, after_help = AFTER)]
pub(crate) struct Args {
    /// Go on with every entry as it comes
    #[arg(short, long)]
    follow: bool,
    /// Only what concerns this component
    #[arg(long, value_name = "NAME", value_parser = cli::name, add = names::components())]
    component: Option<String>,
    /// Only what this node says or is said of it, by name or id
    #[arg(long, value_name = "NODE", value_parser = cli::name, add = names::nodes())]
    on: Option<String>,
    /// Only of this long ago until now, such as 10m
    #[arg(long, value_name = "DURATION", value_parser = cli::duration)]
    since: Option<Duration>,
    /// How many of the last [default: 100; with --since all]
    #[arg(short = 'n', long, value_name = "ENTRIES", value_parser = clap::value_parser!(u32).range(0..=i64::from(EVENTS_MAX)))]
    tail: Option<u32>,
}

/// Entries if nothing says how many: what fits on a large terminal.
const TAIL: u32 = 100;

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let Args { follow, component, on, since, tail } = args;
    if follow && context.format == Format::Yaml {
        return Err(Failure::usage("-o yaml has no end marks for entries").hint("use -o json: one object a line"));
    }
    let since_ms = since.map(|since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    let tail = tail.or_else(|| since.is_none().then_some(TAIL));
    let query = EventQuery { component, node: on, since_ms, tail, follow };
    let mut events = context.client.events(&query).await?;
    if !follow {
        let mut items = Vec::new();
        while let Some(event) = events.next().await? {
            items.push(event);
        }
        let mut table = Table::new(COLUMNS);
        for event in &items {
            let EventView { at, node, kind, text, .. } = event.clone();
            table.row([context.ago(&at), at, node, kind, subject(event), text]);
        }
        let empty = "nothing has happened that is still known; --since and -n show more";
        return context.list(&List::new(items), &table, |event| &event.subject, empty);
    }
    while let Some(event) = events.next().await? {
        context.data(line(&event, context.format)?.as_bytes())?;
    }
    context.say("the node has ended the stream");
    Ok(())
}

/// The name of an instance says what it is.
pub(crate) fn subject(event: &EventView) -> String {
    match event.what.as_str() {
        "instance" | "" => event.subject.clone(),
        what => format!("{what} {}", event.subject),
    }
}

/// One entry of those that come one by one, in columns that fit most names.
fn line(event: &EventView, format: Format) -> Result<String, Failure> {
    let failed = |error| Failure::new(Exit::Failure, format!("cannot print: {error}"));
    Ok(match format {
        Format::Json | Format::Yaml => format!("{}\n", serde_json::to_string(event).map_err(failed)?),
        Format::Name => format!("{}\n", sanitized(&event.subject)),
        Format::Table | Format::Wide => {
            let EventView { at, node, kind, text, .. } = event;
            let text = format!("{at}  {node:<8}  {kind:<9}  {:<24}  {text}", subject(event));
            format!("{}\n", sanitized(&text))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_line_that_cannot_move_the_cursor() {
        let event = EventView {
            at: "2026-01-01T00:00:00.000Z".into(),
            node: "n1".into(),
            kind: "crashed".into(),
            what: "instance".into(),
            subject: "api-1".into(),
            component: Some("api".into()),
            text: "its last line: \u{1b}[2J\nx".into(),
        };
        let text = line(&event, Format::Table).expect("a line");
        assert!(text.contains("n1        crashed    api-1 ") && !text.contains('\u{1b}'), "{text}");
        assert_eq!(text.matches('\n').count(), 1);
        let json = line(&event, Format::Json).expect("a line");
        assert_eq!(serde_json::from_str::<EventView>(&json).expect("JSON"), event);
    }
}

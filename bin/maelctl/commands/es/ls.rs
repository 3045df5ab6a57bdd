//! `maelctl es ls`: lists event sources.

use maelstrom::admin::api::SourceView;
use serde_json::Value;

use crate::cli::Format;
use crate::context::Context;
use crate::exit::Failure;
use crate::output::{Table, cut};

/// Characters of a trigger in a table that is not wide.
const TRIGGER_MAX: usize = 40;

#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:\n  maelctl es ls\n  maelctl es ls -o json | jq '.items[].name'\n")]
pub(crate) struct Args {}

pub(crate) async fn run(_args: &Args, context: &Context) -> Result<(), Failure> {
    let list = context.client.sources().await?;
    let wide = context.format == Format::Wide;
    let mut table = Table::new(&[
        ("NAME", false),
        ("KIND", false),
        ("TRIGGER", false),
        ("COMPONENT", false),
        ("STATE", false),
        ("NEXT", true),
        ("VERSION", true),
        ("AGE", false),
    ]);
    for source in &list.items {
        let what = trigger(source);
        table.row([
            source.name.clone(),
            source.kind.clone(),
            if wide { what } else { cut(&what, TRIGGER_MAX) },
            source.component.clone(),
            state(source).to_owned(),
            source.next_at.as_deref().map(|at| context.until(at)).unwrap_or_default(),
            source.version.clone(),
            context.ago(&source.updated_at),
        ]);
    }
    let empty = "no event sources; `maelctl es put NAME --component C --http-path /PATH` creates one";
    context.list(&list, &table, |source| &source.name, empty)
}

/// The one word that matters most about it.
pub(super) fn state(source: &SourceView) -> &'static str {
    if source.conflict.is_some() {
        "conflict"
    } else if source.orphaned {
        "orphaned"
    } else if !source.enabled {
        "disabled"
    } else if source.problem.is_some() {
        "failing"
    } else {
        "enabled"
    }
}

/// Host and path, schedule, or queue.
fn trigger(source: &SourceView) -> String {
    let text = |pointer: &str| source.definition.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    match source.kind.as_str() {
        "http" => {
            let host = text("/http/host");
            format!("{}{}", if host.is_empty() { "*" } else { host }, text("/http/path"))
        }
        "cron" => text("/cron/schedule").to_owned(),
        "sqs" => {
            let is_prefix = source.definition.pointer("/sqs/prefix") == Some(&Value::Bool(true));
            format!("{}{}", text("/sqs/queue"), if is_prefix { "*" } else { "" })
        }
        _ => String::new(),
    }
}

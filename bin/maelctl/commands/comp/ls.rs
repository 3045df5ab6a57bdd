//! `maelctl comp ls`: lists components.

use maelstrom::admin::api::ComponentView;
use serde_json::Value;

use crate::context::Context;
use crate::exit::Failure;
use crate::output::{Table, cut};

/// Characters of a command or image in a table that is not wide.
const RUNS_MAX: usize = 40;

#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:\n  maelctl comp ls\n  maelctl comp ls -o name | xargs -n1 maelctl comp show\n")]
pub(crate) struct Args {}

pub(crate) async fn run(_args: &Args, context: &Context) -> Result<(), Failure> {
    let list = context.client.components().await?;
    let wide = context.format == crate::cli::Format::Wide;
    let mut table = Table::new(&[
        ("NAME", false),
        ("STATE", false),
        ("INSTANCES", false),
        ("WAITING", false),
        ("SOURCES", false),
        ("RUNS", false),
        ("VERSION", true),
        ("AGE", false),
    ]);
    for component in &list.items {
        let what = runs(&component.definition);
        table.row([
            component.name.clone(),
            state(component).to_owned(),
            instances(component),
            component.waiting.to_string(),
            component.sources.len().to_string(),
            if wide { what } else { cut(&what, RUNS_MAX) },
            component.version.clone(),
            context.ago(&component.updated_at),
        ]);
    }
    let empty = "no components; `maelctl comp put NAME --image IMAGE` creates one";
    context.list(&list, &table, |component| &component.name, empty)
}

/// The one word that matters most about it.
pub(super) fn state(component: &ComponentView) -> &'static str {
    use maelstrom::model::instance::InstanceState as State;
    let some = |state| component.instances.get(&state).is_some_and(|count| *count > 0);
    if component.conflict.is_some() {
        "conflict"
    } else if component.problem.is_some() {
        "failing"
    } else if some(State::Ready) {
        "ready"
    } else if some(State::Pulling) || some(State::Starting) {
        "starting"
    } else if some(State::Frozen) {
        "frozen"
    } else {
        "idle"
    }
}

/// Such as `2 ready, 1 frozen`.
pub(super) fn instances(component: &ComponentView) -> String {
    let counts = component.instances.iter().filter(|(_, count)| **count > 0);
    let parts: Vec<String> = counts.map(|(state, count)| format!("{count} {state}")).collect();
    if parts.is_empty() { "0".to_owned() } else { parts.join(", ") }
}

/// The image, or the command in one line.
pub(super) fn runs(definition: &Value) -> String {
    let image = definition.get("image");
    let reference = image.and_then(|image| image.as_str().or_else(|| image.get("reference")?.as_str()));
    let command = definition.get("command");
    match (reference, command) {
        (Some(reference), _) => reference.to_owned(),
        (None, Some(Value::String(command))) => command.clone(),
        (None, Some(Value::Array(words))) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        (None, _) => String::new(),
    }
}

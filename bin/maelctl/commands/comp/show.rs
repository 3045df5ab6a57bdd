//! `maelctl comp show`: one component in full.

use crate::cli::{self, Format};
use crate::commands::comp::ls;
use crate::commands::events;
use crate::context::Context;
use crate::exit::Failure;
use crate::names;
use crate::output::{Sheet, age};

#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:\n  maelctl comp show hello\n  maelctl comp show hello -o yaml\n")]
pub(crate) struct Args {
    /// Which component
    #[arg(value_parser = cli::name, add = names::components())]
    name: String,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let component = context.client.component(&args.name).await?;
    if context.structured(&component)? {
        return Ok(());
    }
    if context.format == Format::Name {
        return context.data(format!("{}\n", component.name).as_bytes());
    }
    let mut sheet = Sheet::default();
    sheet
        .fact("name", &component.name)
        .fact("version", &component.version)
        .fact("updated", format!("{} ago", context.ago(&component.updated_at)))
        .fact("state", ls::state(&component))
        .fact("instances", ls::instances(&component))
        .fact("waiting", component.waiting.to_string())
        .fact("sources", component.sources.join(", "));
    if let Some(problem) = &component.problem {
        let retry = problem.retry_in_ms.map(|ms| format!("; next try in {}", age(ms))).unwrap_or_default();
        let at = context.ago(&problem.at);
        sheet.fact("problem", format!("{} (phase {}, {at} ago{retry})", problem.message, problem.phase));
        sheet.fact("last lines", problem.log.join("\n"));
    }
    let events = component.events.iter().map(|event| {
        format!(
            "{} ago on {}: {} {}: {}",
            context.ago(&event.at),
            event.node,
            events::subject(event),
            event.kind,
            event.text
        )
    });
    sheet.fact("events", events.collect::<Vec<_>>().join("\n"));
    if let Some(conflict) = &component.conflict {
        let others = conflict.others.iter().zip(&conflict.definitions);
        let others: Vec<String> = others.map(|(other, definition)| format!("{other}: {definition}")).collect();
        let head = "changed on two nodes at the same moment; what is below is in effect, a put settles it. The other:";
        sheet.fact("conflict", format!("{head}\n{}", others.join("\n")));
    }
    sheet.definition(&component.definition);
    context.data(sheet.render().as_bytes())
}

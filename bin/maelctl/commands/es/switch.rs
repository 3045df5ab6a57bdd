//! `maelctl es enable` and `maelctl es disable`.

use maelstrom::admin::api::Change;

use crate::cli::{self, Format};
use crate::context::Context;
use crate::exit::Failure;
use crate::names;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which event sources
    #[arg(required = true, value_name = "NAME", value_parser = cli::name, add = names::sources())]
    names: Vec<String>,
}

pub(crate) async fn run(args: &Args, enabled: bool, context: &Context) -> Result<(), Failure> {
    context
        .each(&args.names, async |name| {
            let answer = context.client.set_source_enabled(name, enabled).await?;
            for warning in &answer.warnings {
                context.say(&format!("warning: {warning}"));
            }
            if context.structured(&answer)? {
                return Ok(());
            }
            let word = if enabled { "enabled" } else { "disabled" };
            let already = if answer.changed == Change::Unchanged { " already" } else { "" };
            let names_only = context.format == Format::Name;
            let text = if names_only { format!("{name}\n") } else { format!("event source {name}{already} {word}\n") };
            context.data(text.as_bytes())
        })
        .await
}

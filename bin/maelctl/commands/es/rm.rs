//! `maelctl es rm`: removes event sources.

use maelstrom::admin::api::Expect;
use maelstrom::admin::client::Kind;

use crate::cli::{self, Format};
use crate::context::Context;
use crate::exit::Failure;
use crate::names;

#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:\n  maelctl es rm web\n  maelctl es rm web nightly\n")]
pub(crate) struct Args {
    /// Which event sources
    #[arg(required = true, value_name = "NAME", value_parser = cli::name, add = names::sources())]
    names: Vec<String>,
    /// Only if it has this version now (else exit code 6); for one name
    #[arg(long, value_name = "VERSION")]
    if_version: Option<String>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    if args.if_version.is_some() && args.names.len() > 1 {
        return Err(Failure::usage("--if-version is for one name"));
    }
    let expect = args.if_version.clone().map_or(Expect::Any, Expect::Version);
    context
        .each(&args.names, async |name| {
            let removed = context.client.delete(Kind::Source, name, &expect).await?;
            if context.structured(&removed)? {
                return Ok(());
            }
            let names_only = context.format == Format::Name;
            let text = if names_only { format!("{name}\n") } else { format!("event source {name} removed\n") };
            context.data(text.as_bytes())
        })
        .await
}

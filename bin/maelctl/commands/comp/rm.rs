//! `maelctl comp rm`: removes components with their event sources and their own settings.

use maelstrom::admin::api::Expect;
use maelstrom::admin::client::Kind;

use crate::cli::{self, Format};
use crate::context::Context;
use crate::exit::Failure;
use crate::names;

#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:\n  maelctl comp rm hello\n  maelctl comp rm hello twin\n")]
pub(crate) struct Args {
    /// Which components
    #[arg(required = true, value_name = "NAME", value_parser = cli::name, add = names::components())]
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
            let removed = context.client.delete(Kind::Component, name, &expect).await?;
            if context.structured(&removed)? {
                return Ok(());
            }
            let mut text = String::new();
            if context.format == Format::Name {
                text.push_str(&format!("{name}\n"));
            } else {
                text.push_str(&format!("component {name} removed\n"));
                for source in &removed.sources {
                    text.push_str(&format!("event source {source} removed\n"));
                }
                for setting in &removed.settings {
                    text.push_str(&format!("setting {setting} of component {name} removed\n"));
                }
            }
            context.data(text.as_bytes())
        })
        .await
}

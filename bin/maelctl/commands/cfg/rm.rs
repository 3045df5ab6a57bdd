//! `maelctl cfg rm`: removes settings.

use maelstrom::admin::api::Expect;

use super::{Whose, name};
use crate::cli::Format;
use crate::context::Context;
use crate::exit::Failure;
use crate::names;

#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:\n  maelctl cfg rm LOG_LEVEL\n  maelctl cfg rm LOG_LEVEL --component api\n")]
pub(crate) struct Args {
    /// Which settings
    #[arg(required = true, value_name = "NAME", add = names::settings())]
    names: Vec<String>,
    #[command(flatten)]
    whose: Whose,
    /// Also if components use it, which then cannot start
    #[arg(long)]
    force: bool,
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
        .each(&args.names, async |text| {
            let name = name(text).map_err(|problem| Failure::usage(format!("name {text:?} {problem}")))?;
            let key = args.whose.key(&name);
            let removed = context.client.delete_setting(&key, args.force, &expect).await?;
            if context.structured(&removed)? {
                return Ok(());
            }
            let names_only = context.format == Format::Name;
            let text = if names_only { format!("{name}\n") } else { format!("{key} removed\n") };
            context.data(text.as_bytes())
        })
        .await
}

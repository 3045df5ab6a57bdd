//! `maelctl es`: event sources.
//!
//! Knows which commands there are.

use clap::Subcommand;

use crate::context::Context;
use crate::exit::Failure;

mod ls;
mod put;
mod rm;
mod show;
pub(super) mod switch;

#[derive(Debug, Subcommand)]
#[command(
    before_help = "Examples:\n  maelctl es put hello --component hello --http-path /hello\n  maelctl es ls\n",
    disable_help_subcommand = true
)]
pub(crate) enum Es {
    /// Create or replace an event source
    Put(Box<put::Args>),
    /// List event sources
    #[command(alias = "list")]
    Ls(ls::Args),
    /// Show an event source in full
    #[command(alias = "get")]
    Show(show::Args),
    /// Remove event sources
    #[command(alias = "delete")]
    Rm(rm::Args),
    /// Switch event sources on
    #[command(before_help = "Examples:\n  maelctl es enable nightly\n")]
    Enable(switch::Args),
    /// Switch event sources off and keep them
    #[command(before_help = "Examples:\n  maelctl es disable nightly\n")]
    Disable(switch::Args),
}

pub(crate) async fn run(command: Es, context: &Context) -> Result<(), Failure> {
    match command {
        Es::Put(args) => put::run(*args, context).await,
        Es::Ls(args) => ls::run(&args, context).await,
        Es::Show(args) => show::run(&args, context).await,
        Es::Rm(args) => rm::run(&args, context).await,
        Es::Enable(args) => switch::run(&args, true, context).await,
        Es::Disable(args) => switch::run(&args, false, context).await,
    }
}

//! `maelctl comp`: components.
//!
//! Knows which commands there are.

use clap::Subcommand;

use crate::context::Context;
use crate::exit::Failure;

mod ls;
mod put;
mod rm;
mod rollout;
mod show;

#[derive(Debug, Subcommand)]
#[command(
    before_help = "Examples:\n  maelctl comp put hello --image nginx:1 --port 80\n  maelctl comp ls\n",
    disable_help_subcommand = true
)]
pub(crate) enum Comp {
    /// Create or replace a component
    Put(Box<put::Args>),
    /// List components
    #[command(alias = "list")]
    Ls(ls::Args),
    /// Show a component in full
    #[command(alias = "get")]
    Show(show::Args),
    /// Remove components and their event sources
    #[command(alias = "delete")]
    Rm(rm::Args),
    /// How far a change is, what was before, and back to it
    #[command(subcommand)]
    Rollout(rollout::Rollout),
}

pub(crate) async fn run(command: Comp, context: &Context) -> Result<(), Failure> {
    match command {
        Comp::Put(args) => put::run(*args, context).await,
        Comp::Ls(args) => ls::run(&args, context).await,
        Comp::Show(args) => show::run(&args, context).await,
        Comp::Rm(args) => rm::run(&args, context).await,
        Comp::Rollout(command) => rollout::run(command, context).await,
    }
}

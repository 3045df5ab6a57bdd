//! `maelctl node`: nodes.
//!
//! Knows which commands there are.

use clap::Subcommand;

use crate::context::Context;
use crate::exit::Failure;

mod ls;
mod rm;
mod show;

#[derive(Debug, Subcommand)]
#[command(
    before_help = "Examples:\n  maelctl node ls\n  maelctl node show node2\n  maelctl node rm node2\n",
    disable_help_subcommand = true
)]
pub(crate) enum Node {
    /// List nodes
    #[command(alias = "list")]
    Ls(ls::Args),
    /// Show a node in full
    #[command(alias = "get")]
    Show(show::Args),
    /// Remove nodes that are down or have left, for good
    #[command(alias = "delete")]
    Rm(rm::Args),
}

pub(crate) async fn run(command: Node, context: &Context) -> Result<(), Failure> {
    match command {
        Node::Ls(args) => ls::run(&args, context).await,
        Node::Show(args) => show::run(&args, context).await,
        Node::Rm(args) => rm::run(&args, context).await,
    }
}

//! `maelctl node`: nodes.
//!
//! Knows which commands there are.

use clap::Subcommand;

use crate::context::Context;
use crate::exit::Failure;

mod ls;

#[derive(Debug, Subcommand)]
#[command(before_help = "Examples:\n  maelctl node ls\n", disable_help_subcommand = true)]
pub(crate) enum Node {
    /// List nodes
    #[command(alias = "list")]
    Ls(ls::Args),
}

pub(crate) async fn run(command: Node, context: &Context) -> Result<(), Failure> {
    match command {
        Node::Ls(args) => ls::run(&args, context).await,
    }
}

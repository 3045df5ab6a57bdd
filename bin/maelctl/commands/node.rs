//! `maelctl node`: nodes.
//!
//! Knows which commands there are.

use clap::Subcommand;
use maelstrom::model::duty::Duty;

use crate::context::Context;
use crate::exit::Failure;

mod duty;
mod ls;
mod rm;
mod show;

#[derive(Debug, Subcommand)]
#[command(
    before_help = "Examples:\n  maelctl node ls\n  maelctl node show node2\n  maelctl node drain node2 --wait\n",
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
    /// Give nodes no new work and move away what they have
    Drain(duty::Drain),
    /// Start nothing new on nodes; what they have goes on serving
    #[command(before_help = "Examples:\n  maelctl node cordon node2\n")]
    Cordon(duty::Which),
    /// Let nodes that were drained or cordoned work again
    #[command(before_help = "Examples:\n  maelctl node uncordon node2\n")]
    Uncordon(duty::Which),
}

pub(crate) async fn run(command: Node, context: &Context) -> Result<(), Failure> {
    match command {
        Node::Ls(args) => ls::run(&args, context).await,
        Node::Show(args) => show::run(&args, context).await,
        Node::Rm(args) => rm::run(&args, context).await,
        Node::Drain(args) => duty::drain(&args, context).await,
        Node::Cordon(args) => duty::run(&args, Duty::Cordoned, context).await,
        Node::Uncordon(args) => duty::run(&args, Duty::Active, context).await,
    }
}

//! The commands, one file each.
//!
//! A new command is a new file and one line in each of the lists here.

use clap::Subcommand;

use crate::context::Context;
use crate::exit::Failure;

mod cfg;
mod comp;
mod completions;
mod cron;
mod es;
mod events;
mod explain;
mod help;
mod invoke;
mod logs;
mod node;
mod ps;
mod queue;
mod version;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Components: what runs
    #[command(subcommand, alias = "component", alias = "components")]
    Comp(comp::Comp),
    /// Event sources: what makes it run
    #[command(subcommand, alias = "source", alias = "sources")]
    Es(es::Es),
    /// Schedules: when they run, and how it went
    #[command(subcommand)]
    Cron(cron::Cron),
    /// Settings and secrets: what it is told
    #[command(subcommand, alias = "config")]
    Cfg(cfg::Cfg),
    /// Queues: what waits to be handled, and what failed
    #[command(subcommand, alias = "queues")]
    Queue(queue::Queue),
    /// Nodes: where it runs
    #[command(subcommand, alias = "nodes")]
    Node(node::Node),
    /// Why something is as it is
    #[command(subcommand)]
    Explain(explain::Explain),
    /// List instances
    Ps(ps::Args),
    /// Print what a component wrote
    Logs(logs::Args),
    /// Print what happened in the cluster, and why
    Events(events::Args),
    /// Send an event to a component by hand
    Invoke(Box<invoke::Args>),
    /// Print a script that completes commands and names in your shell
    Completions(completions::Args),
    /// Print the version of maelctl and of the node
    Version(version::Args),
    /// Explain a command, or the exit codes
    Help(help::Args),
}

/// Does it.
pub(crate) async fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Comp(command) => comp::run(command, context).await,
        Command::Es(command) => es::run(command, context).await,
        Command::Cron(command) => cron::run(command, context).await,
        Command::Cfg(command) => cfg::run(command, context).await,
        Command::Queue(command) => queue::run(command, context).await,
        Command::Node(command) => node::run(command, context).await,
        Command::Explain(command) => explain::run(command, context).await,
        Command::Ps(args) => ps::run(&args, context).await,
        Command::Logs(args) => logs::run(args, context).await,
        Command::Events(args) => events::run(args, context).await,
        Command::Invoke(args) => invoke::run(*args, context).await,
        Command::Completions(args) => completions::run(&args, context),
        Command::Version(args) => version::run(&args, context).await,
        Command::Help(args) => help::run(&args, context),
    }
}

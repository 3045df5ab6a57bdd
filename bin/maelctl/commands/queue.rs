//! `maelctl queue`: the queues that event sources read.
//!
//! Knows which commands there are, the flags that say which queue is meant, and how to ask before something is lost.

use std::io::{IsTerminal as _, Write as _};

use clap::Subcommand;
use maelstrom::admin::api::QueueRef;

use crate::cli;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::names;

mod ls;
mod peek;
mod purge;
mod redrive;

const AFTER: &str = "\
The node that is asked asks the queue service, with the credentials in the environment of its maelstromd. Only queues
that an event source reads are touched.";

#[derive(Debug, Subcommand)]
#[command(
    before_help = "Examples:\n  maelctl queue ls\n  maelctl queue peek jobs --dlq\n  maelctl queue redrive jobs\n",
    after_help = AFTER,
    disable_help_subcommand = true
)]
pub(crate) enum Queue {
    /// List queues and how full they are
    #[command(alias = "list")]
    Ls(ls::Args),
    /// Show messages and leave them where they are
    Peek(peek::Args),
    /// Move dead letters back to their queue
    Redrive(redrive::Args),
    /// Delete all messages of a queue
    Purge(purge::Args),
}

pub(crate) async fn run(command: Queue, context: &Context) -> Result<(), Failure> {
    match command {
        Queue::Ls(args) => ls::run(&args, context).await,
        Queue::Peek(args) => peek::run(&args, context).await,
        Queue::Redrive(args) => redrive::run(&args, context).await,
        Queue::Purge(args) => purge::run(&args, context).await,
    }
}

/// Which queue is meant.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Which {
    /// The name of a queue that an event source reads
    #[arg(value_name = "QUEUE", add = names::queues())]
    queue: String,
    /// The source that reads it, if several regions or endpoints have a queue of this name
    #[arg(long, value_name = "NAME", value_parser = cli::name, add = names::sources())]
    source: Option<String>,
}

impl Which {
    fn queue(&self, dlq: bool) -> Result<QueueRef, Failure> {
        let source = self.source.as_ref().map(|source| source.parse()).transpose();
        let source = source.map_err(|error| Failure::usage(format!("--source {error}")))?;
        Ok(QueueRef { name: self.queue.clone(), source, dlq })
    }
}

/// Asks whether to go on, unless `yes` has been said already.
fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(Failure::usage(format!("{question} Nobody is here to answer"))
            .hint("--yes says yes, for scripts; nothing was done"));
    }
    // Nobody is left to be asked if it fails, and then no answer comes.
    let _ = write!(std::io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    let read = input.read_line(&mut answer);
    match (read, answer.trim().to_ascii_lowercase().as_str()) {
        (Ok(_), "y" | "yes") => Ok(()),
        _ => Err(Failure::new(Exit::Failure, "nothing was done")),
    }
}

/// `1 message`, `2 messages`.
fn messages(count: u64) -> String {
    format!("{count} message{}", if count == 1 { "" } else { "s" })
}

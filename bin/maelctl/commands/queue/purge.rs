//! `maelctl queue purge`: deletes all messages of a queue.

use super::{Which, confirm, messages};
use crate::context::Context;
use crate::exit::Failure;

#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:\n  maelctl queue purge jobs\n  maelctl queue purge jobs --dlq --yes\n")]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    /// Its dead-letter queue instead
    #[arg(long)]
    dlq: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let queue = args.which.queue(args.dlq)?;
    let what = if args.dlq { "the dead letters of queue" } else { "queue" };
    confirm(&format!("Delete all messages of {what} {}? They are gone then.", queue.name), args.yes)?;
    let purged = context.client.purge_queue(&queue).await?;
    if context.structured(&purged)? {
        return Ok(());
    }
    let text = format!("{} of queue {} deleted, about\n", messages(purged.messages), purged.queue);
    context.data(text.as_bytes())
}

//! `maelctl queue redrive`: moves dead letters back.

use maelstrom::admin::api::Redriven;

use super::{Which, confirm, messages};
use crate::context::Context;
use crate::exit::Failure;

const AFTER: &str = "\
Where the queue service can move messages by itself (AWS can), it is told to, and each goes back to the queue that it
came from. Otherwise, and with --max, the node moves them one by one, in their order and with their attributes: sent
first, deleted then, so that a failure in between may leave a message in both queues and never in none. A moved message
begins again with no receives.";

#[derive(Debug, clap::Args)]
#[command(
    before_help = "Examples:\n  maelctl queue redrive jobs\n  maelctl queue redrive jobs --max 10 --yes\n",
    after_help = AFTER
)]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    /// Move so many at most, one by one
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let queue = args.which.queue(false)?;
    let most = args.max.map_or_else(|| "all".to_owned(), |max| format!("up to {max}"));
    confirm(&format!("Move {most} dead letters of {} back to it?", queue.name), args.yes)?;
    let mut moved = 0;
    let redriven = loop {
        let left = args.max.map(|max| max.saturating_sub(moved));
        let part = context.client.redrive_queue(&queue, left).await.inspect_err(|_| {
            if moved > 0 {
                context.say(&format!("{} moved before it failed", messages(moved)));
            }
        })?;
        moved += part.moved;
        // A turn that moves nothing would go on for ever.
        if !part.more || part.moved == 0 || args.max.is_some_and(|max| moved >= max) {
            break Redriven { moved, ..part };
        }
        context.say(&format!("{} moved so far", messages(moved)));
    };
    if context.structured(&redriven)? {
        return Ok(());
    }
    let Redriven { queue, dlq, started, .. } = &redriven;
    let text = match started {
        true => format!("the queue service moves {dlq} back from now on; `maelctl queue ls` shows how far it is\n"),
        false => format!("{} moved from {dlq} to {queue}\n", messages(moved)),
    };
    context.data(text.as_bytes())
}

//! `maelctl queue peek`: shows messages.

use maelstrom::admin::api::{MessageView, PEEK_MAX};

use super::Which;
use crate::cli::Format;
use crate::context::Context;
use crate::exit::Failure;
use crate::output::{Table, bytes, cut};

/// Characters of a body in a table that is not wide.
const BODY_WIDTH: usize = 60;

const AFTER: &str = "\
A queue has no way to show a message but to give it out. So each message shown is received once more and given back at
once: others may receive it a moment later, and its receive count grows by one, which in a queue with a redrive policy
brings it nearer to the dead letters. For dead letters themselves (--dlq) that has no consequence. In a FIFO queue a
group is held back for that moment, and messages of a group that is being handled are not shown.";

#[derive(Debug, clap::Args)]
#[command(
    before_help = "Examples:\n  maelctl queue peek jobs\n  maelctl queue peek jobs --dlq -n 50 -o json\n",
    after_help = AFTER
)]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    /// How many messages at most
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=PEEK_MAX as i64))]
    limit: u32,
    /// Those of its dead-letter queue
    #[arg(long)]
    dlq: bool,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let peeked = context.client.peek_queue(&args.which.queue(args.dlq)?, args.limit).await?;
    if let Some(note) = &peeked.note {
        context.say(&format!("note: {note}"));
    }
    if context.structured(&peeked)? {
        return Ok(());
    }
    if peeked.messages.is_empty() {
        context.say(&format!("queue {} showed no message", peeked.queue));
        return Ok(());
    }
    if context.format == Format::Name {
        let text: String = peeked.messages.iter().map(|message| format!("{}\n", message.id)).collect();
        return context.data(text.as_bytes());
    }
    let wide = context.format == Format::Wide;
    let mut table = Table::new(&[
        ("ID", false),
        ("AGE", false),
        ("RECEIVES", false),
        ("GROUP", false),
        ("SIZE", false),
        ("ATTRIBUTES", true),
        ("BODY", false),
    ]);
    for message in &peeked.messages {
        let MessageView { id, body, size, sent_at, receives, group, attributes } = message;
        let line = body.replace(['\n', '\r', '\t'], " ");
        table.row([
            id.clone(),
            sent_at.as_ref().map(|at| context.ago(at)).unwrap_or_default(),
            receives.map(|count| count.to_string()).unwrap_or_default(),
            group.clone().unwrap_or_default(),
            bytes(*size),
            attributes.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(","),
            if wide { line } else { cut(&line, BODY_WIDTH) },
        ]);
    }
    context.table(&table)
}

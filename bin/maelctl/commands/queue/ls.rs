//! `maelctl queue ls`: lists queues.

use crate::context::Context;
use crate::exit::Failure;
use crate::output::{Table, age};

#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:\n  maelctl queue ls\n  maelctl queue ls -o wide\n")]
pub(crate) struct Args {}

pub(crate) async fn run(_: &Args, context: &Context) -> Result<(), Failure> {
    let list = context.client.queues().await?;
    let mut table = Table::new(&[
        ("QUEUE", false),
        ("SOURCE", false),
        ("COMPONENT", true),
        ("MESSAGES", false),
        ("IN FLIGHT", false),
        ("OLDEST", false),
        ("DELAYED", true),
        ("DLQ", false),
        ("DEAD", false),
        ("RECEIVES", true),
        ("URL", true),
    ]);
    let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    for queue in &list.items {
        if let Some(problem) = &queue.problem {
            context.say(&format!("warning: source {}: {problem}", queue.source));
        }
        table.row([
            queue.name.clone(),
            queue.source.clone(),
            queue.component.clone(),
            number(queue.messages),
            number(queue.in_flight),
            queue.oldest_ms.map(age).unwrap_or_default(),
            number(queue.delayed),
            queue.dlq.clone().unwrap_or_default(),
            number(queue.dlq_messages),
            number(queue.max_receives.map(u64::from)),
            queue.url.clone().unwrap_or_default(),
        ]);
    }
    let empty = "no event source reads a queue; `maelctl es put NAME --sqs QUEUE ...` creates one";
    context.list(&list, &table, |queue| &queue.name, empty)
}

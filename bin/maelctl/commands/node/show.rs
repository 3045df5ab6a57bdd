//! `maelctl node show`: one node in full.

use crate::cli::{self, Format};
use crate::commands::node::ls;
use crate::context::Context;
use crate::exit::Failure;
use crate::output::{Sheet, age, bytes};

#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:\n  maelctl node show node2\n  maelctl node show node2 -o json\n")]
pub(crate) struct Args {
    /// Which node, by name or id
    #[arg(value_parser = cli::name)]
    name: String,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let node = context.client.node(&args.name).await?;
    if context.structured(&node)? {
        return Ok(());
    }
    if context.format == Format::Name {
        return context.data(format!("{}\n", node.name).as_bytes());
    }
    let mut sheet = Sheet::default();
    let answers = if node.own { "yes" } else { "" };
    sheet
        .fact("name", &node.name)
        .fact("id", &node.id)
        .fact("answers you", answers)
        .fact("state", format!("{} for {}", node.state, age(node.since_ms)))
        .fact("duty", node.duty.to_string())
        .fact("peers reach it at", &node.peer);
    if !node.answered {
        sheet.fact("note", "it could not be asked; what is not shown is not known");
        return context.data(sheet.render().as_bytes());
    }
    sheet
        .fact("requests at", &node.address)
        .fact("version", &node.version)
        .fact("age", age(node.age_ms))
        .fact("runtime", &node.runtime)
        .fact("instances", node.instances.to_string())
        .fact("components", node.components.to_string())
        .fact("load", node.load.map(|load| format!("{load:.2}")).unwrap_or_default());
    if let Some(memory) = node.memory {
        sheet
            .fact("memory", format!("{} of {} free", bytes(memory.available), bytes(memory.total)))
            .fact("memory reserved", bytes(memory.reserved));
    }
    sheet
        .fact("round trip", ls::rtt(&node))
        .fact("registry lag", ls::lag(&node))
        .fact("clock offset", ls::offset(&node));
    context.data(sheet.render().as_bytes())
}

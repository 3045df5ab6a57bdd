//! `maelctl node ls`: lists nodes.

use crate::context::Context;
use crate::exit::Failure;
use crate::output::{Table, age, bytes};

#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:\n  maelctl node ls\n  maelctl node ls -o wide\n")]
pub(crate) struct Args {}

pub(crate) async fn run(_args: &Args, context: &Context) -> Result<(), Failure> {
    let list = context.client.nodes().await?;
    let mut table = Table::new(&[
        ("NAME", false),
        ("STATE", false),
        ("ADDRESS", false),
        ("INSTANCES", false),
        ("LOAD", false),
        ("MEMORY", false),
        ("RUNTIME", true),
        ("COMPONENTS", true),
        ("RESERVED", true),
        ("ID", true),
        ("VERSION", false),
        ("AGE", false),
    ]);
    for node in &list.items {
        let used = node.memory.map(|m| format!("{}/{}", bytes(m.total.saturating_sub(m.available)), bytes(m.total)));
        table.row([
            node.name.clone(),
            node.state.clone(),
            node.address.clone(),
            node.instances.to_string(),
            node.load.map(|load| format!("{load:.2}")).unwrap_or_default(),
            used.unwrap_or_default(),
            node.runtime.clone(),
            node.components.to_string(),
            node.memory.map(|memory| bytes(memory.reserved)).unwrap_or_default(),
            node.id.clone(),
            node.version.clone(),
            age(node.age_ms),
        ]);
    }
    context.list(&list, &table, |node| &node.name, "no nodes")
}

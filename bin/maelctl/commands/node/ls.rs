//! `maelctl node ls`: lists nodes.

use maelstrom::admin::api::NodeView;

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
        ("DUTY", false),
        ("ADDRESS", false),
        ("INSTANCES", false),
        ("LOAD", false),
        ("MEMORY", false),
        ("RTT", false),
        ("LAG", false),
        ("CLOCK", false),
        ("RUNTIME", true),
        ("COMPONENTS", true),
        ("RESERVED", true),
        ("HTTP", true),
        ("ID", true),
        ("VERSION", false),
        ("AGE", false),
    ]);
    for node in &list.items {
        let used = node.memory.map(|m| format!("{}/{}", bytes(m.total.saturating_sub(m.available)), bytes(m.total)));
        // What was not answered is not known, and shown so.
        let said = |text: String| if node.answered { text } else { String::new() };
        table.row([
            node.name.clone(),
            node.state.clone(),
            node.duty.to_string(),
            node.peer.clone(),
            said(node.instances.to_string()),
            node.load.map(|load| format!("{load:.2}")).unwrap_or_default(),
            used.unwrap_or_default(),
            rtt(node),
            lag(node),
            offset(node),
            node.runtime.clone(),
            said(node.components.to_string()),
            node.memory.map(|memory| bytes(memory.reserved)).unwrap_or_default(),
            node.address.clone(),
            node.id.clone(),
            node.version.clone(),
            said(age(node.age_ms)),
        ]);
    }
    context.list(&list, &table, |node| &node.name, "no nodes")
}

/// To the node and back.
pub(super) fn rtt(node: &NodeView) -> String {
    node.rtt_ms.map(|rtt| format!("{rtt:.1}ms")).unwrap_or_default()
}

/// How far its registry is behind that of the node that answers.
pub(super) fn lag(node: &NodeView) -> String {
    match node.registry_lag_ms {
        None => String::new(),
        Some(0) => "none".to_owned(),
        Some(ms) if ms < 1000 => format!("{ms}ms"),
        Some(ms) => age(ms),
    }
}

/// How far its wall clock is ahead.
pub(super) fn offset(node: &NodeView) -> String {
    node.clock_offset_ms.map(|ms| format!("{ms:+}ms")).unwrap_or_default()
}

//! `maelctl version`: that of maelctl, and of the node if it answers.

use crate::context::Context;
use crate::exit::Failure;

#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:\n  maelctl version\n  maelctl version -o json | jq -r .node.version\n")]
pub(crate) struct Args {}

pub(crate) async fn run(_args: &Args, context: &Context) -> Result<(), Failure> {
    let mine = env!("CARGO_PKG_VERSION");
    let answer = context.client.version().await;
    let node = answer.as_ref().ok();
    let value = serde_json::json!({
        "apiVersion": maelstrom::admin::api::API_VERSION,
        "client": {"version": mine},
        "node": node.map(|node| serde_json::json!({"version": node.version, "name": node.node, "id": node.node_id})),
    });
    if !context.structured(&value)? {
        let mut text = format!("maelctl {mine}\n");
        if let Some(node) = node {
            text.push_str(&format!("node {} {}\n", node.node, node.version));
        }
        context.data(text.as_bytes())?;
    }
    match answer {
        Ok(node) if node.version != mine => {
            context.say(&format!("warning: maelctl is {mine} and the node is {}", node.version));
        }
        Ok(_) => {}
        // The question for maelctl's own version is answered all the same.
        Err(error) => context.say(&format!("no answer from the node: {error}")),
    }
    Ok(())
}

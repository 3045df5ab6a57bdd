//! `maelctl node drain`, `cordon` and `uncordon`: what a node is to do.

use maelstrom::admin::api::NodeView;
use maelstrom::model::duty::Duty;

use crate::cli::{self, Format};
use crate::context::Context;
use crate::exit::Failure;
use crate::wait::For;

#[derive(Debug, clap::Args)]
#[command(
    before_help = "Examples:\n  maelctl node drain node2\n  maelctl node drain node2 --wait --timeout 5m\n",
    after_help = "New work goes to other nodes at once; requests under way finish, and then its instances stop. It stays \
                  so, also after a restart, until `maelctl node uncordon`."
)]
pub(crate) struct Drain {
    #[command(flatten)]
    which: Which,
    /// Until none of its instances is left
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    time: For,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// Which nodes, by name or id
    #[arg(required = true, value_name = "NAME", value_parser = cli::name)]
    names: Vec<String>,
    /// Also if no other node is alive and active
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(args: &Which, duty: Duty, context: &Context) -> Result<(), Failure> {
    context.each(&args.names, async |name| show(&set(name, args.force, duty, context).await?, context)).await
}

pub(crate) async fn drain(args: &Drain, context: &Context) -> Result<(), Failure> {
    context
        .each(&args.which.names, async |name| {
            let mut node = set(name, args.which.force, Duty::Draining, context).await?;
            if args.wait {
                let what = format!("node {} is empty", node.name);
                node = args.time.until(&what, async || empty(&node.id, context).await).await?;
            }
            show(&node, context)
        })
        .await
}

async fn set(name: &str, force: bool, duty: Duty, context: &Context) -> Result<NodeView, Failure> {
    Ok(context.client.set_duty(name, duty, force).await?)
}

/// The node once it has no instance any more. One that is gone has none that anybody could wait for.
async fn empty(id: &str, context: &Context) -> Result<Option<NodeView>, Failure> {
    let node = context.client.node(id).await?;
    let is_gone = matches!(node.state.as_str(), "down" | "left");
    Ok((is_gone || (node.answered && node.instances == 0)).then_some(node))
}

fn show(node: &NodeView, context: &Context) -> Result<(), Failure> {
    if context.structured(node)? {
        return Ok(());
    }
    let left = match (node.duty, node.answered, node.instances) {
        (Duty::Active, ..) | (_, false, _) => String::new(),
        (_, true, 0) => ", without instances".to_owned(),
        (_, true, 1) => ", with 1 instance".to_owned(),
        (_, true, count) => format!(", with {count} instances"),
    };
    let text = match context.format {
        Format::Name => format!("{}\n", node.name),
        Format::Table | Format::Wide | Format::Json | Format::Yaml => {
            format!("node {} is {}{left}\n", node.name, node.duty)
        }
    };
    context.data(text.as_bytes())
}

//! `maelctl node rm`: removes nodes that are gone.

use crate::cli;
use crate::context::Context;
use crate::exit::Failure;

#[derive(Debug, clap::Args)]
#[command(
    before_help = "Examples:\n  maelctl node rm node2\n",
    after_help = "The node must be down or have left. Its id may not come back: to let the machine join again, start \
                  its maelstromd with an empty data directory."
)]
pub(crate) struct Args {
    /// Which nodes, by name or id
    #[arg(required = true, value_parser = cli::name)]
    names: Vec<String>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    context
        .each(&args.names, async |name| {
            let node = context.client.remove_node(name).await?;
            if !context.structured(&node)? {
                context.data(format!("node {} removed\n", node.name).as_bytes())?;
            }
            Ok(())
        })
        .await
}

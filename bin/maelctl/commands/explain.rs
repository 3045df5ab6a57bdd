//! `maelctl explain`: why something is as it is.

use clap::Subcommand;
use maelstrom::admin::api::PlanView;

use crate::cli::{self, Format};
use crate::context::Context;
use crate::exit::Failure;
use crate::names;
use crate::output::{Sheet, Table};

#[derive(Debug, Subcommand)]
#[command(
    before_help = "Examples:\n  maelctl explain comp hello\n  maelctl explain comp hello -o json\n",
    disable_help_subcommand = true
)]
pub(crate) enum Explain {
    /// Why a component has so many instances, why on these nodes, and why not on others
    #[command(alias = "component")]
    Comp(Args),
}

#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:\n  maelctl explain comp hello\n  maelctl explain comp hello -o json\n")]
pub(crate) struct Args {
    /// Which component
    #[arg(value_parser = cli::name, value_name = "NAME", add = names::components())]
    name: String,
}

pub(crate) async fn run(command: Explain, context: &Context) -> Result<(), Failure> {
    let Explain::Comp(args) = command;
    let plan = context.client.explain(&args.name).await?;
    if context.structured(&plan)? {
        return Ok(());
    }
    if context.format == Format::Name {
        return context.data(format!("{}\n", plan.component).as_bytes());
    }
    context.data(text(&plan, context).as_bytes())
}

fn text(plan: &PlanView, context: &Context) -> String {
    let mut sheet = Sheet::default();
    sheet.fact("component", &plan.component).fact("wanted", format!("{}: {}", plan.wanted, plan.why));
    if plan.unplaced > 0 {
        sheet.fact("without a place", format!("{}: no node can take more", plan.unplaced));
    }
    sheet.fact("counted by", plan.counted_by.clone().unwrap_or_default());
    let mut table = Table::new(&[
        ("NODE", false),
        ("RANK", false),
        ("PLANNED", false),
        ("READY", false),
        ("COMING", false),
        ("EVENTS", false),
        ("WHY", false),
    ]);
    for node in &plan.nodes {
        let refused = node.refused.as_ref().map(|reason| match node.planned {
            0 => format!("none, because it {reason}"),
            _ => format!("no more, because it {reason}"),
        });
        let waits = node.waits_for.as_ref().map(|what| format!("waits for {what}"));
        let why: Vec<String> = refused.into_iter().chain(waits).collect();
        let why = if why.is_empty() && node.planned == 0 { "not needed".to_owned() } else { why.join("; ") };
        table.row([
            node.node.clone(),
            node.rank.to_string(),
            node.planned.to_string(),
            node.ready.to_string(),
            node.coming.to_string(),
            node.events.to_string(),
            why,
        ]);
    }
    format!("{}\n{}", sheet.render(), table.render(context.format == Format::Wide, true, false))
}

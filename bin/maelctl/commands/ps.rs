//! `maelctl ps`: lists instances.

use crate::cli;
use crate::context::Context;
use crate::exit::Failure;
use crate::names;
use crate::output::{Table, age};

#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:\n  maelctl ps\n  maelctl ps hello -o wide\n")]
pub(crate) struct Args {
    /// Only of this component
    #[arg(value_parser = cli::name, value_name = "COMPONENT", add = names::components())]
    component: Option<String>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let list = context.client.instances(args.component.as_deref()).await?;
    let mut table = Table::new(&[
        ("INSTANCE", false),
        ("COMPONENT", true),
        ("STATE", false),
        ("NODE", false),
        ("IN-FLIGHT", false),
        ("SERVED", false),
        ("LAST-USED", false),
        ("ADDRESS", true),
        ("RUNTIME", true),
        ("HANDLE", true),
        ("VERSION", true),
        ("AGE", false),
    ]);
    for instance in &list.items {
        table.row([
            instance.id.clone(),
            instance.component.clone(),
            instance.state.to_string(),
            instance.node.clone(),
            instance.in_flight.to_string(),
            instance.served.to_string(),
            instance.last_used_ms_ago.map(age).unwrap_or_default(),
            instance.address.clone().unwrap_or_default(),
            instance.runtime.clone(),
            instance.handle.clone().unwrap_or_default(),
            instance.version.clone(),
            context.ago(&instance.started_at),
        ]);
    }
    let empty = "no instances; the next event starts one, or `maelctl invoke NAME`";
    context.list(&list, &table, |instance| &instance.id, empty)
}

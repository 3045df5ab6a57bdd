//! `maelctl es show`: one event source in full.

use crate::cli::{self, Format};
use crate::commands::es::ls;
use crate::context::Context;
use crate::exit::Failure;
use crate::names;
use crate::output::Sheet;

#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:\n  maelctl es show web\n  maelctl es show web -o yaml\n")]
pub(crate) struct Args {
    /// Which event source
    #[arg(value_parser = cli::name, add = names::sources())]
    name: String,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let source = context.client.source(&args.name).await?;
    if context.structured(&source)? {
        return Ok(());
    }
    if context.format == Format::Name {
        return context.data(format!("{}\n", source.name).as_bytes());
    }
    let mut sheet = Sheet::default();
    sheet
        .fact("name", &source.name)
        .fact("version", &source.version)
        .fact("updated", format!("{} ago", context.ago(&source.updated_at)))
        .fact("state", ls::state(&source));
    if let Some(at) = &source.next_at {
        let more = source.next.iter().skip(1).map(|at| format!("\n{at}")).collect::<String>();
        sheet.fact("next", format!("{at} (in {}){more}", context.until(at)));
    }
    if let Some(problem) = &source.problem {
        sheet.fact("problem", problem);
    }
    if let Some(conflict) = &source.conflict {
        let others = conflict.others.join(", ");
        sheet.fact("conflict", format!("put elsewhere at the same moment: version {others}; put one of them again"));
    }
    for poller in &source.pollers {
        let mut line = format!(
            "{} read by {} (seat {}): {} in flight of {}, {} received, {} deleted, {} failed",
            poller.queue,
            poller.node,
            poller.seat,
            poller.in_flight,
            poller.allowed,
            poller.received,
            poller.deleted,
            poller.failed,
        );
        let rare = [
            (poller.released, "put back"),
            (poller.buried, "sent to the dead letters"),
            (poller.lease_lost, "lost to others while held"),
        ];
        for (count, what) in rare.into_iter().filter(|(count, _)| *count > 0) {
            line.push_str(&format!(", {count} {what}"));
        }
        if let Some(oldest) = poller.oldest_ms {
            line.push_str(&format!(", the oldest {}s old", oldest / 1000));
        }
        if let Some(backlog) = poller.backlog {
            line.push_str(&format!(", about {backlog} in the queue"));
        }
        line.push_str(&format!("; {} calls", poller.api_calls));
        sheet.fact("queue", line);
    }
    sheet.definition(&source.definition);
    context.data(sheet.render().as_bytes())
}

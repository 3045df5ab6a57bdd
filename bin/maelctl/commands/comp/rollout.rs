//! `maelctl comp rollout`: how far a change is, what was before, and back to it.

use clap::Subcommand;
use maelstrom::admin::api::{RevisionView, RolloutView};

use crate::cli::{self, Format};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::names;
use crate::output::{Sheet, Table, cut};
use crate::wait::For;

/// Characters of a reason in a table that is not wide.
const REASON_MAX: usize = 60;

#[derive(Debug, Subcommand)]
#[command(
    before_help = "Examples:\n  maelctl comp rollout status hello --wait\n  maelctl comp rollout history hello\n  \
                   maelctl comp rollout undo hello\n",
    disable_help_subcommand = true
)]
pub(crate) enum Rollout {
    /// How far a component has come with its newest definition (exit code 1 if it failed)
    Status(Status),
    /// Put the definition before again, or that of a revision
    Undo(Undo),
    /// List the definitions that a component had
    History(History),
}

#[derive(Debug, clap::Args)]
#[command(
    before_help = "Examples:\n  maelctl comp rollout status hello\n  maelctl comp rollout status hello --wait --timeout 2m\n"
)]
pub(crate) struct Status {
    /// Which component
    #[arg(value_parser = cli::name, add = names::components())]
    name: String,
    /// Until it is done, or has failed; each step is told on stderr
    #[arg(long, visible_alias = "watch")]
    wait: bool,
    #[command(flatten)]
    time: For,
}

#[derive(Debug, clap::Args)]
#[command(
    before_help = "Examples:\n  maelctl comp rollout undo hello\n  maelctl comp rollout undo hello --to 3 --wait\n",
    after_help = "The whole definition comes back, with its scale, as a new revision."
)]
pub(crate) struct Undo {
    /// Which component
    #[arg(value_parser = cli::name, add = names::components())]
    name: String,
    /// To this revision [default: the one before]
    #[arg(long, value_name = "REVISION")]
    to: Option<u32>,
    /// Until it is done, or has failed
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    time: For,
}

#[derive(Debug, clap::Args)]
#[command(
    before_help = "Examples:\n  maelctl comp rollout history hello\n  maelctl comp rollout history hello --revision 3\n"
)]
pub(crate) struct History {
    /// Which component
    #[arg(value_parser = cli::name, add = names::components())]
    name: String,
    /// This one in full
    #[arg(long, value_name = "REVISION")]
    revision: Option<u32>,
}

pub(crate) async fn run(command: Rollout, context: &Context) -> Result<(), Failure> {
    match command {
        Rollout::Status(args) => status(&args, context).await,
        Rollout::Undo(args) => undo(&args, context).await,
        Rollout::History(args) => history(&args, context).await,
    }
}

async fn status(args: &Status, context: &Context) -> Result<(), Failure> {
    if args.wait {
        return wait(&args.name, args.time, context).await;
    }
    let view = context.client.rollout(&args.name).await?;
    show(&view, context)?;
    ended(&view)
}

async fn undo(args: &Undo, context: &Context) -> Result<(), Failure> {
    let answer = context.client.undo(&args.name, args.to).await;
    if !args.wait {
        return context.put("component", answer, false);
    }
    context.say(&format!("component {} {}", args.name, answer?.changed));
    wait(&args.name, args.time, context).await
}

/// Waits until a change is done or has failed, and shows how it ended.
pub(super) async fn wait(name: &str, time: For, context: &Context) -> Result<(), Failure> {
    let mut told = String::new();
    let what = format!("component {name} is rolled out");
    let view = time.until(&what, async || {
        let view = context.client.rollout(name).await?;
        let is_over = matches!(view.state.as_str(), "done" | "failed" | "rolled-back");
        if !is_over && view.message != told {
            context.say(&view.message);
            told.clone_from(&view.message);
        }
        Ok(is_over.then_some(view))
    });
    let view = view.await?;
    show(&view, context)?;
    ended(&view)
}

/// A rollout that failed is a failure for scripts.
fn ended(view: &RolloutView) -> Result<(), Failure> {
    match view.state.as_str() {
        "failed" | "rolled-back" => {
            Err(Failure::new(Exit::Failure, format!("component {}: {}", view.name, view.message))
                .hint(format!("maelctl logs {}", view.name)))
        }
        _ => Ok(()),
    }
}

fn show(view: &RolloutView, context: &Context) -> Result<(), Failure> {
    if context.structured(view)? {
        return Ok(());
    }
    if context.format == Format::Name {
        return context.data(format!("{}\n", view.name).as_bytes());
    }
    let mut sheet = Sheet::default();
    sheet
        .fact("name", &view.name)
        .fact("state", &view.state)
        .fact("revision", format!("{} ({}), {} ago", view.revision, view.reason, context.ago(&view.updated_at)))
        .fact("instances", format!("{} ready, {} on their way, {} old", view.ready, view.coming, view.old));
    let nodes: Vec<String> = view
        .nodes
        .iter()
        .map(|node| {
            let problem = node.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
            format!("{}: {} ready, {} on their way, {} old{problem}", node.node, node.ready, node.coming, node.old)
        })
        .collect();
    sheet.fact("nodes", nodes.join("\n"));
    sheet.fact("problem", view.problem.clone().unwrap_or_default());
    context.data(sheet.render().as_bytes())
}

async fn history(args: &History, context: &Context) -> Result<(), Failure> {
    let mut list = context.client.revisions(&args.name).await?;
    if let Some(wanted) = args.revision {
        let kept: Vec<String> = list.items.iter().map(|item| item.revision.to_string()).collect();
        list.items.retain(|item| item.revision == wanted);
        let Some(revision) = list.items.first() else {
            let text = format!("component {} has no revision {wanted}; kept are {}", args.name, kept.join(", "));
            return Err(Failure::new(Exit::NotFound, text));
        };
        return one(revision, context);
    }
    let wide = context.format == Format::Wide;
    let mut table = Table::new(&[
        ("REVISION", false),
        ("STATE", false),
        ("AGE", false),
        ("REASON", false),
        ("VERSION", true),
        ("RUNS", false),
    ]);
    for item in &list.items {
        let reason = if wide { item.reason.clone() } else { cut(&item.reason, REASON_MAX) };
        table.row([
            item.revision.to_string(),
            state(item),
            context.ago(&item.at),
            reason,
            item.version.clone(),
            super::ls::runs(&item.definition),
        ]);
    }
    let names: Vec<String> = list.items.iter().map(|item| item.revision.to_string()).collect();
    if context.format == Format::Name {
        return context.data(format!("{}\n", names.join("\n")).as_bytes());
    }
    context.list(&list, &table, |item| &item.version, "no revisions")
}

fn state(item: &RevisionView) -> String {
    let outcome = item.outcome.clone().unwrap_or_default();
    match (item.in_force, outcome.is_empty()) {
        (true, true) => "in force".to_owned(),
        (true, false) => format!("in force, {outcome}"),
        (false, _) => outcome,
    }
}

fn one(item: &RevisionView, context: &Context) -> Result<(), Failure> {
    if context.structured(item)? {
        return Ok(());
    }
    let mut sheet = Sheet::default();
    sheet
        .fact("revision", item.revision.to_string())
        .fact("state", state(item))
        .fact("put", format!("{} ago", context.ago(&item.at)))
        .fact("reason", &item.reason)
        .fact("problem", item.problem.clone().unwrap_or_default());
    sheet.definition(&item.definition);
    context.data(sheet.render().as_bytes())
}

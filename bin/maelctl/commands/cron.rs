//! `maelctl cron`: when schedules run, how their runs went, and a hand on them.

use clap::Subcommand;
use maelstrom::admin::api::RunView;
use maelstrom::admin::client::sanitized;

use crate::cli::{self, Format};
use crate::commands::es::switch;
use crate::context::Context;
use crate::exit::Failure;
use crate::names;
use crate::output::{Table, cut};

/// Characters of a problem in a table that is not wide.
const PROBLEM_MAX: usize = 60;

#[derive(Debug, Subcommand)]
#[command(
    before_help = "Examples:\n  maelctl cron next nightly\n  maelctl cron history nightly\n  maelctl cron run nightly\n",
    disable_help_subcommand = true
)]
pub(crate) enum Cron {
    /// List the next planned times of a schedule
    Next(Next),
    /// List the last runs of a schedule, the newest first
    History(History),
    /// Have a schedule run now, whatever its times
    Run(Run),
    /// Let schedules rest: what is planned meanwhile is not made up for
    #[command(before_help = "Examples:\n  maelctl cron pause nightly\n")]
    Pause(switch::Args),
    /// Let schedules run again, from now on
    #[command(before_help = "Examples:\n  maelctl cron resume nightly\n")]
    Resume(switch::Args),
}

#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:\n  maelctl cron next nightly\n  maelctl cron next nightly -n 20\n")]
pub(crate) struct Next {
    /// Which schedule
    #[arg(value_parser = cli::name, add = names::sources())]
    name: String,
    /// How many, at most 100
    #[arg(short = 'n', long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    count: u32,
}

#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:\n  maelctl cron history nightly\n  maelctl cron history nightly --show-output\n")]
pub(crate) struct History {
    /// Which schedule
    #[arg(value_parser = cli::name, add = names::sources())]
    name: String,
    /// With the end of what the component answered
    #[arg(long)]
    show_output: bool,
}

#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:\n  maelctl cron run nightly\n")]
pub(crate) struct Run {
    /// Which schedule
    #[arg(value_parser = cli::name, add = names::sources())]
    name: String,
}

pub(crate) async fn run(command: Cron, context: &Context) -> Result<(), Failure> {
    match command {
        Cron::Next(args) => next(&args, context).await,
        Cron::History(args) => history(&args, context).await,
        Cron::Run(args) => ask(&args, context).await,
        Cron::Pause(args) => switch::run(&args, false, context).await,
        Cron::Resume(args) => switch::run(&args, true, context).await,
    }
}

async fn next(args: &Next, context: &Context) -> Result<(), Failure> {
    let view = context.client.next_runs(&args.name, args.count).await?;
    if !view.enabled {
        context.say(&format!("schedule {} rests; `maelctl cron resume {}` lets it run", args.name, args.name));
    }
    if context.structured(&view)? {
        return Ok(());
    }
    if view.times.is_empty() {
        context.say("it never runs again");
    }
    let wide = context.format != Format::Name;
    let shown = |at: &String| if wide { format!("{at}  in {}\n", context.until(at)) } else { format!("{at}\n") };
    context.data(view.times.iter().map(shown).collect::<String>().as_bytes())
}

async fn history(args: &History, context: &Context) -> Result<(), Failure> {
    let list = context.client.runs(&args.name).await?;
    let mut table = Table::new(&[
        ("PLANNED", false),
        ("STATUS", false),
        ("ATTEMPT", false),
        ("CAUSE", false),
        ("STARTED", true),
        ("TOOK", false),
        ("NODE", false),
        ("INSTANCE", true),
        ("HTTP", false),
        ("PROBLEM", false),
    ]);
    let wide = context.format == Format::Wide;
    for run in &list.items {
        let problem = run.problem.clone().unwrap_or_default();
        table.row([
            run.planned_at.clone(),
            run.status.clone(),
            run.attempt.to_string(),
            run.cause.clone(),
            run.started_at.clone().unwrap_or_default(),
            took(run),
            run.node.clone().unwrap_or_default(),
            run.instance.clone().unwrap_or_default(),
            run.http_status.map(|status| status.to_string()).unwrap_or_default(),
            if wide { problem } else { cut(&problem, PROBLEM_MAX) },
        ]);
    }
    context.list(&list, &table, |run| &run.run, "no runs")?;
    if args.show_output && matches!(context.format, Format::Table | Format::Wide) {
        for run in &list.items {
            let Some(output) = &run.output else { continue };
            let lines: String = output.lines().map(|line| format!("{}\n", sanitized(line))).collect();
            context.data(format!("\n{} attempt {}:\n{lines}", run.run, run.attempt).as_bytes())?;
        }
    }
    Ok(())
}

/// From the request to the end, as people write it.
fn took(run: &RunView) -> String {
    let at = |moment: &Option<String>| moment.as_deref().and_then(maelstrom::admin::api::parse_rfc3339);
    match (at(&run.started_at), at(&run.ended_at)) {
        (Some(started), Some(ended)) => {
            let millis = std::time::Duration::from_millis(ended.0.saturating_sub(started.0));
            format!("{:.3}s", millis.as_secs_f64())
        }
        _ => String::new(),
    }
}

async fn ask(args: &Run, context: &Context) -> Result<(), Failure> {
    let run = context.client.ask_run(&args.name).await?;
    if context.structured(&run)? {
        return Ok(());
    }
    let text = if context.format == Format::Name {
        format!("{}\n", run.run)
    } else {
        format!("run {} is begun; `maelctl cron history {}` shows how it goes\n", run.run, args.name)
    };
    context.data(text.as_bytes())
}

//! `maelctl`: asks a node of Maelstrom and prints what it answers.
//!
//! Knows the admin API and nothing of the daemon. Data goes to stdout, everything else to stderr.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

mod cli;
mod commands;
mod context;
mod document;
mod exit;
mod names;
mod output;
mod wait;

use cli::Cli;
use context::Context;
use exit::Exit;

fn main() -> ExitCode {
    match clap_complete::CompleteEnv::with_factory(Cli::command)
        .var(names::VARIABLE)
        .try_complete(std::env::args_os(), std::env::current_dir().ok().as_deref())
    {
        Ok(true) => return Exit::Ok.into(),
        Ok(false) => {}
        Err(error) => error.exit(),
    }
    let cli = Cli::parse();
    let format = cli.global.output;
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return exit::Failure::new(Exit::Failure, format!("cannot start: {error}")).report(format);
        }
    };
    let done = runtime.block_on(async {
        let context = Context::new(&cli.global)?;
        commands::run(cli.command, &context).await
    });
    // A name that is being resolved in the background must not hold up the end.
    runtime.shutdown_background();
    match done {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => failure.report(format),
    }
}

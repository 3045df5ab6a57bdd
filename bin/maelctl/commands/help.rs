//! `maelctl help`: explains a command, or the exit codes.

use clap::CommandFactory as _;

use crate::cli::Cli;
use crate::context::Context;
use crate::exit::{Exit, Failure};

#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:\n  maelctl help comp put\n  maelctl help exit-codes\n")]
pub(crate) struct Args {
    /// A command, or exit-codes
    #[arg(value_name = "TOPIC")]
    topic: Vec<String>,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    if args.topic == ["exit-codes"] {
        let lines: String = Exit::ALL.iter().map(|(exit, meaning)| format!("{}  {meaning}\n", *exit as u8)).collect();
        return context.data(lines.as_bytes());
    }
    let mut command = Cli::command();
    command.build();
    for word in &args.topic {
        let known: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        command = match command.find_subcommand(word) {
            Some(found) => found.clone(),
            None => {
                let near = maelstrom::model::suggest::nearest(word, known.iter().map(String::as_str));
                let failure = Failure::usage(format!("there is no command {word:?} here"));
                return Err(match near {
                    Some(near) => failure.hint(format!("did you mean {near}?")),
                    None => failure.hint(format!("topics are {}, exit-codes", known.join(", "))),
                });
            }
        };
    }
    context.data(command.render_long_help().to_string().as_bytes())
}

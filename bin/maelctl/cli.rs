//! The command line of `maelctl`: what all commands share. Each command's own flags are in its own file.
//!
//! Knows nothing of what the commands do.

use clap::{Args, Parser, ValueEnum};
use maelstrom::admin::client::Target;

use crate::commands::Command;

/// Where a node listens unless told otherwise.
pub(crate) const NODE: &str = "http://127.0.0.1:8374";

const EXAMPLES: &str = "\
Examples:
  maelctl comp put hello --command './hello --fast'
  maelctl es put hello --component hello --http-host hello.example
  maelctl ps
  maelctl logs -f hello
";

const AFTER: &str = "`maelctl help exit-codes` explains what scripts can tell from the exit code.";

/// Asks a node of Maelstrom.
#[derive(Debug, Parser)]
#[command(
    name = "maelctl",
    version,
    before_help = EXAMPLES,
    after_help = AFTER,
    disable_help_subcommand = true,
    max_term_width = 110
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of all commands")]
pub(crate) struct Global {
    /// Which node to ask: http://HOST:PORT or unix:/PATH; of several, separated by commas, the first that accepts
    #[arg(long, global = true, env = "MAEL_NODE", value_name = "URL", default_value = NODE, value_delimiter = ',')]
    pub(crate) node: Vec<Target>,
    /// What the node asks for to let you in
    #[arg(long, global = true, env = "MAEL_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// How to print
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) output: Format,
    /// Tables without their first line
    #[arg(long, global = true)]
    pub(crate) no_headers: bool,
    /// No colours; also if NO_COLOR is set or stdout is no terminal
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people; may change
    #[default]
    Table,
    /// With more columns
    Wide,
    /// For scripts; stays as it is
    Json,
    /// The same in YAML
    Yaml,
    /// Names alone, one a line
    Name,
}

/// Checks a name before anything is asked.
pub(crate) fn name(text: &str) -> Result<String, String> {
    maelstrom::id::check_name(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

/// Reads a duration such as `90s`.
pub(crate) fn duration(text: &str) -> Result<std::time::Duration, String> {
    maelstrom::model::units::parse_duration(text).map_err(|refusal| refusal.to_string())
}

/// Splits `NAME=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("allowed is NAME=VALUE".to_owned()),
    }
}

/// Splits `NAME: VALUE`.
pub(crate) fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err("allowed is 'NAME: VALUE'".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_command_has_examples() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        command.build();
        let mut open = vec![&command];
        while let Some(command) = open.pop() {
            let examples = command.get_before_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.starts_with("Examples:\n"), "{} has no examples", command.get_name());
            open.extend(command.get_subcommands());
        }
    }

    #[test]
    fn pairs_and_headers_are_split_at_the_first_sign() {
        assert_eq!(pair("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(pair("A").is_err() && pair("=a").is_err());
        assert_eq!(header("x: a:b"), Ok(("x".to_owned(), "a:b".to_owned())));
        assert!(header("x").is_err());
    }
}

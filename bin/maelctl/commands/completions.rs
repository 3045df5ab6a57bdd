//! `maelctl completions`: a script for the shell, which then asks maelctl itself, names of the cluster included.

use clap_complete::env::Shells;

use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::names;

const EXAMPLES: &str = "\
Examples:
  echo 'source <(maelctl completions bash)' >> ~/.bashrc
  echo 'source <(maelctl completions zsh)' >> ~/.zshrc
  maelctl completions fish > ~/.config/fish/completions/maelctl.fish
";

#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES)]
pub(crate) struct Args {
    /// Which shell
    #[arg(value_parser = ["bash", "elvish", "fish", "powershell", "zsh"])]
    shell: String,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(Exit::Failure, format!("cannot write the script: {error}"));
    let shells = Shells::builtins();
    let shell = shells.completer(&args.shell).ok_or_else(|| Failure::usage("this shell is not known"))?;
    let mut script = Vec::new();
    shell.write_registration(names::VARIABLE, "maelctl", "maelctl", "maelctl", &mut script).map_err(failed)?;
    context.data(&script)
}

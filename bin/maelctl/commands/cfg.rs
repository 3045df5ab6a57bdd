//! `maelctl cfg`: settings and secrets.
//!
//! Knows which commands there are, and the flag that says whose setting is meant.

use clap::Subcommand;
use maelstrom::id::ComponentName;
use maelstrom::model::cfg::{CfgKey, CfgName};

use crate::cli;
use crate::context::Context;
use crate::exit::Failure;
use crate::names;

mod ls;
mod put;
mod rm;
mod show;

const AFTER: &str = "\
A component gets the settings that its definition names (`comp put --cfg NAME`), and those that are put for it alone
(--component) without further words. Each is a variable of its name, or a file. A change replaces the instances that
use it, without a gap.";

#[derive(Debug, Subcommand)]
#[command(
    before_help = "Examples:\n  maelctl cfg put LOG_LEVEL=debug\n  maelctl cfg put DATABASE_URL --secret --file - --component api\n  maelctl cfg ls\n",
    after_help = AFTER,
    disable_help_subcommand = true
)]
pub(crate) enum Cfg {
    /// Create or replace a setting
    Put(put::Args),
    /// List settings
    #[command(alias = "list")]
    Ls(ls::Args),
    /// Show a setting; of a secret all but its value
    #[command(alias = "get")]
    Show(show::Args),
    /// Remove settings
    #[command(alias = "delete")]
    Rm(rm::Args),
}

pub(crate) async fn run(command: Cfg, context: &Context) -> Result<(), Failure> {
    match command {
        Cfg::Put(args) => put::run(args, context).await,
        Cfg::Ls(args) => ls::run(&args, context).await,
        Cfg::Show(args) => show::run(args, context).await,
        Cfg::Rm(args) => rm::run(&args, context).await,
    }
}

/// Whose setting is meant.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Whose {
    /// The one of this component alone, which hides the one for all
    #[arg(short, long, value_name = "COMPONENT", value_parser = component, add = names::components())]
    component: Option<ComponentName>,
}

impl Whose {
    fn key(&self, name: &CfgName) -> CfgKey {
        CfgKey { component: self.component.clone(), name: name.clone() }
    }
}

fn component(text: &str) -> Result<ComponentName, String> {
    cli::name(text).and_then(|name| name.parse().map_err(|error: maelstrom::id::NameError| error.to_string()))
}

fn name(text: &str) -> Result<CfgName, String> {
    text.parse().map_err(|refusal: maelstrom::model::Refusal| refusal.to_string())
}

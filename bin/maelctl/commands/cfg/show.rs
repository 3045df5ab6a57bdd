//! `maelctl cfg show`: one setting in full; of a secret everything but the value.

use maelstrom::model::cfg::CfgName;

use super::{Whose, ls, name};
use crate::cli::Format;
use crate::context::Context;
use crate::exit::Failure;
use crate::names;
use crate::output::Sheet;

#[derive(Debug, clap::Args)]
#[command(
    before_help = "Examples:\n  maelctl cfg show LOG_LEVEL\n  maelctl cfg show LOG_LEVEL --component api -o json\n"
)]
pub(crate) struct Args {
    /// Which setting
    #[arg(value_parser = name, add = names::settings())]
    name: CfgName,
    #[command(flatten)]
    whose: Whose,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let setting = context.client.setting(&args.whose.key(&args.name)).await?;
    if context.structured(&setting)? {
        return Ok(());
    }
    if context.format == Format::Name {
        return context.data(format!("{}\n", setting.name).as_bytes());
    }
    let mut sheet = Sheet::default();
    sheet
        .fact("name", &setting.name)
        .fact("component", setting.component.as_deref().unwrap_or("(for all)"))
        .fact("version", &setting.version)
        .fact("updated", format!("{} ago", context.ago(&setting.updated_at)))
        .fact("users", setting.users.join(", "));
    if let Some(conflict) = &setting.conflict {
        let others = conflict.others.join("\n");
        sheet.fact(
            "conflict",
            format!("also at the same moment: what is below is in effect, a put settles it\n{others}"),
        );
    }
    sheet.fact("value", ls::value(&setting));
    context.data(sheet.render().as_bytes())
}

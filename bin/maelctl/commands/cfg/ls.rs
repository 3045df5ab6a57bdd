//! `maelctl cfg ls`: lists settings.

use maelstrom::admin::api::CfgView;

use super::Whose;
use crate::cli::Format;
use crate::context::Context;
use crate::exit::Failure;
use crate::output::{Table, bytes, cut};

/// Characters of a value in a table that is not wide.
const VALUE_WIDTH: usize = 40;

#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:\n  maelctl cfg ls\n  maelctl cfg ls --component api -o name\n")]
pub(crate) struct Args {
    #[command(flatten)]
    whose: Whose,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let mut list = context.client.settings().await?;
    if let Some(component) = &args.whose.component {
        list.items.retain(|setting| setting.component.as_deref() == Some(component.as_str()));
    }
    let wide = context.format == Format::Wide;
    let mut table = Table::new(&[
        ("NAME", false),
        ("COMPONENT", false),
        ("VALUE", false),
        ("USERS", false),
        ("STATE", false),
        ("VERSION", true),
        ("AGE", false),
    ]);
    for setting in &list.items {
        let value = value(setting);
        table.row([
            setting.name.clone(),
            setting.component.clone().unwrap_or_default(),
            if wide { value } else { cut(value.lines().next().unwrap_or_default(), VALUE_WIDTH) },
            setting.users.join(", "),
            if setting.conflict.is_some() { "conflict" } else { "ok" }.to_owned(),
            setting.version.clone(),
            context.ago(&setting.updated_at),
        ]);
    }
    let empty = "no settings; `maelctl cfg put NAME=VALUE` creates one";
    context.list(&list, &table, |setting| &setting.name, empty)
}

/// The value, or why it is not shown.
pub(super) fn value(setting: &CfgView) -> String {
    match (&setting.value, setting.size) {
        (Some(value), _) => value.clone(),
        (None, Some(size)) => format!("({} of bytes)", bytes(size)),
        (None, None) => "(secret)".to_owned(),
    }
}

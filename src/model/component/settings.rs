//! The settings that a component uses: short and long form, and that no two want the same place.
//!
//! Knows nothing of values, nor of which settings there are.

use std::collections::BTreeSet;

use crate::model::cfg::{CfgName, CfgUse, Delivery, check_path, check_target};
use crate::model::component::{Component, Workload};
use crate::model::reader::{Errors, Field};

/// Fields of the long form of one use.
pub(super) const CFG: &[&str] = &["name", "env", "file"];

const FORM: &str = "a list of NAME, NAME=VARIABLE, NAME=/path or NAME=./file, or of objects with name, env, file";

/// Reads the list.
pub(super) fn read(field: &Field<'_>, e: &mut Errors) -> Vec<CfgUse> {
    let items = field.items(FORM, e);
    items.iter().filter_map(|item| if item.is_object() { long(item, e) } else { item.parsed(e, str::parse) }).collect()
}

fn long(item: &Field<'_>, e: &mut Errors) -> Option<CfgUse> {
    let object = item.object(CFG, e)?;
    let (name, env, file) = (object.get("name"), object.get("env"), object.get("file"));
    if !name.is_given() {
        name.refuse(e, "is missing", "the name of a setting");
    }
    let name: Option<CfgName> = name.parsed(e, str::parse);
    let (variable, path) = (env.parsed(e, check_target), file.parsed(e, check_path));
    let name = name?;
    let to = match path {
        Some(path) => Delivery::File { path, variable },
        None => Delivery::Variable(variable.unwrap_or_else(|| name.to_string())),
    };
    Some(CfgUse { name, to })
}

/// Notes what cannot be together: two things in one place, and a path of its own for a program.
pub(super) fn check(field: &Field<'_>, component: &Component, e: &mut Errors) {
    let is_program = matches!(component.workload, Workload::Command(_));
    let mut variables: BTreeSet<&str> = component.env.keys().map(String::as_str).collect();
    let mut paths: BTreeSet<&str> = component.volumes.iter().map(|volume| volume.target.as_str()).collect();
    for one in &component.cfg {
        if let Some(variable) = one.to.variable()
            && !variables.insert(variable)
        {
            field.refuse(e, format!("sets the variable {variable} a second time"), "each variable once, env included");
        }
        let Delivery::File { path, .. } = &one.to else { continue };
        if !paths.insert(path) {
            field.refuse(e, format!("has a second thing at {path}"), "one setting or volume for each path");
        }
        if is_program && path.starts_with('/') {
            let name = path.rsplit('/').next().unwrap_or_default();
            let problem = format!("asks for a file at {path}, and a program sees the files of the node");
            let allowed = format!(
                "file: {name}, which is then in the directory that the variable MAELSTROM_CFG names; env names a \
                 variable that holds its path"
            );
            field.refuse(e, problem, allowed);
        }
    }
}

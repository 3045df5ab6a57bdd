//! The revisions of components as rows of the registry: read, and written together with the definition that replaces
//! another. `rollout::revisions` says what is kept.

use serde_json::Value;

use super::catalog::{Definitions, ROW_FORMAT};
use super::registrar::EditError;
use crate::crdt::row::ROW_MAX;
use crate::crdt::{Expect, Key, Kind, Register, Row, Write};
use crate::id::ComponentName;
use crate::model::Component;
use crate::rollout::{Outcome, Revision, Revisions, Why};
use crate::time::Wall;

/// The revisions that a register holds: of all copies that were written at the same moment.
pub(crate) fn read(register: &Register) -> Revisions {
    let rows = register.siblings().iter().filter_map(|sibling| sibling.row.as_ref());
    let copies = rows.filter(|row| row.format == ROW_FORMAT).filter_map(|row| Revisions::parse(&row.bytes));
    Revisions::merge(copies)
}

fn row(revisions: &Revisions) -> Row {
    Row { format: ROW_FORMAT, bytes: revisions.encode(ROW_MAX).into() }
}

fn key(name: &ComponentName) -> Result<Key, EditError> {
    Key::new(Kind::REVISIONS, name.as_str()).map_err(|error| EditError::Refused(error.to_string()))
}

fn write(name: &ComponentName, revisions: &Revisions) -> Result<Write, EditError> {
    Ok(Write { key: key(name)?, row: Some(row(revisions)), expect: Expect::Any })
}

/// What is written with a definition that replaces the one in force; nothing if instances stay what they are, or if
/// there is none: the first definition is in its own row alone. A rollback notes the failure as well.
pub(crate) fn replaced(
    definitions: &Definitions,
    new: &Component,
    why: Why,
    now: Wall,
) -> Result<Option<Write>, EditError> {
    let Some(current) = definitions.component(&new.name) else { return Ok(None) };
    let (before, after) = (definitions.fingerprint(&current.value), definitions.fingerprint(new));
    if before == after {
        return Ok(None);
    }
    let Some(mut revisions) = definitions.revisions(&new.name) else { return Ok(None) };
    if let Why::Rollback { of, problem, .. } = &why {
        revisions.mark(*of, Outcome::Failed { problem: problem.clone() });
    }
    revisions.push((&before, &current.value.to_doc()), after, now, why, new.to_doc());
    write(&new.name, &revisions).map(Some)
}

/// What is written with the removal of a component.
pub(crate) fn removed(name: &ComponentName) -> Result<Write, EditError> {
    Ok(Write { key: key(name)?, row: None, expect: Expect::Any })
}

/// What became of a revision; nothing if that is known.
pub(crate) fn marked(
    definitions: &Definitions,
    name: &ComponentName,
    number: u32,
    outcome: Outcome,
) -> Result<Option<Write>, EditError> {
    let revisions = definitions.revisions(name);
    let marked = revisions.and_then(|mut revisions| revisions.mark(number, outcome).then_some(revisions));
    marked.map(|revisions| write(name, &revisions)).transpose()
}

/// The revision in force.
pub(crate) fn in_force(definitions: &Definitions, name: &ComponentName) -> Option<Revision> {
    let fingerprint = definitions.fingerprint(&definitions.component(name)?.value);
    definitions.revisions(name)?.newest_of(&fingerprint).cloned()
}

/// The document to go back to, and its revision: that of a number, or the one before.
pub(crate) fn earlier(
    definitions: &Definitions,
    name: &ComponentName,
    to: Option<u32>,
) -> Result<(u32, Value), EditError> {
    let nothing = |problem: String| EditError::NoRevision { name: name.clone(), problem };
    let (revisions, now) = match (definitions.revisions(name), in_force(definitions, name)) {
        (Some(revisions), Some(now)) => (revisions, now),
        _ => return Err(nothing("has no revision that this node can read".to_owned())),
    };
    let found = match to {
        None => revisions.before(now.number),
        Some(number) => revisions.get(number),
    };
    let Some(found) = found else {
        let kept: Vec<String> = revisions.iter().map(|revision| revision.number.to_string()).collect();
        return Err(nothing(match to {
            None => format!("has no revision before {}, which is in force", now.number),
            Some(number) => format!("has no revision {number}; kept are {}", kept.join(", ")),
        }));
    };
    let doc = found.doc.clone().or_else(|| Some(definitions.component(name)?.value.to_doc()));
    doc.map(|doc| (found.number, doc)).ok_or_else(|| nothing(format!("has revision {} no more", found.number)))
}

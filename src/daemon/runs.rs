//! The runs of schedules as rows of the registry, and what this node granted of those that must not fire twice as notes of
//! its store. `schedule` says what they mean.

use serde::{Deserialize, Serialize};

use super::catalog::{Definitions, ROW_FORMAT};
use super::registrar::EditError;
use crate::crdt::{Expect, Key, Kind, Register, Row, Write};
use crate::id::SourceName;
use crate::model::Source;
use crate::model::source::{Cron, Trigger};
use crate::schedule::{Ledger, claim};
use crate::store::{Store, StoreError};
use crate::time::Wall;

/// A change of what is known of the runs of a schedule.
pub(crate) struct Act(pub(crate) Box<dyn FnOnce(&mut Ledger) + Send>);

impl std::fmt::Debug for Act {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Act")
    }
}

/// A planned time that must not be fired twice.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) source: SourceName,
    pub(crate) is_manual: bool,
    pub(crate) planned: Wall,
}

/// What a register holds: all copies that were written at the same moment.
pub(crate) fn read(register: &Register) -> Ledger {
    let rows = register.siblings().iter().filter_map(|sibling| sibling.row.as_ref());
    Ledger::merge(rows.filter(|row| row.format == ROW_FORMAT).filter_map(|row| Ledger::parse(&row.bytes)))
}

fn write(name: &SourceName, ledger: Option<&Ledger>) -> Result<Write, EditError> {
    let key = Key::new(Kind::RUNS, name.as_str()).map_err(|error| EditError::Refused(error.to_string()))?;
    let row = ledger.map(|ledger| Row { format: ROW_FORMAT, bytes: ledger.encode().into() });
    Ok(Write { key, row, expect: Expect::Any })
}

/// What is written with a schedule that is new, or on again, or plans other times than before: nothing of the past is
/// made up for.
pub(crate) fn begun(definitions: &Definitions, new: &Source, now: Wall) -> Result<Option<Write>, EditError> {
    let Trigger::Cron(cron) = &new.trigger else {
        return removed(definitions, &new.name);
    };
    let times = |cron: &Cron| (cron.expression.clone(), cron.timezone.clone(), cron.gap, cron.repeat, cron.jitter);
    let is_as_before = definitions.sources.get(&new.name).is_some_and(|old| {
        let Trigger::Cron(old_cron) = &old.value.trigger else { return false };
        (old.value.enabled || !new.enabled) && times(old_cron) == times(cron)
    });
    if is_as_before {
        return Ok(None);
    }
    let mut ledger = definitions.ledger(&new.name).unwrap_or_default();
    ledger.since = ledger.since.max(now);
    write(&new.name, Some(&ledger)).map(Some)
}

/// What is written when something happened; nothing if that changes nothing.
pub(crate) fn acted(
    definitions: &Definitions,
    name: &SourceName,
    act: Act,
    now: Wall,
) -> Result<Option<Write>, EditError> {
    let before = definitions.ledger(name);
    // A release that knew no runs may have put the schedule.
    let mut ledger = before.clone().unwrap_or_else(|| Ledger::begun(now));
    act.0(&mut ledger);
    if before.as_ref() == Some(&ledger) {
        return Ok(None);
    }
    write(name, Some(&ledger)).map(Some)
}

/// What is written with the removal of a schedule.
pub(crate) fn removed(definitions: &Definitions, name: &SourceName) -> Result<Option<Write>, EditError> {
    definitions.ledger(name).is_some().then(|| write(name, None)).transpose()
}

/// Whether this node knows the schedule, and the planned time is one that it may have.
pub(crate) fn is_claimable(definitions: &Definitions, claim: &Claim) -> bool {
    definitions.sources.contains_key(&claim.source)
        && definitions.ledger(&claim.source).is_some_and(|ledger| claim.planned > ledger.since)
}

/// The note of the latest planned time that was granted.
fn note(source: &SourceName, is_manual: bool) -> String {
    format!("{}/{source}", if is_manual { "granted-by-hand" } else { "granted" })
}

/// Grants a planned time unless it or a later one was granted before; durable when this returns.
pub(crate) fn grant(store: &mut Store, claim: &Claim) -> Result<bool, StoreError> {
    let name = note(&claim.source, claim.is_manual);
    let granted = store.note(&name)?.map(|bytes| {
        // What this release did not write is later than all.
        bytes.try_into().map_or(Wall(u64::MAX), |bytes| Wall(u64::from_be_bytes(bytes)))
    });
    let may = claim::may_grant(granted, claim.planned);
    if may {
        store.set_note(&name, Some(&claim.planned.0.to_be_bytes()))?;
    }
    Ok(may)
}

/// Forgets what was granted of a schedule that is removed. One of the same name that is put later begins later.
pub(crate) fn forget(store: &mut Store, source: &SourceName) -> Result<(), StoreError> {
    for name in [false, true].map(|is_manual| note(source, is_manual)) {
        if store.note(&name)?.is_some() {
            store.set_note(&name, None)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planned_time_is_granted_once_in_all_lives_of_a_node() {
        let dir = tempfile::tempdir().expect("a directory");
        let claim = |planned: u64, is_manual: bool| Claim {
            source: "s".parse().expect("a name"),
            is_manual,
            planned: Wall(planned),
        };
        let (mut store, _) = Store::open(dir.path(), 1).expect("a store");
        assert!(grant(&mut store, &claim(5, false)).expect("durable"));
        assert!(grant(&mut store, &claim(5, true)).expect("durable"), "a run by hand is another one");
        drop(store);
        let (mut store, _) = Store::open(dir.path(), 2).expect("a store");
        for (planned, granted) in [(5, false), (4, false), (6, true), (6, false), (5, false)] {
            assert_eq!(grant(&mut store, &claim(planned, false)).expect("durable"), granted, "{planned}");
        }
        forget(&mut store, &claim(0, false).source).expect("durable");
        assert!(grant(&mut store, &claim(1, false)).expect("durable"));
    }
}

//! What people changed, as entries of the timeline: written by the one node that made the change.
//!
//! Decides nothing, and says nothing of values.

use super::super::board::Board;
use super::super::catalog::Catalog;
use super::super::history;
use super::super::registrar::{Edit, Edited};
use crate::id::{ComponentName, NodeId};
use crate::model::cfg::CfgKey;
use crate::model::duty::Duty;
use crate::model::happening::What;
use crate::rollout::Outcome;
use crate::timeline::Subject;

/// What is to be written down when a change was made.
pub(crate) struct Noted {
    what: What,
    subject: Subject,
    component: Option<ComponentName>,
    text: Text,
    /// What instances of the component were made of before.
    before: Option<String>,
}

enum Text {
    /// What becomes of it says how.
    Put,
    Is(String),
    Removed,
    Setting(CfgKey),
}

impl Noted {
    /// None of what is not told: a run of a schedule is in its history.
    pub(crate) fn of(edit: &Edit, catalog: &Catalog, board: &Board) -> Option<Self> {
        let node = |node: NodeId| {
            let name = board.read().facts.get(&node).map(|facts| facts.name.clone());
            Subject::Node(name.unwrap_or_else(|| node.to_string()))
        };
        let component = |name: &ComponentName| Subject::Component(name.to_string());
        let own = |name: &ComponentName| Some(name.clone());
        let of_source = |name| catalog.read().sources.get(name).map(|source| source.value.component.clone());
        let (what, subject, component, text) = match edit {
            Edit::PutComponent { name, .. } => (What::Put, component(name), own(name), Text::Put),
            Edit::UndoComponent { name, to } => {
                let to = to.map_or_else(|| "the revision before".to_owned(), |to| format!("revision {to}"));
                (What::Put, component(name), own(name), Text::Is(format!("undone to {to}")))
            }
            Edit::Judge { name, number, outcome, back_to } => {
                let (what, text) = judged(*number, outcome, *back_to);
                (what, component(name), own(name), Text::Is(text))
            }
            Edit::RemoveComponent { name, .. } => (What::Removed, component(name), own(name), Text::Removed),
            Edit::PutSource { name, doc, .. } => {
                let of = doc.get("component").and_then(|of| of.as_str()?.parse().ok());
                (What::Put, Subject::Source(name.to_string()), of, Text::Put)
            }
            Edit::EnableSource { name, enabled } => {
                let (what, text) = match enabled {
                    true => (What::Enabled, "switched on"),
                    false => (What::Disabled, "switched off"),
                };
                (what, Subject::Source(name.to_string()), of_source(name), Text::Is(text.to_owned()))
            }
            Edit::RemoveSource { name, .. } => {
                (What::Removed, Subject::Source(name.to_string()), of_source(name), Text::Removed)
            }
            Edit::PutSetting { key, .. } => {
                let subject = Subject::Setting(key.name.to_string());
                (What::Put, subject, key.component.clone(), Text::Setting(key.clone()))
            }
            Edit::RemoveSetting { key, .. } => {
                (What::Removed, Subject::Setting(key.name.to_string()), key.component.clone(), Text::Removed)
            }
            Edit::Runs { .. } => return None,
            Edit::RemoveNode { node: id } => {
                (What::Removed, node(*id), None, Text::Is("it may not come back under its id".to_owned()))
            }
            Edit::SetDuty { node: id, duty } => {
                let (what, text) = match duty {
                    Duty::Draining => (What::Drain, "it is to give away what it has"),
                    Duty::Cordoned => (What::Cordon, "it is to be given nothing new"),
                    Duty::Active => (What::Uncordon, "it is to work as before"),
                };
                (what, node(*id), None, Text::Is(text.to_owned()))
            }
        };
        let before = component.as_ref().and_then(|name| fingerprint(catalog, name));
        Some(Self { what, subject, component, text, before })
    }

    /// Writes down what was done, if it was anything.
    pub(crate) fn write(self, edited: &Edited, catalog: &Catalog, board: &Board) {
        if !edited.changed {
            return;
        }
        let Self { what, subject, component, text, before } = self;
        let is_definition = matches!(subject, Subject::Component(_));
        let text = match text {
            Text::Is(text) => text,
            Text::Put if edited.created => "created".to_owned(),
            Text::Put => "changed".to_owned(),
            Text::Removed => removed(edited),
            Text::Setting(key) => {
                let verb = if edited.created { "created" } else { "changed" };
                let definitions = catalog.read();
                let users: Vec<&str> = definitions.settings.users(&key).map(ComponentName::as_str).collect();
                let used = if users.is_empty() { "used by nobody".to_owned() } else { users.join(", ") };
                format!("{verb}, for {}: {used}", key.component.as_ref().map_or("all", ComponentName::as_str))
            }
        };
        board.note(what, subject, component.as_ref(), &text);
        let Some((name, before)) = component.filter(|_| is_definition && what == What::Put).zip(before) else { return };
        if fingerprint(catalog, &name).is_some_and(|now| now != before) {
            let revision = history::in_force(&catalog.read(), &name).map_or(0, |revision| revision.number);
            let text = format!("revision {revision} is in force, and replaces what runs");
            board.note(What::Rollout, Subject::Component(name.to_string()), Some(&name), &text);
        }
    }
}

fn fingerprint(catalog: &Catalog, name: &ComponentName) -> Option<String> {
    let definitions = catalog.read();
    let entry = definitions.component(name)?;
    Some(definitions.fingerprint(&entry.value))
}

fn judged(number: u32, outcome: &Outcome, back_to: Option<u32>) -> (What, String) {
    match (outcome, back_to) {
        (Outcome::Healthy, _) => (What::RolledOut, format!("revision {number} works")),
        (Outcome::Failed { problem }, Some(to)) => {
            (What::RolledBack, format!("revision {number} failed and revision {to} is in force again: {problem}"))
        }
        (Outcome::Failed { problem }, None) => (What::RolloutFailed, format!("revision {number} failed: {problem}")),
    }
}

fn removed(edited: &Edited) -> String {
    let sources = edited.sources.iter().map(|source| format!("source {source}"));
    let settings = edited.settings.iter().map(|setting| format!("setting {setting}"));
    match sources.chain(settings).collect::<Vec<_>>() {
        with if with.is_empty() => "removed".to_owned(),
        with => format!("removed, with {}", with.join(", ")),
    }
}

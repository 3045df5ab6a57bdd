//! From an untrusted document to an event source: every field once, every error of the document at once. What the
//! triggers have in common is here as well.
//!
//! Knows nothing of where the document came from, nor whether the component exists.

use std::time::Duration;

use serde_json::Value;

use crate::id::{ComponentName, NameError, SourceName};
use crate::model::component::defaults as component;
use crate::model::invalid::{Invalid, Refusal};
use crate::model::reader::{Errors, Field, Object};
use crate::model::source::{Source, Trigger};
use crate::model::{address, check_size};

/// The fields of the document besides those that name a trigger.
pub(super) const COMMON: [&str; 2] = ["component", "enabled"];

impl Source {
    /// Reads a definition.
    ///
    /// # Errors
    /// All errors of the document, in the order of its fields.
    pub fn parse(name: &SourceName, doc: &Value) -> Result<Self, Invalid> {
        let mut errors = Errors::default();
        let top = Field::document(doc).object(Trigger::TOP, &mut errors);
        let parsed = top.and_then(|top| read(name, &top, &mut errors));
        if let Some(source) = &parsed {
            check_size(&source.to_doc(), &mut errors);
        }
        errors.finish(parsed)
    }
}

fn read(name: &SourceName, top: &Object<'_>, e: &mut Errors) -> Option<Source> {
    let component = required(top, "component", "the name of a component", e).parsed(e, |text| {
        text.parse::<ComponentName>().map_err(|error: NameError| {
            Refusal::new("is not a name", format!("[a-z0-9][a-z0-9_-]*, at most 60 bytes; it {error}"))
        })
    });
    let enabled = top.get("enabled").flag(e).unwrap_or(true);
    let given: Vec<&str> = Trigger::NAMES.iter().copied().filter(|name| top.get(name).is_given()).collect();
    if given.len() != 1 {
        let problem = match given[..] {
            [] => format!("names no {}", listed("or")),
            _ => format!("names {} at once", given.join(" and ")),
        };
        e.add("document", String::new(), Refusal::new(problem, format!("exactly one of {}", listed("and"))));
    }
    let trigger = Trigger::read(top, e);
    Some(Source { name: name.clone(), component: component?, enabled, trigger: trigger? })
}

/// All kinds in a sentence.
fn listed(word: &str) -> String {
    match Trigger::NAMES.split_last() {
        Some((last, rest)) => format!("{} {word} {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// A field that must be there.
pub(super) fn required<'a>(object: &Object<'a>, name: &str, form: &str, e: &mut Errors) -> Field<'a> {
    let field = object.get(name);
    if !field.is_given() {
        field.refuse(e, "is missing", form);
    }
    field
}

/// The path of a request that the source makes.
pub(super) fn target(object: &Object<'_>, e: &mut Errors) -> Option<String> {
    let field = required(object, "path", "the path of the request, such as /tasks/clean", e);
    field.parsed(e, |text| address::check_target(text).map(|()| text.to_owned()))
}

/// How long an answer is waited for.
pub(super) fn timeout(object: &Object<'_>, e: &mut Errors) -> Option<Duration> {
    object.get("timeout").duration(component::TIMEOUT_MIN..=component::TIMEOUT_MAX, e)
}

//! The document of a definition: read from a file, then changed by flags, which win.
//!
//! Knows the shape that the API takes and leaves all checks of values to it.

use std::io::Read as _;
use std::path::Path;

use clap::Args;
use maelstrom::admin::api::{BODY_MAX, Expect};
use serde_json::{Map, Value};

use crate::exit::{Exit, Failure};

/// Fields that may be written as one value, and which of their parts that value is.
const SHORT: &[(&str, &str)] = &[
    ("image", "reference"),
    ("memory", "reserve"),
    ("concurrency", "limit"),
    ("idle", "stop"),
    ("health", "path"),
    ("rollout", "order"),
];

/// Flags of every `put`.
#[derive(Debug, Args)]
pub(crate) struct PutFlags {
    /// Definition in JSON or YAML; `-` is stdin. Flags change what it says
    #[arg(short, long, value_name = "FILE")]
    file: Option<String>,
    /// Only if it has this version now (else exit code 6)
    #[arg(long, value_name = "VERSION", conflicts_with = "if_absent")]
    if_version: Option<String>,
    /// Only if it does not exist yet (else exit code 6)
    #[arg(long)]
    if_absent: bool,
    /// Check and say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl PutFlags {
    pub(crate) fn document(&self) -> Result<Document, Failure> {
        self.file.as_deref().map_or_else(|| Ok(Document::default()), Document::read)
    }

    pub(crate) fn reads_stdin(&self) -> bool {
        self.file.as_deref() == Some("-")
    }

    pub(crate) fn expect(&self) -> Expect {
        match &self.if_version {
            Some(version) => Expect::Version(version.clone()),
            None if self.if_absent => Expect::Absent,
            None => Expect::Any,
        }
    }
}

/// A definition in the making.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Document(Map<String, Value>);

impl Document {
    /// Reads a file.
    pub(crate) fn read(path: &str) -> Result<Self, Failure> {
        let shown = if path == "-" { "stdin" } else { path };
        let failed = |error: std::io::Error| Failure::new(Exit::Failure, format!("cannot read {shown}: {error}"));
        let limit = BODY_MAX as u64 + 1;
        let mut text = Vec::new();
        if path == "-" {
            std::io::stdin().lock().take(limit).read_to_end(&mut text).map_err(failed)?;
        } else {
            std::fs::File::open(path).map_err(failed)?.take(limit).read_to_end(&mut text).map_err(failed)?;
        }
        if text.len() > BODY_MAX {
            return Err(Failure::new(Exit::Failure, format!("{shown} is larger than {BODY_MAX} bytes")));
        }
        let text = String::from_utf8(text).map_err(|_| Failure::new(Exit::Failure, format!("{shown} is not UTF-8")))?;
        Self::parse(shown, &text)
    }

    /// Reads JSON if the name or the first character says so, else YAML.
    fn parse(name: &str, text: &str) -> Result<Self, Failure> {
        let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
        let json = match extension {
            Some("json") => true,
            Some("yml" | "yaml") => false,
            _ => text.trim_start().starts_with('{'),
        };
        let wrong =
            |line: u64, column: u64, what: &str| Failure::new(Exit::Failure, format!("{name}:{line}:{column}: {what}"));
        let value: Value = if json {
            serde_json::from_str(text).map_err(|error| {
                let what = error.to_string();
                let what = what.split(" at line ").next().unwrap_or_default();
                wrong(error.line() as u64, error.column() as u64, what)
            })?
        } else {
            serde_saphyr::from_str(text).map_err(|error| {
                let error = error.without_snippet();
                let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
                wrong(line, column, &first_line(&error.to_string()))
            })?
        };
        match value {
            Value::Object(object) => Ok(Self(object)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err(wrong(1, 1, "this is no definition; allowed is an object such as {\"image\": \"nginx:1\"}"))
            }
        }
    }

    /// Sets a field of the document, or `field.part`, if there is a value.
    pub(crate) fn set<T: Into<Value>>(&mut self, path: &str, value: Option<T>) {
        let Some(value) = value else { return };
        match path.split_once('.') {
            None => drop(self.0.insert(path.to_owned(), value.into())),
            Some((field, part)) => drop(self.object(field).insert(part.to_owned(), value.into())),
        }
    }

    /// Removes a field, or `field.part` where the field is an object.
    pub(crate) fn remove(&mut self, path: &str) {
        match path.split_once('.') {
            None => drop(self.0.remove(path)),
            Some((field, part)) => {
                if let Some(object) = self.0.get_mut(field).and_then(Value::as_object_mut) {
                    object.remove(part);
                }
            }
        }
    }

    /// Adds pairs to a field; of equal names the new one stays.
    pub(crate) fn pairs(&mut self, path: &str, pairs: Vec<(String, String)>) {
        if pairs.is_empty() {
            return;
        }
        let object = match path.split_once('.') {
            None => self.object(path),
            Some((field, part)) => as_object(self.object(field).entry(part).or_insert(Value::Null), None),
        };
        object.extend(pairs.into_iter().map(|(name, value)| (name, Value::String(value))));
    }

    /// Whether the field is there.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.0.get(field).is_some_and(|value| !value.is_null())
    }

    /// Whether nothing is there.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    /// A field as an object, made one if it is something else.
    fn object(&mut self, field: &str) -> &mut Map<String, Value> {
        let part = SHORT.iter().find(|(short, _)| *short == field).map(|(_, part)| *part);
        as_object(self.0.entry(field).or_insert(Value::Null), part)
    }
}

/// Makes an object of a list of `NAME=VALUE`, or of a value that stands for `part`.
fn as_object<'a>(value: &'a mut Value, part: Option<&str>) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        let mut object = Map::new();
        match (value.take(), part) {
            (Value::Array(items), _) => {
                for item in items {
                    if let Some((name, value)) = item.as_str().and_then(|text| text.split_once('=')) {
                        object.insert(name.to_owned(), value.into());
                    }
                }
            }
            (Value::Null, _) | (_, None) => {}
            (scalar, Some(part)) => drop(object.insert(part.to_owned(), scalar)),
        }
        *value = Value::Object(object);
    }
    match value {
        Value::Object(object) => object,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            unreachable!("made an object above")
        }
    }
}

/// The first line without the place that some errors add at its end.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.split(" at line ").next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(name: &str, text: &str) -> Result<Value, String> {
        Document::parse(name, text).map(Document::into_value).map_err(|failure| format!("{failure:?}"))
    }

    #[test]
    fn json_and_yaml_give_the_same_document() {
        let wanted = json!({"image": "nginx:1", "env": {"A": "1"}, "port": 80});
        assert_eq!(
            document("stdin", " {\"image\": \"nginx:1\", \"env\": {\"A\": \"1\"}, \"port\": 80}"),
            Ok(wanted.clone())
        );
        assert_eq!(document("a.yml", "image: nginx:1\nenv:\n  A: \"1\"\nport: 80\n"), Ok(wanted));
    }

    #[test]
    fn a_broken_file_is_refused_with_line_and_column() {
        for (name, text, place) in [
            ("a.json", "{\n  \"image\": }", "a.json:2:12: "),
            ("a.yml", "image: a\n b: c\n", "a.yml:2:"),
            ("a.yml", "image: a\nimage: b\n", "a.yml:2:1: "),
            ("a.yml", "- 1\n", "a.yml:1:1: this is no definition"),
        ] {
            let error = document(name, text).expect_err(text);
            assert!(error.contains(place), "{text:?}: {error}");
        }
    }

    #[test]
    fn flags_change_single_parts_of_what_the_file_says() {
        let mut document =
            Document::parse("a.yml", "memory: 64MiB\nenv: [A=1, B=2]\nidle:\n  freeze: 1s\n").expect("a document");
        document.set("memory.limit", Some("128MiB"));
        document.set("idle.stop", Some("5m"));
        document.set("cpu", None::<String>);
        document.pairs("env", vec![("B".into(), "3".into())]);
        document.pairs("log.options", vec![("max-size".into(), "1m".into())]);
        assert_eq!(
            document.into_value(),
            json!({
                "memory": {"reserve": "64MiB", "limit": "128MiB"},
                "env": {"A": "1", "B": "3"},
                "idle": {"freeze": "1s", "stop": "5m"},
                "log": {"options": {"max-size": "1m"}},
            })
        );
    }
}

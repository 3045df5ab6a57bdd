//! One thing in full: a line for each fact, then its definition.
//!
//! Knows nothing of what is shown.

use maelstrom::admin::client::sanitized;
use serde_json::Value;

/// Facts with their labels, in the order in which they were added.
#[derive(Debug, Default)]
pub(crate) struct Sheet {
    facts: Vec<(String, String)>,
}

impl Sheet {
    /// Adds a fact; an empty one is left out.
    pub(crate) fn fact(&mut self, label: &str, fact: impl Into<String>) -> &mut Self {
        let fact = fact.into();
        if !fact.is_empty() {
            self.facts.push((label.to_owned(), fact));
        }
        self
    }

    /// Adds what a definition says, in dotted paths, without what is not set.
    pub(crate) fn definition(&mut self, definition: &Value) -> &mut Self {
        self.flatten("", definition);
        self
    }

    fn flatten(&mut self, path: &str, value: &Value) {
        match value {
            Value::Null => {}
            Value::Object(object) => {
                for (key, value) in object {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    self.flatten(&path, value);
                }
            }
            Value::String(text) => self.facts.push((path.to_owned(), text.clone())),
            Value::Array(items) if items.is_empty() => {}
            Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
                self.facts.push((path.to_owned(), value.to_string()))
            }
        }
    }

    /// The sheet as text.
    pub(crate) fn render(&self) -> String {
        let width = self.facts.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for (label, fact) in &self.facts {
            let padding = " ".repeat(width - label.chars().count());
            // Further lines of a fact stand under its first.
            for (index, line) in fact.lines().enumerate() {
                let start = if index == 0 { format!("{}{padding}", sanitized(label)) } else { " ".repeat(width) };
                text.push_str(format!("{start}  {}", sanitized(line)).trim_end());
                text.push('\n');
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_is_shown_in_dotted_paths_without_what_is_not_set() {
        let definition = serde_json::json!({"idle": {"stop": "5m"}, "cpu": null, "env": {}, "command": ["a", "b"]});
        let mut sheet = Sheet::default();
        sheet.fact("name", "api").fact("problem", "").fact("log", "a\nb").definition(&definition);
        assert_eq!(
            sheet.render(),
            "name       api\nlog        a\n           b\ncommand    [\"a\",\"b\"]\nidle.stop  5m\n"
        );
    }
}

//! What is wrong with a definition, field by field, in words that a user can act on.
//!
//! Knows nothing of any particular field.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One field that was refused.
///
/// Invariant: no text in it holds a value that was declared secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// Dotted path, such as `health.path` or `volumes[1].target`; `document` for the whole.
    pub field: String,
    /// The value as given, written as JSON and shortened; `***` if secret, empty if there is none.
    pub value: String,
    /// What is wrong: continues a sentence that starts with the value.
    pub problem: String,
    /// What would be taken.
    pub allowed: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "field {}:", self.field)?;
        if !self.value.is_empty() {
            write!(f, " {}", self.value)?;
        }
        write!(f, " {}; allowed: {}", self.problem, self.allowed)
    }
}

/// A definition was refused as a whole: every error of the document, never an empty list. State: nothing was kept.
/// As JSON it is the list of its [`FieldError`]s; as text one line for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Invalid(pub Vec<FieldError>);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

/// A text was refused by a syntax check that does not know which field it stands in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; allowed: {allowed}")]
pub struct Refusal {
    /// What is wrong: continues a sentence that starts with the text.
    pub problem: String,
    /// What would be taken.
    pub allowed: String,
}

impl Refusal {
    /// Puts the two sentences together.
    pub fn new(problem: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { problem: problem.into(), allowed: allowed.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> FieldError {
        FieldError {
            field: "health.interval".into(),
            value: "\"5 parsecs\"".into(),
            problem: "is not a duration".into(),
            allowed: "a number with unit ms, s, m or h, such as 10s".into(),
        }
    }

    #[test]
    fn an_error_reads_as_a_sentence_and_a_list_as_lines() {
        let line = "field health.interval: \"5 parsecs\" is not a duration; \
                    allowed: a number with unit ms, s, m or h, such as 10s";
        assert_eq!(error().to_string(), line);
        assert_eq!(Invalid(vec![error(), error()]).to_string(), format!("{line}\n{line}"));
    }

    #[test]
    fn the_api_sends_a_list_of_errors_that_the_client_reads_back() {
        let sent = serde_json::to_value(Invalid(vec![error()])).expect("JSON");
        assert_eq!(sent[0]["field"], "health.interval");
        assert_eq!(serde_json::from_value::<Invalid>(sent).expect("errors"), Invalid(vec![error()]));
    }
}

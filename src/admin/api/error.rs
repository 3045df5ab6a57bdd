//! The one shape of a refusal: what failed, why, and what to do about it.
//!
//! Knows which HTTP status a code has, and nothing else of HTTP.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{FieldError, Invalid};

/// What kind of refusal it is; scripts compare this and not the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request is wrong and stays wrong.
    Invalid,
    /// Who asks is not known, or may not.
    Unauthorized,
    /// What is named does not exist.
    NotFound,
    /// The path exists and not with this method.
    MethodNotAllowed,
    /// Someone else changed it first.
    Conflict,
    /// A bound on size was passed.
    TooLarge,
    /// The deadline passed.
    Timeout,
    /// Not now: draining, starting, or out of capacity.
    Unavailable,
    /// The component failed to answer an event.
    Upstream,
    /// A defect of the daemon, or a code that this version does not know.
    #[serde(other)]
    Internal,
}

impl Code {
    /// The HTTP status of a refusal of this kind.
    pub fn status(self) -> http::StatusCode {
        match self {
            Self::Invalid => http::StatusCode::BAD_REQUEST,
            Self::Unauthorized => http::StatusCode::FORBIDDEN,
            Self::NotFound => http::StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => http::StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => http::StatusCode::CONFLICT,
            Self::TooLarge => http::StatusCode::PAYLOAD_TOO_LARGE,
            Self::Timeout => http::StatusCode::GATEWAY_TIMEOUT,
            Self::Unavailable => http::StatusCode::SERVICE_UNAVAILABLE,
            Self::Upstream => http::StatusCode::BAD_GATEWAY,
            Self::Internal => http::StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A refusal. State: nothing was changed, unless the code is [`Code::Timeout`] or [`Code::Internal`], after which it
/// is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// What kind.
    pub code: Code,
    /// What failed and why, with the value.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Every wrong field of the document.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldError>,
    /// The name that was likely meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
    /// On a conflict: the version that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Box<str>>,
}

impl ApiError {
    /// A refusal without advice.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, fields: Vec::new(), suggestion: None, current: None }
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::Invalid, message)
    }

    /// A definition of `what` (such as `component api`) was refused.
    pub fn fields(what: &str, invalid: Invalid) -> Self {
        let count = invalid.0.len();
        let message = format!("{what} has {count} wrong {}", if count == 1 { "field" } else { "fields" });
        Self { fields: invalid.0, ..Self::invalid(message) }
    }

    /// `kind` (such as `component`) `name` does not exist; `known` are the names that do.
    pub fn not_found<'a>(kind: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let suggestion = crate::model::suggest::nearest(name, known).map(str::to_owned);
        let hint = suggestion.as_ref().map(|near| format!("did you mean {near}?"));
        Self { suggestion, hint, ..Self::new(Code::NotFound, format!("{kind} {name} does not exist")) }
    }

    /// Someone else changed it; `current` is the version that is there.
    pub fn conflict(message: impl Into<String>, current: Option<&str>) -> Self {
        let hint = Some("read it again and repeat the change on what is there now".to_owned());
        Self { current: current.map(Into::into), hint, ..Self::new(Code::Conflict, message) }
    }

    /// Adds advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_code_of_a_newer_node_reads_as_internal() {
        let error: ApiError = serde_json::from_str(r#"{"code":"brand_new","message":"m"}"#).expect("an error");
        assert_eq!(error.code, Code::Internal);
    }

    #[test]
    fn a_name_that_does_not_exist_proposes_the_nearest_that_does() {
        let error = ApiError::not_found("component", "ap", ["api", "web"]);
        assert_eq!(error.suggestion.as_deref(), Some("api"));
        assert_eq!(error.to_string(), "component ap does not exist");
    }
}

//! How a command ends: the exit code for scripts, and for people what failed, why, and what to do about it.
//!
//! Knows nothing of what the commands do.

use std::io::Write as _;
use std::process::ExitCode;

use maelstrom::admin::client::{ClientError, sanitized};
use maelstrom::admin::{ApiError, Code};

use crate::cli::Format;

/// The exit codes, which never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Ok = 0,
    Failure = 1,
    Usage = 2,
    Diff = 3,
    Auth = 4,
    NotFound = 5,
    Conflict = 6,
    Timeout = 7,
    Unreachable = 8,
    Partial = 9,
}

impl Exit {
    /// All codes and what they mean, for the manual.
    pub(crate) const ALL: [(Self, &str); 10] = [
        (Self::Ok, "done; an empty list is done too"),
        (Self::Failure, "refused or failed; stderr says why"),
        (Self::Usage, "the command line is wrong; nothing was asked"),
        (Self::Diff, "a difference was found"),
        (Self::Auth, "the node does not let you in"),
        (Self::NotFound, "what was named does not exist"),
        (Self::Conflict, "someone else changed it first"),
        (Self::Timeout, "timed out; a change may have been made"),
        (Self::Unreachable, "the node cannot be reached; nothing was asked"),
        (Self::Partial, "done in part: for some of the names, or without a node that did not answer"),
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failure => "failure",
            Self::Usage => "usage",
            Self::Diff => "diff",
            Self::Auth => "unauthorized",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Partial => "partial",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// What failed and why. Empty if all has been said.
    message: String,
    /// Each wrong field.
    details: Vec<String>,
    hint: Option<String>,
    /// As the node said it, for scripts.
    refused: Option<Box<ApiError>>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), details: Vec::new(), hint: None, refused: None }
    }

    /// The command line is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Ends with a code and says nothing more.
    pub(crate) fn silent(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says it on stderr.
    pub(crate) fn report(&self, format: Format) -> ExitCode {
        if !self.message.is_empty() {
            let text = if format == Format::Json { self.json() } else { self.text() };
            // Nobody is left to be told.
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
        self.exit.into()
    }

    fn text(&self) -> String {
        let mut text = format!("error: {}\n", sanitized(&self.message));
        for detail in &self.details {
            text.push_str(&format!("  {}\n", sanitized(detail)));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("hint: {}\n", sanitized(hint)));
        }
        text
    }

    fn json(&self) -> String {
        let error = match &self.refused {
            Some(refused) => serde_json::json!(refused),
            None => serde_json::json!({"code": self.exit.word(), "message": self.message, "hint": self.hint}),
        };
        format!("{}\n", serde_json::json!({"error": error}))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Unreachable { target, source } => {
                Self::new(Exit::Unreachable, format!("node {target} cannot be reached: {source}"))
                    .hint("is maelstromd running there? --node or MAEL_NODE names another node")
            }
            error @ ClientError::Timeout { .. } => {
                Self::new(Exit::Timeout, error.to_string()).hint("look before you try again: it may have been done")
            }
            error @ ClientError::Protocol { .. } => Self::new(Exit::Failure, error.to_string())
                .hint("does --node name the admin API? Requests to components go to another port"),
            ClientError::Refused(refused) => refused.into(),
        }
    }
}

impl From<ApiError> for Failure {
    fn from(refused: ApiError) -> Self {
        let exit = match refused.code {
            Code::Unauthorized => Exit::Auth,
            Code::NotFound => Exit::NotFound,
            Code::Conflict => Exit::Conflict,
            Code::Timeout => Exit::Timeout,
            Code::Invalid
            | Code::MethodNotAllowed
            | Code::TooLarge
            | Code::Unavailable
            | Code::Upstream
            | Code::Internal => Exit::Failure,
        };
        Self {
            exit,
            message: refused.message.clone(),
            details: refused.fields.iter().map(ToString::to_string).collect(),
            hint: refused.hint.clone(),
            refused: Some(Box::new(refused)),
        }
    }
}

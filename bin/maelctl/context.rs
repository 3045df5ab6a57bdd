//! What every command is given: a client of the node, and where and how to print.
//!
//! Knows nothing of any command.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use maelstrom::admin::api::List;
use maelstrom::admin::client::{Client, ClientError, sanitized};
use serde::Serialize;

use crate::cli::{Format, Global};
use crate::exit::{Exit, Failure};
use crate::output::Table;

/// Facts older than this are worth a word: nodes hear from each other every second.
const STALE_MS: u64 = 10_000;

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) format: Format,
    pub(crate) terminal: bool,
    headers: bool,
    colour: bool,
    now_ms: u64,
}

impl Context {
    #[expect(clippy::disallowed_methods, reason = "ages are shown relative to when the command was typed")]
    pub(crate) fn new(global: &Global) -> Result<Self, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let terminal = io::stdout().is_terminal();
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Ok(Self {
            client: Client::new(global.node.clone(), global.token.as_deref())?,
            format: global.output,
            terminal,
            headers: !global.no_headers,
            colour: terminal && !global.no_color && !set("NO_COLOR") && !dumb,
            now_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// How long ago an RFC 3339 moment was, such as `3m12s`.
    pub(crate) fn ago(&self, moment: &str) -> String {
        let at = maelstrom::admin::api::parse_rfc3339(moment);
        at.map_or_else(|| "?".to_owned(), |at| crate::output::age(self.now_ms.saturating_sub(at.0)))
    }

    /// How long until an RFC 3339 moment.
    pub(crate) fn until(&self, moment: &str) -> String {
        let at = maelstrom::admin::api::parse_rfc3339(moment);
        at.map_or_else(|| "?".to_owned(), |at| crate::output::age(at.0.saturating_sub(self.now_ms)))
    }

    /// Puts data on stdout.
    pub(crate) fn data(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(()),
            // Whoever reads has seen enough, as with `| head`.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::silent(Exit::Ok)),
            Err(error) => Err(Failure::new(Exit::Failure, format!("cannot write to stdout: {error}"))),
        }
    }

    /// Says something beside the data.
    pub(crate) fn say(&self, text: &str) {
        // Nobody is left to be told.
        let _ = writeln!(io::stderr(), "{}", sanitized(text));
    }

    /// Prints a value for scripts; `false` if the format is for people.
    pub(crate) fn structured(&self, value: &impl Serialize) -> Result<bool, Failure> {
        let failed = |error: &dyn std::error::Error| Failure::new(Exit::Failure, format!("cannot print: {error}"));
        match self.format {
            Format::Json => {
                let text = serde_json::to_string_pretty(value).map_err(|error| failed(&error))?;
                self.data(format!("{text}\n").as_bytes())?;
            }
            Format::Yaml => {
                let text = serde_saphyr::to_string(value).map_err(|error| failed(&error))?;
                self.data(text.as_bytes())?;
            }
            Format::Table | Format::Wide | Format::Name => return Ok(false),
        }
        Ok(true)
    }

    /// Prints a list; `name` is what `-o name` prints, `empty` what is said if there is nothing.
    pub(crate) fn list<T: Serialize>(
        &self,
        list: &List<T>,
        table: &Table,
        name: impl Fn(&T) -> &str,
        empty: &str,
    ) -> Result<(), Failure> {
        if list.view_age > STALE_MS {
            self.say(&format!("warning: what is shown may be {} old", crate::output::age(list.view_age)));
        }
        if self.structured(list)? {
            return Ok(());
        }
        if list.items.is_empty() {
            self.say(empty);
            return Ok(());
        }
        let text = match self.format {
            Format::Name => list.items.iter().map(|item| format!("{}\n", name(item))).collect(),
            Format::Table | Format::Wide | Format::Json | Format::Yaml => {
                table.render(self.format == Format::Wide, self.headers, self.colour)
            }
        };
        self.data(text.as_bytes())
    }

    /// Does something for each name, and reports each that failed.
    pub(crate) async fn each(
        &self,
        names: &[String],
        mut action: impl AsyncFnMut(&str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut failures = Vec::new();
        for name in names {
            if let Err(failure) = action(name).await {
                if names.len() == 1 || failure.exit == Exit::Unreachable {
                    return Err(failure);
                }
                let _ = failure.report(self.format);
                failures.push(failure.exit);
            }
        }
        match failures[..] {
            [] => Ok(()),
            // All failed alike: that is what the code says.
            [first, ..] if failures.len() == names.len() && failures.iter().all(|exit| *exit == first) => {
                Err(Failure::silent(first))
            }
            _ => Err(Failure::silent(Exit::Partial)),
        }
    }

    /// Prints a table that is no list of the API's.
    pub(crate) fn table(&self, table: &Table) -> Result<(), Failure> {
        self.data(table.render(self.format == Format::Wide, self.headers, self.colour).as_bytes())
    }

    /// What a put did.
    pub(crate) fn put(
        &self,
        kind: &str,
        answer: Result<maelstrom::admin::api::PutAnswer, ClientError>,
        dry_run: bool,
    ) -> Result<(), Failure> {
        let answer = answer?;
        for warning in &answer.warnings {
            self.say(&format!("warning: {warning}"));
        }
        for note in &answer.notes {
            self.say(&format!("note: {note}"));
        }
        if self.structured(&answer)? {
            return Ok(());
        }
        let note = if dry_run { " (dry run)" } else { "" };
        let text = match self.format {
            Format::Name => format!("{}\n", answer.name),
            Format::Wide => format!("{kind} {} {}{note}, version {}\n", answer.name, answer.changed, answer.version),
            Format::Table | Format::Json | Format::Yaml => {
                format!("{kind} {} {}{note}\n", answer.name, answer.changed)
            }
        };
        self.data(text.as_bytes())
    }
}

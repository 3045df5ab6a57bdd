//! The flags of the source `cron`.

use crate::cli;
use crate::document::Document;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "A schedule")]
pub(super) struct CronFlags {
    /// Such as '*/5 * * * *' or @daily
    #[arg(long = "cron", id = "schedule", value_name = "EXPR")]
    schedule: Option<String>,
    /// Time zone [default: UTC]
    #[arg(long, value_name = "ZONE")]
    tz: Option<String>,
    /// Method of the request [default: GET, or POST with a body]
    #[arg(long)]
    method: Option<String>,
    /// Header of the request
    #[arg(long = "header", value_name = "'NAME: VALUE'", value_parser = cli::header)]
    headers: Vec<(String, String)>,
    /// Body of the request
    #[arg(long, value_name = "TEXT")]
    body: Option<String>,
    #[command(flatten)]
    rules: Rules,
}

/// What becomes of the runs.
#[derive(Debug, clap::Args)]
struct Rules {
    /// When the last run is not done: allow, forbid, replace or queue [default: allow]
    #[arg(long, value_name = "RULE")]
    overlap: Option<String>,
    /// What is made up for: none, latest, all or all:N [default: latest]
    #[arg(long, value_name = "RULE")]
    missed: Option<String>,
    /// How late a planned time is fired at all [default: 1h]
    #[arg(long, value_name = "DURATION")]
    start_deadline: Option<String>,
    /// Begin later by a fixed share of this
    #[arg(long, value_name = "DURATION")]
    jitter: Option<String>,
    /// How often a failed run is tried again [default: 0]
    #[arg(long, value_name = "N")]
    retries: Option<String>,
    /// at-least-once or at-most-once [default: at-least-once]
    #[arg(long, value_name = "PROMISE")]
    delivery: Option<String>,
    /// A time that a day does not have: skip or run-at-transition [default: run-at-transition]
    #[arg(long, value_name = "RULE")]
    dst_gap: Option<String>,
    /// A time that a day has twice: first, second or both [default: first]
    #[arg(long, value_name = "RULE")]
    dst_overlap: Option<String>,
}

impl Rules {
    fn fields(self) -> [(&'static str, Option<String>); 8] {
        let Self { overlap, missed, start_deadline, jitter, retries, delivery, dst_gap, dst_overlap } = self;
        [
            ("cron.overlap", overlap),
            ("cron.missed", missed),
            ("cron.start_deadline", start_deadline),
            ("cron.jitter", jitter),
            ("cron.retries", retries),
            ("cron.delivery", delivery),
            ("cron.dst_gap", dst_gap),
            ("cron.dst_overlap", dst_overlap),
        ]
    }

    fn is_given(&self) -> bool {
        let Self { overlap, missed, start_deadline, jitter, retries, delivery, dst_gap, dst_overlap } = self;
        [overlap, missed, start_deadline, jitter, retries, delivery, dst_gap, dst_overlap]
            .iter()
            .any(|one| one.is_some())
    }
}

impl super::Section for CronFlags {
    const NAME: &'static str = "cron";

    fn is_chosen(&self) -> bool {
        self.schedule.is_some()
    }

    fn is_given(&self) -> bool {
        let Self { schedule, tz, method, headers, body, rules } = self;
        schedule.is_some()
            || tz.is_some()
            || method.is_some()
            || !headers.is_empty()
            || body.is_some()
            || rules.is_given()
    }

    fn fill(self, doc: &mut Document) {
        doc.set("cron.schedule", self.schedule);
        doc.set("cron.timezone", self.tz);
        doc.set("cron.method", self.method);
        doc.pairs("cron.headers", self.headers);
        doc.set("cron.body", self.body);
        self.rules.fields().into_iter().for_each(|(field, value)| doc.set(field, value));
    }
}

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
}

impl super::Section for CronFlags {
    const NAME: &'static str = "cron";

    fn is_chosen(&self) -> bool {
        self.schedule.is_some()
    }

    fn is_given(&self) -> bool {
        let Self { schedule, tz, method, headers, body } = self;
        schedule.is_some() || tz.is_some() || method.is_some() || !headers.is_empty() || body.is_some()
    }

    fn fill(self, doc: &mut Document) {
        doc.set("cron.schedule", self.schedule);
        doc.set("cron.timezone", self.tz);
        doc.set("cron.method", self.method);
        doc.pairs("cron.headers", self.headers);
        doc.set("cron.body", self.body);
    }
}

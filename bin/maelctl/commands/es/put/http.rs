//! The flags of the source `http`.

use crate::document::Document;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Requests from outside")]
pub(super) struct HttpFlags {
    /// Host, or `*.` and a domain [default: any]
    #[arg(long, value_name = "HOST")]
    http_host: Option<String>,
    /// Path prefix, by whole segments [default: /]
    #[arg(long, value_name = "PATH")]
    http_path: Option<String>,
    /// Cut the prefix off before the component sees the path
    #[arg(long)]
    strip_prefix: bool,
}

impl super::Section for HttpFlags {
    const NAME: &'static str = "http";

    fn is_chosen(&self) -> bool {
        self.http_host.is_some() || self.http_path.is_some()
    }

    fn is_given(&self) -> bool {
        self.is_chosen() || self.strip_prefix
    }

    fn fill(self, doc: &mut Document) {
        doc.set("http.host", self.http_host);
        doc.set("http.path", self.http_path);
        if self.strip_prefix {
            doc.set("http.strip_prefix", Some(true));
        }
    }
}

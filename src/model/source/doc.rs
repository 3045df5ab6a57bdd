//! An event source as a document: the whole effective definition, every default written out.
//!
//! Knows nothing of parsing; `parse` of the result gives the same source.

use serde_json::{Value, json};

use crate::model::source::{Source, Trigger};

impl Source {
    /// The canonical document. Equal sources give equal documents, however they were written.
    pub fn to_doc(&self) -> Value {
        let (kind, trigger) = match &self.trigger {
            Trigger::Http(http) => {
                ("http", json!({"host": http.host, "path": http.path, "strip_prefix": http.strip_prefix}))
            }
            Trigger::Cron(cron) => (
                "cron",
                json!({
                    "schedule": cron.expression,
                    "timezone": cron.timezone,
                    "method": cron.method,
                    "path": cron.path,
                    "headers": cron.headers,
                    "body": cron.body,
                }),
            ),
            Trigger::Sqs(sqs) => (
                "sqs",
                json!({
                    "queue": sqs.queue,
                    "prefix": sqs.prefix,
                    "path": sqs.path,
                    "concurrency": sqs.concurrency,
                    "batch": sqs.batch,
                    "region": sqs.region,
                    "endpoint": sqs.endpoint,
                }),
            ),
        };
        json!({"component": self.component, "enabled": self.enabled, kind: trigger})
    }
}

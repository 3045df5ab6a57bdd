//! The flags of the source `sqs`.

use crate::document::Document;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "A queue")]
pub(super) struct SqsFlags {
    /// Name or URL of an SQS queue
    #[arg(long = "sqs", id = "queue", value_name = "QUEUE")]
    queue: Option<String>,
    /// QUEUE is a prefix: all queues that start with it
    #[arg(long)]
    prefix: bool,
    /// Messages handled at once in the cluster
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Messages per request, 1 to 10
    #[arg(long, value_name = "N")]
    batch: Option<u32>,
    /// Region [default: that of the node's environment]
    #[arg(long)]
    region: Option<String>,
    /// In place of the provider's endpoint
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
}

impl super::Section for SqsFlags {
    const NAME: &'static str = "sqs";

    fn is_chosen(&self) -> bool {
        self.queue.is_some()
    }

    fn is_given(&self) -> bool {
        let Self { queue, prefix, concurrency, batch, region, endpoint } = self;
        let flags = [queue.is_some(), *prefix, concurrency.is_some(), batch.is_some(), region.is_some()];
        flags.contains(&true) || endpoint.is_some()
    }

    fn fill(self, doc: &mut Document) {
        doc.set("sqs.queue", self.queue);
        if self.prefix {
            doc.set("sqs.prefix", Some(true));
        }
        doc.set("sqs.concurrency", self.concurrency);
        doc.set("sqs.batch", self.batch);
        doc.set("sqs.region", self.region);
        doc.set("sqs.endpoint", self.endpoint);
    }
}

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
    /// How long a request that is not full waits for more messages
    #[arg(long, value_name = "DURATION")]
    window: Option<String>,
    /// How long a receive waits for a message: shorter costs more calls, and a node stops sooner [default: 20s]
    #[arg(long = "poll-wait", value_name = "DURATION")]
    poll_wait: Option<String>,
    /// How long a message stays hidden after its node died [default: 30s]
    #[arg(long, value_name = "DURATION")]
    visibility: Option<String>,
    /// Wait after the first failure of a message, doubled with each [default: 10s]
    #[arg(long, value_name = "DURATION")]
    backoff: Option<String>,
    /// What becomes of a message that is answered with 4xx: retry or dead-letter
    #[arg(long, value_name = "WHAT")]
    refused: Option<String>,
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
        let Self {
            queue,
            prefix,
            concurrency,
            batch,
            window,
            poll_wait,
            visibility,
            backoff,
            refused,
            region,
            endpoint,
        } = self;
        let texts = [queue, window, poll_wait, visibility, backoff, refused, region, endpoint];
        *prefix || concurrency.is_some() || batch.is_some() || texts.iter().any(|text| text.is_some())
    }

    fn fill(self, doc: &mut Document) {
        doc.set("sqs.queue", self.queue);
        if self.prefix {
            doc.set("sqs.prefix", Some(true));
        }
        doc.set("sqs.concurrency", self.concurrency);
        doc.set("sqs.batch", self.batch);
        doc.set("sqs.window", self.window);
        doc.set("sqs.wait", self.poll_wait);
        doc.set("sqs.visibility", self.visibility);
        doc.set("sqs.backoff", self.backoff);
        doc.set("sqs.refused", self.refused);
        doc.set("sqs.region", self.region);
        doc.set("sqs.endpoint", self.endpoint);
    }
}

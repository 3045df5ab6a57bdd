//! What people do with queues: move dead letters back to where they came from, and empty a queue.
//!
//! Knows nothing of who asks. A message is never deleted before its copy was taken.

use std::pin::pin;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{
    Message, MessageSystemAttributeName as Said, MessageSystemAttributeNameForSends, MessageSystemAttributeValue,
};
use futures_util::FutureExt as _;

use super::inspect::{Found, attribute, receive, release};
use super::trouble::{Cause, Trouble};

/// Messages are moved for as long; who asked is told how many there were, and asks again. A third of what a request to the
/// API may take, so that what comes before it and the message on its way have their time as well.
const TURN: Duration = Duration::from_secs(10);

/// For as long the messages of one receive are hidden, in seconds: ten of them take two calls each, of tens of
/// milliseconds.
const HIDDEN: i32 = 120;

/// Messages of other queues that are passed over: they have to be held meanwhile, or they would come again and again.
const OTHERS: usize = 100;

/// What became of dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// The service moves all of them from now on.
    Started,
    /// So many were moved here, and whether there may be more.
    Here {
        /// How many.
        count: u64,
        /// Whether the turn ended before the queue was empty.
        is_cut: bool,
    },
}

/// A move that broke off. State: `count` messages were moved, the one on its way perhaps; none is lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{trouble}")]
pub struct Broken {
    /// Moved before.
    pub count: u64,
    /// Why it ended.
    pub trouble: Trouble,
}

/// Lets the service move all messages of a dead-letter queue back to the queues that they came from. `None` if it does
/// not know how to.
///
/// # Errors
/// It could not be asked, or refuses.
pub async fn start_move(client: &Client, dead: &Found, arn: &str) -> Result<Option<Moved>, Trouble> {
    let started = client.start_message_move_task().source_arn(arn).send().await;
    match started.map_err(|error| Trouble::of("StartMessageMoveTask", &dead.name, &error)) {
        Ok(_) => Ok(Some(Moved::Started)),
        Err(trouble) if matches!(trouble.cause, Cause::Unknown | Cause::Strange) => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

/// Moves up to `most` messages back one by one, with all that they say of themselves and in their order: each is sent
/// first and deleted then, so that a failure in between leaves two of it and never none. Messages that came from another
/// queue than `arn` stay.
///
/// # Errors
/// The service could not be asked, or refuses. What was received and not moved is given back.
pub async fn move_back(client: &Client, dead: &Found, home: &Found, arn: &str, most: u64) -> Result<Moved, Broken> {
    let mut turn = pin!(tokio::time::sleep(TURN));
    let (mut count, mut others) = (0, Vec::new());
    let ended = loop {
        if count >= most || others.len() >= OTHERS {
            break Ok(false);
        }
        if (&mut turn).now_or_never().is_some() {
            break Ok(true);
        }
        let wanted = usize::try_from(most - count).unwrap_or(usize::MAX).min(10);
        let got = match receive(client, dead, wanted, HIDDEN).await {
            Ok(got) if got.is_empty() => break Ok(false),
            Ok(got) => got,
            Err(trouble) => break Err(trouble),
        };
        let is_other =
            |message: &Message| attribute(message, &Said::DeadLetterQueueSourceArn).is_some_and(|from| from != arn);
        let (foreign, own): (Vec<_>, Vec<_>) = got.into_iter().partition(is_other);
        others.extend(foreign);
        let mut failed = None;
        for (index, message) in own.iter().enumerate() {
            if let Err(trouble) = move_one(client, dead, home, message).await {
                others.extend_from_slice(&own[index..]);
                failed = Some(trouble);
                break;
            }
            count += 1;
        }
        if let Some(trouble) = failed {
            break Err(trouble);
        }
    };
    // What cannot be given back now comes back by itself.
    let _ = release(client, dead, &others).await;
    match ended {
        Ok(is_cut) => Ok(Moved::Here { count, is_cut }),
        Err(trouble) => Err(Broken { count, trouble }),
    }
}

async fn move_one(client: &Client, dead: &Found, home: &Found, message: &Message) -> Result<(), Trouble> {
    let mut send = client
        .send_message()
        .queue_url(&home.url)
        .message_body(message.body().unwrap_or_default())
        .set_message_attributes(message.message_attributes.clone());
    if let Some(trace) = attribute(message, &Said::AwsTraceHeader) {
        let value = MessageSystemAttributeValue::builder().data_type("String").string_value(trace);
        if let Ok(value) = value.build() {
            send = send.message_system_attributes(MessageSystemAttributeNameForSends::AwsTraceHeader, value);
        }
    }
    if let Some(group) = attribute(message, &Said::MessageGroupId) {
        send = send.message_group_id(group);
        if home.name.ends_with(".fifo") {
            // Its own one would be taken for a repetition within five minutes of the first send, and be lost. This one
            // is the same if the same dead letter is moved again.
            send = send.message_deduplication_id(message.message_id().unwrap_or_default());
        }
    }
    send.send().await.map_err(|error| Trouble::of("SendMessage", &home.name, &error))?;
    let handle = message.receipt_handle().unwrap_or_default();
    let delete = client.delete_message().queue_url(&dead.url).receipt_handle(handle).send().await;
    delete.map(|_| ()).map_err(|error| Trouble::of("DeleteMessage", &dead.name, &error))
}

/// Deletes all messages of a queue.
///
/// # Errors
/// The service could not be asked, or refuses: SQS allows it once a minute.
pub async fn purge(client: &Client, queue: &Found) -> Result<(), Trouble> {
    let purged = client.purge_queue().queue_url(&queue.url).send().await;
    purged.map(|_| ()).map_err(|error| Trouble::of("PurgeQueue", &queue.name, &error))
}

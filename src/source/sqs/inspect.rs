//! What people look at: which queues a source has, how full they are, what is in them.
//!
//! Looks as the node that is asked, with its credentials. Knows nothing of who asks.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, Message, MessageSystemAttributeName, QueueAttributeName,
};
use futures_util::stream::{self, StreamExt as _};
use serde::Deserialize;

use super::client::{Clients, Place};
use super::trouble::Trouble;
use crate::model::source::Sqs;

/// Places whose clients are kept; a cluster has queues in a handful of regions.
const PLACES: usize = 16;

/// Queues of one source with a prefix that are looked at; more than people read.
pub const QUEUES_MAX: usize = 200;

/// Calls at once while many queues are looked at: SQS allows hundreds in a second, and a page is there in a second.
const AT_ONCE: usize = 16;

/// For as long a message that was looked at stays hidden if this node dies before it gives it back, in seconds.
const HIDDEN: i32 = 30;

/// The wait of a receive that looks, in seconds: one that waits asks all servers of a queue, one that does not asks some
/// of them and may miss messages.
pub(super) const LOOK: i32 = 1;

/// Messages of one receive.
const RECEIVE: usize = 10;

/// Clients of the places that were asked for so far.
#[derive(Debug, Default)]
pub struct Queues {
    clients: Mutex<BTreeMap<Place, Clients>>,
}

/// A queue that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Its URL.
    pub url: String,
}

/// What a queue says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Messages that can be received now, about.
    pub visible: u64,
    /// Messages that were received and not deleted yet, about.
    pub in_flight: u64,
    /// Messages whose delay has not passed yet, about.
    pub delayed: u64,
    /// For how long a received message is hidden unless the receive says otherwise.
    pub visibility: Duration,
    /// Where messages go that failed too often, and after how many receives.
    pub redrive: Option<Redrive>,
    /// Its ARN.
    pub arn: String,
}

/// Where messages go that failed too often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redrive {
    /// ARN of the dead-letter queue.
    pub target: String,
    /// So many receives a message may have.
    pub max_receives: u32,
}

impl Redrive {
    /// The name of the dead-letter queue.
    pub fn name(&self) -> &str {
        self.target.rsplit(':').next().unwrap_or_default()
    }

    /// As the queue's attribute has it: the number comes as a number or as a text.
    fn parse(policy: &str) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Policy {
            dead_letter_target_arn: String,
            max_receive_count: serde_json::Value,
        }
        let policy: Policy = serde_json::from_str(policy).ok()?;
        let count = &policy.max_receive_count;
        let count = count.as_str().and_then(|text| text.parse().ok()).or_else(|| count.as_u64());
        let count = count.and_then(|count: u64| u32::try_from(count).ok());
        Some(Self { target: policy.dead_letter_target_arn, max_receives: count? })
    }
}

impl Queues {
    /// The clients of a place.
    pub async fn clients(&self, place: &Place) -> Clients {
        let known = |kept: &BTreeMap<Place, Clients>| kept.get(place).cloned();
        if let Some(clients) = known(&self.clients.lock().unwrap_or_else(std::sync::PoisonError::into_inner)) {
            return clients;
        }
        // Made twice if asked twice at once: that costs a moment and harms nothing.
        let made = Clients::new(place).await;
        let mut kept = self.clients.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if kept.len() >= PLACES {
            kept.clear();
        }
        kept.entry(place.clone()).or_insert(made).clone()
    }
}

/// Where the queues of a source are.
pub fn place(source: &Sqs) -> Place {
    Place { region: source.region.clone(), endpoint: source.endpoint.clone() }
}

/// The queues of a source, in the order of their names.
///
/// # Errors
/// The service could not be asked, or has no queue of this name.
pub async fn find(client: &Client, source: &Sqs) -> Result<Vec<Found>, Trouble> {
    if source.prefix {
        let list = client.list_queues().queue_name_prefix(&source.queue).send().await;
        let list = list.map_err(|error| Trouble::of("ListQueues", &source.queue, &error))?;
        let mut found: Vec<Found> = list.queue_urls().iter().map(|url| named(url)).collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found.truncate(QUEUES_MAX);
        return Ok(found);
    }
    if source.queue.contains("://") {
        return Ok(vec![named(&source.queue)]);
    }
    Ok(vec![by_name(client, &source.queue, None).await?])
}

/// A queue by its name; `account` is its owner, if that is another one.
///
/// # Errors
/// The service could not be asked, or has no queue of this name.
pub async fn by_name(client: &Client, name: &str, account: Option<&str>) -> Result<Found, Trouble> {
    let call = client.get_queue_url().queue_name(name).set_queue_owner_aws_account_id(account.map(str::to_owned));
    let answer = call.send().await.map_err(|error| Trouble::of("GetQueueUrl", name, &error))?;
    Ok(Found { name: name.to_owned(), url: answer.queue_url.unwrap_or_default() })
}

fn named(url: &str) -> Found {
    Found { name: url.rsplit('/').next().unwrap_or_default().to_owned(), url: url.to_owned() }
}

/// The dead-letter queue of a queue.
///
/// # Errors
/// The service could not be asked, or it is gone.
pub async fn dead_letters(client: &Client, redrive: &Redrive) -> Result<Found, Trouble> {
    // arn:aws:sqs:REGION:ACCOUNT:NAME
    let account = redrive.target.rsplit(':').nth(1).filter(|account| !account.is_empty());
    by_name(client, redrive.name(), account).await
}

/// What a queue says of itself.
///
/// # Errors
/// The service could not be asked, or does not tell.
pub async fn look(client: &Client, queue: &Found) -> Result<Facts, Trouble> {
    let call = client.get_queue_attributes().queue_url(&queue.url).attribute_names(QueueAttributeName::All);
    let answer = call.send().await.map_err(|error| Trouble::of("GetQueueAttributes", &queue.name, &error))?;
    let text = |name: QueueAttributeName| answer.attributes().and_then(|all| all.get(&name)).map(String::as_str);
    let number = |name| text(name).and_then(|text| text.parse().ok()).unwrap_or_default();
    Ok(Facts {
        visible: number(QueueAttributeName::ApproximateNumberOfMessages),
        in_flight: number(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
        delayed: number(QueueAttributeName::ApproximateNumberOfMessagesDelayed),
        visibility: Duration::from_secs(number(QueueAttributeName::VisibilityTimeout)),
        redrive: text(QueueAttributeName::RedrivePolicy).and_then(Redrive::parse),
        arn: text(QueueAttributeName::QueueArn).unwrap_or_default().to_owned(),
    })
}

/// Looks at many queues, some at once; the answers are in their order.
pub async fn look_at_all<T, F: Future<Output = T>>(queues: impl IntoIterator<Item = F>) -> Vec<T> {
    stream::iter(queues).buffered(AT_ONCE).collect().await
}

/// Up to `limit` messages of a queue, in the order in which they came; given back at once. Each look is a receive for
/// the queue, which has no other way to show a message: it counts towards those that a message may have.
///
/// # Errors
/// The service could not be asked. Messages that were received by then are visible again after half a minute.
pub async fn peek(client: &Client, queue: &Found, limit: usize) -> Result<Vec<Message>, Trouble> {
    let mut messages: Vec<Message> = Vec::new();
    while messages.len() < limit {
        let got = receive(client, queue, (limit - messages.len()).min(RECEIVE), HIDDEN).await?;
        if got.is_empty() {
            break;
        }
        messages.extend(got);
    }
    release(client, queue, &messages).await?;
    Ok(messages)
}

/// Receives with everything that a message says of itself.
pub(super) async fn receive(client: &Client, queue: &Found, most: usize, hidden: i32) -> Result<Vec<Message>, Trouble> {
    let call = client
        .receive_message()
        .queue_url(&queue.url)
        .max_number_of_messages(i32::try_from(most).unwrap_or(1))
        .visibility_timeout(hidden)
        .wait_time_seconds(LOOK)
        .message_system_attribute_names(MessageSystemAttributeName::All)
        .message_attribute_names("All");
    let answer = call.send().await.map_err(|error| Trouble::of("ReceiveMessage", &queue.name, &error))?;
    Ok(answer.messages.unwrap_or_default())
}

/// Gives messages back at once, the last first, so that a group is in its order again.
pub(super) async fn release(client: &Client, queue: &Found, messages: &[Message]) -> Result<(), Trouble> {
    for part in messages.rchunks(RECEIVE) {
        let mut call = client.change_message_visibility_batch().queue_url(&queue.url);
        for (index, message) in part.iter().enumerate().rev() {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(index.to_string());
            let entry = entry.receipt_handle(message.receipt_handle().unwrap_or_default()).visibility_timeout(0);
            // Both fields that it needs are there.
            if let Ok(entry) = entry.build() {
                call = call.entries(entry);
            }
        }
        // One that could not be given back comes back by itself.
        call.send().await.map_err(|error| Trouble::of("ChangeMessageVisibility", &queue.name, &error))?;
    }
    Ok(())
}

/// A system attribute of a message.
pub fn attribute<'a>(message: &'a Message, name: &MessageSystemAttributeName) -> Option<&'a str> {
    message.attributes().and_then(|all| all.get(name)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redrive_policy_is_read_with_its_number_as_number_or_text() {
        let arn = "arn:aws:sqs:eu-central-1:123456789012:jobs-dead";
        for count in ["5", "\"5\""] {
            let policy = format!("{{\"deadLetterTargetArn\":\"{arn}\",\"maxReceiveCount\":{count}}}");
            let redrive = Redrive::parse(&policy).expect("a policy");
            assert_eq!((redrive.name(), redrive.max_receives), ("jobs-dead", 5));
        }
        for none in ["", "{}", "{\"deadLetterTargetArn\":\"a\"}"] {
            assert_eq!(Redrive::parse(none), None);
        }
    }
}

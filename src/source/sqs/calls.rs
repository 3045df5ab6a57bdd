//! Calls to the queue service, one for each effect, and their answers as facts.
//!
//! Knows nothing of when they are made.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::error::SdkError;
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
    MessageAttributeValue, MessageSystemAttributeName,
};
use bytes::Bytes;

use super::client::Clients;
use super::inspect::{self, Found, Redrive};
use super::trouble::{Cause, Trouble};
use crate::consumer::{self, Attribute, Fate, Message};
use crate::time::Wall;

/// What a call brought, and what is wrong if it did not.
pub(super) type Told<T> = (T, Option<Trouble>);

/// A receive.
pub(super) struct Receive {
    pub(super) max: usize,
    pub(super) wait: Duration,
    pub(super) visibility: Duration,
    /// The name under which the same may be asked again; of a FIFO queue.
    pub(super) attempt: Option<String>,
}

pub(super) async fn receive(
    clients: &Clients,
    queue: &Found,
    receive: Receive,
) -> Told<Result<Vec<Message>, consumer::Trouble>> {
    let call = clients
        .polls
        .receive_message()
        .queue_url(&queue.url)
        .max_number_of_messages(i32::try_from(receive.max).unwrap_or(1))
        .wait_time_seconds(seconds(receive.wait))
        .visibility_timeout(seconds(receive.visibility))
        .set_receive_request_attempt_id(receive.attempt)
        .message_system_attribute_names(MessageSystemAttributeName::All)
        .message_attribute_names("All");
    match call.send().await {
        Ok(answer) => (Ok(answer.messages.unwrap_or_default().into_iter().filter_map(message).collect()), None),
        Err(error) => {
            // Otherwise: no answer, half an answer, or one that makes no sense.
            let is_refused = matches!(error, SdkError::ServiceError(_) | SdkError::ConstructionFailure(_));
            let trouble = if is_refused { consumer::Trouble::Refused } else { consumer::Trouble::Unanswered };
            (Err(trouble), Some(Trouble::of("ReceiveMessage", &queue.name, &error)))
        }
    }
}

/// A message without id or receipt, which SQS does not send, cannot be told apart or deleted.
fn message(raw: aws_sdk_sqs::types::Message) -> Option<Message> {
    let system: std::collections::BTreeMap<String, String> =
        raw.attributes.unwrap_or_default().into_iter().map(|(name, value)| (name.as_str().to_owned(), value)).collect();
    let attributes = raw.message_attributes.unwrap_or_default().into_iter().map(|(name, value)| {
        let bytes = value.binary_value.map(|blob| Bytes::from(blob.into_inner()));
        (name, Attribute { kind: value.data_type, text: value.string_value, bytes })
    });
    Some(Message {
        id: raw.message_id?,
        receipt: Arc::from(raw.receipt_handle?),
        receives: system.get("ApproximateReceiveCount").and_then(|text| text.parse().ok()).unwrap_or(1),
        group: system.get("MessageGroupId").map(|group| Arc::from(group.as_str())),
        sent: system.get("SentTimestamp").and_then(|text| text.parse().ok()).map(Wall),
        body: Bytes::from(raw.body.unwrap_or_default()),
        md5: raw.md5_of_body.unwrap_or_default(),
        attributes: attributes.collect(),
        system,
    })
}

pub(super) async fn delete(clients: &Clients, queue: &Found, receipts: &[Arc<str>]) -> Told<Vec<Fate>> {
    let entries = receipts.iter().enumerate().filter_map(|(index, receipt)| {
        let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
        // Both fields that it needs are there.
        entry.receipt_handle(&**receipt).build().ok()
    });
    let call = clients.calls.delete_message_batch().queue_url(&queue.url);
    match call.set_entries(Some(entries.collect())).send().await {
        Ok(answer) => (fates(receipts.len(), &answer.failed), None),
        Err(error) => (Vec::new(), Some(Trouble::of("DeleteMessage", &queue.name, &error))),
    }
}

pub(super) async fn change(clients: &Clients, queue: &Found, changes: &[(Arc<str>, Duration)]) -> Told<Vec<Fate>> {
    let entries = changes.iter().enumerate().filter_map(|(index, (receipt, after))| {
        let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(index.to_string());
        // Both fields that it needs are there.
        entry.receipt_handle(&**receipt).visibility_timeout(seconds(*after)).build().ok()
    });
    let call = clients.calls.change_message_visibility_batch().queue_url(&queue.url);
    match call.set_entries(Some(entries.collect())).send().await {
        Ok(answer) => (fates(changes.len(), &answer.failed), None),
        Err(error) => (Vec::new(), Some(Trouble::of("ChangeMessageVisibility", &queue.name, &error))),
    }
}

/// Sends a copy to the dead-letter queue, with what its sender said.
pub(super) async fn bury(
    clients: &Clients,
    queue: &Found,
    redrive: Option<&Redrive>,
    message: &Message,
) -> Told<Vec<Fate>> {
    let Some(redrive) = redrive else { return (Vec::new(), None) };
    let target = match inspect::dead_letters(&clients.calls, redrive).await {
        Ok(target) => target,
        Err(trouble) => return (Vec::new(), Some(trouble)),
    };
    let text = String::from_utf8_lossy(&message.body).into_owned();
    let mut call = clients.calls.send_message().queue_url(&target.url).message_body(text);
    for (name, attribute) in &message.attributes {
        let value = MessageAttributeValue::builder()
            .data_type(&attribute.kind)
            .set_string_value(attribute.text.clone())
            .set_binary_value(attribute.bytes.clone().map(|bytes| aws_sdk_sqs::primitives::Blob::new(bytes.to_vec())));
        // Its type is there.
        if let Ok(value) = value.build() {
            call = call.message_attributes(name, value);
        }
    }
    if queue.name.ends_with(".fifo") {
        // Sent twice, because an answer was lost, it is there once.
        call = call
            .set_message_group_id(message.group.as_deref().map(str::to_owned))
            .message_deduplication_id(&message.id);
    }
    match call.send().await {
        Ok(_) => (vec![Fate::Done], None),
        Err(error) => (Vec::new(), Some(Trouble::of("SendMessage", &target.name, &error))),
    }
}

/// In the order of the entries, whose ids are their numbers.
fn fates(count: usize, failed: &[BatchResultErrorEntry]) -> Vec<Fate> {
    let mut fates = vec![Fate::Done; count];
    for entry in failed {
        if let Some(fate) = entry.id().parse::<usize>().ok().and_then(|index| fates.get_mut(index)) {
            *fate = fate_of(entry.code());
        }
    }
    fates
}

/// What says that the message is not ours any more. SQS gives `InvalidParameterValue` for a receipt that has expired.
fn fate_of(code: &str) -> Fate {
    let gone = ["ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue"];
    if gone.iter().any(|word| code.ends_with(word)) { Fate::Gone } else { Fate::Failed }
}

/// Whole seconds, rounded up: nothing comes back sooner than it should.
fn seconds(time: Duration) -> i32 {
    i32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(i32::MAX)
}

/// Whether this trouble is worth a word to people, and not gone by the next call.
pub(super) fn is_lasting(trouble: &Trouble) -> bool {
    !matches!(trouble.cause, Cause::Busy | Cause::Late | Cause::Strange)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_that_is_not_valid_any_more_is_told_from_a_call_that_may_be_repeated() {
        for (code, fate) in [
            ("ReceiptHandleIsInvalid", Fate::Gone),
            ("AWS.SimpleQueueService.MessageNotInflight", Fate::Gone),
            ("InvalidParameterValue", Fate::Gone),
            ("InternalError", Fate::Failed),
            ("RequestThrottled", Fate::Failed),
        ] {
            assert_eq!(fate_of(code), fate, "{code}");
        }
        let entry = |id: &str, code: &str| {
            let entry = BatchResultErrorEntry::builder().id(id).code(code).sender_fault(true);
            entry.build().expect("whole")
        };
        let failed = [entry("1", "InternalError"), entry("9", "InternalError"), entry("x", "InternalError")];
        assert_eq!(fates(3, &failed), [Fate::Done, Fate::Failed, Fate::Done]);
    }

    #[test]
    fn a_wait_is_rounded_up_to_whole_seconds() {
        assert_eq!([0, 1, 1000, 1001].map(|ms| seconds(Duration::from_millis(ms))), [0, 1, 1, 2]);
    }
}

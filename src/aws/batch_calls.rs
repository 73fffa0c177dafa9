//! What does SQS say to each entry of its batch calls? The three calls, and what an entry that failed means: a handle that SQS
//! refuses is not ours any more, whatever it calls the reason.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
    SendMessageBatchRequestEntry,
};
use aws_smithy_types::error::operation::BuildError;

use super::entries::{self, Said};
use super::{Inner, trace, trouble};
use crate::job::trace::TraceContext;
use crate::ports::{Entry, EntryError, MessageId, ReceiptHandle, StoreError, StoreTrouble};

/// A message that SQS takes.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) body: String,
    /// Its message group, which fair queues are fair to.
    pub(super) group: String,
    pub(super) delay: Duration,
    /// In its attributes.
    pub(super) trace: Option<TraceContext>,
}

/// Sends a batch of letters.
pub(super) async fn post(inner: &Inner, letters: Vec<Arc<Letter>>) -> Vec<Result<Entry<MessageId>, StoreError>> {
    let doing = "sending messages";
    entries::carry_out(doing, letters, |letters: Vec<Arc<Letter>>| async move {
        let entries = letters.iter().enumerate().map(|(place, letter)| {
            let entry = SendMessageBatchRequestEntry::builder().id(entries::id(place)).message_body(&letter.body);
            let entry = entry.set_message_attributes(trace::attributes(letter.trace.as_ref())?);
            entry.message_group_id(&letter.group).delay_seconds(seconds(letter.delay)).build()
        });
        let entries = built(doing, entries)?;
        let request = inner.clients.sqs.send_message_batch().queue_url(&inner.settings.queue_url);
        let sent = request.set_entries(Some(entries)).send().await;
        let sent = sent.map_err(|error| trouble::of_sdk(doing, &error))?;
        let done = sent.successful.into_iter().map(|done| (done.id, Said::Done(MessageId(done.message_id))));
        let failed = sent.failed.into_iter().map(|entry| (entry.id.clone(), failed(&entry)));
        Ok(entries::in_order(letters.len(), done.chain(failed)))
    })
    .await
}

/// Hides each message for so long. Whoever speaks last of a message is heard: a lease may just have been extended that is now
/// handed back, and SQS keeps no order within a call.
pub(super) async fn hide(inner: &Inner, group: Vec<(ReceiptHandle, Duration)>) -> Vec<Result<Entry, StoreError>> {
    let doing = "changing the visibility of messages";
    let last_words: HashMap<ReceiptHandle, Duration> = group.iter().cloned().collect();
    let distinct: Vec<(ReceiptHandle, Duration)> = last_words.into_iter().collect();
    let replies = entries::carry_out(doing, distinct.clone(), |group: Vec<(ReceiptHandle, Duration)>| async move {
        let entries = group.iter().enumerate().map(|(place, (handle, time))| {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(entries::id(place));
            entry.receipt_handle(&handle.0).visibility_timeout(seconds(*time)).build()
        });
        let entries = built(doing, entries)?;
        let request = inner.clients.sqs.change_message_visibility_batch().queue_url(&inner.settings.queue_url);
        let changed = request.set_entries(Some(entries)).send().await;
        let changed = changed.map_err(|error| trouble::of_sdk(doing, &error))?;
        let done = changed.successful.into_iter().map(|done| (done.id, Said::Done(())));
        let failed = changed.failed.into_iter().map(|entry| (entry.id.clone(), failed_handle(&entry)));
        Ok(entries::in_order(group.len(), done.chain(failed)))
    })
    .await;
    let replies: HashMap<ReceiptHandle, Result<Entry, StoreError>> =
        distinct.into_iter().map(|(handle, _)| handle).zip(replies).collect();
    let unsaid = || Err(trouble::of_ours(StoreTrouble::Away, doing, "no reply"));
    group.iter().map(|(handle, _)| replies.get(handle).cloned().unwrap_or_else(unsaid)).collect()
}

/// Removes a batch of messages.
pub(super) async fn delete(inner: &Inner, group: Vec<ReceiptHandle>) -> Vec<Result<Entry, StoreError>> {
    let doing = "deleting messages";
    entries::carry_out(doing, group, |group: Vec<ReceiptHandle>| async move {
        let entries = group.iter().enumerate().map(|(place, handle)| {
            DeleteMessageBatchRequestEntry::builder().id(entries::id(place)).receipt_handle(&handle.0).build()
        });
        let entries = built(doing, entries)?;
        let request = inner.clients.sqs.delete_message_batch().queue_url(&inner.settings.queue_url);
        let deleted = request.set_entries(Some(entries)).send().await;
        let deleted = deleted.map_err(|error| trouble::of_sdk(doing, &error))?;
        let done = deleted.successful.into_iter().map(|done| (done.id, Said::Done(())));
        let failed = deleted.failed.into_iter().map(|entry| (entry.id.clone(), failed_handle(&entry)));
        Ok(entries::in_order(group.len(), done.chain(failed)))
    })
    .await
}

fn failed<T>(entry: &BatchResultErrorEntry) -> Said<T> {
    Said::failed(&entry.code, entry.message.as_deref(), entry.sender_fault)
}

/// An entry whose handle can be what is wrong with it. An extension beyond the twelve hours that a message can be held in
/// all is refused as a bad value, and then the message is as good as not ours.
fn failed_handle<T>(entry: &BatchResultErrorEntry) -> Said<T> {
    let code = entry.code.rsplit('.').next().unwrap_or_default();
    match code {
        "ReceiptHandleIsInvalid" | "InvalidParameterValue" | "MessageNotInflight" => Said::Never(EntryError::NotOurs),
        _ => failed(entry),
    }
}

/// In whole seconds, as SQS counts, and never less.
pub(super) fn seconds(time: Duration) -> i32 {
    i32::try_from(time.as_millis().div_ceil(1_000)).unwrap_or(i32::MAX)
}

fn built<T>(doing: &str, entries: impl Iterator<Item = Result<T, BuildError>>) -> Result<Vec<T>, StoreError> {
    entries.collect::<Result<_, _>>().map_err(|error| trouble::of_ours(StoreTrouble::Other, doing, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up() {
        let millis = |millis| seconds(Duration::from_millis(millis));
        assert_eq!([0, 1, 1_000, 1_001, 29_999].map(millis), [0, 1, 1, 2, 30]);
        assert_eq!(seconds(Duration::MAX), i32::MAX);
    }

    #[test]
    fn f19_what_is_wrong_with_a_handle_is_not_ours() {
        let of = |code: &str, sender_fault| {
            let entry = BatchResultErrorEntry::builder().id("0").code(code).sender_fault(sender_fault).build();
            failed_handle::<()>(&entry.unwrap_or_else(|error| unreachable!("{error}")))
        };
        for code in ["ReceiptHandleIsInvalid", "InvalidParameterValue", "AWS.SimpleQueueService.MessageNotInflight"] {
            assert_eq!(of(code, true), Said::Never(EntryError::NotOurs), "{code}");
        }
        assert!(matches!(of("InternalError", false), Said::Trouble(StoreTrouble::Away, _)));
        assert!(matches!(of("SomethingElse", true), Said::Never(EntryError::Refused(_))));
    }
}

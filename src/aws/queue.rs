//! What is to be worked next? The queue of a fleet is SQS: nothing here orders or selects, and what SQS counts in whole seconds
//! is rounded up, so that a message is hidden at least as long as was asked for.
//!
//! A standard queue, with the tenant as the message group: SQS then holds a loud tenant back for the quiet ones (fair queues).
//! Priorities order only what a worker holds.
//!
//! Deletions and changes of visibility come one by one from many jobs, and share calls ([`Company`]).

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::error::SdkError;
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
    MessageAttributeValue, MessageSystemAttributeName as Attribute, QueueAttributeName as Count,
    SendMessageBatchRequestEntry,
};
use aws_smithy_types::error::operation::BuildError;
use futures_util::future::join_all;

use super::claim_check::{self, ClaimChecks, Resolved};
use super::company::{Company, Room};
use super::entries::{self, Said};
use super::in_flight::{self, InFlight};
use super::objects::Objects;
use super::{Inner, text, trouble};
use crate::job::units::Timestamp;
use crate::ports::{
    BATCH_ENTRIES, Depth, Entry, EntryError, Message, MessageId, Outgoing, Queue, ReceiptHandle, StoreError,
    StoreTrouble,
};

/// What a message may weigh, and all messages of a call together: 1 MiB, less what attributes take when the message
/// becomes a dead letter.
const MESSAGE_BYTES: usize = (1 << 20) - (8 << 10);
/// What a dead letter's reason is cut to.
const REASON_CHARS: usize = 1_024;
/// The longest delay that SQS takes.
const LONGEST_DELAY: Duration = Duration::from_secs(15 * 60);
/// The longest that SQS waits for a message.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// How long a message stays hidden while it is moved to the dead letters.
const MOVING: Duration = Duration::from_secs(60);
/// A call for handles: they are short, only their number counts.
const HANDLES: Room = Room { requests: BATCH_ENTRIES, bytes: BATCH_ENTRIES };

/// The queue of a fleet.
#[derive(Debug)]
pub(super) struct SqsQueue {
    inner: Arc<Inner>,
    claim_checks: ClaimChecks,
    in_flight: InFlight,
    hiding: Company<(ReceiptHandle, Duration), Entry>,
    deleting: Company<ReceiptHandle, Entry>,
}

impl SqsQueue {
    /// Within a runtime, which carries the calls.
    pub(super) fn new(inner: &Arc<Inner>) -> Self {
        let settings = &inner.settings;
        let objects = Objects::new(inner.clients.s3.clone(), settings.bucket.clone());
        let (hiding, deleting) = (Arc::clone(inner), Arc::clone(inner));
        Self {
            inner: Arc::clone(inner),
            claim_checks: ClaimChecks::new(objects, &settings.prefix),
            in_flight: InFlight::default(),
            hiding: Company::new("changing the visibility of messages", HANDLES, move |group| {
                let inner = Arc::clone(&hiding);
                Box::pin(async move { hide(&inner, group).await })
            }),
            deleting: Company::new("deleting messages", HANDLES, move |group| {
                let inner = Arc::clone(&deleting);
                Box::pin(async move { delete(&inner, group).await })
            }),
        }
    }

    /// One poll, with nothing resolved.
    async fn poll(&self, max: usize, visibility: Duration, wait: Duration) -> Result<Vec<Message>, StoreError> {
        let hidden_until = self.inner.clock.now().after(visibility);
        let request = self.inner.clients.sqs.receive_message().queue_url(&self.inner.settings.queue_url);
        let request = request
            .max_number_of_messages(i32::try_from(max).unwrap_or(1))
            .visibility_timeout(seconds(visibility))
            .wait_time_seconds(seconds(wait.min(LONGEST_WAIT)))
            .message_system_attribute_names(Attribute::ApproximateReceiveCount)
            .message_system_attribute_names(Attribute::SentTimestamp)
            .message_system_attribute_names(Attribute::SenderId);
        match request.send().await {
            Ok(received) => {
                let messages = received.messages.unwrap_or_default();
                Ok(messages.into_iter().filter_map(|message| delivered(message, hidden_until)).collect())
            }
            // A short poll does say it.
            Err(SdkError::ServiceError(error)) if error.err().is_over_limit() => {
                self.in_flight.learn(Some(in_flight::FULL));
                tokio::time::sleep(wait).await;
                Ok(Vec::new())
            }
            Err(error) => Err(trouble::of_sdk("receiving messages", &error)),
        }
    }

    /// Asks how many are in flight, if that is due.
    async fn look_at_in_flight(&self) {
        if self.in_flight.is_due() {
            let counts = counts(&self.inner, &self.inner.settings.queue_url).await;
            self.in_flight.learn(counts.ok().map(|counts| counts.in_flight));
        }
    }

    /// Puts what a claim check stands for in its place. What cannot be had just now stays hidden a little longer.
    async fn resolve(&self, messages: Vec<Message>) -> Vec<Message> {
        let resolved = join_all(messages.iter().map(|one| self.claim_checks.resolve(&one.body, one.receives))).await;
        let (mut whole, mut later) = (Vec::new(), Vec::new());
        for (message, resolved) in messages.into_iter().zip(resolved) {
            match resolved {
                Resolved::AsItIs => whole.push(message),
                Resolved::Job(body) => whole.push(Message { body, ..message }),
                Resolved::NotNow(error) => {
                    tracing::debug!(message = %message.id.0, %error, "a large job waits for its body");
                    later.push((message.handle, patience(message.receives)));
                }
            }
        }
        if !later.is_empty() {
            // Should this fail too, they come back when their visibility timeout ends.
            let _ = hide(&self.inner, later).await;
        }
        whole
    }

    /// The body as a message of ours can carry it: itself, or the claim check for it.
    async fn carriable(&self, body: &str) -> Result<String, StoreError> {
        if fits(body) { Ok(body.to_owned()) } else { self.claim_checks.put_away(body).await }
    }

    /// Makes a letter of a message that is to be sent.
    async fn prepare(&self, outgoing: Outgoing) -> Result<Result<Letter, EntryError>, StoreError> {
        if outgoing.delay > LONGEST_DELAY {
            let (delay, longest) = (outgoing.delay.as_secs(), LONGEST_DELAY.as_secs());
            return Ok(Err(EntryError::Refused(format!("a delay of {delay} s, at most {longest} s are allowed"))));
        }
        if !fits(&outgoing.body) && !claim_check::is_object(&outgoing.body) {
            let why = match outgoing.body.len() {
                0 => "an empty message".to_owned(),
                length if length <= MESSAGE_BYTES => "a message with characters that SQS does not carry".to_owned(),
                length => format!("a message of {length} bytes that is no JSON object, at most {MESSAGE_BYTES} fit"),
            };
            return Ok(Err(EntryError::Refused(why)));
        }
        let body = self.carriable(&outgoing.body).await?;
        Ok(Ok(Letter { body, group: outgoing.tenant.to_string(), delay: seconds(outgoing.delay) }))
    }
}

#[async_trait]
impl Queue for SqsQueue {
    async fn send(&self, entries: Vec<Outgoing>) -> Result<Vec<Entry<MessageId>>, StoreError> {
        check("sending messages", entries.len())?;
        let prepared = join_all(entries.into_iter().map(|entry| self.prepare(entry))).await;
        let prepared: Vec<Result<Letter, EntryError>> = prepared.into_iter().collect::<Result<_, _>>()?;
        let letters: Vec<Arc<Letter>> = prepared.iter().flatten().cloned().map(Arc::new).collect();
        let weights: Vec<usize> = letters.iter().map(|letter| letter.body.len()).collect();
        let mut sent = Vec::with_capacity(letters.len());
        for group in groups(&weights, MESSAGE_BYTES) {
            sent.extend(post(&self.inner, letters.get(group).unwrap_or_default().to_vec()).await);
        }
        let mut sent = sent.into_iter();
        let unsent = || Err(trouble::of_ours(StoreTrouble::Other, "sending messages", "it was not sent"));
        let reply = |prepared| match prepared {
            Ok(_) => sent.next().unwrap_or_else(unsent),
            Err(refused) => Ok(Err(refused)),
        };
        prepared.into_iter().map(reply).collect()
    }

    async fn receive(
        &self,
        max: usize,
        _passing_over: &[Arc<str>],
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Message>, StoreError> {
        check("receiving messages", max)?;
        if max == 0 {
            return Ok(Vec::new());
        }
        if self.in_flight.is_full() {
            self.look_at_in_flight().await;
            if self.in_flight.is_full() {
                tokio::time::sleep(wait).await;
                return Ok(Vec::new());
            }
        }
        let messages = self.poll(max, visibility, wait).await?;
        if messages.is_empty() {
            self.look_at_in_flight().await;
        }
        Ok(self.resolve(messages).await)
    }

    async fn change_visibility(&self, entries: Vec<(ReceiptHandle, Duration)>) -> Result<Vec<Entry>, StoreError> {
        check("changing the visibility of messages", entries.len())?;
        join_all(entries.into_iter().map(|entry| self.hiding.ask(entry, 1))).await.into_iter().collect()
    }

    async fn delete(&self, handles: Vec<ReceiptHandle>) -> Result<Vec<Entry>, StoreError> {
        check("deleting messages", handles.len())?;
        join_all(handles.into_iter().map(|handle| self.deleting.ask(handle, 1))).await.into_iter().collect()
    }

    async fn dead_letter(&self, message: &Message, reason: &str) -> Result<Entry, StoreError> {
        // Also the question whether it is still ours: a stale handle must not make a second dead letter.
        let held = self.hiding.ask((message.handle.clone(), MOVING), 1).await?;
        if held.is_err() {
            return Ok(held);
        }
        let reason = Some(text::cut(reason, REASON_CHARS)).filter(|reason| !reason.is_empty());
        let reason = reason.unwrap_or_else(|| "no reason was given".to_owned());
        let doing = "moving a message to the dead letters";
        let unbuilt = |error: BuildError| trouble::of_ours(StoreTrouble::Other, doing, error.to_string());
        let request = self.inner.clients.sqs.send_message().queue_url(&self.inner.settings.dead_letter_url);
        let request = request
            .message_body(self.carriable(&message.body).await?)
            .message_attributes("aquifer.reason", words(reason).map_err(unbuilt)?)
            .message_attributes("aquifer.message_id", words(message.id.0.clone()).map_err(unbuilt)?);
        request.send().await.map_err(|error| trouble::of_sdk(doing, &error))?;
        self.deleting.ask(message.handle.clone(), 1).await
    }

    async fn depth(&self) -> Result<Depth, StoreError> {
        let settings = &self.inner.settings;
        let (waiting, dead) = futures_util::join!(
            counts(&self.inner, &settings.queue_url),
            counts(&self.inner, &settings.dead_letter_url)
        );
        let dead = dead?;
        Ok(Depth { dead: dead.ready + dead.in_flight + dead.delayed, ..waiting? })
    }
}

/// A message that SQS takes.
#[derive(Clone, Debug)]
struct Letter {
    body: String,
    group: String,
    /// In seconds.
    delay: i32,
}

async fn post(inner: &Inner, letters: Vec<Arc<Letter>>) -> Vec<Result<Entry<MessageId>, StoreError>> {
    let doing = "sending messages";
    entries::carry_out(doing, letters, |letters: Vec<Arc<Letter>>| async move {
        let entries = letters.iter().enumerate().map(|(place, letter)| {
            let entry = SendMessageBatchRequestEntry::builder().id(entries::id(place)).message_body(&letter.body);
            entry.message_group_id(&letter.group).delay_seconds(letter.delay).build()
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

async fn hide(inner: &Inner, group: Vec<(ReceiptHandle, Duration)>) -> Vec<Result<Entry, StoreError>> {
    let doing = "changing the visibility of messages";
    entries::carry_out(doing, group, |group: Vec<(ReceiptHandle, Duration)>| async move {
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
    .await
}

async fn delete(inner: &Inner, group: Vec<ReceiptHandle>) -> Vec<Result<Entry, StoreError>> {
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

async fn counts(inner: &Inner, queue_url: &str) -> Result<Depth, StoreError> {
    let request = inner.clients.sqs.get_queue_attributes().queue_url(queue_url);
    let names = [
        Count::ApproximateNumberOfMessages,
        Count::ApproximateNumberOfMessagesNotVisible,
        Count::ApproximateNumberOfMessagesDelayed,
    ];
    let found = request.set_attribute_names(Some(names.to_vec())).send().await;
    let counts = found.map_err(|error| trouble::of_sdk("counting messages", &error))?.attributes.unwrap_or_default();
    let [ready, in_flight, delayed] =
        names.map(|name| counts.get(&name).and_then(|count| count.parse().ok()).unwrap_or(0));
    Ok(Depth { ready, in_flight, delayed, dead: 0 })
}

fn delivered(message: aws_sdk_sqs::types::Message, hidden_until: Timestamp) -> Option<Message> {
    let attributes = message.attributes.unwrap_or_default();
    let number = |name| attributes.get(&name).and_then(|number| number.parse::<i64>().ok());
    Some(Message {
        handle: ReceiptHandle(message.receipt_handle?),
        id: MessageId(message.message_id?),
        body: message.body.unwrap_or_default(),
        receives: number(Attribute::ApproximateReceiveCount).and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
        sent: Timestamp(number(Attribute::SentTimestamp)?),
        hidden_until,
        sender: attributes.get(&Attribute::SenderId).cloned(),
    })
}

/// How long a message stays hidden whose body cannot be had: longer from delivery to delivery, since SQS moves a message
/// that was delivered too often to the dead letters.
fn patience(receives: u32) -> Duration {
    Duration::from_secs(1 << receives.saturating_sub(1).min(6))
}

fn fits(body: &str) -> bool {
    body.len() <= MESSAGE_BYTES && text::can_be_sent(body)
}

/// Which entries share a call, in their order: as many as weigh at most `room` together.
fn groups(weights: &[usize], room: usize) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut load = 0;
    for (place, weight) in weights.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if load + weight <= room => {
                load += weight;
                group.end = place + 1;
            }
            _ => {
                load = *weight;
                groups.push(place..place + 1);
            }
        }
    }
    groups
}

fn seconds(time: Duration) -> i32 {
    i32::try_from(time.as_millis().div_ceil(1_000)).unwrap_or(i32::MAX)
}

fn words(text: String) -> Result<MessageAttributeValue, BuildError> {
    MessageAttributeValue::builder().data_type("String").string_value(text).build()
}

fn built<T>(doing: &str, entries: impl Iterator<Item = Result<T, BuildError>>) -> Result<Vec<T>, StoreError> {
    entries.collect::<Result<_, _>>().map_err(|error| trouble::of_ours(StoreTrouble::Other, doing, error.to_string()))
}

fn check(doing: &str, entries: usize) -> Result<(), StoreError> {
    if entries <= BATCH_ENTRIES {
        return Ok(());
    }
    let why = format!("{entries} entries in one call, at most {BATCH_ENTRIES} are allowed");
    Err(trouble::of_ours(StoreTrouble::Other, doing, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_carries_what_fits_together() {
        let sizes = |weights: &[usize]| groups(weights, 10).into_iter().map(|group| group.len()).collect::<Vec<_>>();
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&[1; 10]), [10]);
        assert_eq!(sizes(&[1; 11]), [10, 1]);
        assert_eq!(sizes(&[4, 6, 1, 10, 9, 2]), [2, 1, 1, 1, 1]);
        assert_eq!(groups(&[4, 6, 1], 10), [0..2, 2..3]);
    }

    #[test]
    fn times_are_rounded_up() {
        let millis = |millis| seconds(Duration::from_millis(millis));
        assert_eq!([0, 1, 1_000, 1_001, 29_999].map(millis), [0, 1, 1, 2, 30]);
        assert_eq!(seconds(Duration::MAX), i32::MAX);
    }

    #[test]
    fn a_body_that_cannot_be_had_is_asked_for_less_and_less() {
        assert_eq!([1, 2, 3, 7, 8, 900].map(|receives| patience(receives).as_secs()), [1, 2, 4, 64, 64, 64]);
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

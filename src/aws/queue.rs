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
use aws_sdk_sqs::types::{MessageAttributeValue, MessageSystemAttributeName as Attribute, QueueAttributeName as Count};
use aws_smithy_types::error::operation::BuildError;
use futures_util::future::join_all;

use super::batch_calls::{self, Letter, seconds};
use super::claim_check::{self, ClaimChecks, Resolved};
use super::company::{Company, Room};
use super::in_flight::{self, InFlight};
use super::message_size::MessageSize;
use super::objects::Objects;
use super::{Inner, text, trace, trouble};
use crate::job::intake::PAYLOAD_BYTES;
use crate::job::trace::TraceContext;
use crate::job::units::Timestamp;
use crate::ports::{
    BATCH_ENTRIES, Depth, Entry, EntryError, Message, MessageId, Outgoing, Queue, ReceiptHandle, StoreError,
    StoreTrouble,
};

/// What a dead letter's reason is cut to.
const REASON_CHARS: usize = 1_024;
/// The longest delay that SQS takes.
const LONGEST_DELAY: Duration = Duration::from_secs(15 * 60);
/// The longest that SQS waits for a message.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// How long a message stays hidden while it is moved to the dead letters.
const MOVING: Duration = Duration::from_secs(60);
/// So long a receiver waits until it can take a whole batch: a receive costs the same for one message as for ten.
const GATHERED: Duration = Duration::from_millis(500);
/// A call for handles: they are short, only their number counts.
const HANDLES: Room = Room { requests: BATCH_ENTRIES, enough: BATCH_ENTRIES, bytes: BATCH_ENTRIES };

/// The queue of a fleet.
#[derive(Debug)]
pub(super) struct SqsQueue {
    inner: Arc<Inner>,
    claim_checks: ClaimChecks,
    in_flight: InFlight,
    size: MessageSize,
    dead_size: MessageSize,
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
            size: MessageSize::of(&settings.queue_url),
            dead_size: MessageSize::of(&settings.dead_letter_url),
            hiding: Company::new("changing the visibility of messages", HANDLES, move |group| {
                let inner = Arc::clone(&hiding);
                Box::pin(async move { batch_calls::hide(&inner, group).await })
            }),
            deleting: Company::new("deleting messages", HANDLES, move |group| {
                let inner = Arc::clone(&deleting);
                Box::pin(async move { batch_calls::delete(&inner, group).await })
            }),
        }
    }

    /// One poll, with nothing resolved.
    async fn poll(&self, max: usize, visibility: Duration, wait: Duration) -> Result<Vec<Message>, StoreError> {
        let asked = self.inner.clock.now();
        let request = self.inner.clients.sqs.receive_message().queue_url(&self.inner.settings.queue_url);
        let request = request
            .max_number_of_messages(i32::try_from(max).unwrap_or(1))
            .visibility_timeout(seconds(visibility))
            .wait_time_seconds(seconds(wait.min(LONGEST_WAIT)))
            .message_system_attribute_names(Attribute::ApproximateReceiveCount)
            .message_system_attribute_names(Attribute::SentTimestamp)
            .message_system_attribute_names(Attribute::SenderId)
            .message_attribute_names(TraceContext::TRACEPARENT)
            .message_attribute_names(TraceContext::TRACESTATE);
        match request.send().await {
            Ok(received) => {
                let messages = received.messages.unwrap_or_default();
                Ok(messages.into_iter().filter_map(|message| delivered(message, asked, visibility)).collect())
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
                    tracing::debug!(message_id = %message.id.0, %error, "a large job waits for its body");
                    later.push((message.handle, patience(message.receives)));
                }
            }
        }
        if !later.is_empty() {
            // Should this fail too, they come back when their visibility timeout ends.
            let _ = batch_calls::hide(&self.inner, later).await;
        }
        whole
    }

    /// The body as a message of at most so many bytes can carry it: itself, or the claim check for it.
    pub(super) async fn carriable(&self, body: String, limit: usize) -> Result<String, StoreError> {
        let fits = body.len() <= limit && text::can_be_sent(&body);
        if fits { Ok(body) } else { self.claim_checks.put_away(&body).await }
    }

    /// Makes a letter of a message that is to be sent.
    async fn prepare(&self, outgoing: Outgoing, limit: usize) -> Result<Entry<Arc<Letter>>, StoreError> {
        if outgoing.delay > LONGEST_DELAY {
            let (delay, longest) = (outgoing.delay.as_secs(), LONGEST_DELAY.as_secs());
            return Ok(Err(EntryError::Refused(format!("a delay of {delay} s, at most {longest} s are allowed"))));
        }
        if !text::can_be_sent(&outgoing.body) && !claim_check::is_object(&outgoing.body) {
            let why = "empty, or with characters that XML does not have and so SQS does not carry";
            return Ok(Err(EntryError::Refused(why.to_owned())));
        }
        if outgoing.body.len() > PAYLOAD_BYTES {
            let (length, limit) = (outgoing.body.len(), PAYLOAD_BYTES);
            return Ok(Err(EntryError::Refused(format!("{length} bytes, at most {limit} are allowed"))));
        }
        let body = self.carriable(outgoing.body, limit).await?;
        Ok(Ok(Arc::new(Letter {
            body,
            group: outgoing.tenant.to_string(),
            delay: outgoing.delay,
            trace: outgoing.trace,
        })))
    }
}

#[async_trait]
impl Queue for SqsQueue {
    async fn send(&self, entries: Vec<Outgoing>) -> Result<Vec<Entry<MessageId>>, StoreError> {
        check("sending messages", entries.len())?;
        let limit = self.size.bytes(&self.inner).await;
        let prepared = join_all(entries.into_iter().map(|entry| self.prepare(entry, limit))).await;
        let prepared: Vec<Entry<Arc<Letter>>> = prepared.into_iter().collect::<Result<_, _>>()?;
        let letters: Vec<Arc<Letter>> = prepared.iter().flatten().cloned().collect();
        let weights: Vec<usize> = letters.iter().map(|letter| letter.body.len()).collect();
        let mut sent = Vec::with_capacity(letters.len());
        // Nobody says whether a queue that takes less in a message takes more in a call.
        for group in groups(&weights, limit) {
            sent.extend(batch_calls::post(&self.inner, letters.get(group).unwrap_or_default().to_vec()).await);
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
        let limit = self.dead_size.bytes(&self.inner).await;
        let request = self.inner.clients.sqs.send_message().queue_url(&self.inner.settings.dead_letter_url);
        let traced = trace::attributes(message.trace.as_ref()).map_err(unbuilt)?;
        let request = request
            .message_body(self.carriable(message.body.clone(), limit).await?)
            .set_message_attributes(traced)
            .message_attributes("aquifer.reason", words(reason).map_err(unbuilt)?)
            .message_attributes("aquifer.message_id", words(message.id.0.clone()).map_err(unbuilt)?);
        request.send().await.map_err(|error| trouble::of_sdk(doing, &error))?;
        self.deleting.ask(message.handle.clone(), 1).await
    }

    fn gathers(&self) -> Duration {
        GATHERED
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

fn delivered(message: aws_sdk_sqs::types::Message, asked: Timestamp, visibility: Duration) -> Option<Message> {
    let attributes = message.attributes.unwrap_or_default();
    let number = |name| attributes.get(&name).and_then(|number| number.parse::<i64>().ok());
    Some(Message {
        handle: ReceiptHandle(message.receipt_handle?),
        id: MessageId(message.message_id?),
        body: message.body.unwrap_or_default(),
        receives: number(Attribute::ApproximateReceiveCount).and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
        sent: number(Attribute::SentTimestamp).map_or(asked, Timestamp),
        hidden_until: asked.after(visibility),
        sender: attributes.get(&Attribute::SenderId).cloned(),
        trace: message.message_attributes.as_ref().and_then(trace::of),
    })
}

/// How long a message stays hidden whose body cannot be had: longer from delivery to delivery, since SQS moves a message
/// that was delivered too often to the dead letters.
fn patience(receives: u32) -> Duration {
    Duration::from_secs(1 << receives.saturating_sub(1).min(6))
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

fn words(text: String) -> Result<MessageAttributeValue, BuildError> {
    MessageAttributeValue::builder().data_type("String").string_value(text).build()
}

fn check(doing: &str, entries: usize) -> Result<(), StoreError> {
    if entries <= BATCH_ENTRIES {
        return Ok(());
    }
    let why = format!("{entries} entries in one call, at most {BATCH_ENTRIES} are allowed");
    Err(trouble::of_ours(StoreTrouble::Other, doing, why))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::super::canned::{Canned, Service};
    use super::*;

    const HIDE: Duration = Duration::from_millis(29_001);

    fn sqs(answer: &serde_json::Value) -> Canned {
        Canned::new(200, answer.to_string()).header("content-type", "application/x-amz-json-1.0")
    }

    fn refused(code: &str) -> Canned {
        sqs(&json!({ "__type": format!("com.amazonaws.sqs#{code}") })).status(400)
    }

    fn message(body: &str) -> serde_json::Value {
        let attributes = json!({ "ApproximateReceiveCount": "3", "SentTimestamp": "5", "SenderId": "AIDA" });
        json!({ "MessageId": "m", "ReceiptHandle": "h", "Body": body, "Attributes": attributes })
    }

    fn in_flight(count: u64) -> Canned {
        sqs(&json!({ "Attributes": { "ApproximateNumberOfMessagesNotVisible": count.to_string() } }))
    }

    async fn receive(service: &Service) -> Vec<Message> {
        service.fleet.queue().receive(10, &[], HIDE, Duration::ZERO).await.unwrap()
    }

    #[tokio::test]
    async fn a_delivery_says_all_that_sqs_knows_of_it() {
        let service = Service::answering([sqs(&json!({ "Messages": [message("{}")] }))]).await;
        let wait = Duration::from_millis(20_001);
        let message = service.fleet.queue().receive(10, &[], HIDE, wait).await.unwrap().remove(0);
        assert_eq!((message.receives, message.sent, message.sender.as_deref()), (3, Timestamp(5), Some("AIDA")));
        assert_eq!(message.hidden_until, Timestamp(1_700_000_000_000).after(HIDE), "as asked for, not as rounded up");
        let asked = service.json(0);
        assert_eq!((&asked["VisibilityTimeout"], &asked["WaitTimeSeconds"]), (&json!(30), &json!(20)));
    }

    #[tokio::test]
    async fn a_silent_queue_with_too_much_in_flight_is_left_alone() {
        let nothing = sqs(&json!({}));
        let service = Service::answering([nothing, in_flight(in_flight::FULL), refused("Unexpected")]).await;
        assert!(receive(&service).await.is_empty());
        assert!(receive(&service).await.is_empty());
        assert_eq!(service.asked(), ["ReceiveMessage", "GetQueueAttributes"], "the second was not even asked for");
    }

    #[tokio::test]
    async fn a_quiet_queue_is_asked_for_more() {
        let nothing = || sqs(&json!({}));
        let service = Service::answering([nothing(), in_flight(in_flight::FULL - 1), nothing()]).await;
        assert!(receive(&service).await.is_empty());
        assert!(receive(&service).await.is_empty());
        assert_eq!(service.asked(), ["ReceiveMessage", "GetQueueAttributes", "ReceiveMessage"]);
    }

    #[tokio::test]
    async fn over_limit_is_no_error_but_too_much_in_flight() {
        let service = Service::answering([refused("OverLimit"), in_flight(in_flight::FULL)]).await;
        assert!(receive(&service).await.is_empty());
        assert!(receive(&service).await.is_empty());
        assert_eq!(service.asked(), ["ReceiveMessage", "GetQueueAttributes"]);
    }

    #[tokio::test]
    async fn a_large_job_that_cannot_be_had_now_is_hidden_and_the_rest_delivered() {
        let messages = json!({ "Messages": [message(r#"{"payload":"s3://b/k"}"#), message("{}")] });
        let hidden = sqs(&json!({ "Successful": [{ "Id": "0" }], "Failed": [] }));
        // A credential that has expired is loaded again by and by.
        let service = Service::answering([sqs(&messages), Canned::of_s3(403, "ExpiredToken"), hidden]).await;
        let bodies: Vec<_> = receive(&service).await.into_iter().map(|message| message.body).collect();
        assert_eq!(bodies, ["{}"]);
        assert_eq!(service.asked().last().unwrap(), "ChangeMessageVisibilityBatch");
        assert_eq!(service.json(2)["Entries"][0]["VisibilityTimeout"], 4, "at the third delivery");
    }

    #[tokio::test]
    async fn f19_d11_an_entry_that_failed_for_now_is_deleted_all_the_same() {
        let failed = json!({ "Id": "0", "Code": "InternalError", "SenderFault": false });
        let service = Service::answering([
            sqs(&json!({ "Successful": [], "Failed": [failed] })),
            sqs(&json!({ "Successful": [{ "Id": "0" }], "Failed": [] })),
        ])
        .await;
        let handle = ReceiptHandle("h".to_owned());
        assert_eq!(service.fleet.queue().delete(vec![handle]).await.unwrap(), [Ok(())]);
        assert_eq!(service.asked(), ["DeleteMessageBatch"; 2]);
    }

    #[tokio::test]
    async fn of_two_changes_to_one_message_the_later_is_made() {
        let done = sqs(&json!({ "Successful": [{ "Id": "0" }], "Failed": [] }));
        let service = Service::answering([done]).await;
        let handle = || ReceiptHandle("h".to_owned());
        let twice = vec![(handle(), HIDE), (handle(), Duration::ZERO)];
        assert_eq!(service.fleet.queue().change_visibility(twice).await.unwrap(), [Ok(()), Ok(())]);
        let entries = service.json(0)["Entries"].clone();
        assert_eq!(entries.as_array().unwrap().len(), 1);
        assert_eq!(entries[0]["VisibilityTimeout"], 0);
    }

    #[tokio::test]
    async fn a_message_that_is_not_ours_makes_no_dead_letter() {
        let failed = json!({ "Id": "0", "Code": "ReceiptHandleIsInvalid", "SenderFault": true });
        let service = Service::answering([sqs(&json!({ "Successful": [], "Failed": [failed] }))]).await;
        let stale = delivered(
            aws_sdk_sqs::types::Message::builder().message_id("m").receipt_handle("h").body("{}").build(),
            Timestamp(0),
            HIDE,
        );
        let reply = service.fleet.queue().dead_letter(&stale.unwrap(), "why").await.unwrap();
        assert_eq!(reply, Err(EntryError::NotOurs));
        assert_eq!(service.asked(), ["ChangeMessageVisibilityBatch"]);
    }

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
    fn a_body_that_cannot_be_had_is_asked_for_less_and_less() {
        assert_eq!([1, 2, 3, 7, 8, 900].map(|receives| patience(receives).as_secs()), [1, 2, 4, 64, 64, 64]);
    }
}

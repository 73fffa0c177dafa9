//! From where do jobs come? The seam that SQS has, so that every back end has its semantics.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Entry, StoreError};
use crate::job::ident::{BatchName, Tenant};
use crate::job::spec::Priority;
use crate::job::trace::TraceContext;
use crate::job::units::Timestamp;

/// At most this many entries go into one batch call, as on SQS.
pub const BATCH_ENTRIES: usize = 10;

/// A message as it is sent.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// A job in the contract's form.
    pub body: String,
    /// Where it is counted and from where it can be drawn alone.
    pub batch: BatchName,
    /// Whose it is: where the queue can, a loud tenant does not hold up the others.
    pub tenant: Tenant,
    /// The model, as the job names it; `None` if whoever sends it does not know. Then it is never passed over.
    pub model: Option<String>,
    /// Which of the waiting goes first.
    pub priority: Priority,
    /// Not delivered before this has passed.
    pub delay: Duration,
    /// To which trace it belongs; delivered with it.
    pub trace: Option<TraceContext>,
}

/// The name of a message; the same at every delivery.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct MessageId(pub String);

/// The right to one delivery of a message; the next delivery makes it stale.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ReceiptHandle(pub String);

/// A delivered message, hidden from others until its visibility timeout ends.
#[derive(Clone, Debug)]
pub struct Message {
    /// The right to this delivery.
    pub handle: ReceiptHandle,
    /// Its name.
    pub id: MessageId,
    /// A job in the contract's form, or garbage.
    pub body: String,
    /// How often it was delivered, this time included.
    pub receives: u32,
    /// When it was sent.
    pub sent: Timestamp,
    /// Until when it is hidden: counted from before the request, so never later than the truth.
    pub hidden_until: Timestamp,
    /// Who sent it, where the queue knows: on SQS the principal's unique id, `AIDA...` or `AROA...:session`.
    pub sender: Option<String>,
    /// To which trace it belongs, if whoever sent it said so.
    pub trace: Option<TraceContext>,
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Depth {
    /// Deliverable now.
    pub ready: u64,
    /// Delivered and hidden.
    pub in_flight: u64,
    /// Sent or handed back with a delay.
    pub delayed: u64,
    /// In the dead-letter queue.
    pub dead: u64,
}

/// A queue with the semantics of SQS: at least once, visibility timeout, receive count, delay, dead letters.
///
/// * Batch calls take at most [`BATCH_ENTRIES`] entries; more are refused as a whole with an error. An empty batch
///   is a no-op. Replies stand in the order of the entries.
/// * A message that is neither deleted nor extended is delivered again when its visibility timeout ends, with
///   the next receive count and a new handle; the old handle is
///   [`EntryError::NotOurs`](super::EntryError::NotOurs) from then on.
/// * When the process that holds a message is known to be dead, the message is deliverable at once.
/// * Lower [`Priority`] first, then oldest first, among what is deliverable. A back end may order only roughly.
/// * A back end that can select delivers nothing that a receiver passes over, and what it does deliver is in the same
///   order as ever; passing over a model costs the same however many of its messages are deliverable. One that
///   cannot select may deliver them all the same, and gets them back.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Durable once a reply is `Ok`.
    async fn send(&self, entries: Vec<Outgoing>) -> Result<Vec<Entry<MessageId>>, StoreError>;

    /// Up to `max` (at most [`BATCH_ENTRIES`]) messages, hidden for `visibility`, of other models than those named in
    /// `passing_over`, which need not be known to the queue. Waits up to `wait` for the first.
    /// Cancel-safe only in that a message received and dropped comes back after `visibility`.
    async fn receive(
        &self,
        max: usize,
        passing_over: &[Arc<str>],
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Message>, StoreError>;

    /// Hides each message for so long from now; zero makes it deliverable at once.
    async fn change_visibility(&self, entries: Vec<(ReceiptHandle, Duration)>) -> Result<Vec<Entry>, StoreError>;

    /// Removes messages for good. A handle that is not ours any more removes nothing.
    async fn delete(&self, handles: Vec<ReceiptHandle>) -> Result<Vec<Entry>, StoreError>;

    /// Moves one message to the dead-letter queue with its reason. It is never in neither; a back end that cannot do it in
    /// one step may have it in both for a moment.
    async fn dead_letter(&self, message: &Message, reason: &str) -> Result<Entry, StoreError>;

    /// For how long a question is better held back to ask for a whole batch, where every question costs, whatever it brings.
    fn gathers(&self) -> Duration {
        Duration::ZERO
    }

    /// How much waits, approximately.
    async fn depth(&self) -> Result<Depth, StoreError>;
}

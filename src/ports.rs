//! The seams between the flow and the world. Each trait's contract is its doc comment, and `tests/contract` runs
//! it on every back end.
//!
//! Times are wall-clock [`Timestamp`]s from the back end's [`Clock`]; durations are relative to the moment the
//! back end starts the request. `Ok` from a batch call says nothing about its entries: each has its own reply.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::job::agent::AgentCall;
use crate::job::control::Seal;
use crate::job::failure::Failure;
use crate::job::ident::{BatchKey, Digest, JobKey};
use crate::job::lifecycle::State;
use crate::job::notice::{BatchSums, Notice};
use crate::job::outcome::{Ending, Pointer, Tally, Usage};
use crate::job::spec::TaskToken;
use crate::job::trail::Trail;
use crate::job::units::{Timestamp, Usd};

pub use self::documents::{Documents, Opened, OpenedChunk, Parts, Round, RoundStanding, Sources, Unopened};
pub use self::finding::{Finding, Severity};
pub use self::ingestions::{Begun, Ingestions};
pub use self::queue::{BATCH_ENTRIES, Depth, Message, MessageId, Outgoing, Queue, ReceiptHandle};

mod documents;
mod finding;
mod ingestions;
pub mod inputs;
mod queue;
pub mod rolls;

// ---------------------------------------------------------------------------------------------------- errors

/// A back end did not do what it was asked. Nothing is half done: the call may be repeated.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{doing}: {why}")]
pub struct StoreError {
    /// What kind of trouble, which decides what to do about it.
    pub kind: StoreTrouble,
    /// What was being done, in words: "recording 12 results".
    pub doing: String,
    /// What the system said.
    pub why: String,
}

/// The kinds of trouble a back end can have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StoreTrouble {
    /// Passing: locked, throttled, away. Worth trying again.
    Away,
    /// No room left. Worth trying again once somebody has made some.
    Full,
    /// Not allowed: permissions, read-only.
    Denied,
    /// Written by a newer version of this program.
    Newer,
    /// Damaged, or not ours at all.
    Damaged,
    /// Anything else.
    Other,
}

/// Why one entry of a batch call was not carried out.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EntryError {
    /// The receipt handle is no longer the newest: the lease ran out and the message was delivered again, or
    /// it was deleted.
    #[error("the message is no longer ours")]
    NotOurs,
    /// The entry itself is not acceptable.
    #[error("{0}")]
    Refused(String),
}

/// The reply to one entry of a batch call.
pub type Entry<T = ()> = Result<T, EntryError>;

// ---------------------------------------------------------------------------------------------------- ledger

/// Grows with every claim of a job; a write under an older one is refused.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct FencingToken(pub u64);

/// The right to write to one job's row, while the lease lasts and nobody claimed it after us.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fence {
    /// Which job.
    pub key: JobKey,
    /// Under which claim.
    pub token: FencingToken,
}

/// What a claim found.
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimReply {
    /// It is ours.
    Claimed(Claimed),
    /// Another owner holds it until then, unless it is extended.
    Busy {
        /// When its lease ends as things stand.
        until: Timestamp,
    },
    /// It has ended.
    AlreadyFinal(FinalRow),
    /// The identity is taken by other content.
    Conflict,
}

/// A claimed job's standing.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    /// The right to write.
    pub fence: Fence,
    /// How often a person ran it again.
    pub generation: u32,
    /// What was counted so far. Calls that an earlier owner began and never settled are in `unknown`.
    pub tally: Tally,
    /// Claims whose work had begun and that left no outcome. One process's death weighs `1 / jobs it had begun` on
    /// each of them: with one job in hand the job is the suspect, with hundreds the cause was another.
    pub suspicion: f64,
    /// When the job was first queued.
    pub enqueued: Timestamp,
    /// What happened to it so far, this claim last.
    pub trail: Trail,
}

/// A row in a final state.
#[derive(Clone, Debug, PartialEq)]
pub struct FinalRow {
    /// Which job.
    pub key: JobKey,
    /// How often a person ran it again.
    pub generation: u32,
    /// What was counted.
    pub tally: Tally,
    /// What became of it.
    pub ending: Ending,
}

/// May this call begin?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BeginReply {
    /// Yes, and it is on record.
    Begun,
    /// It could bring the batch over its cap: nothing was written.
    OverCap {
        /// What the batch has spent and reserved.
        committed: Usd,
        /// Of which, price of calls still open; when they settle lower, there may be room.
        open: Usd,
    },
    /// The job is not ours any more.
    Lost,
}

/// What writing a final row came to.
#[derive(Clone, Debug, PartialEq)]
pub enum FinishReply {
    /// The row is final; also when it already was, under the same fence and pointer.
    Recorded {
        /// The row as it now stands.
        row: Box<FinalRow>,
        /// Whether its batch has no open job left and waits to be announced.
        batch_complete: bool,
    },
    /// The job is not ours any more; nothing was written.
    Lost,
}

/// The record of every job: who owns it, what was counted, what became of it.
///
/// * One owner: of any number of claims that race, one gets [`ClaimReply::Claimed`].
/// * A write under a fence that is not the newest changes nothing and says so: [`BeginReply::Lost`],
///   [`FinishReply::Lost`], [`EntryError::NotOurs`].
/// * A final row never changes, but by a redrive; `succeeded` never.
/// * A final row and its batch's counts change in one transaction.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Takes a job: makes its row if there is none, else as [`ClaimReply`] says. A `running` row whose lease ran out,
    /// or whose owner is known to be dead, is taken over with the next token.
    async fn claim(
        &self,
        key: &JobKey,
        content: Digest,
        enqueued: Timestamp,
        lease: Duration,
    ) -> Result<ClaimReply, StoreError>;

    /// Puts on record that a call is about to be made: `tally` already counts it, `open` is the price of its
    /// reservation. With `cap`, refuses if the committed cost of the batch, of all its tenants together, and `open`
    /// would exceed it.
    async fn begin(&self, fence: &Fence, tally: Tally, open: Usd, cap: Option<Usd>) -> Result<BeginReply, StoreError>;

    /// Puts on record what a call came to that did not end its job: nothing is open any more, and should this claim
    /// leave nothing else, it raises no suspicion. Here and below, `trail` takes the place of the one on record, whose newest
    /// events are kept as far as there is room for them.
    async fn settle(&self, fence: &Fence, tally: Tally, trail: Trail) -> Result<Entry, StoreError>;

    /// Holds leases for so long from now.
    async fn extend(&self, fences: Vec<Fence>, lease: Duration) -> Result<Vec<Entry>, StoreError>;

    /// Gives a job back to `queued`, with what was counted. Nothing is left open and this claim raises no suspicion.
    async fn hand_back(&self, fence: &Fence, tally: Tally, trail: Trail) -> Result<Entry, StoreError>;

    /// Makes the row final.
    async fn finish(
        &self,
        fence: &Fence,
        tally: Tally,
        ending: Ending,
        trail: Trail,
    ) -> Result<FinishReply, StoreError>;

    /// Puts on record that the end of a job was made known at that moment. For people who ask: a back end may write it
    /// later, together with others, and lose it if the process dies before.
    async fn notified(&self, key: &JobKey, at: Timestamp) -> Result<(), StoreError>;

    /// What stands there now.
    async fn look_up(&self, key: &JobKey) -> Result<Option<(State, Option<FinalRow>)>, StoreError>;

    /// The batch, if it is sealed, every job of it has ended, and nobody has announced that yet, or somebody still waits for it
    /// in a workflow.
    async fn complete_unannounced(&self, batch: &BatchKey) -> Result<Option<CompleteBatch>, StoreError>;

    /// Puts on record that this completion was announced; a second time is a no-op.
    async fn mark_announced(&self, batch: &BatchKey, completion: u64) -> Result<(), StoreError>;

    /// Publishes why a lane lets nothing through just now, for `status` and `explain`; `None` when it does again.
    async fn post_gate(&self, lane: &str, gate: Option<Gate>) -> Result<(), StoreError>;
}

/// Where batches are sealed by what a message says; see [`Control::Seal`](crate::job::control::Control::Seal).
#[async_trait]
pub trait Seals: Send + Sync {
    /// Puts on record how many jobs each tenant's batch has in all. Repeated, it changes nothing; a later one of the same batch
    /// says what was added.
    async fn seal(&self, seal: &Seal) -> Result<(), StoreError>;

    /// Puts on record who waits for the batch in a workflow. Said after everything that is to be waited for is on record: sealed,
    /// or running again. Repeated, it changes nothing.
    async fn wait(&self, batch: &BatchKey, token: &TaskToken) -> Result<(), StoreError>;

    /// Puts on record that this one was answered, and waits no more.
    async fn answered(&self, batch: &BatchKey, token: &TaskToken) -> Result<(), StoreError>;
}

/// A complete batch of which somebody is to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct CompleteBatch {
    /// How often it was complete before.
    pub completion: u64,
    /// Counts and sums.
    pub sums: BatchSums,
    /// Where its manifest was written.
    pub manifest: String,
    /// Whether this completion was not announced yet.
    pub is_news: bool,
    /// Who waits for it in workflows, each under a token of his own; those who ask after it was announced, too.
    pub waiting: Vec<TaskToken>,
}

/// Why a lane lets nothing through, since when and until when.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Gate {
    /// In words: "tokens a minute", "throttled by the service", "credentials expired".
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when, as things stand.
    pub until: Timestamp,
}

// ---------------------------------------------------------------------------------------------------- bodies

/// Result lines, many to a segment.
#[async_trait]
pub trait Bodies: Send + Sync {
    /// Appends one line (without its line feed). Durable, its segment's name included, once this returns.
    async fn append(&self, batch: &BatchKey, line: Bytes) -> Result<Pointer, StoreError>;

    /// Reads a line back and checks its digest.
    async fn read(&self, pointer: &Pointer) -> Result<Bytes, StoreError>;
}

// --------------------------------------------------------------------------------------------------- notices

/// Where ends are made known.
#[async_trait]
pub trait Notices: Send + Sync {
    /// Durable, or accepted by the other side, once this returns. May be called again with the same notice.
    async fn publish(&self, notice: &Notice) -> Result<(), StoreError>;
}

// ------------------------------------------------------------------------------------------------- callbacks

/// Where those are answered who wait for an end in a workflow.
#[async_trait]
pub trait Callbacks: Send + Sync {
    /// Answers the one who waits under this token: with the notice if what it tells of succeeded, else with its failure.
    /// One that nobody waits under any more (answered, timed out, stopped) is as good as answered, so that this may be
    /// called again.
    async fn answer(&self, token: &TaskToken, notice: &Notice) -> Result<(), StoreError>;

    /// Tells the one who waits under this token why the message that brought it is no job. May be called again, like
    /// [`answer`](Self::answer).
    async fn refuse(&self, token: &TaskToken, reason: &str) -> Result<(), StoreError>;
}

// ------------------------------------------------------------------------------------------------- pipelines

/// Where workflows are begun.
#[async_trait]
pub trait Pipelines: Send + Sync {
    /// Begins an execution of this pipeline under that name, with this JSON as its input. If there is one of that name, whatever
    /// became of it, that is the one: this may be called again.
    ///
    /// What is wrong with the pipeline itself, or with what we may do with it, is no [`StoreTrouble::Away`], and says what mends it.
    async fn begin(&self, pipeline: &str, name: &str, input: &str) -> Result<(), StoreError>;
}

// ----------------------------------------------------------------------------------------------------- model

/// Where a call goes: one endpoint, and the model or profile id as resolved for it. The thing that has a quota.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LaneId {
    /// The region that is called.
    pub region: Arc<str>,
    /// The model or inference-profile id, prefix included.
    pub model_id: Arc<str>,
}

impl LaneId {
    /// From the form in which it is displayed; `None` if that names no region.
    pub fn parse(text: &str) -> Option<Self> {
        let (region, model_id) = text.split_once('/')?;
        Some(Self { region: region.into(), model_id: model_id.into() })
    }
}

impl std::fmt::Display for LaneId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.region, self.model_id)
    }
}

/// One call.
#[derive(Clone, Debug)]
pub struct ModelCall {
    /// Where to.
    pub lane: LaneId,
    /// Which operation, and its JSON body.
    pub body: CallBody,
    /// Given up after this.
    pub timeout: Duration,
}

/// The operations.
#[derive(Clone, Debug)]
pub enum CallBody {
    /// A Converse request without `modelId`.
    Converse(Bytes),
    /// An `InvokeModel` body.
    Invoke(Bytes),
    /// An `InvokeAgent` request, with its session.
    Agent(AgentCall),
}

/// A model's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The joined text blocks; `None` when the answer is not text (an embedding, an image).
    pub text: Option<String>,
    /// The response as the service sent it: all of it for `InvokeModel`, `output` for Converse, what an agent's events say.
    pub output: serde_json::Value,
    /// Why the model stopped, as the service says it.
    pub stop_reason: Option<String>,
    /// Its tokens.
    pub usage: Usage,
}

/// A call that brought no answer.
#[derive(Clone, Debug, PartialEq)]
pub struct CallFailure {
    /// What happened.
    pub failure: Failure,
    /// Whether it may have cost something.
    pub billing: Billing,
    /// The service's own word on when to come back.
    pub retry_after: Option<Duration>,
}

/// What a failed call may have cost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Billing {
    /// It was refused before any work: reservation and money come back.
    Nothing,
    /// It was answered, without use to us.
    Billed(Usage),
    /// Nobody knows: the reservation ages out, the price counts as committed.
    Unknown,
}

/// The model service. Makes exactly one HTTP request a call; never retries by itself.
#[async_trait]
pub trait Model: Send + Sync {
    /// Calls once.
    async fn call(&self, call: ModelCall) -> Result<Answer, CallFailure>;

    /// Loads credentials afresh; `Err` says in words why there are none.
    async fn refresh_credentials(&self) -> Result<(), String>;
}

// ------------------------------------------------------------------------------------------------- allowance

/// A lane's state is at most this long, in bytes: more than the rules ever need, and less than any store can hold.
pub const LANE_STATE_BYTES: usize = 64 * 1_024;

/// Grows with every swap of a lane's state; 0 says that there is none yet.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Version(pub u64);

/// What stands in a lane's row.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Shared {
    /// Of the state; what a swap must name to replace it.
    pub version: Version,
    /// As it was last swapped in, byte for byte; empty under version 0.
    pub state: Bytes,
    /// The store's own clock at the reply, see [`Allowance`].
    pub now: Timestamp,
}

/// What a swap came to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Swap {
    /// The state is the given one.
    Swapped {
        /// Its version, higher than every one before it.
        version: Version,
        /// The store's own clock at the reply, see [`Allowance`].
        now: Timestamp,
    },
    /// Another state had been swapped in meanwhile, this one; nothing was changed.
    Stale(Shared),
}

/// What every worker knows of one lane: an opaque state, by compare-and-swap. The arithmetic is the reader's; the store
/// neither reads a state nor merges two.
///
/// * Shared by all that open the same store, whatever process or machine they are on. A swap is durable once it is
///   [`Swap::Swapped`], and every read that begins after that finds it, or a later one.
/// * A version is never used twice for one lane, so that equal versions are equal states. Lanes do not touch each other.
/// * A state stays until it is swapped: it outlives its writer and every batch.
/// * `now` is read after the state it comes with. As long as the store's clock does not jump back, no reply is earlier than one
///   that was there before its request, nor than the swap that wrote its state. When the clock does jump, `now`
///   says what it says.
#[async_trait]
pub trait Allowance: Send + Sync {
    /// What stands there; an empty state under version 0 if nothing was ever written.
    async fn read(&self, lane: &LaneId) -> Result<Shared, StoreError>;

    /// Replaces the state if its version is still `expected` (0: there is none yet). Of any number that race with one
    /// version, one is [`Swap::Swapped`]. A state beyond [`LANE_STATE_BYTES`] is refused with an error, and an empty one
    /// is as good as any.
    ///
    /// After another error the swap may have been carried out all the same, with its reply lost on the way: repeated, it is
    /// then [`Swap::Stale`] over its own state.
    async fn swap(&self, lane: &LaneId, expected: Version, state: Bytes) -> Result<Swap, StoreError>;

    /// How far apart one worker's swaps of one lane are to be in the long run, because each costs something. Zero, as by
    /// default: one for every call is welcome. Where it is longer, workers draw grants for the calls of that time instead.
    fn pace(&self) -> Duration {
        Duration::ZERO
    }
}

// ----------------------------------------------------------------------------------------------------- clock

/// The wall clock. Waiting is done on tokio's clock, which tests pause; this one is derived from it there.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

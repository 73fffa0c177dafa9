//! How does an input become the jobs of a batch? Line by line, and each line stands on a roll: what an input held, in its order,
//! is known long after the input is gone.

use async_trait::async_trait;
use bytes::Bytes;

use super::StoreError;
use super::inputs::Edition;
use crate::job::control::Seal;
use crate::job::ident::{BatchKey, BatchName, Digest, JobId, JobKey, Tenant};
use crate::job::lifecycle::{State, Status};
use crate::job::spec::Job;

/// One line of an input.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place in the input; every line has its own.
    pub position: u64,
    /// What it holds.
    pub line: Line,
}

/// What a line of an input holds.
#[derive(Clone, Debug)]
pub enum Line {
    /// A job. It is counted in the run's batch, whatever its key says.
    Job {
        /// The job.
        job: Box<Job>,
        /// The line named no id: it is the digest of the content, and repeats get `-2`, `-3` and so on.
        auto_id: bool,
        /// Its deadline has passed: only a job that is known already is let in.
        stale_deadline: bool,
    },
    /// Refused before it became a job; leaves no ledger row.
    Refused {
        /// Whose line it is.
        tenant: Tenant,
        /// The id that the result names.
        id: String,
        /// The finished result, one JSON object without its line feed.
        result_line: Vec<u8>,
    },
}

/// What became of a line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// A job that was not known: queued.
    New,
    /// Known, and waiting.
    Queued,
    /// Known, and at work.
    Running,
    /// Known, and ended.
    Final(Status),
    /// Had failed or expired, and is queued again.
    Redriven,
    /// The same id and content stand earlier in this input: one job, and no line of its own.
    SameLineTwice,
    /// The id is taken by other content. Not on the roll: enrol a refused line in its place.
    Conflict {
        /// How the job stands that has it.
        with: State,
    },
    /// The deadline has passed and the job is not known. Not on the roll: enrol a refused line in its place.
    StaleDeadline,
    /// Its result is stored.
    Refused,
}

/// Lines of input to a part of a roll, refused ones and repetitions included.
pub const PART_LINES: usize = 5_000;

/// A line of a roll. A line that repeats a job of the same input has none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RollLine {
    /// Its place in the input; every line has its own.
    pub position: u64,
    /// Whose line it is.
    pub tenant: Tenant,
    /// What it holds.
    pub content: LineContent,
}

/// What a line of a roll holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LineContent {
    /// A job; every one stands in a roll once.
    Job(JobId),
    /// Refused before it became a job.
    Refused {
        /// The id that the result names.
        id: String,
        /// The finished result, one JSON object without its line feed.
        result: Bytes,
    },
}

/// How far an earlier process came with an input of this batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AlreadySent {
    /// So many lines of it were sent.
    pub lines: u64,
    /// The digest of these lines, as it was given to [`Roll::part`].
    pub digest: Digest,
    /// Whether it was all.
    pub sealed: bool,
}

/// What came of running a job again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Redriven {
    /// It is queued in this generation: it is worked as soon as a message of it is delivered.
    Queued {
        /// How often it was run again.
        generation: u32,
    },
    /// It is in a state that is not left so.
    NotFrom(State),
    /// There is no such job.
    Unknown,
}

/// An object of which jobs of a batch were made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Origin {
    /// Where it lies.
    pub uri: String,
    /// As it was then.
    pub edition: Edition,
    /// The model that was named for jobs that name none.
    pub model: Option<String>,
}

/// Where the rolls of batches are kept, and jobs run again.
#[async_trait]
pub trait Rolls: Send + Sync {
    /// Begins, or goes on with, the roll of a batch: see [`Roll::already_sent`]. Inputs that are enqueued for one tenant have a roll of
    /// his own, which other tenants' inputs of a batch of that name do not touch, unless the batch was begun by an input that may be of
    /// several. `Denied` for such an input if several tenants have theirs.
    async fn begin(&self, batch: &BatchName, of: Option<&Tenant>) -> Result<Box<dyn Roll>, StoreError>;

    /// Opens the next generation of a job that failed or expired, under this content, and takes it out of its batch's counts. Its
    /// message is to be sent again afterwards. Repeated after an error, it may find the job queued already. What was run again for
    /// a request of that name is not run again for the same one, whatever became of it: [`Redriven::NotFrom`].
    async fn redrive(&self, job: &JobKey, content: Digest, request: Option<&str>) -> Result<Redriven, StoreError>;

    /// Whether a job of the batch failed or expired, or has not ended yet.
    async fn is_unfinished(&self, batch: &BatchKey) -> Result<bool, StoreError>;

    /// Puts on record of which object jobs of the batch are made; its newest edition takes the place of others.
    async fn note_origin(&self, batch: &BatchKey, origin: &Origin) -> Result<(), StoreError>;

    /// Of which objects its jobs were made, as far as that is on record.
    async fn origins(&self, batch: &BatchKey) -> Result<Vec<Origin>, StoreError>;
}

/// The list of an input, in the making. One process at a time writes the roll of a batch: another's writes are `Denied`.
#[async_trait]
pub trait Roll: Send + Sync {
    /// What is written already. If the input begins with these lines (same number, same digest), nothing is to be done for
    /// them; else [`start_over`](Roll::start_over).
    fn already_sent(&self) -> Option<AlreadySent>;

    /// The input is another one than that of which something is written. `Denied` if that one was not written to its end: some
    /// of its jobs are on their way, and nobody would count them.
    fn start_over(&mut self) -> Result<(), StoreError>;

    /// Puts lines on the roll, whose jobs are all sent. With them, `lines` lines of the input are read, whose digest is `digest`:
    /// anything that is the same for the same lines read in the same way. May be repeated, but not after `Denied`, which it also is for
    /// lines of others than the one tenant whose roll it is.
    async fn part(&mut self, part: &[RollLine], lines: u64, digest: Digest) -> Result<(), StoreError>;

    /// All lines are on it: how many jobs the batch has by now. `Other` if nothing was ever put on it.
    async fn seal(&mut self) -> Result<Seal, StoreError>;
}

//! How does one document become many calls, and their answers one result? Two seams: who reads documents, and where
//! the parts of a job are kept and counted.

use async_trait::async_trait;
use bytes::Bytes;

use super::{Fence, FinalRow, MessageId, StoreError};
use crate::job::document::Place;
use crate::job::failure::Failure;
use crate::job::ident::{BatchKey, JobId};
use crate::job::outcome::Tally;
use crate::job::spec::{Job, Request};

/// A document that was read and cut.
#[derive(Clone, Debug, PartialEq)]
pub struct Opened {
    /// Its type, as results say it.
    pub kind: String,
    /// Pages, where its type has them.
    pub pages: Option<u32>,
    /// What the model is asked, in the document's order; at least one.
    pub chunks: Vec<OpenedChunk>,
}

/// One chunk, and what is asked of it.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenedChunk {
    /// What the model is sent.
    pub request: Request,
    /// The page on which it begins, from 1, where there are pages.
    pub page: Option<u32>,
    /// Its first character's place in the document's text, in characters.
    pub offset: u64,
    /// Its characters.
    pub length: u64,
}

/// Why a document was not read.
#[derive(Clone, Debug, PartialEq)]
pub enum Unopened {
    /// It is the document's fault, and will be the next time.
    Refused {
        /// Why, and what helps.
        failure: Failure,
        /// Its type, or what was found instead of one.
        kind: Option<String>,
    },
    /// Another time it may work.
    Away {
        /// What was in the way.
        why: String,
    },
}

/// Who reads documents.
#[async_trait]
pub trait Documents: Send + Sync {
    /// Reads the document of a job and cuts it: the same bytes in the same way.
    async fn open(&self, job: &Job) -> Result<Opened, Unopened>;

    /// What is asked of so many answers, to bring them together: one request if they fit into one, else one for as many as
    /// fit, in their order. Fewer than the answers, unless there is one; `None` if nothing is to be brought together.
    fn reduce(&self, job: &Job, answers: &[String]) -> Option<Vec<Request>>;

    /// Where the documents lie that it can read.
    fn place(&self) -> Place {
        Place::Files
    }
}

/// From where documents are fetched that are no files of this machine.
#[async_trait]
pub trait Sources: Send + Sync {
    /// The bytes of the object of that `s3://` URI, in this version of it or in its newest. One of more than `most` bytes is
    /// refused before it is fetched; one that is not there, or that may not be read, is refused with what helps. Away is what
    /// says nothing of the object: the service, the network, our credentials.
    async fn fetch(&self, source: &str, version: Option<&str>, most: u64) -> Result<Bytes, Unopened>;
}

/// The parts of a job that are handed out together: the chunks of a document (round 0), or what brings their answers together.
#[derive(Clone, Debug)]
pub struct Round {
    /// Which, from 0.
    pub number: u32,
    /// The job that they are parts of, as it is sent again where a queue cannot be told to deliver what it holds.
    pub of: Box<Job>,
    /// The parts: jobs of one batch, whose name is that of parts.
    pub parts: Vec<Job>,
    /// What the reader of the parts' results needs to know: kept as it is, and not read.
    pub about: String,
}

/// How a round of parts stands.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundStanding {
    /// The batch that they are jobs of.
    pub batch: BatchKey,
    /// As it was handed out.
    pub about: String,
    /// Parts that have not ended.
    pub open: u64,
    /// All parts.
    pub total: u64,
}

/// Where jobs are kept that are parts of another.
///
/// * Parts are handed out all or none, and once: handed out again by the same generation of the job they are those that are
///   there; by a later one, only what has failed or expired since runs again. Whoever dies in between leaves a round that the
///   next one's [`standing`](Parts::standing) hands out to its end.
/// * The job whose parts end last is delivered again, once a part's end is durable; until then it is at rest. Where that takes
///   a message of its own, the one that rests is delivered, too, and finds the job ended.
#[async_trait]
pub trait Parts: Send + Sync {
    /// How a round of the job stands; `None` if it was not handed out, by this generation of the job.
    async fn standing(&self, job: &Fence, generation: u32, round: u32) -> Result<Option<RoundStanding>, StoreError>;

    /// Queues the parts, and writes down whom to wake when the last one ends. `false` if the job is not ours any more: nothing
    /// was written.
    async fn hand_out(
        &self,
        job: &Fence,
        generation: u32,
        message: &MessageId,
        round: Round,
    ) -> Result<bool, StoreError>;

    /// The ends of a round's parts, by their ids. For a round that has no open part.
    async fn ends(&self, batch: &BatchKey, ids: &[JobId]) -> Result<Vec<Option<FinalRow>>, StoreError>;

    /// What all parts of the job have cost, over all rounds and generations.
    async fn sum(&self, job: &Fence) -> Result<Tally, StoreError>;

    /// If every part of this batch has ended: delivers the job that they are parts of. Repeated, it changes nothing.
    async fn wake(&self, batch: &BatchKey) -> Result<(), StoreError>;
}

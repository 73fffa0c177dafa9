//! The ports on SQS, DynamoDB, S3 and SNS, for a fleet.
//!
//! ```text
//! SQS queue, dead-letter queue      jobs as messages, claim checks resolved      (queue)
//! DynamoDB table                    jobs, batches, parts, lanes, gates           (table, ledger, parts, allowance)
//! s3://bucket/prefix/results/...    result lines, many to an object              (segments)
//! s3://bucket/prefix/manifests/...  what a complete batch holds                  (manifest)
//! s3://bucket/prefix/rolls/...      what an input held, in its order             (roll)
//! s3://bucket/prefix/jobs/...       jobs too large for a message, rounds of parts (claim_check, parts)
//! s3://any bucket/...               documents, files of jobs                     (sources, inputs)
//! SNS topic                         notices                                      (notices)
//! ```
//!
//! [`Fleet`] is the door. The SDK's types stay inside.

mod allowance;
mod batch_calls;
mod batches;
mod bill;
mod callbacks;
mod calls;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod canned;
mod check;
mod claim_check;
mod claims;
mod clients;
mod company;
mod counters;
mod dead;
mod entries;
mod fetch;
mod finish;
mod forget;
mod in_flight;
mod inputs;
mod lapsed;
mod ledger;
mod listing;
mod look_up;
mod manifest;
mod mark;
mod message_size;
mod notices;
mod objects;
mod origins;
mod parts;
mod pipelines;
mod provision;
mod queue;
mod reader;
mod redrive;
mod report;
mod roll;
mod rolls;
mod rows;
mod samples;
#[cfg(test)]
mod scripted;
mod segment_lines;
mod segments;
mod sources;
mod spans;
mod store_clock;
mod table;
mod text;
mod told;
mod trace;
mod transact;
mod trouble;
mod update;
mod upload;
mod waiting;

use std::fmt;
use std::sync::Arc;

pub use batches::Seal;
pub use bill::{Bill, Traffic, prices};
pub use check::Expected;
pub use clients::{ConnectError, Emulated, Results, Settings};
pub use dead::{DeadLetters, FleetLetter, PutBack};
pub use forget::{Forgotten, Unforgotten};
pub use provision::Created;
pub use reader::{Order, ResultLines};
pub use report::{BatchSummary, JobOwner, JobReport, LaneGate, LaneRow, PartsReport};
pub use samples::Sample;

use crate::job::ident::{BatchKey, Digest, JobKey};
use crate::ports::inputs::Inputs;
use crate::ports::rolls::{Redriven, Rolls};
use crate::ports::{
    Allowance, Bodies, Callbacks, Clock, Ledger, Notices, Parts, Pipelines, Queue, Seals, Sources, StoreError,
};

/// The services of one configuration, connected. A clone is another handle on the same.
#[derive(Clone, Debug)]
pub struct Fleet {
    inner: Arc<Inner>,
    allowance: Arc<allowance::FleetAllowance>,
    queue: Arc<queue::SqsQueue>,
    ledger: Arc<ledger::DynamoLedger>,
    bodies: Arc<segments::S3Bodies>,
    notices: Arc<notices::SnsNotices>,
}

/// What the ports share.
struct Inner {
    clients: clients::Clients,
    settings: Settings,
    clock: Arc<dyn Clock>,
    /// Names this process among the workers of the fleet: segments, call logs and counters bear it.
    epoch: String,
}

impl Fleet {
    /// Makes the clients, with credentials loaded just now; no call is made. All wall time comes from `clock`, but for
    /// what a service says of its own.
    ///
    /// # Errors
    /// [`ConnectError`]: each says what to set.
    pub async fn connect(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, ConnectError> {
        Ok(Self::of(clients::Clients::connect().await?, settings, clock))
    }

    /// The same on services at one address, with nothing read from the environment. For emulators and tests: several
    /// fleets of one process can so be at several places.
    pub fn connect_to(emulated: &Emulated, settings: Settings, clock: Arc<dyn Clock>) -> Self {
        Self::of(clients::Clients::connect_to(emulated), settings, clock)
    }

    fn of(clients: clients::Clients, settings: Settings, clock: Arc<dyn Clock>) -> Self {
        let epoch = format!("{:016x}", rand::random::<u64>());
        let inner = Arc::new(Inner { clients, settings, clock, epoch });
        // Made once: what shares calls must be shared itself.
        let allowance = Arc::new(allowance::FleetAllowance::new(&inner));
        let queue = Arc::new(queue::SqsQueue::new(&inner));
        let ledger = Arc::new(ledger::DynamoLedger::new(Arc::clone(&inner)));
        let bodies = Arc::new(segments::S3Bodies::new(&inner));
        let notices = Arc::new(notices::SnsNotices::new(&inner));
        Self { inner, allowance, queue, ledger, bodies, notices }
    }

    /// Where jobs come from. SQS cannot select: what a receiver passes over is delivered all the same.
    pub fn queue(&self) -> Arc<dyn Queue> {
        Arc::clone(&self.queue) as Arc<dyn Queue>
    }

    /// Jobs and batches, in the table.
    pub fn ledger(&self) -> Arc<dyn Ledger> {
        Arc::clone(&self.ledger) as Arc<dyn Ledger>
    }

    /// What the workers of the fleet know of their lanes.
    pub fn allowance(&self) -> Arc<dyn Allowance> {
        Arc::clone(&self.allowance) as Arc<dyn Allowance>
    }

    /// The result lines.
    pub fn bodies(&self) -> Arc<dyn Bodies> {
        Arc::clone(&self.bodies) as Arc<dyn Bodies>
    }

    /// Where ends are made known; nowhere, without a topic.
    pub fn notices(&self) -> Arc<dyn Notices> {
        Arc::clone(&self.notices) as Arc<dyn Notices>
    }

    /// Puts on record that all of a batch is sent, or all of more of it.
    ///
    /// # Errors
    /// [`StoreError`]; it may be repeated.
    pub async fn seal(&self, batch: &BatchKey, seal: &Seal) -> Result<(), StoreError> {
        batches::seal(&self.inner, batch, seal).await
    }

    /// Opens the next generation of a job that failed or expired, under new content if there is any, and takes it out of its
    /// batch's counts. Its message is to be sent again by the caller, afterwards.
    ///
    /// # Errors
    /// [`StoreError`]; repeated after one, it may find the job queued already.
    pub async fn redrive(&self, key: &JobKey, content: Option<Digest>) -> Result<Redriven, StoreError> {
        redrive::redrive(&self.inner, key, content, None).await
    }

    /// Step Functions workflows that wait under a task token.
    pub fn callbacks(&self) -> Arc<dyn Callbacks> {
        Arc::new(callbacks::TaskTokens { inner: Arc::clone(&self.inner) })
    }

    /// Step Functions workflows that are begun for uploads.
    pub fn pipelines(&self) -> Arc<dyn Pipelines> {
        Arc::new(pipelines::StateMachines { inner: Arc::clone(&self.inner) })
    }

    /// Batches that are sealed by message.
    pub fn seals(&self) -> Arc<dyn Seals> {
        Arc::new(batches::ByMessage { inner: Arc::clone(&self.inner) })
    }

    /// The lists of what inputs held, and jobs run again.
    pub fn rolls(&self) -> Arc<dyn Rolls> {
        Arc::new(roll::FleetRolls { inner: Arc::clone(&self.inner) })
    }

    /// Where jobs are kept that are parts of another.
    pub fn parts(&self) -> Arc<dyn Parts> {
        Arc::new(parts::FleetParts { inner: Arc::clone(&self.inner), queue: Arc::clone(&self.queue) })
    }

    /// Documents that lie in S3, in whatever bucket these credentials may read.
    pub fn sources(&self) -> Arc<dyn Sources> {
        Arc::new(sources::S3Sources { inner: Arc::clone(&self.inner) })
    }

    /// Inputs that lie in S3, in whatever bucket these credentials may read.
    pub fn inputs(&self) -> Arc<dyn Inputs> {
        Arc::new(inputs::S3Inputs { inner: Arc::clone(&self.inner) })
    }

    /// Waits until all is written that a port may write later: what only serves those who ask. Without it a process that
    /// ends may lose the last seconds of that.
    pub async fn flush(&self) {
        self.ledger.flush().await;
    }

    /// What it is connected to.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Makes what the settings name and is not there: queues, table, bucket and topic, in that order. What is there stays
    /// as it is, whatever its attributes. Once this returns, all of it can be used.
    ///
    /// # Errors
    /// What the service said, or that what was made is not what the settings name, since they name another account or
    /// region. What was made before that stays, and is not made again.
    pub async fn create_missing(&self) -> Result<Vec<Created>, StoreError> {
        provision::create_missing(&self.inner.clients, &self.inner.settings).await
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("settings", &self.settings).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

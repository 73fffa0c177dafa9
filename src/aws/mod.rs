//! The ports on SQS, DynamoDB, S3 and SNS, for a fleet.
//!
//! ```text
//! SQS queue, dead-letter queue      jobs as messages, claim checks resolved      (queue)
//! DynamoDB table                    jobs, batches, lanes, gates                  (table, ledger, allowance)
//! s3://bucket/prefix/results/...    result lines, many to an object              (segments)
//! s3://bucket/prefix/manifests/...  what a complete batch holds                  (manifest)
//! s3://bucket/prefix/rolls/...      what an input held, in its order             (roll)
//! SNS topic                         notices                                      (notices)
//! ```
//!
//! [`Fleet`] is the door. The SDK's types stay inside.

mod callbacks;
mod claim_check;
mod clients;
mod company;
mod entries;
mod in_flight;
mod notices;
mod objects;
mod provision;
mod queue;
mod rows;
mod segments;
mod table;
mod text;
mod trouble;

use std::fmt;
use std::sync::Arc;

pub use clients::{ConnectError, Emulated, Results, Settings};
pub use provision::Created;

use crate::ports::{Bodies, Callbacks, Clock, Notices, Queue, StoreError};

/// The services of one configuration, connected. A clone is another handle on the same.
#[derive(Clone, Debug)]
pub struct Fleet {
    inner: Arc<Inner>,
    queue: Arc<queue::SqsQueue>,
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
        let queue = Arc::new(queue::SqsQueue::new(&inner));
        let bodies = Arc::new(segments::S3Bodies::new(&inner));
        let notices = Arc::new(notices::SnsNotices::new(&inner));
        Self { inner, queue, bodies, notices }
    }

    /// Where jobs come from. SQS cannot select: what a receiver passes over is delivered all the same.
    pub fn queue(&self) -> Arc<dyn Queue> {
        Arc::clone(&self.queue) as Arc<dyn Queue>
    }

    /// The result lines.
    pub fn bodies(&self) -> Arc<dyn Bodies> {
        Arc::clone(&self.bodies) as Arc<dyn Bodies>
    }

    /// Where ends are made known; nowhere, without a topic.
    pub fn notices(&self) -> Arc<dyn Notices> {
        Arc::clone(&self.notices) as Arc<dyn Notices>
    }

    /// Step Functions workflows that wait under a task token.
    pub fn callbacks(&self) -> Arc<dyn Callbacks> {
        Arc::new(callbacks::TaskTokens { inner: Arc::clone(&self.inner) })
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

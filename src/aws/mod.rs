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

mod batches;
mod callbacks;
mod calls;
mod claims;
mod clients;
mod company;
mod counters;
mod fetch;
mod finish;
mod lapsed;
mod ledger;
mod manifest;
mod redrive;
mod rows;
mod table;
mod transact;
mod trouble;
mod update;

use std::fmt;
use std::sync::{Arc, OnceLock};

pub use batches::Seal;
pub use clients::{ConnectError, Results, Settings};
pub use redrive::Redriven;

use crate::job::ident::{BatchKey, Digest, JobKey};
use crate::ports::{Callbacks, Clock, Ledger, StoreError};

/// The services of one configuration, connected. A clone is another handle on the same.
#[derive(Clone, Debug)]
pub struct Fleet {
    inner: Arc<Inner>,
    /// One for all handles: those who ask it share calls.
    ledger: Arc<OnceLock<Arc<ledger::DynamoLedger>>>,
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
        let clients = clients::Clients::connect().await?;
        let epoch = format!("{:016x}", rand::random::<u64>());
        Ok(Self { inner: Arc::new(Inner { clients, settings, clock, epoch }), ledger: Arc::default() })
    }

    /// Jobs and batches, in the table. Must be called inside a runtime.
    pub fn ledger(&self) -> Arc<dyn Ledger> {
        let make = || Arc::new(ledger::DynamoLedger::new(Arc::clone(&self.inner)));
        Arc::clone(self.ledger.get_or_init(make)) as Arc<dyn Ledger>
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
        redrive::redrive(&self.inner, key, content).await
    }

    /// Step Functions workflows that wait under a task token.
    pub fn callbacks(&self) -> Arc<dyn Callbacks> {
        Arc::new(callbacks::TaskTokens { inner: Arc::clone(&self.inner) })
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("settings", &self.settings).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

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

mod allowance;
mod callbacks;
mod clients;
mod company;
mod mark;
mod objects;
mod roll;
mod rolls;
mod rows;
mod store_clock;
mod table;
mod trouble;

use std::fmt;
use std::sync::Arc;

pub use clients::{ConnectError, Results, Settings};
pub use roll::{AlreadySent, LineContent, PART_LINES, Roll, RollLine};

use crate::ports::{Allowance, Callbacks, Clock};

/// The services of one configuration, connected. A clone is another handle on the same.
#[derive(Clone, Debug)]
pub struct Fleet {
    inner: Arc<Inner>,
}

/// What the ports share.
struct Inner {
    clients: clients::Clients,
    settings: Settings,
    clock: Arc<dyn Clock>,
    /// Names this process among the workers of the fleet: segments, call logs and counters bear it.
    epoch: String,
    lanes: allowance::Lanes,
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
        Ok(Self { inner: Arc::new(Inner { clients, settings, clock, epoch, lanes: allowance::Lanes::default() }) })
    }

    /// What the workers of the fleet know of their lanes.
    pub fn allowance(&self) -> Arc<dyn Allowance> {
        Arc::new(allowance::FleetAllowance { inner: Arc::clone(&self.inner) })
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

//! Should the work go on? Two stages of stopping, and the first reason that asked for them.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::job::units::Usd;
use crate::ports::StoreError;

/// Why a worker stops before its work is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// Everything there was to do is done.
    Done,
    /// What was done cannot be written where it is wanted.
    Output,
    /// A person or the system asked for it.
    Interrupted,
    /// The next call could bring the batch over its cap.
    CapReached {
        /// What was spent and reserved by then.
        committed: Usd,
    },
    /// The back end cannot record what is done.
    Store(StoreError),
    /// No usable credentials for too long.
    Credentials(String),
}

/// The two stages: *drain* (stop receiving, hand back what waits, finish calls already paid for) and *abort*
/// (hand everything back at once). Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    draining: CancellationToken,
    aborting: CancellationToken,
    reason: Arc<Mutex<Option<Reason>>>,
}

impl Stop {
    /// Begins the first stage; the first reason stands.
    pub fn drain(&self, reason: Reason) {
        self.lock().get_or_insert(reason);
        self.draining.cancel();
    }

    /// Begins the second stage.
    pub fn abort(&self) {
        self.draining.cancel();
        self.aborting.cancel();
    }

    /// Ends when the first stage has begun.
    pub async fn drained(&self) {
        self.draining.cancelled().await;
    }

    /// Ends when the second stage has begun.
    pub async fn aborted(&self) {
        self.aborting.cancelled().await;
    }

    /// Whether the first stage has begun.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Whether the second stage has begun.
    pub fn is_aborting(&self) -> bool {
        self.aborting.is_cancelled()
    }

    /// Why, if anybody asked.
    pub fn reason(&self) -> Option<Reason> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Reason>> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

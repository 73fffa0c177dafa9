//! Should the work go on? Two stages of stopping, and the first reason that asked for them; and, before either, a pause
//! that can be taken back.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
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
    is_paused: Arc<watch::Sender<bool>>,
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

    /// Nothing new is received from now on, or it is again. What is in hand goes on.
    pub fn pause(&self, is_paused: bool) {
        self.is_paused.send_replace(is_paused);
    }

    /// Whether nothing new is received because a person said so.
    pub fn is_paused(&self) -> bool {
        *self.is_paused.borrow()
    }

    /// Ends when there is no pause.
    pub async fn resumed(&self) {
        // The sender lives in `self`, so the channel cannot close.
        let _ = self.is_paused.subscribe().wait_for(|is_paused| !is_paused).await;
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

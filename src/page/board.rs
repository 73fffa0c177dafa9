//! How far are the batches? What is on record, asked for only while somebody wants to know, and not more often than the desk
//! says that it is worth: on AWS every answer is paid for, and on one machine it is worked for by the processor that works the
//! jobs, the longer the more batches there are.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::desk::Desk;

/// A store in trouble holds no snapshot up for longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Who looks may have a hundredth of the time: after an answer nobody asks for so many times as long as it took,
const REST: u32 = 100;
/// but not for longer than this.
const LONGEST_REST: Duration = Duration::from_secs(5);

/// What was last heard.
pub(super) struct Board {
    desk: Arc<dyn Desk>,
    heard: Mutex<Value>,
    /// From when on it may be asked again; held while it is.
    stale: tokio::sync::Mutex<Option<Instant>>,
}

impl Board {
    pub(super) fn new(desk: Arc<dyn Desk>) -> Self {
        Self { desk, heard: Mutex::new(Value::Null), stale: tokio::sync::Mutex::default() }
    }

    pub(super) fn desk(&self) -> &dyn Desk {
        &*self.desk
    }

    /// What was last heard: the batches, or why they are not known; null if nobody ever asked.
    pub(super) fn heard(&self) -> Value {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks if what was heard is stale, and waits for the answer for a moment.
    pub(super) async fn refresh(&self) {
        let mut stale = self.stale.lock().await;
        self.ask(&mut stale).await;
    }

    /// Likewise, but somebody else's question is as good as ours.
    pub(super) async fn refresh_unless_asking(&self) {
        if let Ok(mut stale) = self.stale.try_lock() {
            self.ask(&mut stale).await;
        }
    }

    async fn ask(&self, stale: &mut Option<Instant>) {
        let asked = Instant::now();
        if stale.is_some_and(|stale| asked < stale) {
            return;
        }
        let heard = match timeout(PATIENCE, self.desk.batches()).await {
            Ok(Ok(batches)) => json!({ "known": batches }),
            Ok(Err(why)) => json!({ "unknown": why }),
            Err(_) => json!({ "unknown": "the ledger does not answer" }),
        };
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = heard;
        let rest = (asked.elapsed() * REST).min(LONGEST_REST);
        *stale = Some(asked + rest.max(self.desk.stale_after()));
    }
}

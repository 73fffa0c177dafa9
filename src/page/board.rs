//! How far are the batches? What is on record, asked for only while somebody wants to know, and not more often than the desk
//! says that it is worth: on AWS every answer is paid for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::desk::Desk;

/// A store in trouble holds no snapshot up for longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was last heard.
pub(super) struct Board {
    desk: Arc<dyn Desk>,
    heard: Mutex<Value>,
    /// When it was asked; held while it is.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

impl Board {
    pub(super) fn new(desk: Arc<dyn Desk>) -> Self {
        Self { desk, heard: Mutex::new(Value::Null), asked: tokio::sync::Mutex::default() }
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
        let mut asked = self.asked.lock().await;
        self.ask(&mut asked).await;
    }

    /// Likewise, but somebody else's question is as good as ours.
    pub(super) async fn refresh_unless_asking(&self) {
        if let Ok(mut asked) = self.asked.try_lock() {
            self.ask(&mut asked).await;
        }
    }

    async fn ask(&self, asked: &mut Option<Instant>) {
        if asked.is_some_and(|at| at.elapsed() < self.desk.stale_after()) {
            return;
        }
        *asked = Some(Instant::now());
        let heard = match timeout(PATIENCE, self.desk.batches()).await {
            Ok(Ok(batches)) => json!({ "known": batches }),
            Ok(Err(why)) => json!({ "unknown": why }),
            Err(_) => json!({ "unknown": "the ledger does not answer" }),
        };
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = heard;
    }
}

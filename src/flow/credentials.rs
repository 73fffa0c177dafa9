//! Does the service accept who we are? One gate for all lanes, because they share the credentials.
//!
//! Expired credentials are not a job's fault: everything waits while they are loaded again, and only when that has not
//! helped for ten minutes does the worker stop, with nothing lost.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ports::Model;

use super::stop::{Reason, Stop};

/// Between two attempts to load credentials.
const RELOAD_EVERY: Duration = Duration::from_secs(15);
/// After this long without an accepted call the worker stops.
const GIVE_UP_AFTER: Duration = Duration::from_secs(600);

/// Shut while credentials are refused.
#[derive(Debug)]
pub struct CredentialsGate {
    open: watch::Sender<bool>,
    trouble: Mutex<Option<(Instant, String)>>,
}

impl Default for CredentialsGate {
    fn default() -> Self {
        Self { open: watch::Sender::new(true), trouble: Mutex::default() }
    }
}

impl CredentialsGate {
    /// The service refused them.
    pub fn refused(&self, why: &str) {
        // Both under the lock: shut without trouble on record, nobody would open it again.
        let mut trouble = self.lock();
        trouble.get_or_insert_with(|| (Instant::now(), why.to_owned()));
        self.open.send_replace(false);
    }

    /// The service accepted them.
    pub fn accepted(&self) {
        let mut trouble = self.lock();
        if trouble.take().is_some() {
            self.open.send_replace(true);
        }
    }

    /// Since when they are refused and why, if they are.
    pub fn trouble(&self) -> Option<(Instant, String)> {
        self.lock().clone()
    }

    /// Waits until calls may be tried.
    pub async fn opened(&self) {
        // The sender lives in `self`, so the channel cannot close.
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }

    /// Whether calls may be tried.
    pub fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    /// Loads credentials again while they are refused; stops the worker when that does not help.
    pub async fn keep(&self, model: &dyn Model, stop: &Stop, ended: CancellationToken) {
        let mut shut = self.open.subscribe();
        loop {
            tokio::select! {
                () = ended.cancelled() => return,
                refused = shut.wait_for(|open| !*open) => if refused.is_err() { return },
            }
            let reloaded = tokio::select! {
                () = ended.cancelled() => return,
                reloaded = model.refresh_credentials() => reloaded,
            };
            let Some((since, why)) = self.trouble() else { continue };
            if since.elapsed() >= GIVE_UP_AFTER {
                stop.drain(Reason::Credentials(reloaded.err().unwrap_or(why)));
                return;
            }
            tokio::select! {
                () = ended.cancelled() => return,
                () = tokio::time::sleep(RELOAD_EVERY) => {}
            }
            if reloaded.is_ok() {
                self.open.send_replace(true);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Instant, String)>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

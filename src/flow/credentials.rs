//! Does the service accept who we are? One gate for all lanes, because they share the credentials.
//!
//! Expired credentials are not a job's fault: everything waits while they are loaded again. When that has not helped for
//! ten minutes a run stops, with nothing lost; a worker waits on.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ports::Model;

use super::patience::Patience;
use super::stop::{Reason, Stop};

/// Between two attempts to load credentials.
const RELOAD_EVERY: Duration = Duration::from_secs(15);
/// After this long without an accepted call a run stops.
const GIVE_UP_AFTER: Duration = Duration::from_secs(600);

/// Shut while credentials are refused.
#[derive(Debug)]
pub struct CredentialsGate {
    state: watch::Sender<State>,
}

/// One value, changed in one step: shut without trouble on record, nobody would open it again.
#[derive(Debug)]
struct State {
    is_open: bool,
    /// Since when they are refused, and why; stays until a call was accepted, also while another one is tried.
    trouble: Option<(Instant, String)>,
}

impl Default for CredentialsGate {
    fn default() -> Self {
        Self { state: watch::Sender::new(State { is_open: true, trouble: None }) }
    }
}

impl CredentialsGate {
    /// The service refused them.
    pub fn refused(&self, why: &str) {
        self.state.send_modify(|state| {
            state.trouble.get_or_insert_with(|| (Instant::now(), why.to_owned()));
            state.is_open = false;
        });
    }

    /// The service accepted them.
    pub fn accepted(&self) {
        self.state.send_if_modified(|state| {
            state.is_open = true;
            state.trouble.take().is_some()
        });
    }

    /// Since when they are refused and why, if they are.
    pub fn trouble(&self) -> Option<(Instant, String)> {
        self.state.borrow().trouble.clone()
    }

    /// Waits until calls may be tried.
    pub async fn opened(&self) {
        // The sender lives in `self`, so the channel cannot close.
        let _ = self.state.subscribe().wait_for(|state| state.is_open).await;
    }

    /// Whether calls may be tried.
    pub fn is_open(&self) -> bool {
        self.state.borrow().is_open
    }

    /// Loads credentials again while they are refused; stops a run when that does not help.
    pub async fn keep(&self, model: &dyn Model, stop: &Stop, patience: Patience, ended: CancellationToken) {
        let mut shut = self.state.subscribe();
        loop {
            tokio::select! {
                () = ended.cancelled() => return,
                refused = shut.wait_for(|state| !state.is_open) => if refused.is_err() { return },
            }
            let reloaded = tokio::select! {
                () = ended.cancelled() => return,
                reloaded = model.refresh_credentials() => reloaded,
            };
            let Some((since, why)) = self.trouble() else { continue };
            if patience == Patience::Bounded && since.elapsed() >= GIVE_UP_AFTER {
                stop.drain(Reason::Credentials(reloaded.err().unwrap_or(why)));
                return;
            }
            tokio::select! {
                () = ended.cancelled() => return,
                () = tokio::time::sleep(RELOAD_EVERY) => {}
            }
            if reloaded.is_ok() {
                self.state.send_modify(|state| state.is_open = true);
            }
        }
    }
}

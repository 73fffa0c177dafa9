//! Is somebody asking us to stop? Ctrl-C and SIGTERM mean the same: the first time, finish what is paid for; the second time,
//! hand back at once.

use tokio::task::JoinHandle;

use crate::flow::stop::{Reason, Stop};

use super::terminal::say;

/// The first signal drains, the second hands back at once.
pub(crate) fn watch(stop: Stop) -> JoinHandle<()> {
    tokio::spawn(async move {
        if interrupted().await {
            say("stopping: calls already paid for are finished first; press Ctrl-C again to stop at once");
            stop.drain(Reason::Interrupted);
        }
        if interrupted().await {
            stop.abort();
        }
    })
}

/// Waits for Ctrl-C or SIGTERM; `false` if signals cannot be had.
pub(crate) async fn interrupted() -> bool {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut terminate) = signal(SignalKind::terminate()) else { return false };
        tokio::select! {
            ctrl_c = tokio::signal::ctrl_c() => ctrl_c.is_ok(),
            _ = terminate.recv() => true,
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await.is_ok()
}

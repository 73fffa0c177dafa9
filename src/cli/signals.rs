//! Is somebody asking us to stop? Ctrl-C and SIGTERM mean the same: the first time, finish what is paid for; the second time,
//! hand back at once.

use tokio::task::JoinHandle;

use crate::flow::stop::{Reason, Stop};

use super::terminal::say;

/// What whoever makes calls does at the first signal.
pub(crate) const CALLS_FINISH: &str =
    "stopping: calls already paid for are finished first; press Ctrl-C again to stop at once";

/// The first signal drains, which is `told`; the second hands back at once.
pub(crate) fn watch(stop: Stop, told: &'static str) -> JoinHandle<()> {
    let first = heard_from_now();
    tokio::spawn(async move {
        if first.await {
            say(told);
            stop.drain(Reason::Interrupted);
        }
        if interrupted().await {
            stop.abort();
        }
    })
}

/// Waits for Ctrl-C or SIGTERM; `false` if signals cannot be had.
pub(crate) async fn interrupted() -> bool {
    heard_from_now().await
}

/// Likewise for those that come from this moment on, whenever it is first waited.
pub(crate) fn heard_from_now() -> impl Future<Output = bool> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
        async move {
            let (Ok(mut interrupt), Ok(mut terminate)) = signals else { return false };
            tokio::select! {
                _ = interrupt.recv() => true,
                _ = terminate.recv() => true,
            }
        }
    }
    #[cfg(not(unix))]
    async {
        tokio::signal::ctrl_c().await.is_ok()
    }
}

//! Is the queue silent because it is empty, or because too much of it is in flight? SQS delivers nothing beyond some
//! 120,000 messages in flight, and a long poll does not say so.
//!
//! Asked only when a poll came back empty: a queue that delivers is not full.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// From here on the queue counts as full: below the service's limit, so that other consumers still get some.
pub(super) const FULL: u64 = 100_000;
/// An answer is good for so long.
const GOOD_FOR: Duration = Duration::from_secs(15);

/// What is known of the messages in flight.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    asked: Option<Instant>,
    is_full: bool,
}

impl InFlight {
    /// Whether nothing is to be received. One who asks learns that once in a while he has to ask the queue again.
    pub(super) fn is_full(&self) -> bool {
        self.lock().is_full
    }

    /// Whether it is time to ask the queue again; whoever is told so does it.
    pub(super) fn is_due(&self) -> bool {
        let (mut known, now) = (self.lock(), Instant::now());
        let is_due = known.asked.is_none_or(|asked| now.duration_since(asked) >= GOOD_FOR);
        if is_due {
            known.asked = Some(now);
        }
        is_due
    }

    /// Learns how many are in flight; `None` if nobody would say, which stops nothing.
    pub(super) fn learn(&self, in_flight: Option<u64>) {
        let is_full = in_flight.is_some_and(|count| count >= FULL);
        let was_full = std::mem::replace(&mut self.lock().is_full, is_full);
        match (was_full, is_full) {
            (false, true) => {
                tracing::warn!(
                    in_flight,
                    limit = FULL,
                    "too many messages are in flight: receiving none until some end"
                );
            }
            (true, false) => tracing::info!(in_flight, "receiving again"),
            (true, true) | (false, false) => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_asked_now_and_then() {
        let in_flight = InFlight::default();
        assert!(in_flight.is_due());
        assert!(!in_flight.is_due(), "somebody else is asking");
        tokio::time::advance(GOOD_FOR - Duration::from_millis(1)).await;
        assert!(!in_flight.is_due());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(in_flight.is_due());
    }

    #[test]
    fn it_is_full_from_the_limit_on_and_until_it_falls() {
        let in_flight = InFlight::default();
        for (count, is_full) in [
            (Some(FULL - 1), false),
            (Some(FULL), true),
            (Some(FULL + 20_000), true),
            (Some(FULL - 1), false),
            (Some(FULL), true),
            (None, false),
        ] {
            in_flight.learn(count);
            assert_eq!(in_flight.is_full(), is_full, "{count:?}");
        }
    }
}

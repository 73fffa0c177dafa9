//! What time is it for the quota? One clock for all workers, that never runs backwards and never jumps back.
//!
//! It starts with the wall clock and goes on by the monotonic one, so that a clock that is set while a worker runs ages no
//! charge. Workers that started under different wall clocks agree on the one that is ahead: every row says the latest
//! moment its writer has seen.

use std::sync::atomic::{AtomicI64, Ordering};

use tokio::time::Instant;

use crate::job::units::Timestamp;

/// The clock by which charges age.
#[derive(Debug)]
pub struct PaceClock {
    wall: Timestamp,
    started: Instant,
    ahead_ms: AtomicI64,
}

impl PaceClock {
    /// Starts it at the wall clock's time.
    pub fn starting_at(wall: Timestamp) -> Self {
        Self { wall, started: Instant::now(), ahead_ms: AtomicI64::new(0) }
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        Timestamp(self.own().0.saturating_add(self.ahead_ms.load(Ordering::Relaxed)))
    }

    /// Somebody has seen this moment: it is not earlier here.
    pub fn catch_up(&self, seen: Timestamp) {
        let ahead = seen.0.saturating_sub(self.own().0);
        self.ahead_ms.fetch_max(ahead, Ordering::Relaxed);
    }

    fn own(&self) -> Timestamp {
        self.wall + self.started.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_follows_whoever_is_ahead_and_never_turns_back() {
        let start = Timestamp(1_800_000_000_000);
        let clock = PaceClock::starting_at(start);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(clock.now(), start + Duration::from_secs(5));
        clock.catch_up(start + Duration::from_secs(3));
        assert_eq!(clock.now(), start + Duration::from_secs(5));
        clock.catch_up(start + Duration::from_secs(60));
        assert_eq!(clock.now(), start + Duration::from_secs(60));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(clock.now(), start + Duration::from_secs(61));
    }
}

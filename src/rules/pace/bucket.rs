//! How much of a token bucket is used up? Kept as what is owed rather than as what is left, so that a limit that is
//! learned anew needs no conversion: no debt is a full bucket, whatever it holds.
//!
//! The debt drains by one minute's limit a minute. The service charges a call up to `lag` later than we do, and what
//! would have flowed into a bucket that is still full until then is lost: so there is always that much less in it than
//! the debt says.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A debt in sixty-thousandths of a token, so that it drains by a whole number a millisecond.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct Debt(i64);

/// Milliseconds in the period of the limit.
const PERIOD: i64 = 60_000;

impl Debt {
    /// Lets time pass.
    pub(super) fn drain(&mut self, passed: Duration, limit: u64) {
        self.0 = self.0.saturating_sub(drained(passed, limit)).max(0);
    }

    /// Owes so much more.
    pub(super) fn add(&mut self, amount: u64) {
        self.0 = self.0.saturating_add(signed(amount).saturating_mul(PERIOD));
    }

    /// Owes at least so much, as somebody says who knows.
    pub(super) fn at_least(&mut self, amount: u64) {
        self.0 = self.0.max(signed(amount).saturating_mul(PERIOD));
    }

    /// Owes so much less.
    pub(super) fn take(&mut self, amount: u64) {
        self.0 = self.0.saturating_sub(signed(amount).saturating_mul(PERIOD)).max(0);
    }

    /// How long until no more than `room` is owed, to a service that charges `lag` later; zero if that is so now.
    pub(super) fn down_to(self, room: u64, limit: u64, lag: Duration) -> Duration {
        let owed = self.0.saturating_add(drained(lag, limit));
        let over = owed.saturating_sub(signed(room).saturating_mul(PERIOD)).max(0);
        let limit = signed(limit).max(1);
        let wait = over.div_euclid(limit).saturating_add(i64::from(over.rem_euclid(limit) > 0));
        Duration::from_millis(u64::try_from(wait).unwrap_or(0))
    }

    /// In whole tokens, rounded up.
    pub(super) fn whole(self) -> u64 {
        u64::try_from(self.0.saturating_add(PERIOD - 1).div_euclid(PERIOD)).unwrap_or(0)
    }
}

fn drained(time: Duration, limit: u64) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX).saturating_mul(signed(limit))
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

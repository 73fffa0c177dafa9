//! How much of a token bucket is used up? Kept as what is owed rather than as what is left, so that a limit that is
//! learned anew needs no conversion: no debt is a full bucket, whatever it holds.
//!
//! The debt drains by one minute's limit a minute. It may drain below nothing by `lag`: the service charges a call up to
//! so much later than we do, so its bucket is full so much later than ours.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A debt in sixty-thousandths of a token, so that it drains by a whole number a millisecond.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct Debt(i64);

/// Milliseconds in the period of the limit.
const PERIOD: i64 = 60_000;

impl Debt {
    /// Lets time pass.
    pub(super) fn drain(&mut self, passed: Duration, limit: u64, lag: Duration) {
        let floor = drained(lag, limit).saturating_neg();
        self.0 = self.0.saturating_sub(drained(passed, limit)).max(floor);
    }

    /// Owes so much more. What it had drained below nothing is gone: a bucket that is full takes no more in while a call
    /// is on its way to it.
    pub(super) fn add(&mut self, amount: u64) {
        self.0 = self.0.max(0).saturating_add(signed(amount).saturating_mul(PERIOD));
    }

    /// Owes between so much and so much, as somebody says who knows.
    pub(super) fn within(&mut self, least: u64, most: u64) {
        let [least, most] = [least, most].map(|amount| signed(amount).saturating_mul(PERIOD));
        self.0 = self.0.min(most).max(least);
    }

    /// Owes so much less, but no less than what was added just before, `young`: a bucket that the refund has filled to the
    /// brim may have lost that since.
    pub(super) fn take(&mut self, amount: u64, young: u64, limit: u64, lag: Duration) {
        let lowest =
            if young == 0 { drained(lag, limit).saturating_neg() } else { signed(young).saturating_mul(PERIOD) };
        self.0 = self.0.saturating_sub(signed(amount).saturating_mul(PERIOD)).max(lowest.min(self.0));
    }

    /// What was added so long ago was owed from now on only, and `others` were added since: while it was not owed, a
    /// bucket that was full already did not fill any further.
    pub(super) fn postpone(&mut self, amount: u64, others: u64, by: Duration, limit: u64) {
        let added = signed(amount.saturating_add(others)).saturating_mul(PERIOD);
        let lowest = self.0.saturating_sub(added);
        let most = drained(by, limit).min(signed(amount).saturating_mul(PERIOD));
        self.0 = self.0.saturating_add(lowest.saturating_neg().clamp(0, most));
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

/// So many whole tokens, rounded down, a bucket of this limit takes in.
pub(super) fn drained_tokens(time: Duration, limit: u64) -> u64 {
    u64::try_from(drained(time, limit).div_euclid(PERIOD)).unwrap_or(0)
}

fn drained(time: Duration, limit: u64) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX).saturating_mul(signed(limit))
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_drains_by_a_minutes_limit_a_minute_to_the_millisecond() {
        for (limit, room, wait) in
            [(60_000, 0, 1_000), (60_000, 999, 1), (60_000, 1_000, 0), (7, 0, 8_571_429), (1, 999, 60_000)]
        {
            let mut debt = Debt::default();
            debt.add(1_000);
            assert_eq!(debt.down_to(room, limit, Duration::ZERO), Duration::from_millis(wait), "{limit} {room}");
            debt.drain(Duration::from_millis(wait), limit, Duration::ZERO);
            assert_eq!(debt.down_to(room, limit, Duration::ZERO), Duration::ZERO);
        }
    }

    #[test]
    fn what_is_owed_later_costs_what_a_full_bucket_could_not_take_meanwhile() {
        let after = |before: u64, added: u64| {
            let mut debt = Debt::default();
            debt.add(before);
            debt.add(added);
            debt.drain(Duration::from_secs(12), 100, Duration::ZERO);
            debt.postpone(added, 0, Duration::from_secs(12), 100);
            debt.whole()
        };
        assert_eq!(after(50, 40), 50 - 20 + 40, "the bucket was never full");
        assert_eq!(after(5, 40), 40);
        assert_eq!(after(0, 40), 40);
        assert_eq!(after(0, 10), 10);
    }

    #[test]
    fn a_refund_that_comes_late_does_not_pay_for_what_was_added_just_before() {
        let mut debt = Debt::default();
        debt.add(100);
        debt.drain(Duration::from_secs(54), 100, Duration::ZERO);
        debt.add(40);
        assert_eq!(debt.whole(), 50);
        debt.take(90, 40, 100, Duration::ZERO);
        assert_eq!(debt.whole(), 40);
        debt.take(30, 60, 100, Duration::ZERO);
        assert_eq!(debt.whole(), 40, "nor is it ever more than before");
    }

    #[test]
    fn it_never_holds_more_than_a_full_bucket() {
        let mut debt = Debt::default();
        debt.drain(Duration::from_secs(3_600), 100, Duration::ZERO);
        debt.add(100);
        assert_eq!(debt.whole(), 100);
        debt.take(1_000, 0, 100, Duration::ZERO);
        debt.add(100);
        assert_eq!(debt.whole(), 100);
    }
}

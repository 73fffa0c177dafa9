//! What was charged in the last 24 hours, and until when does it count?
//!
//! Ten-minute sums, because nobody plans a day by the second and a day holds millions of calls; a charge counts until
//! the last charge that shares its bucket has aged, so the error is on the safe side.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::job::units::Timestamp;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const BUCKET: Duration = Duration::from_secs(10 * 60);

/// The tokens of the last 24 hours.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct Day {
    buckets: VecDeque<Bucket>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Bucket {
    #[serde(rename = "b")]
    begins: Timestamp,
    #[serde(rename = "t")]
    tokens: u64,
}

impl Bucket {
    /// When the youngest charge it can hold is 24 hours old.
    fn leaves(&self) -> Timestamp {
        self.begins.after(BUCKET + DAY)
    }
}

impl Day {
    /// Drops what no longer counts at `now`.
    pub(super) fn expire(&mut self, now: Timestamp) {
        while self.buckets.front().is_some_and(|oldest| oldest.leaves() <= now) {
            self.buckets.pop_front();
        }
    }

    /// Adds tokens charged at `at`.
    pub(super) fn add(&mut self, at: Timestamp, tokens: u64) {
        match self.buckets.back_mut() {
            Some(newest) if at < newest.begins.after(BUCKET) => newest.tokens = newest.tokens.saturating_add(tokens),
            Some(_) | None => self.buckets.push_back(Bucket { begins: at, tokens }),
        }
    }

    /// Gives tokens back to the bucket they were charged to, if it still counts.
    pub(super) fn take(&mut self, at: Timestamp, tokens: u64) {
        let place = self.buckets.partition_point(|bucket| bucket.begins <= at);
        if let Some(bucket) = place.checked_sub(1).and_then(|place| self.buckets.get_mut(place)) {
            bucket.tokens = bucket.tokens.saturating_sub(tokens);
        }
    }

    /// When `needed` more tokens fit under `limit`; `None` if they do now. Needs `needed <= limit`.
    pub(super) fn fits_at(&self, needed: u64, limit: u64) -> Option<Timestamp> {
        let mut kept = needed;
        for bucket in self.buckets.iter().rev() {
            kept = kept.saturating_add(bucket.tokens);
            if kept > limit {
                return Some(bucket.leaves());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_800_000_000_000);

    fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn q9_a_charge_counts_until_the_last_that_may_share_its_bucket_has_aged() {
        let mut day = Day::default();
        day.add(START, 60);
        day.add(START + secs(599), 10);
        day.add(START + secs(600), 30);
        assert_eq!(day.fits_at(0, 100), None);
        assert_eq!(day.fits_at(1, 100), Some(START + BUCKET + DAY));
        assert_eq!(day.fits_at(71, 100), Some(START + BUCKET + BUCKET + DAY));
        day.expire(START + BUCKET + DAY - secs(1));
        assert!(day.fits_at(1, 100).is_some());
        day.expire(START + BUCKET + DAY);
        assert_eq!(day.fits_at(70, 100), None);
    }

    #[test]
    fn q3_a_refund_goes_to_the_bucket_it_was_charged_to() {
        let mut day = Day::default();
        day.add(START, 60);
        day.add(START + secs(900), 40);
        day.take(START + secs(5), 50);
        assert_eq!(day.fits_at(50, 100), None);
        assert_eq!(day.fits_at(60, 100), Some(START + BUCKET + DAY));
        day.take(START - secs(5), 40);
        assert_eq!(day.fits_at(51, 100), Some(START + BUCKET + DAY), "what was charged before all of them is gone");
        day.take(START + secs(900), 1_000);
        assert_eq!(day.fits_at(90, 100), None);
        assert_eq!(day.fits_at(91, 100), Some(START + BUCKET + DAY), "never more than was charged");
    }

    #[test]
    fn a_day_of_charges_is_some_hundred_and_fifty_buckets() {
        let mut day = Day::default();
        for second in 0..200_000 {
            day.expire(START + secs(second));
            day.add(START + secs(second), 1);
        }
        assert!(day.buckets.len() <= 146, "{}", day.buckets.len());
    }
}

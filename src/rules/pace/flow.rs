//! How much flows into a bucket in a minute? The service does not say, but it says when the bucket is empty: it refuses
//! what the bucket was to hold. What it lets through from one such moment to the next is what has flowed in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::learn::Hypothesis;
use super::limit::Quota;
use super::{Amount, Counting, LaneLedger, MINUTE};
use crate::job::units::Timestamp;

/// A bucket that was empty twice says what flows into it, if there was so much time in between.
const MEASURED_OVER: Duration = Duration::from_secs(10);
/// What is nearly nothing says so sooner.
const DRY_AFTER: Duration = Duration::from_secs(5);
/// Less than this part of what should have flowed in is nearly nothing.
const DRY: u64 = 8;

/// A bucket that was found empty.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Emptied {
    pub(super) at: Timestamp,
    /// Charged since, less what came back.
    pub(super) tokens: i64,
    pub(super) requests: i64,
    /// What was believed of the quota then.
    pub(super) limit: u64,
}

impl Emptied {
    /// What flows in a minute at most, if the bucket holds less than `refused` again.
    pub(super) fn flow_until(&self, now: Timestamp, quota: Quota, refused: Amount) -> Option<u64> {
        let charged = match quota {
            Quota::Tokens => self.tokens,
            Quota::Requests => self.requests,
        };
        let most = u64::try_from(charged.saturating_add_unsigned(refused.of(quota))).unwrap_or(0);
        let passed = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        most.saturating_mul(60_000).checked_div(passed)
    }
}

impl LaneLedger {
    /// Whether what was taken for a bucket lets next to nothing through, as no bucket does: it was told so only because the
    /// limit was too low, under which the other countings seemed too strict.
    pub(super) fn has_run_dry(&self, now: Timestamp, quota: Quota) -> bool {
        self.book.emptied.is_some_and(|emptied| {
            let flow = emptied.flow_until(now, quota, Amount::default());
            now.since(emptied.at) >= DRY_AFTER && flow.is_some_and(|flow| flow < emptied.limit / DRY)
        })
    }

    /// A bucket that has just refused a call holds less than that. What it let through since it was empty before is what
    /// has flowed in.
    pub(super) fn found_empty(&mut self, now: Timestamp, quota: Quota, refused: Amount) {
        let configured = self.configured();
        let is_bucket = self.standing() == [Hypothesis::Bucket];
        let passed = self.book.emptied.map(|emptied| now.since(emptied.at));
        if is_bucket && passed.is_none_or(|passed| passed >= MEASURED_OVER) {
            if let Some(flow) = self.book.emptied.and_then(|emptied| emptied.flow_until(now, quota, refused)) {
                self.book.learned.lower(configured, quota, flow);
            }
            let limit = self.book.learned.limit_of(configured, quota).unwrap_or(0);
            self.book.emptied = Some(Emptied { at: now, tokens: 0, requests: 0, limit });
        }
        let Some(limit) = self.book.learned.limit_of(configured, quota) else { return };
        if is_bucket || self.book.even_until.is_some() {
            // It may hold less than nothing, where calls came to more than was reserved for them.
            let may_owe_more = self.book.exceeded.is_some_and(|at| at.after(MINUTE) > now);
            let most = if may_owe_more || self.terms.counting != Counting::Learn { u64::MAX } else { limit };
            self.book.bucket.most_mut(quota).within(limit.saturating_sub(refused.of(quota)), most);
        }
    }
}

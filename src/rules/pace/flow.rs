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
/// And how much that is within a few in a hundred, if there was so much.
const KNOWN_AFTER: Duration = Duration::from_secs(60);
/// Others on the account come and go: what was longer ago is not measured from.
const REMEMBERED: Duration = Duration::from_secs(360);
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
    /// What flows in a minute at most, if the bucket holds no more than `rest` again.
    fn flow_until(&self, now: Timestamp, quota: Quota, rest: u64) -> Option<u64> {
        let charged = match quota {
            Quota::Tokens => self.tokens,
            Quota::Requests => self.requests,
        };
        let most = u64::try_from(charged.saturating_add_unsigned(rest)).unwrap_or(0);
        let passed = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        most.saturating_mul(60_000).checked_div(passed)
    }
}

/// A limit as it was found by the first refusals of all: what was admitted up to them.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Found {
    quota: Quota,
    limit: u64,
    /// How long after the first call of all.
    after: Duration,
}

impl LaneLedger {
    /// The limit has fallen, and nothing is known of the counting yet: if it fell to what the calls up to `made` came to, and if
    /// it is a bucket's, then that is empty.
    pub(super) fn found(&mut self, now: Timestamp, quota: Quota, made: Timestamp, admitted: Amount) {
        let first = self.book.charges.oldest().filter(|first| first.after(MINUTE) > made);
        let limit = self.book.learned.limit_of(self.configured(), quota);
        let limit = limit.filter(|limit| *limit == admitted.of(quota));
        let Some((first, limit)) = first.zip(limit) else { return };
        self.book.found = Some(Found { quota, limit, after: made.since(first) });
        self.book.emptied = vec![Emptied { at: now, tokens: 0, requests: 0, limit }];
    }

    /// Once it is known to be a bucket, which was full before the first call: what had flowed in up to the first refusals
    /// was taken for a part of what it holds.
    pub(super) fn weigh_what_was_found(&mut self) {
        if self.standing() != [Hypothesis::Bucket] {
            return;
        }
        let Some(Found { quota, limit: found, after }) = self.book.found.take() else { return };
        let configured = self.configured();
        let Some(limit) = self.book.learned.limit_of(configured, quota).filter(|limit| *limit <= found) else { return };
        let passed = u64::try_from((MINUTE + after).as_millis()).unwrap_or(u64::MAX);
        let held = found.saturating_mul(60_000).checked_div(passed).unwrap_or(found);
        self.book.learned.lower(configured, quota, held);
        // It is no emptier for that: it only holds less.
        let lag = self.bucket_lag();
        self.book.bucket.most_mut(quota).take(limit.saturating_sub(held), 0, held, lag);
    }

    /// Whether what was taken for a bucket lets next to nothing through, as no bucket does: it was told so only because the
    /// limit was too low, under which the other countings seemed too strict.
    pub(super) fn has_run_dry(&self, now: Timestamp, quota: Quota) -> bool {
        self.book.emptied.last().is_some_and(|emptied| {
            let flow = emptied.flow_until(now, quota, 0);
            now.since(emptied.at) >= DRY_AFTER && flow.is_some_and(|flow| flow < emptied.limit / DRY)
        })
    }

    /// A bucket that has just refused a call holds less than that. What it let through since it was empty before is what
    /// has flowed in.
    pub(super) fn found_empty(&mut self, now: Timestamp, quota: Quota, refused: Amount) {
        let configured = self.configured();
        let is_bucket = self.standing() == [Hypothesis::Bucket];
        let passed = self.book.emptied.last().map(|emptied| now.since(emptied.at));
        if is_bucket && passed.is_none_or(|passed| passed >= MEASURED_OVER) {
            if let Some(flow) = self.book.emptied.last().and_then(|last| last.flow_until(now, quota, refused.of(quota)))
            {
                self.book.learned.lower(configured, quota, flow);
            }
            let measured = KNOWN_AFTER..REMEMBERED;
            let first = self.book.emptied.first().filter(|first| measured.contains(&now.since(first.at)));
            // How much less than the refused call it held, nobody knows: a little too low is tried again, and a little too high
            // is refused again and again.
            if let Some(flow) = first.and_then(|first| first.flow_until(now, quota, refused.of(quota) / 4)) {
                self.book.learned.measured(configured, quota, flow);
            }
            let limit = self.book.learned.limit_of(configured, quota).unwrap_or(0);
            self.book.emptied.retain(|emptied| now.since(emptied.at) < REMEMBERED);
            self.book.emptied.truncate(1);
            self.book.emptied.push(Emptied { at: now, tokens: 0, requests: 0, limit });
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::Limits;
    use super::super::tests::{START, lane, refuse, secs, spend, take, tokens};
    use super::*;
    use crate::job::units::Tokens;

    /// The premise: a bucket of 200 that nobody had told of was taken for one of 236, since it had filled by 36 until it was
    /// empty; that was refused again, cut by more than it needed, and tried anew every few minutes.
    #[test]
    fn a_bucket_is_weighed_anew_by_how_long_it_took_to_empty_it() {
        const HOLDS: u64 = 60_000;
        for told in [None, Some(HOLDS * 13 / 10)] {
            let mut lane = lane(Counting::Learn, told.map_or_else(Limits::default, tokens));
            // For twelve seconds, in which it fills by 12,000.
            for second in 0..12 {
                spend(&mut lane, START + secs(second), 6_000);
            }
            let mut now = START + secs(12);
            while lane.tokens_per_minute() == told {
                let Ok(refused) = lane.reserve(now, Tokens(6_000)) else {
                    now = now + secs(1);
                    continue;
                };
                refuse(&mut lane, now, refused);
            }
            assert_eq!(lane.tokens_per_minute(), Some(HOLDS + 12_000), "{told:?}");
            let room = |lane: &LaneLedger, limit: u64| limit - lane.book.bucket.most(Quota::Tokens).whole();
            let before = room(&lane, HOLDS + 12_000);
            for _ in 0..2 {
                lane.book.beliefs.strike_too_strict(now, &[Hypothesis::Sliding, Hypothesis::Fixed]);
            }
            lane.weigh_what_was_found();
            let limit = lane.tokens_per_minute().unwrap();
            assert!((HOLDS * 95 / 100..=HOLDS).contains(&limit), "{limit}");
            assert_eq!(room(&lane, limit), before, "it is as empty as before");
        }
    }

    /// The premise: the flow was measured from one refusal to the next, always a little too high, and never below what is
    /// told: a limit that was told too high was refused every two minutes for ever.
    #[test]
    fn what_flows_into_a_bucket_in_a_minute_and_more_is_known_within_a_few_in_a_hundred_whatever_is_told() {
        const FLOW: u64 = 200_000;
        let mut lane = lane(Counting::Learn, tokens(FLOW * 13 / 10));
        for _ in 0..2 {
            lane.book.beliefs.strike_too_strict(START, &[Hypothesis::Sliding, Hypothesis::Fixed]);
        }
        spend(&mut lane, START, FLOW);
        let refused = take(&mut lane, START, 4_000);
        refuse(&mut lane, START, refused);
        let end = START + secs(90);
        let mut now = START + secs(3);
        for _ in 0..FLOW * 87 / 60 / 2_000 {
            spend(&mut lane, now, 2_000);
            now = now + Duration::from_millis(600);
        }
        assert!(now <= end && lane.tokens_per_minute() > Some(FLOW * 12 / 10));
        let refused = take(&mut lane, end, 4_000);
        refuse(&mut lane, end, refused);
        let limit = lane.tokens_per_minute().unwrap();
        assert!((FLOW * 96 / 100..=FLOW * 102 / 100).contains(&limit), "{limit}");
    }
}

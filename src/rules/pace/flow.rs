//! How much flows into a bucket in a minute? The service does not say, but it says when the bucket is empty: it refuses
//! what the bucket was to hold. What it lets through from one such moment to the next is what has flowed in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::learn::Hypothesis;
use super::limit::{Configured, Quota};
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
/// For longer than that nobody waits for it to fill.
const FILLS_FOR: Duration = Duration::from_secs(15);
/// Less than this part of what should have flowed in is nearly nothing.
const DRY: u64 = 4;

/// A bucket that was found empty.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Emptied {
    pub(super) quota: Quota,
    pub(super) at: Timestamp,
    /// Charged since, less what came back.
    pub(super) tokens: i64,
    pub(super) requests: i64,
    /// What calls came to that were sent since, and were not refused.
    pub(super) sent: Amount,
    /// What was believed of the quota then.
    pub(super) limit: u64,
}

impl Emptied {
    /// So much was sent since.
    pub(super) fn add(&mut self, amount: Amount) {
        self.tokens = self.tokens.saturating_add_unsigned(amount.tokens);
        self.requests = self.requests.saturating_add_unsigned(amount.requests);
        self.sent = self.sent.plus(amount);
    }

    /// From when on a refusal of so much says that next to nothing flows in. What earlier calls gave back is left out: more was
    /// reserved for them than the service had counted.
    fn dry_from(&self, refused: Amount) -> Timestamp {
        let let_through = self.sent.plus(refused).of(self.quota);
        let enough = (60_000 * DRY).saturating_mul(let_through) / self.limit.max(1) + 1;
        self.at.after(Duration::from_millis(enough).max(DRY_AFTER))
    }

    /// What flows in a minute at most, if the bucket holds no more than `rest` again.
    fn flow_until(&self, now: Timestamp, rest: u64) -> Option<u64> {
        let charged = match self.quota {
            Quota::Tokens => self.tokens,
            Quota::Requests => self.requests,
        };
        let most = u64::try_from(charged.saturating_add_unsigned(rest)).unwrap_or(0);
        per_minute(most, now.since(self.at))
    }
}

/// That much in that time, by the minute; `None` if it is no time.
pub(super) fn per_minute(amount: u64, passed: Duration) -> Option<u64> {
    let passed = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
    amount.saturating_mul(60_000).checked_div(passed)
}

/// What was admitted when the limit fell before anything was known of the counting; until it is known to be a bucket, or not to be
/// one.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Found {
    quota: Quota,
    limit: u64,
    /// What a bucket would hold at least.
    held: u64,
    configured: Configured,
}

impl LaneLedger {
    /// The limit has fallen, and nothing is known of the counting yet: if it fell to what the calls up to `made` came to, and if
    /// it is a bucket's, then that was full before them and is empty now.
    pub(super) fn note_found(&mut self, now: Timestamp, quota: Quota, made: Timestamp, admitted: Amount) {
        let configured = self.configured();
        let is_new = self.book.charges.oldest().is_some_and(|first| first.after(MINUTE) > made);
        let limit = self.book.learned.limit_of(configured, quota).filter(|limit| *limit == admitted.of(quota));
        let Some(limit) = limit.filter(|_| is_new) else { return };
        let held = self.book.charges.held_until(made, |amount| amount.of(quota));
        self.book.found = Some(Found { quota, limit, held, configured });
        self.book.emptied = vec![Emptied { quota, at: now, tokens: 0, requests: 0, sent: Amount::default(), limit }];
    }

    /// Once it is known to be a bucket: what had flowed in until it was empty was taken for a part of what it holds.
    pub(super) fn weigh_what_was_found(&mut self) {
        let (standing, configured) = (self.standing(), self.configured());
        self.book.found.take_if(|found| !standing.contains(&Hypothesis::Bucket) || found.configured != configured);
        if standing != [Hypothesis::Bucket] {
            return;
        }
        let Some(Found { quota, limit: found, held, .. }) = self.book.found.take() else { return };
        let Some(before) = self.book.learned.limit_of(configured, quota).filter(|limit| *limit <= found) else {
            return;
        };
        self.book.learned.lower(configured, quota, held);
        let holds = self.book.learned.limit_of(configured, quota).unwrap_or(before);
        // It is no emptier for that: it only holds less.
        let lag = self.bucket_lag();
        self.book.bucket.most_mut(quota).take(before.saturating_sub(holds), 0, holds, lag);
    }

    /// What was charged before a bucket was found empty, and never admitted, is no part of what has flowed in since.
    pub(super) fn never_admitted(&mut self, charged: Timestamp, amount: Amount) {
        for emptied in self.book.emptied.iter_mut().filter(|emptied| charged <= emptied.at) {
            emptied.tokens = emptied.tokens.saturating_add_unsigned(amount.tokens);
            emptied.requests = emptied.requests.saturating_add_unsigned(amount.requests);
        }
    }

    /// Whether what was taken for a bucket lets next to nothing through, as no bucket does: it was told so only because the
    /// limit was too low, under which the other countings seemed too strict.
    pub(super) fn has_run_dry(&self, now: Timestamp, quota: Quota, refused: Amount) -> bool {
        self.book
            .emptied
            .last()
            .filter(|emptied| emptied.quota == quota)
            .is_some_and(|emptied| now >= emptied.dry_from(refused))
    }

    /// Until when a bucket that was found empty fills by so much that one refusal says that it is none.
    pub(super) fn fills_until(&self, now: Timestamp, amount: Amount) -> Option<(Timestamp, Quota)> {
        let emptied = self.book.emptied.last()?;
        // Once it is full again nobody remembers when it was empty.
        let flow = self.book.learned.limit_of(self.configured(), emptied.quota)?;
        let full_at = now.after(self.book.bucket.most(emptied.quota).down_to(0, flow, Duration::ZERO));
        let at = emptied.dry_from(amount).min(emptied.at.after(FILLS_FOR)).min(full_at);
        (at > now).then_some((at, emptied.quota))
    }

    /// A bucket that has just refused a call holds less than that. What it let through since it was empty before is what
    /// has flowed in.
    pub(super) fn found_empty(&mut self, now: Timestamp, quota: Quota, refused: Amount) {
        let configured = self.configured();
        let is_bucket = self.standing() == [Hypothesis::Bucket];
        self.book.emptied.retain(|emptied| emptied.quota == quota);
        let passed = self.book.emptied.last().map(|emptied| now.since(emptied.at));
        if is_bucket && passed.is_none_or(|passed| passed >= MEASURED_OVER) {
            if let Some(flow) = self.book.emptied.last().and_then(|last| last.flow_until(now, refused.of(quota))) {
                self.book.learned.lower(configured, quota, flow);
            }
            let measured = KNOWN_AFTER..REMEMBERED;
            let first = self.book.emptied.first().filter(|first| measured.contains(&now.since(first.at)));
            // How much less than the refused call it held, nobody knows: a little too low is tried again, and a little too high
            // is refused again and again.
            if let Some(flow) = first.and_then(|first| first.flow_until(now, refused.of(quota) / 4)) {
                self.book.learned.measured(configured, quota, flow);
            }
            let limit = self.book.learned.limit_of(configured, quota).unwrap_or(0);
            self.book.emptied.retain(|emptied| now.since(emptied.at) < REMEMBERED);
            self.book.emptied.truncate(1);
            self.book.emptied.push(Emptied { quota, at: now, tokens: 0, requests: 0, sent: Amount::default(), limit });
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
    use super::super::tests::{START, lane, refuse, secs, spend, take, tokens};
    use super::super::{Ahead, Drawn, Event, Limits};
    use super::*;
    use crate::job::units::Tokens;

    /// The premise: a bucket of 200 that nobody had told of was taken for one of 236, since it had filled by 36 until it was
    /// empty; that was refused again, cut by more than it needed, and tried anew every few minutes.
    #[test]
    fn a_bucket_is_weighed_anew_by_how_long_it_took_to_empty_it() {
        const HOLDS: u64 = 60_000;
        for (told, alone) in [(None, 0), (None, 9), (Some(HOLDS * 13 / 10), 0)] {
            let mut lane = lane(Counting::Learn, told.map_or_else(Limits::default, tokens));
            // The first call goes alone, and the bucket is full again when it is answered. Then twelve seconds, in which it fills
            // by 12,000.
            spend(&mut lane, START, 100);
            let begins = START + secs(alone);
            for second in 0..11 {
                spend(&mut lane, begins + secs(second), 6_000);
            }
            let open = take(&mut lane, begins + secs(11), 5_900);
            let mut now = begins + secs(12);
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
            lane.apply(now, &Event::Settled(open, Tokens(5_900)));
            let limit = lane.tokens_per_minute().unwrap();
            assert!((HOLDS * 95 / 100..=HOLDS).contains(&limit), "{told:?}, {alone}: {limit}");
            assert_eq!(room(&lane, limit), before, "it is as empty as before");
        }
    }

    /// The premise: a limit that was found under other numbers cut the one that was told since.
    #[test]
    fn what_was_found_under_other_limits_weighs_nothing() {
        let mut lane = lane(Counting::Learn, Limits::default());
        for second in 0..12 {
            spend(&mut lane, START + secs(second), 6_000);
        }
        let mut now = START + secs(12);
        while lane.tokens_per_minute().is_none() {
            let Ok(refused) = lane.reserve(now, Tokens(6_000)) else {
                now = now + secs(1);
                continue;
            };
            refuse(&mut lane, now, refused);
        }
        lane.terms.limits = tokens(70_000);
        for _ in 0..2 {
            lane.book.beliefs.strike_too_strict(now, &[Hypothesis::Sliding, Hypothesis::Fixed]);
        }
        lane.weigh_what_was_found();
        assert_eq!(lane.tokens_per_minute(), Some(70_000));
    }

    /// The premise: a refusal of tokens and one of requests were taken for the same bucket, which seemed to let nothing through.
    #[test]
    fn a_bucket_of_requests_is_not_measured_by_its_tokens() {
        let mut lane = lane(Counting::Learn, tokens(100_000));
        for _ in 0..2 {
            lane.book.beliefs.strike_too_strict(START, &[Hypothesis::Sliding, Hypothesis::Fixed]);
        }
        spend(&mut lane, START, 90_000);
        let refused = Amount { tokens: 4_000, requests: 1 };
        lane.found_empty(START, Quota::Tokens, refused);
        spend(&mut lane, START + secs(20), 4_000);
        let now = START + secs(21);
        assert!(lane.has_run_dry(now, Quota::Tokens, refused));
        assert!(!lane.has_run_dry(now, Quota::Requests, refused));
    }

    /// The premise: reservations are on the safe side, so that what calls from before gave back hid what a bucket had let through
    /// since it was empty, and it was given up for half an hour.
    #[test]
    fn what_earlier_calls_give_back_makes_no_bucket_seem_dry() {
        let mut lane = lane(Counting::Learn, tokens(1_000_000));
        let early: Vec<_> = (0..10).map(|_| take(&mut lane, START, 9_000)).collect();
        let refused = Amount { tokens: 2_000, requests: 1 };
        lane.book.emptied = found_empty_at(START);
        spend(&mut lane, START + secs(3), 8_000);
        for reservation in early {
            lane.apply(START + secs(4), &Event::Settled(reservation, Tokens(7_000)));
        }
        assert!(!lane.has_run_dry(START + secs(6), Quota::Tokens, refused));
        assert!(lane.has_run_dry(START + secs(40), Quota::Tokens, refused));
    }

    fn found_empty_at(at: Timestamp) -> Vec<Emptied> {
        let (quota, sent) = (Quota::Tokens, Amount::default());
        vec![Emptied { quota, at, tokens: 0, requests: 0, sent, limit: 100_000 }]
    }

    /// The premise: what a call gave back that was sent later than it was charged was taken off what had been sent since,
    /// where it had never been counted: other calls were hidden by it, and the bucket seemed dry.
    #[test]
    fn a_call_that_was_charged_before_a_bucket_was_empty_and_sent_after_it_was_sent_since() {
        let mut lane = lane(Counting::Learn, tokens(100_000));
        let mut late = take(&mut lane, START, 9_000);
        lane.book.emptied = found_empty_at(START + secs(1));
        spend(&mut lane, START + secs(2), 500);
        lane.apply(START + secs(3), &Event::SentLate(late, START + secs(3)));
        late.made = START + secs(3);
        assert_eq!((lane.book.emptied[0].sent.tokens, lane.book.emptied[0].tokens), (9_500, 9_500));
        lane.apply(START + secs(5), &Event::Settled(late, Tokens(4_000)));
        assert_eq!((lane.book.emptied[0].sent.tokens, lane.book.emptied[0].tokens), (4_500, 4_500));
    }

    #[test]
    fn a_grant_from_before_a_bucket_was_empty_gives_nothing_back_of_what_was_sent_since() {
        let mut lane = lane(Counting::Learn, tokens(100_000));
        let grant = match lane.draw(START, Tokens(9_000), [Tokens(9_000)], Ahead::default()).unwrap() {
            Drawn::Grant(grant) => grant,
            Drawn::One(one) => unreachable!("{one:?}"),
        };
        lane.book.emptied = found_empty_at(START + secs(1));
        spend(&mut lane, START + secs(2), 500);
        lane.apply(START + secs(2), &Event::Returned(grant));
        assert_eq!((lane.book.emptied[0].sent.tokens, lane.book.emptied[0].tokens), (500, 500));
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

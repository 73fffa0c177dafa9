//! Is the limit too high, now that the service refused a call that the ledger had allowed? And how far does it fall?
//!
//! One refusal says little: a call that took too long on its way, somebody's mishap. It costs a short pause, after which
//! calls go by and by (`caution`); had it been the limit, the next of them are refused too. So it falls when, since a
//! refused call was sent, one call in three was refused, which in a burst is known at once, or again and again a few.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::book::Levels;
use super::learn::Hypothesis;
use super::limit::{DEEPEST_CUT, Quota};
use super::{Amount, LaneLedger, MINUTE, turn_before};
use crate::job::units::Timestamp;

const TICK: Duration = Duration::from_millis(1);
/// Who is refused for the limit's sake is refused again: so many at most were admitted for one that was refused ...
const SOON: Share = Share { refused: 2, admitted: 2 };
/// ... or, where the limit is only a little too high, so many in the long run ...
const LATER: Share = Share { refused: 3, admitted: 16 };
/// ... which for a bucket is all there is to see ...
const OF_A_BUCKET: Share = Share { refused: 2, admitted: 32 };
/// ... and more if there is none yet: one that was made of mishaps takes long to find out anew.
const UNTOLD: Share = Share { refused: 2, admitted: 1 };
const UNTOLD_LATER: Share = Share { refused: 4, admitted: 4 };
/// ... but not where they follow each other as fast as a bucket that is empty lets a few calls through.
const UNTOLD_OFTEN: Share = Share { refused: 5, admitted: 12 };
const OFTEN: Duration = Duration::from_secs(15);
/// By so much a call may have come later to the service than ours say: a machine that stood still is none the wiser ...
const LATE: Duration = Duration::from_secs(1);
/// ... but not all the time.
const LATE_AGAIN: Duration = Duration::from_secs(4 * 60);
/// So few refusals within a minute may be mishaps, and so may more of them if they are less than this part of the calls.
const ODD: u64 = 3;
const COMMON: u64 = 8;

/// From so many refusals on, if no more calls were admitted for each.
#[derive(Clone, Copy)]
struct Share {
    refused: u64,
    admitted: u64,
}

/// What speaks against the limit since it was last believed.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Doubt {
    /// In this burst and the last, if there was one just before.
    soon: Refusals,
    /// Within a minute.
    later: Refusals,
    /// Which burst it is, by when its first was seen.
    burst: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
struct Refusals {
    /// When the first call that was refused was sent.
    since: Timestamp,
    count: u64,
}

impl Refusals {
    fn one_more(self) -> Self {
        Self { count: self.count + 1, ..self }
    }
}

/// Refusals while next to nothing was charged, within a minute from the first of them.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct Odd {
    since: Timestamp,
    count: u64,
}

impl LaneLedger {
    /// The first refusal of a burst that says, if anything, that the limit is too high.
    pub(super) fn doubt(&mut self, now: Timestamp, quota: Quota, made: Timestamp) {
        let burst = self.book.throttles.seen;
        let first = Refusals { since: made, count: 1 };
        let goes_on = |refusals: Refusals| refusals.since.after(MINUTE) > now;
        let (soon, later) = self.book.doubt.map_or((first, first), |doubt| {
            let one_more = |refusals: Refusals| if goes_on(refusals) { refusals.one_more() } else { first };
            (one_more(doubt.soon), one_more(doubt.later))
        });
        if self.is_serious(&Doubt { soon, later, burst }) {
            return self.fall(now, quota, made);
        }
        self.book.doubt = Some(Doubt { soon: first, later, burst });
    }

    /// Whether a sliding minute refused the call for what had left our minute only just now. Until when to wait then: it will
    /// have left theirs as well. Once in a while this is believed; what happens again and again has another reason.
    pub(super) fn forgive_late(
        &mut self,
        now: Timestamp,
        quota: Quota,
        made: Timestamp,
        refused: Amount,
    ) -> Option<Timestamp> {
        let limit = self.book.learned.limit_of(self.configured(), quota)?;
        let was_late = self.book.late.is_some_and(|late| late.after(LATE_AGAIN) > now);
        if was_late || self.standing() != [Hypothesis::Sliding] {
            return None;
        }
        let since = made - MINUTE - self.terms.slack;
        let left = self.book.charges.most_between(since - LATE, since).of(quota);
        let charged = self.book.charges.most_between(since, made).of(quota);
        let is_explained = left > 0 && charged + left + refused.of(quota) > limit;
        is_explained.then(|| {
            self.book.late = Some(now);
            made.after(LATE)
        })
    }

    /// One more of the same burst. Until when to wait for it, if that is news.
    pub(super) fn doubt_more(&mut self, now: Timestamp, quota: Quota, refused: Amount) -> Option<Timestamp> {
        if let Some(made) = self.book.throttles.shrunk_by {
            let (configured, admitted) = (self.configured(), self.admitted_before(made));
            self.book.learned.lower(configured, quota, admitted.of(quota));
            if self.standing() == Hypothesis::ALL {
                self.note_found(now, quota, made, admitted);
            }
            return None;
        }
        let seen = self.book.throttles.seen;
        let doubt = self.book.doubt.as_mut().filter(|doubt| doubt.burst == seen)?;
        (doubt.soon, doubt.later) = (doubt.soon.one_more(), doubt.later.one_more());
        let doubt = *doubt;
        if !self.is_serious(&doubt) {
            return None;
        }
        self.fall(now, quota, doubt.soon.since);
        self.found_empty(now, quota, refused);
        self.soonest(now, refused)
    }

    /// Whether the limit was doubted within the last minute, and nothing has come of it so far.
    pub(super) fn is_in_doubt(&self, now: Timestamp) -> bool {
        self.book.doubt.is_some_and(|doubt| doubt.soon.since.after(MINUTE) > now)
    }

    fn is_serious(&self, doubt: &Doubt) -> bool {
        let is_more = |refusals: Refusals, share: Share| {
            let admitted = self.book.charges.most_from(refusals.since).requests;
            refusals.count >= share.refused && admitted <= refusals.count * share.admitted
        };
        if self.minute_limits() == (None, None) {
            let is_often = doubt.later.since.after(OFTEN) > self.book.latest && is_more(doubt.later, UNTOLD_OFTEN);
            return is_often || is_more(doubt.soon, UNTOLD) || is_more(doubt.later, UNTOLD_LATER);
        }
        let later = if self.standing() == [Hypothesis::Bucket] { OF_A_BUCKET } else { LATER };
        is_more(doubt.soon, SOON) || is_more(doubt.later, later)
    }

    fn fall(&mut self, now: Timestamp, quota: Quota, made: Timestamp) {
        self.book.doubt = None;
        if self.is_used(quota, made, DEEPEST_CUT) {
            self.book.even_until = Some(now.after(MINUTE));
        } else if self.forgive_odd(now) {
            return;
        }
        self.book.throttles.shrunk_by = Some(made);
        self.shrink(now, quota, made);
        if self.book.full_since.take().is_some_and(|since| since.after(MINUTE) <= made) {
            self.book.learned.try_soon(now);
        }
    }

    /// Notes when the limit was first brought into full use.
    pub(super) fn note_use(&mut self, now: Timestamp) {
        if self.book.full_since.is_none() && self.is_nearly_used(self.book.charges.most_since(now - MINUTE)) {
            self.book.full_since = Some(now);
        }
    }

    /// A refusal while next to nothing is charged has other reasons than what was sent, if most calls are admitted all the
    /// same: somebody's mishap, not a quota. Where it is not so rare, others have used the quota up.
    fn forgive_odd(&mut self, now: Timestamp) -> bool {
        let calls = self.book.charges.most_since(now - MINUTE).requests;
        let odd = &mut self.book.odd;
        if odd.since.after(MINUTE) <= now {
            *odd = Odd { since: now, count: 0 };
        }
        odd.count += 1;
        odd.count < ODD || odd.count * COMMON < calls
    }

    /// Down to what was admitted in the minute before the refused call, as far as one can tell.
    pub(super) fn shrink(&mut self, now: Timestamp, quota: Quota, made: Timestamp) {
        let is_new = self.minute_limits() == (None, None);
        let admitted = self.admitted_before(made);
        let configured = self.configured();
        self.book.learned.shrink(now, configured, quota, admitted);
        if is_new {
            self.book.bucket = Levels::default();
            self.book.bucket.tokens.add(admitted.tokens);
            self.book.bucket.requests.add(admitted.requests);
        }
        if self.standing() == Hypothesis::ALL {
            self.note_found(now, quota, made, admitted);
        }
    }

    /// What the service lets through in a minute, by what it had let through when it refused this call.
    pub(super) fn admitted_before(&self, made: Timestamp) -> Amount {
        let is_fixed = self.standing() == [Hypothesis::Fixed];
        let turn = turn_before(made - self.terms.slack) - self.terms.slack;
        self.book.charges.most_between(if is_fixed { turn - TICK } else { made - MINUTE }, made)
    }

    /// Whether that was so large a part of the limit.
    pub(super) fn is_used(&self, quota: Quota, made: Timestamp, part: u64) -> bool {
        let limit = self.book.learned.limit_of(self.configured(), quota);
        limit.is_none_or(|limit| self.admitted_before(made).of(quota) >= limit / part)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::tests::{SLIDING, START, lane, refuse, secs, spend, take, tokens};
    use super::super::{Counting, Limits};
    use super::*;

    /// 600 of its 1,000 tokens are charged.
    fn in_use(counting: Counting) -> LaneLedger {
        let mut lane = lane(counting, tokens(1_000));
        for second in 0..6 {
            spend(&mut lane, START + secs(second), 100);
        }
        lane
    }

    fn refused_at(lane: &mut LaneLedger, second: u64) {
        let refused = take(lane, START + secs(second), 100);
        refuse(lane, START + secs(second), refused);
    }

    /// The premise: a machine that stood still for two seconds sent a call when its charge had aged out; the limit fell by a
    /// third for that, and a sliding minute lost 45 s.
    #[test]
    fn two_refusals_among_calls_that_are_admitted_are_mishaps_and_the_third_is_not() {
        for counting in [SLIDING, Counting::Learn] {
            let mut lane = in_use(counting);
            for second in [6, 16] {
                refused_at(&mut lane, second);
                for later in 2..8 {
                    spend(&mut lane, START + secs(second + later), 10);
                }
            }
            assert_eq!(lane.tokens_per_minute(), Some(1_000), "{counting:?}");
            refused_at(&mut lane, 26);
            assert_eq!(lane.tokens_per_minute(), Some(720), "{counting:?}");
        }
    }

    /// The premise: a machine stood still for half a second in the middle of a backlog, two calls came too early for that, and the
    /// limit fell to what had been admitted: a drain of five minutes took six.
    #[test]
    fn a_burst_that_comes_too_early_for_calls_that_came_late_costs_a_second_once_in_a_while() {
        let mut lane = in_use(SLIDING);
        spend(&mut lane, START + secs(6), 400);
        let early = START + secs(60) + Duration::from_millis(100);
        let burst = |lane: &mut LaneLedger, at: Timestamp| {
            for refused in [0, 0].map(|later| take(lane, at + secs(later), 50)) {
                refuse(lane, at + TICK, refused);
            }
        };
        burst(&mut lane, early);
        assert_eq!(lane.tokens_per_minute(), Some(1_000));
        assert_eq!(lane.paused_until(early + TICK).map(|(until, _)| until), Some(early + LATE));
        spend(&mut lane, early + LATE, 10);
        burst(&mut lane, early + secs(2));
        assert!(lane.tokens_per_minute() < Some(1_000), "again so soon, it is something else");
    }

    #[test]
    fn when_as_many_as_a_third_are_refused_since_the_limit_falls() {
        for counting in [SLIDING, Counting::Learn] {
            let mut lane = in_use(counting);
            refused_at(&mut lane, 6);
            spend(&mut lane, START + secs(8), 10);
            assert_eq!(lane.tokens_per_minute(), Some(1_000), "{counting:?}");
            refused_at(&mut lane, 10);
            assert_eq!(lane.tokens_per_minute(), Some(610), "{counting:?}");
        }
    }

    #[test]
    fn a_bucket_lets_most_calls_through_that_are_a_little_too_many() {
        let mut lane = in_use(Counting::Known(Hypothesis::Bucket));
        refused_at(&mut lane, 6);
        for later in 8..20 {
            spend(&mut lane, START + secs(later), 10);
        }
        assert_eq!(lane.tokens_per_minute(), Some(1_000));
        refused_at(&mut lane, 21);
        assert_eq!(lane.tokens_per_minute(), Some(720));
    }

    #[test]
    fn a_lane_of_which_no_limit_is_known_makes_none_of_a_few_refusals_in_many() {
        let mut lane = lane(Counting::Learn, Limits::default());
        for second in (0..60).step_by(10) {
            refused_at(&mut lane, second);
            for later in 3..9 {
                spend(&mut lane, START + secs(second + later), 10);
            }
        }
        assert_eq!(lane.tokens_per_minute(), None);
    }

    /// The premise: nobody had told the limit of a bucket; once it was empty six calls went by before each refusal, thirty times in
    /// a minute, and that was never enough to learn one.
    #[test]
    fn a_limit_is_learned_where_refusals_follow_each_other_fast_with_a_few_calls_between_them() {
        let mut lane = lane(Counting::Learn, Limits::default());
        for second in (0..12).step_by(3) {
            refused_at(&mut lane, second);
            for call in 0..6 {
                spend(&mut lane, START + secs(second + 1) + Duration::from_millis(300 * call), 10);
            }
            assert_eq!(lane.tokens_per_minute(), None, "{second}");
        }
        refused_at(&mut lane, 12);
        assert_eq!(lane.tokens_per_minute(), Some(240));
    }

    /// The premise: one disturbance of a machine cost a configured lane more than a minute, although it had used its whole
    /// quota until then.
    #[test]
    fn a_limit_that_was_long_in_full_use_is_tried_soon_after_it_fell() {
        for (used_for, soon) in [(50, false), (70, true)] {
            let mut lane = lane(SLIDING, tokens(1_000));
            spend(&mut lane, START, 800);
            for second in (1..=used_for).step_by(10) {
                spend(&mut lane, START + secs(second), if second > 60 { 300 } else { 10 });
            }
            let last = used_for + 1;
            for second in [last, last + 2] {
                refused_at(&mut lane, second);
            }
            let fell = START + secs(last + 2);
            assert!(lane.tokens_per_minute() < Some(1_000), "{used_for}");
            let next = lane.book.learned.next_try(fell);
            assert_eq!(next <= fell + secs(5), soon, "after {used_for} s: {}", next.since(fell).as_secs());
        }
    }

    #[test]
    fn what_a_burst_says_is_known_at_once() {
        let mut lane = in_use(Counting::Learn);
        let burst = [0, 0].map(|later| take(&mut lane, START + secs(6 + later), 100));
        let [first, second] = burst;
        refuse(&mut lane, START + secs(7), first);
        assert_eq!(lane.tokens_per_minute(), Some(1_000));
        refuse(&mut lane, START + secs(7), second);
        assert_eq!(lane.tokens_per_minute(), Some(600));
    }

    #[test]
    fn doubts_are_forgotten_after_a_minute() {
        let mut lane = in_use(SLIDING);
        refused_at(&mut lane, 6);
        spend(&mut lane, START + secs(67), 600);
        refused_at(&mut lane, 68);
        assert_eq!(lane.tokens_per_minute(), Some(1_000));
        refused_at(&mut lane, 70);
        assert!(lane.tokens_per_minute() < Some(1_000));
    }
}

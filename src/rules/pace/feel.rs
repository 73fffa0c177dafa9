//! How many calls at once towards a quota that nobody has seen used up? A share of those of which no refusal was heard:
//! when the quota ends sooner than was told, or was never told, all that are on their way to it are refused.
//!
//! It costs little: where a number was told, only the last quarter of the first minute's quota is felt for, and all of it in
//! the minute after a refusal that nothing explains, within a few seconds; where none was told, ten times as many calls take some five seconds more.

use std::time::Duration;

use super::limit::Quota;
use super::{Amount, Binding, Counting, LaneLedger, MINUTE};
use crate::job::units::Timestamp;

/// What was sent so long ago and is still open counts as heard of: a refusal usually comes within this. `caution` allows
/// more, since it has to be sure; here each 100 ms more would cost speed, with every call that feels for a quota.
const HEARD_AFTER: Duration = Duration::from_millis(100);
/// So many may always be on their way at once.
const FEW: u64 = 2;
/// One on its way for so many that were heard of, where no quota was told ...
const UNTOLD: u64 = 24;
/// ... and beyond three quarters of the one that was.
const TOLD: u64 = 40;

impl LaneLedger {
    pub(super) fn feeling_gate(&self, now: Timestamp) -> Option<(Timestamp, Binding)> {
        let last_minute = self.book.charges.most_since(now - MINUTE);
        let share = self.share_felt(now, last_minute)?;
        let charges = &self.book.charges;
        let (unheard, newest) = charges.unsettled_since(now - HEARD_AFTER);
        let heard = last_minute.requests.saturating_sub(unheard);
        // One after the other, not all at the same moment.
        let apart = HEARD_AFTER / u32::try_from(FEW.max(heard / share)).unwrap_or(u32::MAX);
        newest.map(|newest| newest.after(apart)).filter(|at| *at > now).map(|at| (at, Binding::Trial))
    }

    /// Whether three quarters of a quota of the minute are used.
    pub fn is_near_its_limit(&self, now: Timestamp) -> bool {
        self.is_nearly_used(self.book.charges.most_since(now - MINUTE))
    }

    /// Whether the next call has to feel for the quota, once so much more is charged.
    pub(super) fn feels(&self, now: Timestamp, more: Amount) -> bool {
        let charged = self.book.charges.most_since(now - MINUTE).plus(more);
        self.share_felt(now, charged).is_some()
    }

    fn share_felt(&self, now: Timestamp, last_minute: Amount) -> Option<u64> {
        let (learns, is_known) = (self.terms.counting == Counting::Learn, self.minute_limits() != (None, None));
        let oldest = self.book.charges.oldest();
        let is_first = || learns && oldest.is_none_or(|oldest| oldest.after(MINUTE) > now);
        if learns && !is_known {
            Some(UNTOLD)
        } else if self.is_in_doubt(now) || (is_first() && self.is_nearly_used(last_minute)) {
            Some(TOLD)
        } else {
            None
        }
    }

    pub(super) fn is_nearly_used(&self, used: Amount) -> bool {
        [Quota::Tokens, Quota::Requests].into_iter().any(|quota| {
            let limit = self.book.learned.limit_of(self.configured(), quota);
            limit.is_some_and(|limit| used.of(quota) >= limit - limit / 4)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::tests::{SLIDING, START, TICK, held, lane, secs, spend, take, tokens};
    use super::super::{Event, Limits};
    use super::*;
    use crate::job::units::Tokens;

    /// Sends calls as soon as each may go, until then.
    fn as_many_as_go(lane: &mut LaneLedger, from: Timestamp, until: Timestamp, tokens: u64) -> u64 {
        let (mut now, mut count) = (from, 0);
        while now < until {
            match held(lane, now, tokens) {
                Some((at, _)) => now = at,
                None => {
                    let _open = take(lane, now, tokens);
                    count += 1;
                }
            }
        }
        count
    }

    #[test]
    fn the_last_quarter_of_what_was_told_is_felt_for_and_the_first_three_are_not() {
        let mut lane = lane(Counting::Learn, tokens(100_000));
        assert_eq!(as_many_as_go(&mut lane, START, START + TICK, 500), 150);
        let apart = HEARD_AFTER / u32::try_from(FEW).unwrap();
        assert_eq!(
            held(&mut lane, START + TICK, 500),
            Some((START + apart, Binding::Trial)),
            "of none it was heard yet"
        );
        let count = as_many_as_go(&mut lane, START + HEARD_AFTER, START + 2 * HEARD_AFTER, 500);
        assert_eq!(count, 4, "one for forty that were heard of, evenly");
    }

    #[test]
    fn a_quota_that_is_in_use_for_a_minute_is_not_felt_for_nor_one_whose_counting_is_told() {
        let mut lane = lane(Counting::Learn, tokens(100_000));
        spend(&mut lane, START, 75_000);
        assert_eq!(as_many_as_go(&mut lane, START + secs(58), START + secs(58) + TICK, 500), 1);
        spend(&mut lane, START + secs(59), 10_000);
        let count = as_many_as_go(&mut lane, START + secs(61), START + secs(61) + TICK, 500);
        assert!(count * 500 > 75_000, "{count}");

        let mut known = super::super::tests::lane(SLIDING, tokens(100_000));
        assert_eq!(as_many_as_go(&mut known, START, START + TICK, 500), 200);
    }

    #[test]
    fn where_none_was_told_calls_grow_by_a_share_of_those_that_were_heard_of() {
        let mut lane = lane(Counting::Learn, Limits::default());
        let mut second = |second: u64| as_many_as_go(&mut lane, START + secs(second), START + secs(second + 1), 1);
        let calls: Vec<_> = (0..12).map(&mut second).collect();
        assert!((15..=25).contains(&calls[0]), "{calls:?}");
        assert!(
            calls.is_sorted() && (6..=12).contains(&(calls[9] / calls[4])),
            "tenfold in some five seconds: {calls:?}"
        );
    }

    #[test]
    fn an_answer_is_heard_of_at_once() {
        let mut lane = lane(Counting::Learn, Limits::default());
        for _ in 0..100 {
            let call = take(&mut lane, START, 1);
            assert!(held(&mut lane, START, 1).is_some_and(|(_, binding)| binding == Binding::Trial));
            lane.apply(START, &Event::Settled(call, Tokens(1)));
        }
        assert_eq!(held(&mut lane, START, 1), None);
    }
}

//! What does the service's doing say about the counting and the limit?
//!
//! A refused trial strikes the countings that admitted it. A refused call that every counting admitted says that the limit
//! is too high. A trial that passes strikes the countings that forbade it, or raises the limit it went beyond.

use std::time::Duration;

use super::book::{First, Pause, Tries};
use super::caution::Caution;
use super::learn::{Hypothesis, Struck};
use super::limit::Quota;
use super::witness::Tried;
use super::{Amount, Binding, Counting, JUDGED_AFTER, LONGEST_HINT, LaneLedger, MINUTE, Reservation};
use crate::job::units::Timestamp;

/// After a throttle that nothing explains; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Between two raises of the limit of a bucket.
const BUCKET_REST: Duration = Duration::from_secs(8);
/// And where what is told is more: it need not be felt for.
const BUCKET_REST_BELOW: Duration = Duration::from_secs(3);

impl LaneLedger {
    pub(super) fn admitted(&mut self, now: Timestamp, reservation: &Reservation) {
        let Some(trial) = self.book.trial.take_if(|trial| trial.made == reservation.made && reservation.trial) else {
            return;
        };
        match trial.tries {
            Tries::Again => self.book.throttles.in_a_row = 0,
            Tries::Counting { mut forbid, .. } => {
                let is_bucket = |h: &Hypothesis| *h == Hypothesis::Bucket;
                if let Some(bucket) = forbid.extract_if(.., |h| is_bucket(h)).next() {
                    self.book.beliefs.strike_too_strict(now, &[bucket]);
                }
                self.remember(trial.made, Tried::Counting { forbid });
            }
            Tries::Limit(quota) if self.standing().contains(&Hypothesis::Bucket) => {
                let size = Amount { tokens: reservation.tokens.0, requests: 1 };
                let configured = self.configured();
                let is_below = self.book.learned.is_below(configured);
                let rest = if is_below { BUCKET_REST_BELOW } else { BUCKET_REST };
                let before = self.book.learned.limit_of(configured, quota).unwrap_or(u64::MAX);
                let raise = self.book.learned.try_succeeded(now, configured, quota, size, rest);
                if raise >= before / 2 {
                    // No step but all that is told: whoever took the rest has left, and what was measured was another flow.
                    self.book.emptied.clear();
                }
                // A bucket of which more may be had is not fuller for that: it only fills faster.
                self.book.bucket.most_mut(quota).add(raise);
            }
            Tries::Limit(quota) => {
                self.book.learned.try_again(now);
                self.remember(trial.made, Tried::Limit(quota));
            }
        }
        self.hear_witnesses(now);
    }

    /// The trial came to nothing that says anything.
    pub(super) fn unjudged(&mut self, reservation: &Reservation) {
        self.book.trial.take_if(|trial| trial.made == reservation.made && reservation.trial);
        if let First::Out(made) = self.book.first
            && made == reservation.made
        {
            self.book.first = First::Wanted;
        }
    }

    pub(super) fn throttled(
        &mut self,
        now: Timestamp,
        reservation: &Reservation,
        quota: Quota,
        hint: Option<Duration>,
    ) {
        let hinted = hint.map(|hint| now.after(hint.min(LONGEST_HINT)));
        // Whatever another call was trying, it tried under what does not hold any more. And one that was sent at about the
        // same time may have come first and taken the place of this one.
        let trial = self.book.trial.take().filter(|trial| reservation.made.after(self.terms.slack) >= trial.made);
        self.book.first = First::Done;
        self.release(reservation);
        let refused = Amount { tokens: reservation.tokens.0, requests: 1 };
        let until = if self.book.throttles.seen.is_some_and(|seen| reservation.made <= seen) {
            self.doubt_more(now, quota, refused).unwrap_or(now)
        } else {
            self.first_of_a_burst(now, (quota, refused), reservation.made, trial.map(|trial| trial.tries))
        };
        self.pause_until(hinted.map_or(until, |hinted| hinted.max(until)), Binding::Throttled);
    }

    /// A refused call that was sent after the last refusal was heard. Until when to pause for it.
    fn first_of_a_burst(
        &mut self,
        now: Timestamp,
        (quota, refused): (Quota, Amount),
        made: Timestamp,
        tries: Option<Tries>,
    ) -> Timestamp {
        let heard_before = self.book.throttles.seen.replace(now);
        self.book.throttles.shrunk_by = None;
        if self.take_back_try(now, tries.as_ref()) {
            self.found_empty(now, quota, refused);
            return now;
        }
        if let Some(until) = self.forgive_late(now, quota, made, refused) {
            self.book.caution = Some(Caution::default());
            return until;
        }
        let (configured, tries_counting) = (self.configured(), matches!(tries, Some(Tries::Counting { .. })));
        let was_explained = self.book.exceeded.is_some_and(|at| at.after(self.terms.slack) >= made);
        if !was_explained {
            self.book.caution = Some(Caution::default());
            self.unexplained(now, (quota, refused), made, tries);
            self.found_empty(now, quota, refused);
        }
        let again = self.soonest(now, refused);
        self.book.careful = again.is_none();
        // What was sent since the last refusal, and was not refused in time, was admitted, however long its answer takes.
        if heard_before.is_some_and(|seen| self.book.charges.most_between(seen, now - JUDGED_AFTER).requests > 0) {
            self.book.throttles.in_a_row = 0;
        }
        let pause = self.escalate();
        // Whoever explained it and was wrong is believed less each time; but what only finds out the counting was worth a try.
        let is_for_counting = tries_counting && self.minute_limits() == configured;
        let at_least = if is_for_counting { now } else { now.after(pause.saturating_sub(FIRST_PAUSE)) };
        again.map_or(now.after(pause), |again| again.max(at_least))
    }

    /// Whether the refused call went beyond what is known of the limit: it was worth a try, or the raise before it was not
    /// proven yet. What it went beyond is taken back, and what the ledger knew holds as before.
    fn take_back_try(&mut self, now: Timestamp, tries: Option<&Tries>) -> bool {
        let (calls, configured) = (self.book.charges.most_since(now - MINUTE).requests, self.configured());
        let is_try = matches!(tries, Some(Tries::Limit(_)));
        // Who gets as far as a try has used up all that was raised, which proves it; of a bucket that is used later.
        let may_be_unproven = !is_try || self.standing() == [Hypothesis::Bucket];
        let is_taken_back = may_be_unproven && self.book.learned.take_back(now, configured, calls);
        if is_try {
            if !is_taken_back {
                self.book.learned.give_up_try(now, configured, calls);
            }
            // Smaller calls may still seem to fit, and may not.
            self.book.caution = Some(Caution::default());
        }
        is_taken_back || is_try
    }

    /// A refusal strikes what admitted the call; when all that stands did, or nothing else is left to blame, the limit is
    /// too high.
    fn unexplained(
        &mut self,
        now: Timestamp,
        (quota, refused): (Quota, Amount),
        made: Timestamp,
        tries: Option<Tries>,
    ) {
        let standing = self.standing();
        let bucket = Hypothesis::Bucket;
        let is_foretold = matches!(&tries, Some(Tries::Counting { admit, .. }) if !admit.contains(&bucket));
        let is_dry = !is_foretold && standing.contains(&bucket) && self.has_run_dry(now, quota, refused);
        if is_dry && standing.len() > 1 {
            self.book.beliefs.fell_too_lax(now, &[bucket]);
            return;
        }
        let agree = standing.len() > 1 && !matches!(tries, Some(Tries::Counting { .. }));
        let is_limit = match standing.as_slice() {
            [Hypothesis::Sliding] => true,
            [Hypothesis::Bucket] => !is_dry,
            // Else it is the turn of the minute that is not what it was taken for.
            [Hypothesis::Fixed] => self.is_used(quota, made, 2),
            _ => false,
        };
        let is_known = self.terms.counting != Counting::Learn;
        if agree || is_limit || is_known {
            return self.doubt(now, quota, made);
        }
        let lax = match tries {
            Some(Tries::Counting { admit, .. }) => {
                // Should it be a bucket all the same, it is empty: the next call is to prove more than this one.
                if let Some(limit) = self.book.learned.limit_of(self.configured(), quota)
                    && admit.contains(&Hypothesis::Bucket)
                {
                    self.book.bucket.most_mut(quota).within(limit, limit);
                }
                admit
            }
            Some(Tries::Again | Tries::Limit(_)) | None => standing,
        };
        let beliefs = &mut self.book.beliefs;
        match if is_dry { beliefs.fell_too_lax(now, &lax) } else { beliefs.strike_too_lax(now, &lax) } {
            Struck::Standing => {}
            Struck::AllTooLax => self.shrink(now, quota, made),
            Struck::Mixed => {
                let admitted = self.admitted_before(made);
                let configured = self.configured();
                self.book.learned.replace(now, configured, quota, admitted);
            }
        }
    }

    pub(super) fn soonest(&self, now: Timestamp, amount: Amount) -> Option<Timestamp> {
        let mut soonest = None;
        for hypothesis in self.standing() {
            let (at, _) = self.fits_at(hypothesis, now, amount)?;
            soonest = Some(soonest.map_or(at, |other: Timestamp| other.min(at)));
        }
        soonest
    }

    fn escalate(&mut self) -> Duration {
        let doublings = self.book.throttles.in_a_row.min(LONGEST_PAUSE.as_secs().ilog2() + 1);
        self.book.throttles.in_a_row = self.book.throttles.in_a_row.saturating_add(1);
        (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE)
    }

    /// Pauses, but never shortens a pause that stands.
    pub(super) fn pause_until(&mut self, until: Timestamp, binding: Binding) {
        if self.book.pause.is_none_or(|pause| pause.until < until) {
            self.book.pause = Some(Pause { until, binding });
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::tests::{SLIDING, START, TICK, held, lane, refuse, secs, spend, take, tokens};
    use super::super::{DAY_PAUSE, Event, Limits};
    use super::*;
    use crate::job::units::Tokens;

    fn pause(lane: &mut LaneLedger, now: Timestamp) -> Option<Timestamp> {
        lane.paused_until(now).map(|(until, _)| until)
    }

    /// A small call that the service refuses at once.
    fn throttle(lane: &mut LaneLedger, now: Timestamp) -> Timestamp {
        let refused = take(lane, now, 10);
        refuse(lane, now, refused);
        pause(lane, now).unwrap()
    }

    /// Learns, knows of no reason why not, and has 600 of its 1,000 tokens charged.
    fn in_use() -> LaneLedger {
        let mut lane = lane(Counting::Learn, tokens(1_000));
        for second in 0..6 {
            spend(&mut lane, START + secs(second), 100);
        }
        lane
    }

    /// A call that is refused, and the one that goes first after the pause.
    fn refuse_twice(lane: &mut LaneLedger, now: Timestamp, tokens: u64) {
        let mut now = now;
        for _ in 0..2 {
            let refused = take(lane, now, tokens);
            refuse(lane, now, refused);
            now = pause(lane, now).unwrap();
        }
    }

    /// A trial that only clock minutes admit, at the turn of `minute`.
    fn trial_after(lane: &mut LaneLedger, minute: u64) -> Reservation {
        let turn = START + secs(60 * minute);
        spend(lane, turn - secs(5), 700);
        let trial = take(lane, turn, 900);
        assert!(trial.trial);
        trial
    }

    #[test]
    fn a_trial_that_passes_strikes_what_certainly_forbade_it_and_two_fell_it() {
        let mut lane = lane(Counting::Learn, tokens(1_000));
        for minute in [1, 3] {
            assert_eq!(lane.standing(), Hypothesis::ALL);
            let trial = trial_after(&mut lane, minute);
            lane.apply(trial.made + JUDGED_AFTER, &Event::Passed(trial));
            lane.apply(trial.made + secs(2), &Event::Settled(trial, Tokens(900)));
        }
        assert_eq!(lane.standing(), [Hypothesis::Fixed]);
    }

    #[test]
    fn a_trial_that_is_answered_soon_has_passed_as_well() {
        let mut lane = lane(Counting::Learn, tokens(1_000));
        for minute in [1, 3] {
            let trial = trial_after(&mut lane, minute);
            lane.apply(trial.made + secs(1) / 2, &Event::Settled(trial, Tokens(900)));
        }
        assert_eq!(lane.standing(), [Hypothesis::Fixed]);
    }

    #[test]
    fn a_trial_that_is_refused_strikes_only_what_admitted_it() {
        let mut lane = lane(Counting::Learn, tokens(1_000));
        for minute in [1, 3] {
            assert_eq!(lane.standing(), Hypothesis::ALL);
            let trial = trial_after(&mut lane, minute);
            refuse(&mut lane, trial.made, trial);
        }
        assert_eq!(lane.standing(), [Hypothesis::Bucket, Hypothesis::Sliding]);
        assert_eq!(lane.tokens_per_minute(), Some(1_000));
    }

    #[test]
    fn a_call_that_was_not_settled_in_time_proves_nothing() {
        let mut lane = lane(Counting::Learn, tokens(1_000));
        for minute in [1, 3, 5] {
            let turn = START + secs(60 * minute);
            let open = take(&mut lane, turn - secs(5), 600);
            let trial = take(&mut lane, turn, 900);
            lane.apply(trial.made + JUDGED_AFTER, &Event::Passed(trial));
            lane.apply(turn + secs(10), &Event::Settled(open, Tokens(0)));
            lane.apply(turn + secs(10), &Event::Settled(trial, Tokens(0)));
        }
        assert_eq!(
            lane.standing(),
            Hypothesis::ALL,
            "it may have been settled with nothing before the trial was admitted"
        );
    }

    #[test]
    fn a_refusal_that_all_admitted_shrinks_the_limit_to_what_was_admitted() {
        let mut lane = in_use();
        refuse_twice(&mut lane, START + secs(6), 200);
        assert_eq!(lane.standing(), Hypothesis::ALL);
        assert_eq!(lane.tokens_per_minute(), Some(600));
    }

    #[test]
    fn one_burst_shrinks_the_limit_once() {
        let mut lane = in_use();
        let burst = [0, 0, 100].map(|later| take(&mut lane, START + secs(6) + TICK * later, 100));
        for refused in burst {
            refuse(&mut lane, START + secs(7), refused);
        }
        assert_eq!(lane.tokens_per_minute(), Some(600));
    }

    #[test]
    fn strikes_that_disagree_leave_the_sliding_minute() {
        let mut lane = lane(Counting::Learn, tokens(1_000));
        for minute in [1, 3] {
            let trial = trial_after(&mut lane, minute);
            lane.apply(trial.made + secs(2), &Event::Settled(trial, Tokens(900)));
        }
        assert_eq!(lane.standing(), [Hypothesis::Fixed]);
        for minute in [5, 7] {
            let turn = START + secs(60 * minute);
            spend(&mut lane, turn - secs(5), 700);
            let refused = take(&mut lane, turn, 900);
            refuse(&mut lane, turn, refused);
        }
        assert_eq!(lane.standing(), [Hypothesis::Sliding]);
        assert_eq!(lane.tokens_per_minute(), Some(700), "of the last minute, whatever was believed");
    }

    #[test]
    fn q3_a_throttle_that_an_excess_explains_strikes_nobody() {
        let mut lane = lane(Counting::Learn, tokens(1_000));
        for minute in [1, 3, 5] {
            let now = START + secs(60 * minute);
            let dearer = take(&mut lane, now, 100);
            let refused = take(&mut lane, now, 500);
            lane.apply(now + TICK, &Event::Settled(dearer, Tokens(700)));
            refuse(&mut lane, now + TICK, refused);
        }
        assert_eq!(lane.standing(), Hypothesis::ALL);
        assert_eq!(lane.tokens_per_minute(), Some(1_000));
    }

    #[test]
    fn a_lane_without_a_limit_learns_one_from_a_throttle() {
        for counting in Hypothesis::ALL.map(Counting::Known).into_iter().chain([Counting::Learn]) {
            let mut lane = lane(counting, Limits::default());
            for second in 0..8 {
                spend(&mut lane, START + secs(second), 100);
            }
            refuse_twice(&mut lane, START + secs(8), 100);
            assert_eq!(lane.tokens_per_minute(), Some(800), "{counting:?}");
            assert!(lane.has_limits());
            let second = lane.latest();
            assert!(held(&mut lane, second + TICK, 100).is_some(), "{counting:?}");
        }
    }

    #[test]
    fn the_limit_is_tried_by_single_calls_raised_to_what_was_admitted_and_put_off_on_a_refusal() {
        let mut lane = lane(Counting::Learn, tokens(1_000));
        for minute in [1, 3] {
            let trial = trial_after(&mut lane, minute);
            refuse(&mut lane, trial.made, trial);
        }
        for minute in [5, 7] {
            // After a pause of a while a bucket that forbids it stands alone against the sliding minute.
            let turn = START + secs(60 * minute);
            spend(&mut lane, turn, 1_000);
            let trial = take(&mut lane, turn + secs(40), 500);
            assert!(trial.trial, "{minute}");
            refuse(&mut lane, trial.made, trial);
        }
        assert_eq!(lane.standing(), [Hypothesis::Sliding]);
        let mut now = START + secs(60 * 20);
        let mut tries = Vec::new();
        while tries.len() < 3 {
            match lane.reserve(now, Tokens(100)) {
                Ok(reservation) if reservation.trial => tries.push(reservation),
                Ok(reservation) => lane.apply(now, &Event::Settled(reservation, Tokens(100))),
                Err(super::super::Refusal::NotUntil { at, .. }) => now = at,
                Err(never) => unreachable!("{never}"),
            }
            if let Some(open) = tries.last().filter(|open| open.made == now) {
                assert!(held(&mut lane, now, 1).is_some_and(|(_, binding)| binding == Binding::Trial));
                let limit = lane.tokens_per_minute().unwrap();
                now = now + JUDGED_AFTER;
                match tries.len() {
                    1 | 2 => {
                        lane.apply(now, &Event::Passed(*open));
                        assert_eq!(lane.tokens_per_minute(), Some(limit), "it may come to nothing yet");
                        lane.apply(now, &Event::Settled(*open, Tokens(100)));
                        assert_eq!(lane.tokens_per_minute(), Some(limit + 100));
                    }
                    _ => {
                        let refused = *open;
                        refuse(&mut lane, now, refused);
                        assert_eq!(lane.tokens_per_minute(), Some(limit));
                    }
                }
            }
        }
        let put_off = now + secs(480);
        while now < put_off {
            match lane.reserve(now, Tokens(100)) {
                Ok(reservation) => {
                    assert!(!reservation.trial, "tried again at {now}");
                    lane.apply(now, &Event::Settled(reservation, Tokens(100)));
                }
                Err(super::super::Refusal::NotUntil { at, .. }) => now = at,
                Err(never) => unreachable!("{never}"),
            }
        }
    }

    /// The premise: a bucket was known, all that was reserved came to a little less, and calls beyond the limit passed by
    /// what the service had free; the limit was raised, the next burst was refused, and two such felled the right counting.
    #[test]
    fn a_refusal_after_a_raise_takes_it_back_and_strikes_nobody() {
        let mut lane = lane(Counting::Learn, tokens(1_000));
        lane.book.beliefs.strike_too_strict(START, &[Hypothesis::Sliding, Hypothesis::Fixed]);
        lane.book.beliefs.strike_too_strict(START, &[Hypothesis::Sliding, Hypothesis::Fixed]);
        let configured = lane.configured();
        for round in 0..3 {
            let now = START + secs(700 * (round + 1));
            let size = Amount { tokens: 50, requests: 1 };
            // After a refusal one call goes first.
            spend(&mut lane, now - secs(5), 0);
            for _ in 0..2 {
                lane.book.learned.try_succeeded(now, configured, Quota::Tokens, size, BUCKET_REST);
            }
            assert_eq!(lane.tokens_per_minute(), Some(1_050), "{round}");
            let burst = [take(&mut lane, now, 20), take(&mut lane, now, 20)];
            for refused in burst {
                refuse(&mut lane, now + TICK, refused);
            }
            assert_eq!(lane.tokens_per_minute(), Some(1_000), "{round}");
            assert_eq!(lane.standing(), [Hypothesis::Bucket], "{round}");
        }
    }

    /// The premise: a clock minute and most of the next were admitted before the first refusal, and while a bucket might have
    /// been behind it the limit fell by an eighth ten times, each for a refusal.
    #[test]
    fn what_lets_nothing_through_for_seconds_is_no_bucket_whatever_else_it_may_be() {
        for (admitted, standing) in [(100, Hypothesis::ALL.as_slice()), (0, &[Hypothesis::Sliding, Hypothesis::Fixed])]
        {
            let mut lane = in_use();
            refuse_twice(&mut lane, START + secs(6), 200);
            assert_eq!(lane.tokens_per_minute(), Some(600));
            spend(&mut lane, START + secs(22), admitted);
            throttle(&mut lane, START + secs(23));
            assert_eq!(lane.standing(), standing, "{admitted}");
        }
    }

    /// The premise: it was asked at once, when one refusal said little, and asked again.
    #[test]
    fn a_bucket_that_was_found_empty_is_asked_when_one_refusal_says_that_it_is_none() {
        let mut lane = in_use();
        refuse_twice(&mut lane, START + secs(6), 200);
        assert_eq!(lane.tokens_per_minute(), Some(600));
        let emptied = lane.book.emptied[0].at;
        // A quarter of what flows in by then is a little more than it asks for.
        for (tokens, after) in [(30, 12_001), (100, 15_000)] {
            let at = emptied.after(Duration::from_millis(after));
            assert_eq!(held(&mut lane, emptied + secs(9), tokens), Some((at, Binding::Tokens)), "{tokens}");
        }
        let at = emptied.after(Duration::from_millis(12_001));
        let refused = take(&mut lane, at, 30);
        refuse(&mut lane, at, refused);
        assert_eq!(lane.standing(), [Hypothesis::Sliding, Hypothesis::Fixed]);
    }

    /// The premise: a limit was found to be 198,699 where it was 200,000, and two calls that were admitted under that felled the
    /// right counting.
    #[test]
    fn what_is_a_little_more_than_a_limit_that_was_found_contradicts_no_counting() {
        for (told, standing) in [(990, [Hypothesis::Bucket, Hypothesis::Fixed].as_slice()), (1_000, &Hypothesis::ALL)] {
            let mut lane = lane(Counting::Learn, tokens(told));
            let (configured, found) = (lane.configured(), Amount { tokens: 990, requests: 10 });
            lane.book.learned.replace(START, configured, Quota::Tokens, found);
            for minute in [1, 3] {
                let turn = START + secs(60 * minute);
                spend(&mut lane, turn - secs(5), 700);
                let trial = take(&mut lane, turn, 300);
                assert!(trial.trial);
                lane.apply(turn + secs(2), &Event::Settled(trial, Tokens(300)));
            }
            assert_eq!(lane.standing(), standing, "{told}");
        }
    }

    #[test]
    fn r08_throttles_that_the_ledger_cannot_explain_wait_longer_each_time() {
        let mut now = START;
        let mut lane = lane(SLIDING, tokens(100));
        let mut waits = Vec::new();
        for _ in 0..8 {
            let until = throttle(&mut lane, now);
            waits.push(until.since(now).as_secs());
            assert_eq!(held(&mut lane, until - TICK, 10), Some((until, Binding::Throttled)));
            now = until;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn r08_one_burst_of_throttles_pauses_once() {
        let mut lane = lane(SLIDING, tokens(100));
        let burst: Vec<_> = (0..3).map(|_| take(&mut lane, START, 1)).collect();
        for (after, refused) in (1..).zip(burst) {
            refuse(&mut lane, START + Duration::from_millis(after), refused);
            assert_eq!(pause(&mut lane, START), Some(START + secs(1) + TICK));
        }
        assert_eq!(throttle(&mut lane, START + secs(2)), START + secs(4));
    }

    #[test]
    fn r08_an_answer_ends_the_row_unless_it_was_sent_before_the_throttle() {
        let mut lane = lane(SLIDING, Limits::default());
        let before = take(&mut lane, START, 0);
        throttle(&mut lane, START + secs(1));
        lane.apply(START + secs(2), &Event::Settled(before, Tokens(0)));
        assert_eq!(throttle(&mut lane, START + secs(3)), START + secs(5));
        let after = take(&mut lane, START + secs(6), 0);
        lane.apply(START + secs(7), &Event::Settled(after, Tokens(0)));
        assert_eq!(throttle(&mut lane, START + secs(8)), START + secs(9));
    }

    #[test]
    fn r08_a_throttle_that_the_ledger_can_explain_waits_until_the_ledger_admits_it() {
        let mut lane = lane(SLIDING, tokens(100));
        spend(&mut lane, START, 40);
        let refused = take(&mut lane, START + secs(1), 60);
        let dearer = take(&mut lane, START + secs(1), 0);
        lane.apply(START + secs(2), &Event::Settled(dearer, Tokens(30)));
        refuse(&mut lane, START + secs(2), refused);
        assert_eq!(pause(&mut lane, START + secs(2)), Some(START + MINUTE));
    }

    /// The premise: a bucket that was none seemed to have room every second, and ten calls in a row were refused one by one.
    #[test]
    fn r08_throttles_that_the_ledger_explains_wait_longer_as_well_if_nothing_is_admitted_in_between() {
        let bucket = Counting::Known(Hypothesis::Bucket);
        let mut lane = lane(bucket, tokens(60_000));
        let all_dearer = [(); 4].map(|()| take(&mut lane, START, 0));
        spend(&mut lane, START, 60_000);
        let mut now = START + secs(1);
        let mut waits = Vec::new();
        for dearer in all_dearer {
            let refused = take(&mut lane, now, 1_000);
            lane.apply(now, &Event::Settled(dearer, Tokens(100)));
            refuse(&mut lane, now, refused);
            let until = pause(&mut lane, now).unwrap();
            waits.push(until.since(now).as_millis());
            now = until;
        }
        assert_eq!(waits, [100, 1_000, 4_000, 8_000]);
    }

    /// The premise: answers took twenty seconds, and of a hundred calls each one was refused: none had been answered in between, and
    /// the lane stood still for a minute each time.
    #[test]
    fn r08_throttles_with_calls_admitted_in_between_are_not_in_a_row_however_long_answers_take() {
        let mut lane = lane(Counting::Known(Hypothesis::Bucket), tokens(60_000));
        let all_dearer = [(); 6].map(|()| take(&mut lane, START, 0));
        spend(&mut lane, START, 60_000);
        let mut now = START + secs(1);
        for dearer in all_dearer {
            let refused = take(&mut lane, now, 1_000);
            lane.apply(now, &Event::Settled(dearer, Tokens(100)));
            refuse(&mut lane, now, refused);
            let until = pause(&mut lane, now).unwrap();
            assert!(until.since(now) <= secs(1), "{}", until.since(now).as_millis());
            let _open = take(&mut lane, until, 0);
            now = until + secs(5);
        }
    }

    #[test]
    fn r08_a_hint_is_a_lower_bound_within_a_day() {
        for (hint, pause) in [(secs(0), secs(1)), (secs(45), secs(45)), (Duration::MAX, LONGEST_HINT)] {
            let mut lane = lane(SLIDING, tokens(100));
            let refused = take(&mut lane, START, 10);
            lane.apply(START, &Event::Throttled(refused, Quota::Tokens, Some(hint)));
            assert_eq!(lane.paused_until(START), Some((START + pause, Binding::Throttled)));
            assert_eq!(lane.paused_until(START + pause), None);
        }
    }

    #[test]
    fn a_pause_is_never_shortened() {
        let mut lane = lane(SLIDING, tokens(100));
        let (day, minute) = (take(&mut lane, START, 10), take(&mut lane, START, 10));
        lane.apply(START, &Event::DayExhausted(day, None));
        lane.apply(START, &Event::Throttled(minute, Quota::Tokens, Some(secs(5))));
        assert_eq!(lane.paused_until(START), Some((START + DAY_PAUSE, Binding::Day)));
    }

    #[test]
    fn a_used_up_day_parks_the_lane_for_an_hour_at_least_and_a_day_at_most() {
        let cases = [
            (None, DAY_PAUSE),
            (Some(secs(5)), DAY_PAUSE),
            (Some(2 * DAY_PAUSE), 2 * DAY_PAUSE),
            (Some(Duration::MAX), LONGEST_HINT),
        ];
        for (hint, pause) in cases {
            let mut lane = lane(SLIDING, tokens(100));
            let refused = take(&mut lane, START, 100);
            lane.apply(START, &Event::DayExhausted(refused, hint));
            assert_eq!(held(&mut lane, START, 100), Some((START + pause, Binding::Day)));
            assert_eq!(held(&mut lane, START + pause, 100), None, "and nothing of it stays charged");
        }
    }
}

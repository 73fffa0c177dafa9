//! May a call go now, by everything the book says? The most permissive counting that stands decides; what a stricter one
//! would forbid goes as a trial.

use std::time::Duration;

use super::book::{First, Tries};
use super::learn::Hypothesis;
use super::limit::{Configured, Quota};
use super::{Amount, Binding, Counting, JUDGED_AFTER, LaneLedger, MINUTE, Refusal, TRIAL_LOST, turn_before};
use crate::job::units::{PerDay, PerMinute, Timestamp, Tokens};

/// The first call of a lane goes alone for so long at most.
const FIRST_ALONE: Duration = Duration::from_secs(10);

impl LaneLedger {
    /// What the call would try, if it may go.
    pub(super) fn decide(&mut self, now: Timestamp, tokens: Tokens) -> Result<Option<Tries>, Refusal> {
        self.advance(now);
        let now = self.book.latest;
        self.fits_at_all(tokens)?;
        let gates = [
            self.paused_gate(now),
            self.day_gate(tokens),
            self.waits_for_another(now),
            self.cautious_gate(now),
            self.feeling_gate(now),
        ];
        let shut = gates.into_iter().flatten().max_by_key(|(at, _)| *at);
        behind(shut, self.decide_by_the_minute(now, Amount { tokens: tokens.0, requests: 1 }))
    }

    fn decide_by_the_minute(&mut self, now: Timestamp, amount: Amount) -> Result<Option<Tries>, Refusal> {
        let even = self.book.even_until.and_then(|until| {
            self.fits_at(Hypothesis::Bucket, now, amount).map(|(at, quota)| (at.min(until), binding_of(quota)))
        });
        behind(even, self.decide_by_the_counting(now, amount))
    }

    /// Whether a limit that fell a moment ago lets so much through evenly, if there is one.
    pub(super) fn is_even(&self, now: Timestamp, amount: Amount) -> bool {
        self.book.even_until.is_none() || self.fits_at(Hypothesis::Bucket, now, amount).is_none()
    }

    pub(super) fn fits_into_day(&self, tokens: Tokens) -> bool {
        self.day_gate(tokens).is_none()
    }

    fn decide_by_the_counting(&mut self, now: Timestamp, amount: Amount) -> Result<Option<Tries>, Refusal> {
        let standing = self.standing();
        let fills = self.fills_until(now, amount).filter(|_| standing.len() > 1);
        let opens = |hypothesis: &Hypothesis| {
            let fills = fills.filter(|_| *hypothesis == Hypothesis::Bucket);
            let last = self.fits_at(*hypothesis, now, amount).into_iter().chain(fills).max_by_key(|(at, _)| *at);
            last.map(|gate| (*hypothesis, gate))
        };
        let forbidden: Vec<_> = standing.iter().filter_map(opens).collect();
        let gates = forbidden.iter().map(|(_, gate)| *gate);
        let Some((soonest, latest)) = gates.clone().min_by_key(|(at, _)| *at).zip(gates.max_by_key(|(at, _)| *at))
        else {
            return Ok(self.book.careful.then_some(Tries::Again));
        };
        if forbidden.len() == standing.len() {
            return self.beyond(now, amount, soonest.0, soonest.1);
        }
        if let Some(at) = self.others_arrive_at(now) {
            return Err(Refusal::NotUntil { at: at.min(latest.0), binding: Binding::Trial });
        }
        let forbidden: Vec<_> = forbidden.into_iter().map(|(hypothesis, _)| hypothesis).collect();
        let admit = standing.into_iter().filter(|hypothesis| !forbidden.contains(hypothesis)).collect();
        let is_no_bucket = |h: &Hypothesis| *h != Hypothesis::Bucket;
        let forbid = forbidden.into_iter().filter(|h| is_no_bucket(h) || self.bucket_certainly_forbids(amount));
        Ok(Some(Tries::Counting { admit, forbid: forbid.collect() }))
    }

    /// Every counting forbids it. If it is time, it tries whether the limit is right.
    fn beyond(
        &mut self,
        now: Timestamp,
        amount: Amount,
        at: Timestamp,
        quota: Quota,
    ) -> Result<Option<Tries>, Refusal> {
        let may_try = match self.terms.counting {
            Counting::Learn => self.book.beliefs.settled().is_some(),
            // What is told is not doubted; but after a refusal that nothing explains, what was lost is won back.
            Counting::Known(_) => self.book.learned.is_below(self.configured()),
        };
        if !may_try {
            return Err(Refusal::NotUntil { at, binding: binding_of(quota) });
        }
        let next_try = self.book.learned.next_try(now);
        // What was lost is won back up to what is told, and not by calls that go beyond that.
        let told = self.configured();
        let within = self.standing().into_iter().map(|hypothesis| self.fits_under(told, hypothesis, now, amount));
        let within =
            within.filter(|_| self.book.learned.is_below(told)).map(|gate| gate.map_or(now, |(at, _)| at)).min();
        let next_try = within.map_or(next_try, |within| within.max(next_try));
        let next_try = self.others_arrive_at(now).map_or(next_try, |arrive| arrive.max(next_try));
        if next_try <= now {
            return Ok(Some(Tries::Limit(quota)));
        }
        Err(Refusal::NotUntil { at: at.min(next_try), binding: binding_of(quota) })
    }

    /// A call that tries something goes when all before it have certainly reached the service: else it could take the
    /// place of one of them, whose refusal would be another's fault.
    fn others_arrive_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.book.charges.newest().map(|sent| sent.after(self.terms.slack)).filter(|at| *at > now)
    }

    pub(super) fn fits_at_all(&self, needed: Tokens) -> Result<(), Refusal> {
        let minute = self.terms.limits.tokens_per_minute.map(PerMinute::get);
        let day = self.terms.limits.tokens_per_day.map(PerDay::get);
        match minute.into_iter().chain(day).min() {
            Some(limit) if needed.0 > limit => Err(Refusal::Never { needed, limit: Tokens(limit) }),
            Some(_) | None => Ok(()),
        }
    }

    fn paused_gate(&self, now: Timestamp) -> Option<(Timestamp, Binding)> {
        self.book.pause.filter(|pause| now < pause.until).map(|pause| (pause.until, pause.binding))
    }

    fn cautious_gate(&self, now: Timestamp) -> Option<(Timestamp, Binding)> {
        self.book.caution.and_then(|caution| caution.holds_until(now)).map(|at| (at, Binding::Throttled))
    }

    fn day_gate(&self, tokens: Tokens) -> Option<(Timestamp, Binding)> {
        let limit = self.terms.limits.tokens_per_day?;
        self.book.day.fits_at(tokens.0, limit.get()).map(|at| (at, Binding::Day))
    }

    /// Whether everybody waits for one call that decides about the others.
    pub fn holds_for_one(&self) -> bool {
        self.waits_for_another(self.book.latest).is_some()
    }

    fn waits_for_another(&self, now: Timestamp) -> Option<(Timestamp, Binding)> {
        let trial = self.book.trial.as_ref().map(|trial| trial.made.after(TRIAL_LOST));
        let first = match self.book.first {
            First::Out(at) if self.terms.first_alone => Some(at.after(FIRST_ALONE)),
            First::Out(_) | First::Wanted | First::Done => None,
        };
        trial.into_iter().chain(first).filter(|until| now < *until).max().map(|until| (until, Binding::Trial))
    }

    /// When this counting admits so much; `None` if it does now.
    pub(super) fn fits_at(&self, hypothesis: Hypothesis, now: Timestamp, amount: Amount) -> Option<(Timestamp, Quota)> {
        self.fits_under(self.minute_limits(), hypothesis, now, amount)
    }

    fn fits_under(
        &self,
        (tokens, requests): Configured,
        hypothesis: Hypothesis,
        now: Timestamp,
        amount: Amount,
    ) -> Option<(Timestamp, Quota)> {
        let tokens = tokens.and_then(|limit| self.quota_fits_at(hypothesis, now, Quota::Tokens, amount, limit));
        let requests = requests.and_then(|limit| self.quota_fits_at(hypothesis, now, Quota::Requests, amount, limit));
        let tokens = tokens.map(|at| (at, Quota::Tokens));
        let requests = requests.map(|at| (at, Quota::Requests));
        tokens.into_iter().chain(requests).max_by_key(|(at, _)| *at)
    }

    fn quota_fits_at(
        &self,
        hypothesis: Hypothesis,
        now: Timestamp,
        quota: Quota,
        amount: Amount,
        limit: u64,
    ) -> Option<Timestamp> {
        // A limit that was learned may have become smaller than the call: it goes when nothing else is charged.
        let room = limit.saturating_sub(amount.of(quota));
        match hypothesis {
            Hypothesis::Sliding => self.book.charges.down_to(now, self.terms.slack, room, |charge| charge.of(quota)),
            Hypothesis::Fixed => self.fixed_fits_at(now, quota, room),
            Hypothesis::Bucket => {
                // What is owed drains by the limit that holds, whichever limit it is held against.
                let rate = self.book.learned.limit_of(self.configured(), quota).unwrap_or(limit);
                let wait = self.book.bucket.most(quota).down_to(room, rate, self.bucket_lag());
                (!wait.is_zero()).then(|| now.after(wait))
            }
        }
    }

    /// The service's clock and ours may differ, and a call sent before the turn of the minute may be admitted after it:
    /// a charge close to a turn counts on both of its sides.
    fn fixed_fits_at(&self, now: Timestamp, quota: Quota, room: u64) -> Option<Timestamp> {
        let slack = self.terms.slack;
        let mut turn = turn_before(now - slack);
        if self.book.charges.most_from(turn - slack).of(quota) <= room {
            return None;
        }
        loop {
            turn = turn.after(MINUTE);
            let charged = self.book.charges.most_from(turn - slack).of(quota);
            if charged <= room || charged == 0 {
                return Some(turn.after(slack));
            }
        }
    }

    /// Whether a bucket is too empty for it even if every call that is not settled is counted for nothing, and the call
    /// is admitted as late as can be. What it held can only be told now; of the other countings it is told later.
    fn bucket_certainly_forbids(&self, amount: Amount) -> bool {
        let (tokens, requests) = self.minute_limits();
        let over = |quota: Quota, limit: u64, amount: u64| {
            let mut least = self.book.bucket.least(quota);
            least.drain(JUDGED_AFTER + self.terms.slack, limit, Duration::ZERO);
            least.whole().saturating_add(amount) > limit
        };
        // The input is an estimate on the safe side.
        tokens.is_some_and(|limit| over(Quota::Tokens, limit, amount.tokens / 2))
            || requests.is_some_and(|limit| over(Quota::Requests, limit, amount.requests))
    }
}

/// What was decided, behind a gate that may be shut as well: who is held twice waits for the later of the two.
fn behind(
    gate: Option<(Timestamp, Binding)>,
    decided: Result<Option<Tries>, Refusal>,
) -> Result<Option<Tries>, Refusal> {
    match (gate, decided) {
        (None, decided) => decided,
        (Some((shut, _)), Err(Refusal::NotUntil { at, binding })) if at > shut => {
            Err(Refusal::NotUntil { at, binding })
        }
        (Some((at, binding)), _) => Err(Refusal::NotUntil { at, binding }),
    }
}

fn binding_of(quota: Quota) -> Binding {
    match quota {
        Quota::Tokens => Binding::Tokens,
        Quota::Requests => Binding::Requests,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::tests::{
        START, TICK, assert_opens, held, lane, lane_with_slack, refuse, secs, spend, take, tokens,
    };
    use super::super::{Event, Limits, Terms};
    use super::*;

    const SLACK: Duration = Duration::from_millis(300);

    fn known(hypothesis: Hypothesis) -> LaneLedger {
        lane_with_slack(Counting::Known(hypothesis), tokens(60_000), SLACK)
    }

    /// A lane that learns, where a call is in the way of sliding counting but not of clock minutes.
    fn between_minutes() -> LaneLedger {
        let mut lane = lane(Counting::Learn, tokens(100));
        spend(&mut lane, START - secs(30), 60);
        lane
    }

    #[test]
    fn q7_a_bucket_opens_to_the_millisecond() {
        let mut lane = lane(Counting::Known(Hypothesis::Bucket), tokens(60_000));
        spend(&mut lane, START, 60_000);
        assert_opens(&mut lane, START, 1, START + TICK, Binding::Tokens);
        assert_opens(&mut lane, START + TICK, 1_234, START + Duration::from_millis(1_234), Binding::Tokens);
        spend(&mut lane, START + Duration::from_millis(1_234), 1_234);
        assert_opens(
            &mut lane,
            START + secs(2),
            60_000,
            START + secs(60) + Duration::from_millis(1_234),
            Binding::Tokens,
        );
    }

    #[test]
    fn q7_a_bucket_opens_later_by_the_slack() {
        let mut lane = known(Hypothesis::Bucket);
        spend(&mut lane, START, 60_000);
        assert_opens(&mut lane, START, 1_000, START + secs(1) + SLACK, Binding::Tokens);
    }

    #[test]
    fn q7_q10_a_sliding_minute_opens_when_the_oldest_charges_leave_and_the_slack_is_over() {
        let mut lane = known(Hypothesis::Sliding);
        spend(&mut lane, START, 20_000);
        spend(&mut lane, START + secs(7), 30_000);
        assert_opens(&mut lane, START + secs(8), 10_001, START + secs(60) + SLACK, Binding::Tokens);
        assert_opens(&mut lane, START + secs(61), 30_001, START + secs(67) + SLACK, Binding::Tokens);
    }

    #[test]
    fn q7_a_clock_minute_opens_at_its_turn_and_the_slack() {
        let mut lane = known(Hypothesis::Fixed);
        spend(&mut lane, START + secs(1), 20_000);
        spend(&mut lane, START + secs(59), 40_000);
        assert_opens(&mut lane, START + secs(59), 60_000, START + secs(60) + SLACK, Binding::Tokens);
    }

    #[test]
    fn q1_what_is_charged_close_to_the_turn_of_a_minute_counts_on_both_sides() {
        let turn = START + secs(60);
        for close in [turn - SLACK, turn - TICK, turn] {
            let mut lane = known(Hypothesis::Fixed);
            spend(&mut lane, close, 40_000);
            let next = turn + secs(60) + SLACK;
            assert_opens(&mut lane, turn + SLACK, 20_001, next, Binding::Tokens);
        }
    }

    #[test]
    fn q1_with_slack_a_call_admitted_late_still_counts() {
        for hypothesis in [Hypothesis::Sliding, Hypothesis::Bucket] {
            let mut lane = known(hypothesis);
            spend(&mut lane, START, 60_000);
            assert_opens(&mut lane, START, 60_000, START + secs(60) + SLACK, Binding::Tokens);
        }
    }

    #[test]
    fn r05_the_first_call_of_a_lane_goes_alone() {
        let mut lane =
            LaneLedger::new(Terms { limits: tokens(100), counting: Counting::Learn, slack: SLACK, first_alone: true });
        let first = take(&mut lane, START, 1);
        assert_eq!(held(&mut lane, START, 1), Some((START + FIRST_ALONE, Binding::Trial)));
        lane.apply(START + secs(1), &Event::Settled(first, Tokens(1)));
        assert_eq!(held(&mut lane, START + secs(1), 1), None);
    }

    #[test]
    fn r05_a_first_call_that_takes_long_keeps_the_others_back_for_ten_seconds() {
        let mut lane =
            LaneLedger::new(Terms { limits: tokens(100), counting: Counting::Learn, slack: SLACK, first_alone: true });
        let _open = take(&mut lane, START, 1);
        assert_opens(&mut lane, START, 1, START + FIRST_ALONE, Binding::Trial);
    }

    #[test]
    fn r05_a_first_call_that_comes_to_nothing_lets_the_next_go_first() {
        let comes_to_nothing: [fn(crate::rules::pace::Reservation) -> Event; 2] = [Event::Released, Event::Kept];
        for event in comes_to_nothing {
            let mut lane = LaneLedger::new(Terms {
                limits: tokens(100),
                counting: Counting::Learn,
                slack: SLACK,
                first_alone: true,
            });
            let first = take(&mut lane, START, 1);
            lane.apply(START + secs(1), &event(first));
            let _second = take(&mut lane, START + secs(1), 1);
            assert_eq!(held(&mut lane, START + secs(2), 1), Some((START + secs(11), Binding::Trial)));
        }
    }

    #[test]
    fn a_call_that_a_stricter_counting_forbids_is_a_trial_and_goes_alone() {
        let mut lane = between_minutes();
        let trial = take(&mut lane, START + secs(1), 90);
        assert!(trial.trial);
        let lost = trial.made + TRIAL_LOST;
        assert_opens(&mut lane, START + secs(1), 1, lost, Binding::Trial);
        let mut lane = between_minutes();
        let trial = take(&mut lane, START + secs(1), 90);
        lane.apply(START + secs(2), &Event::Passed(trial));
        assert_eq!(held(&mut lane, START + secs(2), 5), None);
    }

    #[test]
    fn q7_a_refusal_names_the_gate_that_opens_last_of_trial_and_minute() {
        let mut lane = between_minutes();
        let trial = take(&mut lane, START + secs(1), 90);
        let lost = trial.made + TRIAL_LOST;
        let (at, binding) = held(&mut lane, START + secs(1), 100).unwrap();
        assert_eq!(binding, Binding::Tokens);
        assert!(lost < at, "the trial is over before there is room: {at}");
        assert_opens(&mut lane, START + secs(1), 100, at, Binding::Tokens);
    }

    #[test]
    fn a_trial_that_came_to_nothing_lets_the_next_be_one() {
        let mut lane = between_minutes();
        let trial = take(&mut lane, START + secs(1), 90);
        lane.apply(START + secs(1), &Event::Released(trial));
        assert!(take(&mut lane, START + secs(1), 90).trial);
        assert_eq!(lane.standing(), Hypothesis::ALL);
    }

    #[test]
    fn a_call_that_every_counting_admits_is_no_trial_and_one_that_all_forbid_waits() {
        let mut lane = between_minutes();
        assert!(!take(&mut lane, START + secs(1), 10).trial);
        assert!(!take(&mut lane, START + secs(1), 10).trial);
        let mut lane = between_minutes();
        let _open = take(&mut lane, START + secs(1), 80);
        lane.apply(START + secs(1), &Event::Passed(_open));
        let (at, binding) = held(&mut lane, START + secs(2), 100).unwrap();
        assert_eq!(binding, Binding::Tokens);
        assert!(at < START + secs(60), "the bucket opens first: {at}");
    }

    #[test]
    fn a_configured_counting_tries_nothing() {
        for hypothesis in Hypothesis::ALL {
            let mut lane =
                lane(Counting::Known(hypothesis), Limits { requests_per_minute: PerMinute::new(50), ..tokens(100) });
            let mut now = START;
            for _ in 0..1_500 {
                match lane.reserve(now, Tokens(7)) {
                    Ok(reservation) => {
                        assert!(!reservation.trial, "{hypothesis:?}");
                        lane.apply(now, &Event::Settled(reservation, Tokens(7)));
                    }
                    Err(Refusal::NotUntil { at, .. }) => now = at,
                    Err(never) => unreachable!("{never}"),
                }
            }
            assert_eq!(lane.standing(), [hypothesis]);
            assert!(now > START + secs(1_800), "long enough for every try: {now}");
        }
    }

    #[test]
    fn after_a_throttle_one_call_goes_first() {
        let mut lane = lane(Counting::Learn, Limits::default());
        let refused = take(&mut lane, START, 1);
        refuse(&mut lane, START, refused);
        let (mut now, _) = lane.paused_until(START).unwrap();
        let first = take(&mut lane, now, 1);
        assert_eq!(held(&mut lane, now, 0), Some((now + TRIAL_LOST, Binding::Trial)));
        now = now + JUDGED_AFTER;
        lane.apply(now, &Event::Passed(first));
        assert_eq!(held(&mut lane, now, 0), None);
    }
}

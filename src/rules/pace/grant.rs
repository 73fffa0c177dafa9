//! How much may a worker take at once, for the calls of the next moment? Where every write of the row costs money and takes
//! its way, nobody writes it for each call: a worker draws a grant for the jobs that stand in its line, and makes their calls
//! under it.
//!
//! A grant is a charge like any other, under the moment until which it may be spent: whoever is killed with it in hand may have
//! spent it until then. A call that is sent under it becomes a charge of its own, under the moment of its sending, as soon as
//! its worker writes again; what is left comes back with the same write. Nothing is drawn while a single call decides about
//! the others: then calls go one by one.

use std::time::Duration;

use super::book::First;
use super::limit::Quota;
use super::{Amount, LaneLedger, Refusal, Reservation};
use crate::job::units::{Timestamp, Tokens};

/// A grant is spent within this, or not at all.
pub(super) const LASTS: Duration = Duration::from_secs(2);
/// So long before its end nothing is begun under it: a call that is put on record first is sent later.
const TO_SPARE: Duration = Duration::from_millis(500);
/// What one worker needs next is foreseen by no shorter time than this.
const FORESEEN_BY: Duration = Duration::from_millis(500);

/// A part of the quota that one worker holds, or a part of that.
#[must_use = "what is not spent or returned counts until it ages out"]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Grant {
    drawn: Timestamp,
    until: Timestamp,
    amount: Amount,
}

impl Grant {
    /// Under which moment it is charged: it is not spent any later.
    pub fn until(&self) -> Timestamp {
        self.until
    }

    /// The charge of the call that is sent under it then.
    pub fn reservation(&self, sent: Timestamp) -> Reservation {
        Reservation { made: sent, tokens: Tokens(self.amount.tokens), trial: false }
    }
}

/// What a draw came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Drawn {
    /// As much as could be had for whole jobs, and at least the first.
    Grant(Grant),
    /// Only the first, whose call decides about the others or has to feel for the quota.
    One(Reservation),
}

impl LaneLedger {
    /// Takes what these calls need, in this order, as many of them as go now; and so much `ahead` for calls that nobody has asked
    /// for yet, where there is plenty.
    ///
    /// # Errors
    /// [`Refusal`] of the first, with nothing taken.
    pub fn draw(
        &mut self,
        now: Timestamp,
        first: Tokens,
        then: impl IntoIterator<Item = Tokens>,
        ahead: Ahead,
    ) -> Result<Drawn, Refusal> {
        self.book.is_drawn_on = true;
        let tries = self.decide(now, first)?;
        let first = Amount { tokens: first.0, requests: 1 };
        if tries.is_some() || !self.is_calm(now) || !self.has_room(self.book.latest, first) {
            return self.reserve(now, Tokens(first.tokens)).map(Drawn::One);
        }
        let now = self.book.latest;
        let mut sums = vec![first];
        let mut sum = first;
        sums.extend(then.into_iter().map(|tokens| {
            sum = sum.plus(Amount { tokens: tokens.0, requests: 1 });
            sum
        }));
        let more = sums.get(1..).unwrap_or_default().partition_point(|sum| self.has_room(now, *sum));
        let mut amount = sums.get(more).copied().unwrap_or(first);
        let with_ahead = amount.plus(ahead.0);
        if more + 1 == sums.len() && self.is_plenty(with_ahead) && self.has_room(now, with_ahead) {
            amount = with_ahead;
        }
        let grant = Grant { drawn: now, until: now.after(LASTS), amount };
        self.charge(grant.until, amount, Amount::default());
        Ok(Drawn::Grant(grant))
    }

    /// Whether calls go under a grant now: no single call decides about the others, nothing pauses, and nobody feels for the
    /// end of the quota.
    pub fn is_calm(&mut self, now: Timestamp) -> bool {
        self.advance(now);
        let now = self.book.latest;
        let is_first = self.terms.first_alone && self.book.first != First::Done;
        let is_watched = is_first || self.book.trial.is_some() || self.book.careful || self.book.caution.is_some();
        let is_paused = self.book.pause.is_some_and(|pause| now < pause.until);
        !is_watched && !is_paused && !self.is_in_doubt(now)
    }

    pub(super) fn spend(&mut self, part: &Grant, sent: Timestamp) {
        self.put_off(part.amount, (part.drawn, part.until), sent);
    }

    pub(super) fn take_back(&mut self, part: &Grant) {
        self.give_back((part.drawn, part.until), part.amount);
        self.never_admitted(part.drawn, part.amount);
    }

    /// Whether every counting that stands admits so many calls together, none of which has to feel for the quota.
    fn has_room(&self, now: Timestamp, amount: Amount) -> bool {
        let limits = self.minute_limits();
        let within = |quota: Quota, limit: Option<u64>| limit.is_none_or(|limit| amount.of(quota) <= limit);
        let fits = |hypothesis| self.fits_at(hypothesis, now, amount).is_none();
        within(Quota::Tokens, limits.0)
            && within(Quota::Requests, limits.1)
            && self.standing().into_iter().all(fits)
            && self.is_even(now, amount)
            && self.fits_into_day(Tokens(amount.tokens))
            && !self.feels(now, amount)
    }

    /// Whether half of the quota is left after that: what is kept in reserve is missed by nobody.
    fn is_plenty(&self, amount: Amount) -> bool {
        let charged = self.book.charges.most_since(self.book.latest - super::MINUTE).plus(amount);
        let limits = self.minute_limits();
        let half = |quota: Quota, limit: Option<u64>| limit.is_none_or(|limit| charged.of(quota) <= limit / 2);
        half(Quota::Tokens, limits.0) && half(Quota::Requests, limits.1)
    }
}

/// What a worker is going to need before it draws again, as far as it can foresee.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ahead(Amount);

/// What one worker holds of a lane's quota.
#[derive(Clone, Debug, Default)]
pub struct Purse {
    grant: Option<Grant>,
    /// Taken out of it since that moment.
    taken: Amount,
    since: Timestamp,
}

impl Purse {
    /// Whether a call of so many tokens can be made out of it.
    pub fn covers(&self, now: Timestamp, tokens: Tokens) -> bool {
        self.grant.is_some_and(|grant| {
            now.after(TO_SPARE) < grant.until && grant.amount.requests > 0 && grant.amount.tokens >= tokens.0
        })
    }

    /// Takes out what a call needs.
    pub fn take(&mut self, now: Timestamp, tokens: Tokens) -> Option<Grant> {
        if !self.covers(now, tokens) {
            return None;
        }
        let amount = Amount { tokens: tokens.0, requests: 1 };
        let grant = self.grant.as_mut()?;
        grant.amount = grant.amount.minus(amount);
        self.taken = self.taken.plus(amount);
        Some(Grant { amount, ..*grant })
    }

    /// Puts a part back; returns it if it is of another grant.
    pub fn put_back(&mut self, part: Grant) -> Option<Grant> {
        let of_the_same = |grant: &&mut Grant| (grant.drawn, grant.until) == (part.drawn, part.until);
        let Some(grant) = self.grant.as_mut().filter(of_the_same) else { return Some(part) };
        grant.amount = grant.amount.plus(part.amount);
        self.taken = self.taken.minus(part.amount);
        None
    }

    /// Puts a grant in; it must be empty.
    pub fn fill(&mut self, grant: Grant) {
        (self.grant, self.taken, self.since) = (Some(grant), Amount::default(), grant.drawn);
    }

    /// Takes all out that is left.
    pub fn empty(&mut self) -> Option<Grant> {
        self.grant.take().filter(|grant| grant.amount != Amount::default())
    }

    /// Whether anything is left that was drawn so long ago.
    pub fn is_left_after(&self, now: Timestamp, rest: Duration) -> bool {
        self.grant.is_some_and(|grant| grant.amount != Amount::default() && grant.drawn.after(rest) <= now)
    }

    /// What it will be asked for in that time, if it goes on as since it was filled.
    pub fn ahead(&self, now: Timestamp, span: Duration) -> Ahead {
        let passed = now.since(self.since).max(FORESEEN_BY).as_millis();
        let share = |amount: u64| {
            let amount = u128::from(amount).saturating_mul(span.as_millis()).div_ceil(passed);
            u64::try_from(amount).unwrap_or(u64::MAX)
        };
        Ahead(Amount { tokens: share(self.taken.tokens), requests: share(self.taken.requests) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::super::tests::{
        SLIDING, START, TICK, assert_opens, held, lane, lane_with_slack, secs, spend, take, tokens,
    };
    use super::super::{Binding, Counting, Event, Hypothesis, Limits, MINUTE, Terms};
    use super::*;

    const NOTHING: Ahead = Ahead(Amount { tokens: 0, requests: 0 });

    fn draw(lane: &mut LaneLedger, now: Timestamp, sizes: &[u64]) -> Grant {
        let behind = sizes[1..].iter().copied().map(Tokens);
        match lane.draw(now, Tokens(sizes[0]), behind, NOTHING).unwrap() {
            Drawn::Grant(grant) => grant,
            Drawn::One(one) => panic!("only {one:?}"),
        }
    }

    #[test]
    fn q2_it_is_for_whole_jobs_in_their_order_as_many_as_fit() {
        let mut lane = lane(SLIDING, tokens(1_000));
        spend(&mut lane, START, 100);
        assert_eq!(draw(&mut lane, START, &[300, 400, 250, 10]).amount, Amount { tokens: 700, requests: 2 });
        assert_eq!(draw(&mut lane, START, &[200]).amount.tokens, 200);
        assert!(lane.draw(START, Tokens(1), [], NOTHING).is_err());
    }

    #[test]
    fn q5_what_nobody_says_anything_of_counts_a_minute_from_when_it_could_have_been_spent() {
        let mut lane = lane(SLIDING, tokens(100));
        let _lost = draw(&mut lane, START, &[40, 60]);
        assert_opens(&mut lane, START + secs(1), 1, START + LASTS + MINUTE, Binding::Tokens);
    }

    #[test]
    fn q3_a_part_counts_from_when_it_was_spent_and_the_rest_comes_back() {
        let mut lane = lane(SLIDING, tokens(100));
        let mut purse = Purse::default();
        purse.fill(draw(&mut lane, START, &[40, 60]));
        let sent = START + secs(1);
        let part = purse.take(sent, Tokens(40)).unwrap();
        assert_eq!(purse.take(sent, Tokens(61)), None);
        lane.apply(sent + TICK, &Event::Spent(part, sent));
        assert!(held(&mut lane, sent + TICK, 1).is_some());
        lane.apply(sent + 2 * TICK, &Event::Returned(purse.empty().unwrap()));
        assert_eq!(purse.empty(), None);
        assert_eq!(held(&mut lane, sent + 2 * TICK, 60), None);
        assert_eq!(held(&mut lane, sent + 2 * TICK, 61), Some((sent + MINUTE, Binding::Tokens)));
        lane.apply(sent + secs(3), &Event::Settled(part.reservation(sent), Tokens(10)));
        assert_opens(&mut lane, sent + secs(3), 91, sent + MINUTE, Binding::Tokens);
    }

    #[test]
    fn what_is_put_back_can_be_taken_again_unless_the_grant_is_another() {
        let mut lane = lane(SLIDING, tokens(100));
        let mut purse = Purse::default();
        purse.fill(draw(&mut lane, START, &[40]));
        let part = purse.take(START, Tokens(40)).unwrap();
        assert!(!purse.covers(START, Tokens(1)));
        assert_eq!(purse.put_back(part), None);
        assert!(purse.covers(START, Tokens(40)));
        assert!(!purse.covers(START + LASTS - TO_SPARE, Tokens(40)), "it would be sent too late");
        purse.fill(draw(&mut lane, START + secs(1), &[50]));
        assert_eq!(purse.put_back(part), Some(part));
    }

    #[test]
    fn calls_that_decide_about_others_go_one_by_one() {
        let mut fresh = LaneLedger::new(Terms {
            limits: tokens(1_000),
            counting: Counting::Learn,
            slack: Duration::ZERO,
            first_alone: true,
        });
        let first = fresh.draw(START, Tokens(10), [Tokens(10)], NOTHING).unwrap();
        assert!(matches!(first, Drawn::One(_)), "{first:?}");
        assert!(fresh.draw(START, Tokens(10), [], NOTHING).is_err(), "it goes alone");

        let mut learning = lane(Counting::Learn, tokens(1_000));
        assert_eq!(draw(&mut learning, START, &[400, 300, 100]).amount.tokens, 700, "the last quarter is felt for");
        let felt = learning.draw(START + secs(3), Tokens(100), [Tokens(100)], NOTHING).unwrap();
        assert!(matches!(felt, Drawn::One(_)), "{felt:?}");

        let mut learned = lane(Counting::Learn, tokens(1_000));
        spend(&mut learned, START + secs(55), 900);
        let trial = learned.draw(START + secs(60), Tokens(500), [Tokens(1)], NOTHING).unwrap();
        assert!(
            matches!(trial, Drawn::One(reservation) if reservation.trial),
            "only clock minutes admit it: {trial:?}"
        );
    }

    #[test]
    fn what_is_foreseen_is_drawn_where_there_is_plenty_and_nowhere_else() {
        let ahead = Ahead(Amount { tokens: 300, requests: 3 });
        let amount = |lane: &mut LaneLedger| match lane.draw(START, Tokens(100), [Tokens(50)], ahead).unwrap() {
            Drawn::Grant(grant) => grant.amount.tokens,
            Drawn::One(one) => panic!("only {one:?}"),
        };
        let mut idle = lane(SLIDING, tokens(1_000));
        assert_eq!(amount(&mut idle), 450);
        assert_eq!(amount(&mut idle), 150);
        let mut busy = lane(SLIDING, tokens(1_000));
        spend(&mut busy, START, 400);
        assert_eq!(amount(&mut busy), 150);
    }

    #[test]
    fn what_a_worker_foresees_is_what_it_took_lately() {
        let mut lane = lane(SLIDING, tokens(10_000));
        let mut purse = Purse::default();
        purse.fill(draw(&mut lane, START, &[100, 100, 100, 100]));
        for step in 0..4 {
            let _ = purse.take(START + TICK * (300 * step), Tokens(100));
        }
        assert_eq!(purse.ahead(START + secs(1), secs(1)), Ahead(Amount { tokens: 400, requests: 4 }));
        assert_eq!(purse.ahead(START + secs(2), secs(1)), Ahead(Amount { tokens: 200, requests: 2 }));
        assert_eq!(Purse::default().ahead(START, secs(1)), NOTHING);
    }

    /// A bucket is full again later where it was charged later.
    #[test]
    fn q5_a_bucket_that_a_killed_worker_charged_at_the_last_moment_is_never_overdrawn() {
        let slack = secs(1) / 3;
        let mut lane = lane_with_slack(Counting::Known(Hypothesis::Bucket), tokens(60_000), slack);
        let _spent_at_its_end = draw(&mut lane, START, &[1_000]);
        let charged = START + LASTS + slack;
        let after = |passed: Duration| 60_000_u64.min(59_000 + u64::try_from(passed.as_millis()).unwrap());
        for passed in [Duration::ZERO, TICK * 200, TICK * 500, TICK * 999] {
            let now = charged + passed;
            let most = (0..=60_000).rev().step_by(10).find(|size| held(&mut lane, now, *size).is_none()).unwrap();
            assert!(most <= after(passed), "{most} after {passed:?}, and {} are there", after(passed));
        }
    }

    #[test]
    fn a_limit_of_requests_bounds_it_as_well() {
        let limits = Limits { requests_per_minute: crate::job::units::PerMinute::new(3), ..tokens(1_000) };
        let mut lane = lane(SLIDING, limits);
        let call = take(&mut lane, START, 10);
        lane.apply(START, &Event::Settled(call, Tokens(10)));
        assert_eq!(draw(&mut lane, START, &[10; 9]).amount.requests, 2);
    }
}

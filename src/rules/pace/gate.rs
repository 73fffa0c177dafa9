//! May a call go now, by everything the book says? The most permissive counting that stands decides; what a stricter one
//! would forbid goes as a trial.

use std::time::Duration;

use super::book::{First, Tries};
use super::learn::Hypothesis;
use super::limit::Quota;
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
        let gates =
            [self.paused_gate(now), self.day_gate(tokens), self.waits_for_another(now), self.cautious_gate(now)];
        if let Some((at, binding)) = gates.into_iter().flatten().max_by_key(|(at, _)| *at) {
            return Err(Refusal::NotUntil { at, binding });
        }
        let amount = Amount { tokens: tokens.0, requests: 1 };
        if let Some((at, quota)) = self.book.even_until.and_then(|_| self.fits_at(Hypothesis::Bucket, now, amount)) {
            return Err(Refusal::NotUntil { at, binding: binding_of(quota) });
        }
        let mut forbidden = Vec::new();
        let mut soonest: Option<(Timestamp, Quota)> = None;
        let standing = self.standing();
        for hypothesis in &standing {
            if let Some((at, quota)) = self.fits_at(*hypothesis, now, amount) {
                forbidden.push(*hypothesis);
                soonest = Some(soonest.filter(|(other, _)| *other <= at).unwrap_or((at, quota)));
            }
        }
        match soonest {
            Some((at, quota)) if forbidden.len() == standing.len() => self.beyond(now, at, quota),
            Some(_) => {
                self.after_others_arrived(now)?;
                let admit = standing.into_iter().filter(|hypothesis| !forbidden.contains(hypothesis)).collect();
                let is_no_bucket = |h: &Hypothesis| *h != Hypothesis::Bucket;
                let forbid = forbidden.into_iter().filter(|h| is_no_bucket(h) || self.bucket_certainly_forbids(amount));
                let forbid = forbid.collect();
                Ok(Some(Tries::Counting { admit, forbid }))
            }
            None => Ok(self.book.careful.then_some(Tries::Again)),
        }
    }

    /// Every counting forbids it. If it is time, it tries whether the limit is right.
    fn beyond(&mut self, now: Timestamp, at: Timestamp, quota: Quota) -> Result<Option<Tries>, Refusal> {
        let binding = binding_of(quota);
        let may_try = match self.terms.counting {
            Counting::Learn => self.book.beliefs.settled().is_some(),
            // What is told is not doubted; but after a refusal that nothing explains, what was lost is won back.
            Counting::Known(_) => self.book.learned.is_below(self.configured()),
        };
        if may_try {
            let next_try = self.book.learned.next_try(now);
            if next_try <= now {
                self.after_others_arrived(now)?;
                return Ok(Some(Tries::Limit(quota)));
            }
            return Err(Refusal::NotUntil { at: at.min(next_try), binding });
        }
        Err(Refusal::NotUntil { at, binding })
    }

    /// A call that tries something goes when all before it have certainly reached the service: else it could take the
    /// place of one of them, whose refusal would be another's fault.
    fn after_others_arrived(&self, now: Timestamp) -> Result<(), Refusal> {
        let arrived = self.book.charges.newest().map(|sent| sent.after(self.terms.slack)).filter(|at| *at > now);
        arrived.map_or(Ok(()), |at| Err(Refusal::NotUntil { at, binding: Binding::Trial }))
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
        let (tokens, requests) = self.minute_limits();
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
                let wait = self.book.bucket.most(quota).down_to(room, limit, self.terms.slack);
                (!wait.is_zero()).then(|| now.after(wait))
            }
        }
    }

    /// The service's clock and ours may differ, and a call sent before the turn of the minute may be admitted after it:
    /// a charge close to a turn counts on both of its sides.
    fn fixed_fits_at(&self, now: Timestamp, quota: Quota, room: u64) -> Option<Timestamp> {
        let slack = self.terms.slack;
        let mut turn = turn_before(now - slack);
        if self.book.charges.most_since(turn - slack).of(quota) <= room {
            return None;
        }
        loop {
            turn = turn.after(MINUTE);
            let charged = self.book.charges.most_since(turn - slack).of(quota);
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
            least.drain(JUDGED_AFTER + self.terms.slack, limit);
            least.whole().saturating_add(amount) > limit
        };
        // The input is an estimate on the safe side.
        tokens.is_some_and(|limit| over(Quota::Tokens, limit, amount.tokens / 2))
            || requests.is_some_and(|limit| over(Quota::Requests, limit, amount.requests))
    }
}

fn binding_of(quota: Quota) -> Binding {
    match quota {
        Quota::Tokens => Binding::Tokens,
        Quota::Requests => Binding::Requests,
    }
}

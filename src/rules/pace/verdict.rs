//! What does the service's doing say about the counting and the limit?
//!
//! A refused trial strikes the countings that admitted it. A refused call that every counting admitted says that the limit
//! is too high. A trial that passes strikes the countings that forbade it, or raises the limit it went beyond.

use std::time::Duration;

use super::book::{Emptied, First, Levels, Pause, Tries};
use super::caution::Caution;
use super::learn::{Hypothesis, STRIKES, Struck};
use super::limit::Quota;
use super::{Amount, Binding, Counting, LONGEST_HINT, LaneLedger, MINUTE, Reservation, turn_before};
use crate::job::units::Timestamp;

/// After a throttle that nothing explains; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A bucket that was empty twice says what flows into it, if there was so much time in between.
const MEASURED_OVER: Duration = Duration::from_secs(10);
/// What is nearly nothing says so sooner.
const DRY_AFTER: Duration = Duration::from_secs(5);
/// Less than this part of what should have flowed in is nearly nothing.
const DRY: u64 = 8;
/// Between two raises of the limit of a bucket.
const BUCKET_REST: Duration = Duration::from_secs(8);

impl LaneLedger {
    pub(super) fn admitted(&mut self, now: Timestamp, reservation: &Reservation) {
        let Some(trial) = self.book.trial.take_if(|trial| trial.made == reservation.made && reservation.trial) else {
            return;
        };
        match trial.tries {
            Tries::Again => self.book.throttles.in_a_row = 0,
            Tries::Counting { admit, mut forbid } => {
                let is_bucket = |h: &Hypothesis| *h == Hypothesis::Bucket;
                if let Some(bucket) = forbid.extract_if(.., |h| is_bucket(h)).next() {
                    self.book.beliefs.strike_too_strict(now, &[bucket]);
                }
                self.remember(trial.made, Tries::Counting { admit, forbid });
            }
            Tries::Limit(quota) if self.standing().contains(&Hypothesis::Bucket) => {
                let size = Amount { tokens: reservation.tokens.0, requests: 1 };
                let raise = self.book.learned.try_succeeded(now, self.configured(), quota, size, BUCKET_REST);
                // A bucket of which more may be had is not fuller for that: it only fills faster.
                self.book.bucket.most_mut(quota).add(raise);
            }
            Tries::Limit(quota) => {
                self.book.learned.try_again(now);
                self.remember(trial.made, Tries::Limit(quota));
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
        if self.book.throttles.seen.is_some_and(|seen| reservation.made <= seen) {
            if let Some(made) = self.book.throttles.shrunk_by {
                let (configured, admitted) = (self.configured(), self.admitted_before(made));
                self.book.learned.lower(configured, quota, admitted.of(quota));
            }
            return self.pause_until(hinted.unwrap_or(now), Binding::Throttled);
        }
        self.book.throttles.seen = Some(now);
        self.book.caution = Some(Caution::default());
        self.book.throttles.shrunk_by = None;
        let tries = trial.map(|trial| trial.tries);
        let refused = Amount { tokens: reservation.tokens.0, requests: 1 };
        let (calls, configured) = (self.book.charges.most_since(now - MINUTE).requests, self.configured());
        if let Some(Tries::Limit(_)) = tries {
            // It was worth a try; what the ledger knows holds as before.
            self.book.learned.give_up_try(now, configured, calls);
            self.found_empty(now, quota, refused);
            return self.pause_until(hinted.unwrap_or(now), Binding::Throttled);
        }
        if self.book.learned.take_back(now, configured, calls) {
            self.found_empty(now, quota, refused);
            return self.pause_until(hinted.unwrap_or(now), Binding::Throttled);
        }
        let was_explained = self.book.exceeded.is_some_and(|at| at.after(self.terms.slack) >= reservation.made);
        if !was_explained {
            self.unexplained(now, quota, reservation.made, tries);
            self.found_empty(now, quota, refused);
        }
        let again = self.soonest(now, refused);
        self.book.careful = again.is_none();
        let until = again.unwrap_or_else(|| now.after(self.escalate()));
        self.pause_until(hinted.map_or(until, |hinted| hinted.max(until)), Binding::Throttled);
    }

    /// A refusal strikes what admitted the call; when all that stands did, or nothing else is left to blame, the limit is
    /// too high.
    fn unexplained(&mut self, now: Timestamp, quota: Quota, made: Timestamp, tries: Option<Tries>) {
        let standing = self.standing();
        let agree = standing.len() > 1 && !matches!(tries, Some(Tries::Counting { .. }));
        let is_dry = standing == [Hypothesis::Bucket] && self.has_run_dry(now, quota);
        let is_limit = match standing.as_slice() {
            [Hypothesis::Sliding] => true,
            [Hypothesis::Bucket] => !is_dry,
            // Else it is the turn of the minute that is not what it was taken for.
            [Hypothesis::Fixed] => self.is_mostly_used(quota, made),
            _ => false,
        };
        if agree || is_limit || self.terms.counting != Counting::Learn {
            self.book.throttles.shrunk_by = Some(made);
            self.shrink(now, quota, made);
            self.book.even_until = Some(now.after(MINUTE));
            return;
        }
        let lax = match tries {
            Some(Tries::Counting { admit, .. }) => {
                // Should it be a bucket all the same, it is empty: the next call is to prove more than this one.
                let limit = self.book.learned.limit_of(self.configured(), quota);
                self.book.bucket.most_mut(quota).at_least(limit.unwrap_or(0));
                admit
            }
            Some(Tries::Again | Tries::Limit(_)) | None => standing,
        };
        match self.book.beliefs.strike_too_lax(now, &lax, if is_dry { STRIKES } else { 1 }) {
            Struck::Standing => {}
            Struck::AllTooLax => self.shrink(now, quota, made),
            Struck::Mixed => {
                let admitted = self.admitted_before(made);
                let configured = self.configured();
                self.book.learned.replace(now, configured, quota, admitted);
            }
        }
    }

    /// Down to what was admitted in the minute before the refused call, as far as one can tell.
    fn shrink(&mut self, now: Timestamp, quota: Quota, made: Timestamp) {
        let is_new = self.minute_limits() == (None, None);
        let admitted = self.admitted_before(made);
        let configured = self.configured();
        self.book.learned.shrink(now, configured, quota, admitted);
        if is_new {
            self.book.bucket = Levels::default();
            self.book.bucket.tokens.add(admitted.tokens);
            self.book.bucket.requests.add(admitted.requests);
        }
    }

    /// What the service lets through in a minute, by what it had let through when it refused this call.
    fn admitted_before(&self, made: Timestamp) -> Amount {
        let is_fixed = self.standing() == [Hypothesis::Fixed];
        let since = if is_fixed { turn_before(made - self.terms.slack) - self.terms.slack } else { made - MINUTE };
        self.book.charges.most_between(since, made)
    }

    fn is_mostly_used(&self, quota: Quota, made: Timestamp) -> bool {
        let limit = self.book.learned.limit_of(self.configured(), quota);
        limit.is_none_or(|limit| self.admitted_before(made).of(quota) >= limit / 2)
    }

    /// Whether what was taken for a bucket lets next to nothing through, as no bucket does: it was told so only because the
    /// limit was too low, under which the other countings seemed too strict.
    fn has_run_dry(&self, now: Timestamp, quota: Quota) -> bool {
        self.book.emptied.is_some_and(|emptied| {
            let flow = emptied.flow_until(now, quota, Amount::default());
            now.since(emptied.at) >= DRY_AFTER && flow.is_some_and(|flow| flow < emptied.limit / DRY)
        })
    }

    /// A bucket that has just refused a call holds less than that. What it let through since it was empty before is what
    /// has flowed in.
    fn found_empty(&mut self, now: Timestamp, quota: Quota, refused: Amount) {
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
        if let Some(limit) =
            self.book.learned.limit_of(configured, quota).filter(|_| is_bucket || self.book.even_until.is_some())
        {
            self.book.bucket.most_mut(quota).at_least(limit.saturating_sub(refused.of(quota)));
        }
    }

    fn soonest(&self, now: Timestamp, amount: Amount) -> Option<Timestamp> {
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

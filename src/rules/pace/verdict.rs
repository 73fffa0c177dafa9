//! What does the service's doing say about the counting and the limit?
//!
//! A refused trial strikes the countings that admitted it. A refused call that every counting admitted says that the limit
//! is too high. A trial that passes strikes the countings that forbade it, or raises the limit it went beyond.

use std::time::Duration;

use super::book::{First, Levels, Pause, Tries};
use super::learn::{Hypothesis, Struck};
use super::limit::Quota;
use super::{Amount, Binding, Counting, JUDGED_AFTER, LONGEST_HINT, LaneLedger, MINUTE, Reservation};
use crate::job::units::Timestamp;

/// After a throttle that nothing explains; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Between two raises of the limit of a bucket.
const BUCKET_REST: Duration = Duration::from_secs(8);

impl LaneLedger {
    pub(super) fn admitted(&mut self, now: Timestamp, reservation: &Reservation) {
        let Some(trial) = self.book.trial.take_if(|trial| trial.made == reservation.made && reservation.trial) else {
            return;
        };
        match trial.tries {
            Tries::Again => self.book.throttles.in_a_row = 0,
            Tries::Counting { forbid, .. } => {
                // One of them allowed it, so one is left standing.
                self.book.beliefs.strike_too_strict(now, &forbid);
            }
            Tries::Limit(quota) => {
                let size = Amount { tokens: reservation.tokens.0, requests: 1 };
                // A bucket that was not emptied for long admits more than its rate for a while: that proves little.
                let is_bucket = self.standing().contains(&Hypothesis::Bucket);
                let rest = if is_bucket { BUCKET_REST } else { JUDGED_AFTER + self.terms.slack };
                self.book.learned.try_succeeded(now, self.configured(), quota, size, rest);
            }
        }
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

    pub(super) fn throttled(&mut self, now: Timestamp, reservation: &Reservation, quota: Quota, hint: Option<Duration>) {
        let hinted = hint.map(|hint| now.after(hint.min(LONGEST_HINT)));
        // Whatever another call was trying, it tried under what does not hold any more. And one that was sent at about the
        // same time may have come first and taken the place of this one.
        let trial = self.book.trial.take().filter(|trial| reservation.made.after(self.terms.slack) >= trial.made);
        self.book.first = First::Done;
        self.release(reservation);
        if self.book.throttles.seen.is_some_and(|seen| reservation.made <= seen) {
            if let Some(made) = self.book.throttles.shrunk_by {
                self.shrink(now, quota, made);
            }
            return self.pause_until(hinted.unwrap_or(now), Binding::Throttled);
        }
        self.book.throttles.seen = Some(now);
        self.book.throttles.shrunk_by = None;
        let tries = trial.map(|trial| trial.tries);
        if let Some(Tries::Limit(_)) = tries {
            // It was worth a try; what the ledger knows holds as before.
            let calls = self.book.charges.most_since(now - MINUTE).requests;
            let configured = self.configured();
            self.book.learned.give_up_try(now, configured, calls);
            return self.pause_until(hinted.unwrap_or(now), Binding::Throttled);
        }
        let was_explained = self.book.exceeded.is_some_and(|at| at.after(self.terms.slack) >= reservation.made);
        if !was_explained {
            self.unexplained(now, quota, reservation.made, tries);
        }
        let again = self.soonest(now, Amount { tokens: reservation.tokens.0, requests: 1 });
        self.book.careful = again.is_none();
        let until = again.unwrap_or_else(|| now.after(self.escalate()));
        self.pause_until(hinted.map_or(until, |hinted| hinted.max(until)), Binding::Throttled);
    }

    /// A refusal strikes what admitted the call; when all that stands did, or nothing else is left to blame, the limit is
    /// too high.
    fn unexplained(&mut self, now: Timestamp, quota: Quota, made: Timestamp, tries: Option<Tries>) {
        let standing = self.standing();
        let agree = standing.len() > 1 && !matches!(tries, Some(Tries::Counting { .. }));
        if agree || standing == [Hypothesis::Sliding] || self.terms.counting != Counting::Learn {
            self.book.throttles.shrunk_by = Some(made);
            self.shrink(now, quota, made);
            return;
        }
        let lax = match tries {
            Some(Tries::Counting { admit, .. }) => admit,
            Some(Tries::Again | Tries::Limit(_)) | None => standing,
        };
        match self.book.beliefs.strike_too_lax(now, &lax) {
            Struck::Standing => {}
            Struck::AllTooLax => self.shrink(now, quota, made),
            Struck::Mixed => {
                let admitted = self.book.charges.most_between(made - MINUTE, made);
                let configured = self.configured();
                self.book.learned.replace(now, configured, quota, admitted);
            }
        }
    }

    /// Down to what was admitted in the minute before the refused call, as far as one can tell.
    fn shrink(&mut self, now: Timestamp, quota: Quota, made: Timestamp) {
        let is_new = self.minute_limits() == (None, None);
        let admitted = self.book.charges.most_between(made - MINUTE, made);
        let configured = self.configured();
        let again = self.book.throttles.in_a_row > 0;
        self.book.learned.shrink(now, configured, quota, admitted, again);
        if is_new {
            self.book.bucket = Levels::default();
            self.book.bucket.tokens.add(admitted.tokens);
            self.book.bucket.requests.add(admitted.requests);
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

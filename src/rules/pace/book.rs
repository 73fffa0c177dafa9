//! What is written in a lane's book, and how does a charge come and go? The part of the ledger that workers share.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bucket::{Debt, drained_tokens};
use super::caution::Caution;
use super::charges::Charges;
use super::day::Day;
use super::doubt::{Doubt, Odd};
use super::flow::{Emptied, Found};
use super::grant::LASTS;
use super::learn::{Beliefs, Hypothesis};
use super::limit::{Configured, Learned, Quota};
use super::witness::Witness;
use super::{Amount, Binding, Counting, LaneLedger, Limits, Reservation, TRIAL_LOST, Terms};
use crate::job::units::{PerMinute, Timestamp, Tokens};

/// A charge is kept for longer than it counts: what calls before an admission came to is known only when they are settled.
const KEPT: Duration = Duration::from_secs(75);

/// What the workers share.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(super) struct Book {
    pub(super) latest: Timestamp,
    pub(super) charges: Charges,
    pub(super) bucket: Levels,
    pub(super) day: Day,
    pub(super) beliefs: Beliefs,
    pub(super) learned: Learned,
    pub(super) pause: Option<Pause>,
    pub(super) throttles: Throttles,
    pub(super) doubt: Option<Doubt>,
    pub(super) odd: Odd,
    /// When a refusal was last put down to a charge that had just aged out here, and not there.
    pub(super) late: Option<Timestamp>,
    /// When a call last came to more than was reserved: the service knows of it before we do.
    pub(super) exceeded: Option<Timestamp>,
    pub(super) first: First,
    pub(super) trial: Option<Trial>,
    pub(super) witnesses: Vec<Witness>,
    /// The limit fell a moment ago: until then calls go evenly, as a bucket lets them, not as old charges age.
    pub(super) even_until: Option<Timestamp>,
    /// When the limit was first in full use since it last fell.
    pub(super) full_since: Option<Timestamp>,
    /// When a bucket was found empty: the last time, and one before that.
    pub(super) emptied: Vec<Emptied>,
    /// How the limit was found, while nothing was known of the counting.
    pub(super) found: Option<Found>,
    /// After a refusal that nothing explains one call goes first.
    pub(super) careful: bool,
    /// And after any refusal the others follow by and by.
    pub(super) caution: Option<Caution>,
    /// Whether workers draw grants, which they may spend later than they are charged.
    pub(super) is_drawn_on: bool,
}

/// The debts of a bucket: what the service may count, and what it certainly counts.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct Levels {
    pub(super) tokens: Debt,
    pub(super) requests: Debt,
    pub(super) least_tokens: Debt,
    pub(super) least_requests: Debt,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Pause {
    pub(super) until: Timestamp,
    pub(super) binding: Binding,
}

/// Bursts of throttles that the ledger cannot explain.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct Throttles {
    pub(super) in_a_row: u32,
    /// When the first refusal of the newest burst was seen: what was sent up to then belongs to the same burst.
    pub(super) seen: Option<Timestamp>,
    /// When the refused call was sent by which the limit shrank in this burst.
    pub(super) shrunk_by: Option<Timestamp>,
}

/// The very first call of a lane goes alone.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum First {
    #[default]
    Wanted,
    Out(Timestamp),
    Done,
}

/// A call that tries the quota.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Trial {
    pub(super) made: Timestamp,
    pub(super) tries: Tries,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tries {
    /// Whether the service admits anything again.
    Again,
    /// Which counting is right: those that admit it, and those that forbid it.
    Counting { admit: Vec<Hypothesis>, forbid: Vec<Hypothesis> },
    /// The limit.
    Limit(Quota),
}

impl LaneLedger {
    /// What is charged now, under these quotas and counted so: nothing that was learned goes along.
    #[must_use]
    pub fn under(&self, limits: Limits, counting: Hypothesis) -> Self {
        let Book { latest, charges, bucket, day, pause, first, .. } = self.book.clone();
        let terms = Terms { limits, counting: Counting::Known(counting), ..self.terms };
        Self { terms, book: Book { latest, charges, bucket, day, pause, first, ..Book::default() } }
    }

    pub(super) fn settle(&mut self, now: Timestamp, reservation: &Reservation, used: Tokens) {
        let refund = Amount { tokens: reservation.tokens.0.saturating_sub(used.0), requests: 0 };
        let excess = Amount { tokens: used.0.saturating_sub(reservation.tokens.0), requests: 0 };
        let certain = Amount { tokens: used.0.min(reservation.tokens.0), requests: 1 };
        self.give_back((reservation.made, reservation.made), refund);
        self.book.charges.settle(reservation.made, certain);
        let levels = &mut self.book.bucket;
        levels.least_tokens.add(certain.tokens);
        levels.least_requests.add(certain.requests);
        if excess.tokens > 0 {
            self.book.exceeded = Some(now);
            self.charge(now, excess, excess);
        }
    }

    pub(super) fn release(&mut self, reservation: &Reservation) {
        let amount = Amount { tokens: reservation.tokens.0, requests: 1 };
        self.give_back((reservation.made, reservation.made), amount);
        self.never_admitted(reservation.made, amount);
    }

    /// The charge counts from another moment on.
    pub(super) fn move_to(&mut self, reservation: &Reservation, sent: Timestamp) {
        let amount = Amount { tokens: reservation.tokens.0, requests: 1 };
        self.put_off(amount, (reservation.made, reservation.made), sent);
        if let Some(trial) =
            self.book.trial.as_mut().filter(|trial| trial.made == reservation.made && reservation.trial)
        {
            trial.made = sent;
        }
        if let First::Out(made) = &mut self.book.first
            && *made == reservation.made
        {
            *made = sent;
        }
    }

    /// What was charged then, under that moment, counts from `sent` on.
    pub(super) fn put_off(&mut self, amount: Amount, (then, under): (Timestamp, Timestamp), sent: Timestamp) {
        let (tokens, requests) = self.minute_limits();
        self.book.charges.take(under, amount);
        let others = self.book.charges.most_since(then);
        self.book.charges.add(sent, amount, Amount::default());
        for emptied in self.book.emptied.iter_mut().filter(|emptied| then <= emptied.at && emptied.at < sent) {
            emptied.add(amount);
        }
        let late = sent.since(then);
        let levels = &mut self.book.bucket;
        levels.tokens.postpone(amount.tokens, others.tokens, late, tokens.unwrap_or(0));
        levels.requests.postpone(amount.requests, others.requests, late, requests.unwrap_or(0));
    }

    pub(super) fn charge(&mut self, now: Timestamp, most: Amount, least: Amount) {
        self.book.charges.add(now, most, least);
        let levels = &mut self.book.bucket;
        levels.tokens.add(most.tokens);
        levels.requests.add(most.requests);
        levels.least_tokens.add(least.tokens);
        levels.least_requests.add(least.requests);
        // In the same moment: before, as for whoever moves the charge or gives it back.
        let latest = self.book.latest;
        for emptied in self.book.emptied.iter_mut().filter(|emptied| emptied.at < latest) {
            emptied.add(most);
        }
        if self.terms.limits.tokens_per_day.is_some() {
            self.book.day.add(now, most.tokens);
        }
    }

    /// What was charged then, under the moment `made`, was not used.
    pub(super) fn give_back(&mut self, (then, made): (Timestamp, Timestamp), amount: Amount) {
        let (tokens, requests) = self.minute_limits();
        let (slack, lag) = (self.terms.slack, self.bucket_lag());
        self.book.charges.take(made, amount);
        for emptied in &mut self.book.emptied {
            emptied.tokens = emptied.tokens.saturating_sub_unsigned(amount.tokens);
            emptied.requests = emptied.requests.saturating_sub_unsigned(amount.requests);
            if then > emptied.at {
                emptied.sent = emptied.sent.minus(amount);
            }
        }
        let young = if self.book.is_drawn_on {
            // Said late: what was charged after that call may all have been admitted after the service gave this back, or after
            // it would have been there without the grant.
            let drains =
                |limit: Option<u64>, over: Duration| drained_tokens(over.saturating_sub(lag), limit.unwrap_or(0));
            let since = |of: fn(Amount) -> u64, limit| {
                self.book.charges.most_owed_since(made, self.book.latest, of, |over| drains(limit, over))
            };
            Amount {
                tokens: since(|amount| amount.tokens, tokens),
                requests: since(|amount| amount.requests, requests),
            }
        } else {
            // What was charged so lately may have been admitted after the service gave this back.
            self.book.charges.most_from(self.book.latest - slack - slack)
        };
        self.book.bucket.tokens.take(amount.tokens, young.tokens, tokens.unwrap_or(0), lag);
        self.book.bucket.requests.take(amount.requests, young.requests, requests.unwrap_or(0), lag);
        if self.terms.limits.tokens_per_day.is_some() {
            self.book.day.take(made, amount.tokens);
        }
    }

    pub(super) fn advance(&mut self, now: Timestamp) {
        let passed = now.since(self.book.latest);
        self.book.latest = self.book.latest.max(now);
        let now = self.book.latest;
        self.book.charges.expire(now, KEPT);
        self.book.day.expire(now);
        let (tokens, requests) = self.minute_limits();
        let lag = self.bucket_lag();
        let levels = &mut self.book.bucket;
        levels.tokens.drain(passed, tokens.unwrap_or(0), lag);
        levels.requests.drain(passed, requests.unwrap_or(0), lag);
        levels.least_tokens.drain(passed, tokens.unwrap_or(0), Duration::ZERO);
        levels.least_requests.drain(passed, requests.unwrap_or(0), Duration::ZERO);
        let levels = *levels;
        // From when it may be full, what would flow in is lost.
        self.book.emptied.retain(|emptied| levels.most(emptied.quota).whole() > 0);
        self.book.trial.take_if(|trial| trial.made.after(TRIAL_LOST) <= now);
        self.book.caution.take_if(|caution| caution.is_over(now));
        self.book.even_until.take_if(|until| *until <= now);
        if self.terms.counting == Counting::Learn {
            self.book.beliefs.retest(now);
        }
    }

    /// By how much later than here a bucket of the service may be charged, at most.
    pub(super) fn bucket_lag(&self) -> Duration {
        if self.book.is_drawn_on { self.terms.slack + LASTS } else { self.terms.slack }
    }

    pub(super) fn configured(&self) -> Configured {
        let limits = self.terms.limits;
        (limits.tokens_per_minute.map(PerMinute::get), limits.requests_per_minute.map(PerMinute::get))
    }

    pub(super) fn minute_limits(&self) -> Configured {
        self.book.learned.limits(self.configured())
    }
}

impl Levels {
    pub(super) fn most_mut(&mut self, quota: Quota) -> &mut Debt {
        match quota {
            Quota::Tokens => &mut self.tokens,
            Quota::Requests => &mut self.requests,
        }
    }

    pub(super) fn most(&self, quota: Quota) -> Debt {
        match quota {
            Quota::Tokens => self.tokens,
            Quota::Requests => self.requests,
        }
    }

    pub(super) fn least(&self, quota: Quota) -> Debt {
        match quota {
            Quota::Tokens => self.least_tokens,
            Quota::Requests => self.least_requests,
        }
    }
}

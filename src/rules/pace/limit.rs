//! How much does the quota really allow? The configured limit, until the service says otherwise.
//!
//! A refusal that no counting explains means that the limit is lower than believed (strangers on the account, a number
//! out of date): it falls to what was certainly admitted in the last minute. Upwards it is tried with single calls: one
//! call beyond the limit costs at most one refusal, and two that are admitted raise it. Tries that succeed follow each
//! other at once and with growing steps; one that fails puts off the next.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Amount;
use crate::job::units::Timestamp;

/// What a quota that is not told anywhere is at least.
const LEAST: u64 = 1;
/// The limit never falls below this share of what it was by one refusal.
const DEEPEST_CUT: u64 = 4;
/// One call that is admitted beyond the limit raises it by a thirty-second part, or by its own size if that is more: not by so much
/// that what follows could be a burst of refusals.
const STEP: u64 = 32;
/// Beyond this part of the limit nothing is cut by a refusal that repeats another: an eighth less each time.
const REPEATED_CUT: u64 = 8;
const PROOFS: u8 = 2;

/// So many calls at least between two tries that fail, so that tries stay below one call in a hundred ...
const CALLS_BETWEEN: u64 = 110;
/// ... but no longer than this while the limit stands below the configured one, so that strangers who leave are noticed.
const SOON: Duration = Duration::from_secs(110);
const SOONEST: Duration = Duration::from_secs(30);
/// At the configured limit and beyond, tries that fail become rare.
const RARELY: Duration = Duration::from_secs(60 * 60);
const FIRST_TRY: Duration = Duration::from_secs(150);
/// A raise is in doubt for so long: what is too much shows once a minute is full, and a lane may have little to do.
const IN_DOUBT: Duration = Duration::from_secs(10 * 60);

/// The limits of a lane as learned; `None` is as configured.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct Learned {
    tokens: Option<u64>,
    requests: Option<u64>,
    /// What was configured when this was learned: other numbers start anew.
    configured: Option<(Option<u64>, Option<u64>)>,
    next_try: Option<Timestamp>,
    pause: Option<u64>,
    proofs: u8,
    #[serde(default)]
    raised: Option<Raise>,
}

/// What held before the newest raise.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
struct Raise {
    at: Timestamp,
    tokens: Option<u64>,
    requests: Option<u64>,
    pause: Option<u64>,
}

/// Which of the two limits.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Quota {
    /// Tokens a minute.
    Tokens,
    /// Requests a minute.
    Requests,
}

/// The limits of a minute that are configured.
pub(super) type Configured = (Option<u64>, Option<u64>);

impl Learned {
    /// The limits that hold.
    pub(super) fn limits(&self, configured: Configured) -> Configured {
        if self.configured != Some(configured) {
            return configured;
        }
        (self.tokens.or(configured.0), self.requests.or(configured.1))
    }

    /// The service refused, and no counting explains it: `admitted` was certainly admitted in the last minute.
    pub(super) fn shrink(
        &mut self,
        now: Timestamp,
        configured: Configured,
        quota: Quota,
        admitted: Amount,
        again: bool,
    ) {
        let before = self.limits(configured);
        self.begin(configured);
        match quota {
            Quota::Tokens => self.tokens = Some(cut(before.0, admitted.tokens, again)),
            Quota::Requests => self.requests = Some(cut(before.1, admitted.requests, again)),
        }
        self.give_up_try(now, configured, admitted.requests);
    }

    /// What was believed of the counting fits nothing; so the limit is what was admitted in the last minute, more or less
    /// than what was believed.
    pub(super) fn replace(&mut self, now: Timestamp, configured: Configured, quota: Quota, admitted: Amount) {
        self.begin(configured);
        match quota {
            Quota::Tokens => self.tokens = Some(admitted.tokens.max(LEAST)),
            Quota::Requests => self.requests = Some(admitted.requests.max(LEAST)),
        }
        self.give_up_try(now, configured, admitted.requests);
    }

    /// From when a call beyond the limit may be tried.
    pub(super) fn next_try(&mut self, now: Timestamp) -> Timestamp {
        *self.next_try.get_or_insert(now.after(FIRST_TRY))
    }

    /// A call of `size` beyond the limit was admitted; the next may be tried after `rest`.
    pub(super) fn try_succeeded(
        &mut self,
        now: Timestamp,
        configured: Configured,
        quota: Quota,
        size: Amount,
        rest: Duration,
    ) {
        self.next_try = Some(now);
        self.proofs = self.proofs.saturating_add(1);
        if self.proofs < PROOFS {
            return;
        }
        let (before, pause) = (self.limits(configured), self.pause);
        self.begin(configured);
        self.raised = Some(Raise { at: now, tokens: self.tokens, requests: self.requests, pause });
        let raised =
            |limit: Option<u64>| limit.map(|limit| limit.saturating_add((limit / STEP).max(size.of(quota)).max(1)));
        match quota {
            Quota::Tokens => self.tokens = raised(before.0),
            Quota::Requests => self.requests = raised(before.1),
        }
        self.proofs = PROOFS;
        self.pause = None;
        self.next_try = Some(now.after(rest));
    }

    /// The service refused, and the limit was raised just before: it takes that back. What is reserved is on the safe side,
    /// so a call beyond the limit may pass by what the service knows to be free and the ledger does not.
    /// Returns whether there was anything to take back.
    pub(super) fn take_back(&mut self, now: Timestamp, configured: Configured, calls: u64) -> bool {
        let Some(raise) = self.raised.take().filter(|raise| now < raise.at.after(IN_DOUBT)) else { return false };
        (self.tokens, self.requests, self.pause) = (raise.tokens, raise.requests, raise.pause);
        self.give_up_try(now, configured, calls);
        true
    }

    /// A call beyond the limit was refused; `calls` were made in the last minute.
    pub(super) fn give_up_try(&mut self, now: Timestamp, configured: Configured, calls: u64) {
        self.proofs = 0;
        let limits = self.limits(configured);
        let below = |now: Option<u64>, told: Option<u64>| now.zip(told).is_some_and(|(now, told)| now < told);
        let pause = if below(limits.0, configured.0) || below(limits.1, configured.1) {
            Duration::from_secs(CALLS_BETWEEN * 60 / calls.max(1)).clamp(SOONEST, SOON)
        } else {
            let doubled = self.pause.map_or(2 * FIRST_TRY, |seconds| 2 * Duration::from_secs(seconds));
            let pause = doubled.min(RARELY);
            self.pause = Some(pause.as_secs());
            pause
        };
        self.next_try = Some(now.after(pause));
    }

    fn begin(&mut self, configured: Configured) {
        if self.configured != Some(configured) {
            *self = Self { configured: Some(configured), next_try: self.next_try, ..Self::default() };
        }
    }
}

fn cut(before: Option<u64>, admitted: u64, again: bool) -> u64 {
    let Some(before) = before else { return admitted.max(LEAST) };
    let less = if again { before / REPEATED_CUT } else { before / STEP };
    admitted.min(before - less).max(before / DEEPEST_CUT).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_800_000_000_000);
    const TOLD: Configured = (Some(3_200), None);

    fn tokens(tokens: u64) -> Amount {
        Amount { tokens, requests: 10 }
    }

    fn shrunk_to(admitted: u64) -> Learned {
        let mut learned = Learned::default();
        learned.shrink(START, TOLD, Quota::Tokens, tokens(admitted), false);
        learned
    }

    fn succeed(learned: &mut Learned, size: u64) {
        learned.try_succeeded(START, TOLD, Quota::Tokens, tokens(size), Duration::from_secs(2));
    }

    #[test]
    fn a_refusal_leaves_what_was_admitted_but_takes_a_step_at_least_and_three_quarters_at_most() {
        assert_eq!(shrunk_to(2_000).limits(TOLD), (Some(2_000), None));
        assert_eq!(shrunk_to(3_190).limits(TOLD), (Some(3_100), None));
        assert_eq!(shrunk_to(9_000).limits(TOLD), (Some(3_100), None));
        assert_eq!(shrunk_to(5).limits(TOLD), (Some(800), None));
    }

    #[test]
    fn other_numbers_in_the_configuration_start_anew() {
        let learned = shrunk_to(2_000);
        assert_eq!(learned.limits((Some(9_000), None)), (Some(9_000), None));
        assert_eq!(learned.limits(TOLD), (Some(2_000), None), "and the old ones find what was learned");
    }

    #[test]
    fn a_limit_that_nobody_told_is_learned_and_is_never_nothing() {
        let mut learned = Learned::default();
        learned.shrink(START, (None, None), Quota::Tokens, tokens(700), false);
        assert_eq!(learned.limits((None, None)), (Some(700), None));
        let mut learned = Learned::default();
        learned.shrink(START, (None, None), Quota::Requests, Amount::default(), false);
        assert_eq!(learned.limits((None, None)), (None, Some(1)));
    }

    #[test]
    fn two_tries_that_succeed_raise_it_by_a_step_or_by_a_call() {
        let mut learned = shrunk_to(2_560);
        succeed(&mut learned, 10);
        assert_eq!(learned.limits(TOLD).0, Some(2_560), "one may be luck");
        assert_eq!(learned.next_try(START), START, "so the next is tried at once");
        succeed(&mut learned, 10);
        assert_eq!(learned.limits(TOLD).0, Some(2_560 + 80));
        assert_eq!(learned.next_try(START), START.after(Duration::from_secs(2)));
        succeed(&mut learned, 500);
        assert_eq!(learned.limits(TOLD).0, Some(2_640 + 500));
    }

    #[test]
    fn a_try_that_fails_is_put_off_the_longer_the_fewer_calls_there_are() {
        for (calls, seconds) in [(1_000, 30), (110, 60), (60, 110), (0, 110)] {
            let mut learned = shrunk_to(2_000);
            learned.give_up_try(START, TOLD, calls);
            assert_eq!(learned.next_try(START), START.after(Duration::from_secs(seconds)), "{calls} calls a minute");
        }
        let mut learned = shrunk_to(2_000);
        succeed(&mut learned, 10);
        learned.give_up_try(START, TOLD, 10);
        succeed(&mut learned, 10);
        assert_eq!(learned.limits(TOLD).0, Some(2_000), "a refusal between two proofs makes them one");
    }

    #[test]
    fn a_raise_is_taken_back_by_a_refusal_soon_after_it_once_and_tries_become_rarer() {
        let mut learned = Learned::default();
        learned.give_up_try(START, TOLD, 10);
        for _ in 0..2 {
            succeed(&mut learned, 10);
        }
        assert_eq!(learned.limits(TOLD).0, Some(3_300));
        assert!(learned.take_back(START, TOLD, 10));
        assert_eq!(learned.limits(TOLD).0, Some(3_200));
        assert_eq!(learned.next_try(START), START.after(Duration::from_secs(600)), "as if it had failed at once");
        assert!(!learned.take_back(START, TOLD, 10));

        for _ in 0..2 {
            succeed(&mut learned, 10);
        }
        assert!(!learned.take_back(START.after(IN_DOUBT), TOLD, 10), "it has stood the test");
        assert_eq!(learned.limits(TOLD).0, Some(3_300));
    }

    #[test]
    fn at_the_configured_limit_tries_become_rare() {
        let mut learned = Learned::default();
        assert_eq!(learned.next_try(START), START.after(FIRST_TRY));
        let mut waits = Vec::new();
        for _ in 0..6 {
            learned.give_up_try(START, TOLD, 1_000);
            waits.push(learned.next_try(START).since(START).as_secs());
        }
        assert_eq!(waits, [300, 600, 1_200, 2_400, 3_600, 3_600]);
    }
}

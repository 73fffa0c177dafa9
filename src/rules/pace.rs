//! May this call be made now, by the quota of its lane, and if not, when?
//!
//! One ledger a lane: a charge is written before the call (the reservation) and put right after it (the
//! settlement). It counts by sliding 60 s: of the ways in which the service may count (token bucket, sliding, clock
//! minutes; it does not say which) this is the one that is safe under all three. The charges themselves live in
//! `window`, so that other countings can stand beside this one and be fed with the same charges.
//!
//! Reserving asks and takes in one step, on `&mut self`: two jobs can never both take the last tokens. A
//! [`Reservation`] that is dropped stays charged until it ages out, which is what an outcome that nobody saw calls
//! for; so no path can give back by accident what the service may have counted.

use std::fmt;
use std::time::{Duration, Instant};

use super::window::{BucketId, ChargeId, Day, Minute};
use crate::job::units::{PerDay, PerMinute, Tokens};

/// The quotas of a lane; each stands alone, `None` is "no such quota, or not known".
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// Tokens a minute, input and output together, as the service weighs them.
    pub tokens_per_minute: Option<PerMinute>,
    /// Calls a minute.
    pub requests_per_minute: Option<PerMinute>,
    /// Tokens in any 24 hours.
    pub tokens_per_day: Option<PerDay>,
}

/// What holds a call back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Binding {
    /// The quota of tokens a minute.
    Tokens,
    /// The quota of calls a minute.
    Requests,
    /// The quota of tokens a day.
    Day,
    /// The service refused a call that the ledger had allowed.
    Throttled,
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tokens => "tokens a minute",
            Self::Requests => "requests a minute",
            Self::Day => "tokens a day",
            Self::Throttled => "throttled by the service",
        })
    }
}

/// Why a reservation was not made. "Never" is another answer than "later": nobody should wait for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// It does not fit now.
    #[error("held by {binding}")]
    NotUntil {
        /// The first instant at which it is admitted, if nothing else is reserved meanwhile: refused a nanosecond
        /// before, admitted at it.
        at: Instant,
        /// The gate that opens last.
        binding: Binding,
    },
    /// It is larger than the whole quota.
    #[error("needs {needed} tokens, and the quota is {limit}")]
    Never {
        /// What was asked for.
        needed: Tokens,
        /// The smallest limit it exceeds.
        limit: Tokens,
    },
}

/// The right to make one call, and the charge that stands for it. Give it back to the ledger it came from.
#[must_use = "what is not settled or released counts until it ages out"]
#[derive(Debug)]
pub struct Reservation {
    made: Instant,
    tokens: u64,
    charge: Option<ChargeId>,
    bucket: Option<BucketId>,
}

impl Reservation {
    /// How many tokens were reserved.
    pub fn tokens(&self) -> Tokens {
        Tokens(self.tokens)
    }

    /// When.
    pub fn made(&self) -> Instant {
        self.made
    }
}

/// The charges of one lane. Time never runs backwards in it: an earlier `now` is taken as the latest it has seen.
#[derive(Debug)]
pub struct LaneLedger {
    limits: Limits,
    minute: Minute,
    day: Day,
    latest: Option<Instant>,
    pause: Option<Pause>,
    throttles: Throttles,
    trial: Trial,
    slack: Duration,
}

/// After a throttle one call goes first; the others follow when it is answered, or when it was not refused in time.
#[derive(Clone, Copy, Debug, Default)]
enum Trial {
    #[default]
    None,
    Wanted,
    Running {
        since: Instant,
    },
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    until: Instant,
    binding: Binding,
}

/// Bursts of throttles that the ledger cannot explain.
#[derive(Debug, Default)]
struct Throttles {
    in_a_row: u32,
    /// When the first refusal of the newest burst was seen: what was sent up to then belongs to the same burst.
    seen: Option<Instant>,
}

impl Throttles {
    fn sent_before_seen(&self, sent: Instant) -> bool {
        self.seen.is_some_and(|seen| sent <= seen)
    }
}

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const TRIAL: Duration = Duration::from_secs(1);
const DAY_PAUSE: Duration = Duration::from_secs(60 * 60);
/// A hint beyond this is taken for a mistake: nobody plans further ahead by a header.
pub const LONGEST_HINT: Duration = Duration::from_secs(24 * 60 * 60);

impl LaneLedger {
    /// An empty ledger. Without any limit it keeps no charges and admits everything that is not paused.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            minute: Minute::default(),
            day: Day::default(),
            latest: None,
            pause: None,
            throttles: Throttles::default(),
            trial: Trial::default(),
            slack: Duration::ZERO,
        }
    }

    /// Charges count for so much longer: the service counts a call from when it admits it, which nobody outside sees
    /// and which comes after the reservation.
    #[must_use]
    pub fn with_slack(mut self, slack: Duration) -> Self {
        self.slack = slack;
        self
    }

    /// The limits it holds.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Takes `tokens` and one request, or says why not.
    ///
    /// # Errors
    /// [`Refusal`], with nothing taken.
    pub fn reserve(&mut self, now: Instant, tokens: Tokens) -> Result<Reservation, Refusal> {
        self.ask(now, tokens)?;
        let now = self.advance(now);
        let charge = self.keeps_minute().then(|| self.minute.charge(now + self.slack, tokens.0, 1));
        self.trial = match self.trial {
            Trial::Wanted => Trial::Running { since: now },
            Trial::None | Trial::Running { .. } => Trial::None,
        };
        let bucket = self.limits.tokens_per_day.map(|_| self.day.charge(now, tokens.0));
        Ok(Reservation { made: now, tokens: tokens.0, charge, bucket })
    }

    /// Would [`reserve`](Self::reserve) succeed? Takes nothing.
    ///
    /// # Errors
    /// The [`Refusal`] it would answer.
    pub fn ask(&mut self, now: Instant, tokens: Tokens) -> Result<(), Refusal> {
        let now = self.advance(now);
        self.fits_at_all(tokens)?;
        let pause = self.pause.filter(|pause| now < pause.until).map(|pause| (pause.until, pause.binding));
        let trial = self.trial_until().filter(|until| now < *until).map(|until| (until, Binding::Throttled));
        match pause.into_iter().chain(trial).chain(self.charges_allow(tokens)).max_by_key(|(at, _)| *at) {
            Some((at, binding)) => Err(Refusal::NotUntil { at, binding }),
            None => Ok(()),
        }
    }

    /// Puts a reservation right after its call was answered: `used` is `input + cache_write + output x burndown`.
    ///
    /// Less than reserved: the same charge shrinks, and nothing happens if it has aged out. More: the excess is
    /// a new charge at `now`, into debt if need be, also if the reservation itself has aged out. The answer also ends a
    /// row of throttles, unless the call was sent before the last of them was seen.
    pub fn settle(&mut self, reservation: Reservation, now: Instant, used: Tokens) {
        let now = self.advance(now);
        if !self.throttles.sent_before_seen(reservation.made) {
            self.throttles = Throttles::default();
            self.trial = Trial::None;
        }
        let excess = used.0.saturating_sub(reservation.tokens);
        if excess == 0 {
            self.give_back(&reservation, reservation.tokens - used.0, 0);
            return;
        }
        if self.keeps_minute() {
            self.minute.charge(now + self.slack, excess, 0);
        }
        if self.limits.tokens_per_day.is_some() {
            self.day.charge(now, excess);
        }
    }

    /// Gives everything back, the request too: the call was never made, or refused before any work.
    pub fn release(&mut self, reservation: Reservation) {
        self.give_back(&reservation, reservation.tokens, 1);
    }

    /// Leaves the charge until it ages out: nobody knows whether the service counted the call.
    pub fn keep(&mut self, reservation: Reservation) {
        drop(reservation);
    }

    /// The service refused this call by a quota of the minute: releases it and pauses the lane; returns until when.
    ///
    /// The pause lasts until the ledger would admit the same tokens again. Where it would at once, it knows less than
    /// the service (strangers on the account, or no limit configured): then 1 s, doubling up to 60 s while the
    /// throttles go on. Refusals of calls sent before the first of them was seen are one burst and count once. A
    /// `hint` of the service is a lower bound, up to 24 h.
    pub fn throttled(&mut self, reservation: Reservation, now: Instant, hint: Option<Duration>) -> Instant {
        let now = self.advance(now);
        let (tokens, sent) = (reservation.tokens(), reservation.made);
        self.release(reservation);
        let mut until = now + hint.unwrap_or_default().min(LONGEST_HINT);
        if !self.throttles.sent_before_seen(sent) {
            self.throttles.seen = Some(now);
            let known = self.charges_allow(tokens).map(|(at, _)| at).max();
            until = until.max(known.unwrap_or_else(|| now + self.escalate()));
        }
        self.trial = Trial::Wanted;
        self.pause_until(until, Binding::Throttled)
    }

    /// The service refused this call by a quota of the day: releases it and pauses the lane for an hour, or for
    /// `hint` if that is longer (up to 24 h); returns until when.
    pub fn day_exhausted(&mut self, reservation: Reservation, now: Instant, hint: Option<Duration>) -> Instant {
        let now = self.advance(now);
        self.release(reservation);
        self.pause_until(now + hint.unwrap_or_default().clamp(DAY_PAUSE, LONGEST_HINT), Binding::Day)
    }

    /// Tokens that count at `now`; zero on a lane that has no limit of the minute, which keeps no charges.
    pub fn used(&mut self, now: Instant) -> Tokens {
        self.advance(now);
        Tokens(u64::try_from(self.minute.tokens()).unwrap_or(u64::MAX))
    }

    /// Until when the lane is paused by word of the service, and which.
    pub fn paused_until(&self, now: Instant) -> Option<(Instant, Binding)> {
        self.pause.filter(|pause| now < pause.until).map(|pause| (pause.until, pause.binding))
    }

    fn advance(&mut self, now: Instant) -> Instant {
        let now = self.latest.map_or(now, |latest| latest.max(now));
        self.latest = Some(now);
        self.minute.expire(now);
        self.day.expire(now);
        now
    }

    fn keeps_minute(&self) -> bool {
        self.limits.tokens_per_minute.is_some() || self.limits.requests_per_minute.is_some()
    }

    fn fits_at_all(&self, needed: Tokens) -> Result<(), Refusal> {
        let minute = self.limits.tokens_per_minute.map(PerMinute::get);
        let day = self.limits.tokens_per_day.map(PerDay::get);
        match minute.into_iter().chain(day).min() {
            Some(limit) if needed.0 > limit => Err(Refusal::Never { needed, limit: Tokens(limit) }),
            Some(_) | None => Ok(()),
        }
    }

    /// The gates that are shut for so many tokens by what was charged, and when each opens.
    fn charges_allow(&self, tokens: Tokens) -> impl Iterator<Item = (Instant, Binding)> + use<> {
        let limits = self.limits;
        let minute = limits.tokens_per_minute.and_then(|limit| self.minute.tokens_fit_at(tokens.0, limit.get()));
        let requests = limits.requests_per_minute.and_then(|limit| self.minute.request_fits_at(limit.get()));
        let day = limits.tokens_per_day.and_then(|limit| self.day.tokens_fit_at(tokens.0, limit.get()));
        [(minute, Binding::Tokens), (requests, Binding::Requests), (day, Binding::Day)]
            .into_iter()
            .filter_map(|(at, binding)| at.map(|at| (at, binding)))
    }

    /// Until when the call on trial keeps the others back. A refusal comes at once; an answer may take minutes.
    fn trial_until(&self) -> Option<Instant> {
        match self.trial {
            Trial::Running { since } => Some(since + TRIAL),
            Trial::None | Trial::Wanted => None,
        }
    }

    fn give_back(&mut self, reservation: &Reservation, tokens: u64, requests: u64) {
        if let Some(charge) = &reservation.charge {
            self.minute.lower(charge, tokens, requests);
        }
        if let Some(bucket) = reservation.bucket {
            self.day.lower(bucket, tokens);
        }
    }

    fn escalate(&mut self) -> Duration {
        let doublings = self.throttles.in_a_row.min(LONGEST_PAUSE.as_secs().ilog2() + 1);
        self.throttles.in_a_row = self.throttles.in_a_row.saturating_add(1);
        (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE)
    }

    /// Pauses, but never shortens a pause that stands.
    fn pause_until(&mut self, until: Instant, binding: Binding) -> Instant {
        match self.pause {
            Some(pause) if pause.until >= until => pause.until,
            Some(_) | None => {
                self.pause = Some(Pause { until, binding });
                until
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const NANO: Duration = Duration::from_nanos(1);

    fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn tokens_only(count: u64) -> LaneLedger {
        LaneLedger::new(Limits { tokens_per_minute: PerMinute::new(count), ..Limits::default() })
    }

    fn held(ledger: &mut LaneLedger, now: Instant, tokens: u64) -> Option<(Instant, Binding)> {
        match ledger.ask(now, Tokens(tokens)) {
            Err(Refusal::NotUntil { at, binding }) => Some((at, binding)),
            Err(Refusal::Never { .. }) | Ok(()) => None,
        }
    }

    #[test]
    fn q2_two_jobs_cannot_both_take_the_last_tokens() {
        let now = Instant::now();
        let mut lane = tokens_only(100);
        let _first = lane.reserve(now, Tokens(60)).unwrap();
        let refused = lane.reserve(now, Tokens(60)).unwrap_err();
        assert_eq!(refused, Refusal::NotUntil { at: now + MINUTE, binding: Binding::Tokens });
        assert_eq!(lane.used(now), Tokens(60));
    }

    #[test]
    fn q3_less_than_reserved_shrinks_the_same_charge() {
        let now = Instant::now();
        let mut lane = tokens_only(100);
        let reserved = lane.reserve(now, Tokens(100)).unwrap();
        lane.settle(reserved, now + secs(5), Tokens(30));
        assert_eq!(held(&mut lane, now + secs(5), 70), None);
        assert_eq!(held(&mut lane, now + secs(5), 71), Some((now + MINUTE, Binding::Tokens)));
    }

    #[test]
    fn q3_more_than_reserved_is_a_new_charge_and_may_be_a_debt() {
        let now = Instant::now();
        let mut lane = tokens_only(100);
        let reserved = lane.reserve(now, Tokens(40)).unwrap();
        lane.settle(reserved, now + secs(30), Tokens(150));
        assert_eq!(lane.used(now + secs(30)), Tokens(150));
        let debt_ends = now + secs(30) + MINUTE;
        assert_eq!(held(&mut lane, now + secs(30), 1), Some((debt_ends, Binding::Tokens)));
        assert_eq!(lane.used(now + MINUTE), Tokens(110));
        assert_eq!(held(&mut lane, debt_ends, 100), None);
    }

    #[test]
    fn q3_a_charge_that_has_aged_out_gives_nothing_back_and_still_owes_its_excess() {
        let now = Instant::now();
        let later = now + secs(90);
        let mut lane = tokens_only(100);
        let (cheap, dear) = (lane.reserve(now, Tokens(50)).unwrap(), lane.reserve(now, Tokens(50)).unwrap());
        let _other = lane.reserve(later, Tokens(60)).unwrap();
        lane.settle(cheap, later, Tokens(10));
        assert_eq!(lane.used(later), Tokens(60));
        lane.settle(dear, later, Tokens(70));
        assert_eq!(lane.used(later), Tokens(80));
    }

    #[test]
    fn q4_a_released_reservation_gives_back_tokens_and_request() {
        let now = Instant::now();
        let limits = Limits {
            tokens_per_minute: PerMinute::new(100),
            requests_per_minute: PerMinute::new(1),
            tokens_per_day: PerDay::new(100),
        };
        let mut lane = LaneLedger::new(limits);
        let reserved = lane.reserve(now, Tokens(100)).unwrap();
        lane.release(reserved);
        assert_eq!(held(&mut lane, now, 100), None);
    }

    #[test]
    fn q4_q5_an_unknown_outcome_stays_charged_until_it_ages_out_without_a_janitor() {
        let now = Instant::now();
        let mut lane = tokens_only(100);
        let reserved = lane.reserve(now, Tokens(100)).unwrap();
        lane.keep(reserved);
        assert_eq!(held(&mut lane, now + secs(59), 1), Some((now + MINUTE, Binding::Tokens)));
        assert_eq!(held(&mut lane, now + MINUTE, 100), None);
    }

    #[test]
    fn q6_what_is_larger_than_the_quota_is_never_admitted() {
        let now = Instant::now();
        let limits = Limits { tokens_per_day: PerDay::new(90), ..tokens_only(100).limits() };
        let refused = LaneLedger::new(limits).reserve(now, Tokens(91)).unwrap_err();
        assert_eq!(refused, Refusal::Never { needed: Tokens(91), limit: Tokens(90) });
    }

    #[test]
    fn q7_a_refusal_names_the_gate_that_opens_last() {
        let now = Instant::now();
        let limits = Limits { requests_per_minute: PerMinute::new(2), ..tokens_only(100).limits() };
        let mut lane = LaneLedger::new(limits);
        let _tokens = lane.reserve(now, Tokens(90)).unwrap();
        assert_eq!(held(&mut lane, now, 20), Some((now + MINUTE, Binding::Tokens)));
        let _requests = lane.reserve(now + secs(1), Tokens(5)).unwrap();
        assert_eq!(held(&mut lane, now + secs(1), 20), Some((now + MINUTE, Binding::Requests)));
    }

    #[test]
    fn q9_the_day_holds_whole_buckets_and_never_admits_too_much() {
        let now = Instant::now();
        let mut lane = LaneLedger::new(Limits { tokens_per_day: PerDay::new(100), ..Limits::default() });
        let first = lane.reserve(now + secs(30), Tokens(60)).unwrap();
        let _second = lane.reserve(now + secs(900), Tokens(40)).unwrap();
        let first_bucket_ends = now + secs(30 + 600 + 86_400);
        assert_eq!(held(&mut lane, now + secs(901), 60), Some((first_bucket_ends, Binding::Day)));
        lane.settle(first, now + secs(902), Tokens(20));
        assert_eq!(held(&mut lane, now + secs(902), 40), None);
        assert_eq!(held(&mut lane, now + secs(902), 61), Some((first_bucket_ends + secs(600), Binding::Day)));
        assert_eq!(held(&mut lane, first_bucket_ends + secs(600), 100), None);
    }

    #[test]
    fn q10_a_charge_of_exactly_sixty_seconds_counts_no_more() {
        let now = Instant::now();
        let mut lane = tokens_only(100);
        let _reserved = lane.reserve(now, Tokens(100)).unwrap();
        assert_eq!(lane.used(now + MINUTE - NANO), Tokens(100));
        assert_eq!(lane.used(now + MINUTE), Tokens(0));
    }

    #[test]
    fn time_that_runs_backwards_is_taken_as_the_latest() {
        let now = Instant::now();
        let mut lane = tokens_only(100);
        lane.used(now + secs(10));
        let reserved = lane.reserve(now, Tokens(100)).unwrap();
        assert_eq!(reserved.made(), now + secs(10));
    }

    #[test]
    fn a_lane_without_limits_keeps_nothing() {
        let now = Instant::now();
        let mut lane = LaneLedger::new(Limits::default());
        for _ in 0..1_000 {
            let reserved = lane.reserve(now, Tokens(u64::MAX)).unwrap();
            lane.settle(reserved, now, Tokens(5));
        }
        assert_eq!(lane.used(now), Tokens(0));
    }

    #[test]
    fn absurd_numbers_overflow_nothing() {
        let now = Instant::now();
        let mut lane =
            LaneLedger::new(Limits { tokens_per_day: PerDay::new(u64::MAX), ..tokens_only(u64::MAX).limits() });
        let reserved = lane.reserve(now, Tokens(u64::MAX - 1)).unwrap();
        lane.settle(reserved, now, Tokens(u64::MAX));
        let reserved = lane.reserve(now + MINUTE, Tokens(0)).unwrap();
        lane.settle(reserved, now + MINUTE, Tokens(u64::MAX));
        assert_eq!(lane.used(now + MINUTE), Tokens(u64::MAX));
        let again = lane.reserve(now + 2 * MINUTE, Tokens(0)).unwrap_err();
        assert!(matches!(again, Refusal::NotUntil { binding: Binding::Day, .. }));
        let mut lane = tokens_only(1);
        let reserved = lane.reserve(now, Tokens(1)).unwrap();
        assert_eq!(lane.throttled(reserved, now, Some(Duration::MAX)), now + LONGEST_HINT);
    }

    /// Sends one call at `now` and has it throttled at once.
    fn throttle(lane: &mut LaneLedger, now: Instant) -> Instant {
        let reserved = lane.reserve(now, Tokens(10)).unwrap();
        lane.throttled(reserved, now, None)
    }

    #[test]
    fn r08_throttles_that_the_ledger_cannot_explain_wait_longer_each_time() {
        let mut now = Instant::now();
        let mut lane = tokens_only(100);
        let mut waits = Vec::new();
        for _ in 0..8 {
            let until = throttle(&mut lane, now + NANO);
            waits.push((until - now).as_secs());
            assert_eq!(held(&mut lane, until - NANO, 10), Some((until, Binding::Throttled)));
            now = until;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn r08_one_burst_of_throttles_counts_once() {
        let now = Instant::now();
        let mut lane = tokens_only(100);
        let burst: Vec<_> = (0..10).map(|_| lane.reserve(now, Tokens(10)).unwrap()).collect();
        for (after, reserved) in (1..).zip(burst) {
            assert_eq!(
                lane.throttled(reserved, now + Duration::from_millis(after), None),
                now + secs(1) + Duration::from_millis(1)
            );
        }
        assert_eq!(throttle(&mut lane, now + secs(2)), now + secs(4));
    }

    #[test]
    fn r08_an_answer_ends_the_row_unless_it_was_sent_before_the_throttle() {
        let now = Instant::now();
        let mut lane = tokens_only(100);
        let before = lane.reserve(now, Tokens(10)).unwrap();
        throttle(&mut lane, now + secs(1));
        lane.settle(before, now + secs(2), Tokens(10));
        assert_eq!(throttle(&mut lane, now + secs(3)), now + secs(5));
        let after = lane.reserve(now + secs(6), Tokens(10)).unwrap();
        lane.settle(after, now + secs(7), Tokens(10));
        assert_eq!(throttle(&mut lane, now + secs(8)), now + secs(9));
    }

    #[test]
    fn r08_a_throttle_that_the_ledger_can_explain_waits_until_the_ledger_admits_it() {
        let now = Instant::now();
        let mut lane = tokens_only(100);
        let _other = lane.reserve(now, Tokens(40)).unwrap();
        let refused = lane.reserve(now + secs(1), Tokens(60)).unwrap();
        let dearer = lane.reserve(now + secs(1), Tokens(0)).unwrap();
        lane.settle(dearer, now + secs(2), Tokens(30));
        assert_eq!(lane.throttled(refused, now + secs(2), None), now + MINUTE);
    }

    #[test]
    fn after_a_throttle_one_call_goes_first() {
        let mut now = Instant::now();
        let mut lane = LaneLedger::new(Limits::default());
        let refused = lane.reserve(now, Tokens(1)).unwrap();
        now = lane.throttled(refused, now, None);
        let first = lane.reserve(now, Tokens(1)).unwrap();
        let held = lane.reserve(now, Tokens(1)).unwrap_err();
        assert_eq!(held, Refusal::NotUntil { at: now + TRIAL, binding: Binding::Throttled });
        now += TRIAL / 10;
        lane.settle(first, now, Tokens(1));
        let _rest = [lane.reserve(now, Tokens(1)).unwrap(), lane.reserve(now, Tokens(1)).unwrap()];
    }

    #[test]
    fn a_call_on_trial_that_takes_long_keeps_the_others_back_for_a_second_only() {
        let mut now = Instant::now();
        let mut lane = LaneLedger::new(Limits::default());
        let refused = lane.reserve(now, Tokens(1)).unwrap();
        now = lane.throttled(refused, now, None);
        let _first = lane.reserve(now, Tokens(1)).unwrap();
        let _rest = [lane.reserve(now + TRIAL, Tokens(1)).unwrap(), lane.reserve(now + TRIAL, Tokens(1)).unwrap()];
    }

    #[test]
    fn q1_with_slack_a_call_admitted_late_still_counts() {
        let start = Instant::now();
        let slack = Duration::from_secs(1);
        let mut lane = tokens_only(100).with_slack(slack);
        let _late = lane.reserve(start, Tokens(100)).unwrap();
        let refused = lane.reserve(start + MINUTE, Tokens(1)).unwrap_err();
        assert_eq!(refused, Refusal::NotUntil { at: start + MINUTE + slack, binding: Binding::Tokens });
    }

    #[test]
    fn r08_a_hint_is_a_lower_bound() {
        let now = Instant::now();
        let mut lane = tokens_only(100);
        let reserved = lane.reserve(now, Tokens(10)).unwrap();
        assert_eq!(lane.throttled(reserved, now, Some(secs(45))), now + secs(45));
        assert_eq!(lane.paused_until(now + secs(44)), Some((now + secs(45), Binding::Throttled)));
        assert_eq!(lane.paused_until(now + secs(45)), None);
    }

    #[test]
    fn a_used_up_day_parks_the_lane_for_an_hour_at_least() {
        let now = Instant::now();
        let mut lane = LaneLedger::new(Limits::default());
        let reserved = lane.reserve(now, Tokens(10)).unwrap();
        assert_eq!(lane.day_exhausted(reserved, now, Some(secs(5))), now + secs(3_600));
        assert_eq!(held(&mut lane, now, 10), Some((now + secs(3_600), Binding::Day)));
    }
}

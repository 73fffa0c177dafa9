//! May this call be made now, by the quota of its lane, and if not, when?
//!
//! One ledger a lane: a charge is written before the call (the reservation) and put right after it (the settlement).
//! Nobody outside knows how the service counts a minute, so the same charges are looked at in three ways (`learn`), and
//! the most permissive that still stands decides. A call that a stricter one would forbid is a *trial*: one at a time, so
//! that being wrong costs one refusal. Nor does anybody know for sure how much the quota is (`limit`).
//!
//! The ledger is a value: time is an argument, and it can be written down and read back, so that
//! workers share it. What happens to a reservation is an [`Event`], so that it can be applied again to what
//! another worker has written meanwhile. A reservation of which nobody says anything stays charged until it ages out,
//! which is what a worker that died calls for.

mod book;
mod bucket;
mod caution;
mod charges;
mod day;
mod doubt;
mod feel;
mod flow;
mod gate;
mod grant;
mod learn;
mod limit;
mod verdict;
mod witness;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::book::{Book, First, Throttles, Trial};
pub use self::grant::{Ahead, Drawn, Grant, Purse};
pub use self::learn::Hypothesis;
pub use self::limit::Quota;
use crate::job::units::{PerDay, PerMinute, Timestamp, Tokens};

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

/// How the service is taken to count a minute.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Counting {
    /// Find out by which refusals and admissions contradict, and find out the limit as well.
    #[default]
    Learn,
    /// As somebody has said. It is not tried out; what was lost of the limit by refusals is won back by single calls.
    Known(Hypothesis),
}

/// What is told of a lane, as against what is learned.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Its quotas.
    pub limits: Limits,
    /// How they are counted.
    pub counting: Counting,
    /// The service counts a call from when it admits it, which nobody outside sees: up to so long after the reservation.
    /// The uncertainty of clocks is in it.
    pub slack: Duration,
    /// Whether the very first call goes alone: nobody knows yet whether there is anything to call.
    pub first_alone: bool,
}

impl Terms {
    /// Of a lane of which nothing is told.
    pub const fn unknown() -> Self {
        let limits = Limits { tokens_per_minute: None, requests_per_minute: None, tokens_per_day: None };
        Self { limits, counting: Counting::Learn, slack: Duration::ZERO, first_alone: false }
    }
}

/// What holds a call back.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Binding {
    /// The quota of tokens a minute.
    Tokens,
    /// The quota of calls a minute.
    Requests,
    /// The quota of tokens a day.
    Day,
    /// The service refused a call that the ledger had allowed.
    Throttled,
    /// Another call is on its way that decides about this one: the first of its lane, or one that tries the quota.
    Trial,
}

impl Binding {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Tokens => "tokens a minute",
            Self::Requests => "requests a minute",
            Self::Day => "tokens a day",
            Self::Throttled => "throttled by the service",
            Self::Trial => "one call goes first to try the quota",
        }
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// Why a reservation was not made. "Never" is another answer than "later": nobody should wait for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// It does not fit now.
    #[error("held by {binding}")]
    NotUntil {
        /// The first moment at which it is admitted, if nothing happens meanwhile.
        at: Timestamp,
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

/// The right to make one call, and the charge that stands for it.
#[must_use = "what is not settled or released counts until it ages out"]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reservation {
    /// When it was made: the moment under which it is charged.
    pub made: Timestamp,
    /// How many tokens were reserved.
    pub tokens: Tokens,
    /// Whether the call tries the quota: tell [`Event::Passed`] as soon as it was not refused in [`JUDGED_AFTER`].
    pub trial: bool,
}

/// What became of a reservation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// The call of a trial was not refused in time: it was admitted, whatever it comes to.
    Passed(Reservation),
    /// Its call was sent only then: it counts from then on, not from when it was made.
    SentLate(Reservation, Timestamp),
    /// A call was sent under this part of a grant: from then on it is a charge of its own.
    Spent(Grant, Timestamp),
    /// This part of a grant is not needed: it comes back.
    Returned(Grant),
    /// It was answered and used so much: `input + cache_write + output x burndown`.
    ///
    /// Less than reserved: the same charge shrinks, and nothing happens if it has aged out. More: the excess is a new
    /// charge now, into debt if need be, also if the reservation itself has aged out.
    Settled(Reservation, Tokens),
    /// It was never made, or refused before any work: everything comes back, the request too.
    Released(Reservation),
    /// Nobody knows whether the service counted it: the charge stays until it ages out.
    Kept(Reservation),
    /// The service refused it by a quota of the minute: it is released and the lane pauses.
    ///
    /// The pause lasts until the counting in force would admit the same tokens again. Where it would at once, it knows
    /// less than the service: then 1 s, doubling up to 60 s while the throttles go on with nothing admitted in
    /// between; and at least a second less than that where it would later, since it was wrong before, unless only the
    /// counting was tried. A refused try of the limit, or one that takes a raise back, pauses nothing; one that is put down
    /// to the call's having come late pauses until a second after it was made. Refusals of calls sent before the first of
    /// them was seen are one burst and count once. A hint of the service is a lower bound, up to [`LONGEST_HINT`].
    Throttled(Reservation, Quota, Option<Duration>),
    /// The service refused it by a quota of the day: it is released and the lane pauses for an hour, or for the hint if
    /// that is longer, up to [`LONGEST_HINT`].
    DayExhausted(Reservation, Option<Duration>),
}

/// A refusal comes at once: a call of which nothing was heard for so long was admitted.
pub const JUDGED_AFTER: Duration = Duration::from_secs(1);
/// A hint beyond this is taken for a mistake: nobody plans further ahead by a header.
pub const LONGEST_HINT: Duration = Duration::from_secs(24 * 60 * 60);

const MINUTE: Duration = Duration::from_secs(60);
const DAY_PAUSE: Duration = Duration::from_secs(60 * 60);
/// A trial of which nobody has said anything for so long is nobody's any more.
const TRIAL_LOST: Duration = Duration::from_secs(3);

/// Tokens and requests, which are limited apart from each other.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
struct Amount {
    #[serde(rename = "t")]
    tokens: u64,
    #[serde(rename = "r")]
    requests: u64,
}

impl Amount {
    fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(other.tokens),
            requests: self.requests.saturating_add(other.requests),
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_sub(other.tokens),
            requests: self.requests.saturating_sub(other.requests),
        }
    }

    fn of(self, quota: Quota) -> u64 {
        match quota {
            Quota::Tokens => self.tokens,
            Quota::Requests => self.requests,
        }
    }
}

/// The charges of one lane and what was learned of its quota. Time never runs backwards in it: an earlier `now` is taken
/// as the latest it has seen.
#[derive(Clone, Debug)]
pub struct LaneLedger {
    terms: Terms,
    book: Book,
}

impl Serialize for LaneLedger {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.book.serialize(serializer)
    }
}

impl LaneLedger {
    /// An empty ledger.
    pub fn new(terms: Terms) -> Self {
        Self { terms, book: Book::default() }
    }

    /// Takes over what another worker has written.
    ///
    /// # Errors
    /// The text is no ledger of this version.
    pub fn load(&mut self, shared: &str) -> serde_json::Result<()> {
        self.book = serde_json::from_str(shared)?;
        Ok(())
    }

    /// The quotas as told.
    pub fn limits(&self) -> Limits {
        self.terms.limits
    }

    /// The tokens a minute that hold just now: as configured, or as learned.
    pub fn tokens_per_minute(&self) -> Option<u64> {
        self.minute_limits().0
    }

    /// Whether there is any quota to keep account of.
    pub fn has_limits(&self) -> bool {
        self.minute_limits() != (None, None) || self.terms.limits.tokens_per_day.is_some()
    }

    /// The counting in force: of those that stand, the most permissive decides.
    pub fn standing(&self) -> Vec<Hypothesis> {
        match self.terms.counting {
            Counting::Known(hypothesis) => vec![hypothesis],
            Counting::Learn => self.book.beliefs.standing().collect(),
        }
    }

    /// Takes `tokens` and one request, or says why not.
    ///
    /// # Errors
    /// [`Refusal`], with nothing taken.
    pub fn reserve(&mut self, now: Timestamp, tokens: Tokens) -> Result<Reservation, Refusal> {
        let tries = self.decide(now, tokens)?;
        let now = self.book.latest;
        let amount = Amount { tokens: tokens.0, requests: 1 };
        self.charge(now, amount, Amount::default());
        self.note_use(now);
        if self.book.first == First::Wanted {
            self.book.first = First::Out(now);
        }
        if let Some(caution) = &mut self.book.caution {
            caution.count(now);
        }
        let trial = tries.is_some();
        if let Some(tries) = tries {
            self.book.careful = false;
            self.book.trial = Some(Trial { made: now, tries });
        }
        Ok(Reservation { made: now, tokens, trial })
    }

    /// Would [`reserve`](Self::reserve) succeed? Takes nothing.
    ///
    /// # Errors
    /// The [`Refusal`] it would answer.
    pub fn ask(&mut self, now: Timestamp, tokens: Tokens) -> Result<(), Refusal> {
        self.decide(now, tokens).map(|_| ())
    }

    /// Writes down what became of a reservation.
    pub fn apply(&mut self, now: Timestamp, event: &Event) {
        self.advance(now);
        let now = self.book.latest;
        match *event {
            Event::Passed(reservation) => self.admitted(now, &reservation),
            Event::SentLate(reservation, sent) => self.move_to(&reservation, sent),
            Event::Spent(part, sent) => self.spend(&part, sent),
            Event::Returned(part) => self.take_back(&part),
            Event::Settled(reservation, used) => {
                self.admitted(now, &reservation);
                self.book.first = First::Done;
                if self.book.throttles.seen.is_none_or(|seen| reservation.made > seen) {
                    self.book.throttles = Throttles::default();
                }
                self.settle(now, &reservation, used);
                self.hear_witnesses(now);
            }
            Event::Released(reservation) => {
                self.unjudged(&reservation);
                self.release(&reservation);
            }
            Event::Kept(reservation) => self.unjudged(&reservation),
            Event::Throttled(reservation, quota, hint) => self.throttled(now, &reservation, quota, hint),
            Event::DayExhausted(reservation, hint) => {
                self.unjudged(&reservation);
                self.release(&reservation);
                let pause = hint.unwrap_or_default().clamp(DAY_PAUSE, LONGEST_HINT);
                self.pause_until(now.after(pause), Binding::Day);
            }
        }
    }

    /// The tokens charged in the last minute.
    pub fn used(&mut self, now: Timestamp) -> Tokens {
        self.advance(now);
        Tokens(self.book.charges.most_since(self.book.latest - MINUTE).tokens)
    }

    /// The latest moment it has seen, by whichever worker's clock.
    pub fn latest(&self) -> Timestamp {
        self.book.latest
    }
}

/// The last turn of the UTC clock's minute.
fn turn_before(moment: Timestamp) -> Timestamp {
    let minute = i64::try_from(MINUTE.as_millis()).unwrap_or(i64::MAX);
    Timestamp(moment.0.div_euclid(minute).saturating_mul(minute))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
pub(super) mod tests {
    use super::*;

    /// A turn of the clock's minute.
    pub(super) const START: Timestamp = Timestamp(1_800_000_000_000);
    pub(super) const TICK: Duration = Duration::from_millis(1);
    pub(super) const SLIDING: Counting = Counting::Known(Hypothesis::Sliding);

    impl LaneLedger {
        /// Until when the lane is paused whatever is asked, and why.
        pub(super) fn paused_until(&mut self, now: Timestamp) -> Option<(Timestamp, Binding)> {
            self.advance(now);
            self.book.pause.filter(|pause| self.book.latest < pause.until).map(|pause| (pause.until, pause.binding))
        }
    }

    pub(super) fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    pub(super) fn tokens(count: u64) -> Limits {
        Limits { tokens_per_minute: PerMinute::new(count), ..Limits::default() }
    }

    /// A lane whose first call was answered long ago.
    pub(super) fn lane(counting: Counting, limits: Limits) -> LaneLedger {
        lane_with_slack(counting, limits, Duration::ZERO)
    }

    pub(super) fn lane_with_slack(counting: Counting, limits: Limits, slack: Duration) -> LaneLedger {
        let mut lane = LaneLedger::new(Terms { limits, counting, slack, first_alone: true });
        let long_ago = START - secs(600);
        let first = lane.reserve(long_ago, Tokens(0)).unwrap();
        lane.apply(long_ago, &Event::Settled(first, Tokens(0)));
        lane
    }

    pub(super) fn take(lane: &mut LaneLedger, now: Timestamp, tokens: u64) -> Reservation {
        lane.reserve(now, Tokens(tokens)).unwrap()
    }

    /// Makes a call that is answered at once and comes to what was reserved.
    pub(super) fn spend(lane: &mut LaneLedger, now: Timestamp, tokens: u64) {
        let reservation = take(lane, now, tokens);
        lane.apply(now, &Event::Settled(reservation, Tokens(tokens)));
    }

    pub(super) fn refuse(lane: &mut LaneLedger, now: Timestamp, reservation: Reservation) {
        lane.apply(now, &Event::Throttled(reservation, Quota::Tokens, None));
    }

    pub(super) fn held(lane: &mut LaneLedger, now: Timestamp, tokens: u64) -> Option<(Timestamp, Binding)> {
        match lane.ask(now, Tokens(tokens)) {
            Err(Refusal::NotUntil { at, binding }) => Some((at, binding)),
            Err(never @ Refusal::Never { .. }) => unreachable!("{never}"),
            Ok(()) => None,
        }
    }

    /// Refused now until `at`, and refused up to a millisecond before it.
    #[track_caller]
    pub(super) fn assert_opens(lane: &mut LaneLedger, now: Timestamp, tokens: u64, at: Timestamp, binding: Binding) {
        assert_eq!(held(lane, now, tokens), Some((at, binding)));
        assert_eq!(held(lane, at - TICK, tokens), Some((at, binding)));
        assert_eq!(held(lane, at, tokens), None);
    }

    #[test]
    fn q2_two_jobs_cannot_both_take_the_last_tokens() {
        let mut lane = lane(SLIDING, tokens(100));
        spend(&mut lane, START, 60);
        let refused = lane.reserve(START, Tokens(60)).unwrap_err();
        assert_eq!(refused, Refusal::NotUntil { at: START + MINUTE, binding: Binding::Tokens });
        assert_eq!(lane.used(START), Tokens(60));
    }

    #[test]
    fn q3_less_than_reserved_shrinks_the_same_charge() {
        let mut lane = lane(SLIDING, tokens(100));
        let reserved = take(&mut lane, START, 100);
        lane.apply(START + secs(5), &Event::Settled(reserved, Tokens(30)));
        assert_eq!(held(&mut lane, START + secs(5), 70), None);
        assert_opens(&mut lane, START + secs(5), 71, START + MINUTE, Binding::Tokens);
    }

    #[test]
    fn q3_more_than_reserved_is_a_new_charge_and_may_be_a_debt() {
        let mut lane = lane(SLIDING, tokens(100));
        let reserved = take(&mut lane, START, 40);
        lane.apply(START + secs(30), &Event::Settled(reserved, Tokens(150)));
        assert_eq!(lane.used(START + secs(30)), Tokens(150));
        let debt_ends = START + secs(30) + MINUTE;
        assert_eq!(held(&mut lane, START + secs(30), 1), Some((debt_ends, Binding::Tokens)));
        assert_eq!(lane.used(START + MINUTE), Tokens(110));
        assert_opens(&mut lane, START + MINUTE, 1, debt_ends, Binding::Tokens);
        assert_eq!(held(&mut lane, debt_ends, 100), None);
    }

    #[test]
    fn q3_a_charge_that_has_aged_out_gives_nothing_back_and_still_owes_its_excess() {
        let later = START + secs(90);
        let mut lane = lane(SLIDING, tokens(100));
        let (cheap, dear) = (take(&mut lane, START, 50), take(&mut lane, START, 50));
        spend(&mut lane, later, 60);
        lane.apply(later, &Event::Settled(cheap, Tokens(10)));
        assert_eq!(lane.used(later), Tokens(60));
        lane.apply(later, &Event::Settled(dear, Tokens(70)));
        assert_eq!(lane.used(later), Tokens(80));
    }

    #[test]
    fn q4_a_released_reservation_gives_back_tokens_and_request() {
        for hypothesis in Hypothesis::ALL {
            let requests_per_minute = PerMinute::new(1);
            let limits = Limits { requests_per_minute, tokens_per_day: PerDay::new(100), ..tokens(100) };
            let mut lane = lane(Counting::Known(hypothesis), limits);
            let reserved = take(&mut lane, START, 100);
            assert!(held(&mut lane, START, 1).is_some(), "{hypothesis:?}");
            lane.apply(START, &Event::Released(reserved));
            assert_eq!(held(&mut lane, START, 100), None, "{hypothesis:?}");
        }
    }

    #[test]
    fn q4_q5_an_unknown_outcome_stays_charged_until_it_ages_out_without_a_janitor() {
        let mut lane = lane(SLIDING, tokens(100));
        let reserved = take(&mut lane, START, 100);
        lane.apply(START + secs(1), &Event::Kept(reserved));
        assert_opens(&mut lane, START + secs(59), 100, START + MINUTE, Binding::Tokens);
    }

    #[test]
    fn q6_what_is_larger_than_the_quota_is_never_admitted() {
        let limits = Limits { tokens_per_day: PerDay::new(90), ..tokens(100) };
        for counting in Hypothesis::ALL.map(Counting::Known).into_iter().chain([Counting::Learn]) {
            let mut lane = lane(counting, limits);
            let refused = lane.reserve(START, Tokens(91)).unwrap_err();
            assert_eq!(refused, Refusal::Never { needed: Tokens(91), limit: Tokens(90) });
            assert_eq!(lane.used(START), Tokens(0), "{counting:?}");
        }
    }

    #[test]
    fn q7_a_refusal_names_the_gate_that_opens_last() {
        let limits = Limits { requests_per_minute: PerMinute::new(2), ..tokens(100) };
        let mut lane = lane(SLIDING, limits);
        spend(&mut lane, START, 90);
        assert_eq!(held(&mut lane, START, 20), Some((START + MINUTE, Binding::Tokens)));
        spend(&mut lane, START + secs(1), 5);
        assert_opens(&mut lane, START + secs(1), 20, START + MINUTE, Binding::Requests);
    }

    #[test]
    fn q9_the_day_holds_whole_buckets_and_never_admits_too_much() {
        let mut lane = lane(SLIDING, Limits { tokens_per_day: PerDay::new(100), ..Limits::default() });
        let first = take(&mut lane, START + secs(30), 60);
        spend(&mut lane, START + secs(900), 40);
        let first_bucket_ends = START + secs(30 + 600 + 86_400);
        assert_eq!(held(&mut lane, START + secs(901), 60), Some((first_bucket_ends, Binding::Day)));
        lane.apply(START + secs(902), &Event::Settled(first, Tokens(20)));
        assert_eq!(held(&mut lane, START + secs(902), 40), None);
        let second_bucket_ends = START + secs(900 + 600 + 86_400);
        assert_eq!(held(&mut lane, START + secs(902), 61), Some((second_bucket_ends, Binding::Day)));
        assert_opens(&mut lane, START + secs(902), 60, first_bucket_ends, Binding::Day);
        assert_opens(&mut lane, first_bucket_ends, 100, second_bucket_ends, Binding::Day);
    }

    #[test]
    fn q10_a_charge_of_exactly_sixty_seconds_counts_no_more() {
        let mut lane = lane(SLIDING, tokens(100));
        spend(&mut lane, START, 100);
        assert_eq!(lane.used(START + MINUTE - TICK), Tokens(100));
        assert_eq!(lane.used(START + MINUTE), Tokens(0));
    }

    #[test]
    fn time_that_runs_backwards_is_taken_as_the_latest() {
        let mut lane = lane(SLIDING, tokens(100));
        lane.used(START + secs(10));
        assert_eq!(take(&mut lane, START, 100).made, START + secs(10));
        assert_eq!(lane.latest(), START + secs(10));
    }

    #[test]
    fn f9_a_lane_without_limits_admits_whatever_comes() {
        let mut lane = lane(Counting::Learn, Limits::default());
        assert!(!lane.has_limits());
        for _ in 0..1_000 {
            let reserved = take(&mut lane, START, u64::MAX);
            assert!(!reserved.trial);
            lane.apply(START, &Event::Settled(reserved, Tokens(5)));
        }
    }

    #[test]
    fn absurd_numbers_overflow_nothing() {
        let most = u64::MAX;
        for counting in Hypothesis::ALL.map(Counting::Known).into_iter().chain([Counting::Learn]) {
            let mut lane = lane(counting, Limits { tokens_per_day: PerDay::new(most), ..tokens(most) });
            let reserved = take(&mut lane, START, most - 1);
            lane.apply(START, &Event::Settled(reserved, Tokens(most)));
            let reserved = take(&mut lane, START + MINUTE, 0);
            lane.apply(START + MINUTE, &Event::Settled(reserved, Tokens(most)));
            assert_eq!(lane.used(START + MINUTE), Tokens(most));
            let reserved = take(&mut lane, START + 3 * MINUTE, 0);
            lane.apply(Timestamp(i64::MAX), &Event::Throttled(reserved, Quota::Tokens, Some(Duration::MAX)));
            assert_eq!(lane.latest(), Timestamp(i64::MAX), "{counting:?}");
        }
    }

    #[test]
    fn a_call_that_was_sent_late_counts_from_then_on() {
        let sent = START + secs(20);
        for (hypothesis, opens) in [
            (Hypothesis::Sliding, sent + MINUTE),
            (Hypothesis::Fixed, START + MINUTE),
            (Hypothesis::Bucket, sent + MINUTE),
        ] {
            let mut lane = lane(Counting::Known(hypothesis), tokens(100));
            let reserved = take(&mut lane, START, 100);
            lane.apply(sent, &Event::SentLate(reserved, sent));
            assert_opens(&mut lane, sent, 100, opens, Binding::Tokens);
        }
    }

    /// The row holds 64 KiB. A lane with a call every few milliseconds for hours, and a quota of a day, must fit.
    #[test]
    fn the_busiest_lane_fits_into_its_row() {
        let limits = Limits { tokens_per_day: PerDay::new(u64::MAX), ..tokens(1_000_000_000) };
        let mut lane = lane_with_slack(Counting::Learn, limits, secs(1) / 3);
        let (mut now, mut open) = (START, std::collections::VecDeque::new());
        for call in 0..40_000_u64 {
            now = now + if call < 200 { secs(700) } else { 2 * TICK };
            open.push_back(take(&mut lane, now, 12_345));
            if open.len() > 1_000
                && let Some(oldest) = open.pop_front()
            {
                lane.apply(now, &Event::Settled(oldest, Tokens(11_111)));
            }
        }
        let bytes = serde_json::to_string(&lane).unwrap().len();
        assert!((20_000..56_000).contains(&bytes), "{bytes} bytes");
    }

    #[test]
    fn what_another_worker_wrote_is_taken_over_to_the_last_tick() {
        let mut here = lane(Counting::Learn, tokens(1_000));
        let open = take(&mut here, START, 300);
        spend(&mut here, START + secs(2), 400);
        let refused = take(&mut here, START + secs(3), 100);
        refuse(&mut here, START + secs(3), refused);
        let text = serde_json::to_string(&here).unwrap();

        let mut there = LaneLedger::new(Terms {
            limits: tokens(1_000),
            counting: Counting::Learn,
            slack: Duration::ZERO,
            first_alone: true,
        });
        there.load(&text).unwrap();
        assert_eq!(serde_json::to_string(&there).unwrap(), text);
        for lane in [&mut here, &mut there] {
            lane.apply(START + secs(9), &Event::Settled(open, Tokens(40)));
        }
        for size in [0, 10, 100, 500, 900] {
            assert_eq!(held(&mut here, START + secs(9), size), held(&mut there, START + secs(9), size), "{size}");
        }
        assert!(there.load("{\"charges\": 3}").is_err());
        assert_eq!(there.latest(), START + secs(9), "what cannot be read changes nothing");
    }
}

//! Would the service admit this call, and what does it charge in the end?
//!
//! Bedrock's quota arithmetic, written a second time and apart from the pacer's rules, so that a wrong rule
//! cannot agree with itself. Pure: the time is an argument, counted from the start of the simulator. The service
//! does not say how it counts a minute, so all three ways that fit what has been observed are here.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Deserialize;

/// How a period is counted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Counting {
    /// A token bucket that starts full, holds one period's quota and refills evenly.
    #[default]
    Bucket,
    /// What was charged in the period up to now; a charge counts for `[made, made + period)`.
    Sliding,
    /// Whole periods one after the other, each with the whole quota.
    Fixed,
}

/// What becomes of a settlement above its reservation.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Excess {
    /// The old entry grows.
    #[default]
    Amend,
    /// The excess is a new entry at settlement time.
    Append,
}

/// Which quota refused a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refusal {
    /// Requests a minute.
    Requests,
    /// Tokens a minute.
    Tokens,
    /// Tokens a day, of the model or of the account.
    Day,
}

/// The input of a call, as the prompt cache splits it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Split {
    pub(super) fresh: u64,
    pub(super) cache_read: u64,
    pub(super) cache_write: u64,
}

impl Split {
    /// What is deducted before the call: `max_tokens` one to one, never times burndown.
    pub(super) fn reservation(self, max_tokens: u64, cache_reads_count: bool) -> u64 {
        let reads = if cache_reads_count { self.cache_read } else { 0 };
        self.fresh.saturating_add(self.cache_write).saturating_add(reads).saturating_add(max_tokens)
    }

    /// What the call has cost in the end; cache reads are free.
    pub(super) fn settlement(self, output: u64, burndown: u64) -> u64 {
        self.fresh.saturating_add(self.cache_write).saturating_add(output.saturating_mul(burndown))
    }
}

/// One quota over one period.
#[derive(Debug)]
pub(super) struct Window {
    limit: u64,
    period: Duration,
    state: State,
}

#[derive(Debug)]
enum State {
    /// `level` is in units times nanoseconds of the period, so that the refill is exact.
    Bucket {
        level: i128,
        at: Duration,
    },
    Sliding {
        entries: VecDeque<Entry>,
        total: u64,
        next: u64,
    },
    Fixed {
        offset: Duration,
        index: u64,
        used: u64,
    },
}

#[derive(Debug)]
struct Entry {
    id: u64,
    made: Duration,
    amount: u64,
}

/// Where a charge stands in its window.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Mark(u64);

impl Window {
    /// `offset` is how far the first fixed period has already run at time zero.
    pub(super) fn new(limit: u64, period: Duration, counting: Counting, offset: Duration) -> Self {
        let state = match counting {
            Counting::Bucket => State::Bucket { level: full(limit, period), at: Duration::ZERO },
            Counting::Sliding => State::Sliding { entries: VecDeque::new(), total: 0, next: 0 },
            Counting::Fixed => State::Fixed { offset, index: 0, used: 0 },
        };
        Self { limit, period, state }
    }

    /// Whether `amount` more would still be within the quota.
    pub(super) fn fits(&mut self, now: Duration, amount: u64) -> bool {
        self.advance(now);
        match &self.state {
            State::Bucket { level, .. } => *level >= full(amount, self.period),
            State::Sliding { total, .. } => total.saturating_add(amount) <= self.limit,
            State::Fixed { used, .. } => used.saturating_add(amount) <= self.limit,
        }
    }

    /// Charges without asking.
    pub(super) fn charge(&mut self, now: Duration, amount: u64) -> Mark {
        self.advance(now);
        match &mut self.state {
            State::Bucket { level, .. } => {
                *level -= full(amount, self.period);
                Mark(0)
            }
            State::Sliding { entries, total, next } => {
                let id = *next;
                *next += 1;
                *total = total.saturating_add(amount);
                entries.push_back(Entry { id, made: now, amount });
                Mark(id)
            }
            State::Fixed { index, used, .. } => {
                *used = used.saturating_add(amount);
                Mark(*index)
            }
        }
    }

    /// Replaces a charge of `reserved` by `settled`. What has left the window is not brought back: neither a
    /// refund nor an amendment reaches it; appended excess always counts now.
    pub(super) fn settle(&mut self, now: Duration, mark: Mark, reserved: u64, settled: u64, excess: Excess) {
        self.advance(now);
        if settled > reserved && excess == Excess::Append {
            self.charge(now, settled - reserved);
            return;
        }
        let most = full(self.limit, self.period);
        match &mut self.state {
            State::Bucket { level, .. } => {
                *level = (*level + full(reserved, self.period) - full(settled, self.period)).min(most);
            }
            State::Sliding { entries, total, .. } => {
                if let Ok(place) = entries.binary_search_by_key(&mark.0, |entry| entry.id) {
                    *total = total.saturating_sub(entries[place].amount).saturating_add(settled);
                    entries[place].amount = settled;
                }
            }
            State::Fixed { index, used, .. } => {
                if *index == mark.0 {
                    *used = used.saturating_sub(reserved).saturating_add(settled);
                }
            }
        }
    }

    /// Another limit from now on: what was charged stays charged, and a bucket spills what it can no longer hold.
    pub(super) fn limit_to(&mut self, now: Duration, limit: u64) {
        self.advance(now);
        self.limit = limit;
        if let State::Bucket { level, .. } = &mut self.state {
            *level = (*level).min(full(limit, self.period));
        }
    }

    fn advance(&mut self, now: Duration) {
        match &mut self.state {
            State::Bucket { level, at } => {
                let passed = i128::try_from(now.saturating_sub(*at).as_nanos()).unwrap_or(i128::MAX);
                let refill = passed.saturating_mul(i128::from(self.limit));
                *level = level.saturating_add(refill).min(full(self.limit, self.period));
                *at = now.max(*at);
            }
            State::Sliding { entries, total, .. } => {
                while let Some(oldest) = entries.front().filter(|entry| entry.made + self.period <= now) {
                    *total = total.saturating_sub(oldest.amount);
                    entries.pop_front();
                }
            }
            State::Fixed { offset, index, used } => {
                let current = (now + *offset).as_nanos() / self.period.as_nanos().max(1);
                let current = u64::try_from(current).unwrap_or(u64::MAX);
                if current != *index {
                    (*index, *used) = (current, 0);
                }
            }
        }
    }
}

fn full(units: u64, period: Duration) -> i128 {
    i128::from(units).saturating_mul(i128::try_from(period.as_nanos()).unwrap_or(i128::MAX))
}

/// The quotas of one model; each stands alone.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) requests: Option<Window>,
    pub(super) minute: Option<Window>,
    pub(super) day: Option<Window>,
}

/// What an admitted call holds until it is settled.
#[derive(Debug, Default)]
pub(super) struct Reservation {
    amount: u64,
    minute: Option<Mark>,
    day: Option<Mark>,
    account: Option<Mark>,
}

impl Ledger {
    /// All quotas agree or nothing is charged: a refused call costs nothing.
    ///
    /// # Errors
    /// Which quota refused; requests are asked first, then the minute, then the days.
    pub(super) fn admit(
        &mut self,
        account: Option<&mut Window>,
        now: Duration,
        amount: u64,
    ) -> Result<Reservation, Refusal> {
        let mut account = account;
        let fits = |window: Option<&mut Window>, units| window.is_none_or(|window| window.fits(now, units));
        if !fits(self.requests.as_mut(), 1) {
            return Err(Refusal::Requests);
        }
        if !fits(self.minute.as_mut(), amount) {
            return Err(Refusal::Tokens);
        }
        if !fits(self.day.as_mut(), amount) || !fits(account.as_deref_mut(), amount) {
            return Err(Refusal::Day);
        }
        let charge = |window: Option<&mut Window>, units| window.map(|window| window.charge(now, units));
        charge(self.requests.as_mut(), 1);
        Ok(Reservation {
            amount,
            minute: charge(self.minute.as_mut(), amount),
            day: charge(self.day.as_mut(), amount),
            account: charge(account, amount),
        })
    }

    /// Charges what nobody asked for; the account's own cap is not concerned.
    pub(super) fn charge(&mut self, now: Duration, tokens: u64, requests: u64) {
        let quotas = [(&mut self.requests, requests), (&mut self.minute, tokens), (&mut self.day, tokens)];
        for (window, amount) in quotas {
            if let Some(window) = window.as_mut().filter(|_| amount > 0) {
                window.charge(now, amount);
            }
        }
    }

    /// The call is over and has cost `settled` tokens of quota.
    pub(super) fn settle(
        &mut self,
        account: Option<&mut Window>,
        now: Duration,
        reservation: &Reservation,
        settled: u64,
        excess: Excess,
    ) {
        let held = [
            (self.minute.as_mut(), reservation.minute),
            (self.day.as_mut(), reservation.day),
            (account, reservation.account),
        ];
        for (window, mark) in held {
            if let (Some(window), Some(mark)) = (window, mark) {
                window.settle(now, mark, reservation.amount, settled, excess);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that panics has failed")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const ALL: [Counting; 3] = [Counting::Bucket, Counting::Sliding, Counting::Fixed];

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn window(limit: u64, counting: Counting) -> Window {
        Window::new(limit, MINUTE, counting, Duration::ZERO)
    }

    fn ledger(limit: u64, counting: Counting) -> Ledger {
        Ledger { minute: Some(window(limit, counting)), ..Ledger::default() }
    }

    /// How much could be charged at this moment.
    fn room(window: &mut Window, now: Duration) -> u64 {
        let (mut low, mut high) = (0, window.limit);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if window.fits(now, middle) { low = middle } else { high = middle - 1 }
        }
        low
    }

    #[test]
    fn the_services_worked_examples_reserve_and_settle_as_documented() {
        let split = Split { fresh: 3_000, cache_read: 4_000, cache_write: 1_000 };
        // max_tokens, reservation, burndown, settlement
        for (max_tokens, reserved, burndown, settled) in [
            (32_000, 36_000, 5, 9_000),
            (1_250, 5_250, 5, 9_000),
            (1_250, 5_250, 10, 14_000),
            (1_250, 5_250, 15, 19_000),
        ] {
            assert_eq!(split.reservation(max_tokens, false), reserved, "max_tokens {max_tokens}");
            assert_eq!(split.reservation(max_tokens, true), reserved + 4_000, "max_tokens {max_tokens}");
            assert_eq!(split.settlement(1_000, burndown), settled, "burndown {burndown}");
        }
        assert_eq!(Split { fresh: 1_000, ..Split::default() }.settlement(100, 5), 1_500);
    }

    #[test]
    fn q3_a_settlement_below_the_reservation_gives_the_rest_back_at_once() {
        for counting in ALL {
            let mut ledger = ledger(40_000, counting);
            let held = ledger.admit(None, at(1.0), 36_000).unwrap();
            assert_eq!(ledger.admit(None, at(1.0), 36_000).unwrap_err(), Refusal::Tokens, "{counting:?}");
            ledger.settle(None, at(1.0), &held, 9_000, Excess::Append);
            assert_eq!(room(ledger.minute.as_mut().unwrap(), at(1.0)), 31_000, "{counting:?}");
        }
    }

    #[test]
    fn q3_a_settlement_above_the_reservation_may_put_the_quota_in_debt() {
        for counting in ALL {
            for excess in [Excess::Amend, Excess::Append] {
                let mut ledger = ledger(6_000, counting);
                let held = ledger.admit(None, at(1.0), 5_250).unwrap();
                ledger.settle(None, at(2.0), &held, 9_000, excess);
                let refused = ledger.admit(None, at(2.0), 1).unwrap_err();
                assert_eq!(refused, Refusal::Tokens, "{counting:?} {excess:?}");
            }
        }
    }

    #[test]
    fn an_amended_excess_leaves_with_its_call_and_an_appended_one_counts_from_settlement() {
        // counting, excess, settled at, asked at, room
        for (counting, excess, settled, asked, expected) in [
            (Counting::Sliding, Excess::Amend, 30.0, 59.9, 1_000),
            (Counting::Sliding, Excess::Amend, 30.0, 60.0, 10_000),
            (Counting::Sliding, Excess::Append, 30.0, 60.0, 6_250),
            (Counting::Sliding, Excess::Append, 30.0, 89.9, 6_250),
            (Counting::Sliding, Excess::Append, 30.0, 90.0, 10_000),
            (Counting::Fixed, Excess::Amend, 30.0, 59.9, 1_000),
            (Counting::Fixed, Excess::Append, 30.0, 60.0, 10_000),
            (Counting::Fixed, Excess::Amend, 70.0, 71.0, 10_000),
            (Counting::Fixed, Excess::Append, 70.0, 71.0, 6_250),
            // 4,750 left, 5,000 refilled by 30 s, 3,750 of excess, 1,000 refilled by 36 s.
            (Counting::Bucket, Excess::Amend, 30.0, 36.0, 7_000),
            (Counting::Bucket, Excess::Append, 30.0, 36.0, 7_000),
        ] {
            let mut window = window(10_000, counting);
            let mark = window.charge(at(0.0), 5_250);
            window.settle(at(settled), mark, 5_250, 9_000, excess);
            assert_eq!(room(&mut window, at(asked)), expected, "{counting:?} {excess:?} at {asked}");
        }
    }

    #[test]
    fn q10_a_charge_aged_exactly_a_minute_no_longer_counts() {
        let mut window = window(100, Counting::Sliding);
        window.charge(at(5.0), 100);
        assert!(!window.fits(at(65.0) - Duration::from_nanos(1), 1));
        assert!(window.fits(at(65.0), 100));
    }

    #[test]
    fn fixed_minutes_turn_at_their_offset() {
        let mut window = Window::new(100, MINUTE, Counting::Fixed, at(5.0));
        window.charge(at(54.0), 100);
        assert!(!window.fits(at(54.999), 1));
        assert!(window.fits(at(55.0), 100));
    }

    #[test]
    fn a_bucket_never_holds_more_than_a_minute_however_late_the_refund() {
        let mut window = window(100, Counting::Bucket);
        let mark = window.charge(at(0.0), 100);
        window.settle(at(600.0), mark, 100, 0, Excess::Amend);
        assert_eq!(room(&mut window, at(600.0)), 100);
    }

    #[test]
    fn a_limit_that_changes_keeps_what_was_charged() {
        // counting, new limit, room at 30 s, room at 36 s; 800 of 1,000 were charged at 0 s.
        for (counting, limit, at_once, later) in [
            (Counting::Bucket, 2_000, 700, 900),
            (Counting::Bucket, 500, 500, 500),
            (Counting::Bucket, 600, 600, 600),
            (Counting::Sliding, 2_000, 1_200, 1_200),
            (Counting::Sliding, 500, 0, 0),
            (Counting::Fixed, 2_000, 1_200, 1_200),
            (Counting::Fixed, 500, 0, 0),
        ] {
            let mut window = window(1_000, counting);
            window.charge(at(0.0), 800);
            window.limit_to(at(30.0), limit);
            let rooms = (room(&mut window, at(30.0)), room(&mut window, at(36.0)));
            assert_eq!(rooms, (at_once, later), "{counting:?} to {limit}");
        }
    }

    #[test]
    fn what_is_charged_unasked_may_put_every_quota_in_debt() {
        for counting in ALL {
            let mut ledger = Ledger { requests: Some(window(1, counting)), ..ledger(100, counting) };
            ledger.charge(at(0.0), 150, 0);
            assert_eq!(ledger.admit(None, at(0.0), 1).unwrap_err(), Refusal::Tokens, "{counting:?}");
            ledger.charge(at(0.0), 0, 2);
            assert_eq!(ledger.admit(None, at(0.0), 1).unwrap_err(), Refusal::Requests, "{counting:?}");
        }
    }

    #[test]
    fn f9_each_quota_stands_alone_and_a_refusal_by_one_costs_the_others_nothing() {
        let quota = |limit| Some(window(limit, Counting::Sliding));
        let mut ledger = Ledger { requests: quota(2), minute: quota(100), day: quota(500) };
        let mut account = window(150, Counting::Sliding);
        assert_eq!(ledger.admit(Some(&mut account), at(0.0), 101).unwrap_err(), Refusal::Tokens);
        assert!(ledger.admit(Some(&mut account), at(0.0), 100).is_ok());
        account.charge(at(0.0), 50);
        ledger.minute = None;
        assert_eq!(ledger.admit(Some(&mut account), at(0.0), 1).unwrap_err(), Refusal::Day);
        assert!(ledger.admit(None, at(0.0), 1).is_ok(), "the refusals above used up no request");
        assert_eq!(ledger.admit(None, at(0.0), 1).unwrap_err(), Refusal::Requests);
    }

    proptest! {
        /// What is admitted, judged afterwards from the list of admissions alone.
        #[test]
        fn q1_admitted_charges_never_exceed_what_the_counting_permits(
            steps in prop::collection::vec((0u64..20_000, 1u64..700), 1..200),
            kind in 0usize..3,
        ) {
            const LIMIT: u64 = 1_000;
            let mut ledger = ledger(LIMIT, ALL[kind]);
            let mut now = Duration::ZERO;
            let mut admitted: Vec<(Duration, u64)> = Vec::new();
            for (wait, amount) in steps {
                now += Duration::from_millis(wait);
                if ledger.admit(None, now, amount).is_ok() {
                    admitted.push((now, amount));
                }
            }
            prop_assert!(!admitted.is_empty());
            for (first, &(from, _)) in admitted.iter().enumerate() {
                let mut sum = 0u128;
                for &(made, amount) in &admitted[first..] {
                    sum += u128::from(amount);
                    let span = made - from;
                    match ALL[kind] {
                        Counting::Sliding => prop_assert!(span >= MINUTE || sum <= u128::from(LIMIT)),
                        Counting::Fixed => prop_assert!(
                            made.as_secs() / 60 != from.as_secs() / 60 || sum <= u128::from(LIMIT)
                        ),
                        Counting::Bucket => prop_assert!(
                            sum * 60_000 <= u128::from(LIMIT) * (60_000 + span.as_millis())
                        ),
                    }
                }
            }
        }

        /// A refusal is never wrong either: it is what the same list of admissions forbids.
        #[test]
        fn a_call_is_refused_only_when_the_counting_forbids_it(
            steps in prop::collection::vec((0u64..20_000, 1u64..700), 1..200),
            fixed in any::<bool>(),
        ) {
            let counting = if fixed { Counting::Fixed } else { Counting::Sliding };
            let mut ledger = ledger(1_000, counting);
            let mut now = Duration::ZERO;
            let mut admitted: Vec<(Duration, u64)> = Vec::new();
            for (wait, amount) in steps {
                now += Duration::from_millis(wait);
                let counted: u64 = admitted
                    .iter()
                    .filter(|(made, _)| if fixed {
                        made.as_secs() / 60 == now.as_secs() / 60
                    } else {
                        now - *made < MINUTE
                    })
                    .map(|(_, amount)| amount)
                    .sum();
                let ok = ledger.admit(None, now, amount).is_ok();
                prop_assert_eq!(ok, counted + amount <= 1_000);
                if ok {
                    admitted.push((now, amount));
                }
            }
        }
    }
}

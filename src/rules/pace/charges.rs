//! What was charged in the last minute, and when will there be room? The charges under the sliding and the fixed
//! counting; both look at the same list.
//!
//! A charge has two amounts. `most` is what the service may count for it: the whole reservation until the call is
//! settled, and what it came to from then on. `least` is what the service certainly counts: nothing before the
//! settlement. Pacing goes by `most`; `least` is for judging whether a counting is too strict.
//!
//! Charges made within a tenth of a second are kept as one, which counts from the first to the last of them: less than a
//! thousand entries hold all that is kept, however many calls there were.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::flow::per_minute;
use super::{Amount, MINUTE};
use crate::job::units::Timestamp;

/// Charges closer together than this are one entry.
const GRAIN: Duration = Duration::from_millis(100);

/// The charges of the last minute and a little more, oldest first.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct Charges {
    entries: VecDeque<Entry>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(from = "Packed", into = "Packed")]
struct Entry {
    first: Timestamp,
    last: Timestamp,
    most: Amount,
    least: Amount,
}

/// Names would be most of the row that workers share.
type Packed = (Timestamp, Timestamp, [u64; 2], [u64; 2]);

impl From<Packed> for Entry {
    fn from((first, last, most, least): Packed) -> Self {
        let amount = |[tokens, requests]: [u64; 2]| Amount { tokens, requests };
        Self { first, last, most: amount(most), least: amount(least) }
    }
}

impl From<Entry> for Packed {
    fn from(entry: Entry) -> Self {
        let packed = |amount: Amount| [amount.tokens, amount.requests];
        (entry.first, entry.last, packed(entry.most), packed(entry.least))
    }
}

impl Charges {
    /// Drops what is older than `horizon`.
    pub(super) fn expire(&mut self, now: Timestamp, horizon: Duration) {
        while self.entries.front().is_some_and(|oldest| oldest.last.after(horizon) <= now) {
            self.entries.pop_front();
        }
    }

    /// Adds a charge made at `at`, also one that is older than the newest: a call may have been sent late, and another
    /// worker have reserved meanwhile.
    pub(super) fn add(&mut self, at: Timestamp, most: Amount, least: Amount) {
        let entry = match self.entries.back_mut() {
            Some(newest) if at < newest.first => {
                let place = self.entries.partition_point(|entry| entry.last < at);
                let falls_in = self.entries.get(place).is_some_and(|entry| entry.first <= at);
                let before = place.checked_sub(1).filter(|_| !falls_in);
                let before =
                    before.filter(|before| self.entries.get(*before).is_some_and(|e| at < e.first.after(GRAIN)));
                let joins = if falls_in { Some(place) } else { before };
                let Some(entry) = joins.and_then(|place| self.entries.get_mut(place)) else {
                    self.entries.insert(place, Entry { first: at, last: at, most, least });
                    return;
                };
                entry.last = entry.last.max(at);
                entry
            }
            Some(newest) if at < newest.first.after(GRAIN) => {
                newest.last = newest.last.max(at);
                newest
            }
            Some(_) | None => {
                self.entries.push_back(Entry { first: at, last: at, most, least });
                return;
            }
        };
        entry.most = entry.most.plus(most);
        entry.least = entry.least.plus(least);
    }

    /// Takes from the charge made at `at`; one that is no longer kept holds nothing that could be given back.
    pub(super) fn take(&mut self, at: Timestamp, most: Amount) {
        if let Some(entry) = self.find(at) {
            entry.most = entry.most.minus(most);
        }
    }

    /// So much of the charge made at `at` is certain now.
    pub(super) fn settle(&mut self, at: Timestamp, least: Amount) {
        if let Some(entry) = self.find(at) {
            entry.least = entry.least.plus(least);
        }
    }

    /// When the newest charge was made.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        self.entries.back().map(|entry| entry.last)
    }

    /// When the oldest charge that is kept was made.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.entries.front().map(|entry| entry.first)
    }

    /// How many calls made after `since` are not settled, and when the newest of them were made.
    pub(super) fn unsettled_since(&self, since: Timestamp) -> (u64, Option<Timestamp>) {
        let young = self.entries.iter().rev().take_while(|entry| entry.last > since);
        let open = young.map(|entry| (entry.most.requests.saturating_sub(entry.least.requests), entry.last));
        open.filter(|(calls, _)| *calls > 0)
            .fold((0, None), |(sum, newest), (calls, last)| (sum + calls, newest.or(Some(last))))
    }

    /// What may count of all that was charged after `since`.
    pub(super) fn most_since(&self, since: Timestamp) -> Amount {
        self.entries
            .iter()
            .rev()
            .take_while(|entry| entry.last > since)
            .fold(Amount::default(), |sum, e| sum.plus(e.most))
    }

    /// What may count of all that was charged at `since` or later.
    pub(super) fn most_from(&self, since: Timestamp) -> Amount {
        let young = self.entries.iter().rev().take_while(|entry| entry.last >= since);
        young.fold(Amount::default(), |sum, entry| sum.plus(entry.most))
    }

    /// What a bucket that was full at any moment from `since` on may lack now, of all that was charged from then on: `drains` says
    /// how much it has taken in over a time.
    pub(super) fn most_owed_since(
        &self,
        since: Timestamp,
        now: Timestamp,
        of: impl Fn(Amount) -> u64,
        drains: impl Fn(Duration) -> u64,
    ) -> u64 {
        let (mut charged, mut most) = (0_u64, 0);
        for entry in self.entries.iter().rev().take_while(|entry| entry.last >= since) {
            charged = charged.saturating_add(of(entry.most));
            most = charged.saturating_sub(drains(now.since(entry.last))).max(most);
        }
        most
    }

    /// What may count of all that was charged after `since` and up to `until`.
    pub(super) fn most_between(&self, since: Timestamp, until: Timestamp) -> Amount {
        let within = self.entries.iter().filter(|entry| entry.last > since && entry.first <= until);
        within.fold(Amount::default(), |sum, entry| sum.plus(entry.most))
    }

    /// What a bucket holds at least that let all of the last minute through up to `until`: what flowed in meanwhile was never in it
    /// at once.
    pub(super) fn held_until(&self, until: Timestamp, of: impl Fn(Amount) -> u64) -> u64 {
        let (mut charged, mut most) = (0_u64, 0);
        let before = self.entries.iter().rev().skip_while(|entry| entry.first > until);
        for entry in before.take_while(|entry| entry.last > until - MINUTE) {
            charged = charged.saturating_add(of(entry.most));
            most = per_minute(charged, MINUTE + until.since(entry.first)).unwrap_or(charged).max(most);
        }
        most
    }

    /// What certainly counts of all that was charged at `since` or later and up to `until`.
    pub(super) fn least_between(&self, since: Timestamp, until: Timestamp) -> Amount {
        let within = self.entries.iter().filter(|entry| entry.first >= since && entry.last <= until);
        within.fold(Amount::default(), |sum, entry| sum.plus(entry.least))
    }

    /// When so much has left the window of a minute and `slack` that no more than `room` is in it; `None` if that is so
    /// now. `of` picks the amount that counts.
    pub(super) fn down_to(
        &self,
        now: Timestamp,
        slack: Duration,
        room: u64,
        of: impl Fn(Amount) -> u64,
    ) -> Option<Timestamp> {
        let window = MINUTE + slack;
        let mut kept = 0_u64;
        for entry in self.entries.iter().rev() {
            let leaves = entry.last.after(window);
            if leaves <= now {
                return None;
            }
            kept = kept.saturating_add(of(entry.most));
            if kept > room {
                return Some(leaves);
            }
        }
        None
    }

    fn find(&mut self, at: Timestamp) -> Option<&mut Entry> {
        let place = self.entries.partition_point(|entry| entry.last < at);
        self.entries.get_mut(place).filter(|entry| entry.first <= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp(1_800_000_000_000 + millis)
    }

    fn tokens(tokens: u64) -> Amount {
        Amount { tokens, requests: 1 }
    }

    fn add(charges: &mut Charges, millis: i64, amount: u64) {
        charges.add(at(millis), tokens(amount), Amount::default());
    }

    #[test]
    fn charges_within_a_tenth_of_a_second_are_one_entry_which_leaves_with_its_last() {
        let mut charges = Charges::default();
        for millis in [0, 40, 99, 100] {
            add(&mut charges, millis, 10);
        }
        assert_eq!(charges.entries.len(), 2);
        let leaves = |room| charges.down_to(at(200), Duration::ZERO, room, |amount| amount.tokens);
        assert_eq!(
            [leaves(40), leaves(39), leaves(10), leaves(9)],
            [None, Some(at(60_099)), Some(at(60_099)), Some(at(60_100))]
        );
    }

    #[test]
    fn any_minute_is_held_by_some_six_hundred_entries() {
        let mut charges = Charges::default();
        for millis in 0..120_000 {
            add(&mut charges, millis, 1);
            charges.expire(at(millis), MINUTE);
        }
        assert!(charges.entries.len() <= 602, "{}", charges.entries.len());
        assert_eq!(charges.most_since(at(119_999) - MINUTE).tokens, 60_000);
    }

    #[test]
    fn what_is_taken_is_taken_from_its_own_entry_and_never_from_another() {
        let mut charges = Charges::default();
        add(&mut charges, 0, 10);
        add(&mut charges, 500, 20);
        charges.take(at(500), tokens(5));
        charges.take(at(200), tokens(5));
        charges.take(at(0), tokens(100));
        assert_eq!(charges.most_since(at(-1)), Amount { tokens: 15, requests: 0 });
        assert_eq!(charges.most_since(at(0)), Amount { tokens: 15, requests: 0 });
        assert_eq!(charges.most_between(at(-1), at(499)), Amount::default());
    }

    #[test]
    fn a_late_charge_joins_the_entry_of_its_time() {
        let mut charges = Charges::default();
        add(&mut charges, 0, 10);
        add(&mut charges, 50, 10);
        add(&mut charges, 700, 10);
        add(&mut charges, 30, 5);
        assert_eq!(charges.most_between(at(-1), at(100)).tokens, 25);
    }

    /// The premise: with eight workers on one row, a call that was sent late was moved to a moment between two charges of
    /// others, and counted no more.
    #[test]
    fn a_charge_that_falls_between_two_others_is_not_lost() {
        let mut charges = Charges::default();
        add(&mut charges, 0, 10);
        add(&mut charges, 700, 10);
        add(&mut charges, 300, 5);
        assert_eq!(charges.most_between(at(-1), at(800)).tokens, 25);
        assert_eq!(charges.most_between(at(200), at(400)).tokens, 5);
        charges.take(at(300), tokens(5));
        assert_eq!(charges.most_between(at(200), at(400)).tokens, 0);
    }

    #[test]
    fn only_what_was_settled_is_certain() {
        let mut charges = Charges::default();
        add(&mut charges, 0, 100);
        assert_eq!(charges.least_between(at(0), at(9)), Amount::default());
        charges.settle(at(0), tokens(30));
        assert_eq!(charges.least_between(at(0), at(9)), tokens(30));
        assert_eq!(charges.least_between(at(1), at(9)), Amount::default(), "an entry counts from its first charge on");
    }
}

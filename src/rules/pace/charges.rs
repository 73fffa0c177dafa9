//! What was charged in the last minute, and when will there be room? The charges under the sliding and the fixed
//! counting; both look at the same list.
//!
//! A charge has two amounts. `most` is what the service may count for it: the whole reservation until the call is
//! settled, and what it came to from then on. `least` is what the service certainly counts: nothing before the
//! settlement. Pacing goes by `most`; `least` is for judging whether a counting is too strict.
//!
//! Charges made within a tenth of a second are kept as one, which counts from the first to the last of them: some
//! six hundred entries hold any minute, however many calls it has.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Amount, MINUTE};
use crate::job::units::Timestamp;

/// Charges closer together than this are one entry.
const GRAIN: Duration = Duration::from_millis(100);

/// The charges of the last minute and a little more, oldest first.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct Charges {
    entries: VecDeque<Entry>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Entry {
    #[serde(rename = "f")]
    first: Timestamp,
    #[serde(rename = "l")]
    last: Timestamp,
    #[serde(rename = "m")]
    most: Amount,
    #[serde(rename = "s")]
    least: Amount,
}

impl Charges {
    /// Drops what is older than `horizon`.
    pub(super) fn expire(&mut self, now: Timestamp, horizon: Duration) {
        while self.entries.front().is_some_and(|oldest| oldest.last.after(horizon) <= now) {
            self.entries.pop_front();
        }
    }

    /// Adds a charge made at `at`. A charge older than the newest joins the entry of its time, if that is still kept.
    pub(super) fn add(&mut self, at: Timestamp, most: Amount, least: Amount) {
        let entry = match self.entries.back_mut() {
            Some(newest) if at < newest.first => match self.find(at) {
                Some(entry) => entry,
                None => return,
            },
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

    /// What may count of all that was charged after `since`.
    pub(super) fn most_since(&self, since: Timestamp) -> Amount {
        self.entries
            .iter()
            .rev()
            .take_while(|entry| entry.last > since)
            .fold(Amount::default(), |sum, e| sum.plus(e.most))
    }

    /// What may count of all that was charged after `since` and up to `until`.
    pub(super) fn most_between(&self, since: Timestamp, until: Timestamp) -> Amount {
        let within = self.entries.iter().filter(|entry| entry.last > since && entry.first <= until);
        within.fold(Amount::default(), |sum, entry| sum.plus(entry.most))
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

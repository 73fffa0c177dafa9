//! How long is a lane left alone after a job has left it with a failure?
//!
//! A window by class that doubles while failures repeat, so that a service which is away for an hour is not asked
//! every half minute, and starts afresh with one success. Calls that were on their way when the first failure of a
//! row was seen tell nothing new: fifty calls that fail together are one failure. A stamp never moves back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::job::failure::Class;
use crate::job::units::Timestamp;

/// No window grows beyond this, unless its base is longer.
const LONGEST: Duration = Duration::from_secs(10 * 60);

/// The cool-down of one lane.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct CoolDown {
    in_a_row: u32,
    stamp: Option<Stamp>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
struct Stamp {
    made: Timestamp,
    until: Timestamp,
}

impl CoolDown {
    /// A lane that never failed.
    pub fn new() -> Self {
        Self::default()
    }

    /// A job has left the lane with a failure of `class`; the call was sent at `sent` and failed at `failed`, from when the
    /// window counts. `base` is the first window. Nothing happens if the class cools nothing.
    pub fn stamp(&mut self, sent: Timestamp, failed: Timestamp, class: Class, base: Duration) {
        if !cools(class) {
            return;
        }
        let is_news = self.stamp.is_none_or(|stamp| stamp.made < sent);
        if is_news {
            self.in_a_row = self.in_a_row.saturating_add(1);
        }
        let until = (failed + window(base, self.in_a_row)).max(self.available_at(failed));
        let made = self.stamp.filter(|_| !is_news).map_or(failed, |stamp| stamp.made);
        self.stamp = Some(Stamp { made, until });
    }

    /// A call on the lane was answered: the next failure starts with the first window again. What is stamped stays.
    pub fn succeeded(&mut self) {
        self.in_a_row = 0;
    }

    /// When the lane may be used; `now` or earlier means it may at once.
    pub fn available_at(&self, now: Timestamp) -> Timestamp {
        self.stamp.map_or(now, |stamp| stamp.until)
    }

    /// Whether it may be used at `now`: also at the very end of the window.
    pub fn is_available(&self, now: Timestamp) -> bool {
        self.available_at(now) <= now
    }
}

/// Only what says that another call would fare no better just now.
const fn cools(class: Class) -> bool {
    match class {
        Class::Overloaded | Class::Unavailable | Class::Timeout => true,
        // A quota pauses the lane through its ledger; a denied lane is out.
        Class::QuotaMinute
        | Class::QuotaDay
        | Class::ModelError
        | Class::Empty
        | Class::Invalid
        | Class::Denied
        | Class::Credentials
        | Class::Unknown
        | Class::BadInput
        | Class::IdConflict
        | Class::TooLarge
        | Class::OverBudget
        | Class::Residency
        | Class::NoText
        | Class::Expired
        | Class::Poison
        | Class::LostLease
        | Class::Shutdown => false,
    }
}

/// `base`, doubled for every failure after the first.
fn window(base: Duration, in_a_row: u32) -> Duration {
    let cap = LONGEST.max(base);
    2_u32
        .checked_pow(in_a_row.saturating_sub(1))
        .and_then(|factor| base.checked_mul(factor))
        .map_or(cap, |w| w.min(cap))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_800_000_000_000);

    const BASE: Duration = Duration::from_secs(30);

    fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn stamped(lane: &mut CoolDown, sent: Timestamp, failed: Timestamp, class: Class, base: Duration) -> Timestamp {
        lane.stamp(sent, failed, class, base);
        lane.available_at(failed)
    }

    #[test]
    fn r07_available_at_the_very_end_of_the_window() {
        let now = START;
        let mut lane = CoolDown::new();
        assert!(lane.is_available(now));
        lane.stamp(now, now, Class::Unavailable, BASE);
        assert!(!lane.is_available(now + BASE - Duration::from_millis(1)));
        assert!(lane.is_available(now + BASE));
    }

    #[test]
    fn r08_the_window_doubles_up_to_ten_minutes() {
        let mut now = START;
        let mut lane = CoolDown::new();
        let mut windows = Vec::new();
        for _ in 0..7 {
            let until = stamped(&mut lane, now, now, Class::Overloaded, BASE);
            windows.push(until.since(now).as_secs());
            now = until;
        }
        assert_eq!(windows, [30, 60, 120, 240, 480, 600, 600]);
    }

    #[test]
    fn r08_one_success_starts_again_with_the_first_window() {
        let now = START;
        let mut lane = CoolDown::new();
        let first = stamped(&mut lane, now, now, Class::Timeout, BASE);
        lane.stamp(first, first, Class::Timeout, BASE);
        lane.succeeded();
        let later = now + secs(300);
        assert_eq!(stamped(&mut lane, later, later, Class::Timeout, BASE), later + BASE);
    }

    #[test]
    fn r08_calls_that_fail_together_are_one_failure() {
        let now = START;
        let mut lane = CoolDown::new();
        let seen = now + secs(5);
        for after in 0..50 {
            lane.stamp(now, seen + Duration::from_millis(after), Class::Unavailable, BASE);
        }
        assert_eq!(lane.available_at(now), seen + Duration::from_millis(49) + BASE);
        let next = lane.available_at(now);
        assert_eq!(stamped(&mut lane, next, next, Class::Unavailable, BASE), next + 2 * BASE);
    }

    #[test]
    fn r08_a_stamp_never_moves_back() {
        let now = START;
        let mut lane = CoolDown::new();
        let long = stamped(&mut lane, now, now, Class::Unavailable, secs(300));
        lane.succeeded();
        let later = now + secs(1);
        assert_eq!(stamped(&mut lane, later, later, Class::Unavailable, BASE), long);
    }

    #[test]
    fn r08_a_long_base_is_not_cut() {
        let now = START;
        assert_eq!(stamped(&mut CoolDown::new(), now, now, Class::Unavailable, secs(1_200)), now + secs(1_200));
    }

    #[test]
    fn r10_only_a_service_that_is_not_well_is_left_alone() {
        let now = START;
        for class in Class::ALL {
            let mut lane = CoolDown::new();
            lane.stamp(now, now, class, BASE);
            assert_eq!(!lane.is_available(now), class.trips_breaker(), "{class}");
        }
    }
}

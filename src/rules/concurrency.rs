//! How many calls may be open on a lane at once?
//!
//! A lane that has just been found is not hit with everything there is: it starts with a few calls, and every call that
//! was not refused lets one more go, which doubles the number round by round. The first overload ends that: then the
//! number is halved, and grows by one a round, for a minute not quite up to where it was too much. A quota throttle says
//! nothing about how much the service can do at once and leaves it alone; the quota itself bounds what is open, because
//! every open call holds its reservation.

use std::time::Duration;

use crate::job::failure::Class;
use crate::job::units::Timestamp;

/// A call of which nothing bad was heard for so long has found a place: a service without one says so at once.
pub const SETTLED_IN: Duration = Duration::from_millis(250);

/// A new lane can do this much; that the very first call goes alone is the quota's rule.
const FIRST: f64 = 4.0;
/// What is left of the number when the service says that it is overloaded.
const AFTER_OVERLOAD: f64 = 0.5;
/// The number grows back to nearly what was too much, and stays there for a while before it is tried again: each try costs
/// a call, and where there is another lane this one cools for it.
const NEARLY: f64 = 0.9;
const HELD_FOR: Duration = Duration::from_secs(60);
/// And when it is only not there: that has other reasons too, and a service that fails one call in ten is no slower for it.
const AFTER_ABSENCE: f64 = 0.8;

/// The number of calls that may be open on one lane.
#[derive(Clone, Debug)]
pub struct Concurrency {
    limit: f64,
    /// Still looking for the first overload.
    doubling: bool,
    /// When it last shrank: what was sent before has no more to say.
    shrunk: Option<Timestamp>,
    /// Where the service last said that it was overloaded, and when.
    ceiling: Option<(f64, Timestamp)>,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self::new()
    }
}

impl Concurrency {
    /// A few calls.
    pub fn new() -> Self {
        Self { limit: FIRST, doubling: true, shrunk: None, ceiling: None }
    }

    /// As many as anybody likes, for what is no service: the account behind several.
    pub fn unbounded() -> Self {
        Self { limit: f64::from(u32::MAX), ..Self::new() }
    }

    /// How many calls may be open, at least 1.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 2^32 by construction")]
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    /// A call settled in while `open` were open, itself included. A number that is not used does not grow.
    pub fn settled_in(&mut self, now: Timestamp, open: usize) {
        if open.saturating_mul(2) < self.limit() {
            return;
        }
        let step = if self.doubling { 1.0 } else { 1.0 / self.limit };
        let held = self.ceiling.filter(|(_, found)| now < found.after(HELD_FOR)).map(|(ceiling, _)| ceiling * NEARLY);
        let most = held.unwrap_or(f64::INFINITY).min(f64::from(u32::MAX));
        self.limit = (self.limit + step).min(most).max(self.limit);
    }

    /// A call sent then failed, while `open` were open, itself included. Calls that were sent together shrink the number
    /// once.
    pub fn failed(&mut self, sent: Timestamp, now: Timestamp, class: Class, open: usize) {
        let Some(left) = left_after(class) else { return };
        self.doubling = false;
        if self.shrunk.is_some_and(|shrunk| sent <= shrunk) {
            return;
        }
        self.shrunk = Some(now);
        if class == Class::Overloaded {
            let used = self.limit.min(f64::from(u32::try_from(open).unwrap_or(u32::MAX)));
            // A service that says so now and then, however few are open, is not found out by ever fewer.
            let known =
                self.ceiling.filter(|(_, found)| now < found.after(HELD_FOR)).map_or(0.0, |(ceiling, _)| ceiling);
            self.ceiling = Some((used.max(known), now));
        }
        self.limit = (self.limit * left).max(1.0);
    }
}

const fn left_after(class: Class) -> Option<f64> {
    match class {
        Class::Overloaded => Some(AFTER_OVERLOAD),
        Class::Unavailable => Some(AFTER_ABSENCE),
        Class::QuotaMinute
        | Class::QuotaDay
        | Class::Timeout
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
        | Class::Shutdown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_800_000_000_000);

    #[test]
    fn it_doubles_round_by_round_until_the_first_overload() {
        let mut lane = Concurrency::new();
        let mut rounds = Vec::new();
        for _ in 0..6 {
            let open = lane.limit();
            rounds.push(open);
            (0..open).for_each(|_| lane.settled_in(START, open));
        }
        assert_eq!(rounds, [4, 8, 16, 32, 64, 128]);
    }

    #[test]
    fn an_overload_halves_it_once_and_then_it_grows_by_one_a_round() {
        let mut lane = Concurrency::new();
        (0..60).for_each(|_| lane.settled_in(START, 64));
        assert_eq!(lane.limit(), 64);
        for late in 0..20 {
            lane.failed(START, START + Duration::from_millis(50 + late), Class::Overloaded, 64);
        }
        assert_eq!(lane.limit(), 32, "twenty calls that were sent together are one overload");
        (0..33).for_each(|_| lane.settled_in(START, 32));
        assert_eq!(lane.limit(), 33);
        lane.failed(START + Duration::from_secs(5), START + Duration::from_secs(5), Class::Overloaded, 64);
        assert_eq!(lane.limit(), 16);
    }

    #[test]
    fn for_a_minute_it_stays_below_what_was_too_much() {
        let mut lane = Concurrency::new();
        (0..60).for_each(|_| lane.settled_in(START, 64));
        lane.failed(START, START, Class::Overloaded, 64);
        let soon = START + HELD_FOR - Duration::from_millis(1);
        (0..10_000).for_each(|_| lane.settled_in(soon, 100));
        assert_eq!(lane.limit(), 57, "nine tenths of 64");
        (0..60).for_each(|_| lane.settled_in(START + HELD_FOR, 100));
        assert_eq!(lane.limit(), 58);
    }

    #[test]
    fn only_a_service_without_room_shrinks_it_and_never_a_quota() {
        for class in Class::ALL {
            let mut lane = Concurrency::new();
            (0..60).for_each(|_| lane.settled_in(START, 64));
            lane.failed(START, START, class, 64);
            assert_eq!(lane.limit() < 64, matches!(class, Class::Overloaded | Class::Unavailable), "{class}");
        }
    }

    #[test]
    fn it_is_never_less_than_one_and_does_not_grow_unused() {
        let mut lane = Concurrency::new();
        for second in 0..10 {
            let now = START + Duration::from_secs(second);
            lane.failed(now, now, Class::Overloaded, 64);
        }
        assert_eq!(lane.limit(), 1);
        let mut lane = Concurrency::new();
        (0..1_000).for_each(|_| lane.settled_in(START, 2));
        assert!(lane.limit() <= 6, "{}", lane.limit());
    }
}

//! How many calls may be open on a lane at once?
//!
//! A lane that has just been found is not hit with everything there is: it starts with a few calls, and every call that
//! was not refused lets one more go, which doubles the number round by round. The first overload ends that: then the
//! number is halved, and grows by one a round, for a minute not quite up to where it was too much. A quota throttle says
//! nothing about how much the service can do at once and leaves it alone; the quota itself bounds what is open, because
//! every open call holds its reservation.
//!
//! A service that is not there for a call may be short of room, too, or fails now and then for other reasons. The number
//! shrinks for such a call, but goes on to double where that is seldom; and it shrinks for the next. If they go on to fail
//! where fewer are open, and few of them, then it is not the number: it is given back, and grows as if nothing had happened.

use std::time::Duration;

use crate::job::failure::Class;
use crate::job::units::Timestamp;

/// A call of which nothing bad was heard for so long has found a place: a service without one says so at once.
pub const SETTLED_IN: Duration = Duration::from_millis(250);

/// A new lane can do this much; that the very first call goes alone is the quota's rule.
const FIRST: f64 = 4.0;
/// What is left of the number when the service says that it is overloaded.
const AFTER_OVERLOAD: f64 = 0.5;
/// And when it is only not there.
const AFTER_ABSENCE: f64 = 0.8;
/// The number grows back to nearly what was too much, and stays there for a while before it is tried again: each try costs
/// a call, and where there is another lane this one cools for it.
const NEARLY: f64 = 0.9;
const HELD_FOR: Duration = Duration::from_secs(60);
/// Fewer are open now, if no more than this part of what was open when it was first not there.
const FEWER: f64 = 0.9;
/// And few fail if no more than one in so many does, of those heard of since.
const FEW: u32 = 4;
/// And seldom.
const SELDOM: u32 = 8;
/// When so many were heard of, both counts are halved: what came later weighs more.
const LATELY: u32 = 32;

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
    /// How many could be open when it was first not there, and were.
    absence: Option<Absence>,
    heard: Heard,
}

/// The service was not there for a call.
#[derive(Clone, Copy, Debug)]
struct Absence {
    since: Timestamp,
    /// The number, and how many were open.
    limit: f64,
    open: f64,
    /// Whether it was so again where fewer were open.
    again: bool,
}

/// What became of the latest calls.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    settled_in: u32,
    failed: u32,
}

impl Heard {
    fn one_more(&mut self, of: impl Fn(&mut Self) -> &mut u32) {
        *of(self) += 1;
        if self.settled_in + self.failed >= LATELY {
            *self = Self { settled_in: self.settled_in / 2, failed: self.failed / 2 };
        }
    }

    fn few_failed(self) -> bool {
        self.failed * FEW <= self.settled_in + self.failed
    }

    fn seldom_failed(self) -> bool {
        self.failed * SELDOM <= self.settled_in + self.failed
    }
}

impl Default for Concurrency {
    fn default() -> Self {
        Self::new()
    }
}

impl Concurrency {
    /// A few calls.
    pub fn new() -> Self {
        Self { limit: FIRST, doubling: true, shrunk: None, ceiling: None, absence: None, heard: Heard::default() }
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
        // Of calls that were sent before it shrank nothing is learned of the smaller number.
        if self.shrunk.is_none_or(|shrunk| shrunk.after(SETTLED_IN) < now) {
            self.heard.one_more(|heard| &mut heard.settled_in);
        }
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
        self.heard.one_more(|heard| &mut heard.failed);
        // One that is not there once among many calls is no reason to grow slowly from now on.
        self.doubling &= class == Class::Unavailable && self.heard.seldom_failed();
        if self.shrunk.is_some_and(|shrunk| sent <= shrunk) {
            return;
        }
        let used = self.limit.min(f64::from(u32::try_from(open).unwrap_or(u32::MAX)));
        if class == Class::Unavailable && self.forgive_absence(now, used) {
            return;
        }
        self.shrunk = Some(now);
        if class == Class::Overloaded {
            self.absence = None;
            // A service that says so now and then, however few are open, is not found out by ever fewer.
            let known =
                self.ceiling.filter(|(_, found)| now < found.after(HELD_FOR)).map_or(0.0, |(ceiling, _)| ceiling);
            self.ceiling = Some((used.max(known), now));
        }
        self.limit = (self.limit * left).max(1.0);
    }

    /// Whether the service was not there for a call, and again, and again, although ever fewer were open and few calls fail:
    /// that is not for the number, which is given back. Else this is where it was not there.
    fn forgive_absence(&mut self, now: Timestamp, open: f64) -> bool {
        let few_failed = std::mem::take(&mut self.heard).few_failed();
        let known = self.absence.as_mut().filter(|absence| now < absence.since.after(HELD_FOR));
        match known.filter(|absence| few_failed && open <= absence.open * FEWER) {
            Some(absence) if absence.again => {
                absence.again = false;
                self.limit = self.limit.max(absence.limit);
                self.doubling = self.ceiling.is_none();
                true
            }
            Some(absence) => {
                absence.again = true;
                false
            }
            None => {
                self.absence = Some(Absence { since: now, limit: self.limit, open, again: false });
                false
            }
        }
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

    /// The premise: one call in ten failed, whatever was sent, and the number fell to six and stayed there.
    #[test]
    fn a_service_that_fails_now_and_then_however_few_are_open_has_as_many_as_before() {
        let mut lane = Concurrency::new();
        (0..28).for_each(|_| lane.settled_in(START, 32));
        assert_eq!(lane.limit(), 32);
        for second in 1..50 {
            let now = START + Duration::from_secs(second);
            let open = lane.limit();
            for _ in 0..9 {
                lane.settled_in(now, open);
            }
            lane.failed(now, now, Class::Unavailable, open);
        }
        assert!(lane.limit() >= 32, "{}", lane.limit());
    }

    /// The premise: the first 503 among sixty calls ended the doubling at twelve, and the quota of the first minute was not used up.
    #[test]
    fn one_absence_among_many_calls_takes_a_part_and_does_not_end_the_doubling() {
        for (heard, doubles_on) in [(7, true), (6, false)] {
            let mut lane = Concurrency::new();
            (0..heard).for_each(|_| lane.settled_in(START, 8));
            let before = lane.limit();
            lane.failed(START, START, Class::Unavailable, before);
            let (left, later) = (lane.limit(), START + Duration::from_secs(1));
            assert!(left < before);
            (0..left).for_each(|_| lane.settled_in(later, left));
            assert_eq!(lane.limit() >= 2 * left, doubles_on, "{heard}");
        }
    }

    #[test]
    fn a_service_that_is_not_there_for_most_calls_has_ever_fewer() {
        let mut lane = Concurrency::new();
        (0..28).for_each(|_| lane.settled_in(START, 32));
        for second in 1..20 {
            let now = START + Duration::from_secs(second);
            let open = lane.limit();
            lane.settled_in(now, open);
            for _ in 0..3 {
                lane.failed(now, now, Class::Unavailable, open);
            }
        }
        assert!(lane.limit() <= 4, "{}", lane.limit());
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

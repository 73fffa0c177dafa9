//! What time is it at the store? Every reply says so to the second; many of them together say it far more exactly.
//!
//! A reply stamped `Date` that was asked for at `sent` and had come at `received` brackets how far the store's clock is ahead of
//! our monotonic one: at least `Date - received`, at most `Date + 1 s - sent`. The truth lies in every bracket, so in what is
//! common to all. Brackets with nothing in common say that the store's clock was set: the newest is believed. What was learned long
//! ago counts for less, since clocks drift apart.
//!
//! Nothing here reads a clock: times of ours are arguments, counted from any fixed moment.

use std::time::Duration;

use crate::job::units::Timestamp;

/// What a `Date` leaves open.
const RESOLUTION: i64 = MICROS;
/// Parts in a million by which two clocks drift apart at most; a clock that is being slewed into place runs so much faster.
const DRIFT_PPM: i64 = 500;
/// Behind one name stand many machines, whose clocks differ by some milliseconds: so much is no reason to go back.
const AMONG_HOSTS: i64 = MICROS;
const MICROS: i64 = 1_000_000;

/// The store's clock, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(super) struct StoreClock {
    bracket: Option<Bracket>,
    last: Option<Timestamp>,
}

/// Microseconds by which the store's clock is ahead of ours, as they stood at a moment of ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Bracket {
    least: i64,
    most: i64,
    at: i64,
}

impl StoreClock {
    /// A reply came, stamped with so many whole seconds since 1970.
    pub(super) fn heard(&mut self, date_s: i64, sent: Duration, received: Duration) {
        let date = date_s.saturating_mul(MICROS);
        let (sent, received) = (micros(sent), micros(received));
        let most = date.saturating_add(RESOLUTION).saturating_sub(sent);
        let new = Bracket { least: date.saturating_sub(received), most, at: received };
        let known = self.bracket.map(|known| known.aged(received));
        self.bracket = Some(known.and_then(|known| known.and(new)).unwrap_or(new));
    }

    /// Another worker saw that moment before; unless that is beyond what the store's clock can be now, our next is not earlier.
    pub(super) fn not_before(&mut self, seen: Timestamp, now: Duration) {
        let possible = self.bracket.is_some_and(|bracket| seen.0.saturating_mul(1_000) <= bracket.latest(micros(now)));
        if possible && self.last.is_none_or(|last| last < seen) {
            self.last = Some(seen);
        }
    }

    /// The time there now; never earlier than at a call before, but after the store's clock was set back. `None` before the
    /// first reply.
    pub(super) fn now(&mut self, now: Duration) -> Option<Timestamp> {
        let (bracket, now) = (self.bracket?, micros(now));
        let told = bracket.aged(now).middle().saturating_add(now) / 1_000;
        let kept = self.last.filter(|last| last.0.saturating_mul(1_000) <= bracket.latest(now));
        let time = kept.map_or(told, |last| told.max(last.0));
        self.last = Some(Timestamp(time));
        self.last
    }
}

impl Bracket {
    /// What it is worth at a later moment of ours.
    fn aged(self, at: i64) -> Self {
        let drifted = at.saturating_sub(self.at).max(0).saturating_mul(DRIFT_PPM) / MICROS;
        Self { least: self.least.saturating_sub(drifted), most: self.most.saturating_add(drifted), at: at.max(self.at) }
    }

    /// What is common to two of the same age.
    fn and(self, other: Self) -> Option<Self> {
        let common =
            Self { least: self.least.max(other.least), most: self.most.min(other.most), at: self.at.max(other.at) };
        (common.least <= common.most).then_some(common)
    }

    fn middle(self) -> i64 {
        self.least.saturating_add(self.most.saturating_sub(self.least) / 2)
    }

    /// Later than this it cannot be there, on any of its machines.
    fn latest(self, now: i64) -> i64 {
        self.aged(now).most.saturating_add(now).saturating_add(AMONG_HOSTS)
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START_S: i64 = 1_800_000_000;

    /// One request: so long after the last, under way there and back.
    #[derive(Clone, Copy, Debug)]
    struct Trip {
        rest_ms: u64,
        there_us: u64,
        back_us: u64,
    }

    fn trips(rest_ms: u64, way_us: u64) -> impl Strategy<Value = Vec<Trip>> {
        let trip = (0..rest_ms, 0..way_us, 0..way_us);
        prop::collection::vec(trip.prop_map(|(rest_ms, there_us, back_us)| Trip { rest_ms, there_us, back_us }), 1..200)
    }

    /// The world: our clock, and a store's that is ahead of it and drifts.
    struct World {
        ours_us: i64,
        ahead_us: i64,
        drift_ppm: i64,
    }

    impl World {
        fn store_us(&self) -> i64 {
            START_S * MICROS + self.ours_us + self.ahead_us + self.ours_us * self.drift_ppm / MICROS
        }

        fn ours(&self) -> Duration {
            Duration::from_micros(self.ours_us.unsigned_abs())
        }

        fn make(&mut self, trip: Trip, clock: &mut StoreClock) {
            self.ours_us += i64::try_from(trip.rest_ms * 1_000).unwrap();
            let sent = self.ours();
            self.ours_us += i64::try_from(trip.there_us).unwrap();
            let date = self.store_us().div_euclid(MICROS);
            self.ours_us += i64::try_from(trip.back_us).unwrap();
            clock.heard(date, sent, self.ours());
        }

        /// By how many microseconds the clock is wrong.
        fn error(&self, now: Timestamp) -> i64 {
            (now.0 * 1_000 - self.store_us()).abs()
        }
    }

    proptest! {
        #[test]
        fn r11_it_is_within_a_second_of_the_truth_and_never_runs_backwards(
            ahead_ms in -86_400_000_i64..86_400_000,
            drift_ppm in -400_i64..400,
            trips in trips(120_000, 400_000),
        ) {
            let mut world = World { ours_us: 0, ahead_us: ahead_ms * 1_000, drift_ppm };
            let (mut clock, mut last) = (StoreClock::default(), None);
            for trip in trips {
                world.make(trip, &mut clock);
                let now = clock.now(world.ours()).unwrap();
                prop_assert!(world.error(now) <= MICROS, "{} us off", world.error(now));
                prop_assert!(last.is_none_or(|last| now >= last), "{now} after {last:?}");
                last = Some(now);
            }
        }

        #[test]
        fn sixty_replies_say_it_to_a_tenth_of_a_second(
            ahead_ms in -86_400_000_i64..86_400_000,
            steps in prop::collection::vec(1_001_u64..1_100, 60),
        ) {
            let mut world = World { ours_us: 0, ahead_us: ahead_ms * 1_000, drift_ppm: 0 };
            let mut clock = StoreClock::default();
            for rest_ms in steps {
                world.make(Trip { rest_ms, there_us: 2_000, back_us: 2_000 }, &mut clock);
            }
            // Some reply came just before the turn of a second and the next one, at most 0.1 s further on in its second, just after it.
            let error = world.error(clock.now(world.ours()).unwrap());
            prop_assert!(error <= 100_000, "{error} us off");
        }

        #[test]
        fn a_clock_that_was_set_is_followed_with_the_next_reply(
            jump_s in prop_oneof![-100_000_i64..-4, 4_i64..100_000],
            before in trips(5_000, 100_000),
            after in trips(5_000, 100_000),
        ) {
            let mut world = World { ours_us: 0, ahead_us: 0, drift_ppm: 0 };
            let mut clock = StoreClock::default();
            for trip in before {
                world.make(trip, &mut clock);
                clock.now(world.ours());
            }
            world.ahead_us = jump_s * MICROS;
            for trip in after {
                world.make(trip, &mut clock);
                let now = clock.now(world.ours()).unwrap();
                prop_assert!(world.error(now) <= MICROS, "{} us off", world.error(now));
            }
        }
    }

    #[test]
    fn before_the_first_reply_nothing_is_known() {
        assert_eq!(StoreClock::default().now(Duration::from_secs(5)), None);
    }

    #[test]
    fn it_goes_on_by_our_own_clock_between_replies() {
        let mut clock = StoreClock::default();
        clock.heard(START_S, Duration::from_secs(10), Duration::from_secs(10));
        let first = clock.now(Duration::from_secs(10)).unwrap();
        assert_eq!(first, Timestamp(START_S * 1_000 + 500), "the middle of the second");
        assert_eq!(clock.now(Duration::from_secs(70)).unwrap(), first + Duration::from_secs(60));
    }

    #[test]
    fn hosts_that_differ_by_milliseconds_do_not_turn_it_back() {
        let mut clock = StoreClock::default();
        let at = Duration::from_millis;
        // One host says that a second has just begun, then another that it has not yet.
        clock.heard(START_S, at(999), at(999));
        clock.heard(START_S + 1, at(1_000), at(1_000));
        let now = clock.now(at(1_000)).unwrap();
        clock.heard(START_S, at(1_010), at(1_010));
        assert!(clock.now(at(1_010)).unwrap() >= now);
    }

    #[test]
    fn what_another_worker_has_seen_is_past_unless_it_cannot_be() {
        let mut clock = StoreClock::default();
        let at = Duration::from_secs(3);
        clock.heard(START_S, at, at);
        let now = clock.now(at).unwrap();
        let (near, far) = (now + Duration::from_millis(900), now + Duration::from_secs(86_400));
        clock.not_before(far, at);
        assert_eq!(clock.now(at).unwrap(), now, "a worker with a clock of its own does not lead the others astray");
        clock.not_before(near, at);
        assert_eq!(clock.now(at).unwrap(), near);
    }

    /// A millisecond was added for every reply, until it was a second ahead and fell back to the truth.
    #[test]
    fn more_replies_than_milliseconds_do_not_drive_it_ahead() {
        let mut clock = StoreClock::default();
        let at = Duration::from_secs(3);
        clock.heard(START_S, at, at);
        let now = clock.now(at).unwrap();
        for _ in 0..5_000 {
            assert_eq!(clock.now(at).unwrap(), now);
        }
    }
}
